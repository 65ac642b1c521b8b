"""`from_receive_channel`: values in order and one at a time, for Trio's memory channels and any other."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp

ENDED: object = (None, False)


async def test_a_memory_channels_values_come_in_order_and_end() -> None:
    sender, receiver = trio.open_memory_channel[int](10)
    async with csp.from_receive_channel(receiver) as source, trio.open_nursery() as nursery:

        async def send() -> None:
            async with sender:
                for value in range(100):
                    await sender.send(value)

        nursery.start_soon(send)
        assert [value async for value in source] == list(range(100))
        assert (source.closed, source.cause) == (True, None)
    with pytest.raises(trio.EndOfChannel):
        receiver.receive_nowait()


async def test_what_a_memory_channel_buffers_is_ready_at_once_and_stays_there_until_it_is_received() -> None:
    sender, receiver = trio.open_memory_channel[int](10)
    for value in range(3):
        sender.send_nowait(value)
    async with csp.from_receive_channel(receiver) as source:
        r = await csp.select(source.case_receive(), default=True)
        assert (r.channel, r.value) == (source, 0)
        other = csp.Channel[str](1)
        other.send_nowait("first")
        assert (await csp.select(other.case_receive(), source.case_receive(), priority=True)).value == "first"
        await wait_all_tasks_blocked()
        assert receiver.statistics().current_buffer_used == 2
        assert source.receive_nowait() == (1, True)
    assert receiver.receive_nowait() == 2


async def test_a_memory_channels_sender_that_waits_is_ready() -> None:
    sender, receiver = trio.open_memory_channel[int](0)
    async with csp.from_receive_channel(receiver) as source, trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, 1)
        await wait_all_tasks_blocked()
        assert source.receive_nowait() == (1, True)


async def test_a_memory_channel_that_was_closed_unnoticed_is_ready() -> None:
    sender, receiver = trio.open_memory_channel[int](0)
    async with csp.from_receive_channel(receiver) as source:
        sender.close()
        first, second = (csp.Selector(source.case_receive()) for _ in range(2))
        assert source.receive_nowait() == ENDED
        assert (await first.select()).ok is False
        assert (await second.select()).ok is False
        assert (source.closed, source.cause) == (True, None)


async def test_a_memory_channel_closed_at_this_end_is_the_cause() -> None:
    sender, receiver = trio.open_memory_channel[int](1)
    clone = receiver.clone()
    async with csp.from_receive_channel(receiver) as source, csp.from_receive_channel(clone) as another:
        clone.close()
        assert await another.receive() == ENDED
        assert isinstance(another.cause, trio.ClosedResourceError)
        receiver.close()
        sender.close()
        assert source.receive_nowait() == ENDED
        assert isinstance(source.cause, trio.ClosedResourceError)


async def test_while_the_task_waits_in_the_memory_channel_nobody_overtakes_it() -> None:
    sender, receiver = trio.open_memory_channel[int](10)
    async with csp.from_receive_channel(receiver) as source:
        assert (await csp.select(source.case_receive(), default=True)).default
        await wait_all_tasks_blocked()
        for value in range(3):
            sender.send_nowait(value)
        # The task has the first value but has not run yet.
        with pytest.raises(trio.WouldBlock):
            source.receive_nowait()
        assert [(await source.receive()).value for _ in range(3)] == [0, 1, 2]


async def test_several_receivers_of_a_memory_channel_are_served_at_once_and_told_of_its_end() -> None:
    sender, receiver = trio.open_memory_channel[int](10)
    received: dict[int, object] = {}

    async def receive(number: int) -> None:
        received[number] = await source.receive()

    async with csp.from_receive_channel(receiver) as source, trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(receive, number)
            await wait_all_tasks_blocked()
        sender.send_nowait(1)
        sender.send_nowait(2)
        sender.close()
    assert received == {0: (1, True), 1: (2, True), 2: ENDED, 3: ENDED}


async def test_selectors_share_a_memory_channel() -> None:
    sender, receiver = trio.open_memory_channel[int](math.inf)
    received: list[int] = []
    async with csp.from_receive_channel(receiver) as source, trio.open_nursery() as nursery:

        async def collect() -> None:
            with csp.Selector(source.case_receive()) as selector:
                received.extend([r.value async for r in selector if r.ok])

        for _ in range(3):
            nursery.start_soon(collect)
        for value in range(200):
            sender.send_nowait(value)
            if value % 7 == 0:
                await wait_all_tasks_blocked()
        sender.close()
    assert sorted(received) == list(range(200))


async def test_any_receive_channel_will_do_ours_too() -> None:
    channel = csp.Channel[int](10)
    error = KeyError("why")
    channel.send_nowait(1)
    channel.close(error)
    async with csp.from_receive_channel(channel.receiver) as source:
        assert await source.receive() == (1, True)
        assert await source.receive() == ENDED
    assert isinstance(source.cause, trio.BrokenResourceError)
    assert source.cause.__cause__ is error


async def test_a_select_that_polls_sees_a_memory_channels_sender_that_waits() -> None:
    sender, receiver = trio.open_memory_channel[int](0)
    async with csp.from_receive_channel(receiver) as source, trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, 1)
        await wait_all_tasks_blocked()
        assert (await csp.select(source.case_receive(), default=True)).value == 1


async def test_a_selector_goes_on_after_another_receiver_has_emptied_the_memory_channel() -> None:
    sender, receiver = trio.open_memory_channel[int](10)
    clone = receiver.clone()
    sender.send_nowait(1)
    async with csp.from_receive_channel(receiver) as source:
        with csp.Selector(source.case_receive()) as selector, trio.fail_after(5):
            assert clone.receive_nowait() == 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send, 2)
                assert (await selector.select()).value == 2


async def test_a_memory_channel_that_ends_while_it_is_looked_at_is_at_its_end() -> None:
    sender, receiver = trio.open_memory_channel[int](0)
    async with csp.from_receive_channel(receiver) as source:
        with pytest.raises(trio.WouldBlock):
            source.receive_nowait()
        sender.close()
        await wait_all_tasks_blocked()
        assert source.receive_nowait() == ENDED


class Stopping(trio.abc.ReceiveChannel[int]):
    """Raises what ends an iteration, and no channel."""

    async def receive(self) -> int:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Nothing to close."""


