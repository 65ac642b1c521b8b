"""`Latest`: the latest value at any time, and the latest change once for each reader."""

from __future__ import annotations

import gc
import random
from collections import Counter
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import errors
from tests._interrupting import interrupted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from trio.testing import MockClock

ENDED: object = (None, False)
PROGRAMS = 200


def test_the_value_can_be_read_at_any_time_and_outside_a_run() -> None:
    latest = csp.Latest(1)
    assert latest.value == 1
    latest.set(2)
    assert latest.value == 2
    latest.close()
    assert latest.value == 2


def test_a_reader_gets_the_value_there_is_and_then_the_latest_change_once() -> None:
    latest = csp.Latest("a")
    changes = latest.changes()
    assert changes.receive_nowait() == ("a", True)
    with pytest.raises(trio.WouldBlock):
        changes.receive_nowait()
    latest.set("b")
    latest.set("c")
    assert changes.receive_nowait() == ("c", True)
    with pytest.raises(trio.WouldBlock):
        changes.receive_nowait()


def test_it_is_a_source_and_one_reader_itself() -> None:
    latest = csp.Latest(1)
    changes = latest.changes()
    assert latest.receive_nowait() == changes.receive_nowait() == (1, True)
    with pytest.raises(trio.WouldBlock):
        latest.receive_nowait()
    latest.set(2)
    assert (latest.receive_nowait(), latest.value) == ((2, True), 2)
    latest.close()
    assert not latest.receive_nowait().ok
    assert changes.receive_nowait() == (2, True)
    assert latest.value == 2


async def test_without_a_first_value_readers_wait_for_one(nursery: trio.Nursery) -> None:
    latest = csp.Latest[int]()
    changes = latest.changes()
    with pytest.raises(errors.Error, match="no value yet") as caught:
        _ = latest.value
    assert caught.value.kind is errors.NOT_FOUND
    received: list[int] = []

    async def read(source: csp.Source[int]) -> None:
        received.append((await csp.select(source.case_receive(), csp.never().case_receive())).value)

    for source in (latest, changes):
        nursery.start_soon(read, source)
    await wait_all_tasks_blocked()
    assert received == []
    latest.set(3)
    await wait_all_tasks_blocked()
    assert received == [3, 3]


def test_each_reader_has_a_mark_of_its_own() -> None:
    latest = csp.Latest(1)
    slow, quick = latest.changes(), latest.changes()
    assert quick.receive_nowait() == (1, True)
    latest.set(2)
    late = latest.changes()
    assert [reader.receive_nowait().value for reader in (slow, quick, late)] == [2, 2, 2]


def test_an_equal_value_is_a_change_too() -> None:
    latest = csp.Latest(1)
    changes = latest.changes()
    changes.receive_nowait()
    latest.set(1)
    assert changes.receive_nowait() == (1, True)


async def by_receive(changes: csp.Source[int]) -> int:
    return (await changes.receive()).value


async def by_async_for(changes: csp.Source[int]) -> int:
    return await anext(changes)


async def by_select(changes: csp.Source[int]) -> int:
    r = await csp.select(csp.never().case_receive(), changes.case_receive())
    assert changes.gave(r)
    return r.value


async def by_selector(changes: csp.Source[int]) -> int:
    with csp.Selector(csp.Channel[int](), changes) as selector:
        return (await selector.select()).value


@pytest.mark.parametrize("receive", [by_receive, by_async_for, by_select, by_selector])
async def test_set_gives_the_value_to_the_readers_that_wait(
    receive: Callable[[csp.Source[int]], Awaitable[int]],
) -> None:
    latest = csp.Latest(0)
    readers = [latest.changes() for _ in range(3)]
    received: list[tuple[int, int]] = []

    async def wait(number: int) -> None:
        received.append((number, await receive(readers[number])))

    for reader in readers:
        assert await receive(reader) == 0
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(wait, number)
            await wait_all_tasks_blocked()
        latest.set(1)
        latest.set(2)  # comes too late for them, and stays for the next time
    assert sorted(received) == [(0, 1), (1, 1), (2, 1)]
    assert [reader.receive_nowait().value for reader in readers] == [2, 2, 2]


