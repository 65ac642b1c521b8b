"""Connections that come back: what is tried again, after which delay, and how often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
import trio

import csp
from csp import testing
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from csp.websocket import Gap, Message, State, reconnecting
from tests.websocket._server import TEXT, Server, close, details, frame, text
from tests.websocket.client._feed import URL, Site, down, refusing, rest, saying, settled, shape, unwilling

if TYPE_CHECKING:
    from trio.testing import MockClock


# What is tried again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1011, 1012, 1013, 1014])
async def test_after_a_retryable_code_it_comes_back(code: int, autojump_clock: MockClock) -> None:
    async with Site(saying(close(code)), saying(text("a"), close(1000))).feed() as feed:
        gap, data = await rest(feed)
        assert isinstance(gap, Gap)
        assert details(gap.error)["code"] == code
        assert data == "a"


@pytest.mark.parametrize("code", [1002, 1003, 1008, 1009, 4000])
async def test_another_code_ends_it_with_that_very_error(code: int, autojump_clock: MockClock) -> None:
    site = Site(saying(text("a"), close(code, "no")))
    async with site.feed() as feed:
        await settled()
        assert (await feed.receive()).value == Message("text", "a")
        with pytest.raises(ConnectionFailedError, match="no") as caught:
            await anext(feed)
        assert caught.value.__cause__ is feed.channel().cause
        assert details(caught.value)["code"] == code
        assert feed.state == State("closed", 1, caught.value.__cause__)
    assert len(site.servers) == 1


async def test_a_violation_of_the_protocol_ends_it(autojump_clock: MockClock) -> None:
    async with Site(saying(text("a"), frame(TEXT, b"\xff"), ends=False)).feed() as feed:
        assert await rest(feed) == ["a"]
        cause = feed.channel().cause
        assert isinstance(cause, ConnectionFailedError)
        assert details(cause)["code"] == 1007


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "301 Moved"])
async def test_a_refusal_that_a_retry_does_not_change_ends_it(status: str, autojump_clock: MockClock) -> None:
    site = Site(refusing(status))
    async with site.feed() as feed:
        assert await rest(feed) == []
        cause = feed.channel().cause
        assert isinstance(cause, ConnectionFailedError)
        assert details(cause)["status"] == int(status[:3])
    assert len(site.dialled_at) == 1


@pytest.mark.parametrize("status", ["408 Timeout", "425 Early", "429 Many", "500 Broken", "503 Busy"])
async def test_a_refusal_that_may_pass_is_tried_again(status: str, autojump_clock: MockClock) -> None:
    async with Site(refusing(status), saying(text("a"), close(1000))).feed() as feed:
        assert await rest(feed) == ["a"]


async def test_retry_after_seconds_are_waited_and_the_delay_on_top(autojump_clock: MockClock) -> None:
    site = Site(refusing("503 Busy", "Retry-After: 120"), refusing("503 Busy", "Retry-After: soon"))
    async with site.feed() as feed:
        await trio.sleep(200)
        assert site.dialled_at == pytest.approx([0, 121, 123])
        assert feed.state.name == "open"


async def test_a_retry_after_date_is_relative_to_the_date_of_the_answer(autojump_clock: MockClock) -> None:
    headers = ("Retry-After: Thu, 29 Feb 2024 12:01:30 GMT", "Date: Thu, 29 Feb 2024 12:00:00 GMT")
    site = Site(refusing("503 Busy", *headers))
    async with site.feed():
        await trio.sleep(200)
        assert site.dialled_at == pytest.approx([0, 91])


async def test_a_retry_after_date_without_a_date_header_is_relative_to_the_clock(autojump_clock: MockClock) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    site = Site(refusing("503 Busy", f"Retry-After: {later}"))
    async with site.feed():
        await trio.sleep(4000)
        assert site.dialled_at[0] == 0
        assert 3000 < site.dialled_at[1] <= 3601


async def test_a_server_that_never_answers_is_given_up_and_tried_again(autojump_clock: MockClock) -> None:
    site = Site(unwilling())
    async with site.feed(dial_timeout="3s") as feed:
        await trio.sleep(10)
        assert site.dialled_at == pytest.approx([0, 4])
        assert feed.client is not None
    assert site.servers[0].closed


async def test_a_server_that_falls_silent_is_left(autojump_clock: MockClock) -> None:
    site = Site(saying(text("a"), ends=False))
    async with site.feed(read_timeout="30s", close_timeout="1s") as feed:
        assert (await feed.receive()).value == Message("text", "a")
        gap = (await feed.receive()).value
        assert isinstance(gap, Gap)
        assert isinstance(gap.error, ConnectionTimeoutError)
        assert site.servers[0].closed
        assert site.servers[0].closes == [1011]


async def test_an_exception_of_connecting_that_is_no_error_of_ours_ends_it(autojump_clock: MockClock) -> None:
    bug = RuntimeError("not ours")
    async with Site(bug).feed() as feed:
        assert await rest(feed) == []
        assert feed.channel().cause is bug
        with pytest.raises(csp.ChannelBrokenError, match="not ours"):
            await anext(feed)


# Delays ---------------------------------------------------------------------------------------------------------------


async def test_delays_grow_while_nobody_answers(autojump_clock: MockClock) -> None:
    site = Site(*(down() for _ in range(6)))
    async with site.feed(max_seconds=5):
        await trio.sleep(30)
    assert site.dialled_at == pytest.approx([0, 1, 2, 4, 8, 13, 18])


async def test_delays_grow_for_a_server_that_accepts_and_closes_at_once(autojump_clock: MockClock) -> None:
    site = Site(*(saying(close(1001)) for _ in range(6)))
    async with site.feed(max_seconds=5):
        await trio.sleep(30)
    assert site.dialled_at == pytest.approx([0, 1, 2, 4, 8, 13, 18])


async def test_a_close_that_the_server_drags_out_does_not_make_its_connection_lasting(
    autojump_clock: MockClock,
) -> None:
    site = Site(*(saying(close(1001), ends=False, answers_close=False) for _ in range(3)))
    async with site.feed(close_timeout="8s"):
        await trio.sleep(40)
    assert site.dialled_at == pytest.approx([0, 9, 19, 31])


async def test_delays_start_anew_after_a_connection_that_lasted_longer_than_the_bound(
    autojump_clock: MockClock,
) -> None:
    for open_seconds, delay, next_attempt in ((2, 6, 5), (2.01, 1, 1)):
        server = Server()
        site = Site(down(), down(), down(), server, down())
        async with site.feed() as feed:
            # It connects after 1, 1 and 2 s.
            await trio.sleep(1 + 1 + 2 + open_seconds)
            assert feed.client is not None
            server.end()
            await settled()
            assert feed.state.seconds == pytest.approx(delay)
            await trio.sleep(delay + 0.01)
            assert feed.state.name == "waiting"
            assert feed.state.attempt == next_attempt


@pytest.mark.parametrize(
    ("options", "longest_seconds"), [({}, 600), ({"max_delay": None}, 600), ({"max_delay": "5s"}, 5)]
)
async def test_a_retry_after_is_bounded_and_the_state_says_what_was_asked_for(
    options: dict[str, Any], longest_seconds: float, autojump_clock: MockClock
) -> None:
    async def busy(connection: testing.ServerConnection) -> None:
        await connection.reject(503, headers={"Retry-After": "3600"})

    async with testing.websocket_server(busy), reconnecting(URL, **options) as feed:
        await settled()
        state = feed.state
        assert state.name == "waiting"
        assert state.asked_seconds == 3600
        assert longest_seconds + 0.5 <= state.seconds <= longest_seconds + 1
        assert f"waiting {state.seconds:.2f} s (the server asked for 3600 s): " in str(state)


# What is asked for, in seconds; None where it is no wait that HTTP knows.
HOSTILE_WAITS: list[tuple[list[str], float | None]] = [
    (["9999999999"], 9_999_999_999),
    (["Fri, 31 Dec 9999 23:59:59 GMT", "Date: Fri, 31 Dec 9999 00:00:00 GMT"], 86_399),
    (["Fri, 31 Dec 9999 23:59:59 -2359", "Date: Mon, 01 Jan 2001 00:00:00 +2359"], 252424166279),
    (["Mon, 01 Jan 0001 00:00:00 +2359"], 0),
    (["0" * 10], 0),
    (["0" * 11], None),
    (["9" * 10_000], None),
    (["9" * 4300], None),
    (["-1"], None),
    (["+1"], None),
    (["1.5"], None),
    (["1e9"], None),
    (["\xb2"], None),
    (["120", "Retry-After: 60"], None),
    (["120, 60"], None),
    ([""], None),
    (["Fri, 31 Dec 10000 23:59:59 GMT"], None),
    ([f"Fri, 31 Dec {'9' * 4000} 23:59:59 GMT"], None),
    (["Fri, 31 Dec 2024 24:00:00 GMT"], None),
    (["Fri, 30 Feb 2024 00:00:00 GMT"], None),
    (["Sun, 06 Nov 1994 " + ":" * 60_000], None),
    (["Sun, 06 Nov 1994 08:49:37 " + "9" * 5000], 0),
    (["Sunday, 06-Nov-94 08:49:37 GMT"], 0),
    (["Sun Nov  6 08:49:37 1994"], 0),
    ([","], None),
    (["Retry-After: 1"], None),
]


@pytest.mark.parametrize(("lines", "asked_seconds"), HOSTILE_WAITS, ids=lambda value: ascii(value)[:40])
@pytest.mark.parametrize(("max_delay", "longest_seconds"), [(None, 600), ("5s", 5)])
async def test_whatever_a_retry_after_says_the_wait_is_bounded(
    lines: list[str],
    asked_seconds: float | None,
    max_delay: str | None,
    longest_seconds: float,
    autojump_clock: MockClock,
) -> None:
    head = "\r\n".join(["HTTP/1.1 503 Busy", "Content-Length: 0", f"Retry-After: {lines[0]}", *lines[1:], "", ""])
    attempts: list[float] = []

    async def busy(connection: testing.ServerConnection) -> None:
        attempts.append(trio.current_time())
        await connection.send_bytes(head.encode("latin-1"))

    async with testing.websocket_server(busy), reconnecting(URL, max_delay=max_delay) as feed:
        await settled()
        state = feed.state
        assert state.name == "waiting"
        assert state.asked_seconds == asked_seconds
        waited = min(asked_seconds or 0, longest_seconds)
        assert waited + 0.5 <= state.seconds <= waited + 1
        await trio.sleep(longest_seconds + 1)
        assert len(attempts) >= 2


async def test_the_state_says_nothing_of_a_retry_after_where_there_was_none(autojump_clock: MockClock) -> None:
    async with Site(refusing("503 Busy")).feed() as feed:
        await settled()
        assert feed.state.asked_seconds is None


async def test_after_max_attempts_that_failed_in_a_row_it_ends_with_the_last_error(autojump_clock: MockClock) -> None:
    site = Site(down(), refusing("503 Busy"), down(), refusing("500 Broken"))
    async with site.feed(max_attempts=4) as feed:
        assert await rest(feed) == []
        cause = feed.channel().cause
        assert isinstance(cause, ConnectionFailedError)
        assert details(cause)["status"] == 500
        assert feed.state == State("closed", 4, cause)
    assert len(site.dialled_at) == 4


async def test_a_connection_that_lasted_lets_attempts_count_anew(autojump_clock: MockClock) -> None:
    server = Server()
    site = Site(down(), server, down(), down(), down())
    async with site.feed(max_attempts=2) as feed:
        await trio.sleep(10)
        server.end()
        assert await rest(feed) == []
    assert len(site.dialled_at) == 4


async def test_connections_that_end_at_once_are_failed_attempts(autojump_clock: MockClock) -> None:
    site = Site(saying(text("a")), saying(text("b"), close(1001)), saying(text("c"), close()))
    async with site.feed(max_attempts=3) as feed:
        assert shape(await rest(feed)) == ["a", 1, "b", 1, "c"]
        cause = feed.channel().cause
        assert isinstance(cause, ConnectionFailedError)
        assert cause.kind is Kind.UNAVAILABLE
        assert details(cause) == {"code": 1005}
    assert len(site.dialled_at) == 3
