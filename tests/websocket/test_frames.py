"""The frame codec, alone and against wsproto's and websockets'."""

from __future__ import annotations

import array
import itertools
import struct
from typing import TYPE_CHECKING

import pytest
import wsproto.connection
import wsproto.events
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame as WebsocketsFrame
from websockets.frames import Opcode as WebsocketsOpcode
from websockets.protocol import Protocol, Side, State

from tests.websocket._server import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame, take_frame, text
from trio_csp_websocket._decoder import Decoder
from trio_csp_websocket._encoder import Encoder, _mask
from trio_csp_websocket._frames import (
    Control,
    Message,
    ProtocolViolation,
    close_payload,
    encode_from_server,
    parse_close,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT = 1 << 20


def decode(*blocks: bytes, limit: int = LIMIT) -> tuple[list[Message], list[Control], ProtocolViolation | None]:
    decoder = Decoder(limit)
    controls = [control for block in blocks for control in decoder.feed(block)]
    return list(decoder.messages), controls, decoder.violation


def verdict(*blocks: bytes, limit: int = LIMIT) -> int | None:
    violation = decode(*blocks, limit=limit)[2]
    return None if violation is None else int(violation.code)


def header(first: int, length: int, width: int) -> bytes:
    """Return a frame's header with its length in 7, 16 or 64 bits, the shortest form or not."""
    if width == 7:
        return bytes([first, length])
    return bytes([first, 126 if width == 16 else 127]) + length.to_bytes(width // 8, "big")


# Messages -------------------------------------------------------------------------------------------------------------

SIZES = (0, 1, 125, 126, 127, 4095, 4096, 4097, 65535, 65536, 70000)


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_each_length_form_is_a_message(size: int) -> None:
    assert decode(frame(TEXT, b"x" * size)) == ([Message("text", "x" * size)], [], None)
    assert decode(frame(BINARY, b"\xff" * size)) == ([Message("binary", b"\xff" * size)], [], None)


@pytest.mark.parametrize("size", SIZES)
def test_the_payload_of_a_binary_message_is_bytes(size: int) -> None:
    whole, _, _ = decode(frame(BINARY, bytes(size)))
    pieces, _, _ = decode(frame(BINARY, bytes(size), fin=False), frame(CONTINUATION))
    assert type(whole[0].data) is bytes
    assert type(pieces[0].data) is bytes


def test_fragments_make_one_message() -> None:
    stream = frame(TEXT, b"Hel", fin=False) + frame(CONTINUATION, b"", fin=False) + frame(CONTINUATION, b"lo")
    assert decode(stream) == ([Message("text", "Hello")], [], None)


def test_a_character_may_be_cut_by_a_fragment() -> None:
    stream = frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"\xac")
    assert decode(stream)[0] == [Message("text", "\u20ac")]


def test_control_frames_may_come_between_fragments() -> None:
    stream = frame(BINARY, b"a", fin=False) + frame(PING, b"p") + frame(PONG, b"q") + frame(CONTINUATION, b"b")
    assert decode(stream) == ([Message("binary", b"ab")], [Control(PING, b"p"), Control(PONG, b"q")], None)


def test_control_frames_come_in_order_and_may_be_empty_or_full() -> None:
    stream = frame(PING) + frame(PING, b"x" * 125) + frame(PONG, b"y")
    assert decode(stream)[1] == [Control(PING, b""), Control(PING, b"x" * 125), Control(PONG, b"y")]


def test_a_new_message_may_follow_a_fragmented_one() -> None:
    stream = frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b") + text("c") + frame(BINARY, b"d")
    assert decode(stream)[0] == [Message("text", "ab"), Message("text", "c"), Message("binary", b"d")]


def test_nothing_after_a_close_frame_is_looked_at() -> None:
    decoder = Decoder(LIMIT)
    assert decoder.feed(text("a") + close(1000, "bye") + b"\xff\xff\xff") == [Control(CLOSE, b"\x03\xe8bye")]
    assert decoder.feed(text("b")) == []
    assert list(decoder.messages) == [Message("text", "a")]
    assert decoder.violation is None


def test_nothing_after_a_violation_is_looked_at() -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(text("a") + frame(PING, b"p") + frame(3) + text("b"))
    first = decoder.violation
    assert decoder.feed(text("c") + frame(0xB)) == []
    assert decoder.violation is first
    assert list(decoder.messages) == [Message("text", "a")]


def test_control_frames_before_a_violation_are_returned() -> None:
    assert decode(frame(PING, b"p") + frame(3))[1] == [Control(PING, b"p")]


def test_messages_and_their_bytes_are_counted() -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(text("abc") + frame(BINARY, b"de", fin=False) + frame(PING, b"xxx") + frame(CONTINUATION, b"f"))
    decoder.feed(frame(BINARY, bytes(5000))[:5000])
    assert (decoder.messages_received, decoder.payload_bytes_received) == (2, 6)
    decoder.feed(frame(BINARY, bytes(5000))[5000:])
    assert (decoder.messages_received, decoder.payload_bytes_received) == (3, 5006)


def test_an_empty_block_changes_nothing() -> None:
    assert decode(b"", text("a")[:1], b"", text("a")[1:], b"") == ([Message("text", "a")], [], None)


# Splitting ------------------------------------------------------------------------------------------------------------

MIXED = b"".join((
    text("one"),
    frame(BINARY, b"x" * 126),
    frame(PING, b"ping"),
    frame(TEXT, b"\xe2\x82", fin=False),
    frame(PONG, b"pong"),
    frame(CONTINUATION, b"\xac"),
    frame(BINARY, b"y" * 5000),
    frame(BINARY, b""),
    close(3000, "bye"),
))  # fmt: skip


def test_a_stream_split_at_any_position_gives_the_same() -> None:
    whole = decode(MIXED)
    assert len(whole[0]) == 5
    for position in range(len(MIXED) + 1):
        assert decode(MIXED[:position], MIXED[position:]) == whole


def test_a_stream_byte_by_byte_gives_the_same() -> None:
    assert decode(*(MIXED[i : i + 1] for i in range(len(MIXED)))) == decode(MIXED)


@pytest.mark.parametrize("size", [4096, 4097])
def test_the_missing_bytes_of_a_large_frame_are_known(size: int) -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(frame(BINARY, bytes(size))[:1000])
    assert decoder.missing == (0 if size == 4096 else size - 996)
    decoder.feed(frame(BINARY, bytes(size))[1000:])
    assert decoder.missing == 0
    assert len(decoder.messages) == 1


def test_a_frame_after_a_collected_one_is_parsed_from_the_same_block() -> None:
    large = frame(BINARY, bytes(5000))
    assert decode(large[:100], large[100:] + text("a") + text("b")[:1], text("b")[1:])[0][1:] == [
        Message("text", "a"),
        Message("text", "b"),
    ]


def test_large_fragments_are_collected_too() -> None:
    stream = frame(TEXT, b"x" * 5000, fin=False) + frame(CONTINUATION, b"y" * 5000)
    assert decode(stream[:2000], stream[2000:6000], stream[6000:])[0] == [Message("text", "x" * 5000 + "y" * 5000)]


# Violations -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", [0x40, 0x20, 0x10])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
def test_a_reserved_bit_is_1002(opcode: int, bit: int) -> None:
    assert verdict(frame(opcode, b"", reserved=bit)) == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF])
