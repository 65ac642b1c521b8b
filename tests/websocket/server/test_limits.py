"""What is limited: time, sizes, and numbers."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.websocket.server._lobby import (
    LOGGER,
    PING,
    PONG,
    TEXT,
    Lobby,
    RawClient,
    close_frame,
    connected,
    debug_lines,
    handshake,
    listening,
    masked,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

# Requests -------------------------------------------------------------------------------------------------------------


async def test_a_request_has_one_deadline_however_it_comes(autojump_clock: MockClock) -> None:
    async with listening(handshake_timeout="10s") as (server, lobby):
        client = lobby.connect()
        request = handshake()

        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def drip() -> None:
                for byte in request[:-1]:
                    await client.send(bytes((byte,)))
                    await trio.sleep(1)

            answer = await client.answer()
            assert trio.current_time() == pytest.approx(10)
            nursery.cancel_scope.cancel()
        assert (answer.status, answer.body) == (408, b"the request was not complete within 10 s\n")
        await client.ended()
        assert server.statistics().timed_out == 1


async def test_without_a_deadline_a_request_may_take_any_time(autojump_clock: MockClock) -> None:
    async with listening(handshake_timeout=None) as (server, lobby):
        client = lobby.connect()
        await client.send(handshake()[:-1])
        await trio.sleep(80_000)
        await client.send(handshake()[-1:])
        connection = await server.receive_value()
        await trio.sleep(80_000)
        await connection.accept()
        assert (await client.answer()).status == 101


async def test_a_large_head(autojump_clock: MockClock) -> None:
    async with listening(header_limit=2000) as (server, lobby):
        for size, status in ((1000, 101), (2000, 431)):
            client = lobby.connect()
            await client.send(handshake("/", f"X: {'x' * size}"))
            if status == 101:
                await (await server.receive_value()).accept()
            assert (await client.answer()).status == status


async def test_the_default_limit_of_a_head(autojump_clock: MockClock) -> None:
    async with listening() as (_, lobby):
        answer = await lobby.connect().ask(handshake("/", f"X: {'x' * 17 * 1024}"))
        assert (answer.status, answer.body) == (431, b"the head of the request is larger than 16384 bytes\n")
        answer = await lobby.connect().ask(handshake("/", *("X: x" for _ in range(101))))
        assert answer.status == 431


async def test_the_request_that_is_incomplete_longest_makes_room(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    async with listening(max_handshakes=2) as (server, lobby):
        half = [lobby.connect() for _ in range(3)]
        for client in half:
            await client.send(b"GET / HT")
            await wait_all_tasks_blocked()
        answer = await half[0].answer()
        assert (answer.status, answer.body) == (503, b"there are too many requests under way\n")
        # A whole request comes through whatever half ones there are.
        client = lobby.connect()
        await client.send(handshake())
        await (await server.receive_value()).accept()
        assert (await client.answer()).status == 101
        assert (await half[1].answer()).status == 503
        assert server.statistics().timed_out == 2
    assert debug_lines(caplog)[0] == "refused somebody with status 503: there are too many requests under way"


async def test_of_requests_that_begin_at_once_as_many_stay_as_may_be_incomplete(autojump_clock: MockClock) -> None:
    async with listening(max_handshakes=2) as (server, lobby):
        clients = [lobby.connect() for _ in range(5)]
        await wait_all_tasks_blocked()
        assert server.statistics().timed_out == 3
        for client in clients[3:]:
            await client.send(handshake())
            assert (await server.receive()).ok


async def test_after_stop_a_request_has_its_deadline(autojump_clock: MockClock) -> None:
    async with listening(handshake_timeout="2s") as (server, lobby):
        client = lobby.connect()
        await client.send(handshake()[:-1])
        await wait_all_tasks_blocked()
        server.stop()
        assert (await client.answer()).status == 408
        assert server.statistics().timed_out == 1


async def test_complete_requests_shut_nobody_out(autojump_clock: MockClock) -> None:
    async with listening(max_handshakes=2) as (server, lobby):
        half = lobby.connect()
        await half.send(handshake("/half")[:-2])
        await wait_all_tasks_blocked()
        for _ in range(5):
            await lobby.connect().send(handshake("/whole"))
            await wait_all_tasks_blocked()
        await half.send(b"\r\n")
        await wait_all_tasks_blocked()
        assert [(await server.receive_value()).path for _ in range(6)] == ["/whole"] * 5 + ["/half"]


async def test_nobody_answers(autojump_clock: MockClock) -> None:
    async with listening(handshake_timeout="3s") as (server, lobby):
        taken, waiting = lobby.connect(), lobby.connect()
        await taken.send(handshake())
        connection = await server.receive_value()
        await waiting.send(handshake())
        for client in (taken, waiting):
            answer = await client.answer()
            assert (answer.status, answer.body) == (503, b"nobody has answered within 3 s\n")
            assert answer.headers["Retry-After"] == "5"
        assert trio.current_time() == pytest.approx(3)
        for late in (connection, await server.receive_value()):
            with pytest.raises(ConnectionFailedError, match="nobody has answered within 3 s") as caught:
                await late.accept()
            assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, False)
            with pytest.raises(ConnectionFailedError):
                await late.reject()
            with pytest.raises(ConnectionFailedError):
                await late.send("x")
            assert late.close_code == 1006
        assert server.statistics().waiting == 0


async def test_requests_wait_for_room_in_the_channel_and_then_accepting_rests(autojump_clock: MockClock) -> None:
    async with listening(max_waiting=2, max_handshakes=3, handshake_timeout="10s") as (server, lobby):
        clients: list[RawClient] = []
        for _ in range(8):
            clients.append(lobby.connect())
            await clients[-1].send(handshake())
            await wait_all_tasks_blocked()
        # Two in the channel, three that wait for room there, and one that came while the last request was read.
        assert server.statistics().waiting == 6
        for _ in range(8):
            await (await server.receive_value()).accept()
        assert [(await client.answer()).status for client in clients] == [101] * 8


async def test_more_connections_than_there_may_be(autojump_clock: MockClock) -> None:
    async with listening(max_connections=2) as (server, lobby):
        clients = [lobby.connect() for _ in range(3)]
        for client in clients[:2]:
            await client.send(handshake())
        connections = [await server.receive_value() for _ in range(2)]
        await connections[0].accept()
        await clients[0].answer()
        answer = await clients[2].ask()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        await connections[1].reject()
        await clients[1].answer()
        await clients[1].leave()
        await wait_all_tasks_blocked()
        late = lobby.connect()
        await late.send(handshake())
        await (await server.receive_value()).accept()
        assert (await late.answer()).status == 101
        assert (await lobby.connect().ask()).status == 503
        await clients[0].close()
        await connections[0].wait_closed()
        last = lobby.connect()
        await last.send(handshake())
        await (await server.receive_value()).accept()


@pytest.mark.parametrize("by", ["the server", "the application"])
async def test_of_refusals_that_nobody_takes_the_first_is_cut_off_for_others(
    by: str, autojump_clock: MockClock
) -> None:
    ends: list[trio.abc.Stream] = []
    async with listening(max_handshakes=2) as (server, lobby), trio.open_nursery() as nursery:
        for _ in range(4):
            near, far = lockstep_stream_pair()
            lobby.bring(far)
            ends.append(near)
            if by == "the server":
                await near.send_all(b"nonsense\r\n\r\n")
            else:
                await near.send_all(handshake())
                nursery.start_soon((await server.receive_value()).reject, 404)
            await wait_all_tasks_blocked()
        for cut_off in ends[:2]:
            with pytest.raises(trio.BrokenResourceError):
                await cut_off.send_all(b"x")
        for left in ends[2:]:
            assert (b" 400 " if by == "the server" else b" 404 ") in bytes(await left.receive_some())
        assert trio.current_time() == pytest.approx(0)


async def test_refusals_that_have_ended_cut_off_nobody(autojump_clock: MockClock) -> None:
    near, far = lockstep_stream_pair()
    async with listening(max_handshakes=2) as (_, lobby):
        lobby.bring(far)
        await near.send_all(b"nonsense\r\n\r\n")
        for _ in range(5):
            client = lobby.connect()
            assert (await client.ask(b"nonsense\r\n\r\n")).status == 400
            await client.ended()
            await client.leave()
            await wait_all_tasks_blocked()
        assert b" 400 " in bytes(await near.receive_some())


@pytest.mark.parametrize("by", ["the server", "the application"])
async def test_behind_a_refusal_our_direction_ends_and_what_comes_is_discarded_for_a_second(
    by: str, autojump_clock: MockClock
) -> None:
    async with listening() as (server, lobby):
        client = lobby.connect()
        if by == "the server":
            await client.send(b"nonsense\r\n\r\n")
        else:
            await client.send(handshake())
            await (await server.receive_value()).reject()
        assert (await client.answer()).status in (400, 403)
        await client.ended()
        assert trio.current_time() == pytest.approx(0)
        await client.send(bytes(900_000))
        await trio.sleep(0.9)
        await client.send(bytes(900_000))
        await trio.sleep(0.2)
        with pytest.raises(trio.BrokenResourceError):
            await client.send(b"x")


async def test_a_client_that_keeps_its_stream_open_counts_until_it_is_cut_off(autojump_clock: MockClock) -> None:
    async with listening(max_connections=1, close_timeout="7s", keepalive=None) as (server, lobby):
        client = lobby.connect()
        await client.send(handshake())
        connection = await server.receive_value()
        await connection.accept()
        await client.answer()
        await client.send(close_frame(1000))
        assert await client.closed() == (1000, "")
        await wait_all_tasks_blocked()
        assert connection.close_code == 1000
        assert (server.statistics().open, server.connections) == (0, ())
        assert (await lobby.connect().ask()).status == 503
        await connection.wait_closed()
        await wait_all_tasks_blocked()
        late = lobby.connect()
        await late.send(handshake())
        await (await server.receive_value()).accept()
        assert (await late.answer()).status == 101


# Connections ----------------------------------------------------------------------------------------------------------


async def test_messages_of_more_than_1_mib_by_default(autojump_clock: MockClock) -> None:
    for limit, size, code in (
        (None, 1 << 20, None),
        (None, (1 << 20) + 1, 1009),
        (0, (1 << 20) + 1, 1009),
        (10, 11, 1009),
    ):
        options: websocket.ListenOptions = {} if limit is None else {"read_limit": limit}
        async with connected(**options) as (connection, client):
            await connection.accept()
            await client.answer()
            await client.send(masked(2, bytes(size)))
            if code is None:
                assert len((await connection.receive_value()).data) == size
            else:
                assert (await client.closed())[0] == code
                assert connection.close_code == code


async def test_half_open_connections_are_found_within_40_seconds(autojump_clock: MockClock) -> None:
    async with connected() as (connection, client):
        await connection.accept()
        await client.answer()
        head, payload = await client.frame()
        assert head == 0x80 | PING
        assert trio.current_time() == pytest.approx(20)
        await client.send(masked(PONG, payload))
        assert (await client.frame())[0] == 0x80 | PING
        assert trio.current_time() == pytest.approx(40)
        assert (await client.closed())[0] == 1011
        assert trio.current_time() == pytest.approx(60)
        with pytest.raises(ConnectionTimeoutError):
            await connection.receive_value()


@asynccontextmanager
async def taking_only_what_is_read() -> AsyncGenerator[tuple[websocket.ServerConnection, trio.abc.Stream]]:
    """Give an accepted connection, and the client's end of a stream that holds nothing."""
    near, far = lockstep_stream_pair()
    lobby = Lobby()
    lobby.bring(far)
    async with websocket.listen(sockets=[lobby], keepalive=None, close_timeout="1s") as server:
        await near.send_all(handshake())
        connection = await server.receive_value()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.accept)
            await near.receive_some()
        yield connection, near


