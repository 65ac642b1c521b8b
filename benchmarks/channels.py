"""One channel between two tasks."""

from __future__ import annotations

from functools import partial

import trio
from trio.testing import wait_all_tasks_blocked

import csp
from benchmarks._measure import Stopwatch, Workload, microseconds

CAPACITY = 100
PEER = "memory channel"


async def produce(channel: csp.Channel[None]) -> None:
    """Send until cancelled."""
    while True:
        await channel.send(None)


async def produce_memory(channel: trio.MemorySendChannel[None]) -> None:
    """Send until cancelled, to a memory channel."""
    with channel:
        while True:
            await channel.send(None)


async def _one_to_one(capacity: int, count: int, stopwatch: Stopwatch) -> None:
    channel = csp.Channel[None](capacity)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, channel)
        await wait_all_tasks_blocked()
        with stopwatch:
            for _ in range(count):
                await channel.receive()
        nursery.cancel_scope.cancel()


async def _one_to_one_memory(capacity: int, count: int, stopwatch: Stopwatch) -> None:
    sender, receiver = trio.open_memory_channel[None](capacity)
    async with trio.open_nursery() as nursery, receiver:
        nursery.start_soon(produce_memory, sender)
        await wait_all_tasks_blocked()
        with stopwatch:
            for _ in range(count):
                await receiver.receive()
        nursery.cancel_scope.cancel()


async def _iterate(count: int, stopwatch: Stopwatch) -> None:
    channel = csp.Channel[None](CAPACITY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, channel)
        await wait_all_tasks_blocked()
        with stopwatch:
            left = count
            async for _ in channel:
                left -= 1
                if not left:
                    break
        nursery.cancel_scope.cancel()


async def _iterate_memory(count: int, stopwatch: Stopwatch) -> None:
    sender, receiver = trio.open_memory_channel[None](CAPACITY)
    async with trio.open_nursery() as nursery, receiver:
        nursery.start_soon(produce_memory, sender)
        await wait_all_tasks_blocked()
        with stopwatch:
            left = count
            async for _ in receiver:
                left -= 1
                if not left:
                    break
        nursery.cancel_scope.cancel()


async def _ping_pong(count: int, stopwatch: Stopwatch) -> None:
    ping, pong = csp.Channel[None](), csp.Channel[None]()

    async def echo() -> None:
        while True:
            await ping.receive()
            await pong.send(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        await wait_all_tasks_blocked()
        with stopwatch:
            for _ in range(count):
                await ping.send(None)
                await pong.receive()
        nursery.cancel_scope.cancel()


async def _ping_pong_memory(count: int, stopwatch: Stopwatch) -> None:
    ping_sender, ping_receiver = trio.open_memory_channel[None](0)
    pong_sender, pong_receiver = trio.open_memory_channel[None](0)

    async def echo() -> None:
        while True:
            await ping_receiver.receive()
            await pong_sender.send(None)

    with ping_sender, ping_receiver, pong_sender, pong_receiver:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            await wait_all_tasks_blocked()
            with stopwatch:
                for _ in range(count):
                    await ping_sender.send(None)
                    await pong_receiver.receive()
            nursery.cancel_scope.cancel()


def _one_to_one_workload(name: str, capacity: int, target: float) -> Workload:
    return Workload(
        f"1 to 1, {name}",
        microseconds(partial(_one_to_one, capacity)),
        {PEER: microseconds(partial(_one_to_one_memory, capacity))},
        ratio_target=target,
    )


WORKLOADS = (
    _one_to_one_workload("capacity 100", CAPACITY, 0.20),
    Workload(
        "1 to 1, capacity 100, async for",
        microseconds(_iterate),
        {PEER: microseconds(_iterate_memory)},
        ratio_target=0.20,
    ),
    _one_to_one_workload("unbuffered", 0, 0.60),
    Workload(
        "ping-pong",
        microseconds(_ping_pong),
        {PEER: microseconds(_ping_pong_memory)},
        count=5_000,
        ratio_target=0.60,
    ),
)
