"""A value that a worker has, and its lease."""

from __future__ import annotations

from typing import Generic, TypeVar, final

from trio_csp_redis.queue import clock

T = TypeVar("T")


@final
class Hold(Generic[T]):
    """A value that a worker has, and its lease.

    Args:
        entry: the id of the entry.
        attempt: how often it was delivered, this time included.
        data: the value.
        leased_at: when the request was written that began the lease; on the clock of `clock`.
        lease_seconds: how long it lasts.
    """

    __slots__ = ("after", "attempt", "data", "entry", "gone", "lease_seconds", "leased_at", "settled")

    def __init__(self, entry: bytes, attempt: int, data: T, leased_at: float, lease_seconds: float) -> None:
        self.entry: bytes = entry
        self.attempt: int = attempt
        self.data: T = data
        self.leased_at: float = leased_at
        self.lease_seconds: float = lease_seconds
        self.after: int | None = None
        """What was settled before it was its turn: how many were added to `settling` by then."""
        self.gone: bool = False
        """Whether it is known to be another's, or the server's again."""
        self.settled: bool = False
        """Whether it was said what becomes of it."""

    @property
    def lost(self) -> bool:
        """Whether another may have it: its lease may have run out."""
        return self.spent()

    def spent(self, share: float = 1.0) -> bool:
        """Return whether so much of its lease has run out, or it is another's."""
        return self.gone or clock.now() - self.leased_at >= share * self.lease_seconds
