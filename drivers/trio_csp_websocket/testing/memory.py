"""Servers in memory, for tests: `connect` reaches them instead of the network."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn, TypeAlias, Unpack, cast

import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

import csp
from csp.errors import InvalidTypeError, NoContextError
from trio_csp_websocket.client.connect import Connecting
from trio_csp_websocket.client.options import ConnectOptions, Options, parse_options
from trio_csp_websocket.network.dial import memory_servers
from trio_csp_websocket.protocol.url import Target, parse_url, without_query
from trio_csp_websocket.testing.failures import Failures
from trio_csp_websocket.testing.peer import ConnectionEndedError, Peer
from trio_csp_websocket.testing.server_connection import ServerConnection
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.network.route import Route
    from trio_csp_websocket.transport.base import Transport

Handler: TypeAlias = "Callable[[ServerConnection], Awaitable[object]]"

_PAIR_URL = "wss://server.test/"


def websocket_pair(
    **connect_options: Unpack[ConnectOptions],
) -> AbstractAsyncContextManager[tuple[Client, ServerConnection], bool | None]:
    """Open a connection in memory, for the length of a block: gives the client, and the server's end.

    The server has accepted compression, if the client offers it, and the first subprotocol that the client offers. The
    client is closed at the end of the block, as with `csp.websocket.connect`.

    Args:
        connect_options: the options of a connection, as `csp.websocket.connect` takes them.

    Raises:
        InvalidError: an option is out of range or malformed. Raised by the call.
        InvalidTypeError: the same for a wrong type or an unknown option.
        NoContextError: on entering outside a Trio run.
    """
    return _pair(parse_options(connect_options))


@asynccontextmanager
async def _pair(options: Options) -> AsyncGenerator[tuple[Client, ServerConnection]]:
    served = csp.Channel[ServerConnection](1)

    async def accept(connection: ServerConnection) -> None:
        await connection.accept(protocol=next(iter(connection.protocols), None), compression=True)
        await served.send(connection)
        await connection.wait_closed()

    async with _serving(accept) as link:

        async def reach(target: Target, _route: Route, _progress: Progress) -> Transport:
            return link(target)

        async with Connecting(parse_url(_PAIR_URL), options, reach=reach) as client:
            yield client, (await served.receive()).value


def websocket_server(handler: Handler, url: str | None = None) -> AbstractAsyncContextManager[None, bool | None]:
    """For the length of a block, let every `csp.websocket.connect` of this Trio run reach a handler in memory.

    ``await handler(connection)`` runs in a task for each connection, once its request has come. When it returns, the
    connection is closed with 1000. An exception of the handler cancels the block, and comes out of it as it is. Only
    `ConnectionEndedError`, raised by a send to a client that has gone, does not: it just ends the handler.

    If both the block and a handler fail, the exception that came first comes out, and has notes about the others. The
    block's came first if the handler failed after its client had left, or when it was cancelled; unless a handler's
    failure had cancelled the block. Ctrl-C and ``SystemExit`` come before all others.

    Blocks may be nested: a connection reaches the innermost block that serves its URL. If none does, it is refused, as
    by a closed port; nothing goes to the network. Security policies are checked as always.

    At the end of the block the handlers run on until every task of the Trio run waits for something; then the
    connections that are left are dropped. After an exception they are dropped at once.

    Args:
        handler: an async function that takes a `ServerConnection`.
        url: serve only this URL and those below it, which continue it after the host, after a segment of the path, or
            with a query. A URL with a query serves only itself. ``wss:`` is served without TLS, and ``ssl_context`` is
            ignored. None to serve every URL.

    Raises:
        InvalidError: the URL is malformed. Raised by the call.
        InvalidTypeError: the handler is not callable, or the URL not a string. What the handler returns has to be
            awaitable, else the block ends with this error.
        NoContextError: on entering outside a Trio run.
    """
    if not callable(handler):
        raise InvalidTypeError(f"handler must be an async function of a ServerConnection, not {handler!r}")
    return _server(handler, None if url is None else parse_url(url).url)


@asynccontextmanager
async def _server(handler: Handler, root: str | None) -> AsyncGenerator[None]:
    async with _serving(handler) as link:

        def serve(target: Target) -> Transport | None:
            return link(target) if root is None or _is_below(target.url, root) else None

        memory_servers.set((*memory_servers.get(), serve))
        try:
            yield
            # What a handler checks after the client has closed is part of the test.
            await wait_all_tasks_blocked()
        finally:
            memory_servers.set(tuple(server for server in memory_servers.get() if server is not serve))


def _is_below(url: str, root: str) -> bool:
    if "?" in root:
        return url == root
    return url == root or url.startswith(root if root.endswith("/") else (f"{root}/", f"{root}?"))


@asynccontextmanager
async def _serving(handler: Handler) -> AsyncGenerator[Callable[[Target], Transport]]:
    """Give a function that returns the client's end of a new stream, whose other end is served by a handler."""
    if not trio.lowlevel.in_trio_task():
        raise NoContextError("csp.testing needs a running Trio: it works inside trio.run only")
    failures = Failures()
    try:
        async with csp.BackgroundNursery() as nursery:
            failures.block = nursery.cancel_scope

            def link(target: Target) -> Transport:
                near, far = lockstep_stream_pair()
                nursery.start_soon(
                    _serve, far, target.url, handler, failures, name=f"csp.testing server of {target.shown}"
                )
                return StreamTransport(near)

            try:
                yield link
            except BaseException as error:
                failures.arrived(error)
                raise
    except BaseException as error:
        first = failures.take_first(error)
        if first is error:
            raise
    else:
        first = failures.take_first(None)
    try:
        if first is not None:
            _raise_as_it_is(first)
    finally:
        del first  # its traceback holds this frame: all it refers to would wait for the collector


