"""Compressing and decompressing messages (RFC 7692, section 7.2). No I/O.

A compressed message is a piece of a deflate stream that ends with an empty block, of which the last four bytes are left
out. zlib does the work. What is left to take care of here:

- Decompressing stops where a message exceeds the limit, not afterwards: a megabyte can inflate to a gigabyte. Input
  and output go through zlib in small pieces, because each time it copies the input it has not used.
- A sender may end its stream with a final block (BFINAL) and continue with another. zlib's decompressor has then come
  to its end; its successor is given the window: the end of what came out, as far back as the sender may refer.
- The compressor is set aside while it works: if that fails, it is never used again, and the next message starts a new
  one, which a receiver always understands.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.frames import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

    from trio_csp_websocket.protocol.negotiation import DeflateParameters

_END_OF_MESSAGE: Final = b"\x00\x00\xff\xff"
_EMPTY_MESSAGE: Final = b"\x00"

# `python -m benchmarks --only JSON`: level 6 takes 1.3 to 3.4 times as long as level 1, for output 14 to 25 % smaller.
# Memory level 5 saves 112 KiB a compressor against the default 8, and costs neither time nor size.
_LEVEL = 1
_MEMORY_LEVEL = 5
# zlib cannot compress with a window of 8 bits. What it does with 9 never refers back further than 250 bytes, so that
# it fits the smaller window too.
_MIN_COMPRESSION_WINDOW_BITS = 9

_INPUT_BYTES = 64 * 1024
_OUTPUT_BYTES = 256 * 1024
# Each final block costs a new decompressor; no honest sender puts more than a few into a message.
_MAX_FINAL_BLOCKS = 1024


class Deflater:
    """Compresses messages, in the order in which they are sent."""

    def __init__(self, parameters: DeflateParameters) -> None:
        self.takeover: bool = not parameters.own_no_context_takeover
        """Whether a message may refer to those before it."""
        self.window_bits: int = max(parameters.own_max_window_bits, _MIN_COMPRESSION_WINDOW_BITS)
        self._compressor: zlib._Compress | None = None

    def deflate(self, payload: bytes | bytearray | memoryview) -> bytes:
        """Return a message compressed."""
        if not payload:
            return _EMPTY_MESSAGE  # zlib gives nothing at all if it is flushed twice with nothing in between
        compressor = self._take()
        compressed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        if self.takeover:
            self._compressor = compressor
        return compressed[: -len(_END_OF_MESSAGE)]

    def deflate_piece(self, payload: bytes | bytearray) -> bytes:
        """Return a piece of a message compressed, of which the receiver can inflate all."""
        compressor = self._take()
        compressed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        self._compressor = compressor
        return compressed

    def end_pieces(self) -> bytes:
        """Return what is sent behind the last piece of a message."""
        if not self.takeover:
            self._compressor = None
        return _EMPTY_MESSAGE

    def _take(self) -> zlib._Compress:
        compressor, self._compressor = self._compressor, None
        if compressor is None:
            compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -self.window_bits, _MEMORY_LEVEL)
        return compressor

    def start_afresh(self) -> None:
        """Forget the context, because a message that was compressed will not be sent."""
        self._compressor = None


class Inflater:
    """Decompresses messages, in the order in which they were received.

    Args:
        parameters: what was agreed with the peer.
        limit_bytes: the largest message to produce; one byte more is a violation with code 1009.
    """

    def __init__(self, parameters: DeflateParameters, limit_bytes: int) -> None:
        self._takeover = not parameters.peer_no_context_takeover
        self._window_bits = parameters.peer_max_window_bits
        self._window_bytes = 1 << self._window_bits
        self._limit = limit_bytes
        self._decompressor: zlib._Decompress | None = None
        # The end of what came out, at least as much as a window holds, for a successor of the decompressor.
        self._window = bytearray()
        # Of the message being received: whether nothing has arrived yet, how much came out, how many streams ended.
        self._empty = True
        self._size = 0
        self._final_blocks = 0
        self._behind_final_block = False

    def inflate(self, payload: bytes, *, end: bool) -> Iterator[bytes]:
        """Yield what the next part of a message's payload inflates to; ``end`` if it is the last part.

        Raises:
            ProtocolViolation: it is corrupt, or the message is larger than the limit.
        """
        if payload or (end and not self._empty):
            self._empty = False
            if self._decompressor is None:
                self._decompressor = zlib.decompressobj(-self._window_bits)
            try:
                for chunk, last in _chunks(payload, end=end):
                    rest: Buffer | None = chunk
                    while rest is not None:
                        piece, rest = self._step(rest, last=last)
                        yield piece
            except zlib.error as error:
                raise _not_inflatable(error) from None
        if end:
            self._end_message()

    def inflate_message(self, payload: bytes) -> bytes:
        """Return a message that arrived in one frame: the same as `inflate`, but quicker if it is small."""
        if not 0 < len(payload) <= _INPUT_BYTES:
            return b"".join(self.inflate(payload, end=True))
        if self._decompressor is None:
            self._decompressor = zlib.decompressobj(-self._window_bits)
        try:
            message, rest = self._step(payload + _END_OF_MESSAGE, last=True)
            if rest is not None:
                pieces = [message]
                while rest is not None:
                    piece, rest = self._step(rest, last=True)
                    pieces.append(piece)
                message = b"".join(pieces)
        except zlib.error as error:
            raise _not_inflatable(error) from None
        self._end_message()
        return message

    def _end_message(self) -> None:
        self._empty = True
        self._size = self._final_blocks = 0
        if not self._takeover:
            self._decompressor = None
            self._window.clear()

    def _step(self, data: Buffer, *, last: bool) -> tuple[bytes, bytes | None]:
        """Return the next piece of output, and the input for the one after it; None if there is none.

        The ``last`` input of a message ends with the end of message.
        """
        decompressor = self._decompressor
        assert decompressor is not None
        if self._behind_final_block:
            self._behind_final_block = False
            if last and data == _END_OF_MESSAGE:
                # The sender should have put an empty block there, of which this is the end (RFC 7692, section 7.2.3.4).
                return b"", None
        piece = decompressor.decompress(data, _OUTPUT_BYTES)
        self._size += len(piece)
        if self._size > self._limit:
            raise ProtocolViolation(CloseCode.MESSAGE_TOO_BIG, f"a message of more than {self._limit} bytes, inflated")
        window, window_bytes = self._window, self._window_bytes
        window += piece if len(piece) <= window_bytes else piece[-window_bytes:]
        if len(window) > 2 * window_bytes:
            del window[:-window_bytes]
        if decompressor.eof:
            self._final_blocks += 1
            if self._final_blocks > _MAX_FINAL_BLOCKS:
                raise _violation(f"a compressed message has more than {_MAX_FINAL_BLOCKS} final blocks")
            self._decompressor = zlib.decompressobj(-self._window_bits, zdict=window[-window_bytes:])
            self._behind_final_block = True
            return piece, decompressor.unused_data or None
        return piece, decompressor.unconsumed_tail if len(piece) == _OUTPUT_BYTES else None


def _chunks(payload: bytes, *, end: bool) -> Iterator[tuple[Buffer, bool]]:
    """Yield a payload in chunks, and whether each is a message's last, which has the end of message appended."""
    if len(payload) <= _INPUT_BYTES:
        yield payload + _END_OF_MESSAGE if end else payload, end
        return
    with memoryview(payload) as view:
        for start in range(0, len(view), _INPUT_BYTES):
            chunk = view[start : start + _INPUT_BYTES]
            if end and start + _INPUT_BYTES >= len(view):
                yield bytes(chunk) + _END_OF_MESSAGE, True
            else:
                yield chunk, False


def _not_inflatable(error: zlib.error) -> ProtocolViolation:
    return _violation(f"a compressed message cannot be inflated: {error}")


def _violation(reason: str) -> ProtocolViolation:
    return ProtocolViolation(CloseCode.INVALID_PAYLOAD, reason)
