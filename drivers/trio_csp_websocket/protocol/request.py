"""Finds and checks the request of a client (RFC 6455, section 4.2.1; RFC 9112). No I/O.

h11 parses a head. It is given complete heads only, and only lines that HTTP allows: it would take lines that end with a
line feed alone and headers that go on in a further line, and its texts would show the query. The bytes of a head are
looked at in the order in which they came, and the first fault decides. So a request has the same result however it was
cut, and the time it takes grows with the number of its bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING, TypeAlias, final

import h11

from csp.errors import shown
from trio_csp_websocket.protocol.headers import TOKEN
from trio_csp_websocket.protocol.heads import MAX_HEADER_LINES

if TYPE_CHECKING:
    from collections.abc import Sequence

_Values: TypeAlias = "dict[bytes, list[bytes]]"

# A server of TLS is sent a record of the type handshake, 22, first (RFC 8446, section 5.1). In HTTP no request begins
# with this byte, whatever follows.
_TLS_HANDSHAKE = b"\x16"
_HTTP_2_PREFACE = b"PRI * HTTP/2.0"  # its first line (RFC 9113, section 3.4)
# The methods that exist have less. What is longer is taken for something else than HTTP.
_MAX_METHOD_BYTES = 32
_TOKEN_BYTES = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_METHOD = re.compile(_TOKEN_BYTES + rb"{0,%d}" % _MAX_METHOD_BYTES)
_BEGINNING = re.compile(rb"\Z|" + _TOKEN_BYTES + rb"{1,%d}(?: |\Z)" % _MAX_METHOD_BYTES)
_REQUEST_LINE = re.compile(rb"(%s+) [!-~]+ HTTP/([0-9]\.[0-9])" % _TOKEN_BYTES)
_FIELD = re.compile(_TOKEN_BYTES + rb"+:")
# The end of a line, or a byte that no head may have (RFC 9110, section 5.5; RFC 9112, section 2.2). What follows a
# carriage return at the end of the data is not known yet.
_STOP = re.compile(rb"\r\n|\r(?!\Z)|[\x00-\x08\n-\x0c\x0e-\x1f\x7f]")
_LINE_END = b"\r\n"
_LINE_FAULTS = {
    b"\n": "a line of the request ends with a line feed alone: HTTP wants a carriage return before it",
    b"\r": "the request contains a carriage return without a line feed behind it",
}

_ABSOLUTE_FORM = re.compile(r"(?:https?|wss?)://([^/?]*)(.*)", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Of the host names that RFC 3986, section 3.2.2, allows, those that a name server or a user may have.
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?")
_MAX_PORT = 65535
# 16 bytes. Which bits the last character has beyond them is not looked at (RFC 4648, section 3.5, allows that).
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_VERSION = b"13"
_SPACES = b" \t"


@final
class RefusedRequestError(Exception):
    """The request is refused; the text goes to the client and into the log.

    Args:
        status: of the answer.
        text: why, without what may be secret: no query, and no value of a header that may be one.
        headers: those of the answer that belong to this status.
    """

    def __init__(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


@final
@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request that keeps the rules of HTTP and, if it asks for a WebSocket, of the opening handshake.

    The ``repr`` does not show what may be secret.
    """

    method: str
    """``GET`` or ``HEAD``."""
    target: str = field(repr=False)
    """Path and query, as written; "/" and the query if an absolute target has no path."""
    host: str | None
    """Host and port, as written: those of an absolute target, else of the Host header; None in HTTP/1.0 without one."""
    http_1_0: bool
    """Whether it is in HTTP/1.0."""
    head: bytes = field(repr=False)
    """The headers for `parse_headers`, with their names as written."""
    websocket: bool
    """Whether it asks for a WebSocket."""
    origin: str | None
    """The value of the Origin header."""
    key: bytes = field(repr=False)
    """The value of Sec-WebSocket-Key; b"" if it asks for no WebSocket, as in what follows."""
    protocols: tuple[str, ...] = field(repr=False)
    """The subprotocols that are offered, in their order, each once."""
    extensions: str
    """The values of Sec-WebSocket-Extensions, joined by commas; "" if there are none."""