def _raise_as_it_is(error: BaseException) -> NoReturn:
    """Raise what was raised before; that it is raised while another exception is handled does not show."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context


async def _serve(stream: trio.abc.HalfCloseableStream, url: str, handler: Handler, failures: Failures) -> None:
    try:
        peer = Peer(stream)
        if not await peer.read_request():
            return
        connection = ServerConnection(peer, url)
        async with csp.BackgroundNursery() as nursery:
            nursery.start_soon(peer.run, name=f"csp.testing connection of {without_query(url)}")
            failure = await _failure_of(handler, connection, peer)
            if failure is not None:
                # Before the client sees the end of its stream: a program that fails at that end comes second.
                failures.add(failure, client_left=peer.client_left)
                del failure
                return
            await connection.close()
    finally:
        # A client that sees the end may fail and cancel this; Cancelled must not replace the exception on its way out.
        with trio.CancelScope(shield=True):
            await stream.aclose()


async def _failure_of(handler: Handler, connection: ServerConnection, peer: Peer) -> BaseException | None:
    """Run a handler; return what it has raised, but for sends to a client that has gone, and cancellations."""
    try:
        returned = cast("object", handler(connection))
        if not isinstance(returned, Awaitable):
            raise InvalidTypeError(f"handler must be an async function: {handler!r} returned {type(returned).__name__}")
        await returned
    except BaseException as error:  # noqa: BLE001  # all that is no failure is raised again
        return _failure(error, peer)
    return None


def _failure(error: BaseException, peer: Peer) -> BaseException | None:
    raised = _without(error, ConnectionEndedError)  # also in a group, from tasks that the handler started
    failure = _without(raised, trio.Cancelled)
    if raised is not None and failure is None:
        raise raised from None
    return None if failure is None else _with_assertions(failure, peer)


def _without(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """Return an exception without those of a kind that are in it if it is a group; None if nothing is left."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split(kind)[1]
    return None if isinstance(error, kind) else error


def _with_assertions(error: BaseException, peer: Peer) -> BaseException:
    """Return an exception of a handler with an `AssertionError` for each wait for a message that did not come."""

    def is_vain_wait(seen: BaseException) -> bool:
        return isinstance(seen, StopAsyncIteration) or seen is peer.missed()

    if is_vain_wait(error):
        if peer.messages.closed:
            text = f"the handler waits for a message, and the client sends no more: {peer.how_it_ended()}"
        else:
            text = "the handler waits for a value with anext, and there are no more"
        return AssertionError(text).with_traceback(error.__traceback__)
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    if group.subgroup(is_vain_wait) is None:
        return group
    inner = [_with_assertions(seen, peer) for seen in group.exceptions]
    return group.derive(inner).with_traceback(group.__traceback__)
