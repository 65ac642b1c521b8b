"""Large messages over sockets that take a send whole, as on Windows: the driver gives them slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError
from tests.websocket._links import contexts
from tests.websocket._server import BINARY, CLOSE, TEXT, Frame
from tests.websocket._windows import Link
from tests.websocket.connection._timeouts import PongingServer, opcodes, pings
from trio_csp_websocket.protocol.large_frame import LARGE_BYTES
from trio_csp_websocket.transport.base import SLICE_BYTES

if TYPE_CHECKING:
    from trio.testing import MockClock

LARGE = bytes(3 * 512 * 1024)
KIB = 1024

both_schemes = pytest.mark.parametrize("scheme", ["ws", "wss"])


def slow_link(
    server: PongingServer, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, scheme: str = "ws"
) -> tuple[str, Link]:
    """Return the URL of a server behind a link that carries a large message in 24 s."""
    link = Link(monkeypatch, server, nursery, bytes_a_second=128 * KIB, secure=scheme == "wss")
    return f"{scheme}://server.test/", link


def trusting(scheme: str) -> dict[str, Any]:
    """Return the options of a client for such a URL."""
    return {"ssl_context": contexts()[1]} if scheme == "wss" else {}


def check_slices(link: Link) -> None:
    assert max(link.sizes) < 2 * SLICE_BYTES
    assert link.most_waiting < link.room_bytes + 2 * SLICE_BYTES


@both_schemes
async def test_a_healthy_peer_is_not_given_up_while_a_large_message_is_on_its_way(
    scheme: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    # Its pongs wait behind the message, which takes many times as long as keepalive waits.
    server = PongingServer()
    url, link = slow_link(server, nursery, monkeypatch, scheme)
    async with websocket.connect(url, keepalive="1s", **trusting(scheme)) as client:
        await client.send(LARGE)
        assert (await (await client.ping()).receive()).ok
    assert Frame(BINARY, LARGE) in server.frames
    assert pings(server) >= 2
    assert (client.close_code, client.error) == (1000, None)
    check_slices(link)


@both_schemes
async def test_a_send_whose_link_stalls_in_its_middle_times_out(
    scheme: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    server = PongingServer()
    url, link = slow_link(server, nursery, monkeypatch, scheme)
    link.stalls_after = 1024 * KIB
    async with websocket.connect(url, write_timeout="30s", **trusting(scheme)) as client:
        with pytest.raises(ConnectionTimeoutError, match=r"not written within 30 s \(write_timeout\)") as caught:
            await client.send(LARGE)
        assert link.stalled.is_set()
        assert caught.value.__cause__ is client.error
    assert server.frames == []
    check_slices(link)


async def test_a_peer_that_stalls_in_a_large_message_is_blamed(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    server = PongingServer()
    url, link = slow_link(server, nursery, monkeypatch)
    link.stalls_after = 1024 * KIB
    async with websocket.connect(url, keepalive="1s") as client:
        with pytest.raises(ConnectionFailedError):
            await client.send(LARGE)
        assert link.stalled.is_set()
        assert client.close_reason == "nothing for 1 s after a ping"


@both_schemes
async def test_a_large_message_goes_where_a_send_of_a_mebibyte_is_refused(
    scheme: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    server = PongingServer()
    url, link = slow_link(server, nursery, monkeypatch, scheme)
    link.refuses_above = 1024 * KIB
    async with websocket.connect(url, **trusting(scheme)) as client:
        await client.send(LARGE)
    assert server.frames[0] == Frame(BINARY, LARGE)


async def test_a_send_that_is_cancelled_in_its_middle_goes_out_whole(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    server = PongingServer()
    url, link = slow_link(server, nursery, monkeypatch)
    async with websocket.connect(url) as client:
        with trio.move_on_after(6) as begun:
            await client.send(LARGE)
        assert begun.cancelled_caught
        with trio.move_on_after(1) as waiting:
            await client.send("not begun")
        assert waiting.cancelled_caught
        await client.send("after")
    assert server.frames[:2] == [Frame(BINARY, LARGE), Frame(TEXT, b"after")]
    assert opcodes(server) == [BINARY, TEXT, CLOSE]
    check_slices(link)


async def test_a_feed_keeps_its_connection_during_a_large_send(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    server = PongingServer()
    url, link = slow_link(server, nursery, monkeypatch)
    async with websocket.reconnecting(url, keepalive="1s") as feed:
        await feed.send(LARGE)
    assert Frame(BINARY, LARGE) in server.frames
    assert link.connections == 1


async def test_a_message_that_is_not_large_is_written_at_once(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    server = PongingServer()
    url, link = slow_link(server, nursery, monkeypatch)
    async with websocket.connect(url) as client:
        await client.send(bytes(LARGE_BYTES - 1))
        assert link.sizes[-1] == LARGE_BYTES - 1 + 8


async def test_a_large_message_is_written_at_once_where_there_is_room(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    server = PongingServer()
    url, link = slow_link(server, nursery, monkeypatch)
    link.room_bytes = 16 * SLICE_BYTES
    async with websocket.connect(url) as client:
        before = trio.current_time()
        await client.send(bytes(4 * SLICE_BYTES))
        assert trio.current_time() == before
        pieces = 4 * SLICE_BYTES // LARGE_BYTES
        assert link.sizes[-pieces:] == [LARGE_BYTES + 14, *[LARGE_BYTES] * (pieces - 1)]
