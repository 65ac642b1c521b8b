"""What is promised of queues and topics, and how each promise is broken on purpose.

A scenario takes a `Size`, does its harm to a real server or to real worker processes, asserts what is promised, and
returns figures.
"""

from __future__ import annotations

import random
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import trio

import csp
from csp import redis, testing
from tests.across._machines import Client, machines
from tests.across._workers import workers
from tests.redis import _wire

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

Figures: TypeAlias = "Mapping[str, object]"
AppendOnly: TypeAlias = Literal["always", "everysec", "no"]


@dataclass(frozen=True)
class Size:
    """How much harm is done."""

    values: int
    kills: int
    seed: int = 0


@asynccontextmanager
async def _bus(server: testing.RedisServer) -> AsyncGenerator[redis.Bus[bytes]]:
    async with redis.Bus(server.url, min_delay="20ms", max_delay="200ms", timeout="5s") as bus:
        yield bus


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    with trio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110  # others bring it about
            await trio.sleep(0.02)


async def _empty(jobs: redis.Queue[bytes], seconds: float = 60) -> None:
    """Wait until a queue is done."""

    async def done() -> bool:
        try:
            return await jobs.depth() == 0
        except csp.errors.Error:
            return False

    await _until(done, seconds)


def _values(count: int, milliseconds: int) -> list[str]:
    return [f"{number}:{milliseconds}" for number in range(count)]


async def _send_all(jobs: redis.Queue[bytes], values: list[str]) -> None:
    async with jobs.outlet(capacity=64, key=bytes.decode) as channel:
        for value in values:
            await channel.send(value.encode())


async def workers_killed(binary: str, size: Size) -> Figures:
    """Workers are killed with -9 in the middle of work: every value is done, by one at a time."""
    chance = random.Random(size.seed)
    async with testing.redis_server(binary=binary) as server, _bus(server) as bus:
        jobs = bus.queue("jobs")
        values = _values(size.values, 5)
        await _send_all(jobs, values)
        async with workers(server.url, "jobs", lease="600ms") as group:
            running = [await group.start() for _ in range(3)]
            for _ in range(size.kills):
                begun = len(group.journal().lines)

                async def goes_on(begun: int = begun) -> bool:
                    return len(group.journal().lines) > begun + 10 or await jobs.depth() == 0

                await _until(goes_on)
                victim = chance.randrange(len(running))
                await group.kill(running[victim])
                running[victim] = await group.start()
            await _empty(jobs)
            journal = group.journal()
    assert journal.done == set(values)
    assert journal.overlaps() == []
    return {"values": size.values, "killed": size.kills, "lost": 0, "done again": journal.redone}


async def worker_stopped(binary: str, size: Size) -> Figures:
    """A worker is stopped (SIGSTOP) beyond its lease: what it had goes to others, and it hands none of it out."""
    async with testing.redis_server(binary=binary) as server, _bus(server) as bus:
        jobs = bus.queue("jobs")
        values = _values(size.values, 20)
        await _send_all(jobs, values)
        async with workers(server.url, "jobs", lease="500ms") as group:
            stopped = await group.start()

            async def begun() -> bool:
                return len(group.journal().lines) > 3

            await _until(begun)
            group.stop(stopped)
            stopped_at = time.monotonic()
            await group.start()
            await _empty(jobs)
            resumed_at = time.monotonic()
            group.resume(stopped)
            await trio.sleep(0.3)
            journal = group.journal()
    late = [line for line in journal.lines if line.worker == stopped.pid and line.moment > resumed_at]
    assert journal.done == set(values)
    assert [line for line in late if line.what == "begin"] == []
    # What was in its hand says that it is lost.
    assert [line for line in late if line.what == "end"] == []
    return {
        "values": size.values,
        "stopped for": f"{resumed_at - stopped_at:.1f} s",
        "lost": 0,
        "done again": journal.redone,
    }


