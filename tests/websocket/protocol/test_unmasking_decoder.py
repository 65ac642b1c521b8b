"""Parsing what a client sends: what a mask changes. Everything else is as without masks, and compared with it."""

from __future__ import annotations

import itertools
import random
import tracemalloc

import pytest

from tests.websocket._server import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    deflated,
    frame,
)
from trio_csp_websocket.protocol.decoder import Decoder
from trio_csp_websocket.protocol.deflate import Inflater
from trio_csp_websocket.protocol.frames import Control, ProtocolViolation
from trio_csp_websocket.protocol.messages import Message
from trio_csp_websocket.protocol.negotiation import DeflateParameters
from trio_csp_websocket.protocol.unmasking_decoder import UnmaskingDecoder

LIMIT = 1 << 20
KEY = b"\x01\xf2\x30\x84"
SIZES = (0, 1, 2, 3, 4, 5, 125, 126, 127, 4095, 4096, 4097, 65_535, 65_536, 70_001)
NOT_MASKED = (1002, "a frame from the client is not masked")


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, key: bytes = KEY) -> bytes:
    return frame(opcode, payload, fin=fin, reserved=reserved, mask=key)


def header(first: int, length: int, width: int, *, key: bytes = KEY) -> bytes:
    """Return a masked frame's header with its length in 7, 16 or 64 bits, the shortest form or not."""
    if width == 7:
        return bytes([first, 0x80 | length]) + key
    return bytes([first, 0x80 | (126 if width == 16 else 127)]) + length.to_bytes(width // 8, "big") + key


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def told(violation: ProtocolViolation | None) -> tuple[int, str] | None:
    return None if violation is None else (int(violation.code), violation.reason)


def decoder_of(limit: int, *, inflates: bool, make: type[Decoder] = UnmaskingDecoder) -> Decoder:
    decoder = make(limit)
    if inflates:
        decoder.inflater = Inflater(DeflateParameters())
    return decoder


def decode(
    *blocks: bytes, limit: int = LIMIT, inflates: bool = False, make: type[Decoder] = UnmaskingDecoder
) -> tuple[list[Message], list[Control], tuple[int, str] | None]:
    decoder = decoder_of(limit, inflates=inflates, make=make)
    controls: list[Control] = []
    for block in blocks:
        controls += decoder.feed(block)
        while decoder.paused:
            controls += decoder.feed(b"")
    return list(decoder.messages), controls, told(decoder.violation)


# Unmasking ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, bytes(4), b"\xff" * 4, b"\x00\x00\x00\x01"])
@pytest.mark.parametrize("size", SIZES)
def test_a_masked_frame_of_each_length_form_is_a_message(size: int, key: bytes) -> None:
    assert decode(masked(TEXT, b"x" * size, key=key)) == ([Message("text", "x" * size)], [], None)
    messages, _, _ = decode(masked(BINARY, noise(size), key=key))
    assert messages == [Message("binary", noise(size))]
    assert type(messages[0].data) is bytes


@pytest.mark.parametrize("opcode", [PING, PONG])
@pytest.mark.parametrize("size", [0, 1, 125])
def test_pings_and_pongs_are_unmasked(opcode: int, size: int) -> None:
    assert decode(masked(opcode, noise(size))) == ([], [Control(opcode, noise(size))], None)


def test_a_close_is_unmasked_before_it_is_checked() -> None:
    payload = b"\x03\xe8bye"
    assert decode(masked(CLOSE, payload))[1:] == ([Control(CLOSE, payload)], None)
    assert decode(masked(CLOSE, b"\x03\xed"))[1:] == ([], (1002, "a close frame has the invalid code 1005"))
    # As it stands in the stream, it would be a good one.
    assert decode(masked(CLOSE, b"\xff\xff", key=b"\xfc\x17\x00\x00"))[2] is not None


def test_each_frame_is_unmasked_with_its_own_key() -> None:
    keys = [bytes([number, number + 1, number + 2, 255 - number]) for number in range(50)]
    stream = b"".join(masked(TEXT, b"the same", key=key) for key in keys)
    assert decode(stream)[0] == [Message("text", "the same")] * 50
    fragments = b"".join(masked(CONTINUATION if key != keys[0] else TEXT, b"abc", fin=False, key=key) for key in keys)
    assert decode(fragments + masked(CONTINUATION))[0] == [Message("text", "abc" * 50)]


@pytest.mark.parametrize("size", [4097, 4098, 4099, 5000])
def test_a_large_frame_is_unmasked_in_pieces_of_any_sizes(size: int) -> None:
    stream = masked(BINARY, noise(size)) + masked(TEXT, b"next")
    expected = [Message("binary", noise(size)), Message("text", "next")]
    for pieces in ((1, 1, 1), (1, 2), (2, 1, 2), (3,), (5, 7, 11), (4, 4), (1000, 1), (1, 1000, 2)):
        sizes = itertools.chain([8], itertools.cycle(pieces))
        blocks: list[bytes] = []
        rest = stream
        while rest:
            taken = next(sizes)
            blocks.append(rest[:taken])
            rest = rest[taken:]
        assert decode(*blocks) == (expected, [], None)


def test_a_large_frame_may_be_cut_anywhere_in_its_header() -> None:
    for size in (5000, 70_000):
        stream = masked(BINARY, noise(size))
        for position in range(20):
            assert decode(stream[:position], stream[position:])[0] == [Message("binary", noise(size))]


@pytest.mark.parametrize("size", [4096, 4097])
def test_the_missing_bytes_of_a_large_frame_are_known(size: int) -> None:
    decoder = UnmaskingDecoder(LIMIT)
    decoder.feed(masked(BINARY, bytes(size))[:1000])
    assert decoder.missing == (0 if size == 4096 else size - 992)
    decoder.feed(masked(BINARY, bytes(size))[1000:])
    assert decoder.missing == 0
    assert len(decoder.messages) == 1


def test_messages_and_their_bytes_are_counted() -> None:
    decoder = UnmaskingDecoder(LIMIT)
    decoder.feed(masked(TEXT, b"abc") + masked(BINARY, b"de", fin=False) + masked(PING, b"xxx"))
    decoder.feed(masked(CONTINUATION, b"f") + masked(TEXT, b"\xff") + masked(TEXT, b"a"))
    assert (decoder.messages_received, decoder.payload_bytes_received) == (2, 6)


def test_compressed_messages_are_counted_with_what_came_out_of_them() -> None:
    decoder = decoder_of(LIMIT, inflates=True)
    large = deflated(b"x" * 1000)
    decoder.feed(masked(TEXT, large, reserved=COMPRESSED) + masked(BINARY, large, fin=False, reserved=COMPRESSED))
    assert (decoder.messages_received, decoder.payload_bytes_received) == (1, 1000)
    decoder.feed(masked(CONTINUATION) + masked(TEXT, b"abc"))
    assert (decoder.messages_received, decoder.payload_bytes_received) == (3, 2003)


# Frames without a mask ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_536])
@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG])
def test_a_frame_that_is_not_masked_is_refused_by_its_first_two_bytes(opcode: int, size: int) -> None:
    unmasked = frame(opcode, bytes(size))
    assert decode(unmasked) == ([], [], NOT_MASKED)
    assert decode(unmasked[:2]) == ([], [], NOT_MASKED)
    assert decode(*(unmasked[i : i + 1] for i in range(2))) == ([], [], NOT_MASKED)


