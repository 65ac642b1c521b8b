"""What the error tells of a server that does not switch protocols: from raw answers, through `connect`."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, cast

import pytest

from csp import testing, websocket
from csp.errors import ConnectionFailedError, wrap

if TYPE_CHECKING:
    from trio.testing import MockClock

URL = "wss://api.test/feed"
BEGIN = f"cannot connect to {URL}: "


async def failure(answer: bytes, url: str = URL, **options: Any) -> ConnectionFailedError:
    """Connect to a server that gives this answer, and nothing more; return the error."""

    async def handler(connection: testing.ServerConnection) -> None:
        await connection.send_bytes(answer)
        connection.drop()

    async with testing.websocket_server(handler):
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(url, **options).__aenter__()
    return caught.value


def answer(status: str, *lines: str, body: bytes | str = b"") -> bytes:
    body = body.encode() if isinstance(body, str) else body
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


# For programs ---------------------------------------------------------------------------------------------------------


async def test_a_refusal_has_its_status(autojump_clock: MockClock) -> None:
    error = await failure(answer("403 Forbidden"))
    assert error.status == 403
    for same in (wrap(error, "no prices"), pickle.loads(pickle.dumps(error))):
        assert same.status == 403


async def test_what_is_no_answer_in_http_has_no_status(autojump_clock: MockClock) -> None:
    assert (await failure(b"SSH-2.0-OpenSSH_9.6\r\n")).status is None
    assert (await failure(b"")).status is None


async def test_an_acceptance_that_is_not_valid_has_its_status(autojump_clock: MockClock) -> None:
    error = await failure(b"HTTP/1.1 101 Switching Protocols\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n")
    assert error.status == 101
    assert cast("websocket.Headers", error.details["response_headers"]).get_all("set-cookie") == ["a=1", "b=2"]


async def test_each_cookie_of_a_refusal_can_be_told_from_the_others(autojump_clock: MockClock) -> None:
    cookies = ["a=1; Expires=Wed, 09 Jun 2027 10:18:14 GMT", "b=2; Path=/"]
    error = await failure(answer("401 Unauthorized", *(f"Set-Cookie: {cookie}" for cookie in cookies)))
    for same in (error, pickle.loads(pickle.dumps(error))):
        headers = same.details["response_headers"]
        assert isinstance(headers, websocket.Headers)
        assert headers.get_all("Set-Cookie") == cookies
        assert same.details["headers"]["set-cookie"] == ", ".join(cookies)


async def test_an_error_always_has_details(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.accept()

    async with testing.websocket_server(handler), websocket.connect(URL) as client:
        await client.wait_closed()
        with pytest.raises(ConnectionFailedError) as caught:
            await client.send("late")
    assert caught.value.details == {}
    assert caught.value.status is None
