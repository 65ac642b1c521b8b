"""The states of a connection, and the moves between them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.websocket._server import Server, close, connecting, frame
from trio_csp_websocket.connection.connection import Connection
from trio_csp_websocket.connection.state import MOVES, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from csp.websocket import Client


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """Return the states that connections move to, in order."""
    seen: list[State] = []
    move = Connection._move

    def spying_move(self: Connection, state: State) -> None:
        move(self, state)
        seen.append(state)

    monkeypatch.setattr(Connection, "_move", spying_move)
    return seen


async def ours(client: Client, server: Server) -> None:
    await client.close(3000)


async def theirs(client: Client, server: Server) -> None:
    server.send(close(1000))
    server.end()
    await client._connection.finished.wait()


async def both(client: Client, server: Server) -> None:
    server.answers_close = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.send(close(1000))
        server.end()


async def violated(client: Client, server: Server) -> None:
    server.send(frame(0x3))
    server.end()
    await client._connection.finished.wait()


async def violated_after_our_close(client: Client, server: Server) -> None:
    server.answers_close = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.send(frame(0x3))
        server.end()


async def broken(client: Client, server: Server) -> None:
    server.reset()
    await client._connection.finished.wait()


async def not_answered(client: Client, server: Server) -> None:
    server.answers_close = False
    await client.close()


async def cancelled(client: Client, server: Server) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.close()


async def cancelled_while_closing(client: Client, server: Server) -> None:
    server.answers_close = False
    with trio.move_on_after(1):
        await client.close()


async def cancelled_after_their_close(client: Client, server: Server) -> None:
    server.answers_close = False
    server.send(close(1000))  # and keeps the stream open
    await wait_all_tasks_blocked()
    await cancelled(client, server)


async def not_ended_after_their_close(client: Client, server: Server) -> None:
    server.answers_close = False
    server.send(close(1000))  # and keeps the stream open
    await wait_all_tasks_blocked()
    with trio.move_on_after(1):
        await client.close()


async def dropped(client: Client, server: Server) -> None:
    server.answers_close = False
    await client._connection.drop("it was not wanted")
    assert server.closes == [1001]
    assert str(client.error) == "this end dropped the connection: it was not wanted"


async def dropped_while_closing(client: Client, server: Server) -> None:
    server.answers_close = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        await client._connection.drop("it was not wanted")
    assert server.closes == [1000]
    assert (client.close_code, client.error) == (1006, None)


async def dropped_after_their_close(client: Client, server: Server) -> None:
    server.answers_close = False
    server.send(close(1000))  # and keeps the stream open
    await wait_all_tasks_blocked()
    await client._connection.drop("it was not wanted")
    assert (client.close_code, client.error) == (1000, None)


ENDINGS: dict[Callable[[Client, Server], Awaitable[None]], list[State]] = {
    ours: [State.CLOSING, State.CLOSED],
    theirs: [State.CLOSED],
    both: [State.CLOSING, State.CLOSED],
    violated: [State.FAILED],
    violated_after_our_close: [State.CLOSING, State.FAILED],
    broken: [State.LOST],
    not_answered: [State.CLOSING, State.LOST],
    cancelled: [State.GIVEN_UP],
    cancelled_while_closing: [State.CLOSING, State.LOST],
    cancelled_after_their_close: [State.CLOSED, State.GIVEN_UP],
    dropped: [State.GIVEN_UP],
    dropped_while_closing: [State.CLOSING, State.GIVEN_UP],
    dropped_after_their_close: [State.CLOSED, State.GIVEN_UP],
    not_ended_after_their_close: [State.CLOSED, State.LOST],
}


@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
async def test_an_ending_moves_along_the_arrows(
    end: Callable[[Client, Server], Awaitable[None]], moves: list[State], autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server, close_timeout="5000ms") as client:
        assert client._connection.state is State.OPEN
        await end(client, server)
    assert moves == [*ENDINGS[end], State.FINISHED]
    assert client._connection.ending is not None


async def test_leaving_at_once_by_several_ways_gives_it_up_once(moves: list[State], autojump_clock: MockClock) -> None:
    server = Server()
    with trio.CancelScope() as scope:
        async with connecting(server) as client, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(client.close)
            scope.cancel()
    assert moves == [State.GIVEN_UP, State.FINISHED]
    assert server.closes == [1000]
    assert server.closed


def test_every_state_leads_to_the_end() -> None:
    def reachable(state: State, seen: frozenset[State]) -> frozenset[State]:
        return functools.reduce(
            lambda found, after: found if after in found else reachable(after, found), MOVES[state], seen | {state}
        )

    assert set(MOVES) == set(State)
    for state in State:
        assert State.FINISHED in reachable(state, frozenset())
    assert not MOVES[State.FINISHED]


@pytest.mark.parametrize(
    ("state", "to"),
    [(state, to) for state in State for to in State if to not in MOVES[state]],
    ids=lambda state: state.name,
)
async def test_any_other_move_is_an_error_of_the_program(state: State, to: State, autojump_clock: MockClock) -> None:
    async with connecting(Server()) as client:
        connection = client._connection
        connection.state = state
        with pytest.raises(AssertionError, match=f"{state} -> {to}"):
            connection._move(to)
        connection.state = State.OPEN
