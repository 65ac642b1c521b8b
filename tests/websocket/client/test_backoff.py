"""How long to wait: delays that grow at random, and the Retry-After of a refusal."""

from __future__ import annotations

import random
import statistics
import sys
import time
from bisect import bisect_left
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp.errors import ConnectionFailedError, Kind
from trio_csp_websocket.client.backoff import Backoff, retry_after

NOW = datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC)


class Largest(random.Random):
    """Chance that always gives the most there is."""

    def uniform(self, a: float, b: float) -> float:
        assert 0 < a <= b
        return b


def refusal(**headers: str) -> ConnectionFailedError:
    return ConnectionFailedError(
        "refused",
        kind=Kind.INTERNAL,
        retryable=True,
        details={"status": 503, "headers": {name.replace("_", "-"): value for name, value in headers.items()}},
    )


def failed(backoff: Backoff, now: float, lasted_seconds: float = 0.0) -> float:
    """Let an attempt fail; return the delay after it."""
    backoff.attempt_ended(now, lasted_seconds)
    return backoff.next_delay()


# Backoff --------------------------------------------------------------------------------------------------------------


def test_in_a_long_outage_the_bound_doubles_up_to_the_largest() -> None:
    backoff = Backoff(0.5, 5, Largest())
    backoff.attempt_began(0)
    assert [failed(backoff, 1000 + number) for number in range(5)] == [1, 2, 4, 5, 5]


def test_the_bound_is_at_most_how_long_the_outage_has_lasted_but_at_least_the_first() -> None:
    backoff = Backoff(0.5, 30, Largest())
    backoff.attempt_began(100)
    assert [failed(backoff, 100 + after) for after in (0, 0.9, 1.5, 3, 7, 29, 31, 31)] == [1, 1, 1.5, 3, 7, 29, 30, 30]


def test_an_outage_does_not_begin_with_a_later_attempt() -> None:
    backoff = Backoff(0.5, 30, Largest())
    backoff.attempt_began(100)
    assert failed(backoff, 110) == 1
    backoff.attempt_began(111)
    assert failed(backoff, 111.75) == 2
    backoff.attempt_began(114)
    assert failed(backoff, 114) == 4


def test_after_a_connection_that_lasted_longer_than_the_last_bound_it_is_as_the_first_time() -> None:
    backoff = Backoff(0.5, 30, Largest())
    backoff.attempt_began(0)
    assert [failed(backoff, now) for now in (0, 1, 2, 4)] == [1, 1, 2, 4]
    assert failed(backoff, 12, lasted_seconds=4) == 12
    assert backoff.failures == 5
    backoff.attempt_ended(40, lasted_seconds=12.5)
    assert backoff.failures == 0
    assert backoff.bound_seconds == 1
    assert [failed(backoff, 40 + after) for after in (0, 1, 1.75, 3.5)] == [1, 1, 1.75, 3.5]


def test_the_first_connection_must_last_longer_than_the_first_bound() -> None:
    for lasted_seconds, failures in ((1, 1), (1.01, 0)):
        backoff = Backoff(0.5, 30)
        backoff.attempt_began(0)
        backoff.attempt_ended(lasted_seconds, lasted_seconds)
        assert backoff.failures == failures


def test_a_connection_that_did_not_last_does_not_end_the_outage() -> None:
    backoff = Backoff(0.5, 30, Largest())
    now = 0.0
    delays: list[float] = []
    for _ in range(7):
        backoff.attempt_began(now)
        now += 1
        delays.append(failed(backoff, now, lasted_seconds=1))
        now += delays[-1]
    assert delays == [1, 2, 4, 8, 16, 30, 30]


def test_an_attempt_that_is_abandoned_has_not_failed() -> None:
    backoff = Backoff(0.5, 30, Largest())
    backoff.attempt_began(0)
    assert [failed(backoff, now) for now in (10, 20, 30)] == [1, 2, 4]
    backoff.attempt_abandoned(40, lasted_seconds=4)
    assert (backoff.failures, backoff.bound_seconds) == (3, 4)
    assert failed(backoff, 50) == 8
    backoff.attempt_abandoned(100, lasted_seconds=8.5)
    assert (backoff.failures, backoff.bound_seconds) == (0, 1)
    assert [failed(backoff, 100 + after) for after in (0, 1, 1.75)] == [1, 1, 1.75]


def test_whether_an_attempt_that_ends_would_be_the_last_is_known_before() -> None:
    backoff = Backoff(0.5, 30, max_attempts=2)
    backoff.attempt_began(0)
    assert not backoff.exhausts(0)
    backoff.attempt_ended(1, 0)
    assert backoff.exhausts(backoff.bound_seconds)
    assert not backoff.exhausts(backoff.bound_seconds + 0.01)
    backoff.attempt_ended(2, 0)
    assert backoff.exhausted


