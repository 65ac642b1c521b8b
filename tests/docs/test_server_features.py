"""What the table of features says of the server, through its public calls."""

from __future__ import annotations

import base64
import logging
import re
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

import csp
from csp import errors, websocket
from csp.security import Policy, Scope, context
from tests.docs._pages import ROOT
from trio_csp_websocket.connection.writer import MAX_WAITING_PONGS
from trio_csp_websocket.protocol.heads import MAX_HEADER_LINES
from trio_csp_websocket.server.options import parse_options
from trio_csp_websocket.server.reception import _LINGER_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from csp.websocket import Request, Response, Server, ServerConnection


@asynccontextmanager
async def serving(handler: websocket.Handler, **options: Any) -> AsyncGenerator[Server]:
    """Serve a handler on a free port for the length of a block."""
    async with csp.BackgroundNursery() as background:
        yield await background.start(partial(websocket.serve, handler, 0, host="127.0.0.1", **options))


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)


async def status(server: Server, **options: Any) -> int | None:
    """Return the status with which a client is refused; None if it is not."""
    try:
        async with websocket.connect(server.url, proxy=None, **options):
            return None
    except errors.ConnectionFailedError as error:
        return error.status


async def answer(server: Server, request: bytes) -> bytes:
    """Return all that is answered to a request."""
    assert server.port is not None
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await stream.send_all(request)
        return b"".join([part async for part in stream])


async def test_one_select_has_the_connections_of_a_server_their_messages_and_a_timer() -> None:
    async def say_hello() -> None:
        async with websocket.connect(server.url, proxy=None) as client:
            await client.send("hello")

    seen: list[object] = []
    async with websocket.listen(0, host="127.0.0.1") as server, trio.open_nursery() as nursery:
        nursery.start_soon(say_hello)
        with csp.Selector[object]() as selector:
            selector.add(server.channel())
            selector.add(csp.after("1h"))
            while len(seen) < 3:
                r = await selector.select()
                if isinstance(r.value, websocket.ServerConnection):
                    await r.value.accept()
                    selector.add(r.value.channel())
                    seen.append("a connection")
                elif isinstance(r.value, websocket.Message):
                    seen.append(r.value.data)
                else:
                    seen.append(r.ok)
    assert seen == ["a connection", "hello", False]


async def test_a_check_that_waits_is_code_of_the_handler_and_holds_up_its_own_connection_only() -> None:
    checked = trio.Event()

    async def handler(connection: ServerConnection) -> None:
        if connection.path == "/slow":
            await checked.wait()
            await connection.reject(401)
        else:
            await connection.send("welcome")

    statuses: list[int | None] = []

    async def be_slow() -> None:
        try:
            async with websocket.connect(f"{server.url}slow", proxy=None):
                pass
        except errors.ConnectionFailedError as error:
            statuses.append(error.status)

    async with serving(handler) as server, trio.open_nursery() as nursery:
        nursery.start_soon(be_slow)
        async with websocket.connect(server.url, proxy=None) as client:
            assert (await client.receive_value()).data == "welcome"
        assert statuses == []
        checked.set()
    assert statuses == [401]


async def test_pages_of_other_sites_and_names_that_only_lead_here_are_refused() -> None:
    async with serving(echo) as server:
        assert await status(server) is None
        assert await status(server, origin=server.url.replace("ws", "http").rstrip("/")) is None
        assert await status(server, origin="https://evil.example") == 403
        assert await status(server, origin="http://evil.example", host_header="evil.example") == 421


