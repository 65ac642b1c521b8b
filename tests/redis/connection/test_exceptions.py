"""What comes out of nurseries: one exception by itself, several as a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import redis
from trio_csp_redis.connection.exceptions import single

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer


@pytest.mark.parametrize("command", [b"EVALSHA", b"XREADGROUP"])
async def test_ctrl_c_in_a_task_of_the_client_library_comes_out_by_itself(
    command: bytes, shared_server: SharedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send(self: Any, item: bytes) -> None:
        if command in item:
            raise KeyboardInterrupt
        await self._stream.send(item)

    monkeypatch.setattr("trio_csp_redis.connection.guard._Guarded.send", send)
    with pytest.raises(KeyboardInterrupt):  # it is a block
        async with redis.Bus(shared_server.url) as bus, bus.queue("jobs").work():
            await trio.sleep_forever()


def test_several_exceptions_stay_a_group() -> None:
    one, two = ValueError(), KeyError()
    nested = BaseExceptionGroup("", [BaseExceptionGroup("", [one])])
    assert single(nested) is one
    both = BaseExceptionGroup("", [one, two])
    assert single(both) is both


async def test_a_group_of_cancellations_stays_one() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            group = BaseExceptionGroup("", [cancelled])
            assert single(group) is group
            raise
