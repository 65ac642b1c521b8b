"""Values sent at their times, and when they come out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    import csp


async def timed(
    made: AbstractAsyncContextManager[csp.Source[int]],
    source: csp.Channel[int],
    sends: list[tuple[float, int]],
    *,
    close_at: float | None = None,
) -> list[tuple[float, int]]:
    """Send values at their times; return what comes out, each with its time."""
    start = trio.current_time()
    received: list[tuple[float, int]] = []

    async def send() -> None:
        for time, value in sends:
            await trio.sleep_until(start + time)
            await source.send(value)
        if close_at is not None:
            await trio.sleep_until(start + close_at)
            source.close()

    async with made as values, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        with trio.move_on_at(start + 100):
            async for value in values:
                time = round(trio.current_time() - start, 1)
                received.append((time, value))
    return received


SENDS: list[tuple[float, int]] = [(0, 1), (0.1, 2), (0.2, 3), (1.5, 4), (5, 5)]
