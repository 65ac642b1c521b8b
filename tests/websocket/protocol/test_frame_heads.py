"""The heads of frames are found however the bytes are cut, and whatever they are."""

from __future__ import annotations

import pytest

from trio_csp_websocket.protocol.encoder import Encoder, MaskingEncoder
from trio_csp_websocket.protocol.frame_heads import FrameHead, FrameHeads
from trio_csp_websocket.protocol.frames import BINARY_FRAME, CLOSE, PING, TEXT_FRAME

SIZES = [0, 1, 125, 126, 65535, 65536, 70_000]
ACCEPTANCE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def stream(encoder: Encoder) -> bytes:
    frames = [encoder.encode(BINARY_FRAME, bytes(size)) for size in SIZES]
    return b"".join((*frames, encoder.encode(PING, b"p"), encoder.encode(CLOSE, b"\x03\xe8bye")))


EXPECTED = [
    *(FrameHead(BINARY_FRAME, fin=True, compressed=False, length=size, close=None) for size in SIZES),
    FrameHead(PING, fin=True, compressed=False, length=1, close=None),
    FrameHead(CLOSE, fin=True, compressed=False, length=5, close=b"\x03\xe8bye"),
]


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000, 1 << 20])
@pytest.mark.parametrize("encoder", [Encoder(), MaskingEncoder()], ids=["plain", "masked"])
@pytest.mark.parametrize("head", [b"", ACCEPTANCE], ids=["frames", "an answer first"])
def test_frames_are_found_however_they_are_cut(piece: int, encoder: Encoder, head: bytes) -> None:
    data = head + stream(encoder)
    heads = FrameHeads(behind_acceptance=bool(head))
    found = [frame for start in range(0, len(data), piece) for frame in heads.feed(data[start : start + piece])]
    assert found == EXPECTED
    assert heads.feed(b"") == []


def test_bits_are_told_as_they_are() -> None:
    first, second = FrameHeads().feed(b"\x41\x00\xf3\x00")
    assert first == FrameHead(TEXT_FRAME, fin=False, compressed=True, length=0, close=None)
    assert second == FrameHead(3, fin=True, compressed=True, length=0, close=None)


def test_a_close_frame_that_is_too_long_is_told_by_its_head() -> None:
    assert FrameHeads().feed(b"\x88\x7e\x00\x7e") == [
        FrameHead(CLOSE, fin=True, compressed=False, length=126, close=None)
    ]


def test_a_length_that_no_payload_has_is_told_and_passed_over() -> None:
    heads = FrameHeads()
    assert heads.feed(b"\x82\x7f" + b"\xff" * 8)[0].length == 2**64 - 1
    assert heads.feed(b"\x81\x00" * 1000) == []


@pytest.mark.parametrize("answer", [b"HTTP/1.1 403 Forbidden\r\n\r\n\x81\x00", b"\x81\x00", b"garbage\r\n\r\n\x81\x00"])
def test_behind_an_answer_that_accepts_nothing_there_are_no_frames(answer: bytes) -> None:
    heads = FrameHeads(behind_acceptance=True)
    assert heads.feed(answer) == heads.feed(b"\x81\x00") == []
