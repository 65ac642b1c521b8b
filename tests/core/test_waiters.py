"""Parked tasks: a waiter is what it is, whoever wakes it. What wakes them is in the tests of what they wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from csp._core.waiters import Waiter

if TYPE_CHECKING:
    from trio.lowlevel import Abort


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
