"""How long to wait before the next attempt: a random time, evenly distributed from the least to a bound that doubles.

Even times up to the bound spread clients that all lost one server at the same moment: see Marc Brooker, "Exponential
Backoff And Jitter", where it is called full jitter.
"""

from __future__ import annotations

import random

# Not the generator of the `random` module: all copies of a program that seeds it would connect at the same moments.
_chance = random.Random()


class Backoff:
    """Counts attempts that fail in a row, and chooses the waits between them.

    Args:
        min_seconds: the shortest wait; the bound starts at twice that.
        max_seconds: the largest bound.
    """

    def __init__(self, min_seconds: float, max_seconds: float) -> None:
        self._min_seconds = min_seconds
        self._max_seconds = max_seconds
        self.failures: int = 0
        """How many attempts in a row have failed."""

    @property
    def bound_seconds(self) -> float:
        """The longest that the next wait can be."""
        doubled = self._min_seconds * 2.0 ** min(max(1, self.failures), 60)
        return max(self._min_seconds, min(self._max_seconds, doubled))

    def fail(self) -> None:
        """Note that an attempt has failed."""
        self.failures += 1

    def succeed(self) -> None:
        """Note that a connection has lasted: waits start again with the shortest bound."""
        self.failures = 0

    def seconds(self) -> float:
        """Choose a wait."""
        return _chance.uniform(self._min_seconds, self.bound_seconds)
