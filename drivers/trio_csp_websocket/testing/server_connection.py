"""The server's end of a connection in memory, which a test scripts."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, cast, final

import trio

from csp.errors import ConnectionFailedError, EndOfChannelError, InvalidError, InvalidTypeError, Kind, shown
from trio_csp_websocket.connection.state import State
from trio_csp_websocket.connection.writer import WriteTimeoutError
from trio_csp_websocket.protocol.close import close_payload
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.frames import CLOSE
from trio_csp_websocket.protocol.messages import encoded, utf_8
from trio_csp_websocket.server import server_connection
from trio_csp_websocket.server.server_connection import is_end_of
from trio_csp_websocket.testing.scripted import RAW, ScriptedDecoder, ScriptedTransport
from trio_csp_websocket.transport.logged import bare

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from typing_extensions import Buffer

    from trio_csp_websocket.protocol.messages import Message
    from trio_csp_websocket.server.opening import Opening

_MAX_CODE = 0xFFFF
_DROPPED = "the server has dropped it"


@final
class ServerConnection(server_connection.ServerConnection):
    """The server's end of a connection in memory: what `csp.websocket.serve` gives, and what a server should not do.

    Made by `websocket_server`. Methods that send wait until the client has read what they sent, and with it what was
    sent at the same time. Messages are read in the background, up to the ``channel_capacity`` of the server, which is
    1000, and some ahead of it.

    An answer by `send_bytes` is all that is sent without being asked for: the end of such a connection is the end of
    the stream, without a close frame.
    """

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening)
        self._transport = cast("ScriptedTransport", bare(opening.connection.transport))
        self._decoder = cast("ScriptedDecoder", opening.connection.decoder)
        # The errors of waits for a message that must come, while somebody holds them.
        self._missed: weakref.WeakSet[BaseException] = weakref.WeakSet()

    # Messages that must come -----------------------------------------------------------------------------------------

    async def receive_value(self) -> Message:
        """Take the client's next message; raise if there will be none.

        Raises:
            ConnectionFailedError: the connection has ended with an error: `error`, anew. If the handler does not catch
                it, an `AssertionError` that tells how the connection ended comes out of `websocket_server`.
            EndOfChannelError: it has ended without one; ``code`` and ``reason`` are in the details. The same holds.
        """
        try:
            return await super().receive_value()
        except ConnectionFailedError as error:
            self._missed.add(error)
            raise
        except EndOfChannelError as error:
            text = f"the client sends no more messages: {how_it_ended(self)}"
            raise EndOfChannelError(text, details=error.details) from None

    def _cut_short(self) -> ConnectionFailedError:
        error = super()._cut_short()
        self._missed.add(error)
        return error

    def __aiter__(self) -> AsyncIterator[Message]:
        return _Messages(self)

    async def __anext__(self) -> Message:
        """Take the client's next message, as ``await anext(connection)``.

        When the connection has ended, this raises `StopAsyncIteration`, or `error` if it is set. If the handler does
        not catch it, an `AssertionError` that tells how the connection ended comes out of `websocket_server`; not so of
        ``async for``.
        """
        try:
            return await super().__anext__()
        except ConnectionFailedError as error:
            self._missed.add(error)
            raise

    # What a server should not do -------------------------------------------------------------------------------------

    async def send_bytes(self, raw: Buffer) -> None:
        """Send bytes, or anything bytes-like, unchanged, and wait until the client has read them.

        They are sent in the order of the calls, with messages. If the connection is unanswered, they are the answer, or
        the beginning of it. What follows a close frame has to be sent together with that, in one call.

        Raises:
            InvalidTypeError: it is not bytes-like; nothing was sent.
            ConnectionFailedError: the connection has ended, or is being closed.
            ConnectionTimeoutError: sending took longer than ``write_timeout``.
        """
        if isinstance(raw, str):
            raise InvalidTypeError("raw must be bytes-like, not str: encode it")
        _, data = encoded(raw, None, name="raw")
        await trio.lowlevel.checkpoint_if_cancelled()
        opening = self._opening
        if opening is not None and opening.status is None:
            self._open(opening)
            self._connection.send_close = self._end_stream
        try:
            await self._connection.writer.send(RAW, bytes(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError, WriteTimeoutError) as error:
            await self._connection.end_if_broken(error)
            raise self._failure("sending failed", error, retryable=False) from self._reason(error)

    @property
    def answer_pings(self) -> bool:
        """Whether the client's pings are answered. Set this to False for a server that has gone silent."""
        return self._decoder.answer_pings

    @answer_pings.setter
    def answer_pings(self, value: bool) -> None:
        if not isinstance(cast("object", value), bool):
            raise InvalidTypeError(f"answer_pings must be True or False, not {value!r}")
        self._decoder.answer_pings = value

    def stop_reading(self) -> None:
        """Stop reading: what the client sends waits, so its pings and its close are not answered."""
        self._transport.stop_reading()

    def read_on(self) -> None:
        """Read again after `stop_reading`."""
        self._transport.read_on()

    def drop(self) -> None:
        """End the stream at once, without a close frame: the client's `close_code` is 1006. Never fails."""
        if self._connection.ending is None:
            self._connection.refuse(_DROPPED, by_us=True)
        self._transport.drop()
        opening = self._opening
        if opening is not None and opening.status is None:
            opening.status, opening.why = 0, _DROPPED
            opening.answered.set()

    # Closing ---------------------------------------------------------------------------------------------------------

    async def close(self, code: int | None = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection with a close frame, and wait until the client has closed it too.

        As `csp.websocket.ServerConnection.close`, but for the codes; and a connection that is unanswered is accepted
        before, so that the client sees the code. Elsewhere it is refused with status 403.

        Args:
            code: 0 to 65535, also one that must not be sent; None for a close frame without a code.
            reason: cut to 123 bytes of UTF-8; line breaks and NUL go as they are. Without a code there is none.

        Raises:
            InvalidError: the code is out of range, UTF-8 cannot encode the reason, or there is a reason and no code;
                nothing was done.
            InvalidTypeError: the code is neither an int nor None, or the reason not a str.
            PermissionDeniedError: as in `accept`.
        """
        payload = _close_payload(code, reason)
        if self._opening is not None and self._opening.status is None:
            with contextlib.suppress(ConnectionFailedError):
                await self.accept()
        plane = self._connection

        async def send_close(_code: int, _reason: str) -> None:
            await plane.write_close(plane.writer.encoder.encode(CLOSE, payload))

        if plane.state is State.OPEN and plane.send_close is None:
            plane.send_close = send_close
        await self._close(CloseCode.NORMAL, "")

    async def _end_stream(self, _code: int, _reason: str) -> None:
        """End our direction behind what was sent, instead of a close frame."""
        plane = self._connection
        if plane.state is not State.GIVEN_UP:
            plane.writer.refuse()
            await plane.writer.flush()
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._transport.send_eof()

    async def _client_has_gone(self, opening: Opening) -> bool:
        return self._transport.client_has_gone


class _Messages:
    """What ``async for`` goes over: that it ends, however the connection has ended, is no failure of the handler."""

    def __init__(self, connection: ServerConnection) -> None:
        self._next = super(ServerConnection, connection).__anext__

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        return await self._next()


# What no user needs ---------------------------------------------------------------------------------------------------


def how_it_ended(connection: ServerConnection) -> str | None:
    """Return how a connection has ended, as a clause; None while it has not."""
    ending = connection._connection.ending  # noqa: SLF001
    if ending is None:
        return None
    code, error = ending.code, ending.error
    closed_by_client = error is None or (error.kind is Kind.UNAVAILABLE and error.details.get("code") == code)
    if code == CloseCode.ABNORMAL_CLOSURE or not closed_by_client:
        return "the server has ended the connection" if error is None else str(error)
    how = "closed without a code" if code == CloseCode.NO_STATUS else f"closed with code {int(code)}"
    return f"{how} and the reason {shown(repr(ending.reason))}" if ending.reason else how


def client_left(connection: ServerConnection) -> bool:
    """Tell whether the client ended a connection, or broke the protocol, before the server ended it."""
    opening = connection._opening  # noqa: SLF001
    if opening is None:
        return connection.close_code is not None and not connection.closing
    return opening.status is None and connection._transport.client_has_gone  # noqa: SLF001


def is_vain_wait(connection: ServerConnection, error: BaseException) -> bool:
    """Tell whether an exception comes of a wait for a message that must come, on this connection."""
    if isinstance(error, EndOfChannelError):
        return is_end_of(connection, error)  # also of `channel`
    return isinstance(error, StopAsyncIteration) or error in connection._missed  # noqa: SLF001


async def end(connection: ServerConnection) -> None:
    """End a connection whose handler has returned: close it with 1000, or refuse it with 403 if it is unanswered."""
    await connection._close(CloseCode.NORMAL, "")  # noqa: SLF001


async def abandon(connection: ServerConnection) -> None:
    """Drop a connection, if it has not ended, and wait for the end of its stream."""
    connection.drop()
    await connection._connection.abort(_DROPPED)  # noqa: SLF001


def _close_payload(code: object, reason: object) -> bytes:
    if isinstance(code, bool) or not isinstance(code, int | None):
        raise InvalidTypeError(f"code must be an int or None, not {code!r}")
    if not isinstance(reason, str):
        raise InvalidTypeError(f"reason must be a str, not {reason!r}")
    if code is None:
        if reason:
            raise InvalidError("reason must be empty without a code")
        return b""
    if not 0 <= code <= _MAX_CODE:
        raise InvalidError(f"code must be 0 to {_MAX_CODE}, not {int(code)}")
    utf_8(reason, "reason")
    return close_payload(code, reason)
