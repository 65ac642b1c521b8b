"""Connections that come back: how a feed ends, by ``close``, by the end of its block, by cancellation."""

from __future__ import annotations

import contextlib
import gc
import signal
from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import testing
from csp.errors import Error, InvalidError, Kind
from csp.websocket import Client, Feed, Gap, State, reconnecting
from tests.websocket._server import CLOSE, Frame, Server, close, text
from tests.websocket.client._feed import URL, Site, down, rest, saying, settled, shape, unwilling

if TYPE_CHECKING:
    from trio.testing import MockClock


async def until_connecting(feed: Feed, site: Site) -> None:
    site.to_come.insert(0, unwilling())
    await settled()
    assert feed.state.name == "connecting"
    assert len(site.servers) == 1


async def until_waiting(feed: Feed, site: Site) -> None:
    site.to_come.insert(0, down())
    await settled()
    assert feed.state.name == "waiting"


async def until_subscribing(feed: Feed, site: Site) -> None:
    await settled()
    assert feed.state.name == "connecting"
    assert len(site.servers[0].frames) == 1


async def until_open(feed: Feed, site: Site) -> None:
    site.to_come.insert(0, saying(text("yes"), ends=False))
    await settled()
    assert feed.state.name == "open"


async def until_full(feed: Feed, site: Site) -> None:
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
            await trio.sleep(0.9)
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
    assert 61 <= gap.seconds <= 62
    assert connections == [url] * 3


async def test_real_delays_are_random(autojump_clock: MockClock) -> None:
    async def nobody(connection: testing.ServerConnection) -> None:
        await connection.reject(503)

    async with (
        testing.websocket_server(nobody),
        reconnecting(URL, min_delay="1000ms", max_delay="2s", max_attempts=9) as feed,
    ):
        waits: list[float] = []
        while (state := await feed.states().receive_value()).name != "closed":
            waits += [state.seconds] * (state.name == "waiting")
    assert len(set(waits)) == 8
    assert all(1 <= wait <= 2 for wait in waits)
