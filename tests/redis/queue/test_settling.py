"""Acks and returns on their way to the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import redis, testing
from csp.errors import ConnectionFailedError, Kind
from tests.redis import _wire
from tests.redis.queue._workers import KEY, LEASE, a_bus, dead_letters, length, take, until

if TYPE_CHECKING:
    from csp.testing import RedisServer
    from tests.redis.conftest import SharedServer


async def test_acks_are_sent_without_being_asked(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            delivery.ack()
            await until(lambda: bus.statistics().acked == 1)
            assert await length(shared_server) == 0


async def test_acks_are_sent_in_batches(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus, _wire.connected(shared_server) as wire:
        jobs = bus.queue("jobs")
        async with jobs.outlet() as channel:
            for number in range(300):
                await channel.send(str(number).encode())
        async with jobs.work(capacity=300) as deliveries:
            kept = await take(deliveries, 300)
            before = await scripts_run(wire)
            for delivery in kept:
                delivery.ack()
            await deliveries.flush()
            # Those of a scan or a renewal are among them.
            assert await scripts_run(wire) - before <= 6
        assert await length(shared_server) == 0


async def scripts_run(wire: _wire.Wire) -> int:
    statistics = await wire.command("INFO", "commandstats")
    assert isinstance(statistics, bytes)
    line = next(line for line in statistics.decode().splitlines() if line.startswith("cmdstat_evalsha"))
    return int(line.split("calls=")[1].split(",")[0])


async def test_flush_waits_for_what_was_settled_before(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for number in range(3):
            await jobs.send(str(number))
        async with jobs.work() as deliveries:
            await deliveries.flush()
            for delivery in await take(deliveries, 3):
                delivery.ack()
                await deliveries.flush()
                assert bus.statistics().acked == int(delivery.data) + 1


async def test_flush_waits_while_there_is_no_connection(server: RedisServer) -> None:
    async with a_bus(server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(lease=LEASE) as deliveries:
            (delivery,) = await take(deliveries)
            delivery.ack()
            await server.kill()
            with trio.move_on_after(0.05) as scope:
                await deliveries.flush()
            assert scope.cancelled_caught
            await server.start()  # without what it had, so nothing is waited for
            with trio.fail_after(5):
                await deliveries.flush()
    assert bus.statistics().acked == 0


async def test_flush_tells_that_the_bus_has_ended(server: RedisServer) -> None:
    async with a_bus(server, max_attempts=1, timeout="100ms") as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            server.pause()
            assert delivery.ack()
            await server.kill()
            with trio.fail_after(5), pytest.raises(ConnectionFailedError, match="the bus has ended") as caught:
                await deliveries.flush()
            assert caught.value.kind is Kind.INTERNAL


async def test_acks_are_kept_until_the_server_is_back(binary: str) -> None:
    async with testing.redis_server(binary=binary, append_only="always") as server, a_bus(server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        await jobs.send(b"two")
        async with jobs.work(lease="30s") as deliveries:
            one, two = await take(deliveries, 2)
            await server.kill()
            assert one.ack()
            assert two.retry()
            await server.start()
            await deliveries.flush()
            (again,) = await take(deliveries)
            assert (again.data, again.attempt) == (b"two", 2)
            again.ack()
        assert await length(server) == 0
    assert (bus.statistics().acked, bus.statistics().delivered) == (2, 3)


async def test_an_ack_whose_answer_was_late_counts_as_done(server: RedisServer) -> None:
    async with a_bus(server, timeout="100ms") as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(lease="30s") as deliveries:
            (delivery,) = await take(deliveries)
            await until(lambda: deliveries._worker._fetching is not None)
            server.pause()
            delivery.ack()
            await until(lambda: bool(deliveries._worker.settling._uncertain))
            server.resume()
            await deliveries.flush()
        assert await length(server) == 0
    assert (bus.statistics().acked, bus.statistics().lost) == (1, 0)


async def test_where_there_is_no_memory_rejects_wait_and_acks_do_not(server: RedisServer) -> None:
    async with a_bus(server) as bus:
        jobs = bus.queue("jobs")
        for number in range(200):
            await jobs.send(str(number), key=str(number))
        async with jobs.work(capacity=200) as deliveries:
            kept = await take(deliveries, 200)
            await _wire.command(server, "CONFIG", "SET", "maxmemory", 1)
            for delivery in kept[:150]:
                delivery.reject("no")
            for delivery in kept[150:]:
                delivery.ack()
            async with trio.open_nursery() as nursery:
                flushed: list[int] = []

                async def flush() -> None:
                    await deliveries.flush()
                    flushed.append(len(await dead_letters(server)))

                nursery.start_soon(flush)
                await until(lambda: bus.statistics().acked == 50)
                assert flushed == []
                await _wire.command(server, "CONFIG", "SET", "maxmemory", 0)
            assert flushed == [150]
        assert await length(server) == 0


@pytest.mark.parametrize("how", ["ack", "reject"])
async def test_what_is_forgotten_while_the_server_is_asked_is_not_waited_for(server: RedisServer, how: str) -> None:
    async with a_bus(server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            await _wire.command(server, "CONFIG", "SET", "maxmemory", 1)
            await until(lambda: deliveries._worker._fetching is not None)
            server.pause()
            assert delivery.ack() if how == "ack" else delivery.reject("no")
            await wait_all_tasks_blocked(0.1)  # acks wait for half of that before they are written
            deliveries._worker.settling.forget_all()
            await deliveries.flush()
            server.resume()
            await jobs.depth()  # it is behind the other request on its connection
            await _wire.command(server, "CONFIG", "SET", "maxmemory", 0)
        assert await length(server) == (how == "reject")


async def test_a_server_that_cannot_serve_now_is_asked_again(server: RedisServer) -> None:
    async with a_bus(server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        await jobs.send(b"two")
        async with jobs.work(capacity=1) as deliveries:
            (delivery,) = await take(deliveries)
            await until(lambda: deliveries._worker.fetched == 1)  # no request waits, which would end by this
            await _wire.command(server, "REPLICAOF", "127.0.0.1", 1)
            delivery.ack()
            await until(lambda: bool(deliveries._worker.settling._uncertain))
            await _wire.command(server, "REPLICAOF", "NO", "ONE")
            await deliveries.flush()
            assert await length(server) == 1


async def test_where_the_queue_is_gone_nothing_is_waited_for(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            delivery.ack()
            await _wire.command(shared_server, "DEL", KEY)
            with trio.fail_after(5):
                await deliveries.flush()
    assert bus.statistics().acked == 0


async def test_where_the_server_does_not_permit_it_the_worker_ends(server: RedisServer) -> None:
    async with a_bus(server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            await _wire.command(server, "ACL", "SETUSER", "default", "-xack")
            delivery.ack()
            with trio.fail_after(5), pytest.raises(ConnectionFailedError, match="the worker has ended"):
                await deliveries.flush()
            assert isinstance(deliveries.cause, csp.errors.PermissionDeniedError)


async def test_flush_is_a_point_of_cancellation(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus, bus.queue("jobs").work() as deliveries:
        with trio.CancelScope() as scope:
            scope.cancel()
            await deliveries.flush()
        assert scope.cancelled_caught


async def test_a_flush_that_is_cancelled_changes_nothing(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            delivery.ack()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(deliveries.flush)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            await deliveries.flush()
            assert await length(shared_server) == 0


def test_the_face_has_its_names() -> None:
    assert redis.Delivery.__module__ == "csp.redis"
