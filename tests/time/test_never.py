"""`never`: a channel that gives nothing and keeps nobody who waits for it."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp


async def test_never_gives_nothing(autojump_clock: MockClock) -> None:
    channel = csp.never()
    with pytest.raises(trio.WouldBlock):
        channel.receive_nowait()
    with trio.move_on_after(1_000_000) as scope:
        await channel.receive()
    assert scope.cancelled_caught
    assert not channel.closed
    assert repr(channel) == "<csp.never()>"


async def test_never_collects_no_waiters() -> None:
    class Value:
        pass

    channel = csp.Channel[Value | None]()
    references: list[weakref.ref[Value]] = []

    async def produce() -> None:
        for _ in range(1000):
            await channel.send(None)

    async def select() -> None:
        value = Value()
        references.append(weakref.ref(value))
        # The waiter holds the cases, and with them the value.
        unready = csp.Channel[Value]().case_send(value)
        await csp.select(csp.never().case_receive(), channel.case_receive(), unready)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        for _ in range(1000):
            await select()
    gc.collect()
    assert [reference for reference in references if reference() is not None] == []


async def test_never_keeps_nobody_even_while_they_wait() -> None:
    # It is one object for all runs and threads.
    with csp.Selector(csp.never().case_receive()) as selector:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(csp.never().receive)
            nursery.start_soon(lambda: csp.select(csp.never().case_receive()))
            nursery.start_soon(selector.select)
            await wait_all_tasks_blocked()
            assert csp.never()._receivers is None
            assert csp.never()._watches is None
            nursery.cancel_scope.cancel()


async def test_never_collects_no_selectors() -> None:
    references: list[weakref.ref[object]] = []

    async def select() -> None:
        with csp.Selector(csp.never().case_receive(), csp.after("0s").case_receive()) as selector:
            references.append(weakref.ref(selector))
            assert (await selector.select()).index == 1

    for _ in range(10):
        await select()
    gc.collect()
    assert [reference for reference in references if reference() is not None] == []


def test_never_is_usable_in_one_run_after_another() -> None:
    async def main() -> None:
        with trio.move_on_after(1):
            await csp.never().receive()

    for _ in range(2):
        trio.run(main, clock=MockClock(autojump_threshold=0))
