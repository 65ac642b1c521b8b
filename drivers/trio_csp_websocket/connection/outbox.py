"""What waits to be written of the messages that a hub sends to one of its members."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.encoder import Encoder
    from trio_csp_websocket.protocol.shared import SharedMessage


class Outbox:
    """Counts the messages of one sender that wait, within bounds.

    Args:
        owner: whose messages they are.
        capacity: how many may wait.
        capacity_bytes: how many bytes they may have, uncompressed. One that has more by itself waits alone.
    """

    __slots__ = ("_bytes", "_waiting", "capacity", "capacity_bytes", "owner")

    def __init__(self, owner: object, capacity: int, capacity_bytes: int) -> None:
        self.owner: object = owner
        self.capacity: int = capacity
        self.capacity_bytes: int = capacity_bytes
        # In the order of the calls.
        self._waiting: dict[Posted, None] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def has_room(self, message: SharedMessage) -> bool:
        """Whether another message may wait."""
        if not self._waiting:
            return True
        return len(self._waiting) < self.capacity and self._bytes + len(message.payload) <= self.capacity_bytes

    def add(self, message: SharedMessage) -> Posted:
        """Take in a message."""
        posted = Posted(message, self)
        self._waiting[posted] = None
        self._bytes += posted.size
        return posted

    def remove(self, posted: Posted) -> None:
        """Take out a message, which is written next or will not be."""
        if self._waiting.pop(posted, self) is None:
            self._bytes -= posted.size

    @property
    def oldest(self) -> Posted:
        """The message that has waited for longest."""
        return next(iter(self._waiting))


class Posted:
    """A message in an outbox. Nobody waits for it to be written."""

    __slots__ = ("message", "outbox")

    def __init__(self, message: SharedMessage, outbox: Outbox) -> None:
        self.message: SharedMessage = message
        self.outbox: Outbox = outbox

    @property
    def opcode(self) -> int:
        return self.message.opcode

    @property
    def number(self) -> int:
        return 1

    @property
    def size(self) -> int:
        return len(self.message.payload)

    def begin(self, encoder: Encoder) -> bytes:
        self.outbox.remove(self)
        return encoder.encode_shared(self.message)

    def written(self) -> None:
        pass

    def failed(self, failure: Exception) -> None:
        self.outbox.remove(self)
