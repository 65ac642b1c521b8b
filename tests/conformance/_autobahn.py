"""The Autobahn cases against a client: kosoku serves and judges them, the client sends back what it gets.

kosoku runs in a process of its own: the sockets counted here are the client's alone, and what kosoku does to
`binascii` and to the import path stays there. Its verdicts come after the last case; how long a case took and what
sockets it left are observed here. Nothing is collected while the cases run, so that a socket that only the garbage
collector would close counts as left open.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
import multiprocessing
import os
import signal
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import trio
import trio_websocket

from csp import errors, websocket
from csp.websocket import Compression
from tests.websocket._peers import open_sockets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence
    from multiprocessing.connection import Connection

NOT_INSTALLED = "kosoku is not installed: pip install kosoku"

_AGENT = "trio-csp"
# The largest message of the cases.
_READ_LIMIT_BYTES = 16 * 1024 * 1024


class Verdict(NamedTuple):
    """What kosoku says about a case."""

    case: str
    behavior: str
    """OK, NON-STRICT, INFORMATIONAL, FAILED, ERROR, or UNIMPLEMENTED where compression was not agreed on."""
    close_behavior: str
    """OK, INFORMATIONAL, or what was wrong with the end of the connection."""
    expected: str
    happened: str
    close_code: int | None
    """The code in the client's close frame; None if there was no close frame."""


class Observation(NamedTuple):
    """What is seen of a case on the client's side."""

    seconds: float
    sockets_left: int
    crash: Exception | None
    """What came out of the client that should not have."""


class Outcome(NamedTuple):
    """What became of a case."""

    verdict: Verdict
    observation: Observation

    def __str__(self) -> str:
        verdict = self.verdict
        lines = [
            f"{verdict.case} {self.judgement}: close {verdict.close_behavior} with code {verdict.close_code}",
            f"  expected: {verdict.expected}",
            f"  happened: {verdict.happened}",
        ]
        if self.observation.crash is not None:
            lines += ["  raised:", *traceback.format_exception(self.observation.crash)]
        return "\n".join(lines)

    @property
    def group(self) -> int:
        return int(self.verdict.case.partition(".")[0])

    @property
    def judgement(self) -> str:
        """The verdict in a word, of OK, NON-STRICT, INFORMATIONAL, UNIMPLEMENTED and FAILED."""
        wrong_end = self.verdict.close_behavior not in ("OK", "INFORMATIONAL")
        failed = wrong_end or self.verdict.behavior == "ERROR" or self.observation.crash is not None
        return "FAILED" if failed else self.verdict.behavior


def installed() -> bool:
    """Tell whether there is a kosoku, without importing it."""
    return importlib.util.find_spec("kosoku") is not None


def run_cases(
    echo: Callable[[str], Awaitable[None]],
    cases: Sequence[str] = (),
    *,
    without: Sequence[str] = (),
    show_progress: Callable[[int, int], None] = lambda _number, _count: None,
) -> list[Outcome]:
    """Run cases one after another; return what became of each.

    Args:
        echo: connects to a URL and sends back every message until the connection ends.
        cases: their numbers, or patterns such as ``9.1.*``; all if there are none.
        without: those of them to leave out, likewise.
        show_progress: called before each case with its position and with how many there are.

    Raises:
        ValueError: there is no such case.
    """
    with _server(cases, without) as (url, result):
        observations = trio.run(_run_all, url, echo, show_progress)
        verdicts: list[Verdict] = result()
    return [Outcome(*both) for both in zip(verdicts, observations, strict=True)]


# The client ---------------------------------------------------------------------------------------------------------


async def echo(url: str, compression: Compression = Compression.CONTEXT_TAKEOVER) -> None:
    """Send back every message, compressed however small it is; how the connection ends is the server's to judge."""
    async with websocket.connect(
        url, compression=compression, compression_threshold=0, read_limit=_READ_LIMIT_BYTES
    ) as client:
        with suppress(errors.Error):
            async for message in client:
                await client.send(message.data)


async def echo_raw(url: str) -> None:
    """Do the same with trio-websocket alone, which does not compress."""
    with suppress(trio_websocket.ConnectionClosed):
        async with trio_websocket.open_websocket_url(url, max_message_size=_READ_LIMIT_BYTES) as connection:
            while True:
                await connection.send_message(await connection.get_message())


async def _run_all(
    url: str, echo: Callable[[str], Awaitable[None]], show_progress: Callable[[int, int], None]
) -> list[Observation]:
    async with websocket.connect(f"{url}/getCaseCount") as client:
        count = int((await client.receive()).value.data)
    observations: list[Observation] = []
    gc.collect()
    gc.disable()
    try:
        for number in range(1, count + 1):
            show_progress(number, count)
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


# The server ---------------------------------------------------------------------------------------------------------


@contextmanager
def _server(cases: Sequence[str], without: Sequence[str]) -> Generator[tuple[str, Callable[[], Any]]]:
    """Run kosoku; yield its URL, and a function that waits for the verdicts."""
    context = multiprocessing.get_context("spawn")
    # One-way: a pipe for both directions would be two sockets.
    pipe, far_end = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=([*cases], [*without], far_end), daemon=True)
    with pipe:
        process.start()
        far_end.close()
        try:
            port = pipe.recv()
            if isinstance(port, ValueError):
                raise port
            yield f"ws://127.0.0.1:{port}", pipe.recv
        finally:
            process.terminate()
            process.join()
            process.close()


def _serve(cases: list[str], without: list[str], pipe: Connection[Any, Any]) -> None:
    """In its own process: serve the cases, send the port, and in the end the verdicts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's, which then ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    kosoku = importlib.import_module("kosoku")

    async def serve() -> None:
        async with kosoku.run_fuzzingserver(cases or None, without, host="127.0.0.1", port=0) as server:
            pipe.send(server.port)
            try:
                results = await server.get_result()
            except kosoku.FailureError as failure:
                results = failure.results
        pipe.send([_verdict(result) for result in results])

    try:
        asyncio.run(serve())
    except ValueError as error:
        pipe.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _verdict(result: Any) -> Verdict:
    received = f"{result.received}"
    return Verdict(
        case=result.case_id,
        behavior=result.behavior.value,
        close_behavior=result.behavior_close.value,
        expected=" ".join(result.expectation.split()),
        happened=f"{result.result} {result.result_close}; received {received[:300]}",
        close_code=result.remote_close_code,
    )
