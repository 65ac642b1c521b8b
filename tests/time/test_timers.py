"""Timers: Go 1.23 semantics, the ticker's grid, the alarm that wakes what is parked."""

from __future__ import annotations

import contextlib
import gc
import math
import weakref
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp import errors
from csp._core import select
from csp._time import timers
from csp._time.alarm import _MIN_HEAP_TO_CLEAN, Alarm, current_alarm

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from csp import SelectResult


class Waiting:
    """Tasks that wait for one value each, started one after the other."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.times: list[tuple[float, Any]] = []

    async def start(self, operation: Callable[[], Awaitable[Any]]) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                value = await operation()
                self.times.append((trio.current_time(), value))

        self.nursery.start_soon(run)
        await wait_all_tasks_blocked()
        return scope


async def is_silent(channel: csp.TimerChannel, seconds: float = 1_000_000) -> bool:
    """Tell whether nothing is received for a long time."""
    with trio.move_on_after(seconds):
        await channel.receive()
        return False
    return True


# after ----------------------------------------------------------------------------------------------------------------


async def test_after_gives_its_deadline_once_and_falls_silent(autojump_clock: MockClock) -> None:
    channel = csp.after("30s")
    assert await channel.receive() == (30, True)
    assert trio.current_time() == 30
    assert not channel.closed
    assert await is_silent(channel)


async def test_after_takes_a_timedelta(autojump_clock: MockClock) -> None:
    assert await csp.after(timedelta(minutes=1)).receive() == (60, True)


async def test_after_gives_the_deadline_however_late_it_is_received(mock_clock: MockClock) -> None:
    channel = csp.after("1s")
    mock_clock.jump(5)
    assert channel.receive_nowait() == (1, True)
    with pytest.raises(trio.WouldBlock):
        channel.receive_nowait()


async def test_after_is_not_ready_before_its_time(mock_clock: MockClock) -> None:
    channel = csp.after("1s")
    mock_clock.jump(math.nextafter(1, 0))
    with pytest.raises(trio.WouldBlock):
        channel.receive_nowait()
    mock_clock.jump(1 - trio.current_time())
    assert channel.receive_nowait() == (1, True)


@pytest.mark.parametrize(("duration", "due"), [("0", 3), ("0s", 3), ("-1s", 2), (timedelta(0), 3)])
async def test_after_nothing_is_ready_at_once(mock_clock: MockClock, duration: csp.Duration, due: float) -> None:
    mock_clock.jump(3)
    channel = csp.after(duration)
    assert (await csp.select(channel.case_receive(), default=True)).value == due


async def test_a_waiting_receive_on_after_can_be_cancelled_without_loss(autojump_clock: MockClock) -> None:
    channel = csp.after("2s")
    with trio.move_on_after(1) as scope:
        await channel.receive()
    assert scope.cancelled_caught
    assert await channel.receive() == (2, True)


async def test_a_receive_in_a_cancelled_scope_leaves_a_due_timer_due(mock_clock: MockClock) -> None:
    channel = csp.after("1s")
    mock_clock.jump(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.receive()
    assert scope.cancelled_caught
    assert channel.receive_nowait() == (1, True)


class Bell:
    """Something the alarm rings that is no timer."""

    def __init__(self, ring: Callable[[], None]) -> None:
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
            current_alarm().arm(Bell(lambda: scope.cancel()), 1)  # noqa: PLW0108  # scope comes later
        scope = await waiting.start(channel.receive)
        if not cancel_first:
            current_alarm().arm(Bell(scope.cancel), 1)
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


async def test_waiting_receivers_of_after_are_served_first_come_and_once(autojump_clock: MockClock) -> None:
    channel = csp.after("1s")
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        for name in "ab":
            await waiting.start(lambda name=name: named(name, channel))  # type: ignore[misc]  # the default binds it
        await trio.sleep(10)
        assert waiting.times == [(1, ("a", 1))]
        nursery.cancel_scope.cancel()


async def named(name: str, channel: csp.TimerChannel) -> tuple[str, float]:
    return name, (await channel.receive()).value


async def test_after_in_a_select_loses_to_a_value_and_wins_over_silence(autojump_clock: MockClock) -> None:
    channel = csp.Channel[int]()
    timeout = csp.after("5s")
    async with trio.open_nursery() as nursery:

        async def produce() -> None:
            await trio.sleep(1)
            await channel.send(1)

        nursery.start_soon(produce)
        first = await csp.select(channel.case_receive(), timeout.case_receive())
        second = await csp.select(channel.case_receive(), timeout.case_receive())
    assert first.channel is channel
    assert second.channel is timeout
    assert second == (timeout, 5, True, False, 1)
    assert trio.current_time() == 5
    assert channel.statistics().tasks_waiting_receive == 0


# Timer ----------------------------------------------------------------------------------------------------------------


async def test_a_timer_gives_its_deadline_once(autojump_clock: MockClock) -> None:
    timer = csp.Timer("2s")
    assert await timer.channel.receive() == (2, True)
    assert await is_silent(timer.channel)
    assert not timer.channel.closed


async def test_stop_is_true_while_the_timer_runs(autojump_clock: MockClock) -> None:
    timer = csp.Timer("2s")
    assert timer.stop() is True
    assert await is_silent(timer.channel)


async def test_stop_is_true_when_the_value_was_not_taken_and_drops_it(mock_clock: MockClock) -> None:
    timer = csp.Timer("2s")
    mock_clock.jump(3)
    assert timer.stop() is True
    with pytest.raises(trio.WouldBlock):
        timer.channel.receive_nowait()


async def test_stop_is_false_when_there_is_nothing_to_stop(mock_clock: MockClock) -> None:
    timer = csp.Timer("2s")
    timer.stop()
    assert timer.stop() is False
    timer.reset("1s")
    mock_clock.jump(1)
    timer.channel.receive_nowait()
    assert timer.stop() is False


async def test_reset_moves_a_running_timer(autojump_clock: MockClock) -> None:
    timer = csp.Timer("2s")
    await trio.sleep(1)
    assert timer.reset("5s") is True
    assert await timer.channel.receive() == (6, True)


async def test_reset_drops_a_value_that_was_not_taken(mock_clock: MockClock) -> None:
    timer = csp.Timer("2s")
    mock_clock.jump(3)
    assert timer.reset("5s") is True
    with pytest.raises(trio.WouldBlock):
        timer.channel.receive_nowait()
    mock_clock.jump(5)
    assert timer.channel.receive_nowait() == (8, True)


async def test_reset_arms_a_timer_that_has_fired_or_was_stopped(autojump_clock: MockClock) -> None:
    timer = csp.Timer("2s")
    await timer.channel.receive()
    assert timer.reset("1s") is False
    assert await timer.channel.receive() == (3, True)
    timer.reset("1s")
    timer.stop()
    assert timer.reset("4s") is False
    assert await timer.channel.receive() == (7, True)


@pytest.mark.parametrize(("duration", "due"), [("1s", 2), ("9s", 10)])
@pytest.mark.parametrize("how", ["receive", "select", "selector"])
async def test_reset_under_a_parked_waiter_sets_its_time(
    autojump_clock: MockClock, duration: str, due: float, how: str
) -> None:
    timer = csp.Timer("5s")
    with csp.Selector[float]() as selector:
        async with trio.open_nursery() as nursery:
            waiting = Waiting(nursery)
            if how == "receive":
                await waiting.start(timer.channel.receive)
            elif how == "select":
                await waiting.start(lambda: csp.select(timer.channel.case_receive()))
            else:
                selector.add(timer.channel.case_receive())
                await waiting.start(selector.select)
            await trio.sleep(1)
            timer.reset(duration)
    ((time, result),) = waiting.times
    assert (time, result.value) == (due, due)


@pytest.mark.parametrize("how", ["receive", "selector"])
async def test_stop_under_a_parked_waiter_then_reset(autojump_clock: MockClock, how: str) -> None:
    timer = csp.Timer("1s")
    with csp.Selector(timer.channel.case_receive()) as selector:
        async with trio.open_nursery() as nursery:
            waiting = Waiting(nursery)
            await waiting.start(timer.channel.receive if how == "receive" else selector.select)
            assert timer.stop()
            await trio.sleep(10)
            assert waiting.times == []
            assert not timer.reset("1s")
    ((time, result),) = waiting.times
    assert (time, result.value) == (11, 11)


async def test_a_second_waiter_of_a_timer_is_served_after_a_reset(autojump_clock: MockClock) -> None:
    timer = csp.Timer("1s")
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        await waiting.start(timer.channel.receive)
        await waiting.start(timer.channel.receive)
        await trio.sleep(5)
        assert waiting.times == [(1, (1, True))]
        timer.reset("1s")
    assert waiting.times == [(1, (1, True)), (6, (6, True))]


async def test_a_reset_back_and_forth_fires_once_at_the_last_time(autojump_clock: MockClock) -> None:
    timer = csp.Timer("5s")
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        await waiting.start(timer.channel.receive)
        for duration in ("9s", "5s", "2s", "5s", "9s", "5s"):
            timer.reset(duration)
        await waiting.start(timer.channel.receive)
        await trio.sleep(100)
        assert waiting.times == [(5, (5, True))]
        nursery.cancel_scope.cancel()


async def test_reset_with_a_bad_duration_changes_nothing(autojump_clock: MockClock) -> None:
    timer, ticker = csp.Timer("1s"), csp.Ticker("1s")
    for reset in (timer.reset, ticker.reset):
        with pytest.raises(errors.InvalidError):
            reset("0s")
    assert await timer.channel.receive() == (1, True)
    assert [(await ticker.channel.receive()).value for _ in range(2)] == [1, 2]


async def test_a_receive_ahead_of_the_alarm_leaves_the_parked_waiter_waiting(mock_clock: MockClock) -> None:
    timer = csp.Timer("1s")
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        await waiting.start(timer.channel.receive)
        mock_clock.jump(2)
        # In the same tick: the alarm has not rung yet.
        taken: list[float] = []
        with contextlib.suppress(trio.WouldBlock):
            taken.append(timer.channel.receive_nowait().value)
        await wait_all_tasks_blocked()
        values = taken + [received.value for _, received in waiting.times]
        assert values == [1]
        nursery.cancel_scope.cancel()


# Ticker ---------------------------------------------------------------------------------------------------------------


async def test_a_ticker_ticks_on_its_grid(autojump_clock: MockClock) -> None:
    ticker = csp.Ticker("2s")
    ticks = [(await ticker.channel.receive()).value for _ in range(5)]
    assert ticks == [2, 4, 6, 8, 10]
    assert trio.current_time() == 10


async def test_tick_is_the_channel_of_a_ticker(autojump_clock: MockClock) -> None:
    channel = csp.tick("2s")
    assert [await anext(channel) for _ in range(3)] == [2, 4, 6]


async def test_a_late_receiver_gets_the_latest_tick_and_stays_on_the_grid(mock_clock: MockClock) -> None:
    channel = csp.tick("2s")
    mock_clock.jump(9)
    assert channel.receive_nowait() == (8, True)
    with pytest.raises(trio.WouldBlock):
        channel.receive_nowait()
    mock_clock.jump(1)
    assert channel.receive_nowait() == (10, True)


async def test_a_late_alarm_gives_the_latest_tick(mock_clock: MockClock) -> None:
    channel = csp.tick("2s")
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        await waiting.start(channel.receive)
        mock_clock.jump(9)
    assert waiting.times == [(9, (8, True))]


async def test_two_receivers_of_a_ticker_get_a_tick_each(autojump_clock: MockClock) -> None:
    channel = csp.tick("2s")
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        await waiting.start(channel.receive)
        await waiting.start(channel.receive)
    assert waiting.times == [(2, (2, True)), (4, (4, True))]


@pytest.mark.parametrize("how", ["receive", "selector"])
async def test_a_receive_ahead_of_the_alarm_does_not_bring_a_tick_forward(mock_clock: MockClock, how: str) -> None:
    channel = csp.tick("1s")
    with csp.Selector(channel.case_receive()) as selector:
        async with trio.open_nursery() as nursery:
            waiting = Waiting(nursery)
            await waiting.start(channel.receive if how == "receive" else selector.select)
            mock_clock.jump(2.5)
            # In the same tick: the alarm has not rung yet.
            taken: list[float] = []
            with contextlib.suppress(trio.WouldBlock):
                taken.append(channel.receive_nowait().value)
            await wait_all_tasks_blocked()
            assert taken + [result.value for _, result in waiting.times] == [2]
            await waiting.start(selector.select)
            mock_clock.jump(0.5)
            await wait_all_tasks_blocked()
            assert taken + [result.value for _, result in waiting.times] == [2, 3]
            nursery.cancel_scope.cancel()


async def test_a_tick_taken_ahead_of_the_alarm_does_not_silence_a_selector(mock_clock: MockClock) -> None:
    channel = csp.tick("1s")
    with csp.Selector(channel.case_receive()) as selector:
        await wait_all_tasks_blocked()
        mock_clock.jump(2.5)
        assert channel.receive_nowait() == (2, True)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            waiting = Waiting(nursery)
            await waiting.start(selector.select)
            assert waiting.times == []
            mock_clock.jump(0.5)
            await wait_all_tasks_blocked()
            assert [result.value for _, result in waiting.times] == [3]
            nursery.cancel_scope.cancel()


async def test_a_stopped_ticker_is_silent_until_reset(autojump_clock: MockClock) -> None:
    ticker = csp.Ticker("2s")
    await trio.sleep(3)
    assert ticker.stop() is True
    assert ticker.stop() is False
    assert await is_silent(ticker.channel, 97)
    assert ticker.reset("5s") is False
    assert [(await ticker.channel.receive()).value for _ in range(2)] == [105, 110]


async def test_reset_starts_a_new_grid_now(autojump_clock: MockClock) -> None:
    ticker = csp.Ticker("2s")
    await trio.sleep(5)
    assert ticker.reset("3s") is True
    assert [(await ticker.channel.receive()).value for _ in range(3)] == [8, 11, 14]


@pytest.mark.parametrize(("start", "period"), [(0.1, 0.1), (0.3, 0.1), (1.7, 0.3), (123456.789, 0.001), (0.1, 1 / 3)])
async def test_thousands_of_ticks_stay_on_the_grid(autojump_clock: MockClock, start: float, period: float) -> None:
    autojump_clock.jump(start)
    channel = csp.tick(timedelta(seconds=period))
    period = timedelta(seconds=period).total_seconds()
    begun = trio.current_time()
    for number in range(1, 3001):
        tick = (await channel.receive()).value
        assert tick == begun + number * period
        assert tick == trio.current_time()


@pytest.mark.parametrize(("start", "period"), [(0.1, 0.1), (0.3, 0.1), (1.7, 0.3), (123456.789, 0.001)])
@pytest.mark.parametrize("offset", ["just before", "exactly", "just after"])
def test_a_late_tick_is_the_latest_due_and_never_early(start: float, period: float, offset: str) -> None:
    moves: dict[str, Callable[[float], float]] = {
        "just before": lambda time: math.nextafter(time, -math.inf),
        "exactly": lambda time: time,
        "just after": lambda time: math.nextafter(time, math.inf),
    }
    for number in range(3, 3000):
        channel = timers.TickerChannel(start, period)
        now = moves[offset](start + number * period)
        due = number - (offset == "just before")
        assert channel._expire(now) == (start + due * period, start + (due + 1) * period)


# never ----------------------------------------------------------------------------------------------------------------


async def test_never_gives_nothing(autojump_clock: MockClock) -> None:
    channel = csp.never()
    with pytest.raises(trio.WouldBlock):
        channel.receive_nowait()
    with trio.move_on_after(1_000_000) as scope:
        await channel.receive()
    assert scope.cancelled_caught
    assert not channel.closed
    assert repr(channel) == "<csp.never()>"


async def test_never_collects_no_waiters() -> None:
    class Value:
        pass

    channel = csp.Channel[Value | None]()
    references: list[weakref.ref[Value]] = []

    async def produce() -> None:
        for _ in range(1000):
            await channel.send(None)

    async def select() -> None:
        value = Value()
        references.append(weakref.ref(value))
        # The waiter holds the cases, and with them the value.
        unready = csp.Channel[Value]().case_send(value)
        await csp.select(csp.never().case_receive(), channel.case_receive(), unready)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        for _ in range(1000):
            await select()
    gc.collect()
    assert [reference for reference in references if reference() is not None] == []


async def test_never_keeps_nobody_even_while_they_wait() -> None:
    # It is one object for all runs and threads.
    with csp.Selector(csp.never().case_receive()) as selector:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(csp.never().receive)
            nursery.start_soon(lambda: csp.select(csp.never().case_receive()))
            nursery.start_soon(selector.select)
            await wait_all_tasks_blocked()
            assert csp.never()._receivers is None
            assert csp.never()._watches == ()
            nursery.cancel_scope.cancel()


async def test_never_collects_no_selectors() -> None:
    references: list[weakref.ref[object]] = []

    async def select() -> None:
        with csp.Selector(csp.never().case_receive(), csp.after("0s").case_receive()) as selector:
            references.append(weakref.ref(selector))
            assert (await selector.select()).index == 1

    for _ in range(10):
        await select()
    gc.collect()
    assert [reference for reference in references if reference() is not None] == []


def test_never_is_usable_in_one_run_after_another() -> None:
    async def main() -> None:
        with trio.move_on_after(1):
            await csp.never().receive()

    for _ in range(2):
        trio.run(main, clock=MockClock(autojump_threshold=0))


# Arguments ------------------------------------------------------------------------------------------------------------

MAKERS: list[Callable[[Any], object]] = [csp.after, csp.Timer, csp.Ticker, csp.tick]
SETTERS: list[Callable[[Any], object]] = [
    *MAKERS,
    lambda duration: csp.Timer("1s").reset(duration),
    lambda duration: csp.Ticker("1s").reset(duration),
]


@pytest.mark.parametrize("make", SETTERS)
@pytest.mark.parametrize("number", [30, 0.5, 0, -1])
async def test_a_number_is_a_type_error_that_says_what_to_write(make: Callable[[Any], object], number: float) -> None:
    with pytest.raises(TypeError, match=f'write "{number}s" or "{number}ms"') as caught:
        make(number)
    assert errors.is_kind(caught.value, errors.INVALID)


@pytest.mark.parametrize("make", SETTERS)
@pytest.mark.parametrize("duration", [math.nan, math.inf, None, "", "5", "1y", "5s??5s", "3000000h", timedelta.max])
async def test_a_malformed_duration_is_invalid(make: Callable[[Any], object], duration: object) -> None:
    with pytest.raises(errors.InvalidError) as caught:
        make(duration)
    assert caught.value.kind is errors.INVALID


@pytest.mark.parametrize("make", SETTERS[1:])
@pytest.mark.parametrize("duration", ["0", "0s", "-1s", timedelta(0), timedelta(seconds=-1)])
async def test_only_after_takes_a_duration_that_is_not_above_zero(
    make: Callable[[Any], object], duration: csp.Duration
) -> None:
    with pytest.raises(errors.InvalidError, match="must be above 0"):
        make(duration)


@pytest.mark.parametrize("make", MAKERS)
def test_outside_of_a_run_there_is_no_clock(make: Callable[[Any], object]) -> None:
    with pytest.raises(errors.NoContextError, match=r"inside trio\.run") as caught:
        make("1s")
    assert caught.value.kind is errors.INTERNAL
    assert isinstance(caught.value, RuntimeError)


async def test_repr_shows_the_state(autojump_clock: MockClock) -> None:
    channel = csp.after("1.5s")
    assert "AfterChannel due at 1.500" in repr(channel)
    await channel.receive()
    assert "AfterChannel silent" in repr(channel)


# Several timers -------------------------------------------------------------------------------------------------------


async def test_timers_are_received_in_the_order_of_their_deadlines(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery)
        for duration in ("3s", "1s", "2s"):
            await waiting.start(csp.after(duration).receive)
    assert [time for time, _ in waiting.times] == [1, 2, 3]


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


async def test_the_timer_that_loses_a_select_keeps_its_value(autojump_clock: MockClock) -> None:
    first, second = csp.after("1s"), csp.after("1s")
    cases = (first.case_receive(), second.case_receive())
    indexes = [(await csp.select(*cases)).index, (await csp.select(*cases)).index]
    assert sorted(indexes) == [0, 1]
    assert trio.current_time() == 1


async def test_priority_between_timers_that_are_due_is_the_order_of_cases(mock_clock: MockClock) -> None:
    late, early = csp.after("2s"), csp.after("1s")
    mock_clock.jump(3)
    assert (await csp.select(late.case_receive(), early.case_receive(), priority=True)).channel is late


async def test_priority_between_timers_that_fall_due_together_is_the_order_of_cases(
    autojump_clock: MockClock,
) -> None:
    first, second = csp.after("1s"), csp.after("1s")
    result = await csp.select(first.case_receive(), second.case_receive(), priority=True)
    assert result.channel is first


async def test_priority_between_timers_does_not_depend_on_who_was_waited_for_before(autojump_clock: MockClock) -> None:
    first, second = csp.after("1s"), csp.after("1s")
    with trio.move_on_after(0.5):
        await second.receive()
    result = await csp.select(first.case_receive(), second.case_receive(), priority=True)
    assert result.channel is first


async def test_priority_between_timers_that_are_noticed_together_is_the_order_of_cases(mock_clock: MockClock) -> None:
    async def select(late: csp.TimerChannel, early: csp.TimerChannel) -> None:
        result = await csp.select(late.case_receive(), early.case_receive(), priority=True)
        assert result.channel is late

    for _ in range(20):
        late, early = csp.after("2s"), csp.after("1s")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(select, late, early)
            await wait_all_tasks_blocked()
            mock_clock.jump(3)
        early.receive_nowait()


async def test_parked_timers_with_one_deadline_are_chosen_uniformly(autojump_clock: MockClock) -> None:
    state = select._rng.getstate()
    select._rng.seed(20_240)
    chosen = Counter(
        [(await csp.select(*(csp.after("1s").case_receive() for _ in range(3)))).index for _ in range(300)]
    )
    select._rng.setstate(state)
    assert all(60 < chosen[index] < 140 for index in range(3)), chosen


async def collect(order: list[str], name: str, operation: Callable[[], Awaitable[object]]) -> None:
    """Perform an operation again and again, noting its name for each value."""
    while True:
        await operation()
        order.append(name)


async def test_plain_receivers_and_a_parked_selector_take_turns_on_a_ticker(autojump_clock: MockClock) -> None:
    channel = csp.tick("1s")
    order: list[str] = []
    with csp.Selector(channel.case_receive()) as selector:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, order, "plain", channel.receive)
            nursery.start_soon(collect, order, "selector", selector.select)
            await trio.sleep(6.5)
            nursery.cancel_scope.cancel()
    assert order in (["plain", "selector"] * 3, ["selector", "plain"] * 3)


async def test_two_parked_selectors_take_turns_on_a_ticker(autojump_clock: MockClock) -> None:
    channel = csp.tick("1s")
    order: list[str] = []
    with csp.Selector(channel.case_receive()) as a, csp.Selector(channel.case_receive()) as b:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, order, "a", a.select)
            nursery.start_soon(collect, order, "b", b.select)
            await trio.sleep(6.5)
            nursery.cancel_scope.cancel()
    assert "".join(order) in ("ababab", "bababa")


async def test_a_select_asks_all_timers_about_one_moment(mock_clock: MockClock) -> None:
    class Slow(csp.Source[int]):
        """Lets the clock run while it is asked."""

        def is_ready(self, moment: csp.Moment) -> bool:
            moment.time()
            mock_clock.jump(10)
            return False

        def receive_nowait(self) -> csp.Received[int]:
            raise trio.WouldBlock

    result = await csp.select(
        Slow().case_receive(),
        csp.after("5s").case_receive(),
        default=True,
        priority=True,
    )
    assert result.default


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


# Timers in a selector -------------------------------------------------------------------------------------------------


async def test_a_fired_after_leaves_a_selector(autojump_clock: MockClock) -> None:
    first, second = csp.after("1s"), csp.after("2s")
    with csp.Selector(first.case_receive(), second.case_receive()) as selector:
        results = [(result.index, result.value) async for result in selector]
    assert results == [(0, 1), (1, 2)]


@pytest.mark.parametrize("ring", [False, True])
async def test_a_fired_after_leaves_a_selector_in_which_nobody_was_parked(mock_clock: MockClock, ring: bool) -> None:
    with csp.Selector(csp.after("1s").case_receive()) as selector:
        await wait_all_tasks_blocked()
        mock_clock.jump(2)
        if ring:
            await wait_all_tasks_blocked()
        assert (await selector.select()).value == 1
        assert len(selector) == 0
        assert [result async for result in selector] == []


async def test_an_after_that_is_due_already_can_be_added(mock_clock: MockClock) -> None:
    with csp.Selector(csp.after("0s").case_receive(), csp.after("0s").case_receive()) as selector:
        assert sorted([result.index async for result in selector]) == [0, 1]


async def test_adding_a_due_after_wakes_a_parked_iteration_and_ends_it(mock_clock: MockClock) -> None:
    channel = csp.Channel[Any]()
    selector = csp.Selector[Any](channel.case_receive())
    results: list[SelectResult[Any]] = []

    async def iterate() -> None:
        results.extend([result async for result in selector])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(iterate)
        await wait_all_tasks_blocked()
        selector.add(csp.after("0s").case_receive())
        selector.remove(channel.case_receive())
    assert [result.value for result in results] == [0]


async def test_a_fired_timer_stays_in_a_selector(autojump_clock: MockClock) -> None:
    timer = csp.Timer("1s")
    with csp.Selector(timer.channel.case_receive()) as selector:
        assert (await selector.select()).value == 1
        assert timer.channel.case_receive() in selector
        timer.reset("1s")
        assert (await selector.select()).value == 2


async def test_a_ticker_ticks_in_a_selector(autojump_clock: MockClock) -> None:
    with csp.Selector[Any](csp.Channel[int]().case_receive(), csp.tick("2s").case_receive()) as selector:
        assert [(await selector.select()).value for _ in range(4)] == [2, 4, 6, 8]


async def test_a_tick_nobody_was_parked_for_is_kept_until_the_latest(autojump_clock: MockClock) -> None:
    with csp.Selector(csp.tick("2s").case_receive()) as selector:
        await trio.sleep(7)
        assert (await selector.select()).value == 6
        assert (await selector.select()).value == 8


async def test_a_timer_stopped_after_it_told_the_selector_gives_nothing(autojump_clock: MockClock) -> None:
    timer = csp.Timer("1s")
    with csp.Selector(timer.channel.case_receive()) as selector:
        await trio.sleep(2)
        timer.stop()
        with trio.move_on_after(10) as scope:
            await selector.select()
        assert scope.cancelled_caught
        timer.reset("1s")
        assert (await selector.select()).value == 13


async def test_a_timer_reset_after_it_told_the_selector_gives_the_new_value(autojump_clock: MockClock) -> None:
    timer = csp.Timer("1s")
    with csp.Selector(timer.channel.case_receive()) as selector:
        await trio.sleep(2)
        timer.reset("3s")
        assert (await selector.select()).value == 5
        assert trio.current_time() == 5


async def test_two_selectors_on_a_ticker_take_turns(autojump_clock: MockClock) -> None:
    channel = csp.tick("1s")
    with csp.Selector(channel.case_receive()) as first, csp.Selector(channel.case_receive()) as second:
        async with trio.open_nursery() as nursery:
            waiting = Waiting(nursery)
            await waiting.start(first.select)
            await waiting.start(second.select)
    assert [result.value for _, result in waiting.times] == [1, 2]


# The alarm ------------------------------------------------------------------------------------------------------------


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


async def test_the_heap_stays_small_when_timers_are_replaced_before_they_are_due(mock_clock: MockClock) -> None:
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


async def test_cleaning_keeps_the_timers_that_are_waited_for(autojump_clock: MockClock) -> None:
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
        await trio.sleep(100)
        assert [time for time, _ in waiting.times] == [second + 10 for second in range(1, 50, 2)]
    assert [time for time, _ in waiting.times[25:]] == [200] * 25


async def test_a_timer_can_be_waited_for_again_after_its_entry_was_cleaned(autojump_clock: MockClock) -> None:
    channel = csp.after("50s")

    async def give_up(timer: csp.TimerChannel) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await timer.receive()

    await give_up(channel)
    for _ in range(3 * _MIN_HEAP_TO_CLEAN):
        await give_up(csp.after("60s"))
    assert channel._entry is None
    assert await channel.receive() == (50, True)
    assert trio.current_time() == 50


async def test_a_timer_waited_for_again_uses_its_old_entry(autojump_clock: MockClock) -> None:
    channel = csp.after("5s")
    for _ in range(20):
        with trio.move_on_after(0.1):
            await channel.receive()
    assert len(current_alarm()._heap) == 1
    assert await channel.receive() == (5, True)


async def test_an_entry_nobody_waits_for_any_more_is_dropped_when_it_comes_up(autojump_clock: MockClock) -> None:
    channel = csp.after("1s")
    with trio.move_on_after(0.5):
        await channel.receive()
    assert len(current_alarm()._heap) == 1
    await trio.sleep(5)
    assert current_alarm()._heap == []
    assert channel.receive_nowait() == (1, True)


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
    alarm.arm(Bell(lambda: rung.append(trio.current_time())), 3)
    await trio.sleep(1)
    alarm.arm(Bell(lambda: rung.append(trio.current_time())), 2)
    await trio.sleep(10)
    assert rung == [2, 3]


async def test_reprs_say_when_a_timer_is_due(mock_clock: MockClock) -> None:
    assert repr(csp.Timer("1s")).startswith("<csp.Timer of <csp.TimerChannel due at 1.000, at 0x")
    assert repr(csp.Ticker("1s")).startswith("<csp.Ticker of <csp.TickerChannel due at 1.000, at 0x")
    stopped = csp.Timer("1s")
    stopped.stop()
    assert "silent" in repr(stopped)


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


async def test_a_select_that_leaves_a_timer_leaves_it_to_a_selector(autojump_clock: MockClock) -> None:
    timer, other = csp.Timer("1s"), csp.Channel[int](1)
    with csp.Selector(timer.channel.case_receive()) as selector:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(csp.select, timer.channel.case_receive(), other.case_receive())
            await wait_all_tasks_blocked()
            other.send_nowait(1)
        with trio.fail_after(2):
            assert (await selector.select()).channel is timer.channel
