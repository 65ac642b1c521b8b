"""How many entries to ask for: a reader has room for so many, and memory for so many bytes."""

from __future__ import annotations

from typing import final

_MAX_BYTES = 16 * 1024 * 1024
# What an entry is taken for before one was seen.
_FIRST_BYTES = 1024 * 1024


@final
class Appetite:
    """Says how many entries to ask for.

    Redis can be asked for a number of entries only. So their size is guessed: the largest that came of late. It is
    forgotten slowly, by halves with each batch.
    """

    def __init__(self) -> None:
        self._largest_bytes = _FIRST_BYTES

    def count(self, room: int, held_bytes: int) -> int:
        """Return how many to ask for; 0 if there is no room.

        Args:
            room: how many there is room for.
            held_bytes: how much is held already.
        """
        if held_bytes >= _MAX_BYTES:
            return 0
        return min(room, max(1, (_MAX_BYTES - held_bytes) // self._largest_bytes))

    def saw(self, largest_bytes: int) -> None:
        """Note the size of the largest entry of a batch."""
        self._largest_bytes = max(1, largest_bytes, self._largest_bytes // 2)