def test_what_comes_before_a_frame_that_is_not_masked_counts_and_nothing_after() -> None:
    decoder = UnmaskingDecoder(LIMIT)
    assert decoder.feed(masked(TEXT, b"a") + masked(PING, b"p") + frame(TEXT, b"b") + masked(TEXT, b"c")) == [
        Control(PING, b"p")
    ]
    assert decoder.feed(masked(TEXT, b"d") + masked(PING)) == []
    assert list(decoder.messages) == [Message("text", "a")]


def test_a_fragment_that_is_not_masked_is_refused() -> None:
    assert decode(masked(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b"))[2] == NOT_MASKED


# Refused by the header ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "width"), [(0, 16), (125, 16), (0, 64), (125, 64), (126, 64), (65_535, 64)])
def test_a_length_not_in_its_shortest_form_is_1002(length: int, width: int) -> None:
    assert decode(header(0x82, length, width))[2] == (
        1002,
        f"a frame's length of {length} is not in its shortest form",
    )


@pytest.mark.parametrize(("length", "width"), [(0, 16), (125, 16), (125, 64), (126, 64), (65_535, 64)])
def test_a_length_not_in_its_shortest_form_is_1002_with_all_of_the_payload_too(length: int, width: int) -> None:
    messages, _, violation = decode(header(0x82, length, width) + bytes(length))
    assert messages == []
    assert violation is not None
    assert violation[0] == 1002


@pytest.mark.parametrize("length", [101, 5000, 70_000, 1 << 62])
def test_a_frame_too_large_is_refused_by_its_header_and_nothing_is_allocated(length: int) -> None:
    width = 7 if length < 126 else 16 if length < 1 << 16 else 64
    assert decode(header(0x82, length, width), limit=100)[2] == (
        1009,
        f"a message of at least {length} bytes, more than 100",
    )


def test_a_header_that_announces_much_allocates_nothing() -> None:
    decoder = UnmaskingDecoder(16 * LIMIT)
    announcing = header(0x82, 16 * LIMIT, 64)
    tracemalloc.start()
    try:
        decoder.feed(announcing)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decoder.violation is None
    assert decoder.missing == 16 * LIMIT
    assert peak < 8192


@pytest.mark.parametrize("limit", [1, 125, 126, 5000, 65_536])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_the_limit_is_accepted_and_one_byte_more_refused(opcode: int, limit: int) -> None:
    assert len(decode(masked(opcode, b"x" * limit), limit=limit)[0]) == 1
    assert decode(masked(opcode, b"x" * (limit + 1)), limit=limit)[2] is not None


# As without masks -----------------------------------------------------------------------------------------------------

HELLO = deflated(b"Hello")
MIXED = (
    (TEXT, b"one", True, 0),
    (BINARY, b"x" * 126, True, 0),
    (PING, b"ping", True, 0),
    (TEXT, b"\xe2\x82", False, 0),
    (PONG, b"pong", True, 0),
    (CONTINUATION, b"", False, 0),
    (CONTINUATION, b"\xac", True, 0),
    (TEXT, HELLO, True, COMPRESSED),
    (BINARY, HELLO[:3], False, COMPRESSED),
    (CONTINUATION, HELLO[3:], True, 0),
    (BINARY, noise(5000), True, 0),
    (BINARY, deflated(noise(5000), level=0), True, COMPRESSED),
    (BINARY, b"", True, 0),
)
# What may come then: an end, or what is refused.
ENDS = {
    "nothing": (),
    "a close": ((CLOSE, b"\x0b\xb8bye", True, 0),),
    "a reserved bit": ((TEXT, b"x", True, 0x20),),
    "an unknown opcode": ((3, b"x", True, 0),),
    "a fragmented ping": ((PING, b"x", False, 0),),
    "a long ping": ((PING, b"x" * 126, True, 0),),
    "a continuation": ((CONTINUATION, b"x", True, 0),),
    "a message in a message": ((TEXT, b"x", False, 0), (BINARY, b"y", True, 0)),
    "no UTF-8": ((TEXT, b"\xff", True, 0),),
    "no UTF-8, compressed": ((TEXT, deflated(b"\xff"), True, COMPRESSED),),
    "corrupt": ((BINARY, b"\xff\xff", True, COMPRESSED),),
    "no UTF-8 in a large fragment": ((TEXT, b"x" * 5000 + b"\xff" + b"x" * 5000, False, 0),),
    "half a code": ((CLOSE, b"\x03", True, 0),),
    "a code that none sends": ((CLOSE, b"\x03\xed", True, 0),),
    "too large": ((BINARY, bytes(20_001), True, 0),),
    "too large in fragments": ((BINARY, bytes(15_000), False, 0), (CONTINUATION, bytes(5001), True, 0)),
    "too large inflated": ((BINARY, deflated(bytes(20_001)), True, COMPRESSED),),
}


@pytest.mark.parametrize("end", ENDS)
def test_with_masks_everything_is_as_without_wherever_it_is_cut(end: str) -> None:
    frames = [*MIXED, *ENDS[end], (TEXT, b"more", True, 0)]
    plain = b"".join(frame(opcode, data, fin=fin, reserved=bits) for opcode, data, fin, bits in frames)
    stream = b"".join(masked(opcode, data, fin=fin, reserved=bits) for opcode, data, fin, bits in frames)
    expected = decode(plain, limit=20_000, inflates=True, make=Decoder)
    assert len(expected[0]) == 8 + (end == "nothing")
    assert (expected[2] is None) == (end in ("nothing", "a close"))
    start = len(stream) - 200
    for position in (*range(400), *range(start, start + 200)):
        assert decode(stream[:position], stream[position:], limit=20_000, inflates=True) == expected
    assert decode(*(stream[i : i + 1] for i in range(len(stream))), limit=20_000, inflates=True) == expected


def test_parsing_pauses_and_goes_on_as_without_masks() -> None:
    large = deflated(bytes(LIMIT))
    stream = masked(TEXT, b"0") + masked(BINARY, large, reserved=COMPRESSED) + masked(TEXT, b"1")
    stream += masked(PING, b"p") + masked(TEXT, b"a")
    decoder = decoder_of(LIMIT, inflates=True)
    assert decoder.feed(stream + masked(TEXT, b"b")[:3]) == []
    assert (decoder.paused, len(decoder.messages)) == (True, 2)
    decoder.messages.clear()
    assert decoder.feed(b"") == [Control(PING, b"p")]
    assert not decoder.paused
    assert decoder.feed(masked(TEXT, b"b")[3:]) == []
    assert [message.data for message in decoder.messages] == ["1", "a", "b"]


def test_parsing_pauses_behind_many_small_messages_too() -> None:
    small = masked(BINARY, deflated(bytes(100_000)), reserved=COMPRESSED)  # it refers to nothing before it
    decoder = decoder_of(LIMIT, inflates=True)
    decoder.feed(small * 25)
    for count in (11, 11):
        assert (decoder.paused, len(decoder.messages)) == (True, count)
        decoder.messages.clear()
        decoder.feed(b"")
    assert (decoder.paused, len(decoder.messages)) == (False, 3)
