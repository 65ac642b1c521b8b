"""Timers: `after` and `tick` make channels that give times; `Timer` and `Ticker` can be stopped and set again too."""

from __future__ import annotations

from typing import final

import trio

from csp._core.runs import no_run
from csp._time.duration import Duration, parse_duration, positive_duration, remembered
from csp._time.timer_channels import SILENT, AfterChannel, TickerChannel, TimerChannel


@final
class Timer:
    """A timer that can be stopped and set again, like Go's ``time.Timer``.

    Args:
        duration: how long until it is due: a Go duration string such as ``"1m30s"``, or a timedelta.

    Raises:
        InvalidError: the duration is malformed, or not above 0.
        InvalidTypeError: it is a bare number, which has no unit, or of another wrong type.
        NoContextError: called outside a Trio run.
    """

    __slots__ = ("_channel", "_seconds")

    def __init__(self, duration: Duration) -> None:
        now = _now()
        self._seconds = positive_duration(duration, "Timer's duration")
        self._channel = TimerChannel(now + self._seconds)

    @property
    def channel(self) -> TimerChannel:
        """Gives the time at which the timer was due, once; then nothing until `reset`."""
        return self._channel

    def stop(self) -> bool:
        """Stop the timer; nothing is received from it afterwards, not even a value that was due.

        Returns whether it was running, or was due with its value not taken.
        """
        return self._channel._set_deadline(SILENT)

    def reset(self, duration: Duration | None = None) -> bool:
        """Set the timer again, whether it runs, is due, or was stopped; a value not taken yet is dropped.

        Tasks parked on `channel` go on waiting, for the new time. Returns what `stop` would have returned.

        Args:
            duration: how long from now until it is due; None for as long as it was set for last.

        Raises: as `Timer` does.
        """
        now = _now()
        if duration is not None:
            self._seconds = positive_duration(duration, "Timer.reset's duration")
        return self._channel._set_deadline(now + self._seconds)

    def __repr__(self) -> str:
        return f"<csp.Timer of {self._channel!r}>"


@final
class Ticker:
    """A timer that is due again and again, like Go's ``time.Ticker``.

    The ticks stay on a grid from the start, however late they are received. Of several that are due and were not
    received, only the latest is kept.

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
        return self._channel._set_deadline(SILENT)

    def reset(self, duration: Duration | None = None) -> bool:
        """Start a new grid now. Returns whether it was ticking.

        Args:
            duration: the time between two ticks; None for what it was before.

        Raises: as `Timer` does.
        """
        period = self._channel._period if duration is None else positive_duration(duration, "Ticker.reset's duration")
        return self._channel._restart(_now(), period)

    def __repr__(self) -> str:
        return f"<csp.Ticker of {self._channel!r}>"


def after(duration: Duration) -> AfterChannel:
    """Return a channel that gives one value when ``duration`` has passed, and then stays silent (it is not closed).

    The value is the `trio.current_time` at which it was due. With a duration of 0 or less it is ready at once. It needs
    no nursery and no clean-up: a forgotten one costs nothing. See Go's ``time.After``.

    Raises: as `Timer` does, except that the duration need not be above 0.
    """
    seconds = remembered.get(duration) if isinstance(duration, str) else None
    if seconds is None:
        seconds = parse_duration(duration, name="after's duration")
    return AfterChannel(_now() + seconds)


def tick(duration: Duration) -> TickerChannel:
    """Return the channel of a new `Ticker` that is never stopped. See Go's ``time.Tick``."""
    return TickerChannel(_now(), positive_duration(duration, "tick's duration"))


def _now() -> float:
    try:
        return trio.current_time()
    except RuntimeError:
        raise no_run("a timer") from None