def test_an_unknown_opcode_is_1002(opcode: int) -> None:
    assert verdict(frame(opcode, b"")) == 1002
    assert verdict(frame(opcode, b"", fin=False)) == 1002


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65536])
@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
def test_a_masked_frame_is_1002(opcode: int, size: int) -> None:
    assert verdict(frame(opcode, bytes(size), mask=b"abcd")) == 1002


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_fragmented_control_frame_is_1002(opcode: int) -> None:
    assert verdict(frame(opcode, b"", fin=False)) == 1002


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frame_of_126_bytes_is_1002_by_its_header_alone(opcode: int) -> None:
    assert verdict(frame(opcode, bytes(126))[:4]) == 1002


@pytest.mark.parametrize("fin", [True, False])
def test_a_continuation_of_nothing_is_1002(fin: bool) -> None:
    assert verdict(frame(CONTINUATION, b"", fin=fin)) == 1002
    assert (
        verdict(frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b") + frame(CONTINUATION, b"c", fin=fin)) == 1002
    )


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_new_message_inside_a_fragmented_one_is_1002(opcode: int, fin: bool) -> None:
    assert verdict(frame(TEXT, b"a", fin=False) + frame(opcode, b"b", fin=fin)) == 1002


@pytest.mark.parametrize(("length", "width"), [(0, 16), (125, 16), (0, 64), (125, 64), (126, 64), (65535, 64)])
def test_a_length_not_in_its_shortest_form_is_1002(length: int, width: int) -> None:
    assert verdict(header(0x82, length, width)) == 1002


def test_a_length_with_its_highest_bit_set_is_1002() -> None:
    assert verdict(header(0x82, 1 << 63, 64)) == 1002


@pytest.mark.parametrize("stream", [frame(TEXT, b"\xff"), frame(TEXT, b"\xed\xa0\x80"), frame(TEXT, b"\xe2\x82")])
def test_a_text_message_that_is_not_utf_8_is_1007(stream: bytes) -> None:
    assert verdict(stream) == 1007


def test_a_fragmented_text_message_that_is_not_utf_8_is_1007() -> None:
    assert verdict(frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"x")) == 1007


