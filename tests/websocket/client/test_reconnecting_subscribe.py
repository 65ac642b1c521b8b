"""Connections that come back: what ``subscribe`` does at each of them, and how it fails."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from csp.errors import ConnectionFailedError, Error, InvalidError, InvalidTypeError, Kind
from csp.websocket import Client, Gap, Message, State
from tests.websocket._server import Server, close, details, text
from tests.websocket.client._feed import Site, drained_states, first_message, rest, saying, settled, shape

if TYPE_CHECKING:
    from trio.testing import MockClock


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
    assert site.dialled_at == pytest.approx([0, 1, 2, 4])


@pytest.mark.parametrize("data", [[], [close(1011)]], ids=["open", "ended"])
async def test_a_subscribe_that_is_not_async_ends_the_feed(data: list[bytes], autojump_clock: MockClock) -> None:
    def subscribe(client: Client) -> None:
        called.append(client)

    called: list[Client] = []
    site = Site(saying(*data, ends=bool(data)))
    async with site.feed(cast("Any", subscribe)) as feed:
        with pytest.raises(InvalidTypeError) as caught:
            await feed.receive_value()
    assert str(caught.value) == ("subscribe must be an async function: it returned NoneType, which cannot be awaited")
    assert len(called) == len(site.servers) == 1


async def test_a_subscribe_may_be_any_function_that_returns_what_can_be_awaited(autojump_clock: MockClock) -> None:
    site = Site(saying(text("a"), ends=False))
    async with site.feed(lambda client: client.send("subscribe")) as feed:
        await settled()
        site.servers[0].send(close(1000))
        assert shape(await rest(feed)) == ["a"]
    assert site.servers[0].payloads[0] == b"subscribe"


@pytest.mark.parametrize("bug", [InvalidError("bug"), ExceptionGroup("bugs", [InvalidError("bug")])])
async def test_a_wrong_argument_in_subscribe_ends_the_feed_although_the_connection_has_ended(
    bug: Exception, autojump_clock: MockClock
) -> None:
    async def subscribe(client: Client) -> None:
        await client.wait_closed()
        raise bug

    site = Site(saying(close(1011)))
    async with site.feed(subscribe) as feed:
        await feed.wait_closed()
        assert feed.channel().cause is bug
    assert len(site.servers) == 1


async def test_a_send_that_fails_while_subscribing_is_a_failed_attempt(autojump_clock: MockClock) -> None:
    async def subscribe(client: Client) -> None:
        if len(site.servers) == 1:
            site.servers[0].reset()
            await settled()
        await client.send("subscribe")

    site = Site(Server(), saying(text("a"), ends=False))
    async with site.feed(subscribe) as feed:
        assert (await feed.receive()).value == Message("text", "a")
        assert site.dialled_at == pytest.approx([0, 1])
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
