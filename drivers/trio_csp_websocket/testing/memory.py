"""Servers in memory, for tests: `connect` reaches them instead of the network."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeAlias, Unpack

import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

import csp
from csp.errors import InvalidTypeError
from trio_csp_websocket.client.connect import Connecting
from trio_csp_websocket.client.dial import memory_servers
from trio_csp_websocket.client.options import ConnectOptions, Options, parse_options
from trio_csp_websocket.protocol.url import Target, parse_url, without_query
from trio_csp_websocket.testing.peer import ConnectionEndedError, Peer
from trio_csp_websocket.testing.server_connection import ServerConnection
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.client.progress import Progress
    from trio_csp_websocket.transport.base import Transport

Handler: TypeAlias = "Callable[[ServerConnection], Awaitable[object]]"

_PAIR_URL = "wss://server.test/"


@contextlib.asynccontextmanager
async def websocket_pair(**connect_options: Unpack[ConnectOptions]) -> AsyncGenerator[tuple[Client, ServerConnection]]:
    """Open a connection in memory, for the length of a block: gives the client, and the server's end.

    The server has accepted compression, if the client offers it, and the first subprotocol that the client offers. The
    client is closed at the end of the block, as with `csp.websocket.connect`.

    Args:
        connect_options: the options of a connection, as `csp.websocket.connect` takes them.

    Raises:
        InvalidError: an option is out of range or malformed.
    """
    async with csp.BackgroundNursery() as nursery:
        served = csp.Channel[ServerConnection](1)

        async def accept(connection: ServerConnection) -> None:
            await connection.accept(protocol=next(iter(connection.protocols), None), compression=True)
            await served.send(connection)
            await connection.wait_closed()

        async def dial(target: Target, _options: Options, _progress: Progress) -> Transport:
            return _linked(target, nursery, accept)

        async with Connecting(parse_url(_PAIR_URL), parse_options(connect_options), dial=dial) as client:
            yield client, (await served.receive()).value


@contextlib.asynccontextmanager
async def websocket_server(handler: Handler, url: str | None = None) -> AsyncGenerator[None]:
    """For the length of a block, let every `csp.websocket.connect` of this Trio run reach a handler in memory.

    ``await handler(connection)`` runs in a task for each connection, once its request has come. When it returns, the
    connection is closed with 1000. An exception of the handler cancels the block, and comes out of it unchanged. Only
    `ConnectionEndedError`, raised by a send to a client that has gone, does not: it just ends the handler.

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
        InvalidError: the URL is malformed.
        InvalidTypeError: the handler is not callable.
    """
    if not callable(handler):
        raise InvalidTypeError(f"handler must be an async function of a ServerConnection, not {handler!r}")
    root = None if url is None else parse_url(url).url
    async with csp.BackgroundNursery() as nursery:

        def serve(target: Target) -> Transport | None:
            return _linked(target, nursery, handler) if root is None or _is_below(target.url, root) else None

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


def _linked(target: Target, nursery: trio.Nursery, handler: Handler) -> Transport:
    """Return a client's end of a new stream, whose other end is served in a task."""
    near, far = lockstep_stream_pair()
    nursery.start_soon(_serve, far, target.url, handler, nursery, name=f"csp.testing server of {target.shown}")
    return StreamTransport(near)


async def _serve(stream: trio.abc.HalfCloseableStream, url: str, handler: Handler, servers: trio.Nursery) -> None:
    try:
        peer = Peer(stream)
        if not await peer.read_request():
            return
        connection = ServerConnection(peer, url)
        async with csp.BackgroundNursery() as nursery:
            nursery.start_soon(peer.run, name=f"csp.testing connection of {without_query(url)}")
            try:
                await _handle(handler, connection)
            except BaseException:
                # Before the client sees the end of its stream: an error of the client's would hide this one.
                servers.cancel_scope.cancel()
                raise
            await connection.close()
    finally:
        # A client that sees the end may fail and cancel this; Cancelled must not replace the exception on its way out.
        with trio.CancelScope(shield=True):
            await stream.aclose()


async def _handle(handler: Handler, connection: ServerConnection) -> None:
    try:
        await handler(connection)
    except* ConnectionEndedError:
        pass  # also in a group, from tasks that the handler started
    except* StopAsyncIteration:
        code = connection.close_code
        how = f"closed with code {code}" if connection.error is None else connection.error
        raise AssertionError(f"the handler waits for a message, and the client sends no more: {how}") from None
