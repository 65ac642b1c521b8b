"""Servers in memory, for tests: `connect` reaches them instead of the network."""

from __future__ import annotations

from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, NoReturn, Unpack, cast

import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

import csp
from csp.errors import InvalidTypeError, NoContextError
from trio_csp_websocket.client import options as client_options
from trio_csp_websocket.client.connect import Connecting
from trio_csp_websocket.network.dial import memory_servers
from trio_csp_websocket.protocol.constants import Compression
from trio_csp_websocket.protocol.url import Target, parse_url
from trio_csp_websocket.server.hosts import ANY_HOST
from trio_csp_websocket.server.options import ServeOptions, parse_options
from trio_csp_websocket.server.register import Register
from trio_csp_websocket.testing.failures import Failures
from trio_csp_websocket.testing.handling import handle
from trio_csp_websocket.testing.scripted import ClientEnd, ScriptedDecoder, ScriptedEncoder, ScriptedTransport
from trio_csp_websocket.testing.server_connection import ServerConnection, abandon
from trio_csp_websocket.transport.logged import bare

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.client.options import ConnectOptions
    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.network.route import Route
    from trio_csp_websocket.server.opening import Opening
    from trio_csp_websocket.server.options import Options
    from trio_csp_websocket.testing.handling import Handler
    from trio_csp_websocket.transport.base import Transport

_PAIR_URL = "wss://server.test/"
# What a test has to ask for: limits of time, and who may connect; and more room than a server should give.
_DEFAULTS: Mapping[str, object] = {
    "origins": "*",
    "hosts": "*",
    "handshake_timeout": None,
    "max_handshakes": 1_000_000,
    "read_limit": 128 * 1024 * 1024,
    "channel_capacity": 1000,
    "write_timeout": None,
    "keepalive": None,
}


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
    return _pair(client_options.parse_options(connect_options))


@asynccontextmanager
async def _pair(options: client_options.Options) -> AsyncGenerator[tuple[Client, ServerConnection]]:
    served = csp.Channel[ServerConnection](1)

    async def accept(connection: ServerConnection) -> None:
        first = next(iter(connection.protocols), None)
        await connection.accept(subprotocol=first, compression=Compression.CONTEXT_TAKEOVER)
        await served.send(connection)
        await connection.wait_closed()

    async with _serving(accept, _parsed({})) as link:

        async def reach(target: Target, _route: Route, _progress: Progress) -> Transport:
            return link(target)

        async with Connecting(parse_url(_PAIR_URL), options, reach=reach) as client:
            yield client, (await served.receive()).value


def websocket_server(
    handler: Handler, url: str | None = None, **options: Unpack[ServeOptions]
) -> AbstractAsyncContextManager[None, bool | None]:
    """For the length of a block, let every `csp.websocket.connect` of this Trio run reach a handler in memory.

    It serves over memory what `csp.websocket.serve` serves over TCP: ``await handler(connection)`` runs in a task for
    each connection, once its request has come, in the context of the block (``contextvars``). When it returns, the
    connection is closed with 1000, or refused with status 403 if it is unanswered. An exception of the handler cancels
    the block, and comes out of it as it is. Only one that says that its connection has ended does not: it just ends the
    handler.

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
        options: those of a server's connections; see `csp.websocket.ServeOptions`. The defaults are others where a test
            would not want those: no ``keepalive``, ``write_timeout`` and ``handshake_timeout``, any ``origins`` and
            ``hosts``, a ``read_limit`` of 128 MiB, a ``channel_capacity`` of 1000, and a million ``max_handshakes``.

    Raises:
        InvalidError: the URL is malformed, or an option is out of range or malformed. Raised by the call.
        InvalidTypeError: the handler is not callable, the URL not a string, or an option of the wrong type or unknown.
            Raised by the call. What the handler returns has to be
            awaitable, else the block ends with this error.
        NoContextError: on entering outside a Trio run.
    """
    if not callable(handler):
        raise InvalidTypeError(f"handler must be an async function of a ServerConnection, not {handler!r}")
    return _server(handler, None if url is None else parse_url(url).url, _parsed(options))


def _parsed(given: Mapping[str, object]) -> Options:
    return parse_options({**_DEFAULTS, **given}, ServeOptions.__annotations__, others=("handler", "url"))


@asynccontextmanager
async def _server(handler: Handler, root: str | None, options: Options) -> AsyncGenerator[None]:
    async with _serving(handler, options) as link:

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
async def _serving(handler: Handler, options: Options) -> AsyncGenerator[Callable[[Target], Transport]]:
    """Give a function that returns the client's end of a new stream, whose other end is served by a handler."""
    if not trio.lowlevel.in_trio_task():
        raise NoContextError("csp.testing needs a running Trio: it works inside trio.run only")
    failures = Failures()
    try:
        async with csp.BackgroundNursery() as streams, csp.BackgroundNursery() as handlers:
            failures.block = handlers.cancel_scope
            server = _Server(handler, options, failures, streams, handlers)
            try:
                yield server.link
            except BaseException as error:
                failures.arrived(error)
                raise
            finally:
                # Now, and not when all handlers have ended: one that is shielded may wait for the end of its stream.
                streams.cancel_scope.cancel()
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


class _Server:
    """What serves the clients of one block.

    Args:
        handler: called for each connection.
        options: the server's.
        failures: told what handlers raise.
        streams: where streams are read and written.
        handlers: where handlers run.
    """

    def __init__(
        self, handler: Handler, options: Options, failures: Failures, streams: trio.Nursery, handlers: trio.Nursery
    ) -> None:
        # Imported here, because h11 comes with it and takes longer to load than all the rest.
        from trio_csp_websocket.server.reception import Reception  # noqa: PLC0415

        self._handler = handler
        self._failures = failures
        self._streams = streams
        self._handlers = handlers
        self._context = copy_context()
        connections: dict[Transport, ServerConnection] = {}
        self._connections = connections

        def connection_of(opening: Opening) -> ServerConnection:  # no method, which would make a reference cycle
            connection = connections[bare(opening.connection.transport)] = ServerConnection(opening)
            return connection

        self._reception = Reception(
            options,
            ANY_HOST if options.hosts is None else options.hosts,
            Register(options.max_handshakes),
            streams,
            connection_of,
            decoder_class=ScriptedDecoder,
            encoder_class=ScriptedEncoder,
        )
        streams.start_soon(self._handle_all, name="csp.testing server")

    def link(self, target: Target) -> Transport:
        """Return the client's end of a new stream."""
        near, far = lockstep_stream_pair()
        client_end = ClientEnd(near)
        transport = ScriptedTransport(far, client_end)
        name = f"csp.testing connection to {target.shown}"
        # Not in the context of the client.
        self._reception.expect()
        self._context.run(lambda: self._streams.start_soon(self._receive, transport, target, name=name))
        return client_end

    async def _receive(self, transport: ScriptedTransport, target: Target) -> None:
        """Be the task of one stream."""
        try:
            await self._reception.receive(transport, secure=target.secure)
        finally:
            connection = self._connections.pop(transport, None)
            if connection is not None:
                with trio.CancelScope(shield=True):
                    await abandon(connection)

    async def _handle_all(self) -> None:
        async for connection in cast("csp.Channel[ServerConnection]", self._reception.channel):
            self._handlers.start_soon(handle, self._handler, connection, self._failures, name=self._handler)


def _raise_as_it_is(error: BaseException) -> NoReturn:
    """Raise what was raised before; that it is raised while another exception is handled does not show."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context
