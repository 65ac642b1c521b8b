"""The client: an endpoint that connected."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from trio_csp_websocket.connection.endpoint import Endpoint

if TYPE_CHECKING:
    from email.message import Message as Headers

    from trio_csp_websocket.connection.connection import Connection


@final
class Client(Endpoint):
    """An open WebSocket connection. Made by `connect`."""

    def __init__(self, connection: Connection, url: str, subprotocol: str | None, head: bytes) -> None:
        super().__init__(connection, url, subprotocol)
        self._head = head

    @property
    def response_headers(self) -> Headers[str, str]:
        """The headers of the server's answer to the handshake; names are matched in any case."""
        # Imported here, because `email` comes with it: it is loaded with the first connection, by now.
        from trio_csp_websocket.protocol.headers import parse_headers  # noqa: PLC0415

        return parse_headers(self._head)
