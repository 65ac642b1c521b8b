"""Bytes that arrive in pieces."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_csp_websocket.protocol import pieces as module
from trio_csp_websocket.protocol.pieces import Pieces

if TYPE_CHECKING:
    from collections.abc import Iterator


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3000)), max_size=20))
def test_all_of_it_comes_out_in_order_and_is_counted(sizes: list[tuple[int, int]]) -> None:
    pieces = Pieces()
    for _ in range(2):
        given_ = [bytes([number]) * (small + 2048 * large) for number, (large, small) in enumerate(sizes)]
        for piece in given_:
            pieces.add(piece)
        assert pieces.size == sum(map(len, given_))
        assert pieces.take() == b"".join(given_)
        assert pieces.size == 0


@pytest.mark.parametrize("sizes", [(1,), (4095,), (4096,), (4097,), (1, 4096), (65536,), (1, 65536)])
def test_pieces_hold_hardly_more_memory_than_they_have_bytes(sizes: tuple[int, ...]) -> None:
    total = 1 << 17
    pieces = Pieces()
    tracemalloc.start()
    try:
        while pieces.size < total:
            for size in sizes:
                pieces.add(bytes(size))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 1.1 * total + 1000


# What is huge ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_spare() -> Iterator[None]:
    module._spare.buffer = None
    yield
    module._spare.buffer = None


def put(pieces: Pieces, data: bytes, most: int) -> int:
    """Write data as it is read to where it belongs; return how much of it."""
    with pieces.room(most) as room:
        size = min(len(room), len(data))
        room[:size] = data[:size]
    with pieces.written(size) as written:
        pieces.add(written)
    return size


@pytest.mark.parametrize("first", [b"", b"small", bytes(70_000)])
@pytest.mark.parametrize("text", [False, True])
def test_what_is_written_to_its_room_comes_out_among_the_rest(first: bytes, text: bool) -> None:
    pieces = Pieces()
    data = bytes(range(128)) * 8000
    for _ in range(3):
        pieces.add(first)
        at = 0
        while at < len(data):
            at += put(pieces, data[at : at + 100_000], len(data) - at)
            pieces.gather()
        pieces.add(b"more")
        with memoryview(b"and more") as view:
            pieces.add(view[4:])
        expected = first + data + b"moremore"
        assert pieces.size == len(expected)
        assert (pieces.take_text().encode() if text else pieces.take()) == expected
        assert pieces.size == 0


def test_what_is_announced_gets_no_more_room_than_what_has_come() -> None:
    pieces = Pieces()
    pieces.add(bytes(1000))
    with pieces.room(1 << 40) as room:
        assert len(room) == 1000
    assert put(pieces, bytes(1000), 1 << 40) == 1000
    with pieces.room(1 << 40) as room:
        assert len(room) == 2000
    with pieces.room(7) as room:
        assert len(room) == 7
    with Pieces().room(1 << 40) as room:
        assert len(room) == 1


def test_a_thread_keeps_the_last_buffer_unless_it_is_too_large() -> None:
    pieces = Pieces()
    for size, kept in ((1 << 20, 1 << 20), (1 << 19, 1 << 20), (1 << 23, 0)):
        pieces.add(bytes(1 << 18) + b"x")
        pieces.gather()
        assert module._spare.buffer is None
        while pieces.size < size:
            put(pieces, bytes(size - pieces.size), size - pieces.size)
        assert len(pieces.take()) == size
        spare = vars(module)["_spare"].buffer  # type checkers know what it was before
        assert len(spare or b"") == kept
        with pieces.room(1 << 30) as room:  # all of it at once, as it is there
            assert len(room) == (kept or 1)
        pieces.take()


def test_two_messages_at_a_time_do_not_share_a_buffer() -> None:
    first, second = Pieces(), Pieces()
    for pieces in (first, second):
        pieces.add(bytes(1 << 19))
        pieces.gather()
    assert put(first, b"a" * 1000, 1000) == put(second, b"b" * 1000, 1000) == 1000
    assert first.take() == bytes(1 << 19) + b"a" * 1000
    assert second.take() == bytes(1 << 19) + b"b" * 1000


def test_a_huge_text_that_is_not_utf_8_leaves_nothing_behind() -> None:
    pieces = Pieces()
    pieces.add(b"\xff" * (1 << 19))
    pieces.gather()
    with pytest.raises(UnicodeDecodeError):
        pieces.take_text()
    assert (pieces.size, pieces.take()) == (0, b"")


def test_a_large_piece_alone_is_not_copied() -> None:
    pieces = Pieces()
    piece = bytes(5000)
    pieces.add(piece)
    assert pieces.take() is piece
