"""The Autobahn cases against a client: kosoku serves and judges them, the client sends back what it gets.

kosoku's verdicts come after the last case; how long a case took and what sockets it left are observed here. Nothing is
collected while the cases run, so that a socket that only the garbage collector would close counts as left open.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio
import trio_websocket

from csp import errors, websocket
from csp.websocket import Compression
from tests.conformance._autobahn import READ_LIMIT_BYTES, Observation, Outcome, Verdict, process, verdict_of
from tests.websocket._peers import open_sockets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from multiprocessing.connection import Connection

_AGENT = "trio-csp"


def run_cases(
    echo: Callable[[str], Awaitable[None]],
    cases: Sequence[str] = (),
    *,
    without: Sequence[str] = (),
    show_progress: Callable[[int], None] = lambda _number: None,
) -> list[Outcome]:
    """Run cases one after another; return what became of each.

    Args:
        echo: connects to a URL and sends back every message until the connection ends.
        cases: their numbers, or patterns such as ``9.1.*``; all if there are none.
        without: those of them to leave out, likewise.
        show_progress: called before each case with its position.

    Raises:
        ValueError: there is no such case.
    """
    with process(_serve, [*cases], [*without]) as receive:
        observations = trio.run(_run_all, f"ws://127.0.0.1:{receive()}", echo, show_progress)
        verdicts: list[Verdict] = receive()
    return [Outcome(*both) for both in zip(verdicts, observations, strict=True)]


async def echo(url: str, compression: Compression = Compression.CONTEXT_TAKEOVER) -> None:
    """Send back every message, compressed however small it is; how the connection ends is the server's to judge."""
    async with websocket.connect(
        url, compression=compression, compression_threshold=0, read_limit=READ_LIMIT_BYTES
    ) as client:
        with suppress(errors.Error):
            async for message in client:
                await client.send(message.data)


async def echo_raw(url: str) -> None:
    """Do the same with trio-websocket alone, which does not compress."""
    with suppress(trio_websocket.ConnectionClosed):
        async with trio_websocket.open_websocket_url(url, max_message_size=READ_LIMIT_BYTES) as connection:
            while True:
                await connection.send_message(await connection.get_message())


async def _run_all(
    url: str, echo: Callable[[str], Awaitable[None]], show_progress: Callable[[int], None]
) -> list[Observation]:
    async with websocket.connect(f"{url}/getCaseCount") as client:
        count = int((await client.receive()).value.data)
    observations: list[Observation] = []
    gc.collect()
    gc.disable()
    try:
        for number in range(1, count + 1):
            show_progress(number)
            observations.append(await _observe(echo, f"{url}/runCase?case={number}&agent={_AGENT}"))
    finally:
        gc.enable()
    async with websocket.connect(f"{url}/updateReports?agent={_AGENT}") as client:
        await client.receive()
    return observations


async def _observe(echo: Callable[[str], Awaitable[None]], url: str) -> Observation:
    sockets = open_sockets()
    start = time.perf_counter()
    crash: Exception | None = None
    try:
        await echo(url)
    except Exception as error:  # noqa: BLE001  # a bug of the client's fails its case, and the others go on
        crash = error
    return Observation(time.perf_counter() - start, open_sockets() - sockets, crash)


def _serve(cases: list[str], without: list[str], pipe: Connection[Any, Any]) -> None:
    """In a process of its own: serve the cases, send the port, and in the end the verdicts."""
    kosoku = importlib.import_module("kosoku")

    async def serve() -> None:
        async with kosoku.run_fuzzingserver(cases or None, without, host="127.0.0.1", port=0) as server:
            pipe.send(server.port)
            try:
                results = await server.get_result()
            except kosoku.FailureError as failure:
                results = failure.results
        pipe.send([verdict_of(result) for result in results])

    asyncio.run(serve())
