"""`csp.testing`: servers in memory, as a tester uses and abuses them."""

from __future__ import annotations

import re
import ssl
import textwrap
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request

import csp
from csp import security, testing, websocket
from csp.errors import (
    ConnectionFailedError,
    ConnectionTimeoutError,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
    PermissionDeniedError,
)
from csp.testing import ServerConnection, websocket_pair, websocket_server
from tests.websocket._server import BINARY, CLOSE, CONTINUATION, PING, TEXT, accepting, details, frame
from trio_csp_websocket.client.dial import dial
from trio_csp_websocket.client.options import parse_options
from trio_csp_websocket.protocol.url import parse_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from trio.testing import MockClock

    from trio_csp_websocket.transport.base import Transport

URL = "wss://api.example.com/prices"
TAKEOVER = websocket.COMPRESSION.CONTEXT_TAKEOVER


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)


async def ignore(connection: ServerConnection) -> None:
    await connection.accept()
    await connection.wait_closed()


async def flood(end: ServerConnection | websocket.Client) -> None:
    while True:
        await end.send("flood")


async def raw_client(url: str = URL) -> Transport:
    """Shake hands by hand, and return the stream, for what our client would not do."""
    target = parse_url(url)
    transport = await dial(target, parse_options({}))
    request = Request(host=target.host_header, target=target.resource)
    await transport.send_all(WSConnection(ConnectionType.CLIENT).send(request))
    assert (await transport.receive_some(1000)).startswith(b"HTTP/1.1 101 ")
    return transport


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    return frame(opcode, payload, fin=fin, reserved=reserved, mask=b"mask")


# The documentation ---------------------------------------------------------------------------------------------------


