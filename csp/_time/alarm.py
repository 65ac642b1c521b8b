"""Wakes the tasks that are parked on timers: one system task for each Trio run, with a heap of deadlines.

A timer is put on the heap only when a task parks on it or a selector watches it. When it is disarmed, its entry stays
until its time comes or the heap is cleaned, because most timers in a select are replaced before they are due.

So the task may wake for a timer that nobody waits for any more: once, and then it sleeps until the first that somebody
waits for. But `trio.testing.MockClock` may jump ahead to the next deadline whenever every task waits. With such a clock
a timer that is disarmed takes its deadline with it. With others it does not, because a deadline would be set twice for
each select: 188 instructions more than 1091 (``python -m benchmarks.counts``, the row "select with a new after,
unbuffered").

A timer in a `csp.Selector` counts as waited for as long as the selector lives, as the deadline of a `trio.CancelScope`
does inside its block.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import RunVar, current_clock, current_trio_token, spawn_system_task

if TYPE_CHECKING:
    from collections.abc import Callable

_MIN_HEAP_TO_CLEAN = 64


class Alarmed(Protocol):
    """What the alarm needs of a timer."""

    _deadline: float
    """When `_due` is to be called."""

    _entry: float | None
    """The time of its entry in the heap, or None. Only the alarm sets it."""

    @property
    def _armed(self) -> bool:
        """Whether `_due` is to be called."""
        ...

    @property
    def _awaited(self) -> bool:
        """Whether a task is parked for it now."""
        ...

    def _due(self) -> None:
        """Called at the time of `_entry`, which disarms it."""


class Alarm:
    """The deadlines of one Trio run."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarmed]] = []
        self._sequence = itertools.count()
        self._armed = 0
        self._sleep = trio.CancelScope()
        self._wake_at = math.inf
        self._running = False
        self._token = current_trio_token()
        self._clock_jumps = hasattr(current_clock(), "autojump_threshold")

    def arm(self, timer: Alarmed) -> None:
        """Call ``timer._due`` at its deadline."""
        if not self._running:
            self._start()
        self._armed += 1
        deadline = timer._deadline
        if timer._entry != deadline:
            timer._entry = deadline
            heapq.heappush(self._heap, (deadline, next(self._sequence), timer))
            if deadline < self._wake_at:
                self._wake_at = deadline
                self._set_sleep()

    def disarm(self, timer: Alarmed) -> None:
        """Undo `arm`; the timer's ``_armed`` must be False by now."""
        self._armed -= 1
        if self._clock_jumps and self._heap and self._heap[0][2] is timer:
            self._wake_at = self._next_deadline()
            self._set_sleep()
        elif len(self._heap) > _MIN_HEAP_TO_CLEAN and len(self._heap) > 2 * self._armed:
            self._clean()

    def disarm_soon(self, disarm: Callable[[], object]) -> None:
        """Call ``disarm`` in the run, from any thread and at any moment, if a timer must not stay armed needlessly."""
        if self._clock_jumps:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(disarm)

    def _next_deadline(self) -> float:
        """Return the deadline of the first armed timer, and take the entries of others before it off the heap."""
        while True:
            # Asked here: behind the question of a while loop there is a jump back, where a finalizer may run.
            if not self._heap:
                return math.inf
            entry = self._heap[0]
            deadline, _, timer = entry
            current = timer._entry == deadline
            if current and timer._armed:
                return deadline
            if self._heap and self._heap[0] is entry:  # a finalizer may have taken it off meanwhile
                heapq.heappop(self._heap)
                if current:
                    timer._entry = None

    def _set_sleep(self) -> None:
        """Have the task sleep until `_wake_at`, which a finalizer may change meanwhile."""
        while self._sleep.deadline != self._wake_at:
            self._sleep.deadline = self._wake_at

    def _clean(self) -> None:
        """Drop the entries of disarmed timers: amortised, O(1) for each of them."""
        # What a finalizer arms meanwhile goes into the new heap.
        entries, self._heap = self._heap, []
        kept: list[Alarmed] = []
        for deadline, _, timer in entries:
            if timer._entry == deadline:
                timer._entry = None
                if timer._armed:
                    kept.append(timer)
        for timer in kept:
            timer._entry = deadline = timer._deadline
            heapq.heappush(self._heap, (deadline, next(self._sequence), timer))
        self._armed = len(kept)
        self._wake_at = self._next_deadline()
        self._set_sleep()

    def _start(self) -> None:
        # Fails when the run takes no more system tasks, in the finalizer of an async generator. A task that waits there
        # is cancelled, unless it is shielded: then nothing can wake it.
        self._running = True
        try:
            spawn_system_task(self._run, name="csp timers")
        except RuntimeError:
            self._running = False

    async def _run(self) -> None:
        try:
            while True:
                await self._sleep_and_ring()
        except trio.Cancelled:
            # The main task has ended. Tasks that still wait for a timer are shielded, and get what they wait for.
            with trio.CancelScope(shield=True):
                while any(timer._awaited for _, _, timer in self._heap):
                    await self._sleep_and_ring()
            raise
        finally:
            self._running = False

    async def _sleep_and_ring(self) -> None:
        self._wake_at = self._next_deadline()
        self._sleep = trio.CancelScope(deadline=self._wake_at)
        self._set_sleep()
        with self._sleep:
            await trio.sleep_forever()
        self._ring(trio.current_time())

    def _ring(self, now: float) -> None:
        while True:
            if not self._heap or self._heap[0][0] > now:  # asked here, as in `_next_deadline`
                return
            deadline, _, timer = heapq.heappop(self._heap)
            if timer._entry != deadline:
                continue  # It has been set to another time, which has an entry of its own.
            timer._entry = None
            if timer._armed:
                self._armed -= 1
                timer._due()


_alarm: RunVar[Alarm] = RunVar("csp_alarm")


def current_alarm() -> Alarm:
    """Return the alarm of the current Trio run."""
    try:
        return _alarm.get()
    except LookupError:
        alarm = Alarm()
        _alarm.set(alarm)
        return alarm
