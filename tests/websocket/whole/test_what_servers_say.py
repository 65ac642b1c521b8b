"""What a server says, in every text: on one line, visible, and short, from raw bytes; details keep it as it came."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

import csp
from csp import testing, websocket
from csp.errors import ConnectionFailedError, EndOfChannelError
from csp.websocket import Gap
from tests.websocket._server import CLOSE, accepting, frame

if TYPE_CHECKING:
    from trio.testing import MockClock

URL = "wss://api.test/feed"

MAX_CHARACTERS = 600
"""The longest text, besides the URL: 400 characters of a server's, how many are cut off, and what we say about them."""

# What HTTP lets through: C1 controls, a space that is none in HTTP, and more than fits.
LATIN = "\x9b2J\x85forged\xa0\xad" * 4000
# What a close reason may have: line breaks, ESC, text that runs backwards, what is not seen, and what does not exist.
REASON = "\n\r\n! forged\x1b[2J\x9b\u2028\u202e\u200b\ufe0f\u3164\U000e0041\ue000\t\xa0"
LONG_REASON = "\U000e0041" * 30

REFUSALS = {
    "a reason phrase": f"HTTP/1.1 403 {LATIN}\r\n\r\n",
    "a body": f"HTTP/1.1 403 No\r\nContent-Length: {len(LATIN)}\r\n\r\n{LATIN}",
    "all that is shown of a refusal": (
        f"HTTP/1.1 401 {LATIN[:4000]}\r\nWWW-Authenticate: {LATIN[:4000]}\r\nContent-Length: 4000\r\n\r\n{'x' * 4000}"
    ),
    "a Location": f"HTTP/1.1 302 {LATIN[:4000]}\r\nLocation: {LATIN}\r\n\r\n",
    "a status line": f"HTTP/1.1 {LATIN}\r\n\r\n",
    "a header without a colon": f"HTTP/1.1 200 OK\r\n{LATIN}\r\n\r\n",
    "a header of controls": "HTTP/1.1 200 OK\r\nX: " + "\x00\x1b" * 25_000 + "\r\n\r\n",
    "a head without end": f"HTTP/1.1 200 OK\r\nX: {'x' * 300_000}",
    "no HTTP": "\x1b[2J\x9b" * 4000,
    "a Retry-After": f"HTTP/1.1 503 {LATIN}\r\nRetry-After: {'9' * 50_000}\r\n\r\n",
}
MAX_CHARACTERS_OF_THE_WAY = 1300
"""What a text has more, where redirects led: twelve URLs, each cut."""
MORE = {"a Location": MAX_CHARACTERS_OF_THE_WAY}
# A line of an acceptance; and the name of the one it stands for, if any.
ACCEPTANCES = {
    "an Upgrade": (f"Upgrade: {LATIN}", "Upgrade"),
    "a Connection": (f"Connection: {LATIN}", "Connection"),
    "an extension": (f"Sec-WebSocket-Extensions: {LATIN}", ""),
    "an extension's name": (f"Sec-WebSocket-Extensions: {'x' * 50_000}", ""),
    "an extension's parameter": (f"Sec-WebSocket-Extensions: permessage-deflate; {'x' * 50_000}", ""),
    "an extension's value": (
        f"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits={'9' * 50_000}",
        "",
    ),
    "a subprotocol": (f"Sec-WebSocket-Protocol: {LATIN}", ""),
}

CLOSES = {
    "an error": (4001, REASON),
    "a long reason": (4001, LONG_REASON),
    "a restart": (1012, REASON),
    "a code that must not be sent": (1006, REASON),
    "a quiet end": (1000, REASON),
    "a quiet end, and a long reason": (1001, LONG_REASON),
}


def check(text: str, more: int = 0) -> None:
    assert text.isprintable()
    assert not {"\ufe0f", "\u3164"} & set(text)
    assert len(text) <= MAX_CHARACTERS + len(URL) + more


