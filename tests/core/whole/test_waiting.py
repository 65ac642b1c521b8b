"""Every operation that can wait: ready, waiting, cancelled, closed, two in a row, already cancelled, same tick."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from csp import Channel

    # Takes one value; None if the channel is closed.
    Receive: TypeAlias = Callable[[Channel[int]], Awaitable[int | None]]
    # Sends one value; False if the channel is closed.
    Send: TypeAlias = Callable[[Channel[int], int], Awaitable[bool]]


# Ways to receive ------------------------------------------------------------------------------------------------------


async def by_receive(channel: Channel[int]) -> int | None:
    value, ok = await channel.receive()
    return value if ok else None


async def by_async_for(channel: Channel[int]) -> int | None:
    async for value in channel:
        return value
    return None


async def by_end(channel: Channel[int]) -> int | None:
    try:
        return await channel.receiver.receive()
    except trio.EndOfChannel:
        return None


async def by_select(channel: Channel[int]) -> int | None:
    result = await csp.select(channel.case_receive())
    assert result.channel is channel
    assert result.index == 0
    return result.value if result.ok else None


async def by_select_with_send(channel: Channel[int]) -> int | None:
    elsewhere = csp.Channel[int]()
    result = await csp.select(elsewhere.case_send(99), None, channel.case_receive())
    assert result.channel is channel
    assert result.index == 2
    assert elsewhere.statistics().tasks_waiting_send == 0
    return result.value if result.ok else None


async def by_select_twice(channel: Channel[int]) -> int | None:
    result = await csp.select(channel.case_receive(), channel.case_receive(), priority=True)
    return result.value if result.ok else None


async def by_selector(channel: Channel[int]) -> int | None:
    with csp.Selector(channel.case_receive()) as selector:
        result = await selector.select()
        assert result.channel is channel
        return result.value if result.ok else None


async def by_selector_iteration(channel: Channel[int]) -> int | None:
    with csp.Selector(csp.Channel[int]().case_receive(), channel.case_receive()) as selector:
        async for result in selector:
            assert result.channel is channel
            assert result.index == 1
            return result.value if result.ok else None
    raise AssertionError("a closed channel is reported before the iteration ends")


# Ways to send ---------------------------------------------------------------------------------------------------------


async def by_send(channel: Channel[int], value: int) -> bool:
    try:
        await channel.send(value)
    except csp.ChannelClosedError:
        return False
    return True


async def by_send_end(channel: Channel[int], value: int) -> bool:
    try:
        await channel.sender.send(value)
    except trio.ClosedResourceError:
        return False
    return True


async def by_select_send(channel: Channel[int], value: int) -> bool:
    try:
        result = await csp.select(channel.case_send(value))
    except csp.ChannelClosedError:
        return False
    assert result == (channel, value, True, False, 0, True)
    return True


async def by_select_send_with_receive(channel: Channel[int], value: int) -> bool:
    elsewhere = csp.Channel[int]()
    try:
        result = await csp.select(elsewhere.case_receive(), None, channel.case_send(value))
    except csp.ChannelClosedError:
        return False
    finally:
        assert elsewhere.statistics().tasks_waiting_receive == 0
    assert result == (channel, value, True, False, 2, True)
    return True


QUEUEING = [by_receive, by_async_for, by_end, by_select, by_select_with_send, by_select_twice]
RECEIVES = [*QUEUEING, by_selector, by_selector_iteration]
SENDS = [by_send, by_send_end, by_select_send, by_select_send_with_receive]

each_receive = pytest.mark.parametrize("receive", RECEIVES)
each_send = pytest.mark.parametrize("send", SENDS)


def full() -> Channel[int]:
    channel = csp.Channel[int](1)
    channel.send_nowait(0)
    return channel


def is_quiet(channel: Channel[int]) -> bool:
    """Tell whether nobody waits on a channel."""
    statistics = channel.statistics()
    return not (statistics.tasks_waiting_receive or statistics.tasks_waiting_send or statistics.selectors)


class Running:
    """A nursery in which operations are started one after the other, and their results in order of completion."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.results: list[object] = []

    async def start(self, operation: Callable[..., Awaitable[object]], *args: object) -> trio.CancelScope:
        """Start an operation and wait until it waits; return its cancel scope."""
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                self.results.append(await operation(*args))

        self.nursery.start_soon(run)
        await wait_all_tasks_blocked()
        return scope


# Receiving ------------------------------------------------------------------------------------------------------------


@each_receive
async def test_receive_takes_a_buffered_value_at_once(receive: Receive) -> None:
    channel = csp.Channel[int](1)
    channel.send_nowait(1)
    assert await receive(channel) == 1
    assert len(channel) == 0
    assert is_quiet(channel)


@each_receive
@each_send
async def test_receive_takes_from_a_waiting_sender(receive: Receive, send: Send) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        await running.start(send, channel, 1)
        assert await receive(channel) == 1
        await wait_all_tasks_blocked()
        assert running.results == [True]
    assert is_quiet(channel)


