"""What a subscription has seen of a topic, and so what it missed. No I/O.

Values are numbered within an epoch, which lasts until the server loses the count. A number that is higher than the next
one tells how many are missing; another epoch, or a number that was there before, that it cannot be known how many are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, final

import csp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_redis.connection.line import Outage
    from trio_csp_redis.protocol.ids import Id

NO_EPOCH: Final = b""
"""Stands for that of the first value, before anything was published."""
_LOST_EPOCH: Final = b"?"
"""One that no value has."""


class Mark(NamedTuple):
    """Which value it is."""

    epoch: bytes
    number: int


def mark_of(fields: Sequence[bytes]) -> Mark | None:
    """Return which value an entry has; None if it is none of a topic."""
    if len(fields) != 6 or fields[::2] != [b"e", b"n", b"d"] or not fields[3].isdigit():
        return None
    return Mark(fields[1], int(fields[3]))


def mark_before(since: Id, epoch: bytes, found: bytes | None, *, kept: bool) -> Mark | None:
    """Return which value an id belongs to that a subscription begins after.

    Args:
        since: the id.
        epoch: the epoch of now.
        found: that of the entry with the id; None if there is none.
        kept: whether an entry is kept that is not above the id. Then nothing after it was trimmed.
    """
    milliseconds, number = since
    if found is not None:
        return Mark(found, number)
    if kept:
        return None
    # It was trimmed. An epoch begins with the milliseconds of its first id.
    begin = epoch.partition(b"-")[0]
    same = number > 0 and begin.isdigit() and int(begin) <= milliseconds
    return Mark(epoch if same else _LOST_EPOCH, number)


@final
class Position:
    """The last value of a topic that a subscription has seen."""

    __slots__ = ("_last", "_outage")

    def __init__(self) -> None:
        # None: whatever comes next, nothing is known to be missing.
        self._last: Mark | None = None
        self._outage: Outage | None = None

    def set(self, last: Mark | None) -> None:
        """Begin after a value; None: with whatever comes next."""
        self._last = last
        self._outage = None

    def begin_again(self) -> csp.Gap:
        """Begin with whatever comes next; return the gap that is before it."""
        outage = self._outage
        self.set(None)
        return gap(outage, None)

    def reconnected(self, outage: Outage) -> None:
        """Note an outage, which a gap before the next value will tell of, if there is one."""
        if self._outage is not None:  # nothing has come in between
            outage = outage._replace(
                seconds=self._outage.seconds + outage.seconds, attempts=self._outage.attempts + outage.attempts
            )
        self._outage = outage

    def follow(self, first: Mark, last: Mark, count: int) -> bool:
        """Go on to the last of ``count`` values if they follow each other and what was seen before; tell whether."""
        seen = self._last
        if (
            seen is None
            or first.epoch != seen.epoch
            or first.number != seen.number + 1
            or last.epoch != seen.epoch
            or last.number != seen.number + count
        ):
            return False
        self._last = last
        self._outage = None
        return True

    def gap_before(self, mark: Mark) -> csp.Gap | None:
        """Go on to a value; return the gap that is before it, or None."""
        seen, self._last = self._last, mark
        outage, self._outage = self._outage, None
        if seen is None:
            return None
        missed = None
        if seen.epoch in (mark.epoch, NO_EPOCH) and mark.number > seen.number:
            missed = mark.number - seen.number - 1
            if not missed:
                return None
        return gap(outage, missed)


def gap(outage: Outage | None, missed: int | None) -> csp.Gap:
    """Return a gap of an outage, or of a subscriber that was too slow or away."""
    if outage is None:
        return csp.Gap(None, 0.0, 0, missed)
    return csp.Gap(outage.error, outage.seconds, outage.attempts, missed)


def merged(earlier: csp.Gap, later: csp.Gap) -> csp.Gap:
    """Return one gap for two without a value in between, of which the later one is of unknown size."""
    seconds, attempts = earlier.seconds + later.seconds, earlier.attempts + later.attempts
    return csp.Gap(later.error or earlier.error, seconds, attempts, None)
