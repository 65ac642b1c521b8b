"""What ``--json`` writes where there is no connection: from raw answers of a server, through the program."""

from __future__ import annotations

import base64
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from csp import security, testing
from tests.websocket.command_line._process import start
from tests.websocket.command_line._session import URL
from trio_csp_websocket.command_line import program
from trio_csp_websocket.command_line.arguments import parse

if TYPE_CHECKING:
    from trio.testing import MockClock

    from csp.testing import ServerConnection

FULL = Path("/dev/full")
SECRET = "hunter2-hunter2"
BASIC = base64.b64encode(f"alice:{SECRET}".encode()).decode()


def answer(status: str, *lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body


async def written(
    capfd: pytest.CaptureFixture[str], raw: bytes, *arguments: str, url: str = URL
) -> tuple[dict[str, Any], str]:
    """Return the object that is written for a server that answers with these bytes, and all of standard output."""

    async def server(connection: ServerConnection) -> None:
        await connection.send_bytes(raw)
        connection.drop()

    async with testing.websocket_server(server):
        assert await program.run(parse([url, "--json", *arguments])) == 1
    out, err = capfd.readouterr()
    (line,) = out.splitlines()
    (said,) = err.splitlines()
    found: dict[str, Any] = json.loads(line)
    assert said.startswith(f"python -m csp.websocket: {found['error']}")
    return found, out


async def test_a_refusal_is_an_object(capfd: pytest.CaptureFixture[str], autojump_clock: MockClock) -> None:
    raw = answer("401 Unauthorized", "WWW-Authenticate: Bearer", "Set-Cookie: a=1", "Set-Cookie: b=2", body=b"who?\n")
    found, _ = await written(capfd, raw)
    said = found.pop("error")
    assert found == {
        "type": "refused",
        "status": 401,
        "headers": {"www-authenticate": "Bearer", "set-cookie": "a=1, b=2", "content-length": "5"},
        "body": "who?\n",
        "retryable": False,
    }
    assert said.startswith(f"cannot connect to {URL}: the server refused the connection with status 401")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", ""),
        ("Grüße\r\n\t\x00\x1b[2J\x9b\u202e".encode(), "Grüße\r\n\t\x00\x1b[2J\x9b\u202e"),
        (b"\xff\xfe\x00", None),
        (b"\x89PNG\r\n", None),
        (b"x" * 10_000, "x" * 4096),
        ("é".encode() * 10_000, "é" * 2048),
        (b"x" + "é".encode() * 10_000, "x" + "é" * 2047),
    ],
    ids=["empty", "controls", "binary", "image", "long", "characters", "a cut character"],
)
async def test_the_body_is_text_as_far_as_it_is_kept(
    capfd: pytest.CaptureFixture[str], autojump_clock: MockClock, body: bytes, shown: str | None
) -> None:
    found, out = await written(capfd, answer("503 Busy", body=body))
    assert (found["type"], found["status"], found["body"], found["retryable"]) == ("refused", 503, shown, True)
    assert "\x1b" not in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["-H", f"Authorization: Bearer {SECRET}"],
        ["-H", f"Cookie: session={SECRET}"],
        ["-H", f"X-Api-Key: {SECRET}"],
        ["--protocol", "v1", "--protocol", SECRET],
        [f"ws://server.test/?token={SECRET}"],
        [f"ws://alice:{SECRET}@server.test/"],
    ],
)
async def test_a_server_that_repeats_a_secret_has_it_hidden(
    capfd: pytest.CaptureFixture[str], autojump_clock: MockClock, arguments: list[str]
) -> None:
    *options, last = arguments
    url, options = (last, options) if last.startswith("ws:") else (URL, arguments)
    body = f'{{"error": "not for {SECRET.upper()}", "got": "Basic {BASIC}"}}'.encode()
    raw = answer(
        f"403 Not {SECRET}",
        f"X-Echo: {SECRET} again",
        f"X-{SECRET}: {SECRET}",
        f"Location: wss://alice:{SECRET}@else.where/a?token={SECRET}#{SECRET}",
        body=body,
    )
    found, out = await written(capfd, raw, *options, url=url)
    assert SECRET not in out.lower()
    assert "alice:" not in out
    assert found["headers"]["x-echo"] == "... again"
    assert found["headers"]["location"] == "wss://else.where/a?..."
    assert json.loads(found["body"])["error"] == "not for ..."
    assert (BASIC in out) == ("alice" not in url)


async def test_a_body_that_repeats_a_secret_in_an_encoded_form_is_left_out(
    capfd: pytest.CaptureFixture[str], autojump_clock: MockClock
) -> None:
    found, _ = await written(capfd, answer("400 Bad", body=b"who is p%40ssword?"), "-H", "X-Key: p@ssword")
    assert found["body"] == ""


@pytest.mark.parametrize(
    ("end", "shown"),
    [
        (SECRET[:-1], "..."),
        (SECRET[:5].upper(), "..."),
        (SECRET[:3], SECRET[:3]),
        ("hunter2-", "..."),
        ("hunter2-hunter", "..."),
        ("-hunter2", "-..."),
        ("\u0130-hunter2", "\u0130-..."),
    ],
)
async def test_a_secret_that_is_cut_where_the_kept_part_of_the_body_ends_is_hidden(
    capfd: pytest.CaptureFixture[str], autojump_clock: MockClock, end: str, shown: str
) -> None:
    begin = "x" * (4096 - len(end.encode()))
    raw = answer("400 Bad", body=f"{begin}{end}".encode() + b"-and more")
    found, _ = await written(capfd, raw, "-H", f"X-Key: {SECRET}", "-H", "X-Other: hunt5678")
    assert found["body"] == begin + shown