@each_receive
@pytest.mark.parametrize("capacity", [0, 1])
async def test_receive_waits_for_a_value(receive: Receive, capacity: int) -> None:
    channel = csp.Channel[int](capacity)
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        await running.start(receive, channel)
        assert running.results == []
        channel.send_nowait(1)
        assert len(channel) == 0, "a value is handed over, not put down"
        await wait_all_tasks_blocked()
        assert running.results == [1]
    assert is_quiet(channel)


@each_receive
async def test_receive_reports_a_closed_channel_at_once(receive: Receive) -> None:
    channel = csp.Channel[int]()
    channel.close()
    assert await receive(channel) is None


@each_receive
async def test_receive_drains_a_closed_channel_first(receive: Receive) -> None:
    channel = csp.Channel[int](2)
    channel.send_nowait(1)
    channel.send_nowait(2)
    channel.close()
    assert [await receive(channel) for _ in range(4)] == [1, 2, None, None]


@each_receive
async def test_receive_is_woken_by_a_close(receive: Receive) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        await running.start(receive, channel)
        await running.start(receive, channel)
        channel.close()
        await wait_all_tasks_blocked()
        assert running.results == [None, None]
    assert is_quiet(channel)


@each_receive
async def test_cancelled_receive_leaves_no_waiter(receive: Receive) -> None:
    channel = csp.Channel[int](1)
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        scope = await running.start(receive, channel)
        assert not is_quiet(channel)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert is_quiet(channel)
        channel.send_nowait(1)
        assert channel.receive_nowait() == (1, True)
        assert running.results == []


@each_receive
async def test_cancelled_receive_passes_its_place_on(receive: Receive) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        scope = await running.start(receive, channel)
        await running.start(receive, channel)
        scope.cancel()
        await wait_all_tasks_blocked()
        channel.send_nowait(1)
        await wait_all_tasks_blocked()
        assert running.results == [1]


