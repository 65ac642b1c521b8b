"""Receiving: bytes become messages and control frames (RFC 6455, section 5). No I/O.

This is the hot path. It works on whole blocks as they were read: a frame that lies entirely in the block is recognised
by its first two bytes, and its payload is sliced out once. Only the rare cases leave that loop: fragments, control
frames, frames larger than a block. Messages go into `Decoder.messages`. Control frames are returned, because the caller
has to act on them; where they stood between the messages does not matter: a ping or pong may overtake data, and nothing
follows a close.

A message can be streamed: `Decoder.arm` gives the next one, or the one that is under way, to a `Streamed`, piece by
piece. The read limit does not hold for it. So where `Decoder.holds` is set, a message above the limit is not refused
but held: parsing pauses in front of it, until `arm` takes it or `refuse` refuses it.
"""

from __future__ import annotations

import codecs
import threading
from collections import deque
from typing import TYPE_CHECKING, ClassVar

from csp.errors import shown
from trio_csp_websocket.protocol.close import parse_close
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.deflate import Unfinished
from trio_csp_websocket.protocol.frames import (
    BINARY_FRAME,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    CONTROL,
    FIN,
    LENGTH_16_BITS,
    MASKED,
    MAX_CONTROL_PAYLOAD,
    OPCODE,
    PING,
    PONG,
    RESERVED_BITS,
    TEXT_FRAME,
    Control,
    ProtocolViolation,
    payload_length,
    protocol_error,
)
from trio_csp_websocket.protocol.messages import Message, new_tuple
from trio_csp_websocket.protocol.pieces import Pieces

if TYPE_CHECKING:
    from codecs import IncrementalDecoder
    from collections.abc import Iterator

    from trio_csp_websocket.protocol.deflate import Inflater
    from trio_csp_websocket.protocol.streamed import Streamed

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")

_DATA_OPCODES = (CONTINUATION, TEXT_FRAME, BINARY_FRAME)

WHOLE_TEXT = FIN | TEXT_FRAME
WHOLE_BINARY = FIN | BINARY_FRAME
COMPRESSED_TEXT = FIN | COMPRESSED | TEXT_FRAME
WHOLE_COMPRESSED = (COMPRESSED_TEXT, FIN | COMPRESSED | BINARY_FRAME)

# An incomplete frame of up to this size is kept, and parsed again with the next block. The payload of a larger one is
# collected.
_MAX_REPARSED = 4096

_HTTP_INSTEAD = "an HTTP answer instead of a frame"
# An answer in HTTP begins with the letters HT: as a frame's first byte and length, those of a compressed close frame of
# 84 bytes, which no peer sends.
_HTTP_HEADER = (ord("H"), ord("T"))
# How much of an answer in HTTP is told. The text is also the reason of a close frame, which has at most 123 bytes.
_MAX_HTTP_LINE = 200
_MAX_SHOWN_CHARACTERS = 50

# Parsing pauses once this much that came out of compressed messages waits to be taken.
MAX_INFLATED_BYTES = 1024 * 1024
# And inside a streamed message once this much has.
_MAX_STREAMED_BYTES = 256 * 1024


# So much is read at a time at most: nothing else runs meanwhile.
_MAX_ROOM_BYTES = 1024 * 1024
# And so much of what cannot be read to where it belongs.
_SCRATCH_BYTES = 120 * 1024


class _Scratch(threading.local):
    """Memory that is read to again and again: in each thread its own, as a Trio run has."""

    def __init__(self) -> None:
        self.memory = bytearray(_SCRATCH_BYTES)


_scratch = _Scratch()


