"""Close frames: what they carry, and which codes they may have."""

from __future__ import annotations

import struct

import pytest

from trio_csp_websocket.protocol.close import ForbiddenCodeViolation, close_payload, is_sendable, parse_close
from trio_csp_websocket.protocol.frames import ProtocolViolation

FORBIDDEN_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65_535)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_close_payload_is_its_code_and_its_reason(code: int) -> None:
    assert parse_close(code.to_bytes(2, "big") + "gr\u00fcn".encode()) == (code, "gr\u00fcn")


def test_a_close_payload_without_a_code_is_1005() -> None:
    assert parse_close(b"") == (1005, "")


@pytest.mark.parametrize("code", FORBIDDEN_CODES)
@pytest.mark.parametrize("reason", ["", "gr\u00fcn"])
def test_a_close_payload_with_a_code_that_must_not_be_sent_is_a_violation_that_has_it(code: int, reason: str) -> None:
    with pytest.raises(ForbiddenCodeViolation) as caught:
        parse_close(code.to_bytes(2, "big") + reason.encode())
    violation = caught.value
    assert (violation.code, violation.reason) == (1002, f"a close frame has the invalid code {code}")
    assert (violation.sent_code, violation.sent_reason) == (code, reason)


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (b"\x03", 1002, "a close frame has one byte instead of a code of two"),
        (b"\x03\xe8\xff", 1007, "a close frame's reason is not UTF-8"),
        (b"\x03\xee\xff", 1002, "a close frame has the invalid code 1006"),
    ],
)
def test_a_malformed_close_payload_is_no_close(payload: bytes, code: int, reason: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        parse_close(payload)
    assert type(caught.value) is ProtocolViolation
    assert (caught.value.code, caught.value.reason) == (code, reason)


def test_a_close_frame_is_encoded_with_its_code_and_reason() -> None:
    assert close_payload(1002, "bad") == struct.pack("!H", 1002) + b"bad"


def test_a_reason_too_long_is_cut_at_a_characters_end() -> None:
    assert close_payload(1002, "x" * 200)[2:] == b"x" * 123
    assert close_payload(1002, "x" * 122 + "\u20ac")[2:] == b"x" * 122
    assert close_payload(1002, "\u20ac" * 41)[2:].decode() == "\u20ac" * 41


@pytest.mark.parametrize(("first", "last"), [(1000, 1003), (1007, 1014), (3000, 4999)])
def test_codes_of_these_ranges_are_sendable(first: int, last: int) -> None:
    assert all(is_sendable(code) for code in range(first, last + 1))
    assert not is_sendable(first - 1)
    assert not is_sendable(last + 1)


def test_no_other_code_is_sendable() -> None:
    assert sum(is_sendable(code) for code in range(-10, 70_000)) == 4 + 8 + 2000
