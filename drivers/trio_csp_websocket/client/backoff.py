"""Whether and when to connect again: which errors allow it, growing random delays, a server's Retry-After. No I/O."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

from csp.errors import Error, InvalidTypeError

# Not the generator of the `random` module: all copies of a program that seeds it would connect at the same moments.
_chance = random.Random()


def default_retry(error: Error) -> bool:
    """Say whether a feed comes back after ``error``, if it is not given a ``retry`` of its own: if that is retryable.

    So it comes back after a lost connection, a timeout, the server's close with 1001, 1011 to 1014, without a code or
    with one that must not be sent, and after a refusal with 408, 425, 429 or 5xx; and not after a close with 1000.

    Raises:
        InvalidTypeError: it is no `csp.errors.Error`.
    """
    if not isinstance(error, Error):
        raise InvalidTypeError(f"error must be a csp.errors.Error, not {type(error).__name__}")
    return bool(error.retryable)


class Backoff:
    """Counts attempts that fail in a row, and chooses the delays between them.

    A delay is a random number from ``min_seconds`` to a bound, evenly distributed. The bound starts at twice
    ``min_seconds``, and doubles with each attempt that fails, up to ``max_seconds``. But it is never more than

    - twice ``min_seconds``,
    - or the time since the outage began, if that is longer.

    So a client is back at the latest when the outage has lasted twice as long, however unlucky it was; without this,
    the few whose first delays are all short raise their bounds far above a short outage. An outage begins when a
    connection that lasted has ended, or with the very first attempt.

    Even delays up to the bound spread clients that all lost one server at the same time: see Marc Brooker, "Exponential
    Backoff And Jitter".

    All times are in seconds on one clock, which need not be the time of day.

    Args:
        min_seconds: the shortest delay.
        max_seconds: the largest bound, at least ``min_seconds``. If less than twice that, it is every delay's bound.
        chance: makes the random numbers.
        max_asked_seconds: the longest wait that a server's Retry-After can ask for.
        max_attempts: how many attempts may fail in a row; None for no limit.
    """

    def __init__(
        self,
        min_seconds: float,
        max_seconds: float,
        chance: random.Random = _chance,
        *,
        max_asked_seconds: float = math.inf,
        max_attempts: int | None = None,
    ) -> None:
        self._min_seconds = min_seconds
        self._max_seconds = max_seconds
        self._chance = chance
        self._max_asked_seconds = max_asked_seconds
        self._max_attempts = max_attempts
        self._first_bound_seconds = min(max_seconds, 2 * min_seconds)
        # What the next bound is if the outage has lasted that long.
        self._doubling_seconds = self._first_bound_seconds
        self._outage_began = math.inf
        self.failures: int = 0
        """How many attempts in a row have failed."""
        self.bound_seconds: float = self._first_bound_seconds
        """The bound of the delay after the latest attempt that has ended; before that, the first bound."""

    def attempt_began(self, now: float) -> None:
        """Note that an attempt begins. The very first begins an outage."""
        self._outage_began = min(self._outage_began, now)

    def attempt_ended(self, now: float, lasted_seconds: float) -> None:
        """Note the end of an attempt, and choose the bound of the delay that follows.

        The attempt has failed, unless its connection lasted longer than the bound of the delay before it; for the very
        first attempt, than the first bound. If it has not failed, the count of failures and the bound start again, and
        a new outage begins.

        Args:
            now: when it has ended.
            lasted_seconds: how long its connection was open; 0 if there was none.
        """
        if not self._began_anew(now, lasted_seconds):
            self.failures += 1
        self.bound_seconds = min(self._doubling_seconds, max(self._first_bound_seconds, now - self._outage_began))
        self._doubling_seconds = min(self._max_seconds, 2 * self._doubling_seconds)

    def attempt_abandoned(self, now: float, lasted_seconds: float) -> None:
        """Note that an attempt has not ended by itself: it has not failed, whatever its connection was.

        Args:
            now: as in `attempt_ended`.
            lasted_seconds: as in `attempt_ended`.
        """
        if self._began_anew(now, lasted_seconds):
            self.bound_seconds = self._first_bound_seconds

    def _began_anew(self, now: float, lasted_seconds: float) -> bool:
        """Begin a new outage if a connection that lasted has ended; return whether it did."""
        if lasted_seconds <= self.bound_seconds:
            return False
        self.failures = 0
        self._doubling_seconds = self._first_bound_seconds
        self._outage_began = now
        return True

    def next_delay(self, asked_seconds: float | None = None) -> float:
        """Return a delay in seconds: what the server asked for, but no more than is allowed, plus the random one.

        The random part is there also after a Retry-After: a server may ask all its clients for the same.
        """
        random_seconds = self._chance.uniform(self._min_seconds, self.bound_seconds)
        return min(asked_seconds or 0.0, self._max_asked_seconds) + random_seconds

    def exhausts(self, lasted_seconds: float) -> bool:
        """Whether an attempt that ends now, whose connection lasted so long, is the last of `max_attempts` in a row."""
        return lasted_seconds <= self.bound_seconds and self.failures + 1 == self._max_attempts

    @property
    def exhausted(self) -> bool:
        """Whether `max_attempts` have failed in a row."""
        return self.failures == self._max_attempts


def retry_after(error: Error | None, now: datetime) -> float | None:
    """Return the seconds that a refusal's Retry-After header asks to wait (RFC 9110, section 10.2.3).

    A date in it counts from the Date header of the same answer, which was made with the same clock; from ``now`` if
    there is none; one that has passed asks for 0. Returns None if nothing is asked: without an error or without its
    Retry-After, and for anything that is neither a date nor a number of at most ten digits (317 years).
    """
    headers = None if error is None else error.details.get("headers")
    if not isinstance(headers, Mapping):
        return None
    named = cast("Mapping[str, str]", headers)
    header = named.get("retry-after", "").strip(" \t")
    if re.fullmatch(r"[0-9]{1,10}", header):
        return float(header)
    until = _http_date(header)
    if until is None:
        return None
    return max(0.0, (until - (_http_date(named.get("date", "")) or now)).total_seconds())


def _http_date(text: str) -> datetime | None:
    """Parse a date in one of HTTP's three formats, all in UTC (RFC 9110, section 5.6.7); None if it is not a date."""
    # Here, because few servers send one, and `email` takes milliseconds to load.
    from email.utils import parsedate_to_datetime  # noqa: PLC0415

    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