class Decoder:
    """Parses plain frames, as a server sends them.

    Args:
        read_limit_bytes: the largest message to accept; one byte more is a violation with code 1009.
    """

    # Whether payload is taken as it arrives.
    _plain: ClassVar[bool] = True

    def __init__(self, read_limit_bytes: int) -> None:
        self.messages: deque[Message] = deque()
        self.violation: ProtocolViolation | None = None
        """Set once the peer has broken the protocol; everything it sends afterwards is ignored."""
        self.paused: bool = False
        """Whether part of the block was not parsed yet: feed ``b""`` once `messages` are taken, if none is held."""
        self.holds: bool = False
        """Whether a message above the limit is held, and not refused at once."""
        self.held: ProtocolViolation | None = None
        """What a message is to be refused for that is held; None while none is."""
        self.missing: int = 0
        """How many bytes of the payload being collected have not arrived yet."""
        self.inflater: Inflater | None = None
        """Set if compressed messages may come."""
        self.messages_received: int = 0
        self.payload_bytes_received: int = 0
        """Of whole messages."""
        self.streamed_bytes_received: int = 0
        """Of streamed messages, as far as they have come."""
        self.parts_received: int = 0
        """How many parts of streamed messages have come."""
        self._limit = read_limit_bytes
        self._closed = False
        self._rest = b""
        # How many bytes came out of compressed messages since `messages` was last empty.
        self._inflated = 0
        # Deflate expands what it cannot compress.
        self._compressed_limit = read_limit_bytes + read_limit_bytes // 16 + 1024
        # The message being received, if there is one: the opcode of its first frame, whether it is compressed, whether
        # its latest frame is the last, and what has arrived of it, inflated.
        self._in_message = False
        self._opcode = 0
        self._compressed = False
        self._final = False
        self._payload = Pieces()
        # Checks text in fragments, and decodes text that is streamed, as it arrives; None for any other message.
        self._utf8: IncrementalDecoder | None = None
        # What still comes out of payload that has arrived, or raises what is wrong with it; None if nothing does.
        self._unfinished: Iterator[bytes] | None = None
        # What the next message goes to, and what the one being received goes to, if they are streamed.
        self._armed: Streamed | None = None
        self._stream: Streamed | None = None

    def feed(self, block: bytes | memoryview) -> list[Control]:
        """Take in what was read; append messages to `messages` and return the control frames, in order.

        Where payload is `missing`, the block may be a view of memory that is used again.
        """
        controls: list[Control] = []
        if self._closed:
            return controls
        self.paused = False
        if not self.messages:
            self._inflated = 0
        if self._rest:
            block = self._rest + block
            self._rest = b""
        try:
            if self._unfinished is not None:
                self._inflate(self._unfinished)
            start = self._collect(block) if self.missing and not self.paused else 0
            if isinstance(block, memoryview):
                block, start = bytes(block[start:]), 0
            self._parse(block, start, controls)
        except ProtocolViolation as violation:
            self.violation = violation
            if violation.reason == _HTTP_INSTEAD:
                # Only what is parsed is found to be HTTP.
                self.violation = _http_instead(bytes(block), start)  # pyright: ignore[reportPossiblyUnboundVariable]  # see above
            self._closed = True
            self.paused = False
        return controls

    # Reading to where it belongs -------------------------------------------------------------------------------------

    def room(self) -> memoryview:
        """Return where payload that is `missing` can be read to. `filled` takes it from there, before anything else."""
        if self._plain and self._stream is None and not self._compressed:
            return self._payload.room(min(self.missing, _MAX_ROOM_BYTES))
        return memoryview(_scratch.memory)

    def filled(self, size: int) -> memoryview:
        """Return what was read to where `room` said: the next block to `feed`."""
        if self._plain and self._stream is None and not self._compressed:
            return self._payload.written(size)
        with memoryview(_scratch.memory) as view:
            return view[:size]

    # Streaming -------------------------------------------------------------------------------------------------------

    def arm(self, stream: Streamed) -> None:
        """Give the next message to a stream. If one is being received that is not streamed: that one.

        One that is held is not refused any more.
        """
        self.held = None
        if self._in_message and self._stream is None:
            collected = self._payload.take_pieces()
            self._begin_stream(stream)
            try:
                for piece in collected:
                    self._add_to_stream(stream, piece)
            except ProtocolViolation as violation:
                self._unfinished = _raising(violation)  # in the next `feed`
        else:
            self._armed = stream

    def disarm(self, stream: Streamed) -> None:
        """Take back what `arm` did, if no message has begun since. What comes of one that has is checked as ever."""
        if self._armed is stream:
            self._armed = None

    def refuse(self) -> None:
        """Refuse the message that is held: set `violation`."""
        self.violation, self.held = self.held, None
        self._closed = True
        self.paused = False

    def _begin_stream(self, stream: Streamed) -> None:
        """Have the message being received go to a stream."""
        self._stream = stream
        self._utf8 = _Utf8Decoder() if self._opcode == TEXT_FRAME else None
        stream.begin("text" if self._opcode == TEXT_FRAME else "binary")

    def _add_to_stream(self, stream: Streamed, piece: bytes) -> None:
        self.parts_received += 1
        self.streamed_bytes_received += len(piece)
        data = piece if self._utf8 is None else _decoded(self._utf8, piece)
        if data:
            stream.add(data)

    def _finish_stream(self, stream: Streamed) -> None:
        if self._utf8 is not None:
            _decoded(self._utf8, b"", final=True)
        self._stream = None
        self.messages_received += 1
        stream.end()

    # Parsing ---------------------------------------------------------------------------------------------------------

    def _parse(self, block: bytes, start: int, controls: list[Control]) -> None:
        """Parse the frames of a block from ``start``; keep an incomplete one for the next block."""
        size = len(block)
        while not self._closed and not self.paused:
            if not self._in_message and self._armed is None:
                start = self._parse_whole(block, start)
                if self._unfinished is not None:
                    self._inflate(self._unfinished)
                    continue
            if size - start < 2 or self.paused:
                break
            head = block[start]
            header = self._header(block, start)
            if header is None:
                break
            length, payload_start = header
            self._check_header(head, length)
            if self.paused:
                break
            end = payload_start + length
            if end > size:
                if length > _MAX_REPARSED:
                    self.missing = end - size
                    self._begin_frame(head)
                    self._take_payload(self._payload_between(block, payload_start, size))
                    return
                break
            self._finish_frame(head, bytes(self._payload_between(block, payload_start, end)), controls)
            start = end
        if start < size and not self._closed:
            self._rest = block[start:] if start else block

    def _header(self, block: bytes, start: int) -> tuple[int, int] | None:
        """Return the length of a frame's payload and where that starts; None if bytes of the header are missing."""
        if block[start + 1] & MASKED:
            raise protocol_error("a frame from the server is masked")
        return payload_length(block, start)

    def _payload_between(self, block: bytes | memoryview, start: int, end: int) -> bytes | memoryview:
        """Return the next bytes of the payload of the frame whose header was parsed last."""
        return block[start:end]

    def _parse_whole(self, block: bytes, start: int) -> int:  # noqa: C901, PLR0912, PLR0915  # a call costs too much
        """Parse messages of a single frame, as most are, for as long as they follow one another.

        Returns the start of the first frame that is something else, incomplete, or to be refused.
        """
        add = self.messages.append
        received = -len(self.messages)
        payload_bytes = 0
        size = len(block)
        try:
            while start + 1 < size:
                head = block[start]
                length = block[start + 1]
                payload_start = start + 2
                if length > MAX_CONTROL_PAYLOAD:
                    # What `payload_length` does. Calling it would cost a message of 1 KiB a ninth more instructions
                    # (python -m benchmarks.counts).
                    if length != LENGTH_16_BITS or start + 3 >= size:
                        break
                    length = block[start + 2] << 8 | block[start + 3]
                    if length <= MAX_CONTROL_PAYLOAD:
                        break
                    payload_start = start + 4
                end = payload_start + length
                if end > size or length > self._limit:
                    break
                if head == WHOLE_TEXT:
                    add(new_tuple(Message, ("text", block[payload_start:end].decode())))
                elif head == WHOLE_BINARY:
                    add(new_tuple(Message, ("binary", block[payload_start:end])))
                elif head in WHOLE_COMPRESSED and self.inflater is not None:
                    data = self.inflater.inflate_message(block[payload_start:end])
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

    def _collect(self, block: bytes | memoryview) -> int:
        """Take more of the payload being collected; return where in the block the next frame starts."""
        missing = self.missing
        taken = min(missing, len(block))
        self.missing = missing - taken
        payload = self._payload_between(block, 0, taken)
        try:
            self._take_payload(payload)
        finally:
            if isinstance(payload, memoryview):
                payload.release()  # a violation must not keep it in its traceback: the buffer could not grow any more
        return taken

    def _check_header(self, head: int, length: int) -> None:
        """Refuse a frame by its header alone (RFC 6455, sections 5.2, 5.4 and 5.5)."""
        opcode = head & OPCODE
        # Only the first frame of a compressed message says so (RFC 7692, section 6).
        starts_compressed = (
            self.inflater is not None and head & RESERVED_BITS == COMPRESSED and opcode in (TEXT_FRAME, BINARY_FRAME)
        )
        if head & RESERVED_BITS and not starts_compressed:
            raise protocol_error(_HTTP_INSTEAD if (head, length) == _HTTP_HEADER else "a reserved bit is set")
        if opcode & CONTROL:
            if opcode not in (CLOSE, PING, PONG):
                raise protocol_error(f"unknown control opcode {opcode}")
            if not head & FIN:
                raise protocol_error("a control frame is fragmented")
            if length > MAX_CONTROL_PAYLOAD:
                raise protocol_error(f"a control frame has {length} bytes of payload, more than 125")
            return
        if opcode not in _DATA_OPCODES:
            raise protocol_error(f"unknown data opcode {opcode}")
        if (opcode == CONTINUATION) != self._in_message:
            raise protocol_error(
                "a continuation without a message to continue"
                if opcode == CONTINUATION
                else "a new message inside a fragmented one"
            )
        self._check_length(length, compressed=starts_compressed or self._compressed)

    def _check_length(self, length: int, *, compressed: bool) -> None:
        """Refuse or hold a data frame that can only be part of a message above the limit."""
        if compressed:
            if length > self._compressed_limit:
                self._exceeded(f"a compressed frame of {length} bytes, too large for a message of {self._limit}")
            return
        total = length + self._payload.size
        if total > self._limit:
            self._exceeded(f"a message of at least {total} bytes, more than {self._limit}")

    def _exceeded(self, reason: str) -> None:
        """Refuse or hold a message above the limit, unless it is streamed."""
        if self._stream is not None or self._armed is not None:
            return
        violation = ProtocolViolation(CloseCode.MESSAGE_TOO_BIG, reason)
        if not self.holds:
            raise violation
        self.held = violation
        self.paused = True

    def _finish_frame(self, head: int, payload: bytes, controls: list[Control]) -> None:
        """Act on a complete frame whose header was checked."""
        opcode = head & OPCODE
        if not opcode & CONTROL:
            self._begin_frame(head)
            self._take_payload(payload)
            return
        if opcode == CLOSE:
            parse_close(payload)  # raises if it is malformed
            self._closed = True
        controls.append(Control(opcode, payload))

    def _begin_frame(self, head: int) -> None:
        """Take note of a data frame whose header was checked."""
        self._final = bool(head & FIN)
        opcode = head & OPCODE
        if opcode != CONTINUATION:
            self._in_message = True
            self._opcode = opcode
            self._compressed = bool(head & COMPRESSED)
            self._utf8 = _Utf8Decoder() if opcode == TEXT_FRAME and not self._final else None
            if self._armed is not None:
                stream, self._armed = self._armed, None
                self._begin_stream(stream)

    def _take_payload(self, payload: bytes | memoryview) -> None:
        """Take all of a data frame's payload, or the next part of it."""
        if self._compressed:
            assert self.inflater is not None
            self._inflate(self.inflater.inflate(bytes(payload), end=self._final and not self.missing))
            return
        self._add(payload)
        if self.missing:
            self._payload.gather()
        elif self._final:
            self._finish_message()

    def _inflate(self, pieces: Iterator[bytes]) -> None:
        """Take what the payload that has arrived inflates to, as far as parsing does not pause."""
        self._unfinished = pieces
        for piece in pieces:
            self._add(piece)
            self._inflated += len(piece)
            if self._payload.size > self._limit:
                self._exceeded(f"a message of more than {self._limit} bytes, inflated")
            elif self._stream is not None and self._inflated >= _MAX_STREAMED_BYTES:
                self.paused = True
            if self.paused:
                return
        self._unfinished = None
        # A block of a few KiB can hold messages of many MiB: the rest is parsed once these are taken.
        self.paused = self._inflated >= MAX_INFLATED_BYTES
        if self._final and not self.missing:
            self._finish_message()

    def _add(self, piece: bytes | memoryview) -> None:
        if self._stream is not None:
            self._add_to_stream(self._stream, bytes(piece))
            return
        self._payload.add(piece)
        if self._utf8 is not None:
            _decoded(self._utf8, piece)

    def _finish_message(self) -> None:
        self._in_message = self._compressed = False
        if self._stream is not None:
            self._finish_stream(self._stream)
            return
        size = self._payload.size
        if self._opcode == TEXT_FRAME:
            try:
                text = self._payload.take_text()
            except UnicodeDecodeError:
                raise not_utf8() from None
            self.messages.append(Message("text", text))
        else:
            self.messages.append(Message("binary", self._payload.take()))
        self.messages_received += 1
        self.payload_bytes_received += size


def _decoded(decoder: IncrementalDecoder, piece: bytes | memoryview, *, final: bool = False) -> str:
    """Return the characters that end in this piece of a text; refuse what cannot become UTF-8, whatever follows."""
    try:
        return decoder.decode(piece, final)
    except UnicodeDecodeError:
        raise not_utf8() from None


def _raising(violation: ProtocolViolation) -> Iterator[bytes]:
    raise violation
    yield b""  # makes it a generator


def _http_instead(block: bytes, start: int) -> ProtocolViolation:
    """Return the violation that shows the first line of an answer in HTTP, as some proxies send one.

    Args:
        block: what was parsed up to there.
        start: where its first frame starts.
    """
    while not block.startswith(b"HT", start):
        # The frames before it are complete.
        header = payload_length(block, start)
        assert header is not None
        start = sum(header)
    line = block[start : start + _MAX_HTTP_LINE].partition(b"\r")[0].partition(b"\n")[0]
    return protocol_error(f"{_HTTP_INSTEAD}: {shown(line.decode('latin-1'), _MAX_SHOWN_CHARACTERS)}")


def not_utf8() -> ProtocolViolation:
    return ProtocolViolation(CloseCode.INVALID_PAYLOAD, "a text message is not UTF-8")
