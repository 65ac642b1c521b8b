"""A message that is sent to many peers. No I/O."""

from __future__ import annotations


class SharedMessage:
    """A message to many peers, encoded once for all who get it in the same form.

    Args:
        opcode: of its frame.
        payload: what it holds, uncompressed. It must not be changed any more.
    """

    __slots__ = ("compressed", "compressed_frames", "frame", "opcode", "payload")

    def __init__(self, opcode: int, payload: bytes) -> None:
        self.opcode: int = opcode
        self.payload: bytes = payload
        self.compressed: dict[int, bytes] = {}
        """The payload as a compressor without context makes it, by the bits of its window."""
        self.compressed_frames: dict[int, bytes] = {}
        """Unmasked frames of that, by the same bits."""
        self.frame: bytes | None = None
        """The unmasked frame of the payload as it is."""
