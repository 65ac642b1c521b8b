"""The stream that trio-websocket is given: the opening and the closing handshake pass through it, and nothing else.

    trio-websocket's reader task -- receive_some --> answer of the opening handshake, peer's close frame
    trio-websocket               -- send_all ------> request of the opening handshake, our close frame

Nothing in this project calls `Handshakes.receive_some`: trio-websocket's reader task does, as it would on a socket. Its
second call returns only when the connection has ended, because that is the task in which the data plane reads:
`Connection.read` runs there, and then `Connection.finish`.

A verdict of ours on the server is told to trio-websocket as if the server had sent it in a close frame: its answer to
that is the close frame the server gets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import trio
import trio_websocket
from trio.lowlevel import enable_ki_protection

from trio_csp_websocket.client.opening import Opening
from trio_csp_websocket.connection.connection import Connection
from trio_csp_websocket.protocol.close import parse_close
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.decoder import Decoder
from trio_csp_websocket.protocol.deflate import Deflater, Inflater
from trio_csp_websocket.protocol.encoder import MaskingEncoder
from trio_csp_websocket.protocol.frames import CLOSE, encode_from_server
from trio_csp_websocket.protocol.negotiation import offer

if TYPE_CHECKING:
    from csp.errors import ConnectionFailedError
    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.protocol.negotiation import DeflateParameters
    from trio_csp_websocket.protocol.url import Target
    from trio_csp_websocket.transport.base import Transport


class Handshakes(trio.abc.Stream):
    """The two handshakes of a client's connection, carried out by trio-websocket.

    Args:
        transport: a stream to the server, which this owns from now on.
        options: the client's options.
        nursery: where tasks run; cancelling it must be followed by `abort`.
    """

    def __init__(self, transport: Transport, options: Options, nursery: trio.Nursery) -> None:
        self.connection: Connection | None = None
        """The connection, from when the server has accepted it."""
        self._transport = transport
        self._options = options
        self._nursery = nursery
        # Only until the connection is open: it may be idle for days.
        self._opening: Opening | None = Opening(transport, options)
        # What to answer the server's close with, if not with what trio-websocket says.
        self._close_answer: bytes | None = None

    # What `connect` calls --------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def open(self, target: Target, headers: list[tuple[bytes, bytes]]) -> tuple[Connection, str | None, bytes]:
        """Carry out the opening handshake.

        Returns the connection, the subprotocol that the server chose, and the headers of its answer as `parse_headers`
        takes them.

        Raises:
            ConnectionFailedError: the server's answer was no valid acceptance.
        """
        opening = self._opening
        assert opening is not None
        opening.secure = target.secure
        extension = offer(self._options.connection.compression)
        if extension is not None:
            headers = [*headers, (b"Sec-WebSocket-Extensions", extension.encode())]
        websocket: trio_websocket.WebSocketConnection | None = None
        with opening.scope:
            websocket = await trio_websocket.wrap_client_stream(
                self._nursery,
                # Annotated more narrowly than it is: any Trio stream will do, and nothing of a socket is used.
                cast("trio.SocketStream", self),
                target.host_header,
                target.resource,
                subprotocols=self._options.protocols,
                extra_headers=headers,
            )
        if opening.refusal is not None:
            raise opening.refusal
        assert websocket is not None
        assert self.connection is not None
        if not self.connection.finished.is_set():
            self.connection.send_close = websocket.aclose
        self._opening = None
        return self.connection, websocket.subprotocol, opening.response.head

    async def abort(self) -> None:
        """Close the transport at once, even when cancelled, because the connection could not be opened."""
        if self.connection is None:
            await self._transport.aclose()
        else:
            await self.connection.abort("it could not be opened")

    @property
    def refusal(self) -> ConnectionFailedError | None:
        """The error for a handshake that was refused, also while the refusal's body is still arriving."""
        if self._opening is None or not self._opening.response.refused:
            return None
        return self._opening.response.refusal()

    # What trio-websocket calls ---------------------------------------------------------------------------------------

    @enable_ki_protection
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send the request of the opening handshake; later, hand over our close frame without waiting."""
        if self.connection is None:
            assert self._opening is not None
            await self._opening.send_request(bytes(data))
        elif self._close_answer is not None:
            await self.connection.write_close(self.connection.writer.encoder.encode(CLOSE, self._close_answer))
        else:
            await self.connection.write_close(bytes(data))

    @enable_ki_protection
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the answer to the opening handshake, then the server's close frame, then b"" at the end."""
        if self.connection is None:
            return await self._receive_answer()
        payload = await self.connection.read()
        if payload is None:
            await self.connection.finish()
            return b""
        if parse_close(payload)[0] == CloseCode.BAD_GATEWAY:
            # wsproto does not know this code, and would send no answer: it is told of a close without a code.
            self._close_answer = payload
            payload = b""
        return encode_from_server(CLOSE, payload)

    async def _receive_answer(self) -> bytes:
        assert self._opening is not None
        answer = await self._opening.receive_answer()
        if answer is None:
            return b""
        head, rest = answer
        self.connection = self._connection(self._opening.response.deflate)
        self.connection.take_in(rest)
        return head

    def _connection(self, parameters: DeflateParameters | None) -> Connection:
        """Return the connection that was accepted, with compression if that was agreed on."""
        settings = self._options.connection
        decoder, encoder = Decoder(settings.read_limit_bytes), MaskingEncoder()
        if parameters is not None:
            decoder.inflater = Inflater(parameters, settings.read_limit_bytes)
            encoder.deflater = Deflater(parameters)
            encoder.compression_threshold_bytes = settings.compression_threshold_bytes
        return Connection(self._transport, settings, self._nursery, decoder=decoder, encoder=encoder)

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: `send_all` never waits, but for the request."""
        await trio.lowlevel.checkpoint()

    @enable_ki_protection
    async def aclose(self) -> None:
        """Wait until the connection has ended: what closes it, closes the transport."""
        if self.connection is None:
            await self._transport.aclose()
        else:
            await self.connection.finished.wait()
