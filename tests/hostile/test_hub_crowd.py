"""A hub with 500 members, of which one in ten does not read, in a process of its own."""

from __future__ import annotations

import pytest

from tests.hostile.hub_crowd import WAYS, Way, run

CONNECTIONS = 500


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.shown)
async def test_all_who_read_get_all_and_who_does_not_is_told_to_come_back(way: Way) -> None:
    report = await run(CONNECTIONS, way)
    assert report.closed == CONNECTIONS // 10
