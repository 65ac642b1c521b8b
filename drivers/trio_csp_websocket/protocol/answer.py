"""Answers of a server: the 101, refusals and pages. No I/O."""

from __future__ import annotations

import base64
import functools
import hashlib
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.protocol.constants import TEXT
from trio_csp_websocket.protocol.headers import encoded_field, field_pairs
from trio_csp_websocket.protocol.messages import encoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from typing_extensions import Buffer

GivenHeaders: TypeAlias = "Mapping[str, str] | Iterable[tuple[str, str]] | None"
Fields: TypeAlias = list[tuple[bytes, bytes]]

HANDSHAKE_FIELDS: Final = (
    "Upgrade",
    "Connection",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version",
)
"""The headers that an answer with status 101 has from the handshake, or must not have."""

# RFC 6455, section 1.3. wsproto makes the token too, but takes long to load: `csp.websocket` is imported without it.
_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT_TYPE = (b"Content-Type", b"text/plain; charset=utf-8")
# RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5; and 8.6: with the first and the last, a Content-Length tells of no body.
_STATUSES_WITHOUT_BODY = (204, 205, 304)
_STATUSES_WITHOUT_LENGTH = (204, 304)


class Answer(NamedTuple):
    """An answer that can be written, and ends the connection."""

    status: int
    fields: Fields
    body: bytes

    def encoded(self, *, head_only: bool = False) -> bytes:
        """Return it as it goes on the wire; without the body if it answers HEAD."""
        return encoded_answer(self.status, self.fields, self.body, head_only=head_only)


# Written --------------------------------------------------------------------------------------------------------------


def acceptance(
    key: bytes, protocol: str | None, extensions: str | None, fields: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """Return the answer that accepts a connection (RFC 6455, section 4.2.2).

    Args:
        key: the client's.
        protocol: the subprotocol that was chosen, if one was.
        extensions: what was agreed to, if anything was.
        fields: further headers.
    """
    own: Fields = [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest())),
    ]
    if protocol is not None:
        own.append((b"Sec-WebSocket-Protocol", protocol.encode("ascii")))
    if extensions is not None:
        own.append((b"Sec-WebSocket-Extensions", extensions.encode("ascii")))
    return _head(101, [*own, *fields])


def encoded_answer(
    status: int, fields: Iterable[tuple[bytes, bytes]], body: bytes, *, head_only: bool = False
) -> bytes:
    """Return an answer that ends the connection.

    Behind the given headers there are Date (RFC 9110, section 6.6.1) and Content-Length, unless they were given or have
    no place there, and ``Connection: close``, with Upgrade if there is an Upgrade header (RFC 9110, section 7.8).

    Args:
        status: 200 to 599.
        fields: headers, among them neither Connection nor Transfer-Encoding.
        body: what goes behind the head.
        head_only: whether the request was HEAD: the body is measured, and not there.
    """
    all_fields = list(fields)
    names = {name.lower() for name, _ in all_fields}
    if b"date" not in names:
        all_fields.append((b"Date", _date(int(time.time()))))
    if b"content-length" not in names and status not in _STATUSES_WITHOUT_LENGTH:
        all_fields.append((b"Content-Length", str(len(body)).encode()))
    all_fields.append((b"Connection", b"close, Upgrade" if b"upgrade" in names else b"close"))
    head = _head(status, all_fields)
    return head if head_only else head + body


def text_answer(status: int, text: str, fields: Iterable[tuple[str, str]] = (), *, head_only: bool = False) -> bytes:
    """Return an answer that ends the connection, whose body is one line of text."""
    given = [_TEXT_TYPE, *(encoded_field(name, value) for name, value in fields)]
    return encoded_answer(status, given, f"{text}\n".encode(), head_only=head_only)


