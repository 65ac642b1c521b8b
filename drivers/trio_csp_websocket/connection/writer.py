"""The one place where a connection's frames are written, so that none is ever cut in two or overtaken.

A send goes to the socket at once when nobody is ahead of it and the system takes it. Otherwise it waits in line, and
a task writes it; there is one while there is something in the line. A frame has *begun* once it is encoded: from then
on it is written to its end, whatever becomes of the task that sent it. A send that is cancelled before that is taken
out of the line, and nothing of it goes out.

Control frames come from the very task that reads the connection: pongs, the pings of keepalive, close frames. Handing
one over therefore never waits, or a large send to a peer that echoes would block the reading that alone can
unblock it. They are put between data frames; of the pongs not yet written only the latest few count (RFC 6455,
section 5.5.3, would allow one), which bounds what a peer's pings can pile up.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

import csp
from trio_csp_websocket.protocol.frames import PING, PONG

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.encoder import Encoder
    from trio_csp_websocket.transport.base import Transport

MAX_WAITING_PONGS = 16
"""Of more pings than this that wait to be answered, the latest are."""

# Frames that wait are written together up to this size.
_COALESCED_BYTES = 64 * 1024


class _Outgoing:
    """A frame that somebody waits for."""

    __slots__ = ("begun", "done", "failure", "opcode", "payload")

    def __init__(self, opcode: int, payload: bytes, *, begun: bool = False) -> None:
        self.opcode = opcode
        self.payload = payload
        self.begun = begun
        self.done = trio.Event()
        self.failure: Exception | None = None


class WriteTimeoutError(Exception):
    """A send took longer than its timeout. If it had ``begun``, part of its frame may be on the wire."""

    def __init__(self, *, begun: bool, seconds: float) -> None:
        super().__init__(f"not {'written' if begun else 'begun'} within {seconds:g} s (write_timeout)")
        self.begun = begun


class Writer:
    """Writes frames to a transport, in the order they came.

    Args:
        transport: where to.
        nursery: where a task writes what cannot be written at once.
        encoder: makes the frames.
        timeout_seconds: how long a `send` may take.
    """

    __slots__ = (
        "_begun",
        "_close",
        "_close_begun",
        "_failure",
        "_idle",
        "_line",
        "_nursery",
        "_open",
        "_ping",
        "_pongs",
        "_rest",
        "_timeout_seconds",
        "_transport",
        "_working",
        "_writing",
        "encoder",
    )

    def __init__(
        self, transport: Transport, nursery: trio.Nursery, encoder: Encoder, timeout_seconds: float = math.inf
    ) -> None:
        self.encoder = encoder
        self._transport = transport
        transport.on_pending = self._work
        self._nursery = nursery
        self._timeout_seconds = timeout_seconds
        # Ordered as they came; a dict, because any of them may be cancelled.
        self._line: OrderedDict[_Outgoing, None] = OrderedDict()
        # A ping of keepalive, and pongs.
        self._ping: bytes | None = None
        self._pongs: list[bytes] = []
        self._close: bytes | None = None
        self._close_begun = False
        # What a synchronous write left over, to be written before anything else.
        self._rest: memoryview | None = None
        # The frames being written by the task, or of which `_rest` is left.
        self._begun: list[_Outgoing] = []
        self._writing = False
        # Whether there is a task that writes, or is about to.
        self._working = False
        # For those who wait until there is nothing left to write.
        self._idle: trio.Event | None = None
        self._failure: Exception | None = None
        # Whether data frames and pings are still taken.
        self._open = True
        if transport.pending:
            self._work()

    # Handing frames over ---------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def send(self, opcode: int, payload: bytes | bytearray | memoryview) -> None:
        """Write a data frame or a ping, waiting until it is written.

        If cancelled before it began, nothing goes out; if later, all of it does.

        Raises:
            trio.BrokenResourceError: the connection broke before all of it was written.
            trio.ClosedResourceError: the connection is closed, or a close frame is on its way.
            WriteTimeoutError: it took longer than the timeout.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._open:
            await trio.lowlevel.cancel_shielded_checkpoint()  # a loop that ignores the error must not starve the others
            raise trio.ClosedResourceError("the connection has ended, or is being closed")
        if self._transport.synchronous and not self._working:
            if self._write_now(self.encoder.encode(opcode, payload)):
                if csp.visit_due():
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return
            outgoing = _Outgoing(opcode, b"", begun=True)
            self._begun.append(outgoing)
        else:
            outgoing = _Outgoing(opcode, bytes(payload))
            self._line[outgoing] = None
        self._work()
        try:
            with trio.move_on_after(self._timeout_seconds):
                await outgoing.done.wait()
        finally:
            # Not begun yet: timed out, cancelled, or interrupted by the keyboard.
            self._line.pop(outgoing, None)
        if not outgoing.done.is_set():
            raise WriteTimeoutError(begun=outgoing.begun, seconds=self._timeout_seconds)
        if outgoing.failure is not None:
            # A fresh one: the one that is kept must not collect the tracebacks of all who failed.
            raise type(outgoing.failure)(*outgoing.failure.args)

    @enable_ki_protection
    def send_ping(self, payload: bytes) -> None:
        """Take a ping for which nobody waits; never waits, and never fails."""
        if self._failure is None and self._close is None:
            self._ping = self.encoder.encode(PING, payload)
            self._write_controls()

    @enable_ki_protection
    def send_pongs(self, payloads: list[bytes]) -> None:
        """Take the answers to pings, in order, of which the latest count; never waits, and never fails."""
        if payloads and self._failure is None and self._close is None:
            pongs = [self.encoder.encode(PONG, payload) for payload in payloads[-MAX_WAITING_PONGS:]]
            self._pongs = [*self._pongs, *pongs][-MAX_WAITING_PONGS:]
            self._write_controls()

    @enable_ki_protection
    def send_close(self, frame: bytes) -> None:
        """Take an encoded close frame, after which nothing is taken; never waits, and never fails."""
        if self._failure is None and self._close is None:
            self._close = frame
            self._open = False
            self._write_controls()

    def _write_controls(self) -> None:
        if self._transport.synchronous and not self._writing and self._rest is None and not self._line:
            # What waits now are control frames alone.
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                self._write_now(self._next_frames())
        if self.busy:
            self._work()

    def refuse(self) -> None:
        """Take no more data frames and pings; what waits already is written."""
        self._open = False

    @enable_ki_protection
    async def send_last(self, frame: bytes) -> None:
        """Try to write a close frame without waiting, on a connection that is given up; what waits is dropped."""
        between_frames = not self._writing and self._rest is None
        usable = self._failure is None and self._close is None and between_frames
        self.fail(trio.ClosedResourceError("the connection was given up"))
        if usable:
            await self._transport.send_last(frame)

    async def flush(self) -> None:
        """Wait until everything handed over is written, or cannot be."""
        while self.busy:
            self._idle = self._idle or trio.Event()
            await self._idle.wait()

    @enable_ki_protection
    def fail(self, failure: trio.BrokenResourceError | trio.ClosedResourceError) -> None:
        """Give up: everybody who waits gets this error, everybody who comes `trio.ClosedResourceError`."""
        self._transport.on_pending = None
        if self._failure is not None:
            return
        self._failure = failure
        self._open = False
        waiting = [*self._begun, *self._line]
        self._begun.clear()
        self._line.clear()
        self._ping = None
        self._pongs.clear()
        self._rest = None
        self._writing = False
        for outgoing in waiting:
            outgoing.failure = failure
            outgoing.done.set()
        self._became_idle()

    # Writing ---------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """See to it that what waits is written."""
        if not self._working:
            self._working = True
            self._nursery.start_soon(self._write, name="csp.websocket writer")

    @enable_ki_protection
    async def _write(self) -> None:
        """Write what waits, until nothing is left or the connection breaks."""
        try:
            while self.busy:
                self._writing = True
                await self._transport.send_all(self._rest if self._rest is not None else self._next_frames())
                self._written()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.fail(error)
        except BaseException:
            # Part of a frame may be out, and nobody writes the rest.
            self.fail(trio.ClosedResourceError("the connection's block was cancelled"))
            raise
        self._working = False
        self._became_idle()

    @property
    def busy(self) -> bool:
        """Whether there is a frame that is not written yet, or something that the transport has to say."""
        return self._failure is None and (
            self._writing
            or self._transport.pending
            or self._rest is not None
            or bool(self._line)
            or self._ping is not None
            or bool(self._pongs)
            or (self._close is not None and not self._close_begun)
        )

    @property
    def ping_waits(self) -> bool:
        """Whether a ping is in the line."""
        return any(outgoing.opcode == PING for outgoing in self._line)

    def _next_frames(self) -> bytes:
        """Take the next frames out of the line, as many as are worth one system call, and encode them."""
        frames: list[bytes] = []
        size = 0
        if self._ping is not None:
            frames.append(self._ping)
            self._ping = None
        frames += self._pongs
        self._pongs.clear()
        while self._line and size < _COALESCED_BYTES:
            outgoing, _ = self._line.popitem(last=False)
            outgoing.begun = True
            self._begun.append(outgoing)
            frames.append(self.encoder.encode(outgoing.opcode, outgoing.payload))
            size += len(frames[-1])
        if self._close is not None and not self._close_begun and not self._line:
            frames.append(self._close)
            self._close_begun = True
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _write_now(self, frames: bytes) -> bool:
        """Write what the system takes at once and keep the rest; tell whether that was all."""
        try:
            sent = self._transport.send_now(frames)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.fail(error)
            raise
        if sent == len(frames) and not self._transport.pending:
            return True
        self._rest = memoryview(frames)[sent:]
        return False

    def _written(self) -> None:
        """Note that what was begun is written."""
        self._rest = None
        self._writing = False
        for outgoing in self._begun:
            outgoing.done.set()
        self._begun.clear()

    def _became_idle(self) -> None:
        if self._idle is not None:
            self._idle.set()
            self._idle = None
