"""`listen`: a server for the length of a block, or in a task of a nursery."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Unpack, final

import trio
from trio.lowlevel import enable_ki_protection

from csp import BackgroundNursery, security
from csp.errors import InvalidTypeError, NoContextError, PermissionDeniedError
from trio_csp_websocket.events import Events
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.server.accepting import Acceptor
from trio_csp_websocket.server.binding import bind
from trio_csp_websocket.server.closing import close_all, give_up_all
from trio_csp_websocket.server.hosts import ANY_HOST, local_hosts
from trio_csp_websocket.server.options import ListenOptions, Options, parse_options
from trio_csp_websocket.server.place import Place, parse_place
from trio_csp_websocket.server.register import Register
from trio_csp_websocket.server.server import Server
from trio_csp_websocket.server.server_connection import ServerConnection

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

    from trio_csp_websocket.server.binding import Bound
    from trio_csp_websocket.server.hosts import Hosts
    from trio_csp_websocket.server.reception import Reception

_events = Events("csp.websocket.server")


def listen(
    port: int | None = None, *, nursery: trio.Nursery | None = None, **options: Unpack[ListenOptions]
) -> Listening:
    """Listen for WebSocket connections for the length of a block, which gets a `Server`.

    Leaving the block stops accepting, and closes all connections with code 1001, at once, each within its
    ``close_timeout``; after an exception with 1011, and the exception comes out unchanged. If cancelled, each is sent
    1001 without waiting. Nothing of the server outlives the block.

    With ``server = await listen(port, nursery=nursery)`` it runs in a task of that nursery instead, until
    `Server.close`, or until its last connection has ended after `Server.stop`.

    Args:
        port: the port to listen on; 0 for a free one. Exactly one of port, ``unix_socket`` and ``sockets`` is given.
        nursery: where the server's task runs, for ``await listen(...)``.
        options: all optional; see `ListenOptions`.

    Raises:
        InvalidError: an option is out of range or malformed. Raised by the call, before any I/O.
        InvalidTypeError: the same for a wrong type or an unknown option.
        PermissionDeniedError: on entering or awaiting; `csp.security` does not allow ``websocket.listen`` for the URL
            to listen on, as ``ws://localhost:8765/``.
        ListenFailedError: on entering or awaiting; the system does not let it listen there.
        NoContextError: on entering or awaiting outside a Trio run, or for a second time; on awaiting without a
            nursery.
    """
    if nursery is not None and not isinstance(nursery, trio.Nursery):
        raise InvalidTypeError(f"nursery must be a trio.Nursery, not {nursery!r}")
    return Listening(*check(port, options, others=("port", "nursery")), nursery)


def check(port: int | None, options: ListenOptions, *, others: tuple[str, ...]) -> tuple[Place, Options]:
    """Check the options of a server. For ``others``, see `parse_options`."""
    return parse_place(port, options), parse_options(options, ListenOptions.__annotations__, others=others)


@final
class Listening:
    """What `listen` returns: enter it with ``async with``, or await it if it was given a nursery; only once."""

    def __init__(self, place: Place, options: Options, nursery: trio.Nursery | None = None) -> None:
        self._place = place
        self._options = options
        self._caller_nursery = nursery
        self._asked_url = place.url(secure=options.ssl_context is not None)
        self._used = False
        self._register = Register(options.max_handshakes)
        self._server: Server

    def __repr__(self) -> str:
        return f"<csp.websocket.listen on {self._asked_url}>"

    def __await__(self) -> Generator[Any, Any, Server]:
        return self._start().__await__()

    async def _start(self) -> Server:
        _check_context()
        if self._caller_nursery is None:
            raise NoContextError(
                "listen was awaited without a nursery: write `async with websocket.listen(port) as server`, or "
                "`server = await websocket.listen(port, nursery=nursery)`"
            )
        server: Server = await self._caller_nursery.start(self._run)
        return server

    async def _run(self, *, task_status: trio.TaskStatus[Server]) -> None:
        async with self as server:
            task_status.started(server)
            await self._register.wait_until(lambda: self._register.stopped and not self._register.tasks)

    @enable_ki_protection
    async def __aenter__(self) -> Server:
        _check_context()
        if self._used:
            raise NoContextError("this listen(...) was used before; call listen again for another server")
        self._used = True
        if not security.can("websocket.listen", self._asked_url):
            raise PermissionDeniedError(f"listening on {self._asked_url} is not allowed: websocket.listen is denied")
        # Imported here, because h11 comes with it and takes longer to load than all the rest.
        from trio_csp_websocket.server.reception import Reception  # noqa: PLC0415

        bound = await bind(self._place, secure=self._options.ssl_context is not None)
        self._background = BackgroundNursery()
        nursery = await self._background.__aenter__()
        options = self._options
        reception = Reception(options, _hosts(options, self._place, bound), self._register, nursery, ServerConnection)
        url = bound.url(secure=options.ssl_context is not None)
        accepting = trio.CancelScope()
        self._server = Server(bound, url, reception, self._register, nursery, accepting)
        nursery.start_soon(self._accept, bound, reception, accepting, name="csp.websocket server")
        _events.tell("server.listening", logging.INFO, "listening on %s", url, about=self._register, url=url)
        return self._server

    async def _accept(self, bound: Bound, reception: Reception, accepting: trio.CancelScope) -> None:
        with accepting:
            async with trio.open_nursery() as nursery:
                acceptor = Acceptor(reception, self._register, self._options.max_handshakes)
                for listener in bound.listeners:
                    nursery.start_soon(acceptor.accept_from, listener)

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._server.stop()
            if exc is None or isinstance(exc, Exception):
                code = CloseCode.GOING_AWAY if exc is None else CloseCode.INTERNAL_ERROR
                await close_all(self._register, code, "", stop=self._server.stop)
            else:
                await give_up_all(self._register)
        except trio.Cancelled:
            # If the block raised an exception, that one already leaves through the cancelled scope.
            if exc is None:
                raise
        finally:
            await self._background.__aexit__(None, None, None)


def _hosts(options: Options, place: Place, bound: Bound) -> Hosts:
    """Return what the Host header may say."""
    if options.hosts is not None:
        return options.hosts
    if options.trusted_proxies or options.proxy_protocol or not bound.loopback:
        return ANY_HOST
    names = [] if place.host is None else [place.host]
    return local_hosts([*names, *(address[0] for address in bound.addresses if not isinstance(address, str))])


def _check_context() -> None:
    if not trio.lowlevel.in_trio_task():
        raise NoContextError("listen and serve work inside trio.run only")