async def test_a_client_that_takes_nothing_for_30_seconds(autojump_clock: MockClock) -> None:
    async with taking_only_what_is_read() as (connection, _):
        begin = trio.current_time()
        with pytest.raises(ConnectionTimeoutError, match="the peer took nothing within 30 s"):
            await connection.send("x")
        assert trio.current_time() - begin == pytest.approx(30)
        assert isinstance(connection.error, ConnectionTimeoutError)
        await connection.wait_closed()


async def test_a_slow_large_message_is_no_fault(autojump_clock: MockClock) -> None:
    async with taking_only_what_is_read() as (connection, near):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send, bytes(1 << 20))
            received = 0
            while received < (1 << 20) + 10:  # with the header of the frame
                await trio.sleep(20)
                received += len(await near.receive_some(1 << 17))
            assert trio.current_time() > 100
        assert connection.error is None


async def test_a_client_that_keeps_its_stream_open_after_the_close(autojump_clock: MockClock) -> None:
    async with connected(close_timeout="7s") as (connection, client):
        await connection.accept()
        await client.answer()
        await client.send(masked(8, b"\x03\xe8"))
        assert await client.closed() == (1000, "")
        await connection.wait_closed()
        assert trio.current_time() == pytest.approx(7)


async def test_as_many_messages_wait_as_was_said(autojump_clock: MockClock) -> None:
    async with connected(channel_capacity=3) as (connection, client):
        await connection.accept()
        await client.send(*(masked(TEXT, b"x") for _ in range(9)))
        await wait_all_tasks_blocked()
        assert len(connection.channel()) == 3
