"""`origins`, `hosts`, trusted proxies and the PROXY protocol, through the public calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import websocket
from tests.websocket._links import contexts
from tests.websocket.server._lobby import RawClient, handshake, listening

if TYPE_CHECKING:
    from trio.testing import MockClock

PROXY = b"PROXY TCP4 203.0.113.7 198.51.100.1 56324 443\r\n"


@pytest.mark.parametrize(
    ("origins", "origin", "host", "let_in"),
    [
        (None, None, "example.com", True),
        (None, "https://example.com", "example.com", True),
        (None, "https://example.com", "EXAMPLE.com:443", True),
        (None, "http://example.com:8080", "example.com:8080", True),
        (None, "https://evil.example", "example.com", False),
        (None, "https://example.com.evil.example", "example.com", False),
        (None, "null", "example.com", False),
        ("*", "https://evil.example", "example.com", True),
        (["https://*.example.com"], "https://a.b.example.com", "x", True),
        (["https://*.example.com"], "https://example.com", "x", False),
        (["null"], "null", "x", True),
        ([], "https://x", "x", False),
        ([], None, "x", True),
    ],
)
async def test_origins(origins: Any, origin: str | None, host: str, let_in: bool, autojump_clock: MockClock) -> None:
    options: websocket.ListenOptions = {} if origins is None else {"origins": origins}
    async with listening(**options) as (server, lobby):
        client = lobby.connect()
        await client.send(handshake("/", *([] if origin is None else [f"Origin: {origin}"]), host=host))
        if let_in:
            await (await server.receive_value()).accept()
            assert (await client.answer()).status == 101
        else:
            answer = await client.answer()
            assert answer.status == 403
            assert b"origins=" in answer.body


async def ask(server: websocket.Server, request: bytes) -> tuple[int, bytes]:
    """Ask a server on TCP; accept what arrives."""
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def accept() -> None:
            await (await server.receive_value()).accept()

        client = RawClient(await trio.open_tcp_stream("127.0.0.1", server.port or 0))
        answer = await client.ask(request)
        await client.leave()
        nursery.cancel_scope.cancel()
    return answer.status, answer.body


@pytest.mark.parametrize(
    ("options", "host", "status"),
    [
        ({}, "localhost", 101),
        ({}, "localhost:1234", 101),
        ({}, "127.0.0.1", 101),
        ({}, "[::1]:80", 101),
        ({}, "evil.example", 421),
        ({}, "app.localhost", 101),
        ({"hosts": ["app.example.com"]}, "app.example.com:1", 101),
        ({"hosts": ["app.example.com"]}, "localhost", 421),
        ({"hosts": ["app.example.com:1"]}, "app.example.com:2", 421),
        ({"hosts": "*"}, "evil.example", 101),
        ({"trusted_proxies": ["192.0.2.1"]}, "evil.example", 101),
        ({"host": None}, "evil.example", 101),
    ],
    ids=str,
)
async def test_hosts(options: dict[str, Any], host: str, status: int) -> None:
    given: Any = {"host": "127.0.0.1"} | options
    async with websocket.listen(0, **given) as server:
        found, body = await ask(server, handshake(host=host))
        assert found == status
        if status == 421:
            assert b"hosts=" in body
            assert b"trusted_proxies=" in body


async def test_the_target_counts_where_it_names_a_host() -> None:
    async with websocket.listen(0, host="127.0.0.1") as server:
        assert (await ask(server, handshake("http://evil.example/x")))[0] == 421
        client = RawClient(await trio.open_tcp_stream("127.0.0.1", server.port or 0))
        await client.send(handshake("http://localhost:99/x?y", "Origin: http://localhost:99", host="evil.example"))
        connection = await server.receive_value()
        assert connection.url == "ws://localhost:99/x?y"
        await client.leave()


async def test_what_a_trusted_proxy_says_is_believed() -> None:
    async with websocket.listen(0, host="127.0.0.1", trusted_proxies=["127.0.0.0/8"]) as server:
        client = RawClient(await trio.open_tcp_stream("127.0.0.1", server.port or 0))
        await client.send(
            handshake(
                "/x",
                "X-Forwarded-For: 198.51.100.9, 203.0.113.7",
                "X-Forwarded-Proto: https",
                "X-Forwarded-Host: app.example.com",
                "Origin: https://app.example.com",
                host="backend:1",
            )
        )
        connection = await server.receive_value()
        assert connection.url == "wss://app.example.com/x"
        assert connection.remote == ("203.0.113.7", 0)
        await client.leave()


async def test_behind_the_proxy_protocol_any_host_may_be_asked_for() -> None:
    async with websocket.listen(0, host="127.0.0.1", proxy_protocol=True) as server:
        assert (await ask(server, PROXY + handshake(host="app.example.com")))[0] == 101


async def test_what_anybody_else_says_is_not() -> None:
    async with websocket.listen(0, host="127.0.0.1", trusted_proxies=["192.0.2.1"]) as server:
        client = RawClient(await trio.open_tcp_stream("127.0.0.1", server.port or 0))
        await client.send(handshake("/x", "X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https", host="a"))
        connection = await server.receive_value()
        assert connection.url == "ws://a/x"
        assert connection.remote is not None
        assert connection.remote[0] == "127.0.0.1"
        await client.leave()


async def test_the_proxy_protocol_comes_first(autojump_clock: MockClock) -> None:
    async with listening(proxy_protocol=True) as (server, lobby):
        for begin, remote in ((PROXY, ("203.0.113.7", 56324)), (b"PROXY UNKNOWN\r\n", None)):
            client = lobby.connect()
            await client.send(begin, handshake())
            connection = await server.receive_value()
            assert connection.remote == remote
            await connection.accept()
            assert (await client.answer()).status == 101


async def test_the_proxy_protocol_comes_before_tls() -> None:
    serving, trusting = contexts()
    async with listening(proxy_protocol=True, ssl_context=serving) as (server, lobby), trio.open_nursery() as nursery:
        client = lobby.connect()
        await client.send(PROXY)
        secured = trio.SSLStream(client.stream, trusting, server_hostname="server.test")
        nursery.start_soon(secured.send_all, handshake())
        connection = await server.receive_value()
        assert (connection.remote, connection.url) == (("203.0.113.7", 56324), "wss://localhost/")
        await connection.reject()
        await trio.aclose_forcefully(secured)


@pytest.mark.parametrize("begin", [b"", b"PROXY TCP4 x\r\n", PROXY[:-2]])
async def test_without_it_nobody_is_answered(begin: bytes, autojump_clock: MockClock) -> None:
    async with listening(proxy_protocol=True, handshake_timeout="2s") as (server, lobby):
        client = lobby.connect()
        await client.send(begin or handshake())
        await client.ended()
        assert server.statistics().rejected == {}
        client = lobby.connect()
        await client.send(PROXY[:10])
        await client.end()
        await client.ended()


async def test_a_request_that_leads_nowhere(autojump_clock: MockClock) -> None:
    async with listening() as (_, lobby):
        answer = await lobby.connect().ask(handshake("/", host="a..b"))
        assert answer.status == 400
        assert answer.body == b"the request leads nowhere: url has an invalid host name: 'a..b'\n"