def server_killed(append_only: AppendOnly | None) -> Callable[[str, Size], Awaitable[Figures]]:
    """Return a scenario in which the server is killed with -9 again and again, with a way to persist."""

    async def scenario(binary: str, size: Size) -> Figures:
        confirmed: list[str] = []
        done: set[str] = set()
        redone = 0
        chance = random.Random(size.seed)
        async with testing.redis_server(binary=binary, append_only=append_only) as server, _bus(server) as bus:
            jobs = bus.queue("jobs")

            async def produce(producer: int) -> None:
                for number in range(size.values // 4):
                    value = f"{producer}-{number}"
                    await jobs.send(value, key=value)
                    confirmed.append(value)

            async def consume() -> None:
                nonlocal redone
                async with jobs.work(lease="500ms") as deliveries:
                    async for delivery in deliveries:
                        with delivery:
                            redone += delivery.data.decode() in done
                            done.add(delivery.data.decode())

            async def kill() -> None:
                for _ in range(size.kills):
                    await trio.sleep(chance.uniform(0.05, 0.25))
                    await server.kill()
                    await server.start()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(consume)
                async with trio.open_nursery() as working:
                    for producer in range(4):
                        working.start_soon(produce, producer)
                    working.start_soon(kill)
                await _empty(jobs)
                nursery.cancel_scope.cancel()
        lost = len(set(confirmed) - done)
        if append_only in ("always", "everysec"):
            assert lost == 0
        return {"confirmed": len(confirmed), "killed": size.kills, "lost": lost, "done again": redone}

    return scenario


def backlog_of_killed_server(append_only: AppendOnly | None) -> Callable[[str, Size], Awaitable[Figures]]:
    """Return a scenario in which the server is killed with -9 while nobody works."""

    async def scenario(binary: str, size: Size) -> Figures:
        async with testing.redis_server(binary=binary, append_only=append_only) as server, _bus(server) as bus:
            jobs = bus.queue("jobs")
            for number in range(size.values):
                await jobs.send(f"{number}")
            await server.kill()
            await server.start()
            left = await jobs.depth()
        if append_only in ("always", "everysec"):
            assert left == size.values
        return {"confirmed": size.values, "killed": 1, "lost": size.values - left}

    return scenario


async def poison(binary: str, size: Size) -> Figures:
    """A value that kills its worker becomes a dead letter after `max_deliveries`; all others are done."""
    async with testing.redis_server(binary=binary) as server, _bus(server) as bus:
        jobs = bus.queue("jobs")
        values = _values(size.values, 1)
        await _send_all(jobs, values)
        started = 0
        async with workers(server.url, "jobs", lease="300ms", poison="3") as group:
            while await jobs.depth():
                if all(process.poll() is not None for process in group.processes):
                    await group.start()
                    started += 1
                await trio.sleep(0.05)
            journal = group.journal()
        async with jobs.dead_letters() as letters:
            letter = await letters.receive_value()
    assert letter.data == b"3:1"
    assert letter.attempts == 5
    assert journal.done == {value for value in values if value != "3:1"}
    return {"values": size.values, "workers it killed": 5, "dead letters": 1, "lost": 0}


async def flushed(binary: str, size: Size) -> Figures:
    """The server's data is deleted (FLUSHALL) in the middle of work: what is in hand is lost, what follows is done."""
    after = {f"after-{number}" for number in range(size.values)}
    done: set[str] = set()
    async with testing.redis_server(binary=binary) as server, _bus(server) as bus:
        jobs = bus.queue("jobs")
        for number in range(size.values):
            await jobs.send(f"before-{number}")
        async with jobs.work() as deliveries:
            in_hand = [await deliveries.receive_value() for _ in range(3)]
            await _wire.command(server, "FLUSHALL")

            async def noticed() -> bool:
                return all(delivery.lost for delivery in in_hand)

            await _until(noticed)
            assert not any(delivery.ack() for delivery in in_hand)
            for value in sorted(after):
                await jobs.send(value)
            with trio.fail_after(20):
                while len(done) < len(after):
                    with await deliveries.receive_value() as delivery:
                        done.add(delivery.data.decode())
            await deliveries.flush()
            left = await jobs.depth()
    assert done == after
    assert left == 0
    return {"in hand and lost": len(in_hand), "sent after": len(after), "done": len(done)}


async def restarts(binary: str, size: Size) -> Figures:
    """The server is started again and again: everything comes back by itself, with as many connections as before."""
    async with testing.redis_server(binary=binary, append_only="always") as server, _bus(server) as bus:
        jobs, prices = bus.queue("jobs"), bus.topic("prices")
        gaps = 0
        async with jobs.work(lease="500ms") as deliveries, prices.subscribe() as updates:
            await deliveries.ready()
            await updates.ready()
            for number in range(size.kills):
                await server.kill()
                await server.start()
                await jobs.send(f"{number}", key=f"{number}")
                with await deliveries.receive_value() as delivery:
                    assert delivery.data == b"%d" % number
                # One gap for each restart, and then what is published.
                with trio.fail_after(20):
                    gap = await updates.receive_value()
                    assert isinstance(gap, csp.Gap), gap
                    assert gap.missed is None
                    gaps += 1
                    await prices.publish(f"{number}")
                    update = await updates.receive_value()
                assert isinstance(update, redis.Published), update
                assert update.data == b"%d" % number
            await deliveries.flush()
            listed = await _wire.command(server, "CLIENT", "LIST", "TYPE", "normal")
            assert isinstance(listed, bytes)
            connections = len(listed.splitlines()) - 1  # without the one that asks
    assert connections == 3
    return {"restarts": size.kills, "gaps": gaps, "connections": connections, "lost": 0}


async def slow_subscriber(binary: str, size: Size) -> Figures:
    """A subscriber that reads slowly misses values: the gaps say exactly how many; another one misses none."""
    received = missed = 0
    fast = 0
    async with testing.redis_server(binary=binary) as server, _bus(server) as bus:
        prices = bus.topic("prices", keep=1000)

        async def read_all(updates: redis.Updates[bytes]) -> None:
            nonlocal fast
            async for update in updates:
                assert isinstance(update, redis.Published), update
                fast += 1
                if fast == size.values:
                    return

        async with prices.subscribe(capacity=16) as slow, prices.subscribe(capacity=1000) as eager:
            await slow.ready()
            await eager.ready()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_all, eager)
                for first in range(0, size.values, 100):
                    async with trio.open_nursery() as publishing:
                        for number in range(first, first + 100):
                            publishing.start_soon(prices.publish, f"{number}")
                    while fast < first + 100 - 500:  # noqa: ASYNC110  # it is a count
                        await trio.sleep(0.005)
            with trio.fail_after(30):
                while received + missed < size.values:
                    update = await slow.receive_value()
                    if isinstance(update, redis.Published):
                        received += 1
                    else:
                        assert update.missed is not None
                        assert update.error is None
                        missed += update.missed
    assert received + missed == size.values
    assert missed > 0
    return {"published": size.values, "received": received, "missed, as told": missed, "by the fast one": fast}


