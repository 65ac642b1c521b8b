"""``dial``: a stream that the user opens, whatever it is, and whatever the user's function does instead."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any, Never

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import testing, websocket
from csp.errors import (
    ConnectionFailedError,
    ConnectionTimeoutError,
    Error,
    InvalidError,
    InvalidTypeError,
    Kind,
    PermissionDeniedError,
)
from tests.websocket._links import contexts
from tests.websocket._peers import Peer, driver_tasks, open_sockets, raw_server
from tests.websocket._server import URL, Server, drained, text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from trio.testing import MockClock

    from csp.websocket import Dial

BEGIN = f"cannot connect to {URL}: "


def returning(stream: object) -> Any:
    """Return a function to dial with that returns this."""

    async def dial(_host: str, _port: int) -> object:
        await trio.lowlevel.checkpoint()
        return stream

    return dial


def raising(error: BaseException) -> Dial:
    async def dial(_host: str, _port: int) -> Never:
        await trio.lowlevel.checkpoint()
        raise error

    return dial


async def failure(dial: Dial, url: str = URL, **options: Any) -> BaseException:
    """Connect in vain; return what came out."""
    sockets = open_sockets()
    try:
        await websocket.connect(url, dial=dial, **options).__aenter__()
    except BaseException as error:  # noqa: BLE001  # whatever it is
        assert driver_tasks() == []
        assert open_sockets() == sockets
        return error
    pytest.fail("it was opened")


@contextlib.asynccontextmanager
async def listening() -> AsyncGenerator[tuple[Dial, str]]:
    """Serve on loopback; give a function that connects there, and a URL of a host that does not exist."""

    async def serve(peer: Peer) -> None:
        await peer.accept()
        await peer.expect_end() if await peer.read_frame() is None else None

    async with raw_server(serve) as url:
        port = int(url.rpartition(":")[2].rstrip("/"))

        async def dial(_host: str, _port: int) -> trio.SocketStream:
            return await trio.open_tcp_stream("127.0.0.1", port)

        yield dial, "ws://no-such-host.test:8080/feed"


# What is called -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("ws://server.test/feed", ("server.test", 80)),
        ("ws://Server.Test.:81/feed", ("server.test", 81)),
        ("ws://[2001:DB8::1]/", ("2001:db8::1", 80)),
        ("ws://[fe80::1%25eth0]:81/", ("fe80::1%eth0", 81)),
        ("ws://b\u00fccher.test/", ("xn--bcher-kva.test", 80)),
    ],
)
async def test_the_function_gets_host_and_port_and_its_stream_is_spoken_over(url: str, asked: tuple[str, int]) -> None:
    server = Server()
    calls: list[tuple[str, int]] = []

    async def dial(host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        calls.append((host, port))
        return server.stream

    async with websocket.connect(url, dial=dial) as client:
        server.send(text("a"))
        assert (await client.receive_value()).data == "a"
        await client.send("b")
        assert server.payloads == [b"b"]
        assert (client.local, client.remote, client.proxy, client.peer_certificate) == (None, None, None, None)
    assert calls == [asked]
    assert server.closed
    assert server.request is not None
    # The zone is this machine's own affair.
    assert server.request["Host"] == url.split("/")[2].replace("%25eth0", "").encode("idna").decode().lower().replace(
        ".test.", ".test"
    )


async def test_a_name_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.socket, "getaddrinfo", raising(AssertionError("it was looked up")))
    async with websocket.connect("ws://no-such-host.test/", dial=returning(Server().stream)) as client:
        assert client.url == "ws://no-such-host.test/"


async def test_a_socket_stream_tells_its_addresses() -> None:
    async with listening() as (dial, url), websocket.connect(url, dial=dial) as client:
        assert client.remote is not None
        assert client.local is not None
        assert (client.remote[0], client.local[0]) == ("127.0.0.1", "127.0.0.1")
        assert client.proxy is None


class Wrapped(trio.abc.Stream):
    """A stream of the user's own around another one, which is all that counts.

    Args:
        inner: the other stream.
    """

    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closed = True
        await self.inner.aclose()


async def test_a_stream_of_ones_own_is_used_and_closed() -> None:
    async with listening() as (dial, url):
        wrapped = Wrapped(await dial("", 0))
        async with websocket.connect(url, dial=returning(wrapped)) as client:
            await client.send("a")
            assert (client.local, client.remote) == (None, None)
        assert wrapped.closed


async def test_a_callable_object_and_a_function_that_returns_an_awaitable_will_do() -> None:
    class Dialler:
        def __call__(self, _host: str, _port: int) -> Awaitable[trio.abc.Stream]:
            awaited: Awaitable[trio.abc.Stream] = returning(Server().stream)("", 0)
            return awaited

    async with websocket.connect(URL, dial=Dialler()) as client:
        assert client.url == URL


@contextlib.asynccontextmanager
async def secure_server() -> AsyncGenerator[tuple[Wrapped, list[str | None]]]:
    """Give a stream to a server that speaks TLS over it, and the names that the client asks for."""
    near, far = trio.testing.memory_stream_pair()
    names: list[str | None] = []
    serving = contexts()[0]
    serving.sni_callback = lambda _ssl, name, _context: names.append(name)
    server = Server()

    async def carry() -> None:
        stream = trio.SSLStream(far, serving, server_side=True, https_compatible=True)

        async def inward() -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for data in stream:
                    await server.stream.send_all(data)

        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.do_handshake()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(inward)
                while data := await server.stream.receive_some():
                    await stream.send_all(data)
                await stream.aclose()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry)
            yield Wrapped(near), names
    finally:
        serving.sni_callback = None  # as at the beginning


async def test_tls_runs_on_top_of_the_stream() -> None:
    async with (
        secure_server() as (stream, names),
        websocket.connect("wss://server.test/feed", dial=returning(stream), ssl_context=contexts()[1]) as client,
    ):
        assert client.peer_certificate is not None
        assert ("DNS", "server.test") in client.peer_certificate["subjectAltName"]
    assert names == ["server.test"]
    assert stream.closed


async def test_tls_that_fails_on_top_of_the_stream_tells_so(autojump_clock: MockClock) -> None:
    async with secure_server() as (stream, _names):
        error = await failure(returning(stream), "wss://other.test/feed", ssl_context=contexts()[1])
    assert "cannot connect to wss://other.test/feed: TLS failed: " in str(error)
    assert isinstance(error, ConnectionFailedError)
    assert stream.closed


async def test_a_stream_that_does_not_answer_tls_is_told_as_what_it_is(autojump_clock: MockClock) -> None:
    near, _far = trio.testing.memory_stream_pair()
    error = await failure(returning(Wrapped(near)), "wss://server.test/feed", dial_timeout="10s")
    assert str(error).endswith(
        "within 10 s: the function dial has returned a stream, and the server did not answer the TLS handshake"
    )
    assert isinstance(error, ConnectionTimeoutError)


async def test_servers_in_memory_come_before_it(autojump_clock: MockClock) -> None:
    async def greet(connection: testing.ServerConnection) -> None:
        await connection.send("a")
        await connection.wait_closed()

    async with testing.websocket_server(greet), websocket.connect(URL, dial=raising(AssertionError())) as client:
        assert (await client.receive_value()).data == "a"


async def test_a_feed_calls_it_for_each_connection(autojump_clock: MockClock) -> None:
    servers: list[Server] = []

    async def dial(_host: str, _port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if len(servers) == 1:
            servers.append(Server())
            raise OSError("not now")
        servers.append(Server())
        return servers[-1].stream

    async with websocket.reconnecting(URL, dial=dial) as feed:
        await wait_all_tasks_blocked()
        servers[0].send(text("a"))
        servers[0].end()
        values = [await feed.receive_value() for _ in range(2)]
        await trio.sleep(100)
        servers[2].send(text("b"))
        assert (await feed.receive_value()) == websocket.Message("text", "b")
    assert [type(value) for value in values] == [websocket.Message, websocket.Gap]


async def test_it_is_called_again_where_a_redirect_leads() -> None:
    calls: list[tuple[str, int]] = []
    servers = [
        Server(b"HTTP/1.1 302 Found\r\nLocation: ws://other.test:81/there\r\n\r\n"),
        Server(b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n"),
        Server(),
    ]

    async def dial(host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        calls.append((host, port))
        return servers[len(calls) - 1].stream

    async with websocket.connect(URL, dial=dial) as client:
        assert client.url == "ws://other.test:81/again"
        assert [server.closed for server in servers] == [True, True, False]
    assert calls == [("server.test", 80), ("other.test", 81), ("other.test", 81)]


# What it raises -------------------------------------------------------------------------------------------------------


def tried_twice() -> OSError:
    """Return what `trio.open_tcp_stream` raises after several attempts."""
    error = OSError("all attempts to connect failed")
    error.__cause__ = ExceptionGroup(
        "attempts", [OSError(errno.ECONNREFUSED, "refused"), OSError("no route"), OSError("no route")]
    )
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("the tunnel is down"), "dial failed: the tunnel is down"),
        (OSError(), "dial failed: OSError"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "no, thank you"), "dial failed: no, thank you"),
        (socket.gaierror(socket.EAI_NONAME, "no such name"), "dial failed: no such name"),
        (FileNotFoundError(errno.ENOENT, "nothing there", "/run/x"), "dial failed: nothing there"),
        (TimeoutError("timed out"), "dial failed: timed out"),
        (trio.BrokenResourceError("the stream broke"), "dial failed: the stream broke"),
        (trio.BrokenResourceError(), "dial failed: BrokenResourceError"),
        (OSError("two\nlines\x1b[2J"), "dial failed: two\\u000alines\\u001b[2J"),
        (OSError("x" * 1000), f"dial failed: {'x' * 200}... (800 more characters)"),
        (tried_twice(), "dial failed: all attempts to connect failed (refused; no route)"),
    ],
    ids=repr,
)
async def test_an_os_error_is_a_failed_attempt_in_its_words(error: Exception, said: str) -> None:
    caught = await failure(raising(error))
    assert str(caught) == BEGIN + said
    assert isinstance(caught, ConnectionFailedError)
    assert (caught.kind, caught.retryable) == (Kind.INTERNAL, True)
    assert caught.details == {"url": URL}
    assert caught.__cause__ is error


async def test_a_timeout_of_its_own_is_one() -> None:
    error = trio.TooSlowError()
    caught = await failure(raising(error))
    assert str(caught) == f"{BEGIN}dial took too long"
    assert isinstance(caught, ConnectionTimeoutError)
    assert (caught.kind, caught.retryable, caught.__cause__) == (Kind.INTERNAL, True, error)


async def test_the_timeout_of_the_connection_is_told_as_such(autojump_clock: MockClock) -> None:
    async def never(_host: str, _port: int) -> Never:
        await trio.sleep_forever()

    error = await failure(never, dial_timeout="10s")
    assert str(error) == f"no connection to {URL} within 10 s: the function dial has not returned"
    assert isinstance(error, ConnectionTimeoutError)


@pytest.mark.parametrize("retryable", [False, True])
async def test_an_error_of_this_package_says_whether_to_try_again(retryable: bool) -> None:
    error = ConnectionFailedError("no quota", kind=Kind.UNAVAILABLE, retryable=retryable, details={"quota": 7})
    caught = await failure(raising(error))
    assert str(caught) == f"{BEGIN}no quota"
    assert isinstance(caught, ConnectionFailedError)
    assert (caught.kind, caught.retryable) == (Kind.UNAVAILABLE, retryable)
    assert caught.details == {"url": URL, "quota": 7}


@pytest.mark.parametrize(
    "error",
    [
        PermissionDeniedError("not today"),
        InvalidError("a wrong host"),
        Error("something", kind=Kind.UNKNOWN),
        ValueError("a bug"),
        KeyError("a bug"),
        trio.BusyResourceError("a bug"),
        ExceptionGroup("bugs", [ValueError(), OSError()]),
        ExceptionGroup("a bug and more", [OSError(), ExceptionGroup("inner", [ValueError()])]),
        KeyboardInterrupt(),
        SystemExit(3),
        BaseExceptionGroup("Ctrl-C and a bug", [KeyboardInterrupt(), ValueError()]),
    ],
    ids=repr,
)
async def test_any_other_exception_comes_out_as_it_is(error: BaseException) -> None:
    assert await failure(raising(error)) is error
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (ExceptionGroup("nursery", [OSError("no route")]), "no route"),
        (
            ExceptionGroup(
                "nursery", [trio.ClosedResourceError("closed"), ExceptionGroup("inner", [OSError(), OSError("b")])]
            ),
            "closed; OSError; b",
        ),
    ],
    ids=["one", "several"],
)
async def test_failed_attempts_in_a_group_as_of_a_nursery_are_one(group: ExceptionGroup[Exception], said: str) -> None:
    error = await failure(raising(group))
    assert str(error) == f"{BEGIN}dial failed: {said}"
    assert isinstance(error, ConnectionFailedError)
    assert (error.retryable, error.__cause__) == (True, group)


async def test_a_bug_in_it_ends_a_feed_with_it(autojump_clock: MockClock) -> None:
    error = ValueError("a bug")
    async with websocket.reconnecting(URL, dial=raising(error)) as feed:
        with pytest.raises(Error) as caught:
            await feed.receive_value()
    assert caught.value.__cause__ is error


async def test_it_may_be_cancelled_and_cancel(autojump_clock: MockClock) -> None:
    left: list[str] = []

    async def never(_host: str, _port: int) -> Never:
        try:
            await trio.sleep_forever()
        finally:
            left.append("left")

    with trio.move_on_after(10) as scope:
        await websocket.connect(URL, dial=never).__aenter__()
    assert scope.cancelled_caught
    assert left == ["left"]

    async def give_up(_host: str, _port: int) -> trio.abc.Stream:
        scope.cancel()
        return server.stream

    server = Server()
    with trio.CancelScope() as scope:
        await websocket.connect(URL, dial=give_up).__aenter__()
    assert scope.cancelled_caught
    assert server.closed
    assert server.request is None
    assert driver_tasks() == []


async def test_ctrl_c_reaches_it() -> None:
    protected: list[bool] = []

    async def dial(_host: str, _port: int) -> trio.abc.Stream:
        protected.append(trio.lowlevel.currently_ki_protected())
        await trio.lowlevel.checkpoint()
        protected.append(trio.lowlevel.currently_ki_protected())
        return Server().stream

    async with websocket.connect(URL, dial=dial):
        pass
    async with trio.open_nursery() as nursery:
        await (await websocket.connect(URL, dial=dial, nursery=nursery)).close()
    assert protected == [False] * 4


async def test_a_stream_that_comes_after_the_timeout_is_closed(autojump_clock: MockClock) -> None:
    server = Server()

    async def late(_host: str, _port: int) -> trio.abc.Stream:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)
        return server.stream

    error = await failure(late, dial_timeout="10s")
    assert isinstance(error, ConnectionTimeoutError)
    assert server.closed
    assert server.request is None


# What it returns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, 1, b"", (), object()], ids=lambda value: type(value).__name__)
async def test_what_is_no_stream_is_invalid(wrong: object) -> None:
    error = await failure(returning(wrong))
    assert isinstance(error, InvalidTypeError)
    assert str(error) == f"dial must return a trio.abc.Stream, not {wrong!r}"


@pytest.mark.parametrize("wrong", [None, 1, object])
async def test_a_function_that_is_not_async_is_invalid(wrong: object) -> None:
    error = await failure(lambda _host, _port: wrong)  # type: ignore[arg-type,return-value]  # pyright: ignore[reportArgumentType]
    assert isinstance(error, InvalidTypeError)
    assert str(error) == f"dial must be an async function: it returned {type(wrong).__name__}"


async def test_a_wrong_type_ends_a_feed(autojump_clock: MockClock) -> None:
    calls: list[int] = []

    async def dial(_host: str, port: int) -> Any:
        await trio.lowlevel.checkpoint()
        calls.append(port)

    async with websocket.reconnecting(URL, dial=dial) as feed:
        with pytest.raises(Error, match=r"dial must return a trio\.abc\.Stream, not None"):
            await feed.receive_value()
    assert calls == [80]


async def closed_socket() -> trio.SocketStream:
    near, far = trio.socket.socketpair()
    far.close()
    stream = trio.SocketStream(near)
    await stream.aclose()
    return stream


async def broken_socket() -> trio.SocketStream:
    near, far = trio.socket.socketpair()
    far.close()
    return trio.SocketStream(near)


async def closed_memory() -> trio.abc.Stream:
    near, _far = trio.testing.memory_stream_pair()
    await near.aclose()
    return near


async def ended_memory() -> trio.abc.Stream:
    near, far = trio.testing.memory_stream_pair()
    await far.aclose()
    return near


@pytest.mark.parametrize("make", [closed_socket, broken_socket, closed_memory, ended_memory])
@pytest.mark.parametrize("url", [URL, "wss://server.test/feed"])
async def test_a_stream_that_is_closed_or_broken_is_a_failed_attempt(
    make: Callable[[], Awaitable[trio.abc.Stream]], url: str
) -> None:
    stream = await make()
    sockets = open_sockets()
    with pytest.raises(ConnectionFailedError) as caught:
        await websocket.connect(url, dial=returning(stream)).__aenter__()
    assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, True)
    assert str(caught.value).startswith(f"cannot connect to {url}: ")
    assert driver_tasks() == []
    assert open_sockets() == sockets - (make is broken_socket)


# Streams that misbehave -----------------------------------------------------------------------------------------------


class Bad(Wrapped):
    """A stream that breaks Trio's rules at one of its methods, from the n-th call on."""

    def __init__(self, method: str, calls: int, error: BaseException | None, inner: trio.abc.Stream) -> None:
        super().__init__(inner)
        self._method = method
        self._calls = calls
        self._error = error

    def _misbehaves(self, method: str) -> bool:
        if method != self._method:
            return False
        self._calls -= 1
        if self._calls >= 0:
            return False
        if self._error is not None:
            raise self._error
        return True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self._misbehaves("send"):
            await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> Any:
        return None if self._misbehaves("receive") else await super().receive_some(max_bytes)

    async def aclose(self) -> None:
        try:
            self._misbehaves("close")
        finally:
            await super().aclose()


