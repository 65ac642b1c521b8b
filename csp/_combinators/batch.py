"""`batch`: values gathered into lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import trio

from csp._core.arguments import check_count
from csp._core.select import select
from csp._core.source import Source, check_source
from csp._sources.pull import PullSource, named
from csp._time.duration import Duration, positive_duration
from csp._time.never import never
from csp._time.timers import after

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")


def batch(
    source: Source[T], size: int, within: Duration | None = None
) -> AbstractAsyncContextManager[Source[list[T]], bool | None]:
    """Return a source of lists of up to ``size`` values; used as a block.

        async with csp.batch(rows, 1000, within="1s") as batches:
            async for batch in batches:
                await database.insert(batch)

    A list is given when it is full, or ``within`` after its first value, so it is never empty. When the source is
    closed, what was gathered is given, and then the batches are closed with the same cause. Gathering begins when a
    list is asked for, so that one at most is held; one that is unfinished at the end of the block can still be
    received. Behind it comes the end: without a cause, or with a `ChannelBrokenError` if the block fails or is
    cancelled before the source is closed. (Akka Streams: "groupedWithin".)

    Args:
        source: where the values come from.
        size: how many values fill a list, at least 1.
        within: how long a list waits to be filled; None for as long as it takes.

    Raises:
        InvalidError: size is below 1, or within is malformed or not above 0.
        InvalidTypeError: an argument is of the wrong type.
        NoContextError: the source is a block that was not entered.
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

    return named(PullSource(gather, unfinished=lambda: [take()] if gathered else []), "batch")