def test_a_large_text_message_that_is_not_utf_8_is_1007() -> None:
    stream = frame(TEXT, b"\xff" * 5000)
    assert verdict(stream[:1000], stream[1000:]) == 1007


def test_messages_before_a_violation_are_kept() -> None:
    messages, _, violation = decode(text("a") + frame(TEXT, b"\xff"))
    assert messages == [Message("text", "a")]
    assert violation is not None
    assert violation.reason == "a text message is not UTF-8"


def test_a_message_that_is_refused_is_not_counted() -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(frame(TEXT, b"\xff"))
    assert (decoder.messages_received, decoder.payload_bytes_received) == (0, 0)


# Close frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_close_frame_may_have_a_sendable_code(code: int) -> None:
    assert decode(close(code))[1:] == ([Control(CLOSE, code.to_bytes(2, "big"))], None)
    assert parse_close(code.to_bytes(2, "big") + "gr\u00fcn".encode()) == (code, "gr\u00fcn")


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, 65535])
def test_a_close_frame_with_another_code_is_1002(code: int) -> None:
    assert verdict(close(code)) == 1002


def test_a_close_frame_without_a_code_is_1005() -> None:
    assert decode(close())[1:] == ([Control(CLOSE, b"")], None)
    assert parse_close(b"") == (1005, "")


def test_a_close_frame_with_half_a_code_is_1002() -> None:
    assert verdict(frame(CLOSE, b"\x03")) == 1002


def test_a_close_reason_that_is_not_utf_8_is_1007() -> None:
    assert verdict(frame(CLOSE, b"\x03\xe8\xff")) == 1007


def test_a_close_reason_may_have_123_bytes() -> None:
    assert decode(close(1000, "x" * 123))[1] == [Control(CLOSE, b"\x03\xe8" + b"x" * 123)]


# The limit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 125, 126, 5000, 65536])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_the_limit_is_accepted_and_one_byte_more_refused(opcode: int, limit: int) -> None:
    assert len(decode(frame(opcode, b"x" * limit), limit=limit)[0]) == 1
    assert verdict(frame(opcode, b"x" * (limit + 1)), limit=limit) == 1009


