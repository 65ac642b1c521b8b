"""The program, run in this process: its streams, its errors and what to try, signals."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import ssl
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

import csp
from csp import security, testing
from tests.websocket._peers import Peer, raw_server
from tests.websocket.command_line._session import URL, Run
from trio_csp_websocket.command_line import program
from trio_csp_websocket.command_line.advice import advice
from trio_csp_websocket.command_line.arguments import parse
from trio_csp_websocket.command_line.demo import demo
from trio_csp_websocket.command_line.request import Request

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from trio.testing import MockClock


@contextmanager
def standard_input(data: bytes) -> Generator[None]:
    """Put a file in the place of standard input; pytest has its own in that of standard output."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        saved = os.dup(0)
        os.dup2(file.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(saved, 0)
            os.close(saved)


async def run_program(*arguments: str, given: bytes = b"") -> int:
    with standard_input(given), trio.fail_after(10):
        return await program.run(parse(arguments))


async def test_messages_go_to_standard_output_and_the_rest_to_standard_error(
    echoing: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await run_program(URL, "--wait", "50ms", given="a\nGrüße".encode()) == 0
    assert capfd.readouterr() == ("a\nGrüße\n", f"connected to {URL}\nclosed with code 1000 (NORMAL)\n")


async def test_the_demo_greets_echoes_and_ticks(capfd: pytest.CaptureFixture[str]) -> None:
    assert await run_program("--demo", "--wait", "50ms", given=b"hello\n") == 0
    assert capfd.readouterr().out.splitlines()[1:] == ["hello"]


async def test_the_demo_is_served_to_many_connections_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert await run_program("--demo", "--reconnect", "--wait", "50ms", given=b"hello\n") == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[1:] == ["hello"]
    assert re.fullmatch("connected to ws://localhost:[0-9]+/\nclosed with code 1000 \\(NORMAL\\)\n", err)


async def test_a_demo_that_may_not_listen_is_status_1(capfd: pytest.CaptureFixture[str]) -> None:
    with security.context(actor=security.Actor("me"), scope=security.Scope([])):
        assert await run_program("--demo") == 1
    assert "websocket.listen is denied" in capfd.readouterr().err


async def test_the_demo_is_not_reached_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert await run_program("--demo", "--compress", "--protocol", "p", "--wait", "50ms", given=b"hello\n") == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[1:] == ["hello"]
    assert err.splitlines()[0].endswith("/, protocol p, compressed")


async def test_the_demo_ticks(autojump_clock: MockClock) -> None:
    run = Run()
    async with testing.websocket_server(demo):
        assert await run.carry_through("last", count=4) == 0
    assert run.texts()[1:] == ["last", "tick", "tick"]
    assert trio.current_time() == pytest.approx(10, abs=0.1)


async def test_a_server_ends_when_its_input_cannot_be_read(capfd: pytest.CaptureFixture[str]) -> None:
    assert await run_program("--listen", "0", given=b"\xff\n") == 1
    listening, why, stopped = capfd.readouterr().err.splitlines()
    assert re.fullmatch("listening on ws://localhost:[0-9]+/", listening)
    assert (why, stopped) == ("standard input: line 1 is not UTF-8: its byte 1 is 0xff", "stopped listening")


@pytest.mark.parametrize("as_json", [True, False])
async def test_a_port_that_cannot_be_had_is_status_1(capfd: pytest.CaptureFixture[str], as_json: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        assert await run_program("--listen", url, *["--json"] * as_json) == 1
    out, err = capfd.readouterr()
    assert err.startswith(f"python -m csp.websocket: cannot listen on ws://{url}/: ")
    assert err.endswith("; --listen 0 takes a free port\n")
    assert err.count("\n") == 1
    assert ('"retryable": true' in out) == as_json


async def test_an_address_that_is_not_here_gets_no_advice_about_ports(capfd: pytest.CaptureFixture[str]) -> None:
    assert await run_program("--listen", "192.0.2.1:0") == 1
    assert "--listen" not in capfd.readouterr().err


async def test_input_that_is_not_utf_8_is_an_error(echoing: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert await run_program(URL, given=b"a\n\xff\n") == 1
    assert "standard input: line 2 is not UTF-8: its byte 1 is 0xff" in capfd.readouterr().err.splitlines()


async def test_input_that_cannot_be_read_is_an_error(
    echoing: None, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if sys.platform == "win32":
        pytest.skip("a directory cannot be opened here")
    directory = os.open(tmp_path, os.O_RDONLY)
    with standard_input(b""), trio.fail_after(10):
        os.dup2(directory, 0)
        assert await program.run(parse([URL])) == 1
    os.close(directory)
    assert f"standard input: {os.strerror(errno.EISDIR)}" in capfd.readouterr().err.splitlines()


async def test_connecting_is_given_up_after_the_timeout(capfd: pytest.CaptureFixture[str]) -> None:
    async def wait(_connection: testing.ServerConnection) -> None:
        await trio.sleep_forever()

    async with testing.websocket_server(wait):
        assert await run_program(URL, "--timeout", "10ms") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "within 0.01 s" in line


@pytest.mark.parametrize("arguments", [["-H", "authorization: Bearer x", URL], [URL.replace("//", "//user:password@")]])
async def test_credentials_that_are_refused_are_not_asked_for(
    capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    async def refuse(connection: testing.ServerConnection) -> None:
        await connection.reject(403)

    async with testing.websocket_server(refuse):
        assert await run_program(*arguments) == 1
    assert capfd.readouterr().err.endswith("; the credentials were not accepted\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_certificate_for_another_host_is_not_to_be_trusted(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, host: str
) -> None:
    async def server(peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            assert await peer.stream.receive_some() == b""

    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.com").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with raw_server(server, tls=context) as url:
        assert await run_program("--ca", str(tmp_path / "ca.pem"), url.replace("127.0.0.1", host)) == 1
    assert capfd.readouterr().err.endswith("; is the host name right?\n")


@pytest.mark.parametrize(
    ("status", "headers", "advice"),
    [
        (401, {}, "; credentials go into --header 'Authorization: ...' or the URL"),
        (404, {}, "; is the path right?"),
        (503, {}, ""),
    ],
)
async def test_a_refusal_is_told_with_what_to_try(
    capfd: pytest.CaptureFixture[str], status: int, headers: dict[str, str], advice: str
) -> None:
    async def refuse(connection: testing.ServerConnection) -> None:
        await connection.reject(status, headers=headers)

    async with testing.websocket_server(refuse):
        assert await run_program(URL) == 1
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"python -m csp.websocket: cannot connect to {URL}: ")
    assert f"status {status}" in line
    assert not advice or line.endswith(advice)
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("causes", "tried"),
    [
        ([], ""),
        ([OSError("no")], ""),
        ([ConnectionRefusedError()], "; is the server running, and on this port?"),
        ([socket.gaierror()], "; is the host name right?"),
        (
            [OSError("no"), ssl.SSLCertVerificationError()],
            "; --ca FILE trusts its authority, --insecure trusts anybody",
        ),
    ],
)
def test_the_cause_of_a_failure_tells_what_to_try(causes: list[Exception], tried: str) -> None:
    error: Exception = csp.errors.ConnectionFailedError("no", kind="INTERNAL")
    outermost = error
    for cause in causes:
        error.__cause__ = error = cause
    assert advice(outermost, Request()) == tried


@pytest.mark.parametrize("arguments", [[], ["--reconnect"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_connecting(number: signal.Signals, arguments: list[str]) -> None:
    async def wait(_connection: testing.ServerConnection) -> None:
        signal.raise_signal(number)
        await trio.sleep_forever()

    async with testing.websocket_server(wait):
        assert await run_program(*arguments, URL) == 128 + number


@pytest.mark.parametrize("arguments", [[], ["--reconnect"]])
async def test_a_signal_closes_and_a_second_does_not_wait(arguments: list[str]) -> None:
    async def deaf(connection: testing.ServerConnection) -> None:
        await connection.accept()
        connection.stop_reading()
        signal.raise_signal(signal.SIGINT)
        await trio.sleep(0.1)
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    async with testing.websocket_server(deaf):
        assert await run_program(*arguments, URL, "--wait", "forever") == 130


async def test_what_is_said_goes_nowhere_else_where_standard_error_is_closed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    async with testing.websocket_server(lambda connection: connection.reject(404)):
        assert await run_program(URL) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_streams_that_are_closed_are_no_files_to_be_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    real_open = os.open

    def note(path: str, flags: int) -> int:
        opened.append(real_open(path, flags))
        return opened[-1]

    monkeypatch.setattr(os, "open", note)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit):
        program.main(["--version"])
    (fd,) = opened
    os.close(fd)
