"""A request that waits for its answer: what `ServerConnection` and the task that read the request share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_csp_websocket.protocol.answer import text_answer

if TYPE_CHECKING:
    from trio_csp_websocket.connection.connection import Connection
    from trio_csp_websocket.protocol.request import ParsedRequest
    from trio_csp_websocket.server.options import Options
    from trio_csp_websocket.server.register import Register
    from trio_csp_websocket.transport.base import Address

RETRY_AFTER = ("Retry-After", "5")
"""What goes with status 503."""


STOPPING = "the server is stopping"


class Opening:
    """An opening handshake whose request has come (RFC 6455, section 4.2).

    The task that has read it waits for `answered`, and then reads the connection, or waits until the client that was
    refused has gone.

    Args:
        connection: the data plane, in which nothing happens before the answer.
        request: what the client asks for.
        url: where the request leads, normalised.
        remote: where the client is.
        options: the server's.
        register: keeps account of the connection.
    """

    __slots__ = (
        "accepted",
        "answered",
        "connection",
        "options",
        "refusal",
        "register",
        "remote",
        "request",
        "rest",
        "sent",
        "status",
        "url",
        "why",
    )

    def __init__(
        self,
        connection: Connection,
        request: ParsedRequest,
        url: str,
        remote: Address | None,
        options: Options,
        register: Register,
    ) -> None:
        self.connection: Connection = connection
        self.request: ParsedRequest = request
        self.url: str = url
        self.remote: Address | None = remote
        self.options: Options = options
        self.register: Register = register
        self.answered: trio.Event = trio.Event()
        """Set when the answer is handed over, or `refusal` is to be sent."""
        self.status: int | None = None
        """The status of the answer, once that is decided; 0 if there is none, as for a client that has gone."""
        self.accepted: bool = False
        self.refusal: bytes = b""
        """What the task that reads has to send, if the connection was not accepted."""
        self.sent: trio.Event = trio.Event()
        """Set when it is sent, or cannot be."""
        self.why: str = ""
        """Why the connection was not accepted."""
        self.rest: bytes = b""
        """What has come behind the request."""

    def give_up(self) -> None:
        """Note that there will be no answer, unless there is one; nothing more of that is sent."""
        if self.status is None:
            self.status = 0
        self.sent.set()

    def turn_away(self, why: str) -> None:
        """Refuse the connection with status 503, unless it is answered already: the server's own decision."""
        if self.status is None:
            self.status = 503
            self.why = why
            self.refusal = text_answer(503, why, [RETRY_AFTER])
            self.register.rejected[503] += 1
            self.connection.refuse(f"{why} (status 503)", by_us=False)
            self.answered.set()
