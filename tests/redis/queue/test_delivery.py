from __future__ import annotations

import gc
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp.errors import InvalidTypeError
from tests.redis.queue._workers import LEASE, a_bus, dead_letters, length, pending, steal, take, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from csp import redis
    from tests.redis.conftest import SharedServer


async def test_the_end_of_the_block_acks(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        sent = await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            with delivery as same:
                assert same is delivery
                assert (delivery.id, delivery.data, delivery.attempt, delivery.lost) == (sent, b"one", 1, False)
                assert repr(delivery) == f"<csp.redis.Delivery {sent}, attempt 1, in hand>"
            assert repr(delivery) == f"<csp.redis.Delivery {sent}, attempt 1, settled>"
            await deliveries.flush()
            assert await length(shared_server) == 0
        assert bus.statistics().acked == 1


@pytest.mark.parametrize("first", ["ack", "retry", "reject"])
async def test_only_the_first_settlement_counts(shared_server: SharedServer, first: str) -> None:
    def settle(delivery: redis.Delivery[bytes], how: str) -> bool:
        return delivery.reject("why") if how == "reject" else bool(getattr(delivery, how)())

    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(max_deliveries=1) as deliveries:
            (delivery,) = await take(deliveries)
            with delivery:
                assert settle(delivery, first)
                assert not any(settle(delivery, how) for how in ("ack", "retry", "reject"))
            await deliveries.flush()
            await until(lambda: jobs_done(bus))
            assert len(await dead_letters(shared_server)) == (first != "ack")
            assert await length(shared_server) == 0
    assert bus.statistics().acked == (first == "ack")


def jobs_done(bus: redis.Bus[bytes]) -> bool:
    statistics = bus.statistics()
    return statistics.acked + statistics.rejected == 1


def group(*inner: BaseException) -> BaseException:
    return BaseExceptionGroup("several", list(inner))


@pytest.mark.parametrize(
    ("raised", "attempt"),
    [
        (ValueError, 2),
        (trio.TooSlowError, 2),
        (KeyboardInterrupt, 1),
        (SystemExit, 1),
        (lambda: group(ValueError()), 2),
        (lambda: group(KeyboardInterrupt()), 1),
        (lambda: group(KeyboardInterrupt(), group(ValueError())), 2),
    ],
)
async def test_what_the_block_raises_goes_on_and_gives_the_value_back(
    shared_server: SharedServer, raised: Callable[[], BaseException], attempt: int
) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            error = raised()
            with pytest.raises(type(error)) as caught, delivery:
                raise error
            assert caught.value is error
            (again,) = await take(deliveries)
            assert (again.id, again.data, again.attempt) == (delivery.id, b"one", attempt)
            assert again.ack()
    statistics = bus.statistics()
    assert (statistics.retried, statistics.returned) == (attempt - 1, 2 - attempt)
    assert (statistics.delivered, statistics.redelivered, statistics.acked) == (2, attempt - 1, 1)


async def test_a_cancellation_gives_back_at_once_and_counts_as_no_attempt(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(max_deliveries=1) as deliveries:
            for _ in range(3):
                (delivery,) = await take(deliveries)
                assert delivery.attempt == 1
                with trio.CancelScope() as scope, delivery:
                    scope.cancel()
                    await trio.sleep_forever()
                assert scope.cancelled_caught
            (delivery,) = await take(deliveries)
            with trio.CancelScope() as scope, delivery:
                async with trio.open_nursery() as nursery:  # the cancellations come in a group
                    nursery.start_soon(trio.sleep_forever)
                    nursery.start_soon(trio.sleep_forever)
                    scope.cancel()
            (delivery,) = await take(deliveries)
            assert delivery.attempt == 1
            assert delivery.ack()
    assert bus.statistics().returned == 4


async def test_a_failure_that_cancels_siblings_counts_as_an_attempt(shared_server: SharedServer) -> None:
    async def fail() -> None:
        raise ValueError

    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            with pytest.raises(ExceptionGroup), delivery:  # noqa: PT012  # it is about the end of the block
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    nursery.start_soon(fail)
            (delivery,) = await take(deliveries)
            assert delivery.attempt == 2
            delivery.ack()


async def test_a_value_that_fails_five_times_becomes_a_dead_letter(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        sent = await jobs.send(b"poison")
        attempts: list[int] = []
        async with jobs.work() as deliveries:
            for _ in range(5):
                (delivery,) = await take(deliveries)
                attempts.append(delivery.attempt)
                assert delivery.retry()
            await until(lambda: bus.statistics().rejected == 1)
        assert attempts == [1, 2, 3, 4, 5]
        reason = b"it was delivered 5 times"
        letter = {"d": b"poison", "id": sent.encode(), "attempts": b"5", "reason": reason}
        assert await dead_letters(shared_server) == [letter]
        assert await jobs.depth() == 0


async def test_a_cancellation_after_failures_keeps_their_count(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(max_deliveries=3) as deliveries:
            for _ in range(2):
                (delivery,) = await take(deliveries)
                delivery.retry()
            for _ in range(2):
                (delivery,) = await take(deliveries)
                assert delivery.attempt == 3
                with pytest.raises(KeyboardInterrupt), delivery:
                    raise KeyboardInterrupt
            (delivery,) = await take(deliveries)
            assert (delivery.attempt, delivery.retry()) == (3, True)
            await until(lambda: bus.statistics().rejected == 1)
        (letter,) = await dead_letters(shared_server)
        assert letter["attempts"] == b"3"


async def test_a_rejected_value_becomes_a_dead_letter_with_the_reason(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        await jobs.send(b"two")
        async with jobs.work() as deliveries:
            one, two = await take(deliveries, 2)
            with pytest.raises(InvalidTypeError, match="reason must be a string, not bytes"):
                one.reject(b"no")  # type: ignore[arg-type]  # the test is about it
            assert one.reject("it has no e-mail: ä \ud800")
            assert two.reject("x" * 1001)
            await deliveries.flush()
        first, second = await dead_letters(shared_server)
        assert first["reason"].decode() == "it has no e-mail: ä ?"
        assert (first["d"], first["attempts"], second["reason"]) == (b"one", b"1", b"x" * 1000)
        assert await length(shared_server) == 0


@pytest.mark.parametrize("how", ["ack", "retry", "reject"])
async def test_what_is_anothers_is_not_settled_before_it_is_known(shared_server: SharedServer, how: str) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work() as deliveries:
            (delivery,) = await take(deliveries)
            await steal(shared_server, delivery.id)
            assert delivery.reject("no") if how == "reject" else getattr(delivery, how)()
            await deliveries.flush()
            assert bus.statistics().lost == 1
            (entry,) = await pending(shared_server)
            assert (entry.id, entry.consumer, entry.count) == (delivery.id, "a thief", 2)
            assert await dead_letters(shared_server) == []


async def test_what_was_delivered_to_this_worker_again_is_not_settled_by_an_older_delivery(
    shared_server: SharedServer,
) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(consumer="me") as deliveries:
            (delivery,) = await take(deliveries)
            await steal(shared_server, delivery.id, thief="me")
            assert delivery.ack()
            await deliveries.flush()
            (entry,) = await pending(shared_server)
            assert entry.count == 2


async def test_what_is_known_to_be_anothers_is_lost(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(lease=LEASE) as deliveries:
            (delivery,) = await take(deliveries)
            await steal(shared_server, delivery.id)
            await until(lambda: delivery.lost)
            assert repr(delivery).endswith("attempt 1, lost>")
            with delivery:
                assert not delivery.ack()
                assert not delivery.retry()
                assert not delivery.reject("no")
            await deliveries.flush()
            assert bus.statistics().lost == 1
            assert repr(deliveries).startswith("<csp.redis.Deliveries open, 0 fetched, 0 in hand, consumer ")


# Forgotten ------------------------------------------------------------------------------------------------------------


async def test_one_that_is_forgotten_is_retried_and_logged(
    shared_server: SharedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        sent = await jobs.send(b"one")
        async with jobs.work() as deliveries:
            await take(deliveries)
            gc.collect()
            (delivery,) = await take(deliveries)
            assert delivery.attempt == 2
            thread = threading.Thread(target=drop, args=([delivery],))
            del delivery
            thread.start()
            thread.join()
            (delivery,) = await take(deliveries)
            assert delivery.attempt == 3
            delivery.ack()
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    text = "was garbage-collected, and neither acked nor given back: it is given back"
    assert texts == [f"working on queue 'jobs': delivery {sent} {text}"] * 2
    assert bus.statistics().retried == 2


def drop(references: list[Any]) -> None:
    references.clear()
    gc.collect()


@pytest.mark.parametrize("left", ["the block", "the bus", "the run"])
def test_one_that_is_forgotten_too_late_does_nothing(
    running_server: SharedServer, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept: list[redis.Delivery[bytes]] = []

    async def main() -> None:
        async with a_bus(running_server) as bus:
            jobs = bus.queue(f"forgotten after {left}")
            await jobs.send(b"one")
            async with jobs.work(lease=LEASE) as deliveries:
                kept.extend(await take(deliveries))
            if left == "the block":
                drop(kept)
        if left == "the bus":
            drop(kept)

    trio.run(main)
    drop(kept)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_one_that_is_forgotten_when_the_run_has_crashed_does_nothing(running_server: SharedServer) -> None:
    from trio_csp_redis.queue.hold import Hold

    async def main() -> redis.Deliveries[bytes]:
        async with a_bus(running_server) as bus, bus.queue("crashed").work() as deliveries:
            await deliveries.ready()
            return deliveries

    deliveries = trio.run(main)
    # As if nobody had told the worker: a run that ends by an internal error of Trio's does not.
    deliveries._worker._left = False
    deliveries._worker.dropped(Hold(b"1-1", 1, b"", 0.0, 1.0))
    assert len(deliveries._worker._dropped) == 1


async def test_one_that_is_forgotten_once_it_is_lost_is_not_given_back(
    shared_server: SharedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(lease=LEASE) as deliveries:
            (delivery,) = await take(deliveries)
            await steal(shared_server, delivery.id)
            deliveries_in_hand = [delivery]
            del delivery
            await until(lambda: deliveries_in_hand[0].lost)
            drop(deliveries_in_hand)
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert bus.statistics().retried == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_one_that_is_lost_by_the_time_it_is_looked_at_is_not_given_back(
    shared_server: SharedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        async with jobs.work(lease="1h") as deliveries:
            in_hand = await take(deliveries)
            in_hand[0]._hold.leased_at -= 3600
            drop(in_hand)
            await until(lambda: bus.statistics().lost == 1)
    assert bus.statistics().retried == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
