"""What waits for a connection, and what becomes of it at the end of a bus."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
import trio.testing

from csp import redis
from csp.errors import ConnectionFailedError, Error, Kind
from tests.redis._fake import answering, saying, state_named

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer

DEPTH = b"*4\r\n:5\r\n:2\r\n:0\r\n:0\r\n"
NOWHERE = "redis://127.0.0.1:1"


async def test_what_waits_for_a_connection_gets_it_when_there_is_one() -> None:
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(answering({"INFO server": None}, then=DEPTH))
        bus = redis.Bus(place.url, dial_timeout="50ms", min_delay="1ms", max_delay="1ms")
        async with bus:
            depths: list[int] = []

            async def ask() -> None:
                depths.append(await bus.queue("jobs").depth())

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(ask)
                await state_named(bus, "waiting")
                assert depths == []
                place.answers["INFO server"] = b"$0\r\n\r\n"
            assert depths == [5, 5, 5]


async def test_what_waits_for_a_connection_can_be_cancelled_and_nothing_was_sent(shared_server: SharedServer) -> None:
    async with redis.Bus(NOWHERE) as bus:
        with trio.move_on_after(0.01) as scope:
            await bus.queue("jobs").send(b"x")
        assert scope.cancelled_caught
        assert bus.statistics().sent == 0


async def test_what_waits_as_the_block_is_left_is_told() -> None:
    caught: list[Error] = []

    async with trio.open_nursery() as nursery, redis.Bus(NOWHERE) as bus:

        async def ask(call: object) -> None:
            with pytest.raises(ConnectionFailedError, match="the bus has ended") as error:
                await call()  # type: ignore[operator]
            caught.append(error.value)

        jobs, prices = bus.queue("jobs"), bus.topic("prices")
        for call in (lambda: jobs.send(b"x"), jobs.depth, lambda: prices.publish(b"x")):
            nursery.start_soon(ask, call)
        await trio.testing.wait_all_tasks_blocked()
        assert caught == []
    assert [(error.kind, error.retryable) for error in caught] == [(Kind.INTERNAL, False)] * 3
    assert [error.__cause__ for error in caught] == [None] * 3


async def test_a_loop_that_ignores_how_the_bus_has_ended_does_not_starve_others() -> None:
    async with redis.Bus(NOWHERE, max_attempts=1) as bus:
        await state_named(bus, "closed")
        async with trio.open_nursery() as nursery:

            async def ignore(call: object) -> None:
                while True:
                    with pytest.raises(Error):
                        await call()  # type: ignore[operator]

            jobs, prices = bus.queue("jobs"), bus.topic("prices")
            for call in (
                lambda: jobs.send(b"x"),
                lambda: jobs.send(b"x", key="k"),
                jobs.depth,
                lambda: prices.publish(b"x"),
            ):
                nursery.start_soon(ignore, call)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def test_a_loop_that_ignores_what_a_server_refuses_does_not_starve_others() -> None:
    async with answering(then=b"-OOM no\r\n") as place, redis.Bus(place.url) as bus, trio.open_nursery() as nursery:
        failures = 0

        async def ignore() -> None:
            nonlocal failures
            while True:
                with pytest.raises(Error):
                    await bus.queue("jobs").send(b"x")
                failures += 1

        nursery.start_soon(ignore)
        with trio.fail_after(10):
            while failures < 3:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_each_end_raises_an_error_of_its_own() -> None:
    async with redis.Bus(NOWHERE, max_attempts=1) as bus:
        await state_named(bus, "closed")
        errors: list[Error] = []
        for _ in range(2):
            with pytest.raises(ConnectionFailedError) as caught:
                await bus.queue("jobs").depth()
            errors.append(caught.value)
        assert errors[0] is not errors[1]
        assert errors[0].__cause__ is errors[1].__cause__ is bus.state.error


async def test_the_log_tells_each_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "csp.redis")
    async with answering() as place, redis.Bus(place.url, min_delay="1ms", max_delay="1ms") as bus:
        await state_named(bus, "open")
        await place.cut()
        await state_named(bus, "open")
    async with saying() as silent, redis.Bus(silent.url, max_attempts=1) as bus:
        await state_named(bus, "closed")
    first, second = place.url, silent.url
    assert caplog.messages == [
        f"{first}: commands: open",
        f"{first}: commands: waiting 0.00 s: the connection to {first} was lost",
        f"{first}: commands: open",
        f"{first}: ended",
        f"{second}: ended: connecting to {second} failed: the server closed it",
    ]
