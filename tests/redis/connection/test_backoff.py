from __future__ import annotations

import random

import pytest

from trio_csp_redis.connection import backoff as module
from trio_csp_redis.connection.backoff import Backoff


def test_the_bound_doubles_from_twice_the_least_to_the_most() -> None:
    backoff = Backoff(0.05, 5.0)
    bounds: list[float] = []
    for _ in range(9):
        bounds.append(backoff.bound_seconds)
        backoff.fail()
    assert bounds == pytest.approx([0.1, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    backoff.succeed()
    assert backoff.failures == 0
    assert backoff.bound_seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("least", "most"), [(1.0, 1.0), (0.001, 31_622_400.0), (31_622_400.0, 31_622_400.0), (3.0, 4.0)]
)
def test_no_bound_is_below_the_least_or_above_the_most_however_many_attempts_fail(least: float, most: float) -> None:
    backoff = Backoff(least, most)
    for _ in range(3000):
        assert least <= backoff.bound_seconds <= most
        assert least <= backoff.seconds() <= backoff.bound_seconds
        backoff.fail()
    assert backoff.bound_seconds == most


def test_waits_are_evenly_distributed_up_to_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_chance", random.Random(1))
    backoff = Backoff(1.0, 11.0)
    for _ in range(10):
        backoff.fail()
    waits = [backoff.seconds() for _ in range(10_000)]
    for lower in range(1, 11):
        assert 850 < sum(lower <= wait < lower + 1 for wait in waits) < 1150


def test_a_program_that_seeds_the_random_module_does_not_choose_the_waits() -> None:
    backoff = Backoff(1.0, 1000.0)
    for _ in range(20):
        backoff.fail()
    random.seed(1)
    first = [backoff.seconds() for _ in range(5)]
    random.seed(1)
    assert [backoff.seconds() for _ in range(5)] != first
