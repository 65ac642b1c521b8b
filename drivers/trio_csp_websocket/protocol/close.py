"""Close frames: which codes and reasons they may have, read and written (RFC 6455, sections 5.5.1 and 7.4)."""

from __future__ import annotations

from typing import Final

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.frames import ProtocolViolation, protocol_error
from trio_csp_websocket.protocol.messages import utf_8

MAX_REASON_BYTES: Final = 123
SENDABLE_CODES: Final = "1000 to 1003, 1007 to 1014 or 3000 to 4999"
"""The codes that `is_sendable` allows, as an error's text gives them."""


class ForbiddenCodeViolation(ProtocolViolation):
    """The peer closed, with a code that must not stand in a close frame (RFC 6455, section 7.4)."""

    def __init__(self, sent_code: int, sent_reason: str) -> None:
        super().__init__(CloseCode.PROTOCOL_ERROR, _invalid(sent_code))
        self.sent_code = sent_code
        self.sent_reason = sent_reason


def is_sendable(code: int) -> bool:
    """Tell whether a close frame may carry this code; 1004, 1005, 1006 and 1015 never appear on the wire."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def check_close(code: object, reason: object) -> None:
    """Raise `InvalidError` for a code or reason that a user must not send."""
    if isinstance(code, bool) or not isinstance(code, int):
        raise InvalidTypeError(f"code must be an int, not {code!r}")
    if not is_sendable(code):
        raise InvalidError(f"code must be {SENDABLE_CODES}, not {int(code)}")
    if not isinstance(reason, str):
        raise InvalidTypeError(f"reason must be a str, not {reason!r}")
    if any(character in reason for character in "\r\n\0"):
        raise InvalidError(f"reason must not contain line breaks or NUL, as {reason!r} does")
    size = len(utf_8(reason, "reason"))
    if size > MAX_REASON_BYTES:
        raise InvalidError(f"reason must be at most {MAX_REASON_BYTES} bytes of UTF-8, not {size}")


def parse_close(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a close frame's payload; code 1005 if it carries none (RFC 6455, section 7.1.5).

    Raises:
        ForbiddenCodeViolation: all that is wrong is that the code must not appear on the wire.
        ProtocolViolation: it is malformed.
    """
    if not payload:
        return CloseCode.NO_STATUS, ""
    if len(payload) == 1:
        raise protocol_error("a close frame has one byte instead of a code of two")
    code = int.from_bytes(payload[:2], "big")
    try:
        reason = payload[2:].decode()
    except UnicodeDecodeError:
        if not is_sendable(code):
            raise protocol_error(_invalid(code)) from None
        raise ProtocolViolation(CloseCode.INVALID_PAYLOAD, "a close frame's reason is not UTF-8") from None
    if not is_sendable(code):
        raise ForbiddenCodeViolation(code, reason)
    return code, reason


def _invalid(code: int) -> str:
    return f"a close frame has the invalid code {code}"


def close_payload(code: int, reason: str) -> bytes:
    """Return the payload of a close frame; a reason of more than 123 bytes is cut at the end of a character."""
    return code.to_bytes(2, "big") + reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()
