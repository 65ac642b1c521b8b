"""The options of a server: as callers write them, and as the driver needs them, checked."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypedDict, cast

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
from trio_csp_websocket.server.forwarded import Networks, parse_networks
from trio_csp_websocket.server.hosts import Hosts, parse_hosts
from trio_csp_websocket.server.origins import Origins, parse_origins

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Iterable, Mapping
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    import trio

    import csp
    from trio_csp_websocket.protocol.constants import Compression
    from trio_csp_websocket.server.page import Http


class ServeOptions(TypedDict, total=False):
    """The options of a server's connections: keyword arguments of `listen`, `serve` and `csp.testing.websocket_server`.

    Anything out of range is an `InvalidError` before any I/O.
    """

    origins: Literal["same", "*"] | Iterable[str]
    """Which web pages may connect, by the Origin that browsers send (RFC 6454): "same" for those of the host and port
    that the request names; patterns such as ``https://*.example.com`` or "null"; "*" for all. Others get status 403.
    Programs that are no browsers send none, and may connect. "same"."""
    hosts: Literal["*"] | Iterable[str] | None
    """What the Host header may say, with or without a port; "*" for anything. Else the request gets status 421. None
    for the names of this machine if a loopback address is bound and no proxy is expected (``trusted_proxies``,
    ``proxy_protocol``), else anything: a page of another site can have its own name lead to 127.0.0.1 (DNS rebinding).
    None."""
    protocols: Iterable[str] | None
    """Subprotocols, the preferred one first: `ServerConnection.accept` chooses the first that is offered. None."""
    compression: Compression | int
    """Which permessage-deflate (RFC 7692) to agree to if it is offered. DISABLED."""
    compression_threshold: int
    """The size in bytes from which messages are sent compressed: 0 to 104857600. 128, or 512 for NO_CONTEXT."""
    max_window_bits: int
    """The window of compression, where it is kept from one message to the next: 9 to 15. A connection takes 169 KiB
    with 15, and 84 with 12. 12."""
    http: Http | None
    """An async function of a `Request` that wants no WebSocket, as of a health check; it returns a `Response`, or None
    for status 426. None."""
    handshake_timeout: csp.Duration | None
    """The limit for a whole request, from the TCP connection on, TLS included; and again for its answer, after which it
    gets status 503. 10 s."""
    header_limit: int
    """The largest request, in bytes: 1024 to 1048576. It may have 100 lines. Else it gets status 431. 16 KiB."""
    max_connections: int | None
    """How many connections there may be, with those that wait for an answer; more get status 503. As many requests may
    be under way at the same time that want no WebSocket, from when ``http`` is asked until the client has taken all.
    None."""
    max_handshakes: int
    """How many requests may be incomplete at once. When another comes, the one that has been so for longest is shut
    out. The same holds for clients that were refused and have not gone. 100."""
    max_waiting: int
    """How many connections `Server.channel` buffers. 16."""
    read_limit: int
    """The largest message accepted, in bytes, after inflating: up to 134217728, 0 for the default. 1 MiB."""
    channel_capacity: int
    """How many messages `ServerConnection.channel` buffers: 1 to 10000. 16."""
    read_timeout: Timeout
    """The limit for the wait for a whole message. None."""
    write_timeout: Timeout
    """How long a client may take nothing of what is sent to it; then the connection ends. None for no limit, but for
    refusals and pages, which have ``handshake_timeout`` then. 30 s."""
    keepalive: csp.Duration | None
    """A ping is sent after this long without a byte from the client, and after as long again the connection is failed.
    20 s."""
    close_timeout: csp.Duration | None
    """The limit for `ServerConnection.close`, and for the client to end the connection after a close. 10 s."""
    trusted_proxies: Iterable[str | IPv4Address | IPv6Address | IPv4Network | IPv6Network]
    """Addresses and networks of proxies, and "unix" for what connects to a Unix socket, whose Forwarded (RFC 7239) or
    X-Forwarded-For, -Proto and -Host are believed. Forwarded counts if there is one: a proxy that writes the others has
    to remove it. ()."""


class ListenOptions(ServeOptions, total=False):
    """The options of `listen` and `serve`: those of connections, and where and how to listen."""

    host: str | None
    """The name or address to listen on; None for every interface. "localhost"."""
    unix_socket: str | os.PathLike[str] | None
    """The path of a Unix socket to listen on instead of host and port. None."""
    mode: int
    """The permissions of that path. 0o600."""
    sockets: Iterable[socket.socket | trio.abc.Listener[trio.abc.Stream]] | None
    """Listening sockets, or Trio's listeners, to accept from instead; they are closed at the end. None."""
    reuse_port: bool
    """Whether several processes may listen on the port at once (SO_REUSEPORT). False."""
    backlog: int | None
    """How many connections the system keeps until they are accepted. None for Trio's default."""
    ssl_context: ssl.SSLContext | None
    """For ``wss:``, with the server's certificate. None."""
    proxy_protocol: bool
    """Whether each connection begins with a header of the PROXY protocol, version 1 or 2, which it must then. False."""


