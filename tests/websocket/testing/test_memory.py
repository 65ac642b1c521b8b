"""Servers in memory: which of them a client reaches, how handlers begin and end, and what the block's end does."""

from __future__ import annotations

import asyncio
import re
import ssl
import textwrap
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import csp
from csp import security, testing, websocket
from csp.errors import (
    ConnectionFailedError,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
    PermissionDeniedError,
)
from csp.testing import ServerConnection, websocket_pair, websocket_server
from tests.websocket._server import details
from tests.websocket.testing._handlers import URL, dialled, echo, flood, greeter, ignore, raw_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from trio.testing import MockClock


# The documentation ----------------------------------------------------------------------------------------------------


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


# Reaching a server ----------------------------------------------------------------------------------------------------


async def test_a_handler_knows_the_request_before_it_answers() -> None:
    seen: list[object] = []

    async def handler(connection: ServerConnection) -> None:
        seen.extend((connection.url, connection.path, connection.query, connection.protocols))
        seen.extend(connection.headers[name] for name in ("host", "USER-AGENT", "X-Key", "Authorization", "Origin"))
        assert repr(connection) == f"<csp.testing.ServerConnection unanswered, {URL}?...>"
        await connection.accept(subprotocol="b", headers={"X-Answer": "42"})
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
        "/prices",
        "x=1",
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


# The handler ----------------------------------------------------------------------------------------------------------


async def test_a_handler_that_returns_closes_with_1000_what_it_has_accepted() -> None:
    async with websocket_server(ServerConnection.accept), websocket.connect(URL) as client:
        assert not (await client.receive()).ok
        assert (client.close_code, client.error) == (1000, None)


async def test_a_handler_that_returns_refuses_what_it_has_not_answered() -> None:
    async def handler(_connection: ServerConnection) -> None:
        pass

    async with websocket_server(handler):
        with pytest.raises(ConnectionFailedError) as raised:
            async with websocket.connect(URL):
                pass
    assert raised.value.status == 403


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


async def test_keyboard_interrupts_and_exits_come_out_bare() -> None:
    async def handler(_connection: ServerConnection) -> NoReturn:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        async with websocket_server(handler), websocket.connect(URL):
            pass


# A pair ---------------------------------------------------------------------------------------------------------------


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


# What testers run into ------------------------------------------------------------------------------------------------


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
    assert raised.value.__context__ is None


async def test_a_connect_that_is_refused_lets_others_run() -> None:
    async with websocket_server(ignore, "ws://other.test"):
        with trio.testing.assert_checkpoints(), pytest.raises(ConnectionFailedError):
            await dialled()


def test_what_makes_no_server_is_found_in_the_call() -> None:
    bad: Any = "nonsense"
    with pytest.raises(InvalidTypeError, match="handler must be an async function of a ServerConnection, not 'nons"):
        websocket_server(bad)
    bad = b"ws://api.example.com"
    with pytest.raises(InvalidTypeError, match="url must be a str"):
        websocket_server(echo, bad)
    with pytest.raises(InvalidError, match="ws://"):
        websocket_server(echo, "https://api.example.com")
    bad = {"nursery": None}
    with pytest.raises(InvalidTypeError, match="unknown option 'nursery'"):
        websocket_pair(**bad)
    with pytest.raises(InvalidError, match="read_limit"):
        websocket_pair(read_limit=-1)


async def test_a_handler_that_is_not_async_is_told_so() -> None:
    def not_async(_connection: ServerConnection) -> None:
        pass

    async def generator(connection: ServerConnection) -> AsyncGenerator[None]:
        await connection.accept()
        yield

    bad: Any
    for bad, returned in ((not_async, "NoneType"), (generator, "async_generator")):
        with pytest.raises(InvalidTypeError, match=f"handler must be an async function: .* returned {returned}$"):
            async with websocket_server(bad), websocket.connect(URL):
                pass


@pytest.mark.parametrize("block", [lambda: websocket_server(echo), websocket_pair])
def test_without_a_trio_run_a_block_tells_so(block: Callable[[], Any]) -> None:
    async def enter() -> None:
        async with block():
            pytest.fail("it was entered")

    with pytest.raises(
        NoContextError, match=r"^csp\.testing needs a running Trio: it works inside trio\.run only$"
    ) as raised:
        asyncio.run(enter())
    assert raised.value.__context__ is None
