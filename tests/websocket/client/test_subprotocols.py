"""``require_subprotocol``: a handshake in which the server chooses none of the subprotocols fails."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from csp import testing, websocket
from csp.errors import ConnectionFailedError, Kind
from tests.websocket._peers import driver_tasks
from tests.websocket._server import accepting

if TYPE_CHECKING:
    from trio.testing import MockClock

URL = "wss://api.test/feed"
JWT = "eyJhbGciOiJIUzI1NiJ9"
CHOSEN_NONE = f"cannot connect to {URL}: the server chose none of the subprotocols that were offered: "


def choosing(*lines: str) -> testing.Handler:
    """Return a handler that accepts with these lines besides the usual ones."""

    async def accept(connection: testing.ServerConnection) -> None:
        await connection.send_bytes(accepting(connection.headers, *lines))
        connection.drop()

    return accept


async def failure(*lines: str, protocols: list[str]) -> ConnectionFailedError:
    async with testing.websocket_server(choosing(*lines)):
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(URL, protocols=protocols, require_subprotocol=True).__aenter__()
    assert driver_tasks() == []
    return caught.value


async def test_one_that_is_chosen_will_do(autojump_clock: MockClock) -> None:
    async with (
        testing.websocket_server(choosing("Sec-WebSocket-Protocol: b")),
        websocket.connect(URL, protocols=["a", "b"], require_subprotocol=True) as client,
    ):
        assert client.subprotocol == "b"


async def test_without_the_option_none_will_do(autojump_clock: MockClock) -> None:
    async with testing.websocket_server(choosing()), websocket.connect(URL, protocols=["a", "b"]) as client:
        assert client.subprotocol is None


@pytest.mark.parametrize(
    ("protocols", "shown"),
    [
        (["a"], "a"),
        (["graphql-transport-ws", "v10.stomp", "mqtt"], "graphql-transport-ws, v10.stomp, mqtt"),
        (["v1", JWT, "v2"], "v1, ..., v2"),
        (["access_token", "x" * 41, "x" * 40], f"..., ..., {'x' * 40}"),
        (
            ["bearer.s3cret", "Authorization", "apikey-1", "base64url.bearer.authorization.k8s.io.x"],
            "..., ..., ..., ...",
        ),
        ([base64.urlsafe_b64encode(bytes(range(60))).decode().rstrip("=")], "..."),
    ],
    ids=repr,
)
async def test_none_is_told_with_those_that_were_offered_unless_they_look_like_tokens(
    protocols: list[str], shown: str, autojump_clock: MockClock
) -> None:
    error = await failure("X-Why: because", protocols=protocols)
    assert str(error) == CHOSEN_NONE + shown
    assert (error.kind, error.retryable, error.status) == (Kind.INTERNAL, False, 101)
    headers = error.details["response_headers"]
    assert isinstance(headers, websocket.Headers)
    assert headers["X-Why"] == "because"
    assert error.details["url"] == URL


@pytest.mark.parametrize("choice", ["c", "", "A", "a, b"])
async def test_a_wrong_choice_is_told_as_such(choice: str, autojump_clock: MockClock) -> None:
    error = await failure(f"Sec-WebSocket-Protocol: {choice}", protocols=["a", "b"])
    assert "the server's answer to the handshake is invalid: it " in str(error)
    assert "subprotocols that were offered" in str(error)
    assert error.retryable is True


async def test_a_refusal_comes_before_it(autojump_clock: MockClock) -> None:
    async def refuse(connection: testing.ServerConnection) -> None:
        await connection.reject(503)

    async with testing.websocket_server(refuse):
        with pytest.raises(ConnectionFailedError, match="status 503") as caught:
            await websocket.connect(URL, protocols=["a"], require_subprotocol=True).__aenter__()
    assert caught.value.retryable is True


async def test_a_feed_ends_with_it(autojump_clock: MockClock) -> None:
    served: list[str] = []

    async def accept(connection: testing.ServerConnection) -> None:
        served.append(connection.url)
        await connection.accept()
        await connection.wait_closed()

    async with (
        testing.websocket_server(accept),
        websocket.reconnecting(URL, protocols=["a"], require_subprotocol=True) as feed,
    ):
        with pytest.raises(ConnectionFailedError, match="none of the subprotocols that were offered: a"):
            await feed.receive_value()
    assert served == [URL]


async def test_it_counts_where_a_redirect_leads(autojump_clock: MockClock) -> None:
    async def redirect(connection: testing.ServerConnection) -> None:
        if connection.url == URL:
            await connection.reject(302, headers={"Location": "wss://other.test/"})
        else:
            assert connection.protocols == ("a",)
            await connection.send_bytes(accepting(connection.headers))
            connection.drop()

    async with testing.websocket_server(redirect):
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(URL, protocols=["a"], require_subprotocol=True).__aenter__()
    way = f"wss://other.test/ (redirected from {URL})"
    said = "the server chose none of the subprotocols that were offered: a"
    assert str(caught.value) == f"cannot connect to {way}: {said}"
    assert caught.value.retryable is False
