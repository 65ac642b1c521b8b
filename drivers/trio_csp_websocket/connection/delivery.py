"""Delivery: parsed messages go into the channel as it has room; it closes after the last of them.

While the channel is full, messages wait here, and a task sends them in batches: one is what was parsed of one block.
Meanwhile the connection reads on, until as much waits as `READ_AHEAD_BYTES` and `READ_AHEAD_MESSAGES` allow: pongs,
pings and the close that stand behind messages are then seen although nobody receives. What waits is counted in bytes,
because a message may have any size; and in messages, because Python needs about a hundred bytes for the smallest.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio
from trio.lowlevel import enable_ki_protection

import csp
from trio_csp_websocket.protocol.messages import Message

if TYPE_CHECKING:
    from trio_csp_websocket.connection.ending import Ending

READ_AHEAD_BYTES = 256 * 1024
"""Nothing more is read while this much waits for room in the channel."""
READ_AHEAD_MESSAGES = 4096
"""Nor while so many messages do."""


class _Batch(NamedTuple):
    messages: deque[Message]
    """Those that are not in the channel yet."""
    number: int
    """How many there were."""
    size: int


class Delivery:
    """Puts messages into the application's channel.

    Args:
        parsed: the messages to deliver, in order; this takes them from the left.
        capacity: the capacity of the channel.
        nursery: where a task delivers what there is no room for.
    """

    __slots__ = (
        "_batches",
        "_blocked_seconds",
        "_blocked_since",
        "_capacity",
        "_delivering",
        "_ending",
        "_more",
        "_nursery",
        "_parsed",
        "_room",
        "_waiting_bytes",
        "_waiting_messages",
        "channel",
        "finished",
        "stopped",
    )

    def __init__(self, parsed: deque[Message], capacity: int, nursery: trio.Nursery) -> None:
        self.channel: csp.Channel[Message] = csp.Channel[Message](capacity)
        self.finished: trio.Event = trio.Event()
        """Set when the channel is closed, after every message was delivered or discarded."""
        self.stopped: bool = False
        """Whether messages are discarded instead of delivered."""
        self._parsed = parsed
        self._capacity = capacity
        self._nursery = nursery
        # What waits for room in the channel, if anything does; None otherwise: most connections never need one.
        self._batches: deque[_Batch] | None = None
        self._waiting_bytes = 0
        self._waiting_messages = 0
        # Around what the task does, while it exists: from when messages wait for the first time.
        self._delivering: trio.CancelScope | None = None
        # Set when messages wait again; None while that task does not wait for it.
        self._more: trio.Event | None = None
        # Set when a batch was delivered, or what waits is discarded; None while nobody waits for that.
        self._room: trio.Event | None = None
        self._blocked_seconds = 0.0
        self._blocked_since = 0.0
        # How the connection has ended, once it has.
        self._ending: Ending | None = None

    # What the task that reads calls ----------------------------------------------------------------------------------

    def deliver_now(self) -> None:
        """Deliver the messages there is room for; discard all of them if the channel is closed or delivery stopped."""
        if self.channel.closed:
            self.stopped = True
        if self.stopped:
            self._parsed.clear()
        if self._batches:
            return  # behind those
        try:
            while self._parsed and len(self.channel) < self._capacity:
                self.channel.send_nowait(self._parsed.popleft())
        except csp.ChannelClosedError:  # by a finalizer that ran meanwhile
            self.stopped = True
            self._parsed.clear()

    def keep_rest(self, size: int) -> None:
        """Keep the parsed messages that `deliver_now` has left, to be delivered as there is room.

        Args:
            size: what they may take in bytes.
        """
        batch = _Batch(self._parsed.copy(), len(self._parsed), size)
        self._parsed.clear()
        if not self._batches:
            self._batches = deque()
            self._blocked_since = trio.current_time()
        self._batches.append(batch)
        self._waiting_bytes += size
        self._waiting_messages += batch.number
        if self._delivering is None:
            self._delivering = trio.CancelScope()
            self._nursery.start_soon(self._deliver, self._delivering, name="csp.websocket delivery")
        elif self._more is not None:
            self._more.set()
            self._more = None

    @property
    def full(self) -> bool:
        """Whether so much waits for room in the channel that nothing more is to be read."""
        return self._waiting_bytes >= READ_AHEAD_BYTES or self._waiting_messages >= READ_AHEAD_MESSAGES

    @property
    def blocked(self) -> bool:
        """Whether messages wait for room in the channel."""
        return bool(self._batches)

    @property
    def unread(self) -> int:
        """How many messages were received from the peer, and not by the application yet."""
        in_hand = self.channel.statistics().tasks_waiting_send  # of `Channel.send_many`, which keeps one apart
        return len(self.channel) + in_hand + sum(len(batch.messages) for batch in self._batches or ())

    def blocked_seconds(self, now: float) -> float:
        """Return for how long messages have had to wait for room in the channel, in all."""
        return self._blocked_seconds + (now - self._blocked_since if self._batches else 0.0)

    async def progress(self) -> None:
        """Wait until a batch was delivered, or what waits is discarded, or `wake` was called."""
        if self._room is None:
            self._room = trio.Event()
        await self._room.wait()

    def wake(self) -> None:
        """Wake the task in `progress`."""
        if self._room is not None:
            self._room.set()
            self._room = None

    # Delivering as there is room -------------------------------------------------------------------------------------

    @enable_ki_protection
    async def _deliver(self, scope: trio.CancelScope) -> None:
        """Be the task that delivers what waits, until the connection has ended; then close the channel."""
        try:
            with scope, contextlib.suppress(csp.ChannelClosedError):
                while not self.stopped and (self._batches or self._ending is None):
                    if self._batches:
                        await self._deliver_batch(self._batches)
                    else:
                        self._more = trio.Event()
                        await self._more.wait()
        finally:
            self._delivering = None
            self._more = None
        if self.channel.closed:
            self.stopped = True
        if self._batches:  # the consumer has closed the channel, whoever noticed it
            self._discard()
        if self._ending is not None:
            self._close(self._ending)

    async def _deliver_batch(self, batches: deque[_Batch]) -> None:
        batch = batches[0]
        await self.channel.send_many(batch.messages)
        if self.stopped:  # after the last message was taken, and before this task came to run
            return
        batches.popleft()
        self._waiting_bytes -= batch.size
        self._waiting_messages -= batch.number
        if not batches:
            self._blocked_seconds += trio.current_time() - self._blocked_since
        self.wake()

    def _discard(self) -> None:
        if self._batches:
            self._blocked_seconds += trio.current_time() - self._blocked_since
        self._parsed.clear()
        self._batches = None
        self._waiting_bytes = self._waiting_messages = 0
        self.wake()

    # The end ---------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Discard the messages that wait and all that will come."""
        self.stopped = True
        if self._delivering is not None:
            self._delivering.cancel()
        self._discard()
        if self._ending is not None:
            self._close(self._ending)

    def end(self, ending: Ending) -> None:
        """Close the channel once the messages that wait are delivered; returns at once."""
        if self._ending is not None:
            return
        self._ending = ending
        # The task that delivers closes it, unless nothing is delivered any more: that task may be cancelled first.
        if not self._batches or self.stopped:
            self._close(ending)
        if self._more is not None:
            self._more.set()

    def _close(self, ending: Ending) -> None:
        self.channel.close(ending.error, details=ending.details)
        self.finished.set()
