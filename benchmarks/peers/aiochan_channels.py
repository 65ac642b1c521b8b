"""aiochan's channels and its `select`, on asyncio.

A channel of aiochan carries anything but None, which stands for its end.
"""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.meters.measure import Meter, load
from benchmarks.peers.asyncio_queues import settle


async def _produce(channel: Any) -> None:
    while True:
        await channel.put(True)


def _channel(capacity: int) -> Any:
    return load("aiochan").Chan(capacity or None)


async def one_to_one(capacity: int, count: int, meter: Meter) -> None:
    """Receive what one task sends."""
    channel = _channel(capacity)
    producer = asyncio.create_task(_produce(channel))
    await settle()
    with meter:
        for _ in range(count):
            await channel.get()
    producer.cancel()


async def iterate(capacity: int, count: int, meter: Meter) -> None:
    """Receive by ``async for`` what one task sends."""
    channel = _channel(capacity)
    producer = asyncio.create_task(_produce(channel))
    await settle()
    with meter:
        left = count
        async for _ in channel:
            left -= 1
            if not left:
                break
    producer.cancel()


async def ping_pong(count: int, meter: Meter) -> None:
    """Send a value to another task, which sends one back."""
    ping, pong = _channel(0), _channel(0)

    async def answer() -> None:
        while True:
            await ping.get()
            await pong.put(True)

    answering = asyncio.create_task(answer())
    await settle()
    with meter:
        for _ in range(count):
            await ping.put(True)
            await pong.get()
    answering.cancel()


async def select(capacity: int, size: int, busy: int, count: int, meter: Meter) -> None:
    """Select over a channel for each sending task."""
    aiochan_select = load("aiochan").select
    channels = [_channel(capacity) for _ in range(size)]
    producers = [asyncio.create_task(_produce(channel)) for channel in channels[:busy]]
    await settle()
    with meter:
        for _ in range(count):
            await aiochan_select(*channels)
    for producer in producers:
        producer.cancel()