async def test_the_example_of_the_documentation_works(autojump_clock: MockClock) -> None:
    found = re.search(r"stays as it is:\n\n(.*?)\n\n- ", testing.__doc__ or "", re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {"testing": testing, "websocket": websocket, "trio": trio}
    exec(textwrap.dedent(found[1]), names)
    await names["test_watch_prices"](autojump_clock)
    assert trio.current_time() >= 3600


def test_every_public_name_exists_and_is_documented() -> None:
    for name in testing.__all__:
        assert getattr(testing, name).__doc__
        assert f"`{name}`" in (testing.__doc__ or "")
    for name, member in vars(ServerConnection).items():
        if not name.startswith("_"):
            assert member.__doc__, name


# Reaching a server ---------------------------------------------------------------------------------------------------


async def test_a_handler_knows_the_request_before_it_answers() -> None:
    seen: list[object] = []

    async def handler(connection: ServerConnection) -> None:
        seen.extend((connection.url, connection.path, connection.protocols))
        seen.extend(connection.headers[name] for name in ("host", "USER-AGENT", "X-Key", "Authorization", "Origin"))
        assert "opening" in repr(connection)
        await connection.accept(protocol="b", headers={"X-Answer": "42"})
        assert "open" in repr(connection)

    async with (
        websocket_server(handler),
        websocket.connect(
            "WSS://user:pass@API.example.com:443/%70rices?x=1",
            protocols=["a", "b"],
            headers={"X-Key": "k"},
            origin="https://example.com",
            user_agent="test",
        ) as client,
    ):
        assert client.subprotocol == "b"
        assert client.response_headers["x-answer"] == "42"
        assert client.url == f"{URL}?x=1"
    assert seen == [
        f"{URL}?x=1",
        "/prices?x=1",
        ("a", "b"),
        "api.example.com",
        "test",
        "k",
        "Basic dXNlcjpwYXNz",
        "https://example.com",
    ]


async def test_wss_needs_no_tls_whatever_the_context() -> None:
    async with (
        websocket_server(echo),
        websocket.connect(URL, ssl_context=ssl.create_default_context(), server_hostname="else.where") as client,
    ):
        await client.send("hello")
        assert (await client.receive()).value.data == "hello"


async def test_await_connect_reaches_it_as_well() -> None:
    async with websocket_server(echo), trio.open_nursery() as nursery:
        client = await websocket.connect(URL, nursery=nursery)
        await client.send(b"hello")
        assert (await client.receive()).value == websocket.Message("binary", b"hello")
        await client.close()


@pytest.mark.parametrize(
    ("served", "url", "matches"),
    [
        ("wss://host", "wss://host/", True),
        ("wss://HOST:443", "wss://host/a?b", True),
        ("wss://host", "wss://host:444/", False),
        ("wss://host", "wss://host.evil.net/", False),
        ("wss://host", "ws://host/", False),
        ("wss://host/a", "wss://host/a", True),
        ("wss://host/a", "wss://host/a/b", True),
        ("wss://host/a", "wss://host/a?b=c", True),
        ("wss://host/a", "wss://host/ab", False),
        ("wss://host/a", "wss://host/b/../a", True),
        ("wss://host/a/", "wss://host/a/b", True),
        ("wss://host/a/", "wss://host/a", False),
        ("wss://host/a/", "wss://host/a?b", False),
        ("wss://host/a?b", "wss://host/a?b", True),
        ("wss://host/a?b", "wss://host/a?b/c", False),
        ("wss://host/a?b", "wss://host/a", False),
        ("wss://user:secret@host", "wss://host/", True),
    ],
)
async def test_a_server_with_a_url_serves_what_is_below_it(served: str, url: str, matches: bool) -> None:
    async with websocket_server(ignore, served):
        try:
            async with websocket.connect(url):
                reached = True
        except ConnectionFailedError:
            reached = False
    assert reached == matches


def greeter(text: str) -> Any:
    async def greet(connection: ServerConnection) -> None:
        await connection.send(text)

    return greet


async def greeting(url: str) -> str | bytes:
    async with websocket.connect(url) as client:
        return (await client.receive()).value.data


async def test_the_innermost_server_that_matches_is_reached() -> None:
    async with websocket_server(greeter("any")):
        async with websocket_server(greeter("a"), "ws://a.test"), websocket_server(greeter("b"), "ws://b.test"):
            assert await greeting("ws://a.test") == "a"
            assert await greeting("ws://b.test/x") == "b"
            assert await greeting("ws://c.test") == "any"
            async with websocket_server(greeter("a/x"), "ws://a.test/x"):
                assert await greeting("ws://a.test/x/y") == "a/x"
                assert await greeting("ws://a.test/y") == "a"
            assert await greeting("ws://a.test/x") == "a"
        assert await greeting("ws://a.test") == "any"


async def test_blocks_of_several_tasks_may_end_in_any_order() -> None:
    first_ends = trio.Event()

    async def first(*, task_status: trio.TaskStatus[None]) -> None:
        async with websocket_server(greeter("first"), "ws://first.test"):
            task_status.started()
            await first_ends.wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(first)
        async with websocket_server(greeter("second"), "ws://second.test"):
            assert await greeting("ws://first.test") == "first"
            first_ends.set()
            await wait_all_tasks_blocked()
            with pytest.raises(ConnectionFailedError):
                await greeting("ws://first.test")
            assert await greeting("ws://second.test") == "second"


async def test_a_url_that_nobody_serves_is_refused_like_a_closed_port() -> None:
    async with websocket_server(echo, "ws://other.test"):
        with pytest.raises(ConnectionFailedError, match="connection refused: no csp") as raised:
            async with websocket.connect(URL):
                pass
    assert raised.value.kind is Kind.INTERNAL
    assert raised.value.retryable
    assert details(raised.value) == {"url": URL}


async def test_behind_the_block_the_network_is_dialled_again() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"
    async with listener:
        async with websocket_server(greeter("memory")):
            assert await greeting(url) == "memory"
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                async with await listener.accept() as stream:
                    await stream.receive_some()
                    await stream.send_all(b"HTTP/1.1 403 Over TCP\r\nContent-Length: 0\r\n\r\n")

            nursery.start_soon(answer)
            with pytest.raises(ConnectionFailedError, match="403 Over TCP"):
                await greeting(url)


async def test_a_malformed_url_is_found_at_once() -> None:
    with pytest.raises(InvalidError, match="ws://"):
        async with websocket_server(echo, "https://api.example.com"):
            pass


async def test_policies_are_asked_as_always() -> None:
    scope = security.Scope([security.Policy("*", "*"), security.Policy("websocket.connect.url", URL, effect="deny")])
    async with websocket_server(echo):
        with security.context(actor=security.Actor("me"), scope=scope), pytest.raises(PermissionDeniedError):
            await greeting(URL)


@pytest.fixture
async def feed() -> AsyncGenerator[list[str | bytes]]:
    received: list[str | bytes] = []

    async def handler(connection: ServerConnection) -> None:
        received.extend([message.data async for message in connection])

    async with websocket_server(handler):
        yield received


async def test_a_server_of_a_fixture_is_reached(feed: list[str | bytes]) -> None:
    async with websocket.connect(URL) as client:
        await client.send("hello")
    assert feed == ["hello"]


# The handler ---------------------------------------------------------------------------------------------------------


async def test_a_handler_that_does_nothing_closes_with_1000() -> None:
    async def handler(_connection: ServerConnection) -> None:
        pass

    async with websocket_server(handler), websocket.connect(URL) as client:
        assert not (await client.receive()).ok
        assert (client.close_code, client.error) == (1000, None)


async def test_a_failed_assert_in_a_handler_comes_out_as_it_is() -> None:
    failure = AssertionError("what the client sent was wrong")

    async def handler(connection: ServerConnection) -> None:
        await connection.receive()
        raise failure

    with pytest.raises(AssertionError) as raised:
        async with websocket_server(handler), websocket.connect(URL) as client:
            await flood(client)
    assert raised.value is failure


async def test_a_failed_assert_before_the_handshake_is_answered_comes_out_as_it_is() -> None:
    async def handler(connection: ServerConnection) -> None:
        assert "X-Missing" in connection.headers

    with pytest.raises(AssertionError):
        async with websocket_server(handler), websocket.connect(URL):
            pytest.fail("it was connected")


async def test_a_client_that_fails_at_the_end_of_its_stream_does_not_hide_why_it_ended() -> None:
    failure = AssertionError("why")

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        raise failure

    async def fail() -> NoReturn:
        async with websocket_server(handler):
            stream = await raw_client()
            try:
                await stream.receive_some(100)
                raise KeyError
            finally:
                await stream.aclose()

    with pytest.raises(AssertionError) as raised:
        await fail()
    assert raised.value is failure


async def test_a_check_behind_the_clients_last_word_still_runs() -> None:
    async def handler(connection: ServerConnection) -> None:
        async for _ in connection:
            pass
        await connection.wait_closed()
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert connection.close_code == 4000

    with pytest.raises(AssertionError):
        async with websocket_server(handler), websocket.connect(URL):
            pass


async def test_an_exception_of_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with websocket_server(echo), websocket.connect(URL):
            raise KeyError("mine")
    with pytest.raises(KeyError, match="mine"):
        async with websocket_pair():
            raise KeyError("mine")


async def test_a_handler_that_sends_for_ever_ends_with_its_client(autojump_clock: MockClock) -> None:
    ended = trio.Event()

    async def handler(connection: ServerConnection) -> None:
        try:
            while True:
                await connection.send("tick")
                await trio.sleep(1)
        finally:
            ended.set()

    async with websocket_server(handler):
        async with websocket.connect(URL) as client:
            assert [(await client.receive()).value.data for _ in range(3)] == ["tick"] * 3
        await ended.wait()


async def test_tasks_of_a_handler_end_with_its_client_too() -> None:
    async def handler(connection: ServerConnection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, connection)
            nursery.start_soon(flood, connection)

    async with websocket_server(handler), websocket.connect(URL) as client:
        assert (await client.receive()).ok


async def test_a_failed_assert_in_a_task_of_a_handler_comes_out() -> None:
    async def check(connection: ServerConnection) -> None:
        assert (await connection.receive()).value.data == "right"

    async def handler(connection: ServerConnection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, connection)
            nursery.start_soon(check, connection)

    with pytest.raises(BaseExceptionGroup) as raised:
        async with websocket_server(handler), websocket.connect(URL) as client:
            await client.send("wrong")
    assert [type(error) for error in raised.value.exceptions] == [AssertionError]


async def test_a_handler_may_fail_to_connect_elsewhere_and_that_is_its_failure() -> None:
    async def handler(_connection: ServerConnection) -> None:
        await greeting("ws://nobody.test")

    with pytest.raises(ConnectionFailedError, match="nobody"):
        async with websocket_server(handler, URL):
            await greeting(URL)


async def test_at_the_end_of_the_block_open_connections_are_dropped_and_no_task_is_left() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        await trio.sleep_forever()

    before = trio.lowlevel.current_statistics().tasks_living
    async with trio.open_nursery() as nursery:
        async with websocket_server(handler):
            clients = [await websocket.connect(URL, nursery=nursery) for _ in range(3)]
        for client in clients:
            assert not (await client.receive()).ok
            assert client.close_code == 1006
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_cancelled_block_leaves_no_task_at_any_moment() -> None:
    async def talk() -> None:
        async with websocket_server(echo), websocket.connect(URL) as client:
            for _ in range(3):
                await client.send("hello")
                await client.receive()

    before = trio.lowlevel.current_statistics().tasks_living
    for passes in range(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert trio.lowlevel.current_statistics().tasks_living == before
    async with websocket_server(greeter("again")):
        assert await greeting(URL) == "again"


async def test_a_client_that_leaves_before_it_is_accepted_is_gone_for_the_handler(autojump_clock: MockClock) -> None:
    seen: list[object] = []

    async def handler(connection: ServerConnection) -> None:
        await trio.sleep(6)
        seen.append(repr(connection))
        for operation in (connection.accept(), connection.send("late"), connection.reject(401)):
            with pytest.raises(testing.ConnectionEndedError):
                await operation
        seen.append((await connection.receive()).ok)
        seen.append((connection.close_code, connection.error))
        await connection.send("late")

    async with websocket_server(handler):
        with pytest.raises(ConnectionTimeoutError):
            async with websocket.connect(URL, dial_timeout="5s"):
                pass
        assert trio.current_time() == 5
        await trio.sleep(5)
    assert seen == [f"<csp.testing.ServerConnection ended, {URL}>", False, (None, None)]


async def test_a_stream_that_ends_without_a_request_reaches_no_handler() -> None:
    async def handler(_connection: ServerConnection) -> None:
        pytest.fail("there was no request")

    async with websocket_server(handler):
        transport = await dial(parse_url(URL), parse_options({}))
        await transport.aclose()
        await wait_all_tasks_blocked()


async def test_a_request_in_pieces_is_put_together() -> None:
    async def handler(connection: ServerConnection) -> None:
        assert connection.headers["Host"] == "api.example.com"
        await ignore(connection)

    async with websocket_server(handler):
        transport = await dial(parse_url(URL), parse_options({}))
        request = WSConnection(ConnectionType.CLIENT).send(Request(host="api.example.com", target="/prices"))
        for byte in request:
            await transport.send_all(bytes([byte]))
        assert (await transport.receive_some(1000)).startswith(b"HTTP/1.1 101 ")
        await transport.aclose()


async def test_hundreds_of_connections() -> None:
    async def talk() -> None:
        async with websocket.connect(URL) as client:
            await opened.send(client)
            await trio.sleep_forever()

    opened = csp.Channel[websocket.Client]()
    async with csp.BackgroundNursery() as nursery:
        async with websocket_server(ignore):
            for _ in range(300):
                nursery.start_soon(talk)
            clients = [(await opened.receive()).value for _ in range(300)]
            assert all(client.close_code is None for client in clients)
        for client in clients:
            await client.receive()
            assert client.close_code == 1006


# Refusals and other answers ------------------------------------------------------------------------------------------


async def refusal(handler: Any, **options: Any) -> ConnectionFailedError:
    # Caught inside the block, so that the handler comes to its end.
    async with websocket_server(handler):
        with pytest.raises(ConnectionFailedError) as raised:
            async with websocket.connect(URL, **options):
                pass
    return raised.value


async def test_a_rejection_has_status_headers_and_body() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.reject(401, headers=[("WWW-Authenticate", "Bearer")], body=b"no token")
        with pytest.raises(NoContextError, match="answered already"):
            await connection.accept()
        with pytest.raises(NoContextError, match="not by accept"):
            await connection.send("late")
        assert not (await connection.receive()).ok
        await connection.close()
        assert connection.error is None

    error = await refusal(handler)
    assert not error.retryable
    assert details(error)["status"] == 401
    assert details(error)["headers"] == {"www-authenticate": "Bearer", "content-length": "8"}
    assert details(error)["body"] == b"no token"


async def test_what_comes_behind_a_rejection_is_ignored() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.reject(403)
        await connection.wait_closed()

    async with websocket_server(handler):
        transport = await dial(parse_url(URL), parse_options({}))
        await transport.send_all(WSConnection(ConnectionType.CLIENT).send(Request(host="api.example.com", target="/")))
        assert (await transport.receive_some(1000)).startswith(b"HTTP/1.1 403 ")
        for _ in range(3):
            await transport.send_all(masked(TEXT, b"\r\n\r\n"))
        await transport.aclose()


async def test_a_rejection_tells_when_to_come_back() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.reject(503, headers={"Retry-After": "120", "content-length": "0"})

    error = await refusal(handler)
    assert error.retryable
    assert details(error)["headers"] == {"retry-after": "120", "content-length": "0"}


async def test_garbage_for_an_answer() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send_bytes(b"SSH-2.0-OpenSSH\r\n")
        with pytest.raises(NoContextError):
            await connection.accept()
        with pytest.raises(NoContextError, match="not by accept"):
            await connection.send("hello")

    assert "did not answer in HTTP" in str(await refusal(handler))


async def test_a_handler_that_returns_after_half_an_answer_ends_the_stream() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send_bytes(b"HTTP/1.1 101 ")

    assert "in the middle of the handshake" in str(await refusal(handler))


async def test_dropped_instead_of_answered() -> None:
    async def handler(connection: ServerConnection) -> None:
        connection.drop()
        with pytest.raises(testing.ConnectionEndedError):
            await connection.accept()

    assert (await refusal(handler)).retryable


async def test_an_answer_that_never_comes(autojump_clock: MockClock) -> None:
    async def handler(_connection: ServerConnection) -> None:
        await trio.sleep_forever()

    assert isinstance(await refusal(handler, dial_timeout="30s"), ConnectionTimeoutError)
    assert trio.current_time() == 30


async def test_a_subprotocol_must_have_been_offered() -> None:
    async def handler(connection: ServerConnection) -> None:
        with pytest.raises(InvalidError, match=r"\(a, b\), not 'c'"):
            await connection.accept(protocol="c")

    async with websocket_server(handler), websocket.connect(URL, protocols=["a", "b"]) as client:
        assert client.subprotocol is None


async def test_an_acceptance_by_hand_is_a_connection_of_bytes(autojump_clock: MockClock) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send_bytes(accepting(connection.headers))
        await connection.send_bytes(frame(TEXT, b"by hand"))
        await connection.wait_closed()
        assert not (await connection.receive()).ok
        assert (connection.close_code, connection.error) == (None, None)

    async with websocket_server(handler), websocket.connect(URL, close_timeout="10s") as client:
        await client.send("not understood")
        assert (await client.receive()).value.data == "by hand"


# Messages ------------------------------------------------------------------------------------------------------------


async def test_a_pair_is_connected() -> None:
    async with websocket_pair() as (client, server):
        await client.send("to the server")
        await server.send("to the client")
        await server.send(bytearray(b"bytes"))
        assert await server.receive() == (websocket.Message("text", "to the server"), True)
        assert (await client.receive()).value == websocket.Message("text", "to the client")
        assert (await client.receive()).value == websocket.Message("binary", b"bytes")
        await client.send(b"more")
        assert (await server.receive()).value.data == b"more"
        await client.send(b"")
        assert [message.data async for message in csp_take(server, 1)] == [b""]
    assert server.close_code == 1000
    assert (client.close_code, client.error) == (1000, None)


async def csp_take(server: ServerConnection, count: int) -> AsyncGenerator[websocket.Message]:
    for _ in range(count):
        yield await server.__anext__()


async def test_options_of_a_pair_are_those_of_connect(autojump_clock: MockClock) -> None:
    async with websocket_pair(protocols=["a", "b"], read_limit=10, headers={"X-Key": "k"}) as (client, server):
        assert client.subprotocol == "a"
        assert server.headers["X-Key"] == "k"
        assert server.protocols == ("a", "b")
        await server.send("12345678901")
        assert not (await client.receive()).ok
        assert client.close_code == 1009
    with pytest.raises(InvalidError, match="read_limit"):
        async with websocket_pair(read_limit=-1):
            pass


async def test_large_messages_arrive_whole() -> None:
    text, data = "ä" * 1_000_000, bytes(range(256)) * 4096
    async with websocket_pair() as (client, server):
        await client.send(text)
        await client.send(data)
        assert [(await server.receive()).value.data for _ in range(2)] == [text, data]
        await server.send(data)
        assert (await client.receive()).value.data == data


async def test_fragments_of_a_client_are_put_together() -> None:
    received: list[websocket.Message] = []

    async def handler(connection: ServerConnection) -> None:
        received.extend([message async for message in connection])

    async with websocket_server(handler):
        stream = await raw_client()
        await stream.send_all(masked(TEXT, b"\xc3", fin=False) + masked(PING, b"!") + masked(CONTINUATION, b"\xa4"))
        assert await stream.receive_some(100) == b"\x8a\x01!"
        await stream.send_all(masked(BINARY, b"a", fin=False) + masked(CONTINUATION, b"b") + masked(CLOSE))
        assert await stream.receive_some(100) == b"\x88\x00"
        await stream.send_all(masked(TEXT, b"late"))
        assert await stream.receive_some(100) == b""
        await stream.aclose()
    assert received == [("text", "ä"), ("binary", b"ab")]


@pytest.mark.parametrize("mode", [TAKEOVER, websocket.COMPRESSION.NO_CONTEXT])
async def test_messages_are_compressed_both_ways(mode: websocket.Compression) -> None:
    text = "compressible " * 1000
    async with websocket_pair(compression=mode) as (client, server):
        for _ in range(3):
            await client.send(text)
            assert (await server.receive()).value.data == text
            await server.send(text)
            assert (await client.receive()).value.data == text
        statistics = client.statistics()
        assert statistics.bytes_sent < 2000
        assert statistics.bytes_received < 2000
        assert "permessage-deflate" in client.response_headers["Sec-WebSocket-Extensions"]


@pytest.mark.parametrize(("offered", "agreed"), [(True, False), (False, True)])
async def test_compression_needs_both_sides(offered: bool, agreed: bool) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.accept(compression=agreed)
        await echo(connection)

    options: Any = {"compression": TAKEOVER} if offered else {}
    async with websocket_server(handler), websocket.connect(URL, **options) as client:
        await client.send("a" * 1000)
        assert (await client.receive()).value.data == "a" * 1000
        assert client.statistics().bytes_sent > 1000
        assert "Sec-WebSocket-Extensions" not in client.response_headers


async def test_a_cancelled_send_goes_out_and_spoils_no_compressed_message_behind_it(autojump_clock: MockClock) -> None:
    async with websocket_pair(compression=TAKEOVER, channel_capacity=1) as (client, server):
        sent = 0
        with trio.move_on_after(1):
            while True:
                sent += 1
                await server.send(f"message {sent}")
        assert 1 < sent < 10
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.send("never begun")
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.send_bytes(b"never begun")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send, "last")
            received = [(await client.receive()).value.data for _ in range(sent + 1)]
    assert received == [*(f"message {number}" for number in range(1, sent + 1)), "last"]


async def test_sends_of_many_tasks_keep_the_order_of_their_calls() -> None:
    async with websocket_pair(channel_capacity=1) as (client, server), trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(server.send, f"{number}")
            await wait_all_tasks_blocked()
        assert [(await client.receive()).value.data for _ in range(50)] == [f"{number}" for number in range(50)]


async def test_one_select_waits_for_both_ends() -> None:
    async with websocket_pair() as (client, server):
        mine, theirs = client.channel(), server.channel()
        assert server.channel() is theirs
        await client.send("to the server")
        result = await csp.select(mine.case_receive(), theirs.case_receive())
        assert (result.channel, result.value.data) == (theirs, "to the server")
        await server.send("to the client")
        result = await csp.select(mine.case_receive(), theirs.case_receive())
        assert (result.channel, result.value.data) == (mine, "to the client")


async def test_what_is_no_message_is_refused_before_anything_is_sent() -> None:
    async with websocket_pair() as (client, server):
        bad: Any = 42
        with pytest.raises(TypeError):
            await server.send(bad)
        await server.send("good")
        assert (await client.receive()).value.data == "good"


# Backpressure --------------------------------------------------------------------------------------------------------


async def test_a_client_that_is_not_read_waits(autojump_clock: MockClock) -> None:
    async with websocket_pair(write_timeout="5s") as (client, server):
        await client.send("read")
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError):
            await client.send("not read")
        assert trio.current_time() == 5
        assert (await server.receive()).value.data == "read"
        with pytest.raises(trio.WouldBlock):
            server.channel().receive_nowait()


