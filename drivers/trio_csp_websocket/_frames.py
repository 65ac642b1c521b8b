"""Frames of RFC 6455, section 5: bytes to messages and control frames, and back. No I/O.

`Decoder` is the receiving hot path. It works on whole blocks as they were read: a frame that lies in the block is
recognised by its first two bytes and its payload sliced out once. Only what is rare leaves that loop: fragments,
control frames, frames larger than a block. Data goes into `Decoder.messages`; control frames are returned, because
somebody has to act on them, and nothing needs to know how they lay between the messages: a ping or pong may overtake
data, and after a close comes nothing.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from trio_csp_websocket._constants import CloseCode, MessageType, is_sendable

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTINUATION = 0x0
TEXT_FRAME = 0x1
BINARY_FRAME = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

_FIN = 0x80
_RESERVED_BITS = 0x70
_OPCODE = 0x0F
_CONTROL = 0x08
"""Set in the opcode of every control frame."""
_WHOLE_TEXT = _FIN | TEXT_FRAME
_WHOLE_BINARY = _FIN | BINARY_FRAME

MAX_CONTROL_PAYLOAD = 125
MAX_REASON_BYTES = 123

# The beginning of a frame up to this size waits for the next block and is parsed again; beyond, its payload is
# collected.
_MAX_REPARSED = 4096


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


class Decoder:
    """Parses what a server sends after the handshake.

    Args:
        read_limit_bytes: the largest message to accept; one byte more is a violation with code 1009.
    """

    def __init__(self, read_limit_bytes: int) -> None:
        self.messages: deque[Message] = deque()
        self.violation: ProtocolViolation | None = None
        """The verdict, once the peer has broken the protocol; everything it sends afterwards is ignored."""
        self.missing = 0
        """How many bytes the payload being collected still lacks."""
        self.messages_received = 0
        self.payload_bytes_received = 0
        self._limit = read_limit_bytes
        self._closed = False
        self._rest = b""
        self._collected = bytearray()
        self._collected_head = 0
        # The message being received in fragments; None outside of one.
        self._fragments: bytearray | None = None
        self._fragments_opcode = 0

    def feed(self, block: bytes) -> list[Control]:
        """Take in what was read; append messages to `messages` and return the control frames, in order."""
        controls: list[Control] = []
        if self._closed:
            return controls
        try:
            start = self._collect(block, controls) if self.missing else 0
            if self._rest:
                block = self._rest + block
                self._rest = b""
            self._parse(block, start, controls)
        except ProtocolViolation as violation:
            self.violation = violation
            self._closed = True
        return controls

    def _parse(self, block: bytes, start: int, controls: list[Control]) -> None:
        """Parse the frames of a block from ``start``; keep an incomplete one for the next block."""
        add = self.messages.append
        size = len(block)
        while size - start >= 2 and not self._closed:
            head = block[start]
            length = block[start + 1]
            payload_start = start + 2
            if length > MAX_CONTROL_PAYLOAD:
                extended = _extended_length(block, start)
                if extended is None:
                    break
                length, payload_start = extended
            plain = head in (_WHOLE_TEXT, _WHOLE_BINARY) and self._fragments is None and length <= self._limit
            if not plain:
                self._check_header(head, length)
            end = payload_start + length
            if end > size:
                if length > _MAX_REPARSED:
                    self._collected_head = head
                    self._collected += block[payload_start:]
                    self.missing = end - size
                    return
                break
            if plain and head == _WHOLE_TEXT:
                add(Message("text", _text(block[payload_start:end])))
                self.messages_received += 1
                self.payload_bytes_received += length
            elif plain:
                add(Message("binary", block[payload_start:end]))
                self.messages_received += 1
                self.payload_bytes_received += length
            else:
                self._finish_frame(head, block[payload_start:end], controls)
            start = end
        if start < size and not self._closed:
            self._rest = block[start:] if start else block

    def _collect(self, block: bytes, controls: list[Control]) -> int:
        """Add to the payload being collected; return where in the block the next frame starts."""
        taken = min(self.missing, len(block))
        self._collected += block if taken == len(block) else block[:taken]
        self.missing -= taken
        if not self.missing:
            payload = self._collected
            self._collected = bytearray()
            self._finish_frame(self._collected_head, payload, controls)
        return taken

    def _check_header(self, head: int, length: int) -> None:
        """Refuse a frame by its header alone (RFC 6455, sections 5.2, 5.4 and 5.5)."""
        opcode = head & _OPCODE
        if head & _RESERVED_BITS:
            raise _protocol_error("a reserved bit is set")
        if opcode & _CONTROL:
            if opcode not in (CLOSE, PING, PONG):
                raise _protocol_error(f"unknown control opcode {opcode}")
            if not head & _FIN:
                raise _protocol_error("a control frame is fragmented")
            if length > MAX_CONTROL_PAYLOAD:
                raise _protocol_error(f"a control frame has {length} bytes of payload, more than 125")
            return
        if opcode not in (CONTINUATION, TEXT_FRAME, BINARY_FRAME):
            raise _protocol_error(f"unknown data opcode {opcode}")
        if (opcode == CONTINUATION) != (self._fragments is not None):
            raise _protocol_error(
                "a continuation without a message to continue"
                if opcode == CONTINUATION
                else "a new message inside a fragmented one"
            )
        total = length + (len(self._fragments) if self._fragments is not None else 0)
        if total > self._limit:
            raise ProtocolViolation(
                CloseCode.MESSAGE_TOO_BIG, f"a message of at least {total} bytes, more than {self._limit}"
            )

    def _finish_frame(self, head: int, payload: bytes | bytearray, controls: list[Control]) -> None:
        """Act on a complete frame whose header was checked."""
        opcode = head & _OPCODE
        if opcode & _CONTROL:
            control = Control(opcode, bytes(payload))
            if opcode == CLOSE:
                parse_close(control.payload)  # a bad one is a violation instead
                self._closed = True
            controls.append(control)
            return
        if opcode != CONTINUATION:
            self._fragments_opcode = opcode
            if head & _FIN:
                self._finish_message(payload)
                return
            self._fragments = bytearray()
        assert self._fragments is not None
        self._fragments += payload
        if head & _FIN:
            payload, self._fragments = self._fragments, None
            self._finish_message(payload)

    def _finish_message(self, payload: bytes | bytearray) -> None:
        if self._fragments_opcode == TEXT_FRAME:
            self.messages.append(Message("text", _text(payload)))
        else:
            self.messages.append(Message("binary", bytes(payload)))
        self.messages_received += 1
        self.payload_bytes_received += len(payload)


def parse_close(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a close frame's payload; code 1005 if it carries none (RFC 6455, section 7.1.5).

    Raises:
        ProtocolViolation: it is malformed, or the code must not appear on the wire.
    """
    if not payload:
        return CloseCode.NO_STATUS, ""
    if len(payload) == 1:
        raise _protocol_error("a close frame has half a code")
    code = int.from_bytes(payload[:2], "big")
    if not is_sendable(code):
        raise _protocol_error(f"a close frame has the invalid code {code}")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolViolation(CloseCode.INVALID_PAYLOAD, "a close frame's reason is not UTF-8") from None


