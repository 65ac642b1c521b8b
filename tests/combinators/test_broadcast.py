"""`broadcast`: every value for each subscriber, and what happens to the slow ones."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

import csp
from csp.errors import InvalidError, InvalidTypeError, NoContextError

ENDED: object = (None, False)


async def send(source: csp.Channel[int], *values: int) -> None:
    for value in values:
        await source.send(value)
    await wait_all_tasks_blocked()


async def test_each_subscriber_gets_every_value_and_the_cause() -> None:
    error = KeyError("why")
    source = csp.Channel[int](5)
    async with csp.broadcast(source) as values:
        first, second = (values.subscribe(5, overflow="wait") for _ in range(2))
        await send(source, 1, 2)
        third = values.subscribe(5, overflow="wait")
        await send(source, 3)
        source.close(error)
        for channel, expected in ((first, [1, 2, 3]), (second, [1, 2, 3]), (third, [3])):
            assert [(await channel.receive()).value for _ in expected] == expected
            assert await channel.receive() == ENDED
            assert channel.cause is error
        late = values.subscribe(1, overflow="wait")
        assert (late.closed, late.cause) == (True, error)


async def test_one_that_waits_holds_up_all_and_the_source() -> None:
    source = csp.Channel[int](10)
    async with csp.broadcast(source) as values:
        slow, fast = values.subscribe(1, overflow="wait"), values.subscribe(10, overflow="wait")
        await send(source, *range(5))
        assert (len(slow), len(fast), len(source)) == (1, 2, 3)
        assert [(await slow.receive()).value for _ in range(5)] == list(range(5))
        assert [(await fast.receive()).value for _ in range(5)] == list(range(5))


async def test_the_policies_for_one_that_does_not_keep_up() -> None:
    source = csp.Channel[int](10)
    async with csp.broadcast(source) as values:
        oldest = values.subscribe(2, overflow="drop_oldest")
        newest = values.subscribe(2, overflow="drop_newest")
        closed = values.subscribe(2, overflow="close")
        await send(source, *range(5))
        assert [oldest.receive_nowait().value for _ in range(2)] == [3, 4]
        assert [newest.receive_nowait().value for _ in range(2)] == [0, 1]
        assert [closed.receive_nowait().value for _ in range(2)] == [0, 1]
        assert closed.receive_nowait() == ENDED
        assert csp.errors.is_kind(closed.cause, csp.errors.CANCELED)
        assert str(closed.cause) == "the channel was closed: its receiver did not keep up, and its buffer of 2 is full"
        await send(source, 5)
        assert oldest.receive_nowait() == (5, True)


async def test_without_subscribers_one_value_at_most_is_taken_and_kept_for_the_next() -> None:
    source = csp.Channel[int](10)
    async with csp.broadcast(source) as values:
        await send(source, 1)
        assert len(source) == 1
        first = values.subscribe(10, overflow="wait")
        await wait_all_tasks_blocked()
        assert first.receive_nowait() == (1, True)
        first.close()
        await send(source, 2, 3, 4)
        assert len(source) == 2
        second = values.subscribe(10, overflow="wait")
        await wait_all_tasks_blocked()
        assert [second.receive_nowait().value for _ in range(3)] == [2, 3, 4]


async def test_a_subscriber_that_closes_while_it_is_waited_for_frees_the_others() -> None:
    source = csp.Channel[int](10)
    async with csp.broadcast(source) as values:
        stuck, other = values.subscribe(1, overflow="wait"), values.subscribe(10, overflow="wait")
        await send(source, 1, 2, 3)
        assert len(other) == 2
        stuck.close()
        await wait_all_tasks_blocked()
        assert len(other) == 3


async def test_one_that_closed_is_passed_over() -> None:
    source = csp.Channel[int](10)
    async with csp.broadcast(source) as values:
        gone, there = values.subscribe(1, overflow="close"), values.subscribe(10, overflow="wait")
        await wait_all_tasks_blocked()
        gone.close()
        await send(source, 1, 2)
        assert len(there) == 2


async def test_at_the_end_of_the_block_the_channels_are_closed_and_keep_what_they_have() -> None:
    source = csp.Channel[int](10)
    async with csp.broadcast(source) as values:
        channel = values.subscribe(10, overflow="wait")
        await send(source, 1)
    assert await channel.receive() == (1, True)
    assert await channel.receive() == ENDED
    assert values.subscribe(1, overflow="wait").closed


async def test_the_blocks_exception_comes_out_as_it_is() -> None:
    async def block() -> None:
        async with csp.broadcast(csp.Channel[int]()) as values:
            values.subscribe(1, overflow="wait")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await block()


async def test_repr_shows_the_state_and_the_source() -> None:
    async with csp.broadcast(csp.Channel[int]()) as values:
        values.subscribe(1, overflow="wait")
        assert repr(values).startswith("<csp.Broadcast open, 1 subscribers, of <csp.Channel open")
    assert repr(values).startswith("<csp.Broadcast ended")


def test_a_source_that_is_a_block_is_entered_first() -> None:
    with pytest.raises(NoContextError, match="async with"):
        csp.broadcast(csp.merge(csp.Channel[int]()))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("capacity", "overflow", "error", "text"),
    [
        (0, "wait", InvalidError, "capacity must be at least 1, not 0"),
        (1, "drop", InvalidError, "overflow must be 'wait', 'drop_oldest', 'drop_newest', 'close', not 'drop'"),
        ("1", "wait", InvalidTypeError, "capacity must be a whole number, not '1'"),
    ],
)
async def test_bad_arguments_are_refused(capacity: Any, overflow: Any, error: type[Exception], text: str) -> None:
    async with csp.broadcast(csp.Channel[int]()) as values:
        with pytest.raises(error, match=text):
            values.subscribe(capacity, overflow=overflow)


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(InvalidTypeError, match=r"source must be a csp\.Source"):
        csp.broadcast(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_subscriber_closed_for_being_slow_may_subscribe_again() -> None:
    source = csp.Channel[int](2)
    async with csp.broadcast(source) as values:
        slow = values.subscribe(1, overflow="close")
        for value in range(2):
            await source.send(value)
        await wait_all_tasks_blocked()
        assert isinstance(slow.cause, csp.errors.Error)
        assert slow.cause.retryable
