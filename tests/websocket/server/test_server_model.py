"""A connection of a server as a machine of states: what each method does in each, alone and in two tasks at once.

`STATES` tells how a connection comes into each state, by what a client sends and its owner calls. `TABLE` tells for
each method what it does in each state, and which state follows. The tests compare every method in every state with it,
and every two methods that two tasks call at once: together they must do what they do one after the other, in one of the
two orders.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp.errors import ConnectionFailedError, EndOfChannelError, NoContextError
from tests.websocket.server._lobby import CLOSE, TEXT, close_frame, connected, masked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from csp.websocket import ServerConnection
    from tests.websocket.server._lobby import RawClient

# A refusal lingers for one second, and a request waits ten for its answer.
PATIENCE_SECONDS = 3

# States ---------------------------------------------------------------------------------------------------------------


async def leave_unanswered(connection: ServerConnection, client: RawClient) -> None:
    pass


async def accept(connection: ServerConnection, client: RawClient) -> None:
    await connection.accept()
    await client.answer()


async def reject(connection: ServerConnection, client: RawClient) -> None:
    await connection.reject()


async def turn_away(connection: ServerConnection, client: RawClient) -> None:
    """Let the time run out in which it should have been answered."""
    await connection.wait_closed()


async def close_and_be_answered(connection: ServerConnection, client: RawClient) -> None:
    """Close it, as the client does then."""
    await accept(connection, client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.close)
        await client.closed()
        await client.send(close_frame(1000))
        await client.leave()


async def be_closed(connection: ServerConnection, client: RawClient) -> None:
    await accept(connection, client)
    await client.close()
    await connection.wait_closed()


async def be_closed_with_an_error(connection: ServerConnection, client: RawClient) -> None:
    await accept(connection, client)
    await client.close(1011)
    await connection.wait_closed()


async def be_lost(connection: ServerConnection, client: RawClient) -> None:
    await accept(connection, client)
    await client.leave()
    await connection.wait_closed()


async def leave_the_client(connection: ServerConnection, client: RawClient) -> None:
    """Lose the client before anything was answered."""
    await client.leave()
    await wait_all_tasks_blocked()


STATES: dict[str, Callable[[ServerConnection, RawClient], Awaitable[None]]] = {
    "unanswered": leave_unanswered,
    "open": accept,
    "rejected": reject,
    "turned away": turn_away,
    "closed": close_and_be_answered,
    "closed by the client": be_closed,
    "failed": be_closed_with_an_error,
    "lost": be_lost,
    "left": leave_the_client,
}
# What is seen of each: `closing`, `close_code`, whether `error` is set, and how `repr` calls it.
SEEN = {
    "unanswered": (False, None, False, "unanswered"),
    "open": (False, None, False, "open"),
    "rejected": (True, 1006, False, "ended with 1006"),
    "turned away": (False, 1006, True, "ended with 1006"),
    "closed": (True, 1000, False, "ended with 1000"),
    "closed by the client": (False, 1000, False, "ended with 1000"),
    "failed": (False, 1011, True, "ended with 1011"),
    "lost": (False, 1006, True, "ended with 1006"),
    "left": (False, None, False, "unanswered"),
}

# Methods --------------------------------------------------------------------------------------------------------------


async def _channel(connection: ServerConnection) -> object:
    return connection.channel()


METHODS: dict[str, Callable[[ServerConnection], Awaitable[Any]]] = {
    "accept": lambda connection: connection.accept(),
    "reject": lambda connection: connection.reject(),
    "send": lambda connection: connection.send("text"),
    "send_json": lambda connection: connection.send_json("value"),
    "ping": lambda connection: connection.ping(),
    "receive": lambda connection: connection.receive(),
    "receive_value": lambda connection: connection.receive_value(),
    "anext": anext,
    "close": lambda connection: connection.close(),
    "aclose": lambda connection: connection.aclose(),
    "wait_closed": lambda connection: connection.wait_closed(),
    "channel": _channel,
}


class Does(NamedTuple):
    """What a method does in a state, and the state that follows.

    Args:
        what: "returns", "waits", "ends" for a receive that tells the end, or the exception.
        then: the state; "" for the same.
    """

    what: object
    then: str = ""


RECEIVING = {"receive", "receive_value", "anext"}
CLOSES = {"close", "aclose"}
RETURNS, WAITS, ENDS = Does("returns"), Does("waits"), Does("ends")
OPENS = Does("returns", "open")
REFUSED = Does(NoContextError)
FAILS = Does(ConnectionFailedError)
STOPS, NO_MORE = Does(StopAsyncIteration), Does(EndOfChannelError)
GONE = dict.fromkeys(["rejected", "turned away", "closed", "closed by the client", "failed", "lost"], RETURNS)
LOSES = Does(ConnectionFailedError, "lost")
SENDING = {"unanswered": OPENS, "open": RETURNS, "left": LOSES} | dict.fromkeys(GONE, FAILS)
CLOSING = {
    "unanswered": Does("returns", "rejected"),
    "open": Does("returns", "closed"),
    "left": Does("returns", "rejected"),
    **GONE,
}
ANSWERING = dict.fromkeys(STATES, REFUSED) | dict.fromkeys(["turned away"], FAILS)
TABLE: dict[str, dict[str, Does]] = {
    "accept": ANSWERING | {"unanswered": OPENS, "left": LOSES},
    "reject": ANSWERING | {"unanswered": Does("returns", "rejected"), "left": Does("returns", "rejected")},
    "send": SENDING,
    "send_json": SENDING,
    "ping": SENDING,
    "receive": {"unanswered": OPENS, "open": RETURNS, "left": Does("ends", "lost")} | dict.fromkeys(GONE, ENDS),
    "receive_value": {
        "unanswered": OPENS,
        "open": RETURNS,
        "rejected": NO_MORE,
        "turned away": FAILS,
        "closed": NO_MORE,
        "closed by the client": NO_MORE,
        "failed": FAILS,
        "lost": FAILS,
        "left": LOSES,
    },
    "anext": {
        "unanswered": OPENS,
        "open": RETURNS,
        "rejected": STOPS,
        "turned away": FAILS,
        "closed": STOPS,
        "closed by the client": STOPS,
        "failed": FAILS,
        "lost": FAILS,
        "left": LOSES,
    },
    "close": CLOSING,
    "aclose": CLOSING,
    "wait_closed": {"unanswered": WAITS, "open": WAITS, "left": WAITS, **GONE},
    "channel": {"unanswered": REFUSED, "open": RETURNS, "left": REFUSED, **GONE},
}

# What they do ---------------------------------------------------------------------------------------------------------


async def behave(state: str, client: RawClient) -> None:
    """Be a client that sends a few messages, and answers a close."""
    if state == "unanswered" and (await client.answer()).status != 101:
        await client.ended()
        await client.leave()
    elif state in ("unanswered", "open"):
        await client.send(masked(TEXT, b"text") * 4)
        while (await client.frame())[0] != 0x80 | CLOSE:
            pass
        await client.send(close_frame(1000))
        await client.leave()


async def outcome(method: str, connection: ServerConnection) -> object:
    with trio.move_on_after(PATIENCE_SECONDS):
        try:
            value = await METHODS[method](connection)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is compared
            return type(error)
        return "ends" if value == (None, False) else "returns"
    return "waits"


def seen(connection: ServerConnection) -> tuple[object, ...]:
    state = repr(connection).removeprefix("<csp.websocket.ServerConnection ").partition(",")[0]
    return connection.closing, connection.close_code, connection.error is not None, state


async def compare(state: str, *methods: str) -> None:
    """Call the methods at once, each in a task, on a connection in a state, and compare with the table."""
    outcomes: dict[int, object] = {}

    async def call(number: int, method: str) -> None:
        outcomes[number] = await outcome(method, connection)

    async with connected() as (connection, client):
        await STATES[state](connection, client)
        assert seen(connection) == SEEN[state]
        async with csp.BackgroundNursery() as background:
            background.start_soon(behave, state, client)
            async with trio.open_nursery() as nursery:
                for number, method in enumerate(methods):
                    nursery.start_soon(call, number, method)
            await wait_all_tasks_blocked()
            assert (outcomes, seen(connection)) in list(orders(state, methods))


def orders(state: str, methods: tuple[str, ...]) -> Iterator[tuple[dict[int, object], tuple[object, ...]]]:
    """Yield what the methods do one after the other, in each order, and what is seen then."""
    for order in itertools.permutations(range(len(methods))):
        expected: dict[int, object] = {}
        then = state
        for number in order:
            does = TABLE[methods[number]][then]
            expected[number] = does.what
            then = does.then or then
        yield expected, SEEN[then]
        # What begins to wait for a message may see what another task does to the connection meanwhile.
        late = {number: TABLE[methods[number]][then].what for number in order if methods[number] in RECEIVING}
        yield expected | late, SEEN[then]
        if state == "left" and CLOSES.intersection(methods):
            # It is accepted, then closed, and only then found to be lost.
            yield expected, SEEN["rejected"]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", METHODS)
async def test_a_method_does_in_each_state_what_the_table_says(
    method: str, state: str, autojump_clock: MockClock
) -> None:
    await compare(state, method)


@pytest.mark.parametrize("state", STATES)
async def test_two_tasks_at_once_do_what_they_do_one_after_the_other(state: str, autojump_clock: MockClock) -> None:
    for pair in itertools.combinations_with_replacement(METHODS, 2):
        await compare(state, *pair)
