"""Draws what a peer may send, right or wrong: frames made of messages, then faults in them, then damaged bytes."""

from __future__ import annotations

import itertools
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from hypothesis import strategies as st

from tests.fuzz._oracles import Setting
from tests.websocket._server import BINARY, CLOSE, COMPRESSED, CONTINUATION, PING, PONG, TEXT
from trio_csp_websocket.protocol.frames import Control
from trio_csp_websocket.protocol.messages import Message
from trio_csp_websocket.protocol.negotiation import DeflateParameters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TAIL = b"\x00\x00\xff\xff"


class Spec(NamedTuple):
    """A frame as it is to be written."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    reserved: int = 0
    wrongly_masked: bool = False
    """Whether it has a mask and should have none, or the other way round."""
    width: int = 0
    """Of the length, in bits: 7, 16 or 64; or 0 for the shortest that holds it."""
    length: int | None = None
    """What the header says, if it is not the payload's."""

    def encoded(self, key: bytes | None = None) -> bytes:
        """Return the frame; masked with the key, if there is one."""
        if self.wrongly_masked:
            key = b"mask" if key is None else None
        length = len(self.payload) if self.length is None else self.length
        width = self.width or (7 if length < 126 else 16 if length < 1 << 16 else 64)
        head = bytes([(0x80 if self.fin else 0) | self.reserved | self.opcode])
        masked = 0 if key is None else 0x80
        if width == 7:
            head += bytes([masked | length])
        else:
            head += bytes([masked | (126 if width == 16 else 127)]) + length.to_bytes(width // 8, "big")
        return head + (self.payload if key is None else key + xored(self.payload, key))


def xored(payload: bytes, key: bytes) -> bytes:
    """Mask a payload, or unmask it."""
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")


class Case(NamedTuple):
    """A stream, and what is in it."""

    setting: Setting
    stream: bytes
    messages: tuple[Message, ...]
    """What was sent, as far as there is no fault."""
    controls: tuple[Control, ...]


# Payloads -------------------------------------------------------------------------------------------------------------

LIMITS = (1, 10, 125, 126, 1000, 5000, 70_000, 70_000, 70_000, 1 << 20)
TEXTS = (
    "a price of 17, ",
    "\u20ac" * 700,
    "\u00e9",
    "xy" * 90,
    "\u20ac",
    "\U0001f600",
    "\ud7ff",
    "\U0010ffff",
    "\x00",
    "a",
    "",
)
# Overlong, surrogates, above U+10FFFF, never a byte of UTF-8, a continuation alone, and characters cut off.
NOT_UTF_8 = (
    b"\xc0\x80",
    b"\xe0\x80\x80",
    b"\xf0\x80\x80\x80",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xff",
    b"\x80",
    b"\xc3",
    b"\xe2\x82",
    b"\xf0\x9f\x98",
)

texts = st.lists(st.sampled_from(TEXTS), max_size=4).map("".join)
blobs = st.tuples(
    st.one_of(st.binary(min_size=10, max_size=40), st.binary(max_size=3)), st.sampled_from([1, 1, 1, 5, 50, 500])
).map(lambda parts: parts[0] * parts[1])
sendable_codes = st.sampled_from([1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999])
unsendable_codes = st.sampled_from([0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
controls = st.tuples(st.sampled_from([PING, PONG]), st.one_of(st.binary(max_size=8), st.just(b"c" * 125))).map(
    lambda parts: Spec(*parts)
)
close_payloads = st.tuples(
    sendable_codes.map(lambda code: code.to_bytes(2, "big")), st.sampled_from([b"", b"bye", b"\xe2\x82\xac" * 41])
).map(b"".join)
closes = st.one_of(st.just(b""), close_payloads).map(lambda payload: Spec(CLOSE, payload))
deflates = st.tuples(st.booleans(), st.integers(8, 15)).map(
    lambda parts: DeflateParameters(peer_no_context_takeover=parts[0], peer_max_window_bits=parts[1])
)
# Of a client's frames. One of zeros masks nothing.
keys = st.lists(st.one_of(st.binary(min_size=4, max_size=4), st.just(bytes(4))), min_size=1, max_size=3)
settings = st.tuples(st.sampled_from(LIMITS[::-1]), deflates, st.sampled_from([True, True, True, False])).map(
    lambda parts: Setting(parts[0], parts[1] if parts[2] else None)
)


class Compressing:
    """A peer's compressor, driven as no peer does: any level, strategy and kind of block, final ones too."""

    def __init__(self, draw: st.DrawFn, parameters: DeflateParameters) -> None:
        self._draw = draw
        self._takeover = not parameters.peer_no_context_takeover
        # zlib cannot compress for a window of 8 bits; what it makes for 9 fits.
        self._bits = max(9, parameters.peer_max_window_bits)
        self._level = draw(st.sampled_from([6, 1, 9, 0]))
        strategies = [zlib.Z_DEFAULT_STRATEGY] * 3 + [zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE]
        self._strategy = draw(st.sampled_from(strategies))
        # A stream with final blocks is legal, and beyond both oracles.
        self._final_blocks = draw(st.sampled_from([False] * 4 + [True]))
        self._window = b""
        self._compressor = self._new()

    def _new(self) -> zlib._Compress:
        if self._window:
            return zlib.compressobj(self._level, zlib.DEFLATED, -self._bits, 8, self._strategy, self._window)
        return zlib.compressobj(self._level, zlib.DEFLATED, -self._bits, 8, self._strategy)

    def message(self, data: bytes) -> bytes:
        flushes = [zlib.Z_NO_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH]
        if self._final_blocks:
            flushes += [zlib.Z_FINISH] * 2
        payload = b""
        for piece in _cut(self._draw, data, 2):
            flush = self._draw(st.sampled_from(flushes))
            payload += self._compressor.compress(piece) + self._compressor.flush(flush)
            self._window = (self._window + piece)[-32_768:]
            if flush == zlib.Z_FINISH:
                self._compressor = self._new()
        end = self._compressor.flush(zlib.Z_SYNC_FLUSH)
        # Nothing comes out if nothing has gone in since the last one.
        payload = (payload + end).removesuffix(TAIL) if end or payload.endswith(TAIL) else payload + b"\x00"
        if not self._takeover:
            self._window = b""
            self._compressor = self._new()
        return payload


def _cut(draw: st.DrawFn, data: bytes, most: int) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=most)))
    return [data[start:end] for start, end in itertools.pairwise([0, *cuts, len(data)])]


