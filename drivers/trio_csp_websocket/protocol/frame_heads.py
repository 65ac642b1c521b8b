"""The heads of frames in a stream of bytes, for those who watch it. No I/O.

This checks nothing: what breaks the protocol is shown as it would be parsed, because whoever looks for a fault wants to
see that. `decoder` is what decides.
"""

from __future__ import annotations

from typing import NamedTuple

from trio_csp_websocket.protocol.frames import (
    CLOSE,
    COMPRESSED,
    FIN,
    LENGTH_16_BITS,
    LENGTH_64_BITS,
    MASKED,
    MAX_CONTROL_PAYLOAD,
    OPCODE,
)
from trio_csp_websocket.protocol.masking import apply_mask

_KEY_BYTES = 4
_HTTP_END = b"\r\n\r\n"
_ACCEPTANCE = b"HTTP/1.1 101 "


class FrameHead(NamedTuple):
    """A frame as its head tells of it."""

    opcode: int
    fin: bool
    """Whether it is the last of its message."""
    compressed: bool
    """Whether the bit of compressed messages is set, which only the first frame of one has (RFC 7692, section 6)."""
    length: int
    """The length of its payload in bytes, as on the wire."""
    close: bytes | None
    """The payload of a close frame, unmasked. None for any other, and for one whose payload is too long."""


class FrameHeads:
    """Finds the heads of frames in what one end of a connection sends, however that is cut.

    Args:
        behind_acceptance: whether an answer to the handshake comes first. Behind one that accepts nothing there are no
            frames.
    """

    __slots__ = ("_acceptance", "_kept", "_over", "_skip")

    def __init__(self, *, behind_acceptance: bool = False) -> None:
        self._acceptance = behind_acceptance
        # Whether nothing that comes is looked at.
        self._over = False
        # The beginning of the acceptance, of a head, or of a close frame, while the rest is missing.
        self._kept = b""
        # How much is still to come of a payload.
        self._skip = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[FrameHead]:
        """Return the frames whose heads are complete with these bytes; a close frame once its payload is."""
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        found: list[FrameHead] = []
        if self._over or skipped == len(data):
            return found
        block, self._kept = self._kept + bytes(data[skipped:]), b""
        start = self._behind_acceptance(block) if self._acceptance else 0
        while start < len(block):
            read = _head_at(block, start)
            if read is None:
                self._kept = block[start:]
                return found
            frame, start = read
            found.append(frame)
        self._skip = start - len(block)
        return found

    def _behind_acceptance(self, block: bytes) -> int:
        """Return where frames may begin: behind what has come, if the answer is not complete or accepts nothing."""
        head, end, _ = block.partition(_HTTP_END)
        if not block.startswith(_ACCEPTANCE[: len(block)]):
            self._over = True
        elif end:
            self._acceptance = False
            return len(head) + len(end)
        else:
            self._kept = block
        return len(block)


def _head_at(block: bytes, start: int) -> tuple[FrameHead, int] | None:
    """Return the frame that starts there, and where its end is; None if bytes are missing (RFC 6455, section 5.2)."""
    if len(block) - start < 2:
        return None
    first, second = block[start], block[start + 1]
    length, payload = second & ~MASKED, start + 2
    if length in (LENGTH_16_BITS, LENGTH_64_BITS):
        count = 2 if length == LENGTH_16_BITS else 8
        payload += count
        length = int.from_bytes(block[payload - count : payload], "big")
    masked = second & MASKED
    payload += _KEY_BYTES if masked else 0
    if payload > len(block):
        return None
    opcode, end, close = first & OPCODE, payload + length, None
    if opcode == CLOSE and length <= MAX_CONTROL_PAYLOAD:
        if end > len(block):
            return None
        close = block[payload:end]
        if masked:
            close = apply_mask(close, block[payload - _KEY_BYTES : payload])
    return FrameHead(opcode, bool(first & FIN), bool(first & COMPRESSED), length, close), end
