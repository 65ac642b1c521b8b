"""Listening at a place."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from csp.errors import Kind, ListenFailedError
from trio_csp_websocket.network.addresses import address_name
from trio_csp_websocket.network.failures import error_text
from trio_csp_websocket.server.place import DEFAULT_HOST, address_of, url_of
from trio_csp_websocket.server.unix_binding import LockedError, NotASocketError, bind_unix_socket, remove_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from trio_csp_websocket.server.place import Listening, Place
    from trio_csp_websocket.server.unix_binding import File
    from trio_csp_websocket.transport.base import Address

# What Trio gives for None: 16 bits, as some systems take no more. They lower it to a bound of their own.
_MAX_BACKLOG = 0xFFFF
# A free port of one family can be taken in the other.
_FREE_PORT_TRIES = 20
# An address with one of these is left out if there is another: the system lacks a family, or has no address of it.
_NOT_HERE = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
_MAY_PASS = {
    errno.EADDRINUSE,
    errno.EADDRNOTAVAIL,
    errno.EAGAIN,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
}
_WORDS = {
    errno.EADDRINUSE: "the address is in use",
    errno.EADDRNOTAVAIL: "the address is not one of this machine",
}


class Bound:
    """Sockets that listen, or what stands for them.

    Attributes:
        listeners: what connections are accepted from.
        others: those of them that are not Trio's listeners of sockets: `close` leaves them to be closed by ``aclose``.
        addresses: where they listen, as far as that is known.
    """

    def __init__(self, place: Place, sockets: Sequence[Listening], file: File | None) -> None:
        """Take sockets that listen.

        Args:
            place: where they do.
            sockets: those of the place if it has any, or others that were made for it.
            file: what a Unix socket is bound to.
        """
        listeners = [_listener(one) for one in sockets]
        self._own = [] if place.sockets else [one for one in sockets if isinstance(one, socket.socket)]
        self.listeners: list[trio.abc.Listener[trio.abc.Stream]] = listeners
        self.others: list[trio.abc.Listener[trio.abc.Stream]] = [
            other for other in listeners if not isinstance(other, trio.SocketListener)
        ]
        found = [address_of(listener) for listener in listeners]
        self.addresses: tuple[Address, ...] = tuple(address for address in found if address is not None)
        self._over_tcp = [address for address in self.addresses if not isinstance(address, str)]
        self._address = found[0]
        # So that it is found whatever the current directory is at the end.
        self._path = None if place.unix_socket is None else str(Path(place.unix_socket).absolute())
        self._file = file
        if self._path is not None:
            self._address = self._path
        elif place.port is not None:
            self._address = (place.host or DEFAULT_HOST, self._over_tcp[0][1])

    @property
    def port(self) -> int | None:
        """The port of the first that listens on TCP; None if none does."""
        return self._over_tcp[0][1] if self._over_tcp else None

    @property
    def loopback(self) -> bool:
        """Whether one listens on TCP, and all that do can only be reached from this machine."""
        return bool(self._over_tcp) and all(_is_loopback(host) for host, _ in self._over_tcp)

    def url(self, *, secure: bool) -> str:
        """Return the URL of the place, with the port that was bound; of given sockets, that of the first.

        Args:
            secure: whether TLS is spoken there.
        """
        return url_of(self._address, secure=secure)

    def waiting(self, most: int) -> Iterator[trio.SocketStream]:
        """Yield the connections that wait to be accepted, without waiting for any.

        Not those that wait in given sockets: other processes may accept them.

        Args:
            most: how many of each socket.
        """
        for own in self._own:
            with contextlib.suppress(OSError):  # of the last one: there are no more
                for _ in range(most):
                    yield trio.SocketStream(trio.socket.from_stdlib_socket(own.accept()[0]))

    def close(self) -> None:
        """Close all sockets at once, given ones too, and remove the path of a Unix socket, if it still leads here."""
        if self._path is not None and self._file is not None:
            # While the socket listens, nobody takes it for one that was left behind and replaces it.
            remove_file(self._path, self._file)
            self._file = None
        for listener in self.listeners:
            if isinstance(listener, trio.SocketListener):
                listener.socket.close()


@trio.lowlevel.enable_ki_protection  # or Ctrl-C could come between a socket and what closes it
async def bind(place: Place, *, secure: bool = False) -> Bound:
    """Listen at a place; return what listens there.

    With port 0, all addresses get the same free port. An address of a family that the system lacks is left out if there
    is another. If this fails or is cancelled, nothing is left, and given sockets stay open.

    Args:
        place: where.
        secure: whether TLS will be spoken there, for the URL in the text of an error.

    Raises:
        ListenFailedError: it cannot be listened there.
    """
    await trio.lowlevel.checkpoint()
    file: File | None = None
    try:
        if place.unix_socket is not None:
            made, file = await bind_unix_socket(place.unix_socket, place.mode, _backlog(place))
            sockets: list[Listening] = [made]
        elif place.port is not None:
            sockets = [*await _bind_tcp(place, place.port)]
        else:
            sockets = [*place.sockets]
        return Bound(place, sockets, file)
    except (OSError, ValueError) as error:  # ValueError: a given socket does not listen any more
        raise _failure(place, place.url(secure=secure), error) from error


def _backlog(place: Place) -> int:
    return min(place.backlog or _MAX_BACKLOG, _MAX_BACKLOG)


def _listener(listening: Listening) -> trio.abc.Listener[trio.abc.Stream]:
    if isinstance(listening, socket.socket):
        return trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    return listening


async def _bind_tcp(place: Place, port: int) -> list[socket.socket]:
    """Return a socket for each address of the host."""
    # As bytes: of a string, Python would encode the zone too, as if it were part of a name, and fail for some.
    name = None if place.host is None else f"{place.host}{'%' if place.zone else ''}{place.zone}".encode("ascii")
    found = await trio.socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A file of names may have the same address twice.
    addresses = list(dict.fromkeys(_checked(address) for address in found))
    for _ in range(0 if port else _FREE_PORT_TRIES - 1):
        try:
            return _bound_sockets(addresses, place)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _bound_sockets(addresses, place)


def _checked(address: tuple[int, int, int, str, Any]) -> tuple[int, Any]:
    """Return the family and the address of what was found; a resolver of the user's own may say anything."""
    family, where = address[0], address[-1]
    if family in (socket.AF_INET, socket.AF_INET6):
        address_name(address)
        return family, where
    raise OSError(errno.EAFNOSUPPORT, "the host name led to what is no IP address")


