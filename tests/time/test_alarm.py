"""The alarm: one task a run wakes what is parked on timers; what it costs, and the end of a run."""

from __future__ import annotations

import gc
import math
import weakref
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp._time.alarm import _MIN_HEAP_TO_CLEAN, Alarm, current_alarm
from tests.time._waiting import StandingClock, Waiting, next_deadline

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


@pytest.fixture
def standing_clock() -> StandingClock:
    """The clock of a test that asks for it: a clock that does not jump, as the real one."""
    return StandingClock()


class Bell:
    """Something the alarm rings that is no timer."""

    def __init__(self, deadline: float, ring: Callable[[], None]) -> None:
        self._deadline = deadline
        self._entry: float | None = None
        self._armed = True
        self._awaited = False
        self._due = ring


@pytest.mark.parametrize("cancel_first", [False, True])
async def test_a_timer_and_a_cancellation_in_one_tick_give_the_value_exactly_once(
    autojump_clock: MockClock, cancel_first: bool
) -> None:
    channel = csp.after("1s")
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        # The alarm rings both in one step, in the order they were armed.
        if cancel_first:
            current_alarm().arm(Bell(1, lambda: scope.cancel()))  # noqa: PLW0108  # scope comes later
        scope = await waiting.start(channel.receive)
        if not cancel_first:
            current_alarm().arm(Bell(1, scope.cancel))
        await trio.sleep(1)
        await wait_all_tasks_blocked()
        assert scope.cancel_called
    if cancel_first:
        assert waiting.times == []
        assert channel.receive_nowait() == (1, True)
    else:
        assert waiting.times == [(1, (1, True))]
        with pytest.raises(trio.WouldBlock):
            channel.receive_nowait()


# Several deadlines ----------------------------------------------------------------------------------------------------


async def test_an_earlier_timer_moves_the_alarm_forward(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        scope = await waiting.start(csp.after("100h").receive)
        await waiting.start(csp.after("1s").receive)
        await trio.sleep(2)
        assert waiting.times == [(1, (1, True))]
        scope.cancel()


async def test_two_timers_with_one_deadline_both_fire(autojump_clock: MockClock) -> None:
    first, second = csp.after("1s"), csp.after("1s")
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        await waiting.start(first.receive)
        await waiting.start(second.receive)
    assert waiting.times == [(1, (1, True))] * 2


def test_timers_work_in_one_run_after_another() -> None:
    async def main() -> None:
        begun = trio.current_time()
        with csp.Selector(csp.tick("1s").case_receive()) as selector:
            assert (await csp.after("1.5s").receive()).value == begun + 1.5
            assert (await selector.select()).value == begun + 1

    for _ in range(2):
        trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_run_ends_while_timers_are_waited_for() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(csp.after("1h").receive)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)


# The heap -------------------------------------------------------------------------------------------------------------


async def test_nothing_runs_for_a_timer_that_nobody_waits_for(mock_clock: MockClock) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    timers: list[object] = [csp.after("1s"), csp.Timer("1s"), csp.Ticker("1s"), csp.tick("1s")]
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    for reference in [weakref.ref(timer) for timer in timers if isinstance(timer, csp.TimerChannel)]:
        timers.clear()
        gc.collect()
        assert reference() is None


async def test_one_task_a_run_serves_all_timers(autojump_clock: MockClock) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    for _ in range(10):
        await csp.select(csp.after("1s").case_receive(), csp.tick("1h").case_receive())
    assert trio.lowlevel.current_statistics().tasks_living == tasks + 1
    assert current_alarm() is current_alarm()


async def test_the_heap_stays_small_when_timers_are_replaced_before_they_are_due(standing_clock: StandingClock) -> None:
    channel = csp.Channel[int]()
    alarm = current_alarm()
    references: list[weakref.ref[object]] = []

    async def produce() -> None:
        for value in range(10_000):
            await channel.send(value)

    async def select() -> None:
        timeout = csp.after("30s")
        references.append(weakref.ref(timeout))
        assert (await csp.select(timeout.case_receive(), channel.case_receive())).channel is channel

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        for _ in range(10_000):
            await select()
            assert len(alarm._heap) <= _MIN_HEAP_TO_CLEAN + 1
    gc.collect()
    assert alarm._armed == 0
    assert sum(reference() is not None for reference in references) <= _MIN_HEAP_TO_CLEAN + 1


async def test_cleaning_keeps_the_timers_that_are_waited_for(standing_clock: StandingClock) -> None:
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        timers = [csp.Timer(f"{second + 10}s") for second in range(50)]
        for timer in timers:
            await waiting.start(timer.channel.receive)
        moved = timers[::2]
        for timer in moved:
            # The entries of the first time are stale, those of the second are dropped and made again.
            timer.reset("200s")
            timer.reset("300s")
            timer.reset("200s")
        for _ in range(300):
            with trio.CancelScope() as scope:
                scope.cancel()
                await csp.after("1s").receive()
        assert len(current_alarm()._heap) <= 2 * 50 + 2
        for second in range(201):
            standing_clock.time = second
            await wait_all_tasks_blocked()
    assert [time for time, _ in waiting.times] == [second + 10 for second in range(1, 50, 2)] + [200] * 25


