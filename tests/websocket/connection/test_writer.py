"""The writer, on a transport that a test plays by hand."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, ClassVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from tests.websocket._server import BINARY, CLOSE, PING, PONG, TEXT, Frame, take_frame
from trio_csp_websocket.connection.writer import MAX_WAITING_PONGS, Writer, WriteTimeoutError
from trio_csp_websocket.protocol.deflate import Deflater
from trio_csp_websocket.protocol.encoder import Encoder, MaskingEncoder
from trio_csp_websocket.protocol.large_frame import LARGE_BYTES
from trio_csp_websocket.protocol.negotiation import DeflateParameters
from trio_csp_websocket.transport.base import Transport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock
    from typing_extensions import Buffer


class ScriptedTransport(Transport):
    """Takes as many bytes at once as the test allows; the rest when the test lets it."""

    synchronous: ClassVar[bool] = True

    def __init__(self, room: int = 1 << 30) -> None:
        super().__init__()
        self.room = room
        """How many bytes `send_now` still takes."""
        self.failure: Exception | None = None
        self.written = bytearray()
        self.calls: list[int] = []
        """The size of each write, of both kinds."""
        self.gate = trio.Event()
        """What `send_all` waits for."""

    async def receive_now(self, max_bytes: int) -> bytes | None:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int) -> bytes:
        raise NotImplementedError

    def send_now(self, data: Buffer) -> int:
        if self.failure is not None:
            raise self.failure
        taken = bytes(data)[: self.room]
        self.room -= len(taken)
        self.written += taken
        self.calls.append(len(taken))
        return len(taken)

    async def send_all(self, data: Buffer) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.pending = False
        self.written += bytes(data)
        self.calls.append(len(bytes(data)))

    async def send_last(self, frame: bytes) -> None:
        self.written += frame

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError

    def become_pending(self) -> None:
        """Have something to send that is not the writer's."""
        self.pending = True
        assert self.on_pending is not None
        self.on_pending()

    def open_gate(self) -> None:
        """Let `send_all` write from now on."""
        self.gate.set()

    def frames(self) -> list[Frame]:
        """Return the frames written; there must be nothing but whole ones."""
        frames: list[Frame] = []
        rest = bytes(self.written)
        while (taken := take_frame(rest)) is not None:
            frames.append(taken[0])
            rest = rest[taken[1] :]
        assert not rest, "half a frame was written"
        return frames

    def payloads(self) -> list[bytes]:
        return [frame.payload for frame in self.frames()]


class SlowTransport(ScriptedTransport):
    """Never writes anything at once, like a stream that takes the scheduler."""

    synchronous = False

    def send_now(self, data: Buffer) -> int:
        raise AssertionError(f"asked to write {data!r} at once")


def control(opcode: int, payload: bytes) -> bytes:
    """Return an encoded control frame, as a close frame is handed over."""
    return MaskingEncoder().encode(opcode, payload)


def later(nursery: trio.Nursery, deed: Callable[[], Awaitable[None]]) -> tuple[trio.CancelScope, list[str]]:
    """Start a deed in a task; return its cancel scope, and a list that tells what became of it."""
    scope = trio.CancelScope()
    outcome: list[str] = []

    async def do() -> None:
        with scope:
            try:
                await deed()
                outcome.append("done")
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                outcome.append(type(error).__name__)
        if scope.cancelled_caught:
            outcome.append("cancelled")

    nursery.start_soon(do)
    return scope, outcome


def sending(writer: Writer, payload: bytes, opcode: int = BINARY) -> Callable[[], Awaitable[None]]:
    return lambda: writer.send(opcode, payload)


# At once --------------------------------------------------------------------------------------------------------------


