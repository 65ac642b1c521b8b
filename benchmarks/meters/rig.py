"""What the WebSocket benchmarks run on: the server's process, a core for each side, and the measures of a client."""

from __future__ import annotations

import asyncio
import atexit
import gc
import json
import os
import ssl
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import trio

from benchmarks.meters.measure import Stopwatch, available, load

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from benchmarks.meters.measure import Meter, Side

CHECKOUT = Path(__file__).parents[2]

WITH_TLS = available("trustme")
"""Whether there is what makes certificates."""

LIMIT_BYTES = 16 * 1024 * 1024
"""The largest message that the clients accept."""

# The name in the environment of what the server says of itself.
_SERVER = "TRIO_CSP_BENCHMARKS_SERVER"

_STOPPING_SECONDS = 5
_FEWEST = 8


@dataclass(frozen=True)
class Address:
    """How to reach the server."""

    url: str
    tls: ssl.SSLContext | None


def address(path: str, *, secure: bool = False) -> Address:
    """Return the address of a path on the server, which is started if it does not run."""
    server = _start_server()
    scheme = "wss" if secure else "ws"
    return Address(f"{scheme}://127.0.0.1:{server[scheme]}{path}", _trusting(server["authority"]) if secure else None)


@cache
def _start_server() -> dict[str, Any]:
    """Start the server, to run until this process ends, and return what it says of itself; or one that runs already."""
    if _SERVER in os.environ:
        running: dict[str, Any] = json.loads(os.environ[_SERVER])
        return running
    command = [sys.executable, "-m", "benchmarks.peers.websocket_server", *["--secure"] * WITH_TLS]
    process = subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    atexit.register(process.wait, _STOPPING_SECONDS)
    atexit.register(process.stdout.close)
    atexit.register(process.stdin.close)  # the first of them to run, at which the server ends
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def with_server() -> dict[str, str]:
    """Return the environment of processes that are to use this process's server."""
    return {_SERVER: json.dumps(_start_server())}


@cache
def _trusting(authority: str) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority)


@contextmanager
def on_a_core(*, of_server: bool = False) -> Generator[None]:
    """Keep this process on its first core, or on the last, where the server is; nowhere if the system cannot."""
    if sys.platform != "linux":
        yield
        return
    _start_server()  # before: it would be kept there too
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores) if of_server else min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


Run: TypeAlias = "Callable[[Side, int, Meter], None]"
"""Runs a side on the library's event loop."""


def on_trio(side: Side, count: int, meter: Meter) -> None:
    """Run a side on Trio."""
    trio.run(side, count, meter)


def on_asyncio(side: Side, count: int, meter: Meter) -> None:
    """Run a side on asyncio's own loop."""
    asyncio.run(_main(side, count, meter))


def on_uvloop(side: Side, count: int, meter: Meter) -> None:
    """Run a side on uvloop."""
    load("uvloop").run(_main(side, count, meter))


async def _main(side: Side, count: int, meter: Meter) -> None:
    await side(count, meter)


def differences(times: list[float]) -> list[float]:
    """Return how long after the one before each time was."""
    return [after - before for before, after in pairwise(times)]


def raise_file_limit(most: int = 4096) -> None:
    """Let this process have as many connections as the system allows it, up to ``most``."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415  # not on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _BothClocks(Stopwatch):
    """A stopwatch that measures the time on the wall as well."""

    wall_seconds = 0.0

    def __enter__(self) -> Self:
        super().__enter__()
        self._wall_start = perf_counter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wall_seconds = perf_counter() - self._wall_start
        super().__exit__(*exc_info)


@dataclass
class ClientTime:
    """The measure of a client's microseconds of CPU time an operation.

    Attributes:
        side: what the client does.
        run: runs it on the client's event loop.
        share: how many operations it performs for one that is asked for.
        takes_turns: whether one of client and server always waits for the other. They are on one core then: waking
            another one costs more than a client does, on a virtual machine, and is no client's work.
        busy: of every measurement the part of the time that the client did not wait. The less it is, the more the
            server, the network or other work on the machine held the client up; the CPU time is right all the same.
    """

    side: Side
    run: Run = on_trio
    share: float = 1.0
    takes_turns: bool = False
    busy: list[float] = field(default_factory=list[float])

    def __call__(self, count: int) -> float:
        count = max(_FEWEST, round(count * self.share))
        stopwatch = _BothClocks()
        with on_a_core(of_server=self.takes_turns):
            self.run(self.side, count, stopwatch)
        self.busy.append(stopwatch.seconds / stopwatch.wall_seconds)
        return stopwatch.seconds / count * 1e6


class Allocations:
    """Measures the bytes that Python has allocated at the end of a ``with`` block and had not at its beginning."""

    bytes = 0

    def __enter__(self) -> Self:
        gc.collect()
        tracemalloc.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        gc.collect()
        self.bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
