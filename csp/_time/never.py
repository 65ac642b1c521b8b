"""`never`: the channel that never gives anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Never, final

import trio

from csp._core.source import Moment, Source, Watch

if TYPE_CHECKING:
    from csp._core.results import Received
    from csp._core.waiters import Waiter


@final
class NeverChannel(Source[Never]):
    """A channel that never gives anything, like a nil channel in Go."""

    __slots__ = ()

    def is_ready(self, moment: Moment) -> bool:
        return False

    def receive_nowait(self) -> Received[Never]:
        """Raise `trio.WouldBlock`."""
        raise trio.WouldBlock

    # Nothing ever wakes a waiter here, so none is kept.
    def _park(self, waiter: Waiter) -> None: ...
    def _unpark(self, waiter: Waiter) -> None: ...
    def _watch(self, watch: Watch) -> None: ...
    def _unwatch(self, watch: Watch) -> None: ...

    def __repr__(self) -> str:
        return "<csp.never()>"


_never = NeverChannel()


def never() -> NeverChannel:
    """Return the channel that never gives anything; receiving from it waits until cancelled."""
    return _never
