"""Request and answer with `receive_value`: the message, or how the connection ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import testing, websocket
from csp.errors import UNAVAILABLE, ConnectionFailedError, ConnectionTimeoutError
from csp.websocket import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

URL = "wss://api.test/"
ENDED: object = (None, False)


def closing(code: int | None, reason: str = "") -> Callable[[testing.ServerConnection], Awaitable[None]]:
    """Return a handler that answers a request by closing."""

    async def handler(connection: testing.ServerConnection) -> None:
        await connection.receive_value()
        await connection.close(code, reason)

    return handler


async def test_the_answer_is_the_message_itself(autojump_clock: MockClock) -> None:
    async def echo(connection: testing.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message.data)

    async with testing.websocket_server(echo), websocket.connect(URL) as client:
        await client.send("hello")
        assert await client.receive_value() == Message("text", "hello")
        await client.send(b"again")
        assert (await client.channel().receive_value()).data == b"again"


async def test_a_server_that_closes_with_an_error_says_why(autojump_clock: MockClock) -> None:
    async with testing.websocket_server(closing(4001, "token expired")), websocket.connect(URL) as client:
        await client.send("hello")
        for _ in range(2):
            with pytest.raises(ConnectionFailedError, match="4001: token expired") as caught:
                await client.receive_value()
            assert caught.value.details == {"code": 4001, "reason": "token expired"}
            assert (caught.value.kind, caught.value.retryable) == (UNAVAILABLE, False)
            assert caught.value.__cause__ is client.error


@pytest.mark.parametrize(
    ("code", "reason", "seen"), [(1000, "bye", 1000), (1001, "", 1001), (None, "", 1005)], ids=["1000", "1001", "none"]
)
async def test_a_server_that_closes_quietly_is_the_end_of_the_channel(
    code: int | None, reason: str, seen: int, autojump_clock: MockClock
) -> None:
    async with testing.websocket_server(closing(code, reason)), websocket.connect(URL) as client:
        await client.send("hello")
        for receive_value in (client.receive_value, client.channel().receive_value):
            with pytest.raises(csp.EndOfChannelError, match=f"code {seen}, reason '{reason}'") as caught:
                await receive_value()
            assert isinstance(caught.value, trio.EndOfChannel)
            assert caught.value.details == {"code": seen, "reason": reason}
            assert caught.value.kind is UNAVAILABLE
        assert [message async for message in client] == []


async def test_after_our_own_close_it_is_the_end_of_the_channel_too(autojump_clock: MockClock) -> None:
    async with testing.websocket_pair() as (client, _server):
        await client.close(1000, "done")
        with pytest.raises(csp.EndOfChannelError) as caught:
            await client.receive_value()
        assert caught.value.details == {"code": client.close_code, "reason": client.close_reason}


async def test_messages_that_came_before_the_end_come_first(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.send("last")
        await connection.close(1000)

    async with testing.websocket_server(handler), websocket.connect(URL) as client:
        await client.wait_closed()
        assert (await client.receive_value()).data == "last"
        with pytest.raises(csp.EndOfChannelError):
            await client.receive_value()


async def test_a_timeout_is_the_error_of_the_answer(autojump_clock: MockClock) -> None:
    async def silent(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await trio.sleep_forever()

    async with testing.websocket_server(silent), websocket.connect(URL, read_timeout="1s") as client:
        with pytest.raises(ConnectionTimeoutError, match="no message within 1 s"):
            await client.receive_value()


async def test_a_cancelled_request_leaves_the_answer_to_the_next(autojump_clock: MockClock) -> None:
    async def late(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await trio.sleep(2)
        await connection.send("late")

    async with testing.websocket_server(late), websocket.connect(URL) as client:
        with trio.move_on_after(1) as scope:
            await client.receive_value()
        assert scope.cancelled_caught
        assert (await client.receive_value()).data == "late"


# Feeds ----------------------------------------------------------------------------------------------------------------


async def test_a_feed_gives_messages_and_gaps_and_raises_its_end(autojump_clock: MockClock) -> None:
    codes = [1012, 1000]

    async def handler(connection: testing.ServerConnection) -> None:
        await connection.send("here")
        await connection.close(codes.pop(0), "so it is")

    async with testing.websocket_server(handler), websocket.reconnecting(URL) as feed:
        assert await feed.receive_value() == Message("text", "here")
        gap = await feed.receive_value()
        assert isinstance(gap, csp.Gap)
        assert (gap.code, gap.reason, gap.missed, gap.attempts) == (1012, "so it is", None, 1)
        assert gap.error is not None
        assert gap.error.details == {"code": 1012, "reason": "so it is"}
        assert await feed.receive_value() == Message("text", "here")
        with pytest.raises(csp.EndOfChannelError) as caught:
            await feed.receive_value()
        assert caught.value.details == {"code": 1000, "reason": "so it is"}


async def test_a_gap_after_a_quiet_close_has_its_code_too(autojump_clock: MockClock) -> None:
    codes = [1001, None, 1000]

    async def handler(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await connection.close(codes.pop(0), "")

    async with testing.websocket_server(handler), websocket.reconnecting(URL) as feed:
        gaps = [gap async for gap in feed if isinstance(gap, csp.Gap)]
    assert [(gap.error, gap.code, gap.reason) for gap in gaps] == [(None, 1001, ""), (None, 1005, "")]


async def test_a_feed_that_never_had_a_connection_raises_why(autojump_clock: MockClock) -> None:
    async def no(connection: testing.ServerConnection) -> None:
        await connection.reject(401)

    async with testing.websocket_server(no), websocket.reconnecting(URL) as feed:
        with pytest.raises(ConnectionFailedError, match="status 401"):
            await feed.receive_value()


async def test_a_feed_that_was_closed_without_a_connection_has_no_details(autojump_clock: MockClock) -> None:
    async def never(connection: testing.ServerConnection) -> None:
        await trio.sleep_forever()

    async with testing.websocket_server(never), websocket.reconnecting(URL) as feed:
        await wait_all_tasks_blocked()
        await feed.close()
        with pytest.raises(csp.EndOfChannelError, match="there are no more values") as caught:
            await feed.receive_value()
        assert caught.value.details == {}


async def test_a_feed_that_was_cancelled_tells_of_its_last_connection(autojump_clock: MockClock) -> None:
    codes = [1012]

    async def handler(connection: testing.ServerConnection) -> None:
        await connection.send("here")
        if codes:
            await connection.close(codes.pop(), "restart")
        await trio.sleep_forever()

    feed = websocket.reconnecting(URL)
    async with testing.websocket_server(handler):
        with trio.CancelScope() as scope:
            async with feed:
                for _ in range(3):
                    await feed.receive_value()
                scope.cancel()
                await trio.sleep_forever()
        with pytest.raises(csp.EndOfChannelError) as caught:
            await feed.receive_value()
        assert caught.value.details == {"code": 1006, "reason": ""}


async def test_a_subscription_that_ran_into_the_end_of_another_source_is_no_quiet_end(
    autojump_clock: MockClock,
) -> None:
    async def accept(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await connection.wait_closed()

    async def subscribe(_client: websocket.Client) -> None:
        await tokens.receive_value()

    tokens = csp.Channel[str]()
    tokens.close()
    async with testing.websocket_server(accept), websocket.reconnecting(URL, subscribe=subscribe) as feed:
        with pytest.raises(csp.ChannelBrokenError, match="EndOfChannelError"):
            await feed.receive_value()


async def test_a_subscription_that_broke_is_the_cause(autojump_clock: MockClock) -> None:
    async def accept(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await connection.wait_closed()

    async def subscribe(_client: websocket.Client) -> None:
        raise KeyError("symbol")

    async with testing.websocket_server(accept), websocket.reconnecting(URL, subscribe=subscribe) as feed:
        for _ in range(2):
            with pytest.raises(csp.ChannelBrokenError, match="KeyError") as caught:
                await feed.receive_value()
            assert isinstance(caught.value.__cause__, KeyError)


async def test_a_subscription_may_wait_for_its_answer(autojump_clock: MockClock) -> None:
    answers = [None, "granted"]

    async def handler(connection: testing.ServerConnection) -> None:
        await connection.receive_value()
        answer = answers.pop(0)
        if answer is None:
            await connection.close(1012, "restarting")
        else:
            await connection.send(answer)
            await connection.close(1000)

    async def subscribe(client: websocket.Client) -> None:
        await client.send("subscribe")
        got.append((await client.receive_value()).data)

    got: list[object] = []
    async with testing.websocket_server(handler), websocket.reconnecting(URL, subscribe=subscribe) as feed:
        assert [value async for value in feed] == []
    assert got == ["granted"]


# Pings ----------------------------------------------------------------------------------------------------------------


async def test_a_pong_is_a_value_too(autojump_clock: MockClock) -> None:
    async with testing.websocket_pair() as (client, _server):
        pong = await client.ping()
        assert await pong.receive_value() == client.latency
        with pytest.raises(csp.EndOfChannelError) as caught:
            await pong.receive_value()
        assert caught.value.details == {}


async def test_a_ping_that_the_end_of_the_connection_leaves_unanswered_says_how_it_ended(
    autojump_clock: MockClock,
) -> None:
    async with testing.websocket_pair() as (client, server):
        server.answer_pings = False
        pong = await client.ping()
        await server.close(4001, "token expired")
        assert await pong.receive() == ENDED
        with pytest.raises(ConnectionFailedError, match="token expired"):
            await pong.receive_value()
    async with testing.websocket_pair() as (client, server):
        server.answer_pings = False
        pong = await client.ping()
        await server.close(1000, "bye")
        with pytest.raises(csp.EndOfChannelError) as caught:
            await pong.receive_value()
        assert caught.value.details == {"code": 1000, "reason": "bye"}


# The server's end in tests --------------------------------------------------------------------------------------------


async def test_a_test_server_that_waits_for_a_message_in_vain_fails_the_test(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.receive_value()

    with pytest.raises(AssertionError, match=r"closed with code 4000 and the reason 'enough'$"):
        async with testing.websocket_server(handler), websocket.connect(URL) as client:
            await client.close(4000, "enough")


async def test_a_test_server_learns_how_the_client_closed(autojump_clock: MockClock) -> None:
    seen: list[object] = []

    async def handler(connection: testing.ServerConnection) -> None:
        with pytest.raises(ConnectionFailedError) as caught:
            await connection.receive_value()
        seen.append(caught.value.details)

    async with testing.websocket_server(handler), websocket.connect(URL) as client:
        await client.close(4000, "enough")
    assert seen == [{"code": 4000, "reason": "enough"}]


@pytest.mark.parametrize("source", ["after", "PullSource", "throttle", "subscribe"])
async def test_every_source_has_it(source: str, autojump_clock: MockClock) -> None:
    numbers = csp.Channel[int](3)
    numbers.send_nowait(1)
    numbers.close()
    value: Any
    if source == "after":
        assert await csp.after("1s").receive_value() == 1.0
        return
    if source == "PullSource":
        async with csp.PullSource(numbers.receive_value) as values:  # its end is the end of the channel
            value, end = await values.receive_value(), await values.receive()
    elif source == "throttle":
        async with csp.throttle(numbers, "1s") as values:
            value, end = await values.receive_value(), await values.receive()
    else:
        async with csp.broadcast(numbers) as room:
            with room.subscribe(1, overflow="wait") as values:
                value, end = await values.receive_value(), await values.receive()
    assert (value, end) == (1, ENDED)
