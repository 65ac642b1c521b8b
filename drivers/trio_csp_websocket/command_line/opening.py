"""Opening what the program talks over, a connection or a server, while a signal may end it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import csp
from csp.errors import Error
from trio_csp_websocket.client.connect import connect
from trio_csp_websocket.command_line.advice import advice, told
from trio_csp_websocket.command_line.demo import demo
from trio_csp_websocket.command_line.link import OneConnection
from trio_csp_websocket.command_line.saying import say
from trio_csp_websocket.server.listen import listen
from trio_csp_websocket.server.serve import serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from trio_csp_websocket.client.options import ConnectOptions
    from trio_csp_websocket.command_line.conversation import Stop
    from trio_csp_websocket.command_line.format import Format
    from trio_csp_websocket.command_line.lines import Show
    from trio_csp_websocket.server.options import ListenOptions
    from trio_csp_websocket.server.server import Server

T = TypeVar("T")


class Opening:
    """Opens things. Each method returns None if that fails, which is told, or if a signal comes first.

    Args:
        nursery: where they run.
        stops: the signals.
        show: shows lines.
        interactive: whether a person waits.
    """

    def __init__(self, nursery: trio.Nursery, stops: csp.Channel[Stop], show: Show, *, interactive: bool) -> None:
        self._nursery = nursery
        self._stops = stops
        self._show = show
        self._interactive = interactive

    async def connection(self, url: str, options: ConnectOptions, form: Format) -> OneConnection | None:
        """Connect."""

        async def open_it() -> OneConnection:
            return OneConnection(await connect(url, nursery=self._nursery, **options))

        # Connecting may take half a minute: a person is told what is happening.
        return await self._opened(open_it, form, slow=csp.after("1s") if self._interactive else csp.never())

    async def server(self, port: int, options: ListenOptions, form: Format) -> Server | None:
        """Listen."""

        async def open_it() -> Server:
            return await listen(port, nursery=self._nursery, **options)

        return await self._opened(open_it, form, slow=csp.never())

    async def demo(self, options: ListenOptions, form: Format) -> Server | None:
        """Let the server of ``--demo`` listen on a free port."""

        async def open_it() -> Server:
            server: Server = await self._nursery.start(partial(serve, demo, 0, **options))
            return server

        return await self._opened(open_it, form, slow=csp.never())

    async def _opened(self, open_it: Callable[[], Awaitable[T]], form: Format, *, slow: csp.Source[float]) -> T | None:
        opened = csp.Channel[T](1)
        failed = csp.Channel[Error](1)

        async def run() -> None:
            try:
                await opened.send(await open_it())
            except Error as error:
                await failed.send(error)

        self._nursery.start_soon(run)
        cases = self._stops.case_receive(), failed.case_receive(), opened.case_receive(), slow.case_receive()
        while (r := await csp.select(*cases)).channel is slow:
            await self._show([form.connecting()])
        if opened.gave(r):
            return r.value
        if failed.gave(r):
            await self._tell(r.value, form)
        return None

    async def _tell(self, error: Error, form: Format) -> None:
        """Say why there is none, on standard error; if JSON was asked for, also on standard output."""
        if form.json:
            try:
                await self._show([form.no_connection(error)])
            except BrokenPipeError:
                pass  # its reader has ended
            except OSError as failed:
                say(f"cannot write the output: {failed.strerror}")
        say(f"{told(error)}{advice(error, form.request)}")
