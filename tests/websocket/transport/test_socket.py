"""The transport over a socket of our own."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.websocket.transport._pairs import fill, outcome_of, over_sockets
from trio_csp_websocket.transport.socket import SocketTransport

if TYPE_CHECKING:
    from trio_csp_websocket.transport.base import Transport


async def test_a_socket_takes_what_it_has_room_for_at_once() -> None:
    transport, peer = over_sockets()
    assert transport.synchronous
    assert transport.send_now(b"hello") == 5
    assert await peer.receive_some(100) == b"hello"
    taken = fill(transport)
    assert taken
    assert transport.send_now(b"x") == 0
    assert transport.bytes_sent == taken + 5
    await transport.aclose()
    await peer.aclose()


async def test_a_socket_that_is_full_is_waited_for(nursery: trio.Nursery) -> None:
    transport, peer = over_sockets()
    taken = fill(transport)
    outcome: list[str] = []
    nursery.start_soon(outcome_of, lambda: transport.send_all(b"end"), outcome)
    await wait_all_tasks_blocked()
    assert not outcome
    received = b""
    while len(received) < taken + 3:
        received += await peer.receive_some(1 << 20)
    await wait_all_tasks_blocked()
    assert outcome == ["done"]
    assert received.endswith(b"end")
    await transport.aclose()
    await peer.aclose()


async def test_a_reset_of_a_socket_breaks_receiving() -> None:
    transport, peer = over_sockets()
    # Closing with unread data is a reset.
    transport.send_now(b"unread")
    await peer.aclose()
    with pytest.raises(trio.BrokenResourceError, match=r"\w"):
        await transport.receive_some(100)
    await transport.aclose()


async def test_writing_at_once_to_a_peer_that_has_closed_breaks() -> None:
    transport, peer = over_sockets()
    await peer.aclose()
    with pytest.raises(trio.BrokenResourceError, match=r"\w"):
        transport.send_now(b"x")
    await transport.aclose()
    with pytest.raises(trio.ClosedResourceError):
        transport.send_now(b"x")


async def test_what_arrives_is_read_to_where_it_is_wanted(nursery: trio.Nursery) -> None:
    transport, peer = over_sockets()
    memory = bytearray(8)
    asked = 0

    def room() -> memoryview:
        nonlocal asked
        asked += 1
        return memoryview(memory)[:5]

    await peer.send_all(b"hello, you")
    assert await transport.receive_into(room, 100) == 5
    assert memory == b"hello\0\0\0"
    assert await transport.receive_into(room, 100) == 5
    assert memory == b", you\0\0\0"
    nursery.start_soon(transport.receive_into, room, 100)
    await wait_all_tasks_blocked()
    await peer.send_all(b"again")
    await wait_all_tasks_blocked()
    assert memory == b"again\0\0\0"
    transport.unread(b"before")
    before = asked
    assert await transport.receive_into(room, 4) == b"befo"
    assert await transport.receive_into(room, 4) == b"re"
    assert asked == before
    assert transport.bytes_received == 15 + 6
    await peer.aclose()
    assert await transport.receive_into(room, 100) == 0
    await transport.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await transport.receive_into(room, 100)


@pytest.mark.parametrize("way", ["receive_some", "receive_into"])
async def test_a_reset_and_a_close_while_it_waits_end_a_read(way: str, nursery: trio.Nursery) -> None:
    memory = bytearray(100)
    for reset in (False, True):
        transport, peer = over_sockets()
        await peer.send_all(b"short")

        async def read(transport: Transport = transport) -> object:
            if way == "receive_some":
                return await transport.receive_some(100)
            return await transport.receive_into(lambda: memoryview(memory), 100)

        assert await read() in (5, b"short")
        # There is nothing more, which is known by now.
        outcome: list[str] = []
        nursery.start_soon(outcome_of, read, outcome)
        await wait_all_tasks_blocked()
        assert not outcome
        if reset:
            transport.send_now(b"unread")
            await peer.aclose()
        else:
            await transport.aclose()
        await wait_all_tasks_blocked()
        assert outcome == ["BrokenResourceError" if reset else "ClosedResourceError"]
        await transport.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await read()
        await peer.aclose()


async def test_an_end_of_a_closed_socket_is_an_error() -> None:
    transport, peer = over_sockets()
    await transport.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await transport.send_eof()
    await peer.aclose()


async def test_sending_no_bytes_over_a_socket_is_done_at_once() -> None:
    transport, peer = over_sockets()
    await transport.send_all(b"")
    assert transport.bytes_sent == 0
    await transport.aclose()
    await peer.aclose()


async def test_every_receive_from_a_socket_lets_others_run(nursery: trio.Nursery) -> None:
    transport, peer = over_sockets()
    await peer.send_all(b"ab")
    ran = trio.Event()

    async def other() -> None:
        ran.set()

    nursery.start_soon(other)
    assert await transport.receive_some(1) == b"a"
    # It may have been the other's turn after ours in the first pass.
    assert await transport.receive_some(1) == b"b"
    assert ran.is_set()
    await transport.aclose()
    await peer.aclose()


async def test_a_socket_belongs_to_the_transport_alone() -> None:
    ours, theirs = trio.socket.socketpair()
    stream = trio.SocketStream(ours)
    transport = SocketTransport(stream)
    del ours, stream
    gc.collect()
    peer = trio.SocketStream(theirs)
    await transport.send_all(b"alive")
    assert await peer.receive_some(100) == b"alive"
    await transport.aclose()
    await peer.aclose()
