"""A first-in, first-out queue that items may leave from the middle, for waiters and watches.

It is None when empty, the item itself when there is one (by far the most common), and an `OrderedDict` when there are
more: joining, leaving from the middle and taking the first are O(1) in all three. Thousands of tasks can select on one
shutdown channel, each leaving it after every round, and none of them pays for the others.
"""

# An item might be an OrderedDict itself, for all that pyright knows: one of unknown types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias, TypeVar

ItemT = TypeVar("ItemT")

Queue: TypeAlias = ItemT | OrderedDict[ItemT, None] | None


def join(queue: Queue[ItemT], item: ItemT) -> Queue[ItemT]:
    """Put an item at the end, unless it is in the queue already; return the queue as it is now."""
    if queue is None or queue is item:
        return item
    if isinstance(queue, OrderedDict):
        queue.setdefault(item)
        return queue
    return OrderedDict({queue: None, item: None})


def leave(queue: Queue[ItemT], item: ItemT) -> Queue[ItemT]:
    """Take an item out if it is there; return the queue as it is now."""
    if queue is item:
        return None
    if isinstance(queue, OrderedDict):
        queue.pop(item, None)
        return queue or None
    return queue


def first(queue: Queue[ItemT]) -> ItemT | None:
    """Return the item that has been there longest, or None."""
    if isinstance(queue, OrderedDict):
        # Unlike next(iter(queue)), the loop has no gap in which a finalizer, which the collector runs, may change it.
        for item in queue:
            return item
        return None  # a finalizer has emptied it
    return queue


def items(queue: Queue[ItemT]) -> tuple[ItemT, ...]:
    """Return what is in the queue now, in its order."""
    return () if queue is None else tuple(queue) if isinstance(queue, OrderedDict) else (queue,)


def count(queue: Queue[object]) -> int:
    """Return how many items there are."""
    return len(queue) if isinstance(queue, OrderedDict) else int(queue is not None)
