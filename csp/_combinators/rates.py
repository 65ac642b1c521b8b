"""Fewer values than come: `throttle` and `debounce`.

Both are about the time at which values come, so a task of the block takes them as they come, and drops those that are
not to be given. Of those that are, a slow consumer finds the latest, as with a ticker.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar, cast

from csp._core.background import BackgroundNursery
from csp._core.channel import Channel
from csp._core.select import select
from csp._core.source import Source, check_source
from csp._time.duration import Duration, positive_duration
from csp._time.never import never
from csp._time.timers import after
from csp.errors import ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")


def throttle(
    source: Source[T], duration: Duration, *, trailing: bool = True
) -> AbstractAsyncContextManager[Channel[T], bool | None]:
    """Give at most one value every ``duration``; used as a block.

        async with csp.throttle(prices, "250ms") as shown:
            async for price in shown:
                redraw(price)

    The first value is given at once. Of those that come within ``duration`` of one that was given, the latest is given
    at the end of that time, or none with ``trailing=False``; the others are dropped. Who has not received a value when
    the next is due finds only that one. When the source is closed, a value still to be given is given at once, and then
    the result is closed with the same cause. Closing the result ends it. (RxJS: ``throttleTime``.)

    Raises:
        InvalidError: the duration is malformed or not above 0.
        InvalidTypeError: an argument is of the wrong type.
        NoContextError: the source is a block that was not entered.
    """
    check_source(source, "source")
    positive_duration(duration, "duration")

    async def run(shown: Channel[T]) -> None:
        latest: list[T] = []
        window: Source[float] = never()
        try:
            while True:
                r = await select(window.case_receive(), source.case_receive(), priority=True)
                if r.channel is window:
                    window = never()
                elif not r.ok:
                    break
                elif window is never() or trailing:
                    latest[:] = [cast("T", r.value)]
                if latest and window is never():
                    shown.send_nowait(latest.pop())
                    window = after(duration)
        finally:
            _end(shown, latest, source)

    return _running(run)


def debounce(source: Source[T], duration: Duration) -> AbstractAsyncContextManager[Channel[T], bool | None]:
    """Give a value once no other has come for ``duration``, and drop those before it; used as a block.

        async with csp.debounce(keystrokes, "300ms") as queries:
            async for query in queries:
                await search(query)

    Who has not received a value when the next is due finds only that one. When the source is closed, a value still to
    be given is given at once, and then the result is closed with the same cause. Closing the result ends it. (RxJS:
    ``debounceTime``.)

    Raises:
        InvalidError: the duration is malformed or not above 0.
        InvalidTypeError: an argument is of the wrong type.
        NoContextError: the source is a block that was not entered.
    """
    check_source(source, "source")
    positive_duration(duration, "duration")

    async def run(settled: Channel[T]) -> None:
        latest: list[T] = []
        quiet: Source[float] = never()
        try:
            while True:
                r = await select(quiet.case_receive(), source.case_receive(), priority=True)
                if r.channel is quiet:
                    settled.send_nowait(latest.pop())
                elif not r.ok:
                    break
                else:
                    latest[:] = [cast("T", r.value)]
                    quiet = after(duration)
        finally:
            _end(settled, latest, source)

    return _running(run)


@asynccontextmanager
async def _running(run: Callable[[Channel[T]], Awaitable[None]]) -> AsyncGenerator[Channel[T]]:
    async def run_until_closed() -> None:
        with suppress(ChannelClosedError):  # who receives may close it
            await run(given)

    given = Channel[T](1, overflow="drop_oldest")
    async with BackgroundNursery() as nursery:
        nursery.start_soon(run_until_closed)
        yield given


def _end(given: Channel[T], latest: list[T], source: Source[T]) -> None:
    if latest:
        given.send_nowait(latest[0])
    given.close(source.cause)
