"""What no text shows: the query of a URL, credentials, headers and subprotocols, which may hold tokens."""

from __future__ import annotations

import base64
import logging
import pickle
import socket
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import security, testing, websocket
from csp.errors import ConnectionFailedError, EndOfChannelError, Error, InvalidError, PermissionDeniedError
from csp.websocket import Gap
from tests.websocket._peers import Peer, raw_server
from tests.websocket._server import TEXT, accepting, frame

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio.testing import MockClock

TOKEN = "hunter2"
BASIC = base64.b64encode(f"alice:{TOKEN}".encode()).decode()
URL = f"wss://alice:{TOKEN}@api.test/feed?token={TOKEN}"
NORMAL_URL = f"wss://api.test/feed?token={TOKEN}"
SHOWN_URL = "wss://api.test/feed?..."
OPTIONS: dict[str, Any] = {
    "headers": {"Cookie": f"session={TOKEN}", "X-Token": TOKEN},
    "protocols": ["v1", f"bearer.{TOKEN}"],
    "dial_timeout": "1s",
}


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def texts(error: BaseException) -> list[str]:
    """Return all that is usually shown of an error."""
    found = [str(error), repr(error), *traceback.format_exception(error)]
    if isinstance(error, Error):
        again = pickle.loads(pickle.dumps(error))
        found += [str(again), repr(again)]
    return found


def check(found: Iterable[str], logged: pytest.LogCaptureFixture) -> None:
    """Check that no text and nothing that was logged has the token."""
    assert [text for text in [*found, logged.text] if TOKEN in text.lower() or BASIC in text] == []


async def refuse(connection: testing.ServerConnection) -> None:
    await connection.reject(401)


async def fail(connection: testing.ServerConnection) -> None:
    await connection.reject(503, headers={"Retry-After": "1"}, body=connection.path.encode())


async def redirect(connection: testing.ServerConnection) -> None:
    await connection.reject(302, headers={"Location": connection.url, "Set-Cookie": f"session={TOKEN}"})


async def answer_badly(connection: testing.ServerConnection) -> None:
    await connection.send_bytes(accepting(connection.headers, drop="Sec-WebSocket-Accept"))


async def answer_garbage(connection: testing.ServerConnection) -> None:
    await connection.send_bytes(b"HTTP/1.1 garbage\r\n\r\n")


async def choose(connection: testing.ServerConnection, protocol: str) -> None:
    await connection.send_bytes(accepting(connection.headers, f"Sec-WebSocket-Protocol: {protocol}"))


async def choose_another(connection: testing.ServerConnection) -> None:
    await choose(connection, "v2")


async def choose_all(connection: testing.ServerConnection) -> None:
    await choose(connection, ", ".join(connection.protocols))


async def choose_in_capitals(connection: testing.ServerConnection) -> None:
    await choose(connection, connection.protocols[1].upper())


async def leave(connection: testing.ServerConnection) -> None:
    connection.drop()


async def restart(connection: testing.ServerConnection) -> None:
    await connection.send("a")
    await connection.close(1012)


async def never(connection: testing.ServerConnection) -> None:
    await trio.sleep_forever()


FAILING = [
    refuse,
    fail,
    redirect,
    answer_badly,
    answer_garbage,
    choose_another,
    choose_all,
    choose_in_capitals,
    leave,
    never,
]


# Connecting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", FAILING)
async def test_what_a_failed_connection_says_shows_no_secret(
    handler: testing.Handler, logged: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with testing.websocket_server(handler):
        with pytest.raises(ConnectionFailedError, match=r"wss://api\.test/feed\?\.\.\. ?") as caught:
            await websocket.connect(URL, **OPTIONS).__aenter__()
    check(texts(caught.value), logged)
    assert caught.value.details["url"] == NORMAL_URL  # for programs


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (choose_another, "must choose one of the subprotocols that were offered (2), not 'v2'"),
        (choose_all, "it repeats all 2 subprotocols that were offered, and must choose one of them"),
    ],
)
async def test_subprotocols_that_were_offered_are_counted(handler: testing.Handler, said: str) -> None:
    async with testing.websocket_server(handler):
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(URL, **OPTIONS).__aenter__()
    assert str(caught.value).endswith(said)


