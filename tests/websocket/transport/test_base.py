"""What every transport does: a socket of our own over real sockets, and any Trio stream over memory ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.websocket.transport._pairs import BIG, fill, outcome_of, over_lockstep, over_memory, over_sockets

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from trio.testing import MockClock

    from trio_csp_websocket.transport.base import Transport

    Pair: TypeAlias = Callable[[], tuple[Transport, trio.abc.Stream]]

any_transport = pytest.mark.parametrize("pair", [over_sockets, over_memory, over_lockstep])


async def read_all(stream: trio.abc.Stream) -> bytes:
    data = b""
    while block := await stream.receive_some(1 << 16):
        data += block
    return data


@any_transport
async def test_what_is_sent_arrives_both_ways_and_is_counted(pair: Pair, nursery: trio.Nursery) -> None:
    transport, peer = pair()
    nursery.start_soon(peer.send_all, b"hello")
    assert await transport.receive_some(100) == b"hello"
    received: list[bytes] = []

    async def receive() -> None:
        received.append(bytes(await peer.receive_some(100)))

    nursery.start_soon(receive)
    await transport.send_all(b"world")
    await wait_all_tasks_blocked()
    assert received == [b"world"]
    assert (transport.bytes_sent, transport.bytes_received) == (5, 5)
    await transport.aclose()
    await peer.aclose()


@any_transport
async def test_no_more_than_asked_for_is_received_and_it_is_bytes(pair: Pair, nursery: trio.Nursery) -> None:
    transport, peer = pair()
    nursery.start_soon(peer.send_all, b"hello")
    first = await transport.receive_some(2)
    assert (first, type(first)) == (b"he", bytes)
    assert await transport.receive_some(100) == b"llo"
    await transport.aclose()
    await peer.aclose()


@any_transport
async def test_a_large_send_arrives_whole(pair: Pair, nursery: trio.Nursery) -> None:
    transport, peer = pair()

    async def send() -> None:
        await transport.send_all(bytearray(BIG))
        await transport.aclose()

    nursery.start_soon(send)
    assert await read_all(peer) == BIG
    assert transport.bytes_sent == len(BIG)
    await peer.aclose()


@any_transport
async def test_the_peers_end_is_no_bytes(pair: Pair) -> None:
    transport, peer = pair()
    await peer.aclose()
    assert await transport.receive_some(100) == b""
    await transport.aclose()


@any_transport
async def test_a_receive_that_is_cancelled_loses_nothing(pair: Pair, nursery: trio.Nursery) -> None:
    transport, peer = pair()
    with trio.CancelScope() as scope:
        nursery.start_soon(cancel_when_blocked, scope)
        await transport.receive_some(100)
    assert scope.cancelled_caught
    nursery.start_soon(peer.send_all, b"hello")
    assert await transport.receive_some(100) == b"hello"
    await transport.aclose()
    await peer.aclose()


@any_transport
async def test_what_has_arrived_can_be_had_without_waiting(pair: Pair, nursery: trio.Nursery) -> None:
    transport, peer = pair()
    assert await transport.receive_now(100) is None
    nursery.start_soon(peer.send_all, b"here")
    await wait_all_tasks_blocked()
    assert await transport.receive_now(100) == b"here"
    assert transport.bytes_received == 4
    assert await transport.receive_now(100) is None
    await peer.aclose()
    assert await transport.receive_now(100) == b""
    await transport.aclose()


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


@any_transport
async def test_closing_wakes_a_receive(pair: Pair, nursery: trio.Nursery) -> None:
    transport, peer = pair()
    outcome: list[str] = []
    nursery.start_soon(outcome_of, lambda: transport.receive_some(100), outcome)
    await wait_all_tasks_blocked()
    await transport.aclose()
    await wait_all_tasks_blocked()
    assert outcome == ["ClosedResourceError"]
    await peer.aclose()


@pytest.mark.parametrize("pair", [over_sockets, over_lockstep])
async def test_closing_wakes_a_send(pair: Pair, nursery: trio.Nursery) -> None:
    transport, peer = pair()
    outcome: list[str] = []
    nursery.start_soon(outcome_of, lambda: transport.send_all(BIG), outcome)
    await wait_all_tasks_blocked()
    assert not outcome
    await transport.aclose()
    await wait_all_tasks_blocked()
    assert outcome == ["ClosedResourceError"]
    await peer.aclose()


@any_transport
async def test_nothing_works_after_closing_and_closing_again_does(pair: Pair) -> None:
    transport, peer = pair()
    await transport.aclose()
    await transport.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await transport.receive_some(100)
    with pytest.raises(trio.ClosedResourceError):
        await transport.send_all(b"x")
    await peer.aclose()


@any_transport
async def test_closing_works_when_cancelled(pair: Pair) -> None:
    transport, peer = pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport.aclose()
    assert await peer.receive_some(100) == b""
    await peer.aclose()


@any_transport
async def test_sending_to_a_peer_that_has_closed_breaks(pair: Pair) -> None:
    transport, peer = pair()
    await peer.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await transport.send_all(BIG)
    await transport.aclose()


@pytest.mark.parametrize("pair", [over_sockets, over_memory])
async def test_an_end_reaches_the_peer_which_may_still_send(pair: Pair, nursery: trio.Nursery) -> None:
    transport, peer = pair()
    await transport.send_all(b"last")
    await transport.send_eof()
    assert await read_all(peer) == b"last"
    nursery.start_soon(peer.send_all, b"answer")
    assert await transport.receive_some(100) == b"answer"
    await transport.aclose()
    await peer.aclose()


@any_transport
async def test_a_last_frame_arrives_if_there_is_room(pair: Pair, nursery: trio.Nursery) -> None:
    transport, peer = pair()
    received: list[bytes] = []

    async def receive() -> None:
        received.append(bytes(await peer.receive_some(100)))

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    await transport.send_last(b"last")
    await wait_all_tasks_blocked()
    assert received == [b"last"]
    assert transport.bytes_sent == len(b"last")
    await transport.aclose()
    await peer.aclose()


@pytest.mark.parametrize("pair", [over_sockets, over_lockstep])
async def test_a_last_frame_does_not_wait_for_the_peer(pair: Pair, autojump_clock: MockClock) -> None:
    transport, peer = pair()
    fill(transport)
    start = trio.current_time()
    await transport.send_last(b"last")
    assert trio.current_time() == start
    await transport.aclose()
    await peer.aclose()


@any_transport
async def test_a_last_frame_to_a_peer_that_has_closed_is_no_group_of_errors(pair: Pair) -> None:
    transport, peer = pair()
    await peer.aclose()
    outcome: list[str] = []
    await outcome_of(lambda: transport.send_last(b"last"), outcome)
    assert outcome in (["done"], ["BrokenResourceError"])
    await transport.aclose()
