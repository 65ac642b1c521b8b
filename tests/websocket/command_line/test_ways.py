"""The ways to a server, through the program: proxies, redirects, a Unix socket; what is told of them, and not."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from csp import testing
from tests.websocket._peers import TEXT, Peer, frame, raw_server
from tests.websocket.command_line._session import URL, echo
from tests.websocket.command_line.test_program import run_program

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from csp.testing import ServerConnection

SECRET = "hunter2-hunter2"
NOT_FOLLOWED = ", and redirects are not followed"


async def greet(peer: Peer) -> None:
    """Serve one client: a message, and the end of its doing."""
    await peer.accept(frame(TEXT, b"welcome"))
    await peer.read_frames()


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# Proxies --------------------------------------------------------------------------------------------------------------


class ConnectProxy:
    """An HTTP proxy that answers CONNECT with a status, and leads each tunnel to one port on this machine."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.answer = answer
        self.port = 0
        self.asked: list[bytes] = []

    @asynccontextmanager
    async def running(self, target_url: str = "") -> AsyncGenerator[str]:
        self.port = int(target_url.rpartition(":")[2].strip("/") or 0)
        async with trio.open_nursery() as nursery:
            listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
            nursery.start_soon(trio.serve_listeners, self.serve, [listener])
            yield f"127.0.0.1:{listener.socket.getsockname()[1]}"
            nursery.cancel_scope.cancel()

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await stream.receive_some(1)
            self.asked.append(head)
            await stream.send_all(self.answer)
            if self.port:
                async with await trio.open_tcp_stream("127.0.0.1", self.port) as target, trio.open_nursery() as nursery:
                    nursery.start_soon(relay, stream, target)
                    nursery.start_soon(relay, target, stream)


async def relay(source: trio.SocketStream, target: trio.SocketStream) -> None:
    async for data in source:
        await target.send_all(data)
    await target.send_eof()


@pytest.mark.usefixtures("no_environment")
async def test_a_connection_through_a_proxy_is_told_without_its_credentials(
    capfd: pytest.CaptureFixture[str],
) -> None:
    proxy = ConnectProxy()
    async with raw_server(greet) as url, proxy.running(url) as place:
        target = url.replace("127.0.0.1", "nowhere.invalid")
        assert await run_program("--proxy", f"http://alice:{SECRET}@{place}", "--count", "1", target) == 0
    out, err = capfd.readouterr()
    assert out == "welcome\n"
    assert err.splitlines()[0] == f"connected to {target} through the proxy http://{place}"
    assert proxy.asked[0].startswith(b"CONNECT nowhere.invalid:")
    assert b"Proxy-Authorization: Basic " in proxy.asked[0]
    assert SECRET not in err


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize("named", [False, True], ids=["given", "of the environment"])
@pytest.mark.parametrize(
    ("credentials", "wants"),
    [("", "wants credentials"), (f"alice:{SECRET}@", "does not accept the credentials in its URL")],
)
async def test_a_proxy_that_wants_other_credentials_is_told_without_them(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, credentials: str, wants: str, named: bool
) -> None:
    refusal = f"HTTP/1.1 407 Not {SECRET}\r\nProxy-Authenticate: Basic realm={SECRET}\r\nX-Said: {SECRET}\r\n\r\n"
    async with ConnectProxy(refusal.encode()).running() as place:
        if named:
            monkeypatch.setenv("all_proxy", f"{credentials}{place}")
        arguments = [] if named else ["--proxy", f"http://{credentials}{place}"]
        assert await run_program("--json", *arguments, URL) == 1
    out, err = capfd.readouterr()
    assert json.loads(out).keys() == {"type", "error", "retryable"}  # it is not the server that has refused
    assert json.loads(out)["type"] == "error"
    assert f"the proxy http://{place} " in err
    assert wants in err
    assert "--header" not in err
    if credentials:
        assert SECRET not in out + err


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize("status", [403, 404])
async def test_what_a_proxy_refuses_is_no_matter_of_the_servers_path_and_credentials(
    capfd: pytest.CaptureFixture[str], status: int
) -> None:
    async with ConnectProxy(f"HTTP/1.1 {status} No\r\n\r\n".encode()).running() as place:
        assert await run_program("--proxy", f"http://{place}", URL) == 1
    assert capfd.readouterr().err.endswith(f" did not connect to server.test:80: status {status} No\n")


