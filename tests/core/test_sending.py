"""`Channel.send_many`: many values for one wait."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

import csp


async def test_what_there_is_room_for_is_sent_at_once() -> None:
    channel = csp.Channel[int](3)
    values = deque([1, 2, 3])
    await channel.send_many(values)
    assert not values
    assert [channel.receive_nowait().value for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("capacity", [0, 1, 2])
async def test_the_rest_waits_in_one_place_and_is_taken_in_order(capacity: int, nursery: trio.Nursery) -> None:
    channel = csp.Channel[int](capacity)
    values = deque(range(5))
    nursery.start_soon(channel.send_many, values)
    await wait_all_tasks_blocked()
    # The next one is in hand.
    assert list(values) == list(range(capacity + 1, 5))
    assert (len(channel), channel.statistics().tasks_waiting_send) == (capacity, 1)
    for expected in range(5):
        assert await channel.receive() == (expected, True)
        # A place that becomes free is filled at once.
        assert len(channel) == min(capacity, 4 - expected)
    assert not values
    assert channel.statistics().tasks_waiting_send == 0


async def test_it_returns_when_the_last_value_is_taken_and_no_sooner(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int]()
    done = trio.Event()

    async def send() -> None:
        await channel.send_many(deque([1, 2]))
        done.set()

    nursery.start_soon(send)
    await wait_all_tasks_blocked()
    channel.receive_nowait()
    await wait_all_tasks_blocked()
    assert not done.is_set()
    channel.receive_nowait()
    await wait_all_tasks_blocked()
    assert done.is_set()


async def test_parked_receivers_are_served_first(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int]()
    received: list[int] = []

    async def receive() -> None:
        received.append((await channel.receive()).value)

    for _ in range(3):
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
    await channel.send_many(deque([1, 2, 3]))
    await wait_all_tasks_blocked()
    assert sorted(received) == [1, 2, 3]


async def test_what_is_appended_while_it_waits_is_sent_too(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int]()
    values = deque([1])
    nursery.start_soon(channel.send_many, values)
    await wait_all_tasks_blocked()
    values.append(2)
    assert channel.receive_nowait() == (1, True)
    assert channel.receive_nowait() == (2, True)
    with pytest.raises(trio.WouldBlock):
        channel.receive_nowait()


async def test_what_is_appended_before_it_returns_is_sent_too(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int]()
    values = deque([1])
    nursery.start_soon(channel.send_many, values)
    await wait_all_tasks_blocked()
    channel.receive_nowait()
    values.append(2)
    await wait_all_tasks_blocked()
    assert channel.receive_nowait() == (2, True)


async def test_a_deque_that_is_emptied_while_it_waits_costs_nobody_a_value(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int](1)
    values = deque([1, 2, 3])
    nursery.start_soon(channel.send_many, values)
    await wait_all_tasks_blocked()
    values.clear()
    assert channel.receive_nowait() == (1, True)
    assert channel.receive_nowait() == (2, True)
    with pytest.raises(trio.WouldBlock):
        channel.receive_nowait()


async def test_two_tasks_may_send_one_deque(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int]()
    values = deque([1, 2, 3])
    nursery.start_soon(channel.send_many, values)
    nursery.start_soon(channel.send_many, values)
    await wait_all_tasks_blocked()
    assert sorted(channel.receive_nowait().value for _ in range(3)) == [1, 2, 3]
    with pytest.raises(trio.WouldBlock):
        channel.receive_nowait()


async def test_what_is_no_deque_is_a_type_error() -> None:
    channel = csp.Channel[int](1)
    with pytest.raises(csp.errors.InvalidTypeError, match=r"values must be a collections\.deque, not \[1, 2\]"):
        await channel.send_many([1, 2])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert len(channel) == 0


async def test_senders_that_come_later_wait_behind_it(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int](1)
    nursery.start_soon(channel.send_many, deque([1, 2, 3]))
    await wait_all_tasks_blocked()
    nursery.start_soon(channel.send, 4)
    await wait_all_tasks_blocked()
    nursery.start_soon(channel.send_many, deque([5, 6]))
    await wait_all_tasks_blocked()
    assert [(await channel.receive()).value for _ in range(6)] == [1, 2, 3, 4, 5, 6]


async def test_cancelled_while_waiting_it_keeps_what_was_not_sent(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int](1)
    values = deque([1, 2, 3])
    scope = trio.CancelScope()

    async def send() -> None:
        with scope:
            await channel.send_many(values)

    nursery.start_soon(send)
    await wait_all_tasks_blocked()
    assert (await channel.receive()).value == 1
    scope.cancel()
    await wait_all_tasks_blocked()
    assert list(values) == [3]
    assert channel.receive_nowait() == (2, True)
    assert channel.statistics().tasks_waiting_send == 0


async def test_cancelled_with_room_it_sends_nothing() -> None:
    channel = csp.Channel[int](10)
    values = deque([1, 2])
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.send_many(values)
    assert scope.cancelled_caught
    assert list(values) == [1, 2]
    assert len(channel) == 0


async def test_cancelled_on_the_way_it_keeps_the_rest() -> None:
    channel = csp.Channel[int](1000)
    values = deque(range(1000))

    async def cancel() -> None:
        scope.cancel()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel)
            await channel.send_many(values)
    assert scope.cancelled_caught
    assert 0 < len(channel) < 1000
    assert [*(channel.receive_nowait().value for _ in range(len(channel))), *values] == list(range(1000))


async def test_on_a_closed_channel_it_takes_nothing_out() -> None:
    channel = csp.Channel[int](10)
    channel.close()
    values = deque([1, 2])
    with pytest.raises(csp.ChannelClosedError):
        await channel.send_many(values)
    assert list(values) == [1, 2]


async def test_a_close_while_it_waits_leaves_what_was_not_sent() -> None:
    channel = csp.Channel[int](1)
    values = deque([1, 2, 3])
    cause = OSError("gone")

    async def close() -> None:
        await wait_all_tasks_blocked()
        channel.close(cause)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        with pytest.raises(csp.ChannelClosedError) as caught:
            await channel.send_many(values)
    assert caught.value.__cause__ is cause
    assert list(values) == [2, 3]
    assert channel.receive_nowait() == (1, True)


async def test_nothing_to_send_is_a_checkpoint() -> None:
    with assert_checkpoints():
        await csp.Channel[int]().send_many(deque())


async def test_a_channel_that_drops_takes_everything() -> None:
    channel = csp.Channel[int](2, overflow="drop_oldest")
    await channel.send_many(deque(range(5)))
    assert [channel.receive_nowait().value for _ in range(2)] == [3, 4]


async def test_other_tasks_get_their_turn_while_there_is_room() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await csp.Channel[int](10_000).send_many(deque(range(10_000)))
        nursery.cancel_scope.cancel()
    assert turns >= 10_000 // csp.OPERATIONS_PER_SCHEDULE_POINT - 2


async def test_select_and_selector_receive_from_it(nursery: trio.Nursery) -> None:
    channel, other = csp.Channel[int](), csp.Channel[int]()
    nursery.start_soon(channel.send_many, deque([1, 2, 3]))
    await wait_all_tasks_blocked()
    assert (await csp.select(other.case_receive(), channel.case_receive())).value == 1
    with csp.Selector(other.case_receive(), channel.case_receive()) as selector:
        assert [(await selector.select()).value for _ in range(2)] == [2, 3]


# Any number of tasks, in whatever order they run: nothing is lost or doubled, and each batch stays in order.

Batches = list[tuple[int, bool]]


@given(
    capacity=st.integers(0, 3),
    batches=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=5),
    ways=st.lists(st.sampled_from(["receive", "select", "selector", "nowait"]), max_size=15),
    close=st.booleans(),
)
def test_nothing_is_lost_or_doubled(capacity: int, batches: Batches, ways: list[str], *, close: bool) -> None:
    trio.run(lose_nothing, capacity, batches, ways, close, clock=MockClock())


async def send(channel: csp.Channel[Any], values: deque[Any], scope: trio.CancelScope) -> None:
    with scope, contextlib.suppress(csp.ChannelClosedError):
        await channel.send_many(values)


async def take(channel: csp.Channel[Any], way: str) -> tuple[Any, bool]:
    if way == "receive":
        return await channel.receive()
    if way == "select":
        return (await csp.select(csp.never().case_receive(), channel.case_receive()))[1:3]
    if way == "selector":
        with csp.Selector(channel.case_receive()) as selector:
            return (await selector.select())[1:3]
    return channel.receive_nowait() if channel.is_ready(csp.Moment()) else (None, False)


async def lose_nothing(capacity: int, batches: Batches, ways: list[str], close: bool) -> None:
    channel = csp.Channel[tuple[int, int]](capacity)
    left = [deque((batch, number) for number in range(size)) for batch, (size, _) in enumerate(batches)]
    sent = Counter(value for values in left for value in values)
    received: list[tuple[int, int]] = []
    scopes: list[trio.CancelScope] = []

    async def receive(way: str) -> None:
        value, ok = await take(channel, way)
        if ok:
            received.append(value)

    async with trio.open_nursery() as nursery:
        for values in left:
            scopes.append(trio.CancelScope())
            nursery.start_soon(send, channel, values, scopes[-1])
        for way in ways:
            nursery.start_soon(receive, way)
        await trio.lowlevel.checkpoint()
        for scope, (_, cancelled) in zip(scopes, batches, strict=True):
            if cancelled:
                scope.cancel()
        await wait_all_tasks_blocked()
        if close:
            channel.close()
        nursery.cancel_scope.cancel()
    taken = [*received, *(channel.receive_nowait().value for _ in range(len(channel)))]
    assert Counter([*taken, *(value for values in left for value in values)]) == sent
    for batch, values in enumerate(left):
        numbers = [number for origin, number in taken if origin == batch]
        assert sorted(numbers) + [number for _, number in values] == list(range(batches[batch][0]))