async def test_readers_that_wait_are_served_in_the_order_they_were_made() -> None:
    latest = csp.Latest(0)
    readers = [latest.changes() for _ in range(20)]
    selector = csp.Selector(*readers)
    for _ in readers:
        await selector.select()
    latest.set(1)
    for reader in readers:
        assert (await selector.select()).channel is reader


async def test_tasks_that_share_a_reader_share_the_changes() -> None:
    latest = csp.Latest(0)
    changes = latest.changes()
    await changes.receive()
    received: list[int] = []

    async def wait() -> None:
        received.append(await changes.receive_value())

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        latest.set(1)
        await wait_all_tasks_blocked()
        assert received == [1]
        latest.set(2)
    assert received == [1, 2]


async def test_a_select_over_several_readers_takes_one_of_them() -> None:
    latest, other = csp.Latest(0), csp.Latest("a")
    numbers, letters = latest.changes(), other.changes()
    await numbers.receive()
    await letters.receive()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            r = await csp.select(numbers.case_receive(), letters.case_receive())
            assert (r.channel, r.value) == (letters, "b")

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        other.set("b")
    latest.set(1)
    assert (await csp.select(numbers.case_receive(), letters.case_receive())).value == 1


async def test_a_cancelled_wait_leaves_the_next_change(autojump_clock: MockClock) -> None:
    latest = csp.Latest(0)
    changes = latest.changes()
    await changes.receive()
    with trio.move_on_after(5):
        await changes.receive()
    r = await csp.select(changes.case_receive(), csp.after("5s").case_receive())
    assert r.channel is not changes
    assert trio.current_time() == 10
    latest.set(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await changes.receive()
    assert await changes.receive() == (1, True)


async def test_a_slow_reader_skips_the_values_in_between(autojump_clock: MockClock) -> None:
    latest = csp.Latest(0)
    seen: list[int] = []

    async def watch() -> None:
        async for value in latest.changes():
            seen.append(value)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.sleep(0.55)
        with latest:
            for value in range(1, 101):
                latest.set(value)
                await trio.sleep(0.1)
    assert seen == [0, *range(5, 100, 10), 100]


# The end --------------------------------------------------------------------------------------------------------------


async def test_a_reader_gets_the_last_value_before_the_end() -> None:
    latest = csp.Latest(1)
    behind, up_to_date = latest.changes(), latest.changes()
    await up_to_date.receive()
    latest.close()
    assert latest.closed
    assert behind.closed
    assert await behind.receive() == (1, True)
    for _ in range(2):
        assert await behind.receive() == ENDED
        assert await up_to_date.receive() == ENDED
    assert [value async for value in latest.changes()] == [1]


async def test_the_end_comes_to_all_who_wait() -> None:
    latest = csp.Latest(1)
    changes = latest.changes()
    await changes.receive()
    ends: list[csp.Received[int] | csp.SelectResult[int]] = []

    async def wait(receive: Callable[[], Awaitable[csp.Received[int] | csp.SelectResult[int]]]) -> None:
        ends.append(await receive())

    with csp.Selector(changes) as selector:
        async with trio.open_nursery() as nursery:
            for receive in (changes.receive, changes.receive, selector.select):
                nursery.start_soon(wait, receive)
            await wait_all_tasks_blocked()
            latest.close()
    assert [end.ok for end in ends] == [False] * 3


async def test_a_block_closes_it_with_the_exception_that_ends_it() -> None:
    latest = csp.Latest(1)
    changes = latest.changes()
    await changes.receive()
    broken = OSError("unplugged")
    with pytest.raises(OSError, match="unplugged"), latest:
        raise broken
    assert latest.cause is changes.cause is broken
    with pytest.raises(csp.ChannelBrokenError) as caught:
        await anext(changes)
    assert caught.value.__cause__ is broken
    with pytest.raises(csp.ChannelClosedError, match="the Latest is closed") as closed:
        latest.set(2)
    assert closed.value.__cause__ is broken
    assert latest.value == 1


def test_a_second_close_does_nothing() -> None:
    latest = csp.Latest(1)
    with latest:
        pass
    latest.close(OSError("later"))
    assert latest.cause is None


@pytest.mark.parametrize("cause", ["broken", OSError])
def test_a_cause_that_is_no_exception_is_refused(cause: Any) -> None:
    latest = csp.Latest(1)
    with pytest.raises(errors.InvalidTypeError, match="cause must be an exception"):
        latest.close(cause)
    assert not latest.closed


# Readers that are forgotten -------------------------------------------------------------------------------------------


async def test_readers_that_are_forgotten_leave_nothing() -> None:
    async def use(changes: csp.Source[int]) -> None:
        await changes.receive()
        with trio.CancelScope() as scope:
            scope.cancel()
            await changes.receive()
        await csp.select(changes.case_receive(), default=True)
        with csp.Selector(changes) as selector:
            assert len(selector) == 1

    latest = csp.Latest(0)
    for _ in range(100):
        await use(latest.changes())
    await trio.lowlevel.checkpoint()  # Trio keeps a task's last Cancelled until then
    gc.collect()
    assert ", 0 readers," in repr(latest)


async def test_a_reader_that_only_a_waiting_task_has_is_served() -> None:
    latest = csp.Latest(0)
    received: list[int] = []

    async def watch() -> None:
        received.extend([value async for value in latest.changes()])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        gc.collect()
        latest.set(1)
        await wait_all_tasks_blocked()
        latest.close()
    assert received == [0, 1]


def test_reprs_tell_the_state() -> None:
    latest = csp.Latest("secret")
    changes = latest.changes()
    assert repr(latest).startswith("<csp.Latest open, 1 readers, at 0x")
    assert ", ready, at 0x" in repr(changes)
    changes.receive_nowait()
    assert ", up to date, at 0x" in repr(changes)
    latest.close()
    assert ", ready, at 0x" in repr(changes)
    assert repr(latest).startswith("<csp.Latest closed")
    assert "secret" not in repr(latest) + repr(changes)


# Random programs ------------------------------------------------------------------------------------------------------


class Program:
    """A random program on one `Latest`, beside a plain model of what each of its tasks has to get."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.latest = csp.Latest(0)
        self.readers: list[csp.Source[int]] = []
        self.results: dict[int, object] = {}
        self.scopes: dict[int, trio.CancelScope] = {}
        # The model: the value, its version, and for each reader the version received and the tasks that wait.
        self.value, self.version, self.closed = 0, 0, False
        self.received: list[int] = []
        self.parked: list[list[int]] = []
        self.expected: dict[int, object] = {}
        self.done: Counter[str] = Counter()

    async def run(self) -> Counter[str]:
        async with trio.open_nursery() as self.nursery:
            for number in range(40):
                step = self.random.choice([self.make, self.set, self.set, self.poll, self.wait, self.wait, self.cancel])
                step = self.close if self.random.random() < 0.02 else step
                if step == self.make or self.readers:
                    step(number)
                    await wait_all_tasks_blocked()
                    assert self.results == self.expected
                    assert (self.latest.value, self.latest.closed) == (self.value, self.closed)
            self.nursery.cancel_scope.cancel()
        return self.done

    def make(self, _: int) -> None:
        self.readers.append(self.latest.changes())
        self.received.append(-1)
        self.parked.append([])

    def set(self, number: int) -> None:
        if self.closed:
            with pytest.raises(csp.ChannelClosedError):
                self.latest.set(number)
            return
        self.value, self.version = number, self.version + 1
        for reader, tasks in enumerate(self.parked):
            if tasks:
                self.expected[tasks.pop(0)] = self.take(reader)
                self.done["served while parked"] += 1
        self.latest.set(number)

    def take(self, reader: int) -> object:
        """Return what the reader gives now, and note it; None if it gives nothing."""
        if self.received[reader] != self.version:
            self.done["skipped"] += max(0, self.version - self.received[reader] - 1)
            self.received[reader] = self.version
            return (self.value, True)
        return ENDED if self.closed else None

    def poll(self, _: int) -> None:
        reader = self.random.randrange(len(self.readers))
        result: object = None
        try:
            result = self.readers[reader].receive_nowait()
        except trio.WouldBlock:
            self.done["nothing to take"] += 1
        assert result == self.take(reader)

    def wait(self, number: int) -> None:
        reader = self.random.randrange(len(self.readers))
        expected = self.take(reader)
        if expected is None:
            self.parked[reader].append(number)
            self.done["parked"] += 1
        else:
            self.expected[number] = expected
        self.nursery.start_soon(self.receive, number, self.readers[reader], self.random.random() < 0.5)

    async def receive(self, number: int, source: csp.Source[int], by_select: bool) -> None:
        with trio.CancelScope() as self.scopes[number]:
            if by_select:
                r = await csp.select(source.case_receive(), csp.never().case_receive())
                self.results[number] = (r.value, r.ok)
            else:
                self.results[number] = await source.receive()

    def cancel(self, _: int) -> None:
        tasks = self.random.choice(self.parked)
        if tasks:
            self.scopes[tasks.pop(self.random.randrange(len(tasks)))].cancel()
            self.done["cancelled"] += 1

    def close(self, _: int) -> None:
        self.closed = True
        for tasks in self.parked:
            self.expected.update(dict.fromkeys(tasks, ENDED))
            self.done["closed while parked"] += len(tasks)
            tasks.clear()
        self.latest.close()


async def test_random_programs_give_what_a_plain_model_gives() -> None:
    done: Counter[str] = Counter()
    for seed in range(PROGRAMS):
        done += await Program(seed).run()
    # A program that does none of it tests nothing.
    assert min(done.values()) > 20
    assert set(done) == {
        *("served while parked", "skipped", "nothing to take", "parked", "cancelled", "closed while parked"),
    }


# Finalizers -----------------------------------------------------------------------------------------------------------


def at_each_moment(program: Callable[[], None], action: Callable[[], None]) -> Iterator[None]:
    """Run a program again and again, each time with the action at another moment; yield after each."""
    for at in count():
        with interrupted(at, action) as interrupting:
            program()
        yield
        if not interrupting.done:
            return


async def test_a_value_that_a_finalizer_sets_while_another_is_received_is_received_once() -> None:
    latest, received = csp.Latest[int](), list[int]()

    def program() -> None:
        latest.set(1)
        received.append(reader.receive_nowait().value)
        with suppress(trio.WouldBlock):
            received.append(reader.receive_nowait().value)

    reader = latest.changes()
    for _ in at_each_moment(program, lambda: latest.set(2)):
        with suppress(trio.WouldBlock):
            received.append(reader.receive_nowait().value)
        assert received in ([1], [1, 2], [2], [2, 1])
        received.clear()


async def test_a_finalizer_may_make_readers_and_drop_them_while_a_value_is_set() -> None:
    latest = csp.Latest[int]()
    readers = [latest.changes() for _ in range(3)]
    for _ in at_each_moment(lambda: latest.set(1), lambda: readers.append(latest.changes())):
        assert all(reader.receive_nowait() == (1, True) for reader in readers)
        del readers[3:]
    for _ in at_each_moment(lambda: latest.set(1), readers.clear):
        readers.extend(latest.changes() for _ in range(3))
    assert latest.value == 1


async def test_a_reader_that_is_dropped_while_others_are_woken_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    latest = csp.Latest[int]()
    readers = [latest.changes() for _ in range(3)]

    def drop(_: csp.Source[int]) -> None:
        readers.clear()

    monkeypatch.setattr(type(readers[0]), "wake", drop)
    latest.set(1)
    assert repr(latest).startswith("<csp.Latest open, 0 readers")


async def test_the_finalizer_of_a_value_that_is_replaced_may_close_it() -> None:
    class Closing:
        def __del__(self) -> None:
            latest.close()

    latest = csp.Latest[object](Closing())
    latest.set("last")
    assert latest.receive_nowait() == ("last", True)
    assert latest.receive_nowait() == (None, False)
