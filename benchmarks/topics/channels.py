"""One channel between two tasks."""

from __future__ import annotations

from functools import partial

import trio
from trio.testing import wait_all_tasks_blocked

import csp
from benchmarks.meters.measure import Meter, Workload, available, microseconds, microseconds_of_asyncio
from benchmarks.peers import aiochan_channels, asyncio_queues, memory_channels
from benchmarks.peers.memory_channels import open_anyio, open_trio

CAPACITY = 100
PEER = "memory channel"
GROUP = "one channel"


async def produce(channel: csp.Channel[None]) -> None:
    """Send until cancelled."""
    while True:
        await channel.send(None)


async def one_to_one(capacity: int, count: int, meter: Meter) -> None:
    channel = csp.Channel[None](capacity)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, channel)
        await wait_all_tasks_blocked()
        with meter:
            for _ in range(count):
                await channel.receive()
        nursery.cancel_scope.cancel()


async def _iterate(count: int, meter: Meter) -> None:
    channel = csp.Channel[None](CAPACITY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, channel)
        await wait_all_tasks_blocked()
        with meter:
            left = count
            async for _ in channel:
                left -= 1
                if not left:
                    break
        nursery.cancel_scope.cancel()


async def ping_pong(count: int, meter: Meter) -> None:
    ping, pong = csp.Channel[None](), csp.Channel[None]()

    async def echo() -> None:
        while True:
            await ping.receive()
            await pong.send(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        await wait_all_tasks_blocked()
        with meter:
            for _ in range(count):
                await ping.send(None)
                await pong.receive()
        nursery.cancel_scope.cancel()


def _one_to_one_workload(name: str, capacity: int, target: float) -> Workload:
    peers = {PEER: microseconds(partial(memory_channels.one_to_one, open_trio, capacity))}
    if available("anyio"):
        peers["anyio"] = microseconds(partial(memory_channels.one_to_one, open_anyio, capacity))
    if available("aiochan"):
        peers["aiochan"] = microseconds_of_asyncio(partial(aiochan_channels.one_to_one, capacity))
    if capacity:
        peers["asyncio.Queue"] = microseconds_of_asyncio(partial(asyncio_queues.one_to_one, capacity))
    return Workload(
        f"1 to 1, {name}",
        microseconds(partial(one_to_one, capacity)),
        peers,
        ratio_targets={PEER: target},
        group=GROUP,
    )


def _iterate_workload() -> Workload:
    peers = {PEER: microseconds(partial(memory_channels.iterate, open_trio, CAPACITY))}
    if available("anyio"):
        peers["anyio"] = microseconds(partial(memory_channels.iterate, open_anyio, CAPACITY))
    if available("aiochan"):
        peers["aiochan"] = microseconds_of_asyncio(partial(aiochan_channels.iterate, CAPACITY))
    return Workload(
        "1 to 1, capacity 100, async for",
        microseconds(_iterate),
        peers,
        ratio_targets={PEER: 0.20},
        group=GROUP,
    )


def _ping_pong_workload() -> Workload:
    peers = {PEER: microseconds(partial(memory_channels.ping_pong, open_trio))}
    if available("anyio"):
        peers["anyio"] = microseconds(partial(memory_channels.ping_pong, open_anyio))
    if available("aiochan"):
        peers["aiochan"] = microseconds_of_asyncio(aiochan_channels.ping_pong)
    return Workload(
        "ping-pong",
        microseconds(ping_pong),
        peers,
        count=5_000,
        ratio_targets={PEER: 0.60},
        group=GROUP,
    )


WORKLOADS = (
    _one_to_one_workload("capacity 100", CAPACITY, 0.20),
    _iterate_workload(),
    _one_to_one_workload("unbuffered", 0, 0.60),
    _ping_pong_workload(),
)
