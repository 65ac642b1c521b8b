"""`PullSource`: values that an async function fetches, one at a time, and only when somebody asks.

A task of the block calls the function. It is asked by whoever finds nothing to take: a task that starts to wait, a
`Selector` that has the source among its cases, a select that polls. Its value goes to who waits; if nobody does any
more, because a select went another way or was cancelled, it is held, and nothing is fetched until it is taken. So the
function is never cancelled for a select's sake, which not every function survives, and a value is never lost.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self, TypeVar, cast

import trio
from trio.lowlevel import enable_ki_protection

from csp._background import BackgroundNursery
from csp._channel import Channel
from csp._source import Moment, Source
from csp._waiters import Received
from csp.errors import InvalidTypeError, NoContextError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

T = TypeVar("T")


class PullSource(Source[T]):
    """What an async function returns, a value a call, as a source for `select`; used as a block.

        async with csp.PullSource(queue.get) as jobs:
            r = await csp.select(jobs.case_receive(), shutdown.case_receive())

    The function is called by a task that ends with the block, one call at a time, and only when somebody asks for a
    value. If a select has gone another way when the value comes, it is held for whoever receives next: one value at
    most, and nothing is dropped. At the end of the block a call that is under way is cancelled, and the source is
    closed; a value that is held can still be received.

    Args:
        pull: called without arguments for each value. It raises `trio.EndOfChannel` when there are no more, ``from`` a
            cause if there is one. Any other exception closes the source with it as the `cause`.
        unfinished: asked once, at the end of the block, for values that ``pull`` has taken from elsewhere and not
            returned; they can still be received.

    Raises:
        NoContextError: received from before the block is entered; or entered twice.
    """

    __slots__ = (
        "_asks",
        "_background",
        "_cause",
        "_closed",
        "_entered",
        "_finished",
        "_held",
        "_pull",
        "_pulling",
        "_scope",
        "_unfinished",
    )

    def __init__(
        self, pull: Callable[[], Awaitable[T]], *, unfinished: Callable[[], Iterable[T]] = tuple[T, ...]
    ) -> None:
        super().__init__()
        if not callable(pull):
            raise InvalidTypeError(f"pull must be an async function, not {pull!r}")
        self._pull = pull
        self._unfinished = unfinished
        self._background = BackgroundNursery()
        # Gives something when the function is to be called; closed at the end.
        self._asks = Channel[None](1)
        self._scope = trio.CancelScope()
        self._held: deque[T] = deque()
        self._finished = trio.Event()
        self._entered = False
        self._pulling = False
        self._closed = False
        self._cause: BaseException | None = None

    # The block -------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._entered:
            raise NoContextError(f"{self!r} was used before; make another one")
        self._entered = True
        nursery = await self._background.__aenter__()
        nursery.start_soon(self._run)
        return self

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        # The task ends by itself, rather than cancelled, so that it can clean up.
        self._asks.close()
        if self._pulling:
            self._scope.cancel()
        try:
            await self._finished.wait()
        except trio.Cancelled:
            # What the block raised, if anything, is on its way out through the cancelled scope already.
            if exc is None:
                raise
        finally:
            caught = await self._background.__aexit__(exc_type, exc, traceback)
        return caught

    async def _run(self) -> None:
        try:
            with self._scope:
                async for _ in self._asks:
                    await self._pull_one()
        finally:
            try:
                await self._clean_up()
            finally:
                self._finish()

    async def _pull_one(self) -> None:
        try:
            value = await self._pull()
        except trio.EndOfChannel as end:
            self._end(end.__cause__)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the cause
            self._end(error)
        else:
            self._hold(value)

    async def _clean_up(self) -> None:
        """Called by the task when it does not call the function any more."""

    @enable_ki_protection
    def _hold(self, value: T) -> None:
        self._pulling = False
        self._held.append(value)
        self.serve()
        if self.wanted and not self.is_ready(Moment()):
            self.on_wanted()

    @enable_ki_protection
    def _finish(self) -> None:
        self._held.extend(self._unfinished())
        self._end(None)
        self._finished.set()

    @enable_ki_protection
    def _end(self, cause: BaseException | None) -> None:
        """Close the source; what is held stays receivable."""
        if not self._closed:
            self._close(cause)
        self.serve()

    def _close(self, cause: BaseException | None) -> None:
        self._closed = True
        self._cause = cause
        self._asks.close()

    # The source ------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    def on_wanted(self) -> None:
        if not (self._pulling or self.is_ready(Moment())):
            self._pulling = True
            self._asks.send_nowait(None)

    def is_ready(self, moment: Moment) -> bool:
        """Tell whether a value is held, or the source closed."""
        if not self._entered:
            raise NoContextError(f"{type(self).__name__} gives nothing before its block: write `async with ...` first")
        return bool(self._held) or self._closed

    @enable_ki_protection
    def receive_nowait(self) -> Received[T]:
        if self._held:
            received = Received(self._held.popleft(), True)
            self._taken()
            return received
        if not self._closed:
            raise trio.WouldBlock
        return Received(cast("T", None), False)

    def _taken(self) -> None:
        """Have the next value fetched if a `Selector` waits for it; tasks do not wait while there is something."""
        if any(watch.alive for watch in self._watches):
            self.on_wanted()

    @property
    def closed(self) -> bool:
        """Whether the source is closed; a value may still be held."""
        return self._closed

    @property
    def cause(self) -> BaseException | None:
        """What the function raised, or what it gave as the cause of its `trio.EndOfChannel`."""
        return self._cause

    def __repr__(self) -> str:
        state = "closed" if self._closed else "fetching" if self._pulling else "idle"
        return f"<csp.{type(self).__name__} {state}, {len(self._held)} held, at {id(self):#x}>"