async def test_a_timer_can_be_waited_for_again_after_its_entry_was_cleaned(standing_clock: StandingClock) -> None:
    channel = csp.after("50s")

    async def give_up(timer: csp.TimerChannel) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await timer.receive()

    await give_up(channel)
    for _ in range(3 * _MIN_HEAP_TO_CLEAN):
        await give_up(csp.after("60s"))
    assert channel._entry is None
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        await waiting.start(channel.receive)
        standing_clock.time = 50
    assert waiting.times == [(50, (50, True))]


async def test_a_timer_waited_for_again_uses_its_old_entry(standing_clock: StandingClock) -> None:
    channel = csp.after("5s")
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        for _ in range(20):
            (await waiting.start(channel.receive)).cancel()
        await waiting.start(channel.receive)
        assert len(current_alarm()._heap) == 1
        standing_clock.time = 5
    assert waiting.times == [(5, (5, True))]


async def test_an_entry_nobody_waits_for_any_more_is_dropped_when_it_comes_up(standing_clock: StandingClock) -> None:
    channel = csp.after("1s")
    async with trio.open_nursery() as nursery:
        (await Waiting(nursery).start(channel.receive)).cancel()
    assert len(current_alarm()._heap) == 1
    standing_clock.time = 5
    await wait_all_tasks_blocked()
    assert current_alarm()._heap == []
    assert channel.receive_nowait() == (1, True)


async def test_a_clock_that_does_not_jump_is_woken_once_at_most_for_timers_nobody_waits_for(
    standing_clock: StandingClock,
) -> None:
    ready = csp.Channel[int](100)
    for seconds in range(1, 101):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(csp.select, ready.case_receive(), csp.after(f"{seconds}s").case_receive())
            await wait_all_tasks_blocked()
            await ready.send(seconds)
    standing_clock.time = next_deadline()
    assert 1 <= standing_clock.time <= 100
    await wait_all_tasks_blocked()
    assert next_deadline() == math.inf


# Timers that nobody waits for any more, and a clock that jumps ------------------------------------------------------


async def test_a_timer_takes_its_deadline_along_when_a_select_performs_another_case(autojump_clock: MockClock) -> None:
    ready = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(csp.select, ready.case_receive(), csp.after("1h").case_receive())
        await wait_all_tasks_blocked()
        assert next_deadline() == 3600
        await ready.send(1)
    assert next_deadline() == math.inf


@pytest.mark.parametrize("make", [lambda: csp.Timer("1h"), lambda: csp.Ticker("1h")])
async def test_a_timer_that_is_stopped_or_set_again_takes_its_deadline_along(
    autojump_clock: MockClock, make: Callable[[], csp.Timer | csp.Ticker]
) -> None:
    timer = make()
    async with trio.open_nursery() as nursery:
        scope = await Waiting(nursery).start(timer.channel.receive)
        assert next_deadline() == 3600
        timer.reset("3h")
        assert next_deadline() == 3 * 3600
        timer.reset("2h")
        assert next_deadline() == 2 * 3600
        timer.stop()
        assert next_deadline() == math.inf
        timer.reset("2h")
        assert next_deadline() == 2 * 3600
        scope.cancel()
        await wait_all_tasks_blocked()
        assert next_deadline() == math.inf


