"""The addresses of a host, and which of them the security policies allow."""

from __future__ import annotations

import socket
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from csp import security
from csp.errors import PermissionDeniedError
from trio_csp_websocket.protocol.authority import normalized_ipv6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.protocol.url import Target

Address: TypeAlias = "tuple[int, int, int, str, Any]"
"""What getaddrinfo returns: family, type, protocol, canonical name, and what a socket of these connects to."""

# How many of a host's addresses a text names.
_NAMES_LISTED = 3


async def allowed_addresses(target: Target, progress: Progress) -> list[Address]:
    """Resolve the name of a target; return the addresses that may be connected to.

    Raises:
        PermissionDeniedError: `csp.security` denies ``websocket.connect.address`` for all of them; none was sent
            anything. An `OSError` too, so catch it first.
        OSError: the name cannot be resolved.
    """
    found = await look_up(target.host, target.zone, target.port, progress)
    names = [address_name(address) for address in found]
    facts = {"url": target.url, "host": target.host, "port": target.port}
    allowed = [address for address, name in zip(found, names, strict=True) if _is_allowed(name, facts)]
    if not allowed:
        raise _denied(target, names)
    return allowed


def check_address(target: Target, name: str) -> None:
    """Ask the policies about what is not resolved here: an address in a URL, the path of a Unix socket.

    Raises:
        PermissionDeniedError: `csp.security` denies ``websocket.connect.address`` for it.
    """
    if not _is_allowed(name, {"url": target.url, "host": target.host, "port": target.port}):
        raise _denied(target, [name])


def _is_allowed(name: str, facts: Mapping[str, object]) -> bool:
    return security.can("websocket.connect.address", name, facts, optional=True)


def _denied(target: Target, names: list[str]) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"connections to {target.shown} are not allowed: websocket.connect.address is denied for {listed(names)}",
        details={"url": target.url, "addresses": tuple(names)},
    )


async def look_up(host: str, zone: str, port: int, progress: Progress) -> list[Address]:
    """Resolve a name; raise `OSError` if that fails."""
    progress.waits_for = _lookup_of(host)
    # As bytes: of a string, Python would encode the zone too, as if it were part of a name, and fail for some.
    looked_up = (f"{host}%{zone}" if zone else host).encode("ascii")
    found: list[Address] = [*await trio.socket.getaddrinfo(looked_up, port, type=socket.SOCK_STREAM)]
    if not found:
        raise OSError("the host has no address")
    return found


def _lookup_of(host: str) -> Callable[[], str]:
    """Return what says that a name was not looked up in time.

    Trio looks names up in threads, of which only so many run at a time, those of the program's own calls of
    `trio.to_thread.run_sync` included.
    """
    threads = trio.to_thread.current_default_thread_limiter()
    had_to_wait = threads.available_tokens <= 0

    def waits_for() -> str:
        busy = had_to_wait and threads.available_tokens <= 0
        why = f": all {threads.total_tokens:g} threads in which Trio looks names up are busy" if busy else ""
        return f"the name {host} was not looked up{why}"

    return waits_for


def listed(names: Iterable[str]) -> str:
    """Return the first few of some names, and how many more there are."""
    names = list(names)
    more = len(names) - _NAMES_LISTED
    return ", ".join(names[:_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")


def address_name(address: Address) -> str:
    """Return what the policies are asked about: the IP address without its zone; of a mapped one, the IPv4 address."""
    family, place = address[0], address[-1]
    if family not in (socket.AF_INET, socket.AF_INET6):
        return str(place)  # A resolver of the user's own may say the path of a Unix socket.
    host = str(place[0]).partition("%")[0]
    try:
        return normalized_ipv6(host) if ":" in host else str(IPv4Address(host))
    except AddressValueError:
        # The socket would resolve it, to an address that nobody was asked about.
        raise OSError(f"the host name led to {host!r}, which is no IP address") from None
