"""The timer that calls a function without a task."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import trio

import csp
from tests.websocket._peers import driver_tasks
from trio_csp_websocket.connection.timer import Timer

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_it_calls_at_its_time_and_can_be_set_again(autojump_clock: MockClock) -> None:
    called: list[float] = []

    def call() -> None:
        called.append(trio.current_time())
        if len(called) < 3:
            timer.set(trio.current_time() + 5)

    timer = Timer(call)
    assert not timer.is_set
    timer.set(10)
    assert timer.is_set
    await trio.sleep(100)
    assert called == [10, 15, 20]
    assert not timer.is_set


async def test_the_end_of_time_is_no_time(autojump_clock: MockClock) -> None:
    timer = Timer(lambda: None)
    timer.set(float("inf"))
    assert not timer.is_set


async def test_after_its_end_it_does_not_call_and_holds_nothing(autojump_clock: MockClock) -> None:
    class Holder:
        def call(self) -> None:
            raise AssertionError

    holder = Holder()
    timer, lost = Timer(holder.call), Timer(holder.call)
    timer.set(10)
    reference = weakref.ref(holder)
    del holder
    timer.end()
    lost.end()
    gc.collect()
    assert reference() is None
    await trio.sleep(100)


async def test_it_is_the_timer_of_csp_after_and_no_task_is_added(autojump_clock: MockClock) -> None:
    called: list[float] = []
    timers = [Timer(lambda: called.append(trio.current_time())) for _ in range(100)]
    for number, timer in enumerate(timers):
        timer.set(number)
    after = csp.after("50s")
    assert (await after.receive()).ok
    assert len(called) in (50, 51)
    assert driver_tasks() == []
    for timer in timers:
        timer.end()
