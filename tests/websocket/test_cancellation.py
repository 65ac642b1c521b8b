"""Cancelled at every step: whatever an operation is doing, nothing is left over, half sent or lost.

Each sweep repeats an operation and cancels it after 0, 1, 2, ... passes of the scheduler, until it completes first.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from tests.websocket._server import BINARY, CLOSE, PING, PONG, TEXT, Frame, Server, close, connecting, frame, text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from csp.websocket import Client

# An operation that has not completed by then hangs.
MAX_STEPS = 200


async def completes(operation: Callable[[], Awaitable[object]], steps: int, begun: trio.Event | None = None) -> bool:
    """Run an operation and cancel it after some passes of the scheduler; tell whether it completed before.

    Args:
        operation: what to run.
        steps: how many passes.
        begun: set by the operation when counting is to begin; at once without it.
    """
    completed = False

    async def cancel_later() -> None:
        if begun is not None:
            await begun.wait()
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    with trio.CancelScope() as watching:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                if not steps and begun is None:
                    scope.cancel()
                nursery.start_soon(cancel_later)
                await operation()
                completed = True
            watching.cancel()
    return completed


async def sweep(once: Callable[[int], Awaitable[bool]]) -> None:
    """Call with 0, 1, 2, ... steps until it tells that the operation completed; check that no task is left."""
    for steps in itertools.count():
        assert steps < MAX_STEPS, "it never completes"
        living = trio.lowlevel.current_statistics().tasks_living
        start = trio.current_time()
        completed = await once(steps)
        assert trio.lowlevel.current_statistics().tasks_living == living, f"a task is left at step {steps}"
        assert trio.current_time() == start, f"time passed at step {steps}"
        if completed:
            assert steps, "it was never cancelled"
            return


def check_whole(server: Server) -> None:
    """Check that the server saw nothing but whole frames, and nothing after a close."""
    assert not server.unparsed
    assert all(frame.opcode == CLOSE for frame in server.frames[-1:] if len(server.closes))
    assert len(server.closes) <= 1


async def usable(client: Client, server: Server) -> None:
    """Check that a connection works both ways."""
    server.send(text("still there?"))
    while (await client.receive()).value.data != "still there?":
        pass
    await client.send("yes")
    assert server.frames[-1] == Frame(TEXT, b"yes")


# Opening and leaving --------------------------------------------------------------------------------------------------


async def test_connecting_and_leaving_may_be_cancelled_at_any_step(autojump_clock: MockClock) -> None:
    async def once(steps: int) -> bool:
        server = Server()

        async def connect_and_leave() -> None:
            async with connecting(server):
                pass

        completed = await completes(connect_and_leave, steps)
        check_whole(server)
        # Cancelled before it began to dial, there was nothing to close.
        assert server.closed or not server.request
        return completed

    await sweep(once)


async def test_connecting_in_a_nursery_may_be_cancelled_at_any_step(autojump_clock: MockClock) -> None:
    async def once(steps: int) -> bool:
        server = Server()
        async with trio.open_nursery() as nursery:
            clients: list[Client] = []

            async def connect() -> None:
                clients.append(await connecting(server, nursery=nursery))

            completed = await completes(connect, steps)
            if completed:
                await usable(clients[0], server)
                await clients[0].close()
            assert not nursery.cancel_scope.cancel_called
        check_whole(server)
        assert server.closed or not server.request
        return completed

    await sweep(once)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", b"garbage\r\n\r\n"])
async def test_a_refusal_may_be_cancelled_at_any_step(answer: bytes, autojump_clock: MockClock) -> None:
    async def once(steps: int) -> bool:
        server = Server(answer)

        async def connect() -> None:
            with pytest.raises(ConnectionError):
                await connecting(server).__aenter__()

        completed = await completes(connect, steps)
        assert server.closed or not server.request
        return completed

    await sweep(once)


@pytest.mark.parametrize("error", [None, ValueError("mine"), KeyboardInterrupt()])
async def test_leaving_may_be_cancelled_at_any_step(error: BaseException | None, autojump_clock: MockClock) -> None:
    async def once(steps: int) -> bool:
        server = Server()
        begun = trio.Event()
        raised: list[BaseException] = []

        async def leave() -> None:
            try:
                async with connecting(server) as client:
                    await client.send("a")
                    begun.set()
                    if error is not None:
                        raise error
            except (ValueError, KeyboardInterrupt) as caught:
                raised.append(caught)

        completed = await completes(leave, steps, begun)
        check_whole(server)
        assert server.closed
        assert raised == ([] if error is None else [error])
        return completed and steps > 0

    await sweep(once)


async def test_a_whole_block_may_be_cancelled_at_any_step(autojump_clock: MockClock) -> None:
    async def once(steps: int) -> bool:
        server = Server()

        async def block() -> None:
            async with connecting(server) as client:
                server.send(text("a"), frame(PING, b"p"), text("b"))
                await client.send("c")
                assert (await client.receive()).value.data == "a"
                answer = await client.ping(b"x")
                server.send(frame(PONG, b"x"))
                assert (await answer.receive()).ok
                await client.send(bytes(100_000))
                await client.close(3000, "bye")

        completed = await completes(block, steps)
        check_whole(server)
        assert server.closed or not server.request
        assert [f for f in server.frames if f.opcode in (TEXT, BINARY)] in (
            [],
            [Frame(TEXT, b"c")],
            [Frame(TEXT, b"c"), Frame(BINARY, bytes(100_000))],
        )
        return completed

    await sweep(once)


# In the block ---------------------------------------------------------------------------------------------------------


async def swept_in_block(
    operation: Callable[[Client, Server], Awaitable[object]], check: Callable[[Server], Any]
) -> None:
    async def once(steps: int) -> bool:
        server = Server()
        async with connecting(server) as client:
            await wait_all_tasks_blocked()
            completed = await completes(lambda: operation(client, server), steps)
            await usable(client, server)
            check(server)
        check_whole(server)
        assert server.closes == [1000]
        assert server.closed
        return completed

    await sweep(once)


async def test_a_send_may_be_cancelled_at_any_step(autojump_clock: MockClock) -> None:
    async def send(client: Client, _server: Server) -> None:
        await client.send(b"x" * 70_000)

    def check(server: Server) -> None:
        assert server.frames[:-1] in ([], [Frame(BINARY, b"x" * 70_000)])

    await swept_in_block(send, check)


async def test_sends_of_two_tasks_may_be_cancelled_at_any_step(autojump_clock: MockClock) -> None:
    async def send(client: Client, _server: Server) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, b"x" * 70_000)
            nursery.start_soon(client.send, b"y")

    def check(server: Server) -> None:
        payloads = [frame.payload for frame in server.frames[:-1]]
        assert len(payloads) == len(set(payloads))
        assert set(payloads) <= {b"x" * 70_000, b"y"}

    await swept_in_block(send, check)


async def test_a_ping_may_be_cancelled_at_any_step(autojump_clock: MockClock) -> None:
    async def ping(client: Client, server: Server) -> None:
        answer = await client.ping(b"x")
        server.send(frame(PONG, b"x"))
        assert (await answer.receive()).ok

    def check(server: Server) -> None:
        assert server.frames[:-1] in ([], [Frame(PING, b"x")])

    await swept_in_block(ping, check)


async def test_a_cancelled_ping_never_stays_outstanding(autojump_clock: MockClock) -> None:
    async def once(steps: int) -> bool:
        server = Server()
        async with connecting(server) as client:
            completed = await completes(lambda: client.ping(b"x"), steps)
            assert len(client._connection.pings) == (1 if completed else 0)
        return completed

    await sweep(once)


@pytest.mark.parametrize("way", ["receive", "select", "iterate", "selector"])
async def test_a_receive_may_be_cancelled_at_any_step_and_loses_nothing(way: str, autojump_clock: MockClock) -> None:
    async def receive(client: Client) -> object:
        match way:
            case "receive":
                return (await client.receive()).value.data
            case "select":
                return (await csp.select(client.channel().case_receive())).value.data
            case "iterate":
                return (await anext(client)).data
            case _:
                with csp.Selector(client.channel().case_receive()) as selector:
                    return (await selector.select()).value.data

    async def once(steps: int) -> bool:
        server = Server()
        received: list[object] = []
        async with connecting(server, channel_capacity=1) as client:
            await wait_all_tasks_blocked()
            # They arrive while it waits.
            server.send(*(text(str(number)) for number in range(5)))

            async def take() -> None:
                received.append(await receive(client))

            completed = await completes(take, steps)
            while len(received) < 5:
                await take()
            assert received == ["0", "1", "2", "3", "4"]
        assert server.closed
        return completed

    await sweep(once)


async def test_close_may_be_cancelled_at_any_step(autojump_clock: MockClock) -> None:
    async def once(steps: int) -> bool:
        server = Server()
        async with connecting(server) as client:
            server.send(*[text("a")] * 5, frame(PING, b"p"))
            completed = await completes(lambda: client.close(3000), steps)
            assert server.closed
            assert client.close_code in (1000, 1006)
            assert client.error is None
        check_whole(server)
        return completed

    await sweep(once)


async def test_close_may_be_cancelled_at_any_step_while_the_peer_closes(autojump_clock: MockClock) -> None:
    async def once(steps: int) -> bool:
        server = Server(answers_close=False)
        async with connecting(server, channel_capacity=1) as client:
            server.send(*[text("a")] * 5, close(1011))
            server.end()
            completed = await completes(client.close, steps)
            assert server.closed
            while (await client.receive()).ok:
                pass
        check_whole(server)
        return completed

    await sweep(once)


async def test_the_peers_end_may_come_at_any_step_of_a_send(autojump_clock: MockClock) -> None:
    for steps in range(30):
        server = Server()
        async with connecting(server) as client, trio.open_nursery() as nursery:

            async def send(client: Client = client) -> None:
                try:
                    await client.send("a")
                    await client.ping()
                except ConnectionError:
                    return

            nursery.start_soon(send)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            server.reset()
        assert server.closed
        check_whole(server)


async def test_a_cancelled_nursery_of_the_caller_may_come_at_any_step(autojump_clock: MockClock) -> None:
    for steps in range(60):
        server = Server()
        async with trio.open_nursery() as nursery:

            async def use(nursery: trio.Nursery = nursery, server: Server = server) -> None:
                client = await connecting(server, nursery=nursery)
                server.send(text("a"), frame(PING, b"p"))
                await client.send("b")
                await client.receive()
                await client.close()

            nursery.start_soon(use)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        check_whole(server)
        assert server.closed or not server.request
