"""Connections that come back: what comes out of a feed, what it shows, and what is sent on it."""

from __future__ import annotations

import contextlib
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import csp
from csp import security
from csp.errors import (
    ConnectionFailedError,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
    PermissionDeniedError,
)
from csp.websocket import BINARY, Client, Feed, Gap, Message, State, reconnecting
from tests.websocket._server import ENDED, TEXT, Frame, Server, close, details, frame, text
from tests.websocket.client._feed import (
    URL,
    Site,
    down,
    drained_states,
    refusing,
    rest,
    saying,
    settled,
    shape,
    unwilling,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


# The call -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("wss//api.example.com", {}, "url must start with"),
        (URL, {"read_limit": -1}, "read_limit must be 0 to"),
        (URL, {"server_hostname": "a.test"}, "for a ws: URL"),
        (URL, {"min_delay": "0s"}, "min_delay must be above 0"),
        (URL, {"max_delay": "-1s"}, "max_delay must be above 0"),
        (URL, {"min_delay": "soon"}, "min_delay must be a duration"),
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
        ({"min_delay": None}, 'min_delay must be a string such as "1m30s" or a timedelta, not None'),
        ({"max_delay": True}, "max_delay must be a string"),
        ({"min_delay": 20}, r'not the number 20 \(write "20s" or "20ms"\)'),
        ({"max_delay": 0.5}, r'not the number 0.5 \(write "0.5s" or "0.5ms"\)'),
        ({"min_delay": float("inf")}, "min_delay must be a string with a unit or a timedelta, not the number inf"),
        ({"keepalive": 20}, r'keepalive .* \(write "20s" or "20ms"\)'),
        ({"max_attempts": 1.0}, "max_attempts must be a whole number"),
        ({"max_attempts": True}, "max_attempts must be a whole number"),
        ({"subscribe": "prices"}, "subscribe must be an async function or None, not 'prices'"),
    ],
)
def test_what_is_of_the_wrong_type_is_found_by_the_call(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidTypeError, match=said):
        reconnecting(URL, **options)


async def test_a_nursery_is_refused_with_the_reason(nursery: trio.Nursery) -> None:
    options: Any = {"nursery": nursery}
    with pytest.raises(InvalidTypeError, match="nursery is no option here: a feed is a block"):
        reconnecting(URL, **options)


def bounds(feed: Feed) -> tuple[float, float]:
    """Return the bounds of the first delay and of one in an outage without an end."""
    backoff = feed._keeper._backoff
    first = backoff.bound_seconds
    backoff.attempt_began(0)
    for _ in range(20):
        backoff.attempt_ended(math.inf, 0)
    return first, backoff.bound_seconds


def test_delays_are_durations_or_timedeltas() -> None:
    given = reconnecting(URL, min_delay="250ms", max_delay=timedelta(minutes=1), max_attempts=1)
    assert bounds(given) == (0.5, 60)
    assert bounds(reconnecting(URL, min_delay="1s", max_delay="1s")) == (1, 1)
    assert bounds(reconnecting(URL)) == bounds(reconnecting(URL, max_delay=None)) == (1, 30)


def test_a_feed_shows_its_state_and_its_url() -> None:
    feed = reconnecting("WSS://user:secret@Server.test/feed")
    assert repr(feed) == "<csp.websocket.Feed connecting, wss://server.test/feed>"


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
    uses = (feed.close, feed.receive, feed.__anext__, lambda: feed.send("a"), lambda: feed.send_many(["a"]))
    for use in (*uses, lambda: feed.receive_many(1)):
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
        # It had lasted, so that the delays start again.
        assert gap.seconds == pytest.approx(1 + 1 + 2)
        assert gap.attempts == 3
        assert await feed.receive() == (Message("text", "b"), True)


@pytest.mark.parametrize("data", [close(1001), close()])
async def test_after_a_close_without_an_error_the_gap_has_none(data: bytes, autojump_clock: MockClock) -> None:
    async with Site(saying(data)).feed() as feed:
        gap = (await feed.receive()).value
        assert isinstance(gap, Gap)
        assert gap.error is None


