"""Leaving the block of a connection: at its end, by an exception, cancelled and interrupted."""

from __future__ import annotations

import contextlib
import gc
import weakref
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp.errors import ConnectionFailedError, Kind, is_kind
from tests.websocket._server import BINARY, ENDED, PING, Server, close, connecting, drained, frame, text
from tests.websocket.connection._sends import ended_send
from trio_csp_websocket.connection.state import State
from trio_csp_websocket.protocol.frames import CLOSE

if TYPE_CHECKING:
    from trio.testing import MockClock

    import csp
    from csp.websocket import Client, Message


async def test_leaving_closes_with_1000(autojump_clock: MockClock) -> None:
    server = Server()
    start = trio.current_time()
    async with connecting(server) as client:
        pass
    assert server.closes == [1000]
    assert server.half_closed
    assert server.closed
    assert client.close_code == 1000
    assert client.error is None
    assert client.channel().closed
    assert trio.current_time() == start


@pytest.mark.parametrize("error", [ValueError("mine"), trio.TooSlowError("mine"), OSError("mine")])
async def test_an_exception_comes_out_bare_and_closes_with_1011(error: Exception, autojump_clock: MockClock) -> None:
    server = Server()
    with pytest.raises(type(error)) as caught:
        async with connecting(server):
            raise error
    assert caught.value is error
    assert server.closes == [1011]
    assert server.closed


async def test_a_group_of_the_user_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    group = ExceptionGroup("mine", [ValueError("a"), ExceptionGroup("inner", [OSError("b")])])
    inner = group.exceptions
    server = Server()
    with pytest.raises(ExceptionGroup) as caught:
        async with connecting(server):
            raise group
    assert caught.value is group
    assert group.exceptions is inner
    assert server.closes == [1011]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_an_exit_comes_out_bare_and_does_not_wait_for_the_server(
    error: BaseException, autojump_clock: MockClock
) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    with pytest.raises(type(error)) as caught:
        async with connecting(server):
            raise error
    assert caught.value is error
    assert server.closes == [1001]
    assert server.closed
    assert trio.current_time() == start