BREAKS = [OSError("the cable is out"), OSError(), ConnectionResetError(errno.ECONNRESET, "reset")]
BUGS = [ValueError("a bug"), trio.TooSlowError(), trio.BusyResourceError()]


@pytest.mark.parametrize("url", [URL, "wss://server.test/feed"])
@pytest.mark.parametrize("method", ["send", "receive"])
@pytest.mark.parametrize(
    "error", [*BREAKS, *BUGS, trio.BrokenResourceError("broken")], ids=lambda value: type(value).__name__
)
async def test_a_stream_that_raises_in_the_handshake_is_a_failed_attempt(
    url: str, method: str, error: Exception, autojump_clock: MockClock
) -> None:
    near, _far = trio.testing.memory_stream_pair()
    stream = Bad(method, 0, error, near)
    caught = await failure(returning(stream), url)
    assert isinstance(caught, ConnectionFailedError)
    assert caught.retryable is True
    assert stream.closed


async def test_a_stream_that_returns_what_are_no_bytes_is_a_failed_attempt(autojump_clock: MockClock) -> None:
    near, _far = trio.testing.memory_stream_pair()
    stream = Bad("receive", 0, None, near)
    caught = await failure(returning(stream))
    assert isinstance(caught, ConnectionFailedError)
    assert stream.closed


