"""The constants have the values of the specification."""

from __future__ import annotations

from enum import IntEnum

from csp import websocket


def test_types_of_messages_are_those_of_the_specification() -> None:
    assert (websocket.TEXT, websocket.BINARY) == (1, 2)
    assert (websocket.TYPE_TEXT, websocket.TYPE_BINARY) == ("text", "binary")
    assert (websocket.TYPE_PING, websocket.TYPE_PONG, websocket.TYPE_CLOSE) == ("ping", "pong", "close")


def test_compression_has_the_numbers_of_the_specification() -> None:
    assert {member.name: member.value for member in websocket.COMPRESSION} == {
        "DISABLED": 0,
        "CONTEXT_TAKEOVER": 1,
        "NO_CONTEXT": 2,
    }


def test_close_codes_have_the_numbers_of_the_specification() -> None:
    assert {member.name: member.value for member in websocket.CLOSE_CODES} == {
        "NORMAL": 1000,
        "GOING_AWAY": 1001,
        "PROTOCOL_ERROR": 1002,
        "UNSUPPORTED_DATA": 1003,
        "NO_STATUS": 1005,
        "ABNORMAL_CLOSURE": 1006,
        "INVALID_PAYLOAD": 1007,
        "POLICY_VIOLATION": 1008,
        "MESSAGE_TOO_BIG": 1009,
        "MANDATORY_EXTENSION": 1010,
        "INTERNAL_ERROR": 1011,
        "SERVICE_RESTART": 1012,
        "TRY_AGAIN_LATER": 1013,
        "BAD_GATEWAY": 1014,
        "TLS_HANDSHAKE": 1015,
    }


def test_the_specified_names_are_enums_of_ints() -> None:
    assert websocket.COMPRESSION is websocket.Compression
    assert websocket.CLOSE_CODES is websocket.CloseCode
    assert issubclass(websocket.CLOSE_CODES, IntEnum)
    assert issubclass(websocket.COMPRESSION, IntEnum)
