"""How long a connection waits for its peer: the read timeout, and keepalive.

The peer is not to blame while messages wait for room in the channel: what it has sent may lie unread in the socket. So
that time does not count, and keepalive goes on pinging without asking for pongs. Nor is the peer to blame if this
program was busy when a deadline passed. So the socket is read once more before the peer is found to have stalled.

A deadline for each read would cost more than all else that a small message does. So a read only notes when it began.
When a connection's time may have come, a timer has `Liveness` look at it, and again when it may come next: seldom more
than once in each interval.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_csp_websocket.connection.delivery import Delivery
    from trio_csp_websocket.connection.pings import Pings
    from trio_csp_websocket.connection.timers import Timers
    from trio_csp_websocket.connection.writer import Writer
    from trio_csp_websocket.protocol.decoder import Decoder
    from trio_csp_websocket.transport.base import Transport


class Liveness:
    """Watches how long reading takes, within two limits.

    - The read timeout is the limit for one whole message. Parts of a message, pings and pongs do not extend it; but
      each part of a message that is streamed is waited for anew.
    - After ``keepalive`` of silence a ping is sent; after as long again the peer has stalled. Any byte that arrives
      ends the silence. While frames still wait to be written, so does any byte that the system takes from us: the ping
      may not have been written yet. A system takes up to two slices at a time, `SLICE_BYTES`, and keeps them until the
      network has carried them. So a link that carries less than one within ``keepalive`` seems dead in a large send.
    """

    __slots__ = (
        "_awaiting_pong",
        "_busy",
        "_decoder",
        "_delivery",
        "_grace_is_over",
        "_grace_until",
        "_pings",
        "_probed",
        "_read_timeout_seconds",
        "_received",
        "_sent",
        "_silence_deadline",
        "_silent_since",
        "_since",
        "_stop_waiting",
        "_timer",
        "_transport",
        "_waiting_since",
        "_writer",
        "final",
        "keepalive_seconds",
        "stalled",
    )

    def __init__(
        self,
        transport: Transport,
        decoder: Decoder,
        delivery: Delivery,
        writer: Writer,
        pings: Pings,
        *,
        read_timeout_seconds: float,
        keepalive_seconds: float,
        timers: Timers,
        stop_waiting: Callable[[], None],
    ) -> None:
        """Watch nothing yet.

        Args:
            transport: what is read from.
            decoder: tells how many messages have come.
            delivery: tells whether messages wait for room in the channel.
            writer: writes the pings of keepalive, and tells whether frames wait there.
            pings: notes them.
            read_timeout_seconds: the first limit.
            keepalive_seconds: the second one.
            timers: have it look.
            stop_waiting: ends the read that is under way, because it has taken too long. Whoever reads is to look at
                `stalled` then.
        """
        self._transport = transport
        self._decoder = decoder
        self._delivery = delivery
        self._writer = writer
        self._pings = pings
        self._read_timeout_seconds = read_timeout_seconds
        self.keepalive_seconds: float = keepalive_seconds
        self._stop_waiting = stop_waiting
        self.stalled: str | None = None
        """What the peer has let us wait for, once that took too long in the read that is under way."""
        self.final: bool = False
        """Whether even what has arrived by then is too late: the socket was read once more before."""
        # When the read that is under way began; None while none is.
        self._waiting_since: float | None = None
        # How many messages, and parts of streamed ones, had been received when the wait for the next one began.
        self._received = -1
        # When that was, by a clock that stops while messages wait for room in the channel.
        self._since = 0.0
        # Once the wait took too long: until when the message may still come.
        self._grace_until: float | None = None
        self._grace_is_over = False
        # The silence that was looked at last: since when, and until when nothing is to be done about it.
        self._silent_since: float | None = None
        self._silence_deadline = math.inf
        # In it: whether a ping was sent that nobody can answer while messages wait; whether its pong is awaited; and
        # one interval ago, whether frames waited to be written, and how much was.
        self._probed = self._awaiting_pong = self._busy = False
        self._sent: int = 0
        self._timer = timers.add(self._look)

    # What the task that reads calls ----------------------------------------------------------------------------------

    def begin_wait(self) -> None:
        """Note that a read begins."""
        now = self._waiting_since = trio.current_time()
        deadline = now + self.keepalive_seconds
        if self._read_timeout_seconds < math.inf:
            deadline = min(deadline, self._read_deadline(now))
        if not self._timer.is_set:
            self._timer.set(deadline)

    def end_wait(self) -> None:
        """Note that the read has ended."""
        self._waiting_since = self.stalled = None

    def end(self) -> None:
        """Watch no more."""
        self._timer.end()

    # What the timer calls --------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """See what is to be done by now."""
        now = trio.current_time()
        if self._waiting_since is None:
            return  # the next read sets the timer
        if self._waiting_since != self._silent_since:
            self._silent_since = self._waiting_since
            self._silence_deadline = self._waiting_since + self.keepalive_seconds
            self._awaiting_pong = self._probed = self._busy = False
        read_deadline = self._read_deadline(now)
        if now >= read_deadline:
            self._timer.set(self._message_is_late(now, read_deadline))
        else:
            if now >= self._silence_deadline:
                self._keep_alive()
                self._silence_deadline = now + self.keepalive_seconds
            self._timer.set(min(read_deadline, self._silence_deadline))

    def _keep_alive(self) -> None:
        """Send a ping, or find that the last one was not answered."""
        if self._delivery.blocked:
            if not self._writer.ping_waits:
                self._writer.send_ping(self._pings.new_payload())
            self._awaiting_pong = self._probed = False
        elif self._awaiting_pong and (not self._busy or self._transport.bytes_taken == self._sent):
            self.final = False
            self._stall(f"nothing for {self.keepalive_seconds:g} s after a ping")
        else:
            self._busy, self._sent = self._writer.busy, self._transport.bytes_taken
            # A ping that is already queued will do. Ours would overtake it, and the pong would then seem to answer
            # both.
            if not self._probed and not self._writer.ping_waits:
                self._writer.send_ping(self._pings.probe())
                self._probed = True
            self._awaiting_pong = True

    def _read_deadline(self, now: float) -> float:
        received = self._decoder.messages_received + self._decoder.parts_received
        if received != self._received:
            self._received = received
            self._since = now - self._delivery.blocked_seconds(now)
            self._grace_until = None
            self._grace_is_over = False
        return self._since + self._delivery.blocked_seconds(now) + self._read_timeout_seconds

    def _message_is_late(self, now: float, read_deadline: float) -> float:
        """Find that the read timeout has passed; return when to look again.

        If this program noticed the deadline late, the message may be late by as much.
        """
        if self._grace_until is None:
            self._grace_until = now + (now - read_deadline)
        if now >= self._grace_until:
            self.final, self._grace_is_over = self._grace_is_over, True
            self._stall(f"no message within {self._read_timeout_seconds:g} s")
            return math.inf
        return self._grace_until

    def _stall(self, reason: str) -> None:
        self.stalled = reason
        self._stop_waiting()
