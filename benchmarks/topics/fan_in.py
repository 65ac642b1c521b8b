"""One task receives from many: `csp.select` and `csp.Selector`, each over a channel a producer.

The first peer is one memory channel whose sending end every producer has a clone of. It cannot tell where a value came
from, nor wait for anything but these producers; it is what one would write with Trio alone. The others: clones of
anyio's stream, `asyncio.wait` over a queue a producer, aiochan's select, Go's `reflect.Select`.

A producer that is *busy* sends without end: its buffer is full when the clock starts, and it is woken whenever there
is room. The others never send anything.
"""

from __future__ import annotations

from functools import partial

import trio
from trio.testing import wait_all_tasks_blocked

import csp
from benchmarks.meters.measure import (
    Elsewhere,
    Measure,
    Meter,
    Workload,
    available,
    fewer,
    microseconds,
    microseconds_of_asyncio,
)
from benchmarks.peers import aiochan_channels, asyncio_queues, go_select, memory_channels
from benchmarks.peers.memory_channels import open_anyio, open_trio
from benchmarks.topics.channels import CAPACITY, produce

SIZES = (2, 8, 64, 512, 4096)
PEER = "clones"
AIOCHAN = "aiochan select"
GO = "Go reflect.Select"
GROUP = "fan-in"

_GO_TARGETS = {64: 1.0, 4096: 0.01}


async def selector(size: int, busy: int, count: int, meter: Meter) -> None:
    channels = [csp.Channel[None](CAPACITY) for _ in range(size)]
    async with trio.open_nursery() as nursery:
        for channel in channels[:busy]:
            nursery.start_soon(produce, channel)
        with csp.Selector(*(channel.case_receive() for channel in channels)) as selector:
            await wait_all_tasks_blocked()
            with meter:
                for _ in range(count):
                    await selector.select()
        nursery.cancel_scope.cancel()


async def select(size: int, busy: int, count: int, meter: Meter) -> None:
    """Select over cases made anew for each value, as a literal ``select(a.case_receive(), ...)`` does."""
    channels = [csp.Channel[None](CAPACITY) for _ in range(size)]
    async with trio.open_nursery() as nursery:
        for channel in channels[:busy]:
            nursery.start_soon(produce, channel)
        await wait_all_tasks_blocked()
        with meter:
            for _ in range(count):
                await csp.select(*[channel.case_receive() for channel in channels])
        nursery.cancel_scope.cancel()


async def select_parked(size: int, count: int, meter: Meter) -> None:
    """Park in every select, over cases made once: the other task answers only when this one has parked."""
    request, reply = csp.Channel[None](), csp.Channel[None]()
    cases = [csp.Channel[None]().case_receive() for _ in range(size - 1)] + [reply.case_receive()]

    async def answer() -> None:
        while True:
            await request.receive()
            reply.send_nowait(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        await wait_all_tasks_blocked()
        with meter:
            for _ in range(count):
                request.send_nowait(None)
                await csp.select(*cases)
        nursery.cancel_scope.cancel()


def _microseconds_a_case(count: int) -> float:
    """Return what one more case costs, by the difference of a select with few and one with many."""
    few, many = 8, 264
    costs: dict[int, float] = {}
    for size in (few, many):
        measure: Measure = microseconds(partial(select_parked, size))
        costs[size] = measure(count)
    return (costs[many] - costs[few]) / (many - few)


def _producers(size: int, busy: int) -> str:
    return f"{size} busy" if busy == size else f"{busy} busy of {size}"


def _clones_of(size: int, busy: int) -> dict[str, Measure]:
    return {PEER: microseconds(partial(memory_channels.clones, open_trio, CAPACITY, size, busy))}


def _selector_workload(size: int, *, all_busy: bool) -> Workload:
    busy = size if all_busy else 1
    peers = _clones_of(size, busy)
    targets: dict[str, float] = {}
    if all_busy:
        targets[PEER] = 0.55
    elif size >= 8:
        targets[PEER] = 0.65
    if available("anyio"):
        peers["anyio clones"] = microseconds(partial(memory_channels.clones, open_anyio, CAPACITY, size, busy))
    waiting = microseconds_of_asyncio(partial(asyncio_queues.wait, CAPACITY, size, busy))
    # A wait looks at every task, but gives a value of each busy queue.
    peers["asyncio.wait"] = waiting if all_busy else fewer(waiting, max(1, size // 32))
    if not all_busy and go_select.available():
        peers[GO] = Elsewhere(fewer(partial(go_select.select, size), max(1, size // 64)))
        if size in _GO_TARGETS:
            targets[GO] = _GO_TARGETS[size]
    return Workload(
        f"Selector, {_producers(size, busy)}",
        microseconds(partial(selector, size, busy)),
        peers,
        count=8192,  # A multiple of every size, for asyncio.wait.
        ratio_targets=targets,
        group=GROUP,
    )


def _select_workload(size: int, *, all_busy: bool) -> Workload:
    busy = size if all_busy else 1
    peers = _clones_of(size, busy)
    targets: dict[str, float] = {}
    if size == 8:
        targets = {PEER: 0.65 if all_busy else 0.85, AIOCHAN: 0.45}
    if available("aiochan"):
        peers[AIOCHAN] = fewer(
            microseconds_of_asyncio(partial(aiochan_channels.select, CAPACITY, size, busy)), max(1, size // 40)
        )
    return Workload(
        f"select, {_producers(size, busy)}",
        # A select that looks at thousands of cases takes milliseconds.
        fewer(microseconds(partial(select, size, busy)), max(1, size // 80)),
        peers,
        ratio_targets=targets,
        group=GROUP,
    )


WORKLOADS = (
    *(_selector_workload(size, all_busy=True) for size in SIZES),
    *(_selector_workload(size, all_busy=False) for size in SIZES),
    Workload(
        "Selector, 1 busy of 4096 or of 8",
        microseconds(partial(selector, 4096, 1)),
        {"Selector of 8": microseconds(partial(selector, 8, 1))},
        ratio_targets={"Selector of 8": 1.3},
        group=GROUP,
    ),
    *(_select_workload(size, all_busy=True) for size in SIZES),
    *(_select_workload(size, all_busy=False) for size in SIZES),
    Workload("select, parked, one more case", _microseconds_a_case, count=1000, cost_target=0.15, group=GROUP),
)
