"""What a server in memory reads and writes: compression, room, ends, clients and servers that break the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from csp.testing import ServerConnection, websocket_pair, websocket_server
from tests.websocket._server import BINARY, CLOSE, CONTINUATION, PING, TEXT, details, frame
from tests.websocket.testing._handlers import URL, dialled, echo, flood, greeter, masked, raw_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

TAKEOVER = websocket.COMPRESSION.CONTEXT_TAKEOVER


# Requests -------------------------------------------------------------------------------------------------------------


async def test_a_stream_that_ends_without_a_request_reaches_no_handler() -> None:
    async def handler(_connection: ServerConnection) -> None:
        pytest.fail("there was no request")

    async with websocket_server(handler):
        transport = await dialled()
        await transport.aclose()
        await wait_all_tasks_blocked()


# Messages -------------------------------------------------------------------------------------------------------------


async def test_large_messages_arrive_whole() -> None:
    text, data = "ä" * 1_000_000, bytes(range(256)) * 4096
    async with websocket_pair() as (client, server):
        await client.send(text)
        await client.send(data)
        assert [(await server.receive()).value.data for _ in range(2)] == [text, data]
        await server.send(data)
        assert (await client.receive()).value.data == data


async def test_fragments_of_a_client_are_put_together() -> None:
    received: list[websocket.Message] = []

    async def handler(connection: ServerConnection) -> None:
        received.extend([message async for message in connection])

    async with websocket_server(handler):
        stream = await raw_client()
        await stream.send_all(masked(TEXT, b"\xc3", fin=False) + masked(PING, b"!") + masked(CONTINUATION, b"\xa4"))
        assert await stream.receive_some(100) == b"\x8a\x01!"
        await stream.send_all(masked(BINARY, b"a", fin=False) + masked(CONTINUATION, b"b") + masked(CLOSE))
        assert await stream.receive_some(100) == b"\x88\x00"
        await stream.send_all(masked(TEXT, b"late"))
        assert await stream.receive_some(100) == b""
        await stream.aclose()
    assert received == [("text", "ä"), ("binary", b"ab")]


@pytest.mark.parametrize("mode", [TAKEOVER, websocket.COMPRESSION.NO_CONTEXT])
async def test_messages_are_compressed_both_ways(mode: websocket.Compression) -> None:
    text = "compressible " * 1000
    async with websocket_pair(compression=mode) as (client, server):
        for _ in range(3):
            await client.send(text)
            assert (await server.receive()).value.data == text
            await server.send(text)
            assert (await client.receive()).value.data == text
        statistics = client.statistics()
        assert statistics.bytes_sent < 2000
        assert statistics.bytes_received < 2000
        assert "permessage-deflate" in client.response_headers["Sec-WebSocket-Extensions"]


@pytest.mark.parametrize(("offered", "agreed"), [(True, False), (False, True)])
async def test_compression_needs_both_sides(offered: bool, agreed: bool) -> None:
    async def handler(connection: ServerConnection) -> None:
        mode = TAKEOVER if agreed else websocket.COMPRESSION.DISABLED
        await connection.accept(compression=mode)
        await echo(connection)

    options: Any = {"compression": TAKEOVER} if offered else {}
    async with websocket_server(handler), websocket.connect(URL, **options) as client:
        await client.send("a" * 1000)
        assert (await client.receive()).value.data == "a" * 1000
        assert client.statistics().bytes_sent > 1000
        assert "Sec-WebSocket-Extensions" not in client.response_headers


async def test_a_cancelled_send_spoils_no_compressed_message_behind_it(autojump_clock: MockClock) -> None:
    async with websocket_pair(compression=TAKEOVER, channel_capacity=1) as (client, server):
        sent = 0
        with trio.move_on_after(1):
            while True:
                sent += 1
                await server.send(f"message {sent} {'x' * 100_000}")
        assert 1 < sent < 10
        operations: list[Callable[[], Awaitable[None]]] = [
            lambda: server.send("never begun"),
            lambda: server.send_bytes(b"never begun"),
        ]
        for operation in operations:
            with trio.CancelScope() as scope:
                scope.cancel()
                await operation()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send, "last")
            received = [(await client.receive()).value.data for _ in range(sent + 1)]
    assert received == [*(f"message {number} {'x' * 100_000}" for number in range(1, sent + 1)), "last"]


async def test_raw_bytes_keep_their_place_among_messages() -> None:
    async with websocket_pair() as (client, server), trio.open_nursery() as nursery:
        for number in range(9):
            if number % 2:
                nursery.start_soon(server.send_bytes, frame(TEXT, b"%d" % number))
            else:
                nursery.start_soon(server.send, f"{number}")
            await wait_all_tasks_blocked()
        assert [(await client.receive()).value.data for _ in range(9)] == [f"{number}" for number in range(9)]
    assert server.statistics().messages_sent == 5


async def test_an_unanswered_ping_is_a_sign_of_life(autojump_clock: MockClock) -> None:
    async def handler(connection: ServerConnection) -> None:
        connection.answer_pings = False
        assert (await connection.receive_value()).data == "after a minute"

    async with websocket_server(handler, keepalive="10s"), websocket.connect(URL) as client:
        for _ in range(12):
            await client.ping()
            await trio.sleep(5)
        await client.send("after a minute")


async def test_sends_of_many_tasks_keep_the_order_of_their_calls() -> None:
    async with websocket_pair(channel_capacity=1) as (client, server), trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(server.send, f"{number}")
            await wait_all_tasks_blocked()
        assert [(await client.receive()).value.data for _ in range(50)] == [f"{number}" for number in range(50)]


# Backpressure ---------------------------------------------------------------------------------------------------------


async def test_a_client_that_is_not_read_waits(autojump_clock: MockClock) -> None:
    async with websocket_pair(write_timeout="5s") as (client, server):
        await client.send("read")
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError):
            await client.send("not read")
        assert trio.current_time() == 5
        assert (await server.receive()).value.data == "read"
        with pytest.raises(trio.WouldBlock):
            server.channel().receive_nowait()


async def test_reading_on_wakes_the_clients_sends() -> None:
    async with websocket_pair() as (client, server), trio.open_nursery() as nursery:
        server.stop_reading()
        server.stop_reading()
        nursery.start_soon(client.send, "one")
        nursery.start_soon(client.send, "two")
        await wait_all_tasks_blocked()
        assert len(server.channel()) == 0
        server.read_on()
        server.read_on()
        assert {(await server.receive()).value.data for _ in range(2)} == {"one", "two"}


async def test_a_client_that_is_never_received_from_waits_in_the_end(autojump_clock: MockClock) -> None:
    async with websocket_pair(close_timeout="1s") as (client, server):
        with trio.move_on_after(1):
            await flood(client)
        assert trio.current_time() == 1
        assert len(server.channel()) == 1000
        assert not server.channel().closed


async def test_a_server_waits_for_a_client_that_does_not_receive(autojump_clock: MockClock) -> None:
    async with websocket_pair(channel_capacity=4) as (client, server):
        with trio.move_on_after(1):
            for number in range(100):
                await server.send(f"{number:010000}")
        assert trio.current_time() == 1
        assert len(client.channel()) == 4
        # The server hears the client nevertheless.
        await client.send("still here")
        assert (await server.receive()).value.data == "still here"


async def test_reading_that_is_stopped_again_at_once_does_not_go_on(autojump_clock: MockClock) -> None:
    async with websocket_pair(close_timeout="1s") as (client, server):
        server.stop_reading()
        await wait_all_tasks_blocked()
        server.read_on()
        server.stop_reading()
        with trio.move_on_after(5) as waiting:
            await client.send("a")
            await server.receive()
        assert waiting.cancelled_caught


# Ends and violations --------------------------------------------------------------------------------------------------


async def test_dropping_in_the_middle_of_a_block_answers_no_ping_behind_it() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.receive()
        connection.drop()

    async with websocket_server(handler):
        stream = await raw_client()
        await stream.send_all((masked(TEXT, b"x") + masked(PING)) * 100)
        while await stream.receive_some(1000):
            pass
        await stream.aclose()


async def test_messages_behind_a_close_of_the_server_are_discarded() -> None:
    async with websocket_server(greeter("close me")):
        stream = await raw_client()
        received = b""
        while not received.endswith(b"\x88\x02\x03\xe8"):
            received += await stream.receive_some(100)
        await stream.send_all(masked(TEXT, b"late") + masked(PING) + masked(CLOSE, b"\x03\xe8"))
        assert await stream.receive_some(100) == b""
        await stream.aclose()


async def test_a_close_wakes_a_reading_that_has_no_room() -> None:
    async with websocket_pair() as (client, server), trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(ConnectionFailedError):
                await flood(client)

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        await server.close()
        assert server.close_code == 1000
        assert len(server.channel()) == 1000


async def test_dropping_while_the_reading_has_no_room() -> None:
    async with websocket_pair() as (client, server):
        async with trio.open_nursery() as nursery:

            async def drop() -> None:
                await wait_all_tasks_blocked()
                server.drop()

            nursery.start_soon(drop)
            with pytest.raises(ConnectionFailedError):
                await flood(client)
        await server.wait_closed()
        assert client.close_code == 1006


async def test_dropping_wakes_a_send_that_waits_for_the_client() -> None:
    async with websocket_pair(channel_capacity=1) as (_client, server), trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(ConnectionFailedError):
                await flood(server)

        nursery.start_soon(send)
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        server.drop()


async def test_a_client_that_vanishes_shows_as_an_error() -> None:
    errors: list[ConnectionFailedError | None] = []

    async def handler(connection: ServerConnection) -> None:
        with pytest.raises(ConnectionFailedError):
            await connection.__anext__()
        errors.append(connection.error)
        assert connection.close_code == 1006
        await connection.send("late")

    async with websocket_server(handler):
        await (await raw_client()).aclose()
        await wait_all_tasks_blocked()
    (error,) = errors
    assert error is not None
    assert (error.kind, error.retryable) == (Kind.UNAVAILABLE, True)
    assert details(error)["code"] == 1006


async def test_a_client_that_vanishes_while_it_is_sent_to_is_gone() -> None:
    async def handler(connection: ServerConnection) -> None:
        with pytest.raises(ConnectionFailedError):
            await flood(connection)

    async with websocket_server(handler):
        stream = await raw_client()
        await wait_all_tasks_blocked()
        await stream.aclose()


@pytest.mark.parametrize(
    ("violation", "code"),
    [
        (frame(TEXT, b"not masked"), 1002),
        (masked(TEXT, b"\xff"), 1007),
        (masked(TEXT, b"x", reserved=0x40), 1002),
        (masked(CONTINUATION, b"x"), 1002),
        (masked(CLOSE, b"\x03"), 1002),
    ],
)
async def test_a_client_that_breaks_the_protocol_shows_as_an_error(violation: bytes, code: int) -> None:
    errors: list[ConnectionFailedError | None] = []

    async def handler(connection: ServerConnection) -> None:
        assert not (await connection.receive()).ok
        errors.append(connection.error)
        assert connection.close_code == code

    async with websocket_server(handler):
        stream = await raw_client()
        await stream.send_all(violation + masked(TEXT, b"more"))
        assert (await stream.receive_some(100))[2:4] == code.to_bytes(2, "big")
        await stream.send_all(masked(TEXT, b"more"))
        assert await stream.receive_some(100) == b""
        await stream.aclose()
    (error,) = errors
    assert error is not None
    assert (error.kind, error.retryable) == (Kind.INTERNAL, False)
    assert details(error)["code"] == code


@pytest.mark.parametrize(
    ("raw", "code"),
    [(frame(TEXT, b"\xff"), 1007), (frame(0x3), 1002), (frame(TEXT, b"x", mask=b"mask"), 1002), (b"\x81\x05ab", None)],
)
async def test_violations_of_a_server(raw: bytes, code: int | None, autojump_clock: MockClock) -> None:
    async with websocket_pair() as (client, server):
        await server.send_bytes(raw)
        if code is None:
            server.drop()
        assert not (await client.receive()).ok
        assert client.close_code == (code or 1006)
        await server.wait_closed()
        assert server.close_code == (code or 1006)
