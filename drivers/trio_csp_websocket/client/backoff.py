"""Whether and when to connect again: what may go better, growing random delays, what a server asks for. No I/O."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, cast

from trio_csp_websocket.protocol.constants import CloseCode

if TYPE_CHECKING:
    from csp.errors import Error

# A peer that closes with these, and without an error, has not said that it has nothing more to give.
_COME_BACK = (CloseCode.GOING_AWAY, CloseCode.NO_STATUS)

# Of our own: where a program seeds the shared generator, all its copies would come back at the same moments.
_chance = random.Random()


def may_come_back(error: Error | None, code: int | None) -> bool:
    """Whether to connect again after a connection, or an attempt, that ended so.

    Args:
        error: how it ended; None if it ended as it should.
        code: the close code, which decides then.
    """
    return code in _COME_BACK if error is None else bool(error.retryable)


class Backoff:
    """Counts attempts that fail in a row, and gives the delays between them.

    The bound of the delays doubles each time; they are drawn evenly from 0 to the bound ("full jitter").

    See Marc Brooker, "Exponential Backoff And Jitter": of the ways to spread clients that all lost one server at the
    same time, this one makes the least work.

    Args:
        min_seconds: the first bound.
        max_seconds: the largest.
        chance: where the random numbers come from.
        max_attempts: how many attempts may fail in a row; None for no end.
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
        self.failures = 0
        """How many attempts in a row have failed."""
        self.bound_seconds = min_seconds
        """The bound of the next delay."""

    def next_delay(self, asked_seconds: float = 0.0) -> float:
        """Return the next delay in seconds: what the server asked for, and at random up to the bound on top of it."""
        jitter = self._chance.uniform(0, self.bound_seconds)
        self.bound_seconds = min(self._max_seconds, 2 * self.bound_seconds)
        return asked_seconds + jitter

    def attempt_ended(self, lasted_seconds: float) -> None:
        """Note the end of an attempt: it has failed, unless its connection lasted longer than the bound.

        After one that has not failed, failures and delays start again.
        """
        if lasted_seconds > self.bound_seconds:
            self.failures = 0
            self.bound_seconds = self._min_seconds
        else:
            self.failures += 1

    @property
    def exhausted(self) -> bool:
        """Whether as many attempts have failed as may."""
        return self.failures == self._max_attempts


def retry_after(error: Error | None, now: datetime) -> float:
    """Return the seconds that a refusal's Retry-After header asks to wait (RFC 9110, section 10.2.3).

    A date is taken relative to the Date header of the same answer, whose clock it was made with, and to ``now`` if
    there is none. 0 for an error without the header, for a date that has passed, and for what is neither a date nor a
    number of at most ten digits, which are 317 years.
    """
    headers = None if error is None or error.details is None else error.details.get("headers")
    if not isinstance(headers, Mapping):
        return 0.0
    named = cast("Mapping[str, str]", headers)
    asked = named.get("retry-after", "").strip(" \t")
    if re.fullmatch(r"[0-9]{1,10}", asked):
        return float(asked)
    until = _http_date(asked)
    if until is None:
        return 0.0
    return max(0.0, (until - (_http_date(named.get("date", "")) or now)).total_seconds())


def _http_date(text: str) -> datetime | None:
    """Return a date in any of HTTP's three formats (RFC 9110, section 5.6.7), all of them in UTC; None for no date."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
