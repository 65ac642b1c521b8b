"""`merge`: the values of several sources, in the order they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import trio

from csp._core.selector import Selector
from csp._core.source import Source, check_source
from csp._sources.pull import PullSource, named

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")


@overload
def merge(source1: Source[T1], source2: Source[T2], /) -> AbstractAsyncContextManager[Source[T1 | T2], bool | None]: ...
@overload
def merge(
    source1: Source[T1], source2: Source[T2], source3: Source[T3], /
) -> AbstractAsyncContextManager[Source[T1 | T2 | T3], bool | None]: ...
@overload
def merge(
    source1: Source[T1], source2: Source[T2], source3: Source[T3], source4: Source[T4], /
) -> AbstractAsyncContextManager[Source[T1 | T2 | T3 | T4], bool | None]: ...
@overload
def merge(
    source1: Source[T1], source2: Source[T2], source3: Source[T3], source4: Source[T4], source5: Source[T5], /
) -> AbstractAsyncContextManager[Source[T1 | T2 | T3 | T4 | T5], bool | None]: ...
@overload
def merge(
    source1: Source[T1],
    source2: Source[T2],
    source3: Source[T3],
    source4: Source[T4],
    source5: Source[T5],
    source6: Source[T6],
    /,
) -> AbstractAsyncContextManager[Source[T1 | T2 | T3 | T4 | T5 | T6], bool | None]: ...
@overload
def merge(*sources: Source[T]) -> AbstractAsyncContextManager[Source[T], bool | None]: ...
def merge(*sources: Source[Any]) -> AbstractAsyncContextManager[Source[Any], bool | None]:
    """Return a source of the values of all the sources, in the order they come; used as a block.

        async with csp.merge(spot.channel(), futures.channel()) as messages:
            async for message in messages:
                ...

    The values of one source stay in order; sources that are ready take turns, as in a `csp.Selector`. Closed when all
    of them are closed; as soon as one is closed with a cause, closed with that cause, and what the others have stays
    there. Closed at the end of the block too: without a cause, or with a `ChannelBrokenError` if the block fails or is
    cancelled before. Sources that fetch their values, as every `csp.PullSource` does, each fetch one ahead. (ReactiveX:
    "Merge".)

    Raises:
        InvalidTypeError: an argument is not a source.
        NoContextError: a source is a block that was not entered.
    """
    for position, source in enumerate(sources):
        check_source(source, f"argument {position} of merge")
    return named(_MergedSource(sources), "merge")


class _MergedSource(PullSource[Any]):
    __slots__ = ("_selector", "_sources")

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
