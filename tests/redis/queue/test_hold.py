from __future__ import annotations

from typing import TYPE_CHECKING

from trio_csp_redis.queue import clock
from trio_csp_redis.queue.hold import Hold

if TYPE_CHECKING:
    import pytest


def test_it_is_lost_when_its_lease_may_have_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(clock, "now", lambda: now)
    hold = Hold(b"1-1", 1, b"", leased_at=100.0, lease_seconds=30.0)
    assert not hold.lost
    now = 127.0
    assert not hold.lost
    assert not hold.spent(0.95)
    assert hold.spent(0.9)
    now = 130.0
    assert hold.lost
    hold.leased_at = 120.0  # renewed
    assert not hold.lost
    hold.gone = True
    assert hold.lost
    assert hold.spent(0.1)
