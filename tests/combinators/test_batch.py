"""`batch`: full lists, or what came within the time; nothing is lost and no list is empty."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp.errors import InvalidError, InvalidTypeError
from tests.combinators._filled import filled

ENDED: object = (None, False)


async def test_batch_gives_full_lists_and_what_is_left() -> None:
    async with csp.batch(filled(1, 2, 3, 4, 5), 2) as batches:
        assert [batch async for batch in batches] == [[1, 2], [3, 4], [5]]


async def test_batch_passes_the_cause_on_behind_what_is_left() -> None:
    error = KeyError("why")
    async with csp.batch(filled(1, cause=error), 2) as batches:
        assert await batches.receive() == ([1], True)
        assert await batches.receive() == ENDED
        assert batches.cause is error


@pytest.mark.parametrize("within", ["1s", timedelta(seconds=1)])
async def test_batch_waits_within_its_time_from_the_first_value(
    autojump_clock: MockClock, within: csp.Duration
) -> None:
    source = csp.Channel[int](10)
    async with csp.batch(source, 10, within) as batches, trio.open_nursery() as nursery:

        async def send() -> None:
            for value in range(6):
                await trio.sleep(0.4)
                await source.send(value)
            await trio.sleep(10)
            source.close()

        start = trio.current_time()
        nursery.start_soon(send)
        received = [(round(trio.current_time() - start, 1), batch) async for batch in batches]
    assert received == [(1.4, [0, 1, 2]), (2.6, [3, 4, 5])]


async def test_batch_never_gives_an_empty_list(autojump_clock: MockClock) -> None:
    source = csp.Channel[int](1)
    async with csp.batch(source, 10, "1s") as batches:
        with trio.move_on_after(100) as scope:
            await batches.receive()
        assert scope.cancelled_caught
        source.send_nowait(1)
        assert await batches.receive() == ([1], True)


async def test_batch_gathers_one_list_at_most() -> None:
    source = filled(*range(10))
    async with csp.batch(source, 3) as batches:
        await csp.select(batches.case_receive(), default=True)
        await wait_all_tasks_blocked()
        assert len(source) == 7


async def test_batch_keeps_what_it_gathered_when_the_receive_is_cancelled_and_when_the_block_ends() -> None:
    source = filled(1, 2, closed=False)
    async with csp.batch(source, 10) as batches:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(batches.receive)
                await wait_all_tasks_blocked()
                scope.cancel()
        source.send_nowait(3)
        await wait_all_tasks_blocked()
    assert await batches.receive() == ([1, 2, 3], True)
    assert await batches.receive() == ENDED


async def test_a_batch_whose_time_is_over_takes_nothing_more(mock_clock: MockClock) -> None:
    source = csp.Channel[int](math.inf)
    async with csp.batch(source, 10, "1s") as batches:
        for _ in range(20):
            await csp.select(batches.case_receive(), default=True)
            await wait_all_tasks_blocked()
            source.send_nowait(0)
            await wait_all_tasks_blocked()
            mock_clock.jump(1)
            # The task that waits has the first before it sees the time.
            source.send_nowait(1)
            source.send_nowait(2)
            await wait_all_tasks_blocked()
            assert await batches.receive() == ([0, 1], True)
            assert await source.receive() == (2, True)


async def test_a_batch_of_nothing_is_not_given_at_the_end_of_the_block() -> None:
    async with csp.batch(csp.Channel[int](), 2) as batches:
        await csp.select(batches.case_receive(), default=True)
        await wait_all_tasks_blocked()
    assert await batches.receive() == ENDED


@pytest.mark.parametrize(
    ("size", "within", "error", "text"),
    [
        (0, None, InvalidError, "size must be at least 1, not 0"),
        (1.5, None, InvalidTypeError, "size must be a whole number, not 1.5"),
        (True, None, InvalidTypeError, "size must be a whole number, not True"),
        (1, "0s", InvalidError, "within must be above 0, not '0s'"),
        (1, "soon", InvalidError, "within must be a duration"),
        (1, 3, InvalidTypeError, "within must be a string with a unit"),
    ],
)
def test_batch_refuses_what_is_out_of_range(size: Any, within: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        csp.batch(csp.Channel[int](), size, within)
