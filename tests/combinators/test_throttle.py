"""`throttle`: the first value at once, then the latest at the end of each time; more in ``test_latest.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

import csp
from tests.combinators._timed import SENDS, timed

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_throttle_gives_the_first_at_once_and_the_latest_at_the_end_of_its_time(
    autojump_clock: MockClock,
) -> None:
    source = csp.Channel[int]()
    assert await timed(csp.throttle(source, "1s"), source, SENDS) == [(0, 1), (1, 3), (2, 4), (5, 5)]


async def test_throttle_without_trailing_drops_what_comes_within_its_time(autojump_clock: MockClock) -> None:
    source = csp.Channel[int]()
    assert await timed(csp.throttle(source, "1s", trailing=False), source, SENDS) == [(0, 1), (1.5, 4), (5, 5)]


async def test_throttle_gives_what_is_due_when_the_source_closes(autojump_clock: MockClock) -> None:
    source = csp.Channel[int]()
    assert await timed(csp.throttle(source, "1s"), source, [(0, 1), (0.1, 2)], close_at=0.5) == [(0, 1), (0.5, 2)]


async def test_a_slow_consumer_finds_the_latest(autojump_clock: MockClock) -> None:
    source = csp.Channel[int]()
    async with csp.throttle(source, "1s") as values:
        for value in range(5):
            await source.send(value)
            await trio.sleep(2)
        assert await values.receive() == (4, True)


async def test_throttle_gives_what_is_due_before_it_looks_at_the_source(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    async with csp.throttle(csp.tick("500ms"), "1s") as shown:
        assert [round((await shown.receive()).value - start, 1) for _ in range(20)] == [0.5, *range(1, 20)]
