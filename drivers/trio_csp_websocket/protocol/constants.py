"""The constants of the WebSocket interface."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal, TypeAlias

TEXT: Final = 1
BINARY: Final = 2

MessageType: TypeAlias = Literal["text", "binary"]

TYPE_TEXT: Final = "text"
TYPE_BINARY: Final = "binary"
TYPE_PING: Final = "ping"
TYPE_PONG: Final = "pong"
TYPE_CLOSE: Final = "close"


class Compression(IntEnum):
    """How messages are compressed (RFC 7692)."""

    DISABLED = 0
    CONTEXT_TAKEOVER = 1
    NO_CONTEXT = 2


class CloseCode(IntEnum):
    """Why a connection was closed (RFC 6455, section 7.4.1, and the registry it founded)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


# The names of the specified interface.
COMPRESSION: Final[type[Compression]] = Compression
CLOSE_CODES: Final[type[CloseCode]] = CloseCode
