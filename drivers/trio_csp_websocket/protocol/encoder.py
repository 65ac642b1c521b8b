"""Sending: messages and control frames become frames, plain or masked (RFC 6455, sections 5.2 and 5.3). No I/O."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from trio_csp_websocket.protocol.frames import (
    COMPRESSED,
    CONTINUATION,
    CONTROL,
    FIN,
    LENGTH_16_BITS,
    LENGTH_64_BITS,
    MASKED,
)
from trio_csp_websocket.protocol.large_frame import LARGE_BYTES, LargeFrame
from trio_csp_websocket.protocol.masking import apply_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_websocket.protocol.deflate import Deflater
    from trio_csp_websocket.protocol.shared import SharedMessage

# A frame's head: its first byte and its length.
_HEAD_7_BITS = struct.Struct("!BB").pack
_HEAD_16_BITS = struct.Struct("!BBH").pack
_HEAD_64_BITS = struct.Struct("!BBQ").pack
# The same with a key at the end.
_MASKED_HEAD_7_BITS = struct.Struct("!BB4s").pack
_MASKED_HEAD_16_BITS = struct.Struct("!BBH4s").pack
_MASKED_HEAD_64_BITS = struct.Struct("!BBQ4s").pack

_KEYS_AT_ONCE = 128
_SPLIT = struct.Struct("4s" * _KEYS_AT_ONCE).unpack
# The heads of masked data frames without their keys, by opcode and length.
_SMALL_HEADS = [[bytes((FIN | opcode, MASKED | length)) for length in range(126)] for opcode in range(3)]


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
            return self._frame(FIN | opcode, payload)
        if self.deflater is None or len(payload) < self.compression_threshold_bytes:
            frame = self._frame(FIN | opcode, payload)
        else:
            compressed = self.deflater.deflate(payload)
            try:
                frame = self._frame(FIN | COMPRESSED | opcode, compressed)
            except BaseException:
                self.deflater.start_afresh()  # no later message may refer to this one
                raise
        self.messages_sent += 1
        self.payload_bytes_sent += len(payload)
        return frame

    def encode_many(self, messages: Sequence[tuple[int, bytes]]) -> bytes:
        """Return the frames of messages, given by opcode and payload, one behind the other."""
        return b"".join([self.encode(opcode, payload) for opcode, payload in messages])

    def begin(self, opcode: int, payload: bytes | bytearray | memoryview) -> bytes | LargeFrame:
        """Return a frame, as `encode` does; one that is large and not compressed is made as it is written."""
        if len(payload) < LARGE_BYTES or self.deflater is not None:
            return self.encode(opcode, payload)
        frame = self._large_frame(FIN | opcode, payload)
        self.messages_sent += 1
        self.payload_bytes_sent += len(payload)
        return frame

    def _large_frame(self, head: int, payload: bytes | bytearray | memoryview) -> LargeFrame:
        return LargeFrame(_HEAD_64_BITS(head, LENGTH_64_BITS, len(payload)), payload, None)

    def encode_shared(self, message: SharedMessage) -> bytes:
        """Return a whole frame, as `encode` does, of a message that others may have encoded in the same form."""
        deflater = self.deflater
        if deflater is None or len(message.payload) < self.compression_threshold_bytes:
            frame = message.frame or self._plain_frame(message)
        elif deflater.takeover:
            return self.encode(message.opcode, message.payload)
        else:
            frame = self._compressed_frame(message, deflater)
        self.messages_sent += 1
        self.payload_bytes_sent += len(message.payload)
        return frame

    def _plain_frame(self, message: SharedMessage) -> bytes:
        frame = message.frame = self._frame(FIN | message.opcode, message.payload)
        return frame

    def _compressed_frame(self, message: SharedMessage, deflater: Deflater) -> bytes:
        compressed = self._compressed(message, deflater)
        frame = message.compressed_frames.get(deflater.window_bits)
        if frame is None:
            frame = self._frame(FIN | COMPRESSED | message.opcode, compressed)
            message.compressed_frames[deflater.window_bits] = frame
        return frame

    def _compressed(self, message: SharedMessage, deflater: Deflater) -> bytes:
        compressed = message.compressed.get(deflater.window_bits)
        if compressed is None:
            compressed = message.compressed[deflater.window_bits] = deflater.deflate(message.payload)
        else:
            deflater.count(message.payload, compressed)
        return compressed

    def encode_first_piece(self, opcode: int, payload: bytes | bytearray) -> bytes:
        """Return the first frame of a message in pieces; until `encode_end`, no other data frame may be encoded."""
        compressed = 0 if self.deflater is None else COMPRESSED
        return self._piece(compressed | opcode, payload)

    def encode_piece(self, payload: bytes | bytearray) -> bytes:
        """Return another frame of that message."""
        return self._piece(CONTINUATION, payload)

    def encode_end(self) -> bytes:
        """Return the last frame of that message, which holds nothing of it."""
        self.messages_sent += 1
        return self._frame(FIN | CONTINUATION, b"" if self.deflater is None else self.deflater.end_pieces())

    def _piece(self, head: int, payload: bytes | bytearray) -> bytes:
        self.payload_bytes_sent += len(payload)
        return self._frame(head, payload if self.deflater is None else self.deflater.deflate_piece(payload))

    def _frame(self, head: int, payload: bytes | bytearray | memoryview) -> bytes:
        """Return a frame with this first byte."""
        length = len(payload)
        if length < 126:
            return _HEAD_7_BITS(head, length) + payload
        if length < 1 << 16:
            return _HEAD_16_BITS(head, LENGTH_16_BITS, length) + payload
        return _HEAD_64_BITS(head, LENGTH_64_BITS, length) + payload


class MaskingEncoder(Encoder):
    """Builds frames that are each masked with a fresh key, as a client sends them."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[bytes] = []

    # Each frame has a key of its own.

    def encode_many(self, messages: Sequence[tuple[int, bytes]]) -> bytes:
        if self.deflater is not None:
            return super().encode_many(messages)
        # As in `encode`, without calls and the joining of each frame.
        while len(self._keys) < len(messages):
            self._more_keys()
        take_key, frames, size = self._keys.pop, list[bytes](), 0
        add = frames.append
        for opcode, payload in messages:
            length = len(payload)
            size += length
            if length < 126:
                key = take_key()
                add(_SMALL_HEADS[opcode][length])
                add(key)
                add(apply_mask(payload, key))
            else:
                add(self._frame(FIN | opcode, payload))
        self.messages_sent += len(messages)
        self.payload_bytes_sent += size
        return b"".join(frames)

    def encode_shared(self, message: SharedMessage) -> bytes:
        deflater, payload = self.deflater, message.payload
        if deflater is None or deflater.takeover or len(payload) < self.compression_threshold_bytes:
            return self.encode(message.opcode, payload)
        frame = self._frame(FIN | COMPRESSED | message.opcode, self._compressed(message, deflater))
        self.messages_sent += 1
        self.payload_bytes_sent += len(payload)
        return frame

    def _frame(self, head: int, payload: bytes | bytearray | memoryview) -> bytes:
        length = len(payload)
        if not self._keys:
            self._more_keys()
        key = self._keys.pop()
        if length < 126:
            return _MASKED_HEAD_7_BITS(head, MASKED | length, key) + apply_mask(payload, key)
        if length < 1 << 16:
            return _MASKED_HEAD_16_BITS(head, MASKED | LENGTH_16_BITS, length, key) + apply_mask(payload, key)
        return _MASKED_HEAD_64_BITS(head, MASKED | LENGTH_64_BITS, length, key) + apply_mask(payload, key)

    def _large_frame(self, head: int, payload: bytes | bytearray | memoryview) -> LargeFrame:
        if not self._keys:
            self._more_keys()
        key = self._keys.pop()
        first = _MASKED_HEAD_64_BITS(head, MASKED | LENGTH_64_BITS, len(payload), key)
        return LargeFrame(first, payload, lambda piece: apply_mask(piece, key))

    def _more_keys(self) -> None:
        # Keys must be unpredictable; asking the system for many at once makes them cheap.
        self._keys += _SPLIT(os.urandom(4 * _KEYS_AT_ONCE))
