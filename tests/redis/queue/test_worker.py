"""What a worker fetches, keeps and finds, whatever happens to its lease, its connections and the server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import trio

import csp
from csp import redis, testing
from csp.errors import Error, Kind, PermissionDeniedError
from tests.across._workers import CONTINUE, STOP
from tests.redis import _wire
from tests.redis.queue._workers import (
    KEY,
    LEASE,
    a_bus,
    consumers,
    cut,
    dead_letters,
    length,
    pending,
    steal,
    take,
    until,
)
from trio_csp_redis.queue import clock
from trio_csp_redis.queue import worker as module
from trio_csp_redis.queue.scripts import TIDY

if TYPE_CHECKING:
    from csp.testing import RedisServer
    from tests.redis.conftest import SharedServer
    from trio_csp_redis.connection.link import Link

LEASE_SECONDS = 0.3


async def test_values_come_in_the_order_they_were_sent(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        async with trio.open_nursery() as nursery, jobs.work(capacity=4) as deliveries:

            async def send_all() -> None:
                for number in range(50):
                    await jobs.send(str(number))

            nursery.start_soon(send_all)
            for number in range(50):
                (delivery,) = await take(deliveries)
                with delivery:
                    assert delivery.data == str(number).encode()
            await deliveries.flush()
        assert await jobs.depth() == 0
    assert bus.statistics().acked == 50


async def test_no_more_than_the_capacity_is_fetched_ahead(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for number in range(20):
            await jobs.send(str(number))
        async with jobs.work(capacity=3) as deliveries:
            one, two = await take(deliveries, 2)
            await until(lambda: deliveries._worker.fetched == 3)
            assert repr(deliveries).startswith("<csp.redis.Deliveries open, 3 fetched, 2 in hand, consumer ")
            await trio.sleep(0.05)
            assert len(await pending(shared_server)) == 5
            one.ack()
            two.ack()


async def test_two_workers_share_what_there_is(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus, a_bus(shared_server) as other:
        jobs = bus.queue("jobs")
        for number in range(6):
            await jobs.send(str(number))
        async with jobs.work(capacity=3) as first, other.queue("jobs").work(capacity=3) as second:
            deliveries = [*await take(first, 3), *await take(second, 3)]
            assert {delivery.data for delivery in deliveries} == {str(number).encode() for number in range(6)}
            for delivery in deliveries:
                delivery.ack()


# Leases ---------------------------------------------------------------------------------------------------------------


async def test_work_may_take_longer_than_the_lease(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus, a_bus(shared_server) as other:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        await jobs.send(b"two")
        async with jobs.work(lease=LEASE) as deliveries, contextlib.AsyncExitStack() as stack:
            (delivery,) = await take(deliveries)
            await until(lambda: deliveries._worker.fetched == 1)
            await stack.enter_async_context(other.queue("jobs").work(lease=LEASE))
            with delivery:
                await trio.sleep(2.5 * LEASE_SECONDS)
                assert not delivery.lost
            (fetched,) = await take(deliveries)  # what was only fetched is renewed too
            assert (fetched.data, fetched.attempt) == (b"two", 1)
            assert fetched.ack()
            await deliveries.flush()
            assert await length(shared_server) == 0
    assert (bus.statistics().acked, other.statistics().delivered) == (2, 0)


async def test_what_a_dead_worker_had_comes_to_another_after_the_lease(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(lease=LEASE) as deliveries:
            await deliveries.ready()
            await jobs.send(b"two")
            await _wire.command(shared_server, "XGROUP", "CREATECONSUMER", KEY, "workers", "dead")
            (one, two) = await take(deliveries, 2)
            await steal(shared_server, two.id, thief="dead")
            assert one.ack()
            (again,) = await take(deliveries)
            assert (again.id, again.data, again.attempt) == (two.id, b"two", 3)
            assert two.lost
            assert again.ack()
            assert not two.ack()


async def test_a_value_whose_lease_may_have_run_out_is_not_handed_out(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for name in ("one", "two", "three"):
            await jobs.send(name)
        async with jobs.work(lease="150ms") as deliveries:
            (one,) = await take(deliveries)
            await until(lambda: deliveries._worker.fetched == 2)
            time.sleep(0.2)  # noqa: ASYNC251  # the loop is blocked: that is what this is about
            assert one.lost
            with pytest.raises(trio.WouldBlock):
                deliveries.receive_nowait()
            assert not one.ack()
            assert bus.statistics().lost == 3
            again = await take(deliveries, 3)
            assert [(each.data, each.attempt) for each in again] == [(b"one", 2), (b"two", 2), (b"three", 2)]
            assert [each.ack() for each in again] == [True] * 3
            assert not one.retry()


async def test_what_is_offered_can_be_taken(shared_server: SharedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        await jobs.send(b"two")
        async with jobs.work() as deliveries:
            await until(lambda: deliveries._worker.fetched == 2)
            real, ahead = clock.now, 30 * 0.9501
            # The clock reaches the end of what is offered between the look at the source and the taking.
            monkeypatch.setattr(clock, "now", lambda: real() + 30 * 0.94)
            assert deliveries.is_ready(csp.Moment())
            monkeypatch.setattr(clock, "now", lambda: real() + ahead)
            deliveries.receive_nowait().value.ack()
            assert not deliveries.is_ready(csp.Moment())
            monkeypatch.setattr(clock, "now", real)


async def test_a_lost_delivery_that_was_to_be_settled_is_not_renewed(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(lease="150ms") as deliveries:
            (delivery,) = await take(deliveries)
            with delivery:
                time.sleep(0.2)  # noqa: ASYNC251  # the loop is blocked: that is what this is about
            (again,) = await take(deliveries)  # while the first one is still referred to
            assert (again.id, again.attempt, delivery.lost) == (delivery.id, 2, True)
            again.ack()


WORKER = """
import sys, time
import trio
from csp import redis, testing

