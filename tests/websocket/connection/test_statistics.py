"""Counts: the same on every end, of a connection and of several."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

from csp import errors, testing, websocket
from tests.websocket.server._lobby import RawClient, close_frame, handshake, listening, masked

if TYPE_CHECKING:
    from trio.testing import MockClock

URL = "wss://api.test/feed"
TAKEOVER = websocket.Compression.CONTEXT_TAKEOVER
NAMES = {field.name for field in fields(websocket.Statistics)}


def test_all_ends_have_the_same_counts_of_the_same_type() -> None:
    types = {field.name: field.type for field in fields(websocket.Statistics)}
    assert set(types.values()) == {"int"}
    for other in (websocket.ServerStatistics, websocket.FeedStatistics):
        assert {field.name: field.type for field in fields(other) if field.name in types} == types


async def test_both_ends_count_the_same(autojump_clock: MockClock) -> None:
    async def echo(connection: testing.ServerConnection) -> None:
        ends.append(connection)
        async for message in connection:
            await connection.send(message.data)

    ends: list[testing.ServerConnection] = []
    async with (
        testing.websocket_server(echo, compression=TAKEOVER),
        websocket.connect(URL, compression=TAKEOVER) as client,
    ):
        for data in ("a", "", "b" * 5000):
            await client.send(data)
            await client.receive()
        await wait_all_tasks_blocked()
        ours, theirs = client.statistics(), ends[0].statistics()
        for name in ("messages", "bytes", "payload_bytes", "compressed_bytes", "inflated_bytes"):
            assert getattr(ours, f"{name}_sent") == getattr(theirs, f"{name}_received") > 0, name
            assert getattr(ours, f"{name}_received") == getattr(theirs, f"{name}_sent") > 0, name
        assert ours.inflated_bytes_sent == 5000 > 50 * ours.compressed_bytes_sent


async def test_fragments_of_a_compressed_message_are_counted(autojump_clock: MockClock) -> None:
    import zlib

    compressor = zlib.compressobj(wbits=-15)
    data = (compressor.compress(b"x" * 3000) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    async with listening(compression=TAKEOVER) as (server, lobby):
        client = lobby.connect()
        extension = "Sec-WebSocket-Extensions: permessage-deflate"
        await client.send(handshake("/", extension), masked(2, data[:3], fin=False, reserved=0x40), masked(0, data[3:]))
        connection = await server.receive_value()
        assert (await connection.receive_value()).data == b"x" * 3000
        counts = connection.statistics()
        assert (counts.compressed_bytes_received, counts.inflated_bytes_received) == (len(data), 3000)


async def test_an_empty_message_that_is_compressed_has_one_byte(autojump_clock: MockClock) -> None:
    async def wait(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await connection.wait_closed()

    async with (
        testing.websocket_server(wait, compression=TAKEOVER),
        websocket.connect(URL, compression=TAKEOVER, compression_threshold=0) as client,
    ):
        await client.send("")
        counts = client.statistics()
        assert (counts.compressed_bytes_sent, counts.inflated_bytes_sent) == (1, 0)


async def test_what_waits_is_counted_until_it_is_taken(autojump_clock: MockClock) -> None:
    async def send(connection: testing.ServerConnection) -> None:
        for number in range(30):
            await connection.send(str(number))
        connection.stop_reading()
        await trio.sleep(100)
        connection.read_on()
        await connection.wait_closed()

    async with testing.websocket_server(send), websocket.connect(URL) as client, trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        assert client.statistics().messages_waiting_receive == 30
        for _ in range(30):
            await client.receive()
        assert client.statistics().messages_waiting_receive == 0
        for _ in range(3):
            nursery.start_soon(client.send, bytes(100))
        await wait_all_tasks_blocked()
        counts = client.statistics()
        assert (counts.messages_waiting_send, counts.bytes_waiting_send) == (3, 3 * 106)
        await trio.sleep(200)
        counts = client.statistics()
        assert (counts.messages_waiting_send, counts.bytes_waiting_send) == (0, 0)


async def test_the_close_frame_of_an_end_that_is_given_up_is_counted(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby):
        client = lobby.connect()
        await client.send(handshake())
        connection = await server.receive_value()
        received = await _received_at_the_end(connection, client)
        assert connection.statistics().bytes_sent == len(received)
        assert received.endswith(b"\x88\x02\x03\xe9")  # 1001


async def _received_at_the_end(connection: websocket.ServerConnection, client: RawClient) -> bytes:
    with trio.CancelScope() as scope:
        async with connection:
            await connection.accept()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    received = b""
    while block := await client.stream.receive_some():
        received += block
    return received


async def test_a_close_frame_that_was_never_written_waits_no_more(autojump_clock: MockClock) -> None:
    near, far = lockstep_stream_pair()
    async with listening(close_timeout="2s", write_timeout=None, keepalive=None) as (server, lobby):
        lobby.bring(far)
        client = RawClient(near)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ask)
            connection = await server.receive_value()
            await connection.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_into_nothing, connection)
            await wait_all_tasks_blocked()
            await client.stream.send_all(close_frame(1000))
            await wait_all_tasks_blocked()
            assert connection.statistics().bytes_waiting_send > 4
            await connection.wait_closed()
        assert connection.close_code == 1000
        assert connection.statistics().bytes_waiting_send == 0


async def _send_into_nothing(connection: websocket.ServerConnection) -> None:
    with pytest.raises(errors.ConnectionFailedError):
        await connection.send("x" * 100)


@pytest.mark.parametrize("how", ["close", "leave"])
async def test_a_server_sums_up_open_and_ended_connections(how: str, autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby):
        for _ in range(3):
            client = lobby.connect()
            await client.send(handshake())
            connection = await server.receive_value()
            await connection.send("abc")
            await client.answer()
            await client.text()
            if how == "close":
                await client.close()
            else:
                await client.leave()
        last = lobby.connect()
        await last.send(handshake(), masked(1, b"x"), masked(1, b"y"))
        await (await server.receive_value()).accept()
        await wait_all_tasks_blocked()
        counts = server.statistics()
        assert (counts.open, counts.accepted, counts.messages_sent, counts.payload_bytes_sent) == (1, 4, 3, 9)
        assert (counts.messages_received, counts.messages_waiting_receive) == (2, 2)
        before = counts.bytes_received
        await last.leave()
        await wait_all_tasks_blocked()
        counts = server.statistics()
        assert (counts.open, counts.messages_received, counts.messages_waiting_receive) == (0, 2, 0)
        assert counts.bytes_received == before


async def test_a_feed_sums_up_its_connections_and_counts_attempts(autojump_clock: MockClock) -> None:
    served = 0

    async def serve(connection: testing.ServerConnection) -> None:
        nonlocal served
        served += 1
        if served == 2:
            await connection.reject(503)
            return
        await connection.send("a")
        await connection.receive()
        await connection.close(1012 if served < 3 else 1000)

    async with testing.websocket_server(serve), websocket.reconnecting(URL) as feed:
        counts = feed.statistics()
        assert (counts.attempts, counts.connections, counts.messages_received, counts.missed) == (0, 0, 0, 0)
        await wait_all_tasks_blocked()
        assert feed.statistics().messages_waiting_receive == 1
        await feed.send("b")
        await trio.sleep(60)
        counts = feed.statistics()
        assert (counts.attempts, counts.connections, counts.messages_sent, counts.messages_received) == (3, 2, 1, 2)
        assert counts.messages_waiting_receive == 3  # with the gap
        await feed.send("b")
        await feed.wait_closed()
        counts = feed.statistics()
        assert (counts.messages_sent, counts.payload_bytes_received, counts.bytes_waiting_send) == (2, 2, 0)


async def test_messages_that_a_feed_drops_are_counted(autojump_clock: MockClock) -> None:
    async def flood(connection: testing.ServerConnection) -> None:
        for _ in range(40):
            await connection.send("x")
        await connection.close(1012)

    async with testing.websocket_server(flood), websocket.reconnecting(URL, channel_capacity=1) as feed:
        await trio.sleep(100)
        missed = 0
        with trio.move_on_after(200):
            async for value in feed:
                missed += (value.missed or 0) if isinstance(value, websocket.Gap) else 0
        assert 0 < missed <= feed.statistics().missed
