"""A server in a process of its own: its CPU time and its memory, as the system counts them. Linux only."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter
from typing import TYPE_CHECKING, Self, TypeAlias

from benchmarks.meters.rig import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from benchmarks.meters.measure import Meter

POSSIBLE = sys.platform == "linux"
"""Whether this system tells the CPU time and the memory of another process."""

_BACKLOG = 1024
_STOPPING_SECONDS = 5


class Served:
    """A process that serves on a port of this machine for the length of a block.

    It is given the number of the descriptor of a listening socket as its last argument, and ends when its standard
    input does. What it writes to its standard error is shown if the block fails: some log whatever a client does.

    Args:
        command: what to run, without the interpreter.
        send_buffer_bytes: how much of what it sends the system takes from it ahead of the client, where that is not
            left to the system.
    """

    def __init__(self, command: Sequence[str], *, send_buffer_bytes: int | None = None) -> None:
        self._command = command
        self._send_buffer_bytes = send_buffer_bytes
        self.port = 0

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listener:
            if self._send_buffer_bytes is not None:
                # Connections that it accepts inherit this.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer_bytes)
            self.port = listener.getsockname()[1]
            self._log = TemporaryFile()
            self._process = subprocess.Popen(
                [sys.executable, *self._command, str(listener.fileno())],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stderr=self._log,
                pass_fds=(listener.fileno(),),
            )
        return self

    def __exit__(self, exc_type: object, *exc_info: object) -> None:
        self._process.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_STOPPING_SECONDS)
        with self._log as log:
            if exc_type is not None:
                log.seek(0)
                print(log.read().decode(errors="replace"), file=sys.stderr)

    def cpu_seconds(self) -> float:
        """Return the CPU time that all of its threads have used, in its own code and in the system."""
        if sys.platform != "linux":
            raise NotImplementedError
        clock = ctypes.c_int()
        error = ctypes.CDLL(None).clock_getcpuclockid(self._process.pid, ctypes.byref(clock))
        if error:
            raise OSError(error, os.strerror(error))
        return time.clock_gettime(clock.value)

    def private_bytes(self) -> int:
        """Return the memory that it shares with no other process."""
        lines = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


class _ServerClock:
    """Measures a server's CPU time, and the time on the wall, of one ``with`` block."""

    def __init__(self, server: Served) -> None:
        self._server = server

    def __enter__(self) -> Self:
        self._wall_start = perf_counter()
        self._start = self._server.cpu_seconds()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.seconds = self._server.cpu_seconds() - self._start
        self.wall_seconds = perf_counter() - self._wall_start


class _ServerGrowth:
    """Measures the memory that a server has at the end of one ``with`` block and had not at its beginning."""

    def __init__(self, server: Served) -> None:
        self._server = server

    def __enter__(self) -> Self:
        self._before = self._server.private_bytes()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.bytes = self._server.private_bytes() - self._before


Load: TypeAlias = "Callable[[int, int, Meter], int]"
"""Has the server on a port do its work at least so many times, with the meter around that; returns how many times."""


@contextmanager
def on_a_core(*, of_server: bool = False) -> Generator[None]:
    """Keep this process, which loads the server, on the first core, or on the last, where the server is."""
    if sys.platform != "linux":
        raise NotImplementedError
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores) if of_server else min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def stay_on_the_last_core() -> None:
    """Keep this process, which serves, on the last core."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


@dataclass
class ServerTime:
    """The measure of a server's microseconds of CPU time an operation; each time, the server is a new one.

    Attributes:
        serve: makes the server.
        load: has it do its work.
        takes_turns: whether one of server and load always waits for the other. They are on one core then: a core that
            sleeps and wakes for each message costs more than most servers do, on a virtual machine.
        busy: of every measurement the part of the time that the server did not wait.
    """

    serve: Callable[[], Served]
    load: Load
    takes_turns: bool = False
    busy: list[float] = field(default_factory=list[float])

    def __call__(self, count: int) -> float:
        with self.serve() as server, on_a_core(of_server=self.takes_turns):
            clock = _ServerClock(server)
            done = self.load(server.port, count, clock)
        self.busy.append(clock.seconds / clock.wall_seconds)
        return clock.seconds / done * 1e6


@dataclass
class ServerMemory:
    """The measure of the bytes by which a server grows with an operation; each time, the server is a new one."""

    serve: Callable[[], Served]
    load: Load

    def __call__(self, count: int) -> float:
        with self.serve() as server, on_a_core():
            growth = _ServerGrowth(server)
            done = self.load(server.port, count, growth)
        return growth.bytes / done
