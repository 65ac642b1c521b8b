"""A TCP connection to one of a host's addresses, of those that the security policies do not deny."""

from __future__ import annotations

import socket
from collections import Counter
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING, Any, TypeAlias

import trio
from trio.lowlevel import enable_ki_protection

from csp import security
from csp.errors import PermissionDeniedError
from trio_csp_websocket.protocol.authority import normalized_ipv6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_csp_websocket.client.progress import Progress
    from trio_csp_websocket.protocol.url import Target

_Address: TypeAlias = "tuple[int, int, int, str, Any]"
"""What getaddrinfo returns: family, type, protocol, canonical name, and what a socket of these connects to."""

_ATTEMPT_DELAY_SECONDS = 0.25
"""How long an attempt is waited for before the next one begins beside it (RFC 8305, section 5)."""

# How many of a host's addresses a text names.
_NAMES_LISTED = 3


async def open_tcp_stream(target: Target, progress: Progress) -> trio.SocketStream:
    """Connect to the first address of a host that answers, of those that may be connected to.

    The name is resolved once, and the addresses that the policies are asked about are those that are connected to. A
    name that leads elsewhere a moment later gets nobody in.

    Raises:
        PermissionDeniedError: `csp.security` denies ``websocket.connect.address`` for all of them; none was sent
            anything. An `OSError` too, so catch it first.
        OSError: the name cannot be resolved; or no address can be connected to, with a group of the reasons as cause.
    """
    progress.waits_for = _lookup_of(target.host)
    # As bytes: of a string, Python would encode the zone too, as if it were part of a name, and fail for some.
    looked_up = target.looked_up.encode("ascii")
    found: list[_Address] = [*await trio.socket.getaddrinfo(looked_up, target.port, type=socket.SOCK_STREAM)]
    if not found:
        raise OSError("the host has no address")
    facts = {"url": target.url, "host": target.host, "port": target.port}
    names = [_name(address) for address in found]
    allowed = [
        address
        for address, name in zip(found, names, strict=True)
        if security.can("websocket.connect.address", name, facts, optional=True)
    ]
    if not allowed:
        raise PermissionDeniedError(
            f"connections to {target.shown} are not allowed: websocket.connect.address is denied for " + _listed(names),
            details={"url": target.url, "addresses": tuple(names)},
        )
    turns = _by_turns(allowed)
    progress.waits_for = lambda: (
        f"no TCP connection to port {target.port} of {_listed([_name(turn) for turn in turns])}"
    )
    return await _connect_to_one(turns)


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


def _listed(names: list[str]) -> str:
    """Return the first few of some names, and how many more there are."""
    more = len(names) - _NAMES_LISTED
    return ", ".join(names[:_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")


def _name(address: _Address) -> str:
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


def _by_turns(addresses: Iterable[_Address]) -> list[_Address]:
    """Return addresses with those of each family by turns, otherwise in their order (RFC 8305, section 4)."""
    before = Counter[int]()
    ranked: list[tuple[int, _Address]] = []
    for address in addresses:
        ranked.append((before[address[0]], address))
        before[address[0]] += 1
    return [address for _, address in sorted(ranked, key=lambda pair: pair[0])]


async def _connect_to_one(addresses: Iterable[_Address]) -> trio.SocketStream:
    """Try addresses one after another, or beside one another where one takes long; return the first connection."""
    connected: list[trio.socket.SocketType] = []
    failures: list[OSError] = []

    @enable_ki_protection  # or Ctrl-C could come between a socket and its place in the list
    async def attempt(address: _Address, failed: trio.Event) -> None:
        try:
            connected.append(await _connected_socket(address))
        except OSError as error:
            failures.append(error)
            failed.set()
        else:
            attempts.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as attempts:
            for address in addresses:
                failed = trio.Event()
                attempts.start_soon(attempt, address, failed)
                with trio.move_on_after(_ATTEMPT_DELAY_SECONDS):
                    await failed.wait()
        if not connected:
            raise OSError("no address can be connected to") from ExceptionGroup("attempts to connect", failures)
        return trio.SocketStream(connected.pop(0))
    finally:
        # Several may have connected before the others were cancelled.
        for other in connected:
            other.close()


@enable_ki_protection
async def _connected_socket(address: _Address) -> trio.socket.SocketType:
    made = trio.socket.socket(*address[:3])
    try:
        await made.connect(address[-1])
    except BaseException:
        made.close()
        raise
    return made
