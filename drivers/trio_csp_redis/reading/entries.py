"""The block and source that all subscriptions are: what was read of a stream, as values."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Self, TypeVar

from trio.lowlevel import enable_ki_protection

import csp
from csp.errors import EndOfChannelError, NoContextError
from trio_csp_redis.connection.blocks import ended_early

if TYPE_CHECKING:
    from types import TracebackType

    from trio_csp_redis.connection.commands import Commands
    from trio_csp_redis.reading.reader import Reader
    from trio_csp_redis.reading.reading import Reading

T_co = TypeVar("T_co", covariant=True)


class Entries(csp.Source[T_co]):
    """What was read of a stream, as a block and a source.

    Args:
        commands: of the bus.
        reader: of the bus.
        reading: which stream is read, and from where.
        method: the name of the method that makes the block.
        doing: what errors say is being done.
    """

    __slots__ = ("_commands", "_doing", "_entered", "_held", "_method", "_reader", "_reading")

    def __init__(self, commands: Commands, reader: Reader, reading: Reading, method: str, doing: str) -> None:
        super().__init__()
        self._commands = commands
        self._reader = reader
        self._reading = reading
        self._held = reading.held
        self._method = method
        self._doing = doing
        self._entered = False
        reading.wake = self.wake

    # The block -------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        self._commands.check_entered()
        if self._entered:
            raise NoContextError(f"this block of {self._method} was used before; call {self._method} again for another")
        self._entered = True
        self._reader.add(self._reading)
        return self

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reader.remove(self._reading)
        self._reading.leave(ended_early(self._method, exc))

    async def ready(self) -> None:
        """Wait until the server is reached, and it is known where reading begins.

        Raises:
            Error: the source was closed before, with this cause.
            EndOfChannelError: the block was left before.
            NoContextError: the block has not been entered.
        """
        self._check_entered()
        await self._reading.settled.wait()
        if self._reading.reached:
            return
        if self._reading.cause is None:
            raise EndOfChannelError(f"{self._doing}: the block was left before the server was reached")
        raise csp.errors.wrap(self._reading.cause, f"{self._doing}: the server was not reached")

    # The source ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def receive_nowait(self) -> csp.Received[T_co]: ...

    @enable_ki_protection
    def is_ready(self, moment: csp.Moment) -> bool:
        """Tell whether a value is there, or the source closed."""
        self._check_entered()
        return bool(self._held) or self._reading.ended

    def case_receive(self) -> csp.ReceiveCase[T_co]:
        self._check_entered()
        return super().case_receive()

    def _check_entered(self) -> None:
        if not self._entered:
            raise NoContextError(
                f"{self._method} gives nothing before its block: write `async with ….{self._method}(…) as …` first"
            )

    @property
    def closed(self) -> bool:
        """Whether the source is closed; what was read before may still be received."""
        return self._reading.ended

    @property
    def cause(self) -> BaseException | None:
        """What ended it; None if the block was left normally."""
        return self._reading.cause

    def _state(self) -> str:
        """Return what a repr shows."""
        state = "closed" if self._reading.ended else "open" if self._reading.reached else "connecting"
        return f"{state}, {len(self._held)} held"
