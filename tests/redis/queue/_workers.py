"""What the tests of queues share: a bus that is quick to come back, and looks at a queue without the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import trio

from csp import redis
from tests.redis import _wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

LEASE = "300ms"
KEY = "{jobs}"


class Server(Protocol):
    @property
    def port(self) -> int: ...
    @property
    def url(self) -> str: ...


@dataclass(frozen=True)
class Pending:
    """An entry that a worker has, as the server tells it."""

    id: str
    consumer: str
    idle_milliseconds: int
    count: int


def a_bus(server: Server, **options: Any) -> redis.Bus[bytes]:
    """Return a bus that comes back at once."""
    chosen: dict[str, Any] = {"min_delay": "5ms", "max_delay": "20ms", **options}
    return redis.Bus(server.url, **chosen)


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds."""
    with trio.fail_after(10):
        while True:
            holds = condition()
            if holds is True or (holds is not False and await holds):
                return
            await trio.sleep(0.005)


async def take(source: redis.Deliveries[T], count: int = 1) -> list[redis.Delivery[T]]:
    """Return the next deliveries."""
    with trio.fail_after(10):
        return [await source.receive_value() for _ in range(count)]


async def pending(server: Server, key: str = KEY) -> list[Pending]:
    entries = await _wire.command(server, "XPENDING", key, "workers", "-", "+", 1000)
    return [
        Pending(entry.decode(), consumer.decode(), idle, count)
        for entry, consumer, idle, count in cast("list[tuple[bytes, bytes, int, int]]", entries)
    ]


async def consumers(server: Server, key: str = KEY) -> dict[str, int]:
    """Return how many values each worker has."""
    found: dict[str, int] = {}
    for fields in cast("list[list[Any]]", await _wire.command(server, "XINFO", "CONSUMERS", key, "workers")):
        each = dict(zip(fields[::2], fields[1::2], strict=True))
        found[each[b"name"].decode()] = each[b"pending"]
    return found


async def length(server: Server, key: str = KEY) -> int:
    return cast("int", await _wire.command(server, "XLEN", key))


async def dead_letters(server: Server, key: str = KEY) -> list[dict[str, bytes]]:
    entries = cast("list[tuple[bytes, list[bytes]]]", await _wire.command(server, "XRANGE", f"{key}:dead", "-", "+"))
    return [
        {name.decode(): value for name, value in zip(fields[::2], fields[1::2], strict=True)} for _, fields in entries
    ]


async def steal(server: Server, entry: str, *, thief: str = "a thief", key: str = KEY) -> None:
    """Claim an entry for another worker, as one does that finds its lease run out."""
    await _wire.command(server, "XCLAIM", key, "workers", thief, 0, entry)


async def cut(server: Server) -> None:
    """Close all other connections of a server."""
    await _wire.command(server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
