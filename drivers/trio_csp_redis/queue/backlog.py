"""What waits in a queue."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backlog:
    """What there was in a queue at one moment. Later versions may add fields."""

    waiting: int
    """Values that no worker has fetched yet."""
    in_hand: int
    """Values that a worker has fetched, is doing, or has given back."""
    dead_letters: int
    """Values that were given up. They do not count for the queue's capacity."""
    oldest_seconds: float
    """For how long the oldest value that is not done has been there; 0 if there is none."""

    @property
    def depth(self) -> int:
        """Values that are not done, `waiting` and `in_hand`. This is what the queue's capacity limits."""
        return self.waiting + self.in_hand
