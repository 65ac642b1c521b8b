"""Timers: channels that give the time.

A timer is a deadline and nothing more. It is due when Trio's clock has reached the deadline, whoever looks; only
while a task is parked on it, or a selector watches it, is it registered with the run's `Alarm`. So a timer
that is forgotten costs nothing, and there is no background task to stop and no value in flight that `stop` or `reset`
could miss.

The semantics are those of Go 1.23 (package time, "NewTimer"): after `stop` or `reset` no stale value is received.
"""

from __future__ import annotations

import math
from typing import ClassVar, Never, final

import trio
from trio.lowlevel import enable_ki_protection

from csp._core.source import Moment, Source, Watch
from csp._core.waiters import Received, Waiter, join, leave
from csp._time.alarm import Alarm, current_alarm
from csp._time.duration import Duration, parse_duration, positive_duration
from csp.errors import NoContextError

_SILENT = math.inf


class TimerChannel(Source[float]):
    """The receiving side of a timer: a channel of the times, by `trio.current_time`, at which it was due.

    Never closed. It can only be received from.
    """

    __slots__ = ("_alarm", "_deadline", "_entry", "_rung")

    def __init__(self, deadline: float) -> None:
        # As in Source, without the call: a program makes timers as it makes selects.
        self._receivers = None
        self._watches = ()
        self._selectors_turn = False
        self._deadline = deadline
        # The alarm has rung for this deadline, and the value waits to be taken.
        self._rung = False
        # Where the timer is registered, while it is.
        self._alarm: Alarm | None = None
        self._entry: float | None = None

    @property
    def closed(self) -> bool:
        """False: a timer falls silent instead."""
        return False

    @property
    def _armed(self) -> bool:
        """Whether the timer is registered with the run's alarm, because somebody waits for it."""
        return self._alarm is not None

    @property
    def _awaited(self) -> bool:
        """Whether a task is parked for the timer, itself or in a selector."""
        return self._receivers is not None or any(watch.parked for watch in self._watches)

    def is_ready(self, moment: Moment) -> bool:
        """Tell whether the timer is due and its value not taken yet."""
        return self._deadline != _SILENT and self._deadline <= moment.time()

    @enable_ki_protection
    def receive_nowait(self) -> Received[float]:
        """Take the time at which the timer was due.

        Raises:
            trio.WouldBlock: it is not due, or its value was taken.
        """
        moment = Moment()
        if not self.is_ready(moment):
            raise trio.WouldBlock
        time, deadline = self._expire(moment.time())
        self._set_deadline(deadline)
        return Received(time, True)

    @enable_ki_protection
    def _set_deadline(self, deadline: float) -> bool:
        """Be due at another time, or never with `math.inf`; return whether a value was still to come or to be taken."""
        was_active = self._deadline != _SILENT
        self._deadline = deadline
        self._rung = False
        self._unregister()
        self._arm()
        return was_active

    def _expire(self, now: float) -> tuple[float, float]:
        """Return the time to give for a deadline that has come, and the deadline after it."""
        return self._deadline, _SILENT

    def _arm(self) -> None:
        """Register with the alarm if somebody waits for it to ring."""
        if self._alarm is None and self._deadline != _SILENT and (self._receivers is not None or self._is_watched()):
            self._alarm = current_alarm()
            self._alarm.arm(self, self._deadline)

    def _disarm(self) -> None:
        """Unregister if nobody waits any more."""
        if self._receivers is None and not self._is_watched():
            self._unregister()

    def _unregister(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.disarm(self)

    def _is_watched(self) -> bool:
        # Selectors need to be told once; then they know that there is something to take.
        return bool(self._watches) and not self._rung

    @enable_ki_protection
    def _due(self) -> None:
        """Called by the alarm when the deadline has come, unregistered: serve who waits, or tell the selectors."""
        self._alarm = None
        self.serve()
        # If nobody took it, the selectors know now; the alarm is needed again after the next deadline.
        self._rung = self.is_ready(Moment())
        self._arm()

    def _park(self, waiter: Waiter) -> None:
        self._receivers = waiter if self._receivers is None else join(self._receivers, waiter)
        if self._alarm is None:
            self._arm()

    def _unpark(self, waiter: Waiter) -> None:
        self._receivers = None if self._receivers is waiter else leave(self._receivers, waiter)
        if self._receivers is None and not self._watches:
            self._unregister()
        else:
            self._disarm()

    def _watch(self, watch: Watch) -> None:
        super()._watch(watch)
        self._arm()

    def _unwatch(self, watch: Watch) -> None:
        super()._unwatch(watch)
        self._disarm()

    def __repr__(self) -> str:
        state = "silent" if self._deadline == _SILENT else f"due at {self._deadline:.3f}"
        return f"<csp.{type(self).__name__} {state}, at {id(self):#x}>"


@final
class AfterChannel(TimerChannel):
    """What `after` returns: a timer that cannot be set again."""

    __slots__ = ()

    one_shot: ClassVar[bool] = True


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
        """Be due at ``start + period``, ``start + 2 * period``, and so on; return what `_set_deadline` does."""
        self._start = start
        self._period = period
        return self._set_deadline(start + period)

    def _expire(self, now: float) -> tuple[float, float]:
        # Multiples of the period from the start, so that rounding does not add up over many ticks; and then the
        # division's own rounding may be off by one.
        number = math.floor((now - self._start) / self._period)
        while self._tick(number + 1) <= now:
            number += 1
        while self._tick(number) > now:
            number -= 1
        return self._tick(number), self._tick(number + 1)

    def _tick(self, number: int) -> float:
        return self._start + number * self._period


@final
class NeverChannel(Source[Never]):
    """A channel that never gives anything, like a nil channel in Go."""

    __slots__ = ()

    @property
    def closed(self) -> bool:
        """False: it is never closed."""
        return False

    def is_ready(self, moment: Moment) -> bool:
        return False

    def receive_nowait(self) -> Received[Never]:
        """Raise `trio.WouldBlock`."""
        raise trio.WouldBlock

    # Nothing ever wakes a waiter, so none is kept.
    def _park(self, waiter: Waiter) -> None: ...
    def _unpark(self, waiter: Waiter) -> None: ...
    def _watch(self, watch: Watch) -> None: ...
    def _unwatch(self, watch: Watch) -> None: ...

    def __repr__(self) -> str:
        return "<csp.never()>"


@final
class Timer:
    """A timer that can be stopped and set again, as Go's ``time.Timer``.

    Args:
        duration: how long until it is due: a Go duration string such as ``"1m30s"``, or a timedelta.

    Raises:
        InvalidError: the duration is malformed, or not above 0.
        InvalidTypeError: it is a bare number, which has no unit, or of another wrong type.
        NoContextError: called outside a Trio run.
    """

    __slots__ = ("_channel",)

    def __init__(self, duration: Duration) -> None:
        self._channel = TimerChannel(_now() + positive_duration(duration, "Timer's duration"))

    @property
    def channel(self) -> TimerChannel:
        """Gives the time at which the timer was due, once; then it is silent until `reset`."""
        return self._channel

    def stop(self) -> bool:
        """Stop the timer; nothing is received from it afterwards, not even a value that was due.

        Returns whether it was running, or was due with its value not taken.
        """
        return self._channel._set_deadline(_SILENT)

    def reset(self, duration: Duration) -> bool:
        """Set the timer anew, whether it runs, is due, or was stopped; a value not taken yet is dropped.

        What is parked on `channel` goes on waiting, for the new time. Returns what `stop` would have.
        """
        return self._channel._set_deadline(_now() + positive_duration(duration, "Timer.reset's duration"))

    def __repr__(self) -> str:
        return f"<csp.Timer of {self._channel!r}>"


@final
class Ticker:
    """A timer that is due again and again, as Go's ``time.Ticker``.

    The ticks stay on a grid from the start, however late they are received. Of several that were due and not received,
    only the latest is kept.

    Args:
        duration: the time between two ticks; errors are those of `Timer`.
    """

    __slots__ = ("_channel",)

    def __init__(self, duration: Duration) -> None:
        self._channel = TickerChannel(_now(), positive_duration(duration, "Ticker's duration"))

    @property
    def channel(self) -> TickerChannel:
        """Gives the time of each tick."""
        return self._channel

    def stop(self) -> bool:
        """Stop ticking; nothing is received afterwards. Returns whether it was ticking."""
        return self._channel._set_deadline(_SILENT)

    def reset(self, duration: Duration) -> bool:
        """Start a new grid now, with another time between ticks. Returns whether it was ticking."""
        return self._channel._restart(_now(), positive_duration(duration, "Ticker.reset's duration"))

    def __repr__(self) -> str:
        return f"<csp.Ticker of {self._channel!r}>"


def after(duration: Duration) -> AfterChannel:
    """Return a channel that gives one value when ``duration`` has passed, and then stays silent (it is not closed).

    The value is the `trio.current_time` at which it was due. With a duration of 0 or less it is ready at once. It needs
    no nursery and no clean-up: a forgotten one costs nothing. See Go's ``time.After``.

    Raises: as `Timer` does, except that a duration need not be above 0.
    """
    return AfterChannel(_now() + parse_duration(duration, name="after's duration"))


def tick(duration: Duration) -> TickerChannel:
    """Return the channel of a new `Ticker` that is never stopped. See Go's ``time.Tick``."""
    return TickerChannel(_now(), positive_duration(duration, "tick's duration"))


_never = NeverChannel()


def never() -> NeverChannel:
    """Return the channel that never gives anything; receiving from it waits until cancelled."""
    return _never


def _now() -> float:
    try:
        return trio.current_time()
    except RuntimeError:
        raise NoContextError("timers need a running Trio: create them inside trio.run") from None
