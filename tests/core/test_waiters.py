"""The queues of parked tasks: first in, first out, out of the middle, and small when empty."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest

from csp._core.queues import Queue, count, first, items, join, leave
from csp._core.waiters import Waiter

if TYPE_CHECKING:
    from trio.lowlevel import Abort


class Standing(Waiter):
    """A waiter that only stands in a queue."""

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


def queue_of(*waiters: Waiter) -> Queue:
    queue: Queue = None
    for waiter in waiters:
        queue = join(queue, waiter)
    return queue


def drain(queue: Queue) -> list[Waiter]:
    order: list[Waiter] = []
    while queue is not None:
        order.append(first(queue))
        queue = leave(queue, order[-1])
    return order


A, B, C = Standing(), Standing(), Standing()


def test_an_empty_queue_is_none() -> None:
    assert queue_of() is None
    assert count(None) == 0


def test_a_queue_of_one_is_the_waiter_itself() -> None:
    assert queue_of(A) is A
    assert count(A) == 1
    assert first(A) is A


def test_the_first_to_join_is_the_first() -> None:
    assert drain(queue_of(A, B, C)) == [A, B, C]


def test_count_is_the_number_of_waiters() -> None:
    assert count(queue_of(A, B, C)) == 3


@pytest.mark.parametrize("order", [[A, A], [A, B, A], [A, B, B], [A, B, C, A, B, C]])
def test_a_waiter_that_joins_again_keeps_its_one_place(order: list[Waiter]) -> None:
    assert drain(queue_of(*order)) == list(dict.fromkeys(order))


@pytest.mark.parametrize(("leaver", "rest"), [(A, [B, C]), (B, [A, C]), (C, [A, B])])
def test_a_waiter_can_leave_from_any_place(leaver: Waiter, rest: list[Waiter]) -> None:
    assert drain(leave(queue_of(A, B, C), leaver)) == rest


@pytest.mark.parametrize("others", [[], [B], [B, C]])
def test_leaving_a_queue_it_is_not_in_changes_nothing(others: list[Waiter]) -> None:
    assert drain(leave(queue_of(*others), A)) == others


def test_a_queue_that_empties_is_none_again() -> None:
    assert leave(queue_of(A), A) is None
    assert leave(leave(queue_of(A, B), A), B) is None


def test_a_waiter_equals_nothing_but_itself() -> None:
    assert A == A  # noqa: PLR0124  # that is the question
    assert A != B
    assert len({A, B, A}) == 2