@final
class RequestReader:
    """Reads the head of one request as it arrives, and checks it.

    Args:
        limit_bytes: how large the head may be, with the blank line at its end.
    """

    __slots__ = ("_begun", "_data", "_limit_bytes", "_line_start", "_lines", "_searched")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()
        self._begun = False
        # How much has been searched, where the line begins that is not complete, and how many lines are.
        self._searched = 0
        self._line_start = 0
        self._lines = 0

    @property
    def begun(self) -> bool:
        """Whether anything of a request has come."""
        return self._begun

    def feed(self, data: bytes) -> ParsedRequest | None:
        """Take in what was read; return the request once its head is complete.

        After a request, or an error, nothing more may be fed.

        Raises:
            RefusedRequestError: it is no request that is answered, which is told as early as it is certain. The status
                is 400; 405 for a method; 426 for another version of the protocol than 13; 431 if the head is larger
                than the limit or has more than 100 lines of headers; 505 for another version of HTTP.
        """
        held = self._data
        held += data
        self._begun = self._begun or bool(data)
        if _BEGINNING.match(held, 0, _MAX_METHOD_BYTES + 1) is None:
            raise _no_http(bytes(held[: _MAX_METHOD_BYTES + 1]))
        end = min(len(held), self._limit_bytes)
        while (stop := _STOP.search(held, self._searched, end)) is not None:
            if (byte := stop[0]) != _LINE_END:
                raise RefusedRequestError(
                    400, _LINE_FAULTS.get(byte, f"the request contains the byte {byte!r}, which HTTP forbids")
                )
            line = bytes(held[self._line_start : stop.start()])
            self._searched = self._line_start = stop.end()
            if not line:
                return _parsed(self._take(stop.end()))
            self._lines += 1
            self._check_line(line)
        # The line feed may come behind a carriage return.
        self._searched = end - held.endswith(b"\r", 0, end)
        if len(held) >= self._limit_bytes:
            raise RefusedRequestError(431, f"the head of the request is larger than {self._limit_bytes} bytes")
        return None

    def rest(self) -> bytes:
        """Take what has come behind the head."""
        return self._take(len(self._data))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    def _check_line(self, line: bytes) -> None:
        if self._lines == 1:
            _check_request_line(line)
        elif self._lines > MAX_HEADER_LINES + 1:
            raise RefusedRequestError(431, f"the request has more than {MAX_HEADER_LINES} lines of headers")
        elif line[0] in _SPACES:
            raise RefusedRequestError(
                400, f"line {self._lines} of the request begins with a space: a header must not go on in a further line"
            )
        elif _FIELD.match(line) is None:
            raise RefusedRequestError(
                400, f"line {self._lines} of the request is no header: it must begin with a name and a colon"
            )


def _no_http(began: bytes) -> RefusedRequestError:
    if began.startswith(_TLS_HANDSHAKE):
        return RefusedRequestError(400, "the request begins as TLS does, and this port speaks plain HTTP: use ws:")
    method = _METHOD.match(began)
    assert method is not None  # it may be empty
    return RefusedRequestError(400, f"the request is not in HTTP: it begins with {began[: method.end() + 1]!r}")


def _check_request_line(line: bytes) -> None:
    """Check the form of the first line, and the version (RFC 9112, section 3). It is not shown: it has the query."""
    if line == _HTTP_2_PREFACE:
        raise RefusedRequestError(400, "the request begins as HTTP/2 does, and this port speaks HTTP/1.1")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise RefusedRequestError(
            400, "the first line of the request is malformed: it must be a method, a target in ASCII and HTTP/1.1"
        )
    if found[2] not in (b"1.1", b"1.0"):
        raise RefusedRequestError(505, f"the request must be in HTTP/1.1, not HTTP/{found[2].decode()}")


# Of a complete head ---------------------------------------------------------------------------------------------------


def _parsed(head: bytes) -> ParsedRequest:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head)
    try:
        request = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise RefusedRequestError(400, f"the request is not valid in HTTP: {shown(str(error))}") from None
    assert isinstance(request, h11.Request)
    values: _Values = {}
    for name, value in request.headers:
        values.setdefault(name, []).append(value)
    websocket = b"websocket" in _elements(values, b"upgrade")
    _check_method(request.method, websocket=websocket)
    authority, target = _target(request.target.decode("ascii"))
    host = _host(values, authority)
    http_1_0 = request.http_version == b"1.0"
    if websocket:
        _check_handshake(values, http_1_0=http_1_0)
    return ParsedRequest(
        method=request.method.decode("ascii"),
        target=target,
        host=host,
        http_1_0=http_1_0,
        head=b"\r\n".join(name + b": " + value for name, value in request.headers.raw_items()),
        websocket=websocket,
        origin=_origin(values),
        key=_key(values) if websocket else b"",
        protocols=_protocols(values) if websocket else (),
        extensions=_joined(values.get(b"sec-websocket-extensions", ())) if websocket else "",
    )


