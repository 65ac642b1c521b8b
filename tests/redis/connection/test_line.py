"""A bus that loses its connection, and comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel

from csp import redis
from csp.errors import ConnectionFailedError, Kind
from tests.redis import _wire
from tests.redis._fake import answering, hello, saying, state_named

if TYPE_CHECKING:
    from csp import testing
    from tests.redis.conftest import SharedServer


async def seen(bus: redis.Bus[bytes], count: int) -> list[redis.State]:
    """Return the next states of a bus."""
    with trio.fail_after(10):
        return [await bus.states().receive_value() for _ in range(count)]


async def clients(place: _wire.Place) -> int:
    """Return how many connections a server has, beside the one that asks."""
    found = await _wire.command(place, "CLIENT", "LIST", "TYPE", "normal")
    assert isinstance(found, bytes)
    return found.count(b"\n") - 1


async def until_there_are(count: int, place: _wire.Place) -> None:
    with trio.fail_after(10):
        while await clients(place) != count:  # noqa: ASYNC110  # it is another process
            await trio.sleep(0.001)


async def test_states_come_in_order() -> None:
    async with answering() as place:
        bus = redis.Bus(place.url, min_delay="1ms", max_delay="1ms")
        assert (bus.state.name, bus.state.attempt) == ("connecting", 1)
        async with bus:
            assert [(state.name, state.attempt) for state in await seen(bus, 2)] == [("connecting", 1), ("open", 1)]
            assert bus.state.name == "open"
            await place.cut()
            waiting, connecting, opened = await seen(bus, 3)
            assert (waiting.name, waiting.seconds) == ("waiting", 0.001)
            assert isinstance(waiting.error, ConnectionFailedError)
            assert (waiting.error.kind, waiting.error.retryable) == (Kind.UNAVAILABLE, True)
            assert (connecting.name, opened.name) == ("connecting", "open")
        (closed,) = await seen(bus, 1)
        assert (closed.name, closed.error) == ("closed", None)
        assert bus.state is closed
    assert bus.states() is bus.states()


async def test_states_that_nobody_reads_are_the_latest_sixteen() -> None:
    async with saying() as place, redis.Bus(place.url, min_delay="1ms", max_delay="1ms", max_attempts=40) as bus:
        with trio.fail_after(10):
            await bus._commands.ended.wait()  # reading its states would be reading
        states = await seen(bus, 16)
        assert states[-1].name == "closed"
        assert {state.attempt for state in states[:-1]} <= set(range(33, 42))
        with pytest.raises(trio.WouldBlock):
            bus.states().receive_nowait()


@pytest.mark.parametrize("most", [1, 2, 5])
async def test_a_bus_ends_after_so_many_failed_attempts_in_a_row(most: int) -> None:
    async with saying() as place, redis.Bus(place.url, min_delay="1ms", max_delay="1ms", max_attempts=most) as bus:
        state = await state_named(bus, "closed")
        assert place.connections == most
        assert isinstance(state.error, ConnectionFailedError)
        with pytest.raises(ConnectionFailedError, match=r"^the bus has ended: connecting to ") as caught:
            await bus.queue("jobs").depth()
        assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, False)
        assert caught.value.__cause__ is state.error
        assert bus.statistics().connections == 0


async def test_a_connection_that_is_lost_at_once_counts_as_a_failed_attempt() -> None:
    async with answering() as place, redis.Bus(place.url, min_delay="5s", max_delay="5s", max_attempts=1) as bus:
        await state_named(bus, "open")
        await place.cut()
        assert (await state_named(bus, "closed", "waiting")).name == "closed"


async def test_a_connection_that_has_lasted_starts_counting_anew() -> None:
    async with answering() as place, redis.Bus(place.url, min_delay="1ms", max_delay="1ms", max_attempts=2) as bus:
        for _ in range(4):
            await state_named(bus, "open")
            await trio.sleep(0.003)  # longer than the longest wait
            await place.cut()
            assert (await state_named(bus, "waiting", "closed")).name == "waiting"


async def test_waits_are_between_the_least_and_a_bound_that_doubles() -> None:
    async with saying() as place, redis.Bus(place.url, min_delay="1ms", max_delay="8ms", max_attempts=6) as bus:
        states: list[redis.State] = []
        while (state := (await seen(bus, 1))[0]).name != "closed":
            if state.name == "waiting":
                states.append(state)
    assert [state.attempt for state in states] == [2, 3, 4, 5, 6]
    for state, bound in zip(states, [0.004, 0.008, 0.008, 0.008, 0.008], strict=True):
        assert 0.001 <= state.seconds <= bound


async def test_twenty_restarts(server: testing.RedisServer) -> None:
    async with redis.Bus(server.url, min_delay="1ms", max_delay="5ms") as bus:
        jobs = bus.queue("jobs")
        async with jobs.work(lease="10s") as deliveries:
            for number in range(20):
                with trio.fail_after(10):
                    # What is sent while there is no server waits for it.
                    await jobs.send(str(number).encode(), key=str(number))
                    with await deliveries.receive_value() as delivery:
                        assert delivery.data == str(number).encode()
                await server.kill()
                await server.start()
            await deliveries.flush()
            assert bus.statistics().open_connections <= 2
        await jobs.send(b"x")
        await until_there_are(1, server)


async def test_there_are_as_many_connections_after_twenty_kills_as_before(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url, min_delay="1ms", max_delay="2ms") as bus:
        async with bus.queue("a").work() as one, bus.queue("b").work() as two, bus.topic("t").subscribe() as updates:
            sources = (one, two, updates)
            for source in sources:
                await source.ready()
            await until_there_are(4, shared_server)
            for _ in range(20):
                await _wire.command(shared_server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await state_named(bus, "open")
            await until_there_are(4, shared_server)
            # They are used: what is sent comes.
            await bus.queue("a").send(b"x")
            with trio.fail_after(10):
                delivery = await one.receive_value()
            with delivery:
                assert delivery.data == b"x"
            assert bus.statistics().open_connections == 4
        # That for topics stays, for the next ones.
        await until_there_are(2, shared_server)
    await until_there_are(0, shared_server)
    assert bus.statistics().open_connections == 0


async def test_calls_that_are_cancelled_leave_the_connection_as_it_is(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        await bus.queue("jobs").depth()
        for deadline in range(30):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(bus.queue("jobs").send, b"x")
                for _ in range(deadline):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        sent = await bus.queue("jobs").depth()
        assert 0 < sent <= 150
        assert await clients(shared_server) == 1
        assert bus.statistics().connections == 1


async def test_a_server_that_becomes_too_old_ends_the_bus_as_it_connects_again() -> None:
    async with answering() as place, redis.Bus(place.url, min_delay="1ms") as bus:
        await state_named(bus, "open")
        place.answers["HELLO"] = hello("6.2.1")
        await place.cut()
        assert "the server is version 6.2.1" in str((await state_named(bus, "closed")).error)
