"""What is not seen through a bus, in `connection/test_link.py` and `connection/test_refusals.py`."""

from __future__ import annotations

import ssl

import pytest
from coredis import exceptions as reported

from csp.errors import ConnectionFailedError, Kind
from trio_csp_redis.protocol.failures import answered, not_connected


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(5, "Input/output error"), "[Errno 5] Input/output error"),
        (ssl.SSLError(1, "wrong version number"), "wrong version number"),
        (caused(reported.ConnectionError("x"), OSError(111, "Connection refused")), "[Errno 111] Connection refused"),
        (ExceptionGroup("", [KeyError("a"), OSError(1, "first")]), "[Errno 1] first"),
        (caused(OSError("all failed"), ExceptionGroup("", [OSError(1, "a"), OSError(2, "b")])), "[Errno 2] b"),
        (caused(reported.ConnectionError("x"), OSError()), "what answers there is no Redis server"),
        (reported.ConnectionError("Connection lost!"), "Connection lost!"),
        (OSError(1, "a\nb\x1b"), "[Errno 1] a\\u000ab\\u001b"),
        (OSError(1, "a" * 1000), "[Errno 1] " + "a" * 190),
        (RecursionError(), "what answers there is no Redis server"),
        (reported.InvalidResponse("Protocol Error: b'secret'"), "what answers there is no Redis server"),
    ],
    ids=repr,
)
def test_why_there_is_no_connection_is_told_by_the_innermost_cause(error: Exception, why: str) -> None:
    for found, begins in (
        (not_connected(error, "redis://h:1/0"), "connecting to redis://h:1/0 failed: "),
        (answered(error, "sending"), "sending: the connection was lost: "),
    ):
        assert isinstance(found, ConnectionFailedError)
        assert found.retryable
        assert str(found).startswith(begins + why)
        assert len(str(found)) < 300


@pytest.mark.parametrize(
    "text",
    [
        "a text. script: 0123456789012345678901234567890123456789, on @user_script:12.",
        "a text. script: on @user_script:1.",
        "a text., script: 0123456789012345678901234567890123456789, on @user_script:12.",
        "a text.: @user_script:3: something",
    ],
)
def test_what_a_server_says_of_a_script_is_not_shown(text: str) -> None:
    found = answered(reported.ResponseError(text), "sending")
    assert str(found) == "sending: the server answered with an error: a text."
    assert (found.kind, found.retryable) == (Kind.UNKNOWN, None)


@pytest.mark.parametrize("code", ["READONLY", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "BUSY", "TRYAGAIN"])
def test_conditions_that_pass_are_unavailable(code: str) -> None:
    found = answered(reported.ResponseError(f"{code} a text"), "sending")
    assert isinstance(found, ConnectionFailedError)
    assert (found.kind, found.retryable) == (Kind.UNAVAILABLE, True)
    # A longer word is another code.
    assert answered(reported.ResponseError(f"{code}X a text"), "sending").kind is Kind.UNKNOWN
