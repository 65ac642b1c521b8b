"""Sources made of other sources: several merged into one, values gathered into lists.

They take from their sources when somebody asks, as every `csp.PullSource` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import trio

from csp._adapters import from_async_iterable
from csp._arguments import check_count
from csp._duration import Duration, positive_duration
from csp._pull import PullSource
from csp._select import select
from csp._selector import Selector
from csp._source import Source, check_source
from csp._timers import after, never

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

T = TypeVar("T")


def merge(*sources: Source[T]) -> PullSource[T]:
    """Return a source of the values of all the sources, as they come; used as a block.

        async with csp.merge(spot.channel(), futures.channel()) as messages:
            async for message in messages:
                ...

    Values of one source stay in order; of several that have something each gives at most 16 in a row, as in a
    `csp.Selector`. Closed when all of them are closed; when one is closed with a cause, closed with that cause at once,
    and what the others have stays there. (ReactiveX: "Merge".)

    Raises:
        InvalidTypeError: one is no source.
    """
    for position, source in enumerate(sources):
        check_source(source, f"argument {position} of merge")
    return from_async_iterable(_merged(sources))


async def _merged(sources: tuple[Source[T], ...]) -> AsyncGenerator[T]:
    with Selector(*(source.case_receive() for source in sources)) as selector:
        async for r in selector:
            if r.ok:
                yield r.value
            elif (cause := cast("Source[T]", r.channel).cause) is not None:
                raise trio.EndOfChannel from cause


def batch(source: Source[T], size: int, within: Duration | None = None) -> PullSource[list[T]]:
    """Return a source of lists of up to ``size`` values; used as a block.

        async with csp.batch(rows, 1000, within="1s") as batches:
            async for batch in batches:
                await database.insert(batch)

    A list is given when it is full, or ``within`` after its first value, so it is never empty. When the source is
    closed, what was gathered is given, and then the batches are closed with the same cause. Gathering begins when
    somebody asks, so that one list at most is held; one that is unfinished at the end of the block can still be
    received. (Akka Streams: "groupedWithin".)

    Args:
        source: where the values come from.
        size: how many values fill a list, at least 1.
        within: how long a list waits to be filled; None for as long as it takes.

    Raises:
        InvalidError: size is below 1, or within malformed or not above 0.
        InvalidTypeError: an argument is of the wrong type.
    """
    check_source(source, "source")
    check_count(size, "size")
    if within is not None:
        positive_duration(within, "within")
    gathered: list[T] = []

    def take() -> list[T]:
        full = gathered.copy()
        gathered.clear()
        return full

    async def gather() -> list[T]:
        limit: Source[float] = never()
        while len(gathered) < size:
            r = await select(limit.case_receive(), source.case_receive(), priority=True)
            if r.channel is limit or not r.ok:
                break
            if within is not None and not gathered:
                limit = after(within)
            gathered.append(cast("T", r.value))
        if not gathered:
            raise trio.EndOfChannel from source.cause
        return take()

    return PullSource(gather, unfinished=lambda: [take()] if gathered else [])