async def test_a_subprotocol_without_any_offer_is_told() -> None:
    async with testing.websocket_server(choose_another):
        with pytest.raises(ConnectionFailedError, match="it chose the subprotocol 'v2', and none was offered"):
            await websocket.connect(URL).__aenter__()


class NoNames(trio.abc.HostnameResolver):
    async def getaddrinfo(self, *_given: Any, **_named: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_given: Any, **_named: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("host", ["no-such-host.test", "127.0.0.1:1"])
async def test_a_server_that_is_not_reached_makes_no_text_with_a_secret(
    host: str, logged: pytest.LogCaptureFixture
) -> None:
    trio.socket.set_custom_hostname_resolver(NoNames())
    with pytest.raises(ConnectionFailedError) as caught:
        await websocket.connect(URL.replace("api.test", host), **OPTIONS).__aenter__()
    check(texts(caught.value), logged)


async def test_tls_that_fails_makes_no_text_with_a_secret(logged: pytest.LogCaptureFixture) -> None:
    async def plain(peer: Peer) -> None:
        await peer.stream.receive_some()
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with raw_server(plain) as url:
        with pytest.raises(ConnectionFailedError, match="TLS failed") as caught:
            await websocket.connect(URL.replace("api.test", url[5:-1]), **OPTIONS).__aenter__()
    check(texts(caught.value), logged)


@pytest.mark.parametrize(
    "options",
    [
        {"protocols": TOKEN},
        {"protocols": ["a", f"Bearer {TOKEN}"]},
        {"protocols": [TOKEN, TOKEN]},
        {"protocols": [TOKEN.encode()]},
        {"headers": f"Authorization: {TOKEN}"},
        {"headers": [f"Authorization: {TOKEN}"]},
        {"headers": {f"Authorization: {TOKEN}": ""}},
        {"headers": {"Authorization": TOKEN.encode()}},
        {"headers": {"Authorization": f"{TOKEN}\n"}},
    ],
)
def test_an_option_that_is_wrong_is_not_shown(options: Any, logged: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidError) as caught:
        websocket.connect(URL, **options)
    check(texts(caught.value), logged)


# Policies -------------------------------------------------------------------------------------------------------------


async def test_what_is_not_allowed_says_so_without_the_query(logged: pytest.LogCaptureFixture) -> None:
    scope = security.Scope([security.Policy("websocket.connect", "")])
    with security.context(actor=security.Actor("alice"), scope=scope), pytest.raises(PermissionDeniedError) as caught:
        await websocket.connect(URL, **OPTIONS).__aenter__()
    assert str(caught.value) == f"connections to {SHOWN_URL} are not allowed"
    check(texts(caught.value), logged)


@pytest.mark.parametrize("token", [TOKEN, f"{TOKEN}'\"\\"])
async def test_the_log_of_a_condition_that_raises_shows_no_query(logged: pytest.LogCaptureFixture, token: str) -> None:
    allowed: dict[str, bool] = {}

    def broken(_actor: object, _action: str, resource: str, _meta: object) -> bool:
        return allowed[resource]  # the KeyError says which one

    policy = security.Policy("websocket.connect.url", "wss://api.test/*", condition=broken)
    with security.context(scope=security.Scope([policy]), strict=False), pytest.raises(PermissionDeniedError) as caught:
        await websocket.connect(NORMAL_URL.replace(TOKEN, token), **OPTIONS).__aenter__()
    assert f"'websocket.connect.url' on '{SHOWN_URL}' is denied" in logged.text
    assert "KeyError: 'wss://api.test/feed?...'" in logged.text
    check(texts(caught.value), logged)


def test_policies_show_no_query() -> None:
    policy = security.Policy("websocket.connect.url", NORMAL_URL)
    for thing in (policy, security.Scope([policy]), security.context(scope=security.Scope([policy]))):
        assert TOKEN not in repr(thing)
        assert SHOWN_URL in repr(thing)


@pytest.mark.parametrize("pattern", [f"{NORMAL_URL}*{TOKEN}", f"wss://*.test/feed?token={TOKEN}"])
def test_a_pattern_that_is_refused_shows_no_query(pattern: str, logged: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidError, match="must have a ") as caught:
        security.Policy("websocket.connect.url", pattern)
    check(texts(caught.value), logged)


# What is open, and what has ended -------------------------------------------------------------------------------------


async def test_no_repr_shows_a_secret(logged: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    servers: list[testing.ServerConnection] = []

    async def accept(connection: testing.ServerConnection) -> None:
        servers.append(connection)
        await connection.accept(subprotocol=connection.protocols[1], headers={"X-Token": TOKEN})
        await connection.wait_closed()

    async with testing.websocket_server(accept):
        connecting = websocket.connect(URL, **OPTIONS)
        async with connecting as client, websocket.reconnecting(URL, **OPTIONS) as feed:
            await feed.send("a")
            assert client.url == NORMAL_URL
            assert client.subprotocol == f"bearer.{TOKEN}"
            named = (connecting, client, feed, *servers)
            assert [thing for thing in named if SHOWN_URL not in repr(thing)] == []
            parts = (connecting._target, connecting._options, client._connection, feed._keeper, feed.state)
            things = (*named, *parts, client.response_headers, client.statistics(), client.channel())
            check(map(repr, things), logged)
            tasks = trio.lowlevel.current_root_task()
            assert tasks is not None
            check(task_names(tasks), logged)


def task_names(task: trio.lowlevel.Task) -> list[str]:
    below = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return [task.name, repr(task), *(name for child in below for name in task_names(child))]


@pytest.mark.parametrize(
    "raw",
    [frame(8, b"\x0f\xa1bye"), frame(8, b"\x03\xe8"), frame(8, b"\x03\xeebye"), frame(3), b"", frame(TEXT, b"\xff")],
)
async def test_how_a_connection_ended_shows_no_secret(
    raw: bytes, logged: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def end(connection: testing.ServerConnection) -> None:
        connection.answer_pings = False
        await connection.accept(subprotocol=connection.protocols[1])
        await connection.send_bytes(raw)
        connection.drop()

    found: list[str] = []
    async with testing.websocket_server(end), websocket.connect(URL, **OPTIONS) as client:
        answer = await client.ping()
        for operation in (client.receive_value, answer.receive_value, lambda: client.send("a"), client.ping):
            with pytest.raises((ConnectionFailedError, EndOfChannelError)) as caught:
                await operation()
            found += texts(caught.value)
        found += [repr(client), repr(client.error)]
    check(found, logged)


@pytest.mark.parametrize("handler", [*FAILING, restart])
async def test_states_and_gaps_of_a_feed_show_no_secret(
    handler: testing.Handler, logged: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    shown: list[str] = []
    async with testing.websocket_server(handler), websocket.reconnecting(URL, max_attempts=3, **OPTIONS) as feed:
        async for value in feed.states():
            shown += [str(value), repr(value), repr(feed)]
            if value.name == "closed":
                break
        while (received := await feed.receive()).ok:
            if isinstance(received.value, Gap):
                shown += [str(received.value), repr(received.value)]
        with pytest.raises(Error) as caught:
            await feed.receive_value()
        with pytest.raises(Error) as unsent:
            await feed.send("a")
        shown += texts(caught.value) + texts(unsent.value)
    assert any(SHOWN_URL in text for text in shown)
    check(shown, logged)


def test_a_url_without_a_query_is_shown_whole() -> None:
    assert repr(websocket.connect("wss://api.test/feed")) == "<csp.websocket.connect('wss://api.test/feed')>"
