"""The channels of timers: parked tasks, selects and selectors, a late receiver, the ticker's grid."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from datetime import timedelta
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp._core import select
from csp._time import timer_channels
from csp._time.timer_channels import TimerChannel
from tests._interrupting import interrupted
from tests.time._waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from csp import SelectResult

# Parked tasks ---------------------------------------------------------------------------------------------------------


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
    assert second == (timeout, 5, True, False, 1, False)
    assert trio.current_time() == 5
    assert channel.statistics().tasks_waiting_receive == 0


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


# Tickers --------------------------------------------------------------------------------------------------------------


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
        channel = timer_channels.TickerChannel(start, period)
        now = moves[offset](start + number * period)
        due = number - (offset == "just before")
        assert channel._expire(now) == (start + due * period, start + (due + 1) * period)


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


async def test_a_select_that_leaves_a_timer_leaves_it_to_a_selector(autojump_clock: MockClock) -> None:
    timer, other = csp.Timer("1s"), csp.Channel[int](1)
    with csp.Selector(timer.channel.case_receive()) as selector:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(csp.select, timer.channel.case_receive(), other.case_receive())
            await wait_all_tasks_blocked()
            other.send_nowait(1)
        with trio.fail_after(2):
            assert (await selector.select()).channel is timer.channel


async def test_a_value_that_a_finalizer_takes_just_before_is_not_given_again(autojump_clock: MockClock) -> None:
    class Interrupted(TimerChannel):
        received: csp.Received[float] | None = None

        def _expire(self, now: float) -> tuple[float, float]:
            if self.received is None:
                self.received = csp.Received(0, False)
                self.received = self.receive_nowait()
            return super()._expire(now)

    timer = Interrupted(1)
    await trio.sleep(1)
    with pytest.raises(trio.WouldBlock):
        timer.receive_nowait()
    assert timer.received == (1, True)


@pytest.mark.parametrize("action", ["set again", "stopped and set again", "taken", "watched"])
async def test_whatever_a_finalizer_does_with_a_timer_those_that_wait_are_served(
    autojump_clock: MockClock, action: str
) -> None:
    def act() -> None:
        match action:
            case "set again":
                timer.reset("2s")
            case "stopped and set again":
                timer.stop()
                timer.reset("1s")
            case "taken":
                with contextlib.suppress(trio.WouldBlock):
                    timer.channel.receive_nowait()
                    timer.reset("1s")
            case _:
                watching.append(csp.Selector(timer.channel))

    other = csp.Channel[float]()

    async def wait(operation: Callable[[], Awaitable[csp.Received[float] | csp.SelectResult[float]]]) -> None:
        times.append((await operation()).value)
        timer.reset("1s")

    for at in count():
        timer = csp.Timer("1s")
        watching: list[csp.Selector[float]] = []
        times: list[float] = []
        start = trio.current_time()
        with csp.Selector(timer.channel) as selector, trio.fail_after(100), interrupted(at, act) as interrupting:
            with trio.move_on_after(0.5):
                await csp.select(csp.after("2s").case_receive(), timer.channel.case_receive())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, timer.channel.receive)
                select_timer = partial(csp.select, other.case_receive(), timer.channel.case_receive())
                nursery.start_soon(wait, select_timer)
                nursery.start_soon(wait, selector.select)
        assert sorted(times) == times, at
        assert all(start + 1 <= time <= trio.current_time() for time in times), at
        if not interrupting.done:
            break
