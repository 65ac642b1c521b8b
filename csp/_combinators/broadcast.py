"""`broadcast`: every value of one source for each of many subscribers."""

from __future__ import annotations

import sys
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio
from trio.lowlevel import enable_ki_protection

from csp._combinators.block import Block
from csp._core.arguments import check_count
from csp._core.channel import Channel, Overflow
from csp._core.source import Source, check_source
from csp.errors import ChannelClosedError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")


def broadcast(source: Source[T], *, replay: int = 0) -> AbstractAsyncContextManager[Broadcast[T], bool | None]:
    """Give every value of a source to each of many subscribers; used as a block.

        async with csp.broadcast(feed.channel(), replay=1) as prices:
            with prices.subscribe(100, overflow="wait") as log, prices.subscribe(1, overflow="drop_oldest") as screen:
                ...

    Args:
        source: where the values come from.
        replay: how many of the last values a new subscriber is given first. (ReactiveX: "Replay".)

    Raises:
        InvalidError: replay is below 0.
        InvalidTypeError: an argument is of the wrong type.
        NoContextError: the source is a block that was not entered.
    """
    check_source(source, "source")
    check_count(replay, "replay", least=0)
    values = Broadcast(source, replay)
    return Block("broadcast", values, [values._run], values._end)


@final
class Broadcast(Generic[T]):
    """What the block of `broadcast` gives: subscribers are added here.

    A task of the block takes values from the source as long as there are subscribers; when there are none, one value at
    most is held for the next. A value is given to all that are subscribed when it comes, and only then is the next one
    taken. When the source is closed, the subscribers' channels are closed with the same cause. At the end of the block
    they are closed too: what they buffer can still be received, but a value that is just being given has reached only
    those that had room for it, and one that is held for the next subscriber is lost. If the block fails or is cancelled
    before the source has ended, they are closed with a `ChannelBrokenError` as the cause.
    """

    def __init__(self, source: Source[T], replay: int) -> None:
        self._source = source
        self._last = deque[T](maxlen=min(replay, sys.maxsize))
        self._ended = False
        self._cause: BaseException | None = None
        self._subscribers: list[Channel[T]] = []
        # How many there may be, with those that have closed, until these are looked for: at most as often as it pays.
        self._most = 1
        self._subscribed = trio.Event()

    @enable_ki_protection
    def subscribe(self, capacity: int, *, overflow: Overflow) -> Channel[T]:
        """Return a channel that gets every value from now on, after those that are replayed.

        After the end of the source or of the block, it gets those that are replayed, and is closed. Closing it ends the
        subscription. As a block, it is closed at the end, and then holds up nobody:
        ``with prices.subscribe(100, overflow="wait") as log:``.

        Args:
            capacity: how many values it buffers, at least 1. No more than that are replayed.
            overflow: what to do when its buffer is full: see `Overflow`. ``"wait"`` holds up all the others and the
                source; the others hold up nobody.

        Raises:
            InvalidError: capacity is below 1, or overflow is no `Overflow`.
            InvalidTypeError: capacity is not a whole number.
        """
        check_count(capacity, "capacity")
        channel = Channel[T](capacity, overflow=overflow)
        for value in list(self._last)[-capacity:]:
            channel.send_nowait(value)
        if self._ended:
            channel.close(self._cause)
        else:
            if len(self._subscribers) >= self._most:
                self._forget_closed()
            self._subscribers.append(channel)
            self._subscribed.set()
        return channel

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open"
        count = sum(not channel.closed for channel in self._subscribers)
        return f"<csp.Broadcast {state}, {count} subscribers, of {self._source!r}>"

    async def _run(self) -> None:
        while True:
            await self._wait_for_subscribers()
            value, ok = await self._source.receive()
            if not ok:
                self._end(self._source.cause)
                return
            await self._wait_for_subscribers()
            await self._give(value)

    @enable_ki_protection
    def _end(self, cause: BaseException | None) -> None:
        """Close the subscribers' channels, once."""
        if self._ended:
            return
        self._ended = True
        self._cause = cause
        subscribers, self._subscribers = self._subscribers, []
        for channel in subscribers:
            channel.close(cause)

    async def _wait_for_subscribers(self) -> None:
        while True:
            # The event first: a finalizer may subscribe.
            self._subscribed = trio.Event()
            self._forget_closed()
            if self._subscribers:
                return
            await self._subscribed.wait()

    def _forget_closed(self) -> None:
        self._subscribers = [channel for channel in self._subscribers if not channel.closed]
        self._most = 2 * len(self._subscribers) + 1

    async def _give(self, value: T) -> None:
        subscribers = tuple(self._subscribers)
        # From here on it is replayed, to those that subscribe while it is given as well: a finalizer may.
        self._last.append(value)
        full: list[Channel[T]] = []
        for channel in subscribers:
            with suppress(ChannelClosedError):
                try:
                    channel.send_nowait(value)
                except trio.WouldBlock:
                    full.append(channel)
        for channel in full:
            with suppress(ChannelClosedError):
                await channel.send(value)
