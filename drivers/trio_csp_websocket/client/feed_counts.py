"""What a feed has done so far: counts of all its connections, and of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trio_csp_websocket.connection.statistics import Statistics, Totals

if TYPE_CHECKING:
    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.connection.connection import Connection


@dataclass(frozen=True, slots=True)
class FeedStatistics(Statistics):
    """Counts of a feed so far, as `Feed.statistics` returns them. Later versions may add some.

    Those of `Statistics` are sums over all its connections. What waits to be sent is that of the open one, and
    ``messages_waiting_receive`` is what was not received from the feed, with the gaps between.
    """

    attempts: int = field(kw_only=True)
    """How many attempts to connect began."""
    connections: int = field(kw_only=True)
    """How many of them led to a connection that was opened, and on which ``subscribe`` succeeded."""
    missed: int = field(kw_only=True)
    """How many messages were received and dropped, as `Gap.missed` counts them."""


class FeedCounts:
    """Counts."""

    __slots__ = ("_connection", "_totals", "attempts", "connections", "missed")

    def __init__(self) -> None:
        self.attempts: int = 0
        self.connections: int = 0
        self.missed: int = 0
        self._totals = Totals()
        # The one that has not ended there.
        self._connection: Connection | None = None

    def begin(self, client: Client) -> None:
        """Count a connection."""
        self._connection = client._connection  # noqa: SLF001  # what is counted is below what users hold

    def end(self) -> None:
        """Keep the counts of the connection, which has ended."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._totals.end(connection)

    def statistics(self, *, waiting: int) -> FeedStatistics:
        """Return all counts.

        Args:
            waiting: how many messages and gaps were not received.
        """
        still_open = () if self._connection is None else (self._connection,)
        counts = {**self._totals.with_open(still_open), "messages_waiting_receive": waiting}
        return FeedStatistics(**counts, attempts=self.attempts, connections=self.connections, missed=self.missed)
