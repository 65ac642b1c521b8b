"""The options of `connect`: as callers write them, and as the driver needs them, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import csp
from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.connection.settings import (
    Settings,
    Timeout,
    check_names,
    parse_protocols,
    parse_settings,
    parse_timeout,
    parse_whole_number,
)
from trio_csp_websocket.network.route import Dial, Route, parse_route
from trio_csp_websocket.protocol.authority import check_host_header, parse_place
from trio_csp_websocket.protocol.headers import encoded_field, field_pairs

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Iterable, Mapping

    from trio_csp_websocket.protocol.constants import Compression


class ConnectOptions(TypedDict, total=False):
    """The options of a connection: keyword arguments of `connect` and `reconnecting`.

    Anything out of range is an `InvalidError` before any I/O.
    """

    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None
    """Headers to send with the handshake, in addition to its own. None."""
    protocols: Iterable[str] | None
    """Subprotocols to offer, the preferred one first; the server's choice is `Client.subprotocol`. None."""
    require_subprotocol: bool
    """Whether the handshake fails if the server chooses none of ``protocols``. False."""
    dial_timeout: Timeout
    """The limit for name resolution, TCP, proxy, TLS, handshake and redirects together. 30 s."""
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
    host_header: str | None
    """The Host header, if it is not the URL's: a host, and a port if need be (RFC 9110, section 7.2). None."""
    proxy: str | bool | None
    """The proxy to connect through: True for the one that the environment names, if any; None or False for none; or a
    URL, ``http``, ``https``, ``socks5``, ``socks5h``, ``socks4`` or ``socks4a``, with credentials in it if need be.
    True."""
    proxy_ssl_context: ssl.SSLContext | None
    """For ``https`` proxies; by default one that verifies the proxy's certificate against the system's authorities."""
    unix_socket: str | os.PathLike[str] | None
    """The path of a Unix socket to connect to instead of the URL's host and port. None."""
    dial: Dial | None
    """An async function of host and port that returns a stream to the server: any `trio.abc.Stream`. TLS for ``wss:``
    runs on top of it. None."""
    max_redirects: int
    """How many redirects of the handshake are followed: 0 to 100. 10."""
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
_DEFAULT_MAX_REDIRECTS = 10
_MAX_MAX_REDIRECTS = 100
_DEFAULT_USER_AGENT = f"trio-csp/{csp.__version__}"
_HANDSHAKE_HEADERS = frozenset(("host", "upgrade", "connection", "content-length", "transfer-encoding"))


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options."""

    # Headers and subprotocols may be tokens: no repr shows them.
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    """Origin and User-Agent included."""
    protocols: tuple[str, ...] = field(repr=False)
    require_subprotocol: bool
    dial_timeout_seconds: float
    host_header: str | None
    route: Route
    max_redirects: int
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
    check_names(given, known, others)
    protocols = parse_protocols(given.get("protocols"))
    require_subprotocol = _require_subprotocol(given.get("require_subprotocol", False), protocols)
    return Options(
        headers=_headers(given),
        protocols=protocols,
        require_subprotocol=require_subprotocol,
        dial_timeout_seconds=parse_timeout(
            "dial_timeout", given.get("dial_timeout", _DEFAULT_DIAL_TIMEOUT), milliseconds=True
        ),
        host_header=_host_header(given.get("host_header")),
        route=parse_route(given),
        max_redirects=parse_whole_number(
            "max_redirects", given.get("max_redirects", _DEFAULT_MAX_REDIRECTS), 0, _MAX_MAX_REDIRECTS
        ),
        connection=parse_settings(given),
    )


def _host_header(host: object) -> str | None:
    if host is None:
        return None
    if not isinstance(host, str):
        raise InvalidTypeError(f"host_header must be a string or None, not {host!r}")
    if re.search(r"[/?#@\\]", host):
        raise InvalidError(f"host_header must be a host, and a port if need be, not {host!r}")
    place = parse_place(f"ws://{host}", {"ws": 80}, "host_header")
    header = place.host_and_port(None)
    check_host_header(header, "host_header")
    return header


def _require_subprotocol(required: object, protocols: tuple[str, ...]) -> bool:
    if not isinstance(required, bool):
        raise InvalidTypeError(f"require_subprotocol must be True or False, not {required!r}")
    if required and not protocols:
        raise InvalidError("require_subprotocol must not be given without protocols to offer")
    return required


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
        instead = "; write host_header=" if name.lower() == "host" else ""
        raise InvalidError(f"headers must not contain {name!r}: it belongs to the handshake{instead}")
    return field
