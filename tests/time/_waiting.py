"""Tasks that wait for timers, and channels that stay silent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from trio.testing import wait_all_tasks_blocked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import csp


class Waiting:
    """Tasks that wait for one value each, started one after the other."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.times: list[tuple[float, Any]] = []

    async def start(self, operation: Callable[[], Awaitable[Any]]) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                value = await operation()
                self.times.append((trio.current_time(), value))

        self.nursery.start_soon(run)
        await wait_all_tasks_blocked()
        return scope


async def is_silent(channel: csp.TimerChannel, seconds: float = 1_000_000) -> bool:
    """Tell whether nothing is received for a long time."""
    with trio.move_on_after(seconds):
        await channel.receive()
        return False
    return True