def test_equal_bounds_give_exactly_that_delay() -> None:
    backoff = Backoff(2, 2)
    backoff.attempt_began(0)
    assert [failed(backoff, now) for now in (0, 10, 1000)] == [2, 2, 2]


def test_a_largest_bound_below_twice_the_shortest_delay_is_every_bound() -> None:
    backoff = Backoff(2, 3, Largest())
    backoff.attempt_began(0)
    assert [failed(backoff, now) for now in (0, 10, 1000)] == [3, 3, 3]


def test_the_delay_is_even_between_the_shortest_and_the_bound() -> None:
    backoff = Backoff(4, 8, random.Random(1))
    delays = [backoff.next_delay() for _ in range(4000)]
    assert 4 <= min(delays) < 4.05
    assert 7.95 < max(delays) <= 8
    for quarter, cut in zip((5, 6, 7), statistics.quantiles(delays, n=4), strict=True):
        assert cut == pytest.approx(quarter, abs=0.15)


def test_what_is_asked_for_is_waited_and_the_random_part_on_top() -> None:
    backoff = Backoff(1, 4, random.Random(1), max_asked_seconds=120)
    twin = Backoff(1, 4, random.Random(1))
    assert [backoff.next_delay(asked) for asked in (None, 0, 7, 120)] == [
        asked + twin.next_delay() for asked in (0, 0, 7, 120)
    ]


def test_what_is_asked_for_is_bounded_and_the_random_part_still_on_top() -> None:
    assert Backoff(1, 4, Largest(), max_asked_seconds=120).next_delay(9999999999) == 122


@pytest.mark.parametrize("most", [30.0, sys.float_info.max])
def test_no_number_of_attempts_is_too_large(most: float) -> None:
    backoff = Backoff(1e-9, most)
    backoff.attempt_began(0)
    for _ in range(5000):
        assert 1e-9 <= failed(backoff, sys.float_info.max) <= most
    assert backoff.bound_seconds == most


class Outage(NamedTuple):
    """What 1,000 clients do that all lose their one server at 0."""

    back_after: list[float]
    """From the server's return until each is back, sorted."""
    most_attempts: int
    """In any 100 ms."""


def simulated(outage_seconds: float) -> Outage:
    """Let attempts take no time, and fail until the outage is over."""
    chance = random.Random(1)
    back_after: list[float] = []
    attempts: list[float] = []
    for _ in range(1000):
        backoff = Backoff(0.5, 30, chance)
        backoff.attempt_began(-3600)
        now = failed(backoff, 0, lasted_seconds=3600)
        attempts.append(now)
        while now < outage_seconds:
            backoff.attempt_began(now)
            now += failed(backoff, now)
            attempts.append(now)
        back_after.append(now - outage_seconds)
    attempts.sort()
    most_attempts = max(bisect_left(attempts, at + 0.1) - index for index, at in enumerate(attempts))
    return Outage(sorted(back_after), most_attempts)


@pytest.mark.parametrize(
    ("outage_seconds", "median", "slowest"), [(0.5, 0.3, 0.5), (3, 1, 3), (30, 8, 30), (300, 10, 30)]
)
def test_a_thousand_clients_are_back_before_the_outage_has_lasted_twice_as_long_and_stay_spread(
    outage_seconds: float, median: float, slowest: float
) -> None:
    outage = simulated(outage_seconds)
    assert outage.back_after[500] < median
    assert outage.back_after[-1] <= slowest
    # The first delays are between 0.5 and 1 s: 200 in 100 ms, if they were quite even.
    assert outage.most_attempts < 260


def test_a_program_that_seeds_its_random_numbers_does_not_seed_these() -> None:
    delays: list[float] = []
    state = random.getstate()
    try:
        for _ in range(2):
            random.seed(1)
            delays.append(Backoff(1, 2).next_delay())
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


def test_a_date_without_a_zone_is_not_in_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32":
        pytest.skip("the time zone cannot be set here")
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


def test_a_date_that_has_passed_asks_for_no_time() -> None:
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
    assert retry_after(refusal(retry_after=value), NOW) is None


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
def test_without_the_header_nothing_is_asked_for(error: ConnectionFailedError | None) -> None:
    assert retry_after(error, NOW) is None


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.text() | st.text("0123456789:, +-SunNovGMT."), st.text())
def test_no_header_is_an_error(value: str, date: str) -> None:
    asked_seconds = retry_after(refusal(retry_after=value, date=date), NOW)
    assert asked_seconds is None or asked_seconds >= 0
