"""Building frames, plain and masked, alone and against wsproto at the other end."""

from __future__ import annotations

import array
import random
import zlib

import pytest
import wsproto.connection
import wsproto.events
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.websocket._server import BINARY, CLOSE, PING, PONG, TEXT, Frame, frame, take_frame
from trio_csp_websocket.protocol.deflate import Deflater
from trio_csp_websocket.protocol.encoder import Encoder, MaskingEncoder
from trio_csp_websocket.protocol.negotiation import DeflateParameters

EITHER = pytest.mark.parametrize("make", [Encoder, MaskingEncoder])


def taken(make: type[Encoder], data: bytes) -> Frame:
    """Return the frame that this is, whole and alone."""
    found = take_frame(data, masked=make is MaskingEncoder)
    assert found is not None
    assert found[1] == len(data)
    return found[0]


def naively_masked(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_a_plain_frame_is_its_head_and_the_payload_as_it_is(size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    encoder = Encoder()
    for opcode in (TEXT, BINARY):
        assert encoder.encode(opcode, payload) == frame(opcode, payload)
    assert (encoder.messages_sent, encoder.payload_bytes_sent) == (2, 2 * size)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@EITHER
def test_control_frames_are_no_messages(opcode: int, make: type[Encoder]) -> None:
    encoder = make()
    assert encoded(encoder, opcode, b"x" * 125) == Frame(opcode, b"x" * 125)
    assert (encoder.messages_sent, encoder.payload_bytes_sent) == (0, 0)


def test_masking_is_right_for_every_size() -> None:
    payload = bytes(range(256)) * 20
    encoder = MaskingEncoder()
    for size in (*range(1300), *range(1300, 5001, 37)):
        encoded = encoder.encode(BINARY, payload[:size])
        head = len(encoded) - size
        assert encoded[head:] == naively_masked(payload[:size], encoded[head - 4 : head])


@EITHER
@pytest.mark.parametrize("size", [0, 1, 125, 126, 1024, 1025, 65535, 65536, 65537])
def test_any_buffer_is_encoded_and_left_as_it_was(size: int, make: type[Encoder]) -> None:
    payload = bytes(index % 251 for index in range(size))
    encoder = make()
    mutable = bytearray(payload)
    for given_payload in (payload, mutable, memoryview(payload), memoryview(mutable)):
        encoded = encoder.encode(BINARY, given_payload)
        assert type(encoded) is bytes
        assert taken(make, encoded) == Frame(BINARY, payload)
    assert mutable == payload


@EITHER
def test_an_encoded_frame_is_independent_of_a_buffer_changed_later(make: type[Encoder]) -> None:
    for size in (10, 5000):
        mutable = bytearray(size)
        encoded = make().encode(BINARY, mutable)
        mutable[:] = b"x" * size
        assert taken(make, encoded).payload == bytes(size)


@EITHER
def test_a_part_of_a_larger_buffer_is_encoded_alone(make: type[Encoder]) -> None:
    values = memoryview(array.array("B", range(20)))[5:10]
    assert taken(make, make().encode(BINARY, values)).payload == bytes(range(5, 10))


def test_every_frame_has_a_mask_of_its_own() -> None:
    encoder = MaskingEncoder()
    masks = [encoder.encode(BINARY, b"")[2:6] for _ in range(1000)]
    assert len(set(masks)) > 990


def test_two_encoders_do_not_share_their_masks() -> None:
    first, second = MaskingEncoder(), MaskingEncoder()
    assert [first.encode(TEXT, b"") for _ in range(4)] != [second.encode(TEXT, b"") for _ in range(4)]


@EITHER
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    sent=st.lists(
        st.one_of(
            st.tuples(st.just(TEXT), st.text(max_size=300).map(str.encode)),
            st.tuples(st.just(BINARY), st.binary(max_size=300).map(lambda data: data * 300)),
            st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)),
        ),
        max_size=6,
    )
)
def test_wsproto_at_the_other_end_understands_what_is_encoded(
    make: type[Encoder], sent: list[tuple[int, bytes]]
) -> None:
    encoder = make()
    is_client = make is MaskingEncoder
    other = wsproto.connection.Connection(wsproto.ConnectionType.SERVER if is_client else wsproto.ConnectionType.CLIENT)
    other.receive_data(b"".join(encoder.encode(opcode, payload) for opcode, payload in sent))
    received: list[tuple[int, bytes]] = []
    for event in other.events():
        match event:
            case wsproto.events.TextMessage(data=data):
                received.append((TEXT, data.encode()))
            case wsproto.events.BytesMessage(data=data):
                received.append((BINARY, bytes(data)))
            case wsproto.events.Ping(payload=payload):
                received.append((PING, bytes(payload)))
            case _:
                assert isinstance(event, wsproto.events.Pong)
                received.append((PONG, bytes(event.payload)))
    assert received == sent


