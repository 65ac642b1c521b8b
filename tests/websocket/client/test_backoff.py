"""How long to wait: delays that grow at random, and the Retry-After of a refusal."""

from __future__ import annotations

import random
import statistics
import sys
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import ConnectionFailedError, Kind
from trio_csp_websocket.client.backoff import Backoff, retry_after

NOW = datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC)


class Largest(random.Random):
    """Chance that always gives the most there is."""

    def uniform(self, a: float, b: float) -> float:
        assert a == 0
        return b


def refusal(**headers: str) -> ConnectionFailedError:
    return ConnectionFailedError(
        "refused",
        kind=Kind.INTERNAL,
        retryable=True,
        details={"status": 503, "headers": {name.replace("_", "-"): value for name, value in headers.items()}},
    )


# Backoff --------------------------------------------------------------------------------------------------------------


def test_the_bound_doubles_up_to_the_largest() -> None:
    backoff = Backoff(0.5, 5, Largest())
    assert [backoff.next_delay() for _ in range(6)] == [0.5, 1, 2, 4, 5, 5]


def test_after_a_connection_that_lasted_it_is_as_the_first_time() -> None:
    backoff = Backoff(0.5, 5, Largest())
    backoff.next_delay()
    backoff.next_delay()
    backoff.attempt_ended(lasted_seconds=backoff.bound_seconds)
    assert backoff.failures == 1
    backoff.attempt_ended(lasted_seconds=backoff.bound_seconds + 0.1)
    assert backoff.failures == 0
    assert backoff.bound_seconds == 0.5
    assert [backoff.next_delay() for _ in range(2)] == [0.5, 1]


def test_equal_bounds_stay_equal() -> None:
    backoff = Backoff(2, 2, Largest())
    assert [backoff.next_delay() for _ in range(3)] == [2, 2, 2]


def test_the_delay_is_even_between_0_and_the_bound() -> None:
    backoff = Backoff(8, 8, random.Random(1))
    delays = [backoff.next_delay() for _ in range(4000)]
    assert 0 <= min(delays) < 0.1
    assert 7.9 < max(delays) <= 8
    for quarter, cut in zip((2, 4, 6), statistics.quantiles(delays, n=4), strict=True):
        assert cut == pytest.approx(quarter, abs=0.3)


def test_what_is_asked_for_is_waited_before_the_random_part() -> None:
    backoff = Backoff(1, 4, random.Random(1))
    twin = Backoff(1, 4, random.Random(1))
    assert backoff.next_delay(120) == 120 + twin.next_delay()
    assert backoff.bound_seconds == 2


@pytest.mark.parametrize("most", [30.0, sys.float_info.max])
def test_no_number_of_attempts_is_too_large(most: float) -> None:
    backoff = Backoff(1e-9, most)
    for _ in range(5000):
        assert 0 <= backoff.next_delay() <= most
    assert backoff.bound_seconds == most


def test_a_program_that_seeds_its_random_numbers_does_not_seed_these() -> None:
    delays: list[float] = []
    state = random.getstate()
    try:
        for _ in range(2):
            random.seed(1)
            delays.append(Backoff(1, 1).next_delay())
    finally:
        random.setstate(state)
    assert delays[0] != delays[1]


# Retry-After ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"), [("120", 120), ("0", 0), (" 7\t", 7), ("0007", 7), ("9" * 10, 9999999999)]
)
def test_a_number_is_seconds(value: str, seconds: float) -> None:
    assert retry_after(refusal(retry_after=value), NOW) == seconds


@pytest.mark.parametrize(
    "date",
    ["Thu, 29 Feb 2024 12:01:30 GMT", "Thursday, 29-Feb-24 12:01:30 GMT", "Thu Feb 29 12:01:30 2024"],
)
def test_a_date_in_each_format_is_relative_to_now(date: str) -> None:
    assert retry_after(refusal(retry_after=date), NOW) == 90


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone cannot be set here")
def test_a_date_without_a_zone_is_not_in_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "UTC-9")
            time.tzset()
            assert retry_after(refusal(retry_after="Thu Feb 29 12:01:30 2024"), NOW) == 90
    finally:
        time.tzset()


def test_a_date_is_relative_to_the_date_of_the_answer() -> None:
    error = refusal(retry_after="Thu, 29 Feb 2024 12:01:30 GMT", date="Thu, 29 Feb 2024 12:01:20 GMT")
    assert retry_after(error, NOW) == 10


@pytest.mark.parametrize("date", ["yesterday", "", "Thu, 99 Feb 2024 12:01:20 GMT"])
def test_with_a_malformed_date_header_it_is_relative_to_now(date: str) -> None:
    assert retry_after(refusal(retry_after="Thu, 29 Feb 2024 12:01:30 GMT", date=date), NOW) == 90


def test_a_date_that_has_passed_asks_for_nothing() -> None:
    assert retry_after(refusal(retry_after="Thu, 29 Feb 2024 11:00:00 GMT"), NOW) == 0


@pytest.mark.parametrize(
    "value",
    [
        *("", "soon", "-1", "+1", "1.5", "1e3", "1, 2", "0x10", "\u0663", "9" * 11, "9" * 5000),
        "Thu, 99 Feb 2024 12:00:00 GMT",
        "Thu, 29 Feb 99999999999999999999 12:00:00 GMT",
        "Thu, 29 Feb 2024 12:00:00 +9999999999",
    ],
)
def test_what_is_malformed_is_ignored(value: str) -> None:
    assert retry_after(refusal(retry_after=value), NOW) == 0


@pytest.mark.parametrize(
    "error",
    [
        None,
        refusal(),
        ConnectionFailedError("lost", kind=Kind.INTERNAL),
        ConnectionFailedError("lost", kind=Kind.INTERNAL, details={"code": 1006}),
        ConnectionFailedError("lost", kind=Kind.INTERNAL, details={"headers": "retry-after: 7"}),
    ],
)
def test_without_the_header_there_is_nothing_to_wait_for(error: ConnectionFailedError | None) -> None:
    assert retry_after(error, NOW) == 0


@given(st.text() | st.text("0123456789:, +-SunNovGMT."), st.text())
def test_no_header_is_an_error(value: str, date: str) -> None:
    assert retry_after(refusal(retry_after=value, date=date), NOW) >= 0
