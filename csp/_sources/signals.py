"""`from_signals`: the Unix signals that arrive."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import trio
from trio.lowlevel import enable_ki_protection

from csp._sources.pull import PullSource, named
from csp.errors import InvalidError, InvalidTypeError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from csp._core.source import Source

_NEVER_SEEN = [getattr(signal, name) for name in ("SIGKILL", "SIGSTOP") if hasattr(signal, name)]


def from_signals(*signals: int) -> AbstractAsyncContextManager[Source[int], bool | None]:
    """Return a source of the Unix signals that arrive inside its block.

        async with csp.from_signals(signal.SIGINT, signal.SIGTERM) as stop:
            r = await csp.select(messages.case_receive(), stop.case_receive())

    They do nothing else there: SIGINT raises no `KeyboardInterrupt`. A signal that arrives several times before Trio
    has seen it counts once. One that was not received by the end of the block is raised again there, as
    `trio.open_signal_receiver` does, so that a Ctrl-C is never lost.

    Raises:
        InvalidError: there is no such signal here, or no program ever sees it (SIGKILL, SIGSTOP).
        InvalidTypeError: a signal is not a number, or none was given.
        RuntimeError: the block is entered in a thread that is not Python's main thread.
    """
    if not signals:
        raise InvalidTypeError("from_signals needs at least one signal")
    for number in signals:
        if not isinstance(number, int):
            raise InvalidTypeError(f"a signal must be a number such as signal.SIGTERM, not {number!r}")
        if number not in signal.valid_signals() or number in _NEVER_SEEN:
            raise InvalidError(f"there is no signal {number} that can be received here")
    return named(_SignalSource(signals), "from_signals")


class _SignalSource(PullSource[int]):
    __slots__ = ("_receiver", "_signals", "_stack")

    def __init__(self, signals: tuple[int, ...]) -> None:
        super().__init__(self._next)
        # As they were given, by their numbers: signal.SIGINT prints better than 2.
        self._signals = {int(number): number for number in signals}
        self._stack = ExitStack()

    async def _next(self) -> int:
        return self._signals[await anext(self._receiver)]

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        self._check_can_enter()
        self._stack.callback(self._raise_again)
        self._receiver = self._stack.enter_context(trio.open_signal_receiver(*self._signals))
        return await super().__aenter__()

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        # The stack restores the handlers, then raises a signal that was held.
        with self._stack:
            return await super().__aexit__(exc_type, exc, traceback)

    def _raise_again(self) -> None:
        if self._held:
            signal.raise_signal(self._held.popleft())
