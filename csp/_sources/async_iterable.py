"""`from_async_iterable`: what an async iterable gives."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from typing import TYPE_CHECKING, TypeVar

from csp._sources.pull import PullSource, named
from csp.errors import InvalidTypeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from csp._core.source import Source

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def from_async_iterable(iterable: AsyncIterable[T]) -> AbstractAsyncContextManager[Source[T], bool | None]:
    """Return a source of what an async iterable gives: an async generator, for instance.

    The next value is computed when one is asked for. Closed when the iterable ends; if it raises, with that as the
    cause. An async generator is closed (``aclose``) at the end of the block; if it is computing a value at that moment,
    it is cancelled there. One task runs all of it, so that it may have ``async with`` blocks around its ``yield``: a
    connection, a nursery, a timeout.

    Raises:
        InvalidTypeError: it is not async iterable.
    """
    if not isinstance(iterable, AsyncIterable):
        raise InvalidTypeError(f"iterable must be async iterable, not {iterable!r}")
    return named(_IterableSource(aiter(iterable)), "from_async_iterable", ends=(StopAsyncIteration,))


class _IterableSource(PullSource[T_co]):
    __slots__ = ("_iterator",)

    def __init__(self, iterator: AsyncIterator[T_co]) -> None:
        super().__init__(iterator.__anext__)
        self._iterator = iterator

    async def _clean_up(self) -> None:
        iterator: object = self._iterator
        if not isinstance(iterator, AsyncGenerator):
            return
        try:
            await iterator.aclose()
        except BaseExceptionGroup as group:
            # A nursery inside the generator puts the GeneratorExit that closes it into a group.
            _, failures = group.split(GeneratorExit)
            if failures is not None:
                raise failures from None
