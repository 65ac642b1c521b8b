"""Finalizers that send, receive, close and cancel in the middle of the operations of a channel.

The garbage collector runs finalizers at a moment of its own choice: from CPython 3.12 on, between any two calls. So
`Interrupting` counts the calls and returns that a program makes in the core and in Trio's memory channels, and at one
of them does what a finalizer may do. Each program is run once for each of them. Afterwards every value that was sent
has to have been received, once, or counted as dropped; and nobody may be left waiting.

An ordinary run takes some of the moments, always the same; ``CSP_FINALIZERS=1`` takes all, in about ten minutes.
"""

from __future__ import annotations

import math
import os
import sys
from collections import Counter, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
import csp._core.channel as channel_module
import csp._core.selector as selector_module
from csp import errors
from csp._core import source
from tests._interrupting import Interrupting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_EVERY = 1 if os.environ.get("CSP_FINALIZERS") else 37

Step: TypeAlias = tuple[str, int]
Action: TypeAlias = Literal[
    "send", "send twice", "receive", "receive all", "receive all, send", "close", "cancel", "send elsewhere"
]

ACTIONS: tuple[Action, ...] = get_args(Action)

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
    "send_many, receive_many": [("send_many", 6), ("receive_many", 3), ("receive_many", 4)],
    "receive_many, send_many": [("receive_many", 4), ("send_many", 6), ("receive_many", 3)],
    "send, send_many, iterate": [("send", 2), ("send_many", 5), ("iterate", 6), ("send_many", 3)],
    "send_many, select_many": [("send_many", 5), ("select_many", 4), ("send_nowait", 2), ("receive_many", 4)],
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
                case "receive all, send":
                    self.received.extend(self.some(sys.maxsize))
                    self.send_nowait()
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

    async def step(self, step: Step) -> None:  # noqa: C901, PLR0912  # a step of each kind
        name, number = step
        with trio.CancelScope() as scope, suppress(errors.Error):  # the channel was closed, maybe with a cause
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
            elif name == "receive_many":
                while number > 0 and (some := await self.channel.receive_many(number)):
                    self.received.extend(some)
                    number -= len(some)
            elif name == "select_many":
                with csp.Selector(self.channel) as selector:
                    while number > 0 and (results := await selector.select_many(number)):
                        self.received.extend(result.value for result in results if result.ok)
                        number -= len(results)
            elif name == "iterate":
                async for value in self.channel:
                    self.received.append(value)
                    number -= 1
                    if not number:
                        break
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


# What only few moments bring about: at all of them.
AROUND: list[Step] = [("send_many", 5), ("receive_many", 4), ("receive_many", 1), ("send_nowait", 2), ("iterate", 3)]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("capacity", [1, 2])
def test_at_each_moment_while_values_go_around_the_memory_channel(capacity: int, action: Action) -> None:
    for at in range(sys.maxsize):
        run = Run(AROUND, (capacity, "wait"), action, at)
        try:
            trio.run(run.main)
            run.check()
        except BaseException as error:
            error.add_note(f"capacity {capacity}, {action!r} at {at}")
            raise
        if not run.interrupting.done:
            break


# While a queue grows or shrinks --------------------------------------------------------------------------------------


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """Do something once, while a function of `csp._core.queues` makes a queue of another."""

    def between(name: str, act: Callable[[], object]) -> None:
        acts = [act]
        for module in (source, channel_module, selector_module):
            original = getattr(module, name)

            def function(*arguments: Any, original: Any = original) -> object:
                result = original(*arguments)
                while acts:
                    acts.pop()()
                return result

            monkeypatch.setattr(module, name, function)

    return between


@pytest.mark.parametrize("claimed", [1, 2, 3])
@pytest.mark.parametrize("way", ["receive", "select", "selector"])
async def test_tasks_that_are_served_while_another_begins_to_wait_leave_nothing(
    way: str, claimed: int, between: Callable[[str, Callable[[], object]], None]
) -> None:
    channel = csp.Channel[int]()
    selector = csp.Selector(channel)
    received: list[int] = []

    async def receive() -> None:
        if way == "receive":
            received.append((await channel.receive()).value)
        elif way == "select":
            received.append((await csp.select(channel.case_receive())).value)
        else:
            received.append((await selector.select()).value)

    def send() -> None:
        for value in range(claimed):
            with suppress(trio.WouldBlock):
                channel.send_nowait(value)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            if number == claimed - 1 or number == 2:
                between("join", send)
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
        while len(received) < 3:
            channel.send_nowait(9)
            await wait_all_tasks_blocked()
    statistics = channel.statistics()
    assert (statistics.tasks_waiting_receive, selector._parked) == (0, None)


