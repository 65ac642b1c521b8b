"""`serve`: a server that runs a handler for each connection."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack, cast

import trio

import csp
from csp.errors import InvalidError, InvalidTypeError, shown
from trio_csp_websocket.events import Events, fields_of
from trio_csp_websocket.protocol.url import without_query
from trio_csp_websocket.server.listen import Listening, check
from trio_csp_websocket.server.server_connection import ServerConnection, is_end_of
from trio_csp_websocket.transport.base import shown_address

if TYPE_CHECKING:
    from trio_csp_websocket.server.options import ListenOptions
    from trio_csp_websocket.server.server import Server

_events = Events("csp.websocket.server")

Handler: TypeAlias = Callable[[ServerConnection], Awaitable[object]]
"""An async function that serves one connection."""


def serve(
    handler: Handler,
    port: int | None = None,
    *,
    handler_errors: Literal["log", "raise"] = "log",
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ListenOptions],
) -> Coroutine[Any, Any, None]:
    """Listen for WebSocket connections, and run a handler in a task for each, until cancelled or closed.

        await websocket.serve(handler, 8765)
        server = await nursery.start(websocket.serve, handler, 0)   # a free port: server.port

    A connection arrives unanswered: the handler's first `ServerConnection.send`, ``receive``, ``ping`` or iteration
    accepts it, if the handler does not call `ServerConnection.accept` or `ServerConnection.reject` before. When the
    handler returns, the connection is closed with 1000, or refused with status 403 if it is unanswered. When it raises,
    with 1011, or status 500. That the connection has ended is no failure of the handler: an exception that
    says so, alone or in a group, counts as if the handler had returned.

    Returns when the server was stopped or closed, and its handlers have returned. If cancelled, its handlers are
    cancelled, and each client is sent 1001 without waiting.

    Args:
        handler: an async function of a `ServerConnection`.
        port: the port to listen on; 0 for a free one. Exactly one of port, ``unix_socket`` and ``sockets`` is given.
        handler_errors: "log" to log what a handler raises, with its traceback, and go on; "raise" to let it come out of
            this, as it is.
        task_status: for ``nursery.start``, which returns the `Server` once it listens.
        options: all optional; see `ListenOptions`.

    Raises:
        InvalidError: an option is out of range or malformed. Raised by the call, before any I/O.
        InvalidTypeError: the same for a wrong type or an unknown option; and out of this for a handler that is no async
            function.
        PermissionDeniedError: as for `listen`.
        ListenFailedError: as for `listen`.
        NoContextError: it is awaited outside a Trio run.
    """
    if not callable(handler):
        raise InvalidTypeError(f"handler must be an async function of a ServerConnection, not {handler!r}")
    if handler_errors not in ("log", "raise"):
        raise InvalidError(f'handler_errors must be "log" or "raise", not {handler_errors!r}')
    others = ("handler", "port", "handler_errors", "task_status")
    listening = Listening(*check(port, options, others=others))
    return _serve(handler, listening, task_status, log=handler_errors == "log")


async def _serve(handler: Handler, listening: Listening, task_status: trio.TaskStatus[Server], *, log: bool) -> None:
    async with listening as server:
        task_status.started(server)
        async with csp.BackgroundNursery() as nursery:
            handlers = _Handlers(handler, log=log)
            async for connection in server:
                handlers.running += 1
                nursery.start_soon(handlers.handle, connection, name=handler)
            await handlers.finished()


class _NotAsyncError(Exception):
    """The handler is no async function; the text says so."""


class _Handlers:
    """The calls of a handler, one for each connection."""

    def __init__(self, handler: Handler, *, log: bool) -> None:
        self.running = 0
        self._handler = handler
        self._log = log
        self._finished: trio.Event | None = None

    async def finished(self) -> None:
        """Wait until none is running."""
        if self.running:
            self._finished = trio.Event()
            await self._finished.wait()

    async def handle(self, connection: ServerConnection) -> None:
        """Be the task of one of them."""
        try:
            async with connection:
                await self._call(connection)
        except _NotAsyncError as error:
            raise InvalidTypeError(str(error)) from None
        except Exception:
            if not self._log:
                raise
        finally:
            self.running -= 1
            if not self.running and self._finished is not None:
                self._finished.set()

    async def _call(self, connection: ServerConnection) -> None:
        try:
            returned = cast("object", self._handler(connection))
            if not isinstance(returned, Awaitable):
                raise _NotAsyncError(
                    f"handler must be an async function: {self._handler!r} returned {type(returned).__name__}"
                )
            await returned
        except Exception as error:  # noqa: BLE001  # it is logged, or raised again
            failure = without_end(error, connection)
            if failure is None:
                return
            if self._log and not isinstance(failure, _NotAsyncError):
                # Now, and not when the connection is closed: that may take some time.
                _tell_failure(connection, failure)
            raise failure from failure.__cause__


def _tell_failure(connection: ServerConnection, failure: Exception) -> None:
    remote = connection.remote
    _events.tell(
        "server.handler_failed",
        logging.ERROR,
        "the handler of %r has failed",
        connection,
        exc_info=failure,
        url=shown(without_query(connection.url)),
        remote=None if remote is None else shown_address(remote),
        **fields_of(failure),
    )


def without_end(error: Exception, connection: ServerConnection) -> Exception | None:
    """Return an exception of a handler without those that say no more than that its connection has ended; or None."""
    if isinstance(error, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", error)
        return group.split(lambda one: is_end_of(connection, one))[1]
    return None if is_end_of(connection, error) else error
