"""A session with a server played by the test."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

import csp
from csp import testing, websocket
from trio_csp_websocket.command_line.conversation import Stop
from trio_csp_websocket.command_line.format import Format
from trio_csp_websocket.command_line.link import ManyConnections, OneConnection
from trio_csp_websocket.command_line.request import Request
from trio_csp_websocket.command_line.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_csp_websocket.command_line.lines import Line


URL = "ws://server.test/"


class Run:
    """A session with a server played by the test; what it shows is in `lines`."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.input = csp.Channel[str | None](math.inf)
        self.stops = csp.Channel[Stop](math.inf)
        self.status: int | None = None

    def texts(self, kind: str = "received") -> list[str]:
        return [line.text for line in self.lines if line.kind == kind]

    async def show(self, lines: Iterable[Line]) -> None:
        self.lines += lines

    async def carry_through(
        self, *typed: str | None, as_json: bool = False, terminal: bool = False, url: str = URL, **options: Any
    ) -> int:
        for line in typed:
            await self.input.send(line)
        show = options.pop("show", self.show)
        connecting = {name: options.pop(name) for name in ("protocols", "compression") if name in options}
        async with websocket.connect(url, **connecting) as client:
            form = Format(json=as_json, terminal=terminal)
            await trio.testing.wait_all_tasks_blocked()  # what the server says at once has come
            self.status = await Session(OneConnection(client), self.input, show, self.stops, form, **options).run()
        return self.status

    async def keep_up(
        self, *typed: str | None, as_json: bool = False, terminal: bool = False, url: str = URL, **options: Any
    ) -> int:
        """Carry a session through over a feed, as with ``--reconnect``."""
        for line in typed:
            await self.input.send(line)
        show = options.pop("show", self.show)
        link = ManyConnections(url, {"dial_timeout": "30s", "close_timeout": "2s"})
        form = Format(json=as_json, terminal=terminal, reconnect=True, request=Request(shown=url))
        async with link.feed:
            self.status = await Session(link, self.input, show, self.stops, form, **options).run()
        return self.status


async def echo(connection: testing.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)
