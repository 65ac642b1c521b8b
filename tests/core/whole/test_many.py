"""Many values for one wait: `receive_many` of every source, and `Selector.select_many`."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp.errors import InvalidError, InvalidTypeError
from tests.core.test_source import Mailbox, Sealed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def holding(*values: int, capacity: float = 10_000) -> csp.Channel[int]:
    channel = csp.Channel[int](capacity)
    for value in values:
        channel.send_nowait(value)
    return channel


# What it gives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_it_gives_what_is_there_up_to_the_limit(limit: int) -> None:
    channel = holding(1, 2, 3)
    assert await channel.receive_many(limit) == [1, 2, 3][:limit]
    assert len(channel) == max(0, 3 - limit)


async def test_it_waits_for_the_first_and_takes_what_came_with_it(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int](10)
    got: list[list[int]] = []

    async def receive() -> None:
        got.append(await channel.receive_many(10))

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    assert got == []
    for value in range(4):
        channel.send_nowait(value)
    await wait_all_tasks_blocked()
    assert got == [[0, 1, 2, 3]]


@pytest.mark.parametrize("cause", [None, ValueError("broken")])
async def test_a_closed_source_gives_what_is_left_and_then_an_empty_list(cause: Exception | None) -> None:
    channel = holding(1, 2)
    channel.close(cause)
    assert await channel.receive_many(10) == [1, 2]
    assert await channel.receive_many(10) == []
    assert channel.cause is cause
    sealed = Sealed[int](1, 2, cause=cause)
    assert await sealed.receive_many(10) == [1, 2]
    assert await sealed.receive_many(10) == []


@pytest.mark.parametrize(
    ("limit", "error", "text"),
    [
        (0, InvalidError, "limit must be at least 1, not 0"),
        (-1, InvalidError, "limit must be at least 1, not -1"),
        (True, InvalidTypeError, "limit must be a whole number, not True"),
        (1.0, InvalidTypeError, "limit must be a whole number, not 1.0"),
        (None, InvalidTypeError, "limit must be a whole number, not None"),
    ],
)
async def test_the_limit_is_checked_and_nothing_taken(limit: Any, error: type[Exception], text: str) -> None:
    channel = holding(1)
    with csp.Selector(channel) as selector:
        for operation in (channel.receive_many, selector.select_many):
            with pytest.raises(error) as caught:
                await operation(limit)
            assert str(caught.value) == text
    assert len(channel) == 1


async def test_waiting_senders_are_served_in_their_order(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int]()
    for value in range(3):
        nursery.start_soon(channel.send, value)
        await wait_all_tasks_blocked()
    nursery.start_soon(channel.send_many, deque([3, 4]))
    await wait_all_tasks_blocked()
    assert await channel.receive_many(4) == [0, 1, 2, 3]
    assert await channel.receive_many(4) == [4]
    assert channel.statistics().tasks_waiting_send == 0


async def test_several_receivers_each_take_other_values() -> None:
    channel = csp.Channel[int](3)
    got: list[int] = []

    async def receive() -> None:
        while values := await channel.receive_many(4):
            got.extend(values)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(receive)
        await channel.send_many(deque(range(1000)))
        channel.close()
    assert sorted(got) == list(range(1000))


async def test_a_cancelled_one_takes_nothing() -> None:
    channel = holding(1, 2)
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.receive_many(10)
    assert scope.cancelled_caught
    assert len(channel) == 2
    channel = csp.Channel[int](4)
    with trio.move_on_after(0):
        await channel.receive_many(10)
    channel.send_nowait(1)
    assert await channel.receive_many(10) == [1]


async def test_each_value_counts_towards_the_visit_to_the_scheduler() -> None:
    runs = 0

    async def others() -> None:
        nonlocal runs
        while True:
            await trio.lowlevel.checkpoint()
            runs += 1

    async def visits(operation: Callable[[], Awaitable[object]]) -> int:
        before = runs
        for _ in range(4):
            await operation()
        return runs - before

    channel = holding(*range(4 * csp.OPERATIONS_PER_SCHEDULE_POINT))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await trio.lowlevel.checkpoint()
        assert await visits(lambda: channel.receive_many(csp.OPERATIONS_PER_SCHEDULE_POINT)) >= 3
        channel = holding(*range(4))
        assert await visits(lambda: channel.receive_many(1)) <= 1
        with csp.Selector(holding(*range(4 * csp.OPERATIONS_PER_SCHEDULE_POINT))) as selector:
            assert await visits(lambda: selector.select_many(csp.OPERATIONS_PER_SCHEDULE_POINT)) >= 3
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["receive", "__anext__"])
async def test_a_runtime_error_in_a_run_is_not_taken_for_a_missing_run(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("something else")

    channel = holding(1)
    monkeypatch.setattr("csp._core.channel.checkpoint_if_cancelled", broken)
    with pytest.raises(RuntimeError, match="something else"):
        await getattr(channel, way)()


# Every kind of source -------------------------------------------------------------------------------------------------


async def test_a_source_of_ones_own() -> None:
    mailbox = Mailbox[str]()
    for letter in "abc":
        mailbox.post(letter)
    assert await mailbox.receive_many(2) == ["a", "b"]
    assert await mailbox.receive_many(2) == ["c"]


async def test_what_a_source_raises_in_between_is_left_for_the_next_receive() -> None:
    class Breaking(Mailbox[int]):
        def receive_nowait(self) -> csp.Received[int]:
            if self.letters[0] == 3:
                raise OSError("no more")
            return super().receive_nowait()

    source = Breaking()
    for value in (1, 2, 3):
        source.post(value)
    assert await source.receive_many(10) == [1, 2]
    with pytest.raises(OSError, match="no more"):
        await source.receive_many(10)


async def test_nothing_is_fetched_ahead_of_a_source_that_pulls() -> None:
    calls = 0

    async def pull() -> int:
        nonlocal calls
        calls += 1
        return calls

    async with csp.PullSource(pull) as source:
        assert await source.receive_many(10) == [1]
        await wait_all_tasks_blocked()
        assert calls == 1


async def test_a_memory_channel() -> None:
    sender, receiver = trio.open_memory_channel[int](10)
    for value in range(5):
        sender.send_nowait(value)
    async with csp.from_receive_channel(receiver) as source:
        assert await source.receive_many(3) == [0, 1, 2]
        sender.close()
        assert await source.receive_many(3) == [3, 4]
        assert await source.receive_many(3) == []


async def test_timers_give_one_value(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    assert await csp.after("1s").receive_many(10) == [start + 1]
    ticks = csp.tick("1s")
    await trio.sleep(2.5)
    assert await ticks.receive_many(10) == [start + 3]
    assert await ticks.receive_many(10) == [start + 4]


async def test_combinators() -> None:
    first, second = holding(1, 2), holding(3, 4)
    first.close()
    second.close()
    async with csp.merge(first, second) as merged:
        got: list[int] = []
        while values := await merged.receive_many(3):
            got += values
    assert sorted(got) == [1, 2, 3, 4]


# The values of a send_many --------------------------------------------------------------------------------------------


async def test_the_buffer_stays_as_full_as_with_receives_one_at_a_time(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int](2)
    values = deque(range(10))
    nursery.start_soon(channel.send_many, values)
    await wait_all_tasks_blocked()
    assert (len(channel), list(values)) == (2, [3, 4, 5, 6, 7, 8, 9])
    assert await channel.receive_many(1) == [0]
    assert (len(channel), list(values)) == (2, [4, 5, 6, 7, 8, 9])
    assert await channel.receive_many(3) == [1, 2, 3]
    assert (len(channel), list(values)) == (2, [7, 8, 9])
    assert channel.statistics().tasks_waiting_send == 1
    assert await channel.receive_many(3) == [4, 5, 6]
    assert (len(channel), list(values)) == (2, [])
    assert channel.statistics().tasks_waiting_send == 1
    assert await channel.receive_many(1) == [7]
    assert (len(channel), channel.statistics().tasks_waiting_send) == (2, 0)
    assert await channel.receive_many(100) == [8, 9]
    assert len(channel) == 0


async def test_other_senders_come_after_a_send_many(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int](2)
    nursery.start_soon(channel.send_many, deque(range(5)))
    await wait_all_tasks_blocked()
    nursery.start_soon(channel.send, 5)
    await wait_all_tasks_blocked()
    nursery.start_soon(channel.send_many, deque([6, 7, 8]))
    await wait_all_tasks_blocked()
    assert await channel.receive_many(4) == [0, 1, 2, 3]
    assert await channel.receive_many(100) == [4, 5, 6, 7, 8]


async def test_a_cancelled_send_many_has_back_what_was_not_taken() -> None:
    channel = csp.Channel[int](2)
    values = deque(range(10))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.send_many, values)
        await wait_all_tasks_blocked()
        assert await channel.receive_many(4) == [0, 1, 2, 3]
        nursery.cancel_scope.cancel()
    assert list(values) == [6, 7, 8, 9]
    assert await channel.receive_many(4) == [4, 5]


@pytest.mark.parametrize("way", ["receive", "receive_nowait", "receive_many", "iterate", "select_many"])
async def test_values_that_follow_a_send_many_come_after_it(way: str) -> None:
    channel = csp.Channel[int](3)
    got: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.send_many, deque(range(6)))
        await wait_all_tasks_blocked()
        got += await channel.receive_many(3)
        await wait_all_tasks_blocked()
        got += await channel.receive_many(1)
        channel.send_nowait(6)
        with csp.Selector(channel) as selector:
            while len(got) < 7:
                match way:
                    case "receive":
                        got.append((await channel.receive()).value)
                    case "receive_nowait":
                        got.append(channel.receive_nowait().value)
                    case "receive_many":
                        got += await channel.receive_many(2)
                    case "iterate":
                        got.append(await anext(channel))
                    case _:
                        got += [result.value for result in await selector.select_many(2)]
    assert got == list(range(7))
    with pytest.raises(trio.WouldBlock):
        channel.receive_nowait()
    assert len(channel) == 0


async def test_once_the_buffer_is_empty_values_go_through_the_memory_channel_again(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int](2)
    for _ in range(2):
        channel.send_nowait(0)
        assert channel._put == channel._memory[0]
        values = deque(range(1, 5))
        nursery.start_soon(channel.send_many, values)
        await wait_all_tasks_blocked()
        assert channel._put != channel._memory[0]
        for expected in range(5):
            assert await channel.receive() == (expected, True)
    channel.send_nowait(1)
    assert (channel._put, channel._take) == channel._memory


async def test_who_waits_for_the_buffer_to_be_drained_is_called_however_the_values_are_taken(
    nursery: trio.Nursery,
) -> None:
    channel = csp.Channel[int](4)
    nursery.start_soon(channel.send_many, deque(range(8)))
    await wait_all_tasks_blocked()
    called: list[int] = []
    channel._call_when_drained(1, lambda: called.append(len(channel)))
    assert await channel.receive_many(5) == [0, 1, 2, 3, 4]
    assert called == []
    assert await channel.receive_many(5) == [5, 6, 7]
    assert called == [2]  # the value that is being taken still counts
    nursery.start_soon(channel.send_many, deque(range(8)))
    await wait_all_tasks_blocked()
    call_off = channel._call_when_drained(1, lambda: called.append(len(channel)))
    assert [(await channel.receive()).value for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    call_off()
    assert await channel.receive_many(5) == [6, 7]
    assert called == [2]
    channel._call_when_drained(0, lambda: called.append(len(channel)))
    channel.send_nowait(8)
    assert await channel.receive_many(5) == [8]
    assert called == [2, 1]


@pytest.mark.parametrize("seed", range(20))
async def test_random_mixes_of_senders_and_receivers_keep_the_order(seed: int) -> None:  # noqa: C901  # many ways
    chance = random.Random(seed)
    channel = csp.Channel[int](chance.choice([0, 1, 2, 5, 16, math.inf]))
    sent: list[int] = []
    got: list[int] = []

    async def produce() -> None:
        while len(sent) < 300:
            values = deque(range(len(sent), len(sent) + chance.randint(1, 20)))
            sent.extend(values)
            if chance.random() < 0.7:
                with trio.move_on_after(chance.choice([math.inf, math.inf, 0.001])):
                    await channel.send_many(values)
            while values:
                await channel.send(values.popleft())
        channel.close()

    async def consume() -> bool:
        match chance.randrange(5):
            case 0:
                value, ok = await channel.receive()
                got.extend([value] * ok)
                return ok
            case 1:
                async for value in channel:
                    got.append(value)
                    return True
                return False
            case 2:
                with csp.Selector(channel) as selector:
                    results = await selector.select_many(chance.randint(1, 30))
                got.extend(result.value for result in results if result.ok)
                return results[-1].ok
            case _:
                values = await channel.receive_many(chance.randint(1, 30))
                got.extend(values)
                return bool(values)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            while await consume():
                pass
    assert got == sent == list(range(len(sent)))


# Selectors ------------------------------------------------------------------------------------------------------------


async def test_select_many_gives_what_selects_one_after_the_other_would() -> None:
    def make() -> list[csp.Source[int]]:
        mailbox = Mailbox[int]()
        for value in range(20):
            mailbox.post(-value)
        closed = holding(7)
        closed.close()
        return [holding(*range(40)), mailbox, closed, csp.Channel[int](), csp.never()]

    expected: list[tuple[int, object, bool]] = []
    with csp.Selector(*make()) as selector:
        for _ in range(62):
            result = await selector.select()
            expected.append((result.index, result.value, result.ok))
        assert len(selector) == 4
    with csp.Selector(*make()) as selector:
        results = await selector.select_many(1000)
        assert [(result.index, result.value, result.ok) for result in results] == expected
        assert len(selector) == 4
    assert sum(not ok for _, _, ok in expected) == 1
    with csp.Selector(*make()) as selector:
        assert len(await selector.select_many(5)) == 5


async def test_select_many_ends_when_no_case_is_left_or_the_selector_is_closed(nursery: trio.Nursery) -> None:
    channel = csp.Channel[int]()
    selector = csp.Selector(channel)
    got: list[int] = []

    async def select() -> None:
        got.append(len(await selector.select_many(10)))

    nursery.start_soon(select)
    await wait_all_tasks_blocked()
    channel.close()
    await wait_all_tasks_blocked()
    assert got == [1]
    assert await selector.select_many(10) == []
    selector.close()
    assert await selector.select_many(10) == []


async def test_a_cancelled_select_many_takes_nothing() -> None:
    channel = holding(1, 2)
    with csp.Selector(channel) as selector:
        with trio.CancelScope() as scope:
            scope.cancel()
            await selector.select_many(10)
        assert scope.cancelled_caught
        assert len(channel) == 2


async def test_what_a_source_raises_in_between_is_left_for_the_next_select() -> None:
    class Breaking(Mailbox[int]):
        def receive_nowait(self) -> csp.Received[int]:
            if self.letters[0] == 3:
                raise OSError("no more")
            return super().receive_nowait()

    source = Breaking()
    for value in (1, 2, 3):
        source.post(value)
    with csp.Selector(source) as selector:
        assert [result.value for result in await selector.select_many(10)] == [1, 2]
        with pytest.raises(OSError, match="no more"):
            await selector.select_many(10)
