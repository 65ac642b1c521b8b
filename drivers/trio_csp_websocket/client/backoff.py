"""Whether and when to connect again: which endings allow it, growing random delays, a server's Retry-After. No I/O."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from trio_csp_websocket.protocol.constants import CloseCode

if TYPE_CHECKING:
    from csp.errors import Error

# Closes without an error after which the peer may still have more to send.
_COME_BACK = (CloseCode.GOING_AWAY, CloseCode.NO_STATUS)

# Not the generator of the `random` module: all copies of a program that seeds it would connect at the same moments.
_chance = random.Random()


def may_come_back(error: Error | None, code: int | None) -> bool:
    """Return whether to connect again after a connection or an attempt.

    Args:
        error: how it ended; None if it ended as it should.
        code: the close code; decides if there is no error.
    """
    return code in _COME_BACK if error is None else bool(error.retryable)


class Backoff:
    """Counts attempts that fail in a row, and chooses the delays between them.

    A delay is a random number from 0 to a bound, evenly distributed ("full jitter"). The bound doubles each time.

    Of the ways to spread clients that all lost one server at the same time, this one makes the least work: see Marc
    Brooker, "Exponential Backoff And Jitter".

    Args:
        min_seconds: the first bound.
        max_seconds: the largest bound.
        chance: makes the random numbers.
        max_attempts: how many attempts may fail in a row; None for no limit.
    """

    def __init__(
        self,
        min_seconds: float,
        max_seconds: float,
        chance: random.Random = _chance,
        *,
        max_attempts: int | None = None,
    ) -> None:
        self._min_seconds = min_seconds
        self._max_seconds = max_seconds
        self._chance = chance
        self._max_attempts = max_attempts
        self.failures: int = 0
        """How many attempts in a row have failed."""
        self.bound_seconds: float = min_seconds
        """The bound of the next delay."""

    def next_delay(self, retry_after_seconds: float = 0.0) -> float:
        """Return the next delay in seconds: what the server asked for, plus a random time up to the bound."""
        jitter = self._chance.uniform(0, self.bound_seconds)
        self.bound_seconds = min(self._max_seconds, 2 * self.bound_seconds)
        return retry_after_seconds + jitter

    def attempt_ended(self, lasted_seconds: float) -> None:
        """Note the end of an attempt. It has failed, unless its connection lasted longer than the bound.

        If it has not failed, both the count of failures and the bound start again.
        """
        if lasted_seconds > self.bound_seconds:
            self.failures = 0
            self.bound_seconds = self._min_seconds
        else:
            self.failures += 1

    @property
    def exhausted(self) -> bool:
        """Whether `max_attempts` have failed in a row."""
        return self.failures == self._max_attempts


def retry_after(error: Error | None, now: datetime) -> float:
    """Return the seconds that a refusal's Retry-After header asks to wait (RFC 9110, section 10.2.3).

    A date in it counts from the Date header of the same answer, which was made with the same clock; from ``now`` if
    there is none. Returns 0 for an error without Retry-After, for a date that has passed, and for anything that is
    neither a date nor a number of at most ten digits (317 years).
    """
    headers = None if error is None or error.details is None else error.details.get("headers")
    if not isinstance(headers, Mapping):
        return 0.0
    named = cast("Mapping[str, str]", headers)
    header = named.get("retry-after", "").strip(" \t")
    if re.fullmatch(r"[0-9]{1,10}", header):
        return float(header)
    until = _http_date(header)
    if until is None:
        return 0.0
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