_DEFAULTS: Mapping[str, object] = {"keepalive": "20s", "write_timeout": "30s"}
_DEFAULT_READ_LIMIT = 1024 * 1024
_DEFAULT_HANDSHAKE_TIMEOUT = "10s"
_DEFAULT_HEADER_LIMIT = 16 * 1024
_DEFAULT_MAX_WINDOW_BITS = 12
_DEFAULT_MAX_HANDSHAKES = 100
_DEFAULT_MAX_WAITING = 16
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options."""

    origins: Origins
    hosts: Hosts | None
    """None for the default, which depends on what is bound."""
    protocols: tuple[str, ...]
    max_window_bits: int
    http: Http | None
    handshake_timeout_seconds: float
    header_limit_bytes: int
    max_connections: float
    max_handshakes: int
    max_waiting: int
    trusted_proxies: Networks
    ssl_context: ssl.SSLContext | None
    proxy_protocol: bool
    connection: Settings


def parse_options(given: Mapping[str, object], known: Iterable[str], *, others: Iterable[str] = ()) -> Options:
    """Check the options of a server, but for those of `parse_place`.

    Args:
        given: the options.
        known: those that there are.
        others: the other keyword arguments of the function that was called, for the error that lists what there is.

    Raises:
        InvalidError: an option is out of range or malformed; the text gives its name, its value and the bound.
        InvalidTypeError: an option has the wrong type, or does not exist.
    """
    check_names(given, known, others)
    hosts = given.get("hosts")
    return Options(
        origins=parse_origins(given.get("origins", "same")),
        hosts=None if hosts is None else parse_hosts(hosts),
        protocols=parse_protocols(given.get("protocols")),
        max_window_bits=parse_whole_number(
            "max_window_bits", given.get("max_window_bits", _DEFAULT_MAX_WINDOW_BITS), 9, 15
        ),
        http=_http(given.get("http")),
        handshake_timeout_seconds=parse_timeout(
            "handshake_timeout", given.get("handshake_timeout", _DEFAULT_HANDSHAKE_TIMEOUT)
        ),
        header_limit_bytes=parse_whole_number(
            "header_limit", given.get("header_limit", _DEFAULT_HEADER_LIMIT), 1024, 1024 * 1024
        ),
        max_connections=_max_connections(given.get("max_connections")),
        max_handshakes=parse_whole_number(
            "max_handshakes", given.get("max_handshakes", _DEFAULT_MAX_HANDSHAKES), 1, _MOST
        ),
        max_waiting=parse_whole_number("max_waiting", given.get("max_waiting", _DEFAULT_MAX_WAITING), 1, _MOST),
        trusted_proxies=parse_networks(given.get("trusted_proxies", ())),
        ssl_context=_ssl_context(given.get("ssl_context")),
        proxy_protocol=_proxy_protocol(given.get("proxy_protocol", False)),
        connection=_settings(given),
    )


def _settings(given: Mapping[str, object]) -> Settings:
    settings = parse_settings({**_DEFAULTS, **given}, write_timeout_of_progress=True)
    # None was given, or 0 for the default.
    if not given.get("read_limit"):
        settings = replace(settings, read_limit_bytes=_DEFAULT_READ_LIMIT)
    return settings


def _http(http: object) -> Http | None:
    if http is not None and not callable(http):
        raise InvalidTypeError(f"http must be an async function of a Request or None, not {http!r}")
    return cast("Http | None", http)


def _max_connections(number: object) -> float:
    return float("inf") if number is None else parse_whole_number("max_connections", number, 1, _MOST)


def _ssl_context(context: object) -> ssl.SSLContext | None:
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise InvalidTypeError(f"ssl_context must be an ssl.SSLContext or None, not {context!r}")
    if context is not None:
        try:
            context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidError(
                "ssl_context must be a server's, such as ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
            ) from error
    return context


def _proxy_protocol(wanted: object) -> bool:
    if not isinstance(wanted, bool):
        raise InvalidTypeError(f"proxy_protocol must be True or False, not {wanted!r}")
    return wanted
