from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

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
from tests.redis.reading._relay import relay

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer

URL = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize("name", ["", "a{b", "a}b", "x" * 501, "\ud800"])
def test_a_name_that_cannot_be_is_refused_in_the_call(name: str) -> None:
    with pytest.raises(InvalidError, match="name must"):
        redis.Bus(URL).topic(name)


@pytest.mark.parametrize("keep", [0, -1, 10**9 + 1])
def test_keep_is_checked_in_the_call(keep: int) -> None:
    with pytest.raises(InvalidError, match="keep must be 1 to 1000000000"):
        redis.Bus(URL).topic("t", keep=keep)
    with pytest.raises(InvalidTypeError, match="keep must be a whole number"):
        redis.Bus(URL).topic("t", keep=1.0)  # type: ignore[call-overload]


def test_a_codec_is_checked_in_the_call() -> None:
    codec: Any = (bytes,)
    with pytest.raises(InvalidTypeError, match="codec must be a pair"):
        redis.Bus(URL).topic("t", codec=codec)


async def test_a_value_comes_with_the_id_that_publishing_returned(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        prices = bus.topic("prices")
        async with prices.subscribe() as updates:
            await updates.ready()
            ids = [await prices.publish(value) for value in (b"1", "zwei €")]
            values = [await updates.receive_value(), await updates.receive_value()]
        assert values == [redis.Published(ids[0], b"1"), redis.Published(ids[1], "zwei €".encode())]
        assert [entry.partition("-")[2] for entry in ids] == ["1", "2"]
        assert bus.statistics().published == bus.statistics().received == 2
        assert repr(prices) == f"<csp.redis.Topic 'prices' at {shared_server.url}>"
        assert prices.name == "prices"


async def test_the_keys_begin_with_the_prefix_and_the_stream_is_trimmed(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url, prefix="app:") as bus:
        topic = bus.topic("prices", keep=1)
        for _ in range(150):
            await topic.publish(b"x")
    assert await _wire.command(shared_server, "TYPE", "app:{prices}:topic") == "stream"
    assert await _wire.command(shared_server, "HGET", "app:{prices}:topic:n", "n") == b"150"
    length = await _wire.command(shared_server, "XLEN", "app:{prices}:topic")
    assert isinstance(length, int)
    assert 1 <= length <= 101


async def test_an_id_is_above_the_last_one_when_the_clock_has_gone_back(shared_server: SharedServer) -> None:
    later = 10**15
    await _wire.command(shared_server, "XADD", "{t}:topic", f"{later}-7", "e", "1-a", "n", "7", "d", "x")
    await _wire.command(shared_server, "HSET", "{t}:topic:n", "epoch", "1-a", "n", "7")
    async with redis.Bus(shared_server.url) as bus:
        assert await bus.topic("t").publish(b"x") == f"{later + 1}-8"
        assert await bus.topic("t").publish(b"x") == f"{later + 2}-9"


async def test_a_new_epoch_begins_above_all_that_was_there(shared_server: SharedServer) -> None:
    later = 10**15
    await _wire.command(shared_server, "XADD", "{t}:topic", f"{later}-7", "e", "1-a", "n", "7", "d", "x")
    async with redis.Bus(shared_server.url) as bus:
        assert await bus.topic("t").publish(b"x") == f"{later + 1}-1"
    epoch = await _wire.command(shared_server, "HGET", "{t}:topic:n", "epoch")
    assert isinstance(epoch, bytes)
    assert epoch.startswith(b"%d-" % (later + 1))


@pytest.mark.parametrize("key", ["{t}:topic", "{t}:topic:n"])
async def test_a_key_that_holds_something_else_is_a_conflict_and_counts_nothing(
    shared_server: SharedServer, key: str
) -> None:
    await _wire.command(shared_server, "SET", key, "else")
    async with redis.Bus(shared_server.url) as bus:
        topic = bus.topic("t")
        with pytest.raises(Error, match="publishing on topic 't': a key holds something else") as caught:
            await topic.publish(b"x")
        assert (caught.value.kind, caught.value.retryable) == (Kind.CONFLICT, False)
        await _wire.command(shared_server, "DEL", key)
        assert (await topic.publish(b"x")).endswith("-1")
        assert bus.state.name == "open"
        assert bus.statistics().published == 1


async def test_what_the_server_says_does_not_mean_that_the_value_may_have_arrived(shared_server: SharedServer) -> None:
    async with relay(shared_server) as relayed, redis.Bus(relayed.url) as bus:
        topic = bus.topic("t")
        await topic.publish(b"x")

        async def refuse(written: bytes) -> bytes | None:
            return b"-LOADING data\r\n" if b"EVALSHA" in written else None

        relayed.answer = refuse
        with pytest.raises(ConnectionFailedError, match="the server cannot serve now") as caught:
            await topic.publish(b"x")
        assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)


