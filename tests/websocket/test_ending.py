"""How a connection ended: which endings are errors, of which kind, and whether a new connection may go better."""

from __future__ import annotations

import pytest

from csp.errors import ConnectionFailedError, Kind
from trio_csp_websocket._constants import CloseCode
from trio_csp_websocket._ending import closed_by_peer, failed_by_us, lost
from trio_csp_websocket._frames import ProtocolViolation


def error_of(error: ConnectionFailedError | None) -> ConnectionFailedError:
    assert error is not None
    return error


@pytest.mark.parametrize("code", [1000, 1001, 1005])
def test_a_peer_that_has_finished_is_no_error(code: int) -> None:
    assert closed_by_peer(code, "done", asked=False) == (code, "done", None)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_peers_error_code_is_an_unavailable_error(code: int) -> None:
    ending = closed_by_peer(code, "why", asked=False)
    error = error_of(ending.error)
    assert (ending.code, ending.reason) == (code, "why")
    assert error.kind is Kind.UNAVAILABLE
    assert error.retryable is (code in (1011, 1012, 1013, 1014))
    assert error.details == {"code": code, "reason": "why"}
    assert str(code) in str(error)
    assert str(error).endswith(": why")


@pytest.mark.parametrize("code", [1000, 1002, 1011, 4000])
def test_any_answer_to_our_close_is_no_error(code: int) -> None:
    assert closed_by_peer(code, "why", asked=True) == (code, "why", None)


def test_the_text_names_a_known_code_and_a_reason_if_there_is_one() -> None:
    known = error_of(closed_by_peer(1013, "", asked=False).error)
    assert str(known) == "the peer closed the connection with code 1013 (TRY_AGAIN_LATER)"
    private = error_of(closed_by_peer(4000, "go", asked=False).error)
    assert str(private) == "the peer closed the connection with code 4000: go"


@pytest.mark.parametrize("code", [CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_PAYLOAD, CloseCode.MESSAGE_TOO_BIG])
def test_our_verdict_is_an_internal_error_and_not_retryable(code: CloseCode) -> None:
    ending = failed_by_us(ProtocolViolation(code, "bad"), asked=False)
    error = error_of(ending.error)
    assert (ending.code, ending.reason) == (code, "bad")
    assert error.kind is Kind.INTERNAL
    assert error.retryable is False
    assert error.details == {"code": int(code), "reason": "bad"}
    assert "bad" in str(error)


def test_our_verdict_after_our_close_is_no_error() -> None:
    violation = ProtocolViolation(CloseCode.PROTOCOL_ERROR, "bad")
    assert failed_by_us(violation, asked=True) == (1002, "bad", None)


def test_a_lost_connection_is_1006_unavailable_and_retryable() -> None:
    ending = lost("reset", asked=False)
    error = error_of(ending.error)
    assert (ending.code, ending.reason) == (1006, "")
    assert error.kind is Kind.UNAVAILABLE
    assert error.retryable is True
    assert error.details == {"code": 1006, "reason": ""}
    assert str(error) == "the connection was lost: reset"


def test_a_connection_lost_after_our_close_is_no_error() -> None:
    assert lost("reset", asked=True) == (1006, "", None)


def test_codes_in_details_are_plain_ints() -> None:
    for ending in (
        closed_by_peer(CloseCode.INTERNAL_ERROR, "", asked=False),
        failed_by_us(ProtocolViolation(CloseCode.PROTOCOL_ERROR, ""), asked=False),
        lost("", asked=False),
    ):
        details = error_of(ending.error).details
        assert details is not None
        assert type(details["code"]) is int
