"""The specification, row by row, against servers of other libraries.

Specified is the WebSocket client of the wippy runtime, a module for Lua. These tests follow its page: the options in
the order of their table, constants, methods, errors, and at the end each example as a small program of its own. What
goes beyond the page (``close_timeout``, ``keepalive`` and so on) stands behind what is on it. Where the page says

    local client, err = websocket.connect(url, {read_timeout = "30s"})       if err then ... end
    client:send(data, websocket.BINARY)                                      client:ping()
    local msg, ok = client:channel():receive()                               client:close(code, reason)
    channel.select { ch:case_receive(), timeout:case_receive() }             time.after("30s")
    errors.is(err, errors.PERMISSION_DENIED)                                 err:retryable()

it is here

    async with websocket.connect(url, read_timeout="30s") as client          except csp.errors.Error as error
    await client.send(data, websocket.BINARY)                                await client.ping()
    message, ok = await client.channel().receive()                           await client.close(code, reason)
    await csp.select(ch.case_receive(), timeout.case_receive())              csp.after("30s")
    errors.is_kind(error, errors.PERMISSION_DENIED)                          error.retryable

The server is that of `websockets`, in a thread; where the test has an ``either``, also that of `aiohttp`. What an
option or a call does is seen from there wherever it can be: servers report what reached them.
"""

from __future__ import annotations

import json
import math
import socket
import ssl
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked
from websockets.asyncio.server import broadcast

import csp
from csp import errors, security, websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.websocket._peers import LIMIT_SECONDS, AiohttpServer, LibraryServer, WebsocketsServer, connected, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from aiohttp import web
    from websockets.asyncio.server import ServerConnection

MIB = 1 << 20


@pytest.fixture(scope="module")
def running_websockets() -> Iterator[LibraryServer]:
    with WebsocketsServer().running() as running:
        yield running


@pytest.fixture(scope="module")
def running_aiohttp() -> Iterator[LibraryServer]:
    with AiohttpServer().running() as running:
        yield running


@pytest.fixture
def server(running_websockets: LibraryServer) -> Iterator[LibraryServer]:
    yield running_websockets
    running_websockets.release()
    assert running_websockets.unread_reports() == []


@pytest.fixture
def aiohttp_server(running_aiohttp: LibraryServer) -> Iterator[LibraryServer]:
    yield running_aiohttp
    assert running_aiohttp.unread_reports() == []


@pytest.fixture(params=["server", "aiohttp_server"], ids=["websockets", "aiohttp"])
def either(request: pytest.FixtureRequest) -> LibraryServer:
    chosen: LibraryServer = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    return context


