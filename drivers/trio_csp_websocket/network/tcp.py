"""A TCP connection to one of a host's addresses."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trio_csp_websocket.network.addresses import address_name, allowed_addresses, listed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_csp_websocket.network.addresses import Address
    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.protocol.url import Target

_ATTEMPT_DELAY_SECONDS = 0.25
"""How long an attempt is waited for before the next one begins beside it (RFC 8305, section 5)."""


async def open_tcp_stream(target: Target, progress: Progress) -> trio.SocketStream:
    """Connect to the first address of a host that answers, of those that may be connected to.

    The name is resolved once, and the addresses that the policies are asked about are those that are connected to. A
    name that leads elsewhere a moment later gets nobody in.

    Raises:
        PermissionDeniedError: as `allowed_addresses`.
        OSError: the name cannot be resolved; or no address can be connected to, with a group of the reasons as cause.
    """
    addresses = await allowed_addresses(target, progress)
    return await connect_to_one(addresses, target.port, progress)


async def connect_to_one(
    addresses: Iterable[Address], port: int, progress: Progress, whose: str = ""
) -> trio.SocketStream:
    """Connect to the first address that answers.

    Args:
        addresses: those to try.
        port: their port, for the text of a timeout.
        progress: told what is waited for.
        whose: says whose addresses these are, if they are not the server's.

    Raises:
        OSError: no address can be connected to, with a group of the reasons as cause.
    """
    turns = _by_turns(addresses)
    progress.waits_for = lambda: f"no TCP connection to port {port} of {listed(map(address_name, turns))}{whose}"
    return await _connect_to_one(turns)


def _by_turns(addresses: Iterable[Address]) -> list[Address]:
    """Return addresses with those of each family by turns, otherwise in their order (RFC 8305, section 4)."""
    before = Counter[int]()
    ranked: list[tuple[int, Address]] = []
    for address in addresses:
        ranked.append((before[address[0]], address))
        before[address[0]] += 1
    return [address for _, address in sorted(ranked, key=lambda pair: pair[0])]


async def _connect_to_one(addresses: Iterable[Address]) -> trio.SocketStream:
    """Try addresses one after another, or beside one another where one takes long; return the first connection."""
    connected: list[trio.socket.SocketType] = []
    failures: list[OSError] = []

    @enable_ki_protection  # or Ctrl-C could come between a socket and its place in the list
    async def attempt(address: Address, failed: trio.Event) -> None:
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
async def _connected_socket(address: Address) -> trio.socket.SocketType:
    made = trio.socket.socket(*address[:3])
    try:
        await made.connect(address[-1])
    except BaseException:
        made.close()
        raise
    return made
