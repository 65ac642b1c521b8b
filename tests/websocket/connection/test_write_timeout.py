"""The write timeout: how long a send or a ping may wait, and take, on a clock that jumps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.websocket._server import (
    CLOSE,
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
from tests.websocket.connection._timeouts import LARGE, ended, iterated, opcodes, take_one_piece
from trio_csp_websocket.transport.socket import SocketTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from csp.websocket import Client
    from trio_csp_websocket.transport.base import Transport


def check_closed(client: Client) -> None:
    assert (client.close_code, client.error) == (1000, None)


# Not begun ------------------------------------------------------------------------------------------------------------


async def stuck(server: Server) -> None:
    """Let the writer be busy with a pong that the peer does not take; nobody waits for that."""
    server.stop_reading()
    server.send(frame(PING, b"stuck"))
    await wait_all_tasks_blocked()


async def test_a_send_that_cannot_begin_in_time_sends_nothing_and_the_connection_lives(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        await stuck(server)
        with pytest.raises(ConnectionTimeoutError) as caught:
            await client.send("never")
        assert trio.current_time() == pytest.approx(2)
        assert str(caught.value) == "sending failed: not begun within 2 s (write_timeout)"
        assert (caught.value.kind, caught.value.retryable) == (Kind.TIMEOUT, True)
        assert isinstance(caught.value, TimeoutError)
        assert client.close_code is None
        assert client.error is None
        assert not server.closed
        assert client.statistics().messages_sent == 0
        server.read_on()
        await client.send("after")
        server.send(text("hello"))
        assert (await client.receive()).value.data == "hello"
    assert server.frames[:2] == [Frame(PONG, b"stuck"), Frame(TEXT, b"after")]
    assert opcodes(server) == [PONG, TEXT, CLOSE]
    check_closed(client)


async def test_of_sends_that_wait_those_in_time_go_out_in_their_order(autojump_clock: MockClock) -> None:
    server = Server()
    outcomes: dict[int, str] = {}

    async def send(number: int) -> None:
        try:
            await client.send(str(number))
            outcomes[number] = "sent"
        except ConnectionTimeoutError:
            outcomes[number] = "timed out"

    async with connecting(server, write_timeout="2s") as client:
        await stuck(server)
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(send, number)
                await trio.sleep(0.5)
            await trio.sleep(0.2)
            server.read_on()
    # At 4.2 s, those that came before 2.2 s were given up.
    assert outcomes == {number: "timed out" if number < 5 else "sent" for number in range(8)}
    assert server.payloads[:-1] == [b"stuck", b"5", b"6", b"7"]


async def test_a_ping_that_cannot_begin_in_time_is_taken_back(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        await stuck(server)
        with pytest.raises(ConnectionTimeoutError) as caught:
            await client.ping(b"never")
        assert str(caught.value) == "ping failed: not begun within 2 s (write_timeout)"
        assert (caught.value.kind, caught.value.retryable) == (Kind.TIMEOUT, True)
        assert client.close_code is None
        assert len(client._connection.pings) == 0
        server.read_on()
        answer = await client.ping(b"later")
        server.send(frame(PONG, b"later"))
        assert (await answer.receive()).ok
    assert server.payloads[:-1] == [b"stuck", b"later"]


async def test_a_send_that_is_cancelled_before_its_timeout_is_cancelled(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        await stuck(server)
        with trio.move_on_after(1) as scope:
            await client.send("never")
        assert scope.cancelled_caught
        await trio.sleep(5)
        assert client.close_code is None
        server.read_on()
    assert opcodes(server) == [PONG, CLOSE]


async def test_a_send_behind_one_whose_task_is_gone_does_not_begin(autojump_clock: MockClock) -> None:
    # Nobody waits any more for what is being written, so nobody's time for it runs out.
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        server.stop_reading()
        with trio.move_on_after(1):
            await client.send("written nevertheless")
        with pytest.raises(ConnectionTimeoutError, match="not begun within 2 s"):
            await client.send("never")
        assert client.close_code is None
        server.read_on()
        await client.send("after")
    assert server.payloads[:-1] == [b"written nevertheless", b"after"]


# Begun ----------------------------------------------------------------------------------------------------------------


def check_broken(client: Client, server: Server) -> None:
    """Check all that a connection tells that broke because a send could not be written in time."""
    error = client.error
    assert type(error) is ConnectionTimeoutError
    assert (error.kind, error.retryable) == (Kind.TIMEOUT, True)
    assert error.details == {"code": 1006, "reason": ""}
    assert str(error) == "the connection timed out: a frame was not written within 2 s (write_timeout)"
    assert (client.close_code, client.close_reason) == (1006, "")
    assert server.closed
    assert server.closes == []


async def test_a_send_that_is_not_written_in_time_ends_the_connection(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError) as caught:
            await client.send(LARGE)
        assert trio.current_time() == pytest.approx(2)
        assert str(caught.value) == "sending failed: not written within 2 s (write_timeout)"
        assert (caught.value.kind, caught.value.retryable) == (Kind.TIMEOUT, True)
        assert caught.value.__cause__ is client.error
        check_broken(client, server)
        assert await client.receive() == ENDED
        assert client.channel().cause is client.error
        with pytest.raises(ConnectionFailedError, match="has ended") as used_after:
            await client.send("more")
        assert not isinstance(used_after.value, ConnectionTimeoutError)
        assert (used_after.value.kind, used_after.value.retryable) == (Kind.INTERNAL, False)
    # Leaving was quick and quiet.
    assert trio.current_time() == pytest.approx(2)
    check_broken(client, server)


async def test_time_is_for_a_whole_send_whatever_its_progress(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        server.stop_reading()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionTimeoutError, match="not written within 2 s"):
                    await client.send(LARGE)
                assert trio.current_time() == pytest.approx(2)

            nursery.start_soon(send)
            await trio.sleep(1.5)
            take_one_piece(server)
        check_broken(client, server)
        assert server.unparsed  # half a frame, behind which nothing went out


async def test_everybody_who_waits_is_told_when_a_send_ends_the_connection(autojump_clock: MockClock) -> None:
    server = Server()
    told: dict[str, ConnectionFailedError] = {}

    async def expect_error(name: str, deed: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(ConnectionFailedError) as caught:
            await deed()
        assert trio.current_time() == pytest.approx(2)
        told[name] = caught.value

    async with connecting(server, write_timeout="2s") as client:
        answer = await client.ping()
        server.stop_reading()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_error, "begun", lambda: client.send(LARGE))
            await trio.sleep(1)
            nursery.start_soon(expect_error, "send", lambda: client.send("waits"))
            nursery.start_soon(expect_error, "ping", client.ping)
            nursery.start_soon(expect_error, "iterating", client.__anext__)
            assert not (await answer.receive()).ok
            assert trio.current_time() == pytest.approx(2)
        for name, error in told.items():
            assert error.__cause__ is client.error, name
        assert told["begun"].kind is Kind.TIMEOUT
        assert told["iterating"].kind is Kind.TIMEOUT
        for name, retryable in (("send", False), ("ping", True)):
            assert not isinstance(told[name], ConnectionTimeoutError)
            assert (told[name].kind, told[name].retryable) == (Kind.INTERNAL, retryable)
            assert str(told[name]).endswith("the connection broke: a frame was not written within 2 s (write_timeout)")
        assert len(client._connection.pings) == 0
        check_broken(client, server)


@pytest.mark.parametrize("capacity", [1, 2, 10])
@pytest.mark.parametrize("way", ["receive", "iterate"])
async def test_what_was_received_before_a_write_timeout_is_delivered_however_slow_the_consumer(
    capacity: int, way: str, autojump_clock: MockClock
) -> None:
    server = Server()
    received: list[str | bytes] = []
    async with connecting(server, write_timeout="2s", channel_capacity=capacity) as client:
        # More than the channel takes: the reader is parked with the rest.
        server.send(*[text(str(number)) for number in range(10)])
        await wait_all_tasks_blocked()
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError):
            await client.send("stuck")
        check_broken(client, server)
        assert not client.channel().closed or capacity == 10
        for _ in range(5):
            await trio.sleep(100)
            received.append((await client.receive()).value.data)
        if way == "receive":
            received += await drained(client)
        else:
            rest, error = await iterated(client)
            received += rest
            assert type(error) is ConnectionTimeoutError
        assert client.channel().cause is client.error
    assert received == [str(number) for number in range(10)]


async def test_an_awaited_connection_waits_for_its_consumer_after_a_write_timeout(autojump_clock: MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        client = await connecting(server, write_timeout="2s", channel_capacity=1, nursery=nursery)
        server.send(*[text(str(number)) for number in range(5)])
        await wait_all_tasks_blocked()
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError):
            await client.send("stuck")
        assert len(nursery.child_tasks) == 1
        assert await drained(client) == ["0", "1", "2", "3", "4"]
    assert trio.current_time() == pytest.approx(2)
    check_broken(client, server)


async def test_leaving_the_block_discards_what_a_slow_consumer_has_not_taken(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s", channel_capacity=1) as client:
        server.send(*[text(str(number)) for number in range(5)])
        await wait_all_tasks_blocked()
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError):
            await client.send("stuck")
    assert trio.current_time() == pytest.approx(2)
    assert await drained(client) == ["0"]
    assert client.channel().cause is client.error


async def test_the_error_of_a_send_may_leave_the_block_and_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    server, client, came_out = Server(), None, None
    try:
        async with connecting(server, write_timeout="2s") as client:
            server.stop_reading()
            await client.send(LARGE)
    except ConnectionTimeoutError as error:
        came_out = error
    assert client is not None
    assert came_out is not None
    assert came_out.__cause__ is client.error
    assert trio.current_time() == pytest.approx(2)
    check_broken(client, server)


async def test_a_ping_that_is_not_written_in_time_ends_the_connection(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s") as client:
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError) as caught:
            await client.ping()
        assert str(caught.value) == "ping failed: not written within 2 s (write_timeout)"
        assert (caught.value.kind, caught.value.retryable) == (Kind.TIMEOUT, True)
        assert caught.value.__cause__ is client.error
        assert len(client._connection.pings) == 0
        check_broken(client, server)


async def test_a_write_timeout_while_we_close_is_an_error_of_the_send_alone(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s", close_timeout="60s") as client:
        server.stop_reading()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionTimeoutError, match="not written within 2 s") as caught:
                    await client.send(LARGE)
                assert caught.value.kind is Kind.TIMEOUT
                assert caught.value.__cause__ is not None

            nursery.start_soon(send)
            await trio.sleep(1)
            await client.close()
            # The close frame could not go out behind it, so there is nothing to wait for.
            assert trio.current_time() == pytest.approx(2)
        assert (client.close_code, client.close_reason, client.error) == (1006, "", None)
        assert client.channel().cause is None
        assert server.closed
        assert server.closes == []
        assert await client.receive() == ENDED


async def test_a_send_that_cannot_begin_while_we_close_leaves_the_close_alone(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s", close_timeout="60s") as client:
        await stuck(server)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionTimeoutError, match="not begun within 2 s"):
                    await client.send("never")

            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            nursery.start_soon(client.close)
            await trio.sleep(3)
            assert client.close_code is None
            server.read_on()
        assert trio.current_time() == pytest.approx(3)
    assert opcodes(server) == [PONG, CLOSE]
    check_closed(client)


async def test_a_write_timeout_behind_the_peers_close_changes_nothing_about_it(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="2s", close_timeout="60s") as client:
        server.stop_reading()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ConnectionTimeoutError) as caught:
                    await client.send(LARGE)
                assert caught.value.__cause__ is client.error

            nursery.start_soon(send)
            await trio.sleep(1)
            server.send(close(1008, "enough"))
            assert await client.receive() == ENDED
        assert (client.close_code, client.close_reason) == (1008, "enough")
        assert client.error is not None
        assert client.error.kind is Kind.UNAVAILABLE
        assert await ended(client) == pytest.approx(2)


async def test_a_send_that_is_written_when_its_time_runs_out_is_sent_or_ends_the_connection(
    autojump_clock: MockClock,
) -> None:
    # Trio decides which of the two tasks runs first; in either order everybody is told the same.
    outcomes: set[str] = set()
    for _ in range(40):
        server = Server()
        async with connecting(server, write_timeout="2s") as client:
            server.stop_reading()
            async with trio.open_nursery() as nursery:
                failures: list[ConnectionTimeoutError] = []

                async def send(client: Client = client, failures: list[ConnectionTimeoutError] = failures) -> None:
                    try:
                        await client.send("just so")
                    except ConnectionTimeoutError as error:
                        failures.append(error)

                nursery.start_soon(send)
                await wait_all_tasks_blocked()
                server.read_on()
                autojump_clock.jump(2)
            if failures:
                assert failures[0].__cause__ is client.error
                check_broken(client, server)
            else:
                assert server.payloads == [b"just so"]
                await client.send("more")
        outcomes.add("timed out" if failures else "sent")
        assert client.close_code == (1006 if failures else 1000)
    assert outcomes == {"timed out", "sent"}


async def test_a_large_send_over_a_socket_that_is_not_taken_in_time_closes_the_socket(
    autojump_clock: MockClock,
) -> None:
    ours, theirs = trio.socket.socketpair()
    peer = trio.SocketStream(theirs)
    server = Server()

    async def answer() -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await peer.receive_some()
        await server.stream.send_all(request)
        await peer.send_all(await server.stream.receive_some() + text("a") + text("b") + text("c"))

    async def dial() -> Transport:
        return SocketTransport(trio.SocketStream(ours))

    async with peer, trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        async with connecting(server, reach=dial, write_timeout="2s", channel_capacity=1) as client:
            await wait_all_tasks_blocked()
            # More than the system's buffers hold, so that its beginning is on the wire at once.
            with pytest.raises(ConnectionTimeoutError, match="not written within 2 s") as caught:
                await client.send(bytes(16 * 1024 * 1024))
            assert caught.value.__cause__ is client.error
            assert trio.current_time() == pytest.approx(2)
            assert ours.fileno() == -1
            assert await drained(client) == ["a", "b", "c"]
            assert client.close_code == 1006
            size = 0
            while block := await peer.receive_some(1 << 20):
                size += len(block)
            assert 0 < size < 16 * 1024 * 1024
        assert trio.current_time() == pytest.approx(2)


async def test_sends_that_go_out_at_once_need_no_time(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="1ns") as client:
        for number in range(100):
            await client.send(str(number))
        assert client.close_code is None
    assert server.payloads[:-1] == [str(number).encode() for number in range(100)]
