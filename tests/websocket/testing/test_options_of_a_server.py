"""A server in memory takes the options of `serve`, runs its handlers, and asks the same policies."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import security, websocket
from csp.errors import (
    ConnectionFailedError,
    ConnectionTimeoutError,
    InvalidError,
    InvalidTypeError,
    PermissionDeniedError,
)
from csp.testing import ServerConnection, websocket_server
from tests.websocket._server import TEXT, details
from tests.websocket.testing._handlers import URL, dialled, echo, ignore, masked, raw_client

if TYPE_CHECKING:
    from trio.testing import MockClock

TAKEOVER = websocket.COMPRESSION.CONTEXT_TAKEOVER


async def refused(url: str = URL, **options: Any) -> ConnectionFailedError:
    with pytest.raises(ConnectionFailedError) as raised:
        async with websocket.connect(url, **options):
            pass
    return raised.value


async def served(connection: websocket.ServerConnection) -> None:
    """Serve, as a program does."""
    if connection.path == "/missing":
        await connection.reject(404, body="nothing here")
        return
    await connection.accept()
    async for message in connection:
        await connection.send(f"{connection.query} {connection.subprotocol} {message.data!s}")


async def test_a_handler_of_serve_is_served_as_it_is() -> None:
    async with websocket_server(served, protocols=["b", "a"]):
        assert (await refused("wss://api.example.com/missing")).status == 404
        async with websocket.connect("wss://api.example.com/feed?since=5", protocols=["a", "b"]) as client:
            await client.send("hello")
            assert (await client.receive_value()).data == "since=5 b hello"


async def test_the_origins_that_may_connect_can_be_tested() -> None:
    async with websocket_server(served, origins="same"):
        assert (await refused(origin="https://evil.example")).status == 403
        async with websocket.connect(URL, origin="https://api.example.com") as client:
            assert client.close_code is None
    async with websocket_server(served), websocket.connect(URL, origin="https://evil.example") as client:
        assert client.close_code is None


async def test_the_hosts_that_are_served_can_be_tested() -> None:
    async with websocket_server(served, hosts=["api.example.com"]):
        assert (await refused("ws://other.example.com/")).status == 421
        async with websocket.connect(URL) as client:
            assert client.close_code is None
    async with websocket_server(served, hosts=None), websocket.connect(URL) as client:
        assert client.close_code is None


@pytest.mark.parametrize("url", ["ws://api.example.com/", URL])
async def test_a_page_can_be_tested(url: str) -> None:
    seen: list[object] = []

    async def page(request: websocket.Request) -> websocket.Response:
        seen.append((request.method, request.path, request.query, request.remote))
        return websocket.Response(200, "fine")

    async with websocket_server(served, http=page):
        transport = await dialled(url)
        await transport.send_all(b"GET /health?full HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
        answer = b""
        while block := await transport.receive_some(1000):
            answer += block
        await transport.aclose()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nfine")
    assert seen == [("GET", "/health", "full", None)]


async def test_how_many_connections_there_may_be_can_be_tested() -> None:
    async with websocket_server(served, max_connections=1), websocket.connect(URL):
        error = await refused()
        assert (error.status, error.retryable) == (503, True)


async def test_compression_can_be_tested() -> None:
    async with websocket_server(served, compression=TAKEOVER), websocket.connect(URL, compression=TAKEOVER) as client:
        await client.send("a" * 10_000)
        assert len((await client.receive_value()).data) > 10_000
        assert client.statistics().bytes_received < 1000


async def test_keepalive_can_be_tested(autojump_clock: MockClock) -> None:
    ended: list[int | None] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        connection.stop_reading()
        await connection.wait_closed()
        ended.append(connection.close_code)
        assert isinstance(connection.error, ConnectionTimeoutError)

    async with websocket_server(handler, keepalive="20s"), websocket.connect(URL) as client:
        assert not (await client.receive()).ok
        assert client.close_code == 1011
    assert ended == [1011]
    assert 40 <= trio.current_time() < 100


async def test_the_limits_of_time_are_none_by_default(autojump_clock: MockClock) -> None:
    async def slow(connection: ServerConnection) -> None:
        await trio.sleep(1000)
        await connection.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send, "large")
            await trio.sleep(10_000)

    async with websocket_server(slow), websocket.connect(URL, dial_timeout=None) as client:
        assert (await client.receive_value()).data == "large"
        assert not (await client.receive()).ok
    assert trio.current_time() >= 11_000


async def test_nobody_who_answers_in_time_can_be_tested(autojump_clock: MockClock) -> None:
    async def too_late(connection: ServerConnection) -> None:
        await trio.sleep(60)
        await connection.accept()
        pytest.fail("it was accepted")

    async with websocket_server(too_late, handshake_timeout="5s"):
        assert (await refused()).status == 503
        await trio.sleep(100)


async def test_a_write_timeout_can_be_tested(autojump_clock: MockClock) -> None:
    errors: list[Exception] = []

    async def handler(connection: ServerConnection) -> None:
        with pytest.raises(ConnectionTimeoutError) as raised:
            await connection.send_bytes(b"HTTP/1.1 101 ")
        errors.append(raised.value)

    async with websocket_server(handler, write_timeout="3s"):
        transport = await dialled()
        await transport.send_all(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n")
        await transport.send_all(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n")
        await trio.sleep(60)
        await transport.aclose()
    assert len(errors) == 1


async def test_a_read_limit_can_be_tested(autojump_clock: MockClock) -> None:
    async with websocket_server(echo, read_limit=10), websocket.connect(URL) as client:
        await client.send("more than ten")
        assert not (await client.receive()).ok
        assert client.close_code == 1009


def test_what_is_no_option_is_found_in_the_call() -> None:
    for bad in ({"ssl_context": None}, {"host": "localhost"}, {"nonsense": 1}):
        options: Any = bad
        with pytest.raises(InvalidTypeError, match=f"unknown option '{next(iter(bad))}'; the options are .*handler"):
            websocket_server(ignore, **options)
    with pytest.raises(InvalidError, match="read_limit"):
        websocket_server(ignore, read_limit=-1)


# Whose handlers they are ----------------------------------------------------------------------------------------------


async def test_a_handler_runs_in_the_context_of_the_block_and_not_of_the_client() -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
    seen: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        seen.append(user.get())
        user.set("the handler")
        await connection.accept()

    user.set("the test")
    async with websocket_server(handler):
        user.set("the program")
        for _ in range(2):
            async with websocket.connect(URL):
                pass
        assert user.get() == "the program"
    assert seen == ["the test", "the test"]


async def test_the_policy_of_accept_is_asked_in_the_handlers_context() -> None:
    scope = security.Scope([security.Policy("*", "*"), security.Policy("websocket.accept", URL, effect="deny")])
    raised: list[BaseException] = []

    async def handler(connection: ServerConnection) -> None:
        with pytest.raises(PermissionDeniedError) as denied:
            await connection.accept()
        raised.append(denied.value)

    with security.context(actor=security.Actor("me"), scope=scope):
        async with websocket_server(handler):
            assert (await refused()).status == 403
    assert "websocket.accept is denied" in str(raised[0])
    async with websocket_server(ignore):
        with security.context(actor=security.Actor("me"), scope=scope):
            async with websocket.connect(URL) as client:
                assert client.close_code is None


async def test_frames_right_behind_the_request_are_delivered_after_it_is_accepted() -> None:
    received: list[str | bytes] = []

    async def handler(connection: ServerConnection) -> None:
        await wait_all_tasks_blocked()
        received.append((await connection.receive_value()).data)

    async with websocket_server(handler):
        transport = await dialled()
        await transport.send_all(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n" + masked(TEXT, b"early")
        )
        assert (await transport.receive_some(1000)).startswith(b"HTTP/1.1 101 ")
        await wait_all_tasks_blocked()
        await transport.aclose()
    assert received == ["early"]


async def test_an_option_that_is_too_large_is_told_with_its_status() -> None:
    async with websocket_server(ignore, header_limit=1024):
        error = await refused(headers={"X-Large": "x" * 2000})
    assert error.status == 431
    assert details(error)["status"] == 431


async def test_a_connection_in_memory_has_no_address() -> None:
    async def handler(connection: ServerConnection) -> None:
        assert (connection.remote, connection.local, connection.peer_certificate) == (None, None, None)
        await connection.accept()

    async with websocket_server(handler):
        await (await raw_client()).aclose()