def _extended_length(block: bytes, start: int) -> tuple[int, int] | None:
    """Return a frame's length of more than 125 bytes and where its payload starts; None if bytes are missing."""
    short = block[start + 1]
    if short > 127:
        raise _protocol_error("a frame from the server is masked")
    width = 2 if short == 126 else 8
    payload_start = start + 2 + width
    if len(block) < payload_start:
        return None
    length = int.from_bytes(block[start + 2 : payload_start], "big")
    if length < (126 if width == 2 else 1 << 16) or length >> 63:
        raise _protocol_error(f"a frame's length of {length} is not in its shortest form")
    return length, payload_start


def _text(payload: bytes | bytearray) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise ProtocolViolation(CloseCode.INVALID_PAYLOAD, "a text message is not UTF-8") from None


def _protocol_error(reason: str) -> ProtocolViolation:
    return ProtocolViolation(CloseCode.PROTOCOL_ERROR, reason)


# Encoding ------------------------------------------------------------------------------------------------------------

_HEAD_7_BITS = struct.Struct("!BB").pack
_HEAD_16_BITS = struct.Struct("!BBH").pack
_HEAD_64_BITS = struct.Struct("!BBQ").pack
_MASKED = 0x80

_KEYS_AT_ONCE = 128
# Below this size one big-integer XOR is the quickest masking in plain Python, above it four table look-ups.
_MAX_INTEGER_MASKED = 1024
_XOR_TABLES = [bytes(byte ^ key for byte in range(256)) for key in range(256)]


class Encoder:
    """Builds the client's frames, each masked with a fresh key (RFC 6455, section 5.3)."""

    def __init__(self) -> None:
        self._next_key = _random_keys().__next__

    def encode(self, opcode: int, payload: bytes | bytearray | memoryview) -> bytes:
        """Return a whole frame."""
        length = len(payload)
        key = self._next_key()
        if length < 126:
            return _HEAD_7_BITS(_FIN | opcode, _MASKED | length) + key + _mask(payload, key)
        if length < 1 << 16:
            return _HEAD_16_BITS(_FIN | opcode, _MASKED | 126, length) + key + _mask(payload, key)
        return b"".join((_HEAD_64_BITS(_FIN | opcode, _MASKED | 127, length), key, _mask(payload, key)))


def encode_from_server(opcode: int, payload: bytes) -> bytes:
    """Return a small unmasked frame, as a server would send it."""
    assert len(payload) <= MAX_CONTROL_PAYLOAD
    return _HEAD_7_BITS(_FIN | opcode, len(payload)) + payload


def close_payload(code: int, reason: str) -> bytes:
    """Return the payload of a close frame, the reason cut to the 123 bytes it may have, at a character's end."""
    return code.to_bytes(2, "big") + reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()


def _random_keys() -> Iterator[bytes]:
    # The keys must be unpredictable; asking the system for many at once makes them cheap.
    while True:
        keys = os.urandom(4 * _KEYS_AT_ONCE)
        for start in range(0, len(keys), 4):
            yield keys[start : start + 4]


def _mask(payload: bytes | bytearray | memoryview, key: bytes) -> bytes | bytearray:
    length = len(payload)
    if length <= _MAX_INTEGER_MASKED:
        keys = (key * (length // 4 + 1))[:length]
        return (int.from_bytes(payload, "little") ^ int.from_bytes(keys, "little")).to_bytes(length, "little")
    masked = bytearray(payload)
    for offset in range(4):
        masked[offset::4] = masked[offset::4].translate(_XOR_TABLES[key[offset]])
    return masked
