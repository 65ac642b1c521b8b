"""An open connection: delivering to the channel, backpressure, answers to pings, and the same over a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

import csp
from csp import websocket
from csp.websocket import Message
from tests.websocket._server import (
    BINARY,
    CONTINUATION,
    ENDED,
    PING,
    PONG,
    TEXT,
    Frame,
    Server,
    accepting,
    close,
    connecting,
    drained,
    frame,
    text,
)
from trio_csp_websocket.connection.connection import READ_BYTES
from trio_csp_websocket.connection.delivery import READ_AHEAD_BYTES
from trio_csp_websocket.connection.writer import MAX_WAITING_PONGS
from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_csp_websocket.transport.base import Transport


# Delivering -----------------------------------------------------------------------------------------------------------


async def test_messages_come_in_order_and_typed(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        server.send(text("a"), frame(BINARY, b"b"), frame(TEXT, b"c", fin=False), frame(CONTINUATION, b"d"))
        received = [(await client.receive()).value for _ in range(3)]
        assert received == [Message("text", "a"), Message("binary", b"b"), Message("text", "cd")]
        assert received[0].type == websocket.TYPE_TEXT
        assert received[1].type == websocket.TYPE_BINARY


async def test_a_slow_consumer_stops_the_reading(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=2) as client:
        opened = client.statistics().bytes_received
        block = frame(BINARY, bytes(1000)) * 70
        for _ in range(20):
            server.send(block)
        await wait_all_tasks_blocked()
        assert len(client.channel()) == 2
        # In blocks, as far as may be read ahead.
        assert READ_AHEAD_BYTES <= client.statistics().bytes_received - opened < READ_AHEAD_BYTES + READ_BYTES
        for _ in range(20 * 70):
            assert (await client.receive()).ok
        await wait_all_tasks_blocked()
        assert client.statistics().bytes_received - opened == 20 * len(block)


async def test_a_slow_consumer_stops_the_sending_of_a_peer_whose_stream_has_no_buffer(
    autojump_clock: MockClock,
) -> None:
    client_stream, server_stream = lockstep_stream_pair()
    sent = 0

    async def serve() -> None:
        nonlocal sent
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += await server_stream.receive_some(4096)
        server = Server()
        server._outgoing._outgoing.put(request)
        server.take_in()
        assert server.request is not None
        await server_stream.send_all(accepting(server.request))
        for _ in range(100):
            await server_stream.send_all(text("x" * 10_000))
            sent += 1

    async def dial() -> Transport:
        return StreamTransport(client_stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with trio.CancelScope() as scope:
            async with connecting(Server(), reach=dial, channel_capacity=3) as client:
                await wait_all_tasks_blocked()
                assert len(client.channel()) == 3
                assert sent == 3 + -(-READ_AHEAD_BYTES // 10_000)
                for _ in range(100):
                    assert (await client.receive()).ok
                scope.cancel()
                await trio.sleep_forever()
    await server_stream.aclose()


async def test_a_peers_close_behind_undelivered_data_is_answered_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 5, close(1011))
        server.end()
        await wait_all_tasks_blocked()
        assert server.closes == [1011]
        assert server.closed
        assert client.close_code == 1011
        assert not client.channel().closed
        assert await drained(client) == ["a"] * 5
        assert client.channel().cause is client.error


async def test_a_violation_behind_undelivered_data_is_told_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 5, frame(3))
        server.end()
        await wait_all_tasks_blocked()
        assert server.closes == [1002]
        assert await drained(client) == ["a"] * 5
        assert client.channel().cause is client.error


async def test_closing_wakes_a_reader_that_waits_for_the_consumer(autojump_clock: MockClock) -> None:
    server = Server()
    start = trio.current_time()
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 5)
        await wait_all_tasks_blocked()
        await client.close()
        assert trio.current_time() == start
        assert await drained(client) == ["a"]
        assert client.error is None


async def test_closing_right_after_a_receive_that_made_room_is_no_failure(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 2)
        await wait_all_tasks_blocked()
        assert (await client.receive()).ok
        await client.close()
    assert server.closes == [1000]
    assert server.closed


async def test_a_full_channel_that_is_drained_and_closed_by_the_consumer_is_no_failure(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 2)
        await wait_all_tasks_blocked()
        assert (await client.receive()).ok
        client.channel().close()
        server.send(text("b"))
        await wait_all_tasks_blocked()
        assert await drained(client) == ["a"]
        await client.send("still open")
    assert server.payloads == [b"still open", b"\x03\xe8"]


@pytest.mark.parametrize("parked", [False, True])
async def test_a_consumer_that_closes_the_channel_gets_nothing_more_and_the_connection_lives_on(
    parked: bool, autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        if parked:
            server.send(*[text("a")] * 5)
            await wait_all_tasks_blocked()
        client.channel().close()
        server.send(*[text("b")] * 1000, frame(PING, b"p"))
        server.send(frame(PONG, b""))
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, b"p")]
        assert await drained(client) == (["a"] if parked else [])
        await client.send("hello")
    assert server.payloads == [b"p", b"hello", b"\x03\xe8"]


async def test_a_waiting_receiver_gets_the_end(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client, trio.open_nursery() as nursery:
        results: list[object] = []

        async def receive() -> None:
            results.append(await client.receive())

        for _ in range(3):
            nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await client.close()
        await wait_all_tasks_blocked()
        assert results == [ENDED] * 3


async def test_a_selector_on_the_channel_sees_the_end_once(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with csp.Selector(client.channel().case_receive()) as selector:
            server.send(text("a"), close(1000))
            server.end()
            results: list[object] = [(result.ok, result.value) async for result in selector]
        assert results == [(True, Message("text", "a")), (False, None)]


# Pings ----------------------------------------------------------------------------------------------------------------


async def test_pings_already_read_are_answered_ahead_of_undelivered_data(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 5, frame(PING, b"p"), *[text("b")] * 5)
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, b"p")]
        assert [(await client.receive()).value.data for _ in range(10)] == ["a"] * 5 + ["b"] * 5


async def test_a_ping_behind_a_full_channel_is_answered(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(text("a"), text("b"))
        await wait_all_tasks_blocked()
        server.send(frame(PING, b"p"))
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, b"p")]
        assert len(client.channel()) == 1


async def test_a_ping_behind_more_than_is_read_ahead_is_answered_once_it_is_read(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        for _ in range(6):
            server.send(frame(BINARY, bytes(60_000)))
            await wait_all_tasks_blocked()
        server.send(frame(PING, b"p"))
        await wait_all_tasks_blocked()
        assert not server.frames
        assert (await client.receive()).ok
        assert (await client.receive()).ok
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, b"p")]
        assert client.statistics().messages_received == 6


@pytest.mark.parametrize("count", [1, 10, MAX_WAITING_PONGS, 1000])
async def test_of_many_pings_in_one_block_the_latest_are_answered(count: int, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server):
        server.send(*(frame(PING, b"%d" % number) for number in range(count)))
        await wait_all_tasks_blocked()
        answered = range(max(0, count - MAX_WAITING_PONGS), count)
        assert server.frames == [Frame(PONG, b"%d" % number) for number in answered]


@pytest.mark.parametrize("payload", [b"", b"x" * 125])
async def test_a_ping_is_answered_with_its_payload(payload: bytes, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server):
        server.send(frame(PING, payload))
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, payload)]


@pytest.mark.parametrize("code", [1013, 1014])
async def test_a_ping_before_the_peers_close_is_answered_with_a_pong(code: int, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        server.send(frame(PING, b"p"), close(code, "x"))
        server.end()
        assert not (await client.receive()).ok
        await wait_all_tasks_blocked()
        assert server.frames[0] == Frame(PONG, b"p")
        assert server.closes == [code]


# Over a socket --------------------------------------------------------------------------------------------------------


async def over_a_socket(serve: Callable[[trio.SocketStream], Any], nursery: trio.Nursery) -> Callable[[], Any]:
    """Start a server on one end of a pair of sockets; return what dials the other."""
    ours, theirs = trio.socket.socketpair()
    nursery.start_soon(serve, trio.SocketStream(theirs))

    async def dial() -> Transport:
        return SocketTransport(trio.SocketStream(ours))

    return dial


async def relay(server: Server, stream: trio.SocketStream) -> None:
    """Let a server in memory speak over a socket."""
    async with stream, trio.open_nursery() as nursery:

        async def outwards() -> None:
            while data := await server.stream.receive_some():
                await stream.send_all(data)
            await stream.send_eof()

        nursery.start_soon(outwards)
        while data := await stream.receive_some():
            await server.stream.send_all(data)


async def test_the_client_works_the_same_over_a_socket(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server()

    async def serve(stream: trio.SocketStream) -> None:
        await relay(server, stream)

    dial = await over_a_socket(serve, nursery)
    async with connecting(server, reach=dial) as client:
        await client.send("a")
        await client.send(bytes(1 << 20))
        server.send(text("b"), frame(PING, b"p"))
        assert (await client.receive()).value.data == "b"
        await client.close()
    assert server.payloads == [b"a", bytes(1 << 20), b"p", b"\x03\xe8"]
    nursery.cancel_scope.cancel()


async def test_cancelled_over_a_socket_tries_the_close_frame(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        with trio.CancelScope() as relaying:
            nursery.start_soon(stop_at_the_end, stream, relaying)
            await relay(server, stream)

    async def stop_at_the_end(stream: trio.SocketStream, relaying: trio.CancelScope) -> None:
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        relaying.cancel()
        ended.set()

    dial = await over_a_socket(serve, nursery)
    with trio.CancelScope() as scope:
        async with connecting(server, reach=dial):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    await ended.wait()
    assert server.closes == [1001]


async def test_several_may_wait_for_the_end(autojump_clock: MockClock) -> None:
    async with connecting(Server()) as client, trio.open_nursery() as nursery:
        connection = client._connection
        for _ in range(2):
            nursery.start_soon(connection.wait_ended)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 2
        await client.close()
    assert client.close_code == 1000
