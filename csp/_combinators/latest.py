"""What `throttle` and `debounce` share: a block whose task takes values as they come, and gives the latest.

Both depend on when values come, so a task of the block takes them at once, and drops those that are not to be given. Of
the others, a slow consumer finds the latest, as with a ticker.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from csp._combinators.block import Block
from csp._core.channel import Channel
from csp.errors import ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from csp._core.source import Source

T = TypeVar("T")


def latest_of(name: str, source: Source[T], run: Callable[[Channel[T], list[T]], Awaitable[None]]) -> Block[Channel[T]]:
    """Give what ``run`` sends, in a channel that keeps the latest value only; used as a block.

    ``run`` gets that channel, and a list in which it keeps the value that is still to be given, if there is one. When
    it ends, that value is given, and the channel is closed with the cause of the source. When the block ends before,
    that value is given too, and the channel is closed as `Block` says.

    Args:
        name: the function that makes the block.
        source: where the values come from.
        run: receives from the source, and ends when the source is closed.
    """
    given = Channel[T](1, overflow="drop_oldest")
    latest: list[T] = []

    async def run_until_closed() -> None:
        try:
            await run(given, latest)
        except ChannelClosedError:
            if not given.closed:  # by the receiver
                raise
        end(source.cause)

    def end(cause: BaseException | None) -> None:
        if latest:
            with suppress(ChannelClosedError):
                given.send_nowait(latest.pop())
        given.close(cause)

    return Block(name, given, [run_until_closed], end)
