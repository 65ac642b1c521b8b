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

OPERATIONS_PER_VISIT: Final = 32


class _Budget:
    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = OPERATIONS_PER_VISIT


# An object in a plain threading.local is the cheapest to get at: a context variable costs the same, and is copied into
# threads; an integer in the local itself, or a subclass of it, costs half as much again.
_thread = threading.local()


def visit_due() -> bool:
    """Count one completed operation of the current thread; tell whether it is time to visit the scheduler.

    For a source of your own, after an operation that did not wait::

        if csp.visit_due():
            await trio.lowlevel.cancel_shielded_checkpoint()
    """
    try:
        budget: _Budget = _thread.budget
    except AttributeError:
        budget = _thread.budget = _Budget()
    budget.left -= 1
    if budget.left > 0:
        return False
    budget.left = OPERATIONS_PER_VISIT
    return True
