"""Bytes that arrive in pieces."""

from __future__ import annotations

# A piece of this size is kept as it is. Smaller ones are joined, because an object for each could take more memory than
# the bytes in it.
_LARGE_BYTES = 4096


class Pieces:
    """Collects pieces of any size and number; takes hardly more memory than their bytes."""

    def __init__(self) -> None:
        self.size = 0
        """How many bytes there are."""
        self._pieces: list[bytes] = []
        self._small = bytearray()

    def add(self, piece: bytes) -> None:
        size = len(piece)
        self.size += size
        small = self._small
        if len(small) + size <= _LARGE_BYTES:
            small += piece
            return
        if small:
            self._pieces.append(bytes(small))
            small.clear()
        if size < _LARGE_BYTES:
            small += piece
        else:
            self._pieces.append(piece)

    def take(self) -> bytes:
        """Return all the bytes, and be empty again."""
        return b"".join(self.take_pieces())

    def take_pieces(self) -> list[bytes]:
        """Return the bytes in pieces, and be empty again."""
        pieces, self._pieces = self._pieces, []
        if self._small:
            pieces.append(bytes(self._small))
            self._small.clear()
        self.size = 0
        return pieces
