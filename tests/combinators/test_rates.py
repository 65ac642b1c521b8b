"""Tests of ``csp._combinators.rates``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp.errors import InvalidError, InvalidTypeError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

ENDED: object = (None, False)


async def timed(
    made: AbstractAsyncContextManager[csp.Source[int]],
    source: csp.Channel[int],
    sends: list[tuple[float, int]],
    *,
    close_at: float | None = None,
) -> list[tuple[float, int]]:
    """Send values at their times; return what comes out, each with its time."""
    start = trio.current_time()
    received: list[tuple[float, int]] = []

    async def send() -> None:
        for time, value in sends:
            await trio.sleep_until(start + time)
            await source.send(value)
        if close_at is not None:
            await trio.sleep_until(start + close_at)
            source.close()

    async with made as values, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        with trio.move_on_at(start + 100):
            async for value in values:
                time = round(trio.current_time() - start, 1)
                received.append((time, value))
    return received


SENDS: list[tuple[float, int]] = [(0, 1), (0.1, 2), (0.2, 3), (1.5, 4), (5, 5)]


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


async def test_debounce_gives_the_latest_once_it_is_quiet(autojump_clock: MockClock) -> None:
    source = csp.Channel[int]()
    assert await timed(csp.debounce(source, "1s"), source, SENDS) == [(1.2, 3), (2.5, 4), (6, 5)]


async def test_debounce_gives_what_is_due_when_the_source_closes(autojump_clock: MockClock) -> None:
    source = csp.Channel[int]()
    assert await timed(csp.debounce(source, "1s"), source, [(0, 1), (0.1, 2)], close_at=0.5) == [(0.5, 2)]


@pytest.mark.parametrize("made", [csp.throttle, csp.debounce])
async def test_the_cause_is_passed_on(made: Any) -> None:
    error = KeyError("why")
    source = csp.Channel[int]()
    async with made(source, "1s") as values:
        source.close(error)
        assert await values.receive() == ENDED
        assert values.cause is error


async def test_a_slow_consumer_finds_the_latest(autojump_clock: MockClock) -> None:
    source = csp.Channel[int]()
    async with csp.throttle(source, "1s") as values:
        for value in range(5):
            await source.send(value)
            await trio.sleep(2)
        assert await values.receive() == (4, True)


@pytest.mark.parametrize(("made", "given"), [(csp.throttle, 2), (csp.debounce, 2)])
async def test_what_is_due_at_the_end_of_the_block_can_be_received(
    autojump_clock: MockClock, made: Any, given: int
) -> None:
    source = csp.Channel[int]()
    async with made(source, "1s") as values:
        await source.send(1)
        await source.send(2)
        await wait_all_tasks_blocked()
    assert await values.receive() == (given, True)
    assert await values.receive() == ENDED


@pytest.mark.parametrize("made", [csp.throttle, csp.debounce])
async def test_closed_by_who_receives_it_stops(autojump_clock: MockClock, made: Any) -> None:
    source = csp.Channel[int](1)
    async with made(source, "1s") as values:
        values.close()
        await source.send(1)
        await trio.sleep(2)
        await source.send(2)
        await trio.sleep(2)
        assert len(source) == 1


async def test_debounce_gives_what_is_due_before_it_looks_at_the_source(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    async with csp.debounce(csp.tick("1s"), "1s") as settled:
        assert [round((await settled.receive()).value - start, 1) for _ in range(20)] == list(range(1, 21))


async def test_throttle_gives_what_is_due_before_it_looks_at_the_source(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    async with csp.throttle(csp.tick("500ms"), "1s") as shown:
        assert [round((await shown.receive()).value - start, 1) for _ in range(20)] == [0.5, *range(1, 20)]


@pytest.mark.parametrize("made", [csp.throttle, csp.debounce])
async def test_what_was_given_is_not_given_again_when_the_source_closes(autojump_clock: MockClock, made: Any) -> None:
    source = csp.Channel[int](1)
    async with made(source, "1s") as values:
        source.send_nowait(1)
        assert await values.receive() == (1, True)
        await trio.sleep(5)
        source.close()
        assert await values.receive() == ENDED


@pytest.mark.parametrize("made", [csp.throttle, csp.debounce])
@pytest.mark.parametrize(
    ("source", "duration", "error", "text"),
    [
        (3, "1s", InvalidTypeError, "source must be a csp.Source"),
        (csp.Channel[int](), "-1s", InvalidError, "duration must be above 0, not '-1s'"),
        (csp.Channel[int](), 1, InvalidTypeError, "duration must be a string with a unit"),
    ],
)
def test_bad_arguments_are_refused_by_the_call(
    made: Any, source: Any, duration: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        made(source, duration)
