"""Connections that come back: what the logger ``csp.websocket.feed`` says, and never says."""

from __future__ import annotations

import base64
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel

from csp import testing, websocket
from csp.errors import Error, Kind
from csp.websocket import Client, reconnecting
from tests.websocket._server import accepting, frame, text
from tests.websocket.client._feed import rest, settled

if TYPE_CHECKING:
    from trio.testing import MockClock

LOGGER = "csp.websocket.feed"
URL = "wss://api.test/feed"
TOKEN = "hunter2"
SECRETS = (TOKEN, base64.b64encode(f"alice:{TOKEN}".encode()).decode())


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def lines(logged: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return what was said at a level."""
    return [
        record.getMessage().removeprefix(f"{URL}: ")
        for record in logged.records
        if record.name == LOGGER and record.levelno == level
    ]


def always(error: Error) -> bool:
    return error.details.get("code") != 4004


async def test_each_change_of_state_is_told_at_info_and_details_at_debug(
    logged: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    served = 0

    async def serve(connection: testing.ServerConnection) -> None:
        nonlocal served
        served += 1
        if served == 2:
            await connection.reject(503)
            return
        await connection.send("a")
        await trio.sleep(60)
        await connection.close(1000 if served == 1 else 4004, "bye\n" if served == 4 else "restart")

    async def headers() -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        return {}

    async with (
        testing.websocket_server(serve),
        reconnecting(lambda: URL, headers=headers, retry=always, min_delay="1s", max_delay="1s") as feed,
    ):
        await trio.sleep(70)
        await feed.reconnect()
        await rest(feed)
    closed = "the peer closed the connection with code"
    refused = f"cannot connect to {URL}: the server refused the connection with status 503 Service Unavailable"
    assert lines(logged, logging.INFO) == [
        "open",
        f"{closed} 1000 (NORMAL): restart; next attempt in 1.00 s",
        f"{refused}; next attempt in 1.00 s",
        "open",
        "reconnect() was called",
        "open",
        f"ended: {closed} 4004: bye\\u000a",
    ]
    asked = ["that is what url gave", "headers was asked"]
    assert lines(logged, logging.DEBUG) == [
        "a URL not asked for yet: attempt 1 begins",
        *asked,
        f"lost after 60.00 s: {closed} 1000 (NORMAL): restart",
        f"retry says yes to: {closed} 1000 (NORMAL): restart",
        "attempt 1 begins",
        *asked,
        f"retry says yes to: {refused}",
        "attempt 2 begins",
        *asked,
        "gap of 2.00 s: the peer closed the connection",
        "attempt 1 begins",
        *asked,
        "gap of 0.00 s: this end dropped the connection: reconnect() was called",
        f"lost after 60.00 s: {closed} 4004: bye\\u000a",
        f"retry says no to: {closed} 4004: bye\\u000a",
    ]


async def test_a_gap_at_the_end_and_an_end_by_the_user_are_told(
    logged: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    served = 0

    async def serve(connection: testing.ServerConnection) -> None:
        nonlocal served
        served += 1
        if served == 3:
            await connection.reject(401)
            return
        for _ in range(40):
            await connection.send("x")
        await connection.close(1012)

    async with testing.websocket_server(serve), reconnecting(URL, channel_capacity=1) as feed:
        await trio.sleep(100)
        await rest(feed)
    async with testing.websocket_server(serve), reconnecting(URL) as feed:
        await settled()
    assert lines(logged, logging.INFO)[-1] == "ended"
    _, gap = (line for line in lines(logged, logging.DEBUG) if line.startswith("gap"))
    assert gap.endswith("the peer closed the connection with code 1012 (SERVICE_RESTART)")


async def test_of_an_exception_of_another_package_only_the_type_is_told(
    logged: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    def headers() -> dict[str, str]:
        raise LookupError(f"no place for {TOKEN}")

    async with reconnecting(URL, headers=headers) as feed:
        await feed.wait_closed()
    assert lines(logged, logging.INFO) == ["ended: LookupError"]


# What it never says ---------------------------------------------------------------------------------------------------


async def open_for_the(time: int, feed: websocket.Feed) -> None:
    """Wait until the feed is open for the first, second, ... time."""
    times = 0
    async for state in feed.states():
        times += state.name == "open"
        if times == time:
            return


def shows_secret(record: logging.LogRecord) -> bool:
    everything = f"{record.getMessage()} {vars(record)}"
    return any(secret in everything for secret in SECRETS)


async def refuse(connection: testing.ServerConnection) -> None:
    await connection.reject(401, headers={"WWW-Authenticate": f'Bearer realm="{TOKEN}"'}, body=TOKEN)


async def redirect(connection: testing.ServerConnection) -> None:
    await connection.reject(302, headers={"Location": connection.url, "Set-Cookie": f"a={TOKEN}"})


async def choose_badly(connection: testing.ServerConnection) -> None:
    await connection.send_bytes(accepting(connection.headers, f"Sec-WebSocket-Protocol: x{TOKEN}"))


async def answer_badly(connection: testing.ServerConnection) -> None:
    await connection.send_bytes(b"HTTP/1.1 200 OK\r\n\r\n" + connection.path.encode())


def ending_with(raw: bytes) -> testing.Handler:
    """Return a server that accepts, says the secret, is told it, and then sends this and is gone."""

    async def serve(connection: testing.ServerConnection) -> None:
        await connection.accept(subprotocol=connection.protocols[0], headers={"X-Token": TOKEN})
        await connection.send(TOKEN)
        await connection.receive()
        await connection.send_bytes(raw)
        connection.drop()

    return serve


ENDINGS = [text(TOKEN) + frame(0x3), frame(1, b"\xff"), b"", frame(8, b"\x03"), frame(8, b"\x03\xe8"), frame(8)]
HANDLERS = [refuse, redirect, choose_badly, answer_badly, *map(ending_with, ENDINGS)]


async def test_nothing_of_a_run_with_secrets_everywhere_is_logged(
    logged: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    served = 0

    async def serve(connection: testing.ServerConnection) -> None:
        nonlocal served
        served += 1
        await HANDLERS[served - 1](connection)

    def url() -> str:
        asked.append("url")
        if len(asked) == 3:
            raise trio.TooSlowError(TOKEN)
        return f"wss://alice:{TOKEN}@api.test/feed?token={TOKEN}{len(asked)}"

    async def headers() -> list[tuple[str, str]]:
        return [("Cookie", f"session={TOKEN}"), ("X-Token", TOKEN)]

    async def subscribe(client: Client) -> None:
        await client.send(f"log in {TOKEN}")

    def retry(error: Error) -> bool:
        if served == len(HANDLERS):
            raise ValueError(TOKEN)
        return True

    asked: list[str] = []
    async with (
        testing.websocket_server(serve),
        reconnecting(
            url, headers=headers, subscribe=subscribe, retry=retry, protocols=[f"bearer.{TOKEN}"], dial_timeout="5s"
        ) as feed,
    ):
        await open_for_the(3, feed)
        await feed.reconnect()
        await feed.wait_closed()
        assert isinstance(feed.channel().cause, ValueError)
    assert served == len(HANDLERS)
    said = [record for record in logged.records if record.name == LOGGER]
    assert len(said) > 40
    assert [record for record in logged.records if shows_secret(record)] == []
    assert {f"{URL}?..."} == {record.getMessage().partition(": ")[0] for record in said[3:]}


@pytest.mark.parametrize("bad", [f"https://a:{TOKEN}@b/?{TOKEN}", f"wss://{TOKEN}:x@b/#a", f"wss://b /{TOKEN}"])
async def test_a_url_that_is_malformed_is_not_logged(
    bad: str, logged: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with reconnecting(lambda: bad) as feed:
        await feed.wait_closed()
    assert lines(logged, logging.INFO)[0].startswith("a URL not asked for yet: ended: url m")
    assert TOKEN not in logged.text


@pytest.mark.parametrize(
    "bad", [{"A": f"{TOKEN}\n"}, {f"A: {TOKEN}": ""}, [f"A: {TOKEN}"], TOKEN, {"A": TOKEN.encode()}]
)
async def test_headers_that_are_malformed_are_not_logged(
    bad: Any, logged: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with reconnecting(URL, headers=lambda: bad) as feed:
        await feed.wait_closed()
    assert lines(logged, logging.INFO)[0].startswith("ended: headers must")
    assert TOKEN not in logged.text


async def test_an_error_of_the_users_is_on_one_line(
    logged: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    def url() -> str:
        raise Error("two\nlines\x1b[2J", kind=Kind.UNAVAILABLE, retryable=True)

    async with reconnecting(url, max_attempts=2) as feed:
        await feed.wait_closed()
    assert [line for line in lines(logged, logging.INFO) if "\n" in line or "\x1b" in line] == []
    assert "two\\u000alines\\u001b[2J" in logged.text


def test_to_import_it_logs_nothing_and_sets_up_nothing() -> None:
    program = (
        "import logging\n"
        "logging.basicConfig(level=1)\n"
        "from csp import websocket\n"
        "logger = logging.getLogger('csp.websocket.feed')\n"
        "assert (logger.handlers, logger.level, logger.propagate) == ([], 0, True)\n"
        "websocket.reconnecting('ws://a.test/')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert websocket.reconnecting is not None
