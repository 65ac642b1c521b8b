"""The server's end of a connection in memory: wsproto, and the two tasks that read and write for it."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, NamedTuple

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, Request, TextMessage

import csp
from csp.errors import ConnectionFailedError, EndOfChannelError, Kind, shown
from trio_csp_websocket.connection.pings import Pings
from trio_csp_websocket.protocol.constants import TYPE_BINARY, TYPE_TEXT, CloseCode
from trio_csp_websocket.protocol.headers import Headers, parse_headers
from trio_csp_websocket.protocol.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable

# Reading stops while this many messages wait to be received.
_MAX_UNRECEIVED = 1000


class ConnectionEndedError(ConnectionFailedError):
    """Nothing can be sent on a `ServerConnection` any more: it has ended or is being closed, by either side.

    `websocket_server` does not treat this as a failure of the handler: the client has gone.
    """

    def __init__(self) -> None:
        super().__init__("the connection has ended", kind=Kind.INTERNAL, retryable=False)


def _none() -> None:
    """Stand for a reference to nothing."""


class _Outgoing(NamedTuple):
    data: bytes
    written: csp.Channel[None]
    """Gets a value when the client has read the data, and closes."""


class Peer:
    """A server's end of a stream.

    Everything it sends goes through one queue to a task that writes, so that the task that reads never waits for the
    client to read.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._websocket = WSConnection(ConnectionType.SERVER)
        self.path: str = ""
        self.protocols: tuple[str, ...] = ()
        self.headers: Headers = Headers()
        self.messages: csp.Channel[Message] = csp.Channel[Message](_MAX_UNRECEIVED)
        """Closed when nothing more can be received from the client."""
        self.pings: Pings = Pings()
        self.answer_pings = True
        self.answered = False
        """Whether the request was answered, in any way."""
        self.accepted = False
        """Whether the request was accepted."""
        self.close_sent: bool = False
        """Whether only raw bytes may still be sent."""
        self.client_left: bool = False
        """Whether the client ended the connection, or broke the protocol, before the server ended it."""
        self.missed: Callable[[], EndOfChannelError | None] = _none
        """Gives the latest error of a wait for a message that must come, while somebody else holds it."""
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self.error: ConnectionFailedError | None = None
        self.gone: trio.Event = trio.Event()
        """Set when the stream is closed."""
        self._stream = stream
        self._outgoing = csp.Channel[_Outgoing](math.inf)
        # The parts of the message that is arriving.
        self._text: list[str] = []
        self._binary: list[bytes] = []
        self._reads = trio.Event()
        self._reads.set()
        self._reading = trio.CancelScope()
        self._delivering = trio.CancelScope()
        self._scope = trio.CancelScope()

    # The handshake ---------------------------------------------------------------------------------------------------

    async def read_request(self) -> bool:
        """Read the request of the handshake; return whether it came."""
        head = b""
        while data := bytes(await self._stream.receive_some()):
            head += data
            self._websocket.receive_data(data)
            for event in self._websocket.events():
                assert isinstance(event, Request)
                self.path = event.target
                self.protocols = tuple(event.subprotocols)
                self.headers = parse_headers(head.partition(b"\r\n")[2].removesuffix(b"\r\n\r\n"))
                return True
        return False

    # Writing ---------------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether nothing more can be sent."""
        return self._outgoing.closed

    def queue(self, event: Event) -> csp.Channel[None]:
        """Queue what wsproto makes from an event; never waits. See `queue_bytes`."""
        return self.queue_bytes(self.encoded(event))

    def encoded(self, *events: Event) -> bytes:
        """Return the bytes of wsproto's events, which must be sent: wsproto takes them for sent."""
        return b"".join(map(self._websocket.send, events))

    def queue_bytes(self, data: bytes) -> csp.Channel[None]:
        """Queue bytes; never waits.

        Returns a channel that gives None when the client has read the bytes, and closes; or closes without a value.

        Raises:
            ConnectionEndedError: nothing more can be sent.
        """
        if self._outgoing.closed:
            raise ConnectionEndedError
        written = csp.Channel[None](1)
        self._outgoing.send_nowait(_Outgoing(data, written))
        return written

    def end(self) -> None:
        """End the stream after everything that is queued."""
        self._outgoing.close()

    def drop(self) -> None:
        """End the stream at once."""
        self.close_sent = True
        # Cancelled first: the task that reads may be waiting for room in the channel that is closed next.
        self._scope.cancel()
        self.messages.close()
        self._outgoing.close()

    def stop_delivering(self) -> None:
        """Discard messages from now on."""
        self.close_sent = True
        self._delivering.cancel()

    def miss(self, error: EndOfChannelError) -> EndOfChannelError:
        """Return the error of a wait for a message that must come, from that of the channel, and note it."""
        text = f"the client sends no more messages: {self.how_it_ended()}"
        failure = EndOfChannelError(text, details=error.details)
        self.missed = weakref.ref(failure)
        return failure

    def how_it_ended(self) -> str:
        """Return how the connection ended, for the text of an error: once `messages` is closed."""
        if self.close_code is not None:
            code = "without a code" if self.close_code == CloseCode.NO_STATUS else f"with code {self.close_code}"
            return f"closed {code}" + (f" and the reason {shown(repr(self.close_reason))}" if self.close_reason else "")
        if self.error is not None:
            return str(self.error)
        if self.client_left:
            return "it left before it was accepted"
        return "the server has ended the connection"

    # Reading ---------------------------------------------------------------------------------------------------------

    def stop_reading(self) -> None:
        self._reads = trio.Event()
        self._reading.cancel()

    def read_on(self) -> None:
        self._reads.set()

    async def run(self) -> None:
        """Read and write until both directions have ended, or `drop`."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
        finally:
            self.drop()
            while (left := self._outgoing.receive_nowait()).ok:
                left.value.written.close()
            self.pings.close()
            with trio.CancelScope(shield=True):
                await self._stream.aclose()
            self.gone.set()

    async def _write(self) -> None:
        async for data, written in self._outgoing:
            try:
                await self._stream.send_all(data)
                written.send_nowait(None)
            except trio.BrokenResourceError:
                pass  # the client has gone, which the task that reads notices too
            finally:
                written.close()
        await self._stream.send_eof()

    async def _read(self) -> None:
        while data := await self._receive_some():
            # Before the request is accepted, wsproto only stores it.
            if not self.messages.closed:
                self._websocket.receive_data(data)
                for event in self._websocket.events():
                    await self._handle(event)
        self._note_leaving()
        if self.accepted and not self.messages.closed:
            self.error = ConnectionFailedError(
                "the client left without a close frame",
                kind=Kind.UNAVAILABLE,
                retryable=True,
                details={"code": int(CloseCode.ABNORMAL_CLOSURE), "reason": ""},
            )
        self.messages.close()
        self.end()

    async def _receive_some(self) -> bytes:
        while True:
            while not self._reads.is_set():
                await self._reads.wait()
            with trio.CancelScope() as self._reading:
                return bytes(await self._stream.receive_some())

    async def _handle(self, event: Event) -> None:
        match event:
            case TextMessage():
                self._text.append(event.data)
                if event.message_finished:
                    await self._deliver(Message(TYPE_TEXT, "".join(self._text)))
                    self._text.clear()
            case BytesMessage():
                self._binary.append(bytes(event.data))
                if event.message_finished:
                    await self._deliver(Message(TYPE_BINARY, b"".join(self._binary)))
                    self._binary.clear()
            case Ping():
                if self.answer_pings and not self.close_sent:
                    self.queue(event.response())
            case Pong():
                self.pings.answered(bytes(event.payload))
            case _:
                assert isinstance(event, CloseConnection)
                self._closed(event)

    async def _deliver(self, message: Message) -> None:
        if not self.close_sent:
            with trio.CancelScope() as self._delivering:
                await self.messages.send(message)

    def _note_leaving(self) -> None:
        if not (self.close_sent or self.ended):
            self.client_left = True

    def _closed(self, event: CloseConnection) -> None:
        """Note the client's close, answer it, and end. wsproto reports a violation of the protocol in the same way."""
        reason = event.reason or ""
        self._note_leaving()
        if self._websocket.state is ConnectionState.OPEN:
            self.error = ConnectionFailedError(
                f"the client broke the protocol: {shown(reason)}",
                kind=Kind.INTERNAL,
                retryable=False,
                details={"code": int(event.code), "reason": reason},
            )
        else:
            self.close_code, self.close_reason = int(event.code), reason
            self.messages.close(details={"code": self.close_code, "reason": reason})
        if not self.close_sent:
            self.close_sent = True
            self.queue(event.response())
        self.messages.close()
        self.end()
