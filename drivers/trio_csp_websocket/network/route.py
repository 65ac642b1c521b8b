"""The way to a server: the options that say which it is, checked."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError
from typing import TypeAlias, cast

import trio

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.network.proxy import Proxy, parse_proxy
from trio_csp_websocket.network.unix_path import parse_unix_socket
from trio_csp_websocket.protocol.authority import normalized_host, normalized_ipv6

Dial: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""An async function of host and port that returns a stream, which the connection then owns.

An `OSError` out of it is a failed attempt, with its words in the text of the `ConnectionFailedError`.
"""


@dataclass(frozen=True, slots=True)
class Route:
    """Checked options."""

    ssl_context: ssl.SSLContext | None
    server_hostname: str | None
    proxy: Proxy | bool
    """True for what the environment names."""
    proxy_ssl_context: ssl.SSLContext | None
    unix_socket: str | None
    dial: Dial | None


def parse_route(given: Mapping[str, object]) -> Route:
    """Check the options that concern the way to a server; ignore the others.

    Raises:
        InvalidError: an option is out of range or malformed, or two exclude each other.
        InvalidTypeError: an option has the wrong type.
    """
    proxy = _proxy(given.get("proxy", True))
    unix_socket = parse_unix_socket(given.get("unix_socket"))
    dial = _dial(given.get("dial"))
    ways = [name for name, way in (("dial", dial), ("unix_socket", unix_socket)) if way is not None]
    if isinstance(proxy, Proxy):
        ways.append("proxy")
    if len(ways) > 1:
        raise InvalidError(f"{' and '.join(ways)} exclude each other: give one way to the server")
    proxy_ssl_context = _context("proxy_ssl_context", given.get("proxy_ssl_context"))
    if proxy_ssl_context is not None and (ways[:1] not in ([], ["proxy"]) or proxy is False):
        raise InvalidError("proxy_ssl_context must not be given without a proxy")
    if proxy_ssl_context is not None and isinstance(proxy, Proxy) and proxy.scheme != "https":
        raise InvalidError(f"proxy_ssl_context must not be given for an {proxy.scheme}: proxy; write https:")
    return Route(
        ssl_context=_context("ssl_context", given.get("ssl_context")),
        server_hostname=_server_hostname(given.get("server_hostname")),
        proxy=proxy,
        proxy_ssl_context=proxy_ssl_context,
        unix_socket=unix_socket,
        dial=dial,
    )


def _context(name: str, context: object) -> ssl.SSLContext | None:
    if context is None:
        return None
    if not isinstance(context, ssl.SSLContext):
        raise InvalidTypeError(f"{name} must be an ssl.SSLContext, not {context!r}")
    if context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise InvalidError(f"{name} must be one for clients, not of PROTOCOL_TLS_SERVER")
    return context


def _proxy(proxy: object) -> Proxy | bool:
    if proxy is None or isinstance(proxy, bool):
        return bool(proxy)
    return parse_proxy(cast("str", proxy))


def _dial(dial: object) -> Dial | None:
    if dial is not None and not callable(dial):
        raise InvalidTypeError(f"dial must be an async function of host and port, not {dial!r}")
    return cast("Dial | None", dial)


def _server_hostname(name: object) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise InvalidTypeError(f"server_hostname must be a string or None, not {name!r}")
    try:
        return normalized_ipv6(name)
    except AddressValueError:
        return normalized_host(name, "server_hostname must be a host name or an address")
