"""A queue: what its calls take, and who may call them."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from csp import redis, security
from csp.errors import (
    ConnectionFailedError,
    Error,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
    PermissionDeniedError,
)
from tests.redis import _wire
from tests.redis.queue._workers import KEY, a_bus, take, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from csp.testing import RedisServer
    from tests.redis.conftest import SharedServer

NAMES = ["a", "A", "with spaces", "lines\r\nand\ttabs", "ünïcødé 漢字 🚀", "a:topic", "x" * 500, "*", "\x00"]


async def test_any_text_is_a_name_and_each_is_a_queue_of_its_own(shared_server: SharedServer) -> None:
    async with a_bus(shared_server, prefix="app:") as bus:
        for name in NAMES:
            jobs = bus.queue(name)
            assert jobs.name == name
            await jobs.send(name)
        for name in NAMES:
            assert await _wire.command(shared_server, "XLEN", f"app:{{{name}}}") == 1
            async with bus.queue(name).work(consumer=name) as deliveries:
                (delivery,) = await take(deliveries)
                with delivery:
                    assert delivery.data == name.encode()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"name": ""}, InvalidError, "name must have 1 to 500 characters, not 0"),
        ({"name": "x" * 501}, InvalidError, "name must have 1 to 500 characters, not 501"),
        ({"name": "a{b"}, InvalidError, "name must not have braces"),
        ({"name": "a}b"}, InvalidError, "name must not have braces"),
        ({"name": "\ud800"}, InvalidError, "name must be text that can be written as UTF-8"),
        ({"name": b"jobs"}, InvalidTypeError, "name must be a string, not bytes"),
        ({"capacity": 0}, InvalidError, "capacity must be 1 to 1000000000, not 0"),
        ({"capacity": 10**9 + 1}, InvalidError, "capacity must be 1 to 1000000000"),
        ({"capacity": True}, InvalidTypeError, "capacity must be a whole number, not bool"),
        ({"overflow": "drop"}, InvalidError, 'overflow must be "wait" or "error", not \'drop\''),
        ({"overflow": ["wait"]}, InvalidError, 'overflow must be "wait" or "error"'),
        ({"codec": 5}, InvalidTypeError, "codec must be a pair of functions"),
        ({"codec": (str, 5)}, InvalidTypeError, "codec must be a pair of functions"),
        ({"key_ttl": "0s"}, InvalidError, "key_ttl must be at least 0.001 s"),
        ({"key_ttl": "1us"}, InvalidError, "key_ttl must be at least 0.001 s"),
        ({"key_ttl": "soon"}, InvalidError, "key_ttl"),
        ({"key_ttl": timedelta(days=400)}, InvalidError, "at most a year"),
        ({"key_ttl": 5}, InvalidTypeError, "key_ttl"),
    ],
)
def test_a_queue_that_is_none(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    bus = redis.Bus("redis://127.0.0.1:1")
    everything: dict[str, Any] = {"name": "jobs", **arguments}
    with pytest.raises(error, match=text):
        bus.queue(**everything)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"consumer": ""}, InvalidError, "consumer must have 1 to 500 characters"),
        ({"consumer": "x" * 501}, InvalidError, "consumer must have 1 to 500 characters"),
        ({"consumer": 5}, InvalidTypeError, "consumer must be a string"),
        ({"capacity": 0}, InvalidError, "capacity must be 1 to 10000"),
        ({"capacity": 10_001}, InvalidError, "capacity must be 1 to 10000"),
        ({"capacity": "16"}, InvalidTypeError, "capacity must be a whole number"),
        ({"lease": "99ms"}, InvalidError, "lease must be at least 0.1 s"),
        ({"lease": 30}, InvalidTypeError, "lease"),
        ({"max_deliveries": 0}, InvalidError, "max_deliveries must be 1 to 1000000"),
        ({"max_deliveries": 10**6 + 1}, InvalidError, "max_deliveries must be 1 to 1000000"),
        ({"max_deliveries": 5.0}, InvalidTypeError, "max_deliveries must be a whole number"),
    ],
)
def test_a_worker_that_is_none(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    jobs = redis.Bus("redis://127.0.0.1:1").queue("jobs")
    with pytest.raises(error, match=text):
        jobs.work(**arguments)


@pytest.mark.parametrize("capacity", [0, 10_001])
def test_dead_letters_that_are_none(capacity: int) -> None:
    with pytest.raises(InvalidError, match="capacity must be 1 to 10000"):
        redis.Bus("redis://127.0.0.1:1").queue("jobs").dead_letters(capacity=capacity)


def test_how_it_shows() -> None:
    jobs = redis.Bus("redis://user:secret@127.0.0.1:1/3").queue("jobs")
    assert repr(jobs) == "<csp.redis.Queue 'jobs' at redis://127.0.0.1:1/3>"


def test_each_worker_has_a_name_of_its_own() -> None:
    jobs = redis.Bus("redis://127.0.0.1:1").queue("jobs")
    assert len({jobs.work().consumer for _ in range(10)}) == 10


# The bus --------------------------------------------------------------------------------------------------------------

LETTER: redis.DeadLetter[bytes] = redis.DeadLetter("1-1", b"one", "no", 1, b"1-1")

CALLS: list[Callable[[redis.Queue[bytes]], Awaitable[object]]] = [
    lambda jobs: jobs.send(b"one"),
    lambda jobs: jobs.send(b"one", key="k"),
    lambda jobs: jobs.depth(),
    lambda jobs: jobs.backlog(),
    lambda jobs: jobs.work().__aenter__(),
    lambda jobs: jobs.outlet().__aenter__(),
    lambda jobs: jobs.dead_letters().__aenter__(),
    lambda jobs: jobs.requeue(LETTER),
    lambda jobs: jobs.discard(LETTER),
]


@pytest.mark.parametrize("call", CALLS)
async def test_nothing_is_done_before_the_bus_is_entered(
    call: Callable[[redis.Queue[bytes]], Awaitable[object]],
) -> None:
    with pytest.raises(NoContextError, match="a bus is a block: write"):
        await call(redis.Bus("redis://127.0.0.1:1").queue("jobs"))


@pytest.mark.parametrize("call", CALLS[:4])
async def test_after_the_bus_calls_fail(
    shared_server: SharedServer, call: Callable[[redis.Queue[bytes]], Awaitable[object]]
) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        for _ in range(5):
            with pytest.raises(ConnectionFailedError, match="the bus has ended") as caught:
                await call(jobs)
            assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, False)
        assert turns >= 3, "a loop that ignores the error must not starve the others"
        nursery.cancel_scope.cancel()


async def test_after_the_bus_a_worker_ends_at_once(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
    with trio.fail_after(5):
        async with jobs.work() as deliveries:
            assert not (await deliveries.receive()).ok
            with pytest.raises(ConnectionFailedError, match="the queue was not reached: the bus has ended"):
                await deliveries.ready()
        with pytest.raises(ConnectionFailedError, match="the bus has ended"):
            async with jobs.outlet() as channel:
                await channel.send(b"one")


# Policies -------------------------------------------------------------------------------------------------------------


def only(*policies: security.Policy) -> AbstractContextManager[None]:
    return security.context(actor=security.Actor("me"), scope=security.Scope(policies))


async def test_the_policy_for_sending(shared_server: SharedServer) -> None:
    async with a_bus(shared_server, prefix="app:") as bus:
        with only(security.Policy("redis.send", "others"), security.Policy("redis.receive", "jobs")):
            text = r"sending to 'jobs' is not allowed \(redis.send\)"
            with pytest.raises(PermissionDeniedError, match=text):
                await bus.queue("jobs").send(b"one")
            with pytest.raises(PermissionDeniedError, match=text):
                await bus.queue("jobs").requeue(LETTER)
            await bus.queue("others").send(b"one")
            assert await bus.queue("jobs").depth() == 0


async def test_the_policy_for_receiving(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        with only(security.Policy("redis.send", "jobs"), security.Policy("redis.receive", "others")):
            for call in (jobs.work, jobs.dead_letters):
                with pytest.raises(PermissionDeniedError, match=r"receiving from 'jobs' is not allowed"):
                    call()
            for ask in (jobs.depth, jobs.backlog, lambda: jobs.discard(LETTER)):
                with pytest.raises(PermissionDeniedError, match=r"receiving from 'jobs' is not allowed"):
                    await ask()
            await jobs.send(b"one")


# What there is --------------------------------------------------------------------------------------------------------


async def test_depth_counts_what_is_not_done(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        empty = redis.Backlog(waiting=0, in_hand=0, dead_letters=0, oldest_seconds=0.0)
        assert await jobs.backlog() == empty
        for number in range(5):
            await jobs.send(str(number))
        backlog = await jobs.backlog()
        assert (backlog.waiting, backlog.in_hand, backlog.depth, await jobs.depth()) == (5, 0, 5, 5)
        async with jobs.work(capacity=1) as deliveries:
            one, two = await take(deliveries, 2)
            await until(lambda: deliveries._worker.fetched == 1)
            backlog = await jobs.backlog()
            assert (backlog.waiting, backlog.in_hand, backlog.depth) == (2, 3, 5)
            one.ack()
            two.reject("no")
            await deliveries.flush()
            backlog = await jobs.backlog()
            assert (backlog.depth, backlog.dead_letters) == (3, 1)
            (three,) = await take(deliveries)
            await until(lambda: deliveries._worker.fetched == 1)
            # Somebody deletes what a worker has.
            await _wire.command(shared_server, "XTRIM", KEY, "MAXLEN", 1)
            backlog = await jobs.backlog()
            assert (backlog.waiting, backlog.in_hand, backlog.depth) == (0, 1, 1)
            three.ack()


async def test_the_age_of_the_oldest(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        await _wire.command(shared_server, "XADD", KEY, "1000-0", "d", "old")
        seconds = (await bus.queue("jobs").backlog()).oldest_seconds
        assert seconds > 10**9
        await _wire.command(shared_server, "DEL", KEY)
        await _wire.command(shared_server, "XADD", KEY, "9999999999999-0", "d", "of the future")
        assert (await bus.queue("jobs").backlog()).oldest_seconds == 0


async def test_a_key_that_holds_something_else(shared_server: SharedServer) -> None:
    await _wire.command(shared_server, "SET", KEY, "a string")
    async with a_bus(shared_server) as bus:
        with pytest.raises(Error, match="looking at queue 'jobs': a key holds something else") as caught:
            await bus.queue("jobs").depth()
        assert caught.value.kind is Kind.CONFLICT


async def test_it_waits_for_a_server_that_is_down(server: RedisServer) -> None:
    await server.kill()
    async with a_bus(server) as bus, trio.open_nursery() as nursery:
        jobs = bus.queue("jobs")
        nursery.start_soon(jobs.send, b"one")
        nursery.start_soon(jobs.depth)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.fail_after(10):
            await server.start()
            await until(lambda: bus.statistics().sent == 1)


async def test_a_dead_letter_goes_back_into_the_queue_or_away(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"one")
        await jobs.send(b"two")
        async with jobs.work() as deliveries, jobs.dead_letters() as letters:
            for delivery in await take(deliveries, 2):
                delivery.reject("no")
            one, two = [await letters.receive_value() for _ in range(2)]
            await jobs.requeue(one)
            await jobs.discard(two)
            (again,) = await take(deliveries)
            assert (again.data, again.attempt) == (b"one", 1)
            again.ack()
        assert await jobs.backlog() == redis.Backlog(0, 0, 0, 0.0)


@pytest.mark.parametrize("entered", [True, False])
async def test_what_fails_at_once_lets_others_run(shared_server: SharedServer, entered: bool) -> None:
    bus = a_bus(shared_server)
    async with contextlib.AsyncExitStack() as stack:
        if entered:
            await stack.enter_async_context(bus)
        jobs, prices = bus.queue("jobs"), bus.topic("prices")
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: jobs.send(cast("bytes", object())),
            lambda: jobs.send(b"x", key=""),
            lambda: prices.publish(cast("bytes", object())),
            lambda: jobs.requeue(cast("redis.DeadLetter[bytes]", "none")),
            lambda: jobs.discard(cast("redis.DeadLetter[bytes]", "none")),
        ]
        if not entered:
            calls += [jobs.depth, jobs.backlog, lambda: jobs.send(b"x"), lambda: prices.publish(b"x")]
        for call in calls:
            with trio.testing.assert_checkpoints(), pytest.raises((InvalidError, NoContextError)):
                await call()