def _head(status: int, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (status, _reason(status)), *(name + b": " + value for name, value in fields)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@functools.lru_cache(maxsize=64)  # it is a search in an enumeration
def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


@functools.lru_cache(maxsize=1)
def _date(seconds: int) -> bytes:
    # Imported here, because it takes longer to load than all the rest of this file.
    from email.utils import formatdate  # noqa: PLC0415

    return formatdate(seconds, usegmt=True).encode("ascii")


# Checked --------------------------------------------------------------------------------------------------------------


def checked_answer(status: object, headers: GivenHeaders, body: str | Buffer) -> Answer:
    """Check an answer that a user gives.

    Args:
        status: 200 to 599, also as an ``http.HTTPStatus``.
        headers: a mapping or pairs.
        body: bytes or anything bytes-like. A str goes as UTF-8, with ``Content-Type: text/plain; charset=utf-8`` unless
            the headers have another.

    Raises:
        InvalidError: the answer cannot be written: another status, a malformed header, one that tells how the body goes
            or what becomes of the connection, a Content-Length that is wrong or is there twice, a body with a status
            that has none.
        InvalidTypeError: an argument is of the wrong type.
    """
    number = checked_status(status)
    kind, payload = encoded(body, None, name="body")
    if payload and number in _STATUSES_WITHOUT_BODY:
        raise InvalidError(f"body must be empty with status {number}")
    fields = checked_fields(headers, own=())
    if _values(fields, b"connection"):
        raise InvalidError("headers must not contain 'Connection': the answer ends the connection")
    if _values(fields, b"transfer-encoding"):
        raise InvalidError("headers must not contain 'Transfer-Encoding': the body goes as it is")
    _check_length(fields, number, len(payload))
    if kind == TEXT and not _values(fields, b"content-type"):
        fields.append(_TEXT_TYPE)
    return Answer(number, fields, bytes(payload))


def checked_status(status: object) -> int:
    """Return the status of an answer.

    Raises:
        InvalidError: it is not 200 to 599.
        InvalidTypeError: it is no int.
    """
    if isinstance(status, bool) or not isinstance(status, int):
        raise InvalidTypeError(f"status must be an int, not {status!r}")
    if not 200 <= status <= 599:
        raise InvalidError(f"status must be 200 to 599, not {int(status)}")
    return int(status)


def checked_acceptance_fields(headers: GivenHeaders) -> Fields:
    """Return the headers that a user gives for the answer that accepts a connection.

    Raises:
        InvalidError: a header is malformed, belongs to the handshake, or tells of a body.
        InvalidTypeError: they are of the wrong type.
    """
    fields = checked_fields(headers, own=HANDSHAKE_FIELDS)
    if _values(fields, b"content-length") or _values(fields, b"transfer-encoding"):
        raise InvalidError("headers must not contain 'Content-Length' or 'Transfer-Encoding': there is no body")
    return fields


def checked_fields(headers: GivenHeaders, *, own: Iterable[str]) -> Fields:
    """Return the headers that a user gives as they go on the wire.

    Args:
        headers: a mapping or pairs.
        own: the names of those that must not be among them, because they belong to the handshake.

    Raises:
        InvalidError: a header is malformed, or one of those.
        InvalidTypeError: they are of the wrong type.
    """
    refused = {name.lower() for name in own}
    fields: Fields = []
    for name, value in field_pairs(() if headers is None else headers):
        fields.append(encoded_field(name, value))
        if name.lower() in refused:
            raise InvalidError(f"headers must not contain {name!r}: it belongs to the handshake")
    return fields


def _check_length(fields: Fields, status: int, size: int) -> None:
    """Check the header that tells how long the body is (RFC 9110, section 8.6)."""
    lengths = _values(fields, b"content-length")
    if lengths and status == HTTPStatus.NO_CONTENT:
        raise InvalidError(f"headers must not contain 'Content-Length' with status {status}")
    if lengths and lengths != [str(size).encode()]:
        raise InvalidError(f"headers must contain Content-Length once, as {size}: that is how long the body is")


def _values(fields: Fields, name: bytes) -> list[bytes]:
    """Return the values of a header, whose name is given in lower case."""
    return [value for field, value in fields if field.lower() == name]
