"""Connections that come back: what comes out of a feed when servers vanish, refuse, flap and close."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import csp
from csp import security, testing
from csp.errors import (
    ConnectionFailedError,
    ConnectionTimeoutError,
    Error,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
    PermissionDeniedError,
)
from csp.websocket import BINARY, Client, Gap, Message, Reconnecting, State, reconnecting
from tests.websocket._server import (
    CLOSE,
    ENDED,
    TEXT,
    Frame,
    Server,
    accepting,
    close,
    details,
    frame,
    text,
)
from trio_csp_websocket.client.backoff import Backoff
from trio_csp_websocket.client.connect import check
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from email.message import Message as Headers

    from trio.testing import MockClock

    from csp.websocket import ConnectOptions
    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.client.reconnecting import Subscribe
    from trio_csp_websocket.protocol.url import Target
    from trio_csp_websocket.transport.base import Transport

URL = "ws://server.test/feed"


class Largest(random.Random):
    """Chance that always gives the longest delay, so that times can be told beforehand."""

    def uniform(self, a: float, b: float) -> float:
        assert a == 0
        return b


class Site:
    """What a feed connects to: one server after the other, then always a new one."""

    def __init__(self, *servers: Server | Exception) -> None:
        self.to_come = list(servers)
        self.servers: list[Server] = []
        """Those that were reached."""
        self.dialled_at: list[float] = []

    async def dial(self) -> Transport:
        self.dialled_at.append(trio.current_time())
        server = self.to_come.pop(0) if self.to_come else Server()
        if isinstance(server, Exception):
            raise server
        self.servers.append(server)
        return StreamTransport(server.stream)

    def feed(
        self,
        subscribe: Subscribe | None = None,
        *,
        min_seconds: float = 0.5,
        max_seconds: float = 30,
        max_attempts: int | None = None,
        **options: Unpack[ConnectOptions],
    ) -> Reconnecting:
        async def dial(_target: Target, _options: Options) -> Transport:
            return await self.dial()

        backoff = Backoff(min_seconds, max_seconds, Largest())
        return Reconnecting(*check(URL, options), backoff, subscribe, max_attempts, dial=dial)


def down() -> ConnectionFailedError:
    return ConnectionFailedError("nobody listens", kind=Kind.INTERNAL, retryable=True)


def refusing(status: str, *headers: str) -> Server:
    """Return a server that answers the handshake with another status."""
    return Server("\r\n".join([f"HTTP/1.1 {status}", "Content-Length: 0", *headers, "", ""]).encode())


def saying(*data: bytes, ends: bool = True, answers_close: bool = True) -> Server:
    """Return a server that says this at once, and then, if it ends, ends the stream."""

    def answer(request: Headers[str, str]) -> bytes:
        server.send(accepting(request), *data)
        if ends:
            server.end()
        return b""

    server = Server(answer, answers_close=answers_close)
    return server


def unwilling() -> Server:
    """Return a server that never answers the handshake."""
    return Server(b"")


def drained_states(feed: Reconnecting) -> list[State]:
    """Take what states have come."""
    return [feed.states().receive_nowait().value for _ in range(len(feed.states()))]


def names(states: csp.Channel[State]) -> list[str]:
    """Take what states have come."""
    taken: list[str] = []
    while len(states):
        taken.append(states.receive_nowait().value.name)
    return taken


async def rest(feed: Reconnecting) -> list[object]:
    """Receive until the end: the data of messages, and gaps."""
    taken: list[object] = []
    with trio.fail_after(100_000):
        while (received := await feed.receive()).ok:
            value = received.value
            taken.append(value if isinstance(value, Gap) else value.data)
    return taken


def shape(values: list[object]) -> list[object]:
    """Return values with each gap as its attempts."""
    return [value.attempts if isinstance(value, Gap) else value for value in values]


async def settled() -> None:
    await wait_all_tasks_blocked()


# The call -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("wss//api.example.com", {}, "url must start with"),
        (URL, {"read_limit": -1}, "read_limit must be 0 to"),
        (URL, {"server_hostname": "a.test"}, "for a ws: URL"),
        (URL, {"min_delay": 0}, "min_delay must be above 0"),
        (URL, {"max_delay": "-1s"}, "max_delay must be above 0"),
        (URL, {"min_delay": "soon"}, "min_delay must be a duration"),
        (URL, {"min_delay": float("inf")}, "min_delay must be above 0 and finite"),
        (URL, {"max_delay": float("nan")}, "max_delay must be above 0"),
        (URL, {"max_delay": "100ms"}, "max_delay must be at least min_delay, which is 0.5 s, not 0.1 s"),
        (URL, {"max_attempts": 0}, "max_attempts must be 1 to"),
    ],
)
def test_what_is_out_of_range_is_found_by_the_call(url: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidError, match=said) as caught:
        reconnecting(url, **options)
    assert not isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"read_timout": "1s"}, "unknown option 'read_timout'"),
        ({"min_delay": None}, "min_delay must be a number of milliseconds"),
        ({"max_delay": None}, "max_delay must be a number of milliseconds"),
        ({"max_delay": True}, "max_delay must be a number of milliseconds"),
        ({"max_attempts": 1.0}, "max_attempts must be a whole number"),
        ({"max_attempts": True}, "max_attempts must be a whole number"),
        ({"subscribe": "prices"}, "subscribe must be an async function or None, not 'prices'"),
    ],
)
def test_what_is_of_the_wrong_type_is_found_by_the_call(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidTypeError, match=said):
        reconnecting(URL, **options)


async def test_a_nursery_is_refused_with_the_reason(nursery: trio.Nursery) -> None:
    with pytest.raises(InvalidError, match="nursery must not be given: a feed is a block"):
        reconnecting(URL, nursery=nursery)
    reconnecting(URL, nursery=None)


def test_delays_are_milliseconds_durations_or_timedeltas() -> None:
    feed = reconnecting(URL, min_delay=250, max_delay=timedelta(minutes=1), max_attempts=1)
    assert feed._backoff.bound_seconds == 0.25
    for _ in range(20):
        feed._backoff.next_delay()
    assert feed._backoff.bound_seconds == 60
    reconnecting(URL, min_delay="1s", max_delay="1s")
    defaults = reconnecting(URL)._backoff
    assert defaults.bound_seconds == 0.5
    for _ in range(20):
        defaults.next_delay()
    assert defaults.bound_seconds == 30


def test_a_feed_shows_its_state_and_its_url() -> None:
    feed = reconnecting("WSS://user:secret@Server.test/feed")
    assert repr(feed) == "<csp.websocket.Reconnecting connecting, wss://server.test/feed>"


def test_the_channel_has_the_capacity_of_a_connection() -> None:
    assert reconnecting(URL).channel().capacity == 16
    assert reconnecting(URL, channel_capacity=3).channel().capacity == 3


def test_outside_a_trio_run_it_cannot_be_entered() -> None:
    with pytest.raises(NoContextError, match=r"inside trio\.run"):
        reconnecting(URL).__aenter__().send(None)


async def test_it_can_be_entered_once(autojump_clock: MockClock) -> None:
    feed = Site().feed()
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            if feed.channel().closed:
                stack.enter_context(pytest.raises(NoContextError, match="used before"))
            async with feed as entered:
                assert entered is feed


async def test_before_it_is_entered_it_tells_what_to_write() -> None:
    feed = Site().feed()
    for use in (feed.close, feed.receive, feed.__anext__, lambda: feed.send("a")):
        with pytest.raises(NoContextError, match=r"write `async with websocket\.reconnecting\(url\) as feed`"):
            await use()


# Messages and gaps ----------------------------------------------------------------------------------------------------


async def test_messages_of_all_connections_come_on_one_channel(autojump_clock: MockClock) -> None:
    site = Site(saying(text("a"), text("b")), down(), saying(text("c"), close(1001)), saying(text("d"), close(1000)))
    async with site.feed() as feed:
        channel = feed.channel()
        assert shape(await rest(feed)) == ["a", "b", 2, "c", 1, "d"]
        assert feed.channel() is channel
        assert channel.closed
        assert channel.cause is None
        with pytest.raises(StopAsyncIteration):
            await anext(feed)


async def test_a_gap_tells_why_for_how_long_and_after_how_many_attempts(autojump_clock: MockClock) -> None:
    first = Server()
    site = Site(down(), first, refusing("503 Busy"), down(), saying(text("b"), ends=False))
    async with site.feed() as feed:
        await trio.sleep(100)
        first.send(text("a"), close(1011, "broken"))
        first.end()
        assert await feed.receive() == (Message("text", "a"), True)
        gap = (await feed.receive()).value
        assert isinstance(gap, Gap)
        assert details(gap.error) == {"code": 1011, "reason": "broken"}
        # It had lasted, so that the bounds are the first again.
        assert gap.seconds == pytest.approx(0.5 + 1 + 2)
        assert gap.attempts == 3
        assert await feed.receive() == (Message("text", "b"), True)


@pytest.mark.parametrize("data", [close(1001), close()])
async def test_after_a_close_without_an_error_the_gap_has_none(data: bytes, autojump_clock: MockClock) -> None:
    async with Site(saying(data)).feed() as feed:
        gap = (await feed.receive()).value
        assert isinstance(gap, Gap)
        assert gap.error is None


async def test_the_gap_comes_when_the_new_connection_is_subscribed(autojump_clock: MockClock) -> None:
    subscribed = trio.Event()

    async def subscribe(client: Client) -> None:
        if len(site.servers) == 2:
            await subscribed.wait()

    site = Site(saying(text("a")))
    async with site.feed(subscribe) as feed:
        assert (await feed.receive()).value == Message("text", "a")
        await trio.sleep(50)
        assert len(site.servers) == 2
        assert not len(feed.channel())
        subscribed.set()
        await settled()
        assert feed.client is not None
        gap = (await feed.receive()).value
        assert isinstance(gap, Gap)
        assert gap.seconds == pytest.approx(50)


async def test_what_came_before_the_end_comes_before_the_gap_however_slow_the_consumer(
    autojump_clock: MockClock,
) -> None:
    numbers = [str(number) for number in range(100)]
    site = Site(saying(*map(text, numbers)), down(), saying(*map(text, numbers), close(1000)))
    async with site.feed(channel_capacity=1) as feed:
        taken: list[object] = []
        async for value in feed:
            await trio.sleep(1)
            taken.append(value.attempts if isinstance(value, Gap) else value.data)
        assert taken == [*numbers, 2, *numbers]


async def test_a_message_of_which_the_end_is_missing_is_not_delivered(autojump_clock: MockClock) -> None:
    cut_off = frame(TEXT, b"beginning", fin=False)
    site = Site(saying(text("a"), cut_off), saying(text("b"), text("lost")[:-1]), saying(text("c"), close(1000)))
    async with site.feed() as feed:
        taken = await rest(feed)
        assert shape(taken) == ["a", 1, "b", 1, "c"]
        assert [details(gap.error)["code"] for gap in taken if isinstance(gap, Gap)] == [1006, 1006]


async def test_a_connection_that_gave_nothing_leaves_its_gap_too(autojump_clock: MockClock) -> None:
    site = Site(saying(), saying(), saying(text("a"), close(1000)))
    async with site.feed() as feed:
        assert shape(await rest(feed)) == [1, 1, "a"]


async def test_binary_messages_and_compression_options_reach_each_connection(autojump_clock: MockClock) -> None:
    site = Site(saying(frame(2, b"\x00")), saying(close(1000)))
    async with site.feed(headers=iter([("X-Key", "k")]), protocols=iter(["a", "b"])) as feed:
        assert shape(await rest(feed)) == [b"\x00", 1]
    for server in site.servers:
        assert server.request is not None
        assert server.request["X-Key"] == "k"
        assert server.request["Sec-WebSocket-Protocol"] == "a, b"


async def test_a_consumer_that_stops_reading_stops_the_connection(autojump_clock: MockClock) -> None:
    server = Server()
    async with Site(server).feed(channel_capacity=2) as feed:
        await settled()
        sent = 0
        for number in range(100):
            server.send(text(str(number)))
            sent += 1
            await settled()
        assert len(feed.channel()) == 2
        assert feed.client is not None
        assert feed.client.statistics().messages_received <= 10
        server.send(close(1000))
        server.end()
        assert await rest(feed) == [str(number) for number in range(sent)]


async def test_what_is_on_its_way_to_a_full_channel_is_bounded(autojump_clock: MockClock) -> None:
    async with Site(saying(*[text("a")] * 100, ends=False)).feed(channel_capacity=2) as feed:
        await settled()
        assert feed.client is not None
        assert len(feed.channel()) == len(feed.client.channel()) == 2
        assert feed.client.channel().statistics().tasks_waiting_send == 1


class Steps(trio.abc.Instrument):
    """Counts how often the task of a feed runs."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name == "csp.websocket.reconnecting"


