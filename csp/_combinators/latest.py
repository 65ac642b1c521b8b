"""What `throttle` and `debounce` share: a block whose task takes values as they come, and gives the latest.

Both are about the time at which values come, so a task of the block takes them as they come, and drops those that are
not to be given. Of those that are, a slow consumer finds the latest, as with a ticker.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from csp._core.background import BackgroundNursery
from csp._core.channel import Channel
from csp.errors import ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from csp._core.source import Source

T = TypeVar("T")


@asynccontextmanager
async def running(run: Callable[[Channel[T]], Awaitable[None]]) -> AsyncGenerator[Channel[T]]:
    async def run_until_closed() -> None:
        with suppress(ChannelClosedError):  # who receives may close it
            await run(given)

    given = Channel[T](1, overflow="drop_oldest")
    async with BackgroundNursery() as nursery:
        nursery.start_soon(run_until_closed)
        yield given


def end(given: Channel[T], latest: list[T], source: Source[T]) -> None:
    if latest:
        given.send_nowait(latest[0])
    given.close(source.cause)
