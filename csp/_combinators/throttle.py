"""`throttle`: at most one value in each period."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from csp._combinators.latest import latest_of
from csp._core.select import select
from csp._core.source import Source, check_source
from csp._time.duration import Duration, positive_duration
from csp._time.never import never
from csp._time.timers import after

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from csp._core.channel import Channel

T = TypeVar("T")


def throttle(
    source: Source[T], duration: Duration, *, trailing: bool = True
) -> AbstractAsyncContextManager[Source[T], bool | None]:
    """Give at most one value every ``duration``; used as a block.

        async with csp.throttle(prices, "250ms") as shown:
            async for price in shown:
                redraw(price)

    The first value is given at once. Of those that come within ``duration`` of a value that was given, the latest is
    given at the end of that time, or none with ``trailing=False``; the others are dropped. A value that was not
    received when the next is due is replaced by that one. When the source is closed, a value still to be given is given
    at once, and then the result is closed with the same cause. So it is at the end of the block, without a cause; if
    the block fails or is cancelled before the source is closed, with a `ChannelBrokenError`. (RxJS: ``throttleTime``.)

    Raises:
        InvalidError: the duration is malformed or not above 0.
        InvalidTypeError: an argument is of the wrong type.
        NoContextError: the source is a block that was not entered.
    """
    check_source(source, "source")
    positive_duration(duration, "duration")

    async def run(shown: Channel[T], latest: list[T]) -> None:
        window: Source[float] = never()
        while True:
            r = await select(window.case_receive(), source.case_receive(), priority=True)
            if r.channel is window:
                window = never()
            elif not r.ok:
                return
            elif window is never() or trailing:
                latest[:] = [cast("T", r.value)]
            if latest and window is never():
                shown.send_nowait(latest.pop())
                window = after(duration)

    return latest_of("throttle", source, run)