@pytest.mark.usefixtures("no_environment")
async def test_a_proxy_of_the_environment_is_named_with_the_argument_that_does_without(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://alice:{SECRET}@127.0.0.1:{unused.getsockname()[1]}")
        assert await run_program("--json", URL) == 1
    out, err = capfd.readouterr()
    for said in (json.loads(out)["error"], err):
        assert "(named by the environment variable http_proxy; --no-proxy connects without it)" in said
        assert "proxy=None" not in said
        assert SECRET not in said
    assert err.endswith("; is the proxy running, and on this port?\n")


@pytest.mark.usefixtures("no_environment")
async def test_without_a_proxy_that_of_the_environment_is_not_used(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://nowhere.invalid")
    monkeypatch.setenv("all_proxy", "malformed")
    async with raw_server(greet) as url:
        assert await run_program("--no-proxy", "--count", "1", url) == 0
    assert capfd.readouterr().err.splitlines()[0] == f"connected to {url}"


@pytest.mark.usefixtures("no_environment")
async def test_a_malformed_variable_is_told(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"ftp://alice:{SECRET}@proxy.test")
    assert await run_program(URL) == 1
    err = capfd.readouterr().err
    assert "the environment variable http_proxy must start with" in err
    assert err.endswith("; --no-proxy connects without a proxy\n")
    assert SECRET not in err


@pytest.mark.usefixtures("no_environment")
async def test_a_proxy_whose_name_leads_nowhere_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert await run_program("--proxy", "socks5h://nowhere.invalid", URL) == 1
    assert capfd.readouterr().err.endswith("; is the host name of the proxy right?\n")


@pytest.mark.usefixtures("no_environment")
async def test_a_proxy_with_a_certificate_of_its_own_is_not_trusted_by_arguments_that_are_for_servers(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def refused(peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            assert await peer.stream.receive_some() == b""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    async with raw_server(refused, tls=context) as url:
        place = url.removeprefix("wss").replace("127.0.0.1", "localhost").rstrip("/")
        assert await run_program("-k", "--proxy", f"https{place}", "wss://server.test/") == 1
    err = capfd.readouterr().err
    assert f"the proxy https{place}" in err
    assert "--insecure" not in err


@pytest.mark.usefixtures("no_environment")
async def test_what_the_server_behind_a_proxy_refuses_is_no_matter_of_the_proxy(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
        await peer.stream.receive_some()

    async with raw_server(refuse) as url, ConnectProxy().running(url) as place:
        assert await run_program("--proxy", f"http://{place}", url.replace("127.0.0.1", "nowhere.invalid")) == 1
    assert capfd.readouterr().err.endswith("; is the path right?\n")


# Redirects ------------------------------------------------------------------------------------------------------------


def redirecting(location: str, status: int = 302) -> Any:
    async def redirect(connection: ServerConnection) -> None:
        await connection.reject(status, headers={"Location": location})

    return redirect


@pytest.mark.parametrize("arguments", [[], ["--reconnect"]])
async def test_where_a_redirect_led_is_told(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    there = redirecting(f"ws://alice:{SECRET}@else.test/a?token={SECRET}")
    async with testing.websocket_server(echo, "ws://else.test/"), testing.websocket_server(there, URL):
        assert await run_program(*arguments, "--count", "1", f"{URL}?key={SECRET}", given=b"a\n") == 0
    out, err = capfd.readouterr()
    assert out == "a\n"
    assert err.splitlines()[0] == f"connected to ws://else.test/a?..., redirected from {URL}?..."
    assert SECRET not in err


async def test_a_redirect_that_repeats_a_secret_in_its_path_has_it_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    there = redirecting(f"ws://else.test/{SECRET}/a")
    async with testing.websocket_server(echo, "ws://else.test/"), testing.websocket_server(there, URL):
        assert await run_program("--count", "1", f"{URL}?key={SECRET}", given=b"a\n") == 0
    assert capfd.readouterr().err.splitlines()[0] == f"connected to ws://else.test/.../a, redirected from {URL}?..."


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("wss://else.where/", "to wss://else.where/ (status 302 Found)"),
        (
            f"wss://alice:{SECRET}@else.where/a@b?token={SECRET}#{SECRET}",
            "to wss://else.where/a@b?... (status 302 Found)",
        ),
        (f"//{SECRET}@else.where/#access_token={SECRET}", "to //else.where/#... (status 302 Found)"),
        ("/\x9b" + "x" * 1000, f"to /\\u009b{'x' * 193}... (807 more characters) (status 302 Found)"),
    ],
)
async def test_a_redirect_that_is_not_followed_is_told_without_secrets(
    capfd: pytest.CaptureFixture[str], location: str, shown: str
) -> None:
    async with testing.websocket_server(redirecting(location), URL):
        assert await run_program("--max-redirects", "0", "--json", URL) == 1
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert line == f"python -m csp.websocket: cannot connect to {URL}: the server redirects {shown}{NOT_FOLLOWED}"
    assert (json.loads(out)["type"], json.loads(out)["error"]) == ("refused", line.partition(": ")[2])
    assert SECRET not in out + err


async def test_one_redirect_too_many_is_told_with_the_argument(capfd: pytest.CaptureFixture[str]) -> None:
    async with testing.websocket_server(redirecting("/again"), URL):
        assert await run_program("--max-redirects", "1", URL) == 1
    assert capfd.readouterr().err.endswith(", which is one more than --max-redirects (1)\n")


async def test_credentials_that_another_server_does_not_get_are_not_said_to_be_refused(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def forbid(connection: ServerConnection) -> None:
        assert "Authorization" not in connection.headers
        await connection.reject(401)

    there = redirecting("ws://else.test/")
    async with testing.websocket_server(forbid, "ws://else.test/"), testing.websocket_server(there, URL):
        assert await run_program("-H", f"Authorization: Bearer {SECRET}", URL) == 1
    err = capfd.readouterr().err
    assert err.endswith(
        "; the credentials are for the server of the URL, and not sent to another that it redirects to\n"
    )


# A Unix socket, a Host ------------------------------------------------------------------------------------------------

of_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")


@of_unix
async def test_a_unix_socket_leads_to_the_server_and_a_host_header_is_sent(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    requests: list[bytes] = []
    left = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            peer = Peer(stream, left)
            await greet(peer)
            requests.append(peer.request)

    with trio.socket.socket(getattr(socket, "AF_UNIX")) as listening:  # noqa: B009  # Windows has none
        await listening.bind(str(tmp_path / "socket"))
        listening.listen(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])
            path = str(tmp_path / "socket")
            arguments = ["--unix-socket", path, "--host-header", "named.test:8", "--count", "1"]
            assert await run_program(*arguments, "ws://server.test/") == 0
            nursery.cancel_scope.cancel()
    assert capfd.readouterr().out == "welcome\n"
    assert b"\r\nHost: named.test:8\r\n" in requests[0]


@of_unix
@pytest.mark.parametrize("there", [False, True])
async def test_a_unix_socket_that_nobody_listens_on_is_told(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, there: bool
) -> None:
    path = tmp_path / "socket"
    if there:
        with socket.socket(getattr(socket, "AF_UNIX")) as bound:  # noqa: B009  # Windows has none
            bound.bind(str(path))
    assert await run_program("--unix-socket", str(path), URL) == 1
    why = "Connection refused; is the server running?" if there else "No such file or directory"
    assert (
        capfd.readouterr().err == f"python -m csp.websocket: cannot connect to {URL}: the Unix socket {path}: {why}\n"
    )
