"""From what was parsed to the client's channel: messages that wait for room, and the channel's end behind them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

import csp
from trio_csp_websocket._frames import Message

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
        self._waiting = waiting
        # Closed when data is no longer wanted: whoever waits for the consumer selects on it.
        self._unwanted = csp.Channel[None]()
        self._delivering = False
        self._ended = False
        self._cause: Exception | None = None

    def deliver_now(self) -> None:
        """Deliver what there is room for; discard everything if it is not wanted."""
        if self.channel.closed:
            self._unwanted.close()
        if self._unwanted.closed:
            self._waiting.clear()
        while self._waiting and self.channel.can_send():
            self.channel.send_nowait(self._waiting.popleft())

    async def deliver(self) -> None:
        """Wait until everything is in the channel, or unwanted; then close it, if this is the end."""
        if self._waiting:
            await self._deliver()
        if self._ended:
            self._close()

    async def _deliver(self) -> None:
        start = trio.current_time()
        self._delivering = True
        try:
            while self._waiting:
                message = self._waiting.popleft()
                with contextlib.suppress(csp.ChannelClosedError):
                    await csp.select(self._unwanted.case_receive(), self.channel.case_send(message), priority=True)
                self.deliver_now()
        finally:
            self._delivering = False
            self.blocked_seconds += trio.current_time() - start

    @property
    def stopped(self) -> bool:
        """Whether data is not wanted any more."""
        return self._unwanted.closed

    def stop(self) -> None:
        """Discard what waits and what will come; whoever waits for the consumer goes on."""
        self._unwanted.close()
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
        if self._delivering:
            return
        if self._waiting:
            nursery.start_soon(self.deliver, name="csp.websocket delivery")
        else:
            self._close()

    def _close(self) -> None:
        self.channel.close(self._cause)
        self.finished.set()
