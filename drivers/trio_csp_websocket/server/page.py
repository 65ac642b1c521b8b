"""What a server answers to requests that want no WebSocket: pages, and health checks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

# Not for type checkers only: the hints of a tuple's fields are found at run time.
from trio_csp_websocket.protocol.headers import Headers  # noqa: TC001
from trio_csp_websocket.transport.base import Address  # noqa: TC001


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
