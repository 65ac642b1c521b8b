"""`debounce`: a value once no other has come for a while."""

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


def debounce(source: Source[T], duration: Duration) -> AbstractAsyncContextManager[Source[T], bool | None]:
    """Give a value once no other has come for ``duration``, and drop those before it; used as a block.

        async with csp.debounce(keystrokes, "300ms") as queries:
            async for query in queries:
                await search(query)

    A value that was not received when the next is due is replaced by that one. When the source is closed, a value still
    to be given is given at once, and then the result is closed with the same cause. So it is at the end of the block,
    without a cause; if the block fails or is cancelled before the source is closed, with a `ChannelBrokenError`. (RxJS:
    ``debounceTime``.)

    Raises:
        InvalidError: the duration is malformed or not above 0.
        InvalidTypeError: an argument is of the wrong type.
        NoContextError: the source is a block that was not entered.
    """
    check_source(source, "source")
    positive_duration(duration, "duration")

    async def run(settled: Channel[T], latest: list[T]) -> None:
        quiet: Source[float] = never()
        while True:
            r = await select(quiet.case_receive(), source.case_receive(), priority=True)
            if r.channel is quiet:
                settled.send_nowait(latest.pop())
            elif not r.ok:
                return
            else:
                latest[:] = [cast("T", r.value)]
                quiet = after(duration)

    return latest_of("debounce", source, run)