# Frames ---------------------------------------------------------------------------------------------------------------


class Frames:
    """The frames drawn so far."""

    def __init__(self, draw: st.DrawFn, setting: Setting) -> None:
        self.draw = draw
        self.setting = setting
        self.specs: list[Spec] = []
        self.messages: list[Message] = []
        # wsproto inflates no message that has control frames inside.
        self._controls_inside = draw(st.sampled_from([False, False, True]))
        self._compressing = Compressing(draw, setting.deflate) if setting.deflate is not None else None

    def add_message(self) -> None:
        """Add a valid message of at most the limit."""
        limit = self.setting.limit
        # Behind one like it, a compressed message refers to that.
        repeats = self.draw(st.booleans())
        if self.messages and repeats:
            message = self.draw(st.sampled_from(self.messages))
        elif self.draw(st.booleans()):
            message = Message("text", self.draw(texts).encode()[:limit].decode(errors="ignore"))
        else:
            message = Message("binary", self.draw(blobs)[:limit])
        self.messages.append(message)
        if isinstance(message.data, str):
            self.add_data(TEXT, message.data.encode())
        else:
            self.add_data(BINARY, message.data)

    def add_data(self, opcode: int, data: bytes, *, compressed: bool | None = None) -> None:
        """Add a message, compressed or not, in any fragments, with control frames between them."""
        reserved = 0
        if compressed is None:
            compressed = self.draw(st.sampled_from([False, True, True, True]))
        if compressed and self._compressing is not None:
            data, reserved = self._compressing.message(data), COMPRESSED
        self.add_payload(opcode, data, reserved)

    def add_payload(self, opcode: int, payload: bytes, reserved: int = 0) -> None:
        fragments = _cut(self.draw, payload, 3)
        for number, fragment in enumerate(fragments):
            if (number == 0 or self._controls_inside) and self.draw(st.sampled_from([False] * 4 + [True])):
                self.specs.append(self.draw(controls))
            fin = number == len(fragments) - 1
            self.specs.append(
                Spec(CONTINUATION, fragment, fin) if number else Spec(opcode, fragment, fin, reserved=reserved)
            )

    def change(self, changes: Callable[[Spec], Spec], among: Callable[[Spec], bool], otherwise: Spec) -> None:
        """Change one of certain frames; where there is none, insert one changed like that."""
        numbers = [number for number, spec in enumerate(self.specs) if among(spec)]
        if not numbers:
            self.insert(changes(otherwise))
            return
        number = self.draw(st.sampled_from(numbers))
        self.specs[number] = changes(self.specs[number])

    def insert(self, *specs: Spec) -> None:
        number = self.draw(st.integers(0, len(self.specs)))
        self.specs[number:number] = specs


