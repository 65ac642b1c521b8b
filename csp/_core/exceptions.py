"""What exceptions are to others: in a text, in a note, and without cancellations."""

from __future__ import annotations

import reprlib
import traceback
from typing import cast

import trio


def brief(error: BaseException) -> str:
    """Return what an exception is, for a text: it may hold all that a peer sent, or fail to show itself."""
    return _bounded.repr(error)


_bounded = reprlib.Repr()
_bounded.maxother = 500


def without_cancelled(error: BaseException) -> BaseException | None:
    """Return what is left of an exception without `trio.Cancelled`, alone or in groups; None for nothing."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        cancelled, others = group.split(trio.Cancelled)
        return group if cancelled is None else others  # the others are another group, even if they are all
    return None if isinstance(error, trio.Cancelled) else error


def add_note(error: BaseException, other: BaseException, who: str) -> None:
    """Tell with an exception of another that was raised after it, and where.

    Args:
        error: what was raised first.
        other: what was raised after it, and is not raised any further.
        who: what has raised it.
    """
    where = traceback.extract_tb(other.__traceback__)
    place = f" ({where[-1].filename}:{where[-1].lineno})" if where else ""
    error.add_note(f"{who} raised, too: {brief(other)}{place}")
