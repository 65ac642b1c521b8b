"""What a connection that comes back tells besides messages: its states, and where messages may be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from csp.errors import ConnectionFailedError


class Gap(NamedTuple):
    """Stands between the messages of two connections: some may have been missed here.

    It comes when the new connection is open and subscribed, so that whoever acts on it finds one.
    """

    error: ConnectionFailedError | None
    """Why the old connection ended, as `Client.error`: None if the server closed it with 1001 or without a code."""
    seconds: float
    """How long there was no connection. A consumer that keeps the old one's last messages waiting delays the new one;
    it counts from when they were passed on."""
    attempts: int
    """How many attempts the new connection took; at least 1."""

    def __str__(self) -> str:
        return f"gap of {self.seconds:.2f} s: {_why(self.error)}"


class State(NamedTuple):
    """What a feed is doing."""

    name: Literal["connecting", "open", "waiting", "closed"]
    """Connecting and subscribing; open, until all the connection received is passed on; waiting before the next
    attempt; or closed for good."""
    attempt: int
    """Which attempt in a row it is, or was; 1 is the first, and again that after a connection that lasted."""
    error: Exception | None = None
    """Waiting: why the attempt failed or the connection ended, None after 1001 or no code. Closed: the channel's
    ``cause``."""
    seconds: float = 0.0
    """Waiting: for how long."""

    def __str__(self) -> str:
        if self.name == "waiting":
            return f"waiting {self.seconds:.2f} s: {_why(self.error)}"
        if self.name == "connecting" and self.attempt > 1:
            return f"connecting, attempt {self.attempt}"
        return self.name if self.error is None else f"{self.name}: {self.error}"


def _why(error: Exception | None) -> str:
    return "the server closed the connection" if error is None else str(error)
