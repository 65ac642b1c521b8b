"""`debounce`: the latest value once it is quiet; more in ``test_latest.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

import csp
from tests.combinators._timed import SENDS, timed

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_debounce_gives_the_latest_once_it_is_quiet(autojump_clock: MockClock) -> None:
    source = csp.Channel[int]()
    assert await timed(csp.debounce(source, "1s"), source, SENDS) == [(1.2, 3), (2.5, 4), (6, 5)]


async def test_debounce_gives_what_is_due_when_the_source_closes(autojump_clock: MockClock) -> None:
    source = csp.Channel[int]()
    assert await timed(csp.debounce(source, "1s"), source, [(0, 1), (0.1, 2)], close_at=0.5) == [(0.5, 2)]


async def test_debounce_gives_what_is_due_before_it_looks_at_the_source(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    async with csp.debounce(csp.tick("1s"), "1s") as settled:
        assert [round((await settled.receive()).value - start, 1) for _ in range(20)] == list(range(1, 21))
