"""The WebSocket clients that are compared, each used as its documentation says.

All of them: no compression but in its own row, no pings of their own, messages up to 16 MiB, everything else as the
library has it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, TypeAlias
from unittest.mock import patch

import trio_websocket
from wsproto.events import Request
from wsproto.extensions import PerMessageDeflate

from benchmarks.meters.measure import available, load
from benchmarks.meters.rig import LIMIT_BYTES, Run, differences, on_asyncio, on_trio, on_uvloop
from benchmarks.peers import websocket_picows
from csp import websocket

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager


class Connection(Protocol):
    """What the benchmarks do with an open connection."""

    async def receive(self, count: int) -> None:
        """Receive so many messages."""

    async def send(self, text: str, count: int) -> None:
        """Send a message so many times."""

    async def ping_pong(self, text: str, count: int) -> list[float]:
        """Send a message and receive one, so many times; return the seconds that each took."""
        ...


class CoroutineConnection:
    """A connection of a library with a coroutine that sends a message and one that returns the next."""

    def __init__(self, send: Callable[[str], Awaitable[object]], receive: Callable[[], Awaitable[object]]) -> None:
        self._send = send
        self._receive = receive

    async def receive(self, count: int) -> None:
        receive = self._receive
        for _ in range(count):
            await receive()

    async def send(self, text: str, count: int) -> None:
        send = self._send
        for _ in range(count):
            await send(text)

    async def ping_pong(self, text: str, count: int) -> list[float]:
        send, receive = self._send, self._receive
        times = [perf_counter()]
        for _ in range(count):
            await send(text)
            await receive()
            times.append(perf_counter())
        return differences(times)


class IteratingConnection(CoroutineConnection):
    """A client of csp whose messages come by `async for`."""

    def __init__(self, client: websocket.Client) -> None:
        super().__init__(client.send, client.receive)
        self._client = client

    async def receive(self, count: int) -> None:
        async for _ in self._client:
            count -= 1
            if not count:
                return


class ManyConnection(CoroutineConnection):
    """A client of csp that receives what there is, and sends several messages together."""

    def __init__(self, client: websocket.Client) -> None:
        super().__init__(client.send, client.receive)
        self._client = client

    async def receive(self, count: int) -> None:
        while count:
            count -= len(await self._client.receive_many(count))

    async def send(self, text: str, count: int) -> None:
        messages = [text] * MANY
        for _ in range(count // MANY):
            await self._client.send_many(messages)
        await self._client.send_many(messages[: count % MANY])


@asynccontextmanager
async def _connect_csp(
    url: str,
    tls: ssl.SSLContext | None,
    *,
    compressed: bool,
    use: Callable[[websocket.Client], Connection] = lambda client: CoroutineConnection(client.send, client.receive),
) -> AsyncGenerator[Connection, None]:
    compression = websocket.COMPRESSION.CONTEXT_TAKEOVER if compressed else websocket.COMPRESSION.DISABLED
    async with websocket.connect(url, ssl_context=tls, compression=compression) as client:
        yield use(client)


@asynccontextmanager
async def _connect_feed(url: str, tls: ssl.SSLContext | None, *, compressed: bool) -> AsyncGenerator[Connection, None]:
    compression = websocket.COMPRESSION.CONTEXT_TAKEOVER if compressed else websocket.COMPRESSION.DISABLED
    async with websocket.reconnecting(url, ssl_context=tls, compression=compression) as feed:
        yield CoroutineConnection(feed.send, feed.receive)


@asynccontextmanager
async def _connect_trio_websocket(
    url: str, tls: ssl.SSLContext | None, *, compressed: bool
) -> AsyncGenerator[Connection, None]:
    connecting = trio_websocket.open_websocket_url(url, tls, max_message_size=LIMIT_BYTES)
    if not compressed:
        async with connecting as connection:
            yield CoroutineConnection(connection.send_message, connection.get_message)
        return
    # It has no option for the extension of wsproto, with which it speaks.
    request = partial(Request, extensions=[PerMessageDeflate()])
    with patch("trio_websocket._impl.Request", request):
        async with connecting as connection:
            yield CoroutineConnection(connection.send_message, connection.get_message)


@asynccontextmanager
async def _connect_websockets(
    module: str, url: str, tls: ssl.SSLContext | None, *, compressed: bool
) -> AsyncGenerator[Connection, None]:
    async with load(module).connect(
        url,
        ssl=tls,
        compression="deflate" if compressed else None,
        max_size=LIMIT_BYTES,
        ping_interval=None,
        proxy=None,
    ) as connection:
        yield CoroutineConnection(connection.send, connection.recv)


@asynccontextmanager
async def _connect_aiohttp(
    url: str, tls: ssl.SSLContext | None, *, compressed: bool
) -> AsyncGenerator[Connection, None]:
    async with (
        load("aiohttp").ClientSession() as session,
        session.ws_connect(
            url, ssl=True if tls is None else tls, compress=15 if compressed else 0, max_msg_size=LIMIT_BYTES
        ) as connection,
    ):
        yield CoroutineConnection(connection.send_str, connection.receive)


Connect: TypeAlias = "Callable[..., AbstractAsyncContextManager[Connection]]"
"""Opens a connection to a URL, with an `ssl.SSLContext` or None, ``compressed`` or not."""


@dataclass(frozen=True)
class Library:
    """A WebSocket client library.

    Attributes:
        name: of the peer in the table.
        connect: opens a connection.
        run: runs a side on its event loop.
        share: how many operations it performs for one of csp's, so that slow ones take no longer.
        compresses: whether it can.
    """

    name: str
    connect: Connect
    run: Run
    share: float = 1.0
    compresses: bool = True


def _installed_peers() -> list[Library]:
    on_fastest = on_uvloop if available("uvloop") else on_asyncio
    peers = [TRIO_WEBSOCKET]
    if available("websockets"):
        connect = partial(_connect_websockets, "websockets.asyncio.client")
        with_trio = partial(_connect_websockets, "websockets.trio.client")
        peers.append(Library("websockets (trio)", with_trio, on_trio, share=0.2))
        peers.append(Library("websockets (asyncio)", connect, on_asyncio, share=0.4))
        if available("uvloop"):
            peers.append(Library("websockets (uvloop)", connect, on_uvloop, share=0.4))
    if available("aiohttp"):
        peers.append(Library("aiohttp", _connect_aiohttp, on_asyncio))
    if available("picows"):
        like_websockets = partial(_connect_websockets, "picows.websockets.asyncio.client")
        peers.append(Library("picows", websocket_picows.connect, on_fastest, share=2, compresses=False))
        peers.append(Library("picows.websockets", like_websockets, on_fastest))
    return peers


MANY = 16
"""How many messages csp sends together, where it does."""

CSP = Library("csp", _connect_csp, on_trio)
CSP_ITERATING = Library("csp", partial(_connect_csp, use=IteratingConnection), on_trio)
CSP_MANY = Library("csp", partial(_connect_csp, use=ManyConnection), on_trio)
CSP_FEED = Library("csp", _connect_feed, on_trio)
CSP_CLIENT = Library("csp's client", _connect_csp, on_trio)
TRIO_WEBSOCKET = Library("trio-websocket", _connect_trio_websocket, on_trio, share=0.1)
_INSTALLED = _installed_peers()

COMPRESSING_PEERS = [library for library in _INSTALLED if library.compresses]
PEERS = [library for library in _INSTALLED if library.name != "picows.websockets"]
"""The peers that are installed. picows' other interface is its fastest, but cannot compress."""
