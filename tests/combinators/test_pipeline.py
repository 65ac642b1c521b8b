"""`pipeline`: several values in work at once, the order of results, the end and its cause."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp.errors import InvalidError, InvalidTypeError

ENDED: object = (None, False)


def numbers(*values: int, cause: BaseException | None = None) -> csp.Channel[int]:
    channel = csp.Channel[int](len(values))
    for value in values:
        channel.send_nowait(value)
    channel.close(cause)
    return channel


async def sleep_for(seconds: int) -> int:
    await trio.sleep(seconds)
    return seconds


async def test_ordered_results_come_in_the_order_of_the_values(autojump_clock: MockClock) -> None:
    async with csp.pipeline(numbers(5, 1, 3, 2, 4), sleep_for, workers=3) as results:
        assert [result async for result in results] == [5, 1, 3, 2, 4]


async def test_unordered_results_come_as_they_are_ready(autojump_clock: MockClock) -> None:
    async with csp.pipeline(numbers(5, 1, 3), sleep_for, workers=3, ordered=False) as results:
        assert [result async for result in results] == [1, 3, 5]


@pytest.mark.parametrize("ordered", [False, True])
async def test_no_more_values_are_in_work_or_wait_as_results_than_there_are_workers(
    autojump_clock: MockClock, ordered: bool
) -> None:
    running = most = started = 0

    async def work(value: int) -> int:
        nonlocal running, most, started
        running += 1
        started += 1
        most = max(most, running)
        await trio.sleep(1 + value % 3)
        running -= 1
        return value

    source = numbers(*range(50))
    async with csp.pipeline(source, work, workers=4, ordered=ordered) as results:
        await trio.sleep(100)
        assert (started, len(source)) == (4, 46)
        received = [result async for result in results]
    assert most == 4
    assert sorted(received) == list(range(50))
    assert not ordered or received == list(range(50))


@pytest.mark.parametrize("ordered", [False, True])
async def test_closing_and_cause_are_passed_on_behind_the_results(ordered: bool) -> None:
    error = KeyError("why")
    async with csp.pipeline(numbers(0, 0, cause=error), sleep_for, workers=3, ordered=ordered) as results:
        assert [await results.receive() for _ in range(3)] == [(0, True), (0, True), ENDED]
        assert results.cause is error


async def test_an_exception_is_the_cause_and_cancels_the_others(autojump_clock: MockClock) -> None:
    error = KeyError("broken")
    cancelled: list[int] = []

    async def work(value: int) -> int:
        try:
            await trio.sleep(value)
        except trio.Cancelled:
            cancelled.append(value)
            raise
        raise error

    source = csp.Channel[int](10)
    for value in (5, 1, 7, 9):
        source.send_nowait(value)
    async with csp.pipeline(source, work, workers=3, ordered=False) as results:
        assert await results.receive() == ENDED
        assert results.cause is error
        assert trio.current_time() == 1
        await wait_all_tasks_blocked()
        assert sorted(cancelled) == [5, 7]
        assert len(source) == 1


async def test_ordered_results_before_an_exception_are_given_first(autojump_clock: MockClock) -> None:
    error = KeyError("broken")

    async def work(value: int) -> int:
        await trio.sleep(value)
        if value == 1:
            raise error
        return value

    async with csp.pipeline(numbers(5, 1, 3), work, workers=3) as results:
        assert [await results.receive() for _ in range(2)] == [(5, True), ENDED]
        assert results.cause is error


async def test_the_block_may_be_left_at_any_time() -> None:
    async with csp.pipeline(numbers(*range(10)), sleep_for, workers=2) as results:
        assert await results.receive() == (0, True)
    assert await results.receive() == ENDED


async def test_the_blocks_exception_comes_out_as_it_is() -> None:
    async def block() -> None:
        async with csp.pipeline(numbers(1, 2), sleep_for, workers=2):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await block()


async def test_closed_by_who_receives_it_stops(autojump_clock: MockClock) -> None:
    source = csp.Channel[int](100)
    for value in range(100):
        source.send_nowait(value % 2)
    async with csp.pipeline(source, sleep_for, workers=2) as results:
        assert isinstance(results, csp.Channel)
        await results.receive()
        results.close()
        await trio.sleep(100)
        assert len(source) > 90


async def test_ordered_results_keep_the_order_of_values_that_come_at_once() -> None:
    async def work(value: int) -> int:
        return value

    for _ in range(20):
        source = csp.Channel[int](4)
        async with csp.pipeline(source, work, workers=4) as results:
            await wait_all_tasks_blocked()
            for value in range(4):
                source.send_nowait(value)
            assert [(await results.receive()).value for _ in range(4)] == [0, 1, 2, 3]


async def test_closed_by_who_receives_it_cancels_the_work(autojump_clock: MockClock) -> None:
    cancelled: list[int] = []

    async def work(value: int) -> int:
        try:
            await trio.sleep(value)
        except trio.Cancelled:
            cancelled.append(value)
            raise
        return value

    source = csp.Channel[int](2)
    source.send_nowait(1)
    source.send_nowait(100)
    async with csp.pipeline(source, work, workers=2, ordered=False) as results:
        assert isinstance(results, csp.Channel)
        await wait_all_tasks_blocked()
        results.close()
        await trio.sleep(2)
        assert cancelled == [100]


async def test_results_that_wait_are_given_before_the_exception_of_another() -> None:
    error = KeyError("broken")

    async def work(value: int) -> int:
        await wait_all_tasks_blocked()
        if value == 2:
            await wait_all_tasks_blocked()
            raise error
        return value

    async with csp.pipeline(numbers(1, 2, 3), work, workers=3, ordered=False) as results:
        await wait_all_tasks_blocked(0.01)
        received = [await results.receive() for _ in range(3)]
        assert sorted(value for value, ok in received if ok) == [1, 3]
        assert received[2] == ENDED
        assert results.cause is error


async def test_keyboard_interrupt_in_the_work_comes_out_as_it_is() -> None:
    async def work(_value: int) -> int:
        raise KeyboardInterrupt

    async def block() -> None:
        async with csp.pipeline(numbers(1), work, workers=3) as results:
            await results.receive()

    with pytest.raises(KeyboardInterrupt):
        await block()


async def test_the_first_of_two_exceptions_is_the_cause() -> None:
    errors = [KeyError("first"), KeyError("second")]

    async def work(value: int) -> int:
        raise errors[value]

    async with csp.pipeline(numbers(0, 1), work, workers=2) as results:
        assert await results.receive() == ENDED
        assert results.cause is errors[0]


@pytest.mark.parametrize(
    ("source", "work", "workers", "error", "text"),
    [
        (3, sleep_for, 1, InvalidTypeError, "source must be a csp.Source"),
        (csp.Channel[int](), 3, 1, InvalidTypeError, "work must be an async function, not 3"),
        (csp.Channel[int](), sleep_for, 0, InvalidError, "workers must be at least 1, not 0"),
    ],
)
def test_bad_arguments_are_refused_by_the_call(
    source: Any, work: Any, workers: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        csp.pipeline(source, work, workers=workers)
