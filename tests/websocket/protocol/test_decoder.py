"""Parsing what a server sends; `tests.fuzz` compares it with wsproto's and websockets' parsers."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import pytest

from tests.websocket._server import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close,
    deflated,
    frame,
    text,
)
from trio_csp_websocket.protocol.decoder import Decoder
from trio_csp_websocket.protocol.deflate import Inflater
from trio_csp_websocket.protocol.frames import Control, ProtocolViolation
from trio_csp_websocket.protocol.messages import Message
from trio_csp_websocket.protocol.negotiation import DeflateParameters

LIMIT = 1 << 20
MIB = 1 << 20
TAIL = b"\x00\x00\xff\xff"


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


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xc0", b"\xf4\x90", "\u00e9".encode() + b"\xa9"])
@pytest.mark.parametrize("size", [1, 100, 5000, 70_000])
def test_a_fragment_that_is_not_utf_8_is_not_waited_out(size: int, bad: bytes) -> None:
    start = frame(TEXT, b"x" * size, fin=False)
    assert verdict(start + frame(CONTINUATION, bad, fin=False)) == 1007
    assert verdict(start + frame(CONTINUATION, bad + b"y" * size, fin=False)) == 1007
    # It is enough of a large fragment that has come.
    more = frame(CONTINUATION, bad + b"y" * 200_000, fin=False)
    assert verdict(start, more[:5000], more[5000:6000]) == 1007
    assert verdict(frame(BINARY, fin=False) + frame(CONTINUATION, bad, fin=False)) is None


@pytest.mark.parametrize("character", ["\u00e9", "\u20ac", "\U0001f600"])
def test_a_character_may_be_cut_by_every_fragment(character: str) -> None:
    letters = (character * 3).encode()
    first, *others = (letters[index : index + 1] for index in range(len(letters)))
    stream = frame(TEXT, first, fin=False) + b"".join(frame(CONTINUATION, other, fin=False) for other in others)
    assert decode(stream + frame(CONTINUATION))[0] == [Message("text", character * 3)]
    assert verdict(stream[:-3] + frame(CONTINUATION)) == 1007


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


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, 65535])
def test_a_close_frame_with_another_code_is_1002(code: int) -> None:
    assert verdict(close(code)) == 1002


def test_a_close_frame_may_have_no_code() -> None:
    assert decode(close())[1:] == ([Control(CLOSE, b"")], None)


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


# Compression ----------------------------------------------------------------------------------------------------------


def inflating(limit: int = LIMIT, *, takeover: bool = True, bits: int = 15) -> Decoder:
    decoder = Decoder(limit)
    decoder.inflater = Inflater(DeflateParameters(peer_no_context_takeover=not takeover, peer_max_window_bits=bits))
    return decoder


def fed(decoder: Decoder, *blocks: bytes) -> list[Control]:
    """Feed blocks to the end, whether the decoder pauses or not; return the control frames."""
    controls: list[Control] = []
    for block in blocks:
        controls += decoder.feed(block)
        while decoder.paused:
            assert decoder.violation is None
            controls += decoder.feed(b"")
    return controls


def inflate(*blocks: bytes, limit: int = LIMIT) -> tuple[list[Message], list[Control], int | None]:
    """Return messages, control frames and the code of the verdict, where compression was agreed on."""
    decoder = inflating(limit)
    controls = fed(decoder, *blocks)
    return list(decoder.messages), controls, None if decoder.violation is None else int(decoder.violation.code)


def refusal(*blocks: bytes, limit: int = LIMIT) -> tuple[int, str]:
    decoder = inflating(limit)
    fed(decoder, *blocks)
    assert decoder.violation is not None
    assert not decoder.feed(text("more"))
    assert not decoder.messages
    return int(decoder.violation.code), decoder.violation.reason


def compressed(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    """Return a message that is compressed, or its first fragment with all of its data."""
    payload = deflated(data) if data else b"\x00"
    return frame(opcode, payload if fin else payload + TAIL, fin=fin, reserved=COMPRESSED)


# Ends a message all of whose data has come; one could send it without any payload as well.
LAST = frame(CONTINUATION, b"\x00")


@pytest.mark.parametrize("size", [*SIZES, 300_000])
def test_a_compressed_message_of_any_size_is_a_message(size: int) -> None:
    assert inflate(compressed(TEXT, b"x" * size)) == ([Message("text", "x" * size)], [], None)
    data = bytes(index * index % 251 for index in range(size))
    stream = compressed(BINARY, data)
    assert inflate(stream) == ([Message("binary", data)], [], None)
    assert inflate(stream[: len(stream) // 2], stream[len(stream) // 2 :]) == ([Message("binary", data)], [], None)


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_the_payload_of_a_compressed_binary_message_is_bytes(size: int) -> None:
    data = bytes(size)
    stream = compressed(BINARY, data) + compressed(BINARY, data, fin=False) + LAST
    messages, _, _ = inflate(stream + frame(BINARY, reserved=COMPRESSED))
    assert [type(message.data) for message in messages] == [bytes] * 3


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [True, False])
def test_a_compressed_message_is_1002_unless_compression_was_agreed_on(opcode: int, fin: bool) -> None:
    stream = compressed(opcode, b"Hello", fin=fin)
    assert verdict(stream) == 1002
    assert verdict(stream[:2]) == 1002
    assert inflate(stream)[2] is None


@pytest.mark.parametrize("bits", [0x10, 0x20, 0x30, 0x50, 0x60, 0x70])
@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, 3, CLOSE, PING, PONG])
@pytest.mark.parametrize("fin", [True, False])
def test_the_other_reserved_bits_are_1002_whatever_was_agreed_on(fin: bool, opcode: int, bits: int) -> None:
    told = (1002, "a reserved bit is set")
    stream = frame(opcode, b"\x00", fin=fin, reserved=bits)
    assert refusal(stream) == told
    assert refusal(stream[:2]) == told
    assert refusal(compressed(TEXT, b"a", fin=False) + stream[:2]) == told


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, CLOSE, PING, PONG, 0xB, 0xF])
@pytest.mark.parametrize("before", [b"", compressed(TEXT, b"a", fin=False), frame(TEXT, b"a", fin=False)])
def test_only_data_can_be_compressed(before: bytes, opcode: int) -> None:
    told = (1002, "a reserved bit is set")
    assert refusal(before + frame(opcode, b"\x00", reserved=COMPRESSED)) == told
    assert refusal(before + frame(opcode, b"\x00", reserved=COMPRESSED)[:2]) == told


@pytest.mark.parametrize("before", [b"", compressed(TEXT, b"a", fin=False), frame(TEXT, b"a", fin=False)])
@pytest.mark.parametrize("fin", [True, False])
def test_only_the_first_frame_of_a_message_says_that_it_is_compressed(fin: bool, before: bytes) -> None:
    stream = before + frame(CONTINUATION, b"\x00", fin=fin, reserved=COMPRESSED)
    assert refusal(stream) == (1002, "a reserved bit is set")
    assert refusal(stream[: len(before) + 2]) == (1002, "a reserved bit is set")


@pytest.mark.parametrize("first", [compressed(TEXT, b"a", fin=False), frame(TEXT, b"a", fin=False)])
@pytest.mark.parametrize("second", [compressed(TEXT, b"b"), compressed(BINARY, b"b", fin=False), text("b")])
def test_a_message_inside_a_fragmented_one_is_1002_compressed_or_not(first: bytes, second: bytes) -> None:
    assert refusal(first + second) == (1002, "a new message inside a fragmented one")


def test_a_continuation_of_nothing_is_1002_behind_a_compressed_message() -> None:
    for whole in (compressed(TEXT, b"a"), compressed(TEXT, b"a", fin=False) + LAST):
        messages, _, code = inflate(whole + LAST)
        assert (messages, code) == ([Message("text", "a")], 1002)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frame_must_still_be_whole_and_short(opcode: int) -> None:
    assert refusal(frame(opcode, b"", fin=False))[0] == 1002
    assert refusal(frame(opcode, bytes(126))[:4])[0] == 1002


HELLO = deflated(b"Hello, Hello, Hello")


def test_a_compressed_message_may_be_fragmented_anywhere_with_control_frames_between() -> None:
    for first in range(len(HELLO) + 1):
        for second in range(first, len(HELLO) + 1):
            stream = (
                frame(TEXT, HELLO[:first], fin=False, reserved=COMPRESSED)
                + frame(PING, b"p")
                + frame(CONTINUATION, HELLO[first:second], fin=False)
                + frame(PONG, b"q")
                + frame(CONTINUATION, HELLO[second:])
            )
            found = inflate(stream + text("b"))
            assert found[0] == [Message("text", "Hello, Hello, Hello"), Message("text", "b")]
            assert found[1:] == ([Control(PING, b"p"), Control(PONG, b"q")], None)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_compressed_message_without_any_payload_is_empty(count: int) -> None:
    stream = frame(TEXT, fin=count == 1, reserved=COMPRESSED)
    for number in range(1, count):
        stream += frame(CONTINUATION, fin=number == count - 1)
    assert inflate(stream + compressed(BINARY, b"a"))[0] == [Message("text", ""), Message("binary", b"a")]


def test_messages_that_are_not_compressed_may_come_between() -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = b""
    expected: list[Message] = []
    for number in range(5):
        payload = (compressor.compress(b"the same again") + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)
        # Only the first could be understood without its context.
        assert (len(payload) < 8) == (number > 0)
        stream += frame(TEXT, payload, reserved=COMPRESSED) + text("a") + frame(TEXT, payload[:0], fin=False)
        stream += frame(CONTINUATION, b"b") + frame(BINARY, payload)
        expected += [
            Message("text", "the same again"),
            Message("text", "a"),
            Message("text", "b"),
            Message("binary", payload),
        ]
    assert inflate(stream) == (expected, [], None)


COMPRESSED_MIX = b"".join((
    compressed(TEXT, b"one"),
    frame(PING, b"ping"),
    text("plain"),
    frame(TEXT, HELLO[:5], fin=False, reserved=COMPRESSED),
    frame(PONG, b"pong"),
    frame(CONTINUATION, b"", fin=False),
    frame(CONTINUATION, HELLO[5:]),
    frame(BINARY, deflated(bytes(5000), level=0), reserved=COMPRESSED),
    frame(BINARY, b"", fin=False),
    frame(CONTINUATION, b"plain"),
    frame(BINARY, b"", reserved=COMPRESSED),
    close(3000, "bye"),
))  # fmt: skip


def test_a_compressed_stream_split_at_any_position_gives_the_same() -> None:
    whole = inflate(COMPRESSED_MIX)
    assert len(whole[0]) == 6
    for position in range(len(COMPRESSED_MIX) + 1):
        assert inflate(COMPRESSED_MIX[:position], COMPRESSED_MIX[position:]) == whole
    assert inflate(*(COMPRESSED_MIX[i : i + 1] for i in range(len(COMPRESSED_MIX)))) == whole


def test_compressed_messages_are_counted_with_what_came_out_of_them() -> None:
    decoder = inflating()
    decoder.feed(compressed(TEXT, b"x" * 1000) + compressed(BINARY, b"y" * 500, fin=False))
    assert (decoder.messages_received, decoder.payload_bytes_received) == (1, 1000)
    decoder.feed(frame(PING, b"xxx") + frame(CONTINUATION, b"\x00") + text("abc"))
    assert (decoder.messages_received, decoder.payload_bytes_received) == (3, 1503)
    decoder.feed(compressed(TEXT, b"\xff") + compressed(TEXT, b"a"))
    assert (decoder.messages_received, decoder.payload_bytes_received) == (3, 1503)


# Compression: violations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"\xff", b"\xed\xa0\x80", b"\xe2\x82", b"x" * 5000 + b"\xff", "\u00fc".encode("latin-1")]
)
def test_a_compressed_text_that_is_not_utf_8_is_1007(data: bytes) -> None:
    told = (1007, "a text message is not UTF-8")
    assert refusal(compressed(TEXT, data)) == told
    assert refusal(compressed(TEXT, data, fin=False) + LAST) == told
    assert inflate(compressed(BINARY, data))[0] == [Message("binary", data)]


def test_a_character_may_be_cut_by_a_compressed_fragment() -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = compressor.compress(b"\xe2\x82") + compressor.flush(zlib.Z_SYNC_FLUSH)
    second = compressor.compress(b"\xac") + compressor.flush(zlib.Z_SYNC_FLUSH)
    stream = frame(TEXT, first, fin=False, reserved=COMPRESSED) + frame(CONTINUATION, second.removesuffix(TAIL))
    assert inflate(stream)[0] == [Message("text", "\u20ac")]


def test_a_compressed_fragment_that_is_not_utf_8_is_not_waited_out() -> None:
    told = (1007, "a text message is not UTF-8")
    assert refusal(compressed(TEXT, b"a\xff", fin=False)) == told
    assert inflate(compressed(BINARY, b"a\xff", fin=False))[2] is None


@pytest.mark.parametrize("fragments", [1, 2])
def test_a_compressed_frame_is_inflated_as_it_arrives(fragments: int) -> None:
    # Else it would be held twice: as it came, and inflated.
    limit = 4 * MIB
    noise = random.Random(0).randbytes(limit)
    payload = deflated(noise + b"x")
    half = len(payload) // 2
    whole = frame(BINARY, payload, reserved=COMPRESSED)
    cut = frame(BINARY, payload[:half], fin=False, reserved=COMPRESSED) + frame(CONTINUATION, payload[half:])
    stream = whole if fragments == 1 else cut
    decoder = inflating(limit)
    blocks = [stream[start : start + 65536] for start in range(0, len(stream), 65536)]
    tracemalloc.start()
    try:
        fed(decoder, *blocks[:-1])
        assert decoder.violation is None
        fed(decoder, blocks[-1])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decoder.violation is not None
    assert decoder.violation.code == 1009
    assert limit < peak < limit + MIB


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_what_cannot_be_inflated_is_1007(opcode: int) -> None:
    code, reason = refusal(frame(opcode, b"\xff\xff", reserved=COMPRESSED))
    assert code == 1007
    assert reason.startswith("a compressed message cannot be inflated")
    # Where it breaks counts, not where the message ends.
    assert refusal(frame(opcode, b"\xff\xff", fin=False, reserved=COMPRESSED))[0] == 1007
    assert refusal(compressed(opcode, b"a", fin=False) + frame(CONTINUATION, b"\xff", fin=False))[0] == 1007


def test_messages_before_one_that_cannot_be_inflated_are_kept_and_nothing_after() -> None:
    decoder = inflating()
    stream = compressed(TEXT, b"a") + frame(PING, b"p") + frame(TEXT, b"\xff\xff", reserved=COMPRESSED) + text("b")
    assert decoder.feed(stream) == [Control(PING, b"p")]
    assert decoder.feed(text("c") + frame(PING)) == []
    assert list(decoder.messages) == [Message("text", "a")]


@pytest.mark.parametrize("limit", [1, 100, 5000, 70_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_the_limit_after_inflating_is_accepted_and_one_byte_more_is_1009(opcode: int, limit: int) -> None:
    told = (1009, f"a message of more than {limit} bytes, inflated")
    fits, too_large = b"x" * limit, b"x" * (limit + 1)
    assert len(inflate(compressed(opcode, fits), limit=limit)[0]) == 1
    assert len(inflate(compressed(opcode, fits, fin=False) + LAST, limit=limit)[0]) == 1
    assert refusal(compressed(opcode, too_large), limit=limit) == told
    assert refusal(compressed(opcode, too_large, fin=False), limit=limit) == told
    more = frame(CONTINUATION, deflated(b"y"))
    assert refusal(compressed(opcode, fits, fin=False) + more, limit=limit) == told


def test_the_limit_starts_anew_with_each_message_compressed_or_not() -> None:
    stream = compressed(BINARY, bytes(60), fin=False) + frame(CONTINUATION, deflated(bytes(40)))
    stream += compressed(BINARY, bytes(100)) + frame(BINARY, bytes(60), fin=False) + frame(CONTINUATION, bytes(40))
    assert len(inflate(stream * 2, limit=100)[0]) == 6


def test_what_cannot_be_compressed_may_take_more_bytes_than_the_limit() -> None:
    data = random.Random(0).randbytes(5000)
    assert len(deflated(data)) > 5000
    assert inflate(compressed(BINARY, data), limit=5000)[0] == [Message("binary", data)]


def padded(length: int) -> bytes:
    """Return an empty message in this many bytes, which must be a multiple of 5, and 1."""
    return (b"\x00" + TAIL) * (length // 5) + b"\x00"


@pytest.mark.parametrize(("limit", "bound"), [(1, 1025), (160, 1194), (16_000, 18_024), (LIMIT, LIMIT + 65_536 + 1024)])
def test_a_compressed_frame_is_refused_by_its_header_if_it_is_larger_than_any_message_can_get(
    limit: int, bound: int
) -> None:
    told = (1009, f"a compressed frame of {bound + 1} bytes, too large for a message of {limit}")
    width = 16 if bound + 1 < 1 << 16 else 64
    assert refusal(header(0xC2, bound + 1, width), limit=limit) == told
    assert refusal(header(0x41, bound + 1, width), limit=limit) == told
    assert (
        refusal(frame(TEXT, b"", fin=False, reserved=COMPRESSED) + header(0x80, bound + 1, width), limit=limit) == told
    )
    assert refusal(header(0xC2, 1 << 62, 64), limit=limit)[0] == 1009
    decoder = inflating(limit)
    decoder.feed(header(0xC2, bound, width))
    assert decoder.violation is None
    size = bound - (bound - 1) % 5
    assert inflate(frame(BINARY, padded(size), reserved=COMPRESSED), limit=limit)[0] == [Message("binary", b"")]


def test_a_compressed_messages_fragments_may_take_more_bytes_than_one_frame() -> None:
    payload = padded(1001)
    stream = frame(TEXT, payload[:-1], fin=False, reserved=COMPRESSED)
    stream += frame(CONTINUATION, payload[:-1], fin=False) * 10 + frame(CONTINUATION, payload)
    assert inflate(stream, limit=100)[0] == [Message("text", "")]


@pytest.mark.parametrize("before", [compressed(TEXT, b"a"), compressed(TEXT, b"a", fin=False) + LAST])
def test_behind_a_compressed_message_one_that_is_not_has_the_plain_limit(before: bytes) -> None:
    for too_large in (header(0x82, 101, 7), frame(BINARY, bytes(60), fin=False) + header(0x80, 41, 7)):
        messages, _, code = inflate(before + too_large, limit=100)
        assert (messages, code) == ([Message("text", "a")], 1009)


# Compression: pausing -------------------------------------------------------------------------------------------------

QUARTER = MIB // 4


def taken(decoder: Decoder) -> list[int]:
    """Take the messages; return their sizes."""
    sizes = [len(message.data) for message in decoder.messages]
    decoder.messages.clear()
    return sizes


def test_parsing_pauses_once_a_mebibyte_has_come_out() -> None:
    decoder = inflating()
    decoder.feed(compressed(BINARY, bytes(MIB - 1)))
    assert not decoder.paused
    decoder = inflating()
    decoder.feed(compressed(BINARY, bytes(MIB)))
    assert decoder.paused
    assert taken(decoder) == [MIB]
    assert decoder.feed(b"") == []
    assert not decoder.paused
    assert not decoder.messages


def test_parsing_goes_on_where_it_paused_once_the_messages_are_taken() -> None:
    decoder = inflating()
    decoder.feed(b"".join(compressed(BINARY, bytes(QUARTER + number)) for number in range(10)))
    for expected in ([0, 1, 2, 3], [4, 5, 6, 7]):
        assert decoder.paused
        assert taken(decoder) == [QUARTER + number for number in expected]
        assert decoder.feed(b"") == []
    assert not decoder.paused
    assert taken(decoder) == [QUARTER + 8, QUARTER + 9]
    assert decoder.feed(text("a")) == []
    assert taken(decoder) == [1]


def test_while_messages_are_waiting_parsing_pauses_behind_each_that_is_inflated() -> None:
    decoder = inflating()
    decoder.feed(compressed(BINARY, bytes(QUARTER)) * 7 + text("a") * 3)
    for count in (4, 5, 6, 7):
        assert decoder.paused
        assert len(decoder.messages) == count
        decoder.feed(b"")
    assert not decoder.paused
    assert len(decoder.messages) == 10


def test_what_waits_over_several_blocks_counts_together_until_it_is_taken() -> None:
    decoder = inflating()
    for count in (1, 2, 3):
        decoder.feed(compressed(BINARY, bytes(QUARTER)))
        assert (decoder.paused, len(decoder.messages)) == (False, count)
    decoder.feed(compressed(BINARY, bytes(QUARTER)) * 2)
    assert (decoder.paused, len(decoder.messages)) == (True, 4)
    # Once taken, it does not count any more.
    decoder = inflating()
    for _ in range(8):
        decoder.feed(compressed(BINARY, bytes(QUARTER)) * 3)
        assert not decoder.paused
        taken(decoder)


def test_messages_that_are_not_compressed_do_not_pause_parsing() -> None:
    decoder = inflating()
    decoder.feed(frame(BINARY, bytes(MIB)) * 3 + compressed(TEXT, b"a") + frame(BINARY, bytes(MIB)))
    assert not decoder.paused
    assert taken(decoder) == [MIB, MIB, MIB, 1, MIB]


def test_control_frames_come_out_in_order_as_far_as_parsing_goes() -> None:
    decoder = inflating()
    large = compressed(BINARY, bytes(MIB))
    stream = frame(PING, b"1") + large + frame(PING, b"2") + frame(PONG, b"3") + text("a") + large + frame(PING, b"4")
    assert decoder.feed(stream) == [Control(PING, b"1")]
    assert taken(decoder) == [MIB]
    assert decoder.feed(b"") == [Control(PING, b"2"), Control(PONG, b"3")]
    assert taken(decoder) == [1, MIB]
    assert decoder.feed(b"") == [Control(PING, b"4")]
    assert not decoder.paused


@pytest.mark.parametrize("size", [5, 4000, 5000, 70_000])
def test_an_incomplete_frame_behind_a_pause_is_completed_afterwards(size: int) -> None:
    incomplete = frame(BINARY, b"x" * size)
    for known in (1, 3, size // 2):
        decoder = inflating()
        decoder.feed(compressed(BINARY, bytes(MIB)) + incomplete[:known])
        assert decoder.paused
        assert decoder.missing == 0
        taken(decoder)
        decoder.feed(b"")
        assert (decoder.paused, taken(decoder)) == (False, [])
        decoder.feed(incomplete[known:] + text("a"))
        assert taken(decoder) == [size, 1]


def test_a_frame_that_was_collected_may_pause_parsing_too() -> None:
    large = frame(BINARY, deflated(bytes(MIB + 100_000), level=0), reserved=COMPRESSED)
    decoder = inflating(2 * MIB)
    decoder.feed(large[:50_000])
    assert decoder.missing
    decoder.feed(large[50_000:] + text("a") + frame(PING, b"p") + text("b")[:1])
    assert decoder.paused
    assert taken(decoder) == [MIB + 100_000]
    assert decoder.feed(b"") == [Control(PING, b"p")]
    decoder.feed(text("b")[1:])
    assert taken(decoder) == [1, 1]


def test_parsing_pauses_between_fragments_as_well() -> None:
    decoder = inflating(4 * MIB)
    more = frame(CONTINUATION, deflated(bytes(MIB)) + TAIL, fin=False)
    decoder.feed(compressed(BINARY, bytes(MIB), fin=False) + more + frame(PING, b"p") + more + LAST + text("a"))
    assert (decoder.paused, taken(decoder)) == (True, [])
    assert decoder.feed(b"") == []
    assert (decoder.paused, taken(decoder)) == (True, [])
    assert decoder.feed(b"") == [Control(PING, b"p")]
    assert (decoder.paused, taken(decoder)) == (True, [])
    assert decoder.feed(b"") == []
    assert (decoder.paused, taken(decoder)) == (False, [3 * MIB, 1])


def test_a_close_behind_a_pause_is_found_when_parsing_goes_on() -> None:
    decoder = inflating()
    assert decoder.feed(compressed(BINARY, bytes(MIB)) + text("a") + close(1001) + text("b")) == []
    assert taken(decoder) == [MIB]
    assert decoder.feed(b"") == [Control(CLOSE, b"\x03\xe9")]
    assert not decoder.paused
    assert taken(decoder) == [1]
    assert decoder.feed(b"") == []
    assert not decoder.messages


def test_a_violation_behind_a_pause_is_found_when_parsing_goes_on() -> None:
    decoder = inflating()
    decoder.feed(compressed(BINARY, bytes(MIB)) + text("a") + frame(3))
    assert decoder.violation is None
    taken(decoder)
    decoder.feed(b"")
    assert decoder.violation is not None
    assert not decoder.paused
    assert taken(decoder) == [1]


def test_a_verdict_on_the_message_that_would_pause_parsing_leaves_nothing_to_go_on_with() -> None:
    decoder = inflating()
    decoder.feed(compressed(TEXT, b"\xff" * MIB) + text("a"))
    assert decoder.violation is not None
    assert not decoder.paused


def test_a_block_that_comes_while_parsing_is_paused_is_put_behind() -> None:
    decoder = inflating()
    decoder.feed(compressed(BINARY, bytes(MIB)) + text("ab")[:2])
    decoder.feed(text("ab")[2:] + text("c"))
    assert taken(decoder) == [MIB, 2, 1]


def test_parsing_pauses_behind_many_small_messages_too() -> None:
    decoder = inflating()
    decoder.feed(b"".join(compressed(BINARY, bytes(100_000 + number)) for number in range(25)))
    for count in (11, 11):
        assert decoder.paused
        assert len(taken(decoder)) == count
        assert decoder.feed(b"") == []
    assert not decoder.paused
    assert taken(decoder) == [100_022, 100_023, 100_024]
