"""The stream that trio-websocket is given: the opening and the closing handshake pass through it, and nothing else.

    trio-websocket calls    and this stream
    send_all                sends the request of the opening handshake
    receive_some            returns the answer
    receive_some            runs `Connection.read`, and returns the server's close frame
    send_all                gives our close frame to `Connection.write_close`
    receive_some            runs `Connection.finish`, and returns b""

Nothing in this project calls `Handshakes.receive_some`: trio-websocket's reader task does, as it would on a socket.
That task is where the data plane reads, so the second call returns only when the connection has ended.

If we close first, `send_all` gets our close frame while the second `receive_some` still runs, and trio-websocket does
not answer the server's. If the connection ends without a close frame, the second `receive_some` is the last.

To fail the connection, we tell trio-websocket that the server has sent a close frame with our code. What trio-websocket
answers is the close frame that the server gets; but where there is a reason, and for a close with 1014, a code that
wsproto does not know, the frame is made here.
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
from trio_csp_websocket.protocol.encoder import Encoder, MaskingEncoder
from trio_csp_websocket.protocol.frames import CLOSE
from trio_csp_websocket.protocol.negotiation import offer
from trio_csp_websocket.transport.logged import logged

if TYPE_CHECKING:
    from csp.errors import ConnectionFailedError
    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.protocol.negotiation import DeflateParameters
    from trio_csp_websocket.protocol.secrets import Secrets
    from trio_csp_websocket.protocol.url import Target
    from trio_csp_websocket.transport.base import Transport


class Handshakes(trio.abc.Stream):
    """The two handshakes of a client's connection, carried out by trio-websocket.

    Args:
        transport: a stream to the server, which this owns from now on.
        options: the client's options.
        nursery: where tasks run. After cancelling it, call `abort`.
    """

    __slots__ = (
        "_close_answer",
        "_nursery",
        "_opening",
        "_options",
        "_transport",
        "connection",
    )

    def __init__(self, transport: Transport, options: Options, nursery: trio.Nursery) -> None:
        self.connection: Connection | None = None
        """The connection; None before the server has accepted it."""
        self._transport = transport
        self._options = options
        self._nursery = nursery
        # None once the connection is open: it may stay open for days, and does not need this memory.
        self._opening: Opening | None = Opening(transport, options)
        # The payload of our answer to the server's close frame, if it is not trio-websocket's.
        self._close_answer: bytes | None = None

    # What `connect` calls --------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def open(
        self, target: Target, headers: list[tuple[bytes, bytes]], earlier_secrets: Secrets | None = None
    ) -> tuple[Connection, str | None, bytes]:
        """Carry out the opening handshake.

        Returns the connection, the subprotocol that the server chose, and the headers of its answer, to be parsed by
        `parse_headers`.

        Args:
            target: where the stream leads.
            headers: those of the request, besides its own.
            earlier_secrets: what may be secret in the requests whose redirects led here.

        Raises:
            ConnectionFailedError: the connection broke, or the server's answer was not a valid acceptance.
        """
        opening = self._opening
        assert opening is not None
        opening.response.earlier_secrets = earlier_secrets
        opening.name = target.shown
        extension = offer(self._options.connection.compression)
        if extension is not None:
            headers = [*headers, (b"Sec-WebSocket-Extensions", extension.encode())]
        websocket: trio_websocket.WebSocketConnection | None = None
        with opening.scope:
            websocket = await trio_websocket.wrap_client_stream(
                self._nursery,
                # The annotation asks for more than is used: any Trio stream will do.
                cast("trio.SocketStream", self),
                self._options.host_header or target.host_header,
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
        """Close the transport at once, even when cancelled; call this if the connection could not be opened."""
        if self.connection is None:
            await self._transport.aclose()
        else:
            await self.connection.abort("it could not be opened")

    @property
    def refusal(self) -> ConnectionFailedError | None:
        """The error if the handshake was refused, else None; set even while the refusal's body is still arriving."""
        if self._opening is None or not self._opening.response.refused:
            return None
        return self._opening.response.refusal()

    def waits_for(self) -> str:
        """Say what has not happened yet in the opening handshake."""
        assert self._opening is not None
        return self._opening.waits_for()

    # What trio-websocket calls ---------------------------------------------------------------------------------------

    @enable_ki_protection
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send the request of the opening handshake; later, write our close frame without waiting for the network."""
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
        # wsproto does not know the code 1014, and would not answer; and trio-websocket logs reasons as they came. So it
        # gets neither, and `send_all` replaces its answer.
        known = b"" if parse_close(payload)[0] == CloseCode.BAD_GATEWAY else payload[:2]
        if known != payload:
            self._close_answer = payload
        return Encoder().encode(CLOSE, known)

    async def _receive_answer(self) -> bytes:
        assert self._opening is not None
        answer = await self._opening.receive_answer()
        if answer is None:
            return b""
        head, rest = answer
        transport = logged(self._transport, self._opening.name, received=rest)
        self.connection = self._connection(transport, self._opening.response.deflate)
        self.connection.feed(rest)
        return head

    def _connection(self, transport: Transport, parameters: DeflateParameters | None) -> Connection:
        """Return the data plane of the accepted connection, with compression if that was agreed on."""
        settings = self._options.connection
        decoder, encoder = Decoder(settings.read_limit_bytes), MaskingEncoder()
        if parameters is not None:
            decoder.inflater = Inflater(parameters)
            encoder.deflater = Deflater(parameters)
            encoder.compression_threshold_bytes = settings.compression_threshold_bytes
        return Connection(transport, settings, self._nursery, decoder=decoder, encoder=encoder)

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: after the request, `send_all` never waits for the network."""
        await trio.lowlevel.checkpoint()

    @enable_ki_protection
    async def aclose(self) -> None:
        """Wait until the transport is closed, which `Connection` does; close it only if there was no connection."""
        if self.connection is None:
            await self._transport.aclose()
        else:
            await self.connection.finished.wait()
