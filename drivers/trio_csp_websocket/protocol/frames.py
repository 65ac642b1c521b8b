"""What WebSocket frames are made of (RFC 6455, section 5), and how a peer breaks the protocol."""

from __future__ import annotations

from typing import Final, NamedTuple

from trio_csp_websocket.protocol.constants import CloseCode

CONTINUATION: Final = 0x0
TEXT_FRAME: Final = 0x1
BINARY_FRAME: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

# The first byte of a frame holds these and the opcode.
FIN: Final = 0x80
COMPRESSED: Final = 0x40
"""The first reserved bit: the message is compressed (RFC 7692, section 6)."""
RESERVED_BITS: Final = 0x70
OPCODE: Final = 0x0F
CONTROL: Final = 0x08
"""Set in the opcode of every control frame."""

# The second byte holds this and, in seven bits, the length, or what says that it follows in 16 or 64.
MASKED: Final = 0x80
LENGTH_7_BITS: Final = 0x7F
LENGTH_16_BITS: Final = 126
LENGTH_64_BITS: Final = 127

MAX_CONTROL_PAYLOAD: Final = 125


class Control(NamedTuple):
    """A control frame: `PING`, `PONG` or `CLOSE`."""

    opcode: int
    payload: bytes


class ProtocolViolation(Exception):  # noqa: N818  # it says what the peer did, and is no error of ours
    """The peer broke the protocol or exceeded a limit: the connection is to be failed with this code and reason."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def protocol_error(reason: str) -> ProtocolViolation:
    """Return a violation of the framing itself."""
    return ProtocolViolation(CloseCode.PROTOCOL_ERROR, reason)


def payload_length(block: bytes, start: int) -> tuple[int, int] | None:
    """Return the length of a frame's payload and where the field that holds it ends; None if bytes of it are missing.

    Args:
        block: has at least the first two bytes of the frame.
        start: where in the block the frame starts.

    Raises:
        ProtocolViolation: the length is not in its shortest form, or has the highest of 64 bits set (RFC 6455,
            section 5.2).
    """
    short = block[start + 1] & LENGTH_7_BITS
    if short < LENGTH_16_BITS:
        return short, start + 2
    if short == LENGTH_16_BITS:
        end, least = start + 4, LENGTH_16_BITS
    else:
        end, least = start + 10, 1 << 16
    if len(block) < end:
        return None
    length = int.from_bytes(block[start + 2 : end], "big")
    if length < least:
        raise protocol_error(f"a frame's length of {length} is not in its shortest form")
    if length >> 63:
        raise protocol_error(f"a frame's length of {length} is more than 63 bits can hold")
    return length, end
