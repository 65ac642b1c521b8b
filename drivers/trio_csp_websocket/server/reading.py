"""Reads requests: the header of the PROXY protocol, TLS and the request, all before one deadline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_csp_websocket.protocol.answer import text_answer
from trio_csp_websocket.protocol.request import RefusedRequestError, RequestReader
from trio_csp_websocket.server.opening import RETRY_AFTER, STOPPING
from trio_csp_websocket.server.proxy_protocol import ProxyHeader, ProxyProtocolError
from trio_csp_websocket.transport.tls import TlsTransport

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.request import ParsedRequest
    from trio_csp_websocket.server.options import Options
    from trio_csp_websocket.server.register import Register
    from trio_csp_websocket.server.visit import Visit

_READ_BYTES = 16 * 1024


class _NoRequestError(Exception):
    """No request will come, and nobody is there to be answered; the text says why."""


class RequestReading:
    """Reads the request of one stream.

    Args:
        visit: the stream; its transport becomes that of TLS.
        options: the server's.
        register: keeps account of it.
    """

    def __init__(self, visit: Visit, options: Options, register: Register) -> None:
        self._visit = visit
        self._options = options
        self._register = register
        # Whether an answer in HTTP would be understood if reading ended now.
        self._speaks_http = False

    async def read(self) -> tuple[ParsedRequest, bytes] | None:
        """Return the request, and what came behind it; None if it was refused or never came."""
        visit, register = self._visit, self._register
        seconds = self._options.handshake_timeout_seconds
        scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        register.begin_request(scope)
        status, answer = 408, b""
        why = f"the request was not complete within {seconds:g} s"
        try:
            with scope:
                await self._begin()
                return await self._read_http()
        except RefusedRequestError as refusal:
            status, why = refusal.status, str(refusal)
            answer = text_answer(status, why, refusal.headers)
        except (_NoRequestError, ProxyProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            visit.tell("no_request", "no request from %s: %s", error, error=str(error))
            return None
        finally:
            register.end_request(scope)
        if scope.cancelled_caught:
            in_time = trio.current_time() < scope.deadline
            if in_time:
                status, why = 503, STOPPING if register.stopped else "there are too many requests under way"
                answer = text_answer(503, why, [RETRY_AFTER])
            register.timed_out += not (in_time and register.stopped)
            if not self._speaks_http:
                visit.tell("no_request", "no request from %s: %s", why, error=why)
                return None
        await visit.refuse(status, why, answer)
        return None

    async def _begin(self) -> None:
        """Read what comes ahead of HTTP."""
        visit, options = self._visit, self._options
        if options.proxy_protocol:
            await self._read_proxy_header()
        if options.ssl_context is not None:
            tls = TlsTransport(visit.transport, options.ssl_context, server_side=True)
            await tls.handshake()
            visit.transport, visit.secure = tls, True

    async def _read_proxy_header(self) -> None:
        visit, header, complete = self._visit, ProxyHeader(), False
        while not complete:
            data = await visit.transport.receive_some(_READ_BYTES)
            if not data:
                raise _NoRequestError("it ended before the header of the PROXY protocol")
            complete = header.feed(data)
        visit.transport.unread(header.rest)
        if header.source is not None:
            visit.remote = header.source

    async def _read_http(self) -> tuple[ParsedRequest, bytes]:
        transport = self._visit.transport
        self._speaks_http = True
        reader = RequestReader(self._options.header_limit_bytes)
        while True:
            data = await transport.receive_some(_READ_BYTES)
            if not data:
                raise _NoRequestError("it ended in the middle" if reader.begun else "nothing came")
            request = reader.feed(data)
            if request is not None:
                break
        if transport.pending:
            # What TLS has answered. Whoever does not take that will not take an answer, and must not keep anybody
            # waiting who answers. If this is cancelled, part of a record may be sent, and nothing can follow it.
            self._speaks_http = False
            await transport.send_all(b"")
        return request, reader.rest()
