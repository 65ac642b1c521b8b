"""Connections that come back because ``feed.reconnect()`` was called."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import trio

import csp
from csp import testing, websocket
from csp.errors import ConnectionFailedError, Error, Kind, NoContextError
from csp.websocket import Client, Gap, State, reconnecting
from tests.websocket._peers import Peer, raw_server, until
from tests.websocket._server import BINARY, COMPRESSED, Server, accepting, close, deflated, details, frame, text
from tests.websocket.client._feed import Site, down, drained_states, rest, saying, settled, shape, unwilling

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

URL = "wss://api.test/"


class Asked:
    """Notes how often a function is asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, *_error: Error) -> Any:
        self.times += 1
        return URL


# While a connection is open -------------------------------------------------------------------------------------------


async def test_it_drops_the_connection_and_connects_again_at_once(autojump_clock: MockClock) -> None:
    url, retry = Asked(), Asked()
    site = Site(saying(text("a"), ends=False, answers_close=False), saying(text("b"), close(4001)))
    async with site.feed(url=url, retry=retry) as feed:
        await feed.receive()
        old = feed.client
        drained_states(feed)
        await feed.reconnect()
        assert feed.state == State("connecting", 1)
        assert feed.client is None
        assert site.servers[0].closes == [1001]
        assert site.servers[0].closed
        retry.times = -1  # it will be asked about 4001
        gap = (await feed.receive()).value
        assert isinstance(gap, Gap)
        assert (gap.code, gap.reason, gap.attempts, gap.seconds, gap.missed) == (1006, "", 1, 0, None)
        assert isinstance(gap.error, ConnectionFailedError)
        assert gap.error.kind is Kind.CANCELED
        assert gap.error.retryable
        assert str(gap.error) == "this end dropped the connection: reconnect() was called"
        assert details(gap.error) == {"code": 1006, "reason": ""}
        assert str(gap) == "gap of 0.00 s: this end dropped the connection: reconnect() was called"
        assert old is not None
        assert (old.close_code, old.error) == (1006, gap.error)
        assert [state.name for state in drained_states(feed)][:2] == ["connecting", "open"]
        await feed.receive()
        assert trio.current_time() == 0
    assert url.times == 2
    assert retry.times == 0
    assert site.dialled_at[:2] == [0, 0]


