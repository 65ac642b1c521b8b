"""Values of all sizes: how many are fetched ahead, so that they take a bounded number of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tests.redis.queue._workers import a_bus, take, until

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer

MIB = 1024 * 1024


async def test_large_values_are_not_all_fetched_ahead(shared_server: SharedServer) -> None:
    large = bytes(5 * MIB)
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for _ in range(8):
            await jobs.send(large)
        async with jobs.work(capacity=16, lease="30s") as deliveries:
            await deliveries.ready()
            received = 0
            while received < 8:
                (delivery,) = await take(deliveries)
                assert delivery.data == large
                delivery.ack()
                del delivery
                received += 1
                # A batch of unknown size comes first; those that follow are bounded.
                if received >= 8 - 3:
                    assert deliveries._worker.fetched <= 4
            await deliveries.flush()


async def test_what_others_gave_back_is_bounded_too(shared_server: SharedServer) -> None:
    large = bytes(5 * MIB)
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for _ in range(7):
            await jobs.send(large)
        async with jobs.work() as deliveries:
            await take(deliveries)
        async with jobs.work() as deliveries:
            await deliveries.ready()
            worker = deliveries._worker
            worker._appetite.saw(5 * MIB, 0)
            while worker.fetched:
                for delivery in await take(deliveries, worker.fetched):
                    delivery.ack()
            await until(lambda: bus.statistics().acked >= 6)


async def test_a_value_of_one_byte_and_an_empty_one(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"")
        await jobs.send(b"\x00")
        async with jobs.work() as deliveries:
            empty, one = await take(deliveries, 2)
            assert (empty.data, one.data) == (b"", b"\x00")
            empty.ack()
            one.ack()
            await trio.lowlevel.checkpoint()