async def test_it_comes_back_after_a_close_with_a_code_that_must_not_be_sent(autojump_clock: MockClock) -> None:
    site = Site(saying(text("a"), close(1006, "stale connection")), saying(text("b")))
    async with site.feed() as feed:
        first, gap, second = [(await feed.receive()).value for _ in range(3)]
    assert [first, second] == [Message("text", "a"), Message("text", "b")]
    assert isinstance(gap, Gap)
    assert (gap.code, gap.reason) == (1002, "a close frame has the invalid code 1006")
    assert details(gap.error) == {"code": 1006, "reason": "stale connection"}
    assert site.servers[0].closes == [1002]


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
            server.send(text(f"{number:010000}"))
            sent += 1
            await settled()
        assert len(feed.channel()) == 2
        assert feed.client is not None
        assert feed.client.statistics().messages_received <= 40
        server.send(close(1000))
        server.end()
        assert await rest(feed) == [f"{number:010000}" for number in range(sent)]


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
        await feed.wait_closed()
        states = drained_states(feed)
        failed = states[1].error
        assert failed is not None
        assert "cannot connect to ws://server.test/feed: nobody listens" in str(failed)
        assert states == [
            State("connecting", 1),
            State("waiting", 1, failed, 1.0),
            State("connecting", 2),
            State("open", 2),
            State("waiting", 2, None, 1.0),
            State("connecting", 3),
            State("open", 3),
            State("closed", 3, feed.channel().cause),
        ]
        assert feed.state == states[-1]


async def test_states_that_nobody_reads_are_the_latest_and_hinder_nothing(autojump_clock: MockClock) -> None:
    site = Site(*(down() for _ in range(50)), saying(text("a"), close(1000)))
    async with site.feed() as feed:
        assert await rest(feed) == ["a"]
        assert feed.states() is feed.states()
        assert [state.name for state in drained_states(feed)][-3:] == ["connecting", "open", "closed"]
        with pytest.raises(trio.WouldBlock):  # silent, not closed
            feed.states().receive_nowait()


async def test_states_that_a_user_closes_end_nothing(autojump_clock: MockClock) -> None:
    async with Site(saying(text("a"), close(1012)), saying(text("b"), close(1000))).feed() as feed:
        states: Any = feed.states()
        states.close()
        assert shape(await rest(feed)) == ["a", 1, "b"]
        await feed.wait_closed()
        assert feed.state.name == "closed"


async def test_the_last_state_has_the_cause_that_the_channel_has(autojump_clock: MockClock) -> None:
    cause = KeyError("enough")
    async with Site(*(saying(text("a"), ends=False) for _ in range(2))).feed() as feed:
        await feed.receive()
        feed.channel().close(cause)
        await feed.close()
        assert feed.state.error is feed.channel().cause is cause


@pytest.mark.parametrize("waiting_states", [0, 100])
async def test_the_end_of_the_states_never_overtakes_messages(waiting_states: int, autojump_clock: MockClock) -> None:
    # A loop of one who reads both: whichever comes first, until the messages are at their end.
    for _ in range(100):
        site = Site(saying(*(text(str(number)) for number in range(10)), close(1000)))
        async with site.feed() as feed:
            if waiting_states:
                await trio.sleep(waiting_states)
            got: list[str | bytes] = []
            while True:
                r = await csp.select(feed.states().case_receive(), feed.channel().case_receive())
                if not r.ok:
                    break
                if isinstance(r.value, Message):
                    got.append(r.value.data)
        assert got == [str(number) for number in range(10)]


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
        assert feed.state.name == "waiting"  # although there are messages to pass on


