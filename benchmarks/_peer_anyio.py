"""anyio's memory object streams, on Trio."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from benchmarks._measure import Meter, load


def _open(capacity: int) -> tuple[Any, Any]:
    """Return the two ends of a stream."""
    sender, receiver = load("anyio").create_memory_object_stream(capacity)
    return sender, receiver


async def _produce(sender: Any) -> None:
    with sender:
        while True:
            await sender.send(None)


async def one_to_one(capacity: int, count: int, meter: Meter) -> None:
    """Receive what one task sends."""
    await clones(capacity, 1, 1, count, meter)


async def clones(capacity: int, size: int, busy: int, count: int, meter: Meter) -> None:
    """Receive what tasks send on clones of one sending end."""
    sender, receiver = _open(capacity)
    with ExitStack() as stack:
        stack.enter_context(sender)
        stack.enter_context(receiver)
        senders = [stack.enter_context(sender.clone()) for _ in range(size)]
        async with trio.open_nursery() as nursery:
            for clone in senders[:busy]:
                nursery.start_soon(_produce, clone)
            await wait_all_tasks_blocked()
            with meter:
                for _ in range(count):
                    await receiver.receive()
            nursery.cancel_scope.cancel()


async def iterate(capacity: int, count: int, meter: Meter) -> None:
    """Receive by ``async for`` what one task sends."""
    sender, receiver = _open(capacity)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_produce, sender)
        await wait_all_tasks_blocked()
        with receiver, meter:
            left = count
            async for _ in receiver:
                left -= 1
                if not left:
                    break
        nursery.cancel_scope.cancel()


async def ping_pong(count: int, meter: Meter) -> None:
    """Send a value to another task, which sends one back."""
    ping_sender, ping_receiver = _open(0)
    pong_sender, pong_receiver = _open(0)

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