@pytest.mark.parametrize("compression", [websocket.COMPRESSION.DISABLED, websocket.COMPRESSION.CONTEXT_TAKEOVER])
async def test_all_that_was_received_is_delivered_ahead_of_the_gap(
    compression: websocket.Compression, autojump_clock: MockClock
) -> None:
    connections = 0

    async def serve(connection: testing.ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await connection.accept(compression=websocket.COMPRESSION.CONTEXT_TAKEOVER)
        if connections == 1:
            for number in range(200):  # more than there is room for, so that much is read ahead
                await connection.send(f"{number:05}")
            await trio.sleep_forever()
        await connection.send("back")
        await connection.close(1000)

    async with (
        testing.websocket_server(serve),
        reconnecting(URL, channel_capacity=2, compression=compression) as feed,
    ):
        assert (await feed.receive_value()).data == "00000"  # type: ignore[union-attr]
        await settled()
        await feed.reconnect()
        taken = await rest(feed)
    assert shape(taken) == [*(f"{number:05}" for number in range(1, 200)), 1, "back"]


async def test_what_is_parsed_only_as_messages_are_taken_is_delivered_too(autojump_clock: MockClock) -> None:
    connections = 0

    async def serve(connection: testing.ServerConnection) -> None:
        nonlocal connections
        connections += 1
        extension = "Sec-WebSocket-Extensions: permessage-deflate"
        await connection.send_bytes(accepting(connection.headers, extension))
        if connections == 1:
            compressed = frame(BINARY, deflated(bytes(100_000)), reserved=COMPRESSED)
            await connection.send_bytes(compressed * 50)
            await trio.sleep_forever()
        await connection.send_bytes(close(1000))

    compression = websocket.COMPRESSION.CONTEXT_TAKEOVER
    async with (
        testing.websocket_server(serve),
        reconnecting(URL, channel_capacity=1, read_limit=200_000, compression=compression) as feed,
    ):
        await settled()
        old = feed.client
        assert old is not None
        assert old._connection.decoder.paused
        await feed.reconnect()
        taken = await rest(feed)
    assert [len(value) for value in taken if isinstance(value, bytes)] == [100_000] * (len(taken) - 1)
    assert len(taken) == 51


async def test_the_consumer_may_call_it_itself_with_its_channel_full(autojump_clock: MockClock) -> None:
    many = [text("x")] * 40
    site = Site(saying(*many, ends=False), saying(*many, ends=False), saying(text("y"), ends=False))
    async with site.feed(channel_capacity=1) as feed:
        await settled()
        await feed.receive()
        for _ in range(2):
            await feed.reconnect()
            await settled()
            assert feed.state.name == "open"
        site.servers[2].send(close(1000))
        taken = await rest(feed)
    assert trio.current_time() == 0
    (gap,) = (value for value in taken if isinstance(value, Gap))
    assert shape(taken) == [*["x"] * 39, 2, "y"]
    assert gap.missed == 40  # those of the second connection, as after any loss


async def test_a_server_that_does_not_read_does_not_delay_it() -> None:
    done = trio.Event()

    async def serve(peer: Peer) -> None:
        await peer.accept()
        await done.wait()  # reads nothing, and its system's buffers fill

    # The server's limit is shorter than the close_timeout.
    async with (
        raw_server(serve) as url,
        reconnecting(url, close_timeout="1h") as feed,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(send_much, feed)
        client = await open_client(feed)
        await until(lambda: client.statistics().messages_sent)
        await feed.reconnect()
        assert client.close_code == 1006
        assert await open_client(feed) is not client
        nursery.cancel_scope.cancel()
        done.set()


async def send_much(feed: websocket.Feed) -> None:
    while True:
        with contextlib.suppress(ConnectionFailedError):
            await feed.send(bytes(1_000_000))


async def open_client(feed: websocket.Feed) -> Client:
    async for state in feed.states():
        if state.name == "open":
            break
    assert feed.client is not None
    return feed.client


async def test_what_is_sent_behind_it_goes_to_the_new_connection(autojump_clock: MockClock) -> None:
    async def url() -> str:
        await settled()
        return URL

    first, second = Server(), Server()
    async with Site(first, second).feed(url=url) as feed:
        await feed.send("a")
        await feed.reconnect()
        assert feed.client is None
        await feed.send("b")
    assert first.payloads == [b"a", b"\x03\xe9"]  # and the close frame with 1001
    assert second.payloads[0] == b"b"


async def test_a_consumer_that_waits_for_a_pong_gets_the_end(autojump_clock: MockClock) -> None:
    async def serve(connection: testing.ServerConnection) -> None:
        connection.answer_pings = False
        await connection.accept()
        await connection.wait_closed()

    async with testing.websocket_server(serve), reconnecting(URL) as feed, trio.open_nursery() as nursery:
        client = await open_client(feed)
        pong = await client.ping()
        nursery.start_soon(feed.reconnect)
        with pytest.raises(ConnectionFailedError, match=r"reconnect\(\) was called"):
            await pong.receive_value()


# Between and in attempts ----------------------------------------------------------------------------------------------


async def test_it_cuts_a_wait_short(autojump_clock: MockClock) -> None:
    url, retry = Asked(), Asked()
    site = Site(down(), saying(text("a"), close(1000)))
    async with site.feed(url=url, retry=lambda _error: bool(retry()), min_seconds=1000, max_seconds=1000) as feed:
        await trio.sleep(5)
        assert feed.state.name == "waiting"
        await feed.reconnect()
        assert feed.state == State("connecting", 2)
        await feed.receive()
        assert trio.current_time() == 5
    assert (url.times, retry.times) == (2, 2)


ABANDONED: list[tuple[str, Callable[[], dict[str, Any]]]] = [
    ("url", lambda: {"url": first_waits(URL)}),
    ("headers", lambda: {"headers": first_waits({})}),
    ("handshake", dict),
    ("subscribe", lambda: {"subscribe": first_waits(None)}),
]


def first_waits(value: object) -> Any:
    """Return a function that waits for ever when it is first called."""
    called = 0

    async def function(*_client: Client) -> object:
        nonlocal called
        called += 1
        if called == 1:
            await trio.sleep_forever()
        return value

    return function


@pytest.mark.parametrize(("where", "make"), ABANDONED)
async def test_an_attempt_is_abandoned_and_begun_again(
    where: str, make: Callable[[], dict[str, Any]], autojump_clock: MockClock
) -> None:
    retry = Asked()
    servers = [unwilling()] if where == "handshake" else [Server()] if where == "subscribe" else []
    site = Site(*servers, saying(text("a"), close(1012)), saying(text("b"), close(1000)))
    async with site.feed(retry=lambda error: error.details["code"] != 1000 and bool(retry()), **make()) as feed:
        await trio.sleep(2)
        assert feed.state == State("connecting", 1)
        await feed.reconnect()
        assert feed.state == State("connecting", 1)
        assert all(server.closed for server in site.servers[: len(servers)])
        assert shape(await rest(feed)) == ["a", 1, "b"]
    assert retry.times == 1
    assert site.dialled_at[len(servers)] == 2


async def test_an_abandoned_attempt_is_none_of_those_of_a_gap_nor_of_max_attempts(autojump_clock: MockClock) -> None:
    site = Site(saying(text("a")), *[unwilling()] * 1, unwilling(), unwilling(), saying(text("b"), close(1000)))
    async with site.feed(max_attempts=2) as feed:
        await feed.receive()
        await trio.sleep(10)
        for _ in range(3):
            assert feed.state == State("connecting", 2)
            await feed.reconnect()
            await trio.sleep(1)
        taken = await rest(feed)
        assert feed.channel().cause is None
    assert shape(taken) == [1, "b"]


async def test_a_connection_that_is_wound_up_is_left_at_once(autojump_clock: MockClock) -> None:
    # It keeps its stream open behind the close, so that the client waits for the end.
    site = Site(saying(close(1001, "bye"), ends=False, answers_close=False), saying(text("a"), close(1000)))
    async with site.feed() as feed:
        await trio.sleep(1)
        assert (feed.client, feed.state.name) == (None, "open")
        await feed.reconnect()
        taken = await rest(feed)
        assert trio.current_time() == 1
    gap = taken[0]
    assert isinstance(gap, Gap)
    assert (gap.error, gap.code, gap.reason, taken[1:]) == (None, 1001, "bye", ["a"])


async def test_a_failed_subscription_that_is_wound_up_is_left_at_once(autojump_clock: MockClock) -> None:
    async def subscribe(_client: Client) -> None:
        if len(site.servers) == 1:
            raise Error("not yet", kind=Kind.UNAVAILABLE, retryable=True)

    asked = Asked()
    site = Site(Server(answers_close=False), saying(text("a"), ends=False))
    async with site.feed(subscribe, retry=asked) as feed:
        await trio.sleep(1)
        await feed.reconnect()
        assert (await feed.receive_value()).data == "a"  # type: ignore[union-attr]
        assert trio.current_time() == 1
    assert asked.times == 0


# How often ------------------------------------------------------------------------------------------------------------


async def test_calls_of_many_tasks_at_once_make_one_attempt(autojump_clock: MockClock) -> None:
    site = Site()
    async with site.feed() as feed:
        await settled()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(feed.reconnect)
        await settled()
        assert len(site.servers) == 2


async def test_before_the_first_attempt_has_begun_it_is_that_attempt(autojump_clock: MockClock) -> None:
    site = Site()
    async with site.feed() as feed:
        await feed.reconnect()
        await settled()
        assert len(site.servers) == 1


async def test_a_loop_of_it_lets_others_run(autojump_clock: MockClock) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        for _ in range(20):
            await trio.lowlevel.checkpoint()
            turns += 1
        feed.channel().close()

    site = Site()
    async with site.feed() as feed, trio.open_nursery() as nursery:
        nursery.start_soon(other)
        ended = 0
        while ended < 10:
            try:
                await feed.reconnect()
            except ConnectionFailedError:
                ended += 1
    assert turns == 20


async def test_a_connection_that_lasted_begins_anew_and_one_that_did_not_does_not_count(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    site = Site(down(), down(), down(), server, Server(), down(), down())
    async with site.feed() as feed:
        await trio.sleep(1 + 1 + 2 + 1)
        assert feed.client is not None
        await feed.reconnect()  # open for 1 s, after a wait of 2 s
        assert feed.state == State("connecting", 4)
        await trio.sleep(20)
        drained_states(feed)
        await feed.reconnect()
        await settled()
        (connecting_again, waiting) = drained_states(feed)
        assert connecting_again == State("connecting", 1)
        assert (waiting.name, waiting.attempt, waiting.seconds) == ("waiting", 1, 1)


# Where it cannot ------------------------------------------------------------------------------------------------------


async def test_before_the_block_it_tells_what_to_write() -> None:
    with pytest.raises(NoContextError, match=r"write `async with websocket\.reconnecting\(url\) as feed`"):
        await reconnecting(URL).reconnect()


@pytest.mark.parametrize("code", [1000, 1008])
async def test_after_the_end_it_raises_with_the_cause(code: int, autojump_clock: MockClock) -> None:
    async with Site(saying(close(code))).feed() as feed:
        await feed.wait_closed()
        with pytest.raises(ConnectionFailedError, match="reconnecting failed: the feed has ended") as caught:
            await feed.reconnect()
        assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, False)
        assert caught.value.__cause__ is feed.channel().cause
        assert (caught.value.__cause__ is None) == (code == 1000)
    with pytest.raises(ConnectionFailedError):
        await feed.reconnect()


async def test_while_the_last_connection_is_wound_up_it_raises(autojump_clock: MockClock) -> None:
    site = Site(saying(close(1008), ends=False, answers_close=False))
    async with site.feed() as feed:
        await trio.sleep(1)
        assert not feed.channel().closed
        with pytest.raises(ConnectionFailedError, match="the feed has ended"):
            await feed.reconnect()
    assert len(site.servers) == 1


async def test_while_the_feed_is_being_closed_it_raises(autojump_clock: MockClock) -> None:
    site = Site(Server(answers_close=False))
    async with site.feed() as feed, trio.open_nursery() as nursery:
        await settled()
        nursery.start_soon(feed.close)
        await trio.sleep(1)
        with pytest.raises(ConnectionFailedError, match="the feed has ended"):
            await feed.reconnect()
    assert site.servers[0].closes == [1000]


@pytest.mark.parametrize("how", ["close", "channel", "subscribe"])
async def test_a_feed_that_ends_meanwhile_makes_it_raise(how: str, autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if how == "subscribe":
                raise ValueError("bug")

    async def reconnect() -> None:
        with pytest.raises(ConnectionFailedError, match="the feed has ended"):
            await feed.reconnect()
        failed.append(how)

    failed: list[str] = []
    site = Site()
    async with site.feed(subscribe) as feed, trio.open_nursery() as nursery:
        await settled()
        nursery.start_soon(reconnect)
        if how == "close":
            nursery.start_soon(feed.close)
        elif how == "channel":
            feed.channel().close()
    assert failed == [how]
    assert len(site.servers) == 1


@pytest.mark.parametrize("early", [False, True])
async def test_a_call_that_is_cancelled(early: bool, autojump_clock: MockClock) -> None:
    site = Site()
    async with site.feed() as feed:
        await settled()
        async with trio.open_nursery() as nursery:
            if early:
                nursery.cancel_scope.cancel()
            nursery.start_soon(feed.reconnect)
            for _ in range(2):  # then it has begun, whichever task runs first
                await trio.lowlevel.cancel_shielded_checkpoint()
            nursery.cancel_scope.cancel()
        await settled()
        # Before it began nothing is done, and later the feed connects again all the same.
        assert len(site.servers) == (1 if early else 2)
        assert feed.state.name == "open"


@pytest.mark.parametrize("steps", range(25))
async def test_a_call_may_be_cancelled_at_any_step(steps: int, autojump_clock: MockClock) -> None:
    numbers = [str(number) for number in range(40)]
    site = Site(saying(*map(text, numbers), ends=False))
    async with site.feed(channel_capacity=2) as feed:
        await settled()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.reconnect)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await settled()
        assert feed.state.name == "open"
        await feed.send("a")
        site.servers[-1].send(close(1000))
        taken = await rest(feed)
    assert shape(taken) == numbers + [1] * (len(site.servers) - 1)


@pytest.mark.parametrize("steps", range(25))
@pytest.mark.parametrize("how", ["close", "leave", "cancel", "raise"])
async def test_a_feed_may_be_ended_at_any_step_of_a_call(how: str, steps: int, autojump_clock: MockClock) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    site = Site(saying(*[text("x")] * 40, ends=False))
    feed = site.feed(channel_capacity=2)
    with contextlib.suppress(LookupError), trio.CancelScope() as scope:
        async with csp.BackgroundNursery() as nursery, feed:
            await settled()
            nursery.start_soon(reconnect_or_not, feed)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            if how == "close":
                await feed.close()
            elif how == "cancel":
                scope.cancel()
            elif how == "raise":
                raise LookupError
    assert feed.state.name == "closed"
    assert all(server.closed for server in site.servers)
    assert trio.current_time() == 0
    assert trio.lowlevel.current_statistics().tasks_living == tasks


@pytest.mark.parametrize("how", ["close", "leave", "cancel"])
async def test_a_feed_can_be_ended_while_what_a_connection_left_is_set_aside(
    how: str, autojump_clock: MockClock
) -> None:
    site = Site(saying(*[text("x")] * 40, ends=False))
    feed = site.feed(channel_capacity=1)
    with trio.CancelScope() as scope:
        async with feed, trio.open_nursery() as nursery:
            await settled()
            nursery.start_soon(reconnect_or_not, feed)
            await trio.lowlevel.checkpoint()
            if how == "close":
                await feed.close()
            elif how == "cancel":
                scope.cancel()
            elif how == "leave":
                nursery.cancel_scope.cancel()
    assert feed.state.name == "closed"
    assert all(server.closed for server in site.servers)
    assert trio.current_time() == 0


async def reconnect_or_not(feed: websocket.Feed) -> None:
    with contextlib.suppress(ConnectionFailedError):
        await feed.reconnect()


# Over sockets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["select", "loop"])
async def test_over_sockets_the_server_gets_the_close_frame_and_the_end(operation: str) -> None:
    heard: list[bytes] = []

    async def serve(peer: Peer) -> None:
        await peer.accept()
        number = len(heard)
        heard.append(b"")
        await peer.send(text(f"hello {number}"))
        while not heard[number]:
            heard[number] += await peer.stream.receive_some()

    async with raw_server(serve) as url, reconnecting(url) as feed:
        with trio.fail_after(30):
            assert (await feed.receive_value()).data == "hello 0"  # type: ignore[union-attr]
            if operation == "select":
                expiry = csp.after("10ms")
                r = await csp.select(feed.channel().case_receive(), expiry.case_receive())
                assert expiry.gave(r)
            await feed.reconnect()
            assert isinstance(await feed.receive_value(), Gap)
            assert (await feed.receive_value()).data == "hello 1"  # type: ignore[union-attr]
    assert [frames[0] for frames in heard] == [0x88, 0x88]
