"""Checks a server's answer to the opening handshake (RFC 6455, section 4.1). No I/O.

trio-websocket and wsproto carry out the handshake, but they turn a bad answer into an h11 error, or into nothing until
a timeout. So the answer is read here first, also by h11. trio-websocket is given another, made here of what was
checked: nothing else that a server says reaches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
from wsproto.utilities import generate_accept_token

from csp.errors import ConnectionFailedError, Kind, shown
from trio_csp_websocket.protocol.headers import Headers, joined, parse_headers
from trio_csp_websocket.protocol.heads import Heads, NoAnswerError, said
from trio_csp_websocket.protocol.negotiation import DeflateParameters, agreed
from trio_csp_websocket.protocol.refusal import (
    MAX_BODY_BYTES,
    REDIRECTS,
    RedirectError,
    first_line,
    may_pass,
    redirect_text,
    refusal_text,
    status_text,
)
from trio_csp_websocket.protocol.secrets import Secrets, name_unless_secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_websocket.protocol.constants import Compression

# A refusal's body goes to h11 in pieces of this size, and a line of it, such as a chunk's size with its extensions, may
# be hardly longer: the time that h11 takes for a line can grow with the square of its length.
_BODY_PIECE_BYTES = 1024

_SWITCHING_PROTOCOLS = 101
# Around a header's value and in lists (RFC 9110, section 5.6.3). What `str.strip` strips by itself is more.
_SPACES = " \t"


class ResponseReader:
    """Reads the answer to one opening handshake as it arrives, and checks it.

    Args:
        protocols: the subprotocols that were offered.
        compression: the compression that was offered.
        require_subprotocol: whether the server must choose one.
        follow_redirects: whether a redirect is raised as such, ahead of its body.
    """

    def __init__(
        self,
        protocols: Sequence[str],
        compression: Compression,
        *,
        require_subprotocol: bool = False,
        follow_redirects: bool = False,
    ) -> None:
        self._protocols = protocols
        self._require_subprotocol = require_subprotocol
        self._follow_redirects = follow_redirects
        self._compression = compression
        self._expected_accept = b""
        self._request: h11.Request
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_BODY_PIECE_BYTES)
        self._response: h11.Response | None = None
        self._heads = Heads()
        self._beginning = b""
        self._body = b""
        self._body_complete = False
        self.headers: Headers = Headers()
        """The headers of the answer, once there is one."""
        self.head: bytes = b""
        """The same as bytes for `parse_headers`, which take a fraction of an object's memory."""
        self.deflate: DeflateParameters | None = None
        """How messages are compressed, if the answer agrees to it."""
        self.earlier_secrets: Secrets | None = None
        """What may be secret in the requests whose redirects led to this one."""

    def request_sent(self, request: bytes) -> None:
        """Take note of the request: its key determines the answer."""
        server = h11.Connection(h11.SERVER)
        server.receive_data(request)
        event = server.next_event()
        assert isinstance(event, h11.Request)
        self._request = event
        self._http.send(event)
        self._http.send(h11.EndOfMessage())
        self._expected_accept = generate_accept_token(dict(event.headers)[b"sec-websocket-key"])

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Take in what was read; b"" if the stream has ended.

        Returns None while more is needed, then the head of the answer and what came after it.

        Raises:
            ConnectionFailedError: the answer does not accept the connection, or is invalid.
        """
        if len(self._beginning) < MAX_BODY_BYTES:
            self._beginning = (self._beginning + data)[:MAX_BODY_BYTES]
        if self._response is not None:
            self._read_body(data, ended=not data)
            return None
        self._heads.feed(data)
        while (head := self._next_head()) is not None:
            event = self._parse(head)
            if isinstance(event, h11.Response):
                self._note_headers(event)
                if self._follow_redirects and event.status_code in REDIRECTS and "location" in self.headers:
                    raise self._redirect(event)
                self._response = event
                self._read_body(self._heads.rest())
                return None
            if event.status_code == _SWITCHING_PROTOCOLS:
                return self._accept(event), self._heads.rest()
        if not data:
            raise self._no_answer("the server closed the connection in the middle of the WebSocket handshake")
        return None

    def _next_head(self) -> bytes | None:
        try:
            return self._heads.next()
        except NoAnswerError as error:
            if self._beginning.startswith(b"GET "):
                # It may have the query, which is not shown.
                raise self._no_answer(
                    "the server did not answer in HTTP: it sent a request, as a server that echoes does"
                ) from None
            raise self._no_answer(self._unless_it_repeats(str(error)) if error.shows else str(error)) from None

    def _parse(self, head: bytes) -> h11.InformationalResponse | h11.Response:
        self._http.receive_data(head)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            why = said(error)
            text = f"the server did not answer in HTTP: {shown(why)}"
            raise self._no_answer(self._unless_it_repeats(text, why)) from None
        assert isinstance(event, h11.InformationalResponse | h11.Response)
        return event

    def _unless_it_repeats(self, text: str, quoted: str = "") -> str:
        """Return a text that shows what came in place of an answer, or another one if a secret of the request came."""
        secrets = self._secrets()
        if secrets.too_many:
            return "the server did not answer in HTTP"
        for came in (self._beginning.decode("latin-1"), quoted):
            if secrets.hidden(came, cut=True) != came:
                return "the server did not answer in HTTP: it repeats a part of the request"
        return text

    def _read_body(self, data: bytes, *, ended: bool = False) -> None:
        """Take in more of a refusal's body; raise the refusal once there is enough, or no more comes."""
        self._take_body()
        for start in range(0, len(data), _BODY_PIECE_BYTES):
            self._http.receive_data(data[start : start + _BODY_PIECE_BYTES])
            self._take_body()
        if ended:
            self._http.receive_data(b"")
            self._take_body()

    def _take_body(self) -> None:
        """Take what h11 has of the body; raise the refusal if that is enough, or all."""
        try:
            while isinstance(event := self._http.next_event(), h11.Data):
                self._body += event.data
        except h11.RemoteProtocolError:
            raise self.refusal() from None
        self._body_complete = isinstance(event, h11.EndOfMessage)
        if event is not h11.NEED_DATA or len(self._body) >= MAX_BODY_BYTES:
            raise self.refusal()

    @property
    def begun(self) -> bool:
        """Whether anything of an answer has come."""
        return bool(self._beginning)

    @property
    def refused(self) -> bool:
        """Whether the answer is a refusal whose body is still arriving."""
        return self._response is not None

    def refusal(self) -> ConnectionFailedError:
        """Return the error for an answer with another status than 101, with what has arrived of its body."""
        assert self._response is not None
        status = self._response.status_code
        reason = _reason(self._response)
        line = first_line(self._body, complete=self._body_complete)
        return ConnectionFailedError(
            refusal_text(status, reason, self.headers, line, self._secrets()),
            kind=Kind.INTERNAL,
            retryable=may_pass(status),
            details=self._details(status, self._body[:MAX_BODY_BYTES]),
        )

    def _redirect(self, response: h11.Response) -> RedirectError:
        secrets = self._secrets()
        locations = self.headers.get_all("location")
        status = status_text(response.status_code, _reason(response), secrets)
        details = self._details(response.status_code, b"")
        return RedirectError(redirect_text(status, locations[0], secrets), locations, secrets, details)

    def _no_answer(self, message: str) -> ConnectionFailedError:
        return _bad_answer(message, {"answer": self._beginning})

    def _note_headers(self, event: h11.InformationalResponse | h11.Response) -> None:
        self.head = b"\r\n".join(name + b": " + value for name, value in event.headers.raw_items())
        self.headers = parse_headers(self.head)

    def _accept(self, event: h11.InformationalResponse) -> bytes:
        """Check an answer with status 101, and return one for trio-websocket that says as much."""
        self._note_headers(event)
        upgrade = self.headers.get_all("upgrade")
        if [value.strip(_SPACES).lower() for value in upgrade] != ["websocket"]:
            raise self._invalid(f"its Upgrade header must be websocket, not {self._quoted(', '.join(upgrade))}")
        connection = ", ".join(self.headers.get_all("connection"))
        if "upgrade" not in [token.strip(_SPACES).lower() for token in connection.split(",")]:
            raise self._invalid(f"its Connection header must contain Upgrade, not be {self._quoted(connection)}")
        accept = self.headers.get_all("sec-websocket-accept")
        if [value.strip(_SPACES).encode("latin-1") for value in accept] != [self._expected_accept]:
            raise self._invalid("its Sec-WebSocket-Accept header does not match the key sent")
        extensions = ", ".join(self.headers.get_all("sec-websocket-extensions"))
        try:
            self.deflate = agreed(extensions, self._compression)
        except ValueError as error:
            raise self._invalid(
                self._secrets().hidden(str(error)) or "its Sec-WebSocket-Extensions header is not what was offered"
            ) from None
        protocols = self.headers.get_all("sec-websocket-protocol")
        if protocols and (len(protocols) > 1 or protocols[0] not in self._protocols):
            raise self._invalid(self._bad_choice(", ".join(protocols)))
        if self._require_subprotocol and not protocols:
            offered = ", ".join(map(name_unless_secret, self._protocols))
            raise ConnectionFailedError(
                f"the server chose none of the subprotocols that were offered: {offered}",
                kind=Kind.INTERNAL,
                retryable=False,
                details=self._details(_SWITCHING_PROTOCOLS, b""),
            )
        return _canonical_head(self._expected_accept, protocols[0] if protocols else None)

    def _bad_choice(self, chosen: str) -> str:
        """Say that a server chose a subprotocol that was not offered, or several.

        Offers may be tokens. So they are counted, and what the server chose is not shown if it repeats one of them.
        """
        if not self._protocols:
            return f"it chose the subprotocol {self._quoted(chosen)}, and none was offered"
        choices = [choice.strip(_SPACES) for choice in chosen.split(",")]
        if len(self._protocols) > 1 and set(choices) == set(self._protocols):
            return f"it repeats all {len(self._protocols)} subprotocols that were offered, and must choose one of them"
        repeats = any(offer.lower() in chosen.lower() for offer in self._protocols)
        other = "another or several" if repeats else self._quoted(chosen)
        return f"it must choose one of the subprotocols that were offered ({len(self._protocols)}), not {other}"

    def _quoted(self, said: str) -> str:
        return f"'{shown(self._secrets().hidden(said))}'"

    def _invalid(self, reason: str) -> ConnectionFailedError:
        return _bad_answer(
            f"the server's answer to the handshake is invalid: {reason}",
            self._details(_SWITCHING_PROTOCOLS, b""),
        )

    def _secrets(self) -> Secrets:
        """Return what may be secret in the request, and so must not be shown if the server repeats it."""
        headers = self._request.headers
        return Secrets(
            self._request.target.decode("latin-1"),
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers],
            self.earlier_secrets,
        )

    def _details(self, status: int, body: bytes) -> dict[str, object]:
        """Return what the error tells programs of an answer."""
        return {
            "status": status,
            "headers": joined(self.headers),
            "response_headers": self.headers,
            "body": body,
        }


def _reason(response: h11.Response) -> str:
    return bytes(response.reason).decode("latin-1").rstrip(_SPACES)


def _bad_answer(message: str, details: dict[str, object]) -> ConnectionFailedError:
    return ConnectionFailedError(message, kind=Kind.INTERNAL, retryable=True, details=details)


def _canonical_head(accept: bytes, subprotocol: str | None) -> bytes:
    """Return the head of the plainest answer that accepts a connection."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
    ]
    if subprotocol is not None:
        lines.append(b"Sec-WebSocket-Protocol: " + subprotocol.encode("ascii"))
    return b"\r\n".join(lines) + b"\r\n\r\n"