async def test_reading_on_wakes_the_clients_sends() -> None:
    async with websocket_pair() as (client, server), trio.open_nursery() as nursery:
        server.stop_reading()
        server.stop_reading()
        nursery.start_soon(client.send, "one")
        nursery.start_soon(client.send, "two")
        await wait_all_tasks_blocked()
        assert len(server.channel()) == 0
        server.read_on()
        server.read_on()
        assert {(await server.receive()).value.data for _ in range(2)} == {"one", "two"}


async def test_a_client_that_is_never_received_from_waits_in_the_end(autojump_clock: MockClock) -> None:
    async with websocket_pair() as (client, server):
        with trio.move_on_after(1):
            await flood(client)
        assert len(server.channel()) == 1000
        assert not server.channel().closed


async def test_a_server_waits_for_a_client_that_does_not_receive(autojump_clock: MockClock) -> None:
    async with websocket_pair(channel_capacity=4) as (client, server):
        with trio.move_on_after(1):
            for number in range(100):
                await server.send(str(number))
        assert trio.current_time() == 1
        assert len(client.channel()) == 4
        # The server hears the client nevertheless.
        await client.send("still here")
        assert (await server.receive()).value.data == "still here"


# Pings ---------------------------------------------------------------------------------------------------------------


async def test_a_test_can_wait_for_the_clients_pong(autojump_clock: MockClock) -> None:
    async with websocket_pair() as (_client, server):
        assert (await (await server.ping(b"payload")).receive()) == (0.0, True)
        assert (await (await server.ping()).receive()).ok


