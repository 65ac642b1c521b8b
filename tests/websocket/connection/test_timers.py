"""The timers of connections: one task for all of them."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

from trio_csp_websocket.connection.timers import Timers

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_timer_calls_at_its_time_and_can_be_set_again(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    called: list[float] = []

    def call() -> None:
        called.append(trio.current_time())
        if len(called) < 3:
            timer.set(trio.current_time() + 5)

    timer = Timers(nursery).add(call)
    assert not timer.is_set
    timer.set(10)
    assert timer.is_set
    await trio.sleep(100)
    assert called == [10, 15, 20]
    assert not timer.is_set


async def test_the_end_of_time_is_no_time(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timer = Timers(nursery).add(lambda: None)
    timer.set(float("inf"))
    assert not timer.is_set
    assert not nursery.child_tasks


async def test_timers_of_any_order_share_a_task(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timers, called = Timers(nursery), list[float]()
    for time in (5, 3, 4, 1, 2, 3):
        timers.add(lambda: called.append(trio.current_time())).set(time)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
    await trio.sleep(100)
    assert called == [1, 2, 3, 3, 4, 5]


async def test_after_its_end_a_timer_does_not_call_and_holds_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    class Holder:
        def call(self) -> None:
            raise AssertionError

    holder = Holder()
    timers = Timers(nursery)
    timer, other, called = (
        timers.add(holder.call),
        timers.add(lambda: called.append(trio.current_time())),
        list[float](),
    )
    timer.set(10)
    other.set(20)
    reference = weakref.ref(holder)
    del holder
    timer.end()
    timer.end()
    gc.collect()
    assert reference() is None
    await trio.sleep(100)
    assert called == [20]


async def test_the_task_ends_when_no_timer_is_set_and_begins_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    timers, called = Timers(nursery), list[float]()
    timer = timers.add(lambda: called.append(trio.current_time()))
    for _ in range(2):
        timer.set(trio.current_time() + 10)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        await trio.sleep(11)
        assert not nursery.child_tasks
    timer.set(1000)
    await wait_all_tasks_blocked()
    timer.end()
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks
    assert called == [10, 21]


async def test_a_lasting_task_stays(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timers = Timers(nursery, lasting=True)
    timer = timers.add(lambda: None)
    timer.set(10)
    await trio.sleep(20)
    (task,) = nursery.child_tasks
    timer.set(30)
    timer.end()
    await wait_all_tasks_blocked()
    assert set(nursery.child_tasks) == {task}
    nursery.cancel_scope.cancel()


async def test_what_is_left_of_ended_timers_is_bounded(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timers, called = Timers(nursery), list[float]()
    lasting = timers.add(lambda: called.append(trio.current_time()))
    lasting.set(50)
    for _ in range(1000):
        timer = timers.add(lambda: None)
        timer.set(1000)
        timer.end()
        assert len(timers._heap) <= 64
    await trio.sleep(100)
    assert called == [50]
