"""Queues that items leave from the middle: first in, first out, and small when empty."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from csp._core.queues import Queue, count, first, items, join, leave


class Item:
    """Equal to nothing but itself."""


def queue_of(*joining: Item) -> Queue[Item]:
    queue: Queue[Item] = None
    for item in joining:
        queue = join(queue, item)
    return queue


def drain(queue: Queue[Item]) -> list[Item]:
    order: list[Item] = []
    while (item := first(queue)) is not None:
        order.append(item)
        queue = leave(queue, item)
    return order


A, B, C = Item(), Item(), Item()


def test_an_empty_queue_is_none() -> None:
    assert queue_of() is None
    assert count(None) == 0


def test_a_queue_of_one_is_the_item_itself() -> None:
    assert queue_of(A) is A
    assert count(A) == 1
    assert first(A) is A


def test_the_first_to_join_is_the_first() -> None:
    assert drain(queue_of(A, B, C)) == [A, B, C]


def test_count_is_the_number_of_items() -> None:
    assert count(queue_of(A, B, C)) == 3


@pytest.mark.parametrize("order", [[A, A], [A, B, A], [A, B, B], [A, B, C, A, B, C]])
def test_an_item_that_joins_again_keeps_its_one_place(order: list[Item]) -> None:
    assert drain(queue_of(*order)) == list(dict.fromkeys(order))


@pytest.mark.parametrize(("leaver", "rest"), [(A, [B, C]), (B, [A, C]), (C, [A, B])])
def test_an_item_can_leave_from_any_place(leaver: Item, rest: list[Item]) -> None:
    assert drain(leave(queue_of(A, B, C), leaver)) == rest


@pytest.mark.parametrize("others", [[], [B], [B, C]])
def test_leaving_a_queue_it_is_not_in_changes_nothing(others: list[Item]) -> None:
    assert drain(leave(queue_of(*others), A)) == others


def test_a_queue_that_empties_is_none_again() -> None:
    assert leave(queue_of(A), A) is None
    assert leave(leave(queue_of(A, B), A), B) is None


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_items_are_those_that_were_there_in_their_order(number: int) -> None:
    queue = queue_of(*[A, B, C][:number])
    there = items(queue)
    assert there == (A, B, C)[:number]
    leave(queue, A)
    assert there == (A, B, C)[:number]


def test_a_queue_that_a_finalizer_empties_while_somebody_looks_at_it_has_no_first() -> None:
    emptied: Queue[Item] = OrderedDict()
    assert first(emptied) is None
