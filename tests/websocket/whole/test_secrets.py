"""What no text shows: the query of a URL, which may hold a token."""

from __future__ import annotations

import pickle
import traceback
from typing import TYPE_CHECKING

import pytest
import trio

from csp import security, testing, websocket
from csp.errors import ConnectionFailedError, PermissionDeniedError
from csp.websocket import Gap

if TYPE_CHECKING:
    from trio.testing import MockClock

TOKEN = "hunter2"
URL = f"wss://api.test/feed?token={TOKEN}"


async def refuse(connection: testing.ServerConnection) -> None:
    await connection.reject(401)


async def restart(connection: testing.ServerConnection) -> None:
    await connection.send("a")
    await connection.close(1012)


async def never(connection: testing.ServerConnection) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("handler", [refuse, never])
async def test_what_a_failed_connection_says_shows_no_query(
    handler: testing.Handler, autojump_clock: MockClock
) -> None:
    async with testing.websocket_server(handler):
        with pytest.raises(ConnectionFailedError, match=r"wss://api\.test/feed\?\.\.\. ?") as caught:
            await websocket.connect(URL, dial_timeout="1s").__aenter__()
    error = caught.value
    assert TOKEN not in "".join([str(error), repr(error), *traceback.format_exception_only(error)])
    assert TOKEN not in str(pickle.loads(pickle.dumps(error)))
    assert error.details is not None
    assert error.details["url"] == URL  # for programs


async def test_what_is_not_allowed_says_so_without_the_query() -> None:
    scope = security.Scope([security.Policy("websocket.connect", "")])
    with security.context(actor=security.Actor("alice"), scope=scope), pytest.raises(PermissionDeniedError) as caught:
        await websocket.connect(URL).__aenter__()
    assert str(caught.value) == "connections to wss://api.test/feed?... are not allowed"


async def test_no_repr_shows_the_query(autojump_clock: MockClock) -> None:
    async with testing.websocket_server(restart):
        connecting = websocket.connect(URL)
        async with connecting as client, websocket.reconnecting(URL) as feed:
            assert client.url == URL
            for thing in (connecting, client, feed):
                assert TOKEN not in repr(thing)
                assert "wss://api.test/feed?..." in repr(thing)


async def test_states_and_gaps_of_a_feed_show_no_query(autojump_clock: MockClock) -> None:
    shown: list[str] = []
    async with testing.websocket_server(restart), websocket.reconnecting(URL) as feed:
        for _ in range(3):
            value = await feed.receive_value()
            shown += [str(value), repr(value)] if isinstance(value, Gap) else []
    async with websocket.reconnecting(URL, max_attempts=2) as feed, testing.websocket_server(refuse):
        await feed.wait_closed()
        while (state := await feed.states().receive_value()).name != "closed":
            shown += [str(state), repr(state)]
        shown += [str(state), repr(state), repr(feed)]
    assert any("wss://api.test/feed?..." in text for text in shown)
    assert not [text for text in shown if TOKEN in text]


def test_a_url_without_a_query_is_shown_whole() -> None:
    assert repr(websocket.connect("wss://api.test/feed")) == "<csp.websocket.connect('wss://api.test/feed')>"