def any_frame(_spec: Spec) -> bool:
    return True


def is_control(spec: Spec) -> bool:
    return spec.opcode >= CLOSE


def is_continuation(spec: Spec) -> bool:
    return spec.opcode == CONTINUATION


def is_compressed(spec: Spec) -> bool:
    return bool(spec.reserved & COMPRESSED)


# Faults ---------------------------------------------------------------------------------------------------------------


def reserved_bit(frames: Frames) -> None:
    bits = frames.draw(st.sampled_from([0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70]))
    frames.change(lambda spec: spec._replace(reserved=spec.reserved ^ bits), any_frame, Spec(TEXT))


def compressed_control_frame(frames: Frames) -> None:
    frames.insert(frames.draw(controls)._replace(reserved=COMPRESSED))


def compressed_continuation(frames: Frames) -> None:
    frames.change(lambda spec: spec._replace(reserved=COMPRESSED), is_continuation, Spec(CONTINUATION))


def unknown_opcode(frames: Frames) -> None:
    opcode = frames.draw(st.sampled_from([3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF]))
    frames.change(lambda spec: spec._replace(opcode=opcode), any_frame, Spec(TEXT))


def frame_masked_or_not(frames: Frames) -> None:
    frames.change(lambda spec: spec._replace(wrongly_masked=True), any_frame, Spec(TEXT))


def length_in_a_long_form(frames: Frames) -> None:
    width, bound = frames.draw(st.sampled_from([(16, 126), (64, 1 << 16)]))
    if frames.draw(st.booleans()):
        frames.insert(Spec(BINARY, width=width, length=bound - 1))
    else:
        frames.change(lambda spec: spec._replace(width=width), lambda spec: len(spec.payload) < bound, Spec(TEXT))


def length_with_its_highest_bit(frames: Frames) -> None:
    frames.insert(Spec(frames.draw(st.sampled_from([CONTINUATION, TEXT, BINARY])), b"x", length=1 << 63))


def length_that_never_comes(frames: Frames) -> None:
    opcode = frames.draw(st.sampled_from([CONTINUATION, TEXT, BINARY, PING]))
    length = frames.draw(st.sampled_from([126, 65_536, 1 << 40, (1 << 63) - 1]))
    reserved = COMPRESSED if frames.setting.deflate is not None and frames.draw(st.booleans()) else 0
    frames.insert(Spec(opcode, frames.draw(st.binary(max_size=20)), reserved=reserved, length=length))


