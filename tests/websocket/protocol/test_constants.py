"""The constants have the values of the specification, and only codes of RFC 6455 go on the wire."""

from __future__ import annotations

from enum import IntEnum

import pytest

from csp import websocket
from trio_csp_websocket.protocol.close import is_sendable


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


@pytest.mark.parametrize(("first", "last"), [(1000, 1003), (1007, 1014), (3000, 4999)])
def test_codes_of_these_ranges_are_sendable(first: int, last: int) -> None:
    assert all(is_sendable(code) for code in range(first, last + 1))
    assert not is_sendable(first - 1)
    assert not is_sendable(last + 1)


def test_no_other_code_is_sendable() -> None:
    assert sum(is_sendable(code) for code in range(-10, 70_000)) == 4 + 8 + 2000
