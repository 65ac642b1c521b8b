"""A server with a crowd of clients that are raw bytes, over streams that a test can have stand still."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from csp import websocket
from tests.websocket._links import SMALL_BUFFER_BYTES, contexts
from tests.websocket.server._lobby import Lobby, RawClient, handshake

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from csp.websocket import ListenOptions, Server, ServerConnection

Link: TypeAlias = Literal["memory", "lockstep", "socket", "tls"]
"""What the clients come over. Streams in memory take everything, those in lockstep nothing that is not read at once,
sockets a few KiB."""


class Member(NamedTuple):
    connection: ServerConnection
    client: RawClient

    async def data(self, count: int) -> list[str | bytes]:
        """Return what the next messages hold that come to the client."""
        found: list[str | bytes] = []
        while len(found) < count:
            head, payload = await self.client.frame()
            assert head in (0x81, 0x82), (head, payload)
            found.append(payload.decode() if head == 0x81 else payload)
        return found


class Crowd:
    """A server in memory, and those who come."""

    def __init__(self, server: Server, lobby: Lobby, link: Link) -> None:
        self.server = server
        self.clients: list[RawClient] = []
        self._lobby = lobby
        self._link: Link = link

    async def come(self, *lines: str, compression: websocket.Compression | None = None) -> Member:
        """Let a client come, and accept it.

        Args:
            lines: further headers of its request.
            compression: for `ServerConnection.accept`.
        """
        near: trio.abc.HalfCloseableStream | trio.SSLStream[trio.abc.Stream]
        far: trio.abc.Stream
        if self._link in ("socket", "tls"):
            pair = socket.socketpair()
            for one in pair:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
            near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in pair)
        else:
            near, far = lockstep_stream_pair() if self._link == "lockstep" else memory_stream_pair()
        self._lobby.bring(far)
        if self._link == "tls":
            near = trio.SSLStream(near, contexts()[1], server_hostname="server.test")
        client = RawClient(near)  # type: ignore[arg-type]  # over TLS nothing is half-closed
        self.clients.append(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.accepted, handshake("/", *lines))
            connection = await self.server.receive_value()
            await connection.accept(compression=compression)
        return Member(connection, client)


@asynccontextmanager
async def crowded(link: Link = "memory", **options: object) -> AsyncGenerator[Crowd]:
    """Serve without keepalive, with which a clock that jumps would go on for ever."""
    lobby = Lobby()
    given: ListenOptions = {"keepalive": None, "write_timeout": None, "close_timeout": "3s"}
    given.update(options)  # type: ignore[typeddict-item]  # a test's own
    given["sockets"] = [lobby]
    if link == "tls":
        given["ssl_context"] = contexts()[0]
    with trio.fail_after(300_000):
        async with websocket.listen(**given) as server:
            crowd = Crowd(server, lobby, link)
            try:
                yield crowd
            finally:
                for client in crowd.clients:
                    await trio.aclose_forcefully(client.stream)
