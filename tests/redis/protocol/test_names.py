from __future__ import annotations

from typing import TYPE_CHECKING, cast

from csp import redis
from tests.redis import _wire

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer


async def test_keys_have_the_name_in_braces_behind_the_prefix(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url, prefix="app:") as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"x", key="a:{b}")
        await bus.topic("jobs").publish(b"x")
        async with jobs.work() as deliveries:
            (await deliveries.receive_value()).reject("no")
            await deliveries.flush()
    keys = await _wire.command(shared_server, "KEYS", "*")
    assert sorted(cast("list[bytes]", keys)) == [
        b"app:{jobs}",
        b"app:{jobs}:dead",
        b"app:{jobs}:once:a:{b}",
        b"app:{jobs}:topic",
        b"app:{jobs}:topic:n",
    ]


async def test_any_text_without_braces_is_a_name(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        for name in (" ", "\n\0", "\u20ac" * 500, ":dead", "*"):
            await bus.queue(name).send(b"x")
            await bus.topic(name).publish(b"x")
            assert await bus.queue(name).depth() == 1
            assert await _wire.command(shared_server, "XLEN", f"{{{name}}}:topic") == 1
