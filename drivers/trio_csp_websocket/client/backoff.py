"""How long to wait before the next attempt: growing random delays, and what a server asks for. No I/O."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from csp.errors import Error

# Of our own: where a program seeds the shared generator, all its copies would come back at the same moments.
_chance = random.Random()


class Backoff:
    """Delays whose bound doubles each time, drawn evenly from 0 to the bound ("full jitter").

    See Marc Brooker, "Exponential Backoff And Jitter": of the ways to spread clients that all lost one server at the
    same time, this one makes the least work.

    Args:
        min_seconds: the first bound.
        max_seconds: the largest.
        chance: where the random numbers come from.
    """

    def __init__(self, min_seconds: float, max_seconds: float, chance: random.Random = _chance) -> None:
        self._min_seconds = min_seconds
        self._max_seconds = max_seconds
        self._chance = chance
        self.bound_seconds = min_seconds
        """The bound of the next delay."""

    def next_delay(self, asked_seconds: float = 0.0) -> float:
        """Return the next delay in seconds: what the server asked for, and at random up to the bound on top of it."""
        jitter = self._chance.uniform(0, self.bound_seconds)
        self.bound_seconds = min(self._max_seconds, 2 * self.bound_seconds)
        return asked_seconds + jitter

    def start_anew(self) -> None:
        """Let the next delay be as the first."""
        self.bound_seconds = self._min_seconds


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
    # Here, because few servers send one, and `email` takes milliseconds to load.
    from email.utils import parsedate_to_datetime  # noqa: PLC0415

    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