def server_context(authority: trustme.CA, identity: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(identity).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    return context


@pytest.fixture(scope="module")
def tls_server(authority: trustme.CA) -> Iterator[LibraryServer]:
    with WebsocketsServer(server_context(authority, "127.0.0.1")).running() as running:
        yield running


async def headers_seen(client: websocket.Client) -> dict[str, str]:
    """Return the headers of the handshake as a server's ``/headers`` tells them."""
    return {name.lower(): value for name, value in json.loads((await client.receive()).value.data)}


async def raises(kind: Kind, retryable: bool, builtin: type[Exception], call: Awaitable[object]) -> errors.Error:
    """Await a call that fails as a row of the error tables says."""
    with pytest.raises(errors.Error) as caught:
        await call
    return told(caught.value, kind, retryable, builtin)


def told(error: errors.Error | None, kind: Kind, retryable: bool, builtin: type[Exception]) -> errors.Error:
    """Check an error against a row of the error tables."""
    assert error is not None
    assert errors.is_kind(error, kind)
    assert (error.kind, error.retryable) == (kind, retryable)
    assert isinstance(error, builtin)
    assert str(error) == error.message
    return error


async def is_over(source: websocket.Client | csp.Channel[Any]) -> bool:
    """Tell whether there is nothing more to receive."""
    received: object = await source.receive()
    return received == (None, False)


async def enter(connecting: websocket.Connecting) -> None:
    """Connect where that fails."""
    with trio.fail_after(LIMIT_SECONDS):
        async with connecting:
            pytest.fail("connected")


# Options --------------------------------------------------------------------------------------------------------------


async def test_option_headers_are_seen_by_the_server(either: LibraryServer) -> None:
    async with connected(either.url("/headers"), headers={"Authorization": "Bearer t0ken", "X-Room": "7"}) as client:
        seen = await headers_seen(client)
    assert (seen["authorization"], seen["x-room"]) == ("Bearer t0ken", "7")


async def test_option_protocols_are_offered_and_the_servers_choice_is_known(either: LibraryServer) -> None:
    async with connected(either.url("/headers"), protocols=["first", "second"]) as client:
        assert (await headers_seen(client))["sec-websocket-protocol"].replace(" ", "") == "first,second"
        assert client.subprotocol == "second"
        assert client.response_headers["Sec-WebSocket-Protocol"] == "second"


@pytest.mark.parametrize("limit", [150, "150ms", timedelta(milliseconds=150)], ids=["number", "string", "timedelta"])
async def test_option_dial_timeout_ends_a_handshake_without_an_answer(
    server: LibraryServer, limit: websocket.Timeout
) -> None:
    error = await raises(
        Kind.INTERNAL, True, TimeoutError, enter(websocket.connect(server.url("/stall"), dial_timeout=limit))
    )
    assert isinstance(error, ConnectionTimeoutError)
    assert "within 0.15 s" in error.message


@pytest.mark.parametrize("path", ["/told", "/pings"])
async def test_option_read_timeout_ends_the_wait_for_a_message_also_under_pings(
    server: LibraryServer, path: str
) -> None:
    async with connected(server.url(path), read_timeout="200ms") as client:
        assert not (await client.receive()).ok
        assert client.close_code == 1011
    assert await server.reported() == (1011, "no message within 0.2 s")


async def test_option_write_timeout_ends_a_send_that_the_server_does_not_read(server: LibraryServer) -> None:
    async with connected(server.url("/deaf"), write_timeout="200ms") as client:
        await client.receive()
        error = await raises(Kind.TIMEOUT, True, TimeoutError, client.send(bytes(64 * MIB)))
        assert "0.2 s" in error.message
        # Half a frame is on the wire: nothing more can be.
        assert client.close_code == 1006


async def test_option_compression_disabled_offers_none(server: LibraryServer) -> None:
    ways: list[websocket.ConnectOptions] = [{}, {"compression": websocket.COMPRESSION.DISABLED}, {"compression": 0}]
    for options in ways:
        async with connected(server.url("/headers?deflate"), **options) as client:
            assert "sec-websocket-extensions" not in await headers_seen(client)
            assert "Sec-WebSocket-Extensions" not in client.response_headers


@pytest.mark.parametrize("mode", [websocket.COMPRESSION.CONTEXT_TAKEOVER, 1], ids=["constant", "number"])
async def test_option_compression_context_takeover_compresses_across_messages(
    server: LibraryServer, mode: websocket.Compression
) -> None:
    async with connected(server.url("/headers?deflate"), compression=mode) as client:
        assert "no_context_takeover" not in (await headers_seen(client))["sec-websocket-extensions"]
        assert client.response_headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
    for first, *again in await compressed_sizes(server, mode):
        assert max(again) < first / 10


@pytest.mark.parametrize("mode", [websocket.COMPRESSION.NO_CONTEXT, 2], ids=["constant", "number"])
async def test_option_compression_no_context_compresses_each_message_alone(
    server: LibraryServer, mode: websocket.Compression
) -> None:
    async with connected(server.url("/headers?deflate"), compression=mode) as client:
        offered = (await headers_seen(client))["sec-websocket-extensions"]
        assert "client_no_context_takeover" in offered
        assert "server_no_context_takeover" in offered
    sent, received = await compressed_sizes(server, mode)
    assert len(set(sent)) == len(set(received)) == 1
    assert max(*sent, *received) < 2000


async def compressed_sizes(server: LibraryServer, mode: websocket.Compression) -> tuple[list[int], list[int]]:
    """Send a message of 2000 bytes four times to an echo; return what each cost on the wire, both ways."""
    message = " ".join(f"{number * 7919:x}" for number in range(1000))[:2000]
    sent: list[int] = []
    received: list[int] = []
    async with connected(server.url("/echo?deflate"), compression=mode) as client:
        for _ in range(4):
            before = client.statistics()
            await client.send(message)
            assert (await client.receive()).value == ("text", message)
            after = client.statistics()
            sent.append(after.bytes_sent - before.bytes_sent)
            received.append(after.bytes_received - before.bytes_received)
    return sent, received


@pytest.mark.parametrize(
    ("options", "threshold"),
    [
        ({"compression": websocket.COMPRESSION.CONTEXT_TAKEOVER}, 128),
        ({"compression": websocket.COMPRESSION.NO_CONTEXT}, 512),
        ({"compression": websocket.COMPRESSION.CONTEXT_TAKEOVER, "compression_threshold": 20}, 20),
        ({"compression": websocket.COMPRESSION.NO_CONTEXT, "compression_threshold": 1}, 1),
        ({"compression": websocket.COMPRESSION.NO_CONTEXT, "compression_threshold": 100_000}, 100_000),
    ],
    ids=["default", "default without context", "20", "1", "100000"],
)
async def test_option_compression_threshold_is_the_size_from_which_the_server_gets_it_compressed(
    server: LibraryServer, options: websocket.ConnectOptions, threshold: int
) -> None:
    async with connected(server.url("/frames?deflate"), **options) as client:
        for size, expected in ((threshold - 1, False), (threshold, True), (threshold + 1, True)):
            await client.send(bytes(size))
            compressed, _ = json.loads((await client.receive()).value.data)
            assert compressed is expected


async def test_option_compression_threshold_may_be_0_and_100_mib(server: LibraryServer) -> None:
    for threshold, expected in ((0, True), (100 * MIB, False)):
        async with connected(
            server.url("/frames?deflate"),
            compression=websocket.COMPRESSION.CONTEXT_TAKEOVER,
            compression_threshold=threshold,
        ) as client:
            for message in ("", "1", bytes(1000)):
                await client.send(message)
                compressed, _ = json.loads((await client.receive()).value.data)
                assert compressed is expected


async def test_option_read_limit_is_the_largest_message_accepted(server: LibraryServer) -> None:
    async with connected(server.url("/send/2/1000"), read_limit=1000) as client:
        assert [len((await client.receive()).value.data) for _ in range(2)] == [1000, 1000]
    assert [await server.reported() for _ in range(2)] == ["sent", (1000, "")]
    async with connected(server.url("/send/1/1001"), read_limit=1000) as client:
        assert not (await client.receive()).ok
        assert client.close_code == websocket.CLOSE_CODES.MESSAGE_TOO_BIG
    assert await server.reported() == "sent"
    code, reason = await server.reported()
    assert (code, reason) == (1009, client.close_reason)


async def test_option_read_limit_0_is_the_default_of_16_mib(server: LibraryServer) -> None:
    async with connected(server.url(f"/send/1/{16 * MIB}"), read_limit=0) as client:
        assert len((await client.receive()).value.data) == 16 * MIB
    assert [await server.reported() for _ in range(2)] == ["sent", (1000, "")]
    async with connected(server.url(f"/send/1/{16 * MIB + 1}"), read_limit=0) as client:
        assert not (await client.receive()).ok
    assert await server.reported() == "sent"
    assert (await server.reported())[0] == 1009


async def test_option_channel_capacity_is_what_is_buffered_before_the_server_has_to_wait(server: LibraryServer) -> None:
    count = 512
    async with connected(server.url(f"/send/{count}/{MIB // 8}"), channel_capacity=3) as client:
        messages = client.channel()
        assert messages.capacity == 3
        await until(lambda: len(messages) == 3)
        await wait_all_tasks_blocked()
        # 64 MiB, more than fits into the system's buffers: the server waits.
        assert server.unread_reports() == []
        assert client.statistics().messages_received < count
        for _ in range(count):
            assert (await messages.receive()).ok
        assert await server.reported() == "sent"
    assert await server.reported() == (1000, "")


async def test_option_ssl_context_says_whom_to_trust(tls_server: LibraryServer, trusting: ssl.SSLContext) -> None:
    async with connected(tls_server.url("/echo"), ssl_context=trusting) as client:
        await client.send("over TLS")
        assert (await client.receive()).value.data == "over TLS"


async def test_option_ssl_context_by_default_trusts_the_systems_authorities_only(tls_server: LibraryServer) -> None:
    error = await raises(
        Kind.INTERNAL,
        True,
        ConnectionError,
        enter(websocket.connect(tls_server.url("/echo"))),
    )
    assert "not trusted" in error.message


async def test_option_server_hostname_is_the_name_in_the_certificate_and_in_sni(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    context = server_context(authority, "feed.example.com")
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with WebsocketsServer(context).running() as server:
        url = server.url("/echo")
        async with connected(url, ssl_context=trusting, server_hostname="feed.example.com") as client:
            assert client.url == url
        await raises(Kind.INTERNAL, True, ConnectionError, enter(websocket.connect(url, ssl_context=trusting)))
    assert names == ["feed.example.com", None]


async def test_option_origin_is_seen_by_the_server(either: LibraryServer) -> None:
    async with connected(either.url("/headers"), origin="https://example.com") as client:
        assert (await headers_seen(client))["origin"] == "https://example.com"
    async with connected(either.url("/headers")) as client:
        assert "origin" not in await headers_seen(client)


async def test_option_user_agent_is_seen_by_the_server(either: LibraryServer) -> None:
    async with connected(either.url("/headers"), user_agent="prices/1.0") as client:
        assert (await headers_seen(client))["user-agent"] == "prices/1.0"
    async with connected(either.url("/headers")) as client:
        assert (await headers_seen(client))["user-agent"] == f"trio-csp/{csp.__version__}"
    async with connected(either.url("/headers"), user_agent=None) as client:
        assert "user-agent" not in await headers_seen(client)


async def test_option_keepalive_pings_a_silent_server_and_then_gives_it_up(aiohttp_server: LibraryServer) -> None:
    async with connected(aiohttp_server.url("/mute"), keepalive="100ms") as client:
        assert not (await client.receive()).ok
        assert client.close_code == 1011
    ping = await aiohttp_server.reported()
    assert isinstance(ping, bytes)
    code, reason = await aiohttp_server.reported()
    assert (code, reason) == (1011, client.close_reason)


async def test_option_close_timeout_ends_the_wait_for_a_server_that_does_not_answer(server: LibraryServer) -> None:
    async with connected(server.url("/deaf"), close_timeout="150ms") as client:
        await client.receive()
        with trio.fail_after(8):  # the default is 10
            await client.close()
        assert (client.close_code, client.error) == (1006, None)


async def test_option_nursery_runs_the_connection(either: LibraryServer) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with trio.open_nursery() as nursery:
            client = await websocket.connect(either.url("/echo"), nursery=nursery)
            assert len(nursery.child_tasks) == 1
            await client.close()


# Constants ------------------------------------------------------------------------------------------------------------


def test_constants_message_types() -> None:
    assert (websocket.TEXT, websocket.BINARY) == (1, 2)
    assert (websocket.TYPE_TEXT, websocket.TYPE_BINARY) == ("text", "binary")
    assert (websocket.TYPE_PING, websocket.TYPE_PONG, websocket.TYPE_CLOSE) == ("ping", "pong", "close")


@pytest.mark.parametrize(("name", "number"), [("DISABLED", 0), ("CONTEXT_TAKEOVER", 1), ("NO_CONTEXT", 2)])
def test_constants_compression_modes(name: str, number: int) -> None:
    assert getattr(websocket.COMPRESSION, name) == number
    assert len(websocket.COMPRESSION) == 3


CLOSE_CODES = {
    "NORMAL": 1000,
    "GOING_AWAY": 1001,
    "PROTOCOL_ERROR": 1002,
    "UNSUPPORTED_DATA": 1003,
    "NO_STATUS": 1005,
    "ABNORMAL_CLOSURE": 1006,
    "INVALID_PAYLOAD": 1007,
    "POLICY_VIOLATION": 1008,
    "MESSAGE_TOO_BIG": 1009,
    "MANDATORY_EXTENSION": 1010,
    "INTERNAL_ERROR": 1011,
    "SERVICE_RESTART": 1012,
    "TRY_AGAIN_LATER": 1013,
    "BAD_GATEWAY": 1014,
    "TLS_HANDSHAKE": 1015,
}
NEVER_SENT = ("NO_STATUS", "ABNORMAL_CLOSURE", "TLS_HANDSHAKE")


@pytest.mark.parametrize("name", CLOSE_CODES)
async def test_constants_close_codes_are_the_numbers_that_reach_the_server(server: LibraryServer, name: str) -> None:
    code = getattr(websocket.CLOSE_CODES, name)
    assert code == CLOSE_CODES[name]
    assert len(websocket.CLOSE_CODES) == len(CLOSE_CODES)
    async with connected(server.url("/told")) as client:
        if name in NEVER_SENT:
            # They say how a connection ended where no close frame did: RFC 6455, section 7.4.1.
            await raises(Kind.INVALID, False, ValueError, client.close(code))
        else:
            await client.close(code)
    assert await server.reported() == (1000 if name in NEVER_SENT else CLOSE_CODES[name], "")


# Methods --------------------------------------------------------------------------------------------------------------


async def test_connect_as_a_block_closes_at_its_end(either: LibraryServer) -> None:
    async with connected(either.url("/told")) as client:
        assert client.url == either.url("/told")
        assert client.close_code is None
    assert await either.reported() == (1000, "")
    assert client.close_code == 1000


async def test_connect_awaited_runs_in_a_nursery_until_it_is_closed(either: LibraryServer) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with trio.open_nursery() as nursery:
            client = await websocket.connect(either.url("/told"), nursery=nursery)
            await client.close()
            assert not nursery.cancel_scope.cancel_called
    assert await either.reported() == (1000, "")


@pytest.mark.parametrize(
    ("data", "type", "received"),
    [
        ("Grüße, 世界", None, ("text", "Grüße, 世界")),
        (b"\x00\xff", None, ("binary", b"\x00\xff")),
        (bytearray(b"\x00\xff"), None, ("binary", b"\x00\xff")),
        (memoryview(b"\x00\xff"), None, ("binary", b"\x00\xff")),
        ("text", websocket.TEXT, ("text", "text")),
        ("text", 1, ("text", "text")),
        (b"\x00\xff", websocket.BINARY, ("binary", b"\x00\xff")),
        (b"\x00\xff", 2, ("binary", b"\x00\xff")),
        ("as bytes: é", 2, ("binary", "as bytes: é".encode())),
        ("as text: é".encode(), 1, ("text", "as text: é")),
    ],
)
async def test_send(either: LibraryServer, data: Any, type: int | None, received: tuple[str, str | bytes]) -> None:  # noqa: A002
    async with connected(either.url("/echo")) as client:
        await client.send(data, type)
        assert (await client.receive()).value == received


async def test_ping_gives_the_round_trip_time_and_the_server_gets_a_ping(aiohttp_server: LibraryServer) -> None:
    async with connected(aiohttp_server.url("/echo")) as client:
        assert client.latency is None
        seconds, ok = await (await client.ping()).receive()
        assert ok
        assert seconds == client.latency
        assert 0 <= seconds < LIMIT_SECONDS
        answer = await client.ping("with a payload")
        assert (await answer.receive()).ok
        assert answer.closed
    async with connected(aiohttp_server.url("/mute")) as client:
        await client.ping()
        await client.ping("with a payload")
        await client.ping(b"\x00" * 125)
        assert len(await aiohttp_server.reported()) <= 125
        assert await aiohttp_server.reported() == b"with a payload"
        assert await aiohttp_server.reported() == b"\x00" * 125
    assert await aiohttp_server.reported() == (1000, "")


async def test_ping_gives_a_channel_that_closes_with_the_connection(aiohttp_server: LibraryServer) -> None:
    async with connected(aiohttp_server.url("/mute")) as client:
        answer = await client.ping(b"unanswered")
        await client.close()
        assert await is_over(answer)
    assert await aiohttp_server.reported() == b"unanswered"
    assert await aiohttp_server.reported() == (1000, "")


async def test_channel_is_always_the_same_and_gives_messages_in_order(either: LibraryServer) -> None:
    async with connected(either.url("/count/3")) as client:
        messages = client.channel()
        assert messages is client.channel()
        assert [tuple((await messages.receive()).value) for _ in range(3)] == [("text", str(n)) for n in range(3)]
        assert await is_over(messages)
        assert messages.closed
        assert client.channel() is messages


async def test_receive_is_short_for_receiving_from_the_channel(either: LibraryServer) -> None:
    async with connected(either.url("/count/2")) as client:
        assert await client.receive() == (websocket.Message("text", "0"), True)
        assert await client.channel().receive() == (websocket.Message("text", "1"), True)
        assert await is_over(client)


async def test_receive_gives_messages_of_a_type_and_data(either: LibraryServer) -> None:
    async with connected(either.url("/echo")) as client:
        for data, type_ in (("text", websocket.TYPE_TEXT), (b"bytes", websocket.TYPE_BINARY)):
            await client.send(data)
            message = (await client.receive()).value
            assert isinstance(message, websocket.Message)
            assert (message.type, message.data) == (type_, data)


async def test_close_without_arguments_is_1000(either: LibraryServer) -> None:
    async with connected(either.url("/told")) as client:
        await client.close()
        assert (client.close_code, client.error) == (1000, None)
    assert await either.reported() == (1000, "")


async def test_close_with_a_code(either: LibraryServer) -> None:
    async with connected(either.url("/told")) as client:
        await client.close(websocket.CLOSE_CODES.GOING_AWAY)
    assert await either.reported() == (1001, "")


async def test_close_with_code_and_reason(either: LibraryServer) -> None:
    async with connected(either.url("/told")) as client:
        await client.close(websocket.CLOSE_CODES.INTERNAL_ERROR, "Processing failed")
        # Again does nothing.
        await client.close(websocket.CLOSE_CODES.NORMAL, "too late")
    assert await either.reported() == (1011, "Processing failed")


async def test_statistics_count_both_ways(either: LibraryServer) -> None:
    async with connected(either.url("/echo")) as client:
        await client.send("12345")
        await client.receive()
        statistics = client.statistics()
    assert (statistics.messages_sent, statistics.messages_received) == (1, 1)
    assert (statistics.payload_bytes_sent, statistics.payload_bytes_received) == (5, 5)
    assert min(statistics.bytes_sent, statistics.bytes_received) > 5


# Errors ---------------------------------------------------------------------------------------------------------------


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
    assert "refused" in error.message
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
    connecting = websocket.connect(either.url(f"/refuse/{status}"))
    error = await raises(Kind.INTERNAL, retryable, ConnectionError, enter(connecting))
    assert f"status {status}" in error.message
    assert error.details is not None
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
        ("880203e7", 1002),  # a close with a code that does not exist
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
    async with connected(server.url("/deaf"), close_timeout=100) as client:
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
    async with connected(aiohttp_server.url("/mute"), keepalive=100) as client:
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


# Examples -------------------------------------------------------------------------------------------------------------


async def test_example_basic_connection(tls_server: LibraryServer, trusting: ssl.SSLContext) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        # The page needs no ssl_context: its server's certificate is one that everybody trusts.
        async with websocket.connect(tls_server.url("/echo"), ssl_context=trusting) as client:
            await client.send("Hello, Server!")
            message, ok = await client.receive()
    assert ok
    assert message.data == "Hello, Server!"


async def test_example_connection_with_options(tls_server: LibraryServer, trusting: ssl.SSLContext) -> None:
    token = "t0ken"
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(
            tls_server.url("/headers?deflate"),
            headers={"Authorization": "Bearer " + token},
            protocols=["graphql-ws", "second"],
            dial_timeout="10s",
            read_timeout="30s",
            write_timeout=5000,
            compression=websocket.COMPRESSION.CONTEXT_TAKEOVER,
            compression_threshold=256,
            read_limit=MIB,
            channel_capacity=100,
            ssl_context=trusting,
            server_hostname="127.0.0.1",
            origin="https://example.com",
            user_agent="specification/1.0",
            keepalive="30s",
            close_timeout="5s",
        ) as client:
            seen = await headers_seen(client)
            assert client.subprotocol == "second"
            assert "permessage-deflate" in client.response_headers["Sec-WebSocket-Extensions"]
    assert seen["authorization"] == "Bearer t0ken"
    assert (seen["origin"], seen["user-agent"]) == ("https://example.com", "specification/1.0")


async def test_example_sending_text_json_and_binary(either: LibraryServer) -> None:
    binary_data = bytes(range(256))
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/echo")) as client:
            await client.send("Hello, Server!")
            await client.send(json.dumps({"type": "subscribe", "channel": "orders"}))
            await client.send(binary_data, websocket.BINARY)
            echoes = [(await client.receive()).value for _ in range(3)]
    assert echoes == [
        ("text", "Hello, Server!"),
        ("text", '{"type": "subscribe", "channel": "orders"}'),
        ("binary", binary_data),
    ]


async def test_example_ping(either: LibraryServer) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/echo")) as client:
            answer = await client.ping()
            seconds, ok = await answer.receive()
    assert ok
    assert seconds == client.latency


async def test_example_basic_receive(either: LibraryServer, capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/count/1")) as client:
            ch = client.channel()
            msg, ok = await ch.receive()
            if ok:
                print("Type:", msg.type)  # "text" or "binary"
                print("Data:", msg.data)
            assert await is_over(ch)
    assert capsys.readouterr().out == "Type: text\nData: 0\n"


async def test_example_message_loop(either: LibraryServer) -> None:
    handled: list[int] = []
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/count/5")) as client:
            async for msg in client:
                if msg.type == "text":
                    data = json.loads(msg.data)
                    handled.append(data)
            # Connection closed, and as it should be: otherwise the loop had raised client.error.
            assert client.error is None
    assert handled == [0, 1, 2, 3, 4]


async def test_example_message_loop_as_on_the_page(either: LibraryServer) -> None:
    handled: list[int] = []
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/count/5")) as client:
            ch = client.channel()
            while True:
                msg, ok = await ch.receive()
                if not ok:
                    break  # Connection closed
                if msg.type == "text":
                    handled.append(json.loads(msg.data))
    assert handled == [0, 1, 2, 3, 4]


class StreamServer(AiohttpServer):
    """Sends something at each message and at each ping, answers the ping, and closes after the third.

    ``/prices`` sends prices of the symbols that were subscribed to, anything else the number of messages and pings.
    """

    async def _serve(self, action: str, connection: web.WebSocketResponse, request: web.Request) -> None:
        assert request.path.removeprefix("/") == action
        symbols: list[str] = []
        messages = pings = 0
        while pings < 3:
            message = await connection.receive()
            if message.type is aiohttp.WSMsgType.PING:
                pings += 1
                await connection.pong(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT and action == "prices":
                order = json.loads(message.data)
                assert order["action"] == "subscribe"
                symbols = order["symbols"]
            messages += message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)
            if action == "prices":
                for number, symbol in enumerate(symbols):
                    await connection.send_str(json.dumps({"symbol": symbol, "value": 100 * number + pings}))
            else:
                await connection.send_str(json.dumps({"messages": messages, "pings": pings}))
        await connection.close()


@pytest.fixture(scope="module")
def stream_server() -> Iterator[LibraryServer]:
    with StreamServer().running() as running:
        yield running


async def test_example_select_over_messages_and_a_timer(stream_server: LibraryServer) -> None:
    processed: list[dict[str, int]] = []
    process = processed.append
    data = bytes(10)
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(
            stream_server.url("/stream?deflate"),
            headers={"Authorization": "Bearer t0ken"},
            protocols=["graphql-ws"],
            dial_timeout="10s",
            read_timeout="30s",
            compression=websocket.COMPRESSION.CONTEXT_TAKEOVER,
        ) as client:
            await client.send("Hello, Server!")
            await client.send(data, websocket.BINARY)
            messages = client.channel()
            heartbeat = csp.after("10ms")
            pings = 0
            while True:
                r = await csp.select(messages.case_receive(), heartbeat.case_receive())
                if r.channel is heartbeat:
                    await client.ping()
                    pings += 1
                    # The server closes after the third: a fourth might find the connection ended.
                    heartbeat = csp.after("10ms" if pings < 3 else "30s")
                elif isinstance(r.value, websocket.Message):
                    process(json.loads(r.value.data))
                else:
                    assert not r.ok
                    break
            await client.close(websocket.CLOSE_CODES.NORMAL, "Session ended")
    assert processed[-1] == {"messages": 2, "pings": 3}
    assert len(processed) == 5
    assert client.error is None


async def test_example_closing_connection_without_arguments(either: LibraryServer) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/told")) as client:
            await client.close()
    assert await either.reported() == (1000, "")


async def test_example_closing_connection_with_code_and_reason(either: LibraryServer) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/told")) as client:
            await client.close(websocket.CLOSE_CODES.NORMAL, "Session ended")
    assert await either.reported() == (1000, "Session ended")


async def test_example_closing_connection_after_an_error(either: LibraryServer) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(either.url("/told")) as client:
            await client.close(websocket.CLOSE_CODES.INTERNAL_ERROR, "Processing failed")
    assert await either.reported() == (1011, "Processing failed")


class ChatServer(WebsocketsServer):
    """A chat: whoever joins a room is told who is there, what the others say, and who leaves."""

    def __init__(self) -> None:
        super().__init__()
        self._members: dict[ServerConnection, tuple[str, str]] = {}

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        assert connection.request.headers["Authorization"] == "Bearer t0ken"
        joining = json.loads(await connection.recv())
        room, name = joining["room"], joining["name"]
        self._members[connection] = room, name
        self._tell(room, {"type": "joined", "name": name})
        async for message in connection:
            self._tell(room, {**json.loads(message), "name": name}, but=connection)
        del self._members[connection]
        self._tell(room, {"type": "left", "name": name})

    def _tell(self, room: str, what: dict[str, str], but: ServerConnection | None = None) -> None:
        members = [member for member, (its_room, _) in self._members.items() if its_room == room and member is not but]
        broadcast(members, json.dumps(what))


async def connect_chat(
    url: str, room: str, name: str, on_message: Callable[[websocket.Client, dict[str, str]], Awaitable[None]]
) -> None:
    """Join a room, and call ``on_message`` with all that is said there."""
    async with websocket.connect(url, headers={"Authorization": "Bearer t0ken"}) as client:
        await client.send(json.dumps({"type": "join", "room": room, "name": name}))
        async for message in client:
            await on_message(client, json.loads(message.data))


async def test_example_chat() -> None:
    heard: dict[str, list[tuple[str, ...]]] = {"alice": [], "bob": [], "eve": []}

    async def say(client: websocket.Client, text: str) -> None:
        await client.send(json.dumps({"type": "said", "text": text}))

    async def alice(client: websocket.Client, data: dict[str, str]) -> None:
        heard["alice"].append(tuple(data.values()))
        match data:
            case {"type": "joined", "name": "alice"}:
                nursery.start_soon(connect_chat, url, "kitchen", "bob", bob)
            case {"type": "joined", "name": "bob"}:
                await say(client, "Hello, Bob!")
            case {"type": "left"}:
                await client.close()
            case _:
                pass

    async def bob(client: websocket.Client, data: dict[str, str]) -> None:
        heard["bob"].append(tuple(data.values()))
        if data["type"] == "said":
            await say(client, "Hello and good-bye!")
            await client.close()

    async def eve(client: websocket.Client, data: dict[str, str]) -> None:
        # In another room, so that she hears of herself only.
        heard["eve"].append(tuple(data.values()))
        in_garden.set()
        await leave_garden.wait()
        await client.close()

    with ChatServer().running() as server, trio.fail_after(LIMIT_SECONDS):
        url = server.url("/chat")
        in_garden, leave_garden = trio.Event(), trio.Event()
        async with trio.open_nursery() as eves_nursery:
            eves_nursery.start_soon(connect_chat, url, "garden", "eve", eve)
            await in_garden.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect_chat, url, "kitchen", "alice", alice)
            leave_garden.set()
    assert heard == {
        "alice": [
            ("joined", "alice"),
            ("joined", "bob"),
            ("said", "Hello and good-bye!", "bob"),
            ("left", "bob"),
        ],
        "bob": [("joined", "bob"), ("said", "Hello, Bob!", "alice")],
        "eve": [("joined", "eve")],
    }


async def test_example_price_stream_with_keep_alive(stream_server: LibraryServer) -> None:
    prices: dict[str, int] = {}
    pings = 0
    with trio.fail_after(LIMIT_SECONDS):
        async with websocket.connect(stream_server.url("/prices")) as client:
            await client.send(json.dumps({"action": "subscribe", "symbols": ["BTC-USD", "ETH-USD"]}))
            ch = client.channel()
            heartbeat = csp.after("10ms")
            while True:
                r = await csp.select(ch.case_receive(), heartbeat.case_receive())
                if r.channel is heartbeat:
                    await client.ping()
                    pings += 1
                    heartbeat = csp.after("10ms")
                elif isinstance(r.value, websocket.Message):
                    price = json.loads(r.value.data)
                    prices[price["symbol"]] = price["value"]
                else:
                    break  # Connection closed
            await client.close()
    assert prices == {"BTC-USD": 3, "ETH-USD": 103}
    assert pings >= 3
    assert client.error is None


async def test_example_error_handling_by_kind_and_retryable(server: LibraryServer) -> None:
    async def connect(url: str) -> str:
        try:
            async with websocket.connect(url) as client:
                await client.send("hello")
                return str((await client.receive()).value.data)
        except errors.Error as error:
            if errors.is_kind(error, errors.PERMISSION_DENIED):
                return f"Access denied: {error.message}"
            if error.retryable:
                return f"Temporary error: {error.message}"
            return f"Error: {error.message}"

    forbidden = security.Policy("websocket.connect.url", server.url("/told"), effect="deny")
    with trio.fail_after(LIMIT_SECONDS), security.context(scope=security.Scope([forbidden])):
        assert await connect(server.url("/echo")) == "hello"
        assert (await connect(server.url("/told"))).startswith("Access denied: ")
        assert (await connect(server.url("/refuse/503"))).startswith("Temporary error: ")
        assert (await connect(server.url("/refuse/404"))).startswith("Error: ")
