"""The data plane: one open connection, in either role.

    transport -> decoder -> delivery -> the channel of messages          `read`, in one task
    transport <- writer, with its encoder <- messages, pings             in each task that sends
                                          <- pongs, pings of keepalive   in the task that reads
                                          <- the close frame

One task reads. It is the role's (a client's or a server's), and takes three steps:

1. It calls `read`, which returns once the connection has ended.
2. It answers the peer's close frame, or sends the one that fails the connection, unless we have sent one before.
3. It calls `finish`, which closes the transport.

In a client, trio-websocket's reader task takes them, and trio-websocket makes the close frames: see
``client/handshakes.py``. In a server, `run` takes all three.

The decoder does not call the delivery. They share one deque, `Decoder.messages`: the decoder appends messages, and the
delivery takes them.

While the channel of messages is full, reading goes on a bounded way ahead: see `delivery`. Beyond it nothing is read,
and so pongs cannot come. A consumer that then waits for one would wait for ever, as it is that consumer who would have
to receive. So where nothing is received for a while, the channels of pings that somebody waits for are closed.

Pings that have been read, of many the latest, are answered before the messages read with them are delivered, so that
nothing the consumer sends in reply to those messages overtakes the pongs. Nothing is answered once the connection is
being closed.

A message above the read limit is refused, unless the application may still come to take it piece by piece: see
`holding`. Meanwhile the decoder holds it, and nothing is read.

A write that breaks ends the connection, even while nothing is read: `read` then looks through what has arrived by now,
which may have a close frame that says why, and no longer waits for more.

Which states a connection goes through is in `state`.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Protocol, TypeAlias
from weakref import WeakSet

import trio
from trio.lowlevel import enable_ki_protection

from trio_csp_websocket.connection.delivery import READ_AHEAD_BYTES, Delivery
from trio_csp_websocket.connection.ending import (
    Ending,
    closed_by_peer,
    dropped,
    failed_by_us,
    lost,
    refused,
    stalled,
    write_timed_out,
)
from trio_csp_websocket.connection.holding import Hold
from trio_csp_websocket.connection.liveness import Liveness
from trio_csp_websocket.connection.pings import Pings
from trio_csp_websocket.connection.state import MOVES, State
from trio_csp_websocket.connection.timers import Timers
from trio_csp_websocket.connection.writer import Writer, WriteTimeoutError
from trio_csp_websocket.events import Events
from trio_csp_websocket.protocol.close import close_payload, parse_close
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.frames import CLOSE, PING, PONG

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_csp_websocket.connection.incoming import Incoming
    from trio_csp_websocket.connection.settings import Settings
    from trio_csp_websocket.protocol.decoder import Decoder
    from trio_csp_websocket.protocol.encoder import Encoder
    from trio_csp_websocket.transport.base import Transport

    SendClose: TypeAlias = Callable[[int, str], Awaitable[None]]

_events = Events("csp.websocket")

# The most that is read into a block made for it. Larger blocks are dear: see `trio_csp_websocket.protocol.pieces`. Of a
# large message what is missing is read to where it belongs.
READ_BYTES = 120 * 1024
"""How much is read at a time, of what is not read to where it belongs."""

# Where nothing more is read: after this long in which nothing was received, no pong is waited for.
_PATIENCE_SECONDS = 1.0

# When we have failed the connection: a peer from which nothing arrives for this long has stopped sending.
_SILENCE_SECONDS = 0.05


class Follower(Protocol):
    """Who is told that a connection has ended. Connections do not keep their followers."""

    def ended(self, connection: Connection) -> None: ...


class Connection:
    """One open WebSocket connection.

    Args:
        transport: a stream to the peer, which the connection owns from now on.
        settings: limits and timeouts.
        nursery: where its tasks run. After cancelling it, call `abort`.
        decoder: parses the peer's frames.
        encoder: makes our frames.
        timers: those that it shares with others; None if it has its own.
    """

    __slots__ = (
        "__weakref__",
        "_close_payload",
        "_close_timeout_seconds",
        "_ended",
        "_liveness",
        "_nursery",
        "_reading",
        "_sending_close",
        "_write_error",
        "closing",
        "decoder",
        "delivery",
        "ending",
        "finished",
        "followers",
        "in_use",
        "on_finished",
        "pings",
        "send_close",
        "state",
        "transport",
        "writer",
    )

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        nursery: trio.Nursery,
        *,
        decoder: Decoder,
        encoder: Encoder,
        timers: Timers | None = None,
    ) -> None:
        self.transport: Transport = transport
        self.decoder: Decoder = decoder
        decoder.holds = True
        self.writer: Writer = Writer(
            transport,
            nursery,
            encoder,
            settings.write_timeout_seconds,
            timeout_of_progress=settings.write_timeout_of_progress,
        )
        self.writer.on_broken = self._write_broke
        self.delivery: Delivery = Delivery(decoder, settings, nursery)
        self.pings: Pings = Pings()
        self.state: State = State.OPEN
        self.closing: bool = False
        """Whether we closed it, or gave it up, while it was open."""
        self.ending: Ending | None = None
        """How it ended; None while it has not."""
        self.followers: WeakSet[Follower] | None = None
        """Who is told that it has ended, if anybody is."""
        self.in_use: bool = False
        """Whether the application has it, so that it can receive."""
        self.on_finished: Callable[[], None] | None = None
        """Called when `finished` is set."""
        self.finished: trio.Event = trio.Event()
        """Set when the transport is closed."""
        self.send_close: SendClose | None = None
        """The role's own way to send a close frame with a code and a reason, if it has one: it makes the frame, calls
        `write_close` with it, and may wait for the peer's. None if the frame is to be made here."""
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
                timers=timers or Timers(nursery),
                stop_waiting=self._stop_reading,
            )
        # What `read` will return.
        self._close_payload: bytes | None = None
        # Around all the reading and waiting of `read`, while it does. Cancelled when a write has broken.
        self._reading: trio.CancelScope | None = None
        # What broke it.
        self._write_error: Exception | None = None
        # Set with `ending`; None while no task waits for that.
        self._ended: trio.Event | None = None
        # Around the sending of our close frame. Cancelled when there is nothing left to wait for.
        self._sending_close = trio.CancelScope()

    def _move(self, state: State) -> None:
        assert state in MOVES[self.state], f"{self.state} -> {state}"
        self.state = state

    # What the role's task calls --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until the connection has ended, answer the peer's close frame or fail it, and close the transport."""
        payload = await self.read()
        if payload is not None and not self.closing:
            await self.write_close(self.writer.encoder.encode(CLOSE, payload))
        await self.finish()

    @enable_ki_protection
    async def read(self) -> bytes | None:
        """Read until the connection has ended, and deliver the messages that come.

        Returns the payload of the peer's close frame, which is also that of the answer to it; or of the close frame
        that fails the connection. None if the connection ended without either, so that there is none to send.
        """
        try:
            stopped = True
            while stopped and self._write_error is None:
                with trio.CancelScope() as self._reading:
                    if self._liveness is not None and self._liveness.stalled is not None:
                        await self._read_once_more(self._liveness, self._liveness.stalled)
                    await self._read_on()
                stopped = self._reading.cancelled_caught
        finally:
            self._reading = None
            if self._liveness is not None:
                self._liveness.end()
        if self._write_error is not None and self.ending is None:
            await self._look_through(self._write_error)
            await self._read_on()  # what is parsed only as messages are received
        payload, self._close_payload = self._close_payload, None
        return payload

    async def _read_on(self) -> None:
        # A paused decoder holds messages that came before the end.
        while self._close_payload is None and (self.ending is None or self.decoder.paused):
            waited = self.delivery.full
            if waited:
                await self._wait_for_room()
            if self.decoder.paused:
                if self.decoder.held is not None:
                    await self._wait_for_room()
                await trio.lowlevel.checkpoint()
                self.feed(b"")
                self._end_delivery()
            elif self.ending is None:
                await self._read_block(visited=waited)

    @enable_ki_protection
    async def finish(self) -> None:
        """Close the transport in such a way that our close frame arrives; wait no longer than the close timeout.

        To close a socket with unread data resets the connection, and the reset could overtake the frame. So this ends
        our direction only, and discards what arrives until the peer ends its own.
        """
        if self.state is State.GIVEN_UP:
            await self.finished.wait()  # the task in `give_up` closes the transport, after its last frame
            return
        with trio.move_on_after(self._close_timeout_seconds):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                if self.state is not State.LOST:
                    await self.writer.flush()
                    if self.state is State.FAILED:
                        await self._wait_for_silence()
                    await self.transport.send_eof()
                    while await self.transport.receive_some(READ_BYTES):
                        pass
        await self._close_transport()

    async def write_close(self, frame: bytes) -> None:
        """Write a close frame of ours, or have it written, without waiting for the network."""
        if self.state is State.GIVEN_UP:
            await self.writer.send_last(frame)
            self._sending_close.cancel()
        else:
            self.writer.send_close(frame)

    # Ways to end it --------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def close(self, code: int, reason: str) -> None:
        """Close the connection: the closing handshake, then the transport, all within the close timeout.

        Messages not delivered yet are discarded. If the connection is closing already, or has ended, this only waits
        for the transport to be closed. If cancelled, the transport is closed at once.
        """
        if trio.current_effective_deadline() == -math.inf:
            await self.give_up(code, reason, closing=True)  # raises Cancelled
        try:
            with trio.move_on_after(self._close_timeout_seconds):
                self._stop_delivering()
                if self.state is State.OPEN:
                    self._move(State.CLOSING)
                    await self._send_close_frame(code, reason)
                await self.finished.wait()
        finally:
            if not self.finished.is_set():
                await self.abort("it was closed, and the peer did not answer in time")

    @enable_ki_protection
    async def give_up(self, code: int, reason: str = "", *, closing: bool = False) -> None:
        """Close the transport at once, even when cancelled; before that, try to send a close frame without waiting.

        Args:
            code: the code for the close frame.
            reason: the reason for the close frame.
            closing: whether the user called `close`, so that the ending has no error.

        Raises:
            trio.Cancelled: the caller is cancelled; the connection is finished nevertheless.
        """
        self._stop_delivering()
        await self._leave(code, reason, lost("its block was cancelled", closing=closing or self.closing))
        await trio.lowlevel.checkpoint()

    @enable_ki_protection
    async def drop(self, how: str, code: int = CloseCode.GOING_AWAY) -> None:
        """Close the transport at once; before that, try to send a close frame without waiting.

        What was received is still delivered, unlike after `give_up`. If the connection has ended, its ending stays.

        Args:
            how: why it was dropped, for the error of its ending.
            code: the code for the close frame.
        """
        await self._leave(code, "", dropped(how, closing=self.closing))

    def follow(self, follower: Follower) -> None:
        """Have somebody told when it ends."""
        if self.followers is None:
            self.followers = WeakSet()
        self.followers.add(follower)

    def unfollow(self, follower: Follower) -> None:
        """Have somebody told no more who was to be told."""
        assert self.followers is not None
        self.followers.discard(follower)
        if not self.followers:
            self.followers = None

    def close_soon(self, code: int, reason: str) -> None:
        """Have it closed by a task of its own. Nothing more is sent from now on, also until that task runs."""
        self.writer.refuse()
        self._nursery.start_soon(self.close, code, reason, name="csp.websocket close")

    async def _leave(self, code: int, reason: str, ending: Ending) -> None:
        if self.state is State.GIVEN_UP:
            with trio.CancelScope(shield=True):
                await self.finished.wait()  # another task is here, and does not wait for the network
        elif self.state is not State.FINISHED:
            was_open = self.state is State.OPEN
            self._move(State.GIVEN_UP)
            self._end(ending)
            if was_open:
                self._sending_close.shield = True
                await self._send_close_frame(code, reason)
            self._lose("it was given up")
            await self._close_transport()

    @enable_ki_protection
    def refuse(self, how: str, *, by_us: bool) -> None:
        """End it before it was opened; nothing is written or read any more. `abort` closes the transport.

        Args:
            how: why it will not be opened.
            by_us: whether the user refused it, so that the ending has no error.
        """
        self.closing = by_us
        self._stop_delivering()
        self._break(how, refused(how, closing=by_us))

    @enable_ki_protection
    async def abort(self, how: str) -> None:
        """Close the transport at once, even when cancelled. No task waits on this connection afterwards.

        Args:
            how: how the connection was lost, if it had not ended before.
        """
        self._stop_delivering()
        self._lose(how)
        await self._close_transport()

    @enable_ki_protection
    async def end_if_broken(self, error: Exception) -> None:
        """See to it that the connection has ended if ``error``, raised by `Writer.send`, says that it cannot go on.

        That is, part of a frame may be on the wire, or the transport broke. Then the task that reads ends it: this
        waits for that.
        """
        if isinstance(error, WriteTimeoutError):
            if error.started:
                how = f"a frame was {error}"
                self._break(how, write_timed_out(how, closing=self.closing))
                await self._close_transport()
        elif self.write_broke:
            await self.wait_ended()

    @property
    def write_broke(self) -> bool:
        """Whether it was a write that found the transport broken."""
        return self._write_error is not None

    async def wait_ended(self) -> None:
        """Wait until `ending` is set."""
        while self.ending is None:
            if self._ended is None:
                self._ended = trio.Event()
            await self._ended.wait()

    def ping_sent(self) -> None:
        """To be called when a ping of the user's was written: nothing may be read at the moment."""
        self.delivery.wake()

    def arm(self, incoming: Incoming) -> None:
        """Have the next message go to ``incoming``; or the one that is being received."""
        self.decoder.arm(incoming)
        self.delivery.wake()

    def leave(self, incoming: Incoming) -> None:
        """Drop what still comes of a message that went to ``incoming``. If none has begun, none will."""
        self.decoder.disarm(incoming)
        incoming.drop()
        self.delivery.stream = None
        self.delivery.wake()

    async def _send_close_frame(self, code: int, reason: str) -> None:
        """Send our close frame, by `send_close` if the role has set it."""
        self.closing = True
        # Now, and not only with the frame, which the role's own way may make a little later: if a message in pieces is
        # cut meanwhile, those behind it must not follow.
        self.writer.refuse()
        with self._sending_close:
            if self.send_close is not None:
                await self.send_close(code, reason)
            else:
                await self.write_close(self.writer.encoder.encode(CLOSE, close_payload(code, reason)))

    # Reading ---------------------------------------------------------------------------------------------------------

    async def _wait_for_room(self) -> None:
        """Wait until more may be read ahead, and a message that is held is taken or refused.

        Meanwhile keepalive goes on pinging, so that nothing on the way to the peer takes the connection for dead.
        """
        keepalive = math.inf if self._liveness is None else self._liveness.keepalive_seconds
        now = trio.current_time()
        ping_at, unread, unread_since = now + keepalive, -1, now
        hold = Hold(self.decoder, self.delivery, in_use=self.in_use)
        while (look_at := hold.look(now)) < math.inf or self._rests:
            if self.delivery.unread != unread:
                unread, unread_since = self.delivery.unread, now
            patience = _PATIENCE_SECONDS if self.pings.awaitable else math.inf
            with trio.move_on_at(min(ping_at, unread_since + patience, look_at)):
                await self.delivery.progress()
            now = trio.current_time()
            if now >= ping_at:
                self.writer.send_ping(self.pings.new_payload())  # not noted: its pong cannot be read in time
                ping_at = now + keepalive
            if now >= unread_since + patience and self.delivery.unread == unread:
                self.pings.give_up_awaited()
                unread_since = now

    @property
    def _rests(self) -> bool:
        """Whether nothing more is to be read or parsed for now."""
        return (self.delivery.full or self.decoder.held is not None) and (self.ending is None or self.decoder.paused)

    def _write_broke(self, error: Exception) -> None:
        """Called by the writer when the transport breaks."""
        if self.ending is None:
            self._write_error = error
            self._stop_reading()

    async def _look_through(self, error: Exception) -> None:
        """Read what has arrived by now, as far as may be read ahead; then the connection is lost, unless it has ended.

        Args:
            error: what broke it.
        """
        left = READ_AHEAD_BYTES
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while not self._rests and self.ending is None and left > 0:
                block = b"" if self.decoder.paused else await self.transport.receive_now(READ_BYTES)
                if not block and not self.decoder.paused:
                    break
                self.feed(block or b"")
                left -= len(block or b"")
        if self.ending is None:
            unread = self.delivery.unread
            why = (
                f"; what the peer sent behind the messages that wait ({unread}) was not read"
                if unread and self._rests
                else ""
            )
            self._lose(f"{error}{why}")

    def _stop_reading(self) -> None:
        """End the read that is under way; `read` goes on with what is to be done then."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read_once_more(self, liveness: Liveness, reason: str) -> None:
        """Find that the peer has stalled, unless something has arrived by now.

        The socket may hold data that we were too busy to read, and the peer may only be able to send more once we have
        read that.
        """
        liveness.end_wait()
        if self.state is not State.OPEN:
            return  # only the close timeout counts
        try:
            block = None if liveness.final else await self.transport.receive_now(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose(str(error) or "the connection broke")
            return
        if block is None:
            self._fail(CloseCode.INTERNAL_ERROR, reason, stalled(reason))
        else:
            self._take(block)

    async def _read_block(self, *, visited: bool) -> None:
        """Read a block and parse it, or note the end.

        Args:
            visited: whether the scheduler was just visited, so that what has arrived may be read without a visit.
        """
        # When we are closing, only the close timeout counts.
        liveness = None if self.closing else self._liveness
        block: bytes | int | None = None
        try:
            if visited and self.transport.synchronous:
                block = await self.transport.receive_now(READ_BYTES)
            if block is None:
                if liveness is not None:
                    liveness.begin_wait()
                if self.decoder.missing > READ_BYTES:
                    block = await self.transport.receive_into(self.decoder.room, READ_BYTES)
                else:
                    block = await self.transport.receive_some(READ_BYTES)
                if liveness is not None:
                    liveness.end_wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose(str(error) or "the connection broke")
            return
        if isinstance(block, int):
            with self.decoder.filled(block) as view:
                self._take(view)
        else:
            self._take(block)

    def _take(self, block: bytes | memoryview) -> None:
        """Parse a block that was read, or note the end."""
        if block:
            self.feed(block)
        else:
            self._lose("the peer closed it without a close frame")

    def feed(self, block: bytes | memoryview) -> None:
        """Parse a block, act on its control frames, and deliver the messages as there is room."""
        received = self.decoder.payload_bytes_received
        controls = self.decoder.feed(block)
        # Before messages are delivered: what the consumer sends must not overtake the pongs.
        if controls and self.state is State.OPEN:
            self.writer.send_pongs([payload for opcode, payload in controls if opcode == PING])
        payload_bytes = self.decoder.payload_bytes_received - received
        if payload_bytes > self.delivery.unmeasured_bytes:
            self.delivery.measure()
        self.delivery.deliver_now()
        if self.decoder.messages:
            self.delivery.keep_rest(max(len(block), payload_bytes))
        for opcode, payload in controls:
            if opcode == PONG:
                if self.pings.answered(payload):
                    _events.tell("connection.round_trip", None, "", about=self, seconds=self.pings.latency)
            elif opcode == CLOSE and self.ending is None:
                self._peer_closed(payload)
        if self.decoder.violation is not None and self.ending is None:
            violation = self.decoder.violation
            self._fail(violation.code, violation.reason, failed_by_us(violation, closing=self.closing))

    def _peer_closed(self, payload: bytes) -> None:
        code, reason = parse_close(payload)
        self._close_payload = payload
        self._move(State.CLOSED)
        self._end(closed_by_peer(code, reason, closing=self.closing))

    def _stop_delivering(self) -> None:
        """Discard messages from now on; a reader that waits for room goes on."""
        self.delivery.stop()
        self._end_delivery()

    # Ending ----------------------------------------------------------------------------------------------------------

    def _fail(self, code: int, reason: str, ending: Ending) -> None:
        """Fail the WebSocket connection (RFC 6455, section 7.1.7), with this code and reason in our close frame."""
        self._close_payload = close_payload(code, reason)
        self._move(State.FAILED)
        self._end(ending)

    def _lose(self, how: str) -> None:
        self._break(how, lost(how, closing=self.closing))

    def _break(self, how: str, ending: Ending) -> None:
        """End the connection where nothing more is to be written."""
        if State.LOST in MOVES[self.state]:
            self._move(State.LOST)
        self.writer.fail(trio.BrokenResourceError(how))
        self._end(ending)

    def _end(self, ending: Ending) -> None:
        """Set `ending`, unless it is set, and close the channel of messages after what was received."""
        if self.ending is None:
            self.ending = ending
            if self.decoder.held is not None:
                self.decoder.refuse()  # the rest of it will not come
            for follower in list(self.followers or ()):
                follower.ended(self)
            # From now on sends fail, even while our close frame waits to be written: the peer does not read what comes
            # ahead of that frame, and the sender would not learn of it.
            self.writer.refuse()
            self._end_delivery()
            self.delivery.wake()
            if self._ended is not None:
                self._ended.set()

    def _end_delivery(self) -> None:
        """Close the channel after what was received, if the connection has ended and all is parsed or unwanted."""
        if self.ending is not None and (not self.decoder.paused or self.delivery.stopped):
            self.delivery.end(self.ending)

    async def _wait_for_silence(self) -> None:
        """Read until the peer stops sending: before that, it might see the end of our direction and miss the frame."""
        while True:
            with trio.move_on_after(_SILENCE_SECONDS) as listening:
                if not await self.transport.receive_some(READ_BYTES):
                    return
            if listening.cancelled_caught:
                return

    async def _close_transport(self) -> None:
        if self.state is not State.FINISHED:
            self._move(State.FINISHED)
        self.writer.fail(trio.ClosedResourceError("the connection is closed"))
        self.pings.close(self.ending)
        self.send_close = None  # breaks a reference cycle through trio-websocket
        try:
            await self.transport.aclose()
        finally:
            self.finished.set()
            self._sending_close.cancel()
            on_finished, self.on_finished = self.on_finished, None
            if on_finished is not None:
                on_finished()
