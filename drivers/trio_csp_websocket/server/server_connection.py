"""The server's end of a connection: answered, or waiting for its answer."""

from __future__ import annotations

import contextlib
import math
import weakref
from typing import TYPE_CHECKING, cast

import trio
from trio.lowlevel import enable_ki_protection

from csp import schedule_point_due, security
from csp.errors import (
    ConnectionFailedError,
    EndOfChannelError,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
    PermissionDeniedError,
    renew,
    shown,
)
from trio_csp_websocket.connection.endpoint import Endpoint
from trio_csp_websocket.connection.settings import DEFAULT_THRESHOLDS, parse_compression
from trio_csp_websocket.connection.writer import WriteTimeoutError
from trio_csp_websocket.protocol.answer import acceptance, checked_acceptance_fields, checked_answer, text_answer
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.deflate import Deflater, Inflater
from trio_csp_websocket.protocol.headers import parse_headers
from trio_csp_websocket.protocol.negotiation import accepted
from trio_csp_websocket.protocol.url import path_and_query, without_query
from trio_csp_websocket.server.opening import STOPPING
from trio_csp_websocket.transport.base import shown_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import EllipsisType, TracebackType

    from typing_extensions import Buffer

    import csp
    from trio_csp_websocket.protocol.constants import Compression
    from trio_csp_websocket.protocol.headers import Headers
    from trio_csp_websocket.protocol.messages import Message
    from trio_csp_websocket.protocol.negotiation import Agreement
    from trio_csp_websocket.server.opening import Opening
    from trio_csp_websocket.transport.base import Address

_PEEK_BYTES = 64 * 1024
_GONE = "the client has gone"


