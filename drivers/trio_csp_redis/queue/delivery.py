"""`Delivery`: a value to be done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self, TypeVar, cast, final

import trio

from csp.errors import InvalidTypeError
from trio_csp_redis.queue.scripts import ACK, REJECT, RETRY, RETURN

if TYPE_CHECKING:
    from types import TracebackType

    from trio_csp_redis.queue.hold import Hold

T = TypeVar("T")

_MAX_REASON_CHARACTERS = 1000


class Owner(Protocol):
    """Who gave a delivery out."""

    def settle(self, hold: Hold[Any], what: bytes, reason: str = "") -> bool:
        """Say what becomes of a value; return False if it is settled, or another's, and nothing was done."""
        ...

    def dropped(self, hold: Hold[Any]) -> None:
        """Note that a delivery was garbage-collected unsettled. Called at any moment, in any thread."""


@final
class Delivery(Generic[T]):
    """A value of a queue, in the hands of this worker until it is settled.

        with delivery:
            await work(delivery.data)

    The end of the block acks it: it is done, and leaves the queue. An exception gives it back, to be tried again, and
    goes on out of the block. A cancellation gives it back at once, and does not count as an attempt; so do
    KeyboardInterrupt and its likes. If it was settled in the block, its end does nothing.

    While it is not settled, its lease is renewed. One that is garbage-collected unsettled is given back, as by `retry`,
    and a warning is logged.
    """

    __slots__ = ("_hold", "_owner")

    def __init__(self, hold: Hold[T], owner: Owner) -> None:
        self._hold = hold
        self._owner = owner

    @property
    def id(self) -> str:
        """What `Queue.send` returned for the value."""
        return self._hold.entry.decode()

    @property
    def data(self) -> T:
        """The value."""
        return self._hold.data

    @property
    def attempt(self) -> int:
        """How often the value was delivered, this time included; 1 for the first time.

        What a worker had fetched ahead when it died, or had to let go of because its lease had run out, counts as
        delivered to it, although nobody has seen it there.
        """
        return self._hold.attempt

    @property
    def lost(self) -> bool:
        """Whether another worker may have the value, because its lease may have run out.

        That happens where it was not renewed in time: there was no connection, or the program was stopped. It stays so
        once the value is known to be another's, and once it was to be settled; else it may become False again, with the
        next renewal.
        """
        return self._hold.lost

    def ack(self) -> bool:
        """Note that the value is done. It never waits: acks are sent in batches, at most 100 ms later.

        Returns False, and does nothing, if the delivery is settled or lost. An ack that does not reach the server
        before the lease has run out comes too late: the value is done again. See `Deliveries.flush`.
        """
        return self._owner.settle(self._hold, ACK)

    def retry(self) -> bool:
        """Give the value back, to be handed out again at once, here or elsewhere. It never waits.

        After ``max_deliveries`` it becomes a dead letter instead. Returns False, and does nothing, if the delivery is
        settled or lost.
        """
        return self._owner.settle(self._hold, RETRY)

    def reject(self, reason: str) -> bool:
        """Give the value up: make it a dead letter. It never waits.

        Returns False, and does nothing, if the delivery is settled or lost.

        Args:
            reason: what `DeadLetter.reason` says; of more than 1000 characters the rest is cut off.

        Raises:
            InvalidTypeError: it is no string.
        """
        if not isinstance(reason, str):
            raise InvalidTypeError(f"reason must be a string, not {type(reason).__name__}")
        return self._owner.settle(self._hold, REJECT, reason[:_MAX_REASON_CHARACTERS])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        what = ACK if exc is None else RETRY if _is_failure(exc) else RETURN
        self._owner.settle(self._hold, what)
        return False

    def __del__(self) -> None:
        hold = getattr(self, "_hold", None)
        if hold is not None and not (hold.settled or hold.gone):
            self._owner.dropped(hold)

    def __repr__(self) -> str:
        hold = self._hold
        state = "settled" if hold.settled else "lost" if hold.lost else "in hand"
        return f"<csp.redis.Delivery {self.id}, attempt {self.attempt}, {state}>"


def _is_failure(exc: BaseException) -> bool:
    """Tell whether the work failed; a cancellation beside a failure is one that the failure caused."""
    if isinstance(exc, BaseExceptionGroup):
        return any(map(_is_failure, cast("BaseExceptionGroup[BaseException]", exc).exceptions))
    return isinstance(exc, Exception) and not isinstance(exc, trio.Cancelled)
