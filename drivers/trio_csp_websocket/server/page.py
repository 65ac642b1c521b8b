"""What a server answers to requests that want no WebSocket: pages, and health checks."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from csp.errors import InvalidTypeError
from trio_csp_websocket.events import Events, fields_of
from trio_csp_websocket.protocol.answer import checked_answer

# Not for type checkers only: the hints of a tuple's fields are found at run time.
from trio_csp_websocket.protocol.headers import Headers  # noqa: TC001
from trio_csp_websocket.transport.base import Address  # noqa: TC001

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.answer import Answer

_events = Events("csp.websocket.server")


class Request(NamedTuple):
    """A request that wants no WebSocket, as the ``http`` function of a server gets it.

    The ``repr`` shows neither query nor headers, which may hold secrets.
    """

    method: str
    """``GET`` or ``HEAD``; the answer to the latter is sent without its body."""
    path: str
    """The path, normalised: unreserved characters are percent-decoded, dot segments resolved (RFC 3986, section 6)."""
    query: str
    """What follows the question mark; "" if nothing does."""
    headers: Headers
    """Names match in any case; repeated headers are kept."""
    remote: Address | None
    """Where the client is, as `ServerConnection.remote`."""
    origin: str | None
    """The Origin header; it is not checked."""

    def __repr__(self) -> str:
        return f"<csp.websocket.Request {self.method} {self.path}>"


class Response(NamedTuple):
    """An answer to a `Request`. The connection is closed behind it."""

    status: int
    """200 to 599."""
    body: str | bytes | bytearray | memoryview = b""
    """A str is sent as UTF-8, as ``text/plain`` unless the headers say otherwise."""
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None
    """Besides Date, Content-Length and Connection."""


Http: TypeAlias = Callable[[Request], Awaitable[Response | None]]
"""An async function that answers requests that want no WebSocket; None for status 426 (Upgrade Required)."""


async def answer_of(http: Http, request: Request) -> Answer | None:
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
    except Exception as error:  # noqa: BLE001  # it is logged, and the server goes on
        text = "the http function has failed for %r"
        fields = fields_of(error)
        _events.tell("server.http_failed", logging.ERROR, text, request, exc_info=True, path=request.path, **fields)
        return checked_answer(500, None, "the server has failed\n")
