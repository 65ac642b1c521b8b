"""Delivery: parsed messages go into the channel as it has room; it closes after the last of them.

While the channel is full, messages wait here, and a task sends them in batches: one is what was parsed of one block, or
of several small ones. Meanwhile the connection reads on, until as much waits as `READ_AHEAD_BYTES` and
`READ_AHEAD_MESSAGES` allow: pongs, pings and the close that stand behind messages are then seen although nobody
receives. What waits is counted in bytes, because a message may have any size; and in messages, because Python needs
about a hundred bytes for the smallest.

A message that the application takes piece by piece does not go through the channel. Reading rests while too much of it
waits: see `incoming`.

Few large messages fill the memory before they fill the channel. So reading rests as well while the read limit and
`READ_AHEAD_BYTES` wait, in the channel and here together, as they are in memory: see `backlog`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio
from trio.lowlevel import enable_ki_protection

import csp
from trio_csp_websocket.connection.backlog import Backlog, call_when_drained
from trio_csp_websocket.protocol.messages import Message

if TYPE_CHECKING:
    from trio_csp_websocket.connection.ending import Ending
    from trio_csp_websocket.connection.incoming import Incoming
    from trio_csp_websocket.connection.settings import Settings
    from trio_csp_websocket.protocol.decoder import Decoder

READ_AHEAD_BYTES = 256 * 1024
"""Nothing more is read while this much waits for room in the channel."""
READ_AHEAD_MESSAGES = 4096
"""Nor while so many messages do."""

# A deque takes hundreds of bytes even for one message. So what a peer sends in small blocks is joined to batches of at
# least this size.
_SMALL_BATCH_BYTES = 4096


class _Batch(NamedTuple):
    messages: deque[Message]
    """Those that are not in the channel yet."""
    number: int
    """How many there were."""
    size: int


class Delivery:
    """Puts messages into the application's channel.

    Args:
        decoder: parses the messages to deliver; this takes them from its deque.
        settings: the capacity of the channel, and the read limit.
        nursery: where a task delivers what there is no room for.
    """

    __slots__ = (
        "_backlog",
        "_batches",
        "_blocked_seconds",
        "_blocked_since",
        "_capacity",
        "_decoder",
        "_delivering",
        "_ending",
        "_more",
        "_nursery",
        "_parsed",
        "_resting",
        "_room",
        "_waiting_bytes",
        "_waiting_messages",
        "channel",
        "finished",
        "stopped",
        "stream",
        "streams",
        "unmeasured_bytes",
    )

    def __init__(self, decoder: Decoder, settings: Settings, nursery: trio.Nursery) -> None:
        capacity = settings.channel_capacity
        self.channel: csp.Channel[Message] = csp.Channel[Message](capacity)
        self.finished: trio.Event = trio.Event()
        """Set when the channel is closed, after every message was delivered or discarded."""
        self.stopped: bool = False
        """Whether messages are discarded instead of delivered."""
        self.streams: bool = False
        """Whether the application has ever taken a message piece by piece."""
        self.stream: Incoming | None = None
        """The message that the application takes piece by piece, while it does, and while it waits for it."""
        self._decoder = decoder
        self._parsed = decoder.messages
        self._capacity = capacity
        self._nursery = nursery
        # Of what waits in the channel and here. Messages have the numbers in which they were parsed.
        self._backlog = Backlog(settings.read_limit_bytes + READ_AHEAD_BYTES, capacity)
        self.unmeasured_bytes: int = self._backlog.unmeasured_bytes
        """Of messages that were parsed together, and have more bytes on the wire, `measure` is to be told."""
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
        # Whether reading rests because too much waits.
        self._resting = False
        # For how long messages had to wait, or reading to rest; and since when one of them does, if one does.
        self._blocked_seconds = 0.0
        self._blocked_since: float | None = None
        # How the connection has ended, once it has.
        self._ending: Ending | None = None

    # What the task that reads calls ----------------------------------------------------------------------------------

    def measure(self) -> None:
        """Measure the messages that were just parsed, and are all still to be delivered."""
        last = self._decoder.messages_received
        if not self._batches and not len(self.channel):
            self._backlog.forget(last - len(self._parsed))
        # Otherwise what was taken is forgotten only once too much seems to wait: to find out each time costs too much.
        self._backlog.add(self._parsed, last)

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
        number = len(self._parsed)
        if not self._batches:
            self._batches = deque()
        if self._batches and self._batches[-1].size < _SMALL_BATCH_BYTES:
            # Also where it is just being sent: `Channel.send_many` goes on with what is appended.
            last = self._batches.pop()
            last.messages.extend(self._parsed)
            self._batches.append(_Batch(last.messages, last.number + number, last.size + size))
        else:
            self._batches.append(_Batch(self._parsed.copy(), number, size))
        self._parsed.clear()
        self._waiting_bytes += size
        self._waiting_messages += number
        self._note_blocked()
        if self._delivering is None:
            self._delivering = trio.CancelScope()
            self._nursery.start_soon(self._deliver, self._delivering, name="csp.websocket delivery")
        elif self._more is not None:
            self._more.set()
            self._more = None

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing more is to be read."""
        return (
            self._waiting_bytes >= READ_AHEAD_BYTES
            or self._waiting_messages >= READ_AHEAD_MESSAGES
            or (self._backlog.too_large and self._too_much_waits())
            or (self.stream is not None and self.stream.full)
        )

    def _too_much_waits(self) -> bool:
        """Whether the bytes are too many that wait in the channel and here."""
        if self.stopped or self.channel.closed:
            return False
        self._backlog.forget(self._decoder.messages_received - self.unread)
        return self._backlog.too_large

    @property
    def blocked(self) -> bool:
        """Whether messages wait for room in the channel."""
        return bool(self._batches)

    @property
    def unread(self) -> int:
        """How many messages were received from the peer, and not by the application yet."""
        in_hand = self.channel.statistics().tasks_waiting_send  # of `Channel.send_many`, which keeps one apart
        waiting = self._waiting_messages
        if self._batches:
            waiting -= self._batches[0].number - len(self._batches[0].messages)  # what was sent of it
        return len(self.channel) + in_hand + waiting

    def blocked_seconds(self, now: float) -> float:
        """Return for how long messages have had to wait for room in the channel, or reading to rest, in all."""
        return self._blocked_seconds + (0.0 if self._blocked_since is None else now - self._blocked_since)

    def _note_blocked(self) -> None:
        """To be called when messages begin or end to wait, or reading to rest."""
        now = trio.current_time()
        if self._blocked_since is not None:
            self._blocked_seconds += now - self._blocked_since
        self._blocked_since = now if self._batches or self._resting else None

    async def progress(self) -> None:
        """Wait until less may wait: a batch was delivered, or what waits is discarded, or `wake` was called."""
        if self._room is None:
            self._room = trio.Event()
        # If it is what waits in the channel that is too large, until some of it was taken.
        left = None
        if self._decoder.held is not None and self.unread:
            left = 0  # or if all of it stands before a message that is held
        elif self._backlog.too_large:
            left = self._decoder.messages_received - self._backlog.first
        call_off = None if left is None else call_when_drained(self.channel, left, self.wake)
        self._resting = True
        self._note_blocked()
        try:
            await self._room.wait()
        finally:
            self._resting = False
            self._note_blocked()
            if call_off is not None:
                call_off()

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
        await self.channel.send_many(batches[0].messages)
        if self.stopped:  # after the last message was taken, and before this task came to run
            return
        batch = batches.popleft()
        self._waiting_bytes -= batch.size
        self._waiting_messages -= batch.number
        if not batches:
            self._note_blocked()
        self.wake()

    def _discard(self) -> None:
        self._parsed.clear()
        self._batches = None
        self._waiting_bytes = self._waiting_messages = 0
        self._note_blocked()
        self.wake()

    # The end ---------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Discard the messages that wait and all that will come."""
        self.stopped = True
        if self.stream is not None:
            self.stream.cut_off()
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
        if self.stream is not None:
            self.stream.cut_off()
        # The task that delivers closes it, unless nothing is delivered any more: that task may be cancelled first.
        if not self._batches or self.stopped:
            self._close(ending)
        if self._more is not None:
            self._more.set()

    def _close(self, ending: Ending) -> None:
        self.channel.close(ending.error, details=ending.details)
        self.finished.set()
