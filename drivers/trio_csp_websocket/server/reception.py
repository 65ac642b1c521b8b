"""Takes in streams: reads the request of each, answers what needs no application, and has the others answered by it.

A stream has one task, from when it was accepted until it is closed. The task

1. reads the header of the PROXY protocol, TLS and the request, all before one deadline;
2. refuses the request, or answers it with the ``http`` function; or puts a `ServerConnection` into the channel, and
   waits until somebody has accepted or rejected that, or the server turns it away;
3. reads the connection until it has ended (`Connection.run`), or lingers until the client that was refused has gone.

When the listener's nursery is cancelled, the tasks that read leave their connections open: whoever cancelled it sends
each a last close frame (`Connection.give_up`), and only then its socket is closed.
"""

from __future__ import annotations

import logging
import math
import sys
from typing import TYPE_CHECKING

import trio

import csp
from csp.errors import InvalidError, shown
from trio_csp_websocket.connection.connection import Connection
from trio_csp_websocket.connection.report import tell_end_of
from trio_csp_websocket.connection.timers import Timers
from trio_csp_websocket.events import Events, fields_of, inside
from trio_csp_websocket.protocol.answer import text_answer
from trio_csp_websocket.protocol.encoder import Encoder
from trio_csp_websocket.protocol.headers import parse_headers
from trio_csp_websocket.protocol.unmasking_decoder import UnmaskingDecoder
from trio_csp_websocket.protocol.url import parse_url, path_and_query
from trio_csp_websocket.server.forwarded import forwarded
from trio_csp_websocket.server.opening import RETRY_AFTER, STOPPING, Opening
from trio_csp_websocket.server.page import Request, answer_of
from trio_csp_websocket.server.reading import RequestReading
from trio_csp_websocket.server.visit import Visit
from trio_csp_websocket.transport.logged import logged

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_csp_websocket.protocol.answer import Answer
    from trio_csp_websocket.protocol.decoder import Decoder
    from trio_csp_websocket.protocol.request import ParsedRequest
    from trio_csp_websocket.server.hosts import Hosts
    from trio_csp_websocket.server.options import Options
    from trio_csp_websocket.server.page import Http
    from trio_csp_websocket.server.register import Register
    from trio_csp_websocket.server.server_connection import ServerConnection
    from trio_csp_websocket.transport.base import Transport

_events = Events("csp.websocket.server")


