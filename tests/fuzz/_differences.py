"""Compares ours with the oracles frame by frame, and knows where they differ and which of them the RFCs side with.

A stream is cut into its frames by the plainest means, and each reader is fed frame by frame. At the first frame of
which two of them make different things, one of the `DIFFERENCES` must say why; what comes after it is not compared
with that oracle any more. So each condition is about that frame, what went before it, and exactly what the two made
of it.

There is one difference that is none of substance: when a frame is refused, whether by its first bytes, its header, its
payload as far as it has come, or as a whole, is left open (RFC 6455, section 7.1.7). A stream that ends within a frame
shows it. So if then one reader has refused the frame and the other waits for the rest, the rest is given to both.
"""

from __future__ import annotations

import codecs
import contextlib
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.fuzz._oracles import ORACLES, Event, Ours, Setting, Verdict, read
from tests.fuzz._streams import xored
from tests.websocket._server import CLOSE, COMPRESSED, CONTINUATION, TEXT
from trio_csp_websocket.protocol.frames import Control
from trio_csp_websocket.protocol.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TAIL: Final = b"\x00\x00\xff\xff"
MIB: Final = 1 << 20


class RawFrame(NamedTuple):
    """A frame as it lies in a stream, whatever is wrong with it."""

    data: bytes
    """All of it, or what there is of it at the stream's end."""
    header_size: int
    """As the first two bytes say."""
    length: int
    """0 if the header is not complete."""

    @property
    def opcode(self) -> int:
        return self.data[0] & 0x0F

    @property
    def fin(self) -> bool:
        return bool(self.data[0] & 0x80)

    @property
    def compressed(self) -> bool:
        return bool(self.data[0] & COMPRESSED)

    @property
    def control(self) -> bool:
        return self.opcode >= CLOSE

    @property
    def masked(self) -> bool:
        return len(self.data) >= 2 and bool(self.data[1] & 0x80)

    @property
    def payload(self) -> bytes:
        """As it is meant."""
        payload = self.data[self.header_size :]
        return xored(payload, self.data[self.header_size - 4 : self.header_size]) if self.masked else payload

    @property
    def missing(self) -> int:
        return self.header_size + self.length - len(self.data)

    @property
    def shortest(self) -> bool:
        """Whether the length is in its shortest form."""
        short = self.data[1] & 0x7F
        return short < 126 or (self.length >= 126 if short == 126 else 1 << 16 <= self.length < 1 << 63)


def raw_frames(stream: bytes) -> list[RawFrame]:
    """Cut a stream into frames."""
    frames: list[RawFrame] = []
    while stream:
        header_size, length = 2, 0
        if len(stream) >= 2:
            short = stream[1] & 0x7F
            width = {126: 2, 127: 8}.get(short, 0)
            header_size += width + (4 if stream[1] & 0x80 else 0)
            if len(stream) >= 2 + width:
                length = int.from_bytes(stream[2 : 2 + width], "big") if width else short
        frames.append(RawFrame(stream[: header_size + length], header_size, length))
        stream = stream[header_size + length :]
    return frames


def masked(stream: bytes, key: bytes) -> bytes:
    """Mask the frames of a stream that has none that are, as far as they go."""
    frames: list[bytes] = []
    for frame in raw_frames(stream):
        data = frame.data[:1] + bytes([frame.data[1] | 0x80]) + frame.data[2:]
        whole = len(data) >= frame.header_size
        frames.append(data[: frame.header_size] + key + xored(frame.payload, key) if whole else data)
    return b"".join(frames)


def completed(frame: RawFrame, setting: Setting) -> bytes:
    """Return a frame with what is missing of it, up to more than any message may have."""
    data = frame.data
    if len(data) < 2:
        data += b"\x80" if setting.server else b"\x00"
    form = {126: b"\x00\x7e", 127: b"\x00\x00\x00\x00\x00\x01\x00\x00"}.get(data[1] & 0x7F, b"")
    data += form[len(data) - 2 :]
    (whole,) = raw_frames(data)
    return data + bytes(min(whole.missing, 2 * setting.limit + 2048))


# What holds at a frame ------------------------------------------------------------------------------------------------


