"""Takes in streams: reads the request of each, answers what needs no application, and has the others answered by it.

A stream has one task, from when it was accepted until it is closed. The task

1. reads the header of the PROXY protocol, TLS and the request, all before one deadline;
2. refuses the request, or answers it with the ``http`` function; or puts a `ServerConnection` into the channel, and
   waits until somebody has accepted or rejected that, or the server turns it away;
3. reads the connection until it has ended (`Connection.run`), or lingers until the client that was refused has gone.

To close a socket with unread data resets the connection, and the reset could overtake the answer. So a refusal ends our
direction only, and discards what arrives for a second.

When the listener's nursery is cancelled, the tasks that read leave their connections open: whoever cancelled it sends
each a last close frame (`Connection.give_up`), and only then its socket is closed.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Awaitable
from ssl import SSLError
from typing import TYPE_CHECKING, cast

import trio

import csp
from csp.errors import InvalidError, InvalidTypeError, shown
from trio_csp_websocket.connection.connection import Connection
from trio_csp_websocket.protocol.answer import checked_answer, text_answer
from trio_csp_websocket.protocol.encoder import Encoder
from trio_csp_websocket.protocol.headers import parse_headers
from trio_csp_websocket.protocol.request import RefusedRequestError, RequestReader
from trio_csp_websocket.protocol.unmasking_decoder import UnmaskingDecoder
from trio_csp_websocket.protocol.url import parse_url, path_and_query
from trio_csp_websocket.server.forwarded import forwarded
from trio_csp_websocket.server.opening import RETRY_AFTER, STOPPING, Opening
from trio_csp_websocket.server.page import Request, Response
from trio_csp_websocket.server.proxy_protocol import ProxyHeader, ProxyProtocolError
from trio_csp_websocket.transport.base import shown_address
from trio_csp_websocket.transport.tls import TlsTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_csp_websocket.protocol.answer import Answer
    from trio_csp_websocket.protocol.request import ParsedRequest
    from trio_csp_websocket.server.hosts import Hosts
    from trio_csp_websocket.server.options import Options
    from trio_csp_websocket.server.page import Http
    from trio_csp_websocket.server.register import Register
    from trio_csp_websocket.server.server_connection import ServerConnection
    from trio_csp_websocket.transport.base import Address, Transport

_logger = logging.getLogger("csp.websocket.server")

_READ_BYTES = 16 * 1024
_SLICE_BYTES = 64 * 1024
_LINGER_SECONDS = 1.0


class _NoRequestError(Exception):
    """No request will come, and nobody is there to be answered; the text says why."""


class _Visit:
    """What is known of one stream while its request is read and answered."""

    __slots__ = ("remote", "secure", "speaks_http", "transport")

    def __init__(self, transport: Transport, *, secure: bool) -> None:
        self.transport = transport
        self.remote: Address | None = transport.remote
        self.secure = secure
        self.speaks_http = False
        """Whether it has come so far that an answer will be understood."""

    @property
    def shown(self) -> str:
        return "somebody" if self.remote is None else shown_address(self.remote)


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
        decoder_class: type[UnmaskingDecoder] = UnmaskingDecoder,
        encoder_class: type[Encoder] = Encoder,
    ) -> None:
        self.channel: csp.Channel[ServerConnection] = csp.Channel(options.max_waiting)
        """The connections that wait for their answer. Closed when no more are taken in."""
        self._options = options
        self._hosts = hosts
        self._register = register
        self._nursery = nursery
        self._connection_class = connection_class
        self._decoder_class = decoder_class
        self._encoder_class = encoder_class

    def expect(self) -> None:
        """Count a stream before the task starts that calls `receive`, so that whoever stops the server waits for it."""
        self._register.tasks += 1

    async def receive(self, transport: Transport, *, secure: bool = False) -> None:
        """Be the task of one stream, until it is closed, or a connection whose nursery is cancelled.

        Args:
            transport: the stream.
            secure: whether it counts as TLS.
        """
        register = self._register
        visit = _Visit(transport, secure=secure)
        opening: Opening | None = None
        try:
            opening = await self._arrive(visit)
            if opening is not None:
                opening.connection.feed(opening.rest)
                await opening.connection.run()
        except Exception:
            # Of a stream of the user's own, or a fault in here: it must not end the others.
            _logger.exception("the connection of %s has failed", visit.shown)
            if opening is not None:
                await opening.connection.abort("reading it has failed")
        finally:
            if opening is not None and opening.connection.finished.is_set():
                register.open.pop(opening.connection, None)
            register.tasks -= 1
            register.changed()

    async def _arrive(self, visit: _Visit) -> Opening | None:
        """Return the handshake if the connection was accepted; None if the stream is closed."""
        opening: Opening | None = None
        with trio.CancelScope() as scope:
            self._register.arriving.add(scope)
            try:
                request = await self._request(visit)
                if request is not None:
                    opening = await self._checked(visit, request)
                if opening is not None:
                    await self._wait_for_answer(visit, opening)
            finally:
                self._register.arriving.discard(scope)
                if opening is None or not opening.accepted:
                    with trio.CancelScope(shield=True):
                        if opening is None:
                            await visit.transport.aclose()
                        else:
                            opening.give_up()
                            await opening.connection.abort("its request was not answered")
        return opening if opening is not None and opening.accepted else None

    # The request -----------------------------------------------------------------------------------------------------

    async def _request(self, visit: _Visit) -> tuple[ParsedRequest, bytes] | None:
        """Return the request, and what came behind it; None if it was refused or never came."""
        seconds = self._options.handshake_timeout_seconds
        register = self._register
        scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        register.begin_request(scope)
        status, answer = 408, b""
        why = f"the request was not complete within {seconds:g} s"
        try:
            with scope:
                return await self._read_request(visit)
        except RefusedRequestError as refusal:
            status, why = refusal.status, str(refusal)
            answer = text_answer(status, why, refusal.headers)
        except (_NoRequestError, ProxyProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            _logger.debug("no request from %s: %s", visit.shown, error)
            return None
        finally:
            register.end_request(scope)
        if scope.cancelled_caught:
            in_time = trio.current_time() < scope.deadline
            if in_time:
                status, why = 503, STOPPING if register.stopped else "there are too many requests under way"
                answer = text_answer(503, why, [RETRY_AFTER])
            register.timed_out += not (in_time and register.stopped)
            if not visit.speaks_http:
                _logger.debug("no request from %s: %s", visit.shown, why)
                return None
        await self._refuse(visit, status, why, answer)
        return None

    async def _read_request(self, visit: _Visit) -> tuple[ParsedRequest, bytes]:
        options = self._options
        if options.proxy_protocol:
            await self._read_proxy_header(visit)
        if options.ssl_context is not None:
            try:
                tls = TlsTransport(visit.transport, options.ssl_context, server_side=True)
            except (SSLError, ValueError) as error:
                raise _NoRequestError(f"the ssl_context cannot be used: {error}") from error
            await tls.handshake()
            visit.transport, visit.secure = tls, True
        visit.speaks_http = True
        reader = RequestReader(options.header_limit_bytes)
        while True:
            data = await visit.transport.receive_some(_READ_BYTES)
            if not data:
                raise _NoRequestError("it ended in the middle" if reader.begun else "nothing came")
            request = reader.feed(data)
            if request is not None:
                return request, reader.rest()

    async def _read_proxy_header(self, visit: _Visit) -> None:
        header, complete = ProxyHeader(), False
        while not complete:
            data = await visit.transport.receive_some(_READ_BYTES)
            if not data:
                raise _NoRequestError("it ended before the header of the PROXY protocol")
            complete = header.feed(data)
        visit.transport.unread(header.rest)
        if header.source is not None:
            visit.remote = header.source

    # What needs no application ---------------------------------------------------------------------------------------

    async def _checked(self, visit: _Visit, found: tuple[ParsedRequest, bytes]) -> Opening | None:
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
            await self._refuse(visit, 400, f"the request leads nowhere: {error}")
            return None
        if host is not None and not self._hosts.allows(host):
            why = (
                f"this server does not serve the host '{shown(host)}': its options hosts= and trusted_proxies= say "
                "which it does"
            )
            await self._refuse(visit, 421, why)
        elif not request.websocket:
            await self._answer_page(visit, request, url)
        elif request.origin is not None and not options.origins.allows(request.origin, host):
            why = f"pages of the origin '{shown(request.origin)}' may not connect: the option origins= says which may"
            await self._refuse(visit, 403, why)
        elif register.size >= options.max_connections:
            why = f"there are {register.size} connections, as many as there may be (max_connections)"
            await self._refuse(visit, 503, why, text_answer(503, "there are too many connections", [RETRY_AFTER]))
        else:
            connection = Connection(
                visit.transport,
                options.connection,
                self._nursery,
                decoder=self._decoder_class(options.connection.read_limit_bytes),
                encoder=self._encoder_class(),
            )
            opening = Opening(connection, request, url, visit.remote, options, register)
            opening.rest = rest
            return opening
        return None

    async def _answer_page(self, visit: _Visit, request: ParsedRequest, url: str) -> None:
        """Answer a request that wants no WebSocket."""
        head_only = request.method == "HEAD"
        answer: Answer | None = None
        seconds = self._options.handshake_timeout_seconds
        with trio.move_on_after(seconds) as patience:
            if self._options.http is not None:
                path, query = path_and_query(url)
                asked = Request(request.method, path, query, parse_headers(request.head), visit.remote, request.origin)
                answer = await _page(self._options.http, asked)
        if patience.cancelled_caught:
            why = f"the page was not made within {seconds:g} s"
            await self._refuse(visit, 503, why, text_answer(503, why, [RETRY_AFTER], head_only=head_only))
        elif answer is None:
            why = "this server speaks WebSocket only"
            upgrade = ("Upgrade", "websocket")
            await self._refuse(visit, 426, why, text_answer(426, why, [upgrade], head_only=head_only))
        else:
            _logger.debug("answered %s with status %d", visit.shown, answer.status)
            await self._send(visit.transport, answer.encoded(head_only=head_only))

    async def _refuse(self, visit: _Visit, status: int, why: str, answer: bytes = b"") -> None:
        self._register.rejected[status] += 1
        _logger.debug("refused %s with status %d: %s", visit.shown, status, why)
        await self._send(visit.transport, answer or text_answer(status, why))

    async def _send(self, transport: Transport, answer: bytes, sent: trio.Event | None = None) -> None:
        """Send an answer behind which the connection ends.

        Args:
            transport: where to.
            answer: what the transport has not taken yet. It may still hold some of what it has taken.
            sent: to be set when it is sent, or cannot be.
        """
        seconds = self._options.connection.write_timeout_seconds
        if seconds == math.inf:  # that is for connections that were let in
            seconds = self._options.handshake_timeout_seconds
        try:
            for start in range(0, max(len(answer), 1), _SLICE_BYTES):
                with trio.move_on_after(seconds) as progress:
                    await transport.send_all(answer[start : start + _SLICE_BYTES])
                if progress.cancelled_caught:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            if sent is not None:
                sent.set()
        await self._linger(transport)

    async def _linger(self, transport: Transport) -> None:
        """End our direction, and discard what arrives until the client ends its own, for a second at most."""
        register = self._register
        scope = trio.CancelScope(deadline=trio.current_time() + _LINGER_SECONDS)
        register.begin_lingering(scope)
        try:
            with scope, contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await transport.send_eof()
                while await transport.receive_some(_SLICE_BYTES):
                    pass
        finally:
            register.end_lingering(scope)

    # What the application answers ------------------------------------------------------------------------------------

    async def _wait_for_answer(self, visit: _Visit, opening: Opening) -> None:
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
            await opening.answered.wait()  # of a rejection that the system has not taken yet
        finally:
            del register.unanswered[opening]
            register.changed()
        if opening.accepted:
            _logger.debug("accepted %s", visit.shown)
        else:
            _logger.debug("did not accept %s: %s", visit.shown, opening.why)
            await self._send(visit.transport, opening.refusal, opening.sent)


async def _page(http: Http, request: Request) -> Answer | None:
    """Return what the function of the application answers; None if it leaves that to the server."""
    try:
        returned = cast("object", http(request))
        if not isinstance(returned, Awaitable):
            raise InvalidTypeError(f"http must be an async function: it returned {type(returned).__name__}")
        response = cast("object", await returned)
        if response is None:
            return None
        if not isinstance(response, Response):
            raise InvalidTypeError(f"http must return a Response or None, not {type(response).__name__}")
        return checked_answer(response.status, response.headers, response.body)
    except Exception:
        _logger.exception("the http function has failed for %r", request)
        return checked_answer(500, None, "the server has failed\n")