def fragmented_control_frame(frames: Frames) -> None:
    frames.insert(frames.draw(st.one_of(controls, closes))._replace(fin=False))


def long_control_frame(frames: Frames) -> None:
    size = frames.draw(st.sampled_from([126, 127, 5000, 65_536]))
    frames.insert(Spec(frames.draw(st.sampled_from([CLOSE, PING, PONG])), b"\x03\xe8" + b"x" * (size - 2)))


def continuation_of_nothing(frames: Frames) -> None:
    frames.insert(Spec(CONTINUATION, frames.draw(st.binary(max_size=5)), fin=frames.draw(st.booleans())))


def message_inside_a_message(frames: Frames) -> None:
    opcode = frames.draw(st.sampled_from([TEXT, BINARY]))
    frames.specs.append(Spec(opcode, b"begun", fin=False))
    frames.specs.extend(frames.draw(st.lists(controls, max_size=1)))
    frames.add_message()


def frame_left_out(frames: Frames) -> None:
    if frames.specs:
        del frames.specs[frames.draw(st.integers(0, len(frames.specs) - 1))]


def frame_repeated(frames: Frames) -> None:
    if frames.specs:
        number = frames.draw(st.integers(0, len(frames.specs) - 1))
        frames.specs.insert(number, frames.specs[number])


def last_fragment_or_not(frames: Frames) -> None:
    frames.change(lambda spec: spec._replace(fin=not spec.fin), any_frame, Spec(TEXT))


def text_that_is_not_utf_8(frames: Frames) -> None:
    text = frames.draw(texts).encode()[: frames.setting.limit]
    position = frames.draw(st.integers(0, len(text)))
    frames.add_data(TEXT, text[:position] + frames.draw(st.sampled_from(NOT_UTF_8)) + text[position:])


def half_a_close_code(frames: Frames) -> None:
    frames.insert(Spec(CLOSE, b"\x03"))


def unsendable_close_code(frames: Frames) -> None:
    reason = frames.draw(st.sampled_from([b"", b"why", b"\xff"]))
    frames.insert(Spec(CLOSE, frames.draw(unsendable_codes).to_bytes(2, "big") + reason))


def close_reason_that_is_not_utf_8(frames: Frames) -> None:
    frames.insert(Spec(CLOSE, frames.draw(sendable_codes).to_bytes(2, "big") + frames.draw(st.sampled_from(NOT_UTF_8))))


def close_and_more(frames: Frames) -> None:
    frames.insert(frames.draw(closes))


def too_large(frames: Frames) -> None:
    """A message above the limit, or nearly: in one frame or many, or by inflating."""
    size = frames.setting.limit + frames.draw(st.sampled_from([0, 1, 1, 2, 100]))
    opcode = frames.draw(st.sampled_from([TEXT, BINARY]))
    data = frames.draw(st.sampled_from([b"x", b"\xe2\x82\xac", b"\x00\xff"])) * size
    frames.add_data(opcode, data[:size])