async def test_a_ping_without_an_answer_ends_with_the_connection() -> None:
    async with websocket_pair() as (_client, server):
        server.stop_reading()
        answer = await server.ping()
        server.drop()
        assert not (await answer.receive()).ok
        with pytest.raises(testing.ConnectionEndedError):
            await server.ping()


async def test_dropping_in_the_middle_of_a_block_answers_no_ping_behind_it() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.receive()
        connection.drop()

    async with websocket_server(handler):
        stream = await raw_client()
        await stream.send_all((masked(TEXT, b"x") + masked(PING)) * 100)
        while await stream.receive_some(1000):
            pass
        await stream.aclose()


async def test_pings_of_the_client_are_answered_unless_the_server_is_silent(autojump_clock: MockClock) -> None:
    async with websocket_pair() as (client, server):
        assert server.answer_pings
        assert (await (await client.ping()).receive()).ok
        server.answer_pings = False
        answer = await client.ping()
        with trio.move_on_after(60) as waiting:
            await answer.receive()
        assert waiting.cancelled_caught


async def test_keepalive_finds_a_silent_server(autojump_clock: MockClock) -> None:
    async with websocket_pair(keepalive="20s") as (client, server):
        await trio.sleep(1000)
        assert client.close_code is None
        server.answer_pings = False
        start = trio.current_time()
        assert not (await client.receive()).ok
        assert 20 <= trio.current_time() - start <= 60
        assert isinstance(client.error, ConnectionTimeoutError)
        await server.wait_closed()
        assert server.close_code == 1011


