"""The public API of `csp.redis` as type checkers see it; mypy and pyright check this file, and it runs as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_type

import csp
from csp import redis

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer


@dataclass(frozen=True)
class Job:
    """A value of one's own."""

    number: int


def encode(job: Job) -> bytes:
    return b"%d" % job.number


def decode(data: bytes) -> Job:
    return Job(int(data))


JOBS: redis.Codec[Job] = (encode, decode)


def test_a_bus_has_the_type_of_its_codec() -> None:
    plain = redis.Bus("redis://h.test", timeout="1s", max_attempts=None)
    assert_type(plain, redis.Bus[bytes])
    assert_type(plain.url, str)
    assert_type(plain.state, redis.State)
    assert_type(plain.state, csp.ConnectionState)
    assert_type(plain.states(), csp.Source[csp.ConnectionState])
    assert_type(plain.statistics(), redis.BusStatistics)
    assert_type(plain.queue("jobs"), redis.Queue[bytes])
    assert_type(plain.topic("prices"), redis.Topic[bytes])
    assert_type(plain.queue("jobs", codec=JOBS, overflow="error", key_ttl="1h"), redis.Queue[Job])
    assert_type(plain.topic("prices", codec=JOBS, keep=5), redis.Topic[Job])
    typed = redis.Bus("redis://h.test", codec=JOBS)
    assert_type(typed, redis.Bus[Job])
    assert_type(typed.queue("jobs"), redis.Queue[Job])
    assert_type(typed.topic("jobs"), redis.Topic[Job])
    assert_type(redis.Bus("redis://h.test", codec=redis.JSON), redis.Bus[Any])


async def test_what_comes_has_the_type_of_the_queue_or_topic(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url, codec=JOBS) as bus:
        assert_type(bus, redis.Bus[Job])
        jobs, prices = bus.queue("jobs"), bus.topic("prices")
        assert_type(await jobs.send(Job(1), key="a"), str)
        assert_type(await jobs.depth(), int)
        assert_type(await jobs.backlog(), redis.Backlog)
        async with jobs.outlet(key=lambda job: str(job.number)) as channel:
            assert_type(channel, csp.Channel[Job])
            await channel.send(Job(2))
        async with jobs.work() as deliveries, prices.subscribe() as updates:
            assert_type(deliveries, redis.Deliveries[Job])
            assert_type(updates, redis.Updates[Job])
            await updates.ready()
            assert_type(await prices.publish(Job(3)), str)
            received: set[int] = set()
            while len(received) < 3:
                r = await csp.select(deliveries.case_receive(), updates.case_receive())
                assert_type(r, csp.SelectResult[redis.Delivery[Job] | redis.Published[Job] | csp.Gap])
                if deliveries.gave(r):
                    assert_type(r.value, redis.Delivery[Job])
                    with r.value as delivery:
                        assert_type(delivery, redis.Delivery[Job])
                        assert_type(delivery.data, Job)
                        assert_type((delivery.id, delivery.attempt, delivery.lost), tuple[str, int, bool])
                        received.add(delivery.data.number)
                    assert_type(delivery.ack(), bool)
                elif updates.gave(r):
                    assert_type(r.value, redis.Published[Job] | csp.Gap)
                    if isinstance(r.value, redis.Published):
                        assert_type(r.value.data, Job)
                        received.add(r.value.data.number)
        assert received == {1, 2, 3}
        async with jobs.dead_letters() as letters:
            assert_type(letters, redis.DeadLetters[Job])
