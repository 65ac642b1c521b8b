"""Compressing and decompressing, against zlib by hand and against wsproto's and websockets' permessage-deflate."""

from __future__ import annotations

import itertools
import random
import tracemalloc
import zlib
from typing import TYPE_CHECKING, NamedTuple

import pytest
import wsproto.connection
import wsproto.events
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as WebsocketsFrame
from websockets.frames import Opcode as WebsocketsOpcode
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from tests.websocket._server import BINARY, COMPRESSED, CONTINUATION, deflated, frame
from trio_csp_websocket.protocol.decoder import Decoder
from trio_csp_websocket.protocol.deflate import Deflater, Inflater
from trio_csp_websocket.protocol.frames import ProtocolViolation
from trio_csp_websocket.protocol.negotiation import DeflateParameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from typing_extensions import Buffer

KIB, MIB = 1 << 10, 1 << 20
TAIL = b"\x00\x00\xff\xff"
ALL_BITS = pytest.mark.parametrize("bits", range(8, 16))
BOTH_MODES = pytest.mark.parametrize("takeover", [True, False], ids=["takeover", "no context"])


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes that cannot be compressed, the same each time."""
    return random.Random(seed).randbytes(size)


def varied(size: int, seed: int = 0) -> bytes:
    """Return bytes with repetitions at many distances, stretches that cannot be compressed, and runs."""
    source = random.Random(seed)
    data = bytearray(source.randbytes(300))
    while len(data) < size:
        match source.randrange(4):
            case 0:
                data += source.randbytes(source.randrange(1, 400))
            case 1:
                data += bytes([source.randrange(256)]) * source.randrange(1, 600)
            case _:
                start = max(0, len(data) - source.choice([*range(1, 300), 511, 512, 1000, 5000, 32768, 40000]))
                data += data[start : start + source.randrange(3, 400)]
    return bytes(data[:size])


def deflater(*, bits: int = 15, takeover: bool = True) -> Deflater:
    return Deflater(DeflateParameters(own_no_context_takeover=not takeover, own_max_window_bits=bits))


def inflater(*, bits: int = 15, takeover: bool = True) -> Inflater:
    return Inflater(DeflateParameters(peer_no_context_takeover=not takeover, peer_max_window_bits=bits))


def inflated(peer: Inflater, *fragments: bytes) -> bytes:
    """Return the message that fragments of compressed payload make."""
    last = len(fragments) - 1
    return b"".join(
        piece for number, fragment in enumerate(fragments) for piece in peer.inflate(fragment, end=number == last)
    )


def verdict(peer: Inflater, *fragments: bytes) -> tuple[int, str]:
    """Return code and reason with which a message is refused."""
    with pytest.raises(ProtocolViolation) as caught:
        inflated(peer, *fragments)
    return int(caught.value.code), caught.value.reason


class Limited:
    """A decoder, which has the limit that an `Inflater` does not have."""

    def __init__(self, limit: int, *, takeover: bool = True) -> None:
        self.decoder = Decoder(limit)
        self.decoder.inflater = inflater(takeover=takeover)

    def message(self, *fragments: bytes) -> bytes | tuple[int, str]:
        """Return the message that fragments of compressed payload make, or code and reason with which it is refused."""
        decoder, last = self.decoder, len(fragments) - 1
        for number, fragment in enumerate(fragments):
            opcode, reserved = (CONTINUATION, 0) if number else (BINARY, COMPRESSED)
            decoder.feed(frame(opcode, fragment, fin=number == last, reserved=reserved))
            while decoder.paused:
                decoder.feed(b"")
        if decoder.violation is not None:
            return int(decoder.violation.code), decoder.violation.reason
        data = decoder.messages.popleft().data
        assert isinstance(data, bytes)
        return data


def finished(data: bytes, window: bytes = b"", *, bits: int = 15) -> bytes:
    """Return a stream of blocks of which the last is final; it may refer to the window."""
    if window:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -max(bits, 9), zdict=window)
    else:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -max(bits, 9))
    return compressor.compress(data) + compressor.flush(zlib.Z_FINISH)


def repeated(piece: bytes, count: int) -> bytes:
    """Return the payload of a message with the same data many times, cheaper than by compressing all of it."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    independent = compressor.compress(piece) + compressor.flush(zlib.Z_FULL_FLUSH)
    return (independent * count).removesuffix(TAIL)


class Reference(NamedTuple):
    """Three bytes from further back."""

    distance: int


