"""A message that is sent to many peers. No I/O."""

from __future__ import annotations


class SharedMessage:
    """A message to many peers, encoded once for all who get it in the same form.

    Args:
        opcode: of its frame.
        payload: what it holds, uncompressed. It must not be changed any more.
    """

    __slots__ = ("compressed", "frames", "opcode", "payload")

    def __init__(self, opcode: int, payload: bytes) -> None:
        self.opcode = opcode
        self.payload = payload
        self.compressed: dict[int, bytes] = {}
        """The payload as a compressor without context makes it, by the bits of its window."""
        self.frames: dict[int, bytes] = {}
        """Unmasked frames: by those bits, and by 0 the frame that is not compressed."""
