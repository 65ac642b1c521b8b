"""Who is at a server: requests under way, connections that wait for their answer, open ones; and their counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import trio

from trio_csp_websocket.connection.statistics import Statistics, Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_csp_websocket.connection.connection import Connection
    from trio_csp_websocket.connection.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class ServerStatistics(Statistics):
    """Counts of a server so far, as `Server.statistics` returns them. Later versions may add some.

    Those of `Statistics` are sums over all connections that were accepted. What waits is that of the open ones.
    """

    accepted: int = field(kw_only=True)
    """How many connections were accepted."""
    rejected: Mapping[int, int] = field(kw_only=True)
    """How many requests were refused with each status: by the server, and by `ServerConnection.reject`."""
    timed_out: int = field(kw_only=True)
    """How many requests were not complete within ``handshake_timeout``, or were shut out for others."""
    open: int = field(kw_only=True)
    """How many of the connections that were accepted have not ended."""
    waiting: int = field(kw_only=True)
    """How many connections have not been answered."""


class Unanswered(Protocol):
    """A request that waits for its answer: an `Opening`."""

    def turn_away(self, why: str) -> None: ...


class Register:
    """Keeps account of a server's connections.

    Args:
        max_handshakes: how many requests may be incomplete at once, and how many refused clients are waited for.
    """

    def __init__(self, max_handshakes: int) -> None:
        self._max_handshakes = max_handshakes
        # The scopes of requests that are not complete, and of streams that end behind an answer, the oldest first.
        self._incomplete: dict[trio.CancelScope, None] = {}
        self._ending: dict[trio.CancelScope, None] = {}
        # Whether requests that are not complete are not waited for.
        self._shuts_out = False
        self.arriving: set[trio.CancelScope] = set()
        """The scopes of streams that are no open connections: around all that they do until they are."""
        self.unanswered: dict[Unanswered, None] = {}
        self.open: dict[Connection, Endpoint] = {}
        """Those accepted whose transport is not closed yet, the oldest first."""
        self.stopped: bool = False
        """Whether nothing more is taken in."""
        self.tasks: int = 0
        """How many streams have a task."""
        self.coming: int = 0
        """How many of them have no complete request yet."""
        self.crowd: int = 0
        """How many complete requests wait for room in the channel."""
        self.pages: int = 0
        """How many requests that want no WebSocket are being answered by the application."""
        # Of connections that were accepted; those whose transport is closed have ended there.
        self._totals = Totals()
        self.accepted: int = 0
        self.rejected: Counter[int] = Counter()
        self.timed_out: int = 0
        self._changed: trio.Event | None = None

    @property
    def size(self) -> int:
        """How many connections count towards ``max_connections``."""
        return len(self.open) + len(self.unanswered)

    def expect(self) -> None:
        """Count a stream that was accepted, before its task runs."""
        self.tasks += 1
        self.coming += 1

    def begin_request(self, scope: trio.CancelScope) -> None:
        """Take in a request that begins; the one that has been incomplete for longest makes room if there is none."""
        _make_room(self._incomplete, self._max_handshakes)
        self._incomplete[scope] = None
        if self._shuts_out:
            scope.cancel()

    def end_request(self, scope: trio.CancelScope) -> None:
        """Note that a request is complete, or will not be."""
        self._incomplete.pop(scope, None)
        self.coming -= 1
        self.changed()

    def begin_ending(self, scope: trio.CancelScope) -> None:
        """Take in a stream that ends behind an answer; the first of them makes room if there is none."""
        _make_room(self._ending, self._max_handshakes)
        self._ending[scope] = None

    def end_ending(self, scope: trio.CancelScope) -> None:
        self._ending.pop(scope, None)

    def shut_out(self) -> None:
        """Wait no longer for requests that are not complete, or begin now."""
        self._shuts_out = True
        for scope in self._incomplete:
            scope.cancel()

    def cut_off(self) -> None:
        """Close all streams that are no open connections, whatever they are about."""
        for scope in self.arriving:
            scope.cancel()

    def changed(self) -> None:
        """To be called when somebody may wait for less to be here."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds that a call of `changed` may bring about."""
        while not condition():
            if self._changed is None:
                self._changed = trio.Event()
            await self._changed.wait()

    @property
    def connections(self) -> tuple[Endpoint, ...]:
        """Those accepted that have not ended."""
        return tuple(connection for plane, connection in self.open.items() if plane.ending is None)

    def finished(self, connection: Connection) -> None:
        """Take note of the counts of a connection whose transport is closed: nothing more is counted."""
        if self.open.pop(connection, None) is not None:
            self._totals.end(connection)

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(
            **self._totals.with_open(self.open),
            accepted=self.accepted,
            rejected=MappingProxyType(dict(self.rejected)),
            timed_out=self.timed_out,
            open=len(self.connections),
            waiting=len(self.unanswered),
        )


def _make_room(scopes: dict[trio.CancelScope, None], most: int) -> None:
    if len(scopes) >= most:
        oldest = next(iter(scopes))
        del scopes[oldest]
        oldest.cancel()
