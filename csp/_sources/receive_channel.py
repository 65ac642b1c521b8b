"""`from_receive_channel`: what a Trio channel gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio
from trio.lowlevel import enable_ki_protection

from csp._core.results import Received
from csp._core.source import Moment, Source
from csp._sources.pull import PullSource, named
from csp.errors import InvalidTypeError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def from_receive_channel(channel: trio.abc.ReceiveChannel[T]) -> AbstractAsyncContextManager[Source[T], bool | None]:
    """Return a source of what a Trio channel gives, such as a memory channel that a library made.

        async with csp.from_receive_channel(receive_channel) as jobs:
            r = await csp.select(jobs.case_receive(), shutdown.case_receive())

    What a memory channel buffers stays there until it is received here. Closed when the channel ends; with a cause if
    it breaks, or was closed at this end. The channel is not closed here: that is up to the code that opened it.

    Raises:
        InvalidTypeError: it is not a receive channel.
    """
    if not isinstance(channel, trio.abc.ReceiveChannel):
        hint = ", which is a source already" if isinstance(channel, Source) else ""
        raise InvalidTypeError(f"channel must be a trio.abc.ReceiveChannel, not {channel!r}{hint}")
    source = (
        _MemoryChannelSource(channel) if isinstance(channel, trio.MemoryReceiveChannel) else PullSource(channel.receive)
    )
    return named(source, "from_receive_channel", ends=(trio.EndOfChannel,))


class _MemoryChannelSource(PullSource[T_co]):
    """Like the others, except that what the memory channel has can be taken at once."""

    __slots__ = ("_channel",)

    def __init__(self, channel: trio.MemoryReceiveChannel[T_co]) -> None:
        super().__init__(channel.receive)
        self._channel = channel

    def is_ready(self, moment: Moment) -> bool:
        # While the task waits in the channel, the next value goes to it. Once the block is left, nothing is taken.
        return super().is_ready(moment) or not (self._pulling or self._left or not self._has_something())

    def _has_something(self) -> bool:
        statistics = self._channel.statistics()
        return bool(
            statistics.current_buffer_used or statistics.tasks_waiting_send or not statistics.open_send_channels
        )

    @enable_ki_protection
    def receive_nowait(self) -> Received[T_co]:
        # Also if the block was cancelled, so that the task fetches nothing any more, as long as it is not left.
        if not self._held and not self._left and (self._closed or not self._pulling):
            try:
                return Received(self._channel.receive_nowait(), True)
            except trio.WouldBlock:
                pass
            except trio.EndOfChannel:
                self._close(None)
            except trio.ClosedResourceError as error:
                self._close(error)
        return super().receive_nowait()
