"""The command line client as a process, in pipes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.websocket._peers import LibraryServer, NodeServer, raw_server
from tests.websocket._proxies import Echo, Proxy
from tests.websocket.command_line._process import environment, start
from trio_csp_websocket.command_line.program import main
from trio_csp_websocket.network.failures import error_text

if TYPE_CHECKING:
    from collections.abc import Iterator


FULL = Path("/dev/full")
PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def finished(*arguments: str, given: str = "") -> tuple[int, list[str], list[str]]:
    with start(*arguments) as process:
        out, err = process.communicate(given, timeout=30)
    return process.returncode, out.splitlines(), err.splitlines()


@pytest.fixture(scope="module")
def node() -> Iterator[NodeServer]:
    with NodeServer().running() as running:
        yield running


def test_websockets_echoes_with_compression_and_a_count(library: LibraryServer) -> None:
    numbers = [str(number) for number in range(1000)]
    url = library.url("/echo?deflate")
    status, out, err = finished("--compress", "--count", "1000", url, given="\n".join(numbers))
    assert (status, out) == (0, numbers)
    assert err == [f"connected to {library.url('/echo')}?..., compressed", "closed with code 1000 (NORMAL)"]


def test_npm_ws_echoes(node: NodeServer) -> None:
    status, out, _ = finished(
        "--json", "--compress", "no-context", "--wait", "200ms", node.url("/echo?deflate"), given="é"
    )
    assert status == 0
    assert [json.loads(line) for line in out] == [
        {"type": "text", "data": "é"},
        {"type": "close", "code": 1000, "reason": "", "error": None},
    ]


def test_the_input_waits_for_the_first_message_and_for_the_delay() -> None:
    status, out, err = finished("--demo", "--after-first", "--delay", "50ms", "--count", "3", given="a\nb\n")
    assert (status, out[1:]) == (0, ["a", "b"])
    assert out[0].startswith("Welcome!")
    assert err[-1] == "closed with code 1000 (NORMAL)"


def test_the_input_is_not_sent_if_no_first_message_comes(library: LibraryServer) -> None:
    status, out, err = finished("--after-first", "--timeout", "1s", library.url("/echo"), given="a\n")
    assert (status, out) == (1, [])
    assert err[1:] == ["no message came within 1s, so nothing was sent", "closed with code 1000 (NORMAL)"]


def test_headers_and_protocols_reach_the_server(library: LibraryServer) -> None:
    arguments = ["--count", "1", "-H", "X-Token: a b", "--protocol", "first", "--protocol", "second"]
    status, out, err = finished(*arguments, library.url("/headers"))
    assert status == 0
    assert ["X-Token", "a b"] in json.loads(out[0])
    assert err[0].endswith(", protocol second")


def test_the_installed_command_is_the_same_program(library: LibraryServer) -> None:
    entry = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["scripts"]["csp-websocket"]
    assert EntryPoint("csp-websocket", entry, "console_scripts").load() is main
    command = shutil.which("csp-websocket", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("the package is not installed")
    url = library.url("/echo")
    result = subprocess.run(
        [command, "--count=1", url], input="a\n", capture_output=True, text=True, timeout=30, check=False
    )
    said = f"connected to {url}\nclosed with code 1000 (NORMAL)\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, "a\n", said)
    wrong = subprocess.run([command], stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.endswith("csp-websocket: error: give either a URL, --listen or --demo\n")


def test_in_a_pipe_nothing_is_needed_that_only_unix_has(library: LibraryServer) -> None:
    unix = ["fcntl", "grp", "pty", "pwd", "readline", "resource", "termios", "tty"]
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({unix})); "
    code += "runpy.run_module('csp.websocket', run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "--count=1", library.url("/echo")],
        input="grüße\n",
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
        env=environment(),
    )
    said = f"connected to {library.url('/echo')}\nclosed with code 1000 (NORMAL)\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, "grüße\n", said)


async def test_the_environments_proxy_is_gone_through_and_its_credentials_are_not_shown() -> None:
    async with raw_server(Echo()) as url, Proxy("http", (b"user", b"hunter2")).running() as proxy:
        address = url.replace("127.0.0.1", "server.test")
        variables = {"http_proxy": proxy.url(credentials="user:hunter2")}
        result = await trio.run_process(
            [sys.executable, "-m", "csp.websocket", "--count=1", address],
            stdin=b"a\n",
            capture_stdout=True,
            capture_stderr=True,
            env=environment() | variables,
        )
    assert result.stdout.split() == [b"a"]
    assert b"hunter2" not in result.stderr
    (asked,) = proxy.asked
    assert (asked.host, asked.credentials) == ("server.test", (b"user", b"hunter2"))


def test_a_port_nobody_listens_on_is_told_in_one_line() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}/"
        said = f"cannot connect to {url}: {error_text(errno.ECONNREFUSED)}; is the server running, and on this port?"
        assert finished(url) == (1, [], [f"python -m csp.websocket: {said}"])


@pytest.mark.skipif(sys.platform == "win32", reason="a process can only be killed here")
def test_ctrl_c_in_a_pipe_closes_and_is_status_130(library: LibraryServer) -> None:
    with start(library.url("/echo")) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("a\n")
        process.stdin.flush()
        assert process.stdout.readline() == "a\n"  # although the input goes on
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "closed with code 1000 (NORMAL)"


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk_at_the_end_is_status_1(library: LibraryServer) -> None:
    with FULL.open("w", encoding="utf-8") as full, start(library.url("/count/3"), stdout=full) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    said = ["closed by the server with code 1000 (NORMAL)", f"cannot write the output: {os.strerror(errno.ENOSPC)}"]
    assert sorted(err.splitlines()[1:]) == sorted(said)


def test_a_pipe_that_is_closed_ends_it_quietly(library: LibraryServer) -> None:
    with start(library.url("/count/20000")) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.wait(30) == 0
        assert "Error" not in process.stderr.read()
