"""What WebSocket frames are made of (RFC 6455, section 5), and what they carry."""

from __future__ import annotations

from typing import Final, NamedTuple

from trio_csp_websocket.protocol.constants import CloseCode, MessageType, is_sendable

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

MAX_CONTROL_PAYLOAD: Final = 125
MAX_REASON_BYTES: Final = 123


class Message(NamedTuple):
    """A data message: its type, ``"text"`` or ``"binary"``, and its data, a str or bytes accordingly."""

    type: MessageType
    data: str | bytes


class Control(NamedTuple):
    """A control frame: `PING`, `PONG` or `CLOSE`."""

    opcode: int
    payload: bytes


class ProtocolViolation(Exception):  # noqa: N818  # a verdict on the peer, not an error of ours
    """The peer broke the protocol or a limit: the connection is to be failed with this code and reason."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def protocol_error(reason: str) -> ProtocolViolation:
    """Return a violation of the framing itself."""
    return ProtocolViolation(CloseCode.PROTOCOL_ERROR, reason)


def parse_close(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a close frame's payload; code 1005 if it carries none (RFC 6455, section 7.1.5).

    Raises:
        ProtocolViolation: it is malformed, or the code must not appear on the wire.
    """
    if not payload:
        return CloseCode.NO_STATUS, ""
    if len(payload) == 1:
        raise protocol_error("a close frame has half a code")
    code = int.from_bytes(payload[:2], "big")
    if not is_sendable(code):
        raise protocol_error(f"a close frame has the invalid code {code}")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolViolation(CloseCode.INVALID_PAYLOAD, "a close frame's reason is not UTF-8") from None


def encode_from_server(opcode: int, payload: bytes) -> bytes:
    """Return a small unmasked frame, as a server would send it."""
    assert len(payload) <= MAX_CONTROL_PAYLOAD
    return bytes((FIN | opcode, len(payload))) + payload


def close_payload(code: int, reason: str) -> bytes:
    """Return the payload of a close frame, the reason cut to the 123 bytes it may have, at a character's end."""
    return code.to_bytes(2, "big") + reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()
