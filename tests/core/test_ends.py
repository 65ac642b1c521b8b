"""A channel's ends are Trio channels: for code written against Trio, with the errors that code expects."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp


def test_the_ends_are_trio_channels() -> None:
    channel = csp.Channel[int]()
    assert isinstance(channel.sender, trio.abc.SendChannel)
    assert isinstance(channel.receiver, trio.abc.ReceiveChannel)


def test_the_ends_know_their_channel() -> None:
    channel = csp.Channel[int]()
    assert channel.sender.channel is channel.receiver.channel is channel


async def test_values_go_through_like_through_a_memory_channel() -> None:
    async def produce(send_channel: trio.abc.SendChannel[int]) -> None:
        async with send_channel:
            for value in range(5):
                await send_channel.send(value)

    async def consume(receive_channel: trio.abc.ReceiveChannel[int]) -> list[int]:
        async with receive_channel:
            return [value async for value in receive_channel]

    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, channel.sender)
        assert await consume(channel.receiver) == list(range(5))


async def test_closing_the_sender_lets_the_receiver_drain() -> None:
    channel = csp.Channel[int](1)
    await channel.sender.send(1)
    await channel.sender.aclose()
    assert channel.closed
    assert await channel.receiver.receive() == 1
    with pytest.raises(trio.EndOfChannel):
        await channel.receiver.receive()


async def test_sending_after_closing_the_sender_is_closed_resource() -> None:
    channel = csp.Channel[int](1)
    await channel.sender.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await channel.sender.send(1)


async def test_closing_the_receiver_discards_what_is_buffered() -> None:
    channel = csp.Channel[Any](2)
    channel.send_nowait(1)
    channel.send_nowait(2)
    await channel.receiver.aclose()
    assert channel.closed
    assert channel._abandoned
    assert len(channel) == 0
    assert channel.receive_nowait() == (None, False)


async def test_sending_after_closing_the_receiver_is_broken_resource() -> None:
    channel = csp.Channel[int](1)
    await channel.receiver.aclose()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await channel.sender.send(1)
    assert not isinstance(caught.value, trio.ClosedResourceError)
    assert caught.value.__suppress_context__


async def test_a_waiting_sender_gets_broken_resource_when_the_receiver_closes() -> None:
    channel = csp.Channel[int](1)
    channel.send_nowait(1)

    async def send() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await channel.sender.send(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        await channel.receiver.aclose()
    assert len(channel) == 0, "a sender that waited must not slip in while the buffer is discarded"


async def test_receiving_after_closing_the_receiver_is_closed_resource() -> None:
    channel = csp.Channel[int](1)
    await channel.receiver.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await channel.receiver.receive()


async def test_a_waiting_receiver_gets_closed_resource_when_its_end_closes() -> None:
    channel = csp.Channel[int]()

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await channel.receiver.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await channel.receiver.aclose()


async def test_a_cause_reaches_trio_code_as_broken_resource() -> None:
    channel = csp.Channel[int](1)
    cause = OSError("broken")
    channel.send_nowait(1)
    channel.close(cause)
    assert await channel.receiver.receive() == 1
    with pytest.raises(trio.BrokenResourceError) as caught:
        await channel.receiver.receive()
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("end", ["sender", "receiver"])
async def test_aclose_in_a_cancelled_scope_closes_and_is_cancelled(end: str) -> None:
    channel = csp.Channel[int]()
    with trio.CancelScope() as scope:
        scope.cancel()
        await (channel.sender if end == "sender" else channel.receiver).aclose()
    assert scope.cancelled_caught
    assert channel.closed


@pytest.mark.parametrize("end", ["sender", "receiver"])
async def test_aclose_again_does_nothing(end: str) -> None:
    channel = csp.Channel[int]()
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await (channel.sender if end == "sender" else channel.receiver).aclose()
    assert channel.closed


async def test_a_selector_is_told_when_the_receiver_closes() -> None:
    channel = csp.Channel[Any](1)
    channel.send_nowait(1)
    with csp.Selector(channel.case_receive()) as selector:
        await channel.receiver.aclose()
        assert await selector.select() == (channel, None, False, False, 0, False)


def test_reprs_show_the_channel() -> None:
    channel = csp.Channel[int](2)
    assert repr(channel.sender) == f"<sender of {channel!r}>"
    assert repr(channel.receiver) == f"<receiver of {channel!r}>"
