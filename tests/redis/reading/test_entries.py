"""How the source of a subscription ends, and what `ready` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from csp import redis
from csp.errors import ConnectionFailedError, EndOfChannelError, Error, Kind, PermissionDeniedError
from tests.redis import _wire
from tests.redis.reading._relay import relay, until

if TYPE_CHECKING:
    from csp import testing
    from tests.redis.conftest import SharedServer


async def test_ready_waits_for_the_server(server: testing.RedisServer) -> None:
    await server.kill()
    async with redis.Bus(server.url, max_delay="50ms") as bus, bus.topic("t").subscribe() as updates:
        assert repr(updates) == "<csp.redis.Updates of 't': connecting, 0 held>"
        with trio.move_on_after(0.1) as scope:
            await updates.ready()
        assert scope.cancelled_caught
        await server.start()
        with trio.fail_after(20):
            await updates.ready()
        assert repr(updates) == "<csp.redis.Updates of 't': open, 0 held>"


async def test_when_the_bus_gives_up_its_subscriptions_have_the_cause(server: testing.RedisServer) -> None:
    await server.kill()
    async with redis.Bus(server.url, max_attempts=1) as bus, bus.topic("t").subscribe() as updates:
        with pytest.raises(ConnectionFailedError, match="the server was not reached: connecting to"):
            await updates.ready()
        assert not (await updates.receive()).ok
        assert updates.cause is bus.state.error
        async with bus.topic("t").subscribe() as late:
            assert late.cause is bus.state.error
            with pytest.raises(ConnectionFailedError, match="the server was not reached"):
                await late.ready()


async def test_the_end_of_a_bus_closes_subscriptions_that_outlive_it(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        topic = bus.topic("t")
        updates = await topic.subscribe().__aenter__()
        await updates.ready()
    with trio.fail_after(20):
        assert not (await updates.receive()).ok
    assert isinstance(updates.cause, ConnectionFailedError)
    assert (updates.cause.kind, updates.cause.retryable) == (Kind.INTERNAL, False)
    await updates.__aexit__(None, None, None)
    assert isinstance(updates.cause, ConnectionFailedError)


async def test_ready_says_that_the_block_was_left_before(server: testing.RedisServer) -> None:
    await server.kill()
    async with redis.Bus(server.url) as bus:
        subscription = bus.topic("t").subscribe()

        async def wait() -> None:
            with pytest.raises(EndOfChannelError, match="the block was left before the server was reached"):
                await subscription.ready()

        async with trio.open_nursery() as nursery, subscription:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()


async def test_a_key_that_holds_something_else_fails_that_subscription_only(shared_server: SharedServer) -> None:
    await _wire.command(shared_server, "SET", "{bad}:topic", "x")
    async with redis.Bus(shared_server.url) as bus:
        async with bus.topic("good").subscribe() as good, bus.topic("bad").subscribe() as bad:
            with pytest.raises(Error, match="subscribing to topic 'bad': the server was not reached") as caught:
                await bad.ready()
            assert caught.value.kind is Kind.CONFLICT
            assert isinstance(bad.cause, Error)
            assert (bad.cause.kind, bad.cause.retryable) == (Kind.CONFLICT, False)
            await good.ready()
            await bus.topic("good").publish(b"x")
            assert isinstance(await good.receive_value(), redis.Published)
        assert bus.state.name == "open"


async def test_a_name_that_is_not_permitted_fails_that_subscription_only(server: testing.RedisServer) -> None:
    await _wire.command(server, "ACL", "SETUSER", "eve", "on", ">pw", "+@all", "~{good}*")
    url = f"redis://eve:pw@127.0.0.1:{server.port}/0"
    async with redis.Bus(url) as bus, bus.topic("good").subscribe() as good, bus.topic("bad").subscribe() as bad:
        with pytest.raises(PermissionDeniedError):
            await bad.ready()
        await good.ready()
        await bus.topic("good").publish(b"x")
        assert isinstance(await good.receive_value(), redis.Published)
        assert bus.state.name == "open"
        assert "eve" not in str(bad.cause)


async def test_what_comes_after_leaving_goes_nowhere(shared_server: SharedServer) -> None:
    async with relay(shared_server) as relayed, redis.Bus(relayed.url) as bus:
        topic = bus.topic("t")
        await topic.publish(b"x")
        go_on = trio.Event()

        async def hold(written: bytes) -> None:
            if b"XREAD" in written:
                await go_on.wait()

        relayed.answer = hold
        async with topic.subscribe(since="start") as updates:
            await until(lambda: relayed.count(b"XREAD"))
        go_on.set()
        async with topic.subscribe(since="start") as others:
            with trio.fail_after(20):
                assert isinstance(await others.receive_value(), redis.Published)
        assert not updates.receive_nowait().ok
        assert "0 held" in repr(updates)
