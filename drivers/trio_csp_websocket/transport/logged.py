"""Any transport of a connection, with a log of the frames that go over it.

It is put around a transport when a connection is opened and the logger ``csp.websocket.frames`` wants DEBUG, and only
then. It reads the heads of frames out of the bytes; what the frames carry is not logged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from csp.errors import shown
from trio_csp_websocket.events import Events
from trio_csp_websocket.protocol.frame_heads import FrameHeads
from trio_csp_websocket.protocol.frames import BINARY_FRAME, CLOSE, CONTINUATION, PING, PONG, TEXT_FRAME
from trio_csp_websocket.transport.base import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from trio_csp_websocket.protocol.frame_heads import FrameHead
    from trio_csp_websocket.transport.base import PeerCertificate

_events = Events("csp.websocket.frames")

_NAMES = {
    CONTINUATION: "continuation",
    TEXT_FRAME: "text",
    BINARY_FRAME: "binary",
    CLOSE: "close",
    PING: "ping",
    PONG: "pong",
}


def logged(transport: Transport, who: str, *, received: bytes = b"", answers: bool = False) -> Transport:
    """Return a transport with a log of its frames; the same transport if that is not wanted.

    Args:
        transport: the transport of a connection that is being opened.
        who: which connection it is, for the log.
        received: what was read of it, and belongs to frames.
        answers: whether the answer to the handshake is still to be sent.
    """
    if not _events.enabled(logging.DEBUG):
        return transport
    wrapped = LoggedTransport(transport, who, answers=answers)
    wrapped.note_received(received)
    return wrapped


def bare(transport: Transport) -> Transport:
    """Return a transport without the log that `logged` may have put around it."""
    return transport.inner if isinstance(transport, LoggedTransport) else transport


class LoggedTransport(Transport):
    """A transport with a log of its frames. All that it does the inner one does, at once and in the same order.

    A frame is logged when its head has come, or is handed over to be sent: all of it may not be.

    Args:
        inner: the transport.
        who: which connection it is.
        answers: whether an answer to the handshake is sent ahead of the frames.
    """

    def __init__(self, inner: Transport, who: str, *, answers: bool) -> None:
        # Without the attributes of a transport of its own: see `__getattr__`.
        self.inner = inner
        self._who = who
        self._sent = FrameHeads(behind_acceptance=answers)
        self._received = FrameHeads()

    def note_received(self, data: bytes) -> None:
        """Log the frames in bytes that were received."""
        for frame in self._received.feed(data):
            self._log("received", frame)

    def _note_sent(self, data: bytes | bytearray | memoryview) -> None:
        for frame in self._sent.feed(data):
            self._log("sent", frame)

    def _log(self, direction: str, frame: FrameHead) -> None:
        name = _NAMES.get(frame.opcode) or f"opcode {frame.opcode}"
        code, reason = _code_and_reason(frame.close)
        said = "" if code is None else f", code {code}{reason and f': {reason}'}"
        more = f"{'' if frame.fin else ', more to come'}{', compressed' if frame.compressed else ''}{said}"
        _events.tell(
            "frame",
            logging.DEBUG,
            "%s: %s %s, %d bytes%s",
            self._who,
            direction,
            name,
            frame.length,
            more,
            connection=self._who,
            direction=direction,
            opcode=name,
            fin=frame.fin,
            compressed=frame.compressed,
            length=frame.length,
            code=code,
            reason=reason or None,
        )

    # What the inner transport does ------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """Return what the inner transport has: counts, addresses, whether it is synchronous, and all else."""
        return getattr(self.inner, name)

    def unread(self, data: bytes) -> None:
        self.inner.unread(data)

    async def receive_some(self, max_bytes: int) -> bytes:
        data = await self.inner.receive_some(max_bytes)
        self.note_received(data)
        return data

    async def receive_into(self, room: Callable[[], memoryview], max_bytes: int) -> int | bytes:
        return await self.receive_some(max_bytes)  # the log needs the bytes

    async def receive_now(self, max_bytes: int) -> bytes | None:
        data = await self.inner.receive_now(max_bytes)
        self.note_received(data or b"")
        return data

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        sent = self.inner.send_now(data)
        with memoryview(data) as view:
            self._note_sent(view[:sent])
        return sent

    async def send_all(self, data: Buffer) -> None:
        with memoryview(data) as view:
            self._note_sent(view)
        await self.inner.send_all(data)

    async def send_last(self, frame: bytes) -> None:
        self._note_sent(frame)
        await self.inner.send_last(frame)

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        await self.inner.aclose()

    @property
    def on_pending(self) -> Callable[[], None] | None:
        return self.inner.on_pending

    @on_pending.setter
    def on_pending(  # pyright: ignore[reportIncompatibleVariableOverride]  # it is used as the attribute is
        self, function: Callable[[], None] | None
    ) -> None:
        self.inner.on_pending = function

    @property
    def bytes_taken(self) -> int:
        return self.inner.bytes_taken

    @property
    def peer_certificate(self) -> PeerCertificate | None:
        return self.inner.peer_certificate


def _code_and_reason(payload: bytes | None) -> tuple[int | None, str]:
    """Return what a close frame says: no code if it has none, and the reason as texts show it."""
    if payload is None or len(payload) < 2:
        return None, ""
    return int.from_bytes(payload[:2], "big"), shown(payload[2:].decode(errors="replace"))
