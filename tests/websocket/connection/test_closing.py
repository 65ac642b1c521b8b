"""``close``: when it returns, what it waits for, and what crosses it on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp.errors import ConnectionFailedError
from tests.websocket._server import BINARY, PING, PONG, URL, Frame, Server, close, connecting, drained, frame, text
from tests.websocket.connection._sends import ended_send

if TYPE_CHECKING:
    from trio.testing import MockClock

    from csp.websocket import Client


async def timed_close(client: Client, server: Server) -> float:
    start = trio.current_time()
    await client.close()
    assert server.closed
    return trio.current_time() - start


async def test_close_returns_when_the_peer_has_answered_and_ended_the_stream(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        assert await timed_close(client, server) == 0
        assert client.close_code == 1000
        assert client.error is None


async def test_close_gives_a_silent_peer_the_close_timeout(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, close_timeout="2s") as client:
        assert await timed_close(client, server) == pytest.approx(2)
        assert client.close_code == 1006
        assert client.error is None


async def test_close_gives_a_peer_that_answers_and_keeps_the_stream_open_the_close_timeout(
    autojump_clock: MockClock,
) -> None:
    server = Server(answers_close=False)
    async with connecting(server, close_timeout="2s") as client, trio.open_nursery() as nursery:

        async def answer() -> None:
            await trio.sleep(1)
            server.send(close(1000))

        nursery.start_soon(answer)
        assert await timed_close(client, server) == pytest.approx(2)
        assert client.close_code == 1000


async def test_close_gives_a_peer_that_floods_the_close_timeout(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, close_timeout="2s", channel_capacity=1) as client, trio.open_nursery() as nursery:

        async def flood() -> None:
            while not server.closed:
                server.send(frame(BINARY, bytes(100_000)), frame(PING, b"p"))
                await trio.sleep(0.01)

        nursery.start_soon(flood)
        await trio.sleep(0.1)
        assert await timed_close(client, server) == pytest.approx(2)


async def test_close_gives_a_peer_that_never_reads_the_close_timeout(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, close_timeout="2s") as client:
        server.stop_reading()
        assert await timed_close(client, server) == pytest.approx(2)


async def test_close_behind_a_send_that_is_stuck_takes_the_close_timeout(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, close_timeout="2s") as client, trio.open_nursery() as nursery:
        server.stop_reading()
        nursery.start_soon(ended_send, client)
        nursery.start_soon(ended_send, client)
        await wait_all_tasks_blocked()
        assert await timed_close(client, server) == pytest.approx(2)


async def test_close_goes_out_behind_sends_that_wait(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client, trio.open_nursery() as nursery:
        server.stop_reading()
        for payload in ("a", "b", "c"):
            nursery.start_soon(client.send, payload)
            await wait_all_tasks_blocked()
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.read_on()
    assert server.payloads == [b"a", b"b", b"c", b"\x03\xe8"]


async def test_close_without_a_close_timeout_waits_for_the_peer(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server, close_timeout=None) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.close)
        await trio.sleep(1000)
        assert not server.closed
        server.send(close(1000))
        server.end()
    assert server.closed


async def test_close_that_is_cancelled_closes_at_once(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        start = trio.current_time()
        with trio.move_on_after(1) as scope:
            await client.close()
        assert scope.cancelled_caught
        assert server.closed
        assert trio.current_time() - start == pytest.approx(1)
        assert client.error is None


async def test_closing_again_waits_for_the_end_and_sends_nothing(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        ended: list[int] = []

        async def close_with(code: int) -> None:
            await client.close(code)
            assert server.closed
            ended.append(code)

        nursery.start_soon(close_with, 1000)
        await wait_all_tasks_blocked()
        nursery.start_soon(close_with, 3000)
        nursery.start_soon(close_with, 3001)
        await wait_all_tasks_blocked()
        assert not ended
        server.send(close(1000))
        server.end()
        await wait_all_tasks_blocked()
        assert sorted(ended) == [1000, 3000, 3001]
        await client.close(3002)
    assert server.closes == [1000]


async def test_a_second_closer_that_is_cancelled_closes_at_once_for_both(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        start = trio.current_time()
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await client.close()
    assert server.closed
    assert trio.current_time() - start == pytest.approx(1)


@pytest.mark.parametrize("close_timeout", [None, "10s"])
async def test_a_task_outside_that_closes_ends_with_a_block_that_is_cancelled(
    close_timeout: str | None, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server(answers_close=False)
    ended = trio.Event()

    async def close_it(client: Client) -> None:
        await client.close()
        ended.set()

    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with connecting(server, close_timeout=close_timeout) as client:
            nursery.start_soon(close_it, client)
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    await ended.wait()
    assert server.closes == [1000]
    assert server.closed
    assert trio.current_time() == start


@pytest.mark.parametrize("ending", [close(1011), b""])
async def test_closing_after_the_peer_has_waits_for_the_end_only(ending: bytes, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        if ending:
            server.send(ending)
        server.end()
        await wait_all_tasks_blocked()
        error = client.error
        assert error is not None
        await client.close()
        assert client.error is error
        assert server.closes == ([1011] if ending else [])


async def test_a_close_of_the_peer_that_crosses_ours_counts_as_its_answer(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        server.stop_reading()
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.send(close(1001, "leaving"))
        server.end()
        server.read_on()
        await wait_all_tasks_blocked()
        assert (client.close_code, client.close_reason) == (1001, "leaving")
        assert client.error is None
    assert server.closes == [1000]
    assert server.closed


async def test_a_ping_that_crosses_our_close_is_never_answered_after_it(autojump_clock: MockClock) -> None:
    for steps in range(25):
        server = Server(answers_close=False)
        async with connecting(server) as client, trio.open_nursery() as nursery:
            await wait_all_tasks_blocked()
            server.send(frame(PING, b"p"))
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(client.close)
            await wait_all_tasks_blocked()
            server.send(frame(PING, b"q"), close(1000))
            server.end()
        # The server itself refuses what follows the close frame.
        assert server.closes == [1000]
        assert Frame(PONG, b"q") not in server.frames
        assert server.closed


async def test_an_end_of_the_stream_instead_of_an_answer_is_1006_and_no_error(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.end()
        await wait_all_tasks_blocked()
        assert client.close_code == 1006
        assert client.error is None
        assert server.closed


async def test_data_that_arrives_while_we_close_is_discarded(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        server.send(text("before"))
        await wait_all_tasks_blocked()
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.send(*[text("a")] * 100, close(1000))
        server.end()
        await wait_all_tasks_blocked()
        assert await drained(client) == ["before"]


async def test_a_client_that_is_being_closed_says_so(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        assert repr(client) == f"<csp.websocket.Client closing, {URL}>"
        with pytest.raises(ConnectionFailedError, match="sending failed: the connection is being closed"):
            await client.send("late")


async def test_a_close_that_is_cancelled_sends_the_close_frame_while_messages_arrive(
    autojump_clock: MockClock,
) -> None:
    # Whether the reader or the close frame goes first is the scheduler's choice.
    for _ in range(20):
        server = Server(answers_close=False)
        async with connecting(server) as client, trio.open_nursery() as nursery:

            async def talk(server: Server = server) -> None:
                while not server.closed:
                    server.send(text("news"))
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(talk)
            with trio.CancelScope() as scope:
                scope.cancel()
                await client.close()
        assert server.closes == [1000]


async def test_of_several_pings_that_cross_our_close_none_is_answered_after_it(autojump_clock: MockClock) -> None:
    answered: set[int] = set()
    for steps in range(-5, 20):
        server = Server(answers_close=False)
        async with connecting(server) as client, trio.open_nursery() as nursery:
            await wait_all_tasks_blocked()
            if steps < 0:
                nursery.start_soon(client.close)
                for _ in range(-steps):
                    await trio.lowlevel.checkpoint()
            server.send(*(frame(PING, b"%d" % number) for number in range(5)))
            if steps >= 0:
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(client.close)
            await wait_all_tasks_blocked()
            server.send(close(1000))
            server.end()
        # The server itself refuses what follows the close frame.
        assert server.closes == [1000]
        pongs = server.payloads[:-1]
        assert pongs == [b"0", b"1", b"2", b"3", b"4"][: len(pongs)]
        answered.add(len(pongs))
    # In the course of this, our close has gone out ahead of the answers, and after them.
    assert answered == {0, 5}


async def test_a_pong_that_crosses_our_close_answers_its_ping(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client, trio.open_nursery() as nursery:
        answer = await client.ping("a")
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.send(frame(PONG, b"a"), close(1000))
        server.end()
        assert (await answer.receive()).ok


async def test_a_close_in_a_cancelled_scope_is_no_failure(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.close()
        assert (client.close_code, client.error, client.closing) == (1006, None, True)


async def test_a_close_that_is_on_its_way_makes_giving_up_no_failure(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    clients: list[Client] = []
    with trio.CancelScope() as scope:
        async with connecting(Server(answers_close=False)) as client:
            clients.append(client)
            nursery.start_soon(client.close)
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    assert [(client.close_code, client.error) for client in clients] == [(1006, None)]


async def test_everybody_who_closes_in_a_cancelled_scope_returns_after_the_end(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ended: list[bool] = []

    async def close_cancelled(client: Client) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.close()
        ended.append(client._connection.finished.is_set())

    async with connecting(Server()) as client, trio.open_nursery() as closers:
        for _ in range(3):
            closers.start_soon(close_cancelled, client)
    assert ended == [True] * 3