def _bound_sockets(addresses: list[tuple[int, Any]], place: Place) -> list[socket.socket]:
    """Return a socket for each address that there is here, all with the same port; it is all of them, or an error."""
    made: list[socket.socket] = []
    missing = OSError(errno.EADDRNOTAVAIL, "the host has no address")
    try:
        for family, (host, port, *rest) in addresses:
            # The first of them finds a free port for all.
            chosen = port or (made[0].getsockname()[1] if made else 0)
            try:
                made.append(_bound_socket(family, (host, chosen, *rest), place))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if not made:
            raise missing
    except BaseException:
        for one in made:
            one.close()
        raise
    return made


def _bound_socket(family: int, address: tuple[Any, ...], place: Place) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        # On Windows it would let two servers have the same port.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, sys.platform != "win32")
        if place.reuse_port:
            made.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_REUSEPORT"), 1)  # noqa: B009  # Windows has none
        if family == socket.AF_INET6:
            # A socket of its own has the addresses of IPv4.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_backlog(place))
    except BaseException:
        made.close()
        raise
    return made


def _is_loopback(host: str) -> bool:
    found = ip_address(host.partition("%")[0])
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def _failure(place: Place, url: str, error: OSError | ValueError) -> ListenFailedError:
    number = error.errno if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else None
    return ListenFailedError(
        f"cannot listen on {url}: {_reason(place, error, number)}",
        kind=Kind.UNAVAILABLE,
        retryable=number in _MAY_PASS or (isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN),
        details={"url": url} if number is None else {"url": url, "errno": number},
    )


def _reason(place: Place, error: OSError | ValueError, number: int | None) -> str:
    if isinstance(error, NotASocketError):
        return "what is at this path is no socket, and is kept"
    if isinstance(error, LockedError):
        return "another process has locked its directory"
    if isinstance(error, socket.gaierror):
        return f"the name {place.host} cannot be resolved: {error.strerror or error}"
    return str(error) if number is None else _WORDS.get(number) or error_text(number)
