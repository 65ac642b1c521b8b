"""Sources made of other sources: several merged into one, values gathered into lists.

They take from their sources when somebody asks, as every `csp.PullSource` does.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast, overload

import trio

from csp._core.arguments import check_count
from csp._core.select import select
from csp._core.selector import Selector
from csp._core.source import Source, check_source
from csp._sources.pull import PullSource
from csp._time.duration import Duration, positive_duration
from csp._time.never import never
from csp._time.timers import after

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")


@overload
def merge(source1: Source[T1], source2: Source[T2], /) -> PullSource[T1 | T2]: ...
@overload
def merge(source1: Source[T1], source2: Source[T2], source3: Source[T3], /) -> PullSource[T1 | T2 | T3]: ...
@overload
def merge(*sources: Source[T]) -> PullSource[T]: ...
def merge(*sources: Source[Any]) -> PullSource[Any]:
    """Return a source of the values of all the sources, as they come; used as a block.

        async with csp.merge(spot.channel(), futures.channel()) as messages:
            async for message in messages:
                ...

    Values of one source stay in order; of several that have something each gives at most 16 in a row, as in a
    `csp.Selector`. Closed when all of them are closed; when one is closed with a cause, closed with that cause at once,
    and what the others have stays there. Sources that fetch their values, as those of `csp.PullSource` do, each fetch
    one ahead. (ReactiveX: "Merge".)

    Raises:
        InvalidTypeError: one is no source.
        NoContextError: one is a block that was not entered.
    """
    for position, source in enumerate(sources):
        check_source(source, f"argument {position} of merge")
    return _MergedSource(sources)


class _MergedSource(PullSource[Any]):
    __slots__ = ("_selector", "_sources")

    _name = "merge"

    def __init__(self, sources: tuple[Source[Any], ...]) -> None:
        super().__init__(self._next)
        self._sources = sources
        self._selector = Selector[Any]()

    async def _next(self) -> Any:
        for source in self._sources:
            self._selector.add(source.case_receive())
        self._sources = ()
        async for r in self._selector:
            if r.ok:
                return r.value
            if (cause := cast("Source[Any]", r.channel).cause) is not None:
                raise trio.EndOfChannel from cause
        raise trio.EndOfChannel

    async def _clean_up(self) -> None:
        self._selector.close()


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

    return _BatchSource(gather, unfinished=lambda: [take()] if gathered else [])


class _BatchSource(PullSource[list[T]]):
    __slots__ = ()

    _name = "batch"
