"""A local channel that is pumped into a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import redis, security
from csp.errors import (
    ChannelClosedError,
    ConnectionFailedError,
    Error,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
    PermissionDeniedError,
)
from tests.redis import _wire
from tests.redis.queue._workers import KEY, a_bus, cut, length, until

if TYPE_CHECKING:
    from csp.testing import RedisServer
    from tests.redis.conftest import SharedServer


async def sent(server: SharedServer | RedisServer) -> list[bytes]:
    entries = cast("list[tuple[bytes, list[bytes]]]", await _wire.command(server, "XRANGE", KEY, "-", "+"))
    return [fields[1] for _, fields in entries]


@pytest.mark.parametrize("capacity", [0, 1, 16, 200])
async def test_leaving_waits_until_all_is_sent_in_order(shared_server: SharedServer, capacity: int) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        async with jobs.outlet(capacity=capacity) as channel:
            assert channel.capacity == capacity
            for number in range(150):
                await channel.send(str(number).encode())
        assert await sent(shared_server) == [str(number).encode() for number in range(150)]
        assert channel.closed
        assert channel.cause is None
    assert bus.statistics().sent == 150


async def test_a_producer_waits_in_a_select(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs", codec=redis.JSON)
        stop = csp.Channel[None](1)
        async with jobs.outlet() as channel:
            for number in range(5):
                r = await csp.select(channel.case_send({"n": number}), stop.case_receive())
                assert not stop.gave(r)
        assert await sent(shared_server) == [b'{"n":%d}' % number for number in range(5)]


async def test_it_waits_while_the_queue_is_full(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs", capacity=3)
        done: list[bytes] = []

        async def work() -> None:
            async with jobs.work() as deliveries:
                while len(done) < 12:
                    with await deliveries.receive_value() as delivery:
                        done.append(delivery.data)
                    assert await length(shared_server) <= 3

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            async with jobs.outlet(capacity=10) as channel:
                for number in range(12):
                    await channel.send(str(number).encode())
        assert done == [str(number).encode() for number in range(12)]


async def test_with_keys_values_are_sent_once_over_connections_that_are_lost(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs", capacity=60)
        async with jobs.outlet(capacity=4, key=lambda value: value.decode()) as channel:
            for number in range(40):
                await channel.send(str(number).encode())
                await channel.send(str(number // 2).encode())
                if number % 8 == 0:
                    await cut(shared_server)
        assert await sent(shared_server) == [str(number).encode() for number in range(40)]


async def test_one_that_cannot_be_sent_closes_it_and_what_came_before_is_sent(shared_server: SharedServer) -> None:
    def encode(value: int) -> str:
        if value == 3:
            raise ValueError("three")
        return str(value)

    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs", codec=(encode, int))
        channels: list[csp.Channel[int]] = []
        with pytest.raises(InvalidError, match="the value cannot be encoded: ValueError") as caught:  # noqa: PT012  # it is about the end of the block
            async with jobs.outlet() as channel:
                channels.append(channel)
                for number in range(6):
                    channel.send_nowait(number)
        assert channels[0].cause is None  # the block had closed it before
        assert isinstance(caught.value.__cause__, ValueError)
        assert await sent(shared_server) == [b"0", b"1", b"2"]

        with pytest.raises(InvalidError) as caught:  # noqa: PT012  # it is about the end of the block
            async with jobs.outlet() as channel:
                channels.append(channel)
                channel.send_nowait(3)
                await until(lambda: channels[1].closed)
                with pytest.raises(ChannelClosedError):
                    await channel.send(4)
        assert channels[1].cause is caught.value


@pytest.mark.parametrize("key", ["", "x" * 501, 5, b"a"])
async def test_a_key_that_is_none_closes_it(shared_server: SharedServer, key: object) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs")
        with pytest.raises(InvalidError, match="key must"):  # it is about the end of the block
            async with jobs.outlet(key=lambda _value: cast("str", key)) as channel:
                await channel.send(b"one")
        assert await length(shared_server) == 0


async def test_what_the_server_does_not_take_closes_it(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        jobs = bus.queue("jobs", capacity=2, overflow="error")
        with pytest.raises(Error, match="is full") as caught:  # noqa: PT012  # it is about the end of the block
            async with jobs.outlet(capacity=0) as channel:
                for _ in range(3):
                    await channel.send(b"one")
        assert caught.value.kind is Kind.RATE_LIMITED
        assert await length(shared_server) == 2


async def test_what_the_block_raises_comes_out_and_what_was_in_the_channel_is_sent(shared_server: SharedServer) -> None:
    async with a_bus(shared_server) as bus:
        error = ValueError("no")
        with pytest.raises(ValueError, match="no") as caught:  # noqa: PT012  # it is about the end of the block
            async with bus.queue("jobs").outlet() as channel:
                channel.send_nowait(b"one")
                raise error
        assert caught.value is error
        assert await sent(shared_server) == [b"one"]


async def test_after_an_exception_it_sends_no_longer_than_close_timeout(server: RedisServer) -> None:
    async with a_bus(server, close_timeout="50ms") as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"zero")
        server.pause()
        with trio.fail_after(5), pytest.raises(ValueError, match="no"):  # noqa: PT012  # it is about the end of the block
            async with jobs.outlet() as channel:
                channel.send_nowait(b"one")
                raise ValueError("no")
        server.resume()


async def test_an_exception_of_the_block_comes_before_one_of_the_pump(shared_server: SharedServer) -> None:
    channels: list[csp.Channel[bytes]] = []
    async with a_bus(shared_server) as bus:
        with pytest.raises(ChannelClosedError):  # noqa: PT012  # it is about the end of the block
            async with bus.queue("jobs", codec=(lambda value: value.decode(), bytes)).outlet() as channel:
                channels.append(channel)
                channel.send_nowait(b"\xff")
                await until(lambda: channels[0].closed)
                await channel.send(b"one")
        assert isinstance(channels[0].cause, InvalidError)


@pytest.mark.parametrize("when", ["in the block", "while leaving"])
async def test_a_cancelled_block_drops_what_is_in_the_channel(server: RedisServer, when: str) -> None:
    async with a_bus(server) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"zero")
        await server.kill()
        await until(lambda: bus.state.name != "open")
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:

                async def produce() -> None:
                    async with jobs.outlet() as channel:
                        channel.send_nowait(b"one")
                        if when == "in the block":
                            await trio.sleep_forever()

                nursery.start_soon(produce)
                await wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()
        await server.start()
        assert await jobs.depth() == 0


async def test_the_end_of_the_bus_closes_it(server: RedisServer) -> None:
    async with a_bus(server, max_attempts=1) as bus:
        jobs = bus.queue("jobs")
        await jobs.send(b"zero")
        with trio.fail_after(5), pytest.raises(ConnectionFailedError, match="the bus has ended") as caught:  # noqa: PT012  # it is about the end of the block
            async with jobs.outlet() as channel:
                await server.kill()
                await until(lambda: bus.state.name == "closed")
                channel.send_nowait(b"one")
        assert caught.value.kind is Kind.INTERNAL


async def test_it_is_used_once_in_the_block_of_its_bus(shared_server: SharedServer) -> None:
    bus = a_bus(shared_server)
    early = bus.queue("jobs").outlet()
    with pytest.raises(NoContextError, match="a bus is a block"):
        await early.__aenter__()
    async with bus:
        outlet = bus.queue("jobs").outlet()
        async with outlet:
            with pytest.raises(NoContextError, match="this outlet was used before"):
                await outlet.__aenter__()


async def test_its_arguments(shared_server: SharedServer) -> None:
    jobs = a_bus(shared_server).queue("jobs")
    for capacity in (-1, 10_001):
        with pytest.raises(InvalidError, match="capacity must be 0 to 10000"):  # it is about the end of the block
            jobs.outlet(capacity=capacity)
    with pytest.raises(InvalidTypeError, match="capacity must be a whole number, not float"):
        jobs.outlet(capacity=1.0)  # type: ignore[arg-type]  # the test is about it
    with pytest.raises(InvalidTypeError, match="key must be a function or None, not str"):
        jobs.outlet(key="k")  # type: ignore[arg-type]  # the test is about it


def test_its_policy() -> None:
    jobs = redis.Bus("redis://127.0.0.1:1").queue("jobs")
    with (
        security.context(actor=security.Actor("me"), scope=security.Scope([security.Policy("redis.send", "others")])),
        pytest.raises(PermissionDeniedError, match="sending to 'jobs' is not allowed"),
    ):
        jobs.outlet()
