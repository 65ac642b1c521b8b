"""Where a subscription begins, and what it is told of what it missed."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import trio

import csp
from csp import redis, testing
from tests.redis import _wire
from tests.redis.reading._relay import blocked, relay, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.redis.conftest import SharedServer

KEY = "{t}:topic"

Updates: TypeAlias = "csp.Source[redis.Published[bytes] | csp.Gap]"


async def publish(topic: redis.Topic[bytes], *numbers: int) -> list[str]:
    return [await topic.publish(b"%d" % number) for number in numbers]


async def values(updates: Updates, count: int) -> list[int | csp.Gap]:
    """Receive so many values or gaps."""
    with trio.fail_after(20):
        received = [await updates.receive_value() for _ in range(count)]
    return [each if isinstance(each, csp.Gap) else int(each.data) for each in received]


def unknown_gap() -> csp.Gap:
    return csp.Gap(None, 0.0, 0, None)


@asynccontextmanager
async def topic_of(url: str, **options: Any) -> AsyncGenerator[tuple[redis.Bus[bytes], redis.Topic[bytes]]]:
    async with redis.Bus(url, timeout="1s", max_delay="100ms", **options) as bus:
        yield bus, bus.topic("t", keep=1_000_000)


# Where it begins -----------------------------------------------------------------------------------------------------


async def test_from_now_on_comes_what_is_published_after_ready(shared_server: SharedServer) -> None:
    async with topic_of(shared_server.url) as (_, topic):
        await publish(topic, 1, 2)
        async with topic.subscribe() as updates:
            await updates.ready()
            await publish(topic, 3, 4)
            assert await values(updates, 2) == [3, 4]


async def test_from_now_on_before_anything_was_published(shared_server: SharedServer) -> None:
    async with topic_of(shared_server.url) as (bus, topic), topic.subscribe() as updates:
        await updates.ready()
        await publish(topic, 1, 2)
        assert await values(updates, 2) == [1, 2]
        assert bus.statistics().missed == 0


async def test_from_the_start_comes_what_is_kept_without_a_gap(shared_server: SharedServer) -> None:
    async with topic_of(shared_server.url) as (_, topic):
        await publish(topic, 1, 2, 3, 4)
        await _wire.command(shared_server, "XTRIM", KEY, "MAXLEN", 2)
        async with topic.subscribe(since="start") as updates:
            assert await values(updates, 2) == [3, 4]
            await publish(topic, 5)
            assert await values(updates, 1) == [5]


async def test_after_an_id_that_is_kept_nothing_is_missing(shared_server: SharedServer) -> None:
    async with topic_of(shared_server.url) as (_, topic):
        ids = await publish(topic, 1, 2, 3, 4)
        async with topic.subscribe(since=ids[1]) as updates:
            assert await values(updates, 2) == [3, 4]
        async with topic.subscribe(since=ids[3]) as updates:
            await updates.ready()
            await publish(topic, 5)
            assert await values(updates, 1) == [5]


async def test_after_an_id_that_was_trimmed_a_gap_says_how_many_are_missing(shared_server: SharedServer) -> None:
    async with topic_of(shared_server.url) as (bus, topic):
        ids = await publish(topic, *range(1, 10))
        await _wire.command(shared_server, "XTRIM", KEY, "MAXLEN", 2)
        async with topic.subscribe(since=ids[1]) as updates:
            assert await values(updates, 3) == [csp.Gap(None, 0.0, 0, 5), 8, 9]
        async with topic.subscribe(since=ids[6]) as updates:
            assert await values(updates, 2) == [8, 9]
        assert bus.statistics().missed == 5


async def test_after_an_id_and_with_nothing_left_the_next_value_says_how_many_are_missing(
    shared_server: SharedServer,
) -> None:
    async with topic_of(shared_server.url) as (_, topic):
        ids = await publish(topic, 1, 2, 3)
        await _wire.command(shared_server, "XTRIM", KEY, "MAXLEN", 0)
        async with topic.subscribe(since=ids[0]) as updates:
            await updates.ready()
            await publish(topic, 4)
            assert await values(updates, 2) == [csp.Gap(None, 0.0, 0, 2), 4]


async def test_after_a_time_at_which_nothing_was_trimmed_nothing_is_missing(shared_server: SharedServer) -> None:
    async with topic_of(shared_server.url) as (_, topic):
        ids = await publish(topic, 1)
        await trio.sleep(0.002)
        await publish(topic, 2, 3)
        milliseconds = int(ids[0].partition("-")[0]) + 1
        async with topic.subscribe(since=f"{milliseconds}-0") as updates:
            assert await values(updates, 2) == [2, 3]


async def test_after_a_time_before_all_that_is_kept_it_is_not_known_what_is_missing(
    shared_server: SharedServer,
) -> None:
    async with topic_of(shared_server.url) as (_, topic):
        await publish(topic, 1, 2)
        async with topic.subscribe(since="5-0") as updates:
            assert await values(updates, 3) == [unknown_gap(), 1, 2]


async def test_after_a_trimmed_id_of_an_earlier_epoch_it_is_not_known_what_is_missing(
    shared_server: SharedServer,
) -> None:
    async with topic_of(shared_server.url) as (_, topic):
        ids = await publish(topic, 1, 2)
        await _wire.command(shared_server, "DEL", KEY + ":n")
        await trio.sleep(0.002)
        await publish(topic, 3, 4)
        async with topic.subscribe(since=ids[0]) as updates:
            assert await values(updates, 4) == [2, unknown_gap(), 3, 4]
        await _wire.command(shared_server, "XTRIM", KEY, "MAXLEN", 2)
        async with topic.subscribe(since=ids[0]) as updates:
            assert await values(updates, 3) == [unknown_gap(), 3, 4]


async def test_an_id_above_the_servers_last_begins_at_the_start_behind_a_gap(shared_server: SharedServer) -> None:
    async with topic_of(shared_server.url) as (_, topic):
        await publish(topic, 1, 2)
        async with topic.subscribe(since="9999999999999-1") as updates:
            assert await values(updates, 3) == [unknown_gap(), 1, 2]
        async with redis.Bus(shared_server.url) as bus, bus.topic("none").subscribe(since="1-1") as updates:
            assert await values(updates, 1) == [unknown_gap()]


# What it missed ------------------------------------------------------------------------------------------------------


async def test_a_slow_subscriber_gets_exactly_what_it_missed(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        topic = bus.topic("t", keep=100)
        async with topic.subscribe(capacity=4) as updates:
            await updates.ready()
            await publish(topic, *range(1, 801))
            received: list[int | csp.Gap] = []
            while received[-1:] != [800]:
                received += await values(updates, 1)
        gaps = [each for each in received if isinstance(each, csp.Gap)]
        numbers = [each for each in received if isinstance(each, int)]
        assert gaps
        assert all((each.error, each.seconds, each.attempts) == (None, 0.0, 0) for each in gaps)
        assert len(numbers) + sum(each.missed or 0 for each in gaps) == 800
        assert numbers == sorted(set(numbers))
        assert bus.statistics().received == len(numbers)
        assert bus.statistics().missed == 800 - len(numbers)


async def test_a_gap_stands_where_the_values_are_missing(shared_server: SharedServer) -> None:
    async with topic_of(shared_server.url) as (_, topic):
        ids = await publish(topic, *range(1, 9))
        await _wire.command(shared_server, "XDEL", KEY, ids[3], ids[4], ids[6])
        async with topic.subscribe(since="start") as updates:
            gap_2, gap_1 = csp.Gap(None, 0.0, 0, 2), csp.Gap(None, 0.0, 0, 1)
            assert await values(updates, 7) == [1, 2, 3, gap_2, 6, gap_1, 8]


async def test_another_epoch_is_one_gap(shared_server: SharedServer) -> None:
    async with topic_of(shared_server.url) as (_, topic), topic.subscribe() as updates:
        await updates.ready()
        await publish(topic, 1, 2)
        await _wire.command(shared_server, "DEL", KEY + ":n")
        await publish(topic, 3, 4)
        assert await values(updates, 5) == [1, 2, unknown_gap(), 3, 4]


@pytest.mark.parametrize("command", [("FLUSHALL",), ("DEL", KEY)])
async def test_a_topic_that_was_deleted_is_one_gap_and_begins_anew(
    shared_server: SharedServer, command: tuple[str, ...]
) -> None:
    async with topic_of(shared_server.url) as (_, topic), topic.subscribe() as updates:
        await updates.ready()
        await publish(topic, 1)
        assert await values(updates, 1) == [1]
        await _wire.command(shared_server, *command)
        assert await values(updates, 1) == [unknown_gap()]
        await publish(topic, 3, 4)
        assert await values(updates, 2) == [3, 4]


async def test_values_whose_ids_come_before_what_was_read_are_found(shared_server: SharedServer) -> None:
    later = 10**15
    async with topic_of(shared_server.url) as (_, topic):
        await _wire.command(shared_server, "XADD", KEY, f"{later}-1", "e", "1-a", "n", "1", "d", "1")
        async with topic.subscribe(since="start") as updates:
            assert await values(updates, 1) == [1]
            await _wire.command(shared_server, "FLUSHALL")
            await publish(topic, 2, 3)
            assert await values(updates, 3) == [unknown_gap(), 2, 3]


async def test_trimming_everything_is_not_a_deletion(shared_server: SharedServer) -> None:
    async with relay(shared_server) as relayed, topic_of(relayed.url) as (_, topic), topic.subscribe() as updates:
        await updates.ready()
        await publish(topic, 1)
        assert await values(updates, 1) == [1]
        await _wire.command(shared_server, "XTRIM", KEY, "MAXLEN", 0)
        reads = relayed.count(b"BLOCK")
        await until(lambda: relayed.count(b"BLOCK") > reads + 2)
        await publish(topic, 2)
        assert await values(updates, 1) == [2]


async def cut(server: SharedServer, *missed: tuple[str, ...]) -> None:
    """Have the server carry out commands and close all connections, in one step."""
    async with _wire.connected(server) as wire:
        await wire.command("MULTI")
        for command in missed:
            await wire.command(*command)
        await wire.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await wire.command("EXEC")


async def test_a_reconnect_that_missed_nothing_is_no_gap(shared_server: SharedServer) -> None:
    async with topic_of(shared_server.url) as (bus, topic), topic.subscribe() as updates:
        await updates.ready()
        await publish(topic, 1)
        assert await values(updates, 1) == [1]
        await blocked(shared_server)
        await cut(shared_server)
        await until(lambda: bus.statistics().connections == 4)
        await publish(topic, 2)
        assert await values(updates, 1) == [2]
        assert bus.statistics().missed == 0


async def test_a_reconnect_that_missed_values_is_one_gap_that_says_how_many(shared_server: SharedServer) -> None:
    async with topic_of(shared_server.url) as (bus, topic), topic.subscribe() as updates:
        await updates.ready()
        await publish(topic, 1)
        assert await values(updates, 1) == [1]
        await blocked(shared_server)
        epoch = await _wire.command(shared_server, "HGET", KEY + ":n", "epoch")
        assert isinstance(epoch, bytes)
        entries = [
            ("XADD", KEY, f"{10**14}-{number}", "e", epoch.decode(), "n", str(number), "d", str(number))
            for number in range(2, 6)
        ]
        trim = ("XTRIM", KEY, "MAXLEN", "1")
        await cut(shared_server, *entries, trim)
        gap, value = await values(updates, 2)
        assert isinstance(gap, csp.Gap)
        assert gap.missed == 3
        assert isinstance(gap.error, csp.errors.ConnectionFailedError)
        assert gap.error.kind is csp.errors.Kind.UNAVAILABLE
        assert gap.attempts >= 1
        assert gap.seconds > 0
        assert value == 5
        assert bus.statistics().missed == 3


async def test_a_deletion_while_there_was_no_connection_is_one_gap_with_that_outage(
    shared_server: SharedServer,
) -> None:
    async with topic_of(shared_server.url) as (_, topic), topic.subscribe() as updates:
        await updates.ready()
        await publish(topic, 1)
        assert await values(updates, 1) == [1]
        await blocked(shared_server)
        await cut(shared_server, ("DEL", KEY, KEY + ":n"))
        (gap,) = await values(updates, 1)
        assert isinstance(gap, csp.Gap)
        assert gap.missed is None
        assert gap.error is not None
        await publish(topic, 2, 3)
        assert await values(updates, 2) == [2, 3]


async def test_a_server_that_is_started_again_is_exactly_one_gap(server: testing.RedisServer) -> None:
    async with topic_of(server.url) as (_, topic), topic.subscribe() as updates:
        await updates.ready()
        await publish(topic, 1)
        assert await values(updates, 1) == [1]
        for number in (2, 4):
            await server.kill()
            await server.start()
            (gap,) = await values(updates, 1)
            assert isinstance(gap, csp.Gap)
            assert gap.missed is None
            assert gap.error is not None
            await publish(topic, number, number + 1)
            assert await values(updates, 2) == [number, number + 1]


async def test_after_a_start_of_the_server_with_all_its_data_reading_goes_on(binary: str) -> None:
    async with (
        testing.redis_server(binary=binary, append_only="always") as server,
        topic_of(server.url) as (_, topic),
        topic.subscribe() as updates,
    ):
        await updates.ready()
        await publish(topic, 1)
        assert await values(updates, 1) == [1]
        await server.kill()
        await server.start()
        (gap,) = await values(updates, 1)
        assert isinstance(gap, csp.Gap)
        assert gap.missed is None
        await publish(topic, 2, 3)
        assert await values(updates, 2) == [2, 3]


async def test_gaps_for_which_there_is_no_room_become_one(server: testing.RedisServer) -> None:
    async with (
        topic_of(server.url) as (_, topic),
        topic.subscribe(capacity=1) as updates,
        topic.subscribe() as others,
    ):
        await updates.ready()
        await others.ready()
        for restart in (1, 2, 3):
            await server.kill()
            await server.start()
            await publish(topic, restart)
            # A value comes after all subscriptions know of the restart.
            assert (await values(others, 2))[1] == restart
        assert "1 held" in repr(updates)
        (gap,) = await values(updates, 1)
        assert isinstance(gap, csp.Gap)
        assert gap.missed is None
        assert gap.attempts >= 3
        assert await values(updates, 1) == [3]
