"""A WebSocket server over loopback whose operations can be counted.

Its clients are sockets of the very task that serves, used between the server's operations: so what there is to read
when the server reads is the same each time.
"""

from __future__ import annotations

from contextlib import ExitStack, asynccontextmanager
from socket import MSG_WAITALL, SHUT_WR, create_connection, socket
from typing import TYPE_CHECKING, NamedTuple

import csp
from benchmarks.peers.websocket_load import CLOSE, REQUEST, masked
from benchmarks.peers.websocket_messages import TEXT, frame
from benchmarks.topics.websocket_counted import TEXT as SENT
from csp import websocket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from benchmarks.meters.measure import Meter

MEMBERS = 16
"""The connections that a message is sent to."""

_MESSAGE = masked(TEXT, SENT.encode())
_ECHO = frame(TEXT, SENT.encode())


class _Ends(NamedTuple):
    """A connection's two ends."""

    client: socket
    server: websocket.ServerConnection

    def take(self, expected: bytes) -> None:
        """Receive at the client's end what has been sent."""
        assert self.client.recv(len(expected), MSG_WAITALL) == expected


async def _open(server: websocket.Server) -> _Ends:
    assert server.port is not None
    client = create_connection(("127.0.0.1", server.port))
    client.sendall(REQUEST % server.port)
    connection = await server.receive_value()
    await connection.accept()
    assert client.recv(4096).endswith(b"\r\n\r\n")
    return _Ends(client, connection)


async def _close(ends: _Ends) -> None:
    ends.client.sendall(CLOSE)
    ends.client.shutdown(SHUT_WR)  # the server waits for that
    await ends.server.wait_closed()


@asynccontextmanager
async def _connections(count: int) -> AsyncGenerator[list[_Ends]]:
    with ExitStack() as stack:
        async with websocket.listen(0, host="127.0.0.1") as server:
            found = [await _open(server) for _ in range(count)]
            for ends in found:
                stack.enter_context(ends.client)
            yield found
            for ends in found:
                await _close(ends)


async def echo(count: int, meter: Meter) -> None:
    """Send back what one Selector receives."""
    async with _connections(1) as (ends,):
        with csp.Selector(ends.server.channel()) as selector, meter:
            for _ in range(count):
                ends.client.sendall(_MESSAGE)
                r = await selector.select()
                assert isinstance(r.value, websocket.Message)
                await ends.server.send(r.value.data)
                ends.take(_ECHO)


async def accept_and_close(count: int, meter: Meter) -> None:
    """Accept connections, each of which its client closes at once."""
    async with websocket.listen(0, host="127.0.0.1") as server:
        with meter:
            for _ in range(count):
                ends = await _open(server)
                with ends.client:
                    await _close(ends)


async def broadcast(count: int, meter: Meter) -> None:
    """Send a message to all members of a hub."""
    hub = websocket.Hub()
    async with _connections(MEMBERS) as connections:
        for ends in connections:
            hub.add(ends.server)
        with meter:
            for _ in range(count):
                assert hub.broadcast(SENT).written == MEMBERS
                for ends in connections:
                    ends.take(_ECHO)
