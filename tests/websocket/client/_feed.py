"""A feed with servers in memory to come back to, and its states."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Unpack

import trio
from trio.testing import wait_all_tasks_blocked

from csp.errors import ConnectionFailedError, Kind
from csp.websocket import Client, Feed, Gap, State
from tests.websocket._server import Server, accepting
from trio_csp_websocket.client.backoff import Backoff
from trio_csp_websocket.client.destination import Destination
from trio_csp_websocket.client.keeper import Keeper
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from email.message import Message as Headers

    from csp.websocket import FeedOptions, Retry, Subscribe
    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.network.route import Route
    from trio_csp_websocket.protocol.url import Target
    from trio_csp_websocket.transport.base import Transport

URL = "ws://server.test/feed"


class Largest(random.Random):
    """Chance that always gives the longest delay, so that times can be told beforehand."""

    def uniform(self, a: float, b: float) -> float:
        assert 0 < a <= b
        return b


class Site:
    """What a feed connects to: one server after the other, then always a new one."""

    def __init__(self, *servers: Server | Exception) -> None:
        self.to_come = list(servers)
        self.servers: list[Server] = []
        """Those that were reached."""
        self.dialled_at: list[float] = []

    async def dial(self) -> Transport:
        self.dialled_at.append(trio.current_time())
        server = self.to_come.pop(0) if self.to_come else Server()
        if isinstance(server, Exception):
            raise server
        self.servers.append(server)
        return StreamTransport(server.stream)

    def feed(
        self,
        subscribe: Subscribe | None = None,
        *,
        url: str | Callable[[], str | Awaitable[str]] = URL,
        retry: Retry | None = None,
        min_seconds: float = 0.5,
        max_seconds: float = 30,
        max_attempts: int | None = None,
        **options: Unpack[FeedOptions],
    ) -> Feed:
        async def dial(_target: Target, _route: Route, _progress: Progress) -> Transport:
            return await self.dial()

        backoff = Backoff(min_seconds, max_seconds, Largest(), max_attempts=max_attempts)
        return Feed(Keeper(Destination(url, options), backoff, subscribe, retry, reach=dial))


def down() -> ConnectionFailedError:
    return ConnectionFailedError("nobody listens", kind=Kind.INTERNAL, retryable=True)


def refusing(status: str, *headers: str) -> Server:
    """Return a server that answers the handshake with another status."""
    return Server("\r\n".join([f"HTTP/1.1 {status}", "Content-Length: 0", *headers, "", ""]).encode())


def saying(*data: bytes, ends: bool = True, answers_close: bool = True) -> Server:
    """Return a server that says this at once, and then, if it ends, ends the stream."""

    def answer(request: Headers[str, str]) -> bytes:
        server.send(accepting(request), *data)
        if ends:
            server.end()
        return b""

    server = Server(answer, answers_close=answers_close)
    return server


def unwilling() -> Server:
    """Return a server that never answers the handshake."""
    return Server(b"")


async def rest(feed: Feed) -> list[object]:
    """Receive until the end: the data of messages, and gaps."""
    taken: list[object] = []
    with trio.fail_after(100_000):
        while (received := await feed.receive()).ok:
            value = received.value
            taken.append(value if isinstance(value, Gap) else value.data)
    return taken


def shape(values: list[object]) -> list[object]:
    """Return values with each gap as its attempts."""
    return [value.attempts if isinstance(value, Gap) else value for value in values]


async def settled() -> None:
    await wait_all_tasks_blocked()


async def first_message(client: Client) -> None:
    await anext(client)


def drained_states(feed: Feed) -> list[State]:
    """Take what states have come."""
    states: list[State] = []
    with suppress(trio.WouldBlock):
        while True:
            states.append(feed.states().receive_nowait().value)
    return states
