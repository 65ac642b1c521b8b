"""A relay in front of a server: a test sees what the driver writes, and answers in the server's place."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

import csp
from tests.redis import _wire

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable


class Relay:
    """A relay; made by `relay`."""

    def __init__(self, port: int, server_port: int) -> None:
        self.port = port
        self._server_port = server_port
        self.written: list[bytes] = []
        """What was written to the server, one write each."""
        self.answer: Callable[[bytes], Awaitable[bytes | None]] = self.forward
        """Asked for each write: returns None to forward it, b"" to close the connection, or what to answer instead."""

    async def forward(self, _written: bytes) -> None:
        """Have everything forwarded."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def count(self, needle: bytes) -> int:
        """Return how often something was written."""
        return sum(written.count(needle) for written in self.written)

    async def serve(self, client: trio.SocketStream) -> None:
        async with (
            client,
            await trio.open_tcp_stream("127.0.0.1", self._server_port) as server,
            csp.BackgroundNursery() as nursery,
        ):
            nursery.start_soon(self._back, server, client)
            await self._forth(client, server)

    async def _back(self, server: trio.SocketStream, client: trio.SocketStream) -> None:
        try:
            async for piece in server:
                await client.send_all(piece)
            await client.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _forth(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        try:
            async for piece in client:
                self.written.append(bytes(piece))
                answer = await self.answer(bytes(piece))
                if answer is None:
                    await server.send_all(piece)
                elif answer:
                    await client.send_all(answer)
                else:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


@asynccontextmanager
async def relay(server: _wire.Place) -> AsyncGenerator[Relay]:
    """Open a relay in front of a server, for the length of a block."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    relayed = Relay(port, server.port)
    async with csp.BackgroundNursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relayed.serve, [listener])
        yield relayed


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110  # what is waited for is not in this program
            await trio.sleep(0.002)


async def blocked(server: _wire.Place, count: int = 1) -> None:
    """Wait until as many connections wait at a server."""
    needle = b"blocked_clients:%d\r\n" % count
    with trio.fail_after(20):
        async with _wire.connected(server) as wire:
            while True:
                info = await wire.command("INFO", "clients")
                assert isinstance(info, bytes)
                if needle in info:
                    return
                await trio.sleep(0.002)
