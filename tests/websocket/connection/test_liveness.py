"""Read timeout, keepalive and write timeout side by side: which of them decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.websocket._server import ENDED, Server, connecting
from tests.websocket.connection._timeouts import PongingServer, check_stalled, ended, pings

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_without_a_read_timeout_or_keepalive_silence_is_fine(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        await trio.sleep(80_000)
        assert (client.close_code, server.frames) == (None, [])


async def test_of_both_options_the_first_to_expire_decides(autojump_clock: MockClock) -> None:
    for read_timeout, keepalive, after, reason in (
        ("5s", "10s", 5, "no message within 5 s"),
        ("15s", "10s", 15, "no message within 15 s"),
        ("30s", "10s", 20, "nothing for 10 s after a ping"),
        ("10s", "10s", 10, "no message within 10 s"),
        ("20s", "10s", 20, "no message within 20 s"),
    ):
        server, start = Server(), trio.current_time()
        async with connecting(server, read_timeout=read_timeout, keepalive=keepalive) as client:
            assert await ended(client) == pytest.approx(start + after)
            check_stalled(client, server, reason)
            # No ping that nobody could answer in time.
            assert pings(server) == (1 if after > 10 else 0)


async def test_answers_to_keepalive_do_not_extend_the_read_timeout(autojump_clock: MockClock) -> None:
    server = PongingServer()
    async with connecting(server, read_timeout="35s", keepalive="10s") as client:
        assert await ended(client) == pytest.approx(35)
        assert pings(server) == 3
        check_stalled(client, server, "no message within 35 s")


async def test_both_directions_have_their_own_time(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_timeout="10s", write_timeout="2s", keepalive="4s") as client:
        for _ in range(3):
            await trio.sleep(1.5)
            await client.send("out")
        # What we send is no message of the peer's.
        assert await client.receive() == ENDED
        assert client.close_reason == "nothing for 4 s after a ping"