async def test_senders_that_are_served_while_another_begins_to_wait_leave_nothing(
    between: Callable[[str, Callable[[], object]], None],
) -> None:
    channel = csp.Channel[int]()
    received: list[int] = []

    def take() -> None:
        for _ in range(3):
            with suppress(trio.WouldBlock):
                received.append(channel.receive_nowait().value)

    async with trio.open_nursery() as nursery:
        for value in range(4):
            if value in (1, 3):
                between("join", take)
            nursery.start_soon(channel.send, value)
            await wait_all_tasks_blocked()
        take()
    assert sorted(received) == [0, 1, 2, 3]
    assert channel.statistics().tasks_waiting_send == 0


@pytest.mark.parametrize("number", [1, 2])
async def test_who_is_served_while_another_leaves_is_not_put_back(
    number: int, between: Callable[[str, Callable[[], object]], None]
) -> None:
    channel = csp.Channel[int]()
    selector = csp.Selector(channel)
    received: list[int] = []

    async def receive(operation: Callable[[], Awaitable[Any]]) -> None:
        received.append((await operation()).value)

    async with trio.open_nursery() as nursery:
        for operation in (channel.receive, selector.select):
            scopes: list[trio.CancelScope] = []

            async def cancelled(
                operation: Callable[[], Awaitable[Any]] = operation, scopes: list[trio.CancelScope] = scopes
            ) -> None:
                with trio.CancelScope() as scope:
                    scopes.append(scope)
                    await operation()

            nursery.start_soon(cancelled)
            await wait_all_tasks_blocked()
            for _ in range(number):
                nursery.start_soon(receive, operation)
                await wait_all_tasks_blocked()
            between("leave", lambda: [channel.send_nowait(1) for _ in range(number)])
            scopes[0].cancel()
            await wait_all_tasks_blocked()
    assert received == [1] * 2 * number
    assert channel.statistics().tasks_waiting_receive == 0
    assert selector._parked is None


async def test_senders_that_are_served_while_another_leaves_are_not_put_back(
    between: Callable[[str, Callable[[], object]], None],
) -> None:
    channel = csp.Channel[int]()
    received: list[int] = []
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(channel.send, 1)
            await wait_all_tasks_blocked()
            between("leave", lambda: received.append(channel.receive_nowait().value))
            scope.cancel()
            await channel.send(2)
    assert received == [1]
    assert channel.statistics().tasks_waiting_send == 0


@pytest.mark.parametrize("name", ["join", "leave"])
@pytest.mark.parametrize("others", [1, 2])
def test_selectors_come_and_go_while_another_does(
    name: str, others: int, between: Callable[[str, Callable[[], object]], None]
) -> None:
    channel = csp.Channel[int](1)
    selectors = [csp.Selector(channel) for _ in range(others)]

    def close() -> None:
        while selectors:
            selectors.pop().close()

    if name == "join":
        between("join", close)
        last = csp.Selector(channel)
    else:
        last = csp.Selector(channel)
        between("leave", close)
        last.close()
        last = csp.Selector(channel)
    assert channel.statistics().selectors == 1
    channel.send_nowait(1)
    assert len(last._ready) == 1
    last.close()
    assert channel._watches is None
    assert channel._unaware is None


def test_selectors_are_told_while_another_finds_the_channel_empty(
    between: Callable[[str, Callable[[], object]], None],
) -> None:
    channel = csp.Channel[int](1)
    first, other = csp.Selector(channel), csp.Selector(channel)
    channel.send_nowait(1)
    channel.receive_nowait()
    assert other._first_ready() is None
    between("join", lambda: channel.send_nowait(2))
    assert first._first_ready() is not None
    assert other._first_ready() is not None
