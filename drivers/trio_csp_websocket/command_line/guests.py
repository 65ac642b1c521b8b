"""The connections of a server, numbered as they come, and what comes on them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from weakref import WeakSet

import trio

import csp
from csp.errors import ConnectionFailedError
from trio_csp_websocket.command_line.news import Came, Left, News, Said
from trio_csp_websocket.command_line.refusals import Refusals
from trio_csp_websocket.connection.endpoint import Endpoint
from trio_csp_websocket.events import add_observer, remove_observer
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.server.hub import Hub

if TYPE_CHECKING:
    from trio_csp_websocket.server.server import Server
    from trio_csp_websocket.server.server_connection import ServerConnection

PATIENCE_SECONDS = 10
"""How long a client that does not read holds up the input; then it is closed."""
TOO_SLOW = "messages come faster than they are read"


class Guests:
    """Accepts the connections of a server, and receives what comes on them.

    What comes waits until it is taken: while nobody takes it, nothing more is read.

    Args:
        server: what connects.
        echo: whether each message goes back to its sender.
    """

    def __init__(self, server: Server, *, echo: bool = False) -> None:
        self._server = server
        self._echo = echo
        self._hub = Hub()
        self._numbers: dict[Endpoint, int] = {}
        self._slow = WeakSet[Endpoint]()  # those that were closed because they do not read; some may just be broken
        self._arrived = trio.Event()  # set, and replaced, when there is one more
        self.came = 0
        """How many connections there were."""
        self.values = csp.Channel[Said]()
        """The messages; closes when the server has stopped, and all connections have ended."""
        self.states = csp.Channel[News]()
        """Who comes and goes, and who is refused."""

    @property
    def open(self) -> list[Endpoint]:
        """The connections that are open, the oldest first."""
        return [connection for connection in self._numbers if connection.close_code is None]

    def number_of(self, connection: Endpoint) -> int:
        """Return the number of a connection that is open."""
        return self._numbers[connection]

    async def run(self) -> None:
        """Be the task that accepts connections, until the server has stopped and all have ended."""
        refusals = Refusals()
        add_observer(refusals)
        try:
            async with csp.BackgroundNursery() as background, trio.open_nursery() as nursery:
                background.start_soon(self._tell, refusals)
                async for connection in self._server:
                    nursery.start_soon(self._receive_from, connection)
        finally:
            remove_observer(refusals)
        self.values.close()

    async def _tell(self, refusals: Refusals) -> None:
        async for refused in refusals.channel:  # pragma: no branch  # it is never closed
            await self.states.send(refused)

    async def _receive_from(self, connection: ServerConnection) -> None:
        try:
            await connection.accept()
        except ConnectionFailedError:
            return  # it has gone, or the server stops
        self.came += 1
        number = self._numbers[connection] = self.came
        self._hub.add(connection)
        self._arrived.set()
        self._arrived = trio.Event()
        await self.states.send(Came(number, connection))
        messages = connection.channel()
        while (r := await messages.receive()).ok:
            await self.values.send(Said(number, r.value))
            if self._echo:
                with contextlib.suppress(ConnectionFailedError):
                    await connection.send(r.value.data)
        del self._numbers[connection]
        await self.states.send(Left(number, connection, slow=connection in self._slow and connection.closing))

    # What goes --------------------------------------------------------------------------------------------------------

    async def wait_for_somebody(self) -> None:
        """Wait until there is a connection."""
        while not self.open:
            await self._arrived.wait()

    def post(self, text: str) -> None:
        """Send a text to all without waiting; close those that have not read what was sent before."""
        members = list(self._hub)
        self._hub.broadcast(text)
        self._slow.update(member for member in members if member not in self._hub)

    async def send(self, text: str) -> None:
        """Send a text to all, and wait until they have taken it; close those that do not in `PATIENCE_SECONDS`."""
        async with trio.open_nursery() as nursery:
            for connection in self.open:
                nursery.start_soon(self._send_to, connection, text)

    async def _send_to(self, connection: Endpoint, text: str) -> None:
        with trio.move_on_after(PATIENCE_SECONDS) as patience, contextlib.suppress(ConnectionFailedError):
            await connection.send(text)
        if patience.cancelled_caught:
            self._slow.add(connection)
            await connection.close(CloseCode.TRY_AGAIN_LATER, TOO_SLOW)

    async def close(self, code: int, reason: str) -> None:
        """Stop the server, and close all connections."""
        await self._server.close(code, reason)
