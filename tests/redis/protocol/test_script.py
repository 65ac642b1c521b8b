from __future__ import annotations

from typing import TYPE_CHECKING

from tests.redis import _wire
from trio_csp_redis.protocol.script import Script

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer


async def test_a_script_is_known_to_the_server_by_its_digest(shared_server: SharedServer) -> None:
    script = Script("return 7 -- \u20ac")
    assert await _wire.command(shared_server, "SCRIPT", "LOAD", script.code) == script.sha
    assert await _wire.command(shared_server, "EVALSHA", script.sha, 0) == 7
    assert "return" not in repr(script)
