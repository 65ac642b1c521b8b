"""A client as Trio's `AsyncResource`: as a block, `aclose`, `wait_closed`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import testing, websocket
from csp.errors import NoContextError
from tests.websocket._server import Server, close, connecting, text

if TYPE_CHECKING:
    from trio.testing import MockClock

    from csp.websocket import Client


async def test_a_client_is_an_async_resource(autojump_clock: MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client: trio.abc.AsyncResource = await connecting(server, nursery=nursery)
        assert isinstance(client, trio.abc.AsyncResource)
        await client.aclose()
        await client.aclose()
    assert server.closes == [1000]
    assert server.closed


async def test_a_block_of_a_client_closes_it(autojump_clock: MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        async with await connecting(server, nursery=nursery) as client:
            await client.send("a")
        assert client.close_code is not None
    assert server.closes == [1000]


async def test_a_block_that_fails_closes_it_with_1011(autojump_clock: MockClock) -> None:
    server = Server()

    async def fail(nursery: trio.Nursery) -> None:
        async with await connecting(server, nursery=nursery):
            raise KeyError("mine")

    async with trio.open_nursery() as nursery:
        with pytest.raises(KeyError, match="mine"):
            await fail(nursery)
    assert server.closes == [1011]


async def test_a_block_that_is_cancelled_closes_it_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with await connecting(server, nursery=nursery):
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == 0
        assert server.closed
    assert server.closes == [1001]


async def test_a_cancelled_aclose_still_closes_the_socket(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery)
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.aclose()
        assert scope.cancelled_caught
        assert server.closed
        assert trio.current_time() == 0


async def test_aclose_forcefully_is_trios(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery)
        await trio.aclose_forcefully(client)
        assert server.closed
        assert trio.current_time() == 0


@pytest.mark.parametrize("who", ["the server", "we", "the network"])
async def test_wait_closed_waits_for_whoever_ends_it(who: str, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client, trio.open_nursery() as nursery:
        returned: list[str] = []

        async def wait() -> None:
            await client.wait_closed()
            assert client.close_code is not None
            assert server.closed
            returned.append(who)

        for _ in range(2):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not returned
        if who == "the server":
            server.send(close(1000))
            server.end()
        elif who == "we":
            await client.close()
        else:
            server.reset()
        await wait_all_tasks_blocked()
        assert returned == [who] * 2
        await client.wait_closed()


async def test_wait_closed_does_not_wait_for_who_receives(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(text("a"), text("b"), text("c"), close(1000))
        server.end()
        await client.wait_closed()
        assert not client.channel().closed
        assert [message.data async for message in client] == ["a", "b", "c"]


async def test_a_cancelled_wait_changes_nothing(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with trio.move_on_after(1) as scope:
            await client.wait_closed()
        assert scope.cancelled_caught
        await client.send("a")
        assert client.close_code is None


# Feeds ----------------------------------------------------------------------------------------------------------------


async def test_a_feed_tells_when_it_has_ended(autojump_clock: MockClock) -> None:
    async def serve(connection: testing.ServerConnection) -> None:
        await connection.send("a")
        await trio.sleep(5)
        await connection.close(1000)

    clients: list[Client | None] = []
    async with testing.websocket_server(serve), websocket.reconnecting("wss://api.test/") as feed:
        await feed.wait_closed()
        assert trio.current_time() == 5
        assert feed.state.name == "closed"
        clients.append(feed.client)
        assert (await feed.receive_value()).data == "a"  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]
        await feed.wait_closed()
    assert clients == [None]


async def test_a_feed_that_was_not_entered_is_not_waited_for(autojump_clock: MockClock) -> None:
    with pytest.raises(NoContextError, match="a feed is a block"):
        await websocket.reconnecting("wss://api.test/").wait_closed()


async def test_a_feed_is_waited_for_while_it_is_closed(autojump_clock: MockClock) -> None:
    async def silent(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await connection.wait_closed()

    async with (
        testing.websocket_server(silent),
        websocket.reconnecting("wss://api.test/") as feed,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(feed.wait_closed)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        await feed.close()