async def test_a_slow_consumer_does_not_wake_the_feed_for_each_message(autojump_clock: MockClock) -> None:
    steps = Steps()
    async with Site(saying(*[text("a")] * 1000, close(1000))).feed(channel_capacity=20) as feed:
        await settled()
        trio.lowlevel.add_instrument(steps)
        taken = 0
        while (await feed.receive()).ok:
            taken += 1
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(steps)
        assert taken == 1000
        assert 0 < steps.count < 500


async def test_a_consumer_that_stops_reading_before_the_gap_hinders_nobody_to_send(autojump_clock: MockClock) -> None:
    second = Server()
    async with Site(saying(text("a")), second).feed(channel_capacity=1) as feed:
        await trio.sleep(5)
        assert feed.state.name == "open"
        assert len(feed.channel()) == 1
        await feed.send("hello")
        assert second.payloads == [b"hello"]
        assert shape([(await feed.receive()).value.data, (await feed.receive()).value]) == ["a", 1]  # type: ignore[union-attr]  # a message comes first


async def test_when_the_channel_is_closed_by_its_reader_the_feed_ends(autojump_clock: MockClock) -> None:
    server = Server()
    async with Site(server).feed() as feed:
        await settled()
        await feed.channel().receiver.aclose()
        server.send(text("a"))
        await settled()
        assert feed.state == State("closed", 1)
        assert server.closes == [1000]
        assert server.closed


