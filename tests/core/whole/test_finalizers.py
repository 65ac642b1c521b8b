"""Finalizers that send, receive, close and cancel in the middle of the operations of a channel.

The garbage collector runs finalizers at a moment of its own choice: from CPython 3.12 on, between any two calls. So
`Interrupting` counts the calls and returns that a program makes in the core and in Trio's memory channels, and at one
of them does what a finalizer may do. Each program is run once for each of them. Afterwards every value that was sent
has to have been received, once, or counted as dropped; and nobody may be left waiting.

An ordinary run takes some of the moments, always the same; ``CSP_FINALIZERS=1`` takes all, in about ten minutes.
"""

from __future__ import annotations

import gc
import math
import os
import sys
from collections import Counter, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from tests._interrupting import Interrupting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_EVERY = 1 if os.environ.get("CSP_FINALIZERS") else 37

Step: TypeAlias = tuple[str, int]
Action: TypeAlias = Literal["send", "send twice", "receive", "receive all", "close", "cancel", "send elsewhere"]

ACTIONS: tuple[Action, ...] = ("send", "send twice", "receive", "receive all", "close", "cancel", "send elsewhere")

CHANNELS: list[tuple[float, csp.Overflow]] = [
    (0, "wait"),
    (1, "wait"),
    (2, "wait"),
    (math.inf, "wait"),
    (1, "drop_oldest"),
    (2, "drop_oldest"),
    (1, "drop_newest"),
    (2, "close"),
]

# Tasks, started one after the other, with how many values each sends or receives.
PROGRAMS: dict[str, list[Step]] = {
    "send": [("send", 3)],
    "send_nowait": [("send_nowait", 3)],
    "send in a select": [("send in a select", 3)],
    "receive, send": [("receive", 2), ("send", 3)],
    "two receive, send": [("receive", 2), ("receive", 2), ("send", 3)],
    "send, receive": [("send", 3), ("receive", 2)],
    "two send, receive": [("send", 3), ("send", 2), ("receive", 5)],
    "send_many, receive": [("send_many", 4), ("receive", 5)],
    "two send_many, receive": [("send_many", 3), ("send_many", 2), ("receive", 4), ("select", 3)],
    "select, send": [("select", 2), ("send", 3)],
    "two select, send": [("select", 2), ("select", 2), ("send in a select", 3)],
    "selector, send": [("selector", 2), ("send", 3)],
    "two selectors, send": [("selector", 2), ("selector", 2), ("receive", 1), ("send", 4)],
    "send, two selectors": [("send", 4), ("selector", 2), ("selector", 2), ("receive", 1)],
    "send_nowait, selector": [("send_nowait", 4), ("selector", 3), ("send_nowait", 2)],
    "all": [("send in a select", 2), ("select", 1), ("send_many", 2), ("selector", 1), ("receive", 4)],
}


@pytest.fixture(autouse=True)
def restore_profile() -> Iterator[None]:
    profile = sys.getprofile()
    yield
    sys.setprofile(profile)


class Run:
    """One run of a program on a new channel, with one interruption."""

    def __init__(self, program: list[Step], channel: tuple[float, csp.Overflow], action: Action, at: int) -> None:
        capacity, overflow = channel
        self.program = program
        self.channel = csp.Channel[int](capacity, overflow=overflow)
        self.elsewhere = csp.Channel[int](1)
        self.interrupting = Interrupting(at, lambda: self.act(action))
        self.scopes: list[trio.CancelScope] = []
        self.number = 0
        self.sent: list[int] = []
        self.received: list[int] = []

    def act(self, action: Action) -> None:
        with suppress(trio.WouldBlock, csp.ChannelClosedError):
            match action:
                case "send" | "send twice":
                    self.send_nowait()
                    if action == "send twice":
                        self.send_nowait()
                case "receive":
                    self.received.extend(self.some(1))
                case "receive all":
                    self.received.extend(self.some(sys.maxsize))
                case "close":
                    self.channel.close()
                case "cancel":
                    for scope in self.scopes:
                        scope.cancel()
                case "send elsewhere":
                    self.elsewhere.send_nowait(0)

    def new(self) -> int:
        self.number += 1
        return self.number

    def send_nowait(self) -> None:
        value = self.new()
        self.channel.send_nowait(value)
        self.sent.append(value)

    def some(self, number: int) -> Iterator[int]:
        """Take what is there now."""
        for _ in range(number):
            try:
                value, ok = self.channel.receive_nowait()
            except trio.WouldBlock:
                return
            if not ok:
                return
            yield value

    async def step(self, step: Step) -> None:
        name, number = step
        with trio.CancelScope() as scope, suppress(csp.ChannelClosedError):
            self.scopes.append(scope)
            if name == "send_many":
                values = [self.new() for _ in range(number)]
                left = deque(values)
                try:
                    await self.channel.send_many(left)
                finally:
                    self.sent.extend(value for value in values if value not in left)
            elif name.startswith("send"):
                for _ in range(number):
                    await self.send(name)
            elif name == "selector":
                with csp.Selector(self.channel) as selector:
                    await self.receive(number, selector.select)
            elif name == "select":
                await self.receive(
                    number, lambda: csp.select(self.channel.case_receive(), self.elsewhere.case_receive())
                )
            else:
                await self.receive(number, self.channel.receive)

    async def send(self, name: str) -> None:
        if name == "send_nowait":
            with suppress(trio.WouldBlock):
                self.send_nowait()
            return
        value = self.new()
        if name == "send":
            await self.channel.send(value)
        else:
            await csp.select(self.channel.case_send(value))
        self.sent.append(value)

    async def receive(
        self, number: int, operation: Callable[[], Awaitable[csp.Received[int] | csp.SelectResult[int]]]
    ) -> None:
        for _ in range(number):
            result = await operation()
            if not result.ok:
                return
            if not isinstance(result, csp.SelectResult) or self.channel.gave(result):
                self.received.append(result.value)

    async def main(self) -> None:
        async with trio.open_nursery() as nursery:
            try:
                sys.setprofile(self.interrupting)
                for step in self.program:
                    nursery.start_soon(self.step, step)
                    await wait_all_tasks_blocked()
            finally:
                sys.setprofile(None)
            await self.finish()
            assert not nursery.child_tasks, "somebody waits on a closed channel"

    async def finish(self) -> None:
        """Serve those that still wait, then close the channel."""
        before = -1
        while before != len(self.received):
            before = len(self.received)
            self.received.extend(self.some(sys.maxsize))
            await wait_all_tasks_blocked()
        assert self.channel.statistics().buffered == 0
        for _ in range(self.channel.statistics().tasks_waiting_receive + 3):
            self.act("send")
            await wait_all_tasks_blocked()
        self.channel.close()
        await wait_all_tasks_blocked()
        self.received.extend(self.some(sys.maxsize))

    def check(self) -> None:
        statistics = self.channel.statistics()
        assert (statistics.tasks_waiting_send, statistics.tasks_waiting_receive, statistics.buffered) == (0, 0, 0)
        lost = Counter(self.sent)
        lost.subtract(self.received)
        assert all(number >= 0 for number in lost.values()), "received, but not sent, or twice"
        assert lost.total() == statistics.dropped, "lost"