@pytest.mark.parametrize("length", [101, 5000, 70000, 1 << 62])
def test_a_frame_too_large_is_refused_by_its_header_alone(length: int) -> None:
    width = 7 if length < 126 else 16 if length < 1 << 16 else 64
    assert verdict(header(0x82, length, width), limit=100) == 1009


def test_the_limit_counts_bytes_not_characters() -> None:
    assert verdict(text("\u20ac" * 33), limit=99) is None
    assert verdict(text("\u20ac" * 34), limit=99) == 1009


def test_the_limit_counts_all_fragments_and_refuses_by_the_header_of_the_last() -> None:
    stream = frame(BINARY, b"x" * 60, fin=False) + frame(CONTINUATION, b"", fin=False)
    assert len(decode(stream + frame(CONTINUATION, b"x" * 40), limit=100)[0]) == 1
    assert verdict(stream + header(0x80, 41, 7), limit=100) == 1009
    assert verdict(stream + header(0x80, 1 << 62, 64), limit=100) == 1009


def test_the_limit_starts_anew_with_each_message() -> None:
    stream = frame(BINARY, b"x" * 60, fin=False) + frame(CONTINUATION, b"x" * 40)
    assert len(decode(stream + stream + frame(BINARY, b"x" * 100), limit=100)[0]) == 3


def test_control_frames_do_not_count_towards_the_limit() -> None:
    stream = frame(BINARY, b"x", fin=False) + frame(PING, b"y" * 125) + frame(CONTINUATION, b"x")
    assert decode(stream, limit=2)[0] == [Message("binary", b"xx")]


def test_the_text_of_the_verdict_names_size_and_limit() -> None:
    violation = decode(header(0x82, 101, 7), limit=100)[2]
    assert violation is not None
    assert violation.reason == "a message of at least 101 bytes, more than 100"


# Against others' parsers ----------------------------------------------------------------------------------------------


@st.composite
def valid_streams(draw: st.DrawFn) -> tuple[bytes, list[Message], list[tuple[int, bytes]]]:
    """Draw a valid stream, with the messages and control frames in it."""
    stream = b""
    messages: list[Message] = []
    controls: list[tuple[int, bytes]] = []

    def maybe_control() -> bytes:
        if not draw(st.booleans()):
            return b""
        control = draw(st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)))
        controls.append(control)
        return frame(*control)

    for _ in range(draw(st.integers(0, 4))):
        is_text = draw(st.booleans())
        data = (
            draw(st.text(max_size=80)) if is_text else draw(st.binary(max_size=200)) * draw(st.sampled_from([1, 400]))
        )
        payload = data.encode() if isinstance(data, str) else data
        messages.append(Message("text" if isinstance(data, str) else "binary", data))
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        edges = [0, *cuts, len(payload)]
        for number, (start, end) in enumerate(itertools.pairwise(edges)):
            opcode = CONTINUATION if number else TEXT if is_text else BINARY
            stream += maybe_control() + frame(opcode, payload[start:end], fin=number == len(cuts))
    return stream + maybe_control(), messages, controls