async def main():
    async with redis.Bus(sys.argv[1]) as bus, bus.queue("jobs").work(lease="300ms", capacity=4) as deliveries:
        first = await deliveries.receive_value()
        print(first.data.decode(), flush=True)
        while not first.lost:
            await trio.sleep(0.001)
        print("lost", first.ack(), flush=True)
        async for delivery in deliveries:
            print(delivery.data.decode(), delivery.lost, flush=True)
            if delivery.ack() and delivery.data == b"end":
                break
        await deliveries.flush()

trio.run(main)
"""


async def test_a_worker_that_is_stopped_past_its_lease_does_nothing_that_is_anothers(
    shared_server: SharedServer,
) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for name in ("one", "two", "three"):
            await jobs.send(name)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", WORKER, shared_server.url], stdout=subprocess.PIPE, env=environment
        )
        try:
            assert process.stdout is not None
            output = b""
            while not output.endswith(b"\n"):
                output += await process.stdout.receive_some()
            assert output == b"one\n"
            process.send_signal(STOP)
            async with jobs.work(lease=LEASE) as deliveries:
                for delivery in await take(deliveries, 3):
                    assert delivery.attempt == 2
                    delivery.ack()
            assert await length(shared_server) == 0
            process.send_signal(CONTINUE)
            await jobs.send(b"end")
            output = b""
            with trio.fail_after(10):
                async for piece in process.stdout:
                    output += piece
            assert output == b"lost False\nend False\n"
        finally:
            process.kill()
            await process.wait()


async def test_what_was_fetched_and_is_anothers_is_not_handed_out(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        sent = await jobs.send(b"one")
        async with jobs.work(lease="150ms") as deliveries:
            await until(lambda: deliveries._worker.fetched == 1)
            await steal(shared_server, sent)
            await until(lambda: deliveries._worker.fetched == 0)
            assert repr(deliveries).startswith("<csp.redis.Deliveries open, 0 fetched, 0 in hand, ")
            with pytest.raises(trio.WouldBlock):
                deliveries.receive_nowait()
            (delivery,) = await take(deliveries)  # when the thief's lease has run out
            assert (delivery.attempt, bus.statistics().lost, bus.statistics().delivered) == (3, 1, 1)
            delivery.ack()


# Attempts and names ---------------------------------------------------------------------------------------------------


async def test_a_worker_of_the_name_it_had_before_gets_at_once_what_it_had(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        ids = [await jobs.send(str(number)) for number in range(4)]
        kept: list[redis.Delivery[bytes]] = []
        async with jobs.work(consumer="me", lease="1h") as deliveries:
            kept += await take(deliveries, 3)
            kept.pop().ack()
        assert {entry.id: entry.count for entry in await pending(shared_server)} == {ids[0]: 1, ids[1]: 1, ids[3]: 0}
        assert not kept[0].ack()
        async with jobs.work(consumer="me", lease="1h") as deliveries:
            again = await take(deliveries, 3)
            assert sorted((each.id, each.attempt) for each in again) == [(ids[0], 2), (ids[1], 2), (ids[3], 1)]
            assert [each.ack() for each in again] == [True] * 3
    assert bus.statistics().redelivered == 2


async def test_what_it_has_claimed_stays_its_own_when_the_connection_is_lost_before_all_is_claimed(
    shared_server: SharedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = module.Worker[bytes]._claim
    claims = 0

    async def claim_and_cut(worker: module.Worker[bytes], link: Link, whose: bytes) -> bool:
        nonlocal claims
        more = await claim(worker, link, whose)
        claims += 1
        if claims == 1:
            await cut(shared_server)
            return True  # as where there is more to be claimed
        return more

    async with a_bus(shared_server) as bus, a_bus(shared_server) as second_bus:
        jobs = bus.queue("jobs")
        entry = await jobs.send(b"one")
        async with jobs.work(lease="1h") as deliveries:
            (delivery,) = await take(deliveries)
            delivery.retry()
        monkeypatch.setattr(module.Worker, "_claim", claim_and_cut)
        async with jobs.work(consumer="first", lease="1h") as first:
            await first.ready()
            monkeypatch.undo()
            async with second_bus.queue("jobs").work(consumer="second", lease="1h") as second:
                await second.ready()
                assert {each.id: each.consumer for each in await pending(shared_server)} == {entry: "first"}
                (delivery,) = await take(first)
                assert (delivery.data, delivery.attempt) == (b"one", 2)
                delivery.ack()
    assert claims >= 2
    assert await length(shared_server) == 0


async def test_the_server_gives_nothing_away_in_the_millisecond_in_which_a_lease_ends(
    shared_server: SharedServer,
) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        async with jobs.work(lease="300ms") as deliveries:
            assert deliveries._worker._lease_milliseconds == 301
        async with jobs.work(lease="100500us") as deliveries:
            assert deliveries._worker._lease_milliseconds == 101


async def test_what_came_too_often_when_it_is_found_becomes_a_dead_letter(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"poison")
        await jobs.send(b"good")
        async with jobs.work(consumer="me", lease="1h") as deliveries:
            kept = await take(deliveries, 2)
            await deliveries.flush()
        async with jobs.work(consumer="me", lease="1h", max_deliveries=1) as deliveries:
            await deliveries.ready()
            assert deliveries._worker.fetched == 0
        letters = await dead_letters(shared_server)
        assert [(letter["d"], letter["reason"]) for letter in letters] == [
            (b"poison", b"it was delivered 1 times"),
            (b"good", b"it was delivered 1 times"),
        ]
        assert await length(shared_server) == 0
        del kept


async def test_more_than_there_is_room_for_is_claimed_in_order_as_there_is(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for number in range(30):
            await jobs.send(str(number))
        async with jobs.work(capacity=30) as deliveries:
            await until(lambda: deliveries._worker.fetched == 16)  # sizes are not known yet
        assert len(await pending(shared_server)) == 16
        await jobs.send(b"30")
        async with jobs.work(capacity=20) as deliveries:
            data: list[bytes] = []
            for _ in range(31):
                (delivery,) = await take(deliveries)
                data.append(delivery.data)
                assert delivery.attempt == 1
                delivery.ack()
        assert data == [str(number).encode() for number in range(31)]


# Strangers and codecs -------------------------------------------------------------------------------------------------


async def test_what_cannot_be_decoded_becomes_a_dead_letter(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs", codec=redis.JSON)
        raw = bus.queue("jobs")
        await raw.send(b"{")
        await _wire.command(shared_server, "XADD", KEY, "*", "x", "1", "y", "2")
        await _wire.command(shared_server, "XADD", KEY, "*", "x", "1", "d", '{"a":1}')
        await jobs.send(["ä", None])
        async with jobs.work() as deliveries:
            one, two = await take(deliveries, 2)
            assert (one.data, two.data) == ({"a": 1}, ["ä", None])
            one.ack()
            two.ack()
            await deliveries.flush()
        first, second = await dead_letters(shared_server)
        assert (first["d"], first["reason"]) == (b"{", b"it cannot be decoded: JSONDecodeError")
        assert (second["x"], second["reason"]) == (b"1", b"it cannot be decoded: the entry has no field 'd'")
        assert await length(shared_server) == 0
    assert bus.statistics().rejected == 2


async def test_a_reason_of_the_codec_is_that_of_the_dead_letter(shared_server: SharedServer) -> None:
    def decode(data: bytes) -> str:
        raise csp.errors.InvalidError("version 3 is not known")

    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs", codec=(str, decode))
        await jobs.send("one")
        async with jobs.work() as deliveries:
            await until(lambda: bus.statistics().rejected == 1)
            assert deliveries._worker.fetched == 0
        (letter,) = await dead_letters(shared_server)
        assert letter["reason"] == b"it cannot be decoded: version 3 is not known"


# The queue is gone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["DEL", KEY], ["FLUSHALL"], ["XGROUP", "DESTROY", KEY, "workers"]])
@pytest.mark.parametrize("capacity", [1, 16])
async def test_when_the_queue_is_gone_all_is_lost_and_work_goes_on(
    shared_server: SharedServer, command: list[str], capacity: int
) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        await jobs.send(b"two")
        async with jobs.work(lease=LEASE, capacity=capacity) as deliveries:
            (delivery,) = await take(deliveries)
            await until(lambda: deliveries._worker.fetched == 1)  # with a capacity of 1 nothing is asked for now
            await _wire.command(shared_server, *command)
            await until(lambda: delivery.lost)
            assert not delivery.ack()
            await jobs.send(b"three")
            data: set[bytes] = set()
            while b"three" not in data:
                (again,) = await take(deliveries)
                data.add(again.data)
                assert again.attempt == 1
                again.ack()
            assert data == ({b"one", b"two", b"three"} if "XGROUP" in command else {b"three"})
            await deliveries.flush()
        assert await length(shared_server) == 0


async def test_a_worker_that_waits_goes_on_when_the_queue_is_made_anew(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        async with jobs.work() as deliveries:
            await deliveries.ready()
            for number in range(5):
                await _wire.command(shared_server, "DEL", KEY)
                await jobs.send(str(number))
                (delivery,) = await take(deliveries)
                with delivery:
                    assert delivery.data == str(number).encode()
                await deliveries.flush()


async def test_an_id_that_comes_again_is_a_new_value(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        async with jobs.work() as deliveries:
            await deliveries.ready()
            await _wire.command(shared_server, "XADD", KEY, "7-1", "d", "old")
            (old,) = await take(deliveries)
            # In one step: nobody notices that the queue was gone.
            code = (
                "redis.call('FLUSHALL') redis.call('XGROUP', 'CREATE', KEYS[1], 'workers', '0', 'MKSTREAM')"
                " redis.call('XADD', KEYS[1], '7-1', 'd', 'new')"
            )
            await _wire.command(shared_server, "EVAL", code, 1, KEY)
            (new,) = await take(deliveries)
            assert (old.id, new.id, new.data, new.attempt) == ("7-1", "7-1", b"new", 1)
            assert old.lost
            assert not old.ack()
            await deliveries.flush()
            assert await length(shared_server) == 1
            assert new.ack()
            await deliveries.flush()
            assert await length(shared_server) == 0


async def test_what_became_of_an_old_value_is_not_done_to_a_new_one_of_its_id(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        async with jobs.work() as deliveries:
            await deliveries.ready()
            await _wire.command(shared_server, "XADD", KEY, "7-1", "d", "old")
            (old,) = await take(deliveries)
            settling = deliveries._worker.settling
            old.ack()  # it waits for others for a moment
            assert list(settling.entries) == [b"7-1"]
            settling.forget(b"7-1")
            settling.forget(b"7-1")
            await until(lambda: not settling._wanted.is_set())
            await deliveries.flush()
            assert len(await pending(shared_server)) == 1
    assert bus.statistics().acked == 0


async def test_an_answer_from_before_the_queue_was_made_anew_is_not_believed(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            worker = deliveries._worker
            late = Error("the queue is gone", kind=Kind.NOT_FOUND, retryable=True)
            worker._pass(late, worker._joins - 1)
            assert not delivery.lost
            worker._pass(late, worker._joins)
            assert delivery.lost
            assert worker._gone


# Connections ----------------------------------------------------------------------------------------------------------


async def test_what_is_in_hand_stays_so_when_connections_are_cut(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for number in range(6):
            await jobs.send(str(number), key=str(number))
        async with jobs.work(capacity=2, lease=LEASE) as deliveries:
            data: list[bytes] = []
            for _ in range(6):
                (delivery,) = await take(deliveries)
                with delivery:
                    await cut(shared_server)
                    data.append(delivery.data)
                    assert delivery.attempt == 1
                    await trio.sleep(0.02)
                    assert not delivery.lost
            await deliveries.flush()
            assert data == [str(number).encode() for number in range(6)]
            assert await length(shared_server) == 0
    assert bus.statistics().acked == 6


async def test_what_was_on_its_way_when_the_connection_was_lost_is_asked_for_again(server: RedisServer) -> None:
    async with a_bus(server, timeout="100ms") as bus:
        jobs = bus.queue("jobs")
        async with jobs.work(lease="30s", consumer="me") as deliveries:
            await deliveries.ready()
            await jobs.send(b"zero")
            (delivery,) = await take(deliveries)
            delivery.ack()
            await deliveries.flush()
            # As if it had been sent on the connection that is cut now.
            link = deliveries._worker._fetching
            await _wire.command(server, "XADD", "{other}", "*", "d", "x")
            async with _wire.connected(server) as wire:
                await wire.command("CLIENT", "PAUSE", 100, "WRITE")
                await wire.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await wire.command("CLIENT", "UNPAUSE")
                await wire.command("XADD", KEY, "*", "d", "one")
                await wire.command("XREADGROUP", "GROUP", "workers", "me", "COUNT", 1, "STREAMS", KEY, ">")
            (delivery,) = await take(deliveries)
            assert (delivery.data, delivery.attempt) == (b"one", 1)
            assert delivery.ack()
            assert deliveries._worker._fetching is not link


async def test_a_claim_whose_answer_was_lost_is_made_up_for(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        async with jobs.work(consumer="me", lease="1h", capacity=2) as deliveries:
            await deliveries.ready()
            await jobs.send(b"one")
            (one,) = await take(deliveries)
            worker = deliveries._worker
            await _wire.command(shared_server, "XADD", KEY, "*", "d", "two")
            (two,) = await take(deliveries)
            # The worker knows nothing of it, as after an answer that was lost; and it is not the fetching connection's.
            worker._held.pop(two._hold.entry)
            worker._unsure = True
            await jobs.send(b"three")  # so that the request that is under way ends
            (three, again) = await take(deliveries, 2)
            assert (three.data, again.data, again.attempt) == (b"three", b"two", 1)
            for each in (one, three, again):
                assert each.ack()
            two._hold.gone = True


async def test_a_scan_that_fails_is_made_up_for_by_the_task_that_fetches(server: RedisServer) -> None:
    async with a_bus(server, timeout="50ms") as bus:
        jobs = bus.queue("jobs")
        async with jobs.work(lease=LEASE) as deliveries:
            await deliveries.ready()
            await _wire.command(server, "CLIENT", "PAUSE", 10_000, "WRITE")
            await until(lambda: deliveries._worker._unsure)
            await _wire.command(server, "CLIENT", "UNPAUSE")
            await jobs.send(b"one", key="k")
            (delivery,) = await take(deliveries)
            assert delivery.attempt == 1
            assert delivery.ack()
            await deliveries.flush()
            await until(lambda: not deliveries._worker._unsure)


@pytest.mark.parametrize("append_only", ["always", None])
async def test_a_restart_of_the_server(binary: str, append_only: Literal["always"] | None) -> None:
    async with (
        testing.redis_server(binary=binary, append_only=append_only) as server,
        a_bus(server) as bus,
    ):
        jobs = bus.queue("jobs")
        for name in ("one", "two", "three"):
            await jobs.send(name)
        async with jobs.work(lease=LEASE, capacity=1) as deliveries:
            (one,) = await take(deliveries)
            (two,) = await take(deliveries)
            await until(lambda: deliveries._worker.fetched == 1)
            assert two.ack()
            await server.kill()
            await server.start()
            await until(lambda: one.lost)
            assert not one.ack()
            await jobs.send(b"four")
            data: list[bytes] = []
            while b"four" not in data:
                (delivery,) = await take(deliveries)
                data.append(delivery.data)
                assert delivery.ack()
            # "two" was acked before, and its ack was not forgotten while there was no connection.
            if append_only is None:
                assert data == [b"four"]
            else:
                if b"one" not in data:
                    data.append((await take(deliveries))[0].data)
                assert sorted(data) == [b"four", b"one", b"three"]
            await deliveries.flush()


async def test_what_was_in_hand_at_a_restart_is_not_handed_out_beside_it(binary: str) -> None:
    async with testing.redis_server(binary=binary, append_only="always") as server, a_bus(server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(lease="1h", consumer="me") as deliveries:
            (one,) = await take(deliveries)
            await server.kill()
            await server.start()
            await until(lambda: one.lost)
            for name in ("two", "three", "four"):
                await jobs.send(name, key=name)
                (delivery,) = await take(deliveries)
                assert delivery.data == name.encode()
                delivery.ack()
                deliveries._worker._unsure = True  # as after a claim whose answer was lost
        (entry,) = await pending(server)
        assert (entry.id, entry.consumer, entry.count) == (one.id, "me", 1)
        assert entry.idle_milliseconds < 3_600_000


# What ends a worker ---------------------------------------------------------------------------------------------------


async def test_a_key_that_holds_something_else_ends_it(shared_server: SharedServer) -> None:
    await _wire.command(shared_server, "SET", KEY, "a string")
    async with (
        a_bus(shared_server) as bus,
        bus.queue("jobs").work() as deliveries,
        bus.queue("others").work() as others,
    ):
        with pytest.raises(Error, match="the queue was not reached: working on queue 'jobs'") as caught:
            await deliveries.ready()
        assert caught.value.kind is Kind.CONFLICT
        assert not (await deliveries.receive()).ok
        assert isinstance(deliveries.cause, Error)
        assert deliveries.cause.kind is Kind.CONFLICT
        assert repr(deliveries).startswith("<csp.redis.Deliveries closed, ")
        await others.ready()


@pytest.mark.parametrize("command", ["evalsha", "xreadgroup"])
async def test_what_the_server_does_not_permit_ends_it_and_nothing_else(server: RedisServer, command: str) -> None:
    async with a_bus(server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(lease=LEASE) as deliveries:
            await take(deliveries)
            await _wire.command(server, "ACL", "SETUSER", "default", f"-{command}")
            with trio.fail_after(10):
                while (await deliveries.receive()).ok:
                    pass
            assert isinstance(deliveries.cause, PermissionDeniedError)
        assert bus.state.name == "open"


async def test_the_end_of_the_bus_ends_it(shared_server: SharedServer) -> None:
    bus = a_bus(shared_server)
    leave = trio.Event()

    async def run(task_status: trio.TaskStatus[None]) -> None:
        async with bus:
            task_status.started()
            await leave.wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            leave.set()
            assert not (await deliveries.receive()).ok
            assert isinstance(deliveries.cause, csp.errors.ConnectionFailedError)
            assert deliveries.cause.message == "the bus has ended"
            assert delivery.lost
            assert not delivery.ack()


# Workers that are no more ---------------------------------------------------------------------------------------------


async def test_workers_that_are_no_more_are_deleted_unless_something_of_theirs_is_pending(
    shared_server: SharedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEASES_KEPT", 0.1)
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(lease="100ms", max_deliveries=100) as first:
            (delivery,) = await take(first)
            for name in ("idle", "dead"):
                await _wire.command(shared_server, "XGROUP", "CREATECONSUMER", KEY, "workers", name)
            await steal(shared_server, delivery.id, thief="dead")
            await _wire.command(shared_server, "XCLAIM", KEY, "workers", "dead", 0, delivery.id, "IDLE", 1, "JUSTID")
            await trio.sleep(0.02)
            async with jobs.work(lease="1h", consumer="me", max_deliveries=100) as second:
                worker = second._worker
                await until(lambda: worker._fetching is not None)
                await bus._commands.run_script(TIDY, (KEY.encode(),), (worker._consumer, 10), "a test")
                assert "idle" not in await consumers(shared_server)
                assert "dead" in await consumers(shared_server)
                (again,) = await take(first)
                again.ack()


def test_what_is_deleted_was_idle_for_ten_leases() -> None:
    assert module._LEASES_KEPT == 10


async def test_tidying_goes_on_when_the_queue_was_gone(
    shared_server: SharedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_bus(shared_server) as bus, bus.queue("jobs").work() as deliveries:
        await deliveries.ready()
        worker = deliveries._worker
        # An answer that the queue is gone comes to whichever task asks first.
        await _wire.command(shared_server, "DEL", KEY)
        with trio.move_on_after(0.2):
            await worker._tidy()
        await until(lambda: not worker._gone)
        await deliveries.flush()


def test_each_worker_looks_at_least_every_second() -> None:
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert "_SCAN_SECONDS = (0.5, 1.0)" in source


async def test_what_was_delivered_before_comes_once_the_acks_before_it_have_arrived(
    shared_server: SharedServer,
) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for value in (b"one", b"two", b"three"):
            await jobs.send(value)
        async with jobs.work() as deliveries:
            first, second, third = await take(deliveries, 3)
            third.retry()
            await until(lambda: deliveries._worker.fetched == 1)
            assert deliveries.is_ready(csp.Moment())  # nothing was settled that has not arrived
            first.ack()
            assert not deliveries.is_ready(csp.Moment())
            await until(lambda: deliveries.is_ready(csp.Moment()))
            second.ack()
            with pytest.raises(trio.WouldBlock):
                deliveries.receive_nowait()
            (again,) = await take(deliveries)
            assert (again.data, again.attempt, bus.statistics().acked) == (b"three", 2, 2)
            again.ack()


async def test_of_what_was_delivered_before_one_is_fetched_at_a_time(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for number in range(6):
            await jobs.send(str(number))
        async with jobs.work() as deliveries:
            for delivery in await take(deliveries, 6):
                delivery.retry()
            await deliveries.flush()
        async with jobs.work() as deliveries:
            await deliveries.ready()
            for number in range(6):
                assert deliveries._worker.fetched <= 1
                (delivery,) = await take(deliveries)
                assert (delivery.data, delivery.attempt) == (str(number).encode(), 2)
                delivery.ack()
            await deliveries.flush()


async def test_one_that_there_is_no_memory_to_bury_does_not_keep_the_others_from_being_done(
    server: testing.RedisServer,
) -> None:
    async with a_bus(server) as bus:
        jobs = bus.queue("jobs")
        for number in range(30):
            await jobs.send(str(number))
        async with jobs.work(capacity=4, max_deliveries=1) as deliveries:
            (first,) = await take(deliveries)
            await _wire.command(server, "CONFIG", "SET", "maxmemory", 1)
            first.retry()  # it is to become a dead letter
            for _ in range(29):
                (delivery,) = await take(deliveries)
                delivery.ack()
        assert bus.statistics().connections == 2
        async with jobs.work(capacity=4, max_deliveries=1) as deliveries:
            await deliveries.ready()
            assert not await dead_letters(server)
            await _wire.command(server, "CONFIG", "SET", "maxmemory", 0)

            async def buried() -> bool:
                return len(await dead_letters(server)) == 1

            await until(buried)


async def test_several_requests_that_are_refused_at_once_end_the_source_and_nothing_else(
    server: testing.RedisServer,
) -> None:
    async with a_bus(server) as bus:
        jobs = bus.queue("jobs")
        for number in range(4):
            await jobs.send(str(number))
        async with jobs.work(capacity=4, lease=LEASE) as deliveries:
            first, second, *_ = await take(deliveries, 4)
            await _wire.command(server, "ACL", "SETUSER", "default", "resetkeys", "~other*")
            server.pause()
            first.ack()
            second.retry()
            await trio.sleep(0.25)  # what becomes of them, and renewals, are written
            server.resume()
            with trio.fail_after(10):
                assert not (await deliveries.receive()).ok
            assert isinstance(deliveries.cause, PermissionDeniedError)
        assert bus.state.name == "open"


async def test_where_the_source_fails_acks_arrive_and_what_was_fetched_is_given_back(
    shared_server: SharedServer,
) -> None:
    await _wire.command(shared_server, "SET", "{jobs}:dead", "something else")
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for number in range(20):
            await jobs.send(str(number))
        async with jobs.work(capacity=16, lease="1h") as deliveries:
            refused, *done = await take(deliveries, 10)
            assert refused.reject("no")
            for delivery in done:
                assert delivery.ack()
            await until(lambda: deliveries.closed)
            assert isinstance(deliveries.cause, Error)
            assert deliveries.cause.kind is Kind.CONFLICT
            await until(lambda: bus.statistics().open_connections == 1)
            assert await length(shared_server) == 11
            async with jobs.work(lease="1h") as others:
                again = await take(others, 10)
                assert {delivery.attempt for delivery in again} == {1}
