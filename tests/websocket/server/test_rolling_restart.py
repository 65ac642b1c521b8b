"""Two processes that serve one port, each replaced by another while clients read and connect: real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

import csp
from csp import errors, websocket

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes cannot share a port there")

FEEDS, CALLERS, PROCESSES = 5, 5, 2
RESTART = websocket.CLOSE_CODES.SERVICE_RESTART

# Sends each client the numbers that follow the one it names, until a line comes on standard input. Then it accepts no
# more, and closes connections with 1012. Its argument is a port, or the descriptor of a socket that listens.
PROGRAM = """
import os, sys, trio
from functools import partial
import csp
from csp import websocket

how, number = sys.argv[1], int(sys.argv[2])
stopping = csp.Channel()
if how == "inherited":
    os.dup2(number, 3)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
    place = {"sockets": websocket.inherited_sockets()}
else:
    place = {"port": number, "host": "127.0.0.1", "reuse_port": True}

async def publish(connection):
    number, ticks = int((await connection.receive_value()).data), csp.tick("10ms")
    while True:
        r = await csp.select(*(source.case_receive() for source in (stopping, ticks, connection.channel())))
        if not r.ok:
            break
        number += 1
        await connection.send(str(number))
    await connection.close(websocket.CLOSE_CODES.SERVICE_RESTART)

async def main():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(websocket.serve, publish, **place))
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        stopping.close()
        await server.close(websocket.CLOSE_CODES.SERVICE_RESTART, grace="60s")

trio.run(main)
"""


def start(how: str, own: socket.socket) -> subprocess.Popen[bytes]:
    inherited = how == "inherited"
    number = own.fileno() if inherited else own.getsockname()[1]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how, str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Where nothing is installed, the checkout must be found by the child as it was by this process.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        pass_fds=[own.fileno()] if inherited else [],
    )


async def started(how: str, own: socket.socket) -> subprocess.Popen[bytes]:
    """Start a process; return when it listens."""
    process = start(how, own)
    assert process.stdout is not None
    assert await trio.to_thread.run_sync(process.stdout.readline) == b"ready\n"
    return process


async def stopped(process: subprocess.Popen[bytes]) -> int:
    """Tell a process to stop; return its status."""
    await trio.to_thread.run_sync(process.communicate, b"\n", 60)
    return process.returncode


class Reader:
    """Reads a feed that says on each connection which number it has read."""

    def __init__(self) -> None:
        self.last = 0
        self.gaps: list[csp.Gap] = []
        self.missing = 0
        self.ends_at: int | None = None

    async def subscribe(self, client: websocket.Client) -> None:
        await client.send(str(self.last))

    async def run(self, url: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with websocket.reconnecting(url, subscribe=self.subscribe, min_delay="10ms") as feed:
            while self.ends_at is None or self.last < self.ends_at:
                value = await feed.receive_value()
                if isinstance(value, csp.Gap):
                    self.gaps.append(value)
                elif int(value.data) > self.last:
                    self.missing += int(value.data) - self.last - 1
                    self.last = int(value.data)
                    if self.last == 1:
                        task_status.started()


async def call(url: str, going_on: Callable[[], bool], failed: list[str]) -> None:
    """Connect, get an answer, and do so again; note where connecting fails."""
    while going_on():
        try:
            async with websocket.connect(url) as client:
                try:
                    await client.send("0")
                    await client.receive_value()
                except (errors.ConnectionFailedError, errors.EndOfChannelError):
                    assert client.close_code == RESTART
        except errors.ConnectionFailedError as error:
            failed.append(str(error))


@pytest.mark.parametrize(
    "how",
    [
        "inherited",
        pytest.param("reuse_port", marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares out")),
    ],
)
async def test_processes_replaced_one_by_one_lose_nothing(how: str) -> None:
    readers = [Reader() for _ in range(FEEDS)]
    failed: list[str] = []
    replaced = False
    with trio.fail_after(120), socket.socket() as own:
        if how == "inherited":
            own.bind(("127.0.0.1", 0))
            own.listen(1000)
        else:
            own.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_REUSEPORT"), 1)  # noqa: B009  # Windows has none
            own.bind(("127.0.0.1", 0))  # it keeps the port, and does not listen
        url = f"ws://127.0.0.1:{own.getsockname()[1]}/"
        processes = [await started(how, own) for _ in range(PROCESSES)]
        async with trio.open_nursery() as nursery:
            for reader in readers:
                await nursery.start(reader.run, url)
            for _ in range(CALLERS):
                nursery.start_soon(call, url, lambda: not replaced, failed)
            for old in list(processes):
                processes.append(await started(how, own))
                assert await stopped(old) == 0
                processes.remove(old)
            replaced = True
            for reader in readers:
                reader.ends_at = reader.last + 10
        for process in processes:
            assert await stopped(process) == 0
    for reader in readers:
        assert reader.gaps
        assert {gap.code for gap in reader.gaps} == {RESTART}
        assert reader.missing == 0
    if how == "inherited":
        assert failed == []
