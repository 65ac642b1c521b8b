"""What csp and coredis do with one server: ``python -m benchmarks.peers.redis_sides SIDE``, each a process of its own.

Each line of its standard input is a JSON list: the work, the server's port, how many times, and what more the
work takes. Its answer is a line with the cost of one operation in microseconds.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import coredis
import trio
from coredis.connection import TCPConnection, TCPLocation

from benchmarks.meters.measure import Stopwatch
from csp import redis

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

VALUE = b"x" * 100
"""What is sent and received."""

_WORKERS = "workers"
_OUTLET_BATCH = 64
_ACK_BATCH = 128
_MANY = 10**9
_WARM_UP = 50

Work: TypeAlias = Callable[..., Awaitable[float]]


def _url(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


@asynccontextmanager
async def _client(port: int) -> AsyncGenerator[Any]:
    # Its types differ between versions.
    client: Any = coredis.Redis("127.0.0.1", port)
    async with client:
        yield client


class _Wall:
    """Measures the time on the wall."""

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *exc_info: object) -> None:
        self.seconds = perf_counter() - self._start


async def _forget(port: int, key: str) -> None:
    async with _client(port) as client:
        await client.delete([key])


# Receiving from a topic: CPU time -----------------------------------------------------------------------------------


def topic_of(count: int) -> str:
    """Return the name of the topic that has so many values."""
    return f"filled-{count}"


async def fill(port: int, count: int) -> float:
    """Publish so many values on a topic that keeps them, unless it has them."""
    async with _client(port) as client:
        there = await client.xlen(f"{{{topic_of(count)}}}:topic")
    if there == count:
        return 0.0
    async with redis.Bus(_url(port)) as bus:
        topic = bus.topic(topic_of(count), keep=_MANY)

        async def publish(share: int) -> None:
            for _ in range(share):
                await topic.publish(VALUE)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(publish, len(range(number, count, 100)))
    return 0.0


async def _run(connection: TCPConnection, *, task_status: trio.TaskStatus[None]) -> None:
    await connection.run(task_status=task_status)


async def csp_receive(port: int, count: int, capacity: int) -> float:
    """Receive through the source of a subscription."""
    stopwatch = Stopwatch()
    async with redis.Bus(_url(port)) as bus:
        topic = bus.topic(topic_of(count), keep=_MANY)
        async with topic.subscribe(capacity=capacity, since="start") as updates:
            await updates.ready()
            with stopwatch:
                for _ in range(count):
                    await updates.receive()
    return stopwatch.seconds / count * 1e6


async def bare_receive(port: int, count: int, capacity: int) -> float:
    """Read from a connection of coredis, in the batches that a subscription of that capacity reads."""
    stopwatch = Stopwatch()
    connection = TCPConnection(TCPLocation("127.0.0.1", port))
    key, cursor, received = f"{{{topic_of(count)}}}:topic".encode(), b"0-0", 0
    async with trio.open_nursery() as nursery:
        await nursery.start(_run, connection)
        with stopwatch:
            while received < count:
                request: Awaitable[object] = connection.create_request(
                    b"XREAD", b"COUNT", capacity // 2, b"STREAMS", key, cursor, decode=False
                )
                entries = cast("dict[bytes, list[tuple[bytes, object]]]", await request)[key]
                received += len(entries)
                cursor = entries[-1][0]
        nursery.cancel_scope.cancel()
    return stopwatch.seconds / count * 1e6


async def coredis_receive(port: int, count: int, capacity: int) -> float:
    """Read with `xread` of coredis' client, in the same batches."""
    stopwatch = Stopwatch()
    key, cursor, received = f"{{{topic_of(count)}}}:topic", "0-0", 0
    async with _client(port) as client:
        with stopwatch:
            while received < count:
                answer = await client.xread({key: cursor}, count=capacity // 2)
                (entries,) = answer.values()
                received += len(entries)
                cursor = entries[-1].identifier
    return stopwatch.seconds / count * 1e6


# The latency of a topic: time on the wall ---------------------------------------------------------------------------


def _percentile(seconds: list[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100)[percent - 1] * 1e6 if len(seconds) > 1 else seconds[0] * 1e6


async def csp_latency(port: int, count: int, percent: int) -> float:
    """Publish a value when the one before has come."""
    times: list[float] = []
    async with redis.Bus(_url(port)) as bus, bus.topic("latency").subscribe() as updates:
        await updates.ready()
        for _ in range(_WARM_UP + count):
            start = perf_counter()
            await bus.topic("latency").publish(VALUE)
            await updates.receive()
            times.append(perf_counter() - start)
    return _percentile(times[_WARM_UP:], percent)


async def coredis_latency(port: int, count: int, percent: int) -> float:
    """Do the same with coredis' publish and subscribe."""
    times: list[float] = []
    async with _client(port) as client, client.pubsub(channels=["latency"], ignore_subscribe_messages=True) as messages:
        while not await client.publish("latency", b""):  # noqa: ASYNC110  # it is the server that knows
            await trio.sleep(0.01)
        await messages.get_message()
        for _ in range(_WARM_UP + count):
            start = perf_counter()
            await client.publish("latency", VALUE)
            await messages.get_message()
            times.append(perf_counter() - start)
    return _percentile(times[_WARM_UP:], percent)


# A work queue: time on the wall -------------------------------------------------------------------------------------


async def csp_work(port: int, count: int, capacity: int) -> float:
    """Send values through an outlet, and do them in a worker."""
    wall = _Wall()
    async with redis.Bus(_url(port)) as bus:
        jobs = bus.queue("work")

        async def produce() -> None:
            async with jobs.outlet(capacity=capacity) as channel:
                for _ in range(count):
                    await channel.send(VALUE)

        async with trio.open_nursery() as nursery, jobs.work(capacity=capacity) as deliveries:
            await deliveries.ready()
            with wall:
                nursery.start_soon(produce)
                for _ in range(count):
                    with await deliveries.receive_value():
                        pass
                await deliveries.flush()
        if await jobs.depth():
            raise RuntimeError("the queue is not empty")
    return wall.seconds / count * 1e6


async def _coredis_work(
    port: int, count: int, produce: Callable[[Any], Awaitable[None]], consume: Callable[[Any], Awaitable[None]]
) -> float:
    wall = _Wall()
    async with _client(port) as client:
        await client.xgroup_create("stream", _WORKERS, "0", mkstream=True)
        with wall:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(produce, client)
                await consume(client)
        if await client.xlen("stream"):
            raise RuntimeError("the stream is not empty")
    await _forget(port, "stream")
    return wall.seconds / count * 1e6


async def coredis_work_one(port: int, count: int) -> float:
    """Add, read, acknowledge and delete one value at a time."""

    async def produce(client: Any) -> None:
        for _ in range(count):
            await client.xadd("stream", field_values={"d": VALUE})

    async def consume(client: Any) -> None:
        done = 0
        while done < count:
            answer = await client.xreadgroup(_WORKERS, "one", {"stream": ">"}, count=1, block=1000)
            for entry in answer[b"stream"]:
                await client.xack("stream", _WORKERS, [entry.identifier])
                await client.xdel("stream", [entry.identifier])
                done += 1

    return await _coredis_work(port, count, produce, consume)


async def coredis_work_batches(port: int, count: int, capacity: int) -> float:
    """Do the same in the batches that csp has: pipelines of values, and acknowledgements of many."""

    async def produce(client: Any) -> None:
        for first in range(0, count, _OUTLET_BATCH):
            async with client.pipeline(transaction=False) as pipeline:
                for _ in range(min(_OUTLET_BATCH, count - first)):
                    pipeline.xadd("stream", field_values={"d": VALUE})

    async def settle(client: Any, done: list[bytes]) -> None:
        async with client.pipeline(transaction=False) as pipeline:
            pipeline.xack("stream", _WORKERS, done)
            pipeline.xdel("stream", done)

    async def consume(client: Any) -> None:
        received, done = 0, list[bytes]()
        while received < count:
            answer = await client.xreadgroup(_WORKERS, "one", {"stream": ">"}, count=capacity // 2, block=1000)
            for entry in answer[b"stream"]:
                received += 1
                done.append(entry.identifier)
                if len(done) == _ACK_BATCH or received == count:
                    await settle(client, done)
                    done = []

    return await _coredis_work(port, count, produce, consume)


# Sending: time on the wall ------------------------------------------------------------------------------------------


async def _send(send: Callable[[], Awaitable[object]], count: int, tasks: int) -> float:
    async def send_some(share: int) -> None:
        for _ in range(share):
            await send()

    wall = _Wall()
    with wall:
        async with trio.open_nursery() as nursery:
            for number in range(tasks):
                nursery.start_soon(send_some, len(range(number, count, tasks)))
    return wall.seconds / count * 1e6


async def csp_send(port: int, count: int, tasks: int) -> float:
    """Send values from some tasks, each of which waits for the answer."""
    async with redis.Bus(_url(port)) as bus:
        jobs = bus.queue("sent", capacity=_MANY)
        await jobs.send(VALUE)  # it is connected, and the server has the script
        cost = await _send(partial(jobs.send, VALUE), count, tasks)
    await _forget(port, "{sent}")
    return cost


async def coredis_send(port: int, count: int, tasks: int) -> float:
    """Add values to a stream from some tasks."""
    async with _client(port) as client:
        await client.xadd("added", field_values={"d": VALUE})

        async def add() -> None:
            await client.xadd("added", field_values={"d": VALUE})

        cost = await _send(add, count, tasks)
    await _forget(port, "added")
    return cost


# What servers are fed with ------------------------------------------------------------------------------------------


async def publish(port: int, count: int) -> float:
    """Publish values that differ on the topic that servers subscribe to, one after the other."""
    async with redis.Bus(_url(port)) as bus:
        for number in range(count):
            await bus.topic("fed").publish(numbered(number))
    return 0.0


def numbered(number: int) -> bytes:
    """Return a value of 100 bytes that says which it is."""
    return b"%0100d" % number


WORKS: Mapping[str, Mapping[str, Work]] = {
    "csp": {
        "fill": fill,
        "receive": csp_receive,
        "latency": csp_latency,
        "work": csp_work,
        "send": csp_send,
        "publish": publish,
    },
    "bare connection": {"receive": bare_receive},
    "coredis": {
        "receive": coredis_receive,
        "latency": coredis_latency,
        "work": coredis_work_batches,
        "work, one at a time": coredis_work_one,
        "send": coredis_send,
    },
}
"""What each side does, by the names of the side and the work."""


def main() -> None:
    """Do what the lines of the standard input ask for."""
    works = WORKS[sys.argv[1]]
    for line in sys.stdin:
        work, *arguments = json.loads(line)
        print(json.dumps(trio.run(works[work], *arguments)), flush=True)


if __name__ == "__main__":
    main()
