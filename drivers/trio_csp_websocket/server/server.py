"""What an application holds of a server: its connections arrive here."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Self, cast, final

import trio
from trio.lowlevel import enable_ki_protection

import csp
from trio_csp_websocket.events import Events, fields_of
from trio_csp_websocket.protocol.close import check_close
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.server.closing import close_all
from trio_csp_websocket.transport.socket import SocketTransport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_websocket.server.binding import Bound
    from trio_csp_websocket.server.reception import Reception
    from trio_csp_websocket.server.register import Register, ServerStatistics
    from trio_csp_websocket.server.server_connection import ServerConnection
    from trio_csp_websocket.transport.base import Address

_events = Events("csp.websocket.server")

# How many streams are taken in of those that wait in each socket when the server stops. Usually it is none or a few.
_MOST_WAITING = 100


@final
class Server:
    """A server that listens. Made by `listen` and `serve`."""

    def __init__(
        self,
        bound: Bound,
        url: str,
        reception: Reception,
        register: Register,
        nursery: trio.Nursery,
        accepting: trio.CancelScope,
    ) -> None:
        """Keep what it is made of.

        Args:
            bound: where it listens.
            url: the URL of that.
            reception: takes in what connects.
            register: keeps account of it.
            nursery: where its tasks run.
            accepting: the scope of those that accept streams.
        """
        self._bound = bound
        self._url = url
        self._reception = reception
        self._register = register
        self._nursery = nursery
        self._accepting = accepting

    # Connections -----------------------------------------------------------------------------------------------------

    def channel(self) -> csp.Channel[ServerConnection]:
        """Return the channel on which connections arrive, unanswered: always the same one.

        It closes when the server stops, behind those that have arrived. While it is full, requests wait, and after
        ``max_handshakes`` of them nothing more is accepted. `stop` is how to close it: if you close it yourself, the
        server goes on to listen, and each request gets status 503; `serve` returns once its handlers have.
        """
        return self._reception.channel

    async def receive(self) -> csp.Received[ServerConnection]:
        """Take the next connection: ``(connection, True)``, or ``(None, False)`` once the server has stopped.

        Short for ``channel().receive()``.
        """
        return await self._reception.channel.receive()

    async def receive_value(self) -> ServerConnection:
        """Take the next connection. Short for ``channel().receive_value()``.

        Raises:
            EndOfChannelError: the server has stopped.
        """
        return await self._reception.channel.receive_value()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ServerConnection:
        return await self._reception.channel.__anext__()

    @property
    def connections(self) -> Sequence[ServerConnection]:
        """The connections that were accepted and have not ended, the oldest first."""
        return cast("Sequence[ServerConnection]", self._register.connections)

    def statistics(self) -> ServerStatistics:
        """Return counts of the requests and connections so far."""
        return self._register.statistics()

    # Stopping --------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Accept nothing more, at once: the port is free, and `channel` closes behind what has arrived.

        Connections live on, and what has arrived can still be accepted. Requests that are under way get status 503. A
        server that was stopped before stays so.
        """
        self._leave()
        self._register.stopped = True
        self._reception.channel.close()
        self._register.changed()

    @enable_ki_protection
    def _leave(self) -> None:
        """Accept no more streams. Those that wait to be accepted would be reset: they are the last to be taken in."""
        if self._accepting.cancel_called:
            return
        self._accepting.cancel()
        for stream in self._bound.waiting(_MOST_WAITING):
            self._reception.take_in(SocketTransport(stream))
        self._bound.close()
        for other in self._bound.others:
            self._nursery.start_soon(_close_listener, other)
        text, url = "stopped listening on %s", self._url
        _events.tell("server.stopped", logging.INFO, text, url, about=self._register, url=url)

    @enable_ki_protection
    async def close(
        self, code: int = CloseCode.GOING_AWAY, reason: str = "", *, grace: csp.Duration | None = None
    ) -> None:
        """Stop, and close all connections at once, each within its ``close_timeout``.

        With ``grace``, nothing more is accepted, as with `stop`, but requests that are under way are read on: they
        arrive on `channel`, which closes behind the last of them. What is not answered when ``grace`` is over gets
        status 503. Refusals and pages that take longer than two seconds more are cut off. Returns when all have ended.
        If cancelled, all sockets are closed without waiting.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999 (RFC 6455, section 7.4). 1012 tells clients to come back.
            reason: up to 123 bytes of UTF-8, without line breaks and NUL.
            grace: how long requests that are under way may take to arrive, and connections to end by themselves,
                before they are closed; None for not at all.

        Raises:
            InvalidError: an argument is out of range; nothing was done.
            InvalidTypeError: the same for a wrong type.
        """
        check_close(code, reason)
        seconds = 0.0 if grace is None else csp.parse_duration(grace, name="grace")
        self._leave()
        await close_all(self._register, code, reason, stop=self.stop, grace_seconds=seconds)
        await trio.lowlevel.checkpoint()

    # Where it listens ------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The URL of the server, as ``ws://localhost:8765/``; ``wss:`` with TLS, ``ws+unix:`` for a Unix socket."""
        return self._url

    @property
    def port(self) -> int | None:
        """The port that it listens on; None for a Unix socket."""
        return self._bound.port

    @property
    def addresses(self) -> Sequence[Address]:
        """The addresses with their ports, or the paths, that it listens on."""
        return self._bound.addresses

    def __repr__(self) -> str:
        state = "stopped" if self._accepting.cancel_called else "listening"
        return f"<csp.websocket.Server {state}, {self._url}, {len(self.connections)} connections>"


async def _close_listener(listener: trio.abc.Listener[trio.abc.Stream]) -> None:
    """Close a listener of the user's own; if that fails, connections live on."""
    try:
        await listener.aclose()
    except Exception as error:  # noqa: BLE001  # it is logged
        text = "closing the listener %r has failed"
        _events.tell("server.listener_failed", logging.ERROR, text, listener, exc_info=True, **fields_of(error))
