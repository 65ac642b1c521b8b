"""How long a connection waits for its peer: the read timeout, and keepalive.

The peer is not to blame while messages wait for room in the channel: what it has sent may lie unread in the socket. So
that time does not count, and keepalive goes on pinging without asking for pongs. Nor is the peer to blame if this
program was busy when a deadline passed. So the socket is read once more before the peer is found to have stalled.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trio_csp_websocket.connection.delivery import Delivery
    from trio_csp_websocket.connection.pings import Pings
    from trio_csp_websocket.connection.writer import Writer
    from trio_csp_websocket.protocol.decoder import Decoder
    from trio_csp_websocket.transport.base import Transport


class PeerStalledError(Exception):
    """The peer has let us wait for too long; the text says what for."""


class Liveness:
    """Reads from a transport, within two limits.

    - The read timeout is the limit for one whole message. Parts of a message, pings and pongs do not extend it.
    - After ``keepalive`` of silence a ping is sent; after as long again the peer has stalled. Any byte that arrives
      ends the silence. While frames still wait to be written, so does any byte that the system takes from us: the ping
      may not have been written yet. A system takes up to two slices at a time, `SLICE_BYTES`, and keeps them until the
      network has carried them. So a link that carries less than one within ``keepalive`` seems dead in a large send.
    """

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
    ) -> None:
        self._transport = transport
        self._decoder = decoder
        self._delivery = delivery
        self._writer = writer
        self._pings = pings
        self._read_timeout_seconds = read_timeout_seconds
        self.keepalive_seconds: float = keepalive_seconds
        # How many messages had been received when the wait for the next one began.
        self._messages_received = -1
        # When that was, by a clock that stops while messages wait for room in the channel.
        self._since = 0.0
        # Once the wait took too long: until when the message may still come.
        self._grace_until: float | None = None

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return what has arrived, waiting for at least one byte; b"" at the end.

        Raises:
            PeerStalledError: waiting took too long.
        """
        now = trio.current_time()
        read_deadline = self._read_deadline(now)
        silence_deadline = now + self.keepalive_seconds
        awaiting_pong = probed = busy = False
        sent = 0
        while now < read_deadline:
            if now >= silence_deadline and self._delivery.blocked:
                if not self._writer.ping_waits:
                    self._writer.send_ping(self._pings.new_payload())
                awaiting_pong = probed = False
                silence_deadline = now + self.keepalive_seconds
            elif now >= silence_deadline:
                # `busy` and `sent` are from one interval ago: were frames waiting, and has any byte been written since?
                if awaiting_pong and (not busy or self._transport.bytes_taken == sent):
                    return await self._receive_or_fail(
                        max_bytes, f"nothing for {self.keepalive_seconds:g} s after a ping"
                    )
                busy, sent = self._writer.busy, self._transport.bytes_taken
                # A ping that is already queued will do. Ours would overtake it, and the pong would then seem to answer
                # both.
                if not probed and not self._writer.ping_waits:
                    self._writer.send_ping(self._pings.probe())
                    probed = True
                awaiting_pong = True
                silence_deadline = now + self.keepalive_seconds
            with trio.move_on_at(min(read_deadline, silence_deadline)):
                return await self._transport.receive_some(max_bytes)
            now = trio.current_time()
            read_deadline = self._read_deadline(now)
        return await self._receive_late(max_bytes, read_deadline)

    def _read_deadline(self, now: float) -> float:
        if self._decoder.messages_received != self._messages_received:
            self._messages_received = self._decoder.messages_received
            self._since = now - self._delivery.blocked_seconds(now)
            self._grace_until = None
        return self._since + self._delivery.blocked_seconds(now) + self._read_timeout_seconds

    async def _receive_late(self, max_bytes: int, read_deadline: float) -> bytes:
        """Return what has arrived although the deadline has passed.

        If this program noticed the deadline late, the message may be late by as much.
        """
        reason = f"no message within {self._read_timeout_seconds:g} s"
        now = trio.current_time()
        if self._grace_until is None:
            self._grace_until = now + (now - read_deadline)
        elif now > self._grace_until:
            raise PeerStalledError(reason)
        return await self._receive_or_fail(max_bytes, reason, until=self._grace_until)

    async def _receive_or_fail(self, max_bytes: int, reason: str, *, until: float = -math.inf) -> bytes:
        """Return what has arrived, or raise `PeerStalledError`; wait no longer than ``until``.

        The socket may hold data that we were too busy to read, and the peer may only be able to send more once we have
        read that.
        """
        block = await self._transport.receive_now(max_bytes)
        if block is None:
            with trio.move_on_at(until):
                return await self._transport.receive_some(max_bytes)
            raise PeerStalledError(reason)
        return block