def _check_method(method: bytes, *, websocket: bool) -> None:
    allowed = ("GET",) if websocket else ("GET", "HEAD")
    given = method.decode("ascii")
    if given not in allowed:
        purpose = " of a request for a WebSocket" if websocket else ""
        raise RefusedRequestError(
            405,
            f"the method{purpose} must be {' or '.join(allowed)}, not {shown(given)}",
            ("Allow", ", ".join(allowed)),
        )


def _target(target: str) -> tuple[str | None, str]:
    """Return host and port of a target, None if it has none, and its path and query (RFC 9112, section 3.2)."""
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    authority = None
    if absolute is not None:
        authority, target = absolute.groups()
        target = target if target.startswith("/") else f"/{target}"
        if "@" in authority:
            raise RefusedRequestError(400, "the target of the request must not have a user and a password")
        if not _is_host(authority):
            raise RefusedRequestError(400, "the target of the request names no valid host and port")
    if not target.startswith("/"):
        raise RefusedRequestError(
            400, "the target of the request must be a path, or a URL that begins with http:, https:, ws: or wss:"
        )
    if "#" in target:
        raise RefusedRequestError(400, "the target of the request must not have a fragment (#...)")
    if _BAD_ESCAPE.search(target.partition("?")[0]) is not None:
        raise RefusedRequestError(400, "the path of the request has a % that is not followed by two hexadecimal digits")
    return authority, target


def _host(values: _Values, authority: str | None) -> str | None:
    """Return host and port; the Host header is checked even if it does not count (RFC 9112, section 3.2).

    h11 has seen to it that there is one in HTTP/1.1, and never more.
    """
    for value in values.get(b"host", ()):
        host = value.decode("latin-1")
        if not _is_host(host):
            raise RefusedRequestError(400, "the Host header of the request names no valid host and port")
        return host if authority is None else authority
    return authority


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    if found is None:
        return False
    address, port = found.groups()
    if address is not None:
        try:
            IPv6Address(address)
        except AddressValueError:
            return False
    return port is None or int(port) <= _MAX_PORT


def _origin(values: _Values) -> str | None:
    origins = values.get(b"origin")
    if origins is None:
        return None
    if len(origins) > 1:
        raise RefusedRequestError(400, "the request must have one Origin header at most")
    return origins[0].decode("latin-1")


# Of the opening handshake ---------------------------------------------------------------------------------------------


def _check_handshake(values: _Values, *, http_1_0: bool) -> None:
    """Check what a request for a WebSocket has besides its key and what it offers."""
    if http_1_0:
        raise RefusedRequestError(400, "a request for a WebSocket must be in HTTP/1.1, not HTTP/1.0")
    for name in ("Content-Length", "Transfer-Encoding"):
        if name.lower().encode() in values:
            raise RefusedRequestError(400, f"a request for a WebSocket must have no body, and so no {name} header")
    if b"upgrade" not in _elements(values, b"connection"):
        raise RefusedRequestError(400, "the Connection header of a request for a WebSocket must contain Upgrade")
    versions = values.get(b"sec-websocket-version", ())
    if tuple(versions) != (_VERSION,):
        given = f"'{shown(_joined(versions))}'" if versions else "missing"
        raise RefusedRequestError(
            426,
            f"the Sec-WebSocket-Version header of the request must be 13, not {given}",
            ("Sec-WebSocket-Version", "13"),
            ("Upgrade", "websocket"),
        )


def _key(values: _Values) -> bytes:
    keys = values.get(b"sec-websocket-key", ())
    if len(keys) != 1:
        raise RefusedRequestError(400, f"the request must have one Sec-WebSocket-Key header, not {len(keys)}")
    if _KEY.fullmatch(keys[0]) is None:
        raise RefusedRequestError(400, "the Sec-WebSocket-Key header of the request must be 16 bytes in base64")
    return keys[0]


def _protocols(values: _Values) -> tuple[str, ...]:
    """Return the subprotocols; empty elements of the list do not count (RFC 9110, section 5.6.1)."""
    lists = values.get(b"sec-websocket-protocol")
    if lists is None:
        return ()
    elements = [element.strip(" \t") for element in _joined(lists).split(",")]
    names = tuple(dict.fromkeys(element for element in elements if element))
    if not names or not all(map(TOKEN.fullmatch, names)):
        raise RefusedRequestError(
            400, "the Sec-WebSocket-Protocol header of the request must be a list of names, with commas between them"
        )
    return names


def _elements(values: _Values, name: bytes) -> list[bytes]:
    """Return the elements of a list in lower case."""
    return [element.strip(_SPACES).lower() for element in b",".join(values.get(name, ())).split(b",")]


def _joined(values: Sequence[bytes]) -> str:
    return b", ".join(values).decode("latin-1")
