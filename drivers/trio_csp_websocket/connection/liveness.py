"""How long a connection waits for its peer: the read timeout, and keepalive.

Both count only while this side reads. Time spent waiting for room in the channel is nobody's fault but ours: the peer
may well have sent something that lies in the socket.
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
    """The peer has let us wait for too long; the text says for what."""


class Liveness:
    """Reads from a transport, within limits.

    - The read timeout is for one whole message. Parts of it, pings and pongs do not extend it.
    - After ``keepalive`` of silence a ping goes out, and after as long again the peer is given up. Any byte that
      arrives ends the silence; so does, while we still have something to write, any byte that the system takes from
      us: then the ping may not be on its way yet.
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
        self._keepalive_seconds = keepalive_seconds
        # The number of messages before the one that is awaited; since when it is, less the time for which the channel
        # had kept us from reading until then; and until when, once that took too long, it may still turn up.
        self._messages_received = -1
        self._since = 0.0
        self._grace_until: float | None = None

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return what has arrived, waiting for at least a byte; b"" at the end.

        Raises:
            PeerStalledError: waiting took too long.
        """
        now = trio.current_time()
        read_deadline = self._read_deadline(now)
        silence_deadline = now + self._keepalive_seconds
        asked = probed = busy = False
        sent = 0
        while now < read_deadline:
            if now >= silence_deadline:
                # Whether there was something to write an interval ago, and all that has been written since.
                if asked and (not busy or self._transport.bytes_sent == sent):
                    return await self._look(max_bytes, f"nothing for {self._keepalive_seconds:g} s after a ping")
                busy, sent = self._writer.busy, self._transport.bytes_sent
                # A ping that waits in line does as well; one of ours would overtake it, and its pong seem to answer
                # both.
                if not probed and not self._writer.ping_waits:
                    self._writer.send_ping(self._pings.probe())
                    probed = True
                asked = True
                silence_deadline = now + self._keepalive_seconds
            with trio.move_on_at(min(read_deadline, silence_deadline)):
                return await self._transport.receive_some(max_bytes)
            now = trio.current_time()
        return await self._receive_late(max_bytes, read_deadline)

    def _read_deadline(self, now: float) -> float:
        if self._decoder.messages_received != self._messages_received:
            self._messages_received = self._decoder.messages_received
            self._since = now - self._delivery.blocked_seconds
            self._grace_until = None
        return self._since + self._delivery.blocked_seconds + self._read_timeout_seconds

    async def _receive_late(self, max_bytes: int, read_deadline: float) -> bytes:
        """Return what has arrived all the same. For as long as this program was late itself, the message may come."""
        reason = f"no message within {self._read_timeout_seconds:g} s"
        now = trio.current_time()
        if self._grace_until is None:
            self._grace_until = now + (now - read_deadline)
        elif now > self._grace_until:
            raise PeerStalledError(reason)
        return await self._look(max_bytes, reason, until=self._grace_until)

    async def _look(self, max_bytes: int, reason: str, *, until: float = -math.inf) -> bytes:
        """Return what has arrived, or raise the verdict on the peer: it may have been us who were busy elsewhere.

        More of a message may only come once we have read; ``until`` says how long to wait for that.
        """
        block = await self._transport.receive_now(max_bytes)
        if block is None:
            with trio.move_on_at(until):
                return await self._transport.receive_some(max_bytes)
            raise PeerStalledError(reason)
        return block
