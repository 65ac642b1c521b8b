from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

import csp
from csp import redis
from csp.errors import ChannelBrokenError, InvalidError, NoContextError
from tests.redis import _wire
from tests.redis.reading._relay import until

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer


async def test_a_value_that_cannot_be_decoded_ends_the_subscription_after_those_before_it(
    shared_server: SharedServer,
) -> None:
    async with redis.Bus(shared_server.url) as bus:
        raw, read = bus.topic("t"), bus.topic("t", codec=redis.JSON)
        for data in (b"1", b"2", b"{", b"4"):
            await raw.publish(data)
        async with read.subscribe(since="start") as updates:
            assert [(await updates.receive_value()).data for _ in range(2)] == [1, 2]  # type: ignore[union-attr]
            assert not (await updates.receive()).ok
            assert updates.closed
            assert isinstance(updates.cause, InvalidError)
            assert str(updates.cause).startswith("subscribing to topic 't': the entry ")
            assert str(updates.cause).endswith("-3 cannot be decoded: JSONDecodeError")
            assert updates.cause.__cause__ is not None
            with pytest.raises(InvalidError, match="cannot be decoded"):
                await updates.receive_value()
        assert isinstance(updates.cause, InvalidError)
        assert bus.statistics().received == 2
        assert bus.state.name == "open"
        async with read.subscribe() as updates:  # the reader has not ended
            await updates.ready()
            await raw.publish(b"5")
            assert (await updates.receive_value()).data == 5  # type: ignore[union-attr]


async def test_all_that_wait_are_told_that_a_value_cannot_be_decoded(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus, bus.topic("t", codec=redis.JSON).subscribe() as updates:
        await updates.ready()
        ends: list[object] = []

        async def receive() -> None:
            ends.append(await updates.receive())

        async def choose() -> None:
            r = await csp.select(updates.case_receive(), csp.after("1m").case_receive())
            ends.append((r.value, r.ok))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for task in (receive, choose, receive):
                    nursery.start_soon(task)
                await trio.testing.wait_all_tasks_blocked()
                await bus.topic("t").publish(b"{")
        assert ends == [(None, False)] * 3


@pytest.mark.parametrize("fields", [("x", "1"), ("d", "1"), ("e", "5-a", "n", "x", "d", "1")])
async def test_an_entry_that_no_publisher_wrote_ends_the_subscription(
    shared_server: SharedServer, fields: tuple[str, ...]
) -> None:
    async with redis.Bus(shared_server.url) as bus:
        await bus.topic("t").publish(b"1")
        entry = await _wire.command(shared_server, "XADD", "{t}:topic", "*", *fields)
        assert isinstance(entry, bytes)
        async with bus.topic("t").subscribe(since="start") as updates:
            assert (await updates.receive_value()).data == b"1"  # type: ignore[union-attr]
            assert not (await updates.receive()).ok
            assert (
                str(updates.cause)
                == f"subscribing to topic 't': the entry {entry.decode()} was not published by csp.redis"
            )


async def test_leaving_the_block_drops_what_was_not_received(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        topic = bus.topic("t")
        async with topic.subscribe() as updates:
            await updates.ready()
            for _ in range(3):
                await topic.publish(b"x")
            await until(lambda: "3 held" in repr(updates))
            assert repr(updates) == "<csp.redis.Updates of 't': open, 3 held>"
        assert not (await updates.receive()).ok
        assert updates.closed
        assert updates.cause is None
        assert repr(updates) == "<csp.redis.Updates of 't': closed, 0 held>"


async def test_a_block_that_fails_or_is_cancelled_is_the_cause(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        topic = bus.topic("t")
        failure = OSError("no")
        updates = topic.subscribe()
        with pytest.raises(OSError, match="no"):
            async with updates:
                raise failure
        assert isinstance(updates.cause, ChannelBrokenError)
        assert updates.cause.__cause__ is failure
        updates = topic.subscribe()
        with trio.CancelScope() as scope:
            async with updates:
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert isinstance(updates.cause, ChannelBrokenError)
        assert updates.cause.details == {"block": "subscribe"}


async def test_a_select_waits_for_updates_among_others(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        topic = bus.topic("t")
        async with topic.subscribe() as updates, topic.subscribe() as others:
            await updates.ready()
            await others.ready()
            with trio.fail_after(20):
                await topic.publish(b"x")
                r = await csp.select(csp.never().case_receive(), updates.case_receive())
                assert updates.gave(r)
                assert isinstance(r.value, redis.Published)
                assert (await others.receive_value()) == r.value


async def test_nothing_comes_before_the_block_and_it_is_used_once(shared_server: SharedServer) -> None:
    topic = redis.Bus(shared_server.url).topic("t")
    updates = topic.subscribe()
    for use in (updates.receive_nowait, updates.case_receive):
        with pytest.raises(NoContextError, match="subscribe gives nothing before its block"):
            use()
    with pytest.raises(NoContextError, match="subscribe gives nothing before its block"):
        await updates.receive()
    with pytest.raises(NoContextError, match="subscribe gives nothing before its block"):
        await updates.ready()
    with pytest.raises(NoContextError, match="a bus is a block"):
        await updates.__aenter__()
    async with redis.Bus(shared_server.url) as bus:
        updates = bus.topic("t").subscribe()
        async with updates:
            with pytest.raises(trio.WouldBlock):
                updates.receive_nowait()
            with pytest.raises(NoContextError, match="was used before"):
                await updates.__aenter__()
        with pytest.raises(NoContextError, match="was used before"):
            await updates.__aenter__()


async def test_a_published_value_is_frozen(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus, bus.topic("t").subscribe(since="start") as updates:
        await bus.topic("t").publish(b"x")
        value = await updates.receive_value()
        assert isinstance(value, redis.Published)
        with pytest.raises(AttributeError):
            value.data = b"y"  # type: ignore[misc]
        assert hash(value) == hash(redis.Published(value.id, b"x"))