async def test_a_read_timeout_runs_on_the_clock(autojump_clock: MockClock) -> None:
    async with websocket_pair(read_timeout="30s") as (client, _server):
        assert not (await client.receive()).ok
        assert isinstance(client.error, ConnectionTimeoutError)
        assert 30 <= trio.current_time() < 31


# Closing -------------------------------------------------------------------------------------------------------------


async def test_a_close_of_the_server_waits_for_the_client() -> None:
    async with websocket_pair() as (client, server):
        await server.send("last")
        await server.close(4001, "enough")
        assert (server.close_code, server.close_reason) == (4001, "enough")
        assert "ended" in repr(server)
        assert (await client.receive()).value.data == "last"
        assert not (await client.receive()).ok
        assert (client.close_code, client.close_reason) == (4001, "enough")
        await server.close()
        for operation in (server.send("late"), server.ping(), server.send_bytes(b"late")):
            with pytest.raises(testing.ConnectionEndedError):
                await operation
        assert server.error is None


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2000, 65535])
async def test_any_code_can_be_sent(code: int, autojump_clock: MockClock) -> None:
    async with websocket_pair() as (client, server):
        await server.close(code)
        assert client.close_code == 1002
        assert (server.close_code, server.error) == (1002, None)


async def test_a_close_without_a_code() -> None:
    async with websocket_pair() as (client, server):
        await server.close(None)
        assert (client.close_code, client.error) == (1005, None)


