"""The transport over any Trio stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MemoryReceiveStream, MemorySendStream

from tests.websocket.transport._pairs import over_memory
from trio_csp_websocket.transport.base import SLICE_BYTES
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_csp_websocket.transport.base import Transport


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


def bytes_sent(transport: Transport) -> int:
    return transport.bytes_sent


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (0, []),
        (1, [1]),
        (SLICE_BYTES, [SLICE_BYTES]),
        (SLICE_BYTES + 1, [SLICE_BYTES, 1]),
        (3 * SLICE_BYTES + 1000, [SLICE_BYTES, SLICE_BYTES, SLICE_BYTES, 1000]),
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
    data = bytearray(4 * SLICE_BYTES)
    with pytest.raises(trio.BrokenResourceError):
        await transport.send_all(data)
    assert transport.bytes_sent == 2 * SLICE_BYTES
    data.clear()  # no view of it is left


async def test_receiving_from_a_stream_that_we_have_closed_is_an_error_of_its_own() -> None:
    transport, peer = over_memory()
    await peer.send_all(b"too late")
    await transport.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await transport.receive_some(100)
    assert transport.bytes_received == 0
    await peer.aclose()


class Failing(trio.abc.HalfCloseableStream):
    """A stream that does not keep to Trio's rules: each method raises an `OSError`."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:  # noqa: ARG002  # Trio's interface
        raise self._error

    async def wait_send_all_might_not_block(self) -> None:
        raise self._error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002  # the same
        raise self._error

    async def send_eof(self) -> None:
        raise self._error

    async def aclose(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError("the cable is out"), "the cable is out"),
        (ConnectionResetError(104, "reset"), "reset"),
        (OSError(), "OSError"),
        (TimeoutError(), "TimeoutError"),
    ],
    ids=repr,
)
async def test_an_os_error_of_a_stream_breaks_it_and_closing_does_not_fail(error: OSError, text: str) -> None:
    transport = StreamTransport(Failing(error))
    for operation in (transport.receive_some(1), transport.send_all(b"a"), transport.send_eof()):
        with pytest.raises(trio.BrokenResourceError, match=f"^{text}$") as caught:
            await operation
        assert caught.value.__cause__ is error
    assert await transport.receive_now(1) is None
    await transport.send_last(b"a")
    await transport.aclose()
    assert (transport.bytes_sent, transport.bytes_received) == (0, 0)


async def test_what_no_stream_should_raise_comes_out_or_is_told_once_and_breaks_it() -> None:
    error = RecursionError("much too deep")
    transport = StreamTransport(Failing(error))
    for operation in (transport.receive_some(1), transport.send_all(b"a"), transport.send_eof()):
        with pytest.raises(RecursionError):
            await operation
    faults: list[Exception] = []
    transport = StreamTransport(Failing(error), on_fault=faults.append)
    for operation in (transport.receive_some(1), transport.send_all(b"a"), transport.send_eof()):
        with pytest.raises(trio.BrokenResourceError, match="the stream has raised RecursionError") as caught:
            await operation
        assert caught.value.__cause__ is error
    await transport.send_last(b"a")
    await transport.aclose()
    assert faults == [error]


def broken(*words: str, cause: Exception | None = None) -> trio.BrokenResourceError:
    error = trio.BrokenResourceError(*words)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (broken("the cable is out", cause=OSError("not this")), "the cable is out"),
        (broken(cause=BrokenPipeError(32, "Broken pipe")), "Broken pipe"),
        (broken(cause=ValueError("no room")), "no room"),
        (broken(cause=ValueError()), "the stream is broken"),
        (broken(), "the stream is broken"),
    ],
    ids=lambda value: str(value) or "without words",
)
async def test_a_stream_that_breaks_without_words_has_those_of_the_cause(error: Exception, text: str) -> None:
    transport = StreamTransport(Failing(error))
    for operation in (transport.receive_some(1), transport.send_all(b"a"), transport.send_eof()):
        with pytest.raises(trio.BrokenResourceError, match=f"^{text}$"):
            await operation


async def test_what_was_read_too_much_is_received_again_ahead_of_the_rest() -> None:
    transport, peer = over_memory()
    await peer.send_all(b" and the rest")
    transport.unread(b"two")
    transport.unread(b"one ")
    assert await transport.receive_some(5) == b"one t"
    assert await transport.receive_now(100) == b"wo"
    assert await transport.receive_some(100) == b" and the rest"
    assert transport.bytes_received == 20
    assert await transport.receive_now(100) is None
    await transport.aclose()
    await peer.aclose()


async def test_a_receive_that_is_cancelled_leaves_what_was_read_too_much() -> None:
    transport, peer = over_memory()
    transport.unread(b"early")
    for receive in (transport.receive_some, transport.receive_now):
        with trio.CancelScope() as scope:
            scope.cancel()
            await receive(100)
        assert scope.cancelled_caught
    assert await transport.receive_now(100) == b"early"
    await transport.aclose()
    await peer.aclose()
