"""A message whose pieces are taken as they arrive. No I/O."""

from __future__ import annotations

from collections import deque
from sys import getsizeof
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.constants import MessageType


class Streamed:
    """What has arrived of a message, and was not taken yet."""

    __slots__ = ("_pieces", "complete", "type", "unwanted", "waiting_bytes")

    def __init__(self) -> None:
        self.type: MessageType | None = None
        """None before the message has begun."""
        self.complete: bool = False
        """Whether all of it has arrived, and nothing of it was dropped."""
        self.unwanted: bool = False
        """Whether what still arrives is dropped."""
        self.waiting_bytes: int = 0
        """How many bytes of memory the pieces take that wait."""
        self._pieces: deque[str | bytes] = deque()

    def __len__(self) -> int:
        """Return how many pieces wait."""
        return len(self._pieces)

    def begin(self, type: MessageType) -> None:  # noqa: A002  # as in `Message`
        self.type = type

    def add(self, piece: str | bytes) -> None:
        if not self.unwanted:
            self._pieces.append(piece)
            self.waiting_bytes += getsizeof(piece)

    def end(self) -> None:
        self.complete = not self.unwanted

    def take(self) -> str | bytes:
        """Return the piece that has waited longest."""
        piece = self._pieces.popleft()
        self.waiting_bytes -= getsizeof(piece)
        return piece

    def drop(self) -> None:
        """Drop what waits, and what still arrives."""
        self.unwanted = True
        self._pieces.clear()
        self.waiting_bytes = 0
