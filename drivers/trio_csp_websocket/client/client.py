"""The client: an endpoint that connected."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from trio_csp_websocket.connection.endpoint import Endpoint
from trio_csp_websocket.protocol.headers import parse_headers

if TYPE_CHECKING:
    from trio_csp_websocket.connection.connection import Connection
    from trio_csp_websocket.protocol.headers import Headers


@final
class Client(Endpoint):
    """An open WebSocket connection. Made by `connect`."""

    def __init__(self, connection: Connection, url: str, subprotocol: str | None, head: bytes) -> None:
        super().__init__(connection, url, subprotocol)
        self._head = head
        connection.in_use = True

    @property
    def response_headers(self) -> Headers:
        """The headers of the server's answer to the handshake."""
        return parse_headers(self._head)

    @property
    def proxy(self) -> str | None:
        """The URL of the proxy that the connection goes through, without credentials; None if there is none."""
        return self._connection.transport.proxy
