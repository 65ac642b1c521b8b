"""Metrics: what is read from connections when it is collected, and what takes how long."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from csp import errors, testing, websocket
from tests.websocket.telemetry._exported import instrumented
from trio_csp_websocket.connection.delivery import Delivery

URL = "wss://api.test/feed"


async def echo(connection: testing.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)


async def test_totals_are_those_of_open_and_of_ended_connections(autojump_clock: MockClock) -> None:
    async def use() -> websocket.Statistics:
        async with websocket.connect(URL) as client:
            await client.send("abc")
            await client.receive()
            assert exported.values("websocket.connections") == {("client",): 1, ("server",): 1}
        return client.statistics()

    with instrumented() as exported:
        async with testing.websocket_server(echo):
            await use()
            counts = await use()
            await wait_all_tasks_blocked()
            messages, payload, io = (exported.values(f"websocket.{name}") for name in ("messages", "payload", "io"))
            assert messages == {(role, way): 2 for role in ("client", "server") for way in ("transmit", "receive")}
            assert payload == {(role, way): 6 for role in ("client", "server") for way in ("transmit", "receive")}
            assert io["client", "transmit"] == io["server", "receive"] == 2 * counts.bytes_sent
            assert exported.values("websocket.connections") == {("client",): 0, ("server",): 0}


async def test_the_ratio_tells_what_compression_saves(autojump_clock: MockClock) -> None:
    with instrumented() as exported:
        async with (
            testing.websocket_server(echo, compression=websocket.Compression.CONTEXT_TAKEOVER),
            websocket.connect(URL, compression=websocket.Compression.CONTEXT_TAKEOVER) as client,
        ):
            assert exported.values("websocket.inflation.ratio") == {}
            await client.send("a" * 10_000)
            await client.receive()
            counts = client.statistics()
            ratios = exported.values("websocket.inflation.ratio")
            compressed = exported.values("websocket.compressed")
    assert counts.inflated_bytes_sent == counts.inflated_bytes_received == 10_000
    assert 0 < counts.compressed_bytes_sent < 1000
    assert ratios["client", "transmit"] == 10_000 / counts.compressed_bytes_sent
    assert compressed["client", "receive"] == counts.compressed_bytes_received


async def test_what_waits_is_told(autojump_clock: MockClock) -> None:
    async def send(connection: testing.ServerConnection) -> None:
        for _ in range(3):
            await connection.send("x")
        connection.stop_reading()
        await trio.sleep_forever()

    with instrumented() as exported:
        async with testing.websocket_server(send), websocket.connect(URL, close_timeout="1s") as client:
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, bytes(1000))
                nursery.start_soon(client.send, bytes(1000))
                await wait_all_tasks_blocked()
                assert client.statistics().messages_waiting_send == 2
                assert exported.values("websocket.queue.messages") == {
                    ("client", "transmit"): 2,
                    ("client", "receive"): 3,
                    ("server", "transmit"): 0,
                    ("server", "receive"): 0,
                    ("feed", "receive"): 0,
                }
                assert exported.values("websocket.queue.bytes")["client", "transmit"] >= 2000
                nursery.cancel_scope.cancel()


async def test_a_connection_that_changes_while_it_is_read_is_left_out_of_what_waits(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(_delivery: Delivery) -> int:
        raise RuntimeError("OrderedDict mutated during iteration")

    with instrumented() as exported:
        async with testing.websocket_server(echo), websocket.connect(URL) as client:
            await client.send("a")
            await client.receive()
            with monkeypatch.context() as patch:
                patch.setattr(Delivery, "unread", property(changing))
                assert exported.values("websocket.queue.messages")["client", "receive"] == 0
                assert exported.values("websocket.messages")["client", "receive"] == 1


async def test_durations_of_connections_handshakes_and_round_trips(autojump_clock: MockClock) -> None:
    async def slow(connection: testing.ServerConnection) -> None:
        await trio.sleep(2)
        if connection.path == "/no":
            await connection.reject(503)
            return
        await connection.accept()
        await connection.wait_closed()

    with instrumented() as exported:
        async with testing.websocket_server(slow):
            async with websocket.connect(URL) as client:
                await (await client.ping()).receive_value()
                await trio.sleep(60)
            with pytest.raises(errors.ConnectionFailedError):
                await websocket.connect("wss://api.test/no").__aenter__()
        handshakes = exported.points("websocket.handshake.duration")
        connections = exported.points("websocket.connection.duration")
        trips = exported.points("websocket.round_trip")
    assert [(dict(point.attributes), point.sum) for point in handshakes] == [
        ({"websocket.role": "server"}, 2),
        ({"websocket.role": "client"}, 2),
        ({"websocket.role": "server", "http.response.status_code": 503, "error.type": "503"}, 2),
        ({"websocket.role": "client", "http.response.status_code": 503, "error.type": "503"}, 2),
    ]
    assert {
        (point.attributes["websocket.role"], point.attributes["websocket.close.code"]) for point in connections
    } == {
        ("client", 1000),
        ("server", 1000),
    }
    assert [point.sum for point in connections] == [60, 60]
    assert [(dict(point.attributes), point.count) for point in trips] == [({"websocket.role": "client"}, 1)]


async def test_a_pong_that_answers_nothing_is_no_round_trip(autojump_clock: MockClock) -> None:
    async def pong(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await connection.send_bytes(b"\x8a\x01x")
        await connection.wait_closed()

    with instrumented() as exported:
        async with testing.websocket_server(pong), websocket.connect(URL):
            await wait_all_tasks_blocked()
        assert exported.points("websocket.round_trip") == []


async def test_reconnects_and_the_queue_of_a_feed(autojump_clock: MockClock) -> None:
    async def restart(connection: testing.ServerConnection) -> None:
        await connection.send("a")
        await trio.sleep(60)
        await connection.close(1012)

    with instrumented() as exported:
        async with testing.websocket_server(restart), websocket.reconnecting(URL) as feed:
            await trio.sleep(70)
            assert exported.values("websocket.reconnects") == {(): 1}
            assert exported.values("websocket.queue.messages")["feed", "receive"] == len(feed.channel()) == 3
        assert exported.values("websocket.queue.messages")["feed", "receive"] == 0


async def test_connections_that_were_open_before_are_not_counted(autojump_clock: MockClock) -> None:
    async with testing.websocket_server(echo), websocket.connect(URL) as client:
        with instrumented() as exported:
            await client.send("a")
            await client.receive()
            await (await client.ping()).receive_value()
            await client.close()
            assert exported.values("websocket.messages")["client", "receive"] == 0
            assert exported.points("websocket.connection.duration") == []
