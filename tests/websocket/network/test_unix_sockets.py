"""``unix_socket``: a server at a path, what it is told, and what is told where there is none."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import security, testing, websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind, PermissionDeniedError
from csp.security import Policy, Scope
from tests.websocket._links import contexts
from tests.websocket._network import AF_UNIX
from tests.websocket._peers import CLOSE, Peer, close_frame, driver_tasks, open_sockets
from tests.websocket._server import frame
from trio_csp_websocket.network.failures import error_text

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping

    from trio.testing import MockClock

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Python has no Unix sockets on this system")

URL = "ws://app.test/feed"
TEXT = 0x1


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A path that is short enough wherever pytest keeps its files; at the end no socket must be left."""
    monkeypatch.chdir(tmp_path)
    sockets = open_sockets()
    yield "app.sock"
    assert open_sockets() == sockets


@contextlib.asynccontextmanager
async def serving(
    path: str, handler: Callable[[Peer], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncGenerator[None]:
    """Serve at a path; at the end of the block every connection must be over, and nothing be left."""
    listening = trio.socket.socket(AF_UNIX, socket.SOCK_STREAM)
    await listening.bind(path)
    listening.listen()
    left = trio.Event()

    async def serve_one(stream: trio.SocketStream) -> None:
        async with stream:
            secure = stream if tls is None else trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
            with contextlib.suppress(trio.BrokenResourceError):
                await handler(Peer(secure, left))

    async with trio.open_nursery() as handlers, trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(trio.serve_listeners, serve_one, [trio.SocketListener(listening)], handler_nursery=handlers)
        )
        yield
        left.set()
        nursery.cancel_scope.cancel()


async def greet(peer: Peer) -> None:
    """Accept, and say the request's first line and Host."""
    await peer.read_request()
    lines = peer.request.split(b"\r\n")
    host = next(line for line in lines if line.lower().startswith(b"host:"))
    await peer.send(peer.answer + frame(TEXT, lines[0] + b", " + host))
    await peer.expect(CLOSE)
    await peer.send(close_frame(1000))


async def greeting(client: websocket.Client) -> str | bytes:
    return (await client.receive_value()).data


async def failure(url: str = URL, **options: Any) -> ConnectionFailedError:
    with pytest.raises(ConnectionFailedError) as caught:
        await websocket.connect(url, **options).__aenter__()
    assert driver_tasks() == []
    return caught.value


# Reaching it ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
async def test_a_server_at_a_path_is_asked_for_the_url(kind: Callable[[str], Any], path: str) -> None:
    async with serving(path, greet), websocket.connect(URL, unix_socket=kind(path)) as client:
        assert await greeting(client) == "GET /feed HTTP/1.1, Host: app.test"
        assert client.url == URL
        assert client.remote == path
        assert (client.local, client.proxy, client.peer_certificate) == ("", None, None)


async def test_no_name_is_looked_up_and_no_proxy_of_the_environment_is_used(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(*_given: object, **_named: object) -> None:
        pytest.fail("it was looked up")

    monkeypatch.setattr(trio.socket, "getaddrinfo", look_up)
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("https_proxy", "nonsense://")
    async with serving(path, greet), websocket.connect(URL, unix_socket=path) as client:
        assert client.proxy is None


async def test_tls_asks_for_the_host_of_the_url_or_another_name(path: str) -> None:
    serving_context, trusting = contexts()
    names: list[str | None] = []
    serving_context.sni_callback = lambda _ssl, name, _context: names.append(name)
    try:
        async with serving(path, greet, serving_context):
            async with websocket.connect("wss://server.test/x", unix_socket=path, ssl_context=trusting) as client:
                assert await greeting(client) == "GET /x HTTP/1.1, Host: server.test"
                assert client.peer_certificate is not None
                assert client.remote == path
            options: dict[str, Any] = {"server_hostname": "server.test", "host_header": "host.test:81"}
            async with websocket.connect(
                "wss://localhost/x", unix_socket=path, ssl_context=trusting, **options
            ) as client:
                assert await greeting(client) == "GET /x HTTP/1.1, Host: host.test:81"
            error = await failure("wss://localhost/x", unix_socket=path, ssl_context=trusting)
    finally:
        serving_context.sni_callback = None  # as at the beginning
    assert names == ["server.test", "server.test", "localhost"]
    assert "TLS failed" in str(error)


async def test_servers_in_memory_come_before_it(autojump_clock: MockClock) -> None:
    async def serve(connection: testing.ServerConnection) -> None:
        await connection.send("a")
        await connection.wait_closed()

    async with testing.websocket_server(serve), websocket.connect(URL, unix_socket="/no/such") as client:
        assert await greeting(client) == "a"
        assert client.remote is None


@pytest.mark.skipif(not Path("/proc/net/unix").exists(), reason="abstract names are Linux's")
async def test_a_client_may_see_where_a_server_without_a_name_is() -> None:
    # Through `dial`: such a name begins with a NUL, which a path must not have.
    listening = trio.socket.socket(AF_UNIX, socket.SOCK_STREAM)
    await listening.bind(b"\0")  # the system chooses a free one
    listening.listen()
    name = listening.getsockname()

    async def dial(_host: str, _port: int) -> trio.SocketStream:
        made = trio.socket.socket(AF_UNIX, socket.SOCK_STREAM)
        await made.connect(name)
        return trio.SocketStream(made)

    async def serve() -> None:
        accepted, _ = await listening.accept()
        async with trio.SocketStream(accepted) as stream:
            await greet(Peer(stream, trio.Event()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with websocket.connect(URL, dial=dial) as client:
            assert client.remote == os.fsdecode(name)
    listening.close()


# Where there is none --------------------------------------------------------------------------------------------------


async def test_a_missing_socket_is_named_and_retryable(path: str) -> None:
    error = await failure(unix_socket=path)
    assert str(error) == f"cannot connect to {URL}: the Unix socket {path}: {error_text(2)}"
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)
    assert isinstance(error.__cause__, FileNotFoundError)


async def test_a_socket_where_nobody_listens_any_more_is_named(path: str) -> None:
    with socket.socket(AF_UNIX) as left:
        left.bind(path)
    error = await failure(unix_socket=path)
    assert str(error).startswith(f"cannot connect to {URL}: the Unix socket {path}: ")
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert error.retryable


async def test_a_file_and_a_folder_are_no_sockets(path: str) -> None:
    await trio.Path(path).write_text("no socket")
    for wrong in (path, "."):
        error = await failure(unix_socket=wrong)
        assert str(error).startswith(f"cannot connect to {URL}: the Unix socket {wrong}: ")
        assert error.retryable


@pytest.mark.skipif(sys.platform != "linux", reason="what a full queue does differs")
@pytest.mark.parametrize("url", [URL, "wss://app.test/"])
async def test_a_server_whose_queue_is_full_is_named(url: str, path: str) -> None:
    with socket.socket(AF_UNIX) as full, contextlib.ExitStack() as waiting:
        full.bind(path)
        full.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                client = waiting.enter_context(socket.socket(AF_UNIX))
                client.setblocking(False)
                client.connect(path)
        error = await failure(url, unix_socket=path)
    assert str(error) == f"cannot connect to {url}: the Unix socket {path} took no connection: too many may be waiting"
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)


async def test_a_connection_that_takes_long_is_told(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_path: str) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_unix_socket", never)
    error = await failure(unix_socket=path, dial_timeout="50ms")
    assert str(error).endswith(f"within 0.05 s: the Unix socket {path} took no connection")


async def test_a_server_that_is_silent_is_told(path: str) -> None:
    async def wait(peer: Peer) -> None:
        await peer.expect_gone()

    async with serving(path, wait):
        error = await failure(unix_socket=path, dial_timeout="50ms")
        assert str(error).endswith("within 0.05 s: the server did not answer the WebSocket handshake")
        assert isinstance(error, ConnectionTimeoutError)
        secure = await failure("wss://app.test/", unix_socket=path, dial_timeout="50ms")
        assert str(secure).endswith(
            f"within 0.05 s: the Unix socket {path} took the connection, and the server did not "
            "answer the TLS handshake"
        )


async def test_a_server_that_hangs_up_is_told(path: str) -> None:
    async def hang_up(peer: Peer) -> None:
        await peer.read_request()

    async with serving(path, hang_up):
        error = await failure(unix_socket=path)
    assert "the server closed the connection without an answer to the WebSocket handshake" in str(error)


async def test_a_feed_waits_for_the_socket_to_appear(path: str) -> None:
    attempts = 0

    async with websocket.reconnecting(URL, unix_socket=path, min_delay="1ms", max_delay="1ms") as feed:
        while attempts < 3:
            state = await feed.states().receive_value()
            attempts = state.attempt
        async with serving(path, greet):
            assert await feed.receive_value() == websocket.Message("text", "GET /feed HTTP/1.1, Host: app.test")
            await feed.close()


# Policies, and redirects ----------------------------------------------------------------------------------------------


async def test_the_policies_are_asked_about_the_path_made_absolute(path: str) -> None:
    asked: list[tuple[str, str, dict[str, object]]] = []

    def note(_actor: object, action: str, resource: str, facts: Mapping[str, object]) -> bool:
        asked.append((action, resource, dict(facts)))
        return True

    url = "ws://app.test:81/feed?a=1"
    with security.context(scope=Scope([Policy("*", "*", condition=note)]), strict=True):
        async with serving(path, greet), websocket.connect(url, unix_socket=f"./{path}"):
            pass
    assert [question[:2] for question in asked] == [
        ("websocket.connect", ""),
        ("websocket.connect.url", url),
        *(("websocket.connect.address", name) for name in dict.fromkeys((absolute(path), real(path)))),
    ]
    assert {"url": url, "host": "app.test", "port": 81}.items() <= asked[2][2].items()


@pytest.mark.parametrize("given", ["app.sock", "./app.sock", "link.sock", "folder/app.sock", "folder/../app.sock"])
async def test_a_path_that_is_denied_is_not_connected_to_however_it_is_written(given: str, path: str) -> None:
    async def refuse(_peer: Peer) -> None:
        pytest.fail("it was reached")

    await trio.Path("link.sock").symlink_to(path)
    await trio.Path("folder").symlink_to(".")
    denied = real(path)
    scope = Scope([Policy("*", "*"), Policy("websocket.connect.address", denied, "deny")])
    async with serving(path, refuse):
        with security.context(scope=scope, strict=True), pytest.raises(PermissionDeniedError) as caught:
            await websocket.connect(URL, unix_socket=given).__aenter__()
    said = f"connections to {URL} are not allowed: websocket.connect.address is denied for {denied}"
    assert str(caught.value) == said
    assert caught.value.details == {"url": URL, "addresses": (denied,)}


async def test_a_link_that_is_denied_is_not_followed(path: str) -> None:
    await trio.Path("link.sock").symlink_to(path)
    scope = Scope([Policy("*", "*"), Policy("websocket.connect.address", absolute("link.sock"), "deny")])
    async with serving(path, greet):
        with security.context(scope=scope, strict=True):
            with pytest.raises(PermissionDeniedError):
                await websocket.connect(URL, unix_socket="link.sock").__aenter__()
            async with websocket.connect(URL, unix_socket=path) as client:
                assert client.remote == path


def absolute(path: str) -> str:
    return str(Path.cwd() / path)


def real(path: str) -> str:
    return str(Path(path).resolve())


def redirecting(*locations: str) -> Callable[[Peer], Awaitable[None]]:
    places = list(locations)

    async def serve(peer: Peer) -> None:
        if not places:
            await greet(peer)
            return
        await peer.read_request()
        await peer.send(f"HTTP/1.1 302 Found\r\nLocation: {places.pop(0)}\r\nContent-Length: 0\r\n\r\n".encode())
        await peer.read_frames()

    return serve


async def test_a_redirect_on_the_same_server_is_asked_for_at_the_same_path(path: str) -> None:
    async with (
        serving(path, redirecting("/a", "ws://app.test:80/b")),
        websocket.connect(URL, unix_socket=path, host_header="host.test") as client,
    ):
        assert await greeting(client) == "GET /b HTTP/1.1, Host: host.test"
        assert client.url == "ws://app.test/b"
        assert client.remote == path


@pytest.mark.parametrize("location", ["ws://other.test/", "ws://app.test:81/", "wss://app.test/", "//127.0.0.1/"])
async def test_a_redirect_to_another_server_is_not_followed(location: str, path: str) -> None:
    async with serving(path, redirecting(location)):
        error = await failure(unix_socket=path)
    assert str(error).startswith(f"cannot connect to {URL}: the server redirects to ")
    assert str(error).endswith(" (status 302 Found), which is another server than that of the Unix socket")
    assert (error.kind, error.retryable) == (Kind.INTERNAL, False)
    assert "redirects" not in error.details


async def test_a_path_cannot_forge_a_line_of_a_log() -> None:
    error = await failure(unix_socket="/tmp/none\nERROR forged\x1b[31m")  # nothing is there
    assert "the Unix socket /tmp/none\\u000aERROR forged\\u001b[31m: No such file" in str(error)
