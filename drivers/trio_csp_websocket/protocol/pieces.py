"""Bytes that arrive in pieces.

Few small ones are joined in the end. What is huge is written into one buffer, and each thread keeps the last one it has
used: the system's allocator gives memory of that size, and takes it back, page by page, and each page that is touched
for the first time costs more than to fill it. With a buffer that is kept, a message of 1 MiB takes a third of the time
(``python -m benchmarks --only "receive, 1 MiB"``).
"""

from __future__ import annotations

import threading

# A piece of this size is kept as it is. Smaller ones are joined, because an object for each could take more memory than
# the bytes in it.
_LARGE_BYTES = 4096

_HUGE_BYTES = 256 * 1024
_MAX_KEPT_BYTES = 5 * 1024 * 1024


class _Spare(threading.local):
    """What a thread keeps."""

    def __init__(self) -> None:
        self.buffer: bytearray | None = None


_spare = _Spare()


class Pieces:
    """Collects pieces of any size and number; takes hardly more memory than their bytes."""

    def __init__(self) -> None:
        self.size: int = 0
        """How many bytes there are."""
        self._pieces: list[bytes] = []
        self._small = bytearray()
        # Once they are huge, all of them; behind them it may have bytes of another message.
        self._huge: bytearray | None = None

    def room(self, most: int) -> memoryview:
        """Return where the next bytes can be written to: a place for one to ``most``, behind those there are.

        What was written is in `written`, to be added then. Nothing else may be done in between.
        """
        huge = self._huge
        if huge is None:
            huge = self._begin_huge()
        start = self.size
        # As much as there are, so that nobody pays for bytes that are only announced; more where it is there already.
        end = start + min(most, max(start, len(huge) - start, 1))
        if end > len(huge):
            huge += bytes(end - len(huge))
        with memoryview(huge) as view:
            return view[start:end]

    def written(self, size: int) -> memoryview:
        """Return the bytes that were written to the place that `room` gave."""
        assert self._huge is not None
        with memoryview(self._huge) as view:
            return view[self.size : self.size + size]

    def add(self, piece: bytes | memoryview) -> None:
        """Add a piece. Of a view the bytes are copied, unless it comes from `written`."""
        size = len(piece)
        if self._huge is not None:
            if not (isinstance(piece, memoryview) and piece.obj is self._huge):
                _write(self._huge, self.size, piece)
            self.size += size
            return
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
            self._pieces.append(bytes(piece))

    def gather(self) -> None:
        """Have what follows written into one buffer, if there is much already."""
        if self._huge is None and self.size > _HUGE_BYTES:
            self._begin_huge()

    def _begin_huge(self) -> bytearray:
        huge, _spare.buffer = _spare.buffer or bytearray(), None
        for piece in self.take_pieces():
            _write(huge, self.size, piece)
            self.size += len(piece)
        self._huge = huge
        return huge

    def take(self) -> bytes:
        """Return all the bytes, and be empty again."""
        return b"".join(self.take_pieces())

    def take_text(self) -> str:
        """Return what all the bytes are in UTF-8, and be empty again.

        Raises:
            UnicodeDecodeError: they are not UTF-8.
        """
        if self._huge is None:
            return self.take().decode()
        try:
            with memoryview(self._huge) as view:
                return str(view[: self.size], "utf-8")
        finally:
            self._end_huge(self._huge)

    def take_pieces(self) -> list[bytes]:
        """Return the bytes in pieces, and be empty again."""
        pieces, self._pieces = self._pieces, []
        if self._huge is not None:
            with memoryview(self._huge) as view:
                pieces.append(bytes(view[: self.size]))
            self._end_huge(self._huge)
        elif self._small:
            pieces.append(bytes(self._small))
            self._small.clear()
        self.size = 0
        return pieces

    def _end_huge(self, huge: bytearray) -> None:
        if len(huge) <= _MAX_KEPT_BYTES:
            _spare.buffer = huge
        self._huge = None
        self.size = 0


def _write(buffer: bytearray, at: int, piece: bytes | memoryview) -> None:
    """Write into a buffer, which grows if need be."""
    end = at + len(piece)
    if end <= len(buffer):
        with memoryview(buffer) as view:
            view[at:end] = piece
    else:
        del buffer[at:]
        buffer += piece