# Compression ----------------------------------------------------------------------------------------------------------


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def compressing(threshold: int = 0, *, takeover: bool = True, make: type[Encoder] = MaskingEncoder) -> Encoder:
    encoder = make()
    encoder.deflater = Deflater(DeflateParameters(own_no_context_takeover=not takeover))
    encoder.compression_threshold_bytes = threshold
    return encoder


def encoded(encoder: Encoder, opcode: int, payload: bytes | memoryview) -> Frame:
    return taken(type(encoder), encoder.encode(opcode, payload))


def inflated(frames: list[Frame]) -> list[bytes]:
    """Return what the other end understands, which has one decompressor for all."""
    decompressor = zlib.decompressobj(-15)
    return [
        decompressor.decompress(frame.payload + b"\x00\x00\xff\xff") if frame.compressed else frame.payload
        for frame in frames
    ]


@EITHER
def test_messages_are_compressed_from_the_threshold_on(make: type[Encoder]) -> None:
    encoder = compressing(100, make=make)
    for opcode in (TEXT, BINARY):
        below, above = encoded(encoder, opcode, b"x" * 99), encoded(encoder, opcode, memoryview(b"x" * 100))
        assert below == Frame(opcode, b"x" * 99)
        assert (above.opcode, above.fin, above.compressed) == (opcode, True, True)
        assert len(above.payload) < 20


def test_with_a_threshold_of_0_an_empty_message_is_compressed() -> None:
    assert encoded(compressing(), TEXT, b"") == Frame(TEXT, b"\x00", compressed=True)
    assert encoded(compressing(1), TEXT, b"") == Frame(TEXT, b"")


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@EITHER
def test_control_frames_are_never_compressed(opcode: int, make: type[Encoder]) -> None:
    assert encoded(compressing(make=make), opcode, b"x" * 125) == Frame(opcode, b"x" * 125)
    assert encoded(compressing(make=make), opcode, b"") == Frame(opcode, b"")


@EITHER
def test_the_other_end_understands_all_sizes_one_after_the_other_compressed_or_not(make: type[Encoder]) -> None:
    payloads = [bytes(index * index % 251 for index in range(size)) for size in (0, 1, 500, 99, 500, 70_000, 70_000)]
    encoder = compressing(100, make=make)
    frames = [encoded(encoder, BINARY, payload) for payload in payloads]
    assert [frame.compressed for frame in frames] == [False, False, True, False, True, True, True]
    assert inflated(frames) == payloads
    assert len(frames[4].payload) < 20  # it refers to the one before, across what is not compressed


def test_what_cannot_be_compressed_is_framed_with_its_compressed_length() -> None:
    payload = noise(65_535)
    incompressible = encoded(compressing(), BINARY, payload)
    assert len(incompressible.payload) > 65_535
    assert inflated([incompressible]) == [payload]


def test_a_message_that_could_not_be_framed_is_not_referred_to(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = compressing()
    first, lost = noise(1000), noise(1000, 1)
    frames = [encoded(encoder, BINARY, first)]

    def run_out_of_memory(*_: object) -> bytes:
        raise MemoryError

    # Masking takes more memory than compressing does.
    with monkeypatch.context() as patch:
        patch.setattr("trio_csp_websocket.protocol.encoder.apply_mask", run_out_of_memory)
        with pytest.raises(MemoryError):
            encoder.encode(BINARY, lost)
    frames += [encoded(encoder, BINARY, payload) for payload in (lost, first)]
    assert inflated(frames) == [first, lost, first]


@pytest.mark.parametrize("size", [0, 1, 125])
def test_a_servers_control_frame_is_short_and_not_masked(size: int) -> None:
    assert Encoder().encode(PING, bytes(size)) == frame(PING, bytes(size))
