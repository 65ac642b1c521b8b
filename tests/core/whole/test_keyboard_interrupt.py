"""Ctrl-C never stops a queue halfway: it is delivered at a checkpoint, when the operation is complete."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import FrameType

CORE = Path(csp.__file__).parent

# Every function that changes a queue, a buffer or a timer, by file.
MUTATORS = {
    "_core/queues.py": {"join", "leave"},
    "_core/source.py": {
        "wake",
        "_end_turn",
        "_notify",
        "_told",
        "_await_ready",
        "_park",
        "_unpark",
        "_watch",
        "_unwatch",
        "deliver",
        "take",
        "leave",
    },
    "_core/channel.py": {
        "_park",
        "send",
        "send_many",
        "receive",
        "send_nowait",
        "receive_nowait",
        "_hand_over",
        "_next_offer",
        "_refill",
        "_open",
        "close",
        "_abandon",
        "_park_sender",
        "_unpark_sender",
    },
    "_core/sending.py": {"offer", "fail", "leave"},
    "_core/select.py": {"_perform", "enqueue", "look_again", "leave", "deliver", "take", "offer", "fail", "_leave"},
    "_core/selector.py": {
        "_add",
        "remove",
        "close",
        "_take",
        "_first_ready",
        "_serve",
        "_pass_on",
        "_drop",
        "_end_iteration_if_empty",
        "deliver",
        "take_from",
        "notify",
        "forget",
        "fail",
        "leave",
    },
    "_time/timer_channels.py": {
        "receive_nowait",
        "_set_deadline",
        "_restart",
        "_arm",
        "_disarm",
        "_set_alarm",
        "_due",
        "_park",
        "_unpark",
        "_watch",
        "_unwatch",
        "_drop_forgotten",
    },
    "_time/alarm.py": {"arm", "disarm", "_next_deadline", "_clean", "_ring"},
    "_sources/latest.py": {"set", "close", "receive_nowait", "_wake_readers"},
}


def mutator(frame: FrameType) -> tuple[str, str] | None:
    """Return the file and name of a function that changes something, None for any other."""
    path = Path(frame.f_code.co_filename)
    caller = frame.f_back
    if caller is not None and caller.f_code.co_name == "__init__":
        return None  # What is being made is nobody else's yet.
    if not path.is_relative_to(CORE):
        return None
    file = path.relative_to(CORE).as_posix()
    return (file, frame.f_code.co_name) if frame.f_code.co_name in MUTATORS.get(file, ()) else None


@pytest.fixture
def restore_profile() -> Iterator[None]:
    profile = sys.getprofile()
    yield
    sys.setprofile(profile)


# The public operations, one after the other ---------------------------------------------------------------------------


async def quietly(operation: Callable[[], Awaitable[object]]) -> None:
    with contextlib.suppress(trio.ClosedResourceError):
        await operation()


class Silent(csp.Source[None]):
    """A source that is never ready, to be waited for."""

    def is_ready(self, moment: csp.Moment) -> bool:  # noqa: ARG002  # the interface
        return False

    def receive_nowait(self) -> csp.Received[None]:
        raise trio.WouldBlock


class Sending(Silent):
    """Sends to a channel when somebody begins to wait, as a finalizer may."""

    def __init__(self, channel: csp.Channel[int]) -> None:
        super().__init__()
        self.channel = channel

    def on_wanted(self) -> None:
        self.channel.send_nowait(1)


async def use_source() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Silent().receive)
        await wait_all_tasks_blocked()
        channel = csp.Channel[int](1)
        await csp.select(Sending(channel).case_receive(), channel.case_receive())
        nursery.cancel_scope.cancel()


async def use_channels(capacity: int) -> None:
    channel, other = csp.Channel[int](capacity), csp.Channel[int](capacity)
    selector = csp.Selector[Any](other.case_receive(), csp.Channel[int]().case_receive())
    receives: list[Callable[[], Awaitable[object]]] = [
        channel.receive,
        channel.receive,
        channel.receive,
        lambda: csp.select(channel.case_receive(), channel.case_receive(), csp.Channel[int]().case_send(1)),
        selector.select,
        lambda: anext(selector),
    ]
    async with trio.open_nursery() as nursery:
        for receive in receives:
            nursery.start_soon(quietly, receive)
            await wait_all_tasks_blocked()
        channel.send_nowait(1)
        for value in range(3):
            await channel.send(value)
            await csp.select(other.case_send(value), default=True)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(quietly, lambda: channel.send(1))
            nursery.start_soon(quietly, lambda: csp.select(channel.case_send(1)))
        await wait_all_tasks_blocked()
        await channel.receive()
        channel.receive_nowait()
        await anext(channel)
        await csp.select(channel.case_receive())
        selector.add(channel.case_receive())
        await selector.select()
        selector.remove(channel.case_receive())
        other.close()
        await selector.select()
        selector.add(channel.case_receive())
        channel.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(quietly, selector.select)
        nursery.start_soon(quietly, selector.select)
        nursery.start_soon(quietly, csp.Channel[int]().receive)
        nursery.start_soon(quietly, lambda: csp.Channel[int]().send(1))
        nursery.start_soon(quietly, lambda: csp.Channel[int](1).send_many(deque([1, 2, 3])))
        await wait_all_tasks_blocked()
        selector.close()
        nursery.cancel_scope.cancel()


async def use_overflow() -> None:
    dropping = csp.Channel[int](1, overflow="drop_oldest")
    await dropping.send(1)
    await dropping.send(2)
    await dropping.receiver.aclose()


async def use_timers(clock: MockClock) -> None:
    timer, ticker = csp.Timer("5s"), csp.Ticker("1s")
    selector = csp.Selector[Any](timer.channel.case_receive(), ticker.channel.case_receive())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(quietly, timer.channel.receive)
        nursery.start_soon(quietly, selector.select)
        await wait_all_tasks_blocked()
        timer.reset("7s")
        ticker.reset("2s")
        clock.jump(10)
        await wait_all_tasks_blocked()
        csp.after("0s").receive_nowait()
        nursery.start_soon(quietly, lambda: csp.select(csp.after("1s").case_receive()))
        await wait_all_tasks_blocked()
        timer.stop()
        ticker.stop()
        ticker.reset("1s")
        clock.jump(10)
        await wait_all_tasks_blocked()
        await selector.select()
        for _ in range(200):
            await csp.select(csp.after("1h").case_receive(), csp.after("0s").case_receive())
            with trio.CancelScope() as scope:
                scope.cancel()
                await csp.after("1h").receive()
        selector.close()
        after = csp.after("0s")
        with csp.Selector(after) as one, csp.Selector(after):
            await one.select()
        csp.Selector(csp.after("1h"))  # and forgets it
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def use_latest() -> None:
    latest = csp.Latest(1)
    changes = latest.changes()
    async with trio.open_nursery() as nursery:
        changes.receive_nowait()
        nursery.start_soon(changes.receive)
        await wait_all_tasks_blocked()
        latest.set(2)
    latest.close()


def test_every_change_is_protected(restore_profile: None) -> None:
    seen: set[tuple[str, str]] = set()
    unprotected: set[tuple[str, str]] = set()

    def hook(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (function := mutator(frame)):
            seen.add(function)
            if not trio.lowlevel.currently_ki_protected():
                unprotected.add(function)

    async def main() -> None:
        # The test itself is a task like any user's: not protected.
        assert not trio.lowlevel.currently_ki_protected()
        sys.setprofile(hook)
        await use_channels(0)
        await use_channels(1)
        await use_overflow()
        await use_source()
        await use_timers(clock)
        await use_latest()
        sys.setprofile(None)

    clock = MockClock()
    trio.run(main, clock=clock)
    assert seen == {(file, name) for file, names in MUTATORS.items() for name in names}
    assert unprotected == set()


@pytest.mark.parametrize("clock", [None, MockClock()])
def test_forgetting_a_selector_changes_nothing_at_that_moment(restore_profile: None, clock: MockClock | None) -> None:
    # The garbage collector takes it in the middle of anything, and in any thread.
    changed: list[str] = []

    def hook(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (function := mutator(frame)):
            changed.append(function[1])

    async def main() -> None:
        timer = csp.Timer("1h")
        selector: csp.Selector[float] | None = csp.Selector(timer.channel.case_receive())
        assert selector
        sys.setprofile(hook)
        selector = None
        sys.setprofile(None)

    trio.run(main, clock=clock)
    assert changed == []


def test_the_hook_sees_what_is_not_protected(restore_profile: None) -> None:
    protected: list[bool] = []

    def hook(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and mutator(frame):
            protected.append(trio.lowlevel.currently_ki_protected())

    async def main() -> None:
        channel = csp.Channel[int](1)
        sys.setprofile(hook)
        channel._open()
        sys.setprofile(None)

    trio.run(main)
    assert protected == [False]


# SIGINT ---------------------------------------------------------------------------------------------------------------


class Interrupt:
    """Raises SIGINT in this process when a function of the core is entered, once."""

    def __init__(self, file: str, function: str) -> None:
        self.at = (file, function)
        self.done = False

    def __enter__(self) -> None:
        sys.setprofile(self.hook)

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)

    def hook(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not self.done and mutator(frame) == self.at:
            self.done = True
            signal.raise_signal(signal.SIGINT)


def run_interrupted(main: Callable[[], Awaitable[object]], clock: MockClock | None = None) -> None:
    """Run until the KeyboardInterrupt comes out, which it must, and nothing else with it."""
    interrupted = False
    try:
        trio.run(main, clock=clock)
    except* KeyboardInterrupt:
        interrupted = True
    assert interrupted


def is_quiet(channel: csp.Channel[int]) -> bool:
    statistics = channel.statistics()
    return not (statistics.tasks_waiting_receive or statistics.tasks_waiting_send)


HAND_OVER = [
    ("_core/channel.py", "send_nowait"),
    ("_core/source.py", "deliver"),
    ("_core/source.py", "_unpark"),
]


@pytest.mark.parametrize("at", HAND_OVER, ids=lambda at: at[1])
def test_an_interrupted_hand_over_is_complete(at: tuple[str, str], restore_profile: None) -> None:
    channel = csp.Channel[int]()
    received: list[int] = []
    sent: list[int] = []
    interrupt = Interrupt(*at)

    async def receive() -> None:
        with trio.CancelScope(shield=True):
            received.append((await channel.receive()).value)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            with interrupt:
                await channel.send(1)
                sent.append(1)
            await trio.lowlevel.checkpoint()
            raise AssertionError("no KeyboardInterrupt at the checkpoint")

    run_interrupted(main)
    assert interrupt.done
    assert sent == received == [1]
    assert is_quiet(channel)


@pytest.mark.parametrize(
    "at",
    [("_core/sending.py", "offer"), ("_core/channel.py", "_unpark_sender")],
    ids=lambda at: at[1],
)
def test_an_interrupted_receive_with_a_sender_behind_is_complete(at: tuple[str, str], restore_profile: None) -> None:
    channel = csp.Channel[int](1)
    received: list[int] = []
    interrupt = Interrupt(*at)

    async def send() -> None:
        with trio.CancelScope(shield=True):
            await channel.send(2)

    async def main() -> None:
        await channel.send(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            with interrupt:
                received.append((await channel.receive()).value)
            await trio.lowlevel.checkpoint()

    run_interrupted(main)
    assert interrupt.done
    assert received == [1]
    assert channel.receive_nowait() == (2, True)
    assert is_quiet(channel)


@pytest.mark.parametrize(
    "at",
    [("_core/select.py", "deliver"), ("_core/select.py", "_leave")],
    ids=lambda at: at[1],
)
def test_an_interrupted_wake_of_a_select_leaves_every_queue(at: tuple[str, str], restore_profile: None) -> None:
    channels = [csp.Channel[int]() for _ in range(3)]
    results: list[int] = []
    interrupt = Interrupt(*at)

    async def select() -> None:
        with trio.CancelScope(shield=True):
            results.append((await csp.select(*(channel.case_receive() for channel in channels))).index)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(select)
            await wait_all_tasks_blocked()
            with interrupt:
                channels[1].send_nowait(1)
            await trio.lowlevel.checkpoint()

    run_interrupted(main)
    assert interrupt.done
    assert results == [1]
    assert all(is_quiet(channel) for channel in channels)


@pytest.mark.parametrize("function", ["deliver", "leave"])
def test_an_interrupted_wake_of_a_selector_is_complete(function: str, restore_profile: None) -> None:
    channel = csp.Channel[int]()
    results: list[int] = []
    interrupt = Interrupt("_core/selector.py", function)

    async def main() -> None:
        with csp.Selector(channel.case_receive()) as selector:

            async def select() -> None:
                with trio.CancelScope(shield=True):
                    results.append((await selector.select()).value)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(select)
                await wait_all_tasks_blocked()
                with interrupt:
                    channel.send_nowait(1)
                await trio.lowlevel.checkpoint()

    run_interrupted(main)
    assert interrupt.done
    assert results == [1]
    assert channel.statistics().selectors == 0


@pytest.mark.parametrize(
    ("file", "function"),
    [("_core/channel.py", "close"), ("_core/sending.py", "fail"), ("_core/channel.py", "_unpark_sender")],
)
def test_an_interrupted_close_wakes_everybody(file: str, function: str, restore_profile: None) -> None:
    channel = csp.Channel[int]()
    failed: list[bool] = []
    interrupt = Interrupt(file, function)

    async def send() -> None:
        with trio.CancelScope(shield=True):
            try:
                await channel.send(1)
            except csp.ChannelClosedError:
                failed.append(True)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(send)
            await wait_all_tasks_blocked()
            with interrupt:
                channel.close()
            await trio.lowlevel.checkpoint()

    run_interrupted(main)
    assert interrupt.done
    assert failed == [True] * 3
    assert is_quiet(channel)


@pytest.mark.parametrize("function", ["_restart", "_set_deadline", "_set_alarm", "_arm"])
def test_an_interrupted_reset_is_complete(function: str, restore_profile: None) -> None:
    interrupt = Interrupt("_time/timer_channels.py", function)
    ticks: list[float] = []

    async def main() -> None:
        ticker = csp.Ticker("10s")

        async def receive() -> None:
            with trio.CancelScope(shield=True):
                ticks.extend([(await ticker.channel.receive()).value for _ in range(2)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            with interrupt:
                ticker.reset("1s")
            await trio.lowlevel.checkpoint()

    run_interrupted(main, MockClock(autojump_threshold=0))
    assert interrupt.done
    assert ticks == [1, 2]
