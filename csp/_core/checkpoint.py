"""How often an operation that completes at once lets other tasks run.

A checkpoint is a cancel point and a schedule point (Trio's reference, "Checkpoints"). An operation of Trio's is both,
each time, and its visit to the scheduler is four fifths of what a memory channel costs. Here every ``await`` is a
cancel point, and an operation that has to wait waits in the scheduler; but of those that complete at once only every
`OPERATIONS_PER_SCHEDULE_POINT`-th is a schedule point. For a program this means that 32 ready operations with a
millisecond of work each keep the other tasks waiting for 32 ms, and that `trio.testing.assert_checkpoints` does not
hold for a single operation.

There is one count for each thread, and so for each Trio run: whichever task runs, it comes to a schedule point after at
most 32 operations of its own.
"""

from __future__ import annotations

import threading
from typing import Final

from trio.lowlevel import cancel_shielded_checkpoint

OPERATIONS_PER_SCHEDULE_POINT: Final = 32


class Turn:
    """How many operations are left before the next visit to the scheduler. A new turn begins when a task parks."""

    __slots__ = ("changes", "left")

    changes: int
    """Grows whenever a source may have become ready. An operation that has found nothing ready compares it once its
    waiter is in the queues: a finalizer may have sent something in between."""

    def __init__(self) -> None:
        self.left = OPERATIONS_PER_SCHEDULE_POINT
        self.changes = 0

    async def end(self) -> None:
        """Visit the scheduler, and begin a new turn."""
        self.left = OPERATIONS_PER_SCHEDULE_POINT
        await cancel_shielded_checkpoint()


class _Turns(threading.local):
    # A context variable would cost the same, but it is copied into worker threads, and so two runs would share it.
    def __init__(self) -> None:
        self.current = Turn()


turns = _Turns()


def schedule_point_due(operations: int = 1) -> bool:
    """Count an operation that the current thread completed, or several; tell whether a schedule point is due.

    For a source of your own, after an operation that did not wait::

        if csp.schedule_point_due():
            await trio.lowlevel.cancel_shielded_checkpoint()
    """
    turn = turns.current
    turn.left -= operations
    if turn.left > 0:
        return False
    turn.left = OPERATIONS_PER_SCHEDULE_POINT
    return True
