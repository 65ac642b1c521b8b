"""Sources made of what else a Trio program waits for: receive channels, async iterators, streams, events, signals.

Each is a `csp.PullSource`, and so a block: a task of the block waits when somebody asks, one value at most is held, and
none is dropped.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Never, Self, TypeVar

import trio
from trio.lowlevel import enable_ki_protection

from csp._core.arguments import check_count
from csp._core.source import Moment, Source
from csp._core.waiters import Received
from csp._sources.pull import PullSource
from csp.errors import InvalidError, InvalidTypeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


_NEVER_SEEN = [getattr(signal, name) for name in ("SIGKILL", "SIGSTOP") if hasattr(signal, name)]


def from_receive_channel(channel: trio.abc.ReceiveChannel[T]) -> PullSource[T]:
    """Return a source of what a Trio channel gives, such as a memory channel that a library made.

        async with csp.from_receive_channel(receive_channel) as jobs:
            r = await csp.select(jobs.case_receive(), shutdown.case_receive())

    What a memory channel buffers is taken when it is received, no sooner. Closed when the channel ends; with a cause
    if it breaks, or was closed at this end. The channel is not closed here: that is for who opened it.

    Raises:
        InvalidTypeError: it is no receive channel.
    """
    if isinstance(channel, trio.MemoryReceiveChannel):
        return _MemoryChannelSource(channel)
    if not isinstance(channel, trio.abc.ReceiveChannel):
        hint = ", which is a source already" if isinstance(channel, Source) else ""
        raise InvalidTypeError(f"channel must be a trio.abc.ReceiveChannel, not {channel!r}{hint}")
    return _ChannelSource(channel.receive)


class _ChannelSource(PullSource[T_co]):
    __slots__ = ()

    _name = "from_receive_channel"
    _ends = (trio.EndOfChannel,)


class _MemoryChannelSource(_ChannelSource[T_co]):
    """As every other, but what the memory channel has can be taken at once."""

    __slots__ = ("_channel",)

    def __init__(self, channel: trio.MemoryReceiveChannel[T_co]) -> None:
        super().__init__(channel.receive)
        self._channel = channel

    def is_ready(self, moment: Moment) -> bool:
        # While the task waits in the channel, it is the one that the next value goes to.
        return super().is_ready(moment) or (not self._pulling and self._has_something())

    def _has_something(self) -> bool:
        statistics = self._channel.statistics()
        return bool(
            statistics.current_buffer_used or statistics.tasks_waiting_send or not statistics.open_send_channels
        )

    @enable_ki_protection
    def receive_nowait(self) -> Received[T_co]:
        if not self._pulling and not super().is_ready(Moment()):
            try:
                return Received(self._channel.receive_nowait(), True)
            except trio.WouldBlock:
                pass
            except trio.EndOfChannel:
                self._close(None)
            except trio.ClosedResourceError as error:
                self._close(error)
        return super().receive_nowait()


def from_async_iterable(iterable: AsyncIterable[T]) -> PullSource[T]:
    """Return a source of what an async iterable gives: an async generator, for instance.

    Its next value is computed when somebody asks. Closed at its end; with what it raises as the cause. An async
    generator is closed (``aclose``) at the end of the block; if it computes a value at that moment, it is cancelled
    there. One task runs all of it, so that it may have ``async with`` blocks around its ``yield``: a connection, a
    nursery, a timeout.

    Raises:
        InvalidTypeError: it is not async iterable.
    """
    if not isinstance(iterable, AsyncIterable):
        raise InvalidTypeError(f"iterable must be async iterable, not {iterable!r}")
    return _IterableSource(aiter(iterable))


class _IterableSource(PullSource[T_co]):
    __slots__ = ("_iterator",)

    _name = "from_async_iterable"
    _ends = (StopAsyncIteration,)

    def __init__(self, iterator: AsyncIterator[T_co]) -> None:
        super().__init__(iterator.__anext__)
        self._iterator = iterator

    async def _clean_up(self) -> None:
        iterator: object = self._iterator
        if not isinstance(iterator, AsyncGenerator):
            return
        try:
            await iterator.aclose()
        except BaseExceptionGroup as group:
            # A nursery inside the generator puts the GeneratorExit that closes it into a group.
            _, failures = group.split(GeneratorExit)
            if failures is not None:
                raise failures from None


def from_stream(stream: trio.abc.ReceiveStream, max_bytes: int | None = None) -> PullSource[bytes]:
    """Return a source of the bytes that a Trio stream receives, in pieces as they come.

    Closed when the stream ends; with a cause if it breaks. The stream is not closed here: that is for who opened it.

    Args:
        stream: a socket, a process's output, any `trio.abc.ReceiveStream`.
        max_bytes: the largest piece in bytes, at least 1; None for what the stream finds sensible.

    Raises:
        InvalidTypeError: it is no such stream, or max_bytes no whole number.
        InvalidError: max_bytes is below 1.
    """
    if not isinstance(stream, trio.abc.ReceiveStream):
        raise InvalidTypeError(f"stream must be a trio.abc.ReceiveStream, not {stream!r}")
    if max_bytes is not None:
        check_count(max_bytes, "max_bytes")

    async def receive() -> bytes:
        piece = await stream.receive_some(max_bytes)
        if not piece:
            raise trio.EndOfChannel
        return bytes(piece)

    return _StreamSource(receive)


class _StreamSource(PullSource[bytes]):
    __slots__ = ()

    _name = "from_stream"


def from_event(event: trio.Event) -> PullSource[Never]:
    """Return a source that is closed once a `trio.Event` is set: `receive` then gives ``(None, False)``.

    So it stays ready from then on, like the channel of Go's ``Context.Done``; a `Selector` reports it once.

    Raises:
        InvalidTypeError: it is no `trio.Event`.
    """
    if not isinstance(event, trio.Event):
        raise InvalidTypeError(f"event must be a trio.Event, not {event!r}")
    return _EventSource(event)


class _EventSource(PullSource[Never]):
    """As every other, but an event that is set is seen at once."""

    __slots__ = ("_event",)

    _name = "from_event"

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


def from_signals(*signals: int) -> PullSource[int]:
    """Return a source of the Unix signals that arrive inside its block.

        async with csp.from_signals(signal.SIGINT, signal.SIGTERM) as stop:
            r = await csp.select(messages.case_receive(), stop.case_receive())

    They do nothing else there: SIGINT raises no `KeyboardInterrupt`. What arrives several times before Trio has seen it
    counts once. A signal that nobody has received by the end of the block is raised again there, as
    `trio.open_signal_receiver` does it, so that a Ctrl-C is never lost.

    Raises:
        InvalidError: one is no signal that exists here, or is never seen by a program (SIGKILL, SIGSTOP).
        InvalidTypeError: one is no number; or there are none.
        RuntimeError: the block is entered in another thread than Python's main thread.
    """
    if not signals:
        raise InvalidTypeError("from_signals needs at least one signal")
    for number in signals:
        if not isinstance(number, int):
            raise InvalidTypeError(f"a signal must be a number such as signal.SIGTERM, not {number!r}")
        if number not in signal.valid_signals() or number in _NEVER_SEEN:
            raise InvalidError(f"there is no signal {number} that can be received here")
    return _SignalSource(signals)


class _SignalSource(PullSource[int]):
    __slots__ = ("_receiver", "_signals", "_stack")

    _name = "from_signals"

    def __init__(self, signals: tuple[int, ...]) -> None:
        super().__init__(self._next)
        # By their numbers, as they were given: signal.SIGINT prints better than 2.
        self._signals = {int(number): number for number in signals}
        self._stack = ExitStack()

    async def _next(self) -> int:
        return self._signals[await anext(self._receiver)]

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        self._check_not_entered()
        self._stack.callback(self._raise_again)
        self._receiver = self._stack.enter_context(trio.open_signal_receiver(*self._signals))
        return await super().__aenter__()

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        # The stack restores the handlers, then raises what was held.
        with self._stack:
            return await super().__aexit__(exc_type, exc, traceback)

    def _raise_again(self) -> None:
        if self._held:
            signal.raise_signal(self._held.popleft())
