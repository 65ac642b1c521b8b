"""The data plane: the stream that trio-websocket is given, and that owns the connection.

trio-websocket carries out the opening and the closing handshake and answers pings. Everything else a connection does
passes beneath it, here:

    server <-> transport <-> Connection <-> trio-websocket     handshakes, pings, closes
                               |    ^
          client.channel() <- data  frames <- writer <- client.send(), client.ping()

trio-websocket's reader task calls `Connection.receive_some`, as it would on a socket. That call reads from the
transport, keeps the data messages and pongs, and returns only when there is something for trio-websocket: the answer
to the handshake, a ping to answer, the peer's close. So this file runs in trio-websocket's reader task, and ends when
that does.

Reading stops while the client's channel is full, and with it the answering of pings that have not been read yet;
those that have been read are answered first. Closing wakes a reader that waits for the consumer: from then on data is
discarded.

The end of a connection, whoever brought it about, is written down once, in `ending`; the client's channel closes when
all that came before it is delivered. A verdict on the peer is told to trio-websocket as if the peer had sent it in a
close frame: its answer to that is the close frame the peer gets.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, cast

import trio
import trio_websocket
from trio.lowlevel import enable_ki_protection

from trio_csp_websocket.client.opening import Opening
from trio_csp_websocket.connection.delivery import Delivery
from trio_csp_websocket.connection.ending import Ending, closed_by_peer, failed_by_us, lost, stalled, write_timed_out
from trio_csp_websocket.connection.liveness import Patience, PeerStalledError
from trio_csp_websocket.connection.pings import Pings
from trio_csp_websocket.connection.writer import MAX_WAITING_PONGS, Writer, WriteTimeoutError
from trio_csp_websocket.protocol.close import close_payload, parse_close
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.decoder import Decoder
from trio_csp_websocket.protocol.deflate import Deflater, Inflater
from trio_csp_websocket.protocol.frames import CLOSE, OPCODE, PING, PONG, encode_from_server
from trio_csp_websocket.protocol.headers import parse_headers
from trio_csp_websocket.protocol.negotiation import offer

if TYPE_CHECKING:
    from email.message import Message as Headers

    from csp.errors import ConnectionFailedError
    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.protocol.url import Target
    from trio_csp_websocket.transport.base import Transport

_MIN_READ_BYTES = 64 * 1024
_MAX_READ_BYTES = 1024 * 1024

# After a verdict, a peer from which nothing comes for so long is taken to have nothing on its way.
_SILENCE_SECONDS = 0.05


class Connection(trio.abc.Stream):
    """One WebSocket connection, beneath trio-websocket.

    Args:
        transport: a stream to the server, which the connection owns from now on.
        options: the client's options.
        nursery: where its tasks run; cancelling it must be followed by `abort`.
    """

    def __init__(self, transport: Transport, options: Options, nursery: trio.Nursery) -> None:
        self.transport = transport
        self.writer = Writer(transport, nursery, options.connection.write_timeout_seconds)
        self.decoder = Decoder(options.connection.read_limit_bytes)
        self.delivery = Delivery(self.decoder.messages, options.connection.channel_capacity)
        self.pings = Pings()
        self.ending: Ending | None = None
        self.finished = trio.Event()
        """Set when the transport is closed."""
        self.subprotocol: str | None = None
        """What the server chose of those offered."""
        self._websocket: trio_websocket.WebSocketConnection | None = None
        self._options = options
        self._nursery = nursery
        self._close_timeout_seconds = options.connection.close_timeout_seconds
        self._open = False
        self._opening: Opening | None = Opening(transport, options)
        # Of the answer to the handshake.
        self._head = b""
        self._patience: Patience | None = None
        if min(options.connection.read_timeout_seconds, options.connection.keepalive_seconds) < math.inf:
            self._patience = Patience(
                transport,
                self.decoder,
                self.delivery,
                self.writer,
                self.pings,
                read_timeout_seconds=options.connection.read_timeout_seconds,
                keepalive_seconds=options.connection.keepalive_seconds,
            )
        # Frames for trio-websocket that it has not fetched yet; of many pings the latest.
        self._pings: list[bytes] = []
        self._close: bytes | None = None
        # What to answer the peer's close with, if not with what trio-websocket says.
        self._close_answer: bytes | None = None
        self._close_sent = False
        # Whether it is over without a way to write, or by a verdict of ours.
        self._lost = False
        self._failed = False
        # How the connection ends that is being given up.
        self._giving_up: Ending | None = None
        # Around the closing handshake. Cancelled once nothing is to be waited for: trio-websocket waits for its reader
        # task, and that may have been cancelled.
        self._handshaking = trio.CancelScope()

    # What the client calls -------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def open(self, target: Target, headers: list[tuple[bytes, bytes]]) -> None:
        """Carry out the opening handshake, through trio-websocket.

        Raises:
            ConnectionFailedError: the server's answer was no valid acceptance.
        """
        opening = self._opening
        assert opening is not None
        opening.secure = target.secure
        extension = offer(self._options.connection.compression)
        if extension is not None:
            headers = [*headers, (b"Sec-WebSocket-Extensions", extension.encode())]
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
            self._websocket = websocket
            self.subprotocol = websocket.subprotocol
        if opening.refusal is not None:
            raise opening.refusal
        # What only the handshake needed is given up: a connection may be idle for days.
        self._head = opening.handshake.head
        self._opening = None

    @enable_ki_protection
    async def send_failed(self, error: Exception) -> None:
        """End the connection, if what `Writer.send` raised says that part of a frame may be on the wire."""
        if isinstance(error, WriteTimeoutError) and error.begun:
            how = f"a frame was {error}"
            self._break(how, write_timed_out(how, asked=self._close_sent))
            await self._shut()

    @enable_ki_protection
    async def close(self, code: int, reason: str) -> None:
        """Close the connection: the closing handshake, then the transport, all within the close timeout.

        If cancelled, the transport is closed at once.
        """
        if trio.current_effective_deadline() == -math.inf:
            await self.give_up(code, reason, asked=True)  # raises Cancelled
        try:
            with trio.move_on_after(self._close_timeout_seconds):
                await self._shake_hands(code, reason)
                self._stop_delivering()
                await self.finished.wait()
        finally:
            if not self.finished.is_set():
                await self.abort("it was closed, and the peer did not answer in time")

    @enable_ki_protection
    async def give_up(self, code: int, reason: str = "", *, asked: bool = False) -> None:
        """Try to send a close frame without waiting, and close the transport at once; for a caller in a hurry.

        Args:
            code: for the close frame.
            reason: likewise.
            asked: whether the user asked for a close, so that this is no failure.

        Raises:
            trio.Cancelled: the caller is cancelled; all of it is done nevertheless.
        """
        self._giving_up = lost("its block was cancelled", asked=asked or self._close_sent)
        # Cancelled by our own send_all, as soon as it has the close frame.
        await self._shake_hands(code, reason, shield=True)
        self._end(self._giving_up)
        await self.abort("it was given up")
        await trio.lowlevel.checkpoint()

    @enable_ki_protection
    async def abort(self, how: str) -> None:
        """Close the transport at once, even when cancelled; nothing waits on this connection afterwards."""
        self._stop_delivering()
        self._lose(how)
        await self._shut()

    @property
    def closing(self) -> bool:
        """Whether we are closing it, or have."""
        return self._close_sent

    @property
    def refusal(self) -> ConnectionFailedError | None:
        """The error for a handshake that was refused, also while the refusal's body is still arriving."""
        if self._opening is None or not self._opening.handshake.refused:
            return None
        return self._opening.handshake.refusal()

    @property
    def response_headers(self) -> Headers[str, str]:
        """The headers of the answer to the handshake."""
        return parse_headers(self._head)

    async def _shake_hands(self, code: int, reason: str, *, shield: bool = False) -> None:
        """Carry out the closing handshake, through trio-websocket, unless it has begun or there is no peer for it."""
        if self.ending is not None or self._close_sent:
            return
        assert self._websocket is not None
        self._close_sent = True
        self._stop_delivering()
        self._handshaking.shield = shield
        with self._handshaking:
            await self._websocket.aclose(code, reason)

    # What trio-websocket calls ---------------------------------------------------------------------------------------

    @enable_ki_protection
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send the request of the handshake; later, hand a control frame to the writer without waiting."""
        if not self._open:
            assert self._opening is not None
            await self._opening.send_request(bytes(data))
        elif self._giving_up is not None:
            # A pong that is on its way through trio-websocket must not take the close frame's place.
            if data[0] & OPCODE == CLOSE:
                self._end(self._giving_up)  # whatever the peer says now, we have not waited for it
                await self.writer.send_last(bytes(data))
                self._handshaking.cancel()
        elif self._close_answer is not None and data[0] & OPCODE == CLOSE:
            self.writer.send_control(self.writer.encoder.encode(CLOSE, self._close_answer))
        else:
            self.writer.send_control(bytes(data))

    @enable_ki_protection
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Run the connection until there is something for trio-websocket, and return that; b"" when it has ended."""
        if not self._open:
            return await self._receive_answer()
        while not self._pings and self._close is None:
            if self.ending is not None and not self.decoder.paused:
                await self._finish()
                return b""
            waited = await self.delivery.deliver()
            if self.decoder.paused:
                await trio.lowlevel.checkpoint()
                self._take_in(b"")
                self._end_delivery()
            else:
                await self._read(visited=waited)
        if self._pings:
            # Alone: it must not answer one when our close has gone out behind the one before.
            return self._pings.pop(0)
        close, self._close = self._close, None
        assert close is not None
        return close

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: `send_all` never waits."""
        await trio.lowlevel.checkpoint()

    @enable_ki_protection
    async def aclose(self) -> None:
        """Wait until the connection has ended; whoever closes it sees to it that it does."""
        if self._open and self._giving_up is None:
            await self.finished.wait()
        else:
            await self.transport.aclose()

    # Reading ---------------------------------------------------------------------------------------------------------

    async def _receive_answer(self) -> bytes:
        assert self._opening is not None
        answer = await self._opening.receive_answer()
        if answer is None:
            return b""
        head, rest = answer
        parameters = self._opening.handshake.deflate
        if parameters is not None:
            self.decoder.inflater = Inflater(parameters, self._options.connection.read_limit_bytes)
            self.writer.encoder.deflater = Deflater(parameters)
            self.writer.encoder.compression_threshold_bytes = self._options.connection.compression_threshold_bytes
        self._open = True
        self._take_in(rest)
        return head

    async def _read(self, *, visited: bool) -> None:
        """Read a block and take it in, or note the end; if the scheduler was just visited, what has come at once."""
        size = min(max(self.decoder.missing, _MIN_READ_BYTES), _MAX_READ_BYTES)
        # Once our close is sent, its own timeout is what counts.
        source = self.transport if self._patience is None or self._close_sent else self._patience
        try:
            block = None
            if visited and source is self.transport and self.transport.synchronous:
                block = await self.transport.receive_now(size)
            if block is None:
                block = await source.receive_some(size)
        except PeerStalledError as error:
            if self.ending is None and not self._close_sent:
                self._fail(CloseCode.INTERNAL_ERROR, str(error), stalled(str(error)))
            return
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose(str(error) or "the connection broke")
            return
        if block:
            self._take_in(block)
        else:
            self._lose("the peer closed it without a close frame")

    def _take_in(self, block: bytes) -> None:
        """Parse a block; act on control frames, and deliver what there is room for."""
        controls = self.decoder.feed(block)
        # Pings are answered first: the consumer could otherwise send ahead of the pong.
        if not controls or all(opcode != PING for opcode, _ in controls):
            self.delivery.deliver_now()
        for opcode, payload in controls:
            if opcode == PING:
                # Once our close is sent, nothing may follow it; trio-websocket would try.
                if not self._close_sent:
                    self._pings = [*self._pings, encode_from_server(PING, payload)][-MAX_WAITING_PONGS:]
            elif opcode == PONG:
                self.pings.answered(payload)
            else:
                self._take_in_close(payload)
        if self.decoder.violation is not None and self.ending is None:
            violation = self.decoder.violation
            self._fail(violation.code, violation.reason, failed_by_us(violation, asked=self._close_sent))

    def _take_in_close(self, payload: bytes) -> None:
        code, reason = parse_close(payload)
        if code == CloseCode.BAD_GATEWAY:
            # wsproto does not know this code, and would send no answer: it is told of a close without a code.
            self._close_answer = payload
            self._close = encode_from_server(CLOSE, b"")
        else:
            self._close = encode_from_server(CLOSE, payload)
        self._end(closed_by_peer(code, reason, asked=self._close_sent))

    def _stop_delivering(self) -> None:
        """Data is not wanted any more; a reader that waits for the consumer goes on."""
        self.delivery.stop()
        self._pings.clear()
        self._end_delivery()

    # Ending ----------------------------------------------------------------------------------------------------------

    def _fail(self, code: int, reason: str, ending: Ending) -> None:
        """End the connection by a verdict of ours, which trio-websocket takes for the peer's close, and answers."""
        self._failed = True
        self._close = encode_from_server(CLOSE, close_payload(code, reason))
        self._end(ending)

    def _lose(self, how: str) -> None:
        self._break(how, lost(how, asked=self._close_sent))

    def _break(self, how: str, ending: Ending) -> None:
        """End the connection where nothing more can be sent."""
        self._lost = True
        self.writer.fail(trio.BrokenResourceError(how))
        self._end(ending)

    def _end(self, ending: Ending) -> None:
        """Write down how the connection ended, and close the client's channel behind what was received."""
        if self.ending is None:
            self.ending = ending
            # The close frame may not be out yet, and what goes ahead of it would be lost without a word.
            self.writer.refuse()
            self._end_delivery()

    def _end_delivery(self) -> None:
        """Close the client's channel behind what was received, once that is parsed or unwanted."""
        if self.ending is not None and (not self.decoder.paused or self.delivery.stopped):
            self.delivery.end(self.ending.error, self._nursery)

    async def _finish(self) -> None:
        """Close the transport so that the close frame arrives: a reset, which unread data causes, could overtake it."""
        if self._giving_up is not None:
            await self.finished.wait()  # whoever does it closes the transport, behind its last frame
            return
        with trio.move_on_after(self._close_timeout_seconds):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                if not self._lost:
                    await self.writer.flush()
                    if self._failed:
                        await self._hear_out()
                    await self.transport.send_eof()
                    while await self.transport.receive_some(_MIN_READ_BYTES):
                        pass
        await self._shut()

    async def _hear_out(self) -> None:
        """Let a peer that is still sending come to an end: our own might reach it before it reads the close frame."""
        while True:
            with trio.move_on_after(_SILENCE_SECONDS) as listening:
                if not await self.transport.receive_some(_MIN_READ_BYTES):
                    return
            if listening.cancelled_caught:
                return

    async def _shut(self) -> None:
        self.writer.fail(trio.ClosedResourceError("the connection is closed"))
        self.pings.close()
        self._websocket = None  # it refers to this as its stream; without the cycle all goes as soon as it can
        try:
            await self.transport.aclose()
        finally:
            self.finished.set()
            self._handshaking.cancel()