async def test_a_close_of_the_client_shows_its_code_and_reason() -> None:
    async with websocket_pair() as (client, server):
        assert (server.close_code, server.close_reason) == (None, None)
        await client.close(4002, "tschüß")
        assert not (await server.receive()).ok
        assert (server.close_code, server.close_reason, server.error) == (4002, "tschüß", None)
        assert client.close_code == 4002


async def test_a_client_block_that_fails_closes_with_1011() -> None:
    codes: list[int | None] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.receive()
        codes.append(connection.close_code)

    async with websocket_server(handler):
        with pytest.raises(ZeroDivisionError):
            async with websocket.connect(URL):
                raise ZeroDivisionError
    assert codes == [1011]


async def test_messages_behind_a_close_of_the_server_are_discarded() -> None:
    async with websocket_server(greeter("close me")):
        stream = await raw_client()
        received = b""
        while not received.endswith(b"\x88\x02\x03\xe8"):
            received += await stream.receive_some(100)
        await stream.send_all(masked(TEXT, b"late") + masked(PING) + masked(CLOSE, b"\x03\xe8"))
        assert await stream.receive_some(100) == b""
        await stream.aclose()


async def test_a_close_wakes_a_reading_that_has_no_room() -> None:
    async with websocket_pair() as (client, server), trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(ConnectionFailedError):
                await flood(client)

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        await server.close()
        assert server.close_code == 1000
        assert len(server.channel()) == 1000


