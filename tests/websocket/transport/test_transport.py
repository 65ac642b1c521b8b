"""The byte streams: a socket of our own over real sockets, and any Trio stream over memory ones."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from trio.testing import MockClock

    from trio_csp_websocket.transport.base import Transport

    Pair: TypeAlias = Callable[[], tuple[Transport, trio.abc.Stream]]

BIG = bytes(range(256)) * 40_000


def over_sockets() -> tuple[Transport, trio.abc.Stream]:
    ours, theirs = trio.socket.socketpair()
    return SocketTransport(trio.SocketStream(ours)), trio.SocketStream(theirs)


def over_memory() -> tuple[Transport, trio.abc.Stream]:
    ours, theirs = memory_stream_pair()
    return StreamTransport(ours), theirs


def over_lockstep() -> tuple[Transport, trio.abc.Stream]:
    ours, theirs = lockstep_stream_pair()
    return StreamTransport(ours), theirs


any_transport = pytest.mark.parametrize("pair", [over_sockets, over_memory, over_lockstep])


async def read_all(stream: trio.abc.Stream) -> bytes:
    data = b""
    while block := await stream.receive_some(1 << 16):
        data += block
    return data


def fill(transport: Transport) -> int:
    """Write until the system takes no more; return how many bytes it took."""
    total = 0
    while taken := transport.send_now(BIG):
        total += taken
    return total


async def outcome_of(deed: Callable[[], Awaitable[object]], outcome: list[str]) -> None:
    try:
        await deed()
        outcome.append("done")
    except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
        outcome.append(type(error).__name__)


# Both -----------------------------------------------------------------------------------------------------------------


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


# Sockets --------------------------------------------------------------------------------------------------------------


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


# Streams --------------------------------------------------------------------------------------------------------------


async def test_a_stream_takes_nothing_at_once() -> None:
    transport, peer = over_memory()
    assert not transport.synchronous
    assert transport.send_now(b"hello") == 0
    assert transport.bytes_sent == 0
    await transport.aclose()
    await peer.aclose()


class Whole(trio.abc.Stream):
    """A stream whose direction to the peer cannot be ended alone."""

    def __init__(self) -> None:
        self.outgoing = MemorySendStream()
        self.incoming = MemoryReceiveStream()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.outgoing.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.outgoing.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.incoming.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.outgoing.aclose()
        await self.incoming.aclose()


async def test_a_stream_that_cannot_end_one_direction_goes_on() -> None:
    stream = Whole()
    transport = StreamTransport(stream)
    await transport.send_eof()
    await transport.send_all(b"more")
    assert stream.outgoing.get_data_nowait() == b"more"
    await transport.aclose()


async def test_a_last_frame_that_is_stuck_is_given_up_after_a_few_passes_of_the_scheduler(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
) -> None:
    stream = Whole()
    stream.outgoing.send_all_hook = trio.sleep_forever
    passes = 0

    async def count() -> None:
        nonlocal passes
        while True:
            passes += 1
            await trio.lowlevel.checkpoint()

    nursery.start_soon(count)
    start = trio.current_time()
    await StreamTransport(stream).send_last(b"last")
    assert passes < 50
    assert trio.current_time() == start
    await stream.aclose()
    nursery.cancel_scope.cancel()


KIB = 1024


def bytes_sent(transport: Transport) -> int:
    return transport.bytes_sent


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (0, []),
        (1, [1]),
        (256 * KIB, [256 * KIB]),
        (256 * KIB + 1, [256 * KIB, 1]),
        (1000 * KIB, [256 * KIB, 256 * KIB, 256 * KIB, 232 * KIB]),
    ],
)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_a_stream_gets_large_data_in_pieces_whose_progress_can_be_seen(
    size: int, pieces: list[int], kind: Callable[[bytes], bytes | bytearray | memoryview]
) -> None:
    stream = Whole()
    transport = StreamTransport(stream)
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    seen: list[tuple[int, int]] = []
    received = bytearray()

    async def take() -> None:
        piece = stream.outgoing.get_data_nowait()
        seen.append((len(piece), bytes_sent(transport)))
        received.extend(piece)

    stream.outgoing.send_all_hook = take
    await transport.send_all(kind(data))
    assert received == data
    assert seen == [(piece, sum(pieces[:number])) for number, piece in enumerate(pieces)]
    assert transport.bytes_sent == size


async def test_a_stream_that_breaks_in_the_middle_has_sent_the_pieces_before() -> None:
    stream = Whole()
    transport = StreamTransport(stream)
    pieces = 0

    async def take() -> None:
        nonlocal pieces
        pieces += 1
        if pieces == 3:
            raise trio.BrokenResourceError("gone")

    stream.outgoing.send_all_hook = take
    data = bytearray(1000 * KIB)
    with pytest.raises(trio.BrokenResourceError):
        await transport.send_all(data)
    assert transport.bytes_sent == 512 * KIB
    data.clear()  # no view of it is left


async def test_receiving_from_a_stream_that_we_have_closed_is_an_error_of_its_own() -> None:
    transport, peer = over_memory()
    await peer.send_all(b"too late")
    await transport.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await transport.receive_some(100)
    assert transport.bytes_received == 0
    await peer.aclose()
