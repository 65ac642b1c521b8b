"""What a channel occupies, as tracemalloc counts it.

That is everything Python allocates for it: the objects, their slots and dictionaries, the buffer's deque. The garbage
collector's headers count too; what the allocator loses by rounding up does not.
"""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING

import trio

import csp
from benchmarks.meters.measure import Measure, Workload
from benchmarks.topics.channels import CAPACITY, PEER

if TYPE_CHECKING:
    from collections.abc import Callable


def _bytes(make: Callable[[], object]) -> Measure:
    """Return the measure of the bytes of one object and all that comes with it."""

    def measure(count: int) -> float:
        make()  # What is made once for all of them is not counted.
        kept: list[object] = [None] * count
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for position in range(count):
                kept[position] = make()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return (after - before) / count

    return measure


def _idle() -> object:
    return csp.Channel[None]()


def _idle_memory() -> object:
    return trio.open_memory_channel[None](0)


def _used() -> object:
    channel = csp.Channel[None](CAPACITY)
    channel.send_nowait(None)
    channel.receive_nowait()
    return channel


def _used_memory() -> object:
    sender, receiver = ends = trio.open_memory_channel[None](CAPACITY)
    sender.send_nowait(None)
    receiver.receive_nowait()
    return ends


WORKLOADS = (
    Workload(
        "memory, an idle unbuffered channel",
        _bytes(_idle),
        {PEER: _bytes(_idle_memory)},
        count=2000,
        unit="B",
        group="memory",
        cost_target=250,
    ),
    Workload(
        "memory, a buffer that was used",
        _bytes(_used),
        {PEER: _bytes(_used_memory)},
        count=2000,
        unit="B",
        group="memory",
        ratio_targets={PEER: 1.2},
    ),
)
