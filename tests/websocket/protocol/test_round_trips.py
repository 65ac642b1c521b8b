"""What one end encodes the other decodes: both ways, in any blocks, in fragments, compressed in every way."""

from __future__ import annotations

import itertools
import random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.websocket._server import BINARY, CLOSE, COMPRESSED, CONTINUATION, PING, PONG, TEXT, frame
from trio_csp_websocket.protocol.decoder import Decoder
from trio_csp_websocket.protocol.deflate import Deflater, Inflater
from trio_csp_websocket.protocol.encoder import Encoder, MaskingEncoder
from trio_csp_websocket.protocol.frames import Control
from trio_csp_websocket.protocol.messages import Message
from trio_csp_websocket.protocol.negotiation import DeflateParameters
from trio_csp_websocket.protocol.unmasking_decoder import UnmaskingDecoder

LIMIT = 1 << 20
KEY = b"\x3c\x00\x91\xff"
SIZES = (0, 1, 124, 125, 126, 127, 4095, 4096, 4097, 65_535, 65_536, 65_537)


class Way(NamedTuple):
    """From one end to the other."""

    encoder: type[Encoder]
    decoder: type[Decoder]

    @property
    def key(self) -> bytes | None:
        """A mask, where there has to be one."""
        return KEY if self.encoder is MaskingEncoder else None


EITHER_WAY = pytest.mark.parametrize(
    "way",
    [Way(MaskingEncoder, UnmaskingDecoder), Way(Encoder, Decoder)],
    ids=["client to server", "server to client"],
)
EVERY_DEFLATE = pytest.mark.parametrize("bits", range(8, 16))
EITHER_TAKEOVER = pytest.mark.parametrize("afresh", [False, True], ids=["takeover", "no context"])


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def decoded(
    way: Way, *blocks: bytes, deflate: DeflateParameters | None = None
) -> tuple[list[Message], list[Control], str | None]:
    decoder = way.decoder(LIMIT)
    if deflate is not None:
        decoder.inflater = Inflater(deflate)
    controls: list[Control] = []
    for block in blocks:
        controls += decoder.feed(block)
        while decoder.paused:
            controls += decoder.feed(b"")
    assert not decoder.missing
    return list(decoder.messages), controls, None if decoder.violation is None else decoder.violation.reason


def message(opcode: int, payload: bytes) -> Message:
    return Message("text", payload.decode()) if opcode == TEXT else Message("binary", payload)


# Frame by frame -------------------------------------------------------------------------------------------------------


@EITHER_WAY
@pytest.mark.parametrize("size", SIZES)
def test_messages_of_every_size_arrive(size: int, way: Way) -> None:
    encoder = way.encoder()
    stream = encoder.encode(TEXT, b"x" * size) + encoder.encode(BINARY, noise(size)) + encoder.encode(TEXT, b"end")
    expected = [Message("text", "x" * size), Message("binary", noise(size)), Message("text", "end")]
    assert decoded(way, stream) == (expected, [], None)


@EITHER_WAY
@pytest.mark.parametrize("size", [0, 1, 2, 125])
def test_control_frames_of_every_size_arrive(size: int, way: Way) -> None:
    encoder = way.encoder()
    close = b"" if size < 2 else b"\x03\xe8" + b"r" * (size - 2)
    frames = [(PING, noise(size)), (PONG, noise(size)), (CLOSE, close)]
    stream = b"".join(encoder.encode(opcode, payload) for opcode, payload in frames)
    assert decoded(way, stream) == ([], [Control(opcode, payload) for opcode, payload in frames], None)


@EITHER_WAY
def test_each_end_refuses_what_its_like_has_encoded(way: Way) -> None:
    other = Encoder if way.encoder is MaskingEncoder else MaskingEncoder
    expected = "a frame from the client is not masked" if other is Encoder else "a frame from the server is masked"
    for opcode in (TEXT, BINARY, PING, PONG, CLOSE):
        assert decoded(way, other().encode(opcode, b"")) == ([], [], expected)


# In blocks ------------------------------------------------------------------------------------------------------------

MIXED = (
    (TEXT, b"one"),
    (PING, b"ping"),
    (BINARY, b""),
    (TEXT, "\u20ac".encode() * 42),
    (BINARY, noise(4096)),
    (PONG, b"pong"),
    (BINARY, noise(4097)),
    (TEXT, b"y" * 500),
    (TEXT, b"y" * 500),
    (CLOSE, b"\x03\xe9bye"),
)
MESSAGES = [message(opcode, payload) for opcode, payload in MIXED if opcode in (TEXT, BINARY)]
CONTROLS = [Control(opcode, payload) for opcode, payload in MIXED if opcode >= CLOSE]


@EITHER_WAY
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_a_stream_cut_at_any_byte_gives_the_same(way: Way, compressed: bool) -> None:
    encoder = way.encoder()
    deflate = DeflateParameters() if compressed else None
    encoder.deflater = Deflater(deflate) if deflate else None
    encoder.compression_threshold_bytes = 100
    stream = b"".join(encoder.encode(opcode, payload) for opcode, payload in MIXED)
    expected = (MESSAGES, CONTROLS, None)
    for position in range(len(stream) + 1):
        assert decoded(way, stream[:position], stream[position:], deflate=deflate) == expected
    assert decoded(way, *(stream[i : i + 1] for i in range(len(stream))), deflate=deflate) == expected


