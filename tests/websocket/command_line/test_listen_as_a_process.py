"""A server of the command line as a process: in pipes, over TLS, with signals, and at a terminal."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.websocket.command_line._process import start
from tests.websocket.command_line._terminal import CTRL_C, at_terminal

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Generator
    from pathlib import Path


@contextmanager
def server(*arguments: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Start a server on a free port; give it with its URL. It is killed at the end, unless it has ended."""
    with start("--listen", "0", *arguments) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("listening on "), line
            yield process, line.split()[-1]
        finally:
            process.kill()


def talk(*arguments: str, given: str = "") -> tuple[int, str, str]:
    with start(*arguments) as process:
        out, err = process.communicate(given, timeout=30)
    return process.returncode, out, err


def say(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_two_programs_talk_to_each_other() -> None:
    with server() as (host, url), start(url, "--wait", "forever") as client:
        say(client, "grüße\n")
        assert heard(host) == "grüße\n"
        say(host, "an alle\n")
        assert heard(client) == "an alle\n"
        say(host, "zwei\n")
        assert heard(client) == "zwei\n"
        client.send_signal(signal.SIGTERM)
        client.communicate(timeout=30)
        assert host.stderr is not None
        assert host.stderr.readline().endswith(", path / (1 connected)\n")
        assert host.stderr.readline() == "#1 disconnected: closed by the client with code 1000 (NORMAL) (0 connected)\n"


def test_an_echo_answers_a_client_with_compression_and_a_protocol() -> None:
    with server("--echo", "--compress", "--protocol", "chat", "--count", "3") as (host, url):
        numbers = "1\n2\n3\n"
        status, out, err = talk(url, "--compress", "--protocol", "chat", "--count", "3", given=numbers)
        assert (status, out) == (0, numbers)
        assert err.splitlines()[0] == f"connected to {url}, protocol chat, compressed"
        out, err = host.communicate(timeout=30)
        assert (host.returncode, out) == (0, numbers)
        assert err.splitlines()[-1] == "stopped listening"


def test_over_tls_with_a_certificate_in_a_file(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    both = tmp_path / "both.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(both)
    with server("--echo", "--cert", str(both)) as (_, url):
        assert url.startswith("wss://localhost:")
        status, out, _ = talk("--ca", str(tmp_path / "ca.pem"), "--count", "1", url, given="a\n")
    assert (status, out) == (0, "a\n")


def test_the_port_stands_in_the_first_object_of_json() -> None:
    with start("--listen", "0", "--json", "--count", "1") as host:
        listening = json.loads(heard(host))
        assert listening.keys() == {"type", "url"}
        talk(listening["url"], "--wait", "10ms", given="a\n")
        out, _ = host.communicate(timeout=30)
    opened, text, closed = map(json.loads, out.splitlines())
    assert (opened["type"], opened["connection"], opened["path"]) == ("open", 1, "/")
    assert opened["remote"].rpartition(":")[0] in ("127.0.0.1", "[::1]")
    assert text == {"type": "text", "data": "a", "connection": 1}
    assert (closed["type"], closed["connection"]) == ("close", 1)


def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = talk("--listen", f"127.0.0.1:{port}", "--json")
    assert status == 1
    assert json.loads(out)["type"] == "error"
    assert json.loads(out)["retryable"] is True
    (line,) = err.splitlines()
    assert line.startswith(f"python -m csp.websocket: cannot listen on ws://127.0.0.1:{port}/: ")
    assert line.endswith("; --listen 0 takes a free port")


@pytest.mark.skipif(sys.platform == "win32", reason="a process can only be killed here")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_tells_all_and_ends_it(number: signal.Signals, status: int) -> None:
    with server() as (host, url), start(url, "--wait", "forever") as client:
        say(client, "here\n")
        assert heard(host) == "here\n"
        host.send_signal(number)
        _, said = host.communicate(timeout=30)
        _, err = client.communicate(timeout=30)
    assert host.returncode == status
    assert said.splitlines()[-2:] == [
        "#1 disconnected: closed with code 1001 (GOING_AWAY) (0 connected)",
        "stopped listening",
    ]
    assert client.returncode == 0
    assert err.splitlines()[-1] == "closed by the server with code 1001 (GOING_AWAY)"


def test_input_that_is_not_utf_8_ends_it_and_all_are_told() -> None:
    with server() as (host, url), start(url, "--wait", "forever") as client:
        say(client, "here\n")
        assert heard(host) == "here\n"
        assert host.stdin is not None
        os.write(host.stdin.fileno(), b"\xff\n")
        _, said = host.communicate(timeout=30)
        _, err = client.communicate(timeout=30)
    assert host.returncode == 1
    assert "standard input: line 1 is not UTF-8: its byte 1 is 0xff" in said.splitlines()
    assert err.splitlines()[-1] == "closed by the server with code 1001 (GOING_AWAY)"


@pytest.mark.usefixtures("state")
def test_a_person_at_a_terminal_talks_to_a_client() -> None:
    with at_terminal("-m", "csp.websocket", "--listen", "0", columns=200) as (terminal, process):
        terminal.wait_for("sent to all; /help tells more, Ctrl-D ends")
        url = terminal.shown.partition("listening on ")[2].split()[0]
        with start(url, "--wait", "forever") as client:
            say(client, "hello\x1b[2J\n")
            terminal.wait_for("#1: hello\\u001b[2J")
            terminal.type("hi there\r")
            assert heard(client) == "hi there\n"
            terminal.type("/ping\r")
            terminal.wait_for("#1: pong after")
            terminal.type(CTRL_C)
            _, err = client.communicate(timeout=30)
        terminal.wait_for("stopped listening")
        assert process.wait(20) == 0
    assert err.splitlines()[-1] == "closed by the server with code 1001 (GOING_AWAY)"
    assert "\x1b[2J" not in terminal.shown.partition("#1 connected")[2]