class Reception:
    """Takes in the streams of one server.

    Args:
        options: the server's.
        hosts: what the Host header may say.
        register: keeps account of the connections.
        nursery: where tasks of connections run.
        connection_class: what arrives on `channel`.
        decoder_class: parses the frames of a connection.
        encoder_class: makes them.
    """

    def __init__(
        self,
        options: Options,
        hosts: Hosts,
        register: Register,
        nursery: trio.Nursery,
        connection_class: Callable[[Opening], ServerConnection],
        *,
        decoder_class: type[Decoder] = UnmaskingDecoder,
        encoder_class: type[Encoder] = Encoder,
    ) -> None:
        self.channel: csp.Channel[ServerConnection] = csp.Channel(options.max_waiting)
        """The connections that wait for their answer. Closed when no more are taken in."""
        self._options = options
        self._hosts = hosts
        self._register = register
        self._nursery = nursery
        self._timers = Timers(nursery, lasting=True)
        self._connection_class = connection_class
        self._decoder_class = decoder_class
        self._encoder_class = encoder_class
        # How long a client may take nothing of an answer behind which its connection ends. That there is no limit is
        # for those that were let in.
        self._answer_timeout_seconds = options.connection.write_timeout_seconds
        if self._answer_timeout_seconds == math.inf:
            self._answer_timeout_seconds = options.handshake_timeout_seconds

    def take_in(self, transport: Transport) -> None:
        """Start the task of a stream."""
        self.expect()
        self._nursery.start_soon(self.receive, transport, name="csp.websocket server connection")

    def expect(self) -> None:
        """Count a stream before the task starts that calls `receive`, so that whoever stops the server waits for it."""
        self._register.expect()

    async def receive(self, transport: Transport, *, secure: bool = False) -> None:
        """Be the task of one stream, until it is closed, or a connection whose nursery is cancelled.

        Args:
            transport: the stream.
            secure: whether it counts as TLS.
        """
        register = self._register
        visit = Visit(transport, register, self._answer_timeout_seconds, secure=secure)
        connection: Connection | None = None
        visit.tell("arrived", None)
        try:
            opening = await self._arrive(visit)
            if opening is not None:
                connection = opening.connection
                connection.feed(opening.rest)
                del opening  # the connection may stay open for days, and does not need this memory
                await connection.run()
        except Exception as error:  # noqa: BLE001  # it is logged
            # A fault in here: it must not end the others.
            text = "the connection of %s has failed"
            fields = {**visit.fields(), **fields_of(error)}
            _events.tell("server.failed", logging.ERROR, text, visit.shown, about=visit, exc_info=True, **fields)
            if connection is not None:
                await connection.abort("reading it has failed")
        finally:
            if connection is not None and connection.finished.is_set():
                register.finished(connection)
            register.tasks -= 1
            register.changed()

    async def _arrive(self, visit: Visit) -> Opening | None:
        """Return the handshake if the connection was accepted; None if the stream is closed."""
        opening: Opening | None = None
        with trio.CancelScope() as scope:
            self._register.arriving.add(scope)
            try:
                request = await RequestReading(visit, self._options, self._register).read()
                if request is not None:
                    opening = await self._checked(visit, request)
                if opening is not None:
                    await self._wait_for_answer(visit, opening)
            finally:
                self._register.arriving.discard(scope)
                visit.tell("left", None, **fields_of(sys.exception()))
                if opening is None or not opening.accepted:
                    with trio.CancelScope(shield=True):
                        if opening is None:
                            await visit.transport.aclose()
                        else:
                            opening.give_up()
                            await opening.connection.abort("its request was not answered")
        return opening if opening is not None and opening.accepted else None

    # What needs no application ---------------------------------------------------------------------------------------

    async def _checked(self, visit: Visit, found: tuple[ParsedRequest, bytes]) -> Opening | None:
        """Return the request of a WebSocket that may be accepted; None if it was answered."""
        request, rest = found
        options, register = self._options, self._register
        host, secure = request.host, visit.secure
        if options.trusted_proxies:
            said = forwarded(parse_headers(request.head), visit.remote, options.trusted_proxies)
            visit.remote = said.remote if said.remote is not None else visit.remote
            host = said.host if said.host is not None else host
            secure = said.secure if said.secure is not None else secure
        try:
            # Without a host, as in HTTP/1.0, only what is no handshake has come this far.
            url = parse_url(f"{'wss' if secure else 'ws'}://{host or 'localhost'}{request.target}").url
        except InvalidError as error:
            await visit.refuse(400, f"the request leads nowhere: {error}")
            return None
        visit.url = url
        if host is not None and not self._hosts.allows(host):
            why = (
                f"this server does not serve the host '{shown(host)}': its options hosts= and trusted_proxies= say "
                "which it does"
            )
            await visit.refuse(421, why)
        elif not request.websocket:
            await self._answer_page(visit, request, url)
        elif request.origin is not None and not options.origins.allows(request.origin, host):
            why = f"pages of the origin '{shown(request.origin)}' may not connect: the option origins= says which may"
            await visit.refuse(403, why)
        elif register.size >= options.max_connections:
            why = f"there are {register.size} connections, as many as there may be (max_connections)"
            await visit.refuse(503, why, text_answer(503, "there are too many connections", [RETRY_AFTER]))
        else:
            connection = Connection(
                logged(visit.transport, visit.shown, received=rest, answers=True),
                options.connection,
                self._nursery,
                decoder=self._decoder_class(options.connection.read_limit_bytes),
                encoder=self._encoder_class(),
                timers=self._timers,
            )
            opening = Opening(connection, request, url, visit.remote, options, register)
            opening.rest = rest
            return opening
        return None

    async def _answer_page(self, visit: Visit, request: ParsedRequest, url: str) -> None:
        """Answer a request that wants no WebSocket."""
        options, register = self._options, self._register
        head_only = request.method == "HEAD"
        if options.http is None:
            await _refuse_page(visit, head_only=head_only)
        elif register.pages >= options.max_connections:
            why = f"there are {register.pages} pages under way, as many as there may be (max_connections)"
            answer = text_answer(503, "there are too many requests", [RETRY_AFTER], head_only=head_only)
            await visit.refuse(503, why, answer)
        else:
            path, query = path_and_query(url)
            asked = Request(request.method, path, query, parse_headers(request.head), visit.remote, request.origin)
            register.pages += 1
            try:
                await self._make_page(visit, options.http, asked, head_only=head_only)
            finally:
                register.pages -= 1

    async def _make_page(self, visit: Visit, http: Http, request: Request, *, head_only: bool) -> None:
        seconds = self._options.handshake_timeout_seconds
        answer: Answer | None = None
        with trio.move_on_after(seconds) as patience, inside(visit):
            answer = await answer_of(http, request)
        if patience.cancelled_caught:
            why = f"the page was not made within {seconds:g} s"
            await visit.refuse(503, why, text_answer(503, why, [RETRY_AFTER], head_only=head_only))
        elif answer is None:
            await _refuse_page(visit, head_only=head_only)
        else:
            visit.tell("answered", "answered %s with status %d", answer.status, status=answer.status)
            await visit.end(answer.encoded(head_only=head_only), wanted=True)

    # What the application answers ------------------------------------------------------------------------------------

    async def _wait_for_answer(self, visit: Visit, opening: Opening) -> None:
        register = self._register
        connection = self._connection_class(opening)
        register.unanswered[opening] = None
        seconds = self._options.handshake_timeout_seconds
        try:
            with trio.move_on_after(seconds):
                try:
                    register.crowd += 1
                    try:
                        await self.channel.send(connection)
                    finally:
                        register.crowd -= 1
                        register.changed()
                except csp.ChannelClosedError:
                    opening.turn_away(STOPPING)
                await opening.answered.wait()
            opening.turn_away(f"nobody has answered within {seconds:g} s")
        finally:
            del register.unanswered[opening]
            register.changed()
            if opening.accepted and _events.wanted():
                _tell_accepted(visit, opening.connection)
        if not opening.accepted:
            name, why = "refused" if opening.status else "gone", opening.why
            visit.tell(name, "did not accept %s: %s", why, status=opening.status or None, error=why)
            if opening.status:
                await visit.end(opening.refusal, sent=opening.sent)


def _tell_accepted(visit: Visit, connection: Connection) -> None:
    compressed = connection.decoder.inflater is not None
    visit.tell("accepted", "accepted %s", subject=connection, compressed=compressed)
    text = "the connection of %s has ended: %s"
    tell_end_of(connection, _events, "server.ended", logging.DEBUG, text, visit.shown, **visit.fields())


async def _refuse_page(visit: Visit, *, head_only: bool) -> None:
    why = "this server speaks WebSocket only"
    await visit.refuse(426, why, text_answer(426, why, [("Upgrade", "websocket")], head_only=head_only))
