"""For how long a message above the read limit is held, so that the application can take it piece by piece.

It is refused at once if a task waits for a message, if it is the first one of a connection that the application has
already, or if it stands behind one that was not received and the application has never used `Endpoint.receive_stream`.
Otherwise the application may be on its way there. So the message is held until all before it are received and the
stream before it is left, and for a second after that; but only until a task waits for a message. Nothing tells when one
begins to, and nobody else needs it, so that is looked at again and again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trio_csp_websocket.connection.backlog import is_awaited

if TYPE_CHECKING:
    from trio_csp_websocket.connection.delivery import Delivery
    from trio_csp_websocket.protocol.decoder import Decoder

_PATIENCE_SECONDS = 1.0
_LOOK_SECONDS = 0.05


class Hold:
    """Looks after one message that is held.

    Args:
        decoder: holds it.
        delivery: tells what stands before it, and who waits.
        in_use: whether the application has the connection.
    """

    def __init__(self, decoder: Decoder, delivery: Delivery, *, in_use: bool) -> None:
        self._decoder = decoder
        self._delivery = delivery
        self._unexpected = in_use and not decoder.messages_received
        if not delivery.streams:
            self._unexpected = self._unexpected or delivery.unread > 0
        # Since when nothing stands before it; None while something does.
        self._since: float | None = None

    def look(self, now: float) -> float:
        """Refuse the message if it is held and no longer to be; return when to look again."""
        delivery = self._delivery
        if self._decoder.held is None:
            return math.inf
        if not (delivery.stopped or self._unexpected) and (delivery.stream is not None or delivery.unread):
            self._since = None
            return math.inf
        if self._since is None:
            self._since = now
        if (
            self._unexpected
            or delivery.stopped
            or is_awaited(delivery.channel)
            or now >= self._since + _PATIENCE_SECONDS
        ):
            self._decoder.refuse()
            return math.inf
        return now + _LOOK_SECONDS