async def test_when_the_channel_is_closed_it_does_not_come_back_whatever_the_server_says(
    autojump_clock: MockClock,
) -> None:
    server = Server(answers_close=False)
    site = Site(server)
    async with site.feed() as feed:
        await settled()
        feed.channel().close()
        server.send(text("a"))
        await settled()
        server.send(close(1001))
        server.end()
        await trio.sleep(5)
        assert feed.state == State("closed", 1)
    assert len(site.servers) == 1


async def test_when_the_channel_is_closed_between_connections_there_is_no_other(autojump_clock: MockClock) -> None:
    site = Site(saying())
    async with site.feed() as feed:
        await settled()
        feed.channel().close()
        await trio.sleep(5)
        assert feed.state == State("closed", 1)
        assert len(site.servers) == 1


@pytest.mark.parametrize(("code", "answer"), [(1001, close(1001)), (1000, close()), (4000, close())])
async def test_when_the_user_closes_the_client_it_does_not_come_back(
    code: int, answer: bytes, autojump_clock: MockClock
) -> None:
    server = saying(text("a"), ends=False, answers_close=False)
    site = Site(server)
    async with site.feed() as feed:
        await feed.receive()
        assert feed.client is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.client.close, code)
            await settled()
            server.send(answer)
            server.end()
        assert await feed.receive() == ENDED
        assert feed.channel().cause is None
    assert len(site.servers) == 1


async def test_a_send_after_the_end_lets_others_run(autojump_clock: MockClock) -> None:
    async with Site(refusing("401 Unauthorized")).feed() as feed:
        await rest(feed)
        with trio.testing.assert_checkpoints(), pytest.raises(ConnectionFailedError):
            await feed.send("a")


async def test_a_close_counts_although_its_channel_was_closed_just_before(autojump_clock: MockClock) -> None:
    server = saying(text("a"), text("b"), ends=False)
    async with Site(server).feed(channel_capacity=1) as feed:
        await settled()
        feed.channel().close()
        await feed.close(4001)
    assert server.closes == [4001]


async def test_messages_states_and_a_timer_in_one_select(autojump_clock: MockClock) -> None:
    site = Site(saying(text("a"), close(1001)), saying(text("b"), ends=False))
    seen: list[object] = []
    async with site.feed() as feed:
        messages, states, timeout = feed.channel(), feed.states(), csp.after("10s")
        while True:
            r = await csp.select(states.case_receive(), messages.case_receive(), timeout.case_receive(), priority=True)
            if r.channel is timeout:
                break
            if r.channel is states:
                assert isinstance(r.value, State)
                seen.append(r.value.name)
            else:
                assert isinstance(r.value, Message | Gap)
                seen.append("gap" if isinstance(r.value, Gap) else r.value.data)
    assert seen == ["connecting", "open", "a", "waiting", "connecting", "open", "gap", "b"]


# States ---------------------------------------------------------------------------------------------------------------