async def test_leaving_a_silent_server_takes_the_close_timeout_and_no_longer(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    async with connecting(server, close_timeout="3s") as client:
        pass
    assert trio.current_time() - start == pytest.approx(3)
    assert server.closed
    assert client.error is None
    assert client.close_code == 1006


async def test_an_exception_waits_for_a_silent_server_no_longer_than_the_close_timeout(
    autojump_clock: MockClock,
) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    with pytest.raises(ValueError, match="mine"):
        async with connecting(server):
            raise ValueError("mine")
    assert trio.current_time() - start == pytest.approx(10)
    assert server.closed


@pytest.mark.parametrize("ending", ["close", "eof", "reset", "violation"])
async def test_leaving_never_raises_how_the_connection_ended(ending: str, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        match ending:
            case "close":
                server.send(close(1011, "no"))
                server.end()
            case "eof":
                server.end()
            case "reset":
                server.reset()
            case _:
                server.send(frame(3))
                server.end()
        await wait_all_tasks_blocked()
        assert client.error is not None
    assert server.closed


async def test_cancelled_tries_a_close_frame_and_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    channels: list[csp.Channel[Message]] = []
    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with connecting(server) as client:
            channels.append(client.channel())
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert server.closes == [1001]
    assert server.closed
    assert trio.current_time() == start
    assert channels[0].closed


async def test_cancelled_with_a_message_on_the_way_in_or_out_closes_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server(answers_close=False)
    channels: list[csp.Channel[Message]] = []
    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with connecting(server, channel_capacity=1) as client:
            channels.append(client.channel())
            server.send(*[text("x")] * 5)
            server.stop_reading()
            nursery.start_soon(ended_send, client)
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert server.closed
    assert trio.current_time() == start
    assert (await channels[0].receive()).value.data == "x"
    assert await channels[0].receive() == ENDED
    assert is_kind(channels[0].cause, Kind.UNAVAILABLE)


async def test_cancelled_with_a_server_that_never_reads_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server()
    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with connecting(server):
            server.stop_reading()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert server.closed
    assert trio.current_time() == start


async def test_cancelled_with_a_connection_that_is_broken_gives_nothing_but_cancelled(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    with trio.CancelScope() as scope:
        async with connecting(server):
            server.broken = True
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert server.closed


async def test_cancelled_as_a_ping_arrives_sends_whole_frames_and_the_close_frame_last(
    autojump_clock: MockClock,
) -> None:
    for steps in range(25):
        server = Server(answers_close=False)
        with trio.CancelScope() as scope:
            async with connecting(server):
                await wait_all_tasks_blocked()
                server.send(frame(PING, b"p"))
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        # While the pong is on its way, a close frame cannot be tried without waiting.
        assert server.closes in ([], [1001])
        assert not server.unparsed
        assert server.closed


async def test_interrupted_during_a_send_gives_nothing_but_the_interrupt(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def send(client: Client) -> None:
        with contextlib.suppress(ConnectionFailedError):
            await client.send("data")

    async def interrupted(server: Server, steps: int) -> None:
        async with connecting(server) as client:
            nursery.start_soon(send, client)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            raise KeyboardInterrupt

    for steps in range(25):
        server = Server(answers_close=False)
        with pytest.raises(KeyboardInterrupt):
            await interrupted(server, steps)
        assert server.closed
        assert not server.unparsed


async def test_a_pong_does_not_take_the_place_of_the_last_close_frame(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        connection = client._connection
        # A ping is read while the connection is being given up.
        connection.state = State.GIVEN_UP
        connection.feed(frame(PING, b""))
        assert not connection._sending_close.cancel_called
        connection.state = State.OPEN
    assert [received.opcode for received in server.frames] == [CLOSE]


@pytest.mark.parametrize(("leave", "code"), [("normally", 1000), ("by an error", 1011), ("by close", 3000)])
async def test_leaving_under_a_cancelled_scope_still_tries_a_close_frame(
    autojump_clock: MockClock, leave: str, code: int
) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    with trio.CancelScope() as scope, contextlib.suppress(ValueError):
        async with connecting(server) as client:
            scope.cancel()
            if leave == "by an error":
                raise ValueError
            if leave == "by close":
                await client.close(3000, "enough")
    assert scope.cancelled_caught == (leave != "by an error")
    assert [received.opcode for received in server.frames] == [CLOSE]
    assert server.frames[0].payload[:2] == code.to_bytes(2, "big")
    assert server.closed
    assert trio.current_time() == start


async def test_a_finished_connection_is_no_reference_cycle(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, protocols=[]) as client:
        pass
    reference = weakref.ref(client._connection)
    gc.disable()
    try:
        del client
        await wait_all_tasks_blocked()
        assert reference() is None
    finally:
        gc.enable()


# Otherwise all that waits in the channel, which may be much, would stay until the garbage collector runs.
@pytest.mark.parametrize("waiting", [0, 100])
async def test_a_connection_whose_block_was_cancelled_is_no_reference_cycle(
    waiting: int, autojump_clock: MockClock
) -> None:
    references: list[weakref.ref[object]] = []

    async def cancelled() -> None:
        server = Server()
        async with connecting(server, read_limit=1000) as client:
            server.send(*[frame(BINARY, bytes(1000))] * waiting)
            references.extend((weakref.ref(client.channel()), weakref.ref(client._connection)))
            await trio.sleep_forever()

    gc.disable()
    try:
        with trio.move_on_after(10):
            await cancelled()
        await wait_all_tasks_blocked()
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


async def test_an_exception_while_cancelled_comes_out_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()

    async def cancelled_and_failing() -> None:
        with trio.CancelScope() as scope:
            async with connecting(server):
                scope.cancel()
                raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await cancelled_and_failing()
    assert server.closed
    assert trio.current_time() == start


async def test_cancelled_while_an_exception_waits_for_the_server_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    with trio.move_on_after(1), pytest.raises(ValueError, match="mine"):
        async with connecting(server):
            raise ValueError("mine")
    assert server.closes == [1011]
    assert server.closed
    assert trio.current_time() - start == pytest.approx(1)


async def test_cancelled_while_leaving_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    with trio.move_on_after(1) as scope:
        async with connecting(server):
            pass
    assert scope.cancelled_caught
    assert server.closed
    assert trio.current_time() - start == pytest.approx(1)


async def test_a_nursery_in_the_block_that_is_cancelled_from_outside_is_no_failure(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with connecting(server), trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(trio.sleep_forever)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert server.closes == [1001]
    assert trio.current_time() == start


async def test_a_scope_inside_the_block_may_be_cancelled(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with trio.move_on_after(1):
            await client.receive()
        server.send(text("a"))
        assert (await client.receive()).value.data == "a"
    assert server.closes == [1000]


async def test_after_the_block_a_channel_that_was_not_drained_is_closed(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(text("a"), text("b"), text("c"), close(1000))
        server.end()
        await wait_all_tasks_blocked()
    with trio.fail_after(1):
        assert (await drained(client))[:1] == ["a"]
    assert client.channel().closed


async def test_cancelled_after_the_end_closes_a_channel_that_was_not_drained(autojump_clock: MockClock) -> None:
    server = Server()
    clients: list[Client] = []
    with trio.CancelScope() as scope:
        async with connecting(server, channel_capacity=1) as client:
            clients.append(client)
            server.send(text("a"), text("b"), close(1000))
            server.end()
            await client._connection.finished.wait()
            assert not client.channel().closed
            scope.cancel()
    (client,) = clients
    assert client.channel().closed
    assert await drained(client) == ["a"]


async def test_a_task_outside_that_waits_for_messages_ends_with_the_block(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ended = trio.Event()

    async def consume(client: Client) -> None:
        await drained(client)
        ended.set()

    async with connecting(Server()) as client:
        nursery.start_soon(consume, client)
        await wait_all_tasks_blocked()
    await ended.wait()


async def test_nothing_is_left_of_a_connection_after_its_block(autojump_clock: MockClock) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    async with connecting(Server()) as client:
        assert trio.lowlevel.current_statistics().tasks_living > before
    assert trio.lowlevel.current_statistics().tasks_living == before
    reference = weakref.ref(client._connection)
    del client
    gc.collect()
    assert reference() is None


async def leave_by(interrupt: BaseException, server: Server, clients: list[Client]) -> None:
    async with connecting(server) as client:
        clients.append(client)
        raise interrupt


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_a_block_that_is_interrupted_does_not_wait_for_the_peers_answer(
    interrupt: type[BaseException], autojump_clock: MockClock
) -> None:
    # The order in which tasks run is random, so once proves nothing.
    for _ in range(20):
        server = Server()
        clients: list[Client] = []
        with pytest.raises(interrupt):
            await leave_by(interrupt(), server, clients)
        assert server.closes == [1001]
        assert clients[0].close_code == 1006
        assert is_kind(clients[0].error, Kind.UNAVAILABLE)
