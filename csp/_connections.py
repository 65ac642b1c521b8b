"""What the drivers' sources say about their connections: states, and gaps where values may be missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from csp.errors import ConnectionFailedError


@dataclass(frozen=True, slots=True)
class Gap:
    """Stands where values may be missing: between those of two connections, or because a consumer was too slow.

    It comes when the new connection is open, so a consumer that reacts to it can use that connection. One comes at the
    end too, if values were dropped and no connection followed. Later versions may add fields.
    """

    error: ConnectionFailedError | None
    """Why the old connection ended; None if the peer closed it as it should, with ``code`` and ``reason``, or if there
    was a connection all the time."""
    seconds: float
    """How long there was no connection, in all."""
    attempts: int
    """How many attempts the new connection took; 0 if there was one all the time, and the consumer was too slow."""
    missed: int | None = None
    """How many values are missing; None if that is not known.

    On a WebSocket connection that comes back: at least how many, which are those that connections in between received,
    and that were dropped because earlier ones still waited. What the peer sent meanwhile is not known."""
    code: int | None = None
    """The close code of the old connection, if its protocol has them."""
    reason: str | None = None
    """The reason that goes with ``code``."""

    def __str__(self) -> str:
        if self.error is None and self.code is None and not self.attempts:
            return f"gap: {'some' if self.missed is None else self.missed} values are missing"
        return f"gap of {self.seconds:.2f} s: {_why(self.error)}"


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """What a driver's source that connects again is doing. Later versions may add fields."""

    name: Literal["connecting", "open", "waiting", "closed"]
    """``"connecting"``, which includes subscribing; ``"open"``, until the connection has ended; ``"waiting"`` before
    the next attempt; or ``"closed"`` for good. What was received may still be on its way to the channel."""
    attempt: int
    """The number of the attempt in a row: 1 for the first, and for the first after a connection that lasted."""
    error: BaseException | None = None
    """If waiting: why the attempt failed or the connection ended, None if the peer closed it as it should. If closed:
    the ``cause`` of the values' source."""
    seconds: float = 0.0
    """If waiting: for how long."""
    asked_seconds: float | None = None
    """If waiting: what the server asked to wait by Retry-After, if it did. ``seconds`` may be less."""

    def __str__(self) -> str:
        if self.name == "waiting":
            asked = "" if self.asked_seconds is None else f" (the server asked for {self.asked_seconds:.0f} s)"
            return f"waiting {self.seconds:.2f} s{asked}: {_why(self.error)}"
        if self.name == "connecting" and self.attempt > 1:
            return f"connecting, attempt {self.attempt}"
        return self.name if self.error is None else f"{self.name}: {self.error}"


def _why(error: BaseException | None) -> str:
    return "the peer closed the connection" if error is None else str(error)
