"""`pipeline`: several tasks that work on the values of one source."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from csp._arguments import check_count
from csp._background import BackgroundNursery
from csp._channel import Channel
from csp._source import Source, check_source
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

    Each worker takes its next value when its result has been received, so that at most ``workers`` values are in work
    or wait as results. When the source is closed, the remaining results are given, and then they are closed with the
    same cause. When ``work`` raises, the results are closed with that as the cause, the other workers are cancelled,
    and nothing more is taken. Leaving the block cancels the workers; what they had in hand is gone. (core.async:
    ``pipeline-async``.)

    Args:
        source: where the values come from.
        work: an async function of a value.
        workers: how many calls of it may run at once, at least 1.
        ordered: whether the results come in the order of the values, also before an exception; a slow one then holds up
            those after it. Otherwise they come as they are ready.

    Raises:
        InvalidError: workers is below 1.
        InvalidTypeError: an argument is of the wrong type.
    """
    check_source(source, "source")
    check_count(workers, "workers")
    if not callable(work):
        raise InvalidTypeError(f"work must be an async function, not {work!r}")
    return _running(source, work, workers, ordered)


@asynccontextmanager
async def _running(
    source: Source[T], work: Callable[[T], Awaitable[R]], workers: int, ordered: bool
) -> AsyncGenerator[Source[R]]:
    results = Channel[R]()
    taking = trio.Lock()
    # Set when it is the next value's turn to give its result.
    last_turn = trio.Event()
    last_turn.set()

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(run_worker, nursery.cancel_scope)
        results.close(source.cause)

    async def run_worker(all_workers: trio.CancelScope) -> None:
        nonlocal last_turn
        while True:
            async with taking:
                value, ok = await source.receive()
                turn = last_turn
                if ordered:
                    last_turn = trio.Event()
                next_turn = last_turn
            if not ok:
                return
            try:
                result = await work(value)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is the cause
                await turn.wait()
                results.close(error)
                all_workers.cancel()
                return
            await turn.wait()
            try:
                await results.send(result)
            except ChannelClosedError:  # who receives may close it
                all_workers.cancel()
                return
            next_turn.set()

    try:
        async with BackgroundNursery() as nursery:
            nursery.start_soon(run)
            yield results
    finally:
        results.close()