async def test_states_tell_what_the_feed_does(autojump_clock: MockClock) -> None:
    lost = down()
    site = Site(lost, saying(close(1001)), saying(close(1008)))
    async with site.feed() as feed:
        assert feed.state == State("connecting", 1)
        states = [state async for state in feed.states()]
        failed = states[1].error
        assert failed is not None
        assert "cannot connect to ws://server.test/feed: nobody listens" in str(failed)
        assert states == [
            State("connecting", 1),
            State("waiting", 1, failed, 0.5),
            State("connecting", 2),
            State("open", 2),
            State("waiting", 2, None, 1.0),
            State("connecting", 3),
            State("open", 3),
            State("closed", 3, feed.channel().cause),  # type: ignore[arg-type]  # it is an Exception
        ]
        assert feed.state == states[-1]


async def test_states_that_nobody_reads_are_the_latest_and_hinder_nothing(autojump_clock: MockClock) -> None:
    site = Site(*(down() for _ in range(50)), saying(text("a"), close(1000)))
    async with site.feed() as feed:
        assert await rest(feed) == ["a"]
        assert feed.states() is feed.states()
        assert names(feed.states())[-3:] == ["connecting", "open", "closed"]
        assert await feed.states().receive() == ENDED


async def test_entering_does_not_wait_for_the_first_connection(autojump_clock: MockClock) -> None:
    async with Site(*(down() for _ in range(3))).feed() as feed:
        assert trio.current_time() == 0
        assert feed.client is None
        await trio.sleep(10)
        assert feed.client is not None


async def test_the_client_is_none_as_soon_as_its_connection_has_ended(autojump_clock: MockClock) -> None:
    server = Server()
    async with Site(server).feed(channel_capacity=1) as feed:
        await settled()
        assert feed.client is not None
        assert feed.client.url == URL
        server.send(text("a"), text("b"), close(1001))
        server.end()
        await settled()
        assert feed.client is None
        assert feed.state.name == "open"  # it has messages to pass on


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
        assert feed.state == State("closed", 1, caught.value.__cause__)  # type: ignore[arg-type]  # an Error
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
        assert site.dialled_at == pytest.approx([0, 120.5, 121.5])
        assert feed.state.name == "open"


async def test_a_retry_after_date_is_relative_to_the_date_of_the_answer(autojump_clock: MockClock) -> None:
    headers = ("Retry-After: Thu, 29 Feb 2024 12:01:30 GMT", "Date: Thu, 29 Feb 2024 12:00:00 GMT")
    site = Site(refusing("503 Busy", *headers))
    async with site.feed():
        await trio.sleep(200)
        assert site.dialled_at == pytest.approx([0, 90.5])


async def test_a_retry_after_date_without_a_date_header_is_relative_to_the_clock(autojump_clock: MockClock) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    site = Site(refusing("503 Busy", f"Retry-After: {later}"))
    async with site.feed():
        await trio.sleep(4000)
        assert site.dialled_at[0] == 0
        assert 3000 < site.dialled_at[1] <= 3600.5


async def test_a_server_that_never_answers_is_given_up_and_tried_again(autojump_clock: MockClock) -> None:
    site = Site(unwilling())
    async with site.feed(dial_timeout="3s") as feed:
        await trio.sleep(10)
        assert site.dialled_at == pytest.approx([0, 3.5])
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
        with pytest.raises(csp.ChannelClosedError, match="not ours"):
            await anext(feed)


# Delays ---------------------------------------------------------------------------------------------------------------


async def test_delays_grow_while_nobody_answers(autojump_clock: MockClock) -> None:
    site = Site(*(down() for _ in range(6)))
    async with site.feed(max_seconds=5):
        await trio.sleep(30)
    assert site.dialled_at == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5])


async def test_delays_grow_for_a_server_that_accepts_and_closes_at_once(autojump_clock: MockClock) -> None:
    site = Site(*(saying(close(1001)) for _ in range(6)))
    async with site.feed(max_seconds=5):
        await trio.sleep(30)
    assert site.dialled_at == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5])


async def test_a_close_that_the_server_drags_out_does_not_make_its_connection_lasting(
    autojump_clock: MockClock,
) -> None:
    site = Site(*(saying(close(1001), ends=False, answers_close=False) for _ in range(3)))
    async with site.feed(close_timeout="8s"):
        await trio.sleep(40)
    assert site.dialled_at == pytest.approx([0, 8.5, 17.5, 27.5])


