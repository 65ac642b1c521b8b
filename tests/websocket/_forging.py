"""Records of TLS 1.3 from a server, or a client, that says what OpenSSL would not say for it (RFC 8446).

What each says after the handshake is encrypted under a secret that a key log has. So a test can make records of its
own, with any handshake message in them, as long as nothing else is sent meanwhile.
"""

from __future__ import annotations

import hmac
import ssl
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_HANDSHAKE = 22
_APPLICATION_DATA = 23


def forgeable(context: ssl.SSLContext, key_log: Path) -> None:
    """Make a context one whose connections a `Forger` can go on with."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if context.protocol is ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # they would be records too
    context.keylog_filename = str(key_log)


class Forger:
    """Goes on where a server, or a client, has stopped sending.

    Args:
        context: its context, made `forgeable`; the latest connection is meant.
        records_sent: how many records of data it has sent.
    """

    def __init__(self, context: ssl.SSLContext, records_sent: int = 0) -> None:
        assert context.keylog_filename is not None
        words = Path(context.keylog_filename).read_text(encoding="utf-8").split()
        who = "SERVER" if context.protocol is ssl.PROTOCOL_TLS_SERVER else "CLIENT"
        latest = len(words) - 1 - words[::-1].index(f"{who}_TRAFFIC_SECRET_0")
        self._secret = bytes.fromhex(words[latest + 2])
        assert len(self._secret) == 48, "the cipher is not TLS_AES_256_GCM_SHA384"
        self._number = records_sent
        self._requests = 0

    def data(self, data: bytes) -> bytes:
        """Return a record of data."""
        return self._sealed(_APPLICATION_DATA, data)

    def requests(self, count: int) -> bytes:
        """Return a record that asks for a certificate, so many times (section 4.3.2)."""
        messages = b""
        for _ in range(count):
            self._requests += 1
            # The name of the request, and signature_algorithms.
            body = b"\x04" + self._requests.to_bytes(4, "big") + b"\x00\x0a\x00\x0d\x00\x06\x00\x04\x08\x04\x04\x03"
            messages += b"\x0d" + len(body).to_bytes(3, "big") + body
        return self._sealed(_HANDSHAKE, messages)

    def key_update(self) -> bytes:
        """Return a record that asks for a new key of the other end's, and use a new one from now on (section 4.6.3)."""
        record = self._sealed(_HANDSHAKE, b"\x18\x00\x00\x01\x01")
        self._secret, self._number = self._expanded(b"traffic upd", 48), 0
        return record

    def _sealed(self, kind: int, data: bytes) -> bytes:
        """Return a record, encrypted with AES-256-GCM."""
        head = b"\x17\x03\x03" + (len(data) + 17).to_bytes(2, "big")
        nonce = int.from_bytes(self._expanded(b"iv", 12), "big") ^ self._number
        self._number += 1
        return head + AESGCM(self._expanded(b"key", 32)).encrypt(nonce.to_bytes(12, "big"), data + bytes([kind]), head)

    def _expanded(self, label: bytes, size: int) -> bytes:
        """Return HKDF-Expand-Label of section 7.1, with SHA-384 and no context."""
        label = b"tls13 " + label
        information = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return hmac.digest(self._secret, information + b"\x01", "sha384")[:size]