async def test_a_client_that_does_not_answer_a_close_is_dropped_in_the_end(autojump_clock: MockClock) -> None:
    async with websocket_pair() as (client, server):
        server.stop_reading()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.close)
            await wait_all_tasks_blocked()
            assert "closing" in repr(server)
        assert trio.current_time() == 10
        assert server.close_code is None
        assert not (await client.receive()).ok


async def test_a_cancelled_close_ends_the_stream() -> None:
    async with websocket_pair() as (client, server):
        server.stop_reading()
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.close()
        assert "ended" in repr(server)
        assert not (await client.receive()).ok


async def test_a_client_whose_close_is_not_answered_gives_up(autojump_clock: MockClock) -> None:
    async with websocket_pair(close_timeout="3s") as (client, server):
        server.stop_reading()
        await client.close()
        assert trio.current_time() == 3


async def test_a_dropped_connection_ends_abnormally() -> None:
    async with websocket_pair() as (client, server):
        await server.send("last")
        server.drop()
        assert (await client.receive()).value.data == "last"
        assert not (await client.receive()).ok
        assert client.close_code == 1006
        assert client.error is not None
        assert client.error.retryable
        server.drop()
        await server.wait_closed()
        assert not (await server.receive()).ok
        assert server.error is None


async def test_dropping_while_the_reading_has_no_room() -> None:
    async with websocket_pair() as (client, server):
        async with trio.open_nursery() as nursery:

            async def drop() -> None:
                await wait_all_tasks_blocked()
                server.drop()

            nursery.start_soon(drop)
            with pytest.raises(ConnectionFailedError):
                await flood(client)
        await server.wait_closed()
        assert client.close_code == 1006


async def test_dropping_wakes_a_send_that_waits_for_the_client() -> None:
    async with websocket_pair(channel_capacity=1) as (_client, server), trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(testing.ConnectionEndedError):
                await flood(server)

        nursery.start_soon(send)
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        server.drop()


async def test_a_client_that_vanishes_shows_as_an_error() -> None:
    errors: list[ConnectionFailedError | None] = []

    async def handler(connection: ServerConnection) -> None:
        with pytest.raises(StopAsyncIteration):
            await connection.__anext__()
        errors.append(connection.error)
        assert connection.close_code is None
        await connection.send("late")

    async with websocket_server(handler):
        await (await raw_client()).aclose()
    (error,) = errors
    assert error is not None
    assert (error.kind, error.retryable) == (Kind.UNAVAILABLE, True)
    assert details(error)["code"] == 1006


async def test_a_client_that_vanishes_while_it_is_sent_to_is_gone() -> None:
    async def handler(connection: ServerConnection) -> None:
        with pytest.raises(testing.ConnectionEndedError):
            await flood(connection)

    async with websocket_server(handler):
        stream = await raw_client()
        await wait_all_tasks_blocked()
        await stream.aclose()


@pytest.mark.parametrize(
    ("violation", "code"),
    [
        (frame(TEXT, b"not masked"), 1002),
        (masked(TEXT, b"\xff"), 1007),
        (masked(TEXT, b"x", reserved=0x40), 1002),
        (masked(CONTINUATION, b"x"), 1002),
        (masked(CLOSE, b"\x03"), 1002),
    ],
)
async def test_a_client_that_breaks_the_protocol_shows_as_an_error(violation: bytes, code: int) -> None:
    errors: list[ConnectionFailedError | None] = []

    async def handler(connection: ServerConnection) -> None:
        assert not (await connection.receive()).ok
        errors.append(connection.error)
        assert connection.close_code is None

    async with websocket_server(handler):
        stream = await raw_client()
        await stream.send_all(violation + masked(TEXT, b"more"))
        assert (await stream.receive_some(100))[2:4] == code.to_bytes(2, "big")
        await stream.send_all(masked(TEXT, b"more"))
        assert await stream.receive_some(100) == b""
        await stream.aclose()
    (error,) = errors
    assert error is not None
    assert (error.kind, error.retryable) == (Kind.INTERNAL, False)
    assert details(error)["code"] == code


@pytest.mark.parametrize(
    ("raw", "code"),
    [(frame(TEXT, b"\xff"), 1007), (frame(0x3), 1002), (frame(TEXT, b"x", mask=b"mask"), 1002), (b"\x81\x05ab", None)],
)
async def test_violations_of_a_server(raw: bytes, code: int | None, autojump_clock: MockClock) -> None:
    async with websocket_pair() as (client, server):
        await server.send_bytes(raw)
        if code is None:
            server.drop()
        assert not (await client.receive()).ok
        assert client.close_code == (code or 1006)
        await server.wait_closed()
        assert server.close_code == code


async def test_bytes_may_follow_a_close() -> None:
    async with websocket_pair() as (client, server):
        server.stop_reading()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.close)
            await wait_all_tasks_blocked()
            with pytest.raises(testing.ConnectionEndedError):
                await server.send("late")
            nursery.start_soon(server.send_bytes, frame(TEXT, b"late"))
            await wait_all_tasks_blocked()
            server.read_on()
        assert not (await client.receive()).ok
        assert client.close_code == 1000


async def test_keyboard_interrupts_and_exits_come_out_bare() -> None:
    async def handler(_connection: ServerConnection) -> NoReturn:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        async with websocket_server(handler), websocket.connect(URL):
            pass


# What testers run into ------------------------------------------------------------------------------------------------


