"""A nursery for tasks that run beside a block of code and end with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, final

import trio
from trio.lowlevel import enable_ki_protection

from csp._core.exceptions import add_note
from csp._core.runs import check_run

if TYPE_CHECKING:
    from types import TracebackType


@final
class BackgroundNursery:
    """A nursery whose tasks are cancelled at the end of its block.

        async with csp.BackgroundNursery() as nursery:
            nursery.start_soon(keep_something_going)
            ...

    What the block raises comes out as it is, not in an exception group, so that callers need not know of the nursery.
    What tasks raise when they are cancelled then is in its notes, unless that is not an `Exception`. A task that raises
    cancels the block, and its exception comes out as it is too. Only several such exceptions come out as a group.

    Raises:
        NoContextError: entered outside a Trio run.
    """

    __slots__ = ("_first", "_manager", "_nursery")

    @enable_ki_protection
    async def __aenter__(self) -> trio.Nursery:
        check_run("this block")
        # Entered by hand: an exception of the block must not pass through the nursery, which would put it in a group.
        self._manager = trio.open_nursery()
        self._first: Exception | None = None
        self._nursery = await self._manager.__aenter__()
        return self._nursery

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._leave(exc)
        first, self._first = self._first, None
        self._nursery.cancel_scope.cancel()
        failures: BaseExceptionGroup[BaseException] | None = None
        caught = False
        try:
            if _contains_cancelled(exc):
                # It may be the nursery's own cancellation, which ends here.
                caught = bool(await self._manager.__aexit__(exc_type, exc, traceback))
            else:
                await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            # The caller need not know that the tasks were cancelled.
            failures = group.split(trio.Cancelled)[1]
        if failures is None:
            return caught
        if first is not None and isinstance(failures, Exception):
            for failure in failures.exceptions:
                add_note(first, failure, "a task of the block")
            del failures
            return False
        failure = failures.exceptions[0] if len(failures.exceptions) == 1 else failures
        try:
            if exc is None or isinstance(exc, trio.Cancelled):
                raise failure from failure.__cause__
            raise failure
        finally:
            del failure, failures  # their tracebacks hold this frame: all they refer to would wait for the collector

    def _leave(self, exc: BaseException | None) -> None:
        """Note what the block raises, if no task has failed yet: then it is the first failure.

        To be called before, if something is still waited for at the end of the block.
        """
        if isinstance(exc, Exception) and not self._nursery.cancel_scope.cancel_called and not _contains_cancelled(exc):
            self._first = exc


def _contains_cancelled(exc: BaseException | None) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return group.subgroup(trio.Cancelled) is not None
    return isinstance(exc, trio.Cancelled)
