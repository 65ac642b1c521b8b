"""The options of `connect`: as callers write them, and as the driver needs them, checked."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError
from typing import TYPE_CHECKING, TypedDict, cast

import csp
from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.connection.settings import Settings, Timeout, parse_settings, parse_timeout
from trio_csp_websocket.protocol.authority import normalized_host, normalized_ipv6
from trio_csp_websocket.protocol.headers import TOKEN, encoded_field, field_pairs

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.constants import Compression


class ConnectOptions(TypedDict, total=False):
    """The options of a connection: keyword arguments of `connect` and `reconnecting`.

    Anything out of range is an `InvalidError` before any I/O.
    """

    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None
    """Headers to send with the handshake, in addition to its own. None."""
    protocols: Iterable[str] | None
    """Subprotocols to offer, the preferred one first; the server's choice is `Client.subprotocol`. None."""
    dial_timeout: Timeout
    """The limit for name resolution, TCP, TLS and handshake together. 30 s."""
    read_timeout: Timeout
    """The limit for the wait for a whole message. Pings do not extend it; time spent waiting for room in the channel
    does not count. None."""
    write_timeout: Timeout
    """The limit for a send or ping. If writing it has begun by then, the connection ends. None."""
    compression: Compression | int
    """Whether to offer permessage-deflate (RFC 7692), and whether messages may refer to earlier ones. DISABLED."""
    compression_threshold: int
    """The size in bytes from which messages are sent compressed: 0 to 104857600. 128, or 512 for NO_CONTEXT."""
    read_limit: int
    """The largest message accepted, in bytes, after inflating: up to 134217728, 0 for the default. 16 MiB."""
    channel_capacity: int
    """How many messages `Client.channel` buffers: 1 to 10000. 16."""
    ssl_context: ssl.SSLContext | None
    """For ``wss:`` URLs; by default one that verifies the server's certificate against the system's authorities."""
    server_hostname: str | None
    """The name in the server's certificate, also sent as SNI, if it is not the URL's host."""
    origin: str | None
    """The Origin header, for servers that want to see one (RFC 6454, section 7). None."""
    user_agent: str | None
    """The User-Agent header; None to send none. ``trio-csp/`` and the version."""
    keepalive: csp.Duration | None
    """A ping is sent after this long without a byte from the server, and after as long again the connection is failed.
    While messages wait for room in the channel, pings are sent, and the server is not blamed. None."""
    close_timeout: csp.Duration | None
    """The limit for `Client.close`, and for the peer to end the connection after a close. 10 s."""


_DEFAULT_DIAL_TIMEOUT = "30s"
_DEFAULT_USER_AGENT = f"trio-csp/{csp.__version__}"
_HANDSHAKE_HEADERS = frozenset(("host", "upgrade", "connection", "content-length", "transfer-encoding"))


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options."""

    # Headers and subprotocols may be tokens: no repr shows them.
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    """Origin and User-Agent included."""
    protocols: tuple[str, ...] = field(repr=False)
    dial_timeout_seconds: float
    ssl_context: ssl.SSLContext | None
    server_hostname: str | None
    connection: Settings


def parse_options(given: Mapping[str, object], *, others: Iterable[str] = ()) -> Options:
    """Check the options of a connection.

    Args:
        given: the options.
        others: the other keyword arguments of the function that was called, for the error that lists what there is.

    Raises:
        InvalidError: an option is out of range or malformed; the text gives its name, its value and the bound.
        InvalidTypeError: an option has the wrong type, or does not exist.
    """
    known = ConnectOptions.__annotations__
    for name in given:
        if name not in known:
            raise InvalidTypeError(f"unknown option {name!r}; the options are {', '.join(sorted((*known, *others)))}")
    ssl_context = given.get("ssl_context")
    if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
        raise InvalidTypeError(f"ssl_context must be an ssl.SSLContext, not {ssl_context!r}")
    if ssl_context is not None and ssl_context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise InvalidError("ssl_context must be one for clients, not of PROTOCOL_TLS_SERVER")
    return Options(
        headers=_headers(given),
        protocols=_protocols(given.get("protocols")),
        dial_timeout_seconds=parse_timeout(
            "dial_timeout", given.get("dial_timeout", _DEFAULT_DIAL_TIMEOUT), milliseconds=True
        ),
        ssl_context=ssl_context,
        server_hostname=_server_hostname(given.get("server_hostname")),
        connection=parse_settings(given),
    )


def _headers(given: Mapping[str, object]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers to send: those given, then Origin and User-Agent."""
    headers = given.get("headers")
    encoded = [_header(name, value) for name, value in field_pairs(() if headers is None else headers)]
    names = {name.lower() for name, _ in encoded}
    default_user_agent = None if b"user-agent" in names else _DEFAULT_USER_AGENT
    for option, header, default in (("origin", b"Origin", None), ("user_agent", b"User-Agent", default_user_agent)):
        value = given.get(option, default)
        if value is None:
            continue
        if not isinstance(value, str):
            raise InvalidTypeError(f"{option} must be a string or None, not {value!r}")
        if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
            raise InvalidError(f"{option} must be ASCII without control characters or spaces around it, not {value!r}")
        if header.lower() in names:
            raise InvalidError(f"{option} must not be given together with a header {header.decode()!r}")
        encoded.append((header, value.encode()))
    return tuple(encoded)


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    field = encoded_field(name, value)
    if name.lower() in _HANDSHAKE_HEADERS or name.lower().startswith("sec-websocket-"):
        raise InvalidError(f"headers must not contain {name!r}: it belongs to the handshake")
    return field


def _server_hostname(name: object) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise InvalidTypeError(f"server_hostname must be a string or None, not {name!r}")
    try:
        return normalized_ipv6(name)
    except AddressValueError:
        return normalized_host(name, "server_hostname must be a host name or an address")


def _protocols(protocols: object) -> tuple[str, ...]:
    if protocols is None:
        return ()
    if isinstance(protocols, str | bytes) or not isinstance(protocols, Iterable):
        raise InvalidTypeError(f"protocols must be an iterable of strings, not {type(protocols).__name__}")
    # A subprotocol may be a token, so errors only say which one it is.
    names: list[str] = []
    for number, name in enumerate(cast("Iterable[object]", protocols), 1):
        if not isinstance(name, str):
            raise InvalidTypeError(f"protocols must be strings, and number {number} is {type(name).__name__}")
        if not TOKEN.fullmatch(name):
            raise InvalidError(f"protocols must be names without spaces and separators, unlike number {number}")
        if name in names:
            raise InvalidError(f"protocols must be different, and number {number} came before")
        names.append(name)
    return tuple(names)
