"""The block and source of a worker: how it is entered, received from, and left."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import redis
from csp.errors import ChannelBrokenError, ConnectionFailedError, InvalidError, Kind, NoContextError
from tests.redis import _wire
from tests.redis.queue._workers import (
    KEY,
    LEASE,
    a_bus,
    consumers,
    length,
    pending,
    take,
    until,
)

if TYPE_CHECKING:
    from csp.testing import RedisServer
    from tests.redis.conftest import SharedServer


# Entering -------------------------------------------------------------------------------------------------------------


async def test_it_gives_nothing_before_its_block(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        deliveries = bus.queue("jobs").work()
        for use in (deliveries.receive, deliveries.ready, deliveries.flush):
            with pytest.raises(NoContextError, match="work gives nothing before its block"):
                await use()
        for look in (deliveries.receive_nowait, lambda: deliveries.is_ready(csp.Moment())):
            with pytest.raises(NoContextError, match="work gives nothing before its block"):
                look()
        assert repr(deliveries).startswith("<csp.redis.Deliveries connecting, 0 fetched, 0 in hand, ")
        assert (deliveries.closed, deliveries.cause) == (False, None)


async def test_it_is_entered_once(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        deliveries = bus.queue("jobs").work()
        async with deliveries:
            with pytest.raises(NoContextError, match="these deliveries were used before; call work again"):
                await deliveries.__aenter__()
        with pytest.raises(NoContextError, match="these deliveries were used before; call work again"):
            await deliveries.__aenter__()


async def test_two_workers_of_a_process_have_two_names(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus, a_bus(shared_server) as other:
        async with bus.queue("jobs").work(consumer="me") as deliveries:
            assert deliveries.consumer == "me"
            for refused in (bus.queue("jobs"), other.queue("jobs")):
                with pytest.raises(InvalidError, match="consumer must be one that no other worker of the queue has"):
                    await refused.work(consumer="me").__aenter__()
            async with other.queue("others").work(consumer="me"), bus.queue("jobs").work(), bus.queue("jobs").work():
                pass
        async with other.queue("jobs").work(consumer="me"):
            pass


async def test_entering_does_not_wait_for_the_server(server: RedisServer) -> None:
    await server.kill()
    async with a_bus(server) as bus, bus.queue("jobs").work() as deliveries:
        with trio.move_on_after(0.05) as scope:
            await deliveries.ready()
        assert scope.cancelled_caught
        assert repr(deliveries).startswith("<csp.redis.Deliveries connecting")
        await server.start()
        with trio.fail_after(10):
            await deliveries.ready()
        assert repr(deliveries).startswith("<csp.redis.Deliveries open")


async def test_ready_tells_when_the_block_was_left_before(server: RedisServer) -> None:
    await server.kill()
    async with a_bus(server) as bus, trio.open_nursery() as nursery, bus.queue("jobs").work() as deliveries:

        async def wait() -> None:
            with pytest.raises(ConnectionFailedError, match="not reached before its block was left") as caught:
                await deliveries.ready()
            assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, False)

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()


# Receiving ------------------------------------------------------------------------------------------------------------


async def test_one_select_waits_for_it_and_for_a_timer_and_a_local_channel(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        local = csp.Channel[str](1)
        timer = csp.after("20ms")
        async with jobs.work() as deliveries:
            came: list[str] = []
            for _ in range(3):
                r = await csp.select(deliveries.case_receive(), timer.case_receive(), local.case_receive())
                if deliveries.gave(r):
                    with r.value as delivery:
                        came.append(delivery.data.decode())
                elif timer.gave(r):
                    came.append("timer")
                    await jobs.send(b"one")
                else:
                    came.append(cast("str", r.value))
                if came == ["timer", "one"]:
                    local.send_nowait("local")
            assert came == ["timer", "one", "local"]


async def test_a_selector_serves_it(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        async with jobs.work() as deliveries, jobs.work() as others:
            selector = csp.Selector(deliveries.case_receive(), others.case_receive())
            data: set[bytes] = set()
            for number in range(5):
                await jobs.send(str(number))
                r = await selector.select()
                with r.value as delivery:
                    data.add(delivery.data)
            assert len(data) == 5


async def test_a_select_that_takes_another_case_loses_nothing(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        local = csp.Channel[int](100)
        for number in range(20):
            await jobs.send(str(number))
            local.send_nowait(number)
        async with jobs.work() as deliveries:
            await deliveries.ready()
            done: list[bytes] = []
            numbers: list[int] = []
            while len(done) < 20 or len(numbers) < 20:
                r = await csp.select(deliveries.case_receive(), local.case_receive())
                if deliveries.gave(r):
                    with r.value as delivery:
                        done.append(delivery.data)
                else:
                    numbers.append(cast("int", r.value))
            assert done == [str(number).encode() for number in range(20)]


async def test_a_receive_that_is_cancelled_leaves_the_value(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        async with jobs.work() as deliveries:
            await deliveries.ready()
            with trio.move_on_after(0.01) as scope:
                await deliveries.receive()
            assert scope.cancelled_caught
            await jobs.send(b"one")
            await until(lambda: deliveries._worker.fetched == 1)
            with trio.CancelScope() as scope:
                scope.cancel()
                await deliveries.receive()
            assert scope.cancelled_caught
            (delivery,) = await take(deliveries)
            assert (delivery.data, delivery.attempt) == (b"one", 1)
            delivery.ack()


# Leaving --------------------------------------------------------------------------------------------------------------


async def test_leaving_sends_what_is_settled_and_deletes_the_worker(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(consumer="me") as deliveries:
            (delivery,) = await take(deliveries)
            assert await consumers(shared_server) == {"me": 1}
            delivery.ack()
        assert await length(shared_server) == 0
        assert await consumers(shared_server) == {}
        assert (deliveries.closed, deliveries.cause) == (True, None)
        assert not (await deliveries.receive()).ok
        await deliveries.flush()
        await deliveries.ready()


async def test_leaving_gives_back_in_order_what_was_not_handed_out_and_counts_no_attempt(
    shared_server: SharedServer,
) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for number in range(5):
            await jobs.send(str(number))
        async with jobs.work(lease="1h", consumer="first") as deliveries:
            (delivery,) = await take(deliveries)
            delivery.ack()
            (in_hand,) = await take(deliveries)
        assert await consumers(shared_server) == {"first": 4}
        assert in_hand.lost
        assert not in_hand.ack()
        assert bus.statistics().returned == 3
        await jobs.send(b"5")
        async with jobs.work(lease="1h", max_deliveries=1) as deliveries:
            again = await take(deliveries, 4)
            assert [(each.data, each.attempt) for each in again] == [(b"2", 1), (b"3", 1), (b"4", 1), (b"5", 1)]
            for each in again:
                each.ack()
        (left,) = await pending(shared_server)
        assert (left.id, left.consumer, left.count) == (in_hand.id, "first", 1)
        assert await consumers(shared_server) == {"first": 1}


async def test_what_was_in_hand_comes_back_after_the_lease(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(lease="150ms") as deliveries:
            (in_hand,) = await take(deliveries)
        async with jobs.work(lease="150ms") as deliveries:
            (again,) = await take(deliveries)
            assert (again.id, again.attempt) == (in_hand.id, 2)
            again.ack()


async def test_what_comes_while_it_is_left_is_given_back_at_once(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus, a_bus(shared_server) as other:
        jobs = bus.queue("jobs")
        for number in range(30):
            async with trio.open_nursery() as nursery:  # noqa: SIM117  # it is left last
                async with jobs.work(lease="1h", consumer="me", capacity=100) as deliveries:
                    await deliveries.ready()
                    if number % 3:
                        await until(lambda: deliveries._worker._fetching is not None)
                    nursery.start_soon(other.queue("jobs").send, str(number))
                    for _ in range(number % 5):
                        await trio.lowlevel.checkpoint()
        async with jobs.work(lease="1h") as deliveries:
            data: set[bytes] = set()
            for each in await take(deliveries, 30):
                data.add(each.data)
                assert each.attempt == 1
                each.ack()
            assert len(data) == 30


@pytest.mark.parametrize("how", ["pause", "kill"])
async def test_leaving_takes_no_longer_than_close_timeout(server: RedisServer, how: str) -> None:
    async with a_bus(server, close_timeout="100ms") as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        await jobs.send(b"two")
        with trio.fail_after(5):
            async with jobs.work() as deliveries:
                (delivery,) = await take(deliveries)
                delivery.ack()
                if how == "pause":
                    server.pause()
                else:
                    await server.kill()
        with pytest.raises(ConnectionFailedError, match="the worker has ended before everything was sent") as caught:
            await deliveries.flush()
        assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, False)
        server.resume() if how == "pause" else await server.start()


async def test_leaving_with_nothing_to_say_does_not_wait_for_a_connection(server: RedisServer) -> None:
    async with a_bus(server, close_timeout="1h") as bus:
        with trio.fail_after(5):
            async with bus.queue("jobs").work() as deliveries:
                await deliveries.ready()
                await until(lambda: deliveries._worker._fetching is not None)
                await server.kill()
                await until(lambda: deliveries._worker._fetching is None and bus.state.name != "open")


async def test_leaving_ends_with_the_bus(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "csp.redis")
    async with a_bus(server, close_timeout="1h", max_attempts=3, min_delay="50ms", max_delay="50ms") as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        with trio.fail_after(5):
            async with jobs.work() as deliveries:
                (delivery,) = await take(deliveries)
                server.pause()
                delivery.ack()
                await server.kill()
        assert bus.state.name == "closed"
        assert (deliveries.closed, deliveries.cause) == (True, None)
    beginning = f"working on queue 'jobs': leaving: the bus has ended: connecting to {server.url} failed"
    assert any(message.startswith(beginning) for message in caplog.messages)


async def test_leaving_says_what_becomes_of_values_also_when_it_is_cancelled(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for number in range(3):
            await jobs.send(str(number))
        deliveries = jobs.work(lease="1h")
        with trio.CancelScope() as scope:
            async with deliveries:
                one, two = await take(deliveries, 2)
                one.ack()
                with two:
                    scope.cancel()
                    await trio.sleep_forever()
        assert scope.cancelled_caught
        assert isinstance(deliveries.cause, ChannelBrokenError)
        assert "the block of work was cancelled" in str(deliveries.cause)
        async with jobs.work(lease="1h") as deliveries:
            again = await take(deliveries, 2)
            assert [(each.data, each.attempt) for each in again] == [(b"1", 1), (b"2", 1)]
            for each in again:
                each.ack()
    assert bus.statistics().acked == 3


async def test_a_block_that_fails_is_the_cause_for_those_that_receive_outside(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus, trio.open_nursery() as nursery:
        results: list[object] = []

        async def receive(deliveries: redis.Deliveries[bytes]) -> None:
            results.append(await deliveries.receive())

        error = ValueError("no")
        deliveries = bus.queue("jobs").work()
        with pytest.raises(ValueError, match="no") as caught:  # noqa: PT012  # it is about the end of the block
            async with deliveries:
                nursery.start_soon(receive, deliveries)
                await wait_all_tasks_blocked()
                raise error
        assert caught.value is error
        assert deliveries.cause is not None
        assert deliveries.cause.__cause__ is error
    assert results == [(None, False)]


async def test_it_is_left_before_the_worker_has_begun(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with bus.queue("jobs").work():
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert await _wire.command(shared_server, "EXISTS", KEY) == 0


async def test_it_is_left_after_the_queue_was_gone(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        with trio.fail_after(5):
            for _ in range(10):
                await jobs.send(b"one")
                async with jobs.work() as deliveries:
                    (delivery,) = await take(deliveries)
                    delivery.ack()
                    await _wire.command(shared_server, "FLUSHALL")


async def test_leaving_again_and_again_leaves_no_worker_and_no_connection(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        for _ in range(20):
            async with jobs.work(lease=LEASE) as deliveries:
                await deliveries.ready()
        assert await consumers(shared_server) == {}
        assert bus.statistics().open_connections <= 2
