"""Building the client's frames, alone and against wsproto as a server."""

from __future__ import annotations

import array
import random
import zlib

import pytest
import wsproto.connection
import wsproto.events
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.websocket._server import BINARY, CLOSE, PING, PONG, TEXT, Frame, take_frame
from trio_csp_websocket.protocol.deflate import Deflater
from trio_csp_websocket.protocol.encoder import Encoder
from trio_csp_websocket.protocol.negotiation import DeflateParameters


def naively_masked(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


def test_masking_is_right_for_every_size() -> None:
    payload = bytes(range(256)) * 20
    encoder = Encoder()
    for size in range(5001):
        frame = encoder.encode(BINARY, payload[:size])
        head = len(frame) - size
        assert frame[head:] == naively_masked(payload[:size], frame[head - 4 : head])


@pytest.mark.parametrize("size", [0, 1, 125, 126, 1024, 1025, 65535, 65536, 65537])
def test_any_buffer_is_encoded_and_left_as_it_was(size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    encoder = Encoder()
    mutable = bytearray(payload)
    for given_payload in (payload, mutable, memoryview(payload), memoryview(mutable)):
        encoded = encoder.encode(BINARY, given_payload)
        taken = take_frame(encoded)
        assert taken is not None
        assert taken == (Frame(BINARY, payload), len(encoded))
    assert mutable == payload


def test_an_encoded_frame_is_independent_of_a_buffer_changed_later() -> None:
    for size in (10, 5000):
        mutable = bytearray(size)
        encoded = Encoder().encode(BINARY, mutable)
        mutable[:] = b"x" * size
        taken = take_frame(encoded)
        assert taken is not None
        assert taken[0].payload == bytes(size)


def test_a_part_of_a_larger_buffer_is_encoded_alone() -> None:
    values = memoryview(array.array("B", range(20)))[5:10]
    taken = take_frame(Encoder().encode(BINARY, values))
    assert taken is not None
    assert taken[0].payload == bytes(range(5, 10))


def test_every_frame_has_a_mask_of_its_own() -> None:
    encoder = Encoder()
    masks = [encoder.encode(BINARY, b"")[2:6] for _ in range(1000)]
    assert len(set(masks)) > 990


def test_two_encoders_do_not_share_their_masks() -> None:
    first, second = Encoder(), Encoder()
    assert [first.encode(TEXT, b"") for _ in range(4)] != [second.encode(TEXT, b"") for _ in range(4)]


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just(TEXT), st.text(max_size=300).map(str.encode)),
            st.tuples(st.just(BINARY), st.binary(max_size=300).map(lambda data: data * 300)),
            st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)),
        ),
        max_size=6,
    )
)
def test_wsproto_as_a_server_understands_what_is_encoded(sent: list[tuple[int, bytes]]) -> None:
    encoder = Encoder()
    server = wsproto.connection.Connection(wsproto.ConnectionType.SERVER)
    server.receive_data(b"".join(encoder.encode(opcode, payload) for opcode, payload in sent))
    received: list[tuple[int, bytes]] = []
    for event in server.events():
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


def compressing(threshold: int = 0, *, takeover: bool = True) -> Encoder:
    encoder = Encoder()
    encoder.deflater = Deflater(DeflateParameters(client_no_context_takeover=not takeover))
    encoder.compression_threshold_bytes = threshold
    return encoder


def encoded(encoder: Encoder, opcode: int, payload: bytes | memoryview) -> Frame:
    data = encoder.encode(opcode, payload)
    taken = take_frame(data)
    assert taken is not None
    assert taken[1] == len(data)
    return taken[0]


def inflated(frames: list[Frame]) -> list[bytes]:
    """Return what a server understands, which has one decompressor for all."""
    decompressor = zlib.decompressobj(-15)
    return [
        decompressor.decompress(frame.payload + b"\x00\x00\xff\xff") if frame.compressed else frame.payload
        for frame in frames
    ]


def test_messages_are_compressed_from_the_threshold_on() -> None:
    encoder = compressing(100)
    for opcode in (TEXT, BINARY):
        below, above = encoded(encoder, opcode, b"x" * 99), encoded(encoder, opcode, memoryview(b"x" * 100))
        assert below == Frame(opcode, b"x" * 99)
        assert (above.opcode, above.fin, above.compressed) == (opcode, True, True)
        assert len(above.payload) < 20


def test_with_a_threshold_of_0_an_empty_message_is_compressed() -> None:
    assert encoded(compressing(), TEXT, b"") == Frame(TEXT, b"\x00", compressed=True)
    assert encoded(compressing(1), TEXT, b"") == Frame(TEXT, b"")


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_control_frames_are_never_compressed(opcode: int) -> None:
    assert encoded(compressing(), opcode, b"x" * 125) == Frame(opcode, b"x" * 125)
    assert encoded(compressing(), opcode, b"") == Frame(opcode, b"")


def test_a_server_understands_all_sizes_one_after_the_other_compressed_or_not() -> None:
    payloads = [bytes(index * index % 251 for index in range(size)) for size in (0, 1, 500, 99, 500, 70_000, 70_000)]
    encoder = compressing(100)
    frames = [encoded(encoder, BINARY, payload) for payload in payloads]
    assert [frame.compressed for frame in frames] == [False, False, True, False, True, True, True]
    assert inflated(frames) == payloads
    assert len(frames[4].payload) < 20  # it refers to the one before, across what is not compressed


def test_what_cannot_be_compressed_is_framed_with_its_compressed_length() -> None:
    payload = noise(65_535)
    frame = encoded(compressing(), BINARY, payload)
    assert len(frame.payload) > 65_535
    assert inflated([frame]) == [payload]


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
