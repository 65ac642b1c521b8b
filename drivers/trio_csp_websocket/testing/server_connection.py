"""The server's end of a connection in memory, which a test scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeAlias, final

import h11
import trio
from wsproto.events import AcceptConnection, BytesMessage, Ping, RejectConnection, RejectData, TextMessage
from wsproto.extensions import PerMessageDeflate

from csp.errors import EndOfChannelError, InvalidError, NoContextError, shown
from trio_csp_websocket.protocol.close import close_payload
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.encoder import Encoder
from trio_csp_websocket.protocol.frames import CLOSE, MAX_CONTROL_PAYLOAD
from trio_csp_websocket.protocol.headers import Headers, field_pairs
from trio_csp_websocket.protocol.messages import encoded
from trio_csp_websocket.protocol.url import without_query
from trio_csp_websocket.testing.peer import ConnectionEndedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from typing_extensions import Buffer

    import csp
    from csp.errors import ConnectionFailedError
    from trio_csp_websocket.protocol.messages import Message
from trio_csp_websocket.testing.peer import Peer

GivenHeaders: TypeAlias = "Mapping[str, str] | Iterable[tuple[str, str]] | None"

# How long `close` waits for the client, on Trio's clock.
_CLOSE_SECONDS = 10.0


@final
class ServerConnection:
    """The server's end of a connection in memory, which does what the test says. Made by `websocket_server`.

    Messages are read in the background, up to 1000 ahead of `receive`. Methods that send wait until the client has read
    what they sent; if they are cancelled, it is sent nevertheless. Methods that need an open connection `accept` the
    request, if it has not been answered; a handler that only sleeps has to call `accept` itself.
    """

    def __init__(self, peer: Peer, url: str) -> None:
        self._peer = peer
        self._url = url

    # The handshake ---------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The URL the client connects to, normalised and without credentials."""
        return self._url

    @property
    def path(self) -> str:
        """Path and query, as in the request."""
        return self._peer.path

    @property
    def headers(self) -> Headers:
        """The headers of the request; names are matched in any case."""
        return self._peer.headers

    @property
    def protocols(self) -> tuple[str, ...]:
        """The subprotocols the client offers."""
        return self._peer.protocols

    async def accept(
        self, *, protocol: str | None = None, headers: GivenHeaders = None, compression: bool = False
    ) -> None:
        """Accept the connection.

        Args:
            protocol: the subprotocol chosen from those offered.
            headers: additional headers for the answer.
            compression: whether to agree to permessage-deflate, if the client offers it.

        Raises:
            InvalidError: the protocol was not offered; to send such an answer, use `send_bytes`.
            NoContextError: the request was answered already.
            ConnectionEndedError: the client has gone.
        """
        self._check_unanswered()
        await _written(self._accept(protocol, headers, compression=compression))

    async def reject(self, status: int, *, headers: GivenHeaders = None, body: bytes = b"") -> None:
        """Refuse the connection with an HTTP status of 200 to 999, and end it.

        Raises:
            InvalidError: the answer cannot be written: another status, a malformed header, a Content-Length that does
                not match the body.
            NoContextError: the request was answered already.
            ConnectionEndedError: the client has gone.
        """
        self._check_unanswered()
        given = _header_pairs(headers)
        if all(name.lower() != b"content-length" for name, _ in given):
            given.append((b"Content-Length", str(len(body)).encode()))
        try:
            answer = self._peer.encoded(
                RejectConnection(status_code=status, headers=given, has_body=True), RejectData(data=body)
            )
        except h11.LocalProtocolError as error:
            raise InvalidError(f"such an answer cannot be written: {shown(str(error))}") from None
        written = self._peer.queue_bytes(answer)
        self._peer.answered = True
        self._peer.end()
        await _written(written)

    def _accept(self, protocol: str | None, headers: GivenHeaders, *, compression: bool) -> csp.Channel[None]:
        if protocol is not None and protocol not in self.protocols:
            raise InvalidError(f"protocol must be one of the {len(self.protocols)} that were offered, not {protocol!r}")
        written = self._peer.queue(
            AcceptConnection(
                subprotocol=protocol,
                extra_headers=_header_pairs(headers),
                extensions=[PerMessageDeflate()] if compression else [],
            )
        )
        self._peer.answered = self._peer.accepted = True
        return written

    def _check_unanswered(self) -> None:
        if self._peer.answered:
            raise NoContextError("the request was answered already")
        if self._peer.ended:
            raise ConnectionEndedError

    def _accept_if_unanswered(self) -> None:
        if not self._peer.answered and not self._peer.ended:
            self._accept(None, None, compression=False)

    # Messages --------------------------------------------------------------------------------------------------------

    async def send(self, data: str | Buffer) -> None:
        """Send a text message, or a binary one from anything bytes-like, and wait until the client has read it.

        Raises:
            InvalidError: the data cannot be sent, as in `csp.websocket.Client.send`.
            ConnectionEndedError: the connection has ended, or is being closed.
            NoContextError: the request was answered, but not accepted.
        """
        _, payload = encoded(data, None)
        await self._send(TextMessage(data=data) if isinstance(data, str) else BytesMessage(data=bytes(payload)))

    async def ping(self, payload: bytes | None = None) -> csp.Channel[float]:
        """Send a ping, wait until the client has read it, and return a channel for the answer.

        When the pong comes, the channel gives the round-trip time in seconds, and closes. If the connection ends first,
        it closes without a value.

        Args:
            payload: up to 125 bytes; by default a running number.

        Raises:
            InvalidError: the payload is longer.
            ConnectionEndedError: the connection has ended, or is being closed.
            NoContextError: the request was answered, but not accepted.
        """
        if payload is not None and len(payload) > MAX_CONTROL_PAYLOAD:
            raise InvalidError(f"payload must be at most {MAX_CONTROL_PAYLOAD} bytes, not {len(payload)}")
        pings = self._peer.pings
        data = pings.new_payload() if payload is None else payload
        answer = pings.sent(data)
        await self._send(Ping(payload=data))
        return answer

    @property
    def answer_pings(self) -> bool:
        """Whether the client's pings are answered. Set this to False for a server that has gone silent."""
        return self._peer.answer_pings

    @answer_pings.setter
    def answer_pings(self, value: bool) -> None:
        self._peer.answer_pings = value

    def channel(self) -> csp.Channel[Message]:
        """Return the channel on which the client's messages arrive: always the same one.

        It closes when the client's close frame has come, or the client's stream has ended. It has no ``cause``; see
        `error`.
        """
        self._accept_if_unanswered()
        return self._peer.messages

    async def receive(self) -> csp.Received[Message]:
        """Take the client's next message: ``(message, True)``, or ``(None, False)`` once there are no more."""
        return await self.channel().receive()

    async def receive_value(self) -> Message:
        """Take the client's next message.

        Raises:
            EndOfChannelError: there are no more. The text tells how the connection ended; ``code`` and ``reason`` of
                the client's close frame are in the details, if there was one. If the handler does not catch it, an
                `AssertionError` with that text comes out of `websocket_server`.
        """
        try:
            return await self.channel().receive_value()
        except EndOfChannelError as error:
            raise self._peer.miss(error) from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Take the client's next message; stop the iteration once there are no more, whatever the reason.

        A `StopAsyncIteration` that the handler does not catch, as of ``await anext(connection)``, comes out of
        `websocket_server` as an `AssertionError` that tells how the connection ended.
        """
        return await self.channel().__anext__()

    async def _send(self, event: TextMessage | BytesMessage | Ping) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._accept_if_unanswered()
        if self._peer.answered and not self._peer.accepted:
            raise NoContextError("the request was answered, but not by accept")
        if self._peer.ended or self._peer.close_sent:
            raise ConnectionEndedError
        await _written(self._peer.queue(event))

    # What a server should not do -------------------------------------------------------------------------------------

    async def send_bytes(self, raw: bytes) -> None:
        """Send bytes unchanged, and wait until the client has read them.

        If the request has not been answered, they are the answer, or the beginning of it.

        Raises:
            ConnectionEndedError: the connection has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._peer.answered = True
        await _written(self._peer.queue_bytes(raw))

    def stop_reading(self) -> None:
        """Stop reading: what the client sends waits, so its pings and its close are not answered."""
        self._peer.stop_reading()

    def read_on(self) -> None:
        """Read again after `stop_reading`."""
        self._peer.read_on()

    def drop(self) -> None:
        """End the stream at once, without a close frame: the client's `close_code` is 1006. Never fails."""
        self._peer.drop()

    # Closing ---------------------------------------------------------------------------------------------------------

    async def close(self, code: int | None = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection with a close frame, and wait until the client has closed it too.

        Messages that still arrive are discarded. After 10 s without an answer, or if cancelled, the stream ends. If
        either side has closed the connection before, this only waits.

        Args:
            code: any number of two bytes, even one that must not be sent; None for a close frame without a code.
            reason: cut to 123 bytes of UTF-8.

        Raises:
            InvalidError: the code does not fit into two bytes, or UTF-8 cannot encode the reason; nothing was done.
        """
        try:
            payload = b"" if code is None else close_payload(code, reason)
        except (OverflowError, UnicodeEncodeError) as error:
            raise InvalidError(f"such a close frame cannot be written: {error}") from None
        self._accept_if_unanswered()
        peer = self._peer
        if not peer.accepted:
            peer.end()
        elif not peer.ended and not peer.close_sent:
            peer.stop_delivering()
            peer.queue_bytes(Encoder().encode(CLOSE, payload))
        try:
            with trio.move_on_after(_CLOSE_SECONDS):
                await peer.gone.wait()
        finally:
            peer.drop()
            with trio.CancelScope(shield=True):
                await peer.gone.wait()

    @property
    def close_code(self) -> int | None:
        """The code of the client's close frame, 1005 if it gave none; None before there was such a frame."""
        return self._peer.close_code

    @property
    def close_reason(self) -> str | None:
        """The reason that goes with `close_code`."""
        return self._peer.close_reason

    @property
    def error(self) -> ConnectionFailedError | None:
        """What the client did wrong, or None. Of kind INTERNAL if it broke the protocol, UNAVAILABLE if it left."""
        return self._peer.error

    async def wait_closed(self) -> None:
        """Wait until the connection has ended and the client has closed its side."""
        self._accept_if_unanswered()
        await self._peer.gone.wait()

    def __repr__(self) -> str:
        if self._peer.gone.is_set():
            state = "ended"
        elif self._peer.ended or self._peer.close_sent:
            state = "closing"
        else:
            state = "open" if self._peer.accepted else "opening"
        return f"<csp.testing.ServerConnection {state}, {without_query(self._url)}>"


async def _written(written: csp.Channel[None]) -> None:
    if not (await written.receive()).ok:
        raise ConnectionEndedError


def _header_pairs(headers: GivenHeaders) -> list[tuple[bytes, bytes]]:
    pairs = field_pairs(() if headers is None else headers)
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in pairs]
