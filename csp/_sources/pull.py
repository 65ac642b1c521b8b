"""`PullSource`: values that an async function fetches, one at a time, and only when one is asked for.

A task of the block calls the function. A value is asked for by a task that starts to wait, by a `Selector` that has the
source among its cases, and by a select that polls. It goes to a task that waits; if none does any more, because a
select performed another case or was cancelled, the value is held, and nothing is fetched until it is taken. So a select
that ends never cancels the function, which not every function survives, and no value is lost.
"""

from __future__ import annotations

import inspect
from collections import deque
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import trio
from trio.lowlevel import Abort, current_task, enable_ki_protection, reschedule, wait_task_rescheduled

from csp._core.background import BackgroundNursery
from csp._core.causes import broken_by_block, ended_early
from csp._core.exceptions import without_cancelled
from csp._core.results import Received
from csp._core.runs import check_run
from csp._core.source import Moment, ReceiveCase, Source
from csp.errors import ChannelBrokenError, InvalidTypeError, NoContextError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

T_co = TypeVar("T_co", covariant=True)

# What the function raises at its end; the cause of that is passed on.
_ENDS = (trio.EndOfChannel, StopAsyncIteration)


class PullSource(Source[T_co]):
    """A source of what an async function returns, one value for each call; used as a block.

        async with csp.PullSource(queue.get) as jobs:
            r = await csp.select(jobs.case_receive(), shutdown.case_receive())

    A task that ends with the block calls the function, one call at a time, and only when a value is asked for. If a
    select has performed another case by the time the value comes, the value is held for the next to receive: one at
    most, and none is dropped. At the end of the block a running call is cancelled, and the source is closed; a value
    that is held can still be received. If the block fails or is cancelled, whoever still receives learns of it: the
    cause is then a `ChannelBrokenError` from what ended the block.

    Args:
        pull: called without arguments for each value. When there are no more, it raises `trio.EndOfChannel`, ``from`` a
            cause if there is one, or StopAsyncIteration. Any other exception closes the source, and is the `cause`.
        unfinished: called once, when the source closes, for the values that ``pull`` has taken from elsewhere and not
            returned; they can still be received.

    Raises:
        InvalidTypeError: pull cannot be called.
        NoContextError: used before the block is entered; or entered twice, or outside a Trio run.
    """

    __slots__ = (
        "_background",
        "_broken",
        "_calling",
        "_cause",
        "_closed",
        "_ending",
        "_ends",
        "_entered",
        "_finished",
        "_held",
        "_idle",
        "_left",
        "_name",
        "_pull",
        "_pulling",
        "_scope",
        "_unfinished",
    )

    def __init__(
        self, pull: Callable[[], Awaitable[T_co]], *, unfinished: Callable[[], Iterable[T_co]] = tuple[T_co, ...]
    ) -> None:
        super().__init__()
        if inspect.iscoroutine(pull):
            pull.close()  # or Python warns that it was never awaited
            raise InvalidTypeError(
                f"pull must be an async function, not what {pull.__name__}() returns; do not call it"
            )
        if not callable(pull):
            raise InvalidTypeError(f"pull must be an async function, not {pull!r}")
        # `named` sets others.
        self._name = "PullSource"
        self._ends: tuple[type[Exception], ...] = _ENDS
        self._pull = pull
        self._unfinished = unfinished
        self._background = BackgroundNursery()
        self._scope = trio.CancelScope()
        self._held: deque[T_co] = deque()
        self._finished = trio.Event()
        self._entered = False
        self._left = False
        # Whether a value is to be fetched, whether the function runs for it now, and whether no more is to be fetched.
        self._pulling = False
        self._calling = False
        self._ending = False
        # The block's task, while it waits for one of these to change.
        self._idle: trio.lowlevel.Task | None = None
        self._closed = False
        self._cause: BaseException | None = None
        # The cause, if the block ends before the values do.
        self._broken: ChannelBrokenError | None = None

    # The block -------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        self._check_can_enter()
        self._entered = True
        nursery = await self._background.__aenter__()
        nursery.start_soon(self._run)
        return self

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        # The task is not cancelled but ends by itself, so that it can clean up.
        self._left = True
        self._ending = True
        self._background._leave(exc)
        if self._broken is None:
            self._broken = ended_early(self._name, exc)
        self._resume()
        if self._calling:
            self._scope.cancel()
        try:
            await self._finished.wait()
        except trio.Cancelled:
            # What the block raised, if anything, is already on its way out through the cancelled scope.
            if exc is None:
                raise
        finally:
            caught = await self._background.__aexit__(exc_type, exc, traceback)
        return caught

    async def _run(self) -> None:
        try:
            with self._scope:
                try:
                    while await self._asked():
                        await self._pull_one()
                finally:
                    # Inside the scope: an async generator may have opened scopes of its own in it.
                    await self._clean_up()
        except BaseException as error:
            # The block was cancelled, and this task is told first.
            if not self._ending:
                self._broken = broken_by_block(self._name, error)
            raise
        finally:
            del self._pull  # it may refer to this source
            self._end(self._broken)
            self._finished.set()

    async def _asked(self) -> bool:
        """Wait until the function is to be called or the block ends; tell whether it is to be called."""
        while True:
            self._idle = current_task()
            if self._pulling or self._ending:  # asked only now: a finalizer may have asked for a value
                self._idle = None
                return not self._ending
            # Not cancelled here: the scopes that a suspended async generator has opened are in force, and the generator
            # itself is to see their cancellation. The end of the block wakes the task, even when the block is
            # cancelled.
            await wait_task_rescheduled(_not_cancelled)

    @enable_ki_protection
    def _resume(self) -> None:
        task, self._idle = self._idle, None
        if task is not None:
            reschedule(task)

    async def _pull_one(self) -> None:
        self._calling = True
        try:
            value = await self._pull()
        except self._ends as end:
            self._end(end.__cause__)
        except BaseException as error:
            failure = without_cancelled(error)
            if failure is not None:
                self._end(failure)
            if not isinstance(error, Exception):
                raise
        else:
            self._hold(value)
        finally:
            self._calling = False

    async def _clean_up(self) -> None:
        """Called by the task after the last call of the function."""

    @enable_ki_protection
    def _hold(self, value: T_co) -> None:  # type: ignore[misc]  # private
        self._pulling = False
        self._held.append(value)
        self.wake()
        if self.wanted:
            self.on_wanted()

    @enable_ki_protection
    def _end(self, cause: BaseException | None) -> None:
        """Close the source, unless it is closed; what is held stays receivable."""
        try:
            if not self._closed:
                self._held.extend(self._unfinished())
        except BaseException as error:
            cause = error
            raise
        finally:
            self._close(cause)
            self.wake()

    def _close(self, cause: BaseException | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._cause = cause
        self._ending = True
        self._resume()

    # The source ------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    def on_wanted(self) -> None:
        # While the block ends nothing is fetched; waiting tasks are told once it has ended.
        if not (self._pulling or self._ending or self.is_ready(Moment())):
            self._pulling = True
            self._resume()

    def is_ready(self, moment: Moment) -> bool:
        """Tell whether a value is held, or the source closed."""
        self._check_entered()
        return bool(self._held) or self._closed

    @enable_ki_protection
    def receive_nowait(self) -> Received[T_co]:
        """Take the value that is held; if there is none, have one fetched.

        Returns ``(value, True)``, or ``(None, False)`` once the source is closed and nothing is held.

        Raises:
            trio.WouldBlock: nothing is held yet.
        """
        self._check_entered()
        if self._held:
            return Received(self._held.popleft(), True)
        if self._closed:
            return Received(cast("T_co", None), False)
        self.on_wanted()
        raise trio.WouldBlock

    def case_receive(self) -> ReceiveCase[T_co]:
        self._check_entered()
        return super().case_receive()

    def _check_entered(self) -> None:
        if not self._entered:
            raise NoContextError(f"{self._name} gives nothing before its block: write `async with ...` first")

    def _check_can_enter(self) -> None:
        if self._entered:
            raise NoContextError(f"this {self._name} was used before; make another one")
        check_run(self._name)

    @property
    def closed(self) -> bool:
        """Whether the source is closed; a value may still be held."""
        return self._closed

    @property
    def cause(self) -> BaseException | None:
        """What the function raised, or the cause of its `trio.EndOfChannel`; or what says that the block failed."""
        return self._cause

    def __repr__(self) -> str:
        state = "closed" if self._closed else "fetching" if self._pulling else "idle"
        return f"<csp.{self._name} {state}, {len(self._held)} held, at {id(self):#x}>"


SourceT = TypeVar("SourceT", bound=PullSource[Any])


def named(source: SourceT, name: str, *, ends: tuple[type[Exception], ...] = _ENDS) -> SourceT:
    """Name a new source after the function that makes it, and return it.

    Args:
        source: the source.
        name: what errors and its repr call it.
        ends: what the function that it calls raises at its end.
    """
    source._name = name
    source._ends = ends
    return source


def _not_cancelled(_raise_cancel: object) -> Abort:
    return Abort.FAILED
