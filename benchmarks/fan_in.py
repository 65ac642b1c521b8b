"""One task receives from many: `csp.select` and `csp.Selector`, each over a channel a producer.

The peer is one memory channel whose sending end every producer has a clone of. It cannot tell where a value came from,
nor wait for anything but these producers; it is what one would write with Trio alone.

A producer that is *busy* sends without end: its buffer is full when the clock starts, and it is woken whenever there
is room. The others never send anything.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import trio
from trio.testing import wait_all_tasks_blocked

import csp
from benchmarks._measure import Measure, Stopwatch, Workload, microseconds
from benchmarks.channels import CAPACITY, produce, produce_memory

SIZES = (2, 8, 64, 512, 4096)
PEER = "clones"


async def _clones(size: int, busy: int, count: int, stopwatch: Stopwatch) -> None:
    sender, receiver = trio.open_memory_channel[None](CAPACITY)
    with ExitStack() as stack:
        stack.enter_context(sender)
        stack.enter_context(receiver)
        clones = [stack.enter_context(sender.clone()) for _ in range(size)]
        async with trio.open_nursery() as nursery:
            for clone in clones[:busy]:
                nursery.start_soon(produce_memory, clone)
            await wait_all_tasks_blocked()
            with stopwatch:
                for _ in range(count):
                    await receiver.receive()
            nursery.cancel_scope.cancel()


async def _selector(size: int, busy: int, count: int, stopwatch: Stopwatch) -> None:
    channels = [csp.Channel[None](CAPACITY) for _ in range(size)]
    async with trio.open_nursery() as nursery:
        for channel in channels[:busy]:
            nursery.start_soon(produce, channel)
        with csp.Selector(*(channel.case_receive() for channel in channels)) as selector:
            await wait_all_tasks_blocked()
            with stopwatch:
                for _ in range(count):
                    await selector.select()
        nursery.cancel_scope.cancel()


async def _select(size: int, busy: int, count: int, stopwatch: Stopwatch) -> None:
    """Select over cases made anew for each value, as a literal ``select(a.case_receive(), ...)`` does."""
    channels = [csp.Channel[None](CAPACITY) for _ in range(size)]
    async with trio.open_nursery() as nursery:
        for channel in channels[:busy]:
            nursery.start_soon(produce, channel)
        await wait_all_tasks_blocked()
        with stopwatch:
            for _ in range(count):
                await csp.select(*[channel.case_receive() for channel in channels])
        nursery.cancel_scope.cancel()


async def _select_parked(size: int, count: int, stopwatch: Stopwatch) -> None:
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
        with stopwatch:
            for _ in range(count):
                request.send_nowait(None)
                await csp.select(*cases)
        nursery.cancel_scope.cancel()


def _microseconds_a_case(count: int) -> float:
    """Return what one more case costs, by the difference of a select with few and one with many."""
    few, many = 8, 264
    costs: dict[int, float] = {}
    for size in (few, many):
        measure: Measure = microseconds(partial(_select_parked, size))
        costs[size] = measure(count)
    return (costs[many] - costs[few]) / (many - few)


def _selector_workload(size: int, *, all_busy: bool) -> Workload:
    busy = size if all_busy else 1
    target = 0.55 if all_busy else 0.65 if size >= 8 else None
    return Workload(
        f"Selector, {_producers(size, busy)}",
        microseconds(partial(_selector, size, busy)),
        {PEER: microseconds(partial(_clones, size, busy))},
        ratio_target=target,
    )


def _select_workload(size: int, *, all_busy: bool) -> Workload:
    busy = size if all_busy else 1
    target = (0.65 if all_busy else 0.85) if size == 8 else None
    return Workload(
        f"select, {_producers(size, busy)}",
        microseconds(partial(_select, size, busy)),
        {PEER: microseconds(partial(_clones, size, busy))},
        # A select that looks at thousands of cases takes milliseconds.
        count=10_000 if size <= 8 else max(200, 100_000 // size),
        ratio_target=target,
    )


def _producers(size: int, busy: int) -> str:
    return f"{size} busy" if busy == size else f"{busy} busy of {size}"


WORKLOADS = (
    *(_selector_workload(size, all_busy=True) for size in SIZES),
    *(_selector_workload(size, all_busy=False) for size in SIZES),
    Workload(
        "Selector, 1 busy of 4096 or of 8",
        microseconds(partial(_selector, 4096, 1)),
        {"Selector of 8": microseconds(partial(_selector, 8, 1))},
        ratio_target=1.3,
    ),
    *(_select_workload(size, all_busy=True) for size in SIZES),
    *(_select_workload(size, all_busy=False) for size in SIZES),
    Workload("select, parked, one more case", _microseconds_a_case, count=1000, cost_target=0.15),
)