def fixed_block(*symbols: int | Reference, final: bool = False) -> bytes:
    """Return a block with the fixed Huffman codes (RFC 1951, section 3.2.6), filled up to a byte.

    Its literals are below 144. With it the distances are in our hand; zlib's compressor leaves out the longest.
    """
    bits = [int(final), 1, 0]

    def code(value: int, width: int) -> list[int]:
        return [value >> place & 1 for place in reversed(range(width))]

    for symbol in symbols:
        if isinstance(symbol, Reference):
            number = next(n for n in reversed(range(30)) if distance_base(n) <= symbol.distance)
            rest, width = symbol.distance - distance_base(number), max(0, number // 2 - 1)
            bits += code(257 - 256, 7) + code(number, 5) + [rest >> place & 1 for place in range(width)]
        else:
            bits += code(0x30 + symbol, 8)
    bits += code(0, 7)
    if not final:
        bits += [0, 0, 0]  # an empty stored block ends at a byte
    bits += [0] * (-len(bits) % 8)
    block = bytes(sum(bit << place for place, bit in enumerate(bits[i : i + 8])) for i in range(0, len(bits), 8))
    return block if final else block + TAIL


def distance_base(number: int) -> int:
    return number + 1 if number < 4 else ((2 + (number & 1)) << (number // 2 - 1)) + 1


def test_the_blocks_made_by_hand_are_what_zlib_understands() -> None:
    decompressor = zlib.decompressobj(-15)
    assert decompressor.decompress(fixed_block(1, 2, 3, 4, Reference(4), Reference(1))) == bytes([
        1, 2, 3, 4, 1, 2, 3, 3, 3, 3,
    ])  # fmt: skip
    decompressor.decompress(deflated(noise(40_000)) + TAIL)
    data = noise(40_000)
    assert decompressor.decompress(fixed_block(Reference(32_768), final=True)) == data[-32_768:][:3]
    assert decompressor.eof


# Compressing ----------------------------------------------------------------------------------------------------------

MESSAGES = (
    b"",
    b"",
    b"a",
    b"Hello" * 20,
    b"",
    noise(1000),
    noise(1000),
    varied(100_000),
    b"Hello" * 20,
    bytes(70_000),
    b"",
)


@ALL_BITS
@BOTH_MODES
def test_what_is_compressed_zlib_decompresses(takeover: bool, bits: int) -> None:
    ours = deflater(bits=bits, takeover=takeover)
    theirs = zlib.decompressobj(-bits)
    for message in MESSAGES:
        if not takeover:
            theirs = zlib.decompressobj(-bits)
        assert theirs.decompress(ours.deflate(message) + TAIL) == message
        assert not theirs.eof


@ALL_BITS
@BOTH_MODES
def test_what_is_compressed_our_own_side_decompresses(takeover: bool, bits: int) -> None:
    ours, theirs = deflater(bits=bits, takeover=takeover), inflater(bits=bits, takeover=takeover)
    for message in MESSAGES:
        assert inflated(theirs, ours.deflate(message)) == message


@BOTH_MODES
def test_an_empty_message_is_one_byte(takeover: bool) -> None:
    # RFC 7692, section 7.2.3.6. zlib would return nothing at all.
    ours = deflater(takeover=takeover)
    assert [ours.deflate(b""), ours.deflate(bytearray()), ours.deflate(memoryview(b""))] == [b"\x00"] * 3


def test_an_empty_message_leaves_the_context_as_it_was() -> None:
    with_empty, without = deflater(), deflater()
    data = noise(1000)
    assert with_empty.deflate(data) == without.deflate(data)
    with_empty.deflate(b"")
    assert with_empty.deflate(data) == without.deflate(data)


def test_with_context_takeover_a_message_refers_to_those_before() -> None:
    ours, data = deflater(), noise(1000)
    assert len(ours.deflate(data)) > 1000
    assert len(ours.deflate(data)) < 30


def test_without_context_takeover_every_message_stands_alone() -> None:
    ours, data = deflater(takeover=False), noise(1000)
    first = ours.deflate(data)
    assert len(first) > 1000
    assert ours.deflate(data) == first
    assert ours._compressor is None  # its memory is not kept either


@ALL_BITS
def test_the_window_agreed_on_is_used_as_far_as_zlib_goes(bits: int) -> None:
    # zlib looks back as far as its window, less 262 bytes.
    reach = (1 << max(bits, 9)) - 262
    ours, data = deflater(bits=bits), noise(reach - 50)
    ours.deflate(data)
    assert len(ours.deflate(data[:100])) < 100
    ours, data = deflater(bits=bits), noise(reach + 300)
    ours.deflate(data)
    assert len(ours.deflate(data[:100])) > 100


def strictly_inflated(data: bytes, bits: int) -> bytes:
    """Decompress byte by byte, so that zlib has nothing to refer to but its window."""
    decompressor = zlib.decompressobj(-bits)
    inflated = bytearray()
    for start in range(0, len(data), 64):
        rest = data[start : start + 64]
        while piece := decompressor.decompress(rest, 1):
            inflated += piece
            rest = decompressor.unconsumed_tail
    return bytes(inflated)


def test_byte_by_byte_zlib_refuses_what_refers_beyond_its_window() -> None:
    data = noise(400)
    assert strictly_inflated(deflated(data * 2, bits=10), 9) == data * 2
    with pytest.raises(zlib.error, match="too far back"):
        strictly_inflated(deflated(data * 2, bits=10), 8)


@BOTH_MODES
@pytest.mark.parametrize("seed", range(4))
def test_what_is_compressed_for_a_window_of_8_bits_needs_no_larger_one(seed: int, takeover: bool) -> None:
    ours = deflater(bits=8, takeover=takeover)
    messages = [varied(60_000, seed), *(varied(size, seed + size) for size in range(1, 1500, 50)), bytes(5000)]
    compressed = [ours.deflate(message) for message in messages]
    if takeover:
        assert strictly_inflated(TAIL.join([*compressed, b""]), 8) == b"".join(messages)
    else:
        assert [strictly_inflated(message + TAIL, 8) for message in compressed] == messages
    assert sum(map(len, compressed)) < 0.9 * sum(map(len, messages))  # it does refer back


@ALL_BITS
@BOTH_MODES
def test_what_is_compressed_for_any_window_needs_no_larger_one(takeover: bool, bits: int) -> None:
    ours = deflater(bits=bits, takeover=takeover)
    messages = [varied(size, size) for size in (600, 60_000, 100)]
    compressed = [ours.deflate(message) for message in messages]
    if takeover:
        assert strictly_inflated(TAIL.join([*compressed, b""]), bits) == b"".join(messages)
    else:
        assert [strictly_inflated(message + TAIL, bits) for message in compressed] == messages


@BOTH_MODES
def test_noise_grows_by_less_than_a_sixteenth(takeover: bool) -> None:
    # What a receiver with our own bounds accepts, even for a message of just its limit.
    for bits, size in itertools.product((8, 9, 12, 15), (1, 100, 5000, 300_000)):
        ours = deflater(bits=bits, takeover=takeover)
        assert len(ours.deflate(noise(size))) <= size + size // 16 + 1024


def test_any_buffer_is_compressed_and_left_as_it_was() -> None:
    data = varied(5000)
    mutable = bytearray(data)
    for given_payload in (data, mutable, memoryview(data), memoryview(mutable)):
        assert inflated(inflater(), deflater().deflate(given_payload)) == data
    assert mutable == data


class FailingCompressor:
    """A compressor that runs out of memory, before or after it has taken data in."""

    def __init__(self, compressor: zlib._Compress, at: str) -> None:
        self._compressor = compressor
        self._at = at

    def compress(self, data: Buffer) -> bytes:
        compressed = self._compressor.compress(data)
        if self._at == "compress":
            raise MemoryError
        return compressed

    def flush(self, mode: int) -> bytes:
        flushed = self._compressor.flush(mode)
        if self._at == "flush":
            raise MemoryError
        return flushed


@BOTH_MODES
@pytest.mark.parametrize("at", ["create", "compress", "flush"])
def test_a_compressor_that_fails_midway_leaves_a_stream_that_can_be_continued(
    at: str, takeover: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(1000)
    ours, theirs = deflater(takeover=takeover), inflater(takeover=takeover)
    create = zlib.compressobj

    def create_failing(level: int, method: int, wbits: int, memory_level: int) -> FailingCompressor:
        if at == "create":
            raise MemoryError
        return FailingCompressor(create(level, method, wbits, memory_level), at)

    monkeypatch.setattr(zlib, "compressobj", create_failing)
    with pytest.raises(MemoryError):
        ours.deflate(data)
    monkeypatch.undo()
    # What was not sent is not referred to; from then on there is a context again.
    assert [inflated(theirs, ours.deflate(data)) for _ in range(2)] == [data, data]


def test_a_compressor_with_a_context_that_fails_midway_is_not_used_again() -> None:
    ours, theirs = deflater(), inflater()
    before, lost, after = noise(1000, 1), noise(1000, 2), noise(1000, 3)
    assert inflated(theirs, ours.deflate(before)) == before
    assert ours._compressor is not None
    ours._compressor = FailingCompressor(ours._compressor, "flush")  # type: ignore[assignment]  # as good as one
    with pytest.raises(MemoryError):
        ours.deflate(lost)
    for message in (lost, before, after, lost):
        assert inflated(theirs, ours.deflate(message)) == message


# Decompressing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145, 524_288, 786_433])
@pytest.mark.parametrize("make", [bytes, noise, varied])
def test_a_message_of_any_size_comes_out_whole(make: Callable[[int], bytes], size: int) -> None:
    data = make(size)
    payload = deflated(data) if size else b"\x00"
    assert inflated(inflater(), payload) == data
    assert inflated(inflater(takeover=False), payload[:100], payload[100:]) == data


def test_a_message_of_16_mib_comes_out_whole() -> None:
    data = noise(MIB) + varied(MIB)
    assert inflated(inflater(), repeated(data, 8)) == data * 8


@pytest.mark.parametrize("takeover", [True, False])
def test_a_payload_that_is_missing_altogether_is_an_empty_message(takeover: bool) -> None:
    # A sender should write one byte, but not all know.
    peer, ours = inflater(takeover=takeover), deflater(takeover=takeover)
    for data in (noise(500), b"", b"", noise(500)):
        assert inflated(peer, ours.deflate(data)) == data
        assert inflated(peer, b"") == b""
        assert inflated(peer, b"", b"", b"") == b""


def test_empty_fragments_may_be_anywhere() -> None:
    ours, peer = deflater(), inflater()
    for _ in range(3):
        payload = ours.deflate(b"Hello, Hello")
        assert inflated(peer, b"", payload) == b"Hello, Hello"
        payload = ours.deflate(b"Hello, again")
        assert inflated(peer, payload[:3], b"", b"", payload[3:]) == b"Hello, again"
        payload = ours.deflate(b"Hello, last")
        assert inflated(peer, b"", payload, b"", b"") == b"Hello, last"


@BOTH_MODES
def test_fragments_may_be_cut_anywhere(takeover: bool) -> None:
    ours, peer = deflater(takeover=takeover), inflater(takeover=takeover)
    data = varied(300)
    for position in range(len(ours.deflate(data)) + 1):
        payload = deflater(takeover=takeover).deflate(data)
        assert inflated(peer, payload[:position], payload[position:]) == data
    payload = deflater(takeover=takeover).deflate(data)
    assert inflated(peer, *(payload[i : i + 1] for i in range(len(payload)))) == data


@pytest.mark.parametrize("size", [65_532, 65_533, 65_535, 65_536, 65_537, 131_073, 196_609])
def test_a_fragment_of_any_size_is_used_to_its_last_byte(size: int) -> None:
    data = noise(200_000)
    payload = deflated(data)
    assert inflated(inflater(), payload[:size], payload[size:]) == data
    assert inflated(inflater(), payload[:-size], payload[-size:]) == data


def test_a_fragment_gives_what_it_holds_before_the_next_comes() -> None:
    compressor = zlib.compressobj(wbits=-15)
    flushed = compressor.compress(b"Hello") + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert list(inflater().inflate(flushed, end=False)) == [b"Hello"]


def test_without_context_takeover_a_message_cannot_refer_to_those_before() -> None:
    ours, peer = deflater(), inflater(takeover=False)
    data = noise(1000)
    assert inflated(peer, ours.deflate(data)) == data
    assert verdict(peer, ours.deflate(data))[0] == 1007


def test_without_context_takeover_nothing_is_kept_between_messages() -> None:
    peer = inflater(takeover=False)
    inflated(peer, deflated(bytes(100_000)))
    assert peer._decompressor is None
    assert not peer._window


@ALL_BITS
def test_the_whole_window_may_be_referred_to(bits: int) -> None:
    window = varied((1 << bits) + 77)
    for distance in (1, 100, 1 << bits):
        peer = inflater(bits=bits)
        inflated(peer, deflated(window, bits=bits))
        start = len(window) - distance
        expected = (window[start:] * 3)[:3]
        assert inflated(peer, fixed_block(Reference(distance)).removesuffix(TAIL)) == expected


@pytest.mark.parametrize("bits", range(8, 15))
def test_what_lies_beyond_the_window_agreed_on_is_not_kept(bits: int) -> None:
    peer = inflater(bits=bits)
    inflated(peer, deflated(varied((1 << bits) + 77), bits=bits))
    assert verdict(peer, fixed_block(Reference((1 << bits) + 1)).removesuffix(TAIL))[0] == 1007


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"\xff\xff\xff", "invalid block type"),
        (b"\x07", "invalid block type"),
        (b"\x00\x00\x00\x00\x00\x00", "invalid stored block lengths"),
        (fixed_block(1, Reference(2)), "too far back"),
        (deflated(noise(70_000)) + TAIL + b"\x07", "invalid block type"),
        (deflated(bytes(300_000)) + TAIL + b"\x07", "invalid block type"),
    ],
)
def test_what_is_corrupt_is_1007(payload: bytes, told: str, takeover: bool) -> None:
    code, reason = verdict(inflater(takeover=takeover), payload)
    assert code == 1007
    assert reason.startswith("a compressed message cannot be inflated: ")
    assert told in reason
    assert verdict(inflater(takeover=takeover), *(payload[i : i + 1] for i in range(len(payload))))[0] == 1007


def test_a_verdict_does_not_drag_the_error_of_zlib_along() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        list(inflater().inflate(b"\x07", end=True))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


# The limit ------------------------------------------------------------------------------------------------------------

LIMITS = (1, 100, 65_536, 262_143, 262_144, 262_145, 524_288, MIB)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("make", [bytes, noise])
@BOTH_MODES
def test_a_message_of_the_limit_comes_out_and_one_byte_more_is_1009(
    takeover: bool, make: Callable[[int], bytes], limit: int
) -> None:
    data = make(limit)
    assert Limited(limit, takeover=takeover).message(deflated(data)) == data
    refusal = (1009, f"a message of more than {limit} bytes, inflated")
    assert Limited(limit, takeover=takeover).message(deflated(data + b"x")) == refusal


@pytest.mark.parametrize("limit", LIMITS)
def test_the_limit_counts_all_fragments(limit: int) -> None:
    data = varied(limit)
    refusal = (1009, f"a message of more than {limit} bytes, inflated")
    for payload, expected in ((deflated(data), data), (deflated(data + b"x"), refusal)):
        third = len(payload) // 3
        fragments = (payload[:third], b"", payload[third : 2 * third], payload[2 * third :], b"")
        assert Limited(limit).message(*fragments) == expected


def test_the_limit_starts_anew_with_each_message() -> None:
    peer, ours = Limited(100), deflater()
    for _ in range(3):
        assert peer.message(ours.deflate(bytes(100))) == bytes(100)
    assert peer.message(ours.deflate(bytes(101)))[0] == 1009


def test_the_limit_counts_across_final_blocks() -> None:
    payload = finished(bytes(60)) + finished(bytes(40))
    assert Limited(100).message(payload + b"\x00") == bytes(100)
    assert Limited(100).message(payload + deflated(b"x"))[0] == 1009


# Final blocks ---------------------------------------------------------------------------------------------------------


def test_the_samples_of_the_rfc_are_understood() -> None:
    # RFC 7692, section 7.2.3: one compressed block, one stored, one final, two blocks; context takeover.
    samples = ("f248cdc9c90700", "000500faff48656c6c6f00", "f348cdc9c9070000", "f24805000000ffffcac9c90700")
    for sample in samples:
        assert inflated(inflater(), bytes.fromhex(sample)) == b"Hello"
    peer = inflater()
    assert inflated(peer, bytes.fromhex("f248cdc9c90700")) == b"Hello"
    assert inflated(peer, bytes.fromhex("f200110000")) == b"Hello"


@BOTH_MODES
def test_messages_may_end_in_final_blocks(takeover: bool) -> None:
    peer = inflater(takeover=takeover)
    for data in (b"Hello", b"", varied(100_000), b"Hello"):
        assert inflated(peer, finished(data) + b"\x00") == data
        assert inflated(peer, deflated(data) if data else b"\x00") == data


@BOTH_MODES
def test_a_final_block_may_lack_the_empty_block_behind_it(takeover: bool) -> None:
    peer = inflater(takeover=takeover)
    for data in (b"Hello", b"", varied(100_000), noise(65_536), b"Hello"):
        assert inflated(peer, finished(data)) == data
        assert inflated(peer, finished(data), b"") == data
        assert inflated(peer, deflated(data) if data else b"\x00") == data


def test_empty_fragments_may_follow_a_final_block_that_lacks_the_empty_block_behind_it() -> None:
    peer = inflater()
    for data in (b"Hello", b"again"):
        assert inflated(peer, finished(data), b"", b"", b"") == data


@BOTH_MODES
def test_several_final_blocks_may_be_in_one_message(takeover: bool) -> None:
    peer = inflater(takeover=takeover)
    pieces = [b"Hello", b"", varied(100_000), b"", b"Hello", bytes(262_144), noise(70_000)]
    payload = b"".join(finished(piece) for piece in pieces)
    for _ in range(2):
        assert inflated(peer, payload + b"\x00") == b"".join(pieces)
        assert inflated(peer, payload + deflated(b"more")) == b"".join([*pieces, b"more"])


def test_a_final_block_may_be_cut_anywhere_and_end_with_a_fragment() -> None:
    first, second = varied(200, 1), varied(200, 2)
    payload = finished(first) + finished(second, first) + b"\x00"
    peer = inflater()
    for position in range(len(payload) + 1):
        assert inflated(peer, payload[:position], payload[position:]) == first + second
    assert inflated(peer, *(payload[i : i + 1] for i in range(len(payload)))) == first + second


@ALL_BITS
def test_behind_a_final_block_the_window_may_be_referred_to(bits: int) -> None:
    reach = 1 << bits
    data = noise(120) if bits == 8 else noise(reach // 2 - 100)
    peer = inflater(bits=bits)
    assert inflated(peer, finished(data, bits=bits) + b"\x00") == data
    again = finished(data, data, bits=bits)
    assert len(again) < len(data) / 2
    assert inflated(peer, again + b"\x00") == data
    # In the same message, and across one that is fragmented.
    assert inflated(peer, again + again, again, b"\x00") == data * 3


@ALL_BITS
def test_behind_a_final_block_the_window_is_as_large_as_agreed(bits: int) -> None:
    reach = 1 << bits
    for size in (reach, reach + 1, 2 * reach + 1, 100_000):
        window = noise(size)
        peer = inflater(bits=bits)
        inflated(peer, finished(window, bits=bits) + b"\x00")
        furthest = fixed_block(Reference(reach), final=True) + b"\x00"
        assert inflated(peer, furthest) == window[-reach:][:3]
        if reach < 32_768:
            # Not even once there would be as many bytes again.
            inflated(peer, deflated(noise(1000), bits=bits))
            assert verdict(peer, fixed_block(Reference(reach + 1)))[0] == 1007


def test_behind_a_final_block_nothing_but_the_window_may_be_referred_to() -> None:
    peer = inflater()
    assert inflated(peer, finished(b"abc") + fixed_block(Reference(3)).removesuffix(TAIL)) == b"abcabc"
    assert verdict(peer, finished(b"") + fixed_block(Reference(7)))[0] == 1007


def test_without_context_takeover_final_blocks_may_refer_back_within_their_message_only() -> None:
    peer = inflater(takeover=False)
    data = noise(1000)
    again = finished(data, data)
    assert inflated(peer, finished(data) + again, again + b"\x00") == data * 3
    assert verdict(peer, again + b"\x00")[0] == 1007
    peer = inflater(takeover=False)
    inflated(peer, finished(data) + b"\x00")
    assert verdict(peer, finished(b"x") + again)[0] == 1007


@ALL_BITS
def test_the_window_is_put_together_from_many_messages(bits: int) -> None:
    peer, ours = inflater(bits=bits), deflater(bits=bits)
    size = 1 << bits
    # The last makes it long enough to be cut.
    shares = (40, 3, 0, 20, 0, 1, 12)
    messages = [noise(share * size // 32 + number, number) for number, share in enumerate(shares)]
    for message in messages:
        assert inflated(peer, ours.deflate(message)) == message
    inflated(peer, finished(b"") + b"\x00")
    window = b"".join(messages)[-size:]
    for distance in (size, 1, size // 60, size // 3, size - 5):
        block = fixed_block(Reference(distance)).removesuffix(TAIL)
        expected = (window[-distance:] * 3)[:3]
        assert inflated(peer, block) == expected
        window = (window + expected)[-size:]


@ALL_BITS
def test_the_window_is_no_longer_than_needed(bits: int) -> None:
    peer, ours = inflater(bits=bits), deflater(bits=bits)
    payloads = [ours.deflate(varied(30_000, seed)) for seed in range(40)]
    payloads += [ours.deflate(varied(100, seed)) for seed in range(400)]
    tracemalloc.start()
    try:
        for payload in payloads:
            inflated(peer, payload)
            assert len(peer._window) <= 2 << bits
        # zlib's own window, and ours, which a bytearray may hold with room to spare.
        assert tracemalloc.get_traced_memory()[0] < 20 * KIB + (8 << bits)
    finally:
        tracemalloc.stop()


def test_a_message_may_have_1024_final_blocks_and_no_more() -> None:
    peer = inflater()
    final = finished(b"x")
    for _ in range(2):
        assert inflated(peer, final * 1024 + b"\x00") == b"x" * 1024
        assert inflated(peer, final * 1000, final * 24, b"\x00") == b"x" * 1024
    told = (1007, "a compressed message has more than 1024 final blocks")
    assert verdict(peer, final * 1025) == told
    assert verdict(inflater(), final * 1000, final * 24, final) == told
    assert verdict(inflater(takeover=False), final * 100_000) == told


# Work and memory ------------------------------------------------------------------------------------------------------


class Work:
    """What is asked of zlib's decompressors while one is inflating."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.largest = 0
        """The largest input of one call; zlib copies what is left of it."""
        self.handed = 0
        """The bytes of all inputs."""
        self.decompressors = 0
        create = zlib.decompressobj

        def create_counting(wbits: int, **more: Buffer) -> CountingDecompressor:
            self.decompressors += 1
            return CountingDecompressor(create(wbits, **more), self)

        monkeypatch.setattr(zlib, "decompressobj", create_counting)


class CountingDecompressor:
    def __init__(self, decompressor: zlib._Decompress, work: Work) -> None:
        self._decompressor = decompressor
        self._work = work

    def decompress(self, data: Buffer, max_length: int) -> bytes:
        size = len(memoryview(data))
        self._work.calls += 1
        self._work.handed += size
        self._work.largest = max(self._work.largest, size)
        assert 0 < max_length <= 256 * KIB
        return self._decompressor.decompress(data, max_length)

    @property
    def eof(self) -> bool:
        return self._decompressor.eof

    @property
    def unused_data(self) -> bytes:
        return self._decompressor.unused_data

    @property
    def unconsumed_tail(self) -> bytes:
        return self._decompressor.unconsumed_tail


def test_a_large_payload_is_handed_to_zlib_once(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = deflated(noise(8 * MIB), level=1)
    work = Work(monkeypatch)
    assert len(inflated(inflater(), payload)) == 8 * MIB
    assert work.handed <= 1.1 * len(payload)
    assert work.largest <= 64 * KIB + 4
    assert work.calls <= len(payload) // (64 * KIB) + 2


def test_the_work_on_a_payload_that_inflates_much_grows_with_what_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = repeated(bytes(MIB), 48)
    work = Work(monkeypatch)
    assert len(inflated(inflater(), payload)) == 48 * MIB
    # With the whole payload at once, zlib would copy what is left of it after each piece of output.
    assert work.calls <= 48 * MIB // (256 * KIB) + len(payload) // (64 * KIB) + 2
    assert work.largest <= 64 * KIB + 4
    assert work.decompressors == 1


def test_the_work_on_final_blocks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch)
    assert verdict(inflater(), finished(b"") * MIB)[0] == 1007
    assert work.calls <= 1026
    assert work.decompressors <= 1026
    assert work.largest <= 64 * KIB


def test_what_comes_out_is_put_together_in_place() -> None:
    payload = repeated(bytes(MIB), 16)
    peer = inflater()
    tracemalloc.start()
    try:
        assert sum(map(len, peer.inflate(payload, end=True))) == 16 * MIB
        # A copy for each piece would make it twice the size, and the work quadratic.
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB
    finally:
        tracemalloc.stop()


def test_inflating_stops_behind_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = repeated(bytes(MIB), 900)
    work = Work(monkeypatch)
    assert Limited(MIB).message(payload)[0] == 1009
    assert work.calls <= 6
    assert work.handed <= 6 * 64 * KIB


@BOTH_MODES
@pytest.mark.parametrize("pieces", [1, 7, 2000])
def test_a_bomb_costs_little_more_memory_than_the_limit(pieces: int, takeover: bool) -> None:
    bomb = repeated(bytes(MIB), 1024)
    assert MIB <= len(bomb) < 1.1 * MIB
    # The fragments' copies are made beforehand: here it is what comes out that counts.
    fragments = [
        bomb[start : start + len(bomb) // pieces + 1] for start in range(0, len(bomb), len(bomb) // pieces + 1)
    ]
    peer = Limited(MIB, takeover=takeover)
    tracemalloc.start()
    try:
        assert peer.message(*fragments)[0] == 1009
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


# Against others -------------------------------------------------------------------------------------------------------

WORDS = [b"price", b"symbol", bytes(3000), noise(200), varied(2000), noise(40_000, 1), b"\xff", b""]


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Draw a message that may well be similar to others."""
    return b"".join(draw(st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=40)), max_size=4)))


def cut(draw: st.DrawFn, payload: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    return [payload[start:end] for start, end in itertools.pairwise([0, *cuts, len(payload)])]


class Sent(NamedTuple):
    """What a server sends in one mode."""

    bits: int
    takeover: bool
    messages: list[bytes]
    fragments: list[list[bytes]]
    final_blocks: bool


@st.composite
def sent_by_zlib(draw: st.DrawFn, *, final_blocks: bool) -> Sent:
    """Draw messages compressed in blocks of all kinds, of any level and strategy, in any fragments."""
    bits = draw(st.integers(8, 15))
    takeover = draw(st.booleans())
    level = draw(st.sampled_from([0, 1, 6, 9]))
    strategy = draw(st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE]))
    flushes = [zlib.Z_NO_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH]
    if final_blocks:
        flushes.append(zlib.Z_FINISH)
    window = b""

    def new_compressor() -> zlib._Compress:
        # zlib can no more compress for 8 bits than ours can; with 9 its output fits.
        wbits = -max(bits, 9)
        if window:
            return zlib.compressobj(level, zlib.DEFLATED, wbits, 8, strategy, window)
        return zlib.compressobj(level, zlib.DEFLATED, wbits, 8, strategy)

    messages: list[bytes] = []
    fragments: list[list[bytes]] = []
    compressor = new_compressor()
    for _ in range(draw(st.integers(1, 5))):
        message = payload = b""
        for piece in draw(st.lists(payloads(), max_size=4)):
            flush = draw(st.sampled_from(flushes))
            payload += compressor.compress(piece) + compressor.flush(flush)
            message += piece
            window = (window + piece)[-32_768:]
            if flush == zlib.Z_FINISH:
                compressor = new_compressor()
        end = compressor.flush(zlib.Z_SYNC_FLUSH)
        # Nothing comes out if nothing has gone in since the last one.
        payload = (payload + end).removesuffix(TAIL) if end or payload.endswith(TAIL) else payload + b"\x00"
        messages.append(message)
        fragments.append(cut(draw, payload))
        if not takeover:
            window = b""
            compressor = new_compressor()
    return Sent(bits, takeover, messages, fragments, final_blocks)


def inflated_by_us(sent: Sent) -> list[bytes]:
    peer = inflater(bits=sent.bits, takeover=sent.takeover)
    return [inflated(peer, *fragments) for fragments in sent.fragments]


def inflated_by_websockets(sent: Sent) -> list[bytes]:
    peer = PerMessageDeflate(not sent.takeover, True, sent.bits, 15)
    messages: list[bytes] = []
    for fragments in sent.fragments:
        last = len(fragments) - 1
        message = b""
        for number, fragment in enumerate(fragments):
            opcode = WebsocketsOpcode.CONT if number else WebsocketsOpcode.BINARY
            message += peer.decode(WebsocketsFrame(opcode, fragment, number == last, rsv1=not number)).data
        messages.append(message)
    return messages


def inflated_by_wsproto(sent: Sent) -> list[bytes]:
    extension = WsprotoDeflate()
    takeover = "" if sent.takeover else "; server_no_context_takeover"
    extension.finalize(f"permessage-deflate; server_max_window_bits={sent.bits}{takeover}")
    peer = wsproto.connection.Connection(wsproto.ConnectionType.CLIENT, extensions=[extension])
    for fragments in sent.fragments:
        last = len(fragments) - 1
        for number, fragment in enumerate(fragments):
            first = number == 0
            peer.receive_data(
                frame(
                    BINARY if first else CONTINUATION,
                    fragment,
                    fin=number == last,
                    reserved=COMPRESSED if first else 0,
                )
            )
    messages = [b""]
    for event in peer.events():
        assert isinstance(event, wsproto.events.BytesMessage)
        messages[-1] += event.data
        if event.message_finished:
            messages.append(b"")
    return messages[:-1]


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(sent_by_zlib(final_blocks=False))
def test_blocks_of_any_kind_in_any_fragments_give_what_websockets_and_wsproto_find(sent: Sent) -> None:
    assert inflated_by_us(sent) == sent.messages
    assert inflated_by_websockets(sent) == sent.messages
    if sent.bits > 8:  # wsproto does not know of 8
        assert inflated_by_wsproto(sent) == sent.messages


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(sent_by_zlib(final_blocks=True))
def test_final_blocks_anywhere_in_any_fragments_give_what_was_sent(sent: Sent) -> None:
    # Neither websockets nor wsproto goes on behind a final block.
    assert inflated_by_us(sent) == sent.messages


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.one_of(st.binary(max_size=60), payloads().map(deflated)), max_size=4), st.booleans())
def test_any_bytes_are_inflated_or_refused(pieces: list[bytes], takeover: bool) -> None:
    peer = Limited(50_000, takeover=takeover)
    for piece in pieces:
        message = peer.message(piece)
        if isinstance(message, tuple):
            assert message[0] in (1007, 1009)
            break
        assert len(message) <= 50_000


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(st.lists(payloads(), max_size=6), st.integers(8, 15), st.booleans())
def test_websockets_and_wsproto_understand_what_is_compressed(messages: list[bytes], bits: int, takeover: bool) -> None:
    ours = deflater(bits=bits, takeover=takeover)
    sent = Sent(bits, takeover, messages, [[ours.deflate(message)] for message in messages], final_blocks=False)
    assert inflated_by_us(sent) == messages
    assert inflated_by_websockets(sent) == messages
    if bits > 8:
        assert inflated_by_wsproto(sent) == messages


def test_compressing_is_the_same_whatever_came_before_a_new_connection() -> None:
    def stream(messages: Iterable[bytes]) -> list[bytes]:
        ours = deflater()
        return [ours.deflate(message) for message in messages]

    messages: Sequence[bytes] = [varied(1000, seed) for seed in range(3)]
    assert stream(messages) == stream(messages)