async def test_a_secret_that_is_encoded_and_cut_leaves_nothing_of_the_body(
    capfd: pytest.CaptureFixture[str], autojump_clock: MockClock
) -> None:
    end = b"p%40ssw"
    raw = answer("400 Bad", body=b"x" * (4096 - len(end)) + end + b"ord")
    found, _ = await written(capfd, raw, "-H", "X-Key: p@ssword")
    assert found["body"] == ""


async def test_a_body_that_came_as_a_whole_may_end_as_a_secret_begins(
    capfd: pytest.CaptureFixture[str], autojump_clock: MockClock
) -> None:
    found, _ = await written(capfd, answer("400 Bad", body=b"no hunter"), "-H", f"X-Key: {SECRET}")
    assert found["body"] == "no hunter"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "the server closed the connection without an answer to the WebSocket handshake"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "in HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nX-Key: 1\r\n\r\n", "the server's answer to the handshake is invalid"),
    ],
)
async def test_what_is_no_refusal_is_an_error(
    capfd: pytest.CaptureFixture[str], autojump_clock: MockClock, raw: bytes, said: str
) -> None:
    found, _ = await written(capfd, raw)
    assert found.keys() == {"type", "error", "retryable"}
    assert (found["type"], found["retryable"]) == ("error", True)
    assert said in found["error"]


async def test_a_timeout_is_an_error(capfd: pytest.CaptureFixture[str], autojump_clock: MockClock) -> None:
    async def silent(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async def wait(connection: ServerConnection) -> None:
        await connection.send_bytes(b"HTTP/1.1 ")
        await silent(connection)

    async with testing.websocket_server(wait):
        assert await program.run(parse([URL, "--json", "--timeout", "5s"])) == 1
    found = json.loads(capfd.readouterr().out)
    assert found["type"] == "error"
    assert "within 5 s" in found["error"]


async def test_a_policy_that_denies_is_an_error(capfd: pytest.CaptureFixture[str], autojump_clock: MockClock) -> None:
    scope = security.Scope([security.Policy("websocket.*", "*", "deny")])
    with security.context(scope=scope, strict=True):
        assert await program.run(parse([URL, "--json"])) == 1
    found = json.loads(capfd.readouterr().out)
    assert (found["type"], found["retryable"]) == ("error", False)
    assert "not allowed" in found["error"]


async def test_without_json_nothing_goes_to_standard_output(
    capfd: pytest.CaptureFixture[str], autojump_clock: MockClock
) -> None:
    async def refuse(connection: ServerConnection) -> None:
        await connection.reject(404)

    async with testing.websocket_server(refuse):
        assert await program.run(parse([URL])) == 1
    assert capfd.readouterr().out == ""


# Output that cannot be written ----------------------------------------------------------------------------------------


async def refused_with_output(fd: int) -> None:
    """Run the program, with this descriptor as its standard output, against a server that refuses."""

    async def refuse(connection: ServerConnection) -> None:
        await connection.reject(404)

    saved = os.dup(1)
    os.dup2(fd, 1)
    try:
        async with testing.websocket_server(refuse):
            assert await program.run(parse([URL, "--json"])) == 1
    finally:
        os.dup2(saved, 1)
        os.close(saved)


async def test_a_reader_who_has_left_is_not_told_of(capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    await refused_with_output(writing)
    os.close(writing)
    (line,) = capfd.readouterr().err.splitlines()
    assert "status 404" in line


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
async def test_output_that_cannot_be_written_is_told_too(capfd: pytest.CaptureFixture[str]) -> None:
    full = os.open(FULL, os.O_WRONLY)
    await refused_with_output(full)
    os.close(full)
    failed, refused = capfd.readouterr().err.splitlines()
    assert failed == "python -m csp.websocket: cannot write the output: No space left on device"
    assert "status 404" in refused


# As a process ---------------------------------------------------------------------------------------------------------


def as_a_process(raw: bytes, *arguments: str, path: str = "") -> tuple[int, list[dict[str, Any]], list[str]]:
    """Run the program against a socket that answers with these bytes; return status, objects and lines of errors."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/{path}"
        with start("--json", *arguments, url) as process:
            stream, _ = listener.accept()
            with stream:
                stream.settimeout(30)
                request = b""
                while b"\r\n\r\n" not in request:
                    request += stream.recv(1 << 16)
                stream.sendall(raw)
                out, err = process.communicate(timeout=30)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err.splitlines()


def test_a_refusal_over_tcp_is_an_object_and_a_line_of_errors() -> None:
    raw = answer("401 \x1b[2JNo", "X-Echo: Bearer " + SECRET, body=f"\x1b[31m{SECRET}\n".encode())
    status, (found,), (said,) = as_a_process(raw, "-H", f"Authorization: Bearer {SECRET}", path="?token=" + SECRET)
    assert status == 1
    assert (found["type"], found["status"], found["body"]) == ("refused", 401, "\x1b[31m...\n")
    assert found["headers"]["x-echo"] == "..."
    assert said.startswith("python -m csp.websocket: cannot connect to ws://127.0.0.1:")
    assert said.endswith("; the credentials were not accepted")
    assert SECRET not in said + json.dumps(found)
    assert "\x1b" not in said


def test_a_port_nobody_listens_on_is_an_object() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}/"
        with start("--json", url) as process:
            out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    said = f"cannot connect to {url}: Connection refused"
    assert [json.loads(line) for line in out.splitlines()] == [{"type": "error", "error": said, "retryable": True}]
    assert err == f"python -m csp.websocket: {said}; is the server running, and on this port?\n"
