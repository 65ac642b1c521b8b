"""How a source is closed whose block ends before its values do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from csp import redis
from csp.errors import ChannelBrokenError

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer


async def cause(server: SharedServer, error: BaseException | None) -> BaseException | None:
    """Return the cause of a source whose block raises an error, or is left."""
    async with redis.Bus(server.url) as bus:
        deliveries = bus.queue("jobs").work()
        try:
            async with deliveries:
                if error is not None:
                    raise error
        except BaseException as raised:  # noqa: BLE001
            assert raised is error  # noqa: PT017
        assert deliveries.closed
        return deliveries.cause


async def test_a_block_that_is_left_has_no_cause(shared_server: SharedServer) -> None:
    assert await cause(shared_server, None) is None


@pytest.mark.parametrize("error", [KeyError("a"), ExceptionGroup("", [KeyError("a")])])
async def test_a_block_that_fails_is_the_cause(shared_server: SharedServer, error: Exception) -> None:
    found = await cause(shared_server, error)
    assert isinstance(found, ChannelBrokenError)
    assert str(found) == f"the values ended too early: the block of work failed: {type(error).__name__}"
    assert found.details == {"block": "work"}
    assert isinstance(found.__cause__, type(error))


async def test_a_block_that_is_cancelled_says_so(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        deliveries = bus.queue("jobs").work()
        with trio.CancelScope() as scope:
            async with deliveries:
                scope.cancel()
                await trio.sleep_forever()
        assert isinstance(deliveries.cause, ChannelBrokenError)
        assert str(deliveries.cause) == "the values ended too early: the block of work was cancelled"
        assert deliveries.cause.__cause__ is None


async def test_a_block_that_fails_as_it_is_cancelled_has_its_own_failure_as_the_cause(
    shared_server: SharedServer,
) -> None:
    async with redis.Bus(shared_server.url) as bus:
        deliveries = bus.queue("jobs").work()
        with pytest.raises(ExceptionGroup), trio.CancelScope() as scope:  # noqa: PT012
            async with deliveries, trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                scope.cancel()
                try:
                    await trio.sleep_forever()
                finally:
                    raise KeyError
        assert isinstance(deliveries.cause, ChannelBrokenError)
        assert "ExceptionGroup" in str(deliveries.cause)