@pytest.mark.parametrize("said", [*REFUSALS, *ACCEPTANCES])
@pytest.mark.parametrize("options", [{}, {"protocols": ["a"], "compression": 1}], ids=["plain", "with offers"])
async def test_an_answer_to_the_handshake(said: str, options: Any, autojump_clock: MockClock) -> None:
    async def answer(connection: testing.ServerConnection) -> None:
        if said in REFUSALS:
            await connection.send_bytes(REFUSALS[said].encode("latin-1"))
        else:
            line, drop = ACCEPTANCES[said]
            await connection.send_bytes(accepting(connection.headers, line, drop=drop))
        connection.drop()

    async with testing.websocket_server(answer):
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(URL, **options).__aenter__()
        async with websocket.reconnecting(URL, max_attempts=2, **options) as feed:
            states = [await feed.states().receive_value()]
            while states[-1].name != "closed":
                states.append(await feed.states().receive_value())
    more = MORE.get(said, 0)
    check(str(caught.value), more)
    check(repr(caught.value), 100 + more)
    for state in states:
        check(str(state), more)
        check(repr(state), 200 + more)


def closing(code: int, reason: str, *, times: int) -> testing.Handler:
    """Return a handler that closes so many connections with code and reason, and the next one quietly."""
    served = 0

    async def close(connection: testing.ServerConnection) -> None:
        nonlocal served
        served += 1
        connection.answer_pings = False
        await connection.accept()
        if served > times:
            await connection.close(1000)
        else:
            await connection.send_bytes(frame(CLOSE, code.to_bytes(2, "big") + reason.encode()))
            await connection.wait_closed()
            if code != 1006:
                assert (connection.close_code, connection.close_reason) == (code, reason)  # the answer has both

    return close


def check_error(error: BaseException, reason: str) -> None:
    assert isinstance(error, ConnectionFailedError | EndOfChannelError)
    check(str(error))
    check(repr(error), 100)
    assert error.details["reason"] == reason


@pytest.mark.parametrize("said", CLOSES)
async def test_a_close_of_a_client(said: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.DEBUG)
    code, reason = CLOSES[said]
    async with testing.websocket_server(closing(code, reason, times=1)), websocket.connect(URL) as client:
        answer = await client.ping()
        for source in (client, answer):
            with pytest.raises((ConnectionFailedError, EndOfChannelError)) as caught:
                await source.receive_value()
            check_error(caught.value, reason)
        assert client.close_reason == (reason if code != 1006 else "a close frame has the invalid code 1006")
        check(repr(client))
    for record in caplog.records:
        if record.name.startswith("csp."):
            check(record.getMessage(), 100)
        else:
            assert "forged" not in record.getMessage()


@pytest.mark.parametrize("said", CLOSES)
async def test_a_close_of_a_feed(said: str, autojump_clock: MockClock) -> None:
    code, reason = CLOSES[said]
    shown: list[Gap | csp.ConnectionState] = []
    async with (
        testing.websocket_server(closing(code, reason, times=2)),
        websocket.reconnecting(URL, min_delay="1ms", max_delay="1ms") as feed,
    ):
        with pytest.raises((ConnectionFailedError, EndOfChannelError)) as caught:
            await receive_gaps(feed, shown)
        while (state := await feed.states().receive_value()).name != "closed":
            shown.append(state)
        shown.append(state)
    ended_with_it = code in (1000, 4001)
    check_error(caught.value, reason if ended_with_it else "")
    assert len([thing for thing in shown if isinstance(thing, Gap)]) == (0 if ended_with_it else 2)
    for thing in shown:
        check(str(thing))
        # The repr of a gap has the reason as it came, in Python's own escapes, of up to four characters a byte.
        assert repr(thing).isprintable()
        assert len(repr(thing)) <= MAX_CHARACTERS + len(URL) + 700


async def receive_gaps(feed: websocket.Feed, gaps: list[Gap | csp.ConnectionState]) -> None:
    while True:
        gap = await feed.receive_value()
        assert isinstance(gap, Gap)
        gaps.append(gap)


async def test_names_of_headers_are_cut_in_their_repr() -> None:
    async def answer(connection: testing.ServerConnection) -> None:
        await connection.accept(headers={f"X-{'x' * 50_000}": "1"})
        await connection.wait_closed()

    async with testing.websocket_server(answer), websocket.connect(URL) as client:
        check(repr(client.response_headers))
