"""What sources say whose block ends before their values do."""

from __future__ import annotations

from typing import cast

import trio

from csp.errors import ChannelBrokenError


def ended_early(block: str, exc: BaseException | None) -> ChannelBrokenError | None:
    """Return the cause of a source whose block ends; None if it is left normally.

    Args:
        block: the name of the method that made the block.
        exc: what the block raised, or None.
    """
    if exc is None:
        return None
    failure = _failure(exc)
    how = "was cancelled" if failure is None else f"failed: {type(failure).__name__}"
    error = ChannelBrokenError(f"the values ended too early: the block of {block} {how}", details={"block": block})
    error.__cause__ = failure
    return error


def _failure(exc: BaseException) -> BaseException | None:
    """Return what is not a cancellation; None if everything is."""
    if isinstance(exc, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", exc).split(trio.Cancelled)[1]
    return None if isinstance(exc, trio.Cancelled) else exc