class Context:
    """The messages up to a frame, inflated by the plainest means."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.opcode: int | None = None
        """Of the message being received."""
        self.compressed = False
        """Whether it is."""
        self.data = b""
        """What it has given so far."""
        self.corrupt = False
        """Whether zlib has refused something."""
        self.final_block = False
        """Whether a block was final that the decompressor in use has seen, or would have without one for each such."""
        self.without_payload = False
        """Whether a compressed message had no payload at all, which the same decompressor has seen."""
        self.control_inside = False
        """Whether a control frame has come between the fragments of a compressed message."""
        self._payload_size = 0
        self._behind_final_block = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        deflate = self.setting.deflate
        self._window = b""
        self._decompressor = zlib.decompressobj(-(deflate.peer_max_window_bits if deflate else 15))
        self.final_block = self.without_payload = False

    def take_in(self, frame: RawFrame) -> None:
        """Go on to what holds behind a frame that nobody refused."""
        if frame.control:
            self.control_inside |= self.compressed
            return
        self.look_at(frame)
        if frame.fin:
            self.opcode, self.compressed, self.data, self._payload_size = None, False, b"", 0
            if self.setting.deflate is not None and self.setting.deflate.peer_no_context_takeover:
                self._start_afresh()

    def look_at(self, frame: RawFrame) -> None:
        """Add what there is of a data frame to its message."""
        if frame.opcode != CONTINUATION:
            self.opcode, self.compressed = frame.opcode, frame.compressed and self.setting.deflate is not None
        self._payload_size += len(frame.payload)
        if not self.compressed:
            self.data += frame.payload
        elif not self._payload_size:
            self.without_payload |= frame.fin
        else:
            end = frame.fin and not frame.missing
            self._inflate(frame.payload + TAIL if end else frame.payload, end=end)

    def _inflate(self, payload: bytes, *, end: bool) -> None:
        deflate = self.setting.deflate
        assert deflate is not None
        while payload and not self.corrupt:
            behind_final_block, self._behind_final_block = self._behind_final_block, False
            if behind_final_block and end and payload == TAIL:
                return  # of an empty block that is missing
            before = self._decompressor.copy()
            try:
                piece = self._decompressor.decompress(payload, 4 * MIB)
            except zlib.error:
                self.corrupt = True
                piece = _as_far_as_possible(before, payload)
            self.data += piece
            self._window = (self._window + piece)[-32_768:]
            payload = b""
            if self._decompressor.eof:
                self.final_block = True
                payload = self._decompressor.unused_data
                self._decompressor = zlib.decompressobj(-deflate.peer_max_window_bits, zdict=self._window)
                self._behind_final_block = True


def _as_far_as_possible(decompressor: zlib._Decompress, payload: bytes) -> bytes:
    """Return what comes out before the corrupt place."""
    data = b""
    with contextlib.suppress(zlib.error):
        for start in range(len(payload)):
            data += decompressor.decompress(payload[start : start + 1])
    return data


class Situation(NamedTuple):
    """A frame of which two readers make different things."""

    frame: RawFrame
    before: int
    """How many bytes its message had before it."""
    inside: bool
    """Whether a message was being received."""
    inside_compressed: bool
    """Whether that was a compressed one."""
    context: Context
    """With what there is of the frame."""

    @property
    def room(self) -> int:
        """How much more the message may have."""
        return self.context.setting.limit - self.before

    @property
    def too_large(self) -> bool:
        """Whether the message is above the limit by what it has given, or by the header."""
        return len(self.context.data) > self.context.setting.limit or (
            not self.context.compressed and self.frame.length > self.room
        )

    @property
    def starts_message(self) -> bool:
        return self.frame.opcode in (1, 2)

    @property
    def cut_off(self) -> int | None:
        """How many bytes a cut off character at the end has; None if it cannot become UTF-8 any more."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            decoder.decode(self.context.data)
        except UnicodeDecodeError:
            return None
        return len(decoder.getstate()[0])


def situation(setting: Setting, frames: Sequence[RawFrame], number: int) -> Situation:
    """Return what holds at one of the frames, if none before it was refused."""
    context = Context(setting)
    for frame in frames[:number]:
        context.take_in(frame)
    frame = frames[number]
    before, inside, inside_compressed = len(context.data), context.opcode is not None, context.compressed
    if not frame.control and inside == (frame.opcode == CONTINUATION):
        context.look_at(frame)
    return Situation(frame, before, inside, inside_compressed, context)


