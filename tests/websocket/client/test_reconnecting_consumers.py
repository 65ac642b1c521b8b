"""Feeds come back whatever their consumers do: answer, wait for pongs, stop, never receive."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import testing, websocket
from csp.errors import ConnectionFailedError, NoContextError
from csp.websocket import Client, Feed, Gap
from tests.websocket._server import Server, close, text
from tests.websocket.client._feed import Site, down, refusing, rest, saying, settled, shape

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

URL = "wss://api.test/"


# Consumers that answer ------------------------------------------------------------------------------------------------


async def test_a_consumer_that_answers_each_message_gets_all_of_them(autojump_clock: MockClock) -> None:
    answers: list[list[object]] = []

    async def serve(connection: testing.ServerConnection) -> None:
        answers.append([])
        if len(answers) == 1:
            for number in range(200):  # more than there is room for
                await connection.send(str(number))
            connection.drop()
        else:
            async for message in connection:
                answers[-1].append(message.data)
                if len(answers[-1]) > 100:
                    await connection.close(1000)

    taken: list[object] = []
    async with testing.websocket_server(serve), websocket.reconnecting(URL, channel_capacity=4) as feed:
        with trio.fail_after(60):
            async for value in feed:
                if isinstance(value, Gap):
                    taken.append(value)
                    continue
                taken.append(value.data)
                with contextlib.suppress(ConnectionFailedError):  # once it has ended
                    await feed.send(f"ack {value.data!s}")
                if len(taken) < 50:
                    await trio.sleep(0.1)
    gaps = [value for value in taken if isinstance(value, Gap)]
    assert len(gaps) == 1
    assert taken[: len(taken) - 1] == [str(number) for number in range(len(taken) - 1)]
    assert gaps[0].missed is None


async def test_a_heartbeat_in_the_same_select_survives_a_lost_connection(autojump_clock: MockClock) -> None:
    served = 0

    async def serve(connection: testing.ServerConnection) -> None:
        nonlocal served
        served += 1
        for number in range(100):
            await connection.send(str(number))
        connection.drop()

    async with testing.websocket_server(serve), websocket.reconnecting(URL, channel_capacity=2) as feed:
        heartbeat = csp.tick("1s")
        with trio.move_on_after(60):
            while True:
                r = await csp.select(feed.channel().case_receive(), heartbeat.case_receive())
                if heartbeat.gave(r):
                    await feed.send("heartbeat")
                else:
                    await trio.sleep(0.3)
    assert served > 2


async def test_a_consumer_that_waits_for_a_pong_of_each_connection(autojump_clock: MockClock) -> None:
    async def serve(connection: testing.ServerConnection) -> None:
        for number in range(60):
            await connection.send(str(number))
        await trio.sleep(1)
        connection.drop()

    async with testing.websocket_server(serve), websocket.reconnecting(URL, channel_capacity=2) as feed:
        gaps = 0
        with trio.fail_after(120):
            async for value in feed:
                if isinstance(value, Gap):
                    gaps += 1
                    if gaps == 3:
                        break
                elif feed.client is not None:
                    try:
                        pong = await feed.client.ping()
                    except ConnectionFailedError:
                        continue
                    await pong.receive()


# Consumers that do not receive ----------------------------------------------------------------------------------------


async def test_what_is_lost_meanwhile_comes_ahead_of_the_gap(autojump_clock: MockClock) -> None:
    numbers = [str(number) for number in range(50)]
    site = Site(saying(*map(text, numbers)), down(), saying(text("back"), ends=False))
    async with site.feed(channel_capacity=2) as feed:
        await trio.sleep(600)  # nobody receives
        assert feed.state.name == "open"
        assert feed.client is not None
        taken = [(await feed.receive()).value for _ in range(52)]
        gap = taken[50]
        assert isinstance(gap, Gap)
        assert (gap.attempts, gap.missed, gap.code) == (2, None, 1006)
        assert gap.seconds == pytest.approx(2.0)  # and not 600
        assert [getattr(value, "data", None) for value in taken] == [*numbers, None, "back"]


async def test_what_further_connections_leave_is_dropped_and_counted(autojump_clock: MockClock) -> None:
    many = [text("x")] * 40
    site = Site(saying(*many), saying(*many), saying(*many, close(1012)), saying(text("back"), close(1000)))
    async with site.feed(channel_capacity=2) as feed:
        await trio.sleep(600)
        taken = await rest(feed)
    gaps = [value for value in taken if isinstance(value, Gap)]
    assert taken == [*["x"] * 40, gaps[0], "back"]
    assert (gaps[0].missed, gaps[0].code, gaps[0].attempts) == (80, 1006, 3)
    assert gaps[0].seconds == pytest.approx(sum(site.dialled_at[1:]) - sum(site.dialled_at[:-1]), abs=0.1)


async def test_a_consumer_that_begins_late_finds_the_feed_open(autojump_clock: MockClock) -> None:
    site = Site(saying(*[text("x")] * 10), saying(*[text("y")] * 10, ends=False))
    async with site.feed(channel_capacity=16) as feed:
        await trio.sleep(100)
        assert (feed.state.name, feed.client is not None) == ("open", True)
        assert shape(
            [getattr(value, "data", value) for value in [(await feed.receive()).value for _ in range(21)]]
        ) == [
            *["x"] * 10,
            1,
            *["y"] * 10,
        ]


async def test_what_was_received_last_is_there_after_the_end(autojump_clock: MockClock) -> None:
    async with Site(saying(*[text("x")] * 40, close(1000))).feed(channel_capacity=2) as feed:
        await feed.wait_closed()
        assert feed.state.name == "closed"
        assert not feed.channel().closed
        with pytest.raises(ConnectionFailedError, match="the feed has ended"):
            await feed.send("too late")
        assert await rest(feed) == ["x"] * 40


@pytest.mark.parametrize("by", ["close", "channel", "block"])
async def test_what_waits_after_the_end_can_be_left(by: str, autojump_clock: MockClock) -> None:
    async with Site(saying(*[text("x")] * 40, close(1008))).feed(channel_capacity=2) as feed:
        await feed.wait_closed()
        if by == "close":
            await feed.close()
            assert feed.channel().closed
        elif by == "channel":
            feed.channel().close()
    assert feed.channel().closed
    if by == "channel":
        assert feed.channel().cause is None
    else:
        assert isinstance(feed.channel().cause, ConnectionFailedError)


async def test_a_consumer_that_stops_in_the_middle_closes_the_feed(autojump_clock: MockClock) -> None:
    site = Site(saying(*[text("x")] * 40, ends=False))
    async with site.feed(channel_capacity=2) as feed:
        await feed.receive()
        feed.channel().close()
        await feed.wait_closed()
        assert feed.state.name == "closed"
    assert site.servers[0].closes == [1000]


async def test_what_a_bomb_leaves_is_bounded(autojump_clock: MockClock) -> None:
    zeros = bytes(100_000)

    async def serve(connection: testing.ServerConnection) -> None:
        await connection.accept(compression=websocket.COMPRESSION.CONTEXT_TAKEOVER)
        for _ in range(200):
            await connection.send(zeros)
        connection.drop()

    compression = websocket.COMPRESSION.CONTEXT_TAKEOVER
    async with (
        testing.websocket_server(serve),
        websocket.reconnecting(URL, channel_capacity=1, compression=compression) as feed,
    ):
        await trio.sleep(600)
        assert len(feed._keeper._line._values) < 50


# Feeds that are only sent on ------------------------------------------------------------------------------------------


async def test_a_feed_that_is_only_sent_on_comes_back_however_many_answers_wait(autojump_clock: MockClock) -> None:
    got: list[list[object]] = []

    async def serve(connection: testing.ServerConnection) -> None:
        mine: list[object] = []
        got.append(mine)
        async for message in connection:
            mine.append(message.data)
            await connection.send(f"ack {message.data!s}")
            if len(got) == 1 and len(mine) == 100:
                connection.drop()
                return

    failed = 0
    async with testing.websocket_server(serve), websocket.reconnecting(URL) as feed:
        with trio.fail_after(600):
            for number in range(300):
                try:
                    await feed.send(str(number))
                except ConnectionFailedError:
                    failed += 1
                await trio.sleep(0.01)
        assert len(got) == 2
        assert failed < 5
        assert len(got[0]) + len(got[1]) >= 295
        assert feed.state.name == "open"


# Inside subscribe -----------------------------------------------------------------------------------------------------


async def test_sending_on_the_feed_inside_subscribe_is_an_error_at_once(autojump_clock: MockClock) -> None:
    caught: list[NoContextError] = []

    async def subscribe(client: Client) -> None:
        for send in (feed.send, in_a_nursery):
            with pytest.raises(NoContextError, match=r"write `await client\.send") as error:
                await send("subscribe")
            caught.append(error.value)
        await client.send("subscribe")

    async def in_a_nursery(data: str) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed.send, data)
        except* NoContextError as group:
            raise group.exceptions[0] from None

    site = Site(Server())
    async with site.feed(subscribe) as feed:
        await settled()
        assert len(caught) == 2
        assert site.servers[0].payloads == [b"subscribe"]


@pytest.mark.parametrize("receive", [Feed.receive, Feed.receive_value, anext])
async def test_receiving_from_the_feed_inside_subscribe_is_an_error_at_once(
    receive: Callable[[Feed], Awaitable[object]], autojump_clock: MockClock
) -> None:
    async def subscribe(client: Client) -> None:
        with pytest.raises(NoContextError, match=r"write `await client\.receive_value"):
            await receive(feed)
        answers.append((await client.receive_value()).data)

    answers: list[object] = []
    site = Site(saying(text("subscribed"), text("first"), ends=False))
    async with site.feed(subscribe) as feed:
        assert (await feed.receive_value()).data == "first"  # type: ignore[union-attr]
    assert answers == ["subscribed"]


async def test_a_task_started_elsewhere_waits_for_the_connection(autojump_clock: MockClock) -> None:
    async def subscribe(_client: Client) -> None:
        outer.start_soon(feed.send, "from a task that subscribe only starts")
        await wait_all_tasks_blocked()

    site = Site(Server())
    async with site.feed(subscribe) as feed, trio.open_nursery() as outer:
        outer.start_soon(feed.send, "from another task")
        await settled()
    assert sorted(site.servers[0].payloads[:2]) == [b"from a task that subscribe only starts", b"from another task"]


@pytest.mark.parametrize("answers", [False, True])
async def test_a_pong_is_waited_for_inside_subscribe(answers: bool, autojump_clock: MockClock) -> None:
    async def serve(connection: testing.ServerConnection) -> None:
        connection.answer_pings = answers
        for number in range(100):
            await connection.send(str(number))
        await trio.sleep(5)
        await connection.close(1000)

    async def subscribe(client: Client) -> None:
        pong = await client.ping()
        got.append((await pong.receive()).ok)

    got: list[Any] = []
    async with testing.websocket_server(serve), websocket.reconnecting(URL, subscribe=subscribe) as feed:
        with trio.fail_after(60):
            await feed.wait_closed()
    assert got == [answers]


# Found by an attack ---------------------------------------------------------------------------------------------------


async def test_a_channel_that_is_closed_during_a_handshake_ends_the_feed(autojump_clock: MockClock) -> None:
    slow = Server(lambda _request: b"")
    site = Site(saying(*[text("x")] * 40, close(1012)), slow)
    async with site.feed(channel_capacity=2, dial_timeout="1000s") as feed:
        await trio.sleep(100)
        assert slow.request is not None
        began = trio.current_time()
        feed.channel().close()
        await feed.wait_closed()
    assert trio.current_time() == began


async def test_a_channel_that_is_closed_between_attempts_ends_the_feed(autojump_clock: MockClock) -> None:
    site = Site(saying(*[text("x")] * 40, close(1012)), *[down() for _ in range(6)])
    async with site.feed(channel_capacity=2) as feed:
        await trio.sleep(20)
        feed.channel().close()
        await feed.close()
        assert trio.current_time() == 20


async def test_of_the_last_connection_nothing_is_dropped(autojump_clock: MockClock) -> None:
    async def serve(connection: testing.ServerConnection) -> None:
        await connection.accept(compression=websocket.COMPRESSION.CONTEXT_TAKEOVER)
        for number in range(60):
            await connection.send(f"{number:050000}")
        await connection.close(1000)

    compression = websocket.COMPRESSION.CONTEXT_TAKEOVER
    async with testing.websocket_server(serve), websocket.reconnecting(URL, compression=compression) as feed:
        await trio.sleep(1)
        taken = await rest(feed)
        assert feed.channel().cause is None
    assert len(taken) == 60


@pytest.mark.parametrize("last", ["refused", "given up"])
async def test_what_was_dropped_before_the_end_is_counted_in_a_gap(last: str, autojump_clock: MockClock) -> None:
    many = [text("x")] * 40
    ends = [refusing("401 Unauthorized")] if last == "refused" else [down(), down(), down()]
    site = Site(saying(*many, close(1012)), saying(*many, close(1012)), *ends)
    async with site.feed(channel_capacity=2, max_attempts=4) as feed:
        await trio.sleep(100)
        taken = await rest(feed)
        assert isinstance(feed.channel().cause, ConnectionFailedError)
    assert taken[:40] == ["x"] * 40
    gap = taken[40]
    assert isinstance(gap, Gap)
    assert (gap.missed, gap.code, len(taken)) == (40, 1012, 41)


async def test_closing_the_clients_own_channel_ends_the_feed_quietly(autojump_clock: MockClock) -> None:
    site = Site(saying(text("a"), ends=False))
    async with site.feed() as feed:
        await feed.receive()
        assert feed.client is not None
        feed.client.channel().close()
        await feed.wait_closed()
        assert trio.current_time() == 0
        assert await rest(feed) == []
    assert site.servers[0].closes == [1000]


async def test_what_the_last_connection_received_comes_behind_what_waits(autojump_clock: MockClock) -> None:
    site = Site(saying(*[text("x")] * 40), saying(*[text("y")] * 40, close(1000)))
    async with site.feed(channel_capacity=2) as feed:
        await feed.wait_closed()
        assert feed.state.name == "closed"
        assert shape(await rest(feed)) == [*["x"] * 40, 1, *["y"] * 40]
