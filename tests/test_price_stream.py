"""The example in real life: a process of its own, its own exchange and another library's server."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.server import ServerConnection, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLE = Path(__file__).parent.parent / "examples" / "price_stream.py"


def start(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    # Where nothing is installed, the checkout must be found by the child as it was by this process.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLE), *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def run(*arguments: str) -> tuple[int, str, str]:
    with start(*arguments) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def exchange() -> Iterator[str]:
    """Serve prices with websockets, from a thread with its own event loop; the first message to each is no price."""

    async def handler(connection: ServerConnection) -> None:
        symbols = json.loads(await connection.recv())["subscribe"]
        await connection.send("no price")
        for price in range(1, 1000):
            for symbol in symbols:
                await connection.send(json.dumps({"symbol": symbol, "price": price}))
            await asyncio.sleep(0.01)

    async def main() -> None:
        async with serve(handler, "127.0.0.1", 0) as server:
            ports.append(server.sockets[0].getsockname()[1])
            stop_now = asyncio.Event()
            stops.append(lambda: loop.call_soon_threadsafe(stop_now.set))
            loop = asyncio.get_running_loop()
            started.set()
            await stop_now.wait()

    ports: list[int] = []
    stops: list[Callable[[], object]] = []
    started = threading.Event()
    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(30)
    yield f"ws://127.0.0.1:{ports[0]}"
    stops[0]()
    thread.join(30)


def test_runs_on_its_own_exchange_and_ends_with_a_summary() -> None:
    status, out, err = run("--seconds", "1.2")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0].split() == ["symbol", "last", "change", "msg/s", "latency"]
    assert {line.split()[0] for line in lines[1:-1]} == {"BTC-EUR", "ETH-EUR", "EUR-USD", "GBP-USD"}
    assert lines[-1].startswith("time is up: ")
    assert "\x1b" not in out


def test_watches_an_exchange_made_with_websockets(exchange: str) -> None:
    status, out, err = run(exchange, "--seconds", "1.2")
    assert (status, err) == (0, "")
    assert "2 messages ignored" in out.splitlines()[-1]


def test_redraws_in_place_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    with start(stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        while b"\x1b[5A" not in shown and (chunk := read_terminal(ours)):
            shown += chunk
        process.send_signal(signal.SIGINT)
        while read_terminal(ours):
            pass
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    os.close(ours)
    assert b"\x1b[5A" in shown


def read_terminal(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # Linux says so when the other side of a terminal is closed
        return b""


def test_ends_with_a_summary_on_ctrl_c() -> None:
    with start() as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1].startswith("interrupted: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["ws://user:secret@127.0.0.1:{refused}/"],
            "price_stream: cannot connect to ws://127.0.0.1:{refused}/: Connection refused",
        ),
        (["http://127.0.0.1/"], 'price_stream: url must start with "ws://" or "wss://", not "http:"'),
    ],
)
def test_says_in_one_line_why_it_cannot_connect(arguments: list[str], said: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = unused.getsockname()[1]
        status, out, err = run(*(argument.format(refused=refused) for argument in arguments))
    assert (status, out, err) == (1, "", said.format(refused=refused) + "\n")