async def full(binary: str, size: Size) -> Figures:
    """More is sent than a queue holds: it never holds more, and nothing is lost."""
    capacity = 50
    deepest = 0
    done: set[bytes] = set()
    async with testing.redis_server(binary=binary) as server, _bus(server) as bus:
        jobs = bus.queue("jobs", capacity=capacity)

        async def produce(producer: int) -> None:
            for number in range(size.values // 4):
                await jobs.send(f"{producer}-{number}")

        async with trio.open_nursery() as nursery, jobs.work() as deliveries:
            for producer in range(4):
                nursery.start_soon(produce, producer)
            with trio.fail_after(60):
                while len(done) < size.values // 4 * 4:
                    if len(done) % 20 == 0:
                        deepest = max(deepest, await jobs.depth())
                    with await deliveries.receive_value() as delivery:
                        done.add(delivery.data)
    assert deepest <= capacity
    return {"capacity": capacity, "sent": len(done), "deepest": deepest, "lost": 0}


async def repeated_keys(binary: str, size: Size) -> Figures:
    """Connections are killed in the middle of sends with keys: each value is there once."""
    async with testing.redis_server(binary=binary) as server, _bus(server) as bus:
        jobs = bus.queue("jobs")

        async def produce() -> None:
            for number in range(size.values):
                await jobs.send(f"{number}", key=f"{number}")

        async with trio.open_nursery() as nursery:
            finished = trio.Event()

            async def kill() -> None:
                while not finished.is_set():
                    await _wire.command(server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                    await trio.sleep(0.05)

            nursery.start_soon(kill)
            with trio.fail_after(120):
                await produce()
            finished.set()
        depth = await jobs.depth()
        statistics = bus.statistics()
    assert depth == size.values
    return {
        "sent": size.values,
        "connections lost": statistics.connections - 1,
        "written again": statistics.repeated,
        "twice": 0,
    }


async def cancelled(binary: str, size: Size) -> Figures:
    """Workers are cancelled at random moments: nothing is lost, and what was given back counts as no attempt."""
    chance = random.Random(size.seed)
    done: list[bytes] = []
    attempts = 0
    scopes = 0
    async with testing.redis_server(binary=binary) as server, _bus(server) as bus:
        jobs = bus.queue("jobs")
        values = [f"{number}" for number in range(size.values)]
        await _send_all(jobs, values)
        with trio.fail_after(120):
            while len(set(done)) < size.values:
                scopes += 1
                with trio.move_on_after(chance.uniform(0.005, 0.05)):
                    async with jobs.work(capacity=4) as deliveries:
                        async for delivery in deliveries:
                            attempts = max(attempts, delivery.attempt)
                            with delivery:
                                await trio.sleep(chance.uniform(0, 0.002))
                                done.append(delivery.data)
            await _empty(jobs)
    assert {value.decode() for value in done} == set(values)
    assert attempts == 1
    return {"values": size.values, "cancelled": scopes, "lost": 0, "done again": len(done) - size.values}


async def many_machines(binary: str, size: Size) -> Figures:
    """Servers and workers of the example are killed: all orders are done, and all clients get news of all of them."""
    chance = random.Random(size.seed)
    clients = [Client() for _ in range(4)]
    orders = {"early"}
    killed = {"serve": 0, "work": 0}
    async with (
        testing.redis_server(binary=binary) as server,
        _bus(server) as bus,
        machines(server.url) as group,
        csp.BackgroundNursery() as nursery,
    ):
        # Servers that have just been started tell what was published before.
        await bus.topic("done").publish('{"order": "early", "by": "nobody"}')
        async with trio.open_nursery() as starting:
            roles: list[tuple[str, ...]] = [("serve",), ("serve",), ("work", "one"), ("work", "two")]
            for role in roles:
                starting.start_soon(group.start, *role)
        for client in clients:
            nursery.start_soon(client.run, group.port)
        for number in range(size.kills):
            for place, client in enumerate(clients):
                names = [f"{number}-{place}-{each}" for each in range(size.values // size.kills // len(clients))]
                orders.update(names)
                client.order(names)
            await trio.sleep(chance.uniform(0, 0.3))
            role = await group.kill(chance.randrange(4))
            killed[role[0]] += 1
            await group.start(*role)

        async def all_know() -> bool:
            return all(client.done == orders for client in clients)

        await _until(all_know)
        await _empty(bus.queue("orders"))
        backlog = await bus.queue("orders").backlog()
    assert backlog.dead_letters == 0
    assert not any(client.ordered for client in clients)
    return {
        "orders": len(orders),
        "lost": 0,
        "servers killed": killed["serve"],
        "workers killed": killed["work"],
        "messages": sum(client.messages for client in clients),
        "gaps": sum(client.gaps for client in clients),
    }


@dataclass(frozen=True)
class Scenario:
    """A promise, and how it is broken on purpose."""

    run: Callable[[str, Size], Awaitable[Figures]]
    small: Size
    large: Size


SCENARIOS: Mapping[str, Scenario] = {
    "workers killed": Scenario(workers_killed, Size(40, 1), Size(2000, 20)),
    "worker stopped": Scenario(worker_stopped, Size(20, 1), Size(200, 1)),
    "server killed, always": Scenario(server_killed("always"), Size(200, 1), Size(4000, 20)),
    "server killed, everysec": Scenario(server_killed("everysec"), Size(200, 1), Size(4000, 20)),
    "server killed, nothing persisted": Scenario(server_killed(None), Size(200, 1), Size(4000, 20)),
    "backlog of a killed server, always": Scenario(backlog_of_killed_server("always"), Size(200, 1), Size(3000, 1)),
    "backlog of a killed server, everysec": Scenario(backlog_of_killed_server("everysec"), Size(200, 1), Size(3000, 1)),
    "backlog of a killed server, nothing persisted": Scenario(
        backlog_of_killed_server(None), Size(200, 1), Size(3000, 1)
    ),
    "poison": Scenario(poison, Size(10, 0), Size(200, 0)),
    "flushed": Scenario(flushed, Size(20, 0), Size(2000, 0)),
    "restarts": Scenario(restarts, Size(0, 2), Size(0, 20)),
    "slow subscriber": Scenario(slow_subscriber, Size(3000, 0), Size(20_000, 0)),
    "full": Scenario(full, Size(200, 0), Size(4000, 0)),
    "repeated keys": Scenario(repeated_keys, Size(200, 0), Size(4000, 0)),
    "many machines": Scenario(many_machines, Size(48, 2), Size(3200, 20)),
    "cancelled": Scenario(cancelled, Size(50, 0), Size(1000, 0)),
}
