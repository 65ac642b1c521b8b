"""A time limit on each receive, that never passes."""

from __future__ import annotations

from functools import partial

import trio
from trio.testing import wait_all_tasks_blocked

import csp
from benchmarks.meters.measure import Meter, Workload, microseconds
from benchmarks.peers import memory_channels
from benchmarks.topics.channels import CAPACITY, produce

PEER = "move_on_after"


async def select_after(capacity: int, count: int, meter: Meter) -> None:
    channel = csp.Channel[None](capacity)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, channel)
        await wait_all_tasks_blocked()
        with meter:
            for _ in range(count):
                await csp.select(channel.case_receive(), csp.after("30s").case_receive())
        nursery.cancel_scope.cancel()


async def _move_on_after(capacity: int, count: int, meter: Meter) -> None:
    sender, receiver = trio.open_memory_channel[None](capacity)
    async with trio.open_nursery() as nursery, receiver:
        nursery.start_soon(memory_channels.produce, sender)
        await wait_all_tasks_blocked()
        with meter:
            for _ in range(count):
                with trio.move_on_after(30):
                    await receiver.receive()
        nursery.cancel_scope.cancel()


def _after_workload(name: str, capacity: int) -> Workload:
    return Workload(
        f"select with a new after, {name}",
        microseconds(partial(select_after, capacity)),
        {PEER: microseconds(partial(_move_on_after, capacity))},
        ratio_targets={PEER: 0.50},
        group="timers",
    )


WORKLOADS = (_after_workload("capacity 100", CAPACITY), _after_workload("unbuffered", 0))