async def test_the_first_timer_that_is_waited_for_sets_the_deadline_whichever_leaves(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        scopes = {hours: await waiting.start(csp.after(f"{hours}h").receive) for hours in (3, 1, 2, 4)}
        for left, first in ((2, 1), (1, 3), (3, 4), (4, math.inf)):
            scopes[left].cancel()
            await wait_all_tasks_blocked()
            assert next_deadline() == first * 3600


async def test_a_timer_that_rings_leaves_the_deadline_of_the_first_that_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        await waiting.start(csp.after("1h").receive)
        gone = await waiting.start(csp.after("2h").receive)
        last = await waiting.start(csp.after("3h").receive)
        gone.cancel()
        await csp.after("1h").receive()
        assert next_deadline() == 2 * 3600
        last.cancel()


async def test_a_timer_that_was_set_to_a_later_time_leaves_no_deadline_of_the_earlier_one(
    autojump_clock: MockClock,
) -> None:
    timer = csp.Timer("2h")
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        first = await waiting.start(csp.after("1h").receive)
        last = await waiting.start(timer.channel.receive)
        timer.reset("3h")
        first.cancel()
        await wait_all_tasks_blocked()
        assert next_deadline() == 3 * 3600
        last.cancel()


@pytest.mark.parametrize("leave", ["close", "remove"])
async def test_a_timer_takes_its_deadline_along_when_its_selector_lets_go_of_it(
    autojump_clock: MockClock, leave: str
) -> None:
    ticks = csp.tick("1h")
    selector = csp.Selector(ticks, csp.Channel[int]())
    await csp.after("1ms").receive()
    assert next_deadline() == 3600 - 0.001
    if leave == "close":
        selector.close()
    else:
        selector.remove(ticks)
    assert next_deadline() == math.inf


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_timer_takes_its_deadline_along_when_its_selector_is_garbage_collected(
    mock_clock: MockClock, in_thread: bool
) -> None:
    ticks = csp.tick("1h")
    selectors = [csp.Selector(ticks), csp.Selector(ticks, csp.after("2h"))]

    def forget_one() -> None:
        del selectors[-1]

    await wait_all_tasks_blocked()
    assert next_deadline() == 3600
    while selectors:
        # The garbage collector may run in any thread.
        await trio.to_thread.run_sync(forget_one) if in_thread else forget_one()
        await wait_all_tasks_blocked()
        assert next_deadline() == (3600 if selectors else math.inf)


async def test_a_selector_is_garbage_collected_after_its_timer_has_rung(autojump_clock: MockClock) -> None:
    timer = csp.after("1s")
    selector = csp.Selector(timer)
    await trio.sleep(2)
    del selector
    assert await timer.receive() == (1, True)


def test_a_selector_with_a_timer_is_garbage_collected_after_its_run() -> None:
    async def main() -> csp.Selector[float]:
        selector = csp.Selector(csp.tick("1h"))
        await csp.after("1ms").receive()
        return selector

    selector = trio.run(main, clock=MockClock(autojump_threshold=0))
    reference = weakref.ref(selector)
    del selector
    gc.collect()
    assert reference() is None


async def test_a_loop_of_selects_with_timers_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    channel = csp.Channel[int]()
    async with trio.open_nursery() as nursery:
        for value in range(1000):
            nursery.start_soon(channel.send, value)
            await csp.select(channel.case_receive(), csp.after("1h").case_receive())
            assert len(current_alarm()._heap) == 0
    assert trio.current_time() == 0


async def test_the_count_of_armed_timers_is_exact(autojump_clock: MockClock) -> None:
    alarm = current_alarm()
    timer, ticker = csp.Timer("1s"), csp.Ticker("1s")
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        await waiting.start(timer.channel.receive)
        assert alarm._armed == 1
        scope = await waiting.start(ticker.channel.receive)
        assert alarm._armed == 2
        timer.reset("5s")
        assert alarm._armed == 2
        ticker.stop()
        assert alarm._armed == 1
        ticker.reset("50s")
        assert alarm._armed == 2
        scope.cancel()
        await wait_all_tasks_blocked()
        assert alarm._armed == 1
    assert alarm._armed == 0


async def test_an_alarm_starts_with_its_first_deadline_and_takes_an_earlier_one(autojump_clock: MockClock) -> None:
    rung: list[float] = []
    alarm = Alarm()
    alarm.arm(Bell(3, lambda: rung.append(trio.current_time())))
    await trio.sleep(1)
    alarm.arm(Bell(2, lambda: rung.append(trio.current_time())))
    await trio.sleep(10)
    assert rung == [2, 3]


# The end of a run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used_before", [True, False])
@pytest.mark.parametrize("by_selector", [True, False])
def test_a_shielded_clean_up_of_a_system_task_gets_its_timer(used_before: bool, by_selector: bool) -> None:
    received: list[float] = []

    async def system_task() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                timer = csp.after("5s")
                if by_selector:
                    received.append((await csp.Selector(timer.case_receive()).select()).value)
                else:
                    received.append((await timer.receive()).value)

    async def main() -> None:
        trio.lowlevel.spawn_system_task(system_task)
        await trio.sleep(1)
        if used_before:
            await csp.after("1s").receive()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert received == [7 if used_before else 6]


def test_a_timer_in_the_finalizer_of_an_async_generator_is_cancelled_like_everything_there() -> None:
    ended: list[str] = []

    async def generator() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            try:
                await csp.after("5s").receive()
            except trio.Cancelled:
                ended.append("cancelled")
                raise

    kept: list[object] = []

    async def main() -> None:
        started = generator()
        kept.append(started)
        await anext(started)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert ended == ["cancelled"]


# Finalizers, at moments that must be made here ------------------------------------------------------------------------


class Dropped(Bell):
    """Disarmed, and taken off the heap by others just when the alarm asks for it."""

    def __init__(self, alarm: Alarm) -> None:
        super().__init__(1, lambda: None)
        self._alarm = alarm
        self._asked = False

    @property
    def _armed(self) -> bool:
        if not self._asked:
            self._asked = True
            self._alarm._next_deadline()
        return False

    @_armed.setter
    def _armed(self, armed: bool) -> None:
        pass


async def test_an_entry_that_a_finalizer_takes_off_the_heap_takes_no_other_along(autojump_clock: MockClock) -> None:
    alarm = current_alarm()
    rung: list[float] = []
    alarm.arm(Dropped(alarm))
    alarm.arm(Bell(2, lambda: rung.append(trio.current_time())))
    await trio.sleep(3)
    assert rung == [2]


async def test_disarming_the_first_timer_after_a_finalizer_has_emptied_the_heap_is_no_error(
    autojump_clock: MockClock,
) -> None:
    alarm = current_alarm()
    bell = Bell(1, lambda: None)
    alarm.arm(bell)
    bell._armed = False
    alarm._next_deadline()
    alarm.disarm(bell)
    assert alarm._heap == []
