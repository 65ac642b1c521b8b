"""A large frame, made piece by piece as it is written.

To mask a large payload as a whole takes a copy of it, in memory that the system's allocator maps for it and unmaps
again: see `trio_csp_websocket.protocol.pieces`. The pieces are small enough for memory that is used again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE_BYTES: Final = 64 * 1024
"""From this size on a payload is written in pieces, which are no larger. A multiple of a key's four bytes."""


@final
class LargeFrame:
    """A frame that goes out in pieces.

    Args:
        head: of the frame.
        payload: at least `LARGE_BYTES`; it must stay as it is until `keep` was called, or all of it is taken.
        mask: masks a piece of it; None for a plain frame.
    """

    __slots__ = ("_head", "_mask", "_view")

    def __init__(
        self,
        head: bytes,
        payload: bytes | bytearray | memoryview,
        mask: Callable[[bytes | bytearray | memoryview], bytes] | None,
    ) -> None:
        self._head = head
        self._view = memoryview(payload)
        self._mask = mask

    @property
    def left(self) -> int:
        """How many bytes of payload are still to be taken."""
        return len(self._view)

    def take(self) -> bytes | memoryview:
        """Return the next piece."""
        head, view = self._head, self._view
        # Of a plain payload all behind the first piece goes as it is.
        size = LARGE_BYTES if head or self._mask is not None else len(view)
        piece, self._view = view[:size], view[size:]
        self._head = b""
        if self._mask is not None:
            return head + self._mask(piece)
        return head + piece if head else piece

    def keep(self) -> None:
        """Have the payload stay as it is: copy what is left of it, if it can change."""
        if not self._view.readonly:
            self._view = memoryview(bytes(self._view))
