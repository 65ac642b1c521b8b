"""A channel's two ends under Trio's channel interfaces, for code that is written for Trio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, final

import trio

from csp._core.causes import broken_by
from csp._core.runs import check_run
from csp._core.sink import Sink
from csp.errors import ChannelBrokenError, ChannelClosedError

if TYPE_CHECKING:
    from csp._core.results import Received
    from csp.errors import EndOfChannelError

T = TypeVar("T")


class TwoEnded(Sink[T], Protocol[T]):
    """What the ends need of a channel."""

    @property
    def cause(self) -> BaseException | None:
        """The exception it was closed with, or None."""
        ...

    @property
    def _abandoned(self) -> bool:
        """Whether its receiving end closed it."""
        ...

    async def receive(self) -> Received[T]:
        """Take the next value, waiting until there is one or the channel is closed."""
        ...

    def _abandon(self) -> None:
        """Close the channel and discard what is buffered."""

    def _end_of_channel(self) -> EndOfChannelError:
        """Return a new error for a receiver that finds no more values, and no cause."""
        ...


@final
class SendEnd(trio.abc.SendChannel[T]):
    """A channel's sending end under Trio's interface."""

    __slots__ = ("channel",)

    channel: TwoEnded[T]

    def __init__(self, channel: TwoEnded[T]) -> None:
        self.channel = channel

    def __repr__(self) -> str:
        return f"<sender of {self.channel!r}>"

    async def send(self, value: T) -> None:
        """Send a value, as `Channel.send` does.

        Raises:
            ChannelClosedError: the channel is closed. (It is a `trio.ClosedResourceError`.)
            ChannelBrokenError: its receiving end closed it. (It is a `trio.BrokenResourceError`.)
        """
        try:
            await self.channel.send(value)
        except ChannelClosedError:
            if self.channel._abandoned:
                raise ChannelBrokenError("cannot send: the receiving end of the channel is closed") from None
            raise

    async def aclose(self) -> None:
        """Close the channel; what is buffered stays receivable."""
        self.channel.close()
        check_run("aclose")
        await trio.lowlevel.checkpoint()


@final
class ReceiveEnd(trio.abc.ReceiveChannel[T]):
    """A channel's receiving end under Trio's interface."""

    __slots__ = ("channel",)

    channel: TwoEnded[T]

    def __init__(self, channel: TwoEnded[T]) -> None:
        self.channel = channel

    def __repr__(self) -> str:
        return f"<receiver of {self.channel!r}>"

    async def receive(self) -> T:
        """Take the next value, as `Channel.receive` does.

        Raises:
            EndOfChannelError: the channel is closed and drained. (It is a `trio.EndOfChannel`.)
            ChannelBrokenError: it was closed with a cause, which is this error's cause. (It is a
                `trio.BrokenResourceError`.)
            trio.ClosedResourceError: it was closed through this end.
        """
        value, ok = await self.channel.receive()
        if ok:
            return value
        if self.channel._abandoned:
            raise trio.ClosedResourceError("this end of the channel is closed")
        if self.channel.cause is not None:
            raise broken_by(self.channel.cause)
        raise self.channel._end_of_channel()

    async def aclose(self) -> None:
        """Close the channel and discard what is buffered; senders get `trio.BrokenResourceError`."""
        self.channel._abandon()
        check_run("aclose")
        await trio.lowlevel.checkpoint()
