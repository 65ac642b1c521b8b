"""What a feed reports besides messages: its states, and the gaps where messages may be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from csp.errors import ConnectionFailedError


class Gap(NamedTuple):
    """Stands between the messages of two connections: messages may have been missed here.

    It comes when the new connection is open and subscribed, so a consumer that reacts to it can use that connection.
    """

    error: ConnectionFailedError | None
    """Why the old connection ended, as `Client.error`: None if the server closed it with 1001 or without a code."""
    seconds: float
    """How long there was no connection. This counts from when the last message of the old one was put into the channel;
    a slow consumer delays that, and with it the new connection."""
    attempts: int
    """How many attempts the new connection took; at least 1."""

    def __str__(self) -> str:
        return f"gap of {self.seconds:.2f} s: {_why(self.error)}"


class State(NamedTuple):
    """What a feed is doing."""

    name: Literal["connecting", "open", "waiting", "closed"]
    """``"connecting"``, which includes subscribing; ``"open"``, until all that the connection received is in the
    feed's channel; ``"waiting"`` before the next attempt; or ``"closed"`` for good."""
    attempt: int
    """The number of the attempt in a row: 1 for the first, and for the first after a connection that lasted."""
    error: Exception | None = None
    """If waiting: why the attempt failed or the connection ended, None after 1001 or no code. If closed: the
    channel's ``cause``."""
    seconds: float = 0.0
    """If waiting: for how long."""

    def __str__(self) -> str:
        if self.name == "waiting":
            return f"waiting {self.seconds:.2f} s: {_why(self.error)}"
        if self.name == "connecting" and self.attempt > 1:
            return f"connecting, attempt {self.attempt}"
        return self.name if self.error is None else f"{self.name}: {self.error}"


def _why(error: Exception | None) -> str:
    return "the server closed the connection" if error is None else str(error)
