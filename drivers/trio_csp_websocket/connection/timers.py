"""Calls functions at their times: one task for many of them, as a deadline for each would cost too much.

All connections of a server share one; a client has its own.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

if TYPE_CHECKING:
    from collections.abc import Callable

_MIN_HEAP_TO_CLEAN = 64


class Timers:
    """A task that calls functions at their times.

    Args:
        nursery: where it runs: from when a timer is set for the first time.
        lasting: whether it stays until it is cancelled. Otherwise it ends when no timer is set any more.
    """

    __slots__ = ("_count", "_heap", "_lasting", "_nursery", "_running", "_set", "_sleep")

    def __init__(self, nursery: trio.Nursery, *, lasting: bool = False) -> None:
        self._nursery = nursery
        self._lasting = lasting
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        # How many timers are set.
        self._set = 0
        self._running = False
        # Around the wait for the first time of all.
        self._sleep = trio.CancelScope()

    def add(self, call: Callable[[], None]) -> Timer:
        """Return a timer that calls a function, which must not raise."""
        return Timer(self, call)

    def set(self, timer: Timer, deadline: float) -> None:
        """To be called by a timer that is set."""
        self._set += 1
        heapq.heappush(self._heap, (deadline, next(self._count), timer))
        if not self._running:
            self._running = True
            self._nursery.start_soon(self._run, name="csp.websocket timers")
        elif deadline < self._sleep.deadline:
            self._sleep.deadline = deadline

    def unset(self) -> None:
        """To be called by a timer that ends. What is left of it is dropped at its time, or where too much is left."""
        self._set -= 1
        if len(self._heap) > _MIN_HEAP_TO_CLEAN and len(self._heap) > 2 * self._set:
            self._heap = [entry for entry in self._heap if entry[2].is_set]
            heapq.heapify(self._heap)
        if not self._set and not self._lasting:
            self._sleep.cancel()

    @enable_ki_protection
    async def _run(self) -> None:
        while self._set or self._lasting:
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf) as self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                timer = heapq.heappop(self._heap)[2]
                if timer.is_set:
                    self._set -= 1
                    timer.due()
        self._running = False


class Timer:
    """Calls a function once, at a time that can be set again and again. Made by `Timers.add`."""

    __slots__ = ("_call", "_timers", "is_set")

    def __init__(self, timers: Timers, call: Callable[[], None]) -> None:
        self._timers = timers
        self._call: Callable[[], None] | None = call
        self.is_set: bool = False
        """Whether it will call the function."""

    def set(self, deadline: float) -> None:
        """Call the function at a time of Trio's clock. It must not be set now, and not have ended."""
        if deadline < math.inf:
            self.is_set = True
            self._timers.set(self, deadline)

    def end(self) -> None:
        """Call the function no more, and let go of it."""
        self._call = None
        if self.is_set:
            self.is_set = False
            self._timers.unset()

    def due(self) -> None:
        """Call the function."""
        self.is_set = False
        assert self._call is not None
        self._call()
