"""Tasks that wait for timers, channels that stay silent, and a clock that never jumps."""

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


class StandingClock(trio.abc.Clock):
    """Stands still until a test sets `time`. Unlike Trio's `MockClock` it never jumps ahead by itself."""

    def __init__(self) -> None:
        self.time = 0.0

    def start_clock(self) -> None: ...

    def current_time(self) -> float:
        return self.time

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0 if deadline <= self.time else 1_000_000


def next_deadline() -> float:
    """Return for how many seconds Trio would sleep now, if nothing else happens; infinite for no deadline."""
    return trio.lowlevel.current_statistics().seconds_to_next_deadline


async def is_silent(channel: csp.TimerChannel, seconds: float = 1_000_000) -> bool:
    """Tell whether nothing is received for a long time."""
    with trio.move_on_after(seconds):
        await channel.receive()
        return False
    return True
