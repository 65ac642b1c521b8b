"""The one place where a connection's frames are written, so that no frame is cut in two, and messages keep their order.

A send writes its frame to the socket at once, if no frame is ahead of it and the system takes it. Otherwise the frame
is queued, and a task writes it; the task exists while there is something to write. A frame has *started* once it is
encoded: from then on it is written to its end, even if the task that sent it is cancelled. A send that is cancelled
before that leaves the queue, and nothing of it is sent.

Pongs, the pings of keepalive, and answers to a close frame come from the task that reads the connection. It must never
wait to hand one over: in the middle of a large send to a peer that echoes, that task must go on reading, or the peer
stops reading too, and the send never ends. They are written between data frames, as is
our own close frame; a user's ping is queued like a message. Of the pongs not written yet
only the latest few are kept (RFC 6455, section 5.5.3, would allow one), so a peer's pings cannot pile up.

A message in pieces has a *turn*: while it does, other messages wait behind it, and control frames go between its
frames (RFC 6455, section 5.4).

For what a hub posts nobody waits. So a task sees to it that the peer takes some of it in time; it exists while
something posted may wait.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from enum import Enum, auto
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import checkpoint_if_cancelled, enable_ki_protection

from csp import schedule_point_due
from trio_csp_websocket.connection.outbox import Posted
from trio_csp_websocket.connection.outgoing import Awaited, Several, Turn
from trio_csp_websocket.protocol.frames import PING, PONG
from trio_csp_websocket.protocol.large_frame import LARGE_BYTES, LargeFrame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_csp_websocket.connection.outbox import Outbox
    from trio_csp_websocket.connection.outgoing import Outgoing, Piece
    from trio_csp_websocket.protocol.encoder import Encoder
    from trio_csp_websocket.protocol.shared import SharedMessage
    from trio_csp_websocket.transport.base import Transport

MAX_WAITING_PONGS = 16
"""How many pongs may wait to be written; if there are more, the latest are written."""

# So many messages that are sent together count as one operation. A visit to the scheduler costs about as much.
_MESSAGES_OF_AN_OPERATION = 32

# Queued frames are written together until they reach this size.
_COALESCED_BYTES = 64 * 1024


class WriteTimeoutError(Exception):
    """A send took longer than its timeout. If it had ``started``, part of its frame may be on the wire.

    Args:
        started: whether it had.
        seconds: the timeout.
        of_progress: whether that is the limit for any byte, and not for a whole send. The peer takes nothing then, and
            whether the frame had started makes no difference.
    """

    def __init__(self, *, started: bool, seconds: float, of_progress: bool = False) -> None:
        within = f"within {seconds:g} s (write_timeout)"
        if of_progress:
            super().__init__(f"not written: the peer took nothing {within}")
        else:
            super().__init__(f"not {'written' if started else 'begun'} {within}")
        self.started: bool = started or of_progress


class Posting(Enum):
    """What became of a message that was posted."""

    WRITTEN = auto()
    """The system has taken all of it."""
    QUEUED = auto()
    """It will be written, or the rest of it."""
    FULL = auto()
    """There was no room in the outbox."""
    BROKEN = auto()
    """Writing it found the transport broken."""
    REFUSED = auto()
    """The connection has ended, or is being closed."""


class Writer:
    """Writes frames to a transport, in the order of the calls.

    Args:
        transport: the transport to write to.
        nursery: where a task writes what cannot be written at once.
        encoder: makes the frames.
        timeout_seconds: how long a `send` may take.
        timeout_of_progress: whether that is only how long it may take until the peer takes any byte.
    """

    __slots__ = (
        "_accepting",
        "_close_frame",
        "_close_started",
        "_failure",
        "_first",
        "_free",
        "_idle",
        "_in_flight",
        "_large",
        "_later",
        "_nursery",
        "_ping",
        "_pongs",
        "_queue",
        "_rest",
        "_task_exists",
        "_timeout_of_progress",
        "_timeout_seconds",
        "_transport",
        "_turn",
        "_watched",
        "_writing",
        "_writing_bytes",
        "encoder",
        "on_broken",
    )

    def __init__(
        self,
        transport: Transport,
        nursery: trio.Nursery,
        encoder: Encoder,
        timeout_seconds: float = math.inf,
        *,
        timeout_of_progress: bool = False,
    ) -> None:
        self.encoder: Encoder = encoder
        self.on_broken: Callable[[Exception], None] | None = None
        """Called once when a write finds the transport broken."""
        self._transport = transport
        transport.on_pending = self._ensure_task
        self._nursery = nursery
        self._timeout_seconds = timeout_seconds
        self._timeout_of_progress = timeout_of_progress
        # In the order of the calls; a dict, because any of them may be cancelled.
        self._queue: OrderedDict[Outgoing, None] = OrderedDict()
        # The message in pieces that has its turn, and the messages behind it.
        self._turn: Turn | None = None
        self._later: OrderedDict[Outgoing, None] | None = None
        # What comes before all frames, if it is not written yet.
        self._first: bytes | None = None
        # Encoded control frames that are not written yet: the ping of keepalive, pongs, the close frame.
        self._ping: bytes | None = None
        self._pongs: list[bytes] = []
        self._close_frame: bytes | None = None
        self._close_started = False
        # What a synchronous write left over, to be written before anything else.
        self._rest: memoryview | None = None
        # The large frame that this belongs to, or that the task is writing, if pieces of it are still to come.
        self._large: LargeFrame | None = None
        # The frames that the task is writing, or that `_rest` belongs to.
        self._in_flight: list[Outgoing] = []
        # Whether the task is inside a write.
        self._writing = False
        # How much it has begun to write, and how much was sent by then.
        self._writing_bytes = (0, 0)
        # Whether the task exists; it may not have run yet.
        self._task_exists = False
        # Whether a message may be written at once: there is no task, and no message in pieces has its turn.
        self._free = transport.synchronous
        # Whether the task exists that sees to what was posted.
        self._watched = False
        # Set when there is nothing left to write; None while no task waits for that.
        self._idle: trio.Event | None = None
        self._failure: Exception | None = None
        # Whether data frames and pings are still accepted.
        self._accepting = True
        if transport.pending:
            self._ensure_task()

    # Handing frames over ---------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def send(self, opcode: int, payload: bytes | bytearray | memoryview) -> None:
        """Write a data frame or a ping, waiting until it is written.

        If cancelled before the frame has started, nothing of it is sent; if later, all of it is.

        Raises:
            trio.BrokenResourceError: the connection broke before all of the frame was written.
            trio.ClosedResourceError: the connection is closed, has ended, or is being closed.
            WriteTimeoutError: it took longer than the timeout.
        """
        await checkpoint_if_cancelled()
        if not self._accepting:
            await self.refused()
        outgoing = self.begin(opcode, payload)
        if outgoing is not None:
            await self.wait_written(outgoing)
        elif schedule_point_due():
            await trio.lowlevel.cancel_shielded_checkpoint()

    def begin(self, opcode: int, payload: bytes | bytearray | memoryview) -> Awaited | None:
        """Write a frame, or as much of it as the system takes at once, or queue it; return what to wait for, if any.

        For `send` and those who do what it does with a call less: frames are `accepting`, and Ctrl-C must not come
        between this and `wait_written`.
        """
        if not self._free:
            outgoing = Awaited(opcode, bytes(payload))
            self._enqueue(outgoing)
            return outgoing
        if len(payload) < LARGE_BYTES:
            if self._write_now(self.encoder.encode(opcode, payload)):
                return None
        elif self._write_begun(self.encoder.begin(opcode, payload)):
            return None
        return self._left_over(Awaited(opcode, b"", started=True))

    def _left_over(self, outgoing: Awaited) -> Awaited:
        self._in_flight.append(outgoing)
        self._ensure_task()
        return outgoing

    @enable_ki_protection
    async def send_many(self, messages: Sequence[tuple[int, bytes]]) -> None:
        """Write messages in one go, as `send` does: all of them, or none."""
        await checkpoint_if_cancelled()
        if not self._accepting:
            await self.refused()
        several = Several(messages)
        if not self._free:
            self._enqueue(several)
        elif self._write_now(several.begin(self.encoder)):
            if schedule_point_due(1 + len(messages) // _MESSAGES_OF_AN_OPERATION):
                await trio.lowlevel.cancel_shielded_checkpoint()
            return
        else:
            self._left_over(several)
        await self.wait_written(several)

    async def refused(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()  # a loop that ignores the error must not starve the others
        raise trio.ClosedResourceError("the connection has ended, or is being closed")

    def _enqueue(self, outgoing: Outgoing) -> None:
        if self._turn is None or outgoing.opcode == PING:
            self._queue[outgoing] = None
            self._ensure_task()
        else:
            if self._later is None:
                self._later = OrderedDict()
            self._later[outgoing] = None

    @enable_ki_protection
    async def send_first(self, data: bytes, *, wait: bool = True) -> None:
        """Write what comes before all frames: the answer to a handshake.

        If the transport writes synchronously, this never waits: the task that writes sends what is left over. If
        cancelled, all of it is sent nevertheless. Raises what `send` does.

        Args:
            data: the answer.
            wait: whether to wait until it is written, where the transport does not write synchronously. If not, no
                other task runs.
        """
        if self._transport.synchronous and not self._task_exists:
            if not self._write_now(data):
                self._ensure_task()
            return
        self._first = data
        self._ensure_task()
        if wait and not self._transport.synchronous:
            outgoing = Awaited(0, b"", started=True)
            self._in_flight.append(outgoing)
            await self.wait_written(outgoing)

    async def wait_written(self, outgoing: Awaited) -> None:
        try:
            progress = True
            while progress and not outgoing.done.is_set():
                taken = self._transport.bytes_taken
                with trio.move_on_after(self._timeout_seconds):
                    await outgoing.done.wait()
                # What waits behind a message in pieces may wait for the user, and not for the peer.
                held = self._later is not None and outgoing in self._later
                progress = self._timeout_of_progress and (held or self._transport.bytes_taken != taken)
        finally:
            # Still queued if it timed out, was cancelled, or was interrupted by the keyboard.
            self._withdraw(outgoing)
        if not outgoing.done.is_set():
            raise WriteTimeoutError(
                started=outgoing.started, seconds=self._timeout_seconds, of_progress=self._timeout_of_progress
            )
        if outgoing.failure is not None:
            # A copy: the original must not collect the tracebacks of every send that failed.
            raise type(outgoing.failure)(*outgoing.failure.args)

    def _withdraw(self, outgoing: Outgoing) -> None:
        """Take a frame out of the queue, if it waits there."""
        self._queue.pop(outgoing, None)
        if self._later is not None:
            self._later.pop(outgoing, None)

    # A message in pieces ---------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def begin_pieces(self, turn: Turn) -> None:
        """Wait for the turn of a message in pieces. From then on no other message is sent.

        Raises what `send` does. Call `end_pieces` afterwards in any case.
        """
        await checkpoint_if_cancelled()
        if not self._accepting:
            await self.refused()
        if self._turn is None and not self._task_exists:
            self._turn = turn
            self._free = False
        else:
            self._enqueue(turn)
            await self.wait_written(turn)

    @enable_ki_protection
    async def send_piece(self, piece: Piece) -> None:
        """Write a frame of the message that has its turn, as `send` does."""
        await checkpoint_if_cancelled()
        if not self._accepting:
            await self.refused()
        if self._transport.synchronous and not self._task_exists:
            if self._write_now(piece.begin(self.encoder)):
                if schedule_point_due():
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return
            self._in_flight.append(piece)
        else:
            self._queue[piece] = None
        self._ensure_task()
        await self.wait_written(piece)

    @enable_ki_protection
    def end_pieces(self, turn: Turn) -> None:
        """End a turn, if it is that: all of the message is written, or nothing, or the connection has failed."""
        if self._turn is not turn:
            return
        self._turn = None
        self._free = self._transport.synchronous and not self._task_exists
        if self._later:
            self._queue.update(self._later)
            self._ensure_task()
        self._later = None

    def _give_turn(self, turn: Turn) -> None:
        """Let the messages behind a message in pieces wait."""
        if not self._accepting:
            turn.failed(trio.ClosedResourceError("the connection has ended, or is being closed"))
            return
        self._turn = turn
        turn.written()
        behind = [outgoing for outgoing in self._queue if outgoing.opcode != PING]
        for outgoing in behind:
            del self._queue[outgoing]
            self._enqueue(outgoing)

    def _refuse_later(self) -> None:
        """Give up what waits behind a message in pieces, the rest of which will not be written."""
        later, self._later = self._later, None
        for outgoing in later or ():
            outgoing.failed(trio.ClosedResourceError("the connection has ended, or is being closed"))

    # What a hub sends ------------------------------------------------------------------------------------------------

    def post(self, message: SharedMessage, outbox: Outbox) -> Posting:
        """Write or queue a message, waiting for nothing; not at all if it would have to wait and there is no room."""
        if not self._accepting:
            return Posting.REFUSED
        if self._free:
            try:
                if self._write_now(self.encoder.encode_shared(message)):
                    return Posting.WRITTEN
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return Posting.BROKEN
            self._ensure_task()
        elif outbox.has_room(message):
            self._enqueue(outbox.add(message))
        else:
            return Posting.FULL
        return Posting.QUEUED

    def watch(self, on_stalled: Callable[[WriteTimeoutError], Awaitable[None]]) -> None:
        """Have a task see to it that the peer takes some of what was posted in time, until nothing waits any more.

        Args:
            on_stalled: called if it does not.
        """
        if not self._watched and self._timeout_seconds < math.inf:
            self._watched = True
            self._nursery.start_soon(self._watch, on_stalled, name="csp.websocket write timeout")

    def withdraw(self, posted: Posted) -> None:
        """Drop a message of an outbox."""
        posted.outbox.remove(posted)
        self._withdraw(posted)

    def outbox_of(self, owner: object) -> Outbox | None:
        """Return the outbox of which messages of this owner still wait, if they do."""
        for outgoing in (*self._queue, *(self._later or ())):
            if isinstance(outgoing, Posted) and outgoing.outbox.owner is owner:
                return outgoing.outbox
        return None

    async def _watch(self, on_stalled: Callable[[WriteTimeoutError], Awaitable[None]]) -> None:
        while self.busy or self._later:
            # What waits only behind a message in pieces does not wait for the peer.
            busy, taken = self.busy, self._transport.bytes_taken
            with trio.move_on_after(self._timeout_seconds) as waiting:
                await self._wait_idle()
            stalled = waiting.cancelled_caught and busy and self._transport.bytes_taken == taken
            if stalled and self._failure is None:
                await on_stalled(WriteTimeoutError(started=True, seconds=self._timeout_seconds, of_progress=True))
        self._watched = False

    # Control frames --------------------------------------------------------------------------------------------------

    @enable_ki_protection
    def send_ping(self, payload: bytes) -> None:
        """Write or queue a ping of keepalive, replacing one that is queued; never waits, and never fails."""
        if self._failure is None and self._close_frame is None:
            self._ping = self.encoder.encode(PING, payload)
            self._write_controls()

    @enable_ki_protection
    def send_pongs(self, payloads: list[bytes]) -> None:
        """Write or queue the answers to pings, in order, and drop the oldest if too many wait; never waits or fails."""
        if payloads and self._failure is None and self._close_frame is None:
            pongs = [self.encoder.encode(PONG, payload) for payload in payloads[-MAX_WAITING_PONGS:]]
            self._pongs = [*self._pongs, *pongs][-MAX_WAITING_PONGS:]
            self._write_controls()

    @enable_ki_protection
    def send_close(self, frame: bytes) -> None:
        """Write or queue an encoded close frame, and accept no frame after it; never waits, and never fails."""
        if self._failure is None and self._close_frame is None:
            self._close_frame = frame
            self.refuse()
            self._write_controls()

    def _write_controls(self) -> None:
        if self._transport.synchronous and not self._writing and self._rest is None and not self._queue:
            # No data frame waits here, only control frames.
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                self._write_now(self._next_frames())
        if self.busy:
            self._ensure_task()

    def refuse(self) -> None:
        """Accept no more data frames and pings; those already queued are still written.

        But not those behind a message in pieces: the rest of it is not written.
        """
        self._accepting = False
        self._refuse_later()

    @enable_ki_protection
    async def send_last(self, frame: bytes) -> None:
        """Try to write a close frame without waiting, on a connection that is given up; drop all queued frames."""
        between_frames = not self._writing and self._rest is None and self._first is None
        usable = self._failure is None and self._close_frame is None and between_frames
        self.fail(trio.ClosedResourceError("the connection was given up"))
        if usable:
            await self._transport.send_last(frame)

    async def flush(self) -> None:
        """Wait until every frame is written, or writing has failed."""
        while self.busy:
            await self._wait_idle()

    async def _wait_idle(self) -> None:
        if self._idle is None:
            self._idle = trio.Event()
        await self._idle.wait()

    @enable_ki_protection
    def fail(self, failure: trio.BrokenResourceError | trio.ClosedResourceError) -> None:
        """Drop all frames. Sends that wait raise this error; later ones raise `trio.ClosedResourceError`."""
        self._transport.on_pending = None
        self.on_broken = None
        if self._failure is not None:
            return
        self._failure = failure
        self._accepting = False
        waiting = [*self._in_flight, *self._queue, *(self._later or ())]
        self._in_flight.clear()
        self._queue.clear()
        self._later = None
        self._first = None
        self._ping = None
        self._pongs.clear()
        self._close_frame = None
        self._rest = None
        self._large = None
        self._writing = False
        for outgoing in waiting:
            outgoing.failed(failure)
        self._became_idle()

    # Writing ---------------------------------------------------------------------------------------------------------

    def _ensure_task(self) -> None:
        """Start the task that writes, unless there is one."""
        if not self._task_exists:
            self._task_exists = True
            self._free = False
            self._nursery.start_soon(self._write, name="csp.websocket writer")

    @enable_ki_protection
    async def _write(self) -> None:
        """Write frames until there are none left, or the connection breaks."""
        try:
            while self.busy:
                self._writing = True
                frames = self._rest if self._rest is not None else self._next_frames()
                self._writing_bytes = len(frames), self._transport.bytes_sent
                await self._transport.send_all(frames)
                self._written()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._break(error)
        except BaseException:
            # Part of a frame may be written, and no task is left to write the rest.
            self.fail(trio.ClosedResourceError("the connection's block was cancelled"))
            raise
        self._task_exists = False
        self._free = self._transport.synchronous and self._turn is None
        self._became_idle()

    @property
    def accepting(self) -> bool:
        """Whether data frames and pings are still accepted."""
        return self._accepting

    @property
    def busy(self) -> bool:
        """Whether a frame is not written yet, or the transport has something of its own to send."""
        return self._failure is None and (
            self._writing
            or self._transport.pending
            or self._rest is not None
            or self._large is not None
            or self._first is not None
            or bool(self._queue)
            or self._ping is not None
            or bool(self._pongs)
            or (self._close_frame is not None and not self._close_started)
        )

    @property
    def waiting(self) -> tuple[int, int]:
        """How many messages and pings wait to be written, and how many bytes do, those of control frames included."""
        queued = [*self._queue, *(self._later or ())]
        size = sum(outgoing.size for outgoing in queued) + sum(map(len, self._pongs))
        size += sum(len(waits) for waits in (self._first, self._ping) if waits is not None)
        if self._close_frame is not None and not self._close_started:
            size += len(self._close_frame)
        if self._writing:
            begun, sent = self._writing_bytes
            size += max(begun - (self._transport.bytes_sent - sent), 0)
        elif self._rest is not None:
            size += len(self._rest)
        if self._large is not None:
            size += self._large.left
        return sum(outgoing.number for outgoing in (*queued, *self._in_flight)), size

    @property
    def ping_waits(self) -> bool:
        """Whether a ping of a user's is queued."""
        return any(outgoing.opcode == PING for outgoing in self._queue)

    def _next_frames(self) -> bytes | memoryview:
        """Take the next frames out of the queue, as many as are worth one system call, and encode them.

        What comes before all frames goes by itself. Of a large frame it is the next piece.
        """
        if self._large is not None:
            return self._next_piece(self._large)
        if self._first is not None:
            first, self._first = self._first, None
            return first
        frames: list[bytes | memoryview] = []
        size = 0
        if self._ping is not None:
            frames.append(self._ping)
            self._ping = None
        frames += self._pongs
        self._pongs.clear()
        while self._queue and size < _COALESCED_BYTES:
            outgoing, _ = self._queue.popitem(last=False)
            if isinstance(outgoing, Turn):
                self._give_turn(outgoing)
                continue
            self._in_flight.append(outgoing)
            frame = outgoing.begin(self.encoder)
            if isinstance(frame, LargeFrame):
                frames.append(self._next_piece(frame))
                break
            frames.append(frame)
            size += len(frame)
        whole = self._large is None
        if whole and self._close_frame is not None and not self._close_started and not self._queue:
            frames.append(self._close_frame)
            self._close_started = True
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _next_piece(self, frame: LargeFrame) -> bytes | memoryview:
        piece = frame.take()
        self._large = frame if frame.left else None
        return piece

    def _write_begun(self, frame: bytes | LargeFrame) -> bool:
        """Write of a frame what the system takes at once, and keep the rest; return whether that was all."""
        if isinstance(frame, bytes):
            return self._write_now(frame)
        while frame.left:
            if not self._write_now(frame.take()):
                if frame.left:
                    frame.keep()
                    self._large = frame
                return False
        return True

    def _write_now(self, frames: bytes | memoryview) -> bool:
        """Write what the system takes at once and keep the rest; return whether that was all."""
        try:
            sent = self._transport.send_now(frames)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._break(error)
            raise
        if sent == len(frames) and not self._transport.pending:
            return True
        rest = memoryview(frames)[sent:]
        # A caller that is cancelled may do with its data what it likes.
        self._rest = rest if rest.readonly else memoryview(bytes(rest))
        return False

    def _break(self, error: trio.BrokenResourceError | trio.ClosedResourceError) -> None:
        on_broken = self.on_broken
        self.fail(error)
        if on_broken is not None:
            on_broken(error)

    def _written(self) -> None:
        """Note that all frames in flight are written, and wake their tasks; or that a piece of a large frame is."""
        self._rest = None
        self._writing = False
        if self._large is not None:
            return
        for outgoing in self._in_flight:
            outgoing.written()
        self._in_flight.clear()

    def _became_idle(self) -> None:
        if self._idle is not None:
            self._idle.set()
            self._idle = None
