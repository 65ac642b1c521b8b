"""`pipeline`: several tasks that work on the values of one source."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from csp._combinators.block import Block
from csp._core.arguments import check_count
from csp._core.channel import Channel
from csp._core.exceptions import add_note
from csp._core.source import Source, check_source
from csp.errors import ChannelClosedError, InvalidTypeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")
R = TypeVar("R")


def pipeline(
    source: Source[T], work: Callable[[T], Awaitable[R]], *, workers: int, ordered: bool = True
) -> AbstractAsyncContextManager[Source[R], bool | None]:
    """Give ``await work(value)`` for each value of a source, computed by several tasks at once; used as a block.

        async with csp.pipeline(urls, fetch, workers=10) as pages:
            async for page in pages:
                ...

    Each worker takes its next value once its result has been received, so that at most ``workers`` values are in work
    or wait as results. When the source is closed, the remaining results are given, and then the channel of results is
    closed with the same cause. When ``work`` raises, no more values are taken, the other calls are cancelled at once,
    results that wait are given, and then the channel is closed with that exception as the cause; what other calls raise
    when they are cancelled is in its notes. Leaving the block cancels the workers, and what they have in hand is lost;
    what they raise then comes out of the block. What ``work`` has raised before is then the cause, though its turn has
    not come. If the block fails or is cancelled before the source has ended, the channel is closed with a
    `ChannelBrokenError` as the cause. (core.async: ``pipeline-async``.)

    Args:
        source: where the values come from.
        work: an async function of a value.
        workers: how many calls of it may run at once, at least 1.
        ordered: whether the results come in the order of the values; a slow one then holds up those after it, and an
            exception comes in its place among them: the calls for earlier values are not cancelled, and their results
            are given first. Otherwise they come as they are ready.

    Raises:
        InvalidError: workers is below 1.
        InvalidTypeError: an argument is of the wrong type.
        NoContextError: the source is a block that was not entered.
    """
    check_source(source, "source")
    check_count(workers, "workers")
    if not callable(work):
        raise InvalidTypeError(f"work must be an async function, not {work!r}")
    pool = _Pool(source, work, workers, ordered)
    return Block("pipeline", pool.results, [pool.run_worker] * workers, pool.end)


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    """A value to work on."""

    number: int
    value: T
    # Set when the result may be given, and what to set once it is given.
    turn: trio.Event
    next_turn: trio.Event


class _Pool(Generic[T, R]):
    """The workers of one pipeline."""

    def __init__(self, source: Source[T], work: Callable[[T], Awaitable[R]], workers: int, ordered: bool) -> None:
        self.results = Channel[R]()
        self._source = source
        self._work = work
        self._workers_left = workers
        self._ordered = ordered
        self._source_ended = False
        # Held while taking, so that values get their turns in the order in which they are taken.
        self._taking = trio.Lock()
        self._taken = 0
        # Set when the next value to be taken may give its result.
        self._turn = trio.Event()
        self._turn.set()
        # Around what the workers do, except giving a result: by the number of the value, or that of the next.
        self._scopes: dict[trio.CancelScope, int] = {}
        # What the calls have raised, by the number of the value.
        self._failures: dict[int, Exception] = {}

    async def run_worker(self) -> None:
        while not self._stopped:
            job = await self._take()
            if job is None:
                break
            await self._work_on(job)
        self._workers_left -= 1
        if not self._workers_left:
            self.end(None)

    def end(self, cause: BaseException | None) -> None:
        """Close the results, once: with a cause if there is one, else with what has ended the values so far."""
        if self.results.closed:
            return
        if cause is None and self._failures:
            cause = self._failure()
        elif cause is None and self._source_ended:
            cause = self._source.cause
        self.results.close(cause)

    @property
    def _stopped(self) -> bool:
        """Whether no more values are to be taken: a call has raised, or the receiver has closed the results."""
        return bool(self._failures) or self.results.closed

    async def _take(self) -> _Job[T] | None:
        """Return the next value; None if there are no more, or none are to be taken."""
        with trio.CancelScope() as scope:
            # A failure cancels it: no value has a number that is higher.
            self._scopes[scope] = sys.maxsize
            try:
                async with self._taking:
                    value, ok = await self._source.receive()
                    self._source_ended = not ok
                    if not ok or self._stopped:
                        return None
                    turn = self._turn
                    if self._ordered:
                        self._turn = trio.Event()
                    self._taken += 1
                    return _Job(self._taken, value, turn, self._turn)
            except Exception as error:  # noqa: BLE001  # a source's own; it comes after the results of all values
                self._fail(self._taken + 1, error)
            finally:
                del self._scopes[scope]
        return None

    async def _work_on(self, job: _Job[T]) -> None:
        """Work on a value, and give the result when its turn has come."""
        results: list[R] = []
        try:
            with trio.CancelScope() as scope:
                self._scopes[scope] = job.number
                try:
                    result = await self._work(job.value)
                    if not job.turn.is_set():
                        await job.turn.wait()
                    results.append(result)
                finally:
                    del self._scopes[scope]
        except Exception as error:
            if self.results.closed or trio.current_effective_deadline() == -math.inf:
                raise  # nobody receives it any more
            self._fail(job.number, error)
        for result in results:
            try:
                await self.results.send(result)
            except ChannelClosedError:  # by the receiver
                self._cancel_from(0)
            job.next_turn.set()

    def _fail(self, number: int, error: Exception) -> None:
        """Note what the call for a value has raised; cancel those that are not to give a result any more."""
        self._failures[number] = error
        # A source's own is behind all values, as its end is.
        self._cancel_from(number if self._ordered or number > self._taken else 0)

    def _cancel_from(self, number: int) -> None:
        for scope, other in self._scopes.items():
            if other > number:
                scope.cancel()

    def _failure(self) -> Exception:
        """Return the failure that comes first, with notes of the others."""
        number = min(self._failures) if self._ordered else next(iter(self._failures))
        failure = self._failures.pop(number)
        for other in self._failures.values():
            add_note(failure, other, "another call of the pipeline")
        return failure