@each_receive
async def test_receive_in_a_cancelled_scope_has_no_effect_when_ready(receive: Receive) -> None:
    channel = csp.Channel[int](1)
    channel.send_nowait(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await receive(channel)
    assert scope.cancelled_caught
    assert len(channel) == 1
    assert is_quiet(channel)


@each_receive
async def test_receive_in_a_cancelled_scope_has_no_effect_on_a_waiting_sender(receive: Receive) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        await running.start(by_send, channel, 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await receive(channel)
        assert scope.cancelled_caught
        assert channel.statistics().tasks_waiting_send == 1
        nursery.cancel_scope.cancel()


@each_receive
async def test_receive_in_a_cancelled_scope_is_cancelled_when_not_ready(receive: Receive) -> None:
    channel = csp.Channel[int]()
    with trio.CancelScope() as scope:
        scope.cancel()
        await receive(channel)
    assert scope.cancelled_caught
    assert is_quiet(channel)


@each_receive
async def test_receive_in_a_cancelled_scope_is_cancelled_when_closed(receive: Receive) -> None:
    channel = csp.Channel[int]()
    channel.close()
    with trio.CancelScope() as scope:
        scope.cancel()
        await receive(channel)
    assert scope.cancelled_caught


@each_receive
async def test_a_value_then_a_cancellation_in_one_tick_delivers_the_value(receive: Receive) -> None:
    channel = csp.Channel[int](1)
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        scope = await running.start(receive, channel)
        channel.send_nowait(1)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert running.results == [1]
        assert len(channel) == 0
        assert is_quiet(channel)


@each_receive
async def test_a_cancellation_then_a_value_in_one_tick_keeps_the_value(receive: Receive) -> None:
    channel = csp.Channel[int](1)
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        scope = await running.start(receive, channel)
        scope.cancel()
        channel.send_nowait(1)
        await wait_all_tasks_blocked()
        assert running.results == []
        assert channel.receive_nowait() == (1, True)


@each_receive
async def test_a_close_then_a_cancellation_in_one_tick_reports_the_close(receive: Receive) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        scope = await running.start(receive, channel)
        channel.close()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert running.results == [None]


@pytest.mark.parametrize("first", QUEUEING)
@pytest.mark.parametrize("second", QUEUEING)
async def test_waiting_receivers_are_served_in_the_order_they_came(first: Receive, second: Receive) -> None:
    channel = csp.Channel[int]()
    results: list[tuple[int, int | None]] = []

    async def run(position: int, receive: Receive) -> None:
        results.append((position, await receive(channel)))

    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        await running.start(run, 0, first)
        await running.start(run, 1, second)
        channel.send_nowait(10)
        await wait_all_tasks_blocked()
        channel.send_nowait(11)
    assert results == [(0, 10), (1, 11)]


@each_receive
async def test_two_values_in_one_tick_reach_two_receivers(receive: Receive) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        await running.start(receive, channel)
        await running.start(receive, channel)
        channel.send_nowait(1)
        channel.send_nowait(2)
        with pytest.raises(trio.WouldBlock):
            channel.send_nowait(3)
        await wait_all_tasks_blocked()
        assert sorted(map(str, running.results)) == ["1", "2"]


# Sending --------------------------------------------------------------------------------------------------------------


@each_send
async def test_send_fills_the_buffer_at_once(send: Send) -> None:
    channel = csp.Channel[int](1)
    assert await send(channel, 1)
    assert channel.receive_nowait() == (1, True)


@each_send
@each_receive
async def test_send_hands_over_to_a_waiting_receiver(send: Send, receive: Receive) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        await running.start(receive, channel)
        assert await send(channel, 1)
        await wait_all_tasks_blocked()
        assert running.results == [1]


@each_send
async def test_send_waits_for_a_receiver(send: Send) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        await running.start(send, channel, 1)
        assert running.results == []
        assert len(channel) == 0
        assert channel.receive_nowait() == (1, True)
        await wait_all_tasks_blocked()
        assert running.results == [True]
    assert is_quiet(channel)


@each_send
async def test_send_waits_for_room(send: Send) -> None:
    channel = full()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        await running.start(send, channel, 1)
        assert running.results == []
        assert channel.receive_nowait() == (0, True)
        assert len(channel) == 1, "the place goes to the waiting sender at once"
        await wait_all_tasks_blocked()
        assert running.results == [True]
    assert channel.receive_nowait() == (1, True)


@each_send
async def test_send_on_a_closed_channel_is_an_error(send: Send) -> None:
    channel = csp.Channel[int](1)
    channel.close()
    assert not await send(channel, 1)
    assert len(channel) == 0


@each_send
@pytest.mark.parametrize("capacity", [0, 1])
async def test_send_is_woken_by_a_close_and_not_sent(send: Send, capacity: int) -> None:
    channel = csp.Channel[int](capacity)
    for value in range(capacity):
        channel.send_nowait(value)
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        await running.start(send, channel, 1)
        await running.start(send, channel, 2)
        channel.close()
        await wait_all_tasks_blocked()
        assert running.results == [False, False]
    assert is_quiet(channel)
    assert [v async for v in channel] == list(range(capacity))


@each_send
@pytest.mark.parametrize("capacity", [0, 1])
async def test_cancelled_send_is_not_sent_and_leaves_no_waiter(send: Send, capacity: int) -> None:
    channel = csp.Channel[int](capacity)
    for value in range(capacity):
        channel.send_nowait(value)
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        scope = await running.start(send, channel, 9)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert is_quiet(channel)
    channel.close()
    assert [v async for v in channel] == list(range(capacity))


@each_send
async def test_cancelled_send_passes_its_place_on(send: Send) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        scope = await running.start(send, channel, 1)
        await running.start(send, channel, 2)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert channel.receive_nowait() == (2, True)


@each_send
async def test_send_in_a_cancelled_scope_has_no_effect_when_ready(send: Send) -> None:
    channel = csp.Channel[int](1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await send(channel, 1)
    assert scope.cancelled_caught
    assert len(channel) == 0


@each_send
@each_receive
async def test_send_in_a_cancelled_scope_has_no_effect_on_a_waiting_receiver(send: Send, receive: Receive) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        await running.start(receive, channel)
        with trio.CancelScope() as scope:
            scope.cancel()
            await send(channel, 1)
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert running.results == []
        nursery.cancel_scope.cancel()


@each_send
async def test_send_in_a_cancelled_scope_is_cancelled_when_not_ready(send: Send) -> None:
    channel = full()
    with trio.CancelScope() as scope:
        scope.cancel()
        await send(channel, 1)
    assert scope.cancelled_caught
    assert is_quiet(channel)
    assert len(channel) == 1


@each_send
async def test_send_in_a_cancelled_scope_is_cancelled_when_closed(send: Send) -> None:
    channel = csp.Channel[int](1)
    channel.close()
    with trio.CancelScope() as scope:
        scope.cancel()
        await send(channel, 1)
    assert scope.cancelled_caught


@each_send
async def test_a_receive_then_a_cancellation_in_one_tick_completes_the_send(send: Send) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        scope = await running.start(send, channel, 1)
        assert channel.receive_nowait() == (1, True)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert running.results == [True]


@each_send
async def test_a_cancellation_then_a_receive_in_one_tick_sends_nothing(send: Send) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        scope = await running.start(send, channel, 1)
        scope.cancel()
        with pytest.raises(trio.WouldBlock):
            channel.receive_nowait()
        await wait_all_tasks_blocked()
        assert running.results == []


@pytest.mark.parametrize("first", SENDS)
@pytest.mark.parametrize("second", SENDS)
@pytest.mark.parametrize("capacity", [0, 1])
async def test_waiting_senders_are_served_in_the_order_they_came(first: Send, second: Send, capacity: int) -> None:
    channel = csp.Channel[int](capacity)
    for _ in range(capacity):
        channel.send_nowait(0)
    async with trio.open_nursery() as nursery:
        running = Running(nursery)
        await running.start(first, channel, 1)
        await running.start(second, channel, 2)
        await running.start(first, channel, 3)
        received = [(await channel.receive()).value for _ in range(3 + capacity)]
        assert received == [0] * capacity + [1, 2, 3]
