"""``connect``: where it works, what trio-websocket does for it, and connections in the caller's nursery."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_websocket
from trio.testing import wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind, NoContextError
from tests.websocket._server import URL, Frame, Server, close, connecting, drained, frame, text

if TYPE_CHECKING:
    from trio.testing import MockClock


# Where it works -------------------------------------------------------------------------------------------------------


async def test_awaited_without_a_nursery_says_what_to_write(autojump_clock: MockClock) -> None:
    with pytest.raises(NoContextError) as caught:
        await connecting(Server())
    assert caught.value.kind is Kind.INTERNAL
    assert caught.value.retryable is False
    assert "async with websocket.connect(url) as client" in str(caught.value)
    assert "await websocket.connect(url, nursery=nursery)" in str(caught.value)


def test_entered_outside_trio_is_an_error() -> None:
    async def enter() -> None:
        async with websocket.connect(URL):
            pytest.fail("it was opened")

    with pytest.raises(NoContextError) as caught:
        asyncio.run(enter())
    assert caught.value.kind is Kind.INTERNAL
    assert caught.value.retryable is False


def test_awaited_outside_trio_is_an_error() -> None:
    async def wait() -> None:
        await websocket.connect(URL)

    with pytest.raises(NoContextError):
        asyncio.run(wait())


def test_awaited_outside_trio_with_a_nursery_is_an_error() -> None:
    nurseries: list[trio.Nursery] = []

    async def keep() -> None:
        async with trio.open_nursery() as nursery:
            nurseries.append(nursery)

    trio.run(keep)

    async def wait() -> None:
        await websocket.connect(URL, nursery=nurseries[0])

    with pytest.raises(NoContextError):
        asyncio.run(wait())


async def test_entering_twice_is_an_error(autojump_clock: MockClock) -> None:
    once = connecting(Server())
    async with once:
        with pytest.raises(NoContextError, match="call connect again"):
            async with once:
                pytest.fail("it was opened")
    with pytest.raises(NoContextError):
        await once.__aenter__()


async def test_trio_websocket_opens_and_closes_the_connection(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    calls: list[object] = []
    wrap, aclose = trio_websocket.wrap_client_stream, trio_websocket.WebSocketConnection.aclose

    async def spying_wrap(*args: Any, **kwargs: Any) -> trio_websocket.WebSocketConnection:
        calls.append("open")
        return await wrap(*args, **kwargs)

    async def spying_aclose(self: Any, code: int = 1000, reason: str | None = None) -> None:
        calls.append(("close", code, reason))
        await aclose(self, code, reason)

    monkeypatch.setattr(trio_websocket, "wrap_client_stream", spying_wrap)
    monkeypatch.setattr(trio_websocket.WebSocketConnection, "aclose", spying_aclose)
    server = Server()
    async with connecting(server) as client:
        assert calls == ["open"]
        await client.close(3000, "bye")
    assert calls == ["open", ("close", 3000, "bye")]
    assert server.frames == [Frame(0x8, (3000).to_bytes(2, "big") + b"bye")]


# In the caller's nursery ----------------------------------------------------------------------------------------------


async def test_awaited_with_a_nursery_runs_there_until_closed(autojump_clock: MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery)
        server.send(text("a"))
        assert (await client.receive()).value.data == "a"
        await client.send("b")
        assert len(nursery.child_tasks) == 1
        await client.close()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert not nursery.cancel_scope.cancel_called
    assert server.payloads == [b"b", b"\x03\xe8"]
    assert server.closed


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", b"garbage\r\n\r\n"])
async def test_awaited_with_a_nursery_a_failure_comes_out_bare_and_leaves_the_nursery_alone(
    answer: bytes, autojump_clock: MockClock
) -> None:
    server = Server(answer)
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectionFailedError):
            await connecting(server, nursery=nursery)
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert not nursery.cancel_scope.cancel_called
    assert server.closed


async def test_awaited_with_a_nursery_a_timeout_comes_out_bare(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectionTimeoutError):
            await connecting(Server(b""), nursery=nursery)


async def test_awaited_with_a_nursery_and_cancelled_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(b"")
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1) as scope:
            await connecting(server, nursery=nursery)
        assert scope.cancelled_caught
        assert server.closed
        assert not nursery.cancel_scope.cancel_called


@pytest.mark.parametrize("ending", ["close", "eof", "reset", "violation"])
async def test_in_a_nursery_the_end_of_the_connection_cancels_nobody(ending: str, autojump_clock: MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery)
        server.send({"close": close(1011), "violation": frame(3)}.get(ending, b"") or text("a"))
        if ending == "reset":
            server.reset()
        else:
            server.end()
        await drained(client)
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert not nursery.cancel_scope.cancel_called
    assert server.closed


async def test_in_a_nursery_that_is_cancelled_the_connection_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery)
        nursery.cancel_scope.cancel()
    assert server.closes == [1001]
    assert server.closed
    assert trio.current_time() == start
    assert client.channel().closed


async def test_in_a_nursery_that_is_cancelled_a_task_that_closes_ends_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery, close_timeout=None)
        nursery.cancel_scope.cancel()
        # Both this task and that of the connection give it up now.
        await client.close()
    assert not server.unparsed
    assert server.closed
    assert trio.current_time() == start


async def test_in_a_nursery_everything_received_is_delivered_although_the_connection_has_ended(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery, channel_capacity=1)
        server.send(*(text(str(number)) for number in range(10)), close(1000))
        server.end()
        await wait_all_tasks_blocked()
        assert server.closed
        assert client.close_code == 1000
        assert await drained(client) == [str(number) for number in range(10)]
    assert client.channel().cause is None


async def test_in_a_nursery_closing_after_the_end_lets_go_of_what_nobody_takes(autojump_clock: MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery, channel_capacity=1)
        server.send(*[text("a")] * 5, close(1000))
        server.end()
        await wait_all_tasks_blocked()
        await client.close()
        await trio.sleep(1)
        left = len(nursery.child_tasks)
        nursery.cancel_scope.cancel()
    assert not left


async def test_in_a_nursery_the_consumer_may_close_the_channel_of_a_connection_that_ended(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, nursery=nursery, channel_capacity=1)
        server.send(*[text("a")] * 5, close(1011))
        server.end()
        await wait_all_tasks_blocked()
        client.channel().close()
    assert client.close_code == 1011