class ServerConnection(Endpoint):
    """The server's end of a connection. Made by `listen` and `serve`.

    It arrives unanswered: `accept` or `reject` it. The first `send`, `receive`, `receive_stream`, `ping` or iteration
    accepts it too, in the task that calls it. It is hashable, by identity. As a block, ``async with connection:``, it
    is closed at the end as a client is. `close` and the end of a block refuse it with status 403 if it is unanswered;
    after an exception with 500; where that is no `Exception`, as where the block is cancelled, with 503.
    """

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening.connection, opening.url, None)
        # None once it is accepted: the connection may stay open for days, and does not need this memory.
        self._opening: Opening | None = opening
        self._before_use = self._accept_by_use
        self._offered = opening.request.protocols
        self._origin = opening.request.origin
        self._head = opening.request.head
        self._remote = opening.remote
        # Of those that `send`, `ping` and `accept` have raised.
        self._failures: weakref.WeakSet[ConnectionFailedError] | None = None

    # The request -----------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The URL that the client asked for, normalised. It is made of the request's host, path and query."""
        return self._url

    @property
    def path(self) -> str:
        """The path of `url`: unreserved characters are percent-decoded, dot segments resolved (RFC 3986, section 6)."""
        return path_and_query(self._url)[0]

    @property
    def query(self) -> str:
        """What follows the question mark in `url`; "" if nothing does. ``urllib.parse.parse_qs`` parses it."""
        return path_and_query(self._url)[1]

    @property
    def headers(self) -> Headers:
        """The headers of the request."""
        return parse_headers(self._head)

    @property
    def origin(self) -> str | None:
        """The Origin header, in which browsers send the site of the page (RFC 6454). None if there is none."""
        return self._origin

    @property
    def protocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, in its order of preference."""
        return self._offered

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that `accept` has chosen, or None."""
        return self._subprotocol

    @property
    def remote(self) -> Address | None:
        """Where the client is, as an IP address and a port, or the path of its Unix socket, "" if that has none.

        Behind a proxy that is trusted it is the client's, as the proxy says; its port is 0 if the proxy does not say
        it. None in memory.
        """
        return self._remote

    # The answer ------------------------------------------------------------------------------------------------------

    async def accept(
        self,
        *,
        subprotocol: str | EllipsisType | None = ...,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        compression: Compression | int | None = None,
    ) -> None:
        """Accept the connection.

        Returns once the answer is handed to the system. If that does not take all of it at once, the rest is sent
        ahead of what you send, and over a socket not waited for. If cancelled before that, nothing of it is sent; if
        cancelled while it waits, the connection is accepted nevertheless.

        Args:
            subprotocol: one of `protocols`, or None for none. By default the first of the server's ``protocols`` that
                the client offers, if it does.
            headers: further headers of the answer: a mapping or pairs.
            compression: what to agree to, if the client offers compression. By default the server's ``compression``.

        Raises:
            InvalidError: the subprotocol was not offered, or a header or the compression is malformed; the connection
                is still unanswered.
            InvalidTypeError: the same for a wrong type.
            NoContextError: it was accepted or rejected before, or accepted by its first use.
            PermissionDeniedError: `csp.security` does not allow ``websocket.accept`` for the connection's URL, with
                ``origin``, ``remote`` and ``protocol`` as facts. The client got status 403.
            ConnectionFailedError: the client has gone, or the server has refused it, as it was not answered in time.
        """
        fields = checked_acceptance_fields(headers)
        mode = None if compression is None else parse_compression(compression)
        await self._accept(self._choice(subprotocol), fields, mode, wait=True)
        if schedule_point_due():
            await trio.lowlevel.cancel_shielded_checkpoint()
        self._connection.in_use = True

    @enable_ki_protection
    async def _accept(
        self, chosen: str | None, fields: Iterable[tuple[bytes, bytes]], mode: Compression | None, *, wait: bool
    ) -> None:
        """Accept it. Nothing else runs until its answer is the first of what is to be written.

        Args:
            chosen: the subprotocol.
            fields: further headers of the answer.
            mode: what to agree to, if not the server's own.
            wait: whether to wait until the answer is written.
        """
        opening = self._unanswered()
        meta = {"origin": self._origin, "remote": self._remote, "protocol": chosen}
        if not security.can("websocket.accept", self._url, meta):
            with contextlib.suppress(ConnectionFailedError):
                await self._refuse(text_answer(403, "the connection is not allowed"), 403)
            raise PermissionDeniedError(f"{without_query(self._url)} is not allowed: websocket.accept is denied")
        await trio.lowlevel.checkpoint_if_cancelled()
        agreement = self._agreement(opening, mode)
        answer = acceptance(opening.request.key, chosen, None if agreement is None else agreement.header, fields)
        if await self._client_has_gone(opening):
            opening.status, opening.why = 0, _GONE
            self._connection.refuse(_GONE, by_us=False)
            opening.answered.set()
            raise self._noted(self._anew())
        self._subprotocol = chosen
        self._open(opening)
        try:
            await self._connection.writer.send_first(answer, wait=wait)
        except (trio.BrokenResourceError, trio.ClosedResourceError, WriteTimeoutError) as error:
            await self._connection.end_if_broken(error)
            raise self._gone("accepting failed", error) from error

    async def reject(
        self,
        status: int = 403,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        body: str | Buffer = b"",
    ) -> None:
        """Refuse the connection with an HTTP status.

        Returns once the answer is handed to the system. What that does not take at once, a task of the server's sends;
        over a socket it is not waited for. If this is cancelled, all of it is sent nevertheless.

        Args:
            status: 200 to 599, also as an ``http.HTTPStatus``.
            headers: further headers of the answer: a mapping or pairs.
            body: bytes or anything bytes-like. A str goes as UTF-8, with ``Content-Type: text/plain; charset=utf-8``
                unless the headers have another.

        Raises:
            InvalidError: the answer cannot be written: another status, a malformed header, a body with 204 or 304. The
                connection is still unanswered.
            InvalidTypeError: an argument is of the wrong type.
            NoContextError: it was accepted or rejected before, or accepted by its first use.
            ConnectionFailedError: the client has gone, or the server has refused it, as it was not answered in time.
        """
        answer = checked_answer(status, headers, body)
        self._unanswered()
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._refuse(answer.encoded(), answer.status)

    def _choice(self, subprotocol: str | EllipsisType | None) -> str | None:
        if subprotocol is ...:
            wanted = () if self._opening is None else self._opening.options.protocols
            return next((name for name in wanted if name in self._offered), None)
        if subprotocol is not None and not isinstance(cast("object", subprotocol), str):
            raise InvalidTypeError(f"subprotocol must be a str or None, not {subprotocol!r}")
        if subprotocol is not None and subprotocol not in self._offered:
            raise InvalidError(
                f"subprotocol must be one of the {len(self._offered)} that were offered, not {subprotocol!r}"
            )
        return subprotocol

    def _unanswered(self) -> Opening:
        """Return what is to be answered; raise if nothing is."""
        opening = self._opening
        if opening is None:
            raise NoContextError(
                "the connection was answered already: it was accepted, by accept() or by its first send, receive, ping "
                "or iteration"
            )
        if opening.status is not None and self.error is None:
            raise NoContextError(f"the connection was answered already: it was refused with status {opening.status}")
        if opening.status is not None:
            raise self._noted(self._anew())
        return opening

    def _anew(self) -> ConnectionFailedError:
        error = self.error
        assert error is not None
        return renew(error, error.message)

    def _agreement(self, opening: Opening, mode: Compression | None) -> Agreement | None:
        """Set compression up, if it is agreed on."""
        settings = opening.options.connection
        threshold = settings.compression_threshold_bytes
        if mode is None:
            mode = settings.compression
        elif threshold == DEFAULT_THRESHOLDS[settings.compression]:
            threshold = DEFAULT_THRESHOLDS[mode]
        agreement = accepted(opening.request.extensions, mode, opening.options.max_window_bits)
        if agreement is not None:
            plane = self._connection
            plane.decoder.inflater = Inflater(agreement.deflate)
            plane.writer.encoder.deflater = Deflater(agreement.deflate)
            plane.writer.encoder.compression_threshold_bytes = threshold
        return agreement

    def _open(self, opening: Opening) -> None:
        """Count it as accepted; from here on the task that reads may run."""
        opening.status, opening.accepted = 101, True
        opening.register.accepted += 1
        opening.register.open[self._connection] = self
        self._opening = self._before_use = None
        opening.answered.set()

    async def _client_has_gone(self, opening: Opening) -> bool:
        """Return whether it is known that the client has gone. Does not let other tasks run."""
        transport = self._connection.transport
        if not transport.receives_at_once:
            return False
        try:
            data = await transport.receive_now(_PEEK_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        opening.rest += data or b""
        return data == b""

    def _gone(self, what: str, error: Exception) -> ConnectionFailedError:
        return self._noted(
            ConnectionFailedError(f"{what}: {_GONE}: {shown(str(error))}", kind=Kind.UNAVAILABLE, retryable=False)
        )

    @enable_ki_protection
    async def _refuse(self, answer: bytes, status: int) -> None:
        opening = self._opening
        assert opening is not None
        opening.status, opening.why = status, f"it was refused with status {status}"
        opening.register.rejected[status] += 1
        self._connection.refuse(opening.why, by_us=True)
        # The task that reads sends what the system does not take at once: it must be sent if this is cancelled.
        try:
            taken = self._connection.transport.send_now(answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone("rejecting failed", error) from error
        else:
            opening.refusal = answer[taken:]
        finally:
            opening.answered.set()
        # A stream that is no socket, as one in memory, never takes anything at once: it is waited for here.
        if not self._connection.transport.synchronous:
            await opening.sent.wait()

    async def _accept_by_use(self) -> None:
        opening = self._opening
        if opening is None or opening.status is not None:
            self._before_use = None
        else:
            # Not waiting: what other tasks send meanwhile must not overtake what this is done for.
            await self._accept(self._choice(...), (), None, wait=False)
            self._connection.in_use = True

    # The connection --------------------------------------------------------------------------------------------------

    def channel(self) -> csp.Channel[Message]:
        """Return the channel on which messages arrive, as `Client.channel` does.

        Raises:
            NoContextError: the connection is unanswered. `accept` it first.
        """
        if self._opening is not None and self._opening.status is None:
            raise NoContextError("the connection is unanswered, and nothing arrives before it is: accept it first")
        return super().channel()

    async def _close(self, code: int, reason: str) -> None:
        if self._opening is None:
            await super()._close(code, reason)
            return
        if self._opening.status is None:
            if trio.current_effective_deadline() == -math.inf:
                self._opening.turn_away(STOPPING)
                await trio.lowlevel.checkpoint()
            status = 500 if code == CloseCode.INTERNAL_ERROR else 403
            with contextlib.suppress(ConnectionFailedError):
                await self._refuse(text_answer(status, "the server has not accepted the connection"), status)
        await self._connection.finished.wait()

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._opening is not None and exc is not None and not isinstance(exc, Exception):
            self._opening.turn_away(STOPPING)
        else:
            await super().__aexit__(exc_type, exc, traceback)

    def __repr__(self) -> str:
        text = super().__repr__()
        return text if self._remote is None else f"{text[:-1]} from {shown_address(self._remote)}>"

    def _state(self) -> str:
        return "unanswered" if self._opening is not None and self._opening.status is None else super()._state()

    def _failure(self, what: str, error: Exception, *, retryable: bool) -> ConnectionFailedError:
        return self._noted(super()._failure(what, error, retryable=retryable))

    def _cut_short(self) -> ConnectionFailedError:
        return self._noted(super()._cut_short())

    def _noted(self, failure: ConnectionFailedError) -> ConnectionFailedError:
        if self._failures is None:
            self._failures = weakref.WeakSet()
        self._failures.add(failure)
        return failure


def is_end_of(connection: ServerConnection, error: BaseException) -> bool:
    """Tell whether an exception says no more than that this connection has ended, or never was accepted."""
    ending = connection._connection.ending  # noqa: SLF001  # no user needs this
    if isinstance(error, EndOfChannelError):
        return ending is not None and error.details == ending.details
    if not isinstance(error, ConnectionFailedError):
        return False
    if error in (connection._failures or ()):  # noqa: SLF001
        return True
    # Errors that are raised anew share their details.
    return ending is not None and ending.error is not None and error.details is ending.error.details
