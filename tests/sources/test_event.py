"""`from_event`: closed once the event is set, and ready from then on."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp

ENDED: object = (None, False)


async def test_an_event_closes_its_source() -> None:
    event = trio.Event()
    async with csp.from_event(event) as stop:
        assert (await csp.select(stop.case_receive(), default=True)).default
        with pytest.raises(trio.WouldBlock):
            stop.receive_nowait()
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                r = await csp.select(stop.case_receive(), csp.Channel[int]().case_receive())
                assert (r.channel, r.ok) == (stop, False)

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            event.set()
        assert await stop.receive() == ENDED
        assert stop.closed


async def test_an_event_that_is_set_is_ready_at_once_and_stays_so() -> None:
    event = trio.Event()
    async with csp.from_event(event) as stop:
        event.set()
        for _ in range(2):
            assert (await csp.select(stop.case_receive(), default=True)).ok is False
        with csp.Selector(stop.case_receive(), csp.Channel[int]().case_receive()) as selector:
            assert (await selector.select()).ok is False
            assert len(selector) == 1


async def test_who_waits_for_an_event_is_told_though_another_saw_it_first() -> None:
    event = trio.Event()
    async with csp.from_event(event) as stop, trio.open_nursery() as nursery:
        nursery.start_soon(stop.receive)
        await wait_all_tasks_blocked()
        event.set()
        assert stop.receive_nowait() == ENDED


async def test_in_a_cancelled_block_an_event_that_is_set_later_changes_no_cause() -> None:
    event = trio.Event()
    with trio.CancelScope() as scope:
        async with csp.from_event(event) as stop:
            scope.cancel()
            with trio.CancelScope(shield=True):
                assert await stop.receive() == ENDED
                event.set()
                assert await stop.receive() == ENDED
                assert "the block of csp.from_event was cancelled" in str(stop.cause)


async def test_in_a_cancelled_block_an_event_that_was_set_is_a_quiet_end() -> None:
    event = trio.Event()
    stop: Any = csp.from_event(event)
    with trio.CancelScope() as scope:
        async with stop:
            scope.cancel()
            event.set()
            assert stop.receive_nowait() == ENDED
    assert (stop.closed, stop.cause) == (True, None)
