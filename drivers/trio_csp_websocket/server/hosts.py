"""Which hosts a request may name in its Host header. No I/O.

With DNS rebinding, an attacker's page reaches a server that listens on the reader's own machine: the name of the page's
host leads to 127.0.0.1 by then. Its Origin and Host agree, so that only the name itself gives it away.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, final

from csp.errors import InvalidError
from trio_csp_websocket.protocol.authority import host_and_port, is_address, parse_host_and_port
from trio_csp_websocket.server.listed import parse_strings

if TYPE_CHECKING:
    from collections.abc import Iterable

_EXPECTED = '"*" for any host, or a list of hosts'
_PROBLEM = 'hosts must have hosts, with or without a port, such as "example.com" and "[::1]:8765"'
_DEFAULT_PORTS = frozenset({80, 443})


@final
class Hosts:
    """The hosts that requests may name."""

    __slots__ = ("_any", "_entries", "_local")

    def __init__(
        self, entries: Iterable[tuple[str, int | None]] = (), *, is_any: bool = False, local: bool = False
    ) -> None:
        # Normalised hosts, each with its port, or None for any port.
        self._entries = frozenset(entries)
        self._any = is_any
        self._local = local

    def allows(self, host: str) -> bool:
        """Whether a request with this Host is let in.

        Case, a dot at the end, and how an IPv6 address is written make no difference. What is malformed or empty is
        never let in. An entry with the port 80 or 443 also holds for a Host without a port, which means the default
        port of a scheme.
        """
        found = host_and_port(host)
        if found is None:
            return False
        if self._any or (self._local and _is_local(found.host)):
            return True
        ports = _DEFAULT_PORTS if found.port is None else (found.port,)
        return any((found.host, port) in self._entries for port in (None, *ports))


ANY_HOST: Final = Hosts(is_any=True)
"""Lets in whatever is well formed."""


def parse_hosts(hosts: object) -> Hosts:
    """Check the option ``hosts``.

    Args:
        hosts: ``"*"`` for any host, or a list of hosts: names, also international ones, and addresses, those of IPv6 in
            brackets. One with a port allows only that port, one without allows any.

    Raises:
        InvalidError: an entry is malformed.
        InvalidTypeError: it is neither ``"*"`` nor an iterable of strings.
    """
    if hosts == "*":
        return ANY_HOST
    return Hosts(_entry(host) for host in parse_strings("hosts", hosts, _EXPECTED))


def local_hosts(names: Iterable[str]) -> Hosts:
    """Allow what leads to this machine only: localhost and the names below it, loopback addresses, and the names given.

    Args:
        names: hosts that a server is bound to, without ports, and IPv6 addresses without brackets. One that no Host
            can have, such as 127.1, adds nothing.
    """
    found = [_bound(name) for name in names]
    return Hosts([(host, None) for host in found if host is not None], local=True)


def _entry(host: str) -> tuple[str, int | None]:
    if host == "*":
        raise InvalidError('hosts must have "*" alone, not in a list')
    parsed = parse_host_and_port(host, _PROBLEM)
    return parsed.host, parsed.port


def _bound(name: str) -> str | None:
    try:
        return parse_host_and_port(f"[{name.partition('%')[0]}]" if ":" in name else name, "").host
    except InvalidError:
        return None


def _is_local(host: str) -> bool:
    if is_address(host):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")