# Differences ----------------------------------------------------------------------------------------------------------

Events = tuple[Event, ...]
REFUSED_1002: Final[Events] = (Verdict(1002),)
REFUSED_1007: Final[Events] = (Verdict(1007),)
REFUSED_1009: Final[Events] = (Verdict(1009),)


class Difference(NamedTuple):
    """Where ours and an oracle differ."""

    rule: str
    """What the RFCs say."""
    explains: Callable[[Situation, Events, Events], bool]
    """Whether this is it: the frame, what ours makes of it, and what the oracle does."""


def _right(at: Situation, ours: Events) -> bool:
    """Whether ours is what a data frame gives by the plainest means, where an oracle is no help."""
    if at.frame.missing or at.context.corrupt or at.too_large:
        return at.frame.missing > 0 or ours in (REFUSED_1007, REFUSED_1009)
    if at.context.opcode == TEXT and (at.cut_off is None or (at.cut_off > 0 and at.frame.fin)):
        return ours == REFUSED_1007
    if not at.frame.fin:
        return ours == ()
    data = at.context.data
    return ours == (Message("text", data.decode()) if at.context.opcode == TEXT else Message("binary", data),)


def _text_first(at: Situation, ours: Events, theirs: Events) -> bool:
    invalid = at.cut_off is None or (at.cut_off > 0 and at.frame.fin)
    return ours == REFUSED_1009 and theirs == REFUSED_1007 and at.context.opcode == TEXT and at.too_large and invalid


def _cut_off_character(at: Situation, ours: Events, theirs: Events) -> bool:
    return (
        ours == REFUSED_1009
        and theirs == ()
        and at.context.opcode == TEXT
        and at.too_large
        and at.context.setting.limit >= len(at.context.data) - (at.cut_off or 0)
    )


def _control_inside(at: Situation, ours: Events, theirs: Events) -> bool:
    return at.context.control_inside and not at.frame.control and _right(at, ours)


def _final_block(at: Situation, ours: Events, theirs: Events) -> bool:
    return at.context.final_block and at.context.compressed and not at.frame.control and _right(at, ours)


def _without_payload(at: Situation, ours: Events, theirs: Events) -> bool:
    return at.context.without_payload and at.context.compressed and not at.frame.control and _right(at, ours)


def _code_1014(at: Situation, ours: Events, theirs: Events) -> bool:
    return (
        at.frame.opcode == CLOSE
        and at.frame.payload[:2] == (1014).to_bytes(2, "big")
        and ours in ((Control(CLOSE, at.frame.payload),), REFUSED_1007)
        and theirs == REFUSED_1002
    )


def _compressed_frame_too_large(at: Situation, ours: Events, theirs: Events) -> bool:
    limit = at.context.setting.limit
    return (
        ours == REFUSED_1009
        and theirs != ours
        and at.context.compressed
        and at.frame.length > limit + limit // 16 + 1024
    )


def _compressed_inside(at: Situation, ours: Events, theirs: Events) -> bool:
    inflated = at.inside_compressed or at.frame.compressed
    return ours == REFUSED_1002 and theirs == REFUSED_1007 and at.starts_message and at.inside and inflated


def _window_of_9(at: Situation, ours: Events, theirs: Events) -> bool:
    deflate = at.context.setting.deflate
    eight = deflate is not None and deflate.peer_max_window_bits == 8
    return ours == REFUSED_1007 and theirs != ours and at.context.corrupt and eight


def _long_form(at: Situation, ours: Events, theirs: Events) -> bool:
    return ours == REFUSED_1002 and theirs != ours and not at.frame.shortest


def _size_first(at: Situation, ours: Events, theirs: Events) -> bool:
    return (
        ours == REFUSED_1002
        and theirs == REFUSED_1009
        and (at.frame.length > at.room or (at.starts_message and at.frame.compressed))
    )


def _control_frame_above_limit(at: Situation, ours: Events, theirs: Events) -> bool:
    return at.frame.control and at.frame.length > at.room and theirs == REFUSED_1009 and ours != REFUSED_1002