async def test_a_connection_that_is_lost_leaves_open_whether_the_value_arrived_and_nothing_is_repeated(
    shared_server: SharedServer,
) -> None:
    async with relay(shared_server) as relayed, redis.Bus(relayed.url) as bus:
        topic = bus.topic("t")
        await topic.publish(b"x")

        async def cut(written: bytes) -> bytes | None:
            return b"" if b"EVALSHA" in written else None

        relayed.answer = cut
        with pytest.raises(ConnectionFailedError, match="what was sent may have arrived") as caught:
            await topic.publish(b"y")
        assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)
        relayed.answer = relayed.forward
        assert (await topic.publish(b"z")).endswith("-2")
        assert relayed.count(b"EVALSHA") == 3


async def test_a_value_that_cannot_be_encoded_is_refused(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        with pytest.raises(InvalidTypeError, match="data must be bytes or a str"):
            await bus.topic("t").publish(1)  # type: ignore[arg-type]
        with pytest.raises(InvalidError, match="cannot be encoded"):
            await bus.topic("t", codec=redis.JSON).publish(object())


async def test_cancelled_before_it_is_written_nothing_is_published(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        topic = bus.topic("t")
        with trio.CancelScope() as scope:
            scope.cancel()
            await topic.publish(b"never")
        assert scope.cancelled_caught
        assert (await topic.publish(b"x")).endswith("-1")


async def test_before_its_block_a_bus_publishes_nothing() -> None:
    with pytest.raises(NoContextError, match="a bus is a block"):
        await redis.Bus(URL).topic("t").publish(b"x")


async def test_policies_decide_in_the_call() -> None:
    denied = security.Policy(("redis.send", "redis.receive"), "t", "deny")
    with security.context(scope=security.Scope([denied]), strict=False):
        topic = redis.Bus(URL).topic("t")
        with pytest.raises(PermissionDeniedError, match=r"redis\.send"):
            await topic.publish(b"x")
        with pytest.raises(PermissionDeniedError, match=r"redis\.receive"):
            topic.subscribe()


@pytest.mark.parametrize("capacity", [0, 100_001])
def test_the_capacity_is_checked_in_the_call(capacity: int) -> None:
    with pytest.raises(InvalidError, match="capacity must be 1 to 100000"):
        redis.Bus(URL).topic("t").subscribe(capacity=capacity)


@pytest.mark.parametrize("since", ["", "later", "1", "1-", "-1", "1-1-1", "1-x", f"{2**64}-0", "NOW", "\u0661-\u0661"])
def test_where_to_begin_is_checked_in_the_call(since: str) -> None:
    with pytest.raises(InvalidError, match="since must be 'now', 'start' or an entry's id"):
        redis.Bus(URL).topic("t").subscribe(since=since)


def test_where_to_begin_must_be_a_string() -> None:
    with pytest.raises(InvalidTypeError, match="since must be a string"):
        redis.Bus(URL).topic("t").subscribe(since=5)  # type: ignore[arg-type]
