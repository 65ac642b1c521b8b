from __future__ import annotations

import time
from typing import TYPE_CHECKING

from trio_csp_redis.queue import clock

if TYPE_CHECKING:
    import pytest


def test_it_is_one_that_runs_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "CLOCK_MONOTONIC", 6, raising=False)

    def clock_gettime(number: int) -> float:
        asked.append(number)
        return 4.5

    monkeypatch.setattr(time, "clock_gettime", clock_gettime, raising=False)
    assert clock._clock()() == 4.5
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert clock._clock()() == 4.5
    monkeypatch.delattr(time, "CLOCK_MONOTONIC")
    assert clock._clock() is time.monotonic
    assert asked == [7, 6]


def test_it_goes_on() -> None:
    assert 0 <= clock.now() <= clock.now()