async def test_a_send_with_room_is_written_at_once_without_the_task(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport()
    await Writer(transport, nursery, MaskingEncoder()).send(TEXT, b"hi")
    assert transport.frames() == [Frame(TEXT, b"hi")]


async def test_a_control_frame_with_room_is_written_at_once_without_the_task(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport()
    Writer(transport, nursery, MaskingEncoder()).send_pongs([b"p"])
    assert transport.frames() == [Frame(PONG, b"p")]


async def test_messages_are_counted_and_pings_are_not(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    writer = Writer(ScriptedTransport(), nursery, MaskingEncoder())
    await writer.send(TEXT, b"abc")
    await writer.send(BINARY, b"de")
    await writer.send(PING, b"xxxxx")
    assert (writer.encoder.messages_sent, writer.encoder.payload_bytes_sent) == (2, 5)


async def test_a_cancelled_send_sends_nothing_although_there_is_room(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport()
    with trio.CancelScope() as scope:
        scope.cancel()
        await Writer(transport, nursery, MaskingEncoder()).send(TEXT, b"hi")
    assert scope.cancelled_caught
    assert transport.frames() == []


async def test_a_loop_of_sends_lets_other_tasks_run(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    writer = Writer(ScriptedTransport(), nursery, MaskingEncoder())
    ran = trio.Event()

    async def other() -> None:
        ran.set()

    nursery.start_soon(other)
    for _ in range(64):
        await writer.send(TEXT, b"")
    assert ran.is_set()


# Waiting --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", range(9))
async def test_what_is_not_taken_at_once_is_written_by_the_task(
    room: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(room)
    writer = Writer(transport, nursery, MaskingEncoder())
    _, outcome = later(nursery, sending(writer, b"abc"))
    await wait_all_tasks_blocked()
    assert not outcome
    assert len(transport.written) == room
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert outcome == ["done"]
    assert transport.frames() == [Frame(BINARY, b"abc")]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("transport_class", [ScriptedTransport, SlowTransport])
async def test_sends_of_many_tasks_go_out_in_the_order_of_their_calls(
    transport_class: type[ScriptedTransport], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = transport_class(0)
    writer = Writer(transport, nursery, MaskingEncoder())
    # Tasks share the count of operations until the next visit to the scheduler with the task that started them.
    csp.schedule_point_due()
    called: list[bytes] = []

    async def send(number: int) -> None:
        called.append(b"%d" % number)
        await writer.send(BINARY, called[-1])

    for number in range(100):
        nursery.start_soon(send, number)
    await wait_all_tasks_blocked()
    transport.room = 1 << 30
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert len(transport.payloads()) == 100
    assert transport.payloads() == called
    nursery.cancel_scope.cancel()


async def test_a_send_does_not_overtake_one_that_waits(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(1)
    writer = Writer(transport, nursery, MaskingEncoder())
    later(nursery, sending(writer, b"first"))
    await wait_all_tasks_blocked()
    transport.room = 1 << 30
    later(nursery, sending(writer, b"second"))
    await wait_all_tasks_blocked()
    assert len(transport.written) == 1
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert transport.payloads() == [b"first", b"second"]
    await writer.send(BINARY, b"third")
    assert transport.payloads()[2:] == [b"third"]
    nursery.cancel_scope.cancel()


async def test_a_buffer_changed_while_its_send_waits_goes_out_as_it_was(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = SlowTransport()
    writer = Writer(transport, nursery, MaskingEncoder())
    data = bytearray(b"before")
    for view in (data, memoryview(data)):
        nursery.start_soon(writer.send, BINARY, view)
    await wait_all_tasks_blocked()
    data[:] = b"after!"
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert transport.payloads() == [b"before", b"before"]
    nursery.cancel_scope.cancel()


async def test_frames_that_wait_are_written_together(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(0)
    writer = Writer(transport, nursery, MaskingEncoder())
    for number in range(20):
        later(nursery, sending(writer, b"%02d" % number))
        await wait_all_tasks_blocked()
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert len(transport.payloads()) == 20
    # The one that was tried at once, and all others.
    assert [size for size in transport.calls if size] == [8, 19 * 8]
    nursery.cancel_scope.cancel()


async def test_no_more_than_a_block_is_written_together(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    transport = SlowTransport()
    writer = Writer(transport, nursery, MaskingEncoder())
    for _ in range(8):
        later(nursery, sending(writer, bytes(20_000)))
        await wait_all_tasks_blocked()
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert len(transport.frames()) == 8
    assert transport.calls == [20_008, 4 * 20_008, 3 * 20_008]
    nursery.cancel_scope.cancel()


# Cancelled ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport_class", [ScriptedTransport, SlowTransport])
async def test_a_send_cancelled_before_it_began_sends_nothing(
    transport_class: type[ScriptedTransport], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = transport_class(0)
    writer = Writer(transport, nursery, MaskingEncoder())
    later(nursery, sending(writer, b"first"))
    await wait_all_tasks_blocked()
    scope, outcome = later(nursery, sending(writer, b"second"))
    later(nursery, sending(writer, b"third"))
    await wait_all_tasks_blocked()
    scope.cancel()
    await wait_all_tasks_blocked()
    assert outcome == ["cancelled"]
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert b"second" not in transport.payloads()
    assert sorted(transport.payloads()) == [b"first", b"third"]
    assert writer.encoder.messages_sent == 2
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("room", [0, 1, 5])
async def test_a_send_cancelled_after_it_began_is_completed(
    room: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(room)
    writer = Writer(transport, nursery, MaskingEncoder())
    scope, outcome = later(nursery, sending(writer, b"first"))
    await wait_all_tasks_blocked()
    scope.cancel()
    await wait_all_tasks_blocked()
    assert outcome == ["cancelled"]
    later(nursery, sending(writer, b"second"))
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert transport.payloads() == [b"first", b"second"]
    nursery.cancel_scope.cancel()


async def test_a_send_cancelled_while_the_task_writes_it_is_completed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = SlowTransport()
    writer = Writer(transport, nursery, MaskingEncoder())
    scope, outcome = later(nursery, sending(writer, b"first"))
    await wait_all_tasks_blocked()
    scope.cancel()
    await wait_all_tasks_blocked()
    assert outcome == ["cancelled"]
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert transport.payloads() == [b"first"]
    nursery.cancel_scope.cancel()


async def test_a_send_that_fails_as_it_is_cancelled_is_out_of_the_line_only_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = SlowTransport()
    writer = Writer(transport, nursery, MaskingEncoder())
    scope, outcome = later(nursery, sending(writer, b"first"))
    await wait_all_tasks_blocked()
    scope.cancel()
    writer.fail(trio.BrokenResourceError("gone"))
    await wait_all_tasks_blocked()
    assert outcome in (["cancelled"], ["BrokenResourceError"])
    nursery.cancel_scope.cancel()


# Control frames -------------------------------------------------------------------------------------------------------


async def test_a_pong_goes_between_data_frames(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    transport = SlowTransport()
    writer = Writer(transport, nursery, MaskingEncoder())
    for payload in (b"first", b"second"):
        later(nursery, sending(writer, payload))
        await wait_all_tasks_blocked()
    writer.send_pongs([b"pong"])
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert transport.payloads() == [b"first", b"pong", b"second"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("transport_class", [ScriptedTransport, SlowTransport])
async def test_of_pongs_that_wait_the_latest_go_out(
    transport_class: type[ScriptedTransport], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = transport_class(3)
    writer = Writer(transport, nursery, MaskingEncoder())
    later(nursery, sending(writer, b"data"))
    await wait_all_tasks_blocked()
    for number in range(1000):
        writer.send_pongs([b"%d" % number])
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert transport.payloads() == [b"data", *(b"%d" % number for number in range(1000 - MAX_WAITING_PONGS, 1000))]
    nursery.cancel_scope.cancel()


async def test_a_pong_that_is_taken_in_part_is_completed_before_anything_else(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(4)
    writer = Writer(transport, nursery, MaskingEncoder())
    writer.send_pongs([b"pong"])
    writer.send_pongs([b"next"])
    later(nursery, sending(writer, b"data"))
    await wait_all_tasks_blocked()
    assert len(transport.written) == 4
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert transport.payloads() == [b"pong", b"next", b"data"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("transport_class", [ScriptedTransport, SlowTransport])
async def test_a_close_frame_goes_out_behind_the_data_and_pong_that_wait(
    transport_class: type[ScriptedTransport], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = transport_class(0)
    writer = Writer(transport, nursery, MaskingEncoder())
    for number in range(6):
        later(nursery, sending(writer, bytes([number]) * 30_000))
        await wait_all_tasks_blocked()
    writer.send_pongs([b"pong"])
    writer.send_close(control(CLOSE, b"\x03\xe8"))
    transport.open_gate()
    await wait_all_tasks_blocked()
    frames = transport.frames()
    assert frames[-1] == Frame(CLOSE, b"\x03\xe8")
    assert [frame.opcode for frame in frames].count(CLOSE) == 1
    assert Frame(PONG, b"pong") in frames
    assert [frame.payload[0] for frame in frames if frame.opcode == BINARY] == list(range(6))
    nursery.cancel_scope.cancel()


async def test_nothing_goes_out_after_a_close_frame(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    transport = ScriptedTransport()
    writer = Writer(transport, nursery, MaskingEncoder())
    writer.send_close(control(CLOSE, b"\x03\xe8"))
    writer.send_pongs([b"pong"])
    writer.send_close(control(CLOSE, b"\x03\xe9"))
    with pytest.raises(trio.ClosedResourceError):
        await writer.send(TEXT, b"data")
    with pytest.raises(trio.ClosedResourceError):
        await writer.send(PING, b"")
    assert transport.frames() == [Frame(CLOSE, b"\x03\xe8")]


async def test_nothing_is_added_behind_a_close_frame_that_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(2)
    writer = Writer(transport, nursery, MaskingEncoder())
    writer.send_close(control(CLOSE, b"\x03\xe8"))
    with pytest.raises(trio.ClosedResourceError):
        await writer.send(TEXT, b"data")
    writer.send_pongs([b"pong"])
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert transport.frames() == [Frame(CLOSE, b"\x03\xe8")]
    nursery.cancel_scope.cancel()


async def test_handing_over_a_control_frame_on_a_broken_connection_is_silent(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport()
    transport.failure = trio.BrokenResourceError("gone")
    writer = Writer(transport, nursery, MaskingEncoder())
    writer.send_pongs([b"pong"])
    writer.send_close(control(CLOSE, b"\x03\xe8"))
    assert not transport.written
    with pytest.raises(trio.ClosedResourceError):
        await writer.send(TEXT, b"data")


# The last frame -------------------------------------------------------------------------------------------------------


async def test_a_last_frame_is_written_once_and_nothing_after_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport()
    writer = Writer(transport, nursery, MaskingEncoder())
    await writer.send_last(control(CLOSE, b"\x03\xe9"))
    await writer.send_last(control(CLOSE, b"\x03\xe9"))
    writer.send_pongs([b""])
    with pytest.raises(trio.ClosedResourceError):
        await writer.send(TEXT, b"data")
    assert transport.frames() == [Frame(CLOSE, b"\x03\xe9")]


@pytest.mark.parametrize("room", [0, 4])
async def test_a_last_frame_is_not_put_inside_one_that_is_being_written(
    room: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(room)
    writer = Writer(transport, nursery, MaskingEncoder())
    later(nursery, sending(writer, b"data"))
    await wait_all_tasks_blocked()
    await writer.send_last(control(CLOSE, b"\x03\xe9"))
    assert len(transport.written) == room
    nursery.cancel_scope.cancel()


async def test_a_last_frame_is_not_written_while_the_task_writes(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = SlowTransport()
    writer = Writer(transport, nursery, MaskingEncoder())
    later(nursery, sending(writer, b"data"))
    await wait_all_tasks_blocked()
    await writer.send_last(control(CLOSE, b"\x03\xe9"))
    assert not transport.written
    nursery.cancel_scope.cancel()


async def test_a_last_frame_is_not_written_into_one_that_was_begun_in_the_same_turn(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport()
    transport.room = 1
    writer = Writer(transport, nursery, MaskingEncoder())
    writer.send_pongs([b"data"])
    await writer.send_last(control(CLOSE, b"\x03\xe9"))
    assert len(transport.written) == 1


async def test_a_last_frame_is_not_written_on_a_connection_that_failed(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport()
    writer = Writer(transport, nursery, MaskingEncoder())
    writer.fail(trio.BrokenResourceError("gone"))
    await writer.send_last(control(CLOSE, b"\x03\xe9"))
    assert not transport.written


# Flushing -------------------------------------------------------------------------------------------------------------


async def test_what_waits_is_counted(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(room=10)
    writer = Writer(transport, nursery, MaskingEncoder())
    assert writer.waiting == (0, 0)
    writer.send_pongs([bytes(100)])
    assert writer.waiting == (0, 96)  # the task that writes the rest has not run
    await wait_all_tasks_blocked()
    assert writer.waiting == (0, 96)
    nursery.start_soon(writer.send, BINARY, bytes(10))
    nursery.start_soon(writer.send, TEXT, b"second")
    await wait_all_tasks_blocked()
    writer.send_ping(b"p")
    writer.send_pongs([b"q", b"r"])
    writer.send_close(control(CLOSE, b""))
    assert writer.waiting == (2, 96 + 10 + 6 + 7 + 2 * 7 + 6)
    transport.open_gate()
    await writer.flush()
    assert writer.waiting == (0, 0)


async def test_flush_returns_at_once_when_nothing_waits(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    await Writer(ScriptedTransport(), nursery, MaskingEncoder()).flush()


async def test_flush_waits_until_everything_is_written(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(0)
    writer = Writer(transport, nursery, MaskingEncoder())
    later(nursery, sending(writer, b"data"))
    await wait_all_tasks_blocked()
    writer.send_close(control(CLOSE, b"\x03\xe8"))
    _, outcome = later(nursery, writer.flush)
    await wait_all_tasks_blocked()
    assert not outcome
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert outcome == ["done"]
    assert transport.payloads() == [b"data", b"\x03\xe8"]
    nursery.cancel_scope.cancel()


async def test_flush_ends_when_the_connection_fails(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    writer = Writer(ScriptedTransport(0), nursery, MaskingEncoder())
    later(nursery, sending(writer, b"data"))
    await wait_all_tasks_blocked()
    _, outcome = later(nursery, writer.flush)
    await wait_all_tasks_blocked()
    writer.fail(trio.BrokenResourceError("gone"))
    await wait_all_tasks_blocked()
    assert outcome == ["done"]


# What the transport itself has to say ---------------------------------------------------------------------------------


async def test_what_receiving_made_pending_is_sent_although_no_frame_waits(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport()
    writer = Writer(transport, nursery, MaskingEncoder())
    transport.become_pending()
    await wait_all_tasks_blocked()
    # A frame comes behind it.
    later(nursery, sending(writer, b"data"))
    await wait_all_tasks_blocked()
    assert transport.calls == []
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert transport.calls[0] == 0
    assert (transport.pending, transport.payloads()) == (False, [b"data"])


async def test_a_close_frame_goes_out_once_although_something_is_pending_later(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport()
    transport.open_gate()
    writer = Writer(transport, nursery, MaskingEncoder())
    writer.send_close(control(CLOSE, b"\x03\xe8"))
    transport.become_pending()
    await wait_all_tasks_blocked()
    assert not transport.pending
    assert transport.frames() == [Frame(CLOSE, b"\x03\xe8")]


async def test_what_was_pending_before_there_was_a_writer_is_sent(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport()
    transport.open_gate()
    transport.pending = True  # TLS had something to say while hands were shaken
    Writer(transport, nursery, MaskingEncoder())
    await wait_all_tasks_blocked()
    assert not transport.pending


async def test_what_comes_before_all_frames_is_not_waited_for_where_writing_never_waits(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport(room=3)
    writer = Writer(transport, nursery, MaskingEncoder())
    await writer.send_first(b"answer")
    assert (bytes(transport.written), writer.busy) == (b"ans", True)
    later(nursery, sending(writer, b"data"))
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert bytes(transport.written[:6]) == b"answer"
    del transport.written[:6]
    assert transport.payloads() == [b"data"]


async def test_what_comes_before_all_frames_goes_out_behind_what_is_pending(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport()
    writer = Writer(transport, nursery, MaskingEncoder())
    transport.become_pending()
    await wait_all_tasks_blocked()
    await writer.send_first(b"answer")
    later(nursery, sending(writer, b"data"))
    writer.send_pongs([b"p"])
    assert writer.busy
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert bytes(transport.written[:6]) == b"answer"
    del transport.written[:6]
    assert transport.payloads() == [b"p", b"data"]


async def test_a_last_frame_is_not_written_ahead_of_what_comes_before_all_frames(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport()
    writer = Writer(transport, nursery, MaskingEncoder())
    transport.become_pending()
    await writer.send_first(b"answer")
    await writer.send_last(b"last")
    assert (bytes(transport.written), writer.busy) == (b"", False)
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert bytes(transport.written) == b""


async def test_who_waits_when_the_nursery_of_the_writer_is_cancelled_is_told(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with trio.open_nursery() as of_the_connection:
        writer = Writer(SlowTransport(), of_the_connection, MaskingEncoder())
        _, outcome = later(nursery, sending(writer, b"data"))
        await wait_all_tasks_blocked()
        of_the_connection.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    assert outcome == ["ClosedResourceError"]
    assert not writer.busy


def test_a_writer_that_failed_is_not_told_of_what_is_pending() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            transport = ScriptedTransport()
            Writer(transport, nursery, MaskingEncoder()).fail(trio.ClosedResourceError("closed"))
            assert transport.on_pending is None

    trio.run(main)


# Failing --------------------------------------------------------------------------------------------------------------


async def test_a_write_that_fails_at_once_fails_its_send(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    transport = ScriptedTransport()
    transport.failure = trio.BrokenResourceError("gone")
    writer = Writer(transport, nursery, MaskingEncoder())
    with pytest.raises(trio.BrokenResourceError, match="gone"):
        await writer.send(TEXT, b"data")
    with pytest.raises(trio.ClosedResourceError):
        await writer.send(TEXT, b"data")


@pytest.mark.parametrize("failure", [trio.BrokenResourceError("gone"), trio.ClosedResourceError("closed")])
async def test_a_write_that_fails_in_the_task_fails_everybody(
    failure: Exception, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(3)
    writer = Writer(transport, nursery, MaskingEncoder())
    outcomes = [later(nursery, sending(writer, b"data"))[1] for _ in range(3)]
    outcomes.append(later(nursery, writer.flush)[1])
    await wait_all_tasks_blocked()
    transport.failure = failure
    transport.open_gate()
    await wait_all_tasks_blocked()
    name = type(failure).__name__
    assert outcomes[:3] == [[name]] * 3
    assert outcomes[3] == ["done"]
    with pytest.raises(trio.ClosedResourceError):
        await writer.send(TEXT, b"data")


async def test_failing_wakes_everybody_once_with_the_first_error(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    writer = Writer(ScriptedTransport(2), nursery, MaskingEncoder())
    outcomes = [later(nursery, sending(writer, b"data"))[1] for _ in range(3)]
    await wait_all_tasks_blocked()
    writer.fail(trio.BrokenResourceError("gone"))
    writer.fail(trio.ClosedResourceError("closed"))
    await wait_all_tasks_blocked()
    assert outcomes == [["BrokenResourceError"]] * 3


@pytest.mark.parametrize("room", [0, 3])
async def test_the_task_ends_when_the_writer_fails_while_it_writes(
    room: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(room)
    writer = Writer(transport, nursery, MaskingEncoder())
    later(nursery, sending(writer, b"data"))
    await wait_all_tasks_blocked()
    assert len(nursery.child_tasks) == 2
    writer.fail(trio.BrokenResourceError("gone"))
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks


def test_ctrl_c_while_waiting_in_line_sends_nothing() -> None:
    transport: list[ScriptedTransport] = []

    async def main() -> None:
        transport.append(ScriptedTransport(room=3))
        async with trio.open_nursery() as nursery:
            writer = Writer(transport[0], nursery, MaskingEncoder())
            nursery.start_soon(writer.send, TEXT, b"first")
            await wait_all_tasks_blocked()

            async def interrupt() -> None:
                await wait_all_tasks_blocked()
                signal.raise_signal(signal.SIGINT)

            nursery.start_soon(interrupt)
            with pytest.raises(KeyboardInterrupt):
                await writer.send(TEXT, b"second")
            transport[0].open_gate()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)
    assert [received.payload for received in transport[0].frames()] == [b"first"]


# The write timeout ----------------------------------------------------------------------------------------------------


async def test_without_a_timeout_a_send_waits_for_ever(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(room=3)
    writer = Writer(transport, nursery, MaskingEncoder())
    _, outcome = later(nursery, sending(writer, b"data"))
    await trio.sleep(80_000)
    assert outcome == []
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert outcome == ["done"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("synchronous", [True, False])
async def test_a_send_that_is_not_written_in_time_says_that_it_had_begun(
    synchronous: bool, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(room=3) if synchronous else SlowTransport()
    writer = Writer(transport, nursery, MaskingEncoder(), 0.5)
    with pytest.raises(WriteTimeoutError) as caught:
        await writer.send(TEXT, b"data")
    assert trio.current_time() == 0.5
    assert caught.value.started
    assert str(caught.value) == "not written within 0.5 s (write_timeout)"
    # What becomes of the connection is not decided here.
    assert writer.busy
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("synchronous", [True, False])
async def test_a_send_that_does_not_begin_in_time_leaves_the_line(
    synchronous: bool, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(room=0) if synchronous else SlowTransport()
    writer = Writer(transport, nursery, MaskingEncoder(), 2)
    writer.send_pongs([b"ahead"])
    await wait_all_tasks_blocked()
    with pytest.raises(WriteTimeoutError) as caught:
        await writer.send(TEXT, b"late")
    assert not caught.value.started
    assert str(caught.value) == "not begun within 2 s (write_timeout)"
    assert writer.encoder.messages_sent == 0
    _, outcome = later(nursery, sending(writer, b"in time"))
    await trio.sleep(1.5)
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert outcome == ["done"]
    assert transport.payloads() == [b"ahead", b"in time"]
    assert not writer.busy
    nursery.cancel_scope.cancel()


async def test_the_line_may_become_empty_by_timeouts_alone(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    transport = SlowTransport()
    writer = Writer(transport, nursery, MaskingEncoder(), 1)
    writer.send_pongs([b"in the way"])
    await wait_all_tasks_blocked()
    for _ in range(2):
        with pytest.raises(WriteTimeoutError, match="not begun within 1 s"):
            await writer.send(BINARY, b"data")
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert not writer.busy
    await writer.send(BINARY, b"later")
    assert transport.payloads() == [b"in the way", b"later"]
    nursery.cancel_scope.cancel()


class LateTransport(SlowTransport):
    """Is done, or fails, in the very moment in which the time has run out."""

    def __init__(self, clock: MockClock) -> None:
        super().__init__()
        self.clock = clock

    async def send_all(self, data: Buffer) -> None:
        await self.gate.wait()
        self.clock.jump(2)
        if self.failure is not None:
            raise self.failure
        self.written += bytes(data)


async def test_a_send_that_is_written_as_its_time_runs_out_is_sent(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = LateTransport(autojump_clock)
    writer = Writer(transport, nursery, MaskingEncoder(), 2)
    outcomes = [later(nursery, sending(writer, payload))[1] for payload in (b"first", b"second")]
    await wait_all_tasks_blocked()
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert outcomes == [["done"], ["done"]]
    assert sorted(transport.payloads()) == [b"first", b"second"]
    nursery.cancel_scope.cancel()


async def test_a_send_that_fails_as_its_time_runs_out_has_failed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    transport = LateTransport(autojump_clock)
    transport.failure = trio.BrokenResourceError("gone")
    writer = Writer(transport, nursery, MaskingEncoder(), 2)
    _, outcome = later(nursery, sending(writer, b"data"))
    await wait_all_tasks_blocked()
    transport.open_gate()
    await wait_all_tasks_blocked()
    assert outcome == ["BrokenResourceError"]


async def test_a_send_that_is_cancelled_as_its_time_runs_out_is_cancelled(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    writer = Writer(SlowTransport(), nursery, MaskingEncoder(), 2)
    with trio.move_on_after(2) as scope:
        await writer.send(TEXT, b"data")
    assert scope.cancelled_caught
    nursery.cancel_scope.cancel()


async def test_a_send_with_room_is_not_hurried(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    transport = ScriptedTransport()
    writer = Writer(transport, nursery, MaskingEncoder(), 1e-9)
    for _ in range(100):
        await writer.send(TEXT, b"data")
    assert len(transport.frames()) == 100


# Large frames, in pieces ----------------------------------------------------------------------------------------------

MUCH = bytes(range(256)) * 1000


@pytest.mark.parametrize("masking", [True, False])
@pytest.mark.parametrize("size", [LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 2 * LARGE_BYTES, len(MUCH)])
async def test_a_large_message_is_one_frame_whatever_is_taken_at_once(
    masking: bool, size: int, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    payload = MUCH[:size]
    for room in (0, 1, 13, LARGE_BYTES, LARGE_BYTES + 14, size, size + 9, 1 << 30):
        transport = ScriptedTransport(room)
        writer = Writer(transport, nursery, MaskingEncoder() if masking else Encoder())
        _, outcome = later(nursery, sending(writer, payload))
        await wait_all_tasks_blocked()
        whole = room >= size + (10 if size > 65_535 else 4) + 4 * masking
        assert outcome == ["done"] * whole
        messages, waiting = writer.waiting
        assert messages == (not whole)
        assert (waiting == 0) == whole
        _, behind = later(nursery, sending(writer, b"behind"))
        writer.send_pongs([b"pong"])
        transport.gate.set()
        await wait_all_tasks_blocked()
        assert (outcome, behind) == (["done"], ["done"])
        assert writer.waiting == (0, 0)
        assert not writer.busy
        frames = transport.frames() if masking else plain_frames(bytes(transport.written))
        assert frames[0] == Frame(BINARY, payload)
        assert {frame.payload for frame in frames[1:]} == {b"behind", b"pong"}
        assert max(transport.calls) <= (LARGE_BYTES if masking else max(LARGE_BYTES, size)) + 14
        assert (writer.encoder.messages_sent, writer.encoder.payload_bytes_sent) == (2, size + 6)


async def test_large_messages_that_wait_go_out_in_pieces_too(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    transport = ScriptedTransport(0)
    writer = Writer(transport, nursery, MaskingEncoder())
    payloads = [b"first", MUCH, b"third", MUCH[::-1], MUCH[1:]]
    outcomes: list[list[str]] = []
    for payload in payloads:
        outcomes.append(later(nursery, sending(writer, payload))[1])
        await wait_all_tasks_blocked()
    writer.send_close(control(CLOSE, b"\x03\xe8"))
    assert writer.waiting[1] >= sum(map(len, payloads))
    transport.gate.set()
    await wait_all_tasks_blocked()
    assert outcomes == [["done"]] * len(payloads)
    assert transport.frames() == [*(Frame(BINARY, payload) for payload in payloads), Frame(CLOSE, b"\x03\xe8")]
    assert max(transport.calls) < 2 * LARGE_BYTES


@pytest.mark.parametrize("masking", [True, False])
@pytest.mark.parametrize("room", [1000, LARGE_BYTES + 100])
async def test_a_large_message_whose_sender_is_cancelled_goes_out_as_it_was(
    room: int, masking: bool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport(room)
    writer = Writer(transport, nursery, MaskingEncoder() if masking else Encoder())
    data = bytearray(MUCH)
    scope, outcome = later(nursery, lambda: writer.send(BINARY, data))
    await wait_all_tasks_blocked()
    scope.cancel()
    await wait_all_tasks_blocked()
    assert outcome == ["cancelled"]
    data[:] = bytes(len(data))  # the caller's again
    data.clear()
    transport.gate.set()
    await wait_all_tasks_blocked()
    frames = transport.frames() if masking else plain_frames(bytes(transport.written))
    assert frames == [Frame(BINARY, MUCH)]


async def test_a_break_in_a_large_message_fails_it_and_what_waits(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport(1000)
    writer = Writer(transport, nursery, MaskingEncoder())
    _, outcome = later(nursery, sending(writer, MUCH))
    await wait_all_tasks_blocked()
    _, behind = later(nursery, sending(writer, MUCH))
    await wait_all_tasks_blocked()
    transport.failure = trio.BrokenResourceError("broken")
    transport.gate.set()
    await wait_all_tasks_blocked()
    assert (outcome, behind) == (["BrokenResourceError"], ["BrokenResourceError"])
    assert not writer.busy
    assert writer.waiting == (0, 0)


async def test_a_large_message_that_is_compressed_is_compressed_as_a_whole(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport()
    encoder = MaskingEncoder()
    encoder.deflater = Deflater(DeflateParameters())
    await Writer(transport, nursery, encoder).send(BINARY, MUCH)
    assert len(transport.calls) == 1
    assert len(transport.written) < len(MUCH) // 10


# Many in one go -------------------------------------------------------------------------------------------------------

MANY = [(TEXT, b"one"), (BINARY, b""), (TEXT, bytes(200)), (BINARY, MUCH), (TEXT, b"last")]


@pytest.mark.parametrize("masking", [True, False])
@pytest.mark.parametrize("room", [0, 7, 70_000, 1 << 30])
async def test_many_messages_go_out_in_one_write_if_there_is_room(
    masking: bool, room: int, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport(room)
    writer = Writer(transport, nursery, MaskingEncoder() if masking else Encoder())
    _, outcome = later(nursery, lambda: writer.send_many(MANY))
    await wait_all_tasks_blocked()
    assert outcome == ["done"] * (room == 1 << 30)
    assert writer.waiting[0] == (0 if outcome else len(MANY))
    transport.gate.set()
    await wait_all_tasks_blocked()
    assert outcome == ["done"]
    assert len(transport.calls) == (1 if room == 1 << 30 else 2)
    frames = transport.frames() if masking else plain_frames(bytes(transport.written))
    assert frames == [Frame(*message) for message in MANY]
    assert writer.encoder.messages_sent == len(MANY)
    assert writer.encoder.payload_bytes_sent == sum(len(payload) for _, payload in MANY)


async def test_many_messages_that_wait_are_all_withdrawn_or_all_written(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    transport = ScriptedTransport(1)
    writer = Writer(transport, nursery, MaskingEncoder())
    _, first = later(nursery, lambda: writer.send_many(MANY[:2]))
    await wait_all_tasks_blocked()
    scope, second = later(nursery, lambda: writer.send_many(MANY))
    _, third = later(nursery, sending(writer, b"third"))
    await wait_all_tasks_blocked()
    assert writer.waiting[0] == 2 + len(MANY) + 1
    scope.cancel()
    await wait_all_tasks_blocked()
    assert second == ["cancelled"]
    transport.gate.set()
    await wait_all_tasks_blocked()
    assert (first, third) == (["done"], ["done"])
    assert transport.frames() == [*(Frame(*message) for message in MANY[:2]), Frame(BINARY, b"third")]
    transport.room, transport.gate = 1, trio.Event()
    scope, fourth = later(nursery, lambda: writer.send_many(MANY))
    await wait_all_tasks_blocked()
    scope.cancel()
    await wait_all_tasks_blocked()
    transport.gate.set()
    await wait_all_tasks_blocked()
    assert fourth == ["cancelled"]
    assert transport.frames()[3:] == [Frame(*message) for message in MANY]


async def test_many_messages_are_refused_where_one_would_be(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    writer = Writer(ScriptedTransport(), nursery, MaskingEncoder())
    writer.refuse()
    with pytest.raises(trio.ClosedResourceError):
        await writer.send_many(MANY)
    with trio.CancelScope() as scope:
        scope.cancel()
        await writer.send_many(MANY)
    assert scope.cancelled_caught


async def test_of_messages_sent_together_thirty_two_count_as_one_operation(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(ScriptedTransport(), nursery, MaskingEncoder())
    visits = 0

    async def visit() -> None:
        nonlocal visits
        visits += 1

    monkeypatch.setattr(trio.lowlevel, "cancel_shielded_checkpoint", visit)
    while not csp.schedule_point_due():
        pass
    for _ in range(csp.OPERATIONS_PER_SCHEDULE_POINT // 2 - 1):
        await writer.send_many([(TEXT, b"x")] * 32)
    assert visits == 0
    await writer.send_many([(TEXT, b"x")] * 32)
    assert visits == 1


def plain_frames(written: bytes) -> list[Frame]:
    """Return the frames that were written without masks."""
    frames: list[Frame] = []
    while written:
        size = written[1]
        start = {126: 4, 127: 10}.get(size, 2)
        if size > 125:
            size = int.from_bytes(written[2:start], "big")
        frames.append(Frame(written[0] & 15, written[start : start + size]))
        written = written[start + size :]
    return frames
