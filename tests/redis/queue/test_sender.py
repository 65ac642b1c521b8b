from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import trio

import csp
from csp import redis
from csp.errors import ConnectionFailedError, Error, InvalidError, Kind
from tests.redis import _wire
from tests.redis.queue._workers import KEY, a_bus, cut, length, take, until
from trio_csp_redis.queue import sender as module

if TYPE_CHECKING:
    from csp.testing import RedisServer
    from tests.redis.conftest import SharedServer


async def test_ids_are_those_of_the_stream_in_order(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        ids = [await jobs.send(f"job {number}") for number in range(3)]
        entries = cast("list[tuple[bytes, list[bytes]]]", await _wire.command(shared_server, "XRANGE", KEY, "-", "+"))
        assert [entry.decode() for entry, _ in entries] == ids
        assert [fields for _, fields in entries] == [[b"d", f"job {number}".encode()] for number in range(3)]
        assert bus.statistics().sent == 3


# Full -----------------------------------------------------------------------------------------------------------------


async def test_a_full_queue_is_an_error_where_that_is_wanted(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs", capacity=2, overflow="error")
        await jobs.send(b"one")
        await jobs.send(b"two")
        with pytest.raises(Error, match="queue 'jobs' is full: 2 values are not done") as caught:
            await jobs.send(b"three")
        assert (caught.value.kind, caught.value.retryable) == (Kind.RATE_LIMITED, True)
        assert await length(shared_server) == 2
        assert bus.statistics().sent == 2


async def test_what_workers_have_counts_as_not_done(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs", capacity=1, overflow="error")
        await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            with pytest.raises(Error, match="is full"):
                await jobs.send(b"two")
            delivery.ack()
            await deliveries.flush()
            await jobs.send(b"two")


async def test_two_senders_wait_for_room_and_the_capacity_is_kept(shared_server: SharedServer) -> None:
    done: list[bytes] = []

    async with a_bus(shared_server) as bus, a_bus(shared_server) as other:
        largest = 0

        async def send_all(sender: redis.Queue[bytes], name: str) -> None:
            for number in range(20):
                await sender.send(f"{name} {number}")

        queues = [each.queue("jobs", capacity=3) for each in (bus, other)]
        async with trio.open_nursery() as nursery, queues[0].work(capacity=1) as deliveries:
            nursery.start_soon(send_all, queues[0], "a")
            nursery.start_soon(send_all, queues[1], "b")
            while len(done) < 40:
                (delivery,) = await take(deliveries)
                largest = max(largest, await length(shared_server))
                with delivery:
                    done.append(delivery.data)
                await deliveries.flush()
    assert largest == 3
    for name in "ab":
        assert [data for data in done if data.startswith(name.encode())] == [
            f"{name} {number}".encode() for number in range(20)
        ]


async def test_a_send_that_waits_for_room_sends_nothing_when_it_is_cancelled(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs", capacity=1)
        await jobs.send(b"one")
        with trio.move_on_after(0.05) as scope:
            await jobs.send(b"two")
        assert scope.cancelled_caught
        await _wire.command(shared_server, "XTRIM", KEY, "MAXLEN", 0)
        await jobs.send(b"three")
        assert await length(shared_server) == 1


def test_the_waits_for_room_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []

    async def sleep(seconds: float) -> None:
        assert 0.005 <= seconds <= bounds[-1]

    def uniform(least: float, most: float) -> float:
        bounds.append(most)
        return (least + most) / 2

    async def main() -> None:
        waiting = module.Waiting("wait", "jobs", 1)
        monkeypatch.setattr(module._chance, "uniform", uniform)
        monkeypatch.setattr(trio, "sleep", sleep)
        for _ in range(9):
            await waiting.for_room()

    trio.run(main)
    assert bounds == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5, 0.5]


# Keys -----------------------------------------------------------------------------------------------------------------


async def test_what_was_sent_with_a_key_is_not_sent_again(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs", capacity=2, overflow="error")
        first = await jobs.send(b"one", key="order 1")
        assert await jobs.send(b"something else", key="order 1") == first
        await jobs.send(b"two", key="order 2")
        assert await jobs.send(b"one", key="order 1") == first, "also when the queue is full"
        with pytest.raises(Error, match="is full"):
            await jobs.send(b"three", key="order 3")
        assert await length(shared_server) == 2
        assert bus.statistics().sent == 2

        others = bus.queue("others")
        assert await others.send(b"one", key="order 1") != first, "keys are those of one queue"
        async with jobs.work() as deliveries:
            for delivery in await take(deliveries, 2):
                delivery.ack()
            await deliveries.flush()
        assert await jobs.send(b"one", key="order 1") == first, "also when it is done"
        assert await length(shared_server) == 0
        await jobs.send(b"three", key="order 3")  # that was refused, so its key was not kept


async def test_keys_are_kept_for_key_ttl(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs", key_ttl="90ms")
        first = await jobs.send(b"one", key="k")
        left = cast("int", await _wire.command(shared_server, "PTTL", f"{KEY}:once:k"))
        assert left <= 90

        async def expired() -> bool:
            return await _wire.command(shared_server, "EXISTS", f"{KEY}:once:k") == 0

        await until(expired)
        assert await jobs.send(b"one", key="k") != first
        assert await length(shared_server) == 2


async def test_keys_are_any_text(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        keys = ["a", "A", " a", "a\n", "ä", "{x}", "a:once:a", "k" * 500]
        ids = [await jobs.send(b"one", key=key) for key in keys]
        assert len(set(ids)) == len(keys)
        assert [await jobs.send(b"one", key=key) for key in keys] == ids


# A connection that is lost --------------------------------------------------------------------------------------------


async def cut_while_sending(server: SharedServer, jobs: redis.Queue[bytes], key: str | None) -> str:
    """Send while the server holds requests back, and have it close the connection before it goes on."""
    sent: list[str] = []

    async def send() -> None:
        sent.append(await jobs.send(b"one", key=key))

    async with _wire.connected(server) as wire, trio.open_nursery() as nursery:
        await wire.command("CLIENT", "PAUSE", 5000, "WRITE")
        nursery.start_soon(send)

        async def is_held_back() -> bool:
            clients = cast("bytes", await wire.command("CLIENT", "LIST")).decode()
            return "cmd=evalsha" in clients and " flags=b" in clients

        await until(is_held_back)
        await wire.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await wire.command("CLIENT", "UNPAUSE")
    return sent[0]


async def test_without_a_key_it_is_told_that_it_may_have_arrived(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"zero")
        with pytest.raises(ExceptionGroup) as caught:
            await cut_while_sending(shared_server, jobs, None)
        (error,) = caught.value.exceptions
        assert isinstance(error, ConnectionFailedError)
        assert (error.kind, error.retryable) == (Kind.UNAVAILABLE, True)
        assert "sending to queue 'jobs'" in error.message
        assert "may have arrived" in error.message
        assert await length(shared_server) == 1
        assert bus.statistics().repeated == 0


async def test_with_a_key_it_is_sent_again_and_there_once(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"zero")
        sent = await cut_while_sending(shared_server, jobs, "k")
        assert await jobs.send(b"one", key="k") == sent
        assert await length(shared_server) == 2
        assert (bus.statistics().repeated, bus.statistics().sent) == (1, 2)


@pytest.mark.parametrize("key", [None, "k"])
async def test_an_answer_that_is_late_is_told_or_asked_for_again(server: RedisServer, key: str | None) -> None:
    async with a_bus(server, timeout="50ms") as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"zero")
        server.pause()
        async with trio.open_nursery() as nursery:
            if key is None:
                with pytest.raises(csp.errors.ConnectionTimeoutError, match="may have arrived") as caught:
                    await jobs.send(b"one")
                assert (caught.value.kind, caught.value.retryable) == (Kind.TIMEOUT, True)
                server.resume()
                return
            nursery.start_soon(resume_when_repeated, server, bus)
            await jobs.send(b"one", key=key)
        assert await length(server) == 2


async def resume_when_repeated(server: RedisServer, bus: redis.Bus[bytes]) -> None:
    await until(lambda: bus.statistics().repeated > 0)
    server.resume()


async def test_what_is_not_written_yet_waits_for_a_connection(server: RedisServer) -> None:
    async with a_bus(server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        await server.kill()
        await until(lambda: bus.state.name != "open")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jobs.send, b"two")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await server.start()
        assert await length(server) == 1


async def test_what_the_server_cannot_take_now_is_an_error_at_once(server: RedisServer) -> None:
    async with a_bus(server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        await _wire.command(server, "CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(Error, match="out of memory") as caught:
            await jobs.send(b"two", key="k")
        assert (caught.value.kind, caught.value.retryable) == (Kind.RATE_LIMITED, True)
        await _wire.command(server, "CONFIG", "SET", "maxmemory", 0)
        await _wire.command(server, "REPLICAOF", "127.0.0.1", 1)
        for key in (None, "k"):
            with pytest.raises(ConnectionFailedError, match="cannot serve now") as unavailable:
                await jobs.send(b"two", key=key)
            assert unavailable.value.kind is Kind.UNAVAILABLE
            assert "may have arrived" not in str(unavailable.value)
        await _wire.command(server, "REPLICAOF", "NO", "ONE")
        await jobs.send(b"two", key="k")
        assert await length(server) == 2


async def test_a_key_that_holds_something_else_is_a_conflict(shared_server: SharedServer) -> None:
    await _wire.command(shared_server, "SET", KEY, "a string")
    await _wire.command(shared_server, "LPUSH", "{others}:once:k", "a list")
    async with a_bus(shared_server) as bus:
        for name, key in (("jobs", None), ("others", "k")):
            with pytest.raises(Error, match="a key holds something else") as caught:
                await bus.queue(name).send(b"one", key=key)
            assert (caught.value.kind, caught.value.retryable) == (Kind.CONFLICT, False)


# Wrong ----------------------------------------------------------------------------------------------------------------


async def test_what_cannot_be_sent(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for value, text in (("\ud800", "surrogate"), (5, "the value cannot be encoded|data must be bytes")):
            with pytest.raises(InvalidError, match=text):
                await jobs.send(value)  # type: ignore[arg-type]  # the test is about it
        for key, text in (("", "1 to 500"), ("k" * 501, "1 to 500"), ("\ud800", "surrogate"), (5, "must be a string")):
            with pytest.raises(InvalidError, match=text):
                await jobs.send(b"one", key=key)  # type: ignore[arg-type]  # the test is about it
        assert await length(shared_server) == 0


async def test_it_is_a_point_of_cancellation_before_it_is_written(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        with trio.CancelScope() as scope:
            scope.cancel()
            await jobs.send(b"two")
        assert scope.cancelled_caught
        await jobs.depth()
        assert await length(shared_server) == 1


async def test_a_connection_that_is_cut_between_sends_is_not_noticed(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for number in range(3):
            await jobs.send(b"one", key=str(number))
            await cut(shared_server)
        assert await length(shared_server) == 3
