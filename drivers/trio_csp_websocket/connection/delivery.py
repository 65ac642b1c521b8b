"""From what was parsed to the client's channel: messages that wait for room, and the channel's end behind them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

import csp
from trio_csp_websocket.protocol.messages import Message

if TYPE_CHECKING:
    from collections import deque


class Delivery:
    """Puts messages into the client's channel.

    Args:
        waiting: where messages come from, in order.
        capacity: of the channel.
    """

    def __init__(self, waiting: deque[Message], capacity: int) -> None:
        self.channel = csp.Channel[Message](capacity)
        self.finished = trio.Event()
        """Set when the channel is closed behind all that was received, or that was discarded."""
        self.blocked_seconds = 0.0
        """For how long messages have had to wait for room in the channel."""
        self.stopped = False
        """Whether data is not wanted any more."""
        self._waiting = waiting
        # Around the wait for the consumer, while there is one.
        self._delivering: trio.CancelScope | None = None
        self._ended = False
        self._cause: Exception | None = None

    def deliver_now(self) -> None:
        """Deliver what there is room for; discard everything if it is not wanted."""
        if self.channel.closed:
            self.stopped = True
        if self.stopped:
            self._waiting.clear()
        while self._waiting and self.channel.can_send():
            self.channel.send_nowait(self._waiting.popleft())

    async def deliver(self) -> bool:
        """Wait until everything is in the channel, or unwanted; then close it, if this is the end.

        Returns whether there was anything to wait for.
        """
        self.deliver_now()
        waited = bool(self._waiting)
        if waited:
            await self._wait_for_consumer()
        if self._ended:
            self._close()
        return waited

    async def _wait_for_consumer(self) -> None:
        start = trio.current_time()
        self._delivering = trio.CancelScope()
        try:
            with self._delivering, contextlib.suppress(csp.ChannelClosedError):
                await self.channel.send_all(self._waiting)
        finally:
            self._delivering = None
            self.blocked_seconds += trio.current_time() - start
        self.deliver_now()  # discards what is left, if it is unwanted

    def stop(self) -> None:
        """Discard what waits and what will come; whoever waits for the consumer goes on."""
        self.stopped = True
        if self._delivering is not None:
            self._delivering.cancel()
        self._waiting.clear()
        if self._ended:
            self._close()

    def end(self, cause: Exception | None, nursery: trio.Nursery) -> None:
        """Close the channel behind what was received.

        The consumer may take its time: a task waits for it, and the closing of the socket does not.
        """
        if self._ended:
            return
        self._ended = True
        self._cause = cause
        # The task that delivers closes it, unless nothing is delivered any more: that task may be cancelled first.
        if self._delivering is not None and not self.stopped:
            return
        if self._waiting:
            nursery.start_soon(self.deliver, name="csp.websocket delivery")
        else:
            self._close()

    def _close(self) -> None:
        self.channel.close(self._cause)
        self.finished.set()