@pytest.mark.timeout(1200 if _EVERY == 1 else 60)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_finalizer_may_do_anything_at_any_moment(program: str, action: Action) -> None:
    first = list(PROGRAMS).index(program) + ACTIONS.index(action)
    for channel in CHANNELS:
        for at in range(first % _EVERY, sys.maxsize, _EVERY):
            run = Run(PROGRAMS[program], channel, action, at)
            try:
                trio.run(run.main)
                run.check()
            except BaseException as error:
                error.add_note(f"{program!r} with {channel}, {action!r} at {at}")
                raise
            if not run.interrupting.done:
                break


# Garbage that is collected ------------------------------------------------------------------------------------------


class Garbage:
    """A cycle; when it is collected, it does something and leaves another such cycle."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.itself = self

    def __del__(self) -> None:
        if gc.isenabled():
            Garbage(self.act)
            self.act()


@pytest.fixture
def eager_collector() -> Iterator[None]:
    """Collect garbage at nearly every allocation."""
    threshold = gc.get_threshold()
    gc.set_threshold(1, 1000, 1000)
    yield
    gc.set_threshold(*threshold)
    gc.disable()
    gc.collect()
    gc.enable()


@pytest.mark.usefixtures("eager_collector")
@pytest.mark.parametrize("capacity", [1, 3, 100])
def test_a_finalizer_that_sends_while_the_buffer_is_opened_loses_nothing(capacity: int) -> None:
    sent: list[int] = []

    def act() -> None:
        with suppress(trio.WouldBlock):
            channel.send_nowait(-1)
            sent.append(-1)

    for number in range(50):
        channel = csp.Channel[int](capacity)
        sent.clear()
        garbage: Garbage | None = Garbage(act)
        del garbage
        with suppress(trio.WouldBlock):
            channel.send_nowait(number)
            sent.append(number)
        buffered = len(channel)
        received = [channel.receive_nowait().value for _ in range(buffered)]
        assert buffered >= 1
        assert Counter(received) <= Counter(sent)


@pytest.mark.usefixtures("eager_collector")
@pytest.mark.parametrize("close", [False, True])
async def test_garbage_that_is_collected_all_the_time_disturbs_nobody(close: bool) -> None:
    channel = csp.Channel[int](2)
    sent: Counter[int] = Counter()
    received: Counter[int] = Counter()
    calls = 0

    def act() -> None:
        nonlocal calls
        calls += 1
        with suppress(trio.WouldBlock, csp.ChannelClosedError):
            channel.send_nowait(-1)
            sent[-1] += 1
        if close and calls == 300:
            channel.close()

    async def send() -> None:
        with suppress(csp.ChannelClosedError):
            for number in range(100):
                await channel.send(number)
                sent[number] += 1

    async def receive(operation: Callable[[], Awaitable[csp.Received[int] | csp.SelectResult[int]]]) -> None:
        while (result := await operation()).ok:
            received[result.value] += 1

    with csp.Selector(channel) as selector:
        garbage: Garbage | None = Garbage(act)
        del garbage
        async with trio.open_nursery() as nursery:
            for operation in (channel.receive, lambda: csp.select(channel.case_receive()), selector.select):
                nursery.start_soon(receive, operation)
            async with trio.open_nursery() as senders:
                senders.start_soon(send)
                senders.start_soon(send)
            channel.close()
    gc.disable()
    assert calls > 100
    received.update(result.value for result in iter(channel.receive_nowait, csp.Received(None, False)))
    assert received == sent
    gc.enable()