def _compressed_size(at: Situation, ours: Events, theirs: Events) -> bool:
    return theirs == REFUSED_1009 and at.context.compressed and not at.frame.control and at.frame.length > at.room


def _held_back(at: Situation, ours: Events, theirs: Events) -> bool:
    return ours == REFUSED_1009 and theirs == () and at.context.compressed and not at.frame.fin and at.too_large


def _corrupt_is_1002(at: Situation, ours: Events, theirs: Events) -> bool:
    return ours == REFUSED_1007 and theirs == REFUSED_1002 and at.context.corrupt


def _size_before_corrupt(at: Situation, ours: Events, theirs: Events) -> bool:
    full = len(at.context.data) >= at.context.setting.limit
    return ours == REFUSED_1007 and theirs == REFUSED_1009 and at.context.corrupt and full


def _size_before_text(at: Situation, ours: Events, theirs: Events) -> bool:
    is_text = at.context.opcode == TEXT and at.cut_off is None
    return ours == REFUSED_1007 and theirs == REFUSED_1009 and at.context.compressed and is_text and at.too_large


def _corrupt_before_size(at: Situation, ours: Events, theirs: Events) -> bool:
    return ours == REFUSED_1009 and theirs == REFUSED_1007 and at.context.corrupt and at.too_large


def _reason_first(at: Situation, ours: Events, theirs: Events) -> bool:
    return at.frame.opcode == CLOSE and ours == REFUSED_1002 and theirs == REFUSED_1007


def _close_inside(at: Situation, ours: Events, theirs: Events) -> bool:
    return at.inside and ours == (Control(CLOSE, at.frame.payload),) and theirs == REFUSED_1002


DIFFERENCES: Final[dict[tuple[str, str], Difference]] = {
    ("wsproto", "looks at text before its user can look at the size"): Difference(
        "RFC 6455, section 8.1, and the limit: no order is set.", _text_first
    ),
    ("wsproto", "holds back a character that a fragment cuts"): Difference(
        "No RFC has a limit. What wsproto holds back, its user cannot count.", _cut_off_character
    ),
    ("wsproto", "stops inflating at a control frame inside a compressed message"): Difference(
        "RFC 6455, section 5.4: control frames may be injected in the middle of a fragmented message.", _control_inside
    ),
    ("wsproto", "drops what follows a final block"): Difference(
        "RFC 7692, section 7.2.3.4: a block may be final, and others follow.", _final_block
    ),
    ("wsproto", "appends the end of a message to nothing"): Difference(
        "RFC 7692, section 7.2.1: a message has at least one byte of payload. Without any, ours takes it for empty.",
        _without_payload,
    ),
    ("wsproto", "refuses the close code 1014"): Difference(
        "RFC 6455, section 7.4.2: codes up to 2999 are for specifications to register, as 1014 was.", _code_1014
    ),
    ("wsproto", "inflates a frame of any size"): Difference(
        "No RFC has a limit. Ours also has one for what is to be inflated.", _compressed_frame_too_large
    ),
    ("wsproto", "has a window of 9 bits where 8 were agreed on"): Difference(
        "RFC 7692, section 7.1.2.1: the server's window is 8 to 15 bits. wsproto does not know of 8.", _window_of_9
    ),
    ("wsproto", "inflates a message inside another before it refuses it"): Difference(
        "RFC 6455, section 5.4: it is refused either way; ours does not look at its payload.", _compressed_inside
    ),
    ("wsproto", "inflates all of a frame before its user can look at the size"): Difference(
        "RFC 6455, section 7.4.1, and the limit: the frame is corrupt and gives too much, and no order is set.",
        _corrupt_before_size,
    ),
    ("websockets", "accepts lengths in a longer form than needed"): Difference(
        "RFC 6455, section 5.2: the minimal number of bytes must be used; of 64 bits the highest must be 0.", _long_form
    ),
    ("websockets", "looks at the size before anything else"): Difference(
        "The frame breaks a rule of RFC 6455, section 5, and the limit: no order is set.", _size_first
    ),
    ("websockets", "has the limit of messages for control frames too"): Difference(
        "RFC 6455, section 5.5: a control frame is no part of a message; it may have 125 bytes.",
        _control_frame_above_limit,
    ),
    ("websockets", "has the limit for what is compressed too"): Difference(
        "No RFC has a limit. Ours is for what comes out, since deflate expands what it cannot compress.",
        _compressed_size,
    ),
    ("websockets", "does not count what zlib holds back at the end of a fragment"): Difference(
        "No RFC has a limit. zlib may have taken in all of a fragment, and still hold back what exceeds the limit.",
        _held_back,
    ),
    ("websockets", "fails with 1002 on what cannot be inflated"): Difference(
        "RFC 6455, section 7.4.1: 1007 is for data not consistent with the type of the message. RFC 7692 has no code.",
        _corrupt_is_1002,
    ),
    ("websockets", "stops inflating at the limit to the byte"): Difference(
        "RFC 6455, section 7.4.1, and the limit: more would come out, and is corrupt; no order is set.",
        _size_before_corrupt,
    ),
    ("websockets", "inflates up to the limit before its user can look at the text"): Difference(
        "RFC 6455, section 8.1, and the limit: no order is set. Ours looks at each piece that is inflated.",
        _size_before_text,
    ),
    ("websockets", "decodes a close frame's reason before it looks at the code"): Difference(
        "RFC 6455, sections 5.5.1 and 7.4: both are wrong, and no order is set.", _reason_first
    ),
    ("websockets", "refuses a close inside a fragmented message"): Difference(
        "RFC 6455, section 5.4: control frames may be injected in the middle of a fragmented message.", _close_inside
    ),
    ("websockets", "drops what follows a final block"): Difference(
        "RFC 7692, section 7.2.3.4: a block may be final, and others follow.", _final_block
    ),
    ("websockets", "appends the end of a message to nothing"): Difference(
        "RFC 7692, section 7.2.1: a message has at least one byte of payload. Without any, ours takes it for empty.",
        _without_payload,
    ),
}

