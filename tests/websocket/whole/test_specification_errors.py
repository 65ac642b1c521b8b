"""The specification's errors; `_specification` says how to read it."""

from __future__ import annotations

import errno
import math
import socket
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import errors, security, websocket
from csp.errors import ConnectionFailedError, Kind
from tests.websocket._peers import LibraryServer, connected
from tests.websocket.whole._specification import MIB, enter, is_over, raises, told
from trio_csp_websocket.network.failures import error_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ALICE = security.Actor("alice")


async def test_error_connections_not_allowed(server: LibraryServer) -> None:
    policies = [security.Policy("*", "*"), security.Policy("websocket.connect", "*", effect="deny")]
    asked = list(server.requests)
    with security.context(actor=ALICE, scope=security.Scope(policies)):
        error = await raises(
            Kind.PERMISSION_DENIED, False, PermissionError, enter(websocket.connect(server.url("/echo")))
        )
    assert "websocket.connect" in error.message
    assert server.requests == asked


async def test_error_url_not_allowed(server: LibraryServer) -> None:
    policies = [
        security.Policy("websocket.connect", ""),
        security.Policy("websocket.connect.url", server.url("/echo*")),
    ]
    asked = list(server.requests)
    with security.context(actor=ALICE, scope=security.Scope(policies)):
        error = await raises(
            Kind.PERMISSION_DENIED, False, PermissionError, enter(websocket.connect(server.url("/told")))
        )
        assert error.details == {"url": server.url("/told")}
        assert server.requests == asked
        async with connected(server.url("/echo?allowed")) as client:
            await client.send("allowed")
            assert (await client.receive()).ok


async def test_error_no_context_awaited_without_a_nursery(server: LibraryServer) -> None:
    error = await raises(Kind.INTERNAL, False, RuntimeError, websocket.connect(server.url("/echo")))
    assert "async with websocket.connect(url)" in error.message


def test_error_no_context_outside_a_trio_run() -> None:
    entering = websocket.connect("ws://127.0.0.1:1/").__aenter__()
    with pytest.raises(errors.Error) as caught:
        entering.send(None)
    told(caught.value, Kind.INTERNAL, False, RuntimeError)


class NoNames(trio.abc.HostnameResolver):
    """What a machine says that cannot resolve a name; asking a real one would leave loopback."""

    async def getaddrinfo(self, *_arguments: object, **_options: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_arguments: object, **_options: object) -> Any:
        raise NotImplementedError


async def test_error_connecting_failed_name_not_found() -> None:
    trio.socket.set_custom_hostname_resolver(NoNames())
    error = await raises(Kind.INTERNAL, True, ConnectionError, enter(websocket.connect("ws://nowhere.invalid/")))
    assert "nowhere.invalid" in error.message
    assert "Name or service not known" in error.message


async def test_error_connecting_failed_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}/"
        error = await raises(Kind.INTERNAL, True, ConnectionError, enter(websocket.connect(url)))
    assert error_text(errno.ECONNREFUSED) in error.message
    assert isinstance(error.__cause__, ConnectionRefusedError)


async def test_error_connecting_failed_tls(tls_server: LibraryServer) -> None:
    error = await raises(Kind.INTERNAL, True, ConnectionError, enter(websocket.connect(tls_server.url("/echo"))))
    assert "TLS failed" in error.message


async def test_error_connecting_failed_timeout(server: LibraryServer) -> None:
    connecting = websocket.connect(server.url("/stall"), dial_timeout=100)
    assert isinstance(await raises(Kind.INTERNAL, True, TimeoutError, enter(connecting)), ConnectionError)


async def test_error_connecting_failed_bad_handshake(server: LibraryServer) -> None:
    error = await raises(Kind.INTERNAL, True, ConnectionError, enter(websocket.connect(server.url("/forge"))))
    assert "Sec-WebSocket-Accept" in error.message


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        *((status, True) for status in (408, 425, 429, 500, 502, 503, 504)),
        *((status, False) for status in (301, 302, 400, 401, 403, 404, 410, 421)),
    ],
)
async def test_error_handshake_answered_with_a_status(either: LibraryServer, status: int, retryable: bool) -> None:
    connecting = websocket.connect(either.url(f"/refuse/{status}"), max_redirects=0)
    error = await raises(Kind.INTERNAL, retryable, ConnectionError, enter(connecting))
    assert f"status {status}" in error.message
    assert (error.details["status"], error.details["body"]) == (status, b"no")
    headers: Any = error.details["headers"]
    assert headers["x-why"] == "because"


async def test_error_invalid_connection_used_after_our_close(server: LibraryServer) -> None:
    async with connected(server.url("/echo")) as client:
        await client.close()
        for use in (partial(client.send, "late"), client.ping):
            error = await raises(Kind.INTERNAL, False, ConnectionError, use())
            assert "has ended (code 1000)" in error.message


