"""Sources made of sources, at random: whatever receives, and however often it is cancelled, each value comes once."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from itertools import chain
from typing import TYPE_CHECKING

import pytest
import trio

import csp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

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