SOONER: Final = "refuses a frame before ours does"
LATER: Final = "refuses a frame after ours does"


class UnexplainedError(AssertionError):
    """Ours and an oracle differ, and none of the `DIFFERENCES` says why."""


def compare(setting: Setting, stream: bytes) -> tuple[list[Events], list[tuple[str, str]]]:
    """Return what ours makes of each frame, and how it differs from each oracle, if it does.

    Raises:
        UnexplainedError: it differs in a way that is not known.
    """
    frames = raw_frames(stream)
    blocks = [frame.data for frame in frames]
    ours = read(Ours(setting), blocks)
    differences: list[tuple[str, str]] = []
    for oracle, make in ORACLES.items():
        theirs = read(make(setting), blocks)
        if ours != theirs:
            differences += explain(oracle, setting, frames, ours, theirs)
    return ours, differences


def explain(
    oracle: str, setting: Setting, frames: Sequence[RawFrame], ours: Sequence[Events], theirs: Sequence[Events]
) -> list[tuple[str, str]]:
    """Return the name of the difference at the first frame where there is one."""
    number = next(number for number, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other)
    one, other = ours[number], theirs[number]
    at = situation(setting, frames, number)
    for (whose, what), difference in DIFFERENCES.items():
        if whose == oracle and difference.explains(at, one, other):
            return [(whose, what)]
    if at.frame.missing and () in (one, other):
        blocks = [frame.data for frame in frames[:number]]
        blocks.append(completed(at.frame, setting))
        one_whole, other_whole = read(Ours(setting), blocks), read(ORACLES[oracle](setting), blocks)
        when = (oracle, LATER if one else SOONER)
        if one_whole == other_whole:
            return [when]
        whole = raw_frames(b"".join(blocks))
        return [when, *explain(oracle, setting, whole, one_whole, other_whole)]
    raise UnexplainedError(
        f"{oracle}: frame {number} of {len(frames)}, {at.frame.data[:60].hex(' ')} ({len(at.frame.data)} bytes,"
        f" {at.frame.missing} missing): ours {_shown(one)}, theirs {_shown(other)}; {setting}"
    )


def _shown(events: Events) -> str:
    return (
        ", ".join(
            f"{event.type} {event.data[:40]!r}" if isinstance(event, Message) else repr(event) for event in events
        )
        or "nothing"
    )