async def test_error_invalid_connection_used_after_the_servers_close(server: LibraryServer) -> None:
    async with connected(server.url("/close/1013/later")) as client:
        assert not (await client.receive()).ok
        await client.close()  # waits for the end
        for use in (partial(client.send, "late"), client.ping):
            error = await raises(Kind.INTERNAL, False, ConnectionError, use())
            assert "has ended (code 1013)" in error.message
            assert error.__cause__ is client.error


async def test_error_invalid_connection_used_at_once_after_the_servers_close(server: LibraryServer) -> None:
    for _ in range(10):
        async with connected(server.url("/close/1013/later")) as client:
            assert not (await client.receive()).ok
            await raises(Kind.INTERNAL, False, ConnectionError, client.send("late"))


RETRYABLE_CODES = (1011, 1012, 1013, 1014)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999])
async def test_error_peer_closed_with_an_error_code(server: LibraryServer, code: int) -> None:
    async with connected(server.url(f"/close/{code}/because")) as client:
        assert await is_over(client)
        error = told(client.error, Kind.UNAVAILABLE, code in RETRYABLE_CODES, ConnectionError)
        assert error.details == {"code": code, "reason": "because"}
        assert (client.close_code, client.close_reason) == (code, "because")
        assert client.channel().cause is error
        with pytest.raises(ConnectionFailedError) as caught:
            await anext(client)
        assert caught.value.__cause__ is error


@pytest.mark.parametrize("code", [1000, 1001])
async def test_error_is_none_after_a_peers_normal_close(either: LibraryServer, code: int) -> None:
    async with connected(either.url(f"/close/{code}/bye")) as client:
        assert [message async for message in client] == []
        assert (client.close_code, client.close_reason, client.error) == (code, "bye", None)


async def test_error_is_none_after_a_peers_close_without_a_code(server: LibraryServer) -> None:
    async with connected(server.url("/raw/8800")) as client:
        assert [message async for message in client] == []
        assert (client.close_code, client.error) == (1005, None)
    await server.reported()


async def test_error_no_close_frame(server: LibraryServer) -> None:
    async with connected(server.url("/drop")) as client:
        assert await is_over(client)
        error = told(client.error, Kind.UNAVAILABLE, True, ConnectionError)
        assert error.details == {"code": 1006, "reason": ""}
        assert client.close_code == websocket.CLOSE_CODES.ABNORMAL_CLOSURE


@pytest.mark.parametrize(
    ("frames", "verdict"),
    [
        ("8300", 1002),  # a frame of no known kind
        ("8001", 1002),  # a continuation of nothing
        ("c10161", 1002),  # compressed, which was not agreed on
        ("8102c328", 1007),  # text that is not UTF-8
        ("880103", 1002),  # a close with half a code
    ],
)
async def test_error_our_verdict_on_what_the_server_sent(server: LibraryServer, frames: str, verdict: int) -> None:
    async with connected(server.url(f"/raw/{frames}")) as client:
        assert await is_over(client)
        error = told(client.error, Kind.INTERNAL, False, ConnectionError)
        assert client.close_code == verdict
        assert error.details == {"code": verdict, "reason": client.close_reason}
    # The server is told the same.
    assert await server.reported() == (verdict, client.close_reason)


async def test_error_a_peers_close_with_a_code_that_must_not_be_sent(server: LibraryServer) -> None:
    async with connected(server.url("/raw/880803ee7374616c6521")) as client:
        assert await is_over(client)
        error = told(client.error, Kind.UNAVAILABLE, True, ConnectionError)
        assert client.close_code == 1002
        assert error.details == {"code": 1006, "reason": "stale!"}
    # The server is told that this is no close frame.
    assert await server.reported() == (1002, client.close_reason)


async def test_error_our_verdict_on_a_message_that_is_too_big(server: LibraryServer) -> None:
    async with connected(server.url("/send/1/1001"), read_limit=1000) as client:
        assert await is_over(client)
        error = told(client.error, Kind.INTERNAL, False, ConnectionError)
        assert error.details == {"code": 1009, "reason": client.close_reason}
    assert [await server.reported() for _ in range(2)] == ["sent", (1009, client.close_reason)]


