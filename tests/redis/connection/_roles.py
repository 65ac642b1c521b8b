"""What a user of an ACL may do, by role, and a program for each role that uses all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from csp.errors import ConnectionFailedError
from tests.redis import _wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from csp import redis


async def send(bus: redis.Bus[bytes]) -> None:
    """Put values into a queue."""
    jobs = bus.queue("jobs")
    await jobs.send(b"one")
    await jobs.send(b"two", key="a")
    await jobs.send(b"two", key="a")
    async with jobs.outlet() as channel:
        await channel.send(b"three")


async def look(bus: redis.Bus[bytes]) -> None:
    """Look at a queue."""
    assert await bus.queue("jobs").depth() > 0


async def work(bus: redis.Bus[bytes]) -> None:
    """Do values of a queue in each way that there is."""
    async with bus.queue("jobs").work(lease="150ms", max_deliveries=1) as deliveries:
        await deliveries.ready()
        try:
            (await deliveries.receive_value()).retry()  # which makes it a dead letter
            (await deliveries.receive_value()).reject("no")
            (await deliveries.receive_value()).ack()
            await deliveries.flush()
        except ConnectionFailedError:
            assert deliveries.cause is not None
            raise deliveries.cause from None


async def publish(bus: redis.Bus[bytes]) -> None:
    """Publish on a topic."""
    await bus.topic("prices").publish(b"1")
    await bus.topic("prices").publish(b"2")


async def subscribe(bus: redis.Bus[bytes]) -> None:
    """Read a topic."""
    async with bus.topic("prices").subscribe(since="start") as updates:
        await updates.ready()
        await updates.receive_value()


async def read_dead_letters(bus: redis.Bus[bytes]) -> None:
    """Read dead letters, put one into its queue again, and remove one."""
    jobs = bus.queue("jobs")
    async with jobs.dead_letters() as letters:
        await letters.ready()
        await jobs.requeue(await letters.receive_value())
        await jobs.discard(await letters.receive_value())


@dataclass(frozen=True)
class Role:
    """What somebody does, and needs for that beside `CONNECT`."""

    run: Callable[[redis.Bus[bytes]], Awaitable[None]]
    keys: tuple[str, ...]
    commands: tuple[str, ...]
    """Without one of these, the call or the source fails."""
    others: tuple[str, ...] = ()
    """Without these something takes longer or is left behind."""
    sometimes: tuple[str, ...] = ()
    """Without these a source fails that has lasted."""


CONNECT = ("info", "evalsha", "eval")
"""What every user needs."""

ROLES = {
    "send": Role(send, ("{jobs}", "{jobs}:once:*"), ("xlen", "xadd", "get", "set")),
    "look": Role(look, ("{jobs}", "{jobs}:dead"), ("xlen", "xpending", "xrange", "time")),
    "work": Role(
        work,
        ("{jobs}", "{jobs}:dead"),
        ("xinfo|groups", "xgroup|create", "xreadgroup", "xpending", "xclaim", "xack", "xdel", "xrange", "xadd"),
        ("xgroup|delconsumer", "client|unblock"),
        ("xinfo|consumers",),
    ),
    "publish": Role(
        publish,
        ("{prices}:topic", "{prices}:topic:n"),
        ("xlen", "time", "hget", "hset", "hincrby", "xadd"),
        ("xinfo|stream",),
    ),
    "subscribe": Role(
        subscribe,
        ("{prices}:topic", "{prices}:topic:n"),
        ("xread", "xinfo|stream", "hmget", "xrevrange"),
        ("client|unblock",),
    ),
    "dead letters": Role(
        read_dead_letters,
        ("{jobs}", "{jobs}:dead"),
        ("xread", "xinfo|stream", "xlen", "xadd", "xrange", "xdel"),
        ("client|unblock",),
    ),
}
"""What a user of a role needs. All of them together need all of it."""


async def prepare(server: _wire.Place, role: str) -> None:
    """Bring about what the program of a role finds."""
    async with _wire.connected(server) as wire:
        for command in (("FLUSHALL",), ("SCRIPT", "FLUSH")):
            await wire.command(*command)
        if role in ("look", "work"):
            for _ in range(4):
                await wire.command("XADD", "{jobs}", "*", "d", "x")
        if role == "look":
            await wire.command("XGROUP", "CREATE", "{jobs}", "workers", "0")
        if role == "dead letters":
            for entry in ("1-0", "2-0"):
                fields = ("d", "x", "id", entry, "attempts", "5", "reason", "no")
                await wire.command("XADD", "{jobs}:dead", "*", *fields)
        if role == "subscribe":
            await wire.command("HSET", "{prices}:topic:n", "epoch", "1-x", "n", "1")
            await wire.command("XADD", "{prices}:topic", "1-1", "e", "1-x", "n", "1", "d", "x")
