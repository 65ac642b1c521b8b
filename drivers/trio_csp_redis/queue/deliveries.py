"""`Deliveries`: the block and source of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar, cast, final

import trio
from trio.lowlevel import enable_ki_protection

import csp
from csp.errors import ConnectionFailedError, InvalidError, Kind, NoContextError
from trio_csp_redis.connection.blocks import ended_early
from trio_csp_redis.connection.exceptions import single
from trio_csp_redis.queue.delivery import Delivery

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from trio_csp_redis.connection.commands import Commands
    from trio_csp_redis.queue.worker import Worker

T = TypeVar("T")

# How much of its lease a value may have used up when it is offered. The rest is for taking it, which follows at once.
_OFFERED_UNTIL = 0.95

# The workers of this process, by server, queue and name: two of one name would take each other's values.
_working: set[tuple[str, bytes, str]] = set()


@final
class Deliveries(csp.Source[Delivery[T]]):
    """Values of a queue for one worker, as a block and a source. Made by `Queue.work`.

    Entering does not wait for the server. It is closed at the end of the block, and when the queue cannot be worked on
    any more; its ``cause`` tells why.

    Leaving the block gives back what was fetched and not handed out, and sends what is settled, for at most
    ``close_timeout`` of the bus, also if it is cancelled. Deliveries that are still in hand then cannot be settled any
    more: their values come back after the lease.
    """

    __slots__ = ("_background", "_cause", "_closed", "_commands", "_entered", "_place", "_scope", "_worker")

    def __init__(
        self,
        commands: Commands,
        place: tuple[str, bytes, str],
        worker: Callable[[Callable[[], object]], Worker[T]],
    ) -> None:
        super().__init__()
        self._commands = commands
        self._place = place
        self._worker = worker(self.wake)
        self._background = csp.BackgroundNursery()
        # Around what the worker does: where the block is cancelled, it has to say what becomes of its values.
        self._scope = trio.CancelScope(shield=True)
        self._entered = False
        self._closed = False
        self._cause: BaseException | None = None

    # The block -------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        self._commands.check_entered()
        if self._entered:
            raise NoContextError("these deliveries were used before; call work again for others")
        if self._place in _working:
            raise InvalidError(f"consumer must be one that no other worker of the queue has, unlike {self._place[2]!r}")
        nursery = await self._background.__aenter__()
        self._entered = True
        _working.add(self._place)
        nursery.start_soon(self._run, name=f"csp.redis worker {self._place[2]}")
        return self

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if not self._closed:
            self._closed = True
            self._cause = ended_early("work", exc)
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._commands.settings.close_seconds):
                await self._worker.leave()
        finally:
            self._worker.leave_now()
            _working.discard(self._place)
            self.wake()
            self._scope.cancel()
            caught = await self._background.__aexit__(exc_type, exc, traceback)
        return caught

    async def _run(self) -> None:
        with self._scope:
            try:
                cause = await self._worker.run()
                if not self._closed:
                    self._closed = True
                    self._cause = cause
                self.wake()
                with trio.move_on_after(self._commands.settings.close_seconds):
                    await self._worker.leave()
            except BaseExceptionGroup as group:
                raise single(group) from None
            finally:
                self._worker.leave_now()

    async def ready(self) -> None:
        """Wait until the server is reached, and values can come.

        Raises:
            Error: the source was closed before, with this cause; or its block was left (ConnectionFailedError, kind
                INTERNAL).
            NoContextError: the block has not been entered.
        """
        self._check_entered()
        await self._worker.joined.wait()
        if not self._worker.reached:
            text = "the queue was not reached"
            if self._cause is None:
                raise ConnectionFailedError(f"{text} before its block was left", kind=Kind.INTERNAL, retryable=False)
            raise csp.errors.wrap(self._cause, text)

    async def flush(self) -> None:
        """Wait until the server has what was settled so far; while there is no connection, wait for one.

        Raises:
            ConnectionFailedError: the bus has ended, or the block was left. What was not sent is done again.
            NoContextError: the block has not been entered.
        """
        self._check_entered()
        await self._worker.settling.flush()

    # The source ------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    def is_ready(self, moment: csp.Moment) -> bool:
        """Tell whether a value is there, or the source closed."""
        self._check_entered()
        return self._closed or self._worker.ready(_OFFERED_UNTIL)

    @enable_ki_protection
    def receive_nowait(self) -> csp.Received[Delivery[T]]:
        """Take the next delivery.

        Returns ``(delivery, True)``, or ``(None, False)`` once the source is closed.

        Raises:
            trio.WouldBlock: there is none now.
        """
        self._check_entered()
        if self._closed:
            return csp.Received(cast("Delivery[T]", None), False)
        if self._worker.ready():
            return csp.Received(self._worker.hand_out(), True)
        raise trio.WouldBlock

    def _check_entered(self) -> None:
        if not self._entered:
            raise NoContextError("work gives nothing before its block: write `async with queue.work() as deliveries`")

    @property
    def closed(self) -> bool:
        """Whether the source is closed."""
        return self._closed

    @property
    def cause(self) -> BaseException | None:
        """What ended it; None if the block was left normally."""
        return self._cause

    @property
    def consumer(self) -> str:
        """The name of the worker, as Redis has it."""
        return self._place[2]

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._worker.reached else "connecting"
        counts = f"{self._worker.fetched} fetched, {self._worker.in_hand} in hand"
        return f"<csp.redis.Deliveries {state}, {counts}, consumer {self.consumer!r}>"
