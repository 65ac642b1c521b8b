"""A stream until its request is answered: what is known of the client, and how it is told no."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import trio

from csp.errors import shown
from trio_csp_websocket.events import Events
from trio_csp_websocket.protocol.answer import text_answer
from trio_csp_websocket.protocol.url import path_and_query, without_query
from trio_csp_websocket.transport.base import shown_address

if TYPE_CHECKING:
    from trio_csp_websocket.server.register import Register
    from trio_csp_websocket.transport.base import Address, Transport

_events = Events("csp.websocket.server")

_SLICE_BYTES = 64 * 1024
_LINGER_SECONDS = 1.0


class Visit:
    """One stream, from when it was accepted until it is closed, or becomes a connection.

    To close a socket with unread data resets the connection, and the reset could overtake the answer. So `end` ends our
    direction only, and discards what arrives for a second.

    Args:
        transport: the stream.
        register: keeps account of it.
        write_timeout_seconds: how long the client may take nothing of an answer.
        secure: whether it counts as TLS.
    """

    __slots__ = ("_register", "_write_timeout_seconds", "remote", "secure", "transport", "url")

    def __init__(self, transport: Transport, register: Register, write_timeout_seconds: float, *, secure: bool) -> None:
        self.transport = transport
        self.remote: Address | None = transport.remote
        self.secure = secure
        self.url: str | None = None
        """Where the request leads, once that is known."""
        self._register = register
        self._write_timeout_seconds = write_timeout_seconds

    @property
    def shown(self) -> str:
        """Who it is, and the path that is asked for, for the log."""
        who = "somebody" if self.remote is None else shown_address(self.remote)
        return who if self.url is None else f"{who} for {shown(path_and_query(self.url)[0])}"

    def tell(self, name: str, text: str | None, *arguments: object, subject: object = None, **fields: Any) -> None:
        """Tell an event at DEBUG, or only to observers if it has no text; the text names the client first."""
        if _events.wanted():
            level = None if text is None else logging.DEBUG
            fields |= self.fields()
            _events.tell(
                f"server.{name}", level, text or "", self.shown, *arguments, about=self, subject=subject, **fields
            )

    def fields(self) -> dict[str, Any]:
        """Return the fields that all events about it have."""
        return {
            "remote": None if self.remote is None else shown_address(self.remote),
            "url": None if self.url is None else shown(without_query(self.url)),
        }

    async def refuse(self, status: int, why: str, answer: bytes = b"") -> None:
        """Refuse the request.

        Args:
            status: of the answer.
            why: for the log; and for the client unless there is an answer.
            answer: the answer, if it has more than that.
        """
        self._register.rejected[status] += 1
        self.tell("refused", "refused %s with status %d: %s", status, why, status=status, error=why)
        await self.end(answer or text_answer(status, why))

    async def end(self, answer: bytes, *, wanted: bool = False, sent: trio.Event | None = None) -> None:
        """Send an answer behind which the stream ends, and wait until the client has ended it, for a second at most.

        Too many clients who have been refused are not waited for: the first of them is cut off when another comes.

        Args:
            answer: what the transport has not taken yet. It may still hold some of what it has taken.
            wanted: whether it is no refusal: until it is sent it is not cut off for others.
            sent: to be set when it is sent, or cannot be.
        """
        scope = trio.CancelScope()
        if not wanted:
            self._register.begin_ending(scope)
        try:
            with scope, contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                try:
                    taken = await self._send(answer)
                finally:
                    if sent is not None:
                        sent.set()
                if taken:
                    if wanted:
                        self._register.begin_ending(scope)
                    scope.deadline = trio.current_time() + _LINGER_SECONDS
                    await self.transport.send_eof()
                    while await self.transport.receive_some(_SLICE_BYTES):
                        pass
        finally:
            self._register.end_ending(scope)

    async def _send(self, answer: bytes) -> bool:
        """Return whether the client has taken it."""
        for start in range(0, max(len(answer), 1), _SLICE_BYTES):
            with trio.move_on_after(self._write_timeout_seconds) as progress:
                await self.transport.send_all(answer[start : start + _SLICE_BYTES])
            if progress.cancelled_caught:
                return False
        return True
