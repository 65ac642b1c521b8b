"""Sources made of sources, at random: whatever receives, and however often it is cancelled, each value comes once.

In the second half the blocks fail, are cancelled or are left while tasks outside of them receive: whoever sees a quiet
end has not missed a value, unless a block was left before its source had ended.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
import trio

import csp
from csp.errors import ChannelBrokenError, ChannelClosedError, EndOfChannelError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from trio.testing import MockClock

VALUES = list(range(60))
PROGRAMS = 150


class Program:
    """One random program: a root that gives the values, layers above it, and tasks that receive in many ways."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.received: list[list[int]] = []
        self.in_order = True

    async def run(self) -> None:
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            source = await self.root(stack, nursery)
            for _ in range(self.random.randrange(4)):
                source = await self.layer(stack, source)
            async with trio.open_nursery() as consumers:
                for _ in range(self.random.randint(1, 3)):
                    consumers.start_soon(self.consume, source)

    async def root(self, stack: AsyncExitStack, nursery: trio.Nursery) -> csp.Source[int]:
        capacity = self.random.choice([0, 1, 5])
        if self.random.random() < 0.4:
            sender, receiver = trio.open_memory_channel[int](capacity)
            nursery.start_soon(self.produce, sender)
            return await stack.enter_async_context(csp.from_receive_channel(receiver))
        channel = csp.Channel[int](capacity)
        nursery.start_soon(self.produce, channel.sender)
        return channel

    async def produce(self, sender: trio.abc.SendChannel[int]) -> None:
        async with sender:
            for value in VALUES:
                await sender.send(value)
                if self.random.random() < 0.3:
                    await trio.sleep(self.random.random())

    async def layer(self, stack: AsyncExitStack, below: csp.Source[int]) -> csp.Source[int]:
        match self.random.randrange(5):
            case 0:
                return await stack.enter_async_context(csp.merge(below, ended()))
            case 1:
                return await stack.enter_async_context(csp.from_async_iterable(one_by_one(below)))
            case 2:
                batches = in_batches(below, self.random.randint(1, 5))
                return await stack.enter_async_context(csp.from_async_iterable(batches))
            case 3:
                return await stack.enter_async_context(csp.PullSource(below.__anext__))
            case _:
                ordered = self.random.random() < 0.5
                self.in_order &= ordered
                return await stack.enter_async_context(csp.pipeline(below, self.work, workers=3, ordered=ordered))

    async def work(self, value: int) -> int:
        await trio.sleep(self.random.random())
        return value

    async def consume(self, source: csp.Source[int]) -> None:
        """Receive until the end, each time in another way, and often cancelled."""
        mine: list[int] = []
        self.received.append(mine)
        with csp.Selector(source.case_receive()) as selector:
            while True:
                received: csp.Received[int] | csp.SelectResult[int] | None = None
                with trio.move_on_after(self.random.choice([0, 0.3, 100])):
                    match self.random.randrange(4):
                        case 0:
                            received = await source.receive()
                        case 1:
                            received = await selector.select() if len(selector) else None
                        case 2:
                            r = await csp.select(source.case_receive(), csp.after("200ms").case_receive())
                            received = csp.Received(int(r.value), r.ok) if r.ok and r.channel is source else None
                        case _:
                            polled = await csp.select(source.case_receive(), default=True)
                            received = None if polled.default else polled
                if received is None:
                    await trio.sleep(0.1)
                elif received.ok:
                    mine.append(received.value)
                else:
                    return


async def one_by_one(below: csp.Source[int]) -> AsyncGenerator[int]:
    async for value in below:
        yield value


async def in_batches(below: csp.Source[int], size: int) -> AsyncGenerator[int]:
    async with csp.batch(below, size, "500ms") as batches:
        async for batch in batches:
            for value in batch:
                yield value


def ended() -> csp.Channel[int]:
    channel = csp.Channel[int]()
    channel.close()
    return channel


