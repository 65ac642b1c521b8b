"""A transport and the stream at its other end: over sockets, and over Trio's streams in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_csp_websocket.transport.base import Transport

BIG = bytes(range(256)) * 40_000


def over_sockets() -> tuple[Transport, trio.abc.Stream]:
    ours, theirs = trio.socket.socketpair()
    return SocketTransport(trio.SocketStream(ours)), trio.SocketStream(theirs)


def over_memory() -> tuple[Transport, trio.abc.Stream]:
    ours, theirs = memory_stream_pair()
    return StreamTransport(ours), theirs


def over_lockstep() -> tuple[Transport, trio.abc.Stream]:
    ours, theirs = lockstep_stream_pair()
    return StreamTransport(ours), theirs


def fill(transport: Transport) -> int:
    """Write until the system takes no more; return how many bytes it took."""
    total = 0
    while taken := transport.send_now(BIG):
        total += taken
    return total


async def outcome_of(deed: Callable[[], Awaitable[object]], outcome: list[str]) -> None:
    try:
        await deed()
        outcome.append("done")
    except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
        outcome.append(type(error).__name__)
