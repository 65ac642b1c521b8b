"""asyncio's queues, and `asyncio.wait` over one task a queue: what one would write with asyncio alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.meters.measure import Meter

_SETTLING_STEPS = 10
"""Turns of the loop after which every task has started, and those that can do no more have parked."""


async def settle() -> None:
    """Let the other tasks run until they have filled what they fill."""
    for _ in range(_SETTLING_STEPS):
        await asyncio.sleep(0)


async def _produce(queue: asyncio.Queue[None]) -> None:
    while True:
        await queue.put(None)


async def one_to_one(capacity: int, count: int, meter: Meter) -> None:
    """Receive what one task puts into a queue."""
    queue = asyncio.Queue[None](capacity)
    producer = asyncio.create_task(_produce(queue))
    await settle()
    with meter:
        for _ in range(count):
            await queue.get()
    producer.cancel()


async def wait(capacity: int, size: int, busy: int, count: int, meter: Meter) -> None:
    """Receive what tasks put into a queue each: a task waits at each queue, and a new one where it has got a value.

    The count is best a multiple of ``busy``, as each wait gives a value of every busy queue.
    """
    queues = [asyncio.Queue[None](capacity) for _ in range(size)]
    producers = [asyncio.create_task(_produce(queue)) for queue in queues[:busy]]
    waiting = {asyncio.create_task(queue.get()): queue for queue in queues}
    await settle()
    left = count
    with meter:
        while left > 0:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
                queue = waiting.pop(task)
                waiting[asyncio.create_task(queue.get())] = queue
            left -= len(done)
    for task in (*producers, *waiting):
        task.cancel()
