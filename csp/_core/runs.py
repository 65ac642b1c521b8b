"""The error where there is no Trio run: in plain code, under asyncio, in a thread of its own.

Trio's own errors there name what it lacks itself, such as a "runner". They are translated where they come out: a check
ahead of each operation would cost time, and a ``try`` costs none unless something is raised.
"""

from __future__ import annotations

from trio.lowlevel import in_trio_task

from csp.errors import NoContextError


def no_run(what: str) -> NoContextError:
    """Return a new error that says what needs a run."""
    return NoContextError(f"{what} needs a running Trio: it works inside trio.run only")


def check_run(what: str) -> None:
    """Raise `NoContextError` if it is not a task of a Trio run that calls this."""
    if not in_trio_task():
        raise no_run(what) from None
