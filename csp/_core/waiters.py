"""Parked tasks: what wakes them, and with what.

How waiting works
-----------------
A task that has to wait makes a *waiter*, puts it into the queue of each channel it waits for, and parks in
`trio.lowlevel.wait_task_rescheduled`. The task that completes the operation calls one of the waiter's methods, without
waiting itself:

- `Waiter.deliver`: here is a value (or the news that the channel is closed);
- `Waiter.take`: something you wait for has become ready by itself, as a timer does; take it;
- `Waiter.offer`: give me the value you wait to send;
- `Waiter.fail`: the channel you wait on is closed.

Each of them claims the waiter, takes it out of *every* queue it is in, then reschedules its task with the result. (Only
a waiter with many values to send keeps its place until the last is taken.) So between two operations a waiter in a
queue is always parked and unclaimed: there are no stale entries, no second wake-ups. And a wake-up is the hand-over
itself, never a hint: Trio does not cancel a rescheduled task before it runs, so the value cannot be lost, and no other
task can take it in between.

If Trio cancels the task first, it calls `Waiter.abort`, which leaves all queues: the operation had no effect.

One thing can come between two steps of an operation: a finalizer, run by the garbage collector or by the drop of a last
reference. It may send, receive and close like any other code, and so claim a waiter that the interrupted operation was
about to claim. So a claim is one step, in which no finalizer runs: the task is read from the waiter, and None is put in
its place. An operation that finds None takes the waiter out of its queues and looks for another.

The waiter doubles as the `outcome.Outcome` its task is resumed with, which saves an object for every wake-up.

All of this runs under `trio.lowlevel.enable_ki_protection`: the public operations carry the decorator, and what they
call inherits it. Ctrl-C is then delivered at a checkpoint, never halfway through a change of a queue.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final, NoReturn

import outcome
from trio.lowlevel import Abort, Task, current_task

from csp._core.checkpoint import OPERATIONS_PER_SCHEDULE_POINT, turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator


class Taken(Exception):  # noqa: N818  # it is no error, and nobody sees it
    """What a task is woken with that has to try again: a finalizer has taken what had become ready for it."""


GONE: Final = object()
"""What `Waiter.offer` returns instead of a value."""


class Waiter(outcome.Outcome[object]):
    """A parked task, and the outcome that it is woken with.

    Subclasses that are made for every wait do what the constructor does themselves: calling it would add 9 instructions
    to 625, and two allocations to 26 (``python -m benchmarks.counts``, the row "1 to 1, unbuffered").
    """

    __slots__ = ("_task",)

    _task: Task | None
    """The task to wake; None once the waiter is claimed."""

    def __init__(self) -> None:
        self._task = current_task()
        turns.current.left = OPERATIONS_PER_SCHEDULE_POINT

    # An Outcome compares by content and cannot be hashed; a waiter equals only itself. (Functions in Python would be
    # slower, and a finalizer could run in them, in the middle of a change of a queue.)
    __eq__ = object.__eq__  # pyright: ignore[reportAssignmentType]  # its parameters have no names
    __hash__ = object.__hash__  # type: ignore[assignment]  # attrs set it to None in Outcome

    def deliver(self, source: object, value: object, ok: bool) -> bool:
        """Complete a receive from ``source`` with what it gives; tell whether the waiter was still unclaimed."""
        raise NotImplementedError  # pragma: no cover  # a waiter stands only in queues whose calls it knows

    def take(self) -> None:
        """Complete one of the operations waited for that are ready now; at least one is.

        What that raises is raised in the task that waits.
        """
        raise NotImplementedError  # pragma: no cover  # a waiter stands only in queues whose calls it knows

    def offer(self, source: object) -> Any:
        """Complete a send to ``source`` and return the value sent; `GONE` if the waiter was claimed already."""
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
        if self._task is None:  # claimed before its task has parked, or by an operation that a finalizer interrupts
            return Abort.FAILED
        self._task = None
        self.leave()
        return Abort.SUCCEEDED

    def send(self, gen: Generator[object, object, object]) -> NoReturn:
        raise NotImplementedError("a waiter is only ever unwrapped")  # pragma: no cover  # Trio never calls it

    async def asend(self, agen: AsyncGenerator[object, object]) -> NoReturn:
        raise NotImplementedError("a waiter is only ever unwrapped")  # pragma: no cover  # Trio never calls it
