"""What the tests of queues share: workers that look around often."""

from __future__ import annotations

import pytest

from trio_csp_redis.queue import worker


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers look for values of others every few milliseconds, so that tests need not wait for a second."""
    monkeypatch.setattr(worker, "_SCAN_SECONDS", (0.02, 0.04))