async def test_requests_that_want_no_websocket_are_answered_by_a_function() -> None:
    async def http(request: Request) -> Response | None:
        return websocket.Response(200, "fine") if request.path == "/health" else None

    async with serving(echo, http=http) as server:
        assert (await answer(server, b"GET /health HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert b" 426 " in await answer(server, b"GET / HTTP/1.0\r\n\r\n")


async def test_more_connections_than_there_may_be_are_refused() -> None:
    async with serving(echo, max_connections=1) as server:
        async with websocket.connect(server.url, proxy=None):
            assert await status(server) == 503
        assert server.statistics().rejected == {503: 1}


async def test_a_handler_that_fails_is_logged_and_the_server_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        if connection.path == "/bad":
            raise ValueError("of the handler")
        await echo(connection)

    async with serving(handler) as server:
        async with websocket.connect(f"{server.url}bad", proxy=None) as client:
            await client.wait_closed()
            assert client.close_code == 1011
        async with websocket.connect(server.url, proxy=None) as client:
            await client.send("still here")
            assert (await client.receive_value()).data == "still here"
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (record.name, str((record.exc_info or ("", "", ""))[1])) == ("csp.websocket.server", "of the handler")


async def test_a_server_that_closes_lets_connections_end_by_themselves_and_closes_the_rest() -> None:
    ended: list[object] = []

    async def watch(path: str, stay: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        async with websocket.connect(server.url + path, proxy=None) as client:
            task_status.started()
            await stay.wait()
        ended.append((path, client.close_code))

    async with websocket.listen(0, host="127.0.0.1") as server, trio.open_nursery() as nursery:
        nursery.start_soon(_accept_all, server)
        leaves, stays = trio.Event(), trio.Event()
        await nursery.start(watch, "leaves", leaves)
        await nursery.start(watch, "stays", stays)
        leaves.set()
        await server.close(1012, grace="100ms")
        stays.set()
    assert sorted(ended, key=str) == [("leaves", 1000), ("stays", 1012)]


async def _accept_all(server: Server) -> None:
    async for connection in server:
        await connection.accept()


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: chat.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)


async def test_what_a_proxy_that_is_trusted_says_about_the_client_is_believed() -> None:
    async def tell(connection: ServerConnection) -> None:
        await connection.reject(400, body=f"{connection.remote} {connection.url}")

    said = [("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "chat.test")]
    for networks, told in [
        (["127.0.0.1"], "('203.0.113.7', 0) wss://chat.test/"),
        (["192.0.2.0/24"], "ws://127.0.0.1:"),
    ]:
        async with serving(tell, trusted_proxies=networks) as server:
            with pytest.raises(errors.ConnectionFailedError) as caught:
                async with websocket.connect(server.url, headers=said, proxy=None):
                    pass
            assert told in str(caught.value.details["body"])


async def test_a_load_balancer_says_where_the_client_is_by_the_proxy_protocol() -> None:
    async def tell(connection: ServerConnection) -> None:
        await connection.reject(400, body=str(connection.remote))

    async with serving(tell, proxy_protocol=True, hosts="*") as server:
        said = await answer(server, b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 443\r\n" + HANDSHAKE)
        assert said.endswith(b"('203.0.113.7', 5000)")
        assert await answer(server, HANDSHAKE) == b""


@pytest.mark.parametrize(("allowed", "expected"), [("ws://127.0.0.1:*", None), ("ws://elsewhere.test/*", 403)])
async def test_policies_say_who_may_be_served(allowed: str, expected: int | None) -> None:
    policies: Sequence[Policy] = [
        Policy("websocket.listen", "ws://127.0.0.1:0/"),
        Policy("websocket.accept", allowed),
        Policy("websocket.connect*", "*"),
    ]

    async def handler(connection: ServerConnection) -> None:
        if expected is None:
            await connection.accept()
        else:
            with pytest.raises(errors.PermissionDeniedError):
                await connection.accept()

    with context(scope=Scope(policies), strict=True):
        async with serving(handler, handler_errors="raise") as server:
            assert await status(server) == expected
        with pytest.raises(errors.PermissionDeniedError):
            await websocket.serve(handler, 0, host="127.0.0.2")


# The page about hostile clients -------------------------------------------------------------------------------------


def test_the_numbers_of_the_page_about_hostile_clients_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "explanation" / "hostile-clients.md").read_text(encoding="utf-8")
    options = parse_options({}, websocket.ListenOptions.__annotations__)
    connection = options.connection
    assert connection.read_limit_bytes == 1024 * 1024
    assert f"`header_limit`, {options.header_limit_bytes // 1024} KiB, and {MAX_HEADER_LINES} lines" in page
    assert f"`handshake_timeout`, {options.handshake_timeout_seconds:g} s" in page
    assert f"`max_handshakes`, {options.max_handshakes}:" in page
    assert f"`max_waiting`, {options.max_waiting}," in page
    assert f"| {_LINGER_SECONDS:g} s, in which what it sends is discarded" in page
    assert f"the latest {MAX_WAITING_PONGS} are answered" in page
    assert f"`write_timeout` ends the connection after {connection.write_timeout_seconds:g} s" in page
    assert f"`keepalive` pings after {connection.keepalive_seconds:g} s" in page
    assert f"`close_timeout`, {connection.close_timeout_seconds:g} s" in page
    assert options.max_connections == float("inf")
    named = re.findall(r"`([\w/]+\.py)`", page)
    assert len(named) > 2
    assert [name for name in named if not (ROOT / "tests" / name).exists()] == []