@pytest.mark.parametrize("part", range(5))
async def test_every_value_is_received_once_and_in_order(autojump_clock: MockClock, part: int) -> None:
    for number in range(PROGRAMS // 5):
        seed = 1000 * part + number
        program = Program(seed)
        with trio.fail_after(10_000):
            await program.run()
        assert sorted(chain.from_iterable(program.received)) == VALUES, seed
        if program.in_order:
            assert all(mine == sorted(mine) for mine in program.received), seed


@dataclass
class Layer:
    """A block of a chain, and how it ended."""

    # What the block gives.
    source: csp.Source[int]
    # How the block ends, and whether what is below has ended by then.
    how: str
    ended_before: bool = False
    # Whether the work of a pipeline has failed.
    work_failed: bool = False


class BreakingProgram:
    """A chain of blocks that end at random moments in random ways, with tasks that receive outside of them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.layers: list[Layer] = []
        self.received: list[list[int]] = []
        # The causes that were seen at the ends.
        self.seen: list[tuple[csp.Source[int], BaseException | None]] = []
        self.in_order = True
        # Whether values may be missing before a block has ended, or only when one has.
        self.drops = False
        self.loses = False
        self.root_cause = KeyError("the root's") if self.random.random() < 0.2 else None
        self.echoed = [0, 0]

    async def run(self) -> None:
        async with trio.open_nursery() as background:
            self.echo = csp.Channel[int](self.random.choice([0, 1]))
            background.start_soon(self.take_echoes)
            async with trio.open_nursery() as outside:
                for number in range(self.random.randint(1, 3)):
                    await self.add_layer(outside, background, number)
                for layer in [self.layers[-1]] * self.random.randint(1, 3):
                    outside.start_soon(self.consume, layer.source)
                if self.random.random() < 0.2:
                    outside.start_soon(self.consume, self.random.choice(self.layers).source)
            background.cancel_scope.cancel()
        for layer in reversed(self.layers):  # what those that have stopped have left
            left: list[int] = []
            while (r := layer.source.receive_nowait()).ok:
                left.append(r.value)
            self.received.append(left)
            self.seen.append((layer.source, layer.source.cause))

    async def add_layer(self, outside: trio.Nursery, background: trio.Nursery, number: int) -> None:
        """Run a block in a task of its own, so that it may end before those above it, and after."""
        if number:
            below = self.layers[-1].source
            ended = lambda: below.closed  # noqa: E731
        elif self.random.random() < 0.4:
            sender, receiver = trio.open_memory_channel[int](self.random.choice([0, 1, 5]))
            clone = receiver.clone()  # so that its end is known when the block has closed nothing
            self.root_cause = None
            background.start_soon(self.produce, sender)
            make: Callable[[], Any] = lambda: csp.from_receive_channel(receiver)  # noqa: E731
            ended = lambda: not clone.statistics().open_send_channels  # noqa: E731
            await outside.start(self.own, make, ended)
            return
        else:
            channel = csp.Channel[int](self.random.choice([0, 1, 5]))
            below = channel
            background.start_soon(self.produce_and_close, channel)
            ended = lambda: channel.closed  # noqa: E731
        await outside.start(self.own, self.choose(below), ended)

    async def produce(self, sender: trio.abc.SendChannel[int]) -> None:
        async with sender:
            for value in VALUES:
                await sender.send(value)
                if self.random.random() < 0.3:
                    await trio.sleep(self.random.random())

    async def produce_and_close(self, channel: csp.Channel[int]) -> None:
        for value in VALUES:
            await channel.send(value)
            if self.random.random() < 0.3:
                await trio.sleep(self.random.random())
        channel.close(self.root_cause)

    def choose(self, below: csp.Source[int]) -> Callable[[], Any]:
        """Return what makes a block."""
        size, replay, ordered = self.random.randint(1, 5), self.random.randrange(2), self.random.random() < 0.5
        work = self.work_for(len(self.layers))
        makers: dict[str, Callable[[], Any]] = {
            "merge": lambda: csp.merge(below, ended()),
            "generator": lambda: csp.from_async_iterable(one_by_one(below)),
            "batch": lambda: csp.from_async_iterable(in_batches(below, size)),
            "PullSource": lambda: csp.PullSource(below.__anext__),
            "broadcast": lambda: csp.broadcast(below, replay=replay),
            "throttle": lambda: csp.throttle(below, "300ms"),
            "debounce": lambda: csp.debounce(below, "300ms"),
            "pipeline": lambda: csp.pipeline(below, work, workers=3, ordered=ordered),
        }
        kind = self.random.choice([*makers, "pipeline"])
        self.loses |= kind in ("batch", "broadcast", "pipeline")
        self.drops |= kind in ("throttle", "debounce")
        self.in_order &= kind != "pipeline" or ordered
        return makers[kind]

    def work_for(self, number: int) -> Callable[[int], Any]:
        failing = self.random.randrange(60) if self.random.random() < 0.2 else None

        async def work(value: int) -> int:
            await trio.sleep(self.random.random())
            if value == failing:
                self.layers[number].work_failed = True
                raise KeyError(value)
            return value

        return work

    async def own(
        self,
        make: Callable[[], Any],
        below_ended: Callable[[], bool],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Enter a block, and end it after a while, in one of many ways."""
        delay = self.random.choice([0, 1, 5, 30, 100]) * self.random.random()
        how = self.random.choice(["left", "fails", "cancelled", "deadline", "shielded", "shielded and fails"])
        with suppress(KeyError), trio.CancelScope() as scope:
            async with make() as given:
                source = given.subscribe(5, overflow="wait") if hasattr(given, "subscribe") else given
                layer = Layer(source, how)
                self.layers.append(layer)
                task_status.started()
                if how == "deadline":
                    scope.deadline = trio.current_time() + delay
                    try:
                        await trio.sleep_forever()
                    finally:
                        layer.ended_before = below_ended()
                await trio.sleep(delay)
                layer.ended_before = below_ended()
                if how == "cancelled":
                    scope.cancel()
                    await trio.sleep_forever()
                if how.startswith("shielded"):
                    scope.cancel()
                    with trio.CancelScope(shield=True):
                        await trio.sleep(self.random.choice([0, 1]) * self.random.random())
                if how.endswith("fails"):
                    raise KeyError("mine")

    async def take_echoes(self) -> None:
        """Take what the tasks send, and stop at some point."""
        for _ in range(self.random.randrange(60)):
            await self.echo.receive()
            self.echoed[1] += 1
        self.echo.close()

    async def consume(self, source: csp.Source[int]) -> None:
        """Receive until the end, each time in another way, and often cancelled; or stop before."""
        mine: list[int] = []
        self.received.append(mine)
        with csp.Selector(source.case_receive()) as selector:
            while self.random.random() < 0.99:
                received: csp.Received[int] | csp.SelectResult[int] | None = None
                with trio.move_on_after(self.random.choice([0, 0.3, 100])):
                    try:
                        received = await self.receive(source, selector)
                    except StopAsyncIteration:
                        self.seen.append((source, None))
                        return
                    except EndOfChannelError:
                        assert source.cause is None
                        self.seen.append((source, None))
                        return
                    except ChannelBrokenError:
                        assert source.cause is not None
                        self.seen.append((source, source.cause))
                        return
                    except trio.WouldBlock:
                        pass
                if received is None:
                    await trio.sleep(0.1)
                elif received.ok:
                    mine.append(received.value)
                else:
                    self.seen.append((source, source.cause))
                    return

    async def receive(
        self, source: csp.Source[int], selector: csp.Selector[int]
    ) -> csp.Received[int] | csp.SelectResult[int] | None:
        """Receive in one of many ways; None for nothing."""
        match self.random.randrange(7):
            case 0:
                return await source.receive()
            case 1:
                return csp.Received(await anext(source), True)
            case 2:
                return csp.Received(await source.receive_value(), True)
            case 3:
                return source.receive_nowait()
            case _:
                return await self.select(source, selector)

    async def select(
        self, source: csp.Source[int], selector: csp.Selector[int]
    ) -> csp.Received[int] | csp.SelectResult[int] | None:
        if self.random.random() < 0.3:
            return await selector.select() if len(selector) else None
        if self.random.random() < 0.5:
            polled = await csp.select(source.case_receive(), default=True)
            return None if polled.default else polled
        try:
            r = await csp.select(source.case_receive(), self.echo.case_send(1))
        except ChannelClosedError:
            return None
        if self.echo.took(r):
            self.echoed[0] += 1
            return None
        return csp.Received(int(r.value), True) if r.ok else csp.Received(0, False)

    def check(self) -> None:
        values = sorted(chain.from_iterable(self.received))
        assert len(values) == len(set(values)), self.seed
        if self.in_order:
            assert all(mine == sorted(mine) for mine in self.received), self.seed
        if not (self.loses or self.drops):
            assert values == VALUES[: len(values)], self.seed
        assert self.echoed[0] == self.echoed[1] + len(self.echo), self.seed
        for layer in self.layers:
            cause = layer.source.cause
            causes = [seen for source, seen in self.seen if source is layer.source]
            assert causes == [cause] * len(causes), self.seed
            if layer.how != "left" and (not layer.ended_before or layer.work_failed):
                assert cause is not None, self.seed
            if layer.how == "left" and not (layer.ended_before or layer.work_failed):
                assert cause is None, self.seed
        if self.layers[-1].source.cause is None and "left" not in [layer.how for layer in self.layers]:
            # Nothing has ended quietly but the root.
            assert self.root_cause is None, self.seed
            assert values == VALUES or self.drops, self.seed


@pytest.mark.parametrize("part", range(5))
async def test_whoever_receives_outside_of_a_block_knows_whether_all_values_came(
    autojump_clock: MockClock, part: int
) -> None:
    for number in range(PROGRAMS // 5):
        seed = 1000 * part + number
        program = BreakingProgram(seed)
        with trio.fail_after(10_000):
            await program.run()
        program.check()
