"""Sending: messages and pings become masked frames (RFC 6455, section 5.3). No I/O."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from trio_csp_websocket._frames import COMPRESSED, CONTROL, FIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_csp_websocket._deflate import Deflater

_HEAD_7_BITS = struct.Struct("!BB").pack
_HEAD_16_BITS = struct.Struct("!BBH").pack
_HEAD_64_BITS = struct.Struct("!BBQ").pack
_MASKED = 0x80

_KEYS_AT_ONCE = 128
# Below this size one big-integer XOR is the quickest masking in plain Python, above it four table look-ups.
_MAX_INTEGER_MASKED = 1024
_XOR_TABLES = [bytes(byte ^ key for byte in range(256)) for key in range(256)]


class Encoder:
    """Builds the client's frames, each masked with a fresh key (RFC 6455, section 5.3)."""

    def __init__(self) -> None:
        self.deflater: Deflater | None = None
        """Set if messages may be compressed."""
        self.compression_threshold_bytes = 0
        """The size from which they are."""
        self._next_key = _random_keys().__next__

    def encode(self, opcode: int, payload: bytes | bytearray | memoryview) -> bytes:
        """Return a whole frame, which must be sent: what is compressed next may refer to it."""
        if self.deflater is not None and not opcode & CONTROL and len(payload) >= self.compression_threshold_bytes:
            opcode |= COMPRESSED
            payload = self.deflater.deflate(payload)
            try:
                return self._frame(opcode, payload)
            except BaseException:
                self.deflater.start_afresh()  # nothing that is sent may refer to it
                raise
        return self._frame(opcode, payload)

    def _frame(self, opcode: int, payload: bytes | bytearray | memoryview) -> bytes:
        length = len(payload)
        key = self._next_key()
        if length < 126:
            return _HEAD_7_BITS(FIN | opcode, _MASKED | length) + key + _mask(payload, key)
        if length < 1 << 16:
            return _HEAD_16_BITS(FIN | opcode, _MASKED | 126, length) + key + _mask(payload, key)
        return b"".join((_HEAD_64_BITS(FIN | opcode, _MASKED | 127, length), key, _mask(payload, key)))


def _random_keys() -> Iterator[bytes]:
    # The keys must be unpredictable; asking the system for many at once makes them cheap.
    while True:
        keys = os.urandom(4 * _KEYS_AT_ONCE)
        for start in range(0, len(keys), 4):
            yield keys[start : start + 4]


def _mask(payload: bytes | bytearray | memoryview, key: bytes) -> bytes | bytearray:
    length = len(payload)
    if length <= _MAX_INTEGER_MASKED:
        keys = (key * (length // 4 + 1))[:length]
        return (int.from_bytes(payload, "little") ^ int.from_bytes(keys, "little")).to_bytes(length, "little")
    masked = bytearray(payload)
    for offset in range(4):
        masked[offset::4] = masked[offset::4].translate(_XOR_TABLES[key[offset]])
    return masked
