"""`broadcast`: every value for each subscriber, and what happens to the slow ones."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from trio.testing import wait_all_tasks_blocked

import csp
from csp.errors import InvalidError, InvalidTypeError, NoContextError

if TYPE_CHECKING:
    from collections.abc import Callable

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


def held(channel: csp.Channel[int]) -> list[int]:
    """Take what a channel buffers."""
    return [channel.receive_nowait().value for _ in range(len(channel))]


@pytest.mark.parametrize(
    ("replay", "capacity", "replayed"),
    [
        (0, 5, []),
        (1, 5, [3]),
        (2, 5, [2, 3]),
        (3, 2, [2, 3]),
        (10, 5, [0, 1, 2, 3]),
        (sys.maxsize + 1, 1, [3]),
    ],
)
@pytest.mark.parametrize("overflow", ["wait", "drop_oldest", "drop_newest", "close"])
async def test_a_new_subscriber_is_given_the_last_values_first(
    replay: int, capacity: int, replayed: list[int], overflow: csp.Overflow
) -> None:
    source = csp.Channel[int](10)
    async with csp.broadcast(source, replay=replay) as values:
        values.subscribe(10, overflow="wait")
        await send(source, *range(4))
        channel = values.subscribe(capacity, overflow=overflow)
        assert held(channel) == replayed
        await send(source, 4)
        assert held(channel) == [4]
        assert not channel.closed


@pytest.mark.parametrize(
    ("overflow", "kept", "closed"),
    [
        ("wait", [1, 2], False),
        ("drop_oldest", [2, 3], False),
        ("drop_newest", [1, 2], False),
        ("close", [1, 2], True),
    ],
)
async def test_what_is_replayed_fills_the_buffer(overflow: csp.Overflow, kept: list[int], closed: bool) -> None:
    source = csp.Channel[int](10)
    async with csp.broadcast(source, replay=2) as values:
        values.subscribe(10, overflow="wait")
        await send(source, 1, 2)
        channel = values.subscribe(2, overflow=overflow)
        await send(source, 3)
        assert channel.closed == closed
        assert held(channel) == kept
        await wait_all_tasks_blocked()
        assert held(channel) == ([3] if overflow == "wait" else [])


async def test_after_the_end_the_last_values_are_replayed_and_then_comes_the_cause() -> None:
    error = KeyError("why")
    source = csp.Channel[int](10)
    async with csp.broadcast(source, replay=2) as values:
        values.subscribe(10, overflow="wait")
        await send(source, 1, 2, 3)
        source.close(error)
        await wait_all_tasks_blocked()
        within = values.subscribe(5, overflow="wait")
    for channel in (within, values.subscribe(5, overflow="wait")):
        assert held(channel) == [2, 3]
        assert channel.receive_nowait() == ENDED
        assert channel.cause is error


async def test_after_a_block_that_failed_new_subscribers_are_told_too() -> None:
    source = csp.Channel[int](10)
    entered: list[csp.Broadcast[int]] = []

    async def block() -> None:
        async with csp.broadcast(source, replay=1) as values:
            entered.append(values)
            values.subscribe(10, overflow="wait")
            await send(source, 1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await block()
    late = entered[0].subscribe(1, overflow="wait")
    assert held(late) == [1]
    assert isinstance(late.cause, csp.errors.ChannelBrokenError)


@pytest.mark.parametrize("replay", [1, 3])
async def test_who_subscribes_while_a_value_is_given_gets_it_once(replay: int) -> None:
    source = csp.Channel[int](10)
    async with csp.broadcast(source, replay=replay) as values:
        slow = values.subscribe(1, overflow="wait")
        await send(source, 1, 2, 3)  # 2 is being given
        late = values.subscribe(5, overflow="wait")
        assert held(late) == [1, 2][-replay:]
        assert [(await slow.receive()).value for _ in range(3)] == [1, 2, 3]
        await wait_all_tasks_blocked()
        assert held(late) == [3]


async def test_who_subscribes_while_a_value_is_held_gets_it_once() -> None:
    source = csp.Channel[int](10)
    async with csp.broadcast(source, replay=5) as values:
        with values.subscribe(5, overflow="wait"):
            await send(source, 1)
        await send(source, 2, 3)  # 2 is held for the next
        late = values.subscribe(5, overflow="wait")
        await wait_all_tasks_blocked()
        assert held(late) == [1, 2, 3]


async def test_a_subscription_that_ends_with_its_block_holds_up_nobody() -> None:
    source = csp.Channel[int](10)
    async with csp.broadcast(source) as values:
        other = values.subscribe(10, overflow="wait")
        with values.subscribe(1, overflow="wait") as stuck:
            await send(source, 1, 2, 3)
            assert len(other) == 2
        await wait_all_tasks_blocked()
        assert held(other) == [1, 2, 3]
        assert stuck.closed


async def test_a_subscription_whose_block_fails_while_it_is_waited_for_holds_up_nobody() -> None:
    source = csp.Channel[int](10)
    async with csp.broadcast(source) as values:
        other = values.subscribe(10, overflow="wait")

        async def subscribe() -> None:
            with values.subscribe(1, overflow="wait"):
                await send(source, 1, 2, 3)
                raise KeyError("mine")

        for _ in range(3):
            with pytest.raises(KeyError, match="mine"):
                await subscribe()
        await wait_all_tasks_blocked()
        assert held(other) == [1, 2, 3] * 3


async def test_those_that_have_unsubscribed_are_forgotten_though_no_value_comes() -> None:
    channels = list[weakref.ref[csp.Channel[int]]]()
    async with csp.broadcast(csp.Channel[int]()) as values:
        there = values.subscribe(1, overflow="wait")
        for _ in range(100):
            with values.subscribe(1, overflow="wait") as channel:
                channels.append(weakref.ref(channel))
                del channel
        gc.collect()
        assert sum(channel() is not None for channel in channels) < 5
        assert "1 subscribers" in repr(values)
        assert not there.closed


class Calling:
    """A value that calls a function when it is no longer referred to."""

    def __init__(self, call: Callable[[], object] = int) -> None:
        self._call = call

    def __del__(self) -> None:
        self._call()


@pytest.mark.parametrize("replay", [1, 2])
async def test_a_finalizer_of_a_value_that_is_no_longer_replayed_may_subscribe(replay: int) -> None:
    source = csp.Channel[Calling](10)
    late: list[csp.Channel[Calling]] = []
    async with csp.broadcast(source, replay=replay) as values:
        first = values.subscribe(10, overflow="wait")
        await source.send(Calling(lambda: late.append(values.subscribe(10, overflow="wait"))))
        for _ in range(replay - 1):
            await source.send(Calling())
        await wait_all_tasks_blocked()
        while len(first):
            first.receive_nowait()
        await source.send(Calling())
        await wait_all_tasks_blocked()
        [channel] = late
        # Those that are replayed, the value that is just being given among them, once.
        got = [channel.receive_nowait().value for _ in range(len(channel))]
        assert len(got) == len(set(got)) == replay
        assert first.receive_nowait().value is got[-1]
        await source.send(Calling())
        await wait_all_tasks_blocked()
        assert len(channel) == len(first) == 1


async def test_a_finalizer_of_a_value_that_is_dropped_may_close_and_subscribe() -> None:
    source = csp.Channel[Calling](10)
    late: list[csp.Channel[Calling]] = []
    async with csp.broadcast(source) as values:

        def change() -> None:
            last.close()
            late.append(values.subscribe(10, overflow="wait"))

        first = values.subscribe(1, overflow="drop_oldest")
        between = values.subscribe(10, overflow="wait")
        last = values.subscribe(1, overflow="wait")
        await source.send(Calling(change))
        await wait_all_tasks_blocked()
        for channel in (between, last):
            channel.receive_nowait()
        await source.send(Calling())  # drops the one before it from the first
        await wait_all_tasks_blocked()
        await source.send(Calling())
        await wait_all_tasks_blocked()
        assert (len(first), len(between), len(last), [len(channel) for channel in late]) == (1, 2, 0, [1])


async def test_a_finalizer_of_what_a_forgotten_subscriber_held_may_subscribe() -> None:
    source = csp.Channel[Calling](10)
    late: list[csp.Channel[Calling]] = []
    async with csp.broadcast(source) as values:
        values.subscribe(10, overflow="wait").close()
        gone = values.subscribe(10, overflow="wait")
        await source.send(Calling(lambda: late.append(values.subscribe(10, overflow="wait"))))
        await wait_all_tasks_blocked()
        gone.close()
        del gone
        await source.send(Calling())
        gc.collect()
        await wait_all_tasks_blocked()
        await source.send(Calling())
        await wait_all_tasks_blocked()
        assert [len(channel) for channel in late] == [2]


@pytest.mark.parametrize(
    ("replay", "error", "text"),
    [
        (-1, InvalidError, "replay must be at least 0, not -1"),
        (1.0, InvalidTypeError, "replay must be a whole number, not 1.0"),
    ],
)
def test_replay_is_a_count(replay: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        csp.broadcast(csp.Channel[int](), replay=replay)
