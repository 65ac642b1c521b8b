"""`pipeline`: several tasks that work on the values of one source."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from csp._core.arguments import check_count
from csp._core.background import BackgroundNursery
from csp._core.channel import Channel
from csp._core.source import Source, check_source
from csp.errors import ChannelClosedError, InvalidTypeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
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
    closed with the same cause. When ``work`` raises, no more values are taken, calls that still run are cancelled,
    results that wait are given, and then the channel is closed with that exception as the cause. Leaving the block
    cancels the workers, and what they have in hand is lost. (core.async: ``pipeline-async``.)

    Args:
        source: where the values come from.
        work: an async function of a value.
        workers: how many calls of it may run at once, at least 1.
        ordered: whether the results come in the order of the values; a slow one then holds up those after it, and an
            exception comes in its place among them. Otherwise they come as they are ready.

    Raises:
        InvalidError: workers is below 1.
        InvalidTypeError: an argument is of the wrong type.
        NoContextError: the source is a block that was not entered.
    """
    check_source(source, "source")
    check_count(workers, "workers")
    if not callable(work):
        raise InvalidTypeError(f"work must be an async function, not {work!r}")
    return _block(source, work, workers, ordered)


@asynccontextmanager
async def _block(
    source: Source[T], work: Callable[[T], Awaitable[R]], workers: int, ordered: bool
) -> AsyncGenerator[Channel[R]]:
    pool = _Pool(source, work, workers, ordered)
    try:
        async with BackgroundNursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(pool.run_worker)
            yield pool.results
    finally:
        pool.results.close()


class _Pool(Generic[T, R]):
    """The workers of one pipeline."""

    def __init__(self, source: Source[T], work: Callable[[T], Awaitable[R]], workers: int, ordered: bool) -> None:
        self.results = Channel[R]()
        self._source = source
        self._work = work
        self._workers_left = workers
        self._ordered = ordered
        # Held while taking, so that values get their turns in the order in which they are taken.
        self._taking = trio.Lock()
        # Set when the next value to be taken may give its result.
        self._turn = trio.Event()
        self._turn.set()
        # Around all that a worker does except giving a result.
        self._scopes: set[trio.CancelScope] = set()
        self._failure: Exception | None = None

    async def run_worker(self) -> None:
        while self._failure is None:
            done: tuple[R, trio.Event] | None = None
            with trio.CancelScope() as scope:
                self._scopes.add(scope)
                done = await self._take_and_work()
            self._scopes.discard(scope)
            if done is None:
                break
            result, next_turn = done
            try:
                await self.results.send(result)
            except ChannelClosedError:  # by the receiver
                self._stop()
                break
            next_turn.set()
        self._workers_left -= 1
        if not self._workers_left:
            self.results.close(self._failure or self._source.cause)

    async def _take_and_work(self) -> tuple[R, trio.Event] | None:
        """Return a result when its turn has come, and what to set once it is given; None if there are no more."""
        async with self._taking:
            value, ok = await self._source.receive()
            if not ok:
                return None
            turn = self._turn
            if self._ordered:
                self._turn = trio.Event()
            next_turn = self._turn
        try:
            result = await self._work(value)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the cause
            await turn.wait()
            self._failure = self._failure or error
            self._stop()
            return None
        if not turn.is_set():
            await turn.wait()
        return result, next_turn

    def _stop(self) -> None:
        """Cancel the workers that have no result yet."""
        for scope in self._scopes:
            scope.cancel()
