"""Parked tasks: a waiter is what it is, whoever wakes it. What wakes them is in the tests of what they wait for."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NoReturn, cast

import trio

import csp
from csp._core.select import SelectWaiter
from csp._core.selector import _SelectorWaiter
from csp._core.sending import SendManyWaiter, SendWaiter
from csp._core.source import ReceiveWaiter
from csp._core.waiters import GONE, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.lowlevel import Abort

    from csp._core.channel import ChannelCase


class Standing(Waiter):
    """A waiter that nobody wakes."""

    def __init__(self) -> None:  # pyright: ignore[reportMissingSuperCall]
        """No task waits: these tests run outside of Trio."""

    def deliver(self, source: object, value: object, ok: bool) -> NoReturn:
        raise NotImplementedError

    def take(self) -> NoReturn:
        raise NotImplementedError

    def offer(self, source: object) -> NoReturn:
        raise NotImplementedError

    def fail(self, source: object) -> NoReturn:
        raise NotImplementedError

    def leave(self) -> NoReturn:
        raise NotImplementedError

    def unwrap(self) -> NoReturn:
        raise NotImplementedError

    def abort(self, raise_cancel: object) -> Abort:
        raise NotImplementedError


def test_a_waiter_equals_nothing_but_itself() -> None:
    one, other = Standing(), Standing()
    assert one == one  # noqa: PLR0124  # that is the question
    assert one != other
    assert len({one, other, one}) == 2


def claimed(make: Callable[[], Waiter]) -> Waiter:
    """Return a waiter that a finalizer has claimed."""
    waiter = make()
    waiter._task = None
    return waiter


async def test_a_waiter_that_is_claimed_already_only_leaves_its_queue() -> None:
    channel, values = csp.Channel[int](), deque([1, 2])
    wakes: list[Callable[[Waiter], object]] = [
        lambda waiter: waiter.deliver(channel, 1, True),
        lambda waiter: waiter.take(),
        lambda waiter: waiter.fail(channel),
    ]
    receivers: list[Callable[[], Waiter]] = [
        lambda: ReceiveWaiter(channel),
        lambda: SelectWaiter((cast("ChannelCase[int]", channel.case_receive()),), priority=False),
    ]
    for make in receivers:
        for wake in wakes:
            waiter = claimed(make)
            channel._park(waiter)
            assert not wake(waiter)
            assert channel.statistics().tasks_waiting_receive == 0
            assert waiter.abort(None) is trio.lowlevel.Abort.FAILED
    senders: list[Callable[[], Waiter]] = [
        lambda: SendWaiter(channel, 1),
        lambda: SendManyWaiter(channel, values),
        lambda: SelectWaiter((channel.case_send(1),), priority=False),
    ]
    for make in senders:
        waiter = claimed(make)
        if isinstance(waiter, SendManyWaiter):
            waiter.leave()  # as it does when it is claimed
            assert list(values) == [1, 2]
        channel._park_sender(waiter)
        assert waiter.offer(channel) is GONE
        assert channel.statistics().tasks_waiting_send == 0
        channel._park_sender(waiter)
        waiter.fail(channel)
        assert channel.statistics().tasks_waiting_send == 0
    assert list(values) == [1, 2]


async def test_a_waiter_in_a_selector_that_is_claimed_already_only_leaves_its_queue() -> None:
    channel = csp.Channel[int](1)
    selector = csp.Selector(channel)
    channel.send_nowait(1)
    (watch,) = selector._ready
    wakes: list[Callable[[_SelectorWaiter], object]] = [
        lambda waiter: waiter.deliver(selector, None, True),
        lambda waiter: waiter.take_from(watch),
        lambda waiter: waiter.fail(selector),
    ]
    for wake in wakes:
        waiter = _SelectorWaiter(selector, iterating=False)
        waiter._task = None
        selector._parked = waiter
        assert not wake(waiter)
        assert selector._parked is None
    assert channel.receive_nowait() == (1, True)
