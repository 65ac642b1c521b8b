"""What the server of ``--demo`` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import csp
from trio_csp_websocket.protocol.messages import Message

if TYPE_CHECKING:
    from trio_csp_websocket.server.server_connection import ServerConnection


async def demo(connection: ServerConnection) -> None:
    """Serve one client: greet it, echo, and tick."""
    await connection.send("Welcome! What you send comes back, and every five seconds a tick.")
    messages, ticks = connection.channel(), csp.tick("5s")
    while True:
        r = await csp.select(messages.case_receive(), ticks.case_receive())
        if r.channel is ticks:
            await connection.send("tick")
        elif isinstance(r.value, Message):
            await connection.send(r.value.data)
        else:
            return