def compressed_frame_too_large(frames: Frames) -> None:
    """More compressed bytes than any message of the limit may need, or nearly, of empty blocks that give nothing."""
    limit = frames.setting.limit
    count = (limit + limit // 16 + 1024) // 5 + frames.draw(st.sampled_from([0, 1, 1, 1]))
    frames.specs.append(Spec(TEXT, (b"\x00" + TAIL) * count, reserved=COMPRESSED))


def corrupt(frames: Frames) -> None:
    """Damage what is compressed, or send what never was."""

    def damaged(spec: Spec) -> Spec:
        payload = bytearray(spec.payload)
        position = frames.draw(st.integers(0, max(0, len(payload) - 1)))
        match frames.draw(st.integers(0, 4)):
            case 0 if payload:
                payload[position] ^= 1 << frames.draw(st.integers(0, 7))
            case 1:
                del payload[position:]
            case 2:
                payload[position:position] = frames.draw(st.binary(min_size=1, max_size=4))
            case 3:
                payload += TAIL
            case _:
                payload[position:position] = payload[: frames.draw(st.integers(0, len(payload)))]
        return spec._replace(payload=bytes(payload))

    made_up = [
        b"",
        b"\x01\x00\x00\xff\xff",  # stored blocks: final and empty, final, with a wrong length
        b"\x01\x05\x00\xfa\xffHello",
        b"\x00\x05\x00\xfa\xfeHello",
        b"\x06",  # a block of no kind
        b"\x02\x02\x00\x00",  # references back by 1, 300 and 20,000 bytes
        b"\x02\x86\x15\x00",
        b"\x02\x9e\x0f\x07\x00",
    ]
    if frames.draw(st.booleans()):
        frames.change(damaged, is_compressed, Spec(TEXT, b"\x00", reserved=COMPRESSED))
    else:
        frames.add_payload(TEXT, frames.draw(st.one_of(st.sampled_from(made_up), st.binary(max_size=12))), COMPRESSED)
        frames.add_message()


FAULTS: Final[dict[str, Callable[[Frames], None]]] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        reserved_bit,
        compressed_control_frame,
        compressed_continuation,
        unknown_opcode,
        frame_masked_or_not,
        length_in_a_long_form,
        length_with_its_highest_bit,
        length_that_never_comes,
        fragmented_control_frame,
        long_control_frame,
        continuation_of_nothing,
        message_inside_a_message,
        frame_left_out,
        frame_repeated,
        last_fragment_or_not,
        text_that_is_not_utf_8,
        half_a_close_code,
        unsendable_close_code,
        close_reason_that_is_not_utf_8,
        close_and_more,
        too_large,
        compressed_frame_too_large,
        corrupt,
    )
}


def flipped(draw: st.DrawFn, stream: bytearray, position: int) -> None:
    stream[position] ^= 1 << draw(st.integers(0, 7))


def truncated(_draw: st.DrawFn, stream: bytearray, position: int) -> None:
    del stream[position:]


def inserted(draw: st.DrawFn, stream: bytearray, position: int) -> None:
    stream[position:position] = draw(st.binary(min_size=1, max_size=6))


def removed(draw: st.DrawFn, stream: bytearray, position: int) -> None:
    del stream[position : position + draw(st.integers(1, 6))]


def repeated(draw: st.DrawFn, stream: bytearray, position: int) -> None:
    stream[position:position] = stream[position : position + draw(st.integers(1, 20))]


DAMAGES: Final[dict[str, Callable[[st.DrawFn, bytearray, int], None]]] = {
    "a bit flipped": flipped,
    "truncated": truncated,
    "bytes inserted": inserted,
    "bytes removed": removed,
    "bytes repeated": repeated,
}


@st.composite
def cases(draw: st.DrawFn, fault: str, *, server: bool = False) -> Case:
    """Draw a stream with one of the `FAULTS` or `DAMAGES`, or with none; for a server one of masked frames."""
    frames = Frames(draw, draw(settings)._replace(server=server))
    for _ in range(draw(st.sampled_from([3, 2, 5, 1, 0]))):
        frames.add_message()
    if fault in FAULTS:
        FAULTS[fault](frames)
        for _ in range(draw(st.integers(0, 2))):
            frames.add_message()
    elif draw(st.booleans()):
        frames.specs.append(draw(closes))
    masks = itertools.cycle(draw(keys) if server else [None])
    stream = bytearray(b"".join(spec.encoded(key) for spec, key in zip(frames.specs, masks, strict=False)))
    if stream and fault in DAMAGES:
        DAMAGES[fault](draw, stream, draw(st.integers(0, len(stream) - 1)))
    controls = tuple(Control(spec.opcode, spec.payload) for spec in frames.specs if is_control(spec))
    return Case(frames.setting, bytes(stream), tuple(frames.messages), controls)


def split(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return the stream in blocks."""
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]
