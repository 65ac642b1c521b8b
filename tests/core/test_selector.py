"""Selectors: registered once, fair, weakly held, and losing nothing. What waits is also in ``test_waiting.py``."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp import errors
from csp._core.queues import items
from csp._core.selector import _VALUES_IN_A_ROW, _SelectorWaiter
from tests._steps import steps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from trio.testing import MockClock

    from csp import Channel, SelectResult


def holding(*values: int, capacity: int = 10_000) -> Channel[int]:
    channel = csp.Channel[int](capacity)
    for value in values:
        channel.send_nowait(value)
    return channel


class Counting(csp.Source[int]):
    """A source that counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[int] = []
        self.asked = 0

    def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002  # it has no clock
        self.asked += 1
        return bool(self.values)

    def receive_nowait(self) -> csp.Received[int]:
        self.asked += 1
        return csp.Received(self.values.pop(0), True)

    def put(self, value: int) -> None:
        self.values.append(value)
        self.wake()


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Collect what could not be raised, from ``__del__`` for one."""
    caught: list[object] = []

    def hook(args: sys.UnraisableHookArgs) -> None:
        caught.append(args.exc_value)

    monkeypatch.setattr(sys, "unraisablehook", hook)
    yield caught
    gc.collect()


# Cases ----------------------------------------------------------------------------------------------------------------


async def test_the_result_tells_channel_value_and_order_of_adding() -> None:
    first, second = csp.Channel[int](), holding(7)
    with csp.Selector(first.case_receive(), second.case_receive()) as selector:
        assert await selector.select() == (second, 7, True, False, 1, False)


async def test_the_index_of_a_case_never_changes() -> None:
    channels = [csp.Channel[int](1) for _ in range(4)]
    with csp.Selector(channels[0].case_receive(), channels[1].case_receive()) as selector:
        selector.add(channels[2].case_receive())
        selector.remove(channels[0].case_receive())
        selector.add(channels[3].case_receive())
        selector.add(channels[0].case_receive())
        indexes: list[int] = []
        for channel in channels:
            channel.send_nowait(0)
            indexes.append((await selector.select()).index)
    assert indexes == [4, 1, 2, 3]


def test_adding_twice_does_nothing() -> None:
    channel = csp.Channel[int]()
    selector = csp.Selector(channel.case_receive(), channel.case_receive())
    selector.add(channel.case_receive())
    assert len(selector) == 1
    assert channel.statistics().selectors == 1
    selector.close()


def test_a_fresh_case_removes_an_equal_one() -> None:
    channel = csp.Channel[int]()
    selector = csp.Selector(channel.case_receive())
    assert channel.case_receive() in selector
    selector.remove(channel.case_receive())
    assert channel.case_receive() not in selector
    assert channel.statistics().selectors == 0


def test_removing_a_missing_case_is_a_key_error() -> None:
    channel = csp.Channel[int]()
    selector = csp.Selector(channel.case_receive())
    selector.remove(channel.case_receive())
    with pytest.raises(KeyError):
        selector.remove(channel.case_receive())
    with pytest.raises(KeyError):
        selector.remove(csp.Channel[int]().case_receive())


def test_a_send_case_is_a_type_error_that_says_why() -> None:
    channel = csp.Channel[int]()
    case: Any = channel.case_send(1)
    with pytest.raises(errors.InvalidTypeError, match=r"argument 1 of Selector .* use select for sends"):
        csp.Selector(channel.case_receive(), case)
    assert channel.statistics().selectors == 0
    selector = csp.Selector[int]()
    with pytest.raises(TypeError, match="source must be a source or its receive case"):
        selector.add(case)


@pytest.mark.parametrize("source", [None, 1, [csp.Channel[int]()]])
def test_anything_else_is_a_type_error(source: Any) -> None:
    with pytest.raises(errors.InvalidTypeError, match=r"argument 0 of Selector must be a csp\.Source"):
        csp.Selector(source)
    with pytest.raises(errors.InvalidTypeError, match=r"source must be a csp\.Source"):
        csp.Selector[int]().add(source)


def test_a_source_and_its_receive_case_are_the_same_to_a_selector() -> None:
    channel, other = csp.Channel[int](), csp.Channel[int]()
    selector = csp.Selector(channel, other.case_receive())
    selector.add(channel.case_receive())
    selector.add(other)
    assert len(selector) == 2
    assert channel in selector
    assert channel.case_receive() in selector
    selector.remove(channel)
    assert channel not in selector
    selector.remove(other.case_receive())
    assert other not in selector
    with pytest.raises(KeyError):
        selector.remove(other)


async def test_a_block_that_was_not_entered_is_refused_but_may_be_asked_for() -> None:
    values: Any = csp.merge(csp.Channel[int]())
    selector = csp.Selector[int]()
    with pytest.raises(errors.NoContextError, match="write `async with"):
        selector.add(values)
    with pytest.raises(errors.NoContextError, match="write `async with"):
        csp.Selector(values)
    assert values not in selector


async def test_bare_sources_of_every_kind_are_selected_on(autojump_clock: MockClock) -> None:
    channel = csp.Channel[str](1)
    channel.send_nowait("a")
    timeout = csp.after("1s")
    with csp.Selector(channel, timeout, csp.never()) as selector:
        first, second = await selector.select(), await selector.select()
    assert channel.gave(first)
    assert first.value == "a"
    assert timeout.gave(second)


def test_a_selector_is_true_even_when_empty() -> None:
    assert bool(csp.Selector[int]()) is True
    assert len(csp.Selector[int]()) == 0


def test_repr_shows_the_state() -> None:
    selector = csp.Selector(holding(1).case_receive(), csp.Channel[int]().case_receive())
    assert "open, 2 cases, 1 ready" in repr(selector)
    selector.close()
    assert "closed, 0 cases, 0 ready" in repr(selector)


# Taking ---------------------------------------------------------------------------------------------------------------


async def test_values_stay_in_the_channel_until_handed_out() -> None:
    channel = holding(1, 2, 3)
    with csp.Selector(channel.case_receive()) as selector:
        assert len(channel) == 3
        await selector.select()
        assert len(channel) == 2
    assert channel.receive_nowait() == (2, True)


async def test_a_value_taken_by_someone_else_is_skipped() -> None:
    taken, other = holding(1), csp.Channel[int](1)
    with csp.Selector(taken.case_receive(), other.case_receive()) as selector:
        assert taken.receive_nowait() == (1, True)
        other.send_nowait(2)
        assert (await selector.select()).value == 2
        taken.send_nowait(3)
        assert (await selector.select()).value == 3


async def test_it_waits_when_all_that_was_ready_is_taken_by_someone_else() -> None:
    channel = holding(1)
    results: list[SelectResult[Any]] = []
    with csp.Selector(channel.case_receive()) as selector:
        channel.receive_nowait()

        async def select() -> None:
            results.append(await selector.select())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(select)
            await wait_all_tasks_blocked()
            assert results == []
            channel.send_nowait(2)
    assert results == [(channel, 2, True, False, 0, False)]


async def test_iteration_goes_on_until_no_case_is_left() -> None:
    first, second = holding(1, 2), holding(3)
    first.close()
    second.close()
    with csp.Selector(first.case_receive(), second.case_receive()) as selector:
        results = [(result.channel, result.value, result.ok) async for result in selector]
    assert results == [
        (first, 1, True),
        (first, 2, True),
        (first, None, False),
        (second, 3, True),
        (second, None, False),
    ]


async def test_iteration_without_a_case_ends_at_once() -> None:
    assert [result async for result in csp.Selector[int]()] == []


async def test_iteration_without_a_case_is_a_cancellation_point() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async for _ in csp.Selector[int]():
            pass
    assert scope.cancelled_caught


async def test_select_without_a_case_waits_for_one_to_be_added() -> None:
    selector = csp.Selector[int]()
    results: list[SelectResult[Any]] = []

    async def select() -> None:
        results.append(await selector.select())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        channel = csp.Channel[int]()
        selector.add(channel.case_receive())
        await wait_all_tasks_blocked()
        assert results == []
        channel.send_nowait(1)
    assert results == [(channel, 1, True, False, 0, False)]


async def test_adding_a_ready_channel_wakes_a_parked_task() -> None:
    selector = csp.Selector(csp.Channel[int]().case_receive())
    results: list[SelectResult[Any]] = []

    async def select() -> None:
        results.append(await selector.select())

    channel = holding(1, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        selector.add(channel.case_receive())
    assert results == [(channel, 1, True, False, 1, False)]
    assert (await selector.select()).value == 2


async def test_adding_a_ready_channel_wakes_every_task_it_has_a_value_for() -> None:
    selector = csp.Selector[int]()
    results: list[int] = []

    async def select() -> None:
        results.append((await selector.select()).value)

    channel = holding(1, 2, capacity=2)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(select)
        await wait_all_tasks_blocked()
        selector.add(channel.case_receive())
        await wait_all_tasks_blocked()
        assert sorted(results) == [1, 2]
        nursery.cancel_scope.cancel()


async def test_a_send_finds_room_after_a_full_channel_is_added_under_parked_tasks() -> None:
    selector = csp.Selector[int]()
    results: list[int] = []

    async def select() -> None:
        results.append((await selector.select()).value)

    channel = holding(1, 2, capacity=2)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(select)
        await wait_all_tasks_blocked()
        selector.add(channel.case_receive())
        await channel.send(3)
        await channel.send(4)
    assert sorted(results) == [1, 2]
    assert len(channel) == 2


# Leaving --------------------------------------------------------------------------------------------------------------


async def test_a_closed_channel_is_reported_once_and_leaves() -> None:
    closed, open_ = csp.Channel[Any](), csp.Channel[Any](1)
    with csp.Selector(closed.case_receive(), open_.case_receive()) as selector:
        closed.close()
        assert await selector.select() == (closed, None, False, False, 0, False)
        assert closed.case_receive() not in selector
        assert closed.statistics().selectors == 0
        open_.send_nowait(1)
        assert (await selector.select()).channel is open_


@pytest.mark.parametrize("tasks", [1, 2])
async def test_a_close_of_the_last_channel_reaches_a_parked_iteration_and_ends_it(tasks: int) -> None:
    channel = csp.Channel[int]()
    selector = csp.Selector(channel.case_receive())
    results: list[bool] = []

    async def iterate() -> None:
        results.extend([result.ok async for result in selector])

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(iterate)
        await wait_all_tasks_blocked()
        channel.close()
    assert results == [False]


async def test_a_close_reaches_a_parked_select() -> None:
    channel = csp.Channel[int]()
    results: list[SelectResult[Any]] = []

    async def select() -> None:
        with csp.Selector(channel.case_receive()) as selector:
            results.append(await selector.select())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        channel.close()
    assert results == [(channel, None, False, False, 0, False)]


async def test_closes_reach_a_parked_iteration_one_by_one() -> None:
    channel, other = csp.Channel[int](), csp.Channel[int]()
    results: list[SelectResult[Any]] = []

    async def iterate() -> None:
        with csp.Selector(channel.case_receive(), other.case_receive()) as selector:
            results.extend([result async for result in selector])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(iterate)
        await wait_all_tasks_blocked()
        channel.close()
        await wait_all_tasks_blocked()
        other.close()
    assert results == [(channel, None, False, False, 0, False), (other, None, False, False, 1, False)]


async def test_a_channel_closed_with_values_buffered_is_reported_closed_after_them() -> None:
    channel = csp.Channel[int](3)
    with csp.Selector(channel.case_receive()) as selector:
        for value in range(3):
            channel.send_nowait(value)
        channel.close()
        assert [(r.value, r.ok) async for r in selector] == [(0, True), (1, True), (2, True), (None, False)]


async def test_a_channel_that_is_closed_already_can_be_added() -> None:
    channel = csp.Channel[int]()
    channel.close()
    with csp.Selector(channel.case_receive()) as selector:
        assert not (await selector.select()).ok


async def test_removing_the_last_case_ends_a_waiting_iteration() -> None:
    channel, other = csp.Channel[int](), csp.Channel[int]()
    selector = csp.Selector(channel.case_receive(), other.case_receive())
    ended: list[bool] = []

    async def iterate() -> None:
        async for _ in selector:
            pass
        ended.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(iterate)
        nursery.start_soon(iterate)
        await wait_all_tasks_blocked()
        selector.remove(channel.case_receive())
        await wait_all_tasks_blocked()
        assert ended == []
        selector.remove(other.case_receive())
    assert ended == [True, True]


async def test_removing_the_last_case_leaves_a_waiting_select_waiting() -> None:
    channel = csp.Channel[int]()
    selector = csp.Selector(channel.case_receive())
    results: list[SelectResult[Any]] = []

    async def select() -> None:
        results.append(await selector.select())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(select)
        await wait_all_tasks_blocked()
        selector.remove(channel.case_receive())
        await wait_all_tasks_blocked()
        assert results == []
        selector.add(channel.case_receive())
        channel.send_nowait(1)
    assert results == [(channel, 1, True, False, 1, False)]


async def test_a_removed_case_that_was_ready_gives_nothing() -> None:
    removed, other = holding(1), csp.Channel[int](1)
    with csp.Selector(removed.case_receive(), other.case_receive()) as selector:
        selector.remove(removed.case_receive())
        other.send_nowait(2)
        assert (await selector.select()).value == 2
    assert len(removed) == 1


async def test_a_case_that_is_removed_and_added_again_gives_its_value_once() -> None:
    channel = holding(1)
    with csp.Selector(channel.case_receive(), csp.Channel[int]().case_receive()) as selector:
        selector.remove(channel.case_receive())
        selector.add(channel.case_receive())
        assert await selector.select() == (channel, 1, True, False, 2, False)
        channel.close()
        assert not (await selector.select()).ok
        assert len(selector) == 1


async def test_closing_unregisters_and_keeps_what_is_buffered() -> None:
    channels = [holding(1) for _ in range(3)]
    with csp.Selector(*(channel.case_receive() for channel in channels)) as selector:
        await selector.select()
    assert [len(channel) for channel in channels] == [0, 1, 1]
    assert [channel.statistics().selectors for channel in channels] == [0, 0, 0]


async def test_closing_ends_waiting_iterations_and_fails_waiting_selects() -> None:
    selector = csp.Selector(csp.Channel[int]().case_receive())
    ended: list[str] = []

    async def iterate() -> None:
        async for _ in selector:
            pass
        ended.append("iteration")

    async def select() -> None:
        with pytest.raises(trio.ClosedResourceError, match="was closed"):
            await selector.select()
        ended.append("select")

    async with trio.open_nursery() as nursery:
        for task in (iterate, select, select):
            nursery.start_soon(task)
        await wait_all_tasks_blocked()
        selector.close()
    assert sorted(ended) == ["iteration", "select", "select"]


async def test_a_closed_selector_selects_nothing_and_takes_no_case() -> None:
    channel = holding(1)
    selector = csp.Selector(channel.case_receive())
    selector.close()
    selector.close()
    with pytest.raises(trio.ClosedResourceError):
        await selector.select()
    with pytest.raises(trio.ClosedResourceError):
        selector.add(channel.case_receive())
    assert [result async for result in selector] == []
    assert len(channel) == 1


async def test_select_on_a_closed_selector_is_a_cancellation_point() -> None:
    selector = csp.Selector[int]()
    selector.close()
    with trio.CancelScope() as scope:
        scope.cancel()
        await selector.select()
    assert scope.cancelled_caught


async def test_a_cancelled_select_leaves_the_selector_usable() -> None:
    channel = csp.Channel[int]()
    with csp.Selector(channel.case_receive()) as selector:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(selector.select)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with pytest.raises(trio.WouldBlock):
            channel.send_nowait(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, 2)
            assert (await selector.select()).value == 2


# Held weakly ----------------------------------------------------------------------------------------------------------


def test_a_forgotten_selector_unregisters_and_loses_nothing() -> None:
    channel = holding(1)
    selector = csp.Selector(channel.case_receive())
    reference = weakref.ref(selector)
    assert channel.statistics().selectors == 1
    del selector
    gc.collect()
    assert reference() is None
    assert channel.statistics().selectors == 0
    channel.send_nowait(2)
    assert channel.receive_nowait() == (1, True)


async def test_a_selector_forgotten_in_a_cycle_unregisters() -> None:
    channel = csp.Channel[Any](1)
    selector = csp.Selector(channel.case_receive())
    cycle: list[object] = [selector]
    cycle.append(cycle)
    del selector, cycle
    gc.collect()
    assert channel.statistics().selectors == 0


def test_a_watch_whose_selector_is_gone_is_ignored(unraisable: list[object]) -> None:
    # A cycle is cleared in any order, so that a channel may be told before the selector has unregistered.
    channel = csp.Channel[int](1)
    selector = csp.Selector(channel.case_receive())
    (watch,) = items(channel._watches)
    del selector
    gc.collect()
    channel._watch(watch)
    channel.send_nowait(1)
    assert not watch.parked
    assert channel.receive_nowait() == (1, True)
    assert unraisable == []


async def test_selectors_that_are_forgotten_again_and_again_leave_nothing_behind() -> None:
    channel = csp.Channel[int](1)
    for _ in range(100):
        csp.Selector(channel.case_receive())
    assert len(items(channel._watches)) <= 2
    channel.send_nowait(1)
    assert channel._watches is None


def test_a_selector_with_a_timer_can_be_forgotten_after_the_run(unraisable: list[object]) -> None:
    kept: list[csp.Selector[float]] = []

    async def main() -> None:
        kept.append(csp.Selector(csp.after("1h").case_receive()))

    trio.run(main)
    kept.clear()
    gc.collect()
    assert unraisable == []


async def test_an_owned_selector_is_not_kept_alive_by_a_finished_wait() -> None:
    channel = csp.Channel[int]()
    selector = csp.Selector(channel.case_receive())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(selector.select)
        await wait_all_tasks_blocked()
        channel.send_nowait(1)
    del nursery
    reference = weakref.ref(selector)
    del selector
    gc.collect()
    assert reference() is None


# Fairness and cost ----------------------------------------------------------------------------------------------------


async def test_ready_channels_take_turns_of_sixteen() -> None:
    channels = [holding(*range(40)) for _ in range(3)]
    with csp.Selector(*(channel.case_receive() for channel in channels)) as selector:
        order = [(await selector.select()).index for _ in range(120)]
    turns = [0] * 16 + [1] * 16 + [2] * 16
    assert order == turns + turns + [0] * 8 + [1] * 8 + [2] * 8


async def test_a_channel_that_is_refilled_all_the_time_does_not_starve_the_others() -> None:
    busy, quiet = holding(*range(20)), holding(1)
    with csp.Selector(busy.case_receive(), quiet.case_receive()) as selector:
        order: list[int] = []
        for _ in range(34):
            order.append((await selector.select()).index)
            if order[-1] == 0:
                busy.send_nowait(0)
            else:
                quiet.send_nowait(0)
    assert order == ([0] * 16 + [1]) * 2


async def test_each_turn_has_its_own_count() -> None:
    first, second, third = holding(*range(10)), holding(*range(20)), holding(1)
    with csp.Selector(first.case_receive(), second.case_receive(), third.case_receive()) as selector:
        order = [(await selector.select()).index for _ in range(31)]
    assert order == [0] * 10 + [1] * 16 + [2] + [1] * 4


async def test_a_channel_that_leaves_gives_the_next_one_a_turn_of_its_own() -> None:
    first, second, third = holding(*range(10)), holding(*range(20)), holding(1)
    first.close()
    with csp.Selector(first.case_receive(), second.case_receive(), third.case_receive()) as selector:
        order = [(await selector.select()).index for _ in range(32)]
    assert order == [0] * 11 + [1] * 16 + [2] + [1] * 4


async def test_the_last_channel_that_is_removed_gives_the_next_one_a_turn_of_its_own() -> None:
    first, second, third = holding(*range(10)), holding(*range(20)), holding(1)
    with csp.Selector(first.case_receive()) as selector:
        for _ in range(5):
            await selector.select()
        selector.remove(first.case_receive())
        selector.add(second.case_receive())
        selector.add(third.case_receive())
        order = [(await selector.select()).index for _ in range(21)]
    assert order == [1] * 16 + [2] + [1] * 4


def test_the_docstring_says_how_long_a_turn_is() -> None:
    assert f"at most {_VALUES_IN_A_ROW} values in a row" in (csp.Selector.__doc__ or "")


@pytest.mark.parametrize("parked", [False, True])
async def test_the_cost_a_value_does_not_grow_with_the_number_of_sources(parked: bool) -> None:
    async def questions(idle: int) -> int:
        sources = [Counting() for _ in range(idle + 1)]
        with csp.Selector(*(source.case_receive() for source in sources)) as selector:
            for source in sources:
                source.asked = 0

            async def receive() -> None:
                for _ in range(10):
                    await selector.select()

            async with trio.open_nursery() as nursery:
                if parked:
                    nursery.start_soon(receive)
                for value in range(10):
                    await wait_all_tasks_blocked()
                    sources[idle // 2].put(value)
                if not parked:
                    nursery.start_soon(receive)
        return sum(source.asked for source in sources)

    assert await questions(0) == await questions(10) == await questions(500) <= 60


# Sharing --------------------------------------------------------------------------------------------------------------


def collector(results: list[str], name: str, operation: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[None]]:
    """Return a task that performs an operation again and again, noting its name for each value."""

    async def run() -> None:
        while True:
            await operation()
            results.append(name)

    return run


async def test_two_tasks_in_one_selector_are_served_in_turn() -> None:
    channel = csp.Channel[int]()
    results: list[str] = []
    with csp.Selector(channel.case_receive()) as selector:
        async with trio.open_nursery() as nursery:
            for name in "ab":
                nursery.start_soon(collector(results, name, selector.select))
                await wait_all_tasks_blocked()
            for _ in range(6):
                channel.send_nowait(0)
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert "".join(results) == "ababab"


async def test_two_values_in_one_tick_reach_two_tasks_in_one_selector() -> None:
    channels = [csp.Channel[int](), csp.Channel[int]()]
    results: list[str] = []
    with csp.Selector(*(channel.case_receive() for channel in channels)) as selector:
        async with trio.open_nursery() as nursery:
            for name in "ab":
                nursery.start_soon(collector(results, name, selector.select))
            await wait_all_tasks_blocked()
            channels[0].send_nowait(0)
            channels[1].send_nowait(0)
            with pytest.raises(trio.WouldBlock):
                channels[0].send_nowait(0)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert sorted(results) == ["a", "b"]


async def test_two_selectors_on_one_channel_take_turns() -> None:
    channel = csp.Channel[int]()
    results: list[str] = []
    with csp.Selector(channel.case_receive()) as a, csp.Selector(channel.case_receive()) as b:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collector(results, "a", a.select))
            nursery.start_soon(collector(results, "b", b.select))
            for _ in range(6):
                await wait_all_tasks_blocked()
                channel.send_nowait(0)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert "".join(results) == "ababab"


async def test_adding_one_ready_channel_to_two_selectors_lets_each_take() -> None:
    channel = holding(1, 2)
    with csp.Selector(channel.case_receive()) as a, csp.Selector(channel.case_receive()) as b:
        assert [(await a.select()).value, (await b.select()).value] == [1, 2]


async def test_of_two_selectors_on_one_channel_a_busy_one_leaves_the_value_to_the_other() -> None:
    channel = csp.Channel[int](1)
    results: list[str] = []
    with csp.Selector(channel.case_receive()), csp.Selector(channel.case_receive()) as parked:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collector(results, "parked", parked.select))
            for _ in range(3):
                await wait_all_tasks_blocked()
                channel.send_nowait(0)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert results == ["parked"] * 3


async def test_a_close_reaches_every_selector() -> None:
    channel = csp.Channel[int](1)
    channel.send_nowait(1)
    with csp.Selector(channel.case_receive()) as a, csp.Selector(channel.case_receive()) as b:
        channel.close()
        results = [[result.ok async for result in selector] for selector in (a, b)]
    assert results == [[True, False], [False]]


@pytest.mark.parametrize("first", ["plain", "selector"])
async def test_plain_receivers_and_a_parked_selector_take_turns(first: str) -> None:
    channel = csp.Channel[int]()
    results: list[str] = []
    with csp.Selector(channel.case_receive()) as selector:
        tasks: dict[str, list[Callable[[], Awaitable[Any]]]] = {
            "plain": [channel.receive, lambda: csp.select(channel.case_receive())],
            "selector": [selector.select],
        }
        async with trio.open_nursery() as nursery:
            for name in sorted(tasks, reverse=first == "selector"):
                for operation in tasks[name]:
                    nursery.start_soon(collector(results, name, operation))
            for _ in range(10):
                await wait_all_tasks_blocked()
                channel.send_nowait(0)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    pairs = list(zip(results[::2], results[1::2], strict=True))
    assert len(set(pairs)) == 1
    assert set(pairs[0]) == {"plain", "selector"}


async def test_a_selectors_turn_falls_to_a_receiver_when_it_is_not_parked() -> None:
    channel = csp.Channel[int]()
    results: list[str] = []
    with csp.Selector(channel.case_receive()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collector(results, "plain", channel.receive))
            for _ in range(3):
                await wait_all_tasks_blocked()
                channel.send_nowait(0)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert results == ["plain"] * 3


async def test_a_parked_selector_counts_as_a_receiver() -> None:
    channel = csp.Channel[int]()
    with csp.Selector(channel.case_receive()) as selector:
        with pytest.raises(trio.WouldBlock):
            channel.send_nowait(1)
        assert not channel._can_send()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(selector.select)
            await wait_all_tasks_blocked()
            assert channel._can_send()
            channel.send_nowait(1)
            assert not channel._can_send()


@pytest.mark.parametrize("capacity", [0, 1])
async def test_a_parked_send_marks_every_selector_that_watches(capacity: int) -> None:
    channel = csp.Channel[int](capacity)
    with csp.Selector(channel.case_receive()) as a, csp.Selector(channel.case_receive()) as b:
        async with trio.open_nursery() as nursery:
            for value in range(capacity + 2):
                nursery.start_soon(channel.send, value)
                await wait_all_tasks_blocked()
            got = [(await selector.select()).value for selector in (a, b)]
            assert got == [0, 1]
            nursery.cancel_scope.cancel()


async def test_a_send_that_was_cancelled_leaves_a_hint_that_is_skipped() -> None:
    channel, other = csp.Channel[int](), csp.Channel[int](1)
    with csp.Selector(channel.case_receive(), other.case_receive()) as selector:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, 1)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        other.send_nowait(2)
        assert (await selector.select()).value == 2


def test_adding_and_removing_a_ready_channel_again_and_again_takes_no_memory() -> None:
    selector = csp.Selector[int]()
    idle = [csp.Channel[int]() for _ in range(3)]
    for channel in idle:
        selector.add(channel.case_receive())
    ready = holding(1)
    for _ in range(1000):
        selector.add(ready.case_receive())
        selector.remove(ready.case_receive())
    assert len(selector._ready) < 200
    assert len(ready) == 1


async def test_a_value_that_was_buffered_does_not_change_whose_turn_it_is() -> None:
    channel = csp.Channel[int](1)
    served: list[int] = []
    with csp.Selector(channel.case_receive()) as first, csp.Selector(channel.case_receive()) as second:

        async def select(number: int, selector: csp.Selector[int]) -> None:
            await selector.select()
            served.append(number)

        async with trio.open_nursery() as nursery:

            async def both_wait() -> None:
                nursery.start_soon(select, 1, first)
                await wait_all_tasks_blocked()
                nursery.start_soon(select, 2, second)
                await wait_all_tasks_blocked()

            await both_wait()
            for value in range(2):
                channel.send_nowait(value)
                await wait_all_tasks_blocked()
            channel.send_nowait(2)  # buffered: nobody waits
            assert channel.receive_nowait() == (2, True)
            await both_wait()
            channel.send_nowait(3)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert served == [1, 2, 1]


# Many selectors on one channel ----------------------------------------------------------------------------------------


def parked_selectors(nursery: trio.Nursery, channel: Channel[int], number: int) -> list[csp.Selector[int]]:
    """Start tasks, each of them in a selector of its own on the channel."""
    selectors = [csp.Selector(channel) for _ in range(number)]

    async def receive(selector: csp.Selector[int]) -> None:
        async for _ in selector:
            pass

    for selector in selectors:
        nursery.start_soon(receive, selector)
    return selectors


@pytest.mark.parametrize("capacity", [0, 1])
async def test_what_a_value_costs_does_not_grow_with_the_number_of_selectors(capacity: int) -> None:
    async def cost(number: int) -> list[int]:
        channel = csp.Channel[int](capacity)
        async with trio.open_nursery() as nursery:
            selectors = parked_selectors(nursery, channel, number)
            await wait_all_tasks_blocked()
            given = [steps(lambda: channel.send_nowait(1)) for _ in range(5)]
            await wait_all_tasks_blocked()
            more = csp.Selector(channel)
            given.append(steps(lambda: more.remove(channel)))
            given.append(steps(lambda: more.add(channel)))
            del selectors
            nursery.cancel_scope.cancel()
        return given

    assert await cost(20) == await cost(500)


async def test_a_value_for_many_selectors_that_do_not_wait_is_told_once() -> None:
    channel = csp.Channel[int](1)
    selectors = [csp.Selector(channel) for _ in range(500)]

    def value_that_another_takes() -> None:
        channel.send_nowait(1)
        channel.receive_nowait()

    first, *others = [steps(value_that_another_takes) for _ in range(10)]
    assert max(others) < first / 50
    channel.send_nowait(2)
    async with trio.open_nursery() as nursery:
        taken: list[int] = []

        async def take(selector: csp.Selector[int]) -> None:
            taken.append((await selector.select()).value)

        for selector in reversed(selectors):
            nursery.start_soon(take, selector)
        await wait_all_tasks_blocked()
        for value in range(3, 502):
            channel.send_nowait(value)
            await wait_all_tasks_blocked()
    assert sorted(taken) == list(range(2, 502))


@pytest.mark.parametrize("take", ["selector", "receive", "receive_nowait", "select"])
async def test_an_after_whose_value_another_took_leaves_every_selector(take: str, autojump_clock: MockClock) -> None:
    after = csp.after("1s")
    received: list[float] = []
    start = trio.current_time()

    async def iterate() -> None:
        with csp.Selector(after) as selector:
            received.extend([result.value async for result in selector])

    async with trio.open_nursery() as nursery:
        if take == "receive":
            nursery.start_soon(after.receive)
        elif take == "select":
            nursery.start_soon(csp.select, after.case_receive())
        elif take == "receive_nowait":
            selector = csp.Selector(after)  # nobody waits in it
            await trio.sleep(1)
            assert after.receive_nowait() == (start + 1, True)
            assert len(selector) == 0
            return
        await wait_all_tasks_blocked()
        for _ in range(2):
            nursery.start_soon(iterate)
    assert len(received) == (take == "selector")


async def test_a_selector_in_which_a_task_waits_forgets_an_after_and_goes_on(autojump_clock: MockClock) -> None:
    after, channel = csp.after("1s"), csp.Channel[int]()

    async def take() -> None:
        await after.receive()
        await trio.sleep(1)
        await channel.send(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        with csp.Selector[float](after, channel) as selector:
            assert (await selector.select()).channel is channel
            assert after not in selector


async def test_a_source_that_removes_itself_when_it_ends_is_reported() -> None:
    class Leaving(csp.Source[int]):
        def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002  # it has no clock
            return True

        def receive_nowait(self) -> csp.Received[int]:
            selector.remove(self)
            return csp.Received(0, False)

    leaving = Leaving()
    with csp.Selector(leaving) as selector:
        assert [(result.channel, result.ok) async for result in selector] == [(leaving, False)]


# Finalizers, at moments that must be made here ------------------------------------------------------------------------


@pytest.mark.parametrize("iterating", [False, True])
async def test_a_selector_that_is_closed_just_before_a_task_waits_tells_it(
    iterating: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ClosingWaiter(_SelectorWaiter):
        def __init__(self, selector: csp.Selector[Any], iterating: bool) -> None:
            super().__init__(selector, iterating)
            selector.close()

    monkeypatch.setattr("csp._core.selector._SelectorWaiter", ClosingWaiter)
    selector = csp.Selector(csp.Channel[int]())
    if iterating:
        assert [result async for result in selector] == []
    else:
        with pytest.raises(trio.ClosedResourceError):
            await selector.select()


def test_a_head_that_was_passed_on_already_is_left() -> None:
    channel = holding(1)
    selector = csp.Selector(channel)
    (watch,) = selector._ready
    channel.receive_nowait()
    selector._pass_on(watch)
    selector._pass_on(watch)
    assert len(selector._ready) == 0
