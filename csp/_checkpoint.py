"""How often an operation that completes at once lets other tasks run.

Trio's own rule is a visit to the scheduler for every operation, and that visit is four fifths of what a memory
channel costs. Here every ``await`` is still a cancellation point, and one that has to wait still waits in the
scheduler; but operations that complete at once visit it only every `OPERATIONS_PER_VISIT` times. What this means for
a program: 32 ready operations with a millisecond of work each keep the other tasks waiting for 32 ms, and
`trio.testing.assert_checkpoints` does not hold for a single operation.

The count is kept in a context variable, and so never shared between two threads' runs by accident: a task inherits
the counter of the task that started it, and whichever task runs, it comes to a visit after at most 32 operations of
its own.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

OPERATIONS_PER_VISIT: Final = 32


class _Budget:
    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = OPERATIONS_PER_VISIT


_budget: ContextVar[_Budget | None] = ContextVar("csp_checkpoint_budget", default=None)


def visit_due() -> bool:
    """Count one completed operation; tell whether it is time to visit the scheduler."""
    budget = _budget.get()
    if budget is None:
        budget = _Budget()
        _budget.set(budget)
    budget.left -= 1
    if budget.left > 0:
        return False
    budget.left = OPERATIONS_PER_VISIT
    return True


async def budgeted_checkpoint() -> None:
    """Count one operation of a source of your own, and let other tasks run if 32 have completed since they last could.

    Always a cancellation point. Call it before the operation takes effect: when it raises `trio.Cancelled`, nothing
    must have happened yet.
    """
    await checkpoint_if_cancelled()
    if visit_due():
        await cancel_shielded_checkpoint()
