"""Reading a bounded way ahead while the channel is full; what does not wait for the consumer, and what is given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from tests.websocket._server import (
    BINARY,
    ENDED,
    PING,
    PONG,
    TEXT,
    Frame,
    Server,
    close,
    connecting,
    drained,
    frame,
    text,
)
from trio_csp_websocket.connection.connection import READ_BYTES
from trio_csp_websocket.connection.delivery import READ_AHEAD_BYTES, READ_AHEAD_MESSAGES

if TYPE_CHECKING:
    from trio.testing import MockClock

    from csp.websocket import Client

PIECE = frame(BINARY, bytes(60_000))


async def flood(server: Server, count: int = 10) -> None:
    """Send more than is read ahead, in pieces that are read one by one."""
    for _ in range(count):
        server.send(PIECE)
        await wait_all_tasks_blocked()


async def test_a_consumer_that_waits_for_a_pong_gets_it_behind_a_full_channel(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client, trio.open_nursery() as nursery:

        async def serve() -> None:
            for number in range(100):
                server.send(text(f"{number}"))
                await trio.sleep(0.005)
            server.send(frame(PONG, server.payloads[-1]))

        pong = await client.ping()
        nursery.start_soon(serve)
        latency, ok = await pong.receive()
        assert ok
        assert latency == pytest.approx(0.5)
        assert [(await client.receive()).value.data for _ in range(100)] == [str(number) for number in range(100)]


@pytest.mark.parametrize("size", [0, 100])
async def test_what_is_read_ahead_is_bounded_in_bytes_and_in_messages(size: int, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        opened = client.statistics().bytes_received
        for _ in range(20):
            server.send(frame(TEXT, bytes(size)) * (40_000 // (size + 2)))
            await wait_all_tasks_blocked()
        ahead = client.statistics().bytes_received - opened
        assert ahead < READ_AHEAD_BYTES + READ_BYTES
        assert client.statistics().messages_received < READ_AHEAD_MESSAGES + READ_BYTES // (size + 2)
        assert ahead >= READ_AHEAD_BYTES or client.statistics().messages_received >= READ_AHEAD_MESSAGES


async def test_a_message_that_has_begun_is_read_to_its_end(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        sizes = [1, 1, 1_000_000, READ_BYTES]
        server.send(*(frame(BINARY, bytes(size)) for size in sizes), frame(PING, b"p"))
        await wait_all_tasks_blocked()
        assert client.statistics().messages_received == 3
        assert not server.frames
        assert [len((await client.receive()).value.data) for _ in range(4)] == sizes


async def test_reading_goes_on_as_messages_are_received(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        await flood(server, 20)
        before = client.statistics().messages_received
        assert before < 10
        for _ in range(3):
            assert (await client.receive()).ok
        await wait_all_tasks_blocked()
        assert client.statistics().messages_received > before


async def test_the_peers_close_is_seen_behind_a_full_channel(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text("a")] * 50, close(4001, "token expired"))
        server.end()
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (4001, "token expired")
        assert await drained(client) == ["a"] * 50
        assert client.channel().cause is client.error


# Beyond it ------------------------------------------------------------------------------------------------------------


async def test_an_awaited_ping_is_given_up_where_nothing_is_read_and_nobody_receives(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        await flood(server)
        pong = await client.ping()
        with trio.fail_after(5):
            assert await pong.receive() == ENDED
        assert client.close_code is None
        assert pong.cause is None
        # The pong comes all the same, and is nobody's any more.
        server.send(frame(PONG, server.payloads[-1]))
        for _ in range(10):
            assert (await client.receive()).ok
        again = await client.ping()
        server.send(frame(PONG, server.payloads[-1]))
        assert (await again.receive()).ok


async def test_a_ping_sent_before_reading_stopped_is_given_up_too(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client, trio.open_nursery() as nursery:
        pong = await client.ping()
        nursery.start_soon(flood, server)
        with trio.fail_after(5):
            assert await pong.receive() == ENDED


@pytest.mark.parametrize("by", ["select", "selector"])
async def test_however_it_is_awaited(by: str, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        await flood(server)
        pong = await client.ping()
        with trio.fail_after(5):
            if by == "select":
                r = await csp.select(pong.case_receive(), csp.never().case_receive())
            else:
                with csp.Selector(pong) as selector:
                    r = await selector.select()
        assert not r.ok


async def test_a_ping_that_nobody_awaits_yet_is_kept(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        await flood(server)
        pong = await client.ping()
        await trio.sleep(60)
        assert not pong.closed
        server.send(frame(PONG, server.payloads[-1]))
        for _ in range(10):
            assert (await client.receive()).ok
        await wait_all_tasks_blocked()
        assert (await pong.receive()).ok


async def test_a_ping_is_kept_while_messages_are_received_slowly(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client, trio.open_nursery() as nursery:
        await flood(server, 20)

        async def consume() -> None:
            for _ in range(20):
                await trio.sleep(0.9)
                assert (await client.receive()).ok

        pong = await client.ping()
        server.send(frame(PONG, server.payloads[-1]))
        nursery.start_soon(consume)
        assert (await pong.receive()).ok


async def test_closing_does_not_wait_for_who_does_not_receive(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        await flood(server)
        await client.close()
        assert trio.current_time() == 0
    assert server.closes == [1000]


async def test_a_consumer_that_closes_the_channel_lets_reading_go_on(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        await flood(server)
        client.channel().close()
        server.send(frame(PING, b"p"))
        await wait_all_tasks_blocked()
        assert Frame(PONG, b"p") in server.frames


async def end_at_once(client: Client) -> None:
    await client.close()


async def test_messages_that_wait_are_discarded_by_a_close(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=2) as client, trio.open_nursery() as nursery:
        await flood(server, 4)
        nursery.start_soon(end_at_once, client)
        await wait_all_tasks_blocked()
        assert len(await drained(client)) == 2
