"""The data plane: one open connection, at either end of it.

    transport -> decoder -> delivery -> the channel of messages       `read`, in a task of the role's
    transport <- writer <- encoder <- `writer.send`                   in the tasks of who sends
                 writer <- pongs, pings of keepalive, the close frame

One task reads. The role brings it: it calls `read`, which returns once the connection has ended, then has the peer's
close frame answered, if there is one, and calls `finish`, which closes the transport. A server does that in a task of
its own and writes its close frames itself (`run`); a client lets trio-websocket do both, see ``client/handshakes.py``.

Reading stops while the channel of messages is full, and with it the answering of pings that have not been read yet;
pings that have been read are answered ahead of what the messages beside them make the consumer send.

States
------
A connection moves between its states along these arrows only:

    OPEN -- `close` --> CLOSING
      |                    |
      +---------+----------+
                |
                +-- the peer's close frame has come ---------------> CLOSED --+
                +-- the peer broke the protocol, or stalled -------> FAILED --+
                |                                                             |
                +-- nothing more can be written, `abort` --> LOST <-----------+
                |                                             |               |
                +-- `give_up` -----------> GIVEN_UP <---------+---------------+
                                               |              |               |
                                               +--------------+---------------+--> FINISHED

How it ended is written down once, in `ending`, at the first move to CLOSED, FAILED, LOST or GIVEN_UP. The channel of
messages closes when all that came before that is delivered.
"""

from __future__ import annotations

import contextlib
import math
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias

import trio
from trio.lowlevel import enable_ki_protection

from trio_csp_websocket.connection.delivery import Delivery
from trio_csp_websocket.connection.ending import Ending, closed_by_peer, failed_by_us, lost, stalled, write_timed_out
from trio_csp_websocket.connection.liveness import Liveness, PeerStalledError
from trio_csp_websocket.connection.pings import Pings
from trio_csp_websocket.connection.writer import Writer, WriteTimeoutError
from trio_csp_websocket.protocol.close import close_payload, parse_close
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.frames import CLOSE, PING, PONG

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_csp_websocket.connection.settings import Settings
    from trio_csp_websocket.protocol.decoder import Decoder
    from trio_csp_websocket.protocol.encoder import Encoder
    from trio_csp_websocket.transport.base import Transport

    SendClose: TypeAlias = Callable[[int, str], Awaitable[None]]

_MIN_READ_BYTES = 64 * 1024
_MAX_READ_BYTES = 1024 * 1024

# After a verdict, a peer from which nothing comes for so long is taken to have nothing on its way.
_SILENCE_SECONDS = 0.05


class State(Enum):
    """What a connection is doing."""

    OPEN = auto()
    """Messages go both ways."""
    CLOSING = auto()
    """Our close frame goes out; the peer's is awaited."""
    CLOSED = auto()
    """The peer's close frame has come; it is answered, unless it is the answer to ours."""
    FAILED = auto()
    """A close frame tells the peer what it did wrong."""
    LOST = auto()
    """Nothing more is written or read."""
    GIVEN_UP = auto()
    """Whoever gave it up writes one last frame, if that needs no waiting, and closes the transport."""
    FINISHED = auto()
    """The transport is closed."""


_MOVES = {
    State.OPEN: {State.CLOSING, State.CLOSED, State.FAILED, State.LOST, State.GIVEN_UP},
    State.CLOSING: {State.CLOSED, State.FAILED, State.LOST, State.GIVEN_UP},
    State.CLOSED: {State.LOST, State.GIVEN_UP, State.FINISHED},
    State.FAILED: {State.LOST, State.GIVEN_UP, State.FINISHED},
    State.LOST: {State.GIVEN_UP, State.FINISHED},
    State.GIVEN_UP: {State.FINISHED},
    State.FINISHED: set[State](),
}


