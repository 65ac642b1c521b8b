"""One connection for all subscriptions of a bus: which requests it writes, when, and what it does when they fail."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import trio

import csp
from csp import redis
from csp.errors import Error, Kind, PermissionDeniedError
from tests.redis import _wire
from tests.redis.reading._relay import Relay, blocked, relay, until

if TYPE_CHECKING:
    from csp import testing
    from tests.redis.conftest import SharedServer


def numbers_of(relayed: Relay, mark: bytes) -> list[int]:
    """Return the COUNT of each XREAD that was written, with BLOCK or without."""
    found = re.findall(
        rb"XREAD\r\n\$5\r\nCOUNT\r\n\$\d+\r\n(\d+)\r\n\$\d+\r\n(BLOCK|STREAMS)", b"".join(relayed.written)
    )
    return [int(count) for count, following in found if following == mark]


def waiting(relayed: Relay) -> bytes:
    """Return the last request that was to wait at the server."""
    return next((each for each in reversed(relayed.written) if b"\r\nBLOCK\r\n" in each), b"")


async def test_there_is_no_connection_before_something_is_read(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        await bus.topic("t").publish(b"x")
        assert bus.statistics().connections == 1
        async with bus.topic("t").subscribe() as one, bus.topic("u").subscribe() as other:
            await one.ready()
            await other.ready()
            assert bus.statistics().connections == 2
        assert bus.statistics().open_connections == 2  # it stays
        async with bus.topic("t").subscribe() as one:
            await one.ready()
        assert bus.statistics().connections == 2


async def test_those_that_are_up_to_date_share_one_request_with_each_key_once(shared_server: SharedServer) -> None:
    async with relay(shared_server) as relayed, redis.Bus(relayed.url) as bus:
        a, b = bus.topic("a"), bus.topic("b")
        async with a.subscribe() as a1, a.subscribe() as a2, b.subscribe() as b1:
            for updates in (a1, a2, b1):
                await updates.ready()
            await until(lambda: b"{a}:topic" in waiting(relayed) and b"{b}:topic" in waiting(relayed))
            assert (waiting(relayed).count(b"{a}:topic"), waiting(relayed).count(b"{b}:topic")) == (1, 1)
            await a.publish(b"x")
            assert await a1.receive_value() == await a2.receive_value()
            await b.publish(b"y")
            assert isinstance(await b1.receive_value(), redis.Published)


async def test_each_takes_of_a_shared_answer_what_follows_its_own_place(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        topic = bus.topic("t")
        ids = [await topic.publish(b"%d" % number) for number in range(1, 4)]
        await _wire.command(shared_server, "XTRIM", "{t}:topic", "MAXLEN", 0)
        async with topic.subscribe(since=ids[1]) as early, topic.subscribe() as late:
            await early.ready()
            await late.ready()
            await blocked(shared_server)
            await topic.publish(b"4")
            value = await late.receive_value()
            assert isinstance(value, redis.Published)
            assert value.data == b"4"
            assert await early.receive_value() == csp.Gap(None, 0.0, 0, 1)
            assert await early.receive_value() == value


async def test_a_slow_subscriber_slows_nobody_and_holds_no_more_than_its_capacity(
    shared_server: SharedServer,
) -> None:
    async with redis.Bus(shared_server.url) as bus:
        topic = bus.topic("t", keep=1_000_000)
        async with topic.subscribe(capacity=4) as slow, topic.subscribe() as fast:
            await slow.ready()
            await fast.ready()
            for number in range(300):
                await topic.publish(b"%d" % number)
            with trio.fail_after(20):
                assert [(await fast.receive_value()).data for _ in range(300)] == [b"%d" % n for n in range(300)]  # type: ignore[union-attr]
            assert "4 held" in repr(slow)
            with trio.fail_after(20):
                assert (await slow.receive_value()).data == b"0"  # type: ignore[union-attr]
                await trio.testing.wait_all_tasks_blocked(0.02)
                assert "3 held" in repr(slow)  # it is not read for before half of its room is free
                assert (await slow.receive_value()).data == b"1"  # type: ignore[union-attr]
                await until(lambda: "4 held" in repr(slow))
                rest = [(await slow.receive_value()).data for _ in range(298)]  # type: ignore[union-attr]
            assert rest == [b"%d" % n for n in range(2, 300)]


async def test_a_subscription_with_no_room_is_read_for_again_when_nobody_else_is(
    shared_server: SharedServer,
) -> None:
    async with redis.Bus(shared_server.url) as bus:
        topic = bus.topic("t")
        async with topic.subscribe(capacity=1) as updates:
            await updates.ready()
            for number in range(20):
                await topic.publish(b"%d" % number)
            with trio.fail_after(20):
                assert [(await updates.receive_value()).data for _ in range(20)] == [b"%d" % n for n in range(20)]  # type: ignore[union-attr]


async def test_large_values_are_asked_for_a_few_at_a_time(shared_server: SharedServer) -> None:
    large = b"x" * (6 * 1024 * 1024)
    async with relay(shared_server) as relayed, redis.Bus(relayed.url) as bus:
        for number in range(1, 6):
            await _wire.command(shared_server, "XADD", "{t}:topic", "*", "e", "1-a", "n", number, "d", large)
        async with bus.topic("t").subscribe(since="start") as updates:
            await until(lambda: "5 held" in repr(updates))
            with trio.fail_after(20):
                for _ in range(5):
                    await updates.receive_value()
                await until(lambda: waiting(relayed))
                await _wire.command(shared_server, "XADD", "{t}:topic", "*", "e", "1-a", "n", 6, "d", b"small")
                await updates.receive_value()
        assert numbers_of(relayed, b"STREAMS") == [16, 2]
        assert numbers_of(relayed, b"BLOCK")[0] == 2


async def test_a_subscription_that_comes_while_a_request_waits_does_not_wait(shared_server: SharedServer) -> None:
    async with relay(shared_server) as relayed, redis.Bus(relayed.url, timeout="1m") as bus:
        async with bus.topic("a").subscribe() as a:
            await a.ready()
            await blocked(shared_server)
            with trio.fail_after(4):  # the request waits for 5 s
                async with bus.topic("b").subscribe() as b:
                    await b.ready()
                    await until(lambda: b"{b}" in waiting(relayed))
                    await blocked(shared_server)
                await until(lambda: b"{b}" not in waiting(relayed))
        assert relayed.count(b"UNBLOCK") >= 2


async def test_a_request_that_had_not_arrived_is_unblocked_again(shared_server: SharedServer) -> None:
    async with relay(shared_server) as relayed, redis.Bus(relayed.url, timeout="1m") as bus:
        await bus.topic("a").publish(b"x")

        async def late(written: bytes) -> None:
            if b"BLOCK\r\n$4\r\n5000" in written:
                await until(lambda: relayed.count(b"UNBLOCK") >= 3)

        async with bus.topic("a").subscribe() as a:
            relayed.answer = late
            await until(lambda: relayed.count(b"BLOCK\r\n$4\r\n5000"))
            with trio.fail_after(3):
                async with bus.topic("b").subscribe() as b:
                    await b.ready()
            relayed.answer = relayed.forward
            await a.ready()


async def test_a_wake_up_whose_connection_is_lost_is_tried_again(shared_server: SharedServer) -> None:
    async with (
        relay(shared_server) as relayed,
        redis.Bus(relayed.url, timeout="1m") as bus,
        bus.topic("a").subscribe() as a,
    ):
        await a.ready()
        await blocked(shared_server)
        cuts = 0

        async def cut(written: bytes) -> bytes | None:
            nonlocal cuts
            if b"UNBLOCK" not in written or cuts:
                return None
            cuts += 1
            return b""

        relayed.answer = cut
        with trio.fail_after(3):
            async with bus.topic("b").subscribe() as b:
                await b.ready()
        assert cuts == 1


async def test_without_permission_to_unblock_a_subscription_waits_for_the_end_of_a_request(
    server: testing.RedisServer,
) -> None:
    await _wire.command(server, "ACL", "SETUSER", "eve", "on", ">pw", "~*", "+@all", "-client|unblock")
    async with (
        redis.Bus(f"redis://eve:pw@127.0.0.1:{server.port}/0", timeout="1s") as bus,
        bus.topic("a").subscribe() as a,
    ):
        await a.ready()
        await blocked(server)
        with trio.fail_after(20):
            async with bus.topic("b").subscribe() as b:
                await b.ready()
                assert a.cause is b.cause is None


async def test_a_key_that_becomes_something_else_ends_the_subscriptions_of_that_key_only(
    shared_server: SharedServer,
) -> None:
    async with redis.Bus(shared_server.url, timeout="1s") as bus:
        good, bad = bus.topic("good"), bus.topic("bad")
        async with good.subscribe() as first, bad.subscribe() as second, bad.subscribe() as third:
            for updates in (first, second, third):
                await updates.ready()
            await _wire.command(shared_server, "SET", "{bad}:topic", "x")
            with trio.fail_after(20):
                assert not (await second.receive()).ok
                assert not (await third.receive()).ok
            for updates in (second, third):
                assert isinstance(updates.cause, Error)
                assert (updates.cause.kind, updates.cause.retryable) == (Kind.CONFLICT, False)
            await good.publish(b"x")
            assert isinstance(await first.receive_value(), redis.Published)
            assert bus.statistics().connections == 2


WRONG_TYPE = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"


async def test_a_shared_request_that_fails_for_one_key_is_taken_apart(shared_server: SharedServer) -> None:
    async with relay(shared_server) as relayed, redis.Bus(relayed.url, timeout="1s") as bus:
        good, bad = bus.topic("good"), bus.topic("bad")
        async with good.subscribe() as first, bad.subscribe() as second:
            await first.ready()
            await second.ready()

            async def refuse(written: bytes) -> bytes | None:
                return WRONG_TYPE if b"XREAD" in written and b"{bad}" in written else None

            relayed.answer = refuse
            with trio.fail_after(20):
                assert not (await second.receive()).ok
            assert isinstance(second.cause, Error)
            assert second.cause.kind is Kind.CONFLICT
            await good.publish(b"x")
            assert isinstance(await first.receive_value(), redis.Published)


async def test_a_shared_request_that_fails_for_no_key_ends_the_bus(shared_server: SharedServer) -> None:
    async with (
        relay(shared_server) as relayed,
        redis.Bus(relayed.url, timeout="1s") as bus,
        bus.topic("a").subscribe() as a,
        bus.topic("b").subscribe() as b,
    ):
        await a.ready()

        async def refuse(written: bytes) -> bytes | None:
            return b"-ERR no\r\n" if b"BLOCK" in written else None

        relayed.answer = refuse
        with trio.fail_after(20):
            assert not (await a.receive()).ok
            assert not (await b.receive()).ok
        assert bus.state.name == "closed"
        assert a.cause is b.cause is bus.state.error is not None
        assert "reading: the server answered with an error: no" in str(a.cause)


@pytest.mark.parametrize("needle", [b"BLOCK", b"XREAD\r\n$5\r\nCOUNT\r\n$2\r\n16\r\n$7\r\nSTREAMS", b"EVALSHA"])
async def test_an_error_that_passes_makes_a_new_connection(shared_server: SharedServer, needle: bytes) -> None:
    async with relay(shared_server) as relayed, redis.Bus(relayed.url, timeout="1s", max_delay="100ms") as bus:
        topic = bus.topic("t")
        await topic.publish(b"1")
        left = 1

        async def refuse(written: bytes) -> bytes | None:
            nonlocal left
            if needle not in written or not left:
                return None
            left -= 1
            return LOADING

        relayed.answer = refuse
        async with topic.subscribe(since="start") as updates:
            with trio.fail_after(20):
                assert (await updates.receive_value()).data == b"1"  # type: ignore[union-attr]
                await until(lambda: bus.statistics().connections == 3)
                await topic.publish(b"2")
                assert (await updates.receive_value()).data == b"2"  # type: ignore[union-attr]


async def test_a_connection_that_is_lost_in_the_middle_of_several_requests_comes_back(
    shared_server: SharedServer,
) -> None:
    async with relay(shared_server) as relayed, redis.Bus(relayed.url, max_delay="100ms") as bus:
        a, b = bus.topic("a"), bus.topic("b")
        await a.publish(b"1")
        await b.publish(b"1")
        left = 1

        async def cut(written: bytes) -> bytes | None:
            nonlocal left
            if written.count(b"XREAD") < 2 or not left:
                return None
            left -= 1
            return b""

        relayed.answer = cut
        async with a.subscribe(since="start") as first, b.subscribe(since="start") as second:
            with trio.fail_after(20):
                assert isinstance(await first.receive_value(), redis.Published)
                assert isinstance(await second.receive_value(), redis.Published)
        assert left == 0
        assert bus.statistics().connections == 3


async def test_what_may_not_be_looked_at_any_more_ends_its_subscription(server: testing.RedisServer) -> None:
    await _wire.command(server, "ACL", "SETUSER", "eve", "on", ">pw", "~*", "+@all")
    async with (
        redis.Bus(f"redis://eve:pw@127.0.0.1:{server.port}/0", timeout="1s") as bus,
        bus.topic("t").subscribe() as updates,
    ):
        await updates.ready()
        await _wire.command(server, "ACL", "SETUSER", "eve", "-xinfo")
        with trio.fail_after(20):
            assert not (await updates.receive()).ok
        assert isinstance(updates.cause, PermissionDeniedError)
        assert bus.state.name == "open"


async def test_the_reader_does_not_spin_while_nothing_happens(shared_server: SharedServer) -> None:
    async with relay(shared_server) as relayed, redis.Bus(relayed.url) as bus:
        topic = bus.topic("t")
        async with topic.subscribe(capacity=1) as full, topic.subscribe() as idle:
            await full.ready()
            await idle.ready()
            for _ in range(3):
                await topic.publish(b"x")
            await until(lambda: "3 held" in repr(idle) and "1 held" in repr(full))
            await blocked(shared_server)
            await trio.sleep(0.05)
            written = len(relayed.written)
            await trio.sleep(0.2)
            assert len(relayed.written) == written