def split(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def decode_with_wsproto(blocks: Sequence[bytes]) -> tuple[list[Message], list[tuple[int, bytes]]]:
    peer = wsproto.connection.Connection(wsproto.ConnectionType.CLIENT)
    messages: list[Message] = []
    controls: list[tuple[int, bytes]] = []
    parts: list[bytes] = []
    for block in blocks:
        peer.receive_data(block)
        for event in peer.events():
            if isinstance(event, wsproto.events.TextMessage | wsproto.events.BytesMessage):
                is_text = isinstance(event, wsproto.events.TextMessage)
                parts.append(event.data.encode() if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    data = b"".join(parts)
                    parts.clear()
                    messages.append(Message("text", data.decode()) if is_text else Message("binary", data))
            else:
                assert isinstance(event, wsproto.events.Ping | wsproto.events.Pong)
                is_ping = isinstance(event, wsproto.events.Ping)
                controls.append((PING if is_ping else PONG, bytes(event.payload)))
    return messages, controls


def decode_with_websockets(blocks: Sequence[bytes]) -> tuple[list[Message], list[tuple[int, bytes]]]:
    peer = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
    messages: list[Message] = []
    controls: list[tuple[int, bytes]] = []
    parts: list[bytes] = []
    is_text = False
    for block in blocks:
        peer.receive_data(block)
        for event in peer.events_received():
            assert isinstance(event, WebsocketsFrame)
            if event.opcode in (WebsocketsOpcode.PING, WebsocketsOpcode.PONG):
                controls.append((int(event.opcode), bytes(event.data)))
                continue
            if event.opcode is not WebsocketsOpcode.CONT:
                is_text = event.opcode is WebsocketsOpcode.TEXT
            parts.append(bytes(event.data))
            if event.fin:
                data = b"".join(parts)
                parts.clear()
                messages.append(Message("text", data.decode()) if is_text else Message("binary", data))
    return messages, controls


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(valid_streams(), st.lists(st.integers(0, 100_000), max_size=6))
def test_any_valid_stream_in_any_blocks_gives_what_wsproto_and_websockets_find(
    drawn: tuple[bytes, list[Message], list[tuple[int, bytes]]], cuts: list[int]
) -> None:
    stream, messages, controls = drawn
    blocks = split(stream, cuts)
    found, found_controls, violation = decode(*blocks, limit=1 << 24)
    assert violation is None
    assert found == messages
    assert found_controls == controls
    assert decode_with_wsproto(blocks) == (messages, controls)
    assert decode_with_websockets(blocks) == (messages, controls)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.builds(frame, st.integers(0, 15), st.binary(max_size=20)))))
def test_any_bytes_are_parsed_without_an_exception_and_the_same_in_any_blocks(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    whole_messages, whole_controls, whole_verdict = decode(stream, limit=50)
    messages, controls, found = decode(*(stream[i : i + 1] for i in range(len(stream))), limit=50)
    assert (messages, controls) == (whole_messages, whole_controls)
    assert (found and found.code) == (whole_verdict and whole_verdict.code)


# Encoding -------------------------------------------------------------------------------------------------------------


def naively_masked(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


def test_masking_is_right_for_every_size() -> None:
    payload = bytes(range(256)) * 20
    key = b"\x01\x80\xff\x7e"
    expected = naively_masked(payload, key)
    for size in range(5001):
        assert _mask(payload[:size], key) == expected[:size]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 1024, 1025, 65535, 65536, 65537])
def test_any_buffer_is_encoded_and_left_as_it_was(size: int) -> None:
    payload = bytes(index % 251 for index in range(size))
    encoder = Encoder()
    mutable = bytearray(payload)
    for given_payload in (payload, mutable, memoryview(payload), memoryview(mutable)):
        encoded = encoder.encode(BINARY, given_payload)
        taken = take_frame(encoded)
        assert taken is not None
        assert taken == ((BINARY, payload, True), len(encoded))
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


def test_a_close_frame_is_encoded_with_its_code_and_reason() -> None:
    assert close_payload(1002, "bad") == struct.pack("!H", 1002) + b"bad"


def test_a_reason_too_long_is_cut_at_a_characters_end() -> None:
    assert close_payload(1002, "x" * 200)[2:] == b"x" * 123
    assert close_payload(1002, "x" * 122 + "\u20ac")[2:] == b"x" * 122
    assert close_payload(1002, "\u20ac" * 41)[2:].decode() == "\u20ac" * 41


@pytest.mark.parametrize("size", [0, 1, 125])
def test_a_servers_control_frame_decodes_to_itself(size: int) -> None:
    assert decode(encode_from_server(PING, bytes(size)))[1] == [Control(PING, bytes(size))]
