"""Which exception comes out of a block of servers: the one that came first; the others are its notes.

The program under test and the handlers run beside each other, and each may fail because the other has failed. A program
that fails leaves its connections, and a handler may fail for want of them. A handler that fails cancels the program,
which may fail while it cleans up. The order in which exceptions are seen does not tell which came first: the program's
comes to the end of the block only after its connections have been closed. So three rules tell it:

- A handler that fails after its client has left is taken to fail because of that.
- A handler that fails because it was cancelled does not come first.
- A program that fails because a handler's failure cancelled it does not come first. Its `trio.Cancelled` has that
  failure as its reason.
"""

from __future__ import annotations

import math
import traceback
from typing import TYPE_CHECKING, NamedTuple, cast

import trio

from csp.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGES = frozenset(("csp", "trio", "trio_csp_websocket"))
_MAX_PLACE_CHARACTERS = 200


class _Failure(NamedTuple):
    """An exception of a handler."""

    error: BaseException
    client_left: bool
    """Whether the client had left when the handler failed."""
    cancelled: bool
    """Whether the handler failed because it was cancelled."""


class Failures:
    """The exceptions of the handlers of one block, and of the block itself."""

    block: trio.CancelScope
    """The scope of the block and its handlers; to be set before the first of them runs."""

    def __init__(self) -> None:
        self._reason: str | None = None
        self._handlers: list[_Failure] = []
        self._arrived: BaseException | None = None
        self._cancelled_outside = False

    def add(self, error: BaseException, *, client_left: bool) -> None:
        """Note what a handler has raised, in the task of its connection, and cancel the block."""
        if self.block.cancel_called:
            cancelled = self._cancelled_outside or any(isinstance(seen, trio.Cancelled) for seen in _chain(error))
        else:
            cancelled = trio.current_effective_deadline() == -math.inf
        self._handlers.append(_Failure(error, client_left, cancelled))
        if self._reason is None:
            self._reason = f"a handler failed: {described(error)}"
        self.block.cancel(reason=self._reason)
        del error  # the traceback of the cancellation holds this frame: what failed would wait for the collector

    def arrived(self, error: BaseException) -> None:
        """Note what has come to the end of the block: an exception of the program, or a cancellation."""
        self._arrived = error
        self._cancelled_outside = not _is_failure(error) and not self.block.cancel_called

    def take_first(self, program: BaseException | None) -> BaseException | None:
        """Return what is to come out of the block, with notes about all else that was raised, and forget the rest.

        Args:
            program: what comes out of the block if no handler has failed. None if that is nothing, or was only a
                cancellation by a handler's failure.
        """
        first = self._first(program)
        if first is not None and first is not program:
            if program is not None and _is_failure(program):
                first.add_note(f"the program failed too: {described(program)}")
            elif (handled := self._handled()) is not None:
                first.add_note(f"the program was cancelled while it handled: {described(handled)}")
        if first is not None:
            for handler in self._handlers:
                if handler.error is not first:
                    first.add_note(f"a handler failed too: {described(handler.error)}")
        # Their tracebacks may hold this: all they refer to would wait for the collector.
        self._handlers.clear()
        self._arrived = None
        return first

    def _first(self, program: BaseException | None) -> BaseException | None:
        for error in (program, *(handler.error for handler in self._handlers)):
            if any(isinstance(seen, KeyboardInterrupt | SystemExit) for seen in _leaves(error)):
                return error
        not_cancelled = [handler for handler in self._handlers if not handler.cancelled]
        if program is None:
            handlers = not_cancelled or self._handlers
        elif not self._is_first(program):
            handlers = not_cancelled
        else:
            handlers = [handler for handler in not_cancelled if not handler.client_left]
        return handlers[0].error if handlers else program

    def _is_first(self, program: BaseException) -> bool:
        """Tell whether the program has failed, and not only because a handler's failure cancelled it."""
        return any(not any(map(self._is_ours, _chain(leaf))) for leaf in _leaves(program) if _is_failure(leaf))

    def _is_ours(self, error: BaseException) -> bool:
        return isinstance(error, trio.Cancelled) and self._reason is not None and error.reason is self._reason

    def _handled(self) -> BaseException | None:
        """Return what the program handled, or cleaned up after, when it was cancelled."""
        return next((seen for seen in _chain(self._arrived) if _is_failure(seen)), None)


def described(error: BaseException) -> str:
    """Return on one line what was raised, and where: the last line that is not of this package or of Trio."""
    first, *others = _leaves(error)
    text = shown(traceback.format_exception_only(first)[0].partition("\n")[0])
    frames = list(traceback.walk_tb(first.__traceback__))
    theirs = [found for found in frames if found[0].f_globals.get("__name__", "").partition(".")[0] not in _PACKAGES]
    if frames:
        frame, line = (theirs or frames)[-1]
        text = f"{text} ({frame.f_code.co_filename[-_MAX_PLACE_CHARACTERS:]}:{line})"
    return f"{text}, and {len(others)} more" if others else text


def _is_failure(error: BaseException | None) -> bool:
    """Tell whether there is an exception that is not only a cancellation."""
    return any(not isinstance(leaf, trio.Cancelled) for leaf in _leaves(error))


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    """Give the exceptions in a group, and any other exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    elif error is not None:
        yield error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Give the exceptions in a group, and those each of them was raised from or in the handling of, each once."""
    seen: set[int] = set()
    left = list(_leaves(error))
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            left.extend(_leaves(one.__cause__))
            left.extend(_leaves(one.__context__))
