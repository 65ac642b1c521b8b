"""A server of the command line, to which clients of the test connect in memory."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

import csp
from tests.websocket.server._lobby import Lobby, RawClient, handshake, listening
from trio_csp_websocket.command_line.conversation import Stop
from trio_csp_websocket.command_line.guest_format import GuestFormat
from trio_csp_websocket.command_line.guests import Guests
from trio_csp_websocket.command_line.hosting import Hosting

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from csp import websocket
    from trio_csp_websocket.command_line.lines import Line


class Host:
    """A server; what it shows is in `lines`."""

    def __init__(self, lobby: Lobby) -> None:
        self.lobby = lobby
        self.session: Hosting
        self.lines: list[Line] = []
        self.failure: OSError | None = None
        """What showing messages fails with."""
        self.input = csp.Channel[str | None](math.inf)
        self.stops = csp.Channel[Stop](math.inf)
        self.status: int | None = None
        self._finished = trio.Event()

    def texts(self, kind: str = "received") -> list[str]:
        return [line.text for line in self.lines if line.kind == kind]

    async def show(self, lines: Iterable[Line]) -> None:
        lines = list(lines)
        if self.failure is not None and any(line.kind == "received" for line in lines):
            raise self.failure
        self.lines += lines

    async def type(self, *lines: str | None) -> None:
        for line in lines:
            await self.input.send(line)
        await wait_all_tasks_blocked()

    async def come(self, request: bytes | None = None) -> RawClient:
        """Have a client connect, and be told of."""
        client = self.lobby.connect()
        await client.accepted(request)
        await wait_all_tasks_blocked()
        return client

    async def come_without_buffers(self) -> RawClient:
        """Have a client connect to which nothing is written that it does not read."""
        near, far = lockstep_stream_pair()
        self.lobby.bring(far)
        client = RawClient(near)
        await client.accepted(handshake())
        await wait_all_tasks_blocked()
        return client

    async def run(self) -> None:
        self.status = await self.session.run()
        self._finished.set()

    async def finished(self) -> int | None:
        """Wait for the exit status."""
        await self._finished.wait()
        return self.status


@asynccontextmanager
async def hosting(
    *typed: str | None,
    echo: bool = False,
    as_json: bool = False,
    terminal: bool = False,
    server: websocket.ListenOptions | None = None,
    **options: Any,
) -> AsyncGenerator[Host]:
    """Be a server for the length of a block."""
    settings: websocket.ListenOptions = {"close_timeout": "2s"}
    settings.update(server or {})
    async with (
        listening(**settings) as (listens, lobby),
        csp.BackgroundNursery() as nursery,
    ):
        host = Host(lobby)
        await host.type(*typed)
        guests = Guests(listens, echo=echo)
        nursery.start_soon(guests.run)
        show = options.pop("show", host.show)
        form = GuestFormat(json=as_json, terminal=terminal)
        host.session = Hosting(guests, "ws://here/", host.input, show, host.stops, form, **options)
        nursery.start_soon(host.run)
        await wait_all_tasks_blocked()
        yield host
