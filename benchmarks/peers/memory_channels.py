"""Trio's memory channels, and anyio's memory object streams, whose methods are the same; both on Trio."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeAlias

import trio
from trio.testing import wait_all_tasks_blocked

from benchmarks.meters.measure import Meter, load

Open: TypeAlias = Callable[[int], tuple[Any, Any]]
"""Opens a channel of a capacity; returns its sending and its receiving end."""


def open_trio(capacity: int) -> tuple[Any, Any]:
    """Open a memory channel of Trio's."""
    return trio.open_memory_channel[None](capacity)


def open_anyio(capacity: int) -> tuple[Any, Any]:
    """Open a memory object stream of anyio's."""
    sender, receiver = load("anyio").create_memory_object_stream(capacity)
    return sender, receiver


async def produce(sender: Any) -> None:
    """Send until cancelled."""
    with sender:
        while True:
            await sender.send(None)


async def one_to_one(open_channel: Open, capacity: int, count: int, meter: Meter) -> None:
    """Receive what one task sends."""
    sender, receiver = open_channel(capacity)
    with receiver:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce, sender)
            await wait_all_tasks_blocked()
            with meter:
                for _ in range(count):
                    await receiver.receive()
            nursery.cancel_scope.cancel()


async def clones(open_channel: Open, capacity: int, size: int, busy: int, count: int, meter: Meter) -> None:
    """Receive what tasks send on clones of one sending end."""
    sender, receiver = open_channel(capacity)
    with ExitStack() as stack:
        stack.enter_context(sender)
        stack.enter_context(receiver)
        senders = [stack.enter_context(sender.clone()) for _ in range(size)]
        async with trio.open_nursery() as nursery:
            for clone in senders[:busy]:
                nursery.start_soon(produce, clone)
            await wait_all_tasks_blocked()
            with meter:
                for _ in range(count):
                    await receiver.receive()
            nursery.cancel_scope.cancel()


async def iterate(open_channel: Open, capacity: int, count: int, meter: Meter) -> None:
    """Receive by ``async for`` what one task sends."""
    sender, receiver = open_channel(capacity)
    with receiver:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce, sender)
            await wait_all_tasks_blocked()
            with meter:
                left = count
                async for _ in receiver:
                    left -= 1
                    if not left:
                        break
            nursery.cancel_scope.cancel()


async def ping_pong(open_channel: Open, count: int, meter: Meter) -> None:
    """Send a value to another task, which sends one back."""
    ping_sender, ping_receiver = open_channel(0)
    pong_sender, pong_receiver = open_channel(0)

    async def echo() -> None:
        while True:
            await ping_receiver.receive()
            await pong_sender.send(None)

    with ping_sender, ping_receiver, pong_sender, pong_receiver:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            await wait_all_tasks_blocked()
            with meter:
                for _ in range(count):
                    await ping_sender.send(None)
                    await pong_receiver.receive()
            nursery.cancel_scope.cancel()