@pytest.mark.parametrize("method", ["send", "receive"])
@pytest.mark.parametrize("error", [*BREAKS, trio.BrokenResourceError("broken")], ids=lambda value: type(value).__name__)
async def test_a_stream_that_breaks_later_ends_the_connection(
    method: str, error: Exception, autojump_clock: MockClock
) -> None:
    server = Server()
    stream = Bad(method, 1 if method == "send" else 2, error, server.stream)
    async with websocket.connect(URL, dial=returning(stream)) as client:
        await wait_all_tasks_blocked()
        server.send(text("a"))
        assert (await client.receive_value()).data == "a"
        with contextlib.suppress(ConnectionFailedError):
            await client.send("a")
        assert await drained(client) == []
        assert isinstance(client.error, ConnectionFailedError)
        said = str(error) or "OSError"
        assert str(client.error) == f"the connection was lost: {getattr(error, 'strerror', None) or said}"
        assert (client.error.retryable, client.close_code) == (True, 1006)
    assert stream.closed
    assert driver_tasks() == []


@pytest.mark.parametrize("method", ["send", "receive"])
@pytest.mark.parametrize("error", BUGS, ids=lambda value: type(value).__name__)
async def test_a_bug_in_a_stream_comes_out_of_the_block_and_leaves_nothing(
    method: str, error: Exception, autojump_clock: MockClock
) -> None:
    server = Server()
    stream = Bad(method, 1 if method == "send" else 2, error, server.stream)

    async def use() -> None:
        async with websocket.connect(URL, dial=returning(stream)) as client:
            await wait_all_tasks_blocked()
            server.send(text("a"))
            await client.send("b")
            await drained(client)

    with pytest.raises(type(error)) as caught:
        await use()
    assert caught.value is error
    assert stream.closed
    assert driver_tasks() == []


@pytest.mark.parametrize("error", [*BREAKS, trio.BrokenResourceError()], ids=lambda value: type(value).__name__)
async def test_a_stream_that_fails_to_close_is_let_go(error: Exception, autojump_clock: MockClock) -> None:
    server = Server()
    stream = Bad("close", 0, error, server.stream)
    async with websocket.connect(URL, dial=returning(stream)) as client:
        await client.send("a")
    assert server.closes == [1000]
    assert client.error is None
    assert stream.closed
    assert driver_tasks() == []
