"""The opening handshake on the wire: sends trio-websocket's request, and reads and checks the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from csp.errors import ConnectionFailedError, Kind, shown
from trio_csp_websocket.protocol.response import ResponseReader
from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.tls import TlsTransport

if TYPE_CHECKING:
    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.transport.base import Transport

_READ_BYTES = 64 * 1024

# How long a refusal's body may take to arrive; it only goes into the error's details.
_REFUSAL_BODY_SECONDS = 1.0


class Opening:
    """One opening handshake.

    trio-websocket waits for ever when a handshake fails. So the caller waits for trio-websocket inside `scope`, which
    is cancelled when the handshake has failed, and then raises `refusal`.
    """

    def __init__(self, transport: Transport, options: Options) -> None:
        self.response = ResponseReader(
            options.protocols,
            options.connection.compression,
            require_subprotocol=options.require_subprotocol,
            follow_redirects=options.max_redirects > 0,
        )
        self.scope = trio.CancelScope()
        self.refusal: ConnectionFailedError | None = None
        self.name: str = ""
        """Where it leads, for the log."""
        self._transport = transport
        self._offered = bool(options.protocols)
        self._sent = False

    async def send_request(self, request: bytes) -> None:
        """Send the request, and note the key that the answer must match."""
        self.response.request_sent(request)
        try:
            await self._transport.send_all(request)
            self._sent = True
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._refuse(self._broken(error))
            raise

    async def receive_answer(self) -> tuple[bytes, bytes] | None:
        """Read the answer; return its head for trio-websocket and the bytes after it, or None if it is a refusal."""
        try:
            return await self._read_answer()
        except ConnectionFailedError as refusal:
            self._refuse(refusal)
            return None

    async def _read_answer(self) -> tuple[bytes, bytes]:
        answer = None
        try:
            while answer is None and not self.response.refused:
                data = await self._transport.receive_some(_READ_BYTES)
                if not data and not self.response.begun:
                    raise self._unanswered()
                answer = self.response.feed(data)
            with trio.move_on_after(_REFUSAL_BODY_SECONDS):
                while answer is None:
                    answer = self.response.feed(await self._transport.receive_some(_READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if not self.response.refused:
                raise self._broken(error) from error
        if answer is None:
            raise self.response.refusal()
        return answer

    def _refuse(self, refusal: ConnectionFailedError) -> None:
        self.refusal = refusal
        self.scope.cancel()

    def waits_for(self) -> str:
        """Say what has not happened yet."""
        if not self._sent:
            return "the server did not take the request of the WebSocket handshake"
        if self.response.begun:
            return "the server's answer to the WebSocket handshake was not complete"
        return "the server did not answer the WebSocket handshake"

    def _broken(self, error: Exception) -> ConnectionFailedError:
        return ConnectionFailedError(
            f"the connection broke during the WebSocket handshake: {shown(str(error))}{self._about_certificates()}",
            kind=Kind.INTERNAL,
            retryable=True,
        )

    def _unanswered(self) -> ConnectionFailedError:
        questions: list[str] = []
        if isinstance(self._transport, SocketTransport):
            # Servers of TLS may close the connection of somebody who does not speak it.
            questions.append("is it a wss: server")
        if self._offered:
            # libwebsockets closes that of somebody who offers nothing that it knows.
            questions.append("does it know none of the subprotocols that were offered")
        hint = self._about_certificates()
        if questions and not hint:
            hint = f"; {', or '.join(questions)}?"
        return ConnectionFailedError(
            f"the server closed the connection without an answer to the WebSocket handshake{hint}",
            kind=Kind.INTERNAL,
            retryable=True,
            details={"answer": b""},
        )

    def _about_certificates(self) -> str:
        """Return a hint where the server's alert about our certificate can be lost, as it closed at once."""
        silent = isinstance(self._transport, TlsTransport) and self._transport.silent_since_handshake
        return ", right after TLS; the server may want a client certificate" if silent else ""
