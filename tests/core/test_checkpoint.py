"""Every await of ours is a cancellation point, and 32 completed operations never pass without a scheduler visit."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Operation: TypeAlias = Callable[[], Awaitable[object]]
    Prepare: TypeAlias = Callable[[], Operation]
    Deed: TypeAlias = Callable[[csp.Channel[int]], Any]

T = TypeVar("T")

MANY = 10 * csp.OPERATIONS_PER_SCHEDULE_POINT


class Visits(trio.abc.Instrument):
    """Counts how often the scheduler has resumed the task that made it."""

    def __init__(self) -> None:
        self.count = 0
        self._task = trio.lowlevel.current_task()
        trio.lowlevel.add_instrument(self)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self._task


def on(make: Callable[[], T], use: Callable[[T], Awaitable[object]]) -> Prepare:
    """Prepare to make a thing once and use it again and again."""

    def prepare() -> Operation:
        thing = make()
        return lambda: use(thing)

    return prepare


def on_a_fresh(make: Callable[[], T], use: Callable[[T], Awaitable[object]]) -> Prepare:
    """Prepare to make and use a new thing each time."""
    return lambda: lambda: use(make())


def failing(error: type[BaseException], prepare: Prepare) -> Prepare:
    """Prepare what a loop does that ignores an error."""

    def prepare_failing() -> Operation:
        operation = prepare()

        async def attempt() -> None:
            with pytest.raises(error):
                await operation()

        return attempt

    return prepare_failing


def room() -> csp.Channel[int]:
    return csp.Channel[int](MANY)


def full() -> csp.Channel[int]:
    channel = room()
    for value in range(MANY):
        channel.send_nowait(value)
    return channel


def dropping() -> csp.Channel[int]:
    return csp.Channel[int](1, overflow="drop_oldest")


def closed() -> csp.Channel[int]:
    channel = csp.Channel[int]()
    channel.close()
    return channel


def broken() -> csp.Channel[int]:
    channel = csp.Channel[int]()
    channel.close(OSError("broken"))
    return channel


def abandoned() -> csp.Channel[int]:
    channel = csp.Channel[int]()
    channel._abandon()
    return channel


def due() -> csp.TimerChannel:
    return csp.after("0s")


def selector_of(*make_channels: Callable[[], csp.Channel[int]]) -> Callable[[], csp.Selector[int]]:
    return lambda: csp.Selector(*(make().case_receive() for make in make_channels))


def closed_selector() -> csp.Selector[int]:
    selector = csp.Selector[int]()
    selector.close()
    return selector


async def counted() -> None:
    """Do what the documentation tells a source with operations of its own to do."""
    await trio.lowlevel.checkpoint_if_cancelled()
    if csp.schedule_point_due():
        await trio.lowlevel.cancel_shielded_checkpoint()


async def iterate(selector: csp.Selector[int]) -> None:
    async for _ in selector:
        raise AssertionError("it has no case")


# Each prepares an operation that completes at once, MANY times.
OPERATIONS: dict[str, Prepare] = {
    "send": on(room, lambda channel: channel.send(1)),
    "send that drops": on(dropping, lambda channel: channel.send(1)),
    "send on an end": on(room, lambda channel: channel.sender.send(1)),
    "send on closed": failing(csp.ChannelClosedError, on(closed, lambda channel: channel.send(1))),
    "send on a closed end": failing(trio.BrokenResourceError, on(abandoned, lambda channel: channel.sender.send(1))),
    "receive": on(full, lambda channel: channel.receive()),
    "receive on an end": on(full, lambda channel: channel.receiver.receive()),
    "receive on closed": on(closed, lambda channel: channel.receive()),
    "receive on a closed end": failing(trio.EndOfChannel, on(closed, lambda channel: channel.receiver.receive())),
    "receive on a timer": on_a_fresh(due, lambda timer: timer.receive()),
    "iteration": on(full, anext),
    "end of iteration": failing(StopAsyncIteration, on(closed, anext)),
    "error from iteration": failing(csp.ChannelBrokenError, on(broken, anext)),
    "error from receive_value": failing(csp.ChannelBrokenError, on(broken, lambda channel: channel.receive_value())),
    "select receive": on(full, lambda channel: csp.select(None, channel.case_receive())),
    "select send": on(room, lambda channel: csp.select(None, channel.case_send(1))),
    "select both": on(full, lambda channel: csp.select(channel.case_receive(), room().case_send(1))),
    "select closed": on(closed, lambda channel: csp.select(channel.case_receive())),
    "select send on closed": failing(
        csp.ChannelClosedError, on(closed, lambda channel: csp.select(channel.case_send(1)))
    ),
    "select default": on(room, lambda channel: csp.select(channel.case_receive(), default=True)),
    "select timer": on_a_fresh(due, lambda timer: csp.select(timer.case_receive())),
    "selector": on(selector_of(full, room), lambda selector: selector.select()),
    "selector iteration": on(selector_of(full, full), anext),
    "selector with closed": on_a_fresh(selector_of(closed), lambda selector: selector.select()),
    "empty selector iteration": on(selector_of(), iterate),
    "closed selector": failing(trio.ClosedResourceError, on(closed_selector, lambda selector: selector.select())),
    "closed selector iteration": on(closed_selector, iterate),
    "a source of one's own": lambda: counted,
}

each_operation = pytest.mark.parametrize("prepare", OPERATIONS.values(), ids=OPERATIONS.keys())


def test_the_budget_is_what_is_documented() -> None:
    assert csp.OPERATIONS_PER_SCHEDULE_POINT == 32


@each_operation
async def test_32_operations_visit_the_scheduler_once(prepare: Prepare) -> None:
    operation = prepare()
    visits = Visits()
    for _ in range(MANY):
        await operation()
    assert visits.count == MANY // csp.OPERATIONS_PER_SCHEDULE_POINT


@each_operation
async def test_another_task_makes_progress(prepare: Prepare) -> None:
    operation = prepare()
    progress = 0

    async def other() -> None:
        nonlocal progress
        while True:
            progress += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for done in range(1, MANY + 1):
            await operation()
            # One visit may pass before the other task's first turn: the scheduler shuffles.
            assert progress >= done // csp.OPERATIONS_PER_SCHEDULE_POINT - 1
        nursery.cancel_scope.cancel()


@each_operation
async def test_an_operation_that_is_ready_is_a_cancellation_point(prepare: Prepare) -> None:
    operation = prepare()
    with trio.CancelScope() as scope:
        scope.cancel()
        await operation()
    assert scope.cancelled_caught


async def test_the_budget_is_common_to_all_operations_of_a_task() -> None:
    operations = [prepare() for prepare in OPERATIONS.values() for _ in range(5)]
    visits = Visits()
    longest = run = 0
    for operation in operations * 3:
        before = visits.count
        await operation()
        run = 0 if visits.count > before else run + 1
        longest = max(longest, run)
    assert longest == csp.OPERATIONS_PER_SCHEDULE_POINT - 1


async def test_tasks_that_wake_each_other_visit_as_often() -> None:
    # All tasks of a run share one count; whichever runs must come to a visit within 32 operations of its own.
    async def work() -> None:
        visits = Visits()
        operation = OPERATIONS["send"]()
        for done in range(1, MANY + 1):
            await operation()
            assert visits.count >= done // csp.OPERATIONS_PER_SCHEDULE_POINT - 1

    async with trio.open_nursery() as nursery:
        await counted()
        for _ in range(5):
            nursery.start_soon(work)


async def test_an_operation_that_waits_does_not_need_the_budget() -> None:
    channel = csp.Channel[int]()
    visits = Visits()
    async with trio.open_nursery() as nursery:

        async def produce() -> None:
            for value in range(10):
                await trio.testing.wait_all_tasks_blocked()
                channel.send_nowait(value)

        nursery.start_soon(produce)
        for _ in range(10):
            await channel.receive()
        assert visits.count >= 10


async def test_two_runs_in_two_threads_do_not_share_the_counter() -> None:
    channel = closed()
    token = trio.lowlevel.current_trio_token()
    ours, theirs = threading.Event(), threading.Event()
    our_turn = trio.Event()
    inner_visits: list[int] = []

    async def inner() -> None:
        visits = Visits()
        for _ in range(2 * csp.OPERATIONS_PER_SCHEDULE_POINT):
            await channel.receive()
            ours.clear()
            token.run_sync_soon(lambda: our_turn.set())  # noqa: PLW0108  # another one each time
            assert ours.wait(10)
        inner_visits.append(visits.count)

    async with trio.open_nursery() as nursery:
        visits = Visits()
        while not visits.count:
            await counted()

        # The thread gets a copy of this task's context, as it is now.
        async def run() -> None:
            await trio.to_thread.run_sync(trio.run, inner)
            theirs.set()

        nursery.start_soon(run)
        for _ in range(2 * csp.OPERATIONS_PER_SCHEDULE_POINT):
            await our_turn.wait()
            our_turn = trio.Event()
            await channel.receive()
            ours.set()
    assert theirs.is_set()
    assert inner_visits == [2]


PARKING: dict[str, tuple[Deed, Deed]] = {
    "send": (lambda channel: channel.send(1), lambda channel: channel.receive_nowait()),
    "send_many": (lambda channel: channel.send_many(deque([1])), lambda channel: channel.receive_nowait()),
    "receive": (lambda channel: channel.receive(), lambda channel: channel.send_nowait(1)),
    "select": (lambda channel: csp.select(channel.case_receive()), lambda channel: channel.send_nowait(1)),
    "selector": (
        lambda channel: csp.Selector(channel.case_receive()).select(),
        lambda channel: channel.send_nowait(1),
    ),
}


@pytest.mark.parametrize(("park", "wake"), PARKING.values(), ids=PARKING.keys())
async def test_a_task_that_waited_begins_a_new_turn(park: Deed, wake: Deed, nursery: trio.Nursery) -> None:
    channel = csp.Channel[int]()
    done = trio.Event()

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        while not csp.schedule_point_due():
            pass
        await some_operations(csp.OPERATIONS_PER_SCHEDULE_POINT - 1)
        await park(channel)
        visits = Visits()
        await some_operations(csp.OPERATIONS_PER_SCHEDULE_POINT - 1)
        assert visits.count == 0
        await some_operations(1)
        assert visits.count == 1
        done.set()

    async def some_operations(count: int) -> None:
        for _ in range(count):
            await csp.select(default=True)

    nursery.start_soon(work)
    await wait_all_tasks_blocked()
    wake(channel)
    await done.wait()