async def test_delays_start_anew_after_a_connection_that_lasted_longer_than_the_bound(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    site = Site(down(), down(), server, down())
    async with site.feed() as feed:
        await trio.sleep(1.5 + 2)  # the next bound is 2 s
        server.end()
        await settled()
        assert feed.state.seconds == 4 / 2
        assert feed.state.attempt == 3
    server = Server()
    site = Site(down(), down(), server, down())
    async with site.feed() as feed:
        start = trio.current_time()
        await trio.sleep(1.5 + 2.01)
        server.end()
        await settled()
        assert feed.state.seconds == 0.5
        await trio.sleep(0.75)
        assert feed.state.name == "waiting"
        assert feed.state.attempt == 1
        assert trio.current_time() - start < 5


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


# Subscribing ----------------------------------------------------------------------------------------------------------


async def test_subscribe_runs_on_each_connection_before_messages_are_passed_on(autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        assert feed.client is None
        assert feed.state.name == "connecting"
        await client.send("subscribe")
        answers.append((await anext(client)).data)

    answers: list[str | bytes] = []
    site = Site(saying(text("yes"), text("a"), ends=False), saying(text("yes again"), text("b"), ends=False))
    async with site.feed(subscribe) as feed:
        await settled()
        site.servers[0].end()
        await trio.sleep(5)
        site.servers[1].send(close(1000))
        assert shape(await rest(feed)) == ["a", 1, "b"]
    assert answers == ["yes", "yes again"]
    assert [server.payloads[0] for server in site.servers] == [b"subscribe"] * 2


async def first_message(client: Client) -> None:
    await anext(client)


@pytest.mark.parametrize("data", [[], [close(1011)], [close(1001)], [close()], [text("a")[:2]]])
async def test_a_connection_that_ends_while_subscribing_is_a_failed_attempt(
    data: list[bytes], autojump_clock: MockClock
) -> None:
    broken = saying(*data)
    site = Site(broken, saying(text("yes"), text("a")), saying(*data), saying(text("yes"), text("b"), close(1000)))
    async with site.feed(first_message) as feed:
        taken = await rest(feed)
        assert shape(taken) == ["a", 2, "b"]
        gap = taken[1]
        assert isinstance(gap, Gap)
        assert details(gap.error)["code"] == 1006  # of the connection before, not of the failed attempt
    assert site.dialled_at == pytest.approx([0, 0.5, 1.5, 3.5])


async def test_a_send_that_fails_while_subscribing_is_a_failed_attempt(autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        if len(site.servers) == 1:
            site.servers[0].reset()
            await settled()
        await client.send("subscribe")

    site = Site(Server(), saying(text("a"), ends=False))
    async with site.feed(subscribe) as feed:
        assert (await feed.receive()).value == Message("text", "a")
        assert site.dialled_at == pytest.approx([0, 0.5])
        assert site.servers[1].payloads == [b"subscribe"]


async def test_a_connection_closed_with_1000_while_subscribing_ends_it(autojump_clock: MockClock) -> None:
    async with Site(saying(close(1000))).feed(first_message) as feed:
        assert await rest(feed) == []
        assert feed.channel().cause is None


async def test_a_connection_that_is_failed_while_subscribing_ends_it(autojump_clock: MockClock) -> None:
    async with Site(saying(close(1008, "who are you"))).feed(first_message) as feed:
        with pytest.raises(ConnectionFailedError, match="who are you"):
            await anext(feed)


@pytest.mark.parametrize(
    "bug", [ValueError("bug"), StopAsyncIteration(), InvalidError("bug"), ExceptionGroup("bugs", [OSError()])]
)
async def test_another_exception_of_subscribe_ends_it(bug: Exception, autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        raise bug

    site = Site()
    async with site.feed(subscribe) as feed:
        assert await rest(feed) == []
        assert feed.channel().cause is bug
        assert feed.state == State("closed", 1, bug)
    assert [server.closes for server in site.servers] == [[1011]]


async def test_an_exception_that_is_no_connection_error_ends_it_also_when_the_connection_has_ended(
    autojump_clock: MockClock,
) -> None:
    async def subscribe(client: Client) -> None:
        await client.receive()
        raise KeyError("bug")

    async with Site(saying()).feed(subscribe) as feed:
        assert await rest(feed) == []
        assert isinstance(feed.channel().cause, KeyError)


async def test_a_retryable_error_of_subscribe_is_a_failed_attempt(autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        if len(site.servers) < 3:
            raise Error("not yet", kind=Kind.UNAVAILABLE, retryable=True)

    site = Site(Server(), Server(), saying(text("a"), close(1000)))
    async with site.feed(subscribe) as feed:
        assert await rest(feed) == ["a"]
    assert [server.closes for server in site.servers[:2]] == [[1011], [1011]]


async def test_an_error_of_subscribe_that_may_or_may_not_pass_ends_it(autojump_clock: MockClock) -> None:
    async def subscribe(_client: Client) -> None:
        raise Error("who knows", kind=Kind.UNKNOWN)

    site = Site(Server(), Server())
    async with site.feed(subscribe) as feed:
        assert (await feed.receive()).ok is False
    assert len(site.servers) == 1


async def test_a_subscribe_that_takes_too_long_is_a_failed_attempt(autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        with trio.fail_after(3):
            await anext(client)

    site = Site(Server(), saying(text("subscribed"), text("a"), ends=False))
    async with site.feed(subscribe) as feed:
        assert (await feed.receive()).value == Message("text", "a")
        waiting = [state for state in drained_states(feed) if state.name == "waiting"]
    assert [str(state.error) for state in waiting] == ["subscribing took too long"]


async def test_a_connection_that_ends_while_tasks_of_subscribe_use_it_is_a_failed_attempt(
    autojump_clock: MockClock,
) -> None:
    async def subscribe(client: Client) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.__anext__)

    site = Site(saying(), saying(text("subscribed"), text("a"), ends=False))
    async with site.feed(subscribe) as feed:
        assert (await feed.receive()).value == Message("text", "a")


async def test_another_exception_among_those_of_subscribes_tasks_ends_it(autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        async def fail() -> None:
            with contextlib.suppress(Error, StopAsyncIteration):
                await anext(client)
            raise KeyError("a bug")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)

    async with Site(saying()).feed(subscribe) as feed:
        assert (await feed.receive()).ok is False
        assert isinstance(feed.channel().cause, ExceptionGroup)


async def test_subscribe_may_close_the_feed(autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        await feed.close(4001, "not for me")

    site = Site()
    async with site.feed(subscribe) as feed:
        assert await rest(feed) == []
        assert feed.channel().cause is None
    assert [server.closes for server in site.servers] == [[4001]]
    assert site.servers[0].closed


async def test_subscribe_may_close_the_connection(autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        await client.close(4001)

    site = Site()
    async with site.feed(subscribe) as feed:
        assert await rest(feed) == []
        assert feed.channel().cause is None
    assert len(site.servers) == 1


# Security -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denied", ["websocket.connect", "websocket.connect.url"])
async def test_the_policies_are_asked_at_each_attempt(denied: str, autojump_clock: MockClock) -> None:
    asked: list[tuple[str, str]] = []

    def denies(actor: object, action: str, resource: str, meta: object) -> bool:
        asked.append((action, resource))
        return action == denied and len(site.dialled_at) == 2

    scope = security.Scope([security.Policy("*", "*"), security.Policy("*", "*", "deny", denies)])
    site = Site(saying(text("a")), down())
    with security.context(scope=scope):
        async with site.feed() as feed:
            assert await rest(feed) == ["a"]
            cause = feed.channel().cause
            assert isinstance(cause, PermissionDeniedError)
    assert len(site.dialled_at) == 2
    allowed = [("websocket.connect", ""), ("websocket.connect.url", URL)]
    assert asked[:4] == [*allowed, *allowed]


async def test_what_is_denied_is_not_tried_again(autojump_clock: MockClock) -> None:
    with security.context(scope=security.Scope([security.Policy("websocket.*", "*", "deny")])):
        async with reconnecting("ws://server.test") as feed:
            with pytest.raises(PermissionDeniedError):
                await anext(feed)
            assert trio.current_time() == 0


# Sending --------------------------------------------------------------------------------------------------------------


async def test_send_waits_for_a_connection(autojump_clock: MockClock) -> None:
    site = Site(down(), down())
    async with site.feed() as feed:
        await feed.send("a")
        assert trio.current_time() == pytest.approx(1.5)
        await feed.send("b", BINARY)
        assert site.servers[0].frames == [Frame(TEXT, b"a"), Frame(BINARY, b"b")]


async def test_send_waits_until_the_connection_is_subscribed(autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        await trio.sleep(3)
        await client.send("subscribe")

    site = Site()
    async with site.feed(subscribe) as feed:
        await feed.send("a")
        assert site.servers[0].payloads == [b"subscribe", b"a"]


async def test_send_goes_to_the_next_connection_once_the_old_one_has_ended(autojump_clock: MockClock) -> None:
    site = Site(saying(text("a"), text("b")))
    async with site.feed(channel_capacity=1) as feed, trio.open_nursery() as nursery:
        await settled()
        assert feed.state.name == "open"  # there is no room for b
        nursery.start_soon(feed.send, "hello")
        nursery.start_soon(feed.send, "again")
        await settled()
        assert (await feed.receive()).value == Message("text", "a")
        await trio.sleep(5)
        assert sorted(site.servers[1].payloads) == [b"again", b"hello"]


async def test_a_send_during_which_the_connection_fails_raises_and_is_not_repeated(autojump_clock: MockClock) -> None:
    site = Site(Server())
    async with site.feed() as feed:
        await settled()
        site.servers[0].stop_reading()

        async def fail() -> None:
            await settled()
            site.servers[0].reset()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            with pytest.raises(ConnectionFailedError) as caught:
                await feed.send("x" * 100_000)
        assert caught.value.retryable is False
        await trio.sleep(5)
        assert site.servers[1].frames == []


@pytest.mark.parametrize("data", [1, None])
async def test_what_cannot_be_sent_is_told_before_there_is_a_connection(data: Any, autojump_clock: MockClock) -> None:
    async with Site(down()).feed() as feed:
        with pytest.raises(InvalidTypeError, match="data must be"):
            await feed.send(data)
        assert trio.current_time() == 0


async def test_a_send_after_the_end_fails_with_its_cause(autojump_clock: MockClock) -> None:
    async with Site(refusing("401 Unauthorized")).feed() as feed:
        await rest(feed)
        with pytest.raises(ConnectionFailedError, match="the feed has ended") as caught:
            await feed.send("a")
        assert caught.value.kind is Kind.INTERNAL
        assert caught.value.retryable is False
        assert caught.value.__cause__ is feed.channel().cause is not None


async def test_a_send_that_waits_fails_when_the_feed_ends(autojump_clock: MockClock) -> None:
    async def send() -> None:
        with pytest.raises(ConnectionFailedError, match="the feed has ended") as caught:
            await feed.send("a")
        assert caught.value.__cause__ is None
        failed.set()

    failed = trio.Event()
    async with trio.open_nursery() as nursery:
        async with Site(unwilling()).feed() as feed:
            nursery.start_soon(send)
            await settled()
        await failed.wait()


# Closing --------------------------------------------------------------------------------------------------------------


async def until_connecting(feed: Reconnecting, site: Site) -> None:
    site.to_come.insert(0, unwilling())
    await settled()
    assert feed.state.name == "connecting"
    assert len(site.servers) == 1


async def until_waiting(feed: Reconnecting, site: Site) -> None:
    site.to_come.insert(0, down())
    await settled()
    assert feed.state.name == "waiting"


async def until_subscribing(feed: Reconnecting, site: Site) -> None:
    await settled()
    assert feed.state.name == "connecting"
    assert len(site.servers[0].frames) == 1


async def until_open(feed: Reconnecting, site: Site) -> None:
    site.to_come.insert(0, saying(text("yes"), ends=False))
    await settled()
    assert feed.state.name == "open"


async def until_full(feed: Reconnecting, site: Site) -> None:
    site.to_come.insert(0, saying(text("yes"), *map(text, "abcdefghi"), ends=False))
    await settled()
    assert len(feed.channel()) == 1


UNTIL = [until_connecting, until_waiting, until_subscribing, until_open, until_full]


async def ask(client: Client) -> None:
    await client.send("subscribe")
    await anext(client)


def connected(until: object) -> bool:
    return until in (until_subscribing, until_open, until_full)


@pytest.mark.parametrize("until", UNTIL)
async def test_close_ends_whatever_it_does(until: Any, autojump_clock: MockClock) -> None:
    site = Site()
    async with site.feed(ask, channel_capacity=1) as feed:
        await until(feed, site)
        start = trio.current_time()
        await feed.close(4000, "enough")
        assert trio.current_time() == start
        assert feed.state == State("closed", 1)
        assert feed.client is None
        assert feed.channel().cause is None
        assert await rest(feed) == (["a"] if until is until_full else [])
        assert all(server.closed for server in site.servers)
        if connected(until):
            closing = site.servers[0].frames[-1]
            assert closing == Frame(CLOSE, (4000).to_bytes(2, "big") + b"enough")
        await feed.close(1001)
        count = len(site.dialled_at)
        await trio.sleep(100)
        assert len(site.dialled_at) == count


@pytest.mark.parametrize("until", UNTIL)
async def test_the_end_of_the_block_closes_it(until: Any, autojump_clock: MockClock) -> None:
    site = Site()
    async with site.feed(ask, channel_capacity=1) as feed:
        await until(feed, site)
    assert feed.state == State("closed", 1)
    assert all(server.closed for server in site.servers)
    if connected(until):
        assert site.servers[0].closes == [1000]


@pytest.mark.parametrize("until", UNTIL)
async def test_an_exception_in_the_block_comes_out_as_it_is(until: Any, autojump_clock: MockClock) -> None:
    async def block() -> None:
        async with site.feed(ask, channel_capacity=1) as feed:
            await until(feed, site)
            raise error

    site = Site()
    error = ValueError("of the block")
    with pytest.raises(ValueError, match="of the block") as caught:
        await block()
    assert caught.value is error
    assert all(server.closed for server in site.servers)
    if connected(until):
        assert site.servers[0].closes == [1011]


async def test_the_quiet_end_of_iteration_comes_out_of_the_block_too(autojump_clock: MockClock) -> None:
    async def block() -> None:
        async with Site(saying(close(1000))).feed() as feed:
            await anext(feed)

    with pytest.raises(StopAsyncIteration):
        await block()


@pytest.mark.parametrize("until", UNTIL)
async def test_cancellation_ends_it_at_once(until: Any, autojump_clock: MockClock) -> None:
    site = Site()
    feed = site.feed(ask, channel_capacity=1)
    tasks = trio.lowlevel.current_statistics().tasks_living
    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with feed:
            await until(feed, site)
            for server in site.servers:
                server.answers_close = False
            scope.cancel()
            await trio.sleep(1)
    assert scope.cancelled_caught
    assert trio.current_time() == start
    assert feed.state.name == "closed"
    assert all(server.closed for server in site.servers)
    assert trio.lowlevel.current_statistics().tasks_living == tasks


@pytest.mark.parametrize("until", UNTIL)
async def test_a_close_that_is_cancelled_has_closed_the_socket(until: Any, autojump_clock: MockClock) -> None:
    site = Site()
    async with site.feed(ask, channel_capacity=1) as feed:
        await until(feed, site)
        for server in site.servers:
            server.answers_close = False
        with trio.move_on_after(2):
            await feed.close()
        await settled()
        assert trio.current_time() <= 2
        assert feed.state == State("closed", 1)
        assert all(server.closed for server in site.servers)


@pytest.mark.parametrize("failing", [False, True])
async def test_the_end_of_the_block_can_be_cancelled(failing: bool, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    with contextlib.ExitStack() as stack:
        if failing:
            stack.enter_context(pytest.raises(ValueError, match="of the block"))
        with trio.move_on_after(2) as scope:
            async with Site(server).feed():
                await settled()
                if failing:
                    raise ValueError("of the block")
    assert scope.cancelled_caught is not failing
    assert trio.current_time() == 2
    assert server.closed


async def test_a_peer_that_does_not_answer_the_close_delays_it_by_the_close_timeout(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with Site(server).feed(close_timeout="3s") as feed:
        await settled()
        await feed.close()
        assert trio.current_time() == pytest.approx(3)
        assert server.closed


async def test_many_closes_wait_for_the_same_end(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with Site(server).feed(close_timeout="3s") as feed:
        await settled()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.close, 4001)
            await settled()
            nursery.start_soon(feed.close, 4002)
        assert server.closes == [4001]
        assert trio.current_time() == pytest.approx(3)


async def test_of_two_closes_at_the_same_time_the_first_counts(autojump_clock: MockClock) -> None:
    async def close_with(code: int) -> None:
        codes.append(code)
        await feed.close(code)

    codes: list[int] = []
    server = Server()
    async with Site(server).feed() as feed:
        await settled()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_with, 4001)
            nursery.start_soon(close_with, 4002)
        assert server.closes == codes[:1]


@pytest.mark.parametrize(("code", "reason"), [(1005, ""), (True, ""), (1000, "x" * 124), (1000, b""), (1000, "a\n")])
async def test_an_invalid_close_does_nothing(code: Any, reason: Any, autojump_clock: MockClock) -> None:
    async with Site(down()).feed() as feed:
        for name in ("waiting", "open"):
            await trio.sleep(0.4)
            assert feed.state.name == name
            with pytest.raises(InvalidError):
                await feed.close(code, reason)
            await trio.sleep(0.2)
        assert feed.client is not None


async def test_a_close_while_an_attempt_is_being_wound_up_ends_it(autojump_clock: MockClock) -> None:
    # It keeps its stream open behind the close, so that the client waits for the end.
    site = Site(saying(close(1001), ends=False, answers_close=False))
    async with site.feed() as feed:
        await settled()
        await trio.sleep(1)
        assert feed.client is None
        await feed.close()
        assert trio.current_time() == pytest.approx(1)
        assert site.servers[0].closed
    assert len(site.servers) == 1


async def test_a_close_while_a_failed_subscription_is_being_wound_up_ends_it(autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        raise Error("no", kind=Kind.CONFLICT, retryable=False)

    server = Server(answers_close=False)
    async with Site(server).feed(subscribe) as feed:
        await trio.sleep(1)
        await feed.close()
        assert trio.current_time() == pytest.approx(1)
        assert server.closed
        assert feed.channel().cause is None


@pytest.mark.parametrize("code", [1000, 4001])
async def test_a_client_that_the_user_closes_ends_it(code: int, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    site = Site(server)
    async with site.feed() as feed, trio.open_nursery() as nursery:
        await settled()
        assert feed.client is not None
        nursery.start_soon(feed.client.close, code)
        await settled()
        server.send(close(code))
        server.end()
        assert await rest(feed) == []
        assert feed.channel().cause is None
    assert len(site.servers) == 1


async def test_ctrl_c_while_subscribing_comes_out_of_the_block(autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it was protected")

    site = Site()
    with pytest.raises(KeyboardInterrupt):
        async with site.feed(subscribe):
            await trio.sleep_forever()
    assert site.servers[0].closed


async def test_ended_feeds_leave_no_garbage_that_warns(autojump_clock: MockClock) -> None:
    for _ in range(3):
        async with Site(saying(text("a")), down()).feed() as feed:
            await trio.sleep(5)
            assert feed.client is not None
        del feed
    gc.collect()  # a stream that was not closed would warn here


async def test_a_feed_of_the_public_interface(autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        await client.send("subscribe")

    async def exchange(connection: testing.ServerConnection) -> None:
        connections.append(connection.url)
        if len(connections) == 2:
            await connection.reject(503, headers=[("Retry-After", "60")])
            return
        assert (await connection.receive()).value.data == "subscribe"
        await connection.send(str(len(connections)))
        if len(connections) == 1:
            await trio.sleep(3600)
            connection.drop()

    connections: list[str] = []
    url = "wss://api.example.com/prices"
    async with (
        testing.websocket_server(exchange, "wss://api.example.com/"),
        reconnecting(url, subscribe=subscribe, read_timeout="2h") as feed,
    ):
        taken = await rest(feed)
    assert shape(taken) == ["1", 2, "3"]
    gap = taken[1]
    assert isinstance(gap, Gap)
    assert 60 <= gap.seconds <= 61.5
    assert connections == [url] * 3


async def test_real_delays_are_random(autojump_clock: MockClock) -> None:
    async def nobody(connection: testing.ServerConnection) -> None:
        await connection.reject(503)

    async with (
        testing.websocket_server(nobody),
        reconnecting(URL, min_delay=1000, max_delay="1s", max_attempts=9) as feed,
    ):
        waits = [state.seconds async for state in feed.states() if state.name == "waiting"]
    assert len(set(waits)) == 8
    assert all(0 <= wait <= 1 for wait in waits)


# Against a model ------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One attempt of a random program, and what it means."""

    server: Server | Exception
    messages: list[str] | None
    """None if it is never open."""
    code: int
    """How it ends."""


def random_program(chance: random.Random) -> list[Step]:
    steps: list[Step] = []
    for number in range(chance.randrange(1, 8)):
        messages = [f"{number}.{index}" for index in range(chance.choice([0, 1, 3, 40]))]
        said = [text("yes"), *map(text, messages)]
        kind = chance.randrange(7)
        if kind == 0:
            steps.append(Step(down(), None, 0))
        elif kind == 1:
            steps.append(Step(refusing("503 Busy", "Retry-After: 3"), None, 0))
        elif kind == 2:
            steps.append(Step(saying(close(chance.choice([1001, 1011]))), None, 0))
        elif kind == 3:
            steps.append(Step(saying(*said, text("cut off")[:-3]), messages, 1006))
        else:
            code = chance.choice([1001, 1012])
            steps.append(Step(saying(*said, close(code)), messages, code))
    return steps


def expected(steps: list[Step]) -> list[object]:
    """Return what must come out: the messages, and (code, attempts) for each gap; 1001 is no error."""
    out: list[object] = []
    ended: int | None = None
    attempts = 0
    for step in steps:
        attempts += 1
        if step.messages is None:
            continue
        if ended is not None:
            out.append((None if ended == 1001 else ended, attempts))
        out += step.messages
        ended, attempts = step.code, 0
    return out


@pytest.mark.parametrize("seed", range(200))
async def test_a_random_program_gives_what_the_model_says(seed: int, autojump_clock: MockClock) -> None:
    chance = random.Random(seed)
    last = chance.choice([1000, 1008, 401])
    steps = random_program(chance)
    if last == 401:
        steps.append(Step(refusing("401 Unauthorized"), None, 401))
    else:
        steps.append(Step(saying(text("yes"), text("last"), close(last)), ["last"], last))
    site = Site(*(step.server for step in steps))
    out: list[object] = []
    async with site.feed(first_message, channel_capacity=chance.choice([1, 2, 16])) as feed:
        pause = chance.choice([0, 0.01, 2])
        while (received := await feed.receive()).ok:
            value = received.value
            if isinstance(value, Message):
                out.append(value.data)
            else:
                out.append((None if value.error is None else details(value.error)["code"], value.attempts))
            if chance.random() < 0.3:
                await trio.sleep(pause)
        cause = feed.channel().cause
    assert out == expected(steps)
    assert len(site.dialled_at) == len(steps)
    if last == 1000:
        assert cause is None
    else:
        assert isinstance(cause, ConnectionFailedError)
        assert details(cause)["status" if last == 401 else "code"] == last


# What is printed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (State("connecting", 1), "connecting"),
        (State("connecting", 3), "connecting, attempt 3"),
        (State("open", 1), "open"),
        (State("waiting", 1, down(), 1.234), "waiting 1.23 s: nobody listens"),
        (State("waiting", 1, None, 1), "waiting 1.00 s: the server closed the connection"),
        (State("closed", 1), "closed"),
        (State("closed", 1, down()), "closed: nobody listens"),
        (Gap(down(), 1.234, 2), "gap of 1.23 s: nobody listens"),
    ],
)
def test_states_and_gaps_are_told_in_words(told: State | Gap, text: str) -> None:
    assert str(told) == text
