"""`broadcast`: every value of one source for each of many subscribers."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio
from trio.lowlevel import enable_ki_protection

from csp._core.arguments import check_count
from csp._core.background import BackgroundNursery
from csp._core.channel import Channel, Overflow
from csp._core.source import Source, check_source
from csp.errors import ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")


def broadcast(source: Source[T]) -> AbstractAsyncContextManager[Broadcast[T], bool | None]:
    """Give every value of a source to each of many subscribers; used as a block.

        async with csp.broadcast(feed.channel()) as prices:
            log = prices.subscribe(100, overflow="wait")
            screen = prices.subscribe(1, overflow="drop_oldest")

    Raises:
        InvalidTypeError: it is not a source.
        NoContextError: it is a block that was not entered.
    """
    check_source(source, "source")
    return _block(source)


@asynccontextmanager
async def _block(source: Source[T]) -> AsyncGenerator[Broadcast[T]]:
    values = Broadcast(source)
    async with BackgroundNursery() as nursery:
        nursery.start_soon(values._run)
        yield values


@final
class Broadcast(Generic[T]):
    """What the block of `broadcast` gives: subscribers are added here.

    A task of the block takes values from the source as long as there are subscribers; when there are none, one value at
    most is held for the next. A value is given to all that are subscribed when it comes, and only then is the next one
    taken. When the source is closed, the subscribers' channels are closed with the same cause. At the end of the block
    they are closed too: what they buffer can still be received, but a value that is just being given has reached only
    those that had room for it, and one that is held for the next subscriber is lost.
    """

    def __init__(self, source: Source[T]) -> None:
        self._source = source
        self._ended = False
        self._subscribers: list[Channel[T]] = []
        self._subscribed = trio.Event()

    @enable_ki_protection
    def subscribe(self, capacity: int, *, overflow: Overflow) -> Channel[T]:
        """Return a channel that gets every value from now on; closing it ends the subscription.

        As a block, it is closed at the end: ``with prices.subscribe(100, overflow="wait") as log:``.

        Args:
            capacity: how many values it buffers, at least 1.
            overflow: what to do when its buffer is full: see `Overflow`. ``"wait"`` holds up all the others and the
                source; the others hold up nobody.

        Raises:
            InvalidError: capacity is below 1, or overflow is no `Overflow`.
            InvalidTypeError: capacity is not a whole number.
        """
        check_count(capacity, "capacity")
        channel = Channel[T](capacity, overflow=overflow)
        if self._ended:
            channel.close(self._source.cause)
        else:
            self._subscribers.append(channel)
            self._subscribed.set()
        return channel

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open"
        return f"<csp.Broadcast {state}, {len(self._subscribers)} subscribers, of {self._source!r}>"

    async def _run(self) -> None:
        try:
            while True:
                await self._wait_for_subscribers()
                value, ok = await self._source.receive()
                if not ok:
                    break
                await self._wait_for_subscribers()
                await self._give(value)
        finally:
            self._ended = True
            for channel in self._subscribers:
                channel.close(self._source.cause)

    async def _wait_for_subscribers(self) -> None:
        while True:
            self._subscribers = [channel for channel in self._subscribers if not channel.closed]
            if self._subscribers:
                return
            self._subscribed = trio.Event()
            await self._subscribed.wait()

    async def _give(self, value: T) -> None:
        full: list[Channel[T]] = []
        for channel in self._subscribers:
            with suppress(ChannelClosedError):
                try:
                    channel.send_nowait(value)
                except trio.WouldBlock:
                    full.append(channel)
        for channel in full:
            with suppress(ChannelClosedError):
                await channel.send(value)
