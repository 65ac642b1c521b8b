"""Runs pytest on CPython for WebAssembly, which has no sockets, threads or processes; `webassembly.mjs` starts it.

Trio asks the system with `select.epoll` what has happened. Here nothing can happen from outside: all that ever wakes a
run that waits is its clock, or the run itself, through a pair of sockets.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

LONGEST_SECONDS = 60
# What a test says that needs more than there is.
MISSING = ("can't start new thread", "does not support processes")
_woken: dict[int, bytearray] = {}


class Half:
    """One of the two sockets with which a run wakes itself."""

    def __init__(self, fd: int, incoming: bytearray, outgoing: bytearray) -> None:
        self.fd, self.incoming, self.outgoing = fd, incoming, outgoing
        _woken[fd] = incoming

    def fileno(self) -> int:
        return self.fd

    def setblocking(self, _value: bool) -> None:  # as a socket has it
        pass

    def setsockopt(self, *_arguments: object) -> None:
        pass

    def send(self, data: bytes) -> int:
        self.outgoing += data
        return len(data)

    def recv(self, size: int) -> bytes:
        if not self.incoming:
            raise BlockingIOError
        data = bytes(self.incoming[:size])
        del self.incoming[:size]
        return data

    def close(self) -> None:
        if _woken.pop(self.fd, None) is not None:
            os.close(self.fd)


class Epoll:
    """Tells of sockets of `pair` that were sent something."""

    def __init__(self) -> None:
        self.registered: dict[int, int] = {}

    def register(self, file: Any, events: int) -> None:
        self.registered[file if isinstance(file, int) else file.fileno()] = events

    modify = register

    def unregister(self, file: Any) -> None:
        del self.registered[file if isinstance(file, int) else file.fileno()]

    def close(self) -> None:
        pass

    def poll(self, seconds: float = 0, _most: int = -1) -> list[tuple[int, int]]:
        ready = [(fd, select.POLLIN) for fd in self.registered if _woken.get(fd)]
        if not ready and seconds > 0:
            if seconds > LONGEST_SECONDS:
                raise RuntimeError("nothing can wake this run")
            time.sleep(seconds)
        return ready


def pair() -> tuple[Half, Half]:
    """Return two sockets of which each receives what the other sends."""
    there, back = bytearray(), bytearray()
    one, other = os.pipe()  # for their numbers
    return Half(one, back, there), Half(other, there, back)


def run(given: list[str]) -> int:
    """Run pytest in the checkout with these arguments; return its exit status."""
    os.chdir("/project")
    sys.path[:0] = ["/project", "/project/drivers", "/packages"]
    sys.dont_write_bytecode = True
    events = {f"EPOLL{name}": getattr(select, f"POLL{name}") for name in ("IN", "OUT", "ERR", "HUP")}
    vars(select).update(epoll=Epoll, EPOLLONESHOT=1 << 30, **events)
    vars(socket).update(socketpair=pair)
    vars(signal).update(set_wakeup_fd=lambda _fd, **_options: -1)
    vars(os).update(pidfd_open=None)
    real_platform, sys.platform = sys.platform, "linux"  # Trio knows no other with epoll
    import trio  # noqa: F401, PLC0415

    sys.platform = real_platform
    import pytest  # noqa: PLC0415

    class Skips:
        """Leaves out tests over a socket, and has those skipped that turn out to need a thread or a process."""

        @staticmethod
        def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
            items[:] = [item for item in items if "over_a_socket" not in item.name.replace(" ", "_")]

        @staticmethod
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
            report = yield
            if report.failed and any(text in report.longreprtext for text in MISSING):
                report.outcome, report.longrepr = "skipped", (report.nodeid, 0, "it needs threads or processes")
            return report

    # No timeout: there is no timer that could interrupt a test.
    return int(pytest.main(["-o", "timeout=0", *given], plugins=[Skips()]))
