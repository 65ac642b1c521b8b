"""What those who receive are told of the end of a source: its cause, and the error that is raised for it."""

from __future__ import annotations

import trio

from csp._core.exceptions import brief, without_cancelled
from csp.errors import ChannelBrokenError, EndOfChannelError, Error, renew


def error_of(cause: BaseException) -> Error:
    """Return a new error for a receiver that finds its source closed with a cause.

    Like the cause if that is an `Error`, else one that says what broke the source. So is the end of another source: it
    must not pass for a quiet end of this one.
    """
    if isinstance(cause, ChannelBrokenError) and cause.__cause__ is not None and not cause.details:
        cause = cause.__cause__  # it came through another source
    if not isinstance(cause, Error) or isinstance(cause, EndOfChannelError):
        return broken_by(cause)
    error = renew(cause, cause.message)
    error.__cause__ = cause
    return error


def broken_by(cause: BaseException) -> ChannelBrokenError:
    """Return a new error that says what broke a source."""
    error = ChannelBrokenError(f"the channel was closed by an error: {brief(cause)}")
    error.__cause__ = cause
    return error


def broken_by_block(name: str, error: BaseException | None) -> ChannelBrokenError:
    """Return the cause of a source that ends too early, because the block that it depends on failed or was cancelled.

    Args:
        name: the function that made the block.
        error: what ended it; None if it ended in a scope that is cancelled.
    """
    failure = None if error is None else without_cancelled(error)
    how = "was cancelled" if failure is None else f"failed: {brief(failure)}"
    broken = ChannelBrokenError(
        f"the values ended too early: the block of csp.{name} {how}", details={"block": f"csp.{name}"}
    )
    broken.__cause__ = failure
    return broken


def ended_early(name: str, exc: BaseException | None) -> ChannelBrokenError | None:
    """Return the cause of a source whose block ends before the values do; None if the block is left normally.

    A block that ends without an exception, in a scope that is cancelled, was cancelled too: whether its task has been
    told by then depends on what the task was doing.

    Args:
        name: the function that made the block.
        exc: what the block raised, or None.
    """
    if exc is None and trio.current_effective_deadline() > trio.current_time():
        return None
    return broken_by_block(name, exc)
