"""What real servers refuse, or cannot do at the moment."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio

from csp import redis, testing
from csp.errors import ConnectionFailedError, Error, InvalidError, Kind, PermissionDeniedError
from tests.redis import _wire
from tests.redis._fake import state_named

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.redis.conftest import SharedServer


async def test_a_key_that_holds_something_else_fails_what_uses_it_and_nothing_else(shared_server: SharedServer) -> None:
    for key in ("{q}", "{d}:dead", "{t}:topic", "{n}:topic:n"):
        await _wire.command(shared_server, "SET", key, "x")
    await _wire.command(shared_server, "XADD", "{o}:once:k", "*", "a", "b")
    await _wire.command(shared_server, "XADD", "{n}:topic", "*", "a", "b")
    async with redis.Bus(shared_server.url) as bus:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: bus.queue("q").send(b"x"),
            lambda: bus.queue("q").depth(),
            lambda: bus.queue("d").depth(),
            lambda: bus.queue("o").send(b"x", key="k"),
            lambda: bus.topic("t").publish(b"x"),
            lambda: bus.topic("n").publish(b"x"),
        ]
        for call in calls:
            with pytest.raises(Error) as caught:
                await call()
            assert (type(caught.value), caught.value.kind, caught.value.retryable) == (Error, Kind.CONFLICT, False)
            assert ": a key holds something else: " in str(caught.value)
        async with AsyncExitStack() as stack:
            sources: list[redis.Deliveries[bytes] | redis.Updates[bytes] | redis.DeadLetters[bytes]] = [
                await stack.enter_async_context(bus.queue("q").work()),
                await stack.enter_async_context(bus.topic("t").subscribe()),
                await stack.enter_async_context(bus.topic("n").subscribe()),
                await stack.enter_async_context(bus.queue("d").dead_letters()),
            ]
            for source in sources:
                assert not (await source.receive()).ok
                assert isinstance(source.cause, Error)
                assert (source.cause.kind, source.cause.retryable) == (Kind.CONFLICT, False), source
            with pytest.raises(Error) as caught:
                await sources[0].ready()
            assert caught.value.kind is Kind.CONFLICT
        assert bus.state.name == "open"
        assert await bus.queue("fine").send(b"x")


async def test_a_server_out_of_memory_says_so_until_it_has_some(server: testing.RedisServer) -> None:
    async with redis.Bus(server.url) as bus:
        await _wire.command(server, "CONFIG", "SET", "maxmemory", "1")
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: bus.queue("q").send(b"x"),
            lambda: bus.topic("t").publish(b"x"),
        ]
        for call in calls:
            with pytest.raises(Error, match="the server is out of memory: ") as caught:
                await call()
            assert (caught.value.kind, caught.value.retryable) == (Kind.RATE_LIMITED, True)
            assert "user_script" not in str(caught.value)
        await _wire.command(server, "CONFIG", "SET", "maxmemory", "0")
        assert await bus.queue("q").send(b"x")
        assert bus.statistics().connections == 1


async def test_a_worker_tries_again_while_a_server_is_out_of_memory(server: testing.RedisServer) -> None:
    await _wire.command(server, "CONFIG", "SET", "maxmemory", "1")
    async with redis.Bus(server.url, min_delay="1ms", max_delay="1ms") as bus, bus.queue("q").work() as deliveries:
        with trio.fail_after(10):
            while bus.statistics().connections < 4:  # noqa: ASYNC110  # nothing tells of a worker's connections
                await trio.sleep(0.001)
            await _wire.command(server, "CONFIG", "SET", "maxmemory", "0")
            await deliveries.ready()


async def test_a_replica_takes_nothing_and_takes_it_when_it_is_one_no_more(server: testing.RedisServer) -> None:
    async with testing.redis_server(binary=server.binary) as replica, redis.Bus(replica.url) as bus:
        await _wire.command(replica, "REPLICAOF", "127.0.0.1", server.port)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: bus.queue("q").send(b"x"),
            lambda: bus.topic("t").publish(b"x"),
        ]
        for call in calls:
            with pytest.raises(ConnectionFailedError, match="the server cannot serve now: You can't write") as caught:
                await call()
            assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)
            assert "may have arrived" not in str(caught.value)
        assert bus.state.name == "open"
        await _wire.command(replica, "REPLICAOF", "NO", "ONE")
        assert await bus.queue("q").send(b"x")
        assert bus.statistics().connections == 1


async def test_a_replica_without_its_master_that_must_not_serve_is_unavailable(server: testing.RedisServer) -> None:
    async with redis.Bus(server.url) as bus:
        await state_named(bus, "open")
        await _wire.command(server, "CONFIG", "SET", "replica-serve-stale-data", "no")
        await _wire.command(server, "REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(ConnectionFailedError, match="the server cannot serve now: MASTERDOWN") as caught:
            await bus.queue("q").depth()
        assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)


async def test_a_server_that_has_too_many_clients_is_tried_again(server: testing.RedisServer) -> None:
    async with _wire.connected(server) as wire:
        await wire.command("CONFIG", "SET", "maxclients", "1")
        async with redis.Bus(server.url, min_delay="1ms", max_delay="5ms") as bus:
            # What the server says may be lost as it closes the connection.
            error = (await state_named(bus, "waiting", "closed")).error
            assert isinstance(error, ConnectionFailedError)
            assert error.retryable
            await wire.command("CONFIG", "SET", "maxclients", "100")
            await state_named(bus, "open")


async def test_a_database_that_there_is_not_ends_the_bus(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url.replace("/0", "/9999")) as bus:
        state = await state_named(bus, "closed", "waiting")
        assert isinstance(state.error, InvalidError)
        assert "DB index is out of range" in str(state.error)
        with pytest.raises(InvalidError, match="the bus has ended: ") as caught:
            await bus.queue("q").send(b"x")
        assert caught.value.__cause__ is state.error


async def test_databases_do_not_see_each_other(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as zero, redis.Bus(shared_server.url.replace("/0", "/3")) as three:
        await three.queue("q").send(b"x")
        assert (await zero.queue("q").depth(), await three.queue("q").depth()) == (0, 1)


@pytest.mark.parametrize(
    ("user", "ends"),
    [
        ("", True),
        (":secret8@", False),
        ("default:secret8@", False),
        (":wrong9@", True),
        ("alice7:secret8@", True),
        ("alice7@", True),
    ],
)
async def test_a_password_is_needed_and_must_be_the_right_one(binary: str, user: str, ends: bool) -> None:
    async with AsyncExitStack() as stack:
        protected = testing.redis_server(binary=binary, arguments=["--requirepass", "secret8"])
        server = await stack.enter_async_context(protected)
        async with redis.Bus(server.url.replace("//", f"//{user}")) as bus:
            state = await state_named(bus, "closed", "waiting", "open")
            assert state.name == ("closed" if ends else "open")
            if ends:
                assert isinstance(state.error, PermissionDeniedError)
                assert ": the server wants a" in str(state.error)
                calls: list[Callable[[], Awaitable[object]]] = [
                    lambda: bus.queue("q").send(b"x"),
                    lambda: bus.queue("q").depth(),
                ]
                for call in calls:
                    with pytest.raises(PermissionDeniedError, match="the bus has ended: ") as caught:
                        await call()
                    assert caught.value.__cause__ is state.error
                async with bus.queue("q").work() as deliveries:
                    assert not (await deliveries.receive()).ok
                    assert isinstance(deliveries.cause, PermissionDeniedError)


async def test_a_password_with_every_character_that_a_url_has_a_use_for(server: testing.RedisServer) -> None:
    await _wire.command(server, "ACL", "SETUSER", "al:i%c@e", "on", ">p/?#[]@:% \u00fc&+=", "~*", "+@all")
    user, password = "al%3Ai%25c%40e", "p%2F%3F%23%5B%5D%40%3A%25%20%C3%BC%26%2B%3D"
    async with redis.Bus(server.url.replace("//", f"//{user}:{password}@")) as bus:
        assert (await state_named(bus, "closed", "waiting", "open")).name == "open"


async def test_a_user_without_a_password(server: testing.RedisServer) -> None:
    await _wire.command(server, "ACL", "SETUSER", "alice7", "on", "nopass", "~*", "+@all")
    async with redis.Bus(server.url.replace("//", "//alice7@")) as bus:
        assert (await state_named(bus, "closed", "waiting", "open")).name == "open"
        assert await _wire.command(server, "CLIENT", "LIST")


async def test_a_password_that_is_changed_ends_the_bus_as_it_connects_again(server: testing.RedisServer) -> None:
    await _wire.command(server, "ACL", "SETUSER", "alice7", "on", ">secret8", "~*", "+@all")
    async with redis.Bus(server.url.replace("//", "//alice7:secret8@"), min_delay="1ms") as bus:
        await state_named(bus, "open")
        await _wire.command(server, "ACL", "SETUSER", "alice7", "resetpass", ">other9")
        await _wire.command(server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with trio.fail_after(10):
            await bus._commands.ended.wait()
        assert isinstance(bus.state.error, PermissionDeniedError)
        assert "secret8" not in str(bus.state.error)
