"""Delivery: parsed messages go into the channel as it has room, and the channel closes after the last of them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

import csp
from trio_csp_websocket.protocol.messages import Message

if TYPE_CHECKING:
    from collections import deque

    from trio_csp_websocket.connection.ending import Ending


class Delivery:
    """Puts messages into the application's channel.

    Args:
        waiting: the messages to deliver, in order; this takes them from the left.
        capacity: the capacity of the channel.
    """

    __slots__ = (
        "_capacity",
        "_delivering",
        "_ending",
        "_waiting",
        "blocked_seconds",
        "channel",
        "finished",
        "stopped",
    )

    def __init__(self, waiting: deque[Message], capacity: int) -> None:
        self.channel: csp.Channel[Message] = csp.Channel[Message](capacity)
        self.finished: trio.Event = trio.Event()
        """Set when the channel is closed, after every message was delivered or discarded."""
        self.blocked_seconds: float = 0.0
        """How long messages have had to wait for room in the channel, in all."""
        self.stopped: bool = False
        """Whether messages are discarded instead of delivered."""
        self._waiting = waiting
        self._capacity = capacity
        # Around the wait for room in the channel, while there is one.
        self._delivering: trio.CancelScope | None = None
        # How the connection has ended, once it has.
        self._ending: Ending | None = None

    def deliver_now(self) -> None:
        """Deliver the messages there is room for; discard all of them if the channel is closed or delivery stopped."""
        if self.channel.closed:
            self.stopped = True
        if self.stopped:
            self._waiting.clear()
        try:
            while self._waiting and len(self.channel) < self._capacity:
                self.channel.send_nowait(self._waiting.popleft())
        except csp.ChannelClosedError:  # by a finalizer that ran meanwhile
            self.stopped = True
            self._waiting.clear()

    async def deliver(self) -> bool:
        """Wait until every message is in the channel or discarded; then close the channel if `end` was called.

        Returns whether it had to wait. If cancelled, the messages not delivered stay where they are.
        """
        self.deliver_now()
        waited = bool(self._waiting)
        if waited:
            await self._wait_for_consumer()
        if self._ending is not None:
            self._close(self._ending)
        return waited

    async def _wait_for_consumer(self) -> None:
        start = trio.current_time()
        self._delivering = trio.CancelScope()
        try:
            with self._delivering, contextlib.suppress(csp.ChannelClosedError):
                await self.channel.send_many(self._waiting)
        finally:
            self._delivering = None
            self.blocked_seconds += trio.current_time() - start
        self.deliver_now()  # discards the rest if the wait was stopped, or the channel closed

    def stop(self) -> None:
        """Discard the messages that wait and all that will come, and end the wait for room in the channel."""
        self.stopped = True
        if self._delivering is not None:
            self._delivering.cancel()
        self._waiting.clear()
        if self._ending is not None:
            self._close(self._ending)

    def end(self, ending: Ending, nursery: trio.Nursery) -> None:
        """Close the channel once the messages that wait are delivered; returns at once.

        If the consumer is slow, a task in the nursery waits for it, so that the socket can be closed meanwhile.
        """
        if self._ending is not None:
            return
        self._ending = ending
        # The task that delivers closes it, unless nothing is delivered any more: that task may be cancelled first.
        if self._delivering is not None and not self.stopped:
            return
        if self._waiting:
            nursery.start_soon(self.deliver, name="csp.websocket delivery")
        else:
            self._close(ending)

    def _close(self, ending: Ending) -> None:
        self.channel.close(ending.error, details=ending.details)
        self.finished.set()
