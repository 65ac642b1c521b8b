"""Handlers for servers in memory, and a client that speaks to one in bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import Request

from tests.websocket._server import frame
from trio_csp_websocket.network.dial import dial
from trio_csp_websocket.network.progress import Progress
from trio_csp_websocket.network.route import parse_route
from trio_csp_websocket.protocol.url import parse_url

if TYPE_CHECKING:
    from csp import websocket
    from csp.testing import ServerConnection
    from trio_csp_websocket.transport.base import Transport

URL = "wss://api.example.com/prices"


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)


async def ignore(connection: ServerConnection) -> None:
    await connection.accept()
    await connection.wait_closed()


async def flood(end: ServerConnection | websocket.Client) -> None:
    while True:
        await end.send("flood")


async def dialled(url: str = URL) -> Transport:
    """Return a stream on which nothing was sent yet."""
    return await dial(parse_url(url), parse_route({}), Progress())


async def raw_client(url: str = URL) -> Transport:
    """Shake hands by hand, and return the stream, for what our client would not do."""
    target = parse_url(url)
    transport = await dialled(url)
    request = Request(host=target.host_header, target=target.resource)
    await transport.send_all(WSConnection(ConnectionType.CLIENT).send(request))
    assert (await transport.receive_some(1000)).startswith(b"HTTP/1.1 101 ")
    return transport


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    return frame(opcode, payload, fin=fin, reserved=reserved, mask=b"mask")


def greeter(text: str) -> Any:
    async def greet(connection: ServerConnection) -> None:
        await connection.send(text)

    return greet