async def test_error_sending_failed_and_ping_failed(server: LibraryServer) -> None:
    outcomes: dict[str, errors.Error] = {}
    async with connected(server.url("/deaf")) as client:
        await client.receive()

        async def fails(name: str, call: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(errors.Error) as caught:
                await call()
            outcomes[name] = caught.value

        async with trio.open_nursery() as nursery:
            # More than fits into the system's buffers: it waits, and the ping behind it, until the connection breaks.
            nursery.start_soon(fails, "send", lambda: client.send(bytes(64 * MIB)))
            await wait_all_tasks_blocked()
            nursery.start_soon(fails, "ping", client.ping)
            await wait_all_tasks_blocked()
            assert not outcomes
            server.release()
        assert client.close_code == 1006
    assert "sending failed" in told(outcomes["send"], Kind.INTERNAL, False, ConnectionError).message
    assert "ping failed" in told(outcomes["ping"], Kind.INTERNAL, True, ConnectionError).message


async def test_error_ping_failed_for_too_many_without_an_answer(server: LibraryServer) -> None:
    async with connected(server.url("/deaf"), close_timeout="100ms") as client:
        await client.receive()
        for _ in range(1024):
            await client.ping()
        error = await raises(Kind.INTERNAL, True, ConnectionError, client.ping())
        assert "1024" in error.message
        assert client.close_code is None


async def test_error_read_timeout(server: LibraryServer) -> None:
    async with connected(server.url("/told"), read_timeout=100) as client:
        assert await is_over(client)
        error = told(client.error, Kind.TIMEOUT, True, TimeoutError)
        assert error.details == {"code": 1011, "reason": client.close_reason}
    assert await server.reported() == (1011, client.close_reason)


async def test_error_write_timeout(server: LibraryServer) -> None:
    async with connected(server.url("/deaf"), write_timeout=100) as client:
        await client.receive()
        await raises(Kind.TIMEOUT, True, TimeoutError, client.send(bytes(64 * MIB)))
        error = told(client.error, Kind.TIMEOUT, True, TimeoutError)
        assert error.details == {"code": 1006, "reason": ""}


async def test_error_keepalive_timeout(aiohttp_server: LibraryServer) -> None:
    async with connected(aiohttp_server.url("/mute"), keepalive="100ms") as client:
        assert await is_over(client)
        error = told(client.error, Kind.TIMEOUT, True, TimeoutError)
        assert error.details == {"code": 1011, "reason": client.close_reason}
    await aiohttp_server.reported()
    assert await aiohttp_server.reported() == (1011, client.close_reason)


INVALID_OPTIONS: list[tuple[str, object]] = [
    ("headers", {"X-Bad": "line\r\nbreak"}),
    ("headers", {"X-Bad": "nul\0"}),
    ("headers", {"Upgrade": "h2c"}),
    ("headers", {"Sec-WebSocket-Key": "mine"}),
    ("headers", "X-Bad: 1"),
    ("protocols", ["two words"]),
    ("protocols", ["twice", "twice"]),
    ("protocols", "graphql-ws"),
    *(
        (name, value)
        for name in ("dial_timeout", "read_timeout", "write_timeout", "keepalive", "close_timeout")
        for value in (0, -1, "0s", "-5s", "5 parsecs", math.nan, timedelta(0), b"5s", True)
    ),
    ("compression", -1),
    ("compression", 3),
    ("compression", "CONTEXT_TAKEOVER"),
    ("compression_threshold", -1),
    ("compression_threshold", 100 * MIB + 1),
    ("compression_threshold", 1.5),
    ("read_limit", -1),
    ("read_limit", 128 * MIB + 1),
    ("channel_capacity", 0),
    ("channel_capacity", 10_001),
    ("ssl_context", True),
    ("server_hostname", "example.com"),  # not for a ws: URL
    ("origin", "two\nlines"),
    ("user_agent", ""),
    ("nursery", "nursery"),
    ("timeout", "10s"),  # there is no such option
]


@pytest.mark.parametrize(("name", "value"), INVALID_OPTIONS)
async def test_error_option_out_of_range(server: LibraryServer, name: str, value: object) -> None:
    asked = list(server.requests)
    options: Any = {name: value}
    with pytest.raises(errors.Error, match=name) as caught:
        websocket.connect(server.url("/echo"), **options)
    told(caught.value, Kind.INVALID, False, ValueError)
    assert server.requests == asked


@pytest.mark.parametrize(
    "url", ["", "http://127.0.0.1/", "ws://", "ws://127.0.0.1:99999/", "//127.0.0.1/", "ws://a b/"]
)
def test_error_url_malformed(url: str) -> None:
    with pytest.raises(errors.Error) as caught:
        websocket.connect(url)
    told(caught.value, Kind.INVALID, False, ValueError)


async def test_error_argument_out_of_range_and_the_connection_goes_on(server: LibraryServer) -> None:
    async with connected(server.url("/echo")) as client:
        wrong: list[Any] = [None, 5, ["text"], {}]
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 70_000, -1):
            await raises(Kind.INVALID, False, ValueError, client.close(code))
        await raises(Kind.INVALID, False, ValueError, client.close(1000, "é" * 62))
        await raises(Kind.INVALID, False, ValueError, client.ping(bytes(126)))
        await raises(Kind.INVALID, False, ValueError, client.send("text", 3))
        await raises(Kind.INVALID, False, ValueError, client.send(b"\xff", websocket.TEXT))
        for data in wrong:
            await raises(Kind.INVALID, False, TypeError, client.send(data))
        await client.send("still there")
        assert (await client.receive()).value.data == "still there"
