"""Sending: messages and control frames become frames, plain or masked (RFC 6455, sections 5.2 and 5.3). No I/O."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from trio_csp_websocket.protocol.frames import COMPRESSED, CONTROL, FIN, LENGTH_16_BITS, LENGTH_64_BITS, MASKED
from trio_csp_websocket.protocol.masking import apply_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_csp_websocket.protocol.deflate import Deflater

# A frame's head: its first byte and its length.
_HEAD_7_BITS = struct.Struct("!BB").pack
_HEAD_16_BITS = struct.Struct("!BBH").pack
_HEAD_64_BITS = struct.Struct("!BBQ").pack
# The same with a key at the end.
_MASKED_HEAD_7_BITS = struct.Struct("!BB4s").pack
_MASKED_HEAD_16_BITS = struct.Struct("!BBH4s").pack
_MASKED_HEAD_64_BITS = struct.Struct("!BBQ4s").pack

_KEYS_AT_ONCE = 128


class Encoder:
    """Builds plain frames, as a server sends them."""

    def __init__(self) -> None:
        self.deflater: Deflater | None = None
        """Set if messages may be compressed."""
        self.compression_threshold_bytes = 0
        """How large they have to be for that."""
        self.messages_sent: int = 0
        self.payload_bytes_sent: int = 0

    def encode(self, opcode: int, payload: bytes | bytearray | memoryview) -> bytes:
        """Return a whole frame, which must be sent: what is compressed next may refer to it."""
        if opcode & CONTROL:
            return self._frame(opcode, payload)
        if self.deflater is None or len(payload) < self.compression_threshold_bytes:
            frame = self._frame(opcode, payload)
        else:
            compressed = self.deflater.deflate(payload)
            try:
                frame = self._frame(opcode | COMPRESSED, compressed)
            except BaseException:
                self.deflater.start_afresh()  # no later message may refer to this one
                raise
        self.messages_sent += 1
        self.payload_bytes_sent += len(payload)
        return frame

    def _frame(self, opcode: int, payload: bytes | bytearray | memoryview) -> bytes:
        length = len(payload)
        if length < 126:
            return _HEAD_7_BITS(FIN | opcode, length) + payload
        if length < 1 << 16:
            return _HEAD_16_BITS(FIN | opcode, LENGTH_16_BITS, length) + payload
        return _HEAD_64_BITS(FIN | opcode, LENGTH_64_BITS, length) + payload


class MaskingEncoder(Encoder):
    """Builds frames that are each masked with a fresh key, as a client sends them."""

    def __init__(self) -> None:
        super().__init__()
        self._next_key = _random_keys().__next__

    def _frame(self, opcode: int, payload: bytes | bytearray | memoryview) -> bytes:
        length = len(payload)
        key = self._next_key()
        if length < 126:
            return _MASKED_HEAD_7_BITS(FIN | opcode, MASKED | length, key) + apply_mask(payload, key)
        if length < 1 << 16:
            return _MASKED_HEAD_16_BITS(FIN | opcode, MASKED | LENGTH_16_BITS, length, key) + apply_mask(payload, key)
        return _MASKED_HEAD_64_BITS(FIN | opcode, MASKED | LENGTH_64_BITS, length, key) + apply_mask(payload, key)


def _random_keys() -> Iterator[bytes]:
    # The keys must be unpredictable; asking the system for many at once makes them cheap.
    while True:
        keys = os.urandom(4 * _KEYS_AT_ONCE)
        for start in range(0, len(keys), 4):
            yield keys[start : start + 4]