class Connection:
    """One open WebSocket connection.

    Args:
        transport: a stream to the peer, which the connection owns from now on.
        settings: limits and timeouts.
        nursery: where its tasks run; cancelling it must be followed by `abort`.
        decoder: of the frames that the peer sends.
        encoder: of ours.
    """

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        nursery: trio.Nursery,
        *,
        decoder: Decoder,
        encoder: Encoder,
    ) -> None:
        self.transport = transport
        self.decoder = decoder
        self.writer = Writer(transport, nursery, encoder, settings.write_timeout_seconds)
        self.delivery = Delivery(decoder.messages, settings.channel_capacity)
        self.pings = Pings()
        self.state = State.OPEN
        self.closing = False
        """Whether it was closed, or given up, from here before it had ended otherwise."""
        self.ending: Ending | None = None
        self.finished = trio.Event()
        """Set when the transport is closed."""
        self.send_close: SendClose | None = None
        """Where a role has its own way to make a close frame of code and reason: makes one, gives it to `write_close`,
        and may wait for the peer's. By default the frame is made here."""
        self._nursery = nursery
        self._close_timeout_seconds = settings.close_timeout_seconds
        self._liveness: Liveness | None = None
        if min(settings.read_timeout_seconds, settings.keepalive_seconds) < math.inf:
            self._liveness = Liveness(
                transport,
                decoder,
                self.delivery,
                self.writer,
                self.pings,
                read_timeout_seconds=settings.read_timeout_seconds,
                keepalive_seconds=settings.keepalive_seconds,
            )
        # The payload of the peer's close frame, or of the one with our verdict, until `read` returns it.
        self._close_payload: bytes | None = None
        # Around the sending of our close frame. Cancelled once nothing is to be waited for.
        self._handshaking = trio.CancelScope()

    def _move(self, state: State) -> None:
        assert state in _MOVES[self.state], f"{self.state} -> {state}"
        self.state = state

    # What a role's task calls ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read, answer the peer's close frame, and close the transport."""
        payload = await self.read()
        if payload is not None and not self.closing:
            await self.write_close(self.writer.encoder.encode(CLOSE, payload))
        await self.finish()

    @enable_ki_protection
    async def read(self) -> bytes | None:
        """Read until the connection has ended, and deliver what comes.

        Returns the payload of the close frame to answer: the peer's, or one with our verdict on it. None if there is no
        way to answer.
        """
        while self._close_payload is None and (self.ending is None or self.decoder.paused):
            waited = await self.delivery.deliver()
            if self.decoder.paused:
                await trio.lowlevel.checkpoint()
                self.take_in(b"")
                self._end_delivery()
            elif self.ending is None:
                await self._read_block(visited=waited)
        payload, self._close_payload = self._close_payload, None
        return payload

    @enable_ki_protection
    async def finish(self) -> None:
        """Close the transport so that the close frame arrives: a reset, which unread data causes, could overtake it."""
        if self.state is State.GIVEN_UP:
            await self.finished.wait()  # whoever does it closes the transport, after its last frame
            return
        with trio.move_on_after(self._close_timeout_seconds):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                if self.state is not State.LOST:
                    await self.writer.flush()
                    if self.state is State.FAILED:
                        await self._hear_out()
                    await self.transport.send_eof()
                    while await self.transport.receive_some(_MIN_READ_BYTES):
                        pass
        await self._shut()

    async def write_close(self, frame: bytes) -> None:
        """Write a close frame of ours, or have it written; never waits for the network."""
        if self.state is State.GIVEN_UP:
            await self.writer.send_last(frame)
            self._handshaking.cancel()
        else:
            self.writer.send_close(frame)

    # Ways to end it --------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def close(self, code: int, reason: str) -> None:
        """Close the connection: the closing handshake, then the transport, all within the close timeout.

        If cancelled, the transport is closed at once.
        """
        if trio.current_effective_deadline() == -math.inf:
            await self.give_up(code, reason, asked=True)  # raises Cancelled
        try:
            with trio.move_on_after(self._close_timeout_seconds):
                self._stop_delivering()
                if self.state is State.OPEN:
                    self._move(State.CLOSING)
                    await self._shake_hands(code, reason)
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
        self._stop_delivering()
        if self.state is State.GIVEN_UP:
            with trio.CancelScope(shield=True):
                await self.finished.wait()  # another task is at it, and does not wait for the network
        elif self.state is not State.FINISHED:
            was_open = self.state is State.OPEN
            ending = lost("its block was cancelled", asked=asked or self.closing)
            self._move(State.GIVEN_UP)
            self._end(ending)
            if was_open:
                self._handshaking.shield = True
                await self._shake_hands(code, reason)
            await self.abort("it was given up")
        await trio.lowlevel.checkpoint()

    @enable_ki_protection
    async def abort(self, how: str) -> None:
        """Close the transport at once, even when cancelled; nothing waits on this connection afterwards."""
        self._stop_delivering()
        self._lose(how)
        await self._shut()

    @enable_ki_protection
    async def send_failed(self, error: Exception) -> None:
        """End the connection, if what `Writer.send` raised says that part of a frame may be on the wire."""
        if isinstance(error, WriteTimeoutError) and error.begun:
            how = f"a frame was {error}"
            self._break(how, write_timed_out(how, asked=self.closing))
            await self._shut()

    async def _shake_hands(self, code: int, reason: str) -> None:
        """Send our close frame, through what the role brings for it."""
        self.closing = True
        with self._handshaking:
            if self.send_close is not None:
                await self.send_close(code, reason)
            else:
                await self.write_close(self.writer.encoder.encode(CLOSE, close_payload(code, reason)))

    # Reading ---------------------------------------------------------------------------------------------------------

    async def _read_block(self, *, visited: bool) -> None:
        """Read a block and take it in, or note the end; if the scheduler was just visited, what has come at once."""
        size = min(max(self.decoder.missing, _MIN_READ_BYTES), _MAX_READ_BYTES)
        # Once our close is sent, its own timeout is what counts.
        source = self.transport if self._liveness is None or self.closing else self._liveness
        try:
            block = None
            if visited and source is self.transport and self.transport.synchronous:
                block = await self.transport.receive_now(size)
            if block is None:
                block = await source.receive_some(size)
        except PeerStalledError as error:
            if self.state is State.OPEN:
                self._fail(CloseCode.INTERNAL_ERROR, str(error), stalled(str(error)))
            return
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose(str(error) or "the connection broke")
            return
        if block:
            self.take_in(block)
        else:
            self._lose("the peer closed it without a close frame")

    def take_in(self, block: bytes) -> None:
        """Parse a block; act on control frames, and deliver what there is room for."""
        controls = self.decoder.feed(block)
        # Pings are answered first: the consumer could otherwise send ahead of the pong.
        if controls and self.state is State.OPEN:
            self.writer.send_pongs([payload for opcode, payload in controls if opcode == PING])
        self.delivery.deliver_now()
        for opcode, payload in controls:
            if opcode == PONG:
                self.pings.answered(payload)
            elif opcode == CLOSE and self.ending is None:
                self._take_in_close(payload)
        if self.decoder.violation is not None and self.ending is None:
            violation = self.decoder.violation
            self._fail(violation.code, violation.reason, failed_by_us(violation, asked=self.closing))

    def _take_in_close(self, payload: bytes) -> None:
        code, reason = parse_close(payload)
        self._close_payload = payload
        self._move(State.CLOSED)
        self._end(closed_by_peer(code, reason, asked=self.closing))

    def _stop_delivering(self) -> None:
        """Data is not wanted any more; a reader that waits for the consumer goes on."""
        self.delivery.stop()
        self._end_delivery()

    # Ending ----------------------------------------------------------------------------------------------------------

    def _fail(self, code: int, reason: str, ending: Ending) -> None:
        """End the connection by a verdict of ours."""
        self._close_payload = close_payload(code, reason)
        self._move(State.FAILED)
        self._end(ending)

    def _lose(self, how: str) -> None:
        self._break(how, lost(how, asked=self.closing))

    def _break(self, how: str, ending: Ending) -> None:
        """End the connection where nothing more can be sent."""
        if State.LOST in _MOVES[self.state]:
            self._move(State.LOST)
        self.writer.fail(trio.BrokenResourceError(how))
        self._end(ending)

    def _end(self, ending: Ending) -> None:
        """Write down how the connection ended, and close the channel of messages after what was received."""
        if self.ending is None:
            self.ending = ending
            # The close frame may not be out yet, and what is sent ahead of it would be lost without a word.
            self.writer.refuse()
            self._end_delivery()

    def _end_delivery(self) -> None:
        """Close the channel of messages after what was received, once that is parsed or unwanted."""
        if self.ending is not None and (not self.decoder.paused or self.delivery.stopped):
            self.delivery.end(self.ending.error, self._nursery)

    async def _hear_out(self) -> None:
        """Let a peer that is still sending come to an end: our own might reach it before it reads the close frame."""
        while True:
            with trio.move_on_after(_SILENCE_SECONDS) as listening:
                if not await self.transport.receive_some(_MIN_READ_BYTES):
                    return
            if listening.cancelled_caught:
                return

    async def _shut(self) -> None:
        if self.state is not State.FINISHED:
            self._move(State.FINISHED)
        self.writer.fail(trio.ClosedResourceError("the connection is closed"))
        self.pings.close()
        self.send_close = None  # trio-websocket refers to this; without the cycle all goes as soon as it can
        try:
            await self.transport.aclose()
        finally:
            self.finished.set()
            self._handshaking.cancel()
