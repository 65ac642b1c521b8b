"""Random programs of workers on one queue, while connections are cut and the server is killed and started again.

Workers take values, ack, retry and reject them, raise, are cancelled, forget what they have, leave in every way and
come back, some by the name they had before. Whatever they do: every value is acked or becomes a dead letter, none is
lost, and none is in the hands of two workers of which neither could know that it has lost it.

``CSP_PROGRAMS=500 pytest tests/redis/queue/test_random_work.py`` runs as many programs, other ones each time; a failure
shows its seed, and ``CSP_SEED`` is that of the first. What a program does follows from its seed; what comes of it
depends on real servers and the real clock.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from csp import errors, redis, testing
from tests.redis.queue._workers import a_bus, cut, dead_letters

if TYPE_CHECKING:
    from collections.abc import Generator

LONG_RUN = os.environ.get("CSP_PROGRAMS")
FIRST = int(os.environ.get("CSP_SEED") or (time.time_ns() // 1000 if LONG_RUN else 0))
PROGRAMS = int(LONG_RUN or 4)
VALUES = 40
MAX_DELIVERIES = 6
LEASE = "200ms"
# What was done: programs that do nothing show nothing.
counts: Counter[str] = Counter()


class OwnError(Exception):
    """What workers raise."""


class Program:
    """One random program."""

    def __init__(self, seed: int, server: testing.RedisServer) -> None:
        self.random = random.Random(seed)
        self.server = server
        self.sent: dict[str, bytes] = {}
        self.acked: set[str] = set()
        # What is in hand, by value; what was settled is not.
        self.hands: dict[str, list[redis.Delivery[bytes]]] = {}
        self.faults: list[str] = []
        self.over = False

    async def run(self) -> None:
        with trio.fail_after(30):
            async with trio.open_nursery() as sending:
                sending.start_soon(self.send)
                async with trio.open_nursery() as nursery:
                    for number in range(self.random.randint(2, 4)):
                        nursery.start_soon(self.work, number)
                    await self.disturb()
                    self.over = True
                await self.drain()
            await self.check()

    async def send(self) -> None:
        async with a_bus(self.server) as bus:
            jobs = bus.queue("jobs", capacity=self.random.choice([5, 1000]))
            for number in range(VALUES):
                while True:
                    with suppress(errors.ConnectionFailedError):
                        entry = await jobs.send(str(number), key=str(number))
                        break
                    await trio.sleep(0.005)
                self.sent[entry] = str(number).encode()
                if number % 10 == 9:
                    await trio.sleep(self.random.uniform(0, 0.05))

    async def disturb(self) -> None:
        """Cut connections, and kill the server."""
        for _ in range(self.random.randint(3, 6)):
            await trio.sleep(self.random.uniform(0.02, 0.12))
            if self.random.random() < 0.3:
                counts["restarts"] += 1
                await self.server.kill()
                await trio.sleep(self.random.uniform(0, 0.05))
                await self.server.start()
            else:
                counts["cuts"] += 1
                await cut(self.server)

    # Workers ----------------------------------------------------------------------------------------------------------

    async def work(self, number: int) -> None:
        """Be a worker again and again, on a bus of its own or one that is kept."""
        while not self.over:
            async with a_bus(self.server, close_timeout=self.random.choice(["20ms", "1s"])) as bus:
                for _ in range(self.random.randint(1, 3)):
                    with suppress(OwnError), trio.CancelScope() as scope:
                        await self.live(bus, self.random.choice([None, f"worker {number}"]), scope)
                    counts["lives"] += 1

    async def live(self, bus: redis.Bus[bytes], name: str | None, scope: trio.CancelScope) -> None:
        capacity = self.random.randint(1, 4)
        kept: list[redis.Delivery[bytes]] = []
        try:
            async with bus.queue("jobs").work(
                consumer=name, lease=LEASE, capacity=capacity, max_deliveries=MAX_DELIVERIES
            ) as deliveries:
                for _ in range(self.random.randint(0, 12)):
                    if self.over:
                        break
                    with trio.move_on_after(self.random.uniform(0, 0.2)):
                        await self.treat(await deliveries.receive_value(), kept)
                match self.random.randrange(4):
                    case 0:
                        raise OwnError
                    case 1:
                        scope.cancel()
                    case 2:
                        with trio.move_on_after(0.1):
                            await deliveries.flush()
                    case _:
                        pass
        finally:
            for delivery in kept:
                self.settled(delivery)

    async def treat(self, delivery: redis.Delivery[bytes], kept: list[redis.Delivery[bytes]]) -> None:
        """Do something with a delivery."""
        self.taken(delivery)
        counts["taken"] += 1
        what = self.random.choice(["ack", "ack", "block", "block", "retry", "reject", "fail", "cancel", "keep"])
        counts[what] += 1
        if what == "keep":
            kept.append(delivery)
            return
        try:
            with suppress(OwnError), trio.CancelScope() as scope, delivery:
                await trio.sleep(self.random.choice([0, 0, 0.01, 0.03, 0.25]))
                match what:
                    case "ack":
                        self.ack(delivery)
                    case "retry":
                        delivery.retry()
                    case "reject":
                        delivery.reject("no")
                    case "fail":
                        raise OwnError
                    case "cancel":
                        scope.cancel()
                        await trio.sleep_forever()
                    case _:
                        # As the end of the block will do.
                        self.ack(delivery)
        finally:
            self.settled(delivery)

    def ack(self, delivery: redis.Delivery[bytes]) -> None:
        if delivery.ack():
            self.acked.add(delivery.id)

    def taken(self, delivery: redis.Delivery[bytes]) -> None:
        others = self.hands.setdefault(delivery.id, [])
        if any(not other.lost for other in others):
            self.faults.append(f"{delivery!r} beside {others}")
        if not 1 <= delivery.attempt <= MAX_DELIVERIES:
            self.faults.append(f"{delivery!r} is one too many")
        others.append(delivery)

    def settled(self, delivery: redis.Delivery[bytes]) -> None:
        self.hands[delivery.id].remove(delivery)

    # The end ----------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Do what is left, and what is still to come."""
        async with a_bus(self.server) as bus:
            jobs = bus.queue("jobs")
            async with jobs.work(lease=LEASE, max_deliveries=MAX_DELIVERIES) as deliveries:
                while True:
                    with trio.move_on_after(0.02):
                        while True:
                            delivery = await deliveries.receive_value()
                            self.taken(delivery)
                            self.ack(delivery)
                            self.settled(delivery)
                    await deliveries.flush()
                    if len(self.sent) == VALUES and await jobs.depth() == 0:
                        break

    async def check(self) -> None:
        """Look at what became of all."""
        letters = {letter["id"].decode(): letter["d"] for letter in await dead_letters(self.server)}
        counts["dead letters"] += len(letters)
        counts["acked"] += len(self.acked)
        assert self.faults == []
        assert len(self.sent) == VALUES
        assert self.sent.items() >= letters.items()
        assert self.sent.keys() == self.acked | letters.keys()


@pytest.mark.parametrize("number", range(PROGRAMS))
async def test_every_value_is_done_or_a_dead_letter(binary: str, number: int) -> None:
    seed = FIRST + number
    async with testing.redis_server(binary=binary, append_only="always") as server:
        try:
            await Program(seed, server).run()
        except BaseException as error:
            error.add_note(f"of the program with the seed {seed}")
            raise


@pytest.fixture(scope="module", autouse=True)
def _summary() -> Generator[None]:
    yield
    print("\nprograms:", ", ".join(f"{number} {what}" for what, number in sorted(counts.items())))  # shown by -s
