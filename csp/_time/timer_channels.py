"""The channels on which timers give their times.

A timer is a deadline and nothing more: it is due once Trio's clock has reached it. It is registered with the run's
`Alarm` only while a task is parked on it or a selector watches it. So a forgotten timer costs nothing, and there is no
background task to stop, and no value in flight that `stop` or `reset` could miss.

The semantics are those of Go 1.23 (package time, "NewTimer"): after `stop` or `reset` no stale value is received.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, final

import trio
from trio.lowlevel import enable_ki_protection

from csp._core.queues import items
from csp._core.results import Received
from csp._core.source import Moment, Source, Watch
from csp._time.alarm import Alarm, current_alarm

if TYPE_CHECKING:
    from csp._core.waiters import Waiter

SILENT = math.inf


class TimerChannel(Source[float]):
    """The receiving side of a timer: a channel of the times, by `trio.current_time`, at which it was due.

    Never closed: a timer falls silent instead. It can only be received from.
    """

    __slots__ = ("_alarm", "_deadline", "_entry", "_rung")

    def __init__(self, deadline: float) -> None:
        # As in Source, but without the call: programs make many timers, often one for each select.
        self._receivers = None
        self._watches = None
        self._unaware = None
        self._handed = None
        self._selectors_turn = False
        self._deadline = deadline
        # Whether the alarm has rung for this deadline and the value was not taken yet.
        self._rung = False
        # Where the timer is registered, if it is.
        self._alarm: Alarm | None = None
        self._entry: float | None = None

    @property
    def _armed(self) -> bool:
        """Whether the timer is registered with the run's alarm."""
        return self._alarm is not None

    @property
    def _awaited(self) -> bool:
        """Whether a task is parked on the timer, or in a selector that watches it."""
        return self._receivers is not None or any(watch.parked for watch in items(self._watches))

    def is_ready(self, moment: Moment) -> bool:
        """Tell whether the timer is due and its value not taken yet."""
        return self._deadline != SILENT and self._deadline <= moment.time()

    @enable_ki_protection
    def receive_nowait(self) -> Received[float]:
        """Take the time at which the timer was due.

        Raises:
            trio.WouldBlock: it is not due yet, or its value was taken.
        """
        now = Moment().time()
        deadline = self._deadline
        if deadline == SILENT or deadline > now:
            raise trio.WouldBlock
        time, following = self._expire(now)
        if self._deadline != deadline:  # a finalizer has taken the value, or set the timer
            return self.receive_nowait()
        self._deadline = following
        self._set_alarm()
        return Received(time, True)

    @enable_ki_protection
    def _set_deadline(self, deadline: float) -> bool:
        """Set another deadline, `SILENT` for none; return whether a value was still to come or to be taken."""
        was_active = self._deadline != SILENT
        self._deadline = deadline
        self._set_alarm()
        return was_active

    def _set_alarm(self) -> None:
        """Register for a new deadline."""
        self._rung = False
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.disarm(self)
        self._arm()

    def _expire(self, now: float) -> tuple[float, float]:
        """Return the time to give for a deadline that has come, and the deadline after it."""
        return self._deadline, SILENT

    def _arm(self) -> None:
        """Register with the alarm if a task or a selector waits for it to ring."""
        if self._alarm is None and self._deadline != SILENT:
            # Selectors are told once; from then on they know that there is something to take.
            if self._receivers is None and (self._watches is None or self._rung):
                return
            self._alarm = current_alarm()
            self._alarm.arm(self)

    def _disarm(self) -> None:
        """Unregister if neither a task nor a selector waits any more."""
        # Without a call between the question and the deed, where a finalizer could add a selector.
        if self._receivers is None and (self._watches is None or self._rung):
            alarm, self._alarm = self._alarm, None
            if alarm is not None:
                alarm.disarm(self)

    @enable_ki_protection
    def _due(self) -> None:
        """Called by the alarm, which has unregistered the timer: serve a task that waits, or tell the selectors."""
        self._alarm = None
        self.wake()
        # If no task took it, the selectors know of it now; the alarm is needed again for the next deadline.
        self._rung = self.is_ready(Moment())
        self._arm()

    def _park(self, waiter: Waiter) -> None:
        if self._receivers is None:
            self._receivers = waiter
        else:
            self._join_receivers(waiter)
        if self._alarm is None:
            self._arm()

    def _unpark(self, waiter: Waiter) -> None:
        if self._receivers is waiter:
            self._receivers = None
        else:
            self._leave_receivers(waiter)
        self._disarm()

    def _watch(self, watch: Watch) -> None:
        super()._watch(watch)
        watch.when_forgotten(self._selector_forgotten)
        self._arm()

    def _unwatch(self, watch: Watch) -> None:
        super()._unwatch(watch)
        self._disarm()

    def _selector_forgotten(self) -> None:
        """Called when a selector that watches the timer is garbage collected: at any moment, in any thread."""
        alarm = self._alarm
        if alarm is not None:
            alarm.disarm_soon(self._drop_forgotten)

    @enable_ki_protection
    def _drop_forgotten(self) -> None:
        for watch in items(self._watches):
            if not watch.alive:
                self._unwatch(watch)

    def __repr__(self) -> str:
        state = "silent" if self._deadline == SILENT else f"due at {self._deadline:.3f}"
        return f"<csp.{type(self).__name__} {state}, at {id(self):#x}>"


@final
class AfterChannel(TimerChannel):
    """What `after` returns: a timer that cannot be set again."""

    __slots__ = ()

    one_shot: ClassVar[bool] = True

    @enable_ki_protection
    def receive_nowait(self) -> Received[float]:
        received = super().receive_nowait()
        self._forget_watches()  # whoever took the value
        return received


@final
class TickerChannel(TimerChannel):
    """A timer that is due again and again, on a grid that no delay shifts."""

    __slots__ = ("_period", "_start")

    def __init__(self, start: float, period: float) -> None:
        super().__init__(start + period)
        self._start = start
        self._period = period

    @enable_ki_protection
    def _restart(self, start: float, period: float) -> bool:
        """Tick at ``start + period``, ``start + 2 * period``, and so on; return what `_set_deadline` does."""
        self._start = start
        self._period = period
        return self._set_deadline(start + period)

    def _expire(self, now: float) -> tuple[float, float]:
        # Multiples of the period from the start, so that rounding errors do not add up over many ticks. The rounding of
        # the division may make the number wrong by one.
        number = math.floor((now - self._start) / self._period)
        while self._tick(number + 1) <= now:
            number += 1
        while self._tick(number) > now:
            number -= 1
        return self._tick(number), self._tick(number + 1)

    def _tick(self, number: int) -> float:
        return self._start + number * self._period
