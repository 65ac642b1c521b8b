from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

import csp
from csp import redis
from csp.errors import ConnectionFailedError, Error, InvalidTypeError, Kind, NoContextError
from tests.redis import _wire
from tests.redis.reading._relay import relay, until

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer


async def bury(server: SharedServer, data: bytes, entry: str = "5-1", *more: str) -> bytes:
    """Add a dead letter as workers do; return the id of its entry."""
    fields = (*more, "id", entry, "attempts", "3", "reason", "it is bad")
    place = await _wire.command(server, "XADD", "{jobs}:dead", "*", "d", data, *fields)
    assert isinstance(place, bytes)
    return place


async def received(letters: redis.DeadLetters[Any]) -> redis.DeadLetter[Any]:
    with trio.fail_after(20):
        return await letters.receive_value()


async def test_what_a_worker_rejects_comes_with_its_id_reason_and_attempts(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        jobs = bus.queue("jobs", codec=redis.JSON)
        entry = await jobs.send({"a": 1})
        async with jobs.work() as deliveries, jobs.dead_letters() as letters:
            await letters.ready()
            assert (await deliveries.receive_value()).reject("no good")
            letter = await received(letters)
        assert (letter.id, letter.data, letter.reason, letter.attempts) == (entry, {"a": 1}, "no good", 1)
        assert repr(letter) == f"DeadLetter(id='{entry}', data={{'a': 1}}, reason='no good', attempts=1)"


async def test_they_come_from_the_oldest_on_and_reading_removes_none(shared_server: SharedServer) -> None:
    for number in range(5):
        await bury(shared_server, b"%d" % number)
    async with redis.Bus(shared_server.url) as bus:
        jobs = bus.queue("jobs")
        for _ in range(2):
            async with jobs.dead_letters(capacity=2) as letters:
                assert [(await received(letters)).data for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
                last = await bury(shared_server, b"last")
                assert (await received(letters)).data == b"last"
            await _wire.command(shared_server, "XDEL", "{jobs}:dead", last)
        assert await _wire.command(shared_server, "XLEN", "{jobs}:dead") == 5


async def test_what_cannot_be_decoded_comes_as_bytes(shared_server: SharedServer) -> None:
    await bury(shared_server, b"{")
    async with (
        redis.Bus(shared_server.url) as bus,
        bus.queue("jobs", codec=redis.JSON).dead_letters() as letters,
    ):
        assert (await received(letters)).data == b"{"


async def test_an_entry_that_no_worker_wrote_is_a_letter_too(shared_server: SharedServer) -> None:
    place = await _wire.command(shared_server, "XADD", "{jobs}:dead", "*", "x", "1", "attempts", "many")
    assert isinstance(place, bytes)
    async with redis.Bus(shared_server.url) as bus:
        jobs = bus.queue("jobs")
        async with jobs.dead_letters() as letters:
            letter = await received(letters)
        assert (letter.id, letter.data, letter.reason, letter.attempts) == (place.decode(), b"", "", 0)
        await jobs.requeue(letter)
        entries = await _wire.command(shared_server, "XRANGE", "{jobs}", "-", "+")
        assert isinstance(entries, list)
        assert entries[0][1] == [b"x", b"1", b"attempts", b"many"]


async def test_requeueing_makes_a_new_value_of_it_and_removes_it(shared_server: SharedServer) -> None:
    await bury(shared_server, b"job", "5-1", "trace", "abc")
    async with redis.Bus(shared_server.url) as bus:
        jobs = bus.queue("jobs")
        async with jobs.dead_letters() as letters:
            letter = await received(letters)
        entry = await jobs.requeue(letter)
        assert await _wire.command(shared_server, "XLEN", "{jobs}:dead") == 0
        entries = await _wire.command(shared_server, "XRANGE", "{jobs}", "-", "+")
        assert entries == [[entry.encode(), [b"d", b"job", b"trace", b"abc"]]]
        assert bus.statistics().sent == 1
        async with jobs.work() as deliveries:
            delivery = await deliveries.receive_value()
            assert (delivery.id, delivery.data, delivery.attempt) == (entry, b"job", 1)


async def test_discarding_removes_it(shared_server: SharedServer) -> None:
    await bury(shared_server, b"job")
    async with redis.Bus(shared_server.url) as bus:
        jobs = bus.queue("jobs")
        async with jobs.dead_letters() as letters:
            await jobs.discard(await received(letters))
        assert await _wire.command(shared_server, "XLEN", "{jobs}:dead") == 0
        assert await jobs.depth() == 0


async def test_a_letter_that_is_gone_is_not_found(shared_server: SharedServer) -> None:
    place = await bury(shared_server, b"job")
    async with redis.Bus(shared_server.url) as bus:
        jobs = bus.queue("jobs")
        async with jobs.dead_letters() as letters:
            letter = await received(letters)
        await jobs.discard(letter)
        for use in (jobs.discard, jobs.requeue):
            with pytest.raises(Error, match="5-1 is not among the dead letters of queue 'jobs' any more") as caught:
                await use(letter)
            assert (caught.value.kind, caught.value.retryable) == (Kind.NOT_FOUND, False)
        # Another one that has its place after all data was lost is left alone.
        await _wire.command(shared_server, "DEL", "{jobs}:dead")
        await _wire.command(shared_server, "XADD", "{jobs}:dead", place, "d", "other", "id", "6-1")
        for use in (jobs.discard, jobs.requeue):
            with pytest.raises(Error, match="is not among the dead letters"):
                await use(letter)
        assert await _wire.command(shared_server, "XLEN", "{jobs}:dead") == 1


async def test_a_full_queue_is_waited_for_or_refuses(shared_server: SharedServer) -> None:
    await bury(shared_server, b"job")
    async with redis.Bus(shared_server.url) as bus:
        waiting, refusing = bus.queue("jobs", capacity=1), bus.queue("jobs", capacity=1, overflow="error")
        await waiting.send(b"first")
        async with waiting.dead_letters() as letters:
            letter = await received(letters)
        with pytest.raises(Error, match="queue 'jobs' is full") as caught:
            await refusing.requeue(letter)
        assert (caught.value.kind, caught.value.retryable) == (Kind.RATE_LIMITED, True)
        assert await _wire.command(shared_server, "XLEN", "{jobs}:dead") == 1
        entries: list[str] = []

        async def requeue() -> None:
            entries.append(await waiting.requeue(letter))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(requeue)
                await trio.sleep(0.05)
                assert not entries
                await _wire.command(shared_server, "DEL", "{jobs}")
        assert await _wire.command(shared_server, "XLEN", "{jobs}:dead") == 0


async def test_a_connection_that_is_lost_leaves_open_whether_it_was_done(shared_server: SharedServer) -> None:
    await bury(shared_server, b"job")
    async with relay(shared_server) as relayed, redis.Bus(relayed.url) as bus:
        jobs = bus.queue("jobs")
        async with jobs.dead_letters() as letters:
            letter = await received(letters)

        async def cut(written: bytes) -> bytes | None:
            return b"" if b"EVALSHA" in written else None

        async def refuse(written: bytes) -> bytes | None:
            return b"-LOADING data\r\n" if b"EVALSHA" in written else None

        for use in (jobs.requeue, jobs.discard):
            relayed.answer = cut
            with pytest.raises(ConnectionFailedError, match="what was sent may have arrived"):
                await use(letter)
            relayed.answer = relayed.forward
            await jobs.depth()
            relayed.answer = refuse
            with pytest.raises(ConnectionFailedError, match="the server cannot serve now"):
                await use(letter)
            relayed.answer = relayed.forward
        await jobs.discard(letter)


async def test_dead_letters_that_were_deleted_begin_anew(shared_server: SharedServer) -> None:
    later = 10**15
    await _wire.command(shared_server, "XADD", "{jobs}:dead", f"{later}-1", "d", "old", "id", "1-1")
    async with redis.Bus(shared_server.url, timeout="1s") as bus, bus.queue("jobs").dead_letters() as letters:
        assert (await received(letters)).data == b"old"
        await _wire.command(shared_server, "DEL", "{jobs}:dead")
        await bury(shared_server, b"new")
        assert (await received(letters)).data == b"new"


async def test_only_a_dead_letter_can_be_requeued_or_discarded(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        jobs, other = bus.queue("jobs"), "5-1"
        for use in (jobs.requeue, jobs.discard):
            with pytest.raises(InvalidTypeError, match="letter must be a DeadLetter, not str"):
                await use(other)  # type: ignore[arg-type]


async def test_the_block_and_its_repr(shared_server: SharedServer) -> None:
    await bury(shared_server, b"job")
    async with redis.Bus(shared_server.url) as bus:
        letters = bus.queue("jobs").dead_letters()
        with pytest.raises(NoContextError, match="dead_letters gives nothing before its block"):
            letters.receive_nowait()
        async with letters:
            with pytest.raises(trio.WouldBlock):
                letters.receive_nowait()
            await until(lambda: "1 held" in repr(letters))
            assert repr(letters) == "<csp.redis.DeadLetters of 'jobs': open, 1 held>"
        assert not (await letters.receive()).ok
        assert letters.cause is None
        assert repr(letters) == "<csp.redis.DeadLetters of 'jobs': closed, 0 held>"


async def test_a_key_that_holds_something_else_is_the_cause(shared_server: SharedServer) -> None:
    await _wire.command(shared_server, "SET", "{jobs}:dead", "x")
    async with redis.Bus(shared_server.url) as bus, bus.queue("jobs").dead_letters() as letters:
        with trio.fail_after(20):
            r = await csp.select(letters.case_receive())
        assert not r.ok
        assert isinstance(letters.cause, Error)
        assert letters.cause.kind is Kind.CONFLICT
        assert bus.state.name == "open"
