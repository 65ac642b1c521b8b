"""How many entries a reading may ask for: it has room for so many, and memory for so many bytes."""

from __future__ import annotations

from typing import final

_MAX_BYTES = 16 * 1024 * 1024
# What an entry is taken for before one was seen.
_FIRST_BYTES = 1024 * 1024


@final
class Appetite:
    """Says how many entries to ask for.

    Redis can be asked for a number of entries only, so their size is guessed: the largest that came of late. It is
    forgotten by halves with each batch. What is held is taken for as many times the largest that came since nothing was
    held, so that taking a value out costs nothing here.

    Args:
        capacity: how many entries may be held.
    """

    __slots__ = ("_capacity", "_expected_bytes", "_held_bytes")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._expected_bytes = _FIRST_BYTES
        # No entry that is held is larger.
        self._held_bytes = 1

    def count(self, held: int) -> int:
        """Return how many to ask for while ``held`` are held; 0 if there is no room, at least 1 if none is held."""
        fit = max(0, _MAX_BYTES - held * self._held_bytes) // self._expected_bytes
        return max(0, min(self._capacity - held, max(fit, 0 if held else 1)))

    @property
    def any_count(self) -> int:
        """How many entries of one answer take no more than the bytes that are allowed; at least 1."""
        return max(1, _MAX_BYTES // self._expected_bytes)

    @property
    def low(self) -> int:
        """How many may be held at most for half of the room to be free; `count` is then above 0."""
        return min(self._capacity // 2, _MAX_BYTES // 2 // max(self._held_bytes, self._expected_bytes))

    def saw(self, largest_bytes: int, held: int) -> None:
        """Note the size of the largest entry of a batch, which comes to the ``held`` others."""
        self._expected_bytes = max(1, largest_bytes, self._expected_bytes // 2)
        self._held_bytes = max(1, largest_bytes, self._held_bytes if held else 1)
