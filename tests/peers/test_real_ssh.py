"""examples/ssh_tunnel.py with OpenSSH on both sides, through which the client connects to a server on loopback."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from csp.errors import ConnectionFailedError
from tests.peers._listening import free_port
from tests.peers._servers import ROOT, SSHD, Peer
from tests.peers.sshd_server import user
from tests.websocket import _links
from tests.websocket._peers import connected, driver_tasks, open_sockets, raw_server
from tests.websocket._proxies import Echo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from csp import websocket

    Dial = Callable[[str, str, int], Awaitable[trio.abc.Stream]]

EXAMPLE = ROOT / "examples" / "ssh_tunnel.py"
MUCH = "much " * 200_000

# What stands in a user's ~/.ssh/config, which ssh finds whatever HOME is.
CONFIGURATION = """
Host gateway.test
    HostName 127.0.0.1
    User {user}
    Port {port}
    HostKeyAlias gateway.test
Host *
    IdentityFile {folder}/{key}
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking accept-new
"""
# Tells the process id of ssh.
SSH = """#!/bin/sh
echo $$ >>{folder}/process_ids
exec {ssh} -F {folder}/config "$@"
"""


@dataclass(frozen=True)
class Gateway:
    """A server of SSH, and an ssh on PATH that is configured for it as ``gateway.test``."""

    port: int
    version: str
    folder: Path

    def process_ids(self) -> list[int]:
        """Return the process ids of what ran as ssh."""
        return [int(line) for line in (self.folder / "process_ids").read_text(encoding="utf-8").split()]


@contextmanager
def run(peer: Peer, folder: Path, monkeypatch: pytest.MonkeyPatch, *, key: str = "known") -> Generator[Gateway]:
    """Run a server that knows one of two keys, or skip the test; no file, task or process of the client may be left.

    Args:
        key: the one that ssh has: ``known``, or ``other``.
    """
    missing = peer.missing()
    if missing is not None:
        pytest.skip(missing)
    for name in ("known", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    public_key = (folder / "known.pub").read_text(encoding="utf-8").strip()
    with replace(peer, arguments=[*peer.arguments, public_key]).running() as server:
        (folder / "config").write_text(
            CONFIGURATION.format(folder=folder, key=key, port=server.port, user=user()), encoding="utf-8"
        )
        program = folder / "bin" / "ssh"
        program.parent.mkdir()
        program.write_text(SSH.format(folder=folder, ssh=shutil.which("ssh")), encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", os.pathsep.join([str(program.parent), os.environ["PATH"]]))
        gateway = Gateway(server.port, server.version, folder)
        sockets, files = open_sockets(), open_files()
        yield gateway
        assert driver_tasks() == []
        assert open_sockets() == sockets
        assert open_files() == files
        assert gateway.process_ids()
        for process_id in gateway.process_ids():
            with pytest.raises(ProcessLookupError):
                os.kill(process_id, 0)


def open_files() -> int:
    """Return how many files this process has open, pipes too."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def dial() -> Dial:
    """Return the function of the example."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        found: Dial = runpy.run_path(str(EXAMPLE))["dial"]
    finally:
        signal.signal(signal.SIGINT, handler)
    return found


async def echoed(client: websocket.Client, text: str = "hello") -> None:
    await client.send(text)
    assert (await anext(client)).data == text


async def example(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the example as a user does."""
    completed = await trio.run_process(
        [sys.executable, EXAMPLE, *arguments],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "drivers")])},
    )
    return subprocess.CompletedProcess(
        completed.args, completed.returncode, completed.stdout.decode(), completed.stderr.decode()
    )


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("peer", [SSHD], ids=str)
async def test_messages_go_through(
    peer: Peer,
    secure: bool,
    dial: Dial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    with run(peer, tmp_path, monkeypatch) as gateway:
        record_property("version", gateway.version)
        options: websocket.ConnectOptions = {"dial": partial(dial, "gateway.test")}
        if secure:
            options["ssl_context"] = _links.contexts()[1]
            options["server_hostname"] = "server.test"
        async with raw_server(Echo(), tls=_links.contexts()[0] if secure else None) as url:
            async with connected(url, **options) as client:
                await echoed(client)
                await echoed(client, MUCH)
            assert (client.close_code, client.error) == (1000, None)
        assert len(gateway.process_ids()) == 1


@pytest.mark.parametrize("peer", [SSHD], ids=str)
async def test_a_gateway_may_be_an_address_with_user_and_port(
    peer: Peer,
    dial: Dial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with run(peer, tmp_path, monkeypatch) as gateway:
        address = f"ssh://{user()}@127.0.0.1:{gateway.port}"
        async with raw_server(Echo()) as url, connected(url, dial=partial(dial, address)) as client:
            await echoed(client)


@pytest.mark.parametrize("peer", [SSHD], ids=str)
async def test_a_block_that_is_cancelled_leaves_nothing(
    peer: Peer,
    dial: Dial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with run(peer, tmp_path, monkeypatch):
        async with raw_server(Echo()) as url:
            with trio.CancelScope() as scope:
                async with connected(url, dial=partial(dial, "gateway.test")) as client:
                    await echoed(client)
                    scope.cancel()
                    await client.receive()
            assert scope.cancelled_caught


@pytest.mark.parametrize("peer", [SSHD], ids=str)
async def test_the_end_of_ssh_is_the_end_of_the_connection(
    peer: Peer,
    dial: Dial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with run(peer, tmp_path, monkeypatch) as gateway:
        async with raw_server(Echo()) as url, connected(url, dial=partial(dial, "gateway.test")) as client:
            await echoed(client)
            (process_id,) = gateway.process_ids()
            os.kill(process_id, signal.SIGTERM)
            assert not (await client.receive()).ok
            assert client.close_code == 1006


@pytest.mark.parametrize("peer", [SSHD], ids=str)
async def test_where_nothing_listens_ssh_says_so(
    peer: Peer,
    dial: Dial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = f"ws://127.0.0.1:{free_port()}/"
    with run(peer, tmp_path, monkeypatch):
        with pytest.raises(ConnectionFailedError) as caught:
            async with connected(url, dial=partial(dial, "gateway.test")):
                pytest.fail("connected")
        assert caught.value.retryable
        ended = await example(url, "gateway.test")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Connection refused" in ended.stderr
    assert f"ssh_tunnel: cannot connect to {url}: " in ended.stderr


@pytest.mark.parametrize("peer", [SSHD], ids=str)
async def test_without_the_right_key_ssh_says_so(
    peer: Peer,
    dial: Dial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with run(peer, tmp_path, monkeypatch, key="other"):
        async with raw_server(Echo()) as url:
            with pytest.raises(ConnectionFailedError):
                async with connected(url, dial=partial(dial, "gateway.test")):
                    pytest.fail("connected")
            ended = await example(url, "gateway.test")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Permission denied (publickey)." in ended.stderr
    assert f"ssh_tunnel: cannot connect to {url}: " in ended.stderr
