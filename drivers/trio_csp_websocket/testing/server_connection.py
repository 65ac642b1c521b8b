"""The server's end of a connection in memory, which a test scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar, cast, final

import trio
from wsproto.events import AcceptConnection, BytesMessage, Ping, RejectConnection, RejectData, TextMessage
from wsproto.extensions import Extension, PerMessageDeflate

from csp.errors import EndOfChannelError, InvalidError, InvalidTypeError, NoContextError
from trio_csp_websocket.protocol.close import close_payload
from trio_csp_websocket.protocol.constants import TEXT, CloseCode
from trio_csp_websocket.protocol.encoder import Encoder
from trio_csp_websocket.protocol.frames import CLOSE, MAX_CONTROL_PAYLOAD
from trio_csp_websocket.protocol.headers import Headers, encoded_field, field_pairs
from trio_csp_websocket.protocol.messages import encoded, json_payload, utf_8
from trio_csp_websocket.protocol.url import without_query
from trio_csp_websocket.testing.peer import ConnectionEndedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from typing_extensions import Buffer

    import csp
    from csp.errors import ConnectionFailedError
    from trio_csp_websocket.protocol.messages import Message
    from trio_csp_websocket.testing.peer import Peer

T = TypeVar("T")
GivenHeaders: TypeAlias = "Mapping[str, str] | Iterable[tuple[str, str]] | None"

# How long `close` waits for the client, on Trio's clock.
_CLOSE_SECONDS = 10.0
_MAX_CODE = 0xFFFF
_STATUSES_WITHOUT_BODY = (204, 304)


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
            headers: additional headers for the answer: a mapping or pairs.
            compression: whether to agree to permessage-deflate, if the client offers it.

        Raises:
            InvalidError: the protocol was not offered, or a header is malformed or tells of a body. Nothing was sent;
                to send such an answer, use `send_bytes`.
            InvalidTypeError: an argument is of the wrong type.
            NoContextError: the request was answered already.
            ConnectionEndedError: the client has gone.
        """
        if protocol is not None and not isinstance(cast("object", protocol), str):
            raise InvalidTypeError(f"protocol must be a str or None, not {protocol!r}")
        if protocol is not None and protocol not in self.protocols:
            raise InvalidError(f"protocol must be one of the {len(self.protocols)} that were offered, not {protocol!r}")
        if not isinstance(cast("object", compression), bool):
            raise InvalidTypeError(f"compression must be True or False, not {compression!r}")
        fields = _fields(headers)
        if _values(fields, b"content-length") or _values(fields, b"transfer-encoding"):
            raise InvalidError("headers must not contain Content-Length or Transfer-Encoding: there is no body")
        self._check_unanswered()
        await _written(self._accept(protocol, fields, compression=compression))

    async def reject(self, status: int, *, headers: GivenHeaders = None, body: str | Buffer = b"") -> None:
        """Refuse the connection with an HTTP status, and end it.

        Args:
            status: 200 to 999, also as an ``http.HTTPStatus``.
            headers: additional headers for the answer: a mapping or pairs. Without a Content-Length or a
                Transfer-Encoding, which must be ``chunked``, the Content-Length is that of the body.
            body: bytes or anything bytes-like. A str goes as UTF-8, with ``Content-Type: text/plain; charset=utf-8``
                unless the headers have another.

        Raises:
            InvalidError: the answer cannot be written: another status, a malformed header, a Content-Length that does
                not match the body or is there twice, a body with 204 or 304. Nothing was sent; to send such an
                answer, use `send_bytes`.
            InvalidTypeError: an argument is of the wrong type.
            NoContextError: the request was answered already.
            ConnectionEndedError: the client has gone.
        """
        if isinstance(status, bool) or not isinstance(cast("object", status), int):
            raise InvalidTypeError(f"status must be an int, not {status!r}")
        if not 200 <= status <= 999:
            raise InvalidError(f"status must be 200 to 999, not {int(status)}")
        kind, payload = encoded(body, None, name="body")
        if payload and status in _STATUSES_WITHOUT_BODY:
            raise InvalidError(f"body must be empty with status {int(status)}")
        fields = _fields(headers)
        if kind == TEXT and not _values(fields, b"content-type"):
            fields.append((b"Content-Type", b"text/plain; charset=utf-8"))
        _frame(fields, len(payload))
        self._check_unanswered()
        answer = self._peer.encoded(
            RejectConnection(status_code=int(status), headers=fields, has_body=True), RejectData(data=bytes(payload))
        )
        written = self._peer.queue_bytes(answer)
        self._peer.answered = True
        self._peer.end()
        await _written(written)

    def _accept(
        self, protocol: str | None, fields: list[tuple[bytes, bytes]], *, compression: bool
    ) -> csp.Channel[None]:
        extensions: list[Extension] = [PerMessageDeflate()] if compression else []
        written = self._peer.queue(AcceptConnection(subprotocol=protocol, extra_headers=fields, extensions=extensions))
        self._peer.answered = self._peer.accepted = True
        return written

    def _check_unanswered(self) -> None:
        if self._peer.answered:
            raise NoContextError("the request was answered already")
        if self._peer.ended:
            raise ConnectionEndedError

    def _accept_if_unanswered(self) -> None:
        if not self._peer.answered and not self._peer.ended:
            self._accept(None, [], compression=False)

    # Messages --------------------------------------------------------------------------------------------------------

    async def send(self, data: str | Buffer) -> None:
        """Send a text message, or a binary one from anything bytes-like, and wait until the client has read it.

        Raises:
            InvalidError: the data cannot be sent, as in `csp.websocket.Client.send`; nothing was sent.
            InvalidTypeError: it is neither a str nor bytes-like.
            ConnectionEndedError: the connection has ended, or is being closed.
            NoContextError: the request was answered, but not accepted.
        """
        _, payload = encoded(data, None)
        await self._send(TextMessage(data=data) if isinstance(data, str) else BytesMessage(data=bytes(payload)))

    async def send_json(self, value: T, *, dumps: Callable[[T], str | Buffer] | None = None) -> None:
        """Send a value as JSON in a text message, encoded as by `csp.websocket.Client.send_json`, as `send` does.

        Raises:
            InvalidError: the value cannot be encoded, as in `csp.websocket.Client.send_json`; nothing was sent.
            InvalidTypeError: the same.
            ConnectionEndedError: as in `send`.
            NoContextError: as in `send`.
        """
        await self.send(bytes(json_payload(value, dumps)).decode())

    async def ping(self, payload: str | Buffer | None = None) -> csp.Channel[float]:
        """Send a ping, wait until the client has read it, and return a channel for the answer.

        When the pong comes, the channel gives the round-trip time in seconds, and closes. If the connection ends first,
        it closes without a value.

        Args:
            payload: up to 125 bytes, a str as UTF-8; by default a running number.

        Raises:
            InvalidError: the payload is longer, or a str that UTF-8 cannot encode; nothing was sent.
            InvalidTypeError: the payload is neither a str nor bytes-like.
            ConnectionEndedError: the connection has ended, or is being closed.
            NoContextError: the request was answered, but not accepted.
        """
        pings = self._peer.pings
        data = pings.new_payload() if payload is None else bytes(encoded(payload, None, name="payload")[1])
        if len(data) > MAX_CONTROL_PAYLOAD:
            raise InvalidError(f"payload must be at most {MAX_CONTROL_PAYLOAD} bytes, not {len(data)}")
        answer = pings.sent(data)
        await self._send(Ping(payload=data))
        return answer

    @property
    def answer_pings(self) -> bool:
        """Whether the client's pings are answered. Set this to False for a server that has gone silent."""
        return self._peer.answer_pings

    @answer_pings.setter
    def answer_pings(self, value: bool) -> None:
        if not isinstance(cast("object", value), bool):
            raise InvalidTypeError(f"answer_pings must be True or False, not {value!r}")
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

    async def send_bytes(self, raw: Buffer) -> None:
        """Send bytes, or anything bytes-like, unchanged, and wait until the client has read them.

        If the request has not been answered, they are the answer, or the beginning of it.

        Raises:
            InvalidTypeError: it is not bytes-like; nothing was sent.
            ConnectionEndedError: the connection has ended.
        """
        if isinstance(raw, str):
            raise InvalidTypeError("raw must be bytes-like, not str: encode it")
        _, data = encoded(raw, None, name="raw")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._peer.answered = True
        await _written(self._peer.queue_bytes(bytes(data)))

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
            code: 0 to 65535, also one that must not be sent; None for a close frame without a code.
            reason: cut to 123 bytes of UTF-8; line breaks and NUL go as they are. Without a code there is none.

        Raises:
            InvalidError: the code is out of range, UTF-8 cannot encode the reason, or there is a reason and no code;
                nothing was done.
            InvalidTypeError: the code is neither an int nor None, or the reason not a str.
        """
        payload = _close_payload(code, reason)
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


def _fields(headers: GivenHeaders) -> list[tuple[bytes, bytes]]:
    return [encoded_field(name, value) for name, value in field_pairs(() if headers is None else headers)]


def _values(fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the values of a header, whose name is given in lower case."""
    return [value for field, value in fields if field.lower() == name]


def _frame(fields: list[tuple[bytes, bytes]], size: int) -> None:
    """Check the headers that tell how long a body is, and add one if there is none (RFC 9112, section 6)."""
    lengths, codings = _values(fields, b"content-length"), _values(fields, b"transfer-encoding")
    if lengths and codings:
        raise InvalidError("headers must not contain both Content-Length and Transfer-Encoding")
    if codings and [coding.lower() for coding in codings] != [b"chunked"]:
        raise InvalidError("headers must contain no other Transfer-Encoding than chunked, and that once")
    if lengths and lengths != [str(size).encode()]:
        raise InvalidError(f"headers must contain Content-Length once, as {size}: that is how long the body is")
    if not lengths and not codings:
        fields.append((b"Content-Length", str(size).encode()))