async def test_what_ends_an_iteration_is_an_error_of_a_channel() -> None:
    async with csp.from_receive_channel(Stopping()) as source:
        assert await source.receive() == ENDED
    assert isinstance(source.cause, StopAsyncIteration)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("ended", [False, True])
async def test_in_a_cancelled_block_what_a_memory_channel_holds_is_still_taken_and_then_the_cause(
    asked: bool, ended: bool
) -> None:
    sender, receiver = trio.open_memory_channel[int](5)
    with trio.CancelScope() as scope:
        async with csp.from_receive_channel(receiver) as source:
            if asked:
                with pytest.raises(trio.WouldBlock):
                    source.receive_nowait()
                await wait_all_tasks_blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                if not asked:
                    with pytest.raises(trio.WouldBlock):
                        source.receive_nowait()
                await wait_all_tasks_blocked()
                assert source.closed
                for value in range(4):
                    sender.send_nowait(value)
                if ended:
                    sender.close()
                assert source.receive_nowait() == (0, True)
                assert await source.receive() == (1, True)
                assert (await csp.select(source.case_receive())).value == 2
                with csp.Selector(source.case_receive()) as selector:
                    assert [(r.value, r.ok) async for r in selector] == [(3, True), (None, False)]
                for _ in range(2):
                    assert source.receive_nowait() == ENDED
                    assert "the block of csp.from_receive_channel was cancelled" in str(source.cause)


async def test_in_a_cancelled_block_a_memory_channel_that_is_closed_at_this_end_changes_no_cause() -> None:
    _sender, receiver = trio.open_memory_channel[int](5)
    with trio.CancelScope() as scope:
        async with csp.from_receive_channel(receiver) as source:
            scope.cancel()
            with trio.CancelScope(shield=True):
                assert await source.receive() == ENDED
                receiver.close()
                assert await source.receive() == ENDED
                assert "was cancelled" in str(source.cause)


async def test_once_its_block_is_left_nothing_is_taken_from_a_memory_channel() -> None:
    sender, receiver = trio.open_memory_channel[int](5)
    for value in range(3):
        sender.send_nowait(value)
    received: list[object] = []

    async def receive(source: csp.Source[int]) -> None:
        received.append(await source.receive())

    async def select(source: csp.Source[int]) -> None:
        r = await csp.select(source.case_receive())
        received.append((r.value, r.ok))

    async def poll(source: csp.Source[int]) -> None:
        r = await csp.select(source.case_receive(), default=True)
        received.append(ENDED if r.default else (r.value, r.ok))

    async def select_by_selector(source: csp.Source[int]) -> None:
        with csp.Selector(source.case_receive()) as selector:
            received.extend([(r.value, r.ok) async for r in selector])

    async with trio.open_nursery() as nursery, csp.from_receive_channel(receiver) as source:
        await wait_all_tasks_blocked()
        for way in (receive, select, poll, select_by_selector) * 5:  # some run before the task of the block
            nursery.start_soon(way, source)
    assert received == [ENDED] * 20
    assert receiver.statistics().current_buffer_used == 3
