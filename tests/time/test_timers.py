"""Timers: `after`, `Timer`, `tick`, `Ticker`, with the semantics of Go 1.23, and their arguments."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio

import csp
from csp import errors
from tests.time._waiting import Waiting, is_silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

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


async def test_reset_without_a_duration_takes_the_last_one(autojump_clock: MockClock) -> None:
    timer = csp.Timer("2s")
    await trio.sleep(1)
    assert timer.reset() is True
    assert await timer.channel.receive() == (3, True)
    timer.reset("5s")
    timer.stop()
    assert timer.reset() is False
    assert await timer.channel.receive() == (8, True)
    with pytest.raises(errors.InvalidError):
        timer.reset("0s")
    timer.reset()
    assert await timer.channel.receive() == (13, True)


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


# Ticker ---------------------------------------------------------------------------------------------------------------


async def test_a_ticker_ticks_on_its_grid(autojump_clock: MockClock) -> None:
    ticker = csp.Ticker("2s")
    ticks = [(await ticker.channel.receive()).value for _ in range(5)]
    assert ticks == [2, 4, 6, 8, 10]
    assert trio.current_time() == 10


async def test_tick_is_the_channel_of_a_ticker(autojump_clock: MockClock) -> None:
    channel = csp.tick("2s")
    assert [await anext(channel) for _ in range(3)] == [2, 4, 6]


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


async def test_reset_of_a_ticker_without_a_duration_keeps_the_last_one(autojump_clock: MockClock) -> None:
    ticker = csp.Ticker("2s")
    await trio.sleep(5)
    assert ticker.reset() is True
    assert [(await ticker.channel.receive()).value for _ in range(2)] == [7, 9]
    ticker.reset("3s")
    ticker.stop()
    await trio.sleep(1)
    assert ticker.reset() is False
    assert [(await ticker.channel.receive()).value for _ in range(2)] == [13, 16]


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
@pytest.mark.parametrize("duration", [math.nan, math.inf, "", "5", "1y", "5s??5s", "3000000h", timedelta.max])
async def test_a_malformed_duration_is_invalid(make: Callable[[Any], object], duration: object) -> None:
    with pytest.raises(errors.InvalidError) as caught:
        make(duration)
    assert caught.value.kind is errors.INVALID


@pytest.mark.parametrize("make", MAKERS)
async def test_only_reset_can_do_without_a_duration(make: Callable[[Any], object]) -> None:
    with pytest.raises(errors.InvalidTypeError, match="not None"):
        make(None)


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


async def test_reprs_say_when_a_timer_is_due(mock_clock: MockClock) -> None:
    assert repr(csp.Timer("1s")).startswith("<csp.Timer of <csp.TimerChannel due at 1.000, at 0x")
    assert repr(csp.Ticker("1s")).startswith("<csp.Ticker of <csp.TickerChannel due at 1.000, at 0x")
    stopped = csp.Timer("1s")
    stopped.stop()
    assert "silent" in repr(stopped)
