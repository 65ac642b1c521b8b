"""Where a server listens: the options that say so, checked."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast
from urllib.parse import quote

import trio

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.connection.settings import parse_whole_number
from trio_csp_websocket.network.unix_path import parse_unix_socket
from trio_csp_websocket.protocol.authority import normalized_ipv6
from trio_csp_websocket.protocol.authority import parse_place as parse_authority
from trio_csp_websocket.transport.base import ends_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_csp_websocket.transport.base import Address

Listening: TypeAlias = "socket.socket | trio.abc.Listener[trio.abc.Stream]"
"""What a server can accept connections from."""

DEFAULT_HOST = "localhost"
_DEFAULT_MODE = 0o600
_MAX_PORT = 65535
# What the system's `listen` takes, an int of C; systems lower it to a bound of their own.
_MAX_BACKLOG = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Place:
    """Checked options: a port and a host, the path of a Unix socket, or sockets that listen already."""

    port: int | None = None
    """0 for a free one."""
    host: str | None = None
    """Normalised, without brackets and zone; None for every interface."""
    zone: str = ""
    """The interface of a link-local IPv6 address."""
    unix_socket: str | None = None
    mode: int = _DEFAULT_MODE
    """The permissions of the Unix socket."""
    sockets: tuple[Listening, ...] = ()
    reuse_port: bool = False
    backlog: int | None = None

    def url(self, *, secure: bool) -> str:
        """Return the URL of what was asked for, as policies and texts have it.

        Of given sockets, it is that of the first.

        Args:
            secure: whether TLS is spoken there.
        """
        if self.unix_socket is not None:
            return url_of(self.unix_socket, secure=secure)
        if self.port is not None:
            return url_of((self.host or DEFAULT_HOST, self.port), secure=secure)
        return url_of(address_of(self.sockets[0]), secure=secure)


def parse_place(port: object, given: Mapping[str, object]) -> Place:
    """Check the options that say where to listen; ignore the others.

    Args:
        port: the argument that stands for itself.
        given: the options.

    Raises:
        InvalidError: an option is out of range or malformed, it means nothing beside another, or not exactly one of
            port, unix_socket and sockets is given.
        InvalidTypeError: an option has the wrong type.
    """
    unix_socket, sockets = parse_unix_socket(given.get("unix_socket")), given.get("sockets")
    ways = {"port": port, "unix_socket": unix_socket, "sockets": sockets}
    named = [name for name, way in ways.items() if way is not None]
    if len(named) != 1:
        found = " and ".join(named) or "none of them"
        raise InvalidError(f"exactly one of port, unix_socket and sockets must be given, not {found}")
    (way,) = named
    reuse_port = _reuse_port(given.get("reuse_port", False))
    backlog = given.get("backlog")
    meant_for = {"host": "port", "reuse_port": "port", "mode": "unix_socket", "backlog": "port or unix_socket"}
    present = {
        "host": "host" in given,
        "reuse_port": reuse_port,
        "mode": "mode" in given,
        "backlog": backlog is not None,
    }
    for name, is_present in present.items():
        if is_present and way not in meant_for[name].split(" or "):
            raise InvalidError(f"{name} must not be given with {way}: it is for {meant_for[name]}")
    host, zone = _host(given.get("host", DEFAULT_HOST)) if way == "port" else (None, "")
    return Place(
        port=None if port is None else parse_whole_number("port", port, 0, _MAX_PORT),
        host=host,
        zone=zone,
        unix_socket=unix_socket,
        mode=_mode(given.get("mode", _DEFAULT_MODE)),
        sockets=() if sockets is None else _sockets(sockets),
        reuse_port=reuse_port,
        backlog=None if backlog is None else parse_whole_number("backlog", backlog, 1, _MAX_BACKLOG),
    )


def address_of(listening: Listening) -> Address | None:
    """Return where it listens; None if that is not known, as of a listener that is not Trio's."""
    found: object = getattr(listening, "socket", listening)
    return ends_of(found)[0] if isinstance(found, socket.socket | trio.socket.SocketType) else None


def url_of(address: Address | None, *, secure: bool) -> str:
    """Return the URL of an address; of one that is not known, that of ``localhost``."""
    if isinstance(address, str):
        return "ws+unix://" + quote(os.fsencode(Path(address).absolute()))
    host_and_port = DEFAULT_HOST
    if address is not None:
        host, port = address
        # A zone means nothing to others (RFC 6874, section 4).
        host = host.partition("%")[0]
        host_and_port = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"{'wss' if secure else 'ws'}://{host_and_port}/"


def why_it_cannot_accept(found: socket.socket | trio.socket.SocketType) -> str | None:
    """Return as a clause why no connections can be accepted from a socket; None if they can."""
    if found.fileno() == -1:
        return "is closed"
    if found.type != socket.SOCK_STREAM:
        return "is no stream socket"
    try:
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:  # macOS does not tell
        return None
    return None if listens else "does not listen"


def _host(host: object) -> tuple[str | None, str]:
    """Return the host and its zone; (None, "") for every interface."""
    if host is None:
        return None, ""
    if not isinstance(host, str):
        raise InvalidTypeError(f"host must be a string or None, not {host!r}")
    wrong = InvalidError(
        f"host must be a name or an IP address without a port, or None for every interface, not {host!r}"
    )
    name = host
    if host.count(":") > 1:
        address = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        try:
            normalized_ipv6(address.partition("%")[0])
        except AddressValueError:
            raise wrong from None
        name = f"[{address}]"
    elif not host or re.search(r"[][:/?#@\\]", host):
        raise wrong
    found = parse_authority(f"ws://{name}", {"ws": 80}, "host")
    return found.host, found.zone


def _reuse_port(reuse: object) -> bool:
    if not isinstance(reuse, bool):
        raise InvalidTypeError(f"reuse_port must be True or False, not {reuse!r}")
    if reuse and not hasattr(socket, "SO_REUSEPORT"):
        raise InvalidError("reuse_port must not be given: this system has no SO_REUSEPORT")
    return reuse


def _mode(mode: object) -> int:
    if not isinstance(mode, int) or isinstance(mode, bool):
        raise InvalidTypeError(f"mode must be permissions as a whole number, such as 0o660, not {mode!r}")
    if not 0 <= mode <= 0o777:
        raise InvalidError(f"mode must be 0 to 0o777, not {mode:#o}")
    return mode


def _sockets(sockets: object) -> tuple[Listening, ...]:
    if isinstance(sockets, str | bytes) or not isinstance(sockets, Iterable):
        raise InvalidTypeError(f"sockets must be an iterable of listening sockets, not {type(sockets).__name__}")
    found = tuple(cast("Iterable[object]", sockets))
    if not found:
        raise InvalidError("sockets must have at least one listening socket")
    for number, one in enumerate(found, 1):
        inner: object = one.socket if isinstance(one, trio.SocketListener) else one
        if isinstance(inner, socket.socket | trio.socket.SocketType):
            problem = why_it_cannot_accept(inner)
            if problem is not None:
                raise InvalidError(f"sockets must be listening stream sockets, and number {number} {problem}")
        if not isinstance(one, socket.socket | trio.abc.Listener):
            raise InvalidTypeError(
                f"sockets must be of socket.socket or trio.abc.Listener, and number {number} is {type(one).__name__}"
            )
        if any(one is other for other in found[: number - 1]):
            raise InvalidError(f"sockets must be different, and number {number} came before")
    return cast("tuple[Listening, ...]", found)
