"""The Autobahn cases against the server: kosoku connects for each case, the server sends back what it gets.

kosoku knows no TLS. For TLS its connections go through a relay beside it, which speaks TLS to the server.

The sockets that a case leaves are counted when the next one arrives. Nothing is collected while the cases run, so that
a socket that only the garbage collector would close counts as left open.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import ssl
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

import csp
from csp import errors, websocket
from csp.websocket import Compression
from tests.conformance._autobahn import READ_LIMIT_BYTES, Observation, Outcome, Verdict, process, verdict_of
from tests.websocket import _links
from tests.websocket._peers import open_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

# How long the socket of a case may stay open after kosoku has seen the end of it.
_LEFT_SECONDS = 10.0
_PIECE_BYTES = 1 << 16


def run_cases(
    cases: Sequence[str] = (),
    *,
    without: Sequence[str] = (),
    compression: Compression = Compression.CONTEXT_TAKEOVER,
    tls: bool = False,
    show_progress: Callable[[int], None] = lambda _number: None,
) -> list[Outcome]:
    """Run cases one after another; return what became of each.

    Args:
        cases: their numbers, or patterns such as ``9.1.*``; all if there are none.
        without: those of them to leave out, likewise.
        compression: what the server agrees to.
        tls: whether the server speaks TLS.
        show_progress: called before each case with its position.

    Raises:
        ValueError: there is no such case.
    """
    return trio.run(partial(_run, [*cases], [*without], compression, show_progress, tls=tls))


async def _run(
    cases: list[str],
    without: list[str],
    compression: Compression,
    show_progress: Callable[[int], None],
    *,
    tls: bool,
) -> list[Outcome]:
    options: websocket.ListenOptions = {
        "compression": compression,
        "compression_threshold": 0,
        "read_limit": READ_LIMIT_BYTES,
        "host": "127.0.0.1",
    }
    if tls:
        options["ssl_context"] = _links.contexts()[0]
    async with csp.BackgroundNursery() as nursery:
        echo = _Echo(show_progress)
        server = await nursery.start(partial(websocket.serve, echo.handle, 0, **options))
        echo.sockets = open_sockets()
        gc.collect()
        gc.disable()
        try:
            with process(_connect, server.port, tls, cases, without) as receive:
                verdicts: list[Verdict] = await trio.to_thread.run_sync(receive, abandon_on_cancel=True)
            await echo.note()
        finally:
            gc.enable()
    return [Outcome(*both) for both in zip(verdicts, echo.observations, strict=True)]


class _Echo:
    """Sends back every message of connections that come one after another, and observes each.

    Attributes:
        sockets: how many are open when there is no connection.
        observations: of the connections so far but the latest.
    """

    def __init__(self, show_progress: Callable[[int], None]) -> None:
        self.sockets = 0
        self.observations: list[Observation] = []
        self._show_progress = show_progress
        self._started = 0
        self._start = self._end = 0.0
        self._crash: Exception | None = None

    async def handle(self, connection: websocket.ServerConnection) -> None:
        if self._started:
            await self.note(others=1)
        self._started += 1
        self._show_progress(self._started)
        self._start, self._crash = time.perf_counter(), None
        try:
            with contextlib.suppress(errors.Error):
                async for message in connection:
                    await connection.send(message.data)
        except Exception as error:  # noqa: BLE001  # a bug of the server's fails its case, and the others go on
            self._crash = error
        self._end = time.perf_counter()

    async def note(self, *, others: int = 0) -> None:
        """Add the observation of the latest connection, once its socket is closed.

        Args:
            others: how many connections are there that came after it.
        """
        expected = self.sockets + others
        with trio.move_on_after(_LEFT_SECONDS):
            while open_sockets() > expected:  # noqa: ASYNC110  # nothing tells that the system has closed one
                await trio.sleep(0.001)
        left = open_sockets() - expected
        self.sockets += left
        self.observations.append(Observation(self._end - self._start, left, self._crash))


def _connect(
    port: int, tls: bool, cases: list[str], without: list[str], pipe: Connection[Any, Any]
) -> None:  # positional: arguments of a process
    """In a process of its own: run the cases, and send the verdicts."""
    kosoku = importlib.import_module("kosoku")

    async def run(port: int) -> list[Any]:
        try:
            return [*await kosoku.run_fuzzingclient(f"ws://127.0.0.1:{port}/", cases or None, without)]
        except kosoku.FailureError as failure:
            failed: list[Any] = failure.results
            return failed

    async def main() -> list[Any]:
        if not tls:
            return await run(port)
        # Held here, as asyncio does not hold them.
        relays: list[asyncio.Task[None]] = []

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            relays.append(asyncio.create_task(_relay(port, reader, writer)))

        async with await asyncio.start_server(begin, "127.0.0.1", 0) as listening:
            return await run(listening.sockets[0].getsockname()[1])

    pipe.send([verdict_of(result) for result in asyncio.run(main())])


async def _relay(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry the bytes of one connection to a server that speaks TLS, and back."""
    # Of a server of this test: its certificate was made in another process.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls_reader, tls_writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)

    async def carry(source: asyncio.StreamReader, destination: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_PIECE_BYTES):
                destination.write(data)
                await destination.drain()
        # Over TLS, asyncio cannot end one direction alone.
        destination.close()

    await asyncio.gather(carry(reader, tls_writer), carry(tls_reader, writer))
