"""Runs a handler for one connection, and tells whether it has failed."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeAlias, cast

import trio

from csp.errors import InvalidTypeError
from trio_csp_websocket.server.server_connection import is_end_of
from trio_csp_websocket.testing.server_connection import (
    ServerConnection,
    client_left,
    end,
    how_it_ended,
    is_vain_wait,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_csp_websocket.testing.failures import Failures

Handler: TypeAlias = "Callable[[ServerConnection], Awaitable[object]]"
"""An async function that serves one connection. A `csp.websocket.Handler` is one too."""


async def handle(handler: Handler, connection: ServerConnection, failures: Failures) -> None:
    """Be the task of a handler: run it, note what it has raised, and end its connection."""
    try:
        failure = await _failure_of(handler, connection)
        if failure is None:
            await end(connection)
        else:
            # Before the client sees the end of its stream: a program that fails at that end comes second.
            failures.add(failure, client_left=client_left(connection))
            del failure
    finally:
        connection.drop()


async def _failure_of(handler: Handler, connection: ServerConnection) -> BaseException | None:
    """Run a handler; return what it has raised, but for the end of its connection, and cancellations."""
    try:
        returned = cast("object", handler(connection))
        if not isinstance(returned, Awaitable):
            raise InvalidTypeError(f"handler must be an async function: {handler!r} returned {type(returned).__name__}")
        await returned
    except BaseException as error:  # noqa: BLE001  # all that is no failure is raised again
        return _failure(error, connection)
    return None


def _failure(error: BaseException, connection: ServerConnection) -> BaseException | None:
    # Also in a group, from tasks that the handler started.
    raised = _without(error, lambda seen: is_end_of(connection, seen) and not is_vain_wait(connection, seen))
    failure = _without(raised, lambda seen: isinstance(seen, trio.Cancelled))
    if raised is not None and failure is None:
        raise raised from None
    return None if failure is None else _with_assertions(failure, connection)


def _without(error: BaseException | None, is_one: Callable[[BaseException], bool]) -> BaseException | None:
    """Return an exception without those of a kind that are in it if it is a group; None if nothing is left."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.split(lambda seen: not isinstance(seen, BaseExceptionGroup) and is_one(seen))[1]
    return None if error is None or is_one(error) else error


def _with_assertions(error: BaseException, connection: ServerConnection) -> BaseException:
    """Return an exception of a handler with an `AssertionError` for each wait for a message that did not come."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        inner = [_with_assertions(seen, connection) for seen in group.exceptions]
        if all(new is old for new, old in zip(inner, group.exceptions, strict=True)):
            return group
        return group.derive(inner).with_traceback(group.__traceback__)
    if not is_vain_wait(connection, error):
        return error
    how = how_it_ended(connection)
    if how is None:
        text = "the handler waits for a value with anext, and there are no more"
    else:
        text = f"the handler waits for a message, and the client sends no more: {how}"
    return AssertionError(text).with_traceback(error.__traceback__)
