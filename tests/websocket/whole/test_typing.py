"""The public API of `csp.websocket` as type checkers see it; mypy and pyright check this file, and it runs as well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, assert_type

import pytest
import trio

import csp
from csp import testing, websocket
from csp.errors import InvalidTypeError, NoContextError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio.testing import MockClock

    from csp.errors import Error

URL = "wss://api.test/"


async def serve(connection: testing.ServerConnection) -> None:
    """Send a message, and close when the client does."""
    assert_type(connection.headers, websocket.Headers)
    await connection.send("a")
    await connection.wait_closed()


async def plain(connection: websocket.ServerConnection) -> None:
    """Serve, as `websocket.serve` has it."""
    await connection.accept(subprotocol=None, compression=websocket.COMPRESSION.DISABLED)
    assert_type(connection.path, str)


async def test_a_server_in_memory(autojump_clock: MockClock) -> None:
    handler: testing.Handler = plain
    async with testing.websocket_server(handler, URL, keepalive="20s", origins=["null"]), websocket.connect(URL):
        pass
    async with testing.websocket_pair() as (_, server):
        endpoint: websocket.ServerConnection = server
        assert endpoint.close_code is None
        await server.close(None)


async def test_client(autojump_clock: MockClock) -> None:
    async with testing.websocket_server(serve), websocket.connect(URL, dial_timeout=5000, keepalive="20s") as client:
        assert_type(client, websocket.Client)
        assert_type(client.channel(), csp.Channel[websocket.Message])
        message = await client.receive_value()
        assert_type(message, websocket.Message)
        assert_type(message.data, str | bytes)
        pong = await client.ping()
        assert_type(pong, csp.Channel[float])
        r = await csp.select(client.channel().case_receive(), pong.case_receive())
        assert_type(r, csp.SelectResult[websocket.Message | float])
        if pong.gave(r):
            assert_type(r.value, float)
        headers: Mapping[str, str] = client.response_headers
        assert_type(client.response_headers.get_all("set-cookie"), list[str])
        assert headers["upgrade"] == "websocket"
        assert_type(client.statistics(), websocket.Statistics)
        assert_type(client.statistics().messages_received, int)
        resource: trio.abc.AsyncResource = client
        assert resource is client


def decoded(data: str | bytes) -> list[int]:
    found: list[int] = json.loads(data)
    return found


def encoded(numbers: list[int]) -> bytes:
    return json.dumps(numbers).encode()


async def test_json(autojump_clock: MockClock) -> None:
    async with testing.websocket_pair() as (client, server):
        await client.send_json({"any": ["thing"]})
        assert_type((await server.receive_value()).json(), Any)
        await client.send_json([1], dumps=encoded)
        await client.send_json(object(), dumps=lambda value: json.dumps(str(value)))
        message = await server.receive_value()
        assert_type(message.json(loads=decoded), list[int])
        assert_type(message.json(loads=json.loads), Any)
        with pytest.raises(InvalidTypeError):
            await client.send_json([object()], dumps=encoded)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_client_in_a_nursery(autojump_clock: MockClock) -> None:
    async with (
        testing.websocket_server(serve),
        trio.open_nursery() as nursery,
        await websocket.connect(URL, nursery=nursery) as client,
    ):
        assert_type(client, websocket.Client)


async def test_feed(autojump_clock: MockClock) -> None:
    async with testing.websocket_server(serve), websocket.reconnecting(URL, min_delay="1s") as feed:
        assert_type(feed, websocket.Feed)
        values, states = feed.channel(), feed.states()
        assert_type(values, csp.Channel[websocket.Message | csp.Gap])
        assert_type(states, csp.Source[csp.ConnectionState])
        r = await csp.select(values.case_receive(), states.case_receive())
        assert_type(r.value, websocket.Message | csp.Gap | csp.ConnectionState)
        if states.gave(r):
            assert_type(r.value, csp.ConnectionState)
        elif values.gave(r):
            assert_type(r.value, websocket.Message | csp.Gap)
        value = await feed.receive_value()
        assert_type(value, websocket.Message | csp.Gap)
        if isinstance(value, websocket.Gap):
            assert_type(value.code, int | None)
            assert_type(value.missed, int | None)


def fresh_url() -> str:
    return URL  # pragma: no cover  # it is not asked


async def fresh_headers() -> dict[str, str]:
    return {}  # pragma: no cover  # it is not asked


def stubborn(error: Error) -> bool:
    return error.details.get("code") == 1008 or websocket.default_retry(error)  # pragma: no cover  # it is not asked


async def test_functions_of_a_feed() -> None:
    async def later() -> str:
        return URL  # pragma: no cover  # it is not asked

    retry: websocket.Retry = stubborn
    options: websocket.FeedOptions = {"headers": fresh_headers, "keepalive": "20s"}
    feed = websocket.reconnecting(fresh_url, retry=retry, **options)
    websocket.reconnecting(later, retry=websocket.default_retry)
    websocket.reconnecting(URL, headers=lambda: [("a", "b")], retry=None)
    websocket.reconnecting(lambda: URL, headers={"a": "b"}, retry=lambda error: error.kind == "TIMEOUT")
    assert_type(websocket.default_retry(InvalidTypeError("a")), bool)
    with pytest.raises(NoContextError):
        await feed.reconnect()
    with pytest.raises(InvalidTypeError):
        websocket.connect(URL, headers=fresh_headers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidTypeError):
        websocket.reconnecting(stubborn)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_feed_has_the_options_of_a_connection() -> None:
    of_feed, of_connection = (
        {name: getattr(kind, "__forward_arg__", kind) for name, kind in options.__annotations__.items()}
        for options in (websocket.FeedOptions, websocket.ConnectOptions)
    )
    assert list(of_feed) == list(of_connection)
    assert {name for name in of_feed if of_feed[name] != of_connection[name]} == {"headers"}


def test_a_nursery_is_an_argument_of_connect_only() -> None:
    options: websocket.ConnectOptions = {"keepalive": "20s", "dial_timeout": 5000}
    websocket.connect(URL, nursery=None, **options)
    websocket.reconnecting(URL, **options)
    with pytest.raises(InvalidTypeError, match="nursery is no option here"):
        websocket.reconnecting(URL, nursery=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_a_number_is_no_duration() -> None:
    with pytest.raises(InvalidTypeError, match='write "20s" or "20ms"'):
        websocket.connect(URL, keepalive=20)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidTypeError, match=r'write "0\.5s" or "0\.5ms"'):
        websocket.connect(URL, dial_timeout=0.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_gaps_and_states_are_those_of_every_driver() -> None:
    assert websocket.Gap is csp.Gap
    assert websocket.State is csp.ConnectionState
    assert csp.Gap.__module__ == csp.ConnectionState.__module__ == "csp"
    assert csp.Gap(None, 0.5, 1) == csp.Gap(None, 0.5, 1, None, None, None)