@EITHER_WAY
def test_a_stream_in_random_blocks_gives_the_same(way: Way) -> None:
    encoder, choose = way.encoder(), random.Random(0)
    large = [*MIXED[:-1], (BINARY, noise(70_000)), (TEXT, b"z" * 65_536), MIXED[-1]]
    stream = b"".join(encoder.encode(opcode, payload) for opcode, payload in large)
    messages = [*MESSAGES, Message("binary", noise(70_000)), Message("text", "z" * 65_536)]
    for _ in range(10):
        largest, blocks, start = choose.choice([3, 100, 5000, 70_000]), list[bytes](), 0
        while start < len(stream):
            size = choose.randint(1, largest)
            blocks.append(stream[start : start + size])
            start += size
        assert decoded(way, *blocks) == (messages, CONTROLS, None)


# Compressed -----------------------------------------------------------------------------------------------------------


def parameters(bits: int, *, afresh: bool) -> tuple[DeflateParameters, DeflateParameters]:
    """Return how one end compresses, as it and as the other end says."""
    return (
        DeflateParameters(own_no_context_takeover=afresh, own_max_window_bits=bits),
        DeflateParameters(peer_no_context_takeover=afresh, peer_max_window_bits=bits),
    )


@EITHER_WAY
@EITHER_TAKEOVER
@EVERY_DEFLATE
def test_messages_compressed_in_every_way_arrive(bits: int, afresh: bool, way: Way) -> None:
    ours, theirs = parameters(bits, afresh=afresh)
    encoder = way.encoder()
    encoder.deflater = Deflater(ours)
    data = [noise(300) * 3, noise(70_000)[:40_000] * 2, b"", b"x", noise(300), noise(300)]
    stream = b"".join(encoder.encode(BINARY, payload) for payload in data)
    expected = [Message("binary", payload) for payload in data]
    assert decoded(way, stream, deflate=theirs) == (expected, [], None)
    blocks = [stream[start : start + 777] for start in range(0, len(stream), 777)]
    assert decoded(way, *blocks, deflate=theirs) == (expected, [], None)


@EITHER_WAY
@EITHER_TAKEOVER
@EVERY_DEFLATE
def test_compressed_messages_in_fragments_arrive(bits: int, afresh: bool, way: Way) -> None:
    ours, theirs = parameters(bits, afresh=afresh)
    deflater, encoder, choose = Deflater(ours), way.encoder(), random.Random(bits)
    data = [noise(300) * 3, noise(9000), b"", b"x", noise(300), noise(300)]
    stream, pings = b"", list[Control]()
    for number, payload in enumerate(data):
        rest, opcode, reserved = deflater.deflate(payload), BINARY, COMPRESSED
        while rest:
            size = choose.choice([0, 1, 50, 5000, len(rest)])
            fragment, rest = rest[:size], rest[size:]
            stream += frame(opcode, fragment, fin=not rest, reserved=reserved, mask=way.key)
            stream += encoder.encode(PING, bytes([number]))
            pings.append(Control(PING, bytes([number])))
            opcode, reserved = CONTINUATION, 0
    messages, controls, refused = decoded(way, stream, deflate=theirs)
    assert (messages, refused) == ([Message("binary", payload) for payload in data], None)
    assert controls == pings
    for size in (1, 777):
        blocks = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert decoded(way, *blocks, deflate=theirs) == (messages, controls, None)


# Anything -------------------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    opcode: int
    payload: bytes
    cuts: list[int]
    """Where a data message is cut into fragments; not at all without any, and the encoder frames it."""


payloads = st.one_of(
    st.binary(max_size=20),
    st.tuples(st.binary(min_size=1, max_size=5), st.sampled_from([25, 1000, 30_000])).map(
        lambda parts: parts[0] * parts[1]
    ),
    st.sampled_from([125, 126, 65_535, 65_536]).map(bytes),
)
pieces = st.one_of(
    st.tuples(st.just(TEXT), st.text(max_size=200).map(str.encode), st.lists(st.integers(0, 200), max_size=3)),
    st.tuples(st.just(BINARY), payloads, st.lists(st.integers(0, 70_000), max_size=3)),
    st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125), st.just([])),
).map(lambda parts: Piece(*parts))
deflates = st.one_of(st.none(), st.tuples(st.integers(8, 15), st.booleans()))


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@EITHER_WAY
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(pieces, max_size=8), deflates, st.lists(st.integers(0, 300_000), max_size=5))
def test_whatever_is_sent_arrives(
    way: Way, sent: list[Piece], agreed: tuple[int, bool] | None, cuts: list[int]
) -> None:
    encoder = way.encoder()
    theirs = None
    if agreed is not None:
        ours, theirs = parameters(agreed[0], afresh=agreed[1])
        encoder.deflater = Deflater(ours)
    stream = b""
    for opcode, payload, fragments in sent:
        if not fragments:
            stream += encoder.encode(opcode, payload)
            continue
        for number, fragment in enumerate(cut := in_pieces(payload, fragments)):
            last = number == len(cut) - 1
            stream += frame(CONTINUATION if number else opcode, fragment, fin=last, mask=way.key)
    messages, controls, refused = decoded(way, *in_pieces(stream, cuts), deflate=theirs)
    assert messages == [message(piece.opcode, piece.payload) for piece in sent if piece.opcode in (TEXT, BINARY)]
    assert controls == [Control(piece.opcode, piece.payload) for piece in sent if piece.opcode >= CLOSE]
    assert refused is None
