"""Bytes that arrive in pieces."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_csp_websocket.protocol.pieces import Pieces


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


def test_a_large_piece_alone_is_not_copied() -> None:
    pieces = Pieces()
    piece = bytes(5000)
    pieces.add(piece)
    assert pieces.take() is piece
