"""What proxies say about the client behind them (RFC 7239, and X-Forwarded-For, -Proto and -Host). No I/O.

Each proxy adds, at the right, who connected to it. Whatever is left of that came in with the request, and is worth as
much as whoever sent it. So the lists are read from the right, for as long as those who are said to have connected are
proxies that are trusted.
"""

from __future__ import annotations

import re
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING, NamedTuple, final

from csp.errors import InvalidError, InvalidTypeError, shown
from trio_csp_websocket.protocol.authority import host_and_port, normalized_ipv6
from trio_csp_websocket.protocol.headers import TOKEN
from trio_csp_websocket.server.listed import parse_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_csp_websocket.protocol.headers import Headers
    from trio_csp_websocket.transport.base import Address

_EXPECTED = 'a list of addresses and networks, and "unix" for the peers of a Unix socket'
_UNIX = "unix"
_MAX_PORT = 65535
_SECURE = {"https": True, "wss": True, "http": False, "ws": False}

_COMMA_OR_QUOTE = re.compile('[,"]')
_SEMICOLON_OR_QUOTE = re.compile('[;"]')
_ESCAPED = re.compile(r'\\["\\]')
_PARAMETER = re.compile(rf'(?P<name>{TOKEN.pattern})=((?P<token>{TOKEN.pattern})|"(?P<quoted>([^"\\]|\\.)*)")')
# RFC 7239, section 6; what begins with "_" is hidden on purpose.
_NODE = re.compile(
    r"(\[(?P<ipv6>[^][]*)\]|(?P<ipv4>[0-9.]+)|unknown|_[a-z0-9._-]+)(:((?P<port>[0-9]{1,5})|_[a-z0-9._-]+))?",
    re.ASCII | re.IGNORECASE,
)


class Forwarded(NamedTuple):
    """What proxies that are trusted say about a client; None is what they do not say."""

    remote: Address | None = None
    """Where the client is, or the proxy closest to it that is known; the port is 0 if it is not said."""
    secure: bool | None = None
    """Whether the client uses TLS."""
    host: str | None = None
    """The host, and the port if there is one, that the client asked for, as it was written."""


@final
class Networks:
    """Networks that are trusted; false if there are none."""

    __slots__ = ("_networks", "_unix")

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network], *, unix: bool) -> None:
        self._networks = tuple(networks)
        self._unix = unix

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def has_peer(self, peer: Address | None) -> bool:
        """Whether a peer is in one of the networks. An IPv4 address that is mapped to IPv6 is taken for IPv4."""
        if peer is None:
            return False
        if isinstance(peer, str):
            return self._unix
        address = _normalized(peer[0].partition("%")[0])
        return address is not None and self.has_address(address)

    def has_address(self, address: str) -> bool:
        """Whether a normalised address is in one of the networks."""
        parsed = ip_address(address)
        return any(parsed in network for network in self._networks)


class _MalformedError(Exception):
    pass


class _Hop(NamedTuple):
    """What a proxy says about a connection that was made to it."""

    address: tuple[str, int] | None = None
    proto: str = ""
    host: str = ""


def parse_networks(networks: object) -> Networks:
    """Check the option ``trusted_proxies``.

    Args:
        networks: a list of addresses and networks, as strings such as ``"10.0.0.0/8"`` or as objects of `ipaddress`;
            and ``"unix"``, which trusts whoever connects to a Unix socket.

    Raises:
        InvalidError: an entry is no address and no network.
        InvalidTypeError: it is no iterable of these types.
    """
    entries = parse_list("trusted_proxies", networks, _EXPECTED)
    return Networks([_network(entry) for entry in entries if entry != _UNIX], unix=_UNIX in entries)


def forwarded(headers: Headers, peer: Address | None, networks: Networks) -> Forwarded:
    """Return what proxies say about the client behind them; nothing if the peer is not one that is trusted.

    Forwarded counts if there is one, and nothing of X-Forwarded-* then: a proxy that writes X-Forwarded-* only has to
    remove Forwarded, or clients can write what they like there. Several headers of a name are one list.

    The list of addresses is read from the right. Each was written by a proxy that is trusted: the first by the peer,
    the next by the proxy whose address was just read. The first address that is not trusted is the client's. So is the
    leftmost one if all are trusted. Reading stops before what is malformed, which counts for nothing; and at an entry
    without an address, such as "unknown": the last address read counts then, if there is one.

    The scheme and the host are those of the last entry read: they are what the client asked of the first proxy it met.
    What that proxy does not say is not taken from those behind it, which know only what another proxy asked of them.
    The lists of X-Forwarded-Proto and -Host count entry by entry if they are as long as that of the addresses.
    Otherwise not every proxy has added to them, and their last value counts: the peer wrote it, or let it pass.
    """
    if not networks.has_peer(peer):
        return Forwarded()
    if "Forwarded" in headers:
        read = _read(map(_element, _elements(headers.get_all("Forwarded"))), networks)
        _, proto, host = read[-1] if read else _Hop()
    else:
        addresses = _entries(headers, "X-Forwarded-For")
        read = _read((_Hop(_address(_bracketed(entry))) for entry in reversed(addresses)), networks)
        proto, host = (
            values[-len(read) if read and len(values) == len(addresses) else -1]
            for values in (_entries(headers, "X-Forwarded-Proto"), _entries(headers, "X-Forwarded-Host"))
        )
    remote = next((hop.address for hop in reversed(read) if hop.address is not None), None)
    return Forwarded(remote, _SECURE.get(proto.lower()), None if host_and_port(host) is None else host)


