"""What an application holds while a connection is open, and afterwards: what client and server have in common."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, NoReturn, TypeVar

import trio
from trio.lowlevel import checkpoint_if_cancelled, disable_ki_protection, enable_ki_protection

import csp
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, InvalidError, Kind, shown
from trio_csp_websocket.connection.ending import cut_short
from trio_csp_websocket.connection.message_stream import MessageStream
from trio_csp_websocket.connection.pings import MAX_OUTSTANDING
from trio_csp_websocket.connection.sending import PiecesSender
from trio_csp_websocket.connection.statistics import statistics_of
from trio_csp_websocket.connection.writer import WriteTimeoutError
from trio_csp_websocket.protocol.close import check_close
from trio_csp_websocket.protocol.constants import BINARY, TEXT, CloseCode
from trio_csp_websocket.protocol.frames import MAX_CONTROL_PAYLOAD, PING
from trio_csp_websocket.protocol.messages import Message, encoded, encoded_many, json_payload
from trio_csp_websocket.protocol.url import without_query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from types import TracebackType

    from typing_extensions import Buffer

    from trio_csp_websocket.connection.connection import Connection
    from trio_csp_websocket.connection.statistics import Statistics
    from trio_csp_websocket.transport.base import Address, PeerCertificate

T = TypeVar("T")

_WHOLE = (str, bytes)


class Endpoint(trio.abc.AsyncResource):
    """One end of a connection.

    As a block, ``async with client:``, it is closed at the end: with code 1000; after an exception with 1011; at once
    if cancelled.

    Args:
        connection: the data plane.
        url: returned by `url`.
        subprotocol: returned by `subprotocol`.
    """

    def __init__(self, connection: Connection, url: str, subprotocol: str | None) -> None:
        self._connection = connection
        self._url = url
        self._subprotocol = subprotocol
        # What the first use of it has to do before anything else, if there is something.
        self._before_use: Callable[[], Awaitable[None]] | None = None

    # Receiving -------------------------------------------------------------------------------------------------------

    def channel(self) -> csp.Channel[Message]:
        """Return the channel on which messages arrive: always the same one.

        The channel closes when the connection has ended, after the last message received; its ``cause`` is `error`.
        While it is full, reading goes on, until 256 KiB or 4096 messages wait, or one message that is larger. So pongs,
        the peer's pings and its close are seen behind messages that nobody receives. Beyond that nothing more is read.
        """
        return self._connection.delivery.channel

    async def receive(self) -> csp.Received[Message]:
        """Take the next message: ``(message, True)``, or ``(None, False)`` once the connection has ended.

        Short for ``channel().receive()``.
        """
        if self._before_use is not None:
            await self._before_use()
        return await self._connection.delivery.channel.receive()

    async def receive_value(self) -> Message:
        """Take the next message; raise if there will be none: for an answer that must come.

        Short for ``channel().receive_value()``.

        Raises:
            ConnectionFailedError: the connection has ended with an error: `error`, anew.
            EndOfChannelError: it has ended without one; ``code`` and ``reason`` are in the details.
        """
        if self._before_use is not None:
            await self._before_use()
        return await self._connection.delivery.channel.receive_value()

    async def receive_many(self, limit: int) -> list[Message]:
        """Take the messages that are there now, up to ``limit`` of them, waiting for the first.

        Short for ``channel().receive_many(limit)``: an empty list once the connection has ended; see `error` then.

        Raises:
            InvalidError: limit is below 1.
            InvalidTypeError: limit is not an int.
        """
        if self._before_use is not None:
            await self._before_use()
        return await self._connection.delivery.channel.receive_many(limit)

    def __aiter__(self) -> AsyncIterator[Message]:
        # The channel says the same at the end, and takes a call less for each message.
        return self if self._before_use is not None else self._connection.delivery.channel

    async def __anext__(self) -> Message:
        """Take the next message. When the connection has ended, stop the iteration, or raise `error` if it is set."""
        if self._before_use is not None:
            await self._before_use()
        return await self._connection.delivery.channel.__anext__()

    def receive_stream(self) -> MessageStream:
        """Return a block in which the next message comes in pieces, as they arrive: for one of any size.

            async with client.receive_stream() as pieces:
                async for piece in pieces:
                    ...

        What it does, and what it raises, is described at `MessageStream`. The next message is the one that was received
        first and that nobody has taken. If there is none, it is the one that is just arriving, or else the next to
        arrive, also where other tasks wait in `receive`: they get the messages behind it.

        A message above ``read_limit`` that arrives while there is no such block ends the connection with code 1009 when
        a task waits for a message. While none does, it is not read, nor is what follows it, so that it can still be
        taken as a stream: until all messages before it are received, and for a second after that.
        In the ``subscribe`` function of a feed a task always waits: the feed's own.
        """
        return MessageStream(self._connection, prepare=self._prepare, missing=self.receive_value, cut=self._cut_short)

    async def _prepare(self) -> None:
        if self._before_use is not None:
            await self._before_use()

    def _cut_short(self) -> ConnectionFailedError:
        """Return the error for a message of which the rest will not come."""
        return cut_short(None if self.closing else self._connection.ending)

    # Sending ---------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def send(
        self,
        data: str | Buffer | AsyncIterable[str | Buffer],
        type: int | None = None,  # noqa: A002  # the specified name
    ) -> None:
        """Send a message, waiting until it is written to the system's buffers.

        Many tasks may send at once; messages are sent in the order of the calls. If cancelled before writing the
        message began, nothing of it is sent; if later, all of it is, unless the connection ends.

        An async iterable gives *one* message in pieces, such as a file, of which no more than a piece is in memory.
        Each piece is sent as it comes (RFC 6455, section 5.4). The message's turn begins with its first piece: other
        messages wait until it is complete; pings, pongs and a close go between the pieces. A message that is cut cannot
        be mended: if this is cancelled in the middle, or the iterable raises, or gives what cannot be sent, the
        connection ends, for the peer with code 1001 or 1011, and here with an `error` of kind CANCELED. If the
        connection ends first, the iterable is cancelled.

        Args:
            data: a str is sent as a text message, anything bytes-like as a binary one. Of pieces, the first decides.
            type: `TEXT` or `BINARY` to choose otherwise. A str as `BINARY` is sent as its UTF-8; bytes as `TEXT` must
                be UTF-8, in pieces all of them together.

        Raises:
            InvalidError: ``type`` is neither `TEXT` nor `BINARY`, or the data is not valid text; or there is no piece
                and no ``type``.
            InvalidTypeError: ``data``, or a piece, is neither a str nor bytes-like.
            ConnectionFailedError: the connection broke, which has ended it, or had ended before, or is being closed.
                Kind INTERNAL, not retryable.
            ConnectionTimeoutError: sending took longer than ``write_timeout``, of a message in pieces that of a piece.
                Kind TIMEOUT, retryable. If writing the message had begun, the connection has ended; if not, nothing of
                it is sent.
        """
        if not isinstance(data, _WHOLE) and isinstance(data, AsyncIterable):
            await self._send_pieces(data, type)
            return
        opcode, payload = encoded(data, type)
        if self._before_use is not None:
            await self._before_use()
        writer = self._connection.writer
        try:
            # What `Writer.send` does, without that call.
            await checkpoint_if_cancelled()
            if not writer.accepting:
                await writer.refused()
            outgoing = writer.begin(opcode, payload)
            if outgoing is not None:
                await writer.wait_written(outgoing)
            elif csp.schedule_point_due():
                await trio.lowlevel.cancel_shielded_checkpoint()
        except (trio.BrokenResourceError, trio.ClosedResourceError, WriteTimeoutError) as error:
            await self._sending_failed(error)

    async def send_many(
        self,
        messages: Iterable[str | Buffer],
        type: int | None = None,  # noqa: A002  # as in send
    ) -> None:
        """Send messages in one go: the same as a `send` for each of them, but written together, for one wait.

        For many small messages: 16 of them cost a third of 16 sends. No other message comes between them, and none goes
        out if one of them cannot be sent. If cancelled before writing the first began, nothing is sent; if later, all
        of them are, unless the connection ends. ``write_timeout`` is for all of them together. Towards the next visit
        to the scheduler 32 of them count as one operation. Without any message this only lets other tasks run.

        Args:
            messages: any iterable; it is gone through once, at once, and stays as it is. Each is what `send` takes, but
                no async iterable.
            type: of each of them: see `send`.

        Raises:
            InvalidError: as in `send`, for any of them; nothing was sent.
            InvalidTypeError: ``messages`` is a str, bytes-like or an async iterable, or no iterable; or one of them is
                neither a str nor bytes-like. Nothing was sent.
            ConnectionFailedError: as in `send`.
            ConnectionTimeoutError: as in `send`.
        """
        payloads = encoded_many(messages, type)
        if self._before_use is not None:
            await self._before_use()
        if not payloads:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._connection.writer.send_many(payloads)
        except (trio.BrokenResourceError, trio.ClosedResourceError, WriteTimeoutError) as error:
            await self._sending_failed(error)

    @disable_ki_protection  # pieces come from the user's own code
    async def _send_pieces(
        self,
        pieces: AsyncIterable[str | Buffer],
        type: int | None,  # noqa: A002
    ) -> None:
        sender = PiecesSender(self._connection, pieces, type)
        if self._before_use is not None:
            await self._before_use()
        try:
            await sender.send()
        except (trio.BrokenResourceError, trio.ClosedResourceError, WriteTimeoutError) as error:
            if sender.iterable_failed:
                raise
            await self._sending_failed(error)

    async def _sending_failed(self, error: Exception) -> NoReturn:
        await self._connection.end_if_broken(error)
        raise self._failure("sending failed", error, retryable=False) from self._reason(error)

    async def send_json(self, value: T, *, dumps: Callable[[T], str | Buffer] | None = None) -> None:
        """Send a value as JSON in a text message, as `send` does.

        Args:
            value: anything that the encoder takes; it is encoded at once.
            dumps: the encoder. What it returns is sent as text, also if it is bytes-like, which must be UTF-8 then. By
                default it is `json.dumps`, without spaces, with characters outside ASCII as they are, and without NaN
                and infinity, which are not JSON (RFC 8259, section 6).

        Raises:
            InvalidError: the encoder raised an exception, which is ``__cause__``, or what it returned is not valid
                text. Nothing was sent.
            InvalidTypeError: the same, if that exception is a TypeError, or if what it returned is neither a str nor
                bytes-like, or if ``dumps`` cannot be called.
            ConnectionFailedError: as in `send`.
            ConnectionTimeoutError: as in `send`.
        """
        await self.send(json_payload(value, dumps), TEXT)

    async def ping(self, payload: str | Buffer | None = None) -> csp.Channel[float]:
        """Send a ping, and return a channel for the answer (RFC 6455, section 5.5.2).

        Waits until the ping is written, as `send` does, but not for the pong. When the pong comes, the channel gives
        the round-trip time in seconds, and closes. If the connection ends first, it closes without a value, as
        `channel` does, but does not wait for messages that were not received yet: its end is no reason to stop. A ping
        that is never answered does not end the connection; the option ``keepalive`` does that.

        Where nothing is read, because too many messages wait for room in `channel`, no pong can come. Then the channel
        of a ping on which a task waits closes without a value, if no message is received for a second.

        If cancelled before writing the ping began, nothing of it is sent.

        Args:
            payload: up to 125 bytes that the peer sends back, a str as UTF-8; by default a running number.

        Raises:
            InvalidError: the payload is longer, or a str that UTF-8 cannot encode.
            InvalidTypeError: the payload is neither a str nor bytes-like.
            ConnectionFailedError: kind INTERNAL. Retryable if the connection broke, or if 1024 pings are unanswered;
                not retryable if it had ended before, or is being closed.
            ConnectionTimeoutError: sending took longer than ``write_timeout``; see `send`.
        """
        pings = self._connection.pings
        data = pings.new_payload() if payload is None else bytes(encoded(payload, BINARY, name="payload")[1])
        if len(data) > MAX_CONTROL_PAYLOAD:
            raise InvalidError(f"payload must be at most {MAX_CONTROL_PAYLOAD} bytes, not {len(data)}")
        if self._before_use is not None:
            await self._before_use()
        if len(pings) >= MAX_OUTSTANDING:
            await trio.lowlevel.checkpoint()  # a loop that ignores the error must not starve the others
            raise ConnectionFailedError(
                f"ping failed: {MAX_OUTSTANDING} pings are unanswered", kind=Kind.INTERNAL, retryable=True
            )
        answer = pings.sent(data)
        try:
            await self._connection.writer.send(PING, data)
        except BaseException as error:
            pings.forget(answer)
            if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError | WriteTimeoutError):
                await self._connection.end_if_broken(error)
                raise self._failure("ping failed", error, retryable=True) from self._reason(error)
            raise
        self._connection.ping_sent()
        return answer

    # Closing ---------------------------------------------------------------------------------------------------------

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection with a close frame, waiting for the peer's and for the end of the stream.

        Returns within the ``close_timeout`` whatever the peer does; the socket is closed then. Messages that still
        arrive are discarded; those in the channel can still be received. Closing a connection that is already closing
        or has ended only waits for the socket to be closed. If cancelled, the socket is closed at once.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999 (RFC 6455, section 7.4).
            reason: up to 123 bytes of UTF-8, without line breaks and NUL.

        Raises:
            InvalidError: code or reason is out of range; nothing was sent.
            InvalidTypeError: code is not an int, or reason not a str.
        """
        check_close(code, reason)
        await self._close(code, reason)

    async def aclose(self) -> None:
        """Close the connection with code 1000, as `close` does: the name that `trio.abc.AsyncResource` has for it."""
        await self.close()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, whoever ended it, and its socket is closed.

        Messages that were received by then may still be in `channel`, or on their way to it. While too
        many wait there, the peer's close is not read, and so the connection does not end.
        """
        await self._connection.finished.wait()

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if exc is None:
                await self._close(CloseCode.NORMAL, "")
            elif isinstance(exc, Exception):
                await self._close(CloseCode.INTERNAL_ERROR, "")
            else:
                # Cancelled, or interrupted by the keyboard: no time to wait for the peer.
                await self._connection.give_up(CloseCode.GOING_AWAY)
        except trio.Cancelled:
            # If the block raised an exception, that one already leaves through the cancelled scope.
            if exc is None:
                raise

    async def _close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)

    @property
    def closing(self) -> bool:
        """Whether this end has begun to close the connection; False if the peer or the network ended it first."""
        return self._connection.closing

    @property
    def close_code(self) -> int | None:
        """The code the connection ended with; None while it has not ended.

        Ours if we failed the connection (1002, 1007, 1009; 1011 after a read or keepalive timeout), else the peer's
        (1005 if it gave none), else 1006.
        """
        ending = self._connection.ending
        return None if ending is None else int(ending.code)

    @property
    def close_reason(self) -> str | None:
        """The reason that goes with `close_code`; None while the connection has not ended."""
        ending = self._connection.ending
        return None if ending is None else ending.reason

    @property
    def error(self) -> ConnectionFailedError | None:
        """Why the connection ended, if not as it should; also the ``cause`` of `channel`.

        None while it has not ended, after our own `close`, and after a close by the peer with 1000, 1001 or no code.
        Kind UNAVAILABLE if the peer closed with another code or the connection was lost, INTERNAL if we failed the
        connection, and TIMEOUT (`ConnectionTimeoutError`) after a read, write or keepalive timeout. A peer that closed
        with a code that must not be sent, as 1006, has closed too: the details have its code and reason, although
        `close_code` is 1002.
        """
        ending = self._connection.ending
        return None if ending is None else ending.error

    # State -----------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The URL of the connection, normalised and without credentials."""
        return self._url

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol the server chose from those offered, or None."""
        return self._subprotocol

    @property
    def local(self) -> Address | None:
        """Where this end is.

        An IP address and a port; of a Unix socket a path, "" if it has none. None where it is not known: in memory, and
        for a stream of `ConnectOptions.dial` that is no `trio.SocketStream`.
        """
        return self._connection.transport.local

    @property
    def remote(self) -> Address | None:
        """Where the other end is, in the same form.

        That is the peer, or the proxy that leads to it.
        """
        return self._connection.transport.remote

    @property
    def peer_certificate(self) -> PeerCertificate | None:
        """The peer's certificate as a dictionary, as `ssl.SSLSocket.getpeercert` returns it. None without TLS.

        TLS with an ``https`` proxy does not count. It is empty if the certificate was not verified, or the peer has
        shown none.
        """
        return self._connection.transport.peer_certificate

    @property
    def latency(self) -> float | None:
        """The latest round-trip time of a ping in seconds, or None."""
        return self._connection.pings.latency

    def statistics(self) -> Statistics:
        """Return counts of messages and bytes so far, and of those that wait."""
        return statistics_of(self._connection)

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__} {self._state()}, {without_query(self._url)}>"

    def _state(self) -> str:
        if self.close_code is not None:
            return f"ended with {self.close_code}"
        return "closing" if self.closing else "open"

    def _reason(self, error: Exception) -> Exception:
        """Return the cause of what a send or ping raises: the writer's error where nothing says more."""
        broke = isinstance(error, trio.BrokenResourceError) and self._connection.write_broke
        if self.error is None or (broke and self.close_code == CloseCode.ABNORMAL_CLOSURE):
            return error
        return self.error

    def _failure(self, what: str, error: Exception, *, retryable: bool) -> ConnectionFailedError:
        """Return the error for a user of `send` or `ping` that the writer's error stands for."""
        if isinstance(error, WriteTimeoutError):
            return ConnectionTimeoutError(f"{what}: {error}", kind=Kind.TIMEOUT, retryable=True)
        if isinstance(error, trio.BrokenResourceError):
            return ConnectionFailedError(
                f"{what}: the connection broke: {shown(str(error))}", kind=Kind.INTERNAL, retryable=retryable
            )
        state = "is being closed" if self.close_code is None else f"has ended (code {self.close_code})"
        return ConnectionFailedError(f"{what}: the connection {state}", kind=Kind.INTERNAL, retryable=False)