async def test_a_handler_that_only_waits_for_the_end_accepts(autojump_clock: MockClock) -> None:
    async with websocket_server(ServerConnection.wait_closed), websocket.connect(URL) as client:
        assert client.close_code is None


async def leave_without_a_word() -> None:
    transport = await raw_client()
    await transport.aclose()


async def leave_with_a_close() -> None:
    async with websocket.connect(URL):
        pass


@pytest.mark.parametrize(
    ("leave", "how"),
    [(leave_with_a_close, "closed with code 1000"), (leave_without_a_word, "the client left without a close frame")],
)
async def test_a_handler_that_waits_for_a_message_in_vain_fails_the_test(
    leave: Callable[[], Awaitable[None]], how: str, autojump_clock: MockClock
) -> None:
    async def handler(connection: ServerConnection) -> None:
        await anext(connection)

    async def whole() -> None:
        async with websocket_server(handler):
            await leave()
            await trio.sleep(1)

    said = f"the handler waits for a message, and the client sends no more: {how}"
    with pytest.raises(AssertionError, match=f"^{said}$"):
        await whole()


async def test_what_connects_while_the_block_ends_reaches_its_server(autojump_clock: MockClock) -> None:
    connected: list[int | None] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.close(1001)

    async def connect_twice() -> None:
        for _ in range(2):
            async with websocket.connect(URL) as client:
                await client.receive()
                connected.append(client.close_code)

    async with trio.open_nursery() as nursery, websocket_server(handler):
        nursery.start_soon(connect_twice)
    assert connected == [1001, 1001]


async def test_a_connect_that_begins_as_the_block_ends_is_refused_or_goes_on_its_way() -> None:
    outcomes: list[str] = []

    async def connect() -> None:
        try:
            async with websocket.connect("ws://127.0.0.1:1/"):
                pass
        except ConnectionFailedError:
            outcomes.append("failed")

    async def block() -> None:
        async with websocket_server(ignore):
            raise KeyError

    for _ in range(50):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            with pytest.raises(KeyError):
                await block()
    assert outcomes == ["failed"] * 50


async def test_when_a_handler_fails_the_program_is_cancelled_before_it_sees_the_end(autojump_clock: MockClock) -> None:
    seen: list[object] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        raise AssertionError("expected something else")

    async def whole() -> None:
        async with websocket_server(handler), websocket.connect(URL) as client:
            seen.append(await client.receive())

    with pytest.raises(AssertionError, match="expected something else") as raised:
        await whole()
    assert seen == []
    assert raised.value.__suppress_context__


async def test_a_connect_that_is_refused_lets_others_run() -> None:
    async with websocket_server(ignore, "ws://other.test"):
        with trio.testing.assert_checkpoints(), pytest.raises(ConnectionFailedError):
            await dial(parse_url(URL), parse_options({}))


async def test_reading_that_is_stopped_again_at_once_does_not_go_on(autojump_clock: MockClock) -> None:
    async with websocket_pair(close_timeout="1s") as (client, server):
        server.stop_reading()
        await wait_all_tasks_blocked()
        server.read_on()
        server.stop_reading()
        with trio.move_on_after(5) as waiting:
            await client.send("a")
            await server.receive()
        assert waiting.cancelled_caught


async def test_bytes_that_answer_the_handshake_are_all_of_it(autojump_clock: MockClock) -> None:
    async def refuse(connection: ServerConnection) -> None:
        await connection.send_bytes(b"HTTP/1.1 503 Unavailable\r\n\r\nbody")

    error = await refusal(refuse)
    assert details(error)["body"] == b"body"
    assert trio.current_time() == 0


async def test_headers_of_the_answer_may_be_latin_1(autojump_clock: MockClock) -> None:
    async def accept(connection: ServerConnection) -> None:
        await connection.accept(headers={"X-Name": "caf\xe9"})
        await connection.wait_closed()

    async with websocket_server(accept), websocket.connect(URL) as client:
        assert client.response_headers["X-Name"] == "caf\xe9"


async def test_what_a_server_cannot_write_is_an_invalid_error(autojump_clock: MockClock) -> None:
    async with websocket_pair() as (_, server):
        with pytest.raises(InvalidError, match="payload must be at most 125 bytes, not 126"):
            await server.ping(bytes(126))
        with pytest.raises(InvalidError, match="data must be a str or bytes-like, not int"):
            await server.send(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        for code, reason in ((70000, ""), (1000, "\ud800")):
            with pytest.raises(InvalidError, match="such a close frame cannot be written"):
                await server.close(code, reason)
        await server.send("still open")

    async def reject(connection: ServerConnection) -> None:
        with pytest.raises(InvalidError, match="such an answer cannot be written"):
            await connection.reject(101)

    async with websocket_server(reject), websocket.connect(URL) as client:
        await client.receive()
        assert client.close_code == 1000


async def test_what_makes_no_server_is_found_at_once(nursery: trio.Nursery) -> None:
    async def serve(handler: Any) -> None:
        async with websocket_server(handler):
            raise AssertionError

    async def pair() -> None:
        async with websocket_pair(nursery=nursery):
            raise AssertionError

    with pytest.raises(
        InvalidTypeError, match="handler must be an async function of a ServerConnection, not 'nonsense'"
    ):
        await serve("nonsense")
    with pytest.raises(InvalidError, match="nursery must not be given"):
        await pair()
