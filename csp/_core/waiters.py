"""Parked tasks, and the queues they wait in.

How waiting works
-----------------
A task that has to wait makes a *waiter*, puts it into the queue of each channel it waits for, and parks in
`trio.lowlevel.wait_task_rescheduled`. The task that completes the operation calls one of the waiter's methods, without
waiting itself:

- `Waiter.deliver`: here is a value (or the news that the channel is closed);
- `Waiter.take`: something you wait for has become ready by itself, as a timer does; take it;
- `Waiter.offer`: give me the value you wait to send;
- `Waiter.fail`: the channel you wait on is closed.

Each of them first takes the waiter out of *every* queue it is in, then reschedules its task with the result. (Only a
waiter with many values to send keeps its place until the last is taken.) So a waiter in a queue is always parked and
unclaimed: there are no claim flags, no stale entries, no second wake-ups. And a wake-up is the hand-over itself, never
a hint: Trio does not cancel a rescheduled task before it runs, so the value cannot be lost, and no other task can take
it in between.

If Trio cancels the task first, it calls `Waiter.abort`, which leaves all queues: the operation had no effect.

The waiter doubles as the `outcome.Outcome` its task is resumed with, which saves an object for every wake-up.

A queue is None when empty, the waiter itself when there is one (by far the most common), and an `OrderedDict` when
there are more: joining, leaving from the middle and taking the first are O(1) in all three. Thousands of tasks can
select on one shutdown channel, each leaving it after every round, and none of them pays for the others.

All of this runs under `trio.lowlevel.enable_ki_protection`: the public operations carry the decorator, and what they
call inherits it. Ctrl-C is then delivered at a checkpoint, never halfway through a change of a queue.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import outcome
from trio.lowlevel import Abort, current_task

from csp._core.checkpoint import OPERATIONS_PER_SCHEDULE_POINT, turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator


class Waiter(outcome.Outcome[object]):
    """A parked task, and the outcome that it is woken with.

    Subclasses that are made for every wait do what the constructor does themselves: calling it would add 9 instructions
    to 625, and two allocations to 26 (``python -m benchmarks.counts``, the row "1 to 1, unbuffered").
    """

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task = current_task()
        turns.current.left = OPERATIONS_PER_SCHEDULE_POINT

    # An Outcome compares by content and cannot be hashed; a waiter equals only itself.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:  # type: ignore[override]  # attrs set it to None in Outcome
        return id(self)

    def deliver(self, source: object, value: object, ok: bool) -> None:
        """Complete a receive from ``source`` with what it gives."""
        raise NotImplementedError  # pragma: no cover  # a waiter stands only in queues whose calls it knows

    def take(self) -> None:
        """Complete one of the operations waited for that are ready now; at least one is."""
        raise NotImplementedError  # pragma: no cover  # a waiter stands only in queues whose calls it knows

    def offer(self, source: object) -> Any:
        """Complete a send to ``source`` and return the value sent."""
        raise NotImplementedError  # pragma: no cover  # a waiter stands only in queues whose calls it knows

    def fail(self, source: object) -> None:
        """Complete what waits on ``source`` with the news that it is closed."""
        raise NotImplementedError  # pragma: no cover  # a waiter stands only in queues whose calls it knows

    @abstractmethod
    def leave(self) -> None:
        """Take the waiter out of every queue it is in."""

    @abstractmethod
    def unwrap(self) -> object:
        """Return the result to the woken task, or raise it there."""

    def abort(self, raise_cancel: object) -> Abort:
        """Called by Trio to cancel the wait."""
        self.leave()
        return Abort.SUCCEEDED

    def send(self, gen: Generator[object, object, object]) -> NoReturn:
        raise NotImplementedError("a waiter is only ever unwrapped")  # pragma: no cover  # Trio never calls it

    async def asend(self, agen: AsyncGenerator[object, object]) -> NoReturn:
        raise NotImplementedError("a waiter is only ever unwrapped")  # pragma: no cover  # Trio never calls it


Queue: TypeAlias = Waiter | OrderedDict[Waiter, None] | None


def join(queue: Queue, waiter: Waiter) -> Queue:
    """Put a waiter at the end, unless it is in the queue already; return the queue as it is now."""
    if queue is None or queue is waiter:
        return waiter
    if isinstance(queue, OrderedDict):
        queue.setdefault(waiter)
        return queue
    return OrderedDict({queue: None, waiter: None})


def leave(queue: Queue, waiter: Waiter) -> Queue:
    """Take a waiter out if it is there; return the queue as it is now."""
    if queue is waiter:
        return None
    if isinstance(queue, OrderedDict):
        queue.pop(waiter, None)
        return queue or None
    return queue


def first(queue: Waiter | OrderedDict[Waiter, None]) -> Waiter:
    """Return the waiter that has waited longest."""
    return next(iter(queue)) if isinstance(queue, OrderedDict) else queue


def count(queue: Queue) -> int:
    """Return how many waiters there are."""
    return len(queue) if isinstance(queue, OrderedDict) else int(queue is not None)
