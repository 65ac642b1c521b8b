"""A write that breaks ends the connection at once, whether or not anybody receives, and says what is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.websocket._server import BINARY, Server, close, connecting, details, drained, frame, text
from trio_csp_websocket.connection.connection import Connection
from trio_csp_websocket.connection.settings import parse_settings
from trio_csp_websocket.protocol.decoder import Decoder
from trio_csp_websocket.protocol.encoder import MaskingEncoder
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from trio.testing import MockClock


class Breaking(Server):
    """Breaks our writes when it is told to, and leaves alone what has arrived."""

    async def _take_in(self) -> None:
        if self.broken:
            raise trio.BrokenResourceError("Broken pipe")
        await super()._take_in()


async def test_a_broken_write_ends_an_idle_connection(autojump_clock: MockClock) -> None:
    server = Breaking()
    async with connecting(server) as client:
        server.broken = True
        with pytest.raises(ConnectionFailedError, match="the connection broke: Broken pipe"):
            await client.send("a")
        assert client.close_code == 1006
        assert client.error is not None
        assert (client.error.kind, client.error.retryable) == (Kind.UNAVAILABLE, True)
        assert str(client.error) == "the connection was lost: Broken pipe"
        assert "ended with 1006" in repr(client)
        await client.wait_closed()
        with pytest.raises(ConnectionFailedError, match=r"has ended \(code 1006\)"):
            await client.send("b")
        assert trio.current_time() == 0


@pytest.mark.parametrize("capacity", [1, 16])
async def test_it_ends_one_whose_messages_nobody_receives(capacity: int, autojump_clock: MockClock) -> None:
    server = Breaking()
    async with connecting(server, channel_capacity=capacity) as client:
        server.send(*[text("ack")] * 40)
        await wait_all_tasks_blocked()
        server.broken = True
        with pytest.raises(ConnectionFailedError, match="Broken pipe"):
            await client.send("a")
        assert client.close_code == 1006
        assert await drained(client) == ["ack"] * 40
        assert client.channel().cause is client.error


async def test_what_has_arrived_says_why(autojump_clock: MockClock) -> None:
    server = Breaking()
    async with connecting(server, channel_capacity=1) as client:
        for _ in range(3):
            server.send(frame(BINARY, bytes(60_000)))
        await wait_all_tasks_blocked()
        server.broken = True
        server.send(text("last"), close(4001, "token expired"))
        with pytest.raises(ConnectionFailedError) as caught:
            await client.send("a")
        assert (client.close_code, client.close_reason) == (4001, "token expired")
        assert caught.value.__cause__ is client.error
        assert details(client.error) == {"code": 4001, "reason": "token expired"}
        assert (await drained(client))[-1] == "last"


async def test_a_quiet_close_that_has_arrived_is_no_error(autojump_clock: MockClock) -> None:
    server = Breaking()
    async with connecting(server) as client:
        server.broken = True
        server.send(close(1001))
        with pytest.raises(ConnectionFailedError):
            await client.send("a")
        assert (client.close_code, client.error) == (1001, None)


async def test_behind_more_than_is_read_ahead_the_text_says_how_many_are_unread(autojump_clock: MockClock) -> None:
    server = Breaking()
    async with connecting(server, channel_capacity=1) as client:
        for _ in range(10):
            server.send(frame(BINARY, bytes(60_000)))
            await wait_all_tasks_blocked()
        received = client.statistics().messages_received
        server.send(close(4001))
        server.broken = True
        with pytest.raises(ConnectionFailedError):
            await client.send("a")
        assert client.close_code == 1006
        assert f"Broken pipe; what the peer sent behind the messages that wait ({received}) was not read" in str(
            client.error
        )
        assert len(await drained(client)) == received
    assert trio.current_time() == 0


async def test_a_broken_ping_ends_it_too(autojump_clock: MockClock) -> None:
    server = Breaking()
    async with connecting(server) as client:
        server.broken = True
        with pytest.raises(ConnectionFailedError, match="ping failed: the connection broke: Broken pipe"):
            await client.ping()
        assert client.close_code == 1006


async def test_a_ping_of_keepalive_that_breaks_ends_it(autojump_clock: MockClock) -> None:
    server = Breaking()
    async with connecting(server, keepalive="10s", channel_capacity=1) as client:
        for _ in range(10):
            server.send(frame(BINARY, bytes(60_000)))
            await wait_all_tasks_blocked()
        server.broken = True
        await client.wait_closed()
        assert trio.current_time() == 10
        assert client.close_code == 1006


async def test_a_send_that_is_cancelled_while_the_end_is_found_out_ends_it_all_the_same(
    autojump_clock: MockClock,
) -> None:
    server = Breaking()
    async with connecting(server) as client:
        server.broken = True

        async def send(task_status: Any) -> None:
            with trio.CancelScope() as scope:
                task_status.started(scope)
                await client.send("a")

        async with trio.open_nursery() as nursery:
            scope = await nursery.start(send)
            scope.cancel()
        await client.wait_closed()
        assert client.close_code == 1006


def plane(stream: trio.abc.Stream, nursery: trio.Nursery) -> Connection:
    return Connection(
        StreamTransport(stream), parse_settings({}), nursery, decoder=Decoder(1024), encoder=MaskingEncoder()
    )


async def test_a_write_that_breaks_before_reading_has_begun_ends_it_then(nursery: trio.Nursery) -> None:
    near, far = memory_stream_pair()
    connection = plane(near, nursery)
    assert connection.writer.on_broken is not None
    connection.writer.on_broken(trio.BrokenResourceError("Broken pipe"))
    await far.send_all(text("a"))
    assert await connection.read() is None
    assert connection.ending is not None
    assert (connection.ending.code, str(connection.ending.error)) == (1006, "the connection was lost: Broken pipe")
    assert (await connection.delivery.channel.receive()).value.data == "a"
    await connection.finish()


async def test_the_close_frame_that_is_found_then_is_answered_as_any_other(nursery: trio.Nursery) -> None:
    near, far = memory_stream_pair()
    connection = plane(near, nursery)
    assert connection.writer.on_broken is not None
    connection.writer.on_broken(trio.BrokenResourceError("Broken pipe"))
    await far.send_all(text("a") + close(4001, "why"))
    assert await connection.read() == b"\x0f\xa1why"
    assert connection.ending is not None
    assert (connection.ending.code, connection.ending.reason) == (4001, "why")
    await far.aclose()
    await connection.finish()


async def test_a_write_that_breaks_after_the_peers_close_changes_nothing(nursery: trio.Nursery) -> None:
    near, far = memory_stream_pair()
    connection = plane(near, nursery)
    on_broken = connection.writer.on_broken
    assert on_broken is not None
    await far.send_all(close(4001, "why"))
    assert await connection.read() is not None
    on_broken(trio.BrokenResourceError("Broken pipe"))
    assert not connection.write_broke
    assert connection.ending is not None
    assert connection.ending.code == 4001
    await far.aclose()
    await connection.finish()


async def test_a_timed_out_write_ends_a_connection_of_which_nothing_is_read(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, write_timeout="1s", channel_capacity=1) as client:
        for _ in range(10):
            server.send(frame(BINARY, bytes(60_000)))
            await wait_all_tasks_blocked()
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError):
            await client.send("x" * 1_000_000)
        await client.wait_closed()
        assert trio.current_time() == 1
        assert client.close_code == 1006
        assert len(await drained(client)) == client.statistics().messages_received
