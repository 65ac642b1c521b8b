"""How often an operation that completes at once lets other tasks run.

Trio itself visits the scheduler in every operation, and that visit is four fifths of what a memory channel costs. Here
every ``await`` is still a cancellation point, and an operation that has to wait still waits in the scheduler; but of
those that complete at once only every `OPERATIONS_PER_VISIT`-th visits it. For a program this means that 32 ready
operations with a millisecond of work each keep the other tasks waiting for 32 ms, and that
`trio.testing.assert_checkpoints` does not hold for a single operation.

There is one count for each thread, and so for each Trio run: whichever task runs, it visits the scheduler after at most
32 operations of its own.
"""

from __future__ import annotations

import threading
from typing import Final

from trio.lowlevel import cancel_shielded_checkpoint

OPERATIONS_PER_VISIT: Final = 32


class Turn:
    """How many operations are left before the next visit to the scheduler. A new turn begins when a task parks."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = OPERATIONS_PER_VISIT

    async def end(self) -> None:
        """Visit the scheduler, and begin a new turn."""
        self.left = OPERATIONS_PER_VISIT
        await cancel_shielded_checkpoint()


class _Turns(threading.local):
    # A context variable would cost the same, but it is copied into worker threads, and so two runs would share it.
    def __init__(self) -> None:
        self.current = Turn()


turns = _Turns()


def visit_due() -> bool:
    """Count an operation that the current thread completed; tell whether to visit the scheduler now.

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
