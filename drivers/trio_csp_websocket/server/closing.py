"""Ending all connections of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.server.opening import STOPPING

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_csp_websocket.server.register import Register

# How long the last refusals and pages may take.
_LAST_SECONDS = 2.0


async def close_all(
    register: Register, code: int, reason: str, *, stop: Callable[[], None], grace_seconds: float = 0.0
) -> None:
    """Close all connections at once, each within its close timeout; turn away what is not answered.

    If cancelled, nothing is waited for any more.

    Args:
        register: of the server, which accepts no more streams.
        code: for the close frames.
        reason: for the close frames.
        stop: takes in no more requests. Called when there is none under way, or the grace is over.
        grace_seconds: how long requests may take to be taken in, and then connections to end by themselves.
    """
    try:
        with trio.move_on_after(grace_seconds):
            await register.wait_until(lambda: not register.coming and not register.crowd)
            stop()
            await register.wait_until(lambda: not register.size)
        stop()
        register.shut_out()
        _turn_away(register)
        async with trio.open_nursery() as nursery:
            for connection in list(register.open):
                nursery.start_soon(connection.close, code, reason)
        with trio.move_on_after(_LAST_SECONDS):
            await register.wait_until(lambda: not register.tasks)
        register.cut_off()
        await register.wait_until(lambda: not register.tasks)
    except BaseException:
        stop()
        await give_up_all(register)
        # What a nursery raises when it is cancelled is a group: callers want to tell that by its type.
        await trio.lowlevel.checkpoint_if_cancelled()
        raise


async def give_up_all(register: Register) -> None:
    """Send each connection a last close frame with 1001 without waiting, and close its socket, even when cancelled."""
    _turn_away(register)
    with trio.CancelScope(shield=True):
        for connection in list(register.open):
            await connection.give_up(CloseCode.GOING_AWAY, closing=True)
            # The task that reads may have been cancelled before it came to know that the connection is accepted.
            register.open.pop(connection, None)


def _turn_away(register: Register) -> None:
    for opening in list(register.unanswered):
        opening.turn_away(STOPPING)