# Security -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denied", ["websocket.connect", "websocket.connect.url"])
async def test_the_policies_are_asked_at_each_attempt(denied: str, autojump_clock: MockClock) -> None:
    asked: list[tuple[str, str]] = []

    def denies(actor: object, action: str, resource: str, meta: object) -> bool:
        asked.append((action, resource))
        return action == denied and len(site.dialled_at) == 2

    scope = security.Scope([security.Policy("*", "*"), security.Policy("*", "*", "deny", denies)])
    site = Site(saying(text("a")), down())
    with security.context(scope=scope, strict=False):
        async with site.feed() as feed:
            assert await rest(feed) == ["a"]
            cause = feed.channel().cause
            assert isinstance(cause, PermissionDeniedError)
    assert len(site.dialled_at) == 2
    allowed = [("websocket.connect", ""), ("websocket.connect.url", URL)]
    assert asked[:4] == [*allowed, *allowed]


async def test_what_is_denied_is_not_tried_again(autojump_clock: MockClock) -> None:
    scope = security.Scope([security.Policy("websocket.*", "*", "deny")])
    with security.context(scope=scope, strict=False):
        async with reconnecting("ws://server.test") as feed:
            with pytest.raises(PermissionDeniedError):
                await anext(feed)
            assert trio.current_time() == 0


# Sending --------------------------------------------------------------------------------------------------------------


async def test_send_waits_for_a_connection(autojump_clock: MockClock) -> None:
    site = Site(down(), down())
    async with site.feed() as feed:
        await feed.send("a")
        assert trio.current_time() == pytest.approx(2)
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
        assert feed.state.name == "waiting"  # although there is no room for b
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


async def test_many_are_sent_together_once_there_is_a_connection(autojump_clock: MockClock) -> None:
    site = Site(down(), down())
    async with site.feed() as feed:
        messages: list[str | bytes] = ["a", b"b"]
        await feed.send_many(iter(messages))
        assert trio.current_time() == pytest.approx(2)
        await feed.send_many(["c", "d"], BINARY)
        assert site.servers[0].frames == [
            *(Frame(TEXT, b"a"), Frame(BINARY, b"b")),
            *(Frame(BINARY, b"c"), Frame(BINARY, b"d")),
        ]


@pytest.mark.parametrize("messages", ["ab", b"ab", 1, ["a", 1]])
async def test_many_that_cannot_be_sent_are_told_before_there_is_a_connection(
    messages: Any, autojump_clock: MockClock
) -> None:
    async with Site(down()).feed() as feed:
        with pytest.raises(InvalidTypeError, match="message"):
            await feed.send_many(messages)
        assert trio.current_time() == 0


async def test_messages_and_gaps_are_received_many_at_a_time(autojump_clock: MockClock) -> None:
    site = Site(saying(text("a"), text("b")), saying(text("c")))
    async with site.feed() as feed:
        await trio.sleep(30)
        values = await feed.receive_many(4)
        assert [getattr(value, "data", "gap") for value in values] == ["a", "b", "gap", "c"]


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


# What is printed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (State("connecting", 1), "connecting"),
        (State("connecting", 3), "connecting, attempt 3"),
        (State("open", 1), "open"),
        (State("waiting", 1, down(), 1.234), "waiting 1.23 s: nobody listens"),
        (State("waiting", 1, None, 1), "waiting 1.00 s: the peer closed the connection"),
        (
            State("waiting", 1, down(), 600, 3600),
            "waiting 600.00 s (the server asked for 3600 s): nobody listens",
        ),
        (State("waiting", 1, down(), 0.5, 0), "waiting 0.50 s (the server asked for 0 s): nobody listens"),
        (State("closed", 1), "closed"),
        (State("closed", 1, down()), "closed: nobody listens"),
        (Gap(down(), 1.234, 2), "gap of 1.23 s: nobody listens"),
        (Gap(None, 0.0, 0), "gap: some values are missing"),
        (Gap(None, 0.0, 0, 7), "gap: 7 values are missing"),
    ],
)
def test_states_and_gaps_are_told_in_words(told: State | Gap, text: str) -> None:
    assert str(told) == text
