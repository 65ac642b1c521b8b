"""`from_event`: a source that ends when a Trio event is set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Never

import trio
from trio.lowlevel import enable_ki_protection

from csp._sources.pull import PullSource, named
from csp.errors import InvalidTypeError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from csp._core.results import Received
    from csp._core.source import Moment, Source


def from_event(event: trio.Event) -> AbstractAsyncContextManager[Source[Never], bool | None]:
    """Return a source that is closed once a `trio.Event` is set: receiving then gives ``(None, False)``.

    So it stays ready from then on, like the channel of Go's ``Context.Done``; a `Selector` reports it once.

    Raises:
        InvalidTypeError: it is not a `trio.Event`.
    """
    if not isinstance(event, trio.Event):
        raise InvalidTypeError(f"event must be a trio.Event, not {event!r}")
    return named(_EventSource(event), "from_event")


class _EventSource(PullSource[Never]):
    """Like the others, except that it sees at once that the event is set."""

    __slots__ = ("_event",)

    def __init__(self, event: trio.Event) -> None:
        super().__init__(self._wait)
        self._event = event

    async def _wait(self) -> Never:
        await self._event.wait()
        raise trio.EndOfChannel

    def is_ready(self, moment: Moment) -> bool:
        return super().is_ready(moment) or self._event.is_set()

    @enable_ki_protection
    def receive_nowait(self) -> Received[Never]:
        if self._event.is_set():
            self._close(None)
        return super().receive_nowait()
