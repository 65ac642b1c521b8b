"""Receiving masked frames, as a client sends them (RFC 6455, section 5.3). No I/O.

This file has only what masks change: the header, which ends with a key, and the hot loop.
"""

from __future__ import annotations

from trio_csp_websocket.protocol.decoder import (
    COMPRESSED_TEXT,
    MAX_INFLATED_BYTES,
    WHOLE_BINARY,
    WHOLE_COMPRESSED,
    WHOLE_TEXT,
    Decoder,
    not_utf8,
)
from trio_csp_websocket.protocol.deflate import Unfinished
from trio_csp_websocket.protocol.frames import (
    LENGTH_16_BITS,
    MASKED,
    MAX_CONTROL_PAYLOAD,
    payload_length,
    protocol_error,
)
from trio_csp_websocket.protocol.masking import apply_mask
from trio_csp_websocket.protocol.messages import Message, new_tuple

_KEY_BYTES = 4


class UnmaskingDecoder(Decoder):
    """Parses masked frames, as a client sends them, each with a key of its own."""

    _plain = False

    def __init__(self, read_limit_bytes: int) -> None:
        super().__init__(read_limit_bytes)
        # The key of the frame whose header was parsed last, turned so that it begins with the next byte's.
        self._key = b""

    def _header(self, block: bytes, start: int) -> tuple[int, int] | None:
        if not block[start + 1] & MASKED:
            raise protocol_error("a frame from the client is not masked")
        header = payload_length(block, start)
        if header is None:
            return None
        length, key_start = header
        payload_start = key_start + _KEY_BYTES
        if payload_start > len(block):
            return None
        self._key = block[key_start:payload_start]
        return length, payload_start

    def _payload_between(self, block: bytes | memoryview, start: int, end: int) -> bytes:
        key = self._key
        used = (end - start) % _KEY_BYTES
        self._key = key[used:] + key[:used]
        return apply_mask(block[start:end], key)

    def _parse_whole(self, block: bytes, start: int) -> int:  # noqa: C901, PLR0912, PLR0915  # a call costs too much
        add = self.messages.append
        received = -len(self.messages)
        payload_bytes = 0
        size = len(block)
        try:
            while start + 5 < size:
                head = block[start]
                length = block[start + 1] - MASKED
                payload_start = start + 6
                if length > MAX_CONTROL_PAYLOAD:
                    if length != LENGTH_16_BITS:
                        break
                    length = block[start + 2] << 8 | block[start + 3]
                    if length <= MAX_CONTROL_PAYLOAD:
                        break
                    payload_start = start + 8
                end = payload_start + length
                if end > size or not 0 <= length <= self._limit:
                    break
                key = block[payload_start - 4 : payload_start]
                if head == WHOLE_TEXT:
                    add(new_tuple(Message, ("text", apply_mask(block[payload_start:end], key).decode())))
                elif head == WHOLE_BINARY:
                    add(new_tuple(Message, ("binary", apply_mask(block[payload_start:end], key))))
                elif head in WHOLE_COMPRESSED and self.inflater is not None:
                    data = self.inflater.inflate_message(apply_mask(block[payload_start:end], key))
                    if len(data) > self._limit:
                        raise Unfinished(iter((data,)))
                    if head == COMPRESSED_TEXT:
                        add(new_tuple(Message, ("text", data.decode())))
                    else:
                        add(new_tuple(Message, ("binary", data)))
                    payload_bytes += len(data) - length
                    self._inflated += len(data)
                    self.paused = self._inflated >= MAX_INFLATED_BYTES
                else:
                    break
                payload_bytes += length
                start = end
                if self.paused:
                    break
        except UnicodeDecodeError:
            raise not_utf8() from None
        except Unfinished as unfinished:
            self._begin_frame(head)  # pyright: ignore[reportPossiblyUnboundVariable]  # of the frame that is not finished
            self._unfinished = unfinished.pieces
            start = end  # pyright: ignore[reportPossiblyUnboundVariable]  # the same
        finally:
            self.messages_received += received + len(self.messages)
            self.payload_bytes_received += payload_bytes
        return start