def _network(given: object) -> IPv4Network | IPv6Network:
    if not isinstance(given, str | IPv4Address | IPv6Address | IPv4Network | IPv6Network):
        raise InvalidTypeError(f"trusted_proxies must be {_EXPECTED}, not one with {type(given).__name__} in it")
    quoted = shown(repr(str(given)))
    problem = f"trusted_proxies must be {_EXPECTED}, not one with {quoted} in it"
    if "%" in str(given):
        raise InvalidError(f"{problem}: a network has no zone")
    try:
        network = ip_network(str(given), strict=False)
    except ValueError:
        raise InvalidError(problem) from None
    address = str(given).partition("/")[0]
    if ip_address(address) != network.network_address:
        raise InvalidError(f"{problem}: write {str(network)!r} for the network, or {address!r} for the address")
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None else IPv4Network((mapped, network.prefixlen - 96))


def _read(hops: Iterable[_Hop], networks: Networks) -> list[_Hop]:
    """Return the hops that are believed, given them from the right."""
    read: list[_Hop] = []
    try:
        for hop in hops:
            read.append(hop)
            if hop.address is None or not networks.has_address(hop.address[0]):
                break
    except _MalformedError:
        pass
    return read


def _elements(values: list[str]) -> Iterator[str]:
    """Yield the elements of Forwarded from the right; those that are empty do not count (RFC 9110, section 5.6.1.2)."""
    for value in reversed(values):
        for element in _split(value, _COMMA_OR_QUOTE):
            if element:
                yield element


def _split(text: str, separator_or_quote: re.Pattern[str]) -> Iterator[str]:
    """Split a text at what separates outside of quotes, from the right.

    A quote that the client has left open would, from the left, take in what the proxies have added.
    """
    end, quoted = len(text), False
    for mark in reversed(list(separator_or_quote.finditer(_ESCAPED.sub("  ", text)))):
        if mark[0] == '"':
            quoted = not quoted
        elif not quoted:
            yield text[mark.end() : end].strip(" \t")
            end = mark.start()
    yield text[:end].strip(" \t")


def _element(text: str) -> _Hop:
    found: dict[str, str] = {}
    for parameter in filter(None, _split(text, _SEMICOLON_OR_QUOTE)):
        parts = _PARAMETER.fullmatch(parameter)
        if parts is None or parts["name"].lower() in found:
            raise _MalformedError
        found[parts["name"].lower()] = parts["token"] or re.sub(r"\\(.)", r"\1", parts["quoted"])
    address = _address(found["for"]) if "for" in found else None
    return _Hop(address, found.get("proto", ""), found.get("host", ""))


def _entries(headers: Headers, name: str) -> list[str]:
    """Return the entries of a list in which nothing is quoted; that of a missing header has one, which is empty."""
    return [entry.strip(" \t") for entry in ",".join(headers.get_all(name)).split(",")]


def _bracketed(entry: str) -> str:
    """Put an IPv6 address into brackets, which X-Forwarded-For need not have."""
    return entry if entry.startswith("[") or entry.count(":") < 2 else f"[{entry}]"


def _address(node: str) -> tuple[str, int] | None:
    """Return an address and a port; None for one that its proxy does not know, or hides."""
    parts = _NODE.fullmatch(node)
    if parts is None:
        raise _MalformedError
    port = int(parts["port"] or 0)
    if port > _MAX_PORT:
        raise _MalformedError
    given = parts["ipv6"] if parts["ipv4"] is None else parts["ipv4"]
    if given is None:
        return None
    address = _normalized(given)
    # Brackets are for IPv6 only.
    if address is None or (parts["ipv4"] is None and ":" not in given):
        raise _MalformedError
    return address, port


def _normalized(address: str) -> str | None:
    try:
        return normalized_ipv6(address) if ":" in address else str(IPv4Address(address))
    except AddressValueError:
        return None
