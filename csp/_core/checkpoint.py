"""How often an operation that completes at once lets other tasks run.

Trio's own rule is a visit to the scheduler for every operation, and that visit is four fifths of what a memory
channel costs. Here every ``await`` is still a cancellation point, and one that has to wait still waits in the
scheduler; but operations that complete at once visit it only every `OPERATIONS_PER_VISIT` times. What this means for
a program: 32 ready operations with a millisecond of work each keep the other tasks waiting for 32 ms, and
`trio.testing.assert_checkpoints` does not hold for a single operation.

The count is kept for each thread, and so for each Trio run that is active: whichever task runs, it comes to a visit
after at most 32 operations of its own.
"""

from __future__ import annotations

import threading
from typing import Final

from trio.lowlevel import cancel_shielded_checkpoint

OPERATIONS_PER_VISIT: Final = 32


class Turn:
    """How many operations are left before the next visit to the scheduler. A task that parks begins a new turn."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = OPERATIONS_PER_VISIT

    async def end(self) -> None:
        """Visit the scheduler, and begin a new turn."""
        self.left = OPERATIONS_PER_VISIT
        await cancel_shielded_checkpoint()


class _Turns(threading.local):
    # A context variable costs the same, but is copied into worker threads and so would be shared between two runs.
    def __init__(self) -> None:
        self.current = Turn()


turns = _Turns()


def visit_due() -> bool:
    """Count one completed operation of the current thread; tell whether it is time to visit the scheduler.

    For a source of your own, after an operation that did not wait::

        if csp.visit_due():
            await trio.lowlevel.cancel_shielded_checkpoint()
    """
    turn = turns.current
    turn.left -= 1
    if turn.left > 0:
        return False
    turn.left = OPERATIONS_PER_VISIT
    return True
