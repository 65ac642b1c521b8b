"""Taking a message piece by piece, of any size."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio._core import _run as trio_run
from trio.testing import wait_all_tasks_blocked

import csp
from csp import testing, websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, EndOfChannelError, Kind, NoContextError
from tests.websocket._server import (
    BINARY,
    COMPRESSED,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Server,
    accepting,
    close,
    connecting,
    deflated,
    frame,
    text,
)
from tests.websocket.server._lobby import close_frame, handshake, listening, masked
from trio_csp_websocket.connection.incoming import MAX_WAITING_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from csp.websocket import Client, MessageStream

KIB, MIB = 1 << 10, 1 << 20
MODES = {"context": websocket.COMPRESSION.CONTEXT_TAKEOVER, "no context": websocket.COMPRESSION.NO_CONTEXT}


async def taken(connection: websocket.Client | websocket.ServerConnection) -> tuple[str, list[str | bytes]]:
    """Take the next message; return its type and its pieces."""
    async with connection.receive_stream() as pieces:
        return pieces.type, [piece async for piece in pieces]


def compressing(*more: str) -> Server:
    return Server(lambda request: accepting(request, "Sec-WebSocket-Extensions: permessage-deflate" + "".join(more)))


def bomb(mib: int) -> bytes:
    """Return the payload of so many MiB of zeros."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    independent = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return (independent * mib).removesuffix(b"\x00\x00\xff\xff")


# What comes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 4096, 4097, 65_535, 65_536, 300_000, 3 * MIB])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("waits", [True, False], ids=["asked for before", "received before"])
async def test_a_message_of_any_size_comes_in_pieces(
    waits: bool, opcode: int, size: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server()
    results: list[Any] = []
    async with connecting(server) as client:

        async def take() -> None:
            results.append(await taken(client))

        if waits:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
        server.send(frame(opcode, b"x" * size), text("next"))
        await wait_all_tasks_blocked()
        if not waits:
            await take()
        [(type_, pieces)] = results
        assert type_ == ("text" if opcode == TEXT else "binary")
        assert all(pieces)
        assert (b"" if opcode == BINARY else "").join(pieces) == (b"x" if opcode == BINARY else "x") * size
        assert not waits or (size == 0) == (pieces == [])
        assert (await client.receive_value()).data == "next"
        statistics = client.statistics()
        assert (statistics.messages_received, statistics.payload_bytes_received) == (2, size + 4)


async def test_a_server_takes_one_too_as_the_first_use_of_a_connection(autojump_clock: MockClock) -> None:
    async with listening(read_limit=1000) as (server, lobby):
        client = lobby.connect()
        await client.send(handshake(), masked(BINARY, bytes(5000)), masked(TEXT, b"next"))
        connection = await server.channel().receive_value()
        async with connection.receive_stream() as pieces:
            assert pieces.type == "binary"
            assert b"".join([piece async for piece in pieces if isinstance(piece, bytes)]) == bytes(5000)
        assert (await connection.receive_value()).data == "next"
        assert (await client.answer()).status == 101
        await client.leave()


class Taking:
    """A task that takes the next message; it may be told when to take each piece."""

    def __init__(self, connection: websocket.Client | websocket.ServerConnection, nursery: trio.Nursery) -> None:
        self.pieces: list[str | bytes] = []
        self.type = ""
        self.error: Exception | None = None
        self.ended = trio.Event()
        self.scope = trio.CancelScope()
        self._connection = connection
        nursery.start_soon(self._take)

    async def _take(self) -> None:
        try:
            with self.scope:
                async with self._connection.receive_stream() as pieces:
                    self.type = pieces.type
                    async for piece in pieces:
                        self.pieces.append(piece)
        except csp.errors.Error as error:
            self.error = error
        self.ended.set()


async def test_pieces_come_as_they_arrive_and_characters_stay_whole(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server()
    data = "aß€😀z"
    async with connecting(server) as client:
        taking = Taking(client, nursery)
        await wait_all_tasks_blocked()
        come: list[list[str | bytes]] = []
        for number, byte in enumerate(data.encode()):
            server.send(frame(CONTINUATION if number else TEXT, bytes([byte]), fin=False), frame(PING, b"p"))
            await wait_all_tasks_blocked()
            come.append(list(taking.pieces))
        assert [len(pieces) for pieces in come] == [1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 5]
        assert taking.pieces == list(data)
        assert server.frames == [Frame(PONG, b"p")] * len(come)
        assert not taking.ended.is_set()
        server.send(frame(CONTINUATION))
        await taking.ended.wait()
        assert (taking.type, taking.error) == ("text", None)


@pytest.mark.parametrize("cut", range(12))
async def test_text_may_be_cut_anywhere(cut: int, autojump_clock: MockClock) -> None:
    server = Server()
    data = "aß€😀z".encode()
    async with connecting(server) as client:
        server.send(frame(TEXT, data[:cut], fin=False))
        await wait_all_tasks_blocked()
        async with client.receive_stream() as pieces:  # in the middle of it
            server.send(frame(CONTINUATION, data[cut:]))
            assert "".join([str(piece) async for piece in pieces]) == "aß€😀z"


@pytest.mark.parametrize(
    "data",
    [
        (frame(TEXT, b"a\xff" + bytes(9000)),),
        (frame(TEXT, b"a\xe2", fin=False), frame(CONTINUATION, b"\x28", fin=False)),
        (frame(TEXT, b"a\xe2"),),
        (frame(TEXT, b"a" * 9000 + b"\xff" + bytes(9000))[:15_000], b"x" * 5000),
    ],
)
@pytest.mark.parametrize("waits", [True, False])
async def test_what_is_not_utf_8_is_1007(
    waits: bool, data: tuple[bytes, ...], nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server) as client:
        if not waits:
            server.send(data[0])
            await wait_all_tasks_blocked()
        taking = Taking(client, nursery)
        await wait_all_tasks_blocked()
        for block in data if waits else data[1:]:
            if not taking.ended.is_set():
                server.send(block)
                await wait_all_tasks_blocked()
        await taking.ended.wait()
        assert isinstance(taking.error, ConnectionFailedError)
        assert "a text message is not UTF-8" in str(taking.error)
        await client.wait_closed()
        assert client.close_code == 1007


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_compressed_messages_come_in_pieces(mode: str, opcode: int, autojump_clock: MockClock) -> None:
    server = compressing("" if mode == "context" else "; server_no_context_takeover; client_no_context_takeover")
    data = random.Random(0).randbytes(40_000).hex().encode() * 20
    async with connecting(server, compression=MODES[mode], read_limit=KIB) as client:
        for _ in range(2):
            payload = deflated(data)
            half = len(payload) // 2
            async with trio.open_nursery() as tasks:
                taking = Taking(client, tasks)
                await wait_all_tasks_blocked()
                server.send(frame(opcode, payload[:half], fin=False, reserved=COMPRESSED))
                server.send(frame(CONTINUATION, payload[half:]))
            joined = b"".join(piece.encode() if isinstance(piece, str) else piece for piece in taking.pieces)
            assert joined == data
            assert len(taking.pieces) > 2
        server.send(frame(TEXT, deflated(b"next"), reserved=COMPRESSED))
        assert (await client.receive_value()).data == "next"


# Bounds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_a_bomb_is_inflated_only_as_fast_as_it_is_taken(opcode: int, autojump_clock: MockClock) -> None:
    server = compressing()
    block = frame(opcode, bomb(1024), reserved=COMPRESSED) + text("next")
    async with connecting(server, compression=MODES["context"], read_limit=MIB) as client:
        tracemalloc.start()
        try:
            server.send(block)
            async with client.receive_stream() as pieces:
                for number in range(40):
                    await anext(pieces)
                    await wait_all_tasks_blocked()
                    ahead = client.statistics().payload_bytes_received - (number + 1) * 256 * KIB
                    assert ahead <= 3 * MAX_WAITING_BYTES
            assert tracemalloc.get_traced_memory()[1] < 12 * MIB
        finally:
            tracemalloc.stop()


async def test_what_inflates_without_end_is_dropped_step_by_step_when_it_is_left(autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=MODES["context"], read_limit=MIB) as client:
        server.send(frame(BINARY, bomb(64), reserved=COMPRESSED), frame(PING, b"p"), text("next"))
        async with client.receive_stream() as pieces:
            await anext(pieces)
        assert (await client.receive_value()).data == "next"
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, b"p")]
        assert client.statistics().payload_bytes_received == 64 * MIB + 4


async def test_reading_rests_while_too_much_waits_to_be_taken(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        server.send(frame(BINARY, b"x", fin=False))
        async with client.receive_stream() as pieces:
            for _ in range(20):
                server.send(frame(CONTINUATION, bytes(60_000), fin=False))
                await wait_all_tasks_blocked()
            received = client.statistics().payload_bytes_received
            assert MAX_WAITING_BYTES <= received < MAX_WAITING_BYTES + 128 * KIB
            server.send(frame(CONTINUATION))
            assert sum([len(piece) async for piece in pieces]) == 1_200_001


async def test_a_server_on_a_stream_of_tiny_fragments_keeps_little(autojump_clock: MockClock) -> None:
    async with listening(read_limit=KIB) as (server, lobby):
        client = lobby.connect()
        await client.send(handshake())
        connection = await server.channel().receive_value()
        async with trio.open_nursery() as tasks:
            taking = Taking(connection, tasks)
            await client.send(masked(BINARY, b"x", fin=False), *[masked(0, b"x", fin=False)] * 50_000, masked(0))
            await taking.ended.wait()
            assert len(taking.pieces) == 50_001
        await client.leave()


# What ends it ---------------------------------------------------------------------------------------------------------

ENDS: dict[str, tuple[Callable[[Server], None], str, Kind]] = {
    "1000": (lambda server: server.send(close(1000)), r"closed the connection with code 1000", Kind.UNAVAILABLE),
    "1011": (lambda server: server.send(close(1011, "oops")), r"with code 1011.*oops", Kind.UNAVAILABLE),
    "end": (Server.end, "closed it without a close frame", Kind.UNAVAILABLE),
    "reset": (Server.reset, "connection reset", Kind.UNAVAILABLE),
    "violation": (lambda server: server.send(text("new")), "a new message inside a fragmented one", Kind.INTERNAL),
}


@pytest.mark.parametrize("name", ENDS)
async def test_a_message_that_is_cut_is_an_error_behind_what_has_come(name: str, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    end, told, kind = ENDS[name]
    async with connecting(server) as client:
        server.send(text("before"), frame(TEXT, b"half", fin=False))
        assert (await client.receive_value()).data == "before"
        async with client.receive_stream() as pieces:
            end(server)
            assert await anext(pieces) == "half"
            for _ in range(2):
                with pytest.raises(ConnectionFailedError, match=f"^the message was cut: .*{told}") as caught:
                    await anext(pieces)
                assert caught.value.kind is kind
            assert "cut" in repr(pieces)
        server.end()


@pytest.mark.parametrize("name", ENDS)
async def test_where_no_message_comes_it_raises_what_a_receive_raises(
    name: str, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    if name == "violation":
        return
    server = Server(answers_close=False)
    async with connecting(server) as client:
        taking = Taking(client, nursery)
        await wait_all_tasks_blocked()
        ENDS[name][0](server)
        server.end()
        await taking.ended.wait()
        assert isinstance(taking.error, EndOfChannelError if name == "1000" else ConnectionFailedError)
        for _ in range(2):
            with pytest.raises(type(taking.error)):
                await taken(client)


async def test_what_arrived_before_a_violation_in_the_bytes_behind_comes_whole(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        async with trio.open_nursery() as tasks:
            taking = Taking(client, tasks)
            await wait_all_tasks_blocked()
            server.send(text("whole"), frame(3))
        assert (taking.pieces, taking.error) == (["whole"], None)
        await client.wait_closed()
        assert client.close_code == 1002


async def test_our_own_close_cuts_it(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        server.send(frame(TEXT, b"half", fin=False))
        async with client.receive_stream() as pieces:
            nursery.start_soon(client.close)
            await wait_all_tasks_blocked()
            assert await anext(pieces) == "half"
            with pytest.raises(ConnectionFailedError, match="cut: this end has closed the connection") as caught:
                await anext(pieces)
            assert caught.value.kind is Kind.CANCELED
    assert server.closes == [1000]


async def test_our_own_close_ends_the_wait_for_it(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with connecting(server) as client:
        taking = Taking(client, nursery)
        await wait_all_tasks_blocked()
        nursery.start_soon(client.close)
        await wait_all_tasks_blocked()
        server.send(text("too late"))
        late = Taking(client, nursery)
        await taking.ended.wait()
        assert taking.pieces == []
        await late.ended.wait()
        assert isinstance(taking.error, EndOfChannelError)
        assert isinstance(late.error, (EndOfChannelError, NoContextError))


async def test_closing_does_not_wait_for_who_does_not_take_the_pieces(autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=MODES["context"]) as client:
        server.send(frame(BINARY, bomb(8), reserved=COMPRESSED))
        async with client.receive_stream() as pieces:
            await wait_all_tasks_blocked()
            await client.close()
            assert trio.current_time() == 0
            with pytest.raises(ConnectionFailedError, match="the message was cut"):
                _ = [piece async for piece in pieces]


async def test_a_message_that_arrived_before_the_end_comes_whole(autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=MODES["context"], read_limit=KIB) as client:
        async with trio.open_nursery() as tasks:
            taking = Taking(client, tasks)
            await wait_all_tasks_blocked()
            server.send(frame(BINARY, bomb(4), reserved=COMPRESSED))
            server.end()
        assert sum(map(len, taking.pieces)) == 4 * MIB
        assert taking.error is None
        await client.wait_closed()
        assert client.close_code == 1006


# Leaving early --------------------------------------------------------------------------------------------------------


async def test_who_leaves_early_gets_the_next_message_next(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        for number in range(3):
            server.send(frame(TEXT, b"x" * 500, fin=False))
            async with client.receive_stream() as pieces:
                assert len(await anext(pieces)) == 500
                server.send(frame(CONTINUATION, b"x" * 300_000), text(f"{number}"))
                assert repr(pieces) == "<csp.websocket.MessageStream text, arriving>"
            assert repr(pieces) == "<csp.websocket.MessageStream left>"
            with pytest.raises(NoContextError, match="only inside of its block"):
                await anext(pieces)
            if number == 1:
                assert await taken(client) == ("text", ["1"])
            else:
                assert (await client.receive_value()).data == f"{number}"


async def test_what_is_left_is_still_checked(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        server.send(frame(TEXT, b"x", fin=False))
        async with client.receive_stream():
            pass
        server.send(frame(CONTINUATION, b"\xff"))
        with pytest.raises(ConnectionFailedError, match="not UTF-8"):
            await client.receive_value()


async def test_a_stream_behind_one_that_was_left_is_the_next_message(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        server.send(frame(TEXT, b"x", fin=False))
        async with client.receive_stream():
            pass
        taking = Taking(client, nursery)
        await wait_all_tasks_blocked()
        server.send(frame(CONTINUATION, bytes(5000)), frame(BINARY, bytes(9000)), text("next"))
        await taking.ended.wait()
        assert b"".join(map(bytes, taking.pieces)) == bytes(9000)  # type: ignore[arg-type]  # they are bytes
        assert (await client.receive_value()).data == "next"


async def test_who_waits_in_vain_loses_nothing(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        for _ in range(2):
            with trio.move_on_after(1):
                await taken(client)
        server.send(text("a"))
        assert (await client.receive_value()).data == "a"


class Cancelling(trio.abc.Instrument):
    """Cancels a scope before the n-th step of the task that makes this."""

    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        self._left = step
        self._task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self.scope.cancel()


async def take_two(client: Client, server: Server, entered: list[str], pieces_taken: list[str | bytes]) -> None:
    """Take a message that was received, and one that arrives in two blocks."""
    for name in ("first", "second"):
        async with client.receive_stream() as pieces:
            entered.append(name)
            async for piece in pieces:
                pieces_taken.append(piece)  # what was taken counts where it is cancelled
                if piece == "sec":
                    server.send(frame(CONTINUATION, b"ond"))


async def cancelled_before(step: int) -> bool:
    """Cancel it before a step; check that what was not entered can be received. Returns whether it was cancelled."""
    server = Server()
    entered: list[str] = []
    pieces_taken: list[str | bytes] = []
    async with connecting(server) as client:
        server.send(text("first"))
        await wait_all_tasks_blocked()
        cancelling = Cancelling(step)
        trio.lowlevel.add_instrument(cancelling)
        server.send(frame(TEXT, b"sec", fin=False))
        with cancelling.scope:
            await take_two(client, server, entered, pieces_taken)
        trio.lowlevel.remove_instrument(cancelling)
        if cancelling.scope.cancelled_caught and "sec" not in pieces_taken:
            server.send(frame(CONTINUATION, b"ond"))
        server.send(text("last"))
        rest = [(await client.receive_value()).data]
        while rest[-1] != "last":
            rest.append((await client.receive_value()).data)  # there is no other end
        assert rest == [name for name in ("first", "second") if name not in entered] + ["last"]
        assert "firstsecond".startswith("".join(map(str, pieces_taken)))
        assert cancelling.scope.cancelled_caught or pieces_taken == ["first", "sec", "ond"]
        return cancelling.scope.cancelled_caught


@pytest.mark.parametrize("order", range(8))
async def test_a_message_that_comes_right_after_a_cancellation_is_not_lost(
    order: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server()
    entered = False
    async with connecting(server) as client:
        waiting = trio.CancelScope()

        async def wait() -> None:
            nonlocal entered
            with waiting:
                async with client.receive_stream():
                    entered = True

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        trio_run._r.seed(order)  # it decides whether the cancelled task runs first, or the one that reads
        waiting.cancel()
        server.send(text("first"))
        await wait_all_tasks_blocked()
        assert not entered
        with trio.fail_after(60):
            assert (await client.receive_value()).data == "first"


async def test_it_may_be_cancelled_before_any_of_its_steps(autojump_clock: MockClock) -> None:
    step = 1
    while await cancelled_before(step):
        step += 1
    assert step > 2  # how many there are depends on the order of the tasks


# One at a time, and others --------------------------------------------------------------------------------------------


async def test_there_is_one_at_a_time_each_for_one_use(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server) as client:
        stream = client.receive_stream()
        assert repr(stream) == "<csp.websocket.MessageStream not entered>"
        with pytest.raises(NoContextError, match="has not begun"):
            _ = stream.type
        with pytest.raises(NoContextError):
            await anext(stream)
        server.send(text("a"), text("b"))
        async with stream as pieces:
            with pytest.raises(NoContextError, match="another receive_stream"):
                await taken(client)
            assert [piece async for piece in pieces] == ["a"]
        with pytest.raises(NoContextError, match="only once"):
            async with stream:
                raise AssertionError
        assert await taken(client) == ("text", ["b"])


async def test_it_takes_the_next_message_from_who_waits_and_they_get_those_behind(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        received: list[str | bytes] = []

        async def receive() -> None:
            async for message in client:
                received.append(message.data)  # noqa: PERF401  # it does not end while it is looked at

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        taking = Taking(client, nursery)
        await wait_all_tasks_blocked()
        server.send(frame(BINARY, bytes(5000)), text("a"), text("b"))
        await wait_all_tasks_blocked()
        assert sum(map(len, taking.pieces)) == 5000
        assert received == ["a", "b"]


async def test_messages_that_wait_in_batches_come_in_order(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(*[text(f"{number}") for number in range(20)])
        await wait_all_tasks_blocked()
        for number in range(0, 20, 2):
            assert await taken(client) == ("text", [f"{number}"])
            assert (await client.receive_value()).data == f"{number + 1}"


async def test_a_batch_that_is_not_on_its_way_yet_is_waited_for(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        client._connection.feed(text("a") + text("b"))  # as the task that reads does
        assert client.channel().receive_nowait()[0].data == "a"
        assert await taken(client) == ("text", ["b"])


async def test_a_channel_that_was_closed_ahead_of_messages_gives_none(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, channel_capacity=1) as client:
        server.send(text("a"), text("b"), text("c"))
        await wait_all_tasks_blocked()
        client.channel().close()
        while client.channel().receive_nowait().ok:
            pass
        with pytest.raises(EndOfChannelError):
            await taken(client)


async def test_two_tasks_may_share_a_stream(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server()
    shares: list[list[str | bytes]] = []

    async def share(pieces: MessageStream) -> None:
        shares.append([piece async for piece in pieces])

    async with connecting(server) as client:
        stream = client.receive_stream()
        server.send(frame(TEXT, b"a", fin=False))
        async with stream as pieces, trio.open_nursery() as tasks:
            tasks.start_soon(share, pieces)
            tasks.start_soon(share, pieces)
            for data in (b"b", b"c"):
                await wait_all_tasks_blocked()
                server.send(frame(CONTINUATION, data, fin=False))
            server.send(frame(CONTINUATION))
        assert sorted(map(str, [*shares[0], *shares[1]])) == ["a", "b", "c"]


async def test_its_repr_tells_that_it_waits(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server()

    async def enter(stream: MessageStream) -> None:
        async with stream:
            pass

    async with connecting(server) as client:
        stream = client.receive_stream()
        nursery.start_soon(enter, stream)
        await wait_all_tasks_blocked()
        assert repr(stream) == "<csp.websocket.MessageStream waiting for a message>"
        server.send(text("a"))
        await wait_all_tasks_blocked()
        assert repr(stream) == "<csp.websocket.MessageStream left>"


# Above the limit ------------------------------------------------------------------------------------------------------


async def has_used_streams(client: Client, server: Server) -> None:
    """Take a message as a stream: large ones behind unread ones are held from then on."""
    server.send(text("the first"))
    assert await taken(client) == ("text", ["the first"])


@pytest.mark.parametrize("mode", ["plain", "fragments", "compressed", "compressed frame", "compressed, a little"])
@pytest.mark.parametrize("waits", [True, False], ids=["waiting for the header", "header received before"])
async def test_a_header_and_a_large_message_in_one_block(mode: str, waits: bool, autojump_clock: MockClock) -> None:
    server = compressing()
    data = random.Random(0).randbytes(9000 if mode != "compressed" else 600_000)
    large = {
        "plain": frame(BINARY, data),
        "fragments": frame(BINARY, data[:900], fin=False) + frame(CONTINUATION, data[900:]),
        "compressed": frame(BINARY, deflated(data), reserved=COMPRESSED),
        "compressed frame": frame(BINARY, deflated(data[:900]) + b"\x00\x00\xff\xff", fin=False, reserved=COMPRESSED)
        + frame(CONTINUATION, deflated(data[900:])),
        "compressed, a little": frame(BINARY, deflated(bytes(9000)), reserved=COMPRESSED),
    }[mode]
    if mode == "compressed, a little":
        data = bytes(9000)
    async with connecting(server, compression=MODES["context"], read_limit=KIB) as client:
        if waits:
            async with trio.open_nursery() as tasks:

                async def send() -> None:
                    await wait_all_tasks_blocked()
                    server.send(text("header"), large, text("next"))

                tasks.start_soon(send)
                assert (await client.receive_value()).data == "header"
        else:
            await has_used_streams(client, server)
            server.send(text("header"), large, text("next"))
            await trio.sleep(100)
            assert (await client.receive_value()).data == "header"
        await trio.sleep(0.5)
        _, pieces = await taken(client)
        assert b"".join([piece for piece in pieces if isinstance(piece, bytes)]) == data
        assert (await client.receive_value()).data == "next"


async def test_large_messages_one_behind_the_other_in_a_loop(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        server.send(*[frame(BINARY, bytes([number]) * 5000) for number in range(5)])
        for number in range(5):
            _, pieces = await taken(client)
            assert b"".join([piece for piece in pieces if isinstance(piece, bytes)]) == bytes([number]) * 5000
            await trio.sleep(0.5)


async def test_the_first_message_may_come_with_the_answer_to_the_handshake(autojump_clock: MockClock) -> None:
    server = Server(lambda request: accepting(request) + frame(BINARY, bytes(5000)))
    async with connecting(server, read_limit=KIB) as client:
        _, pieces = await taken(client)
        assert sum(map(len, pieces)) == 5000


async def refused(client: Client, after_seconds: float) -> None:
    """Check that the connection fails for a message above the limit."""
    await client.wait_closed()
    assert client.close_code == 1009
    assert trio.current_time() == pytest.approx(after_seconds, abs=0.051)


async def test_where_nothing_was_received_it_is_refused_at_once(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        server.send(frame(BINARY, bytes(5000)))
        await refused(client, 0)


async def test_behind_an_unread_message_it_is_refused_at_once_if_no_stream_was_ever_used(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        server.send(text("a"), frame(BINARY, bytes(5000)))
        await refused(client, 0)
        assert (await client.receive_value()).data == "a"


async def test_it_is_refused_when_somebody_waits_for_a_message(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        await has_used_streams(client, server)
        server.send(text("a"), frame(BINARY, bytes(5000)))
        await trio.sleep(100)
        assert client.close_code is None
        assert (await client.receive_value()).data == "a"
        with pytest.raises(ConnectionFailedError, match="1009"):
            await client.receive_value()
        await refused(client, 100)


async def test_it_is_refused_when_a_selector_waits(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        server.send(text("a"), frame(BINARY, bytes(5000)))
        with csp.Selector(client.channel()) as selector:
            assert (await selector.select()).ok
            await trio.sleep(0.5)
            assert client.close_code is None
            assert not (await selector.select()).ok
        await refused(client, 0.5)


async def test_a_selector_may_have_the_channel_while_its_task_takes_a_stream(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        server.send(text("a"), frame(BINARY, bytes(5000)), text("b"))
        with csp.Selector(client.channel()) as selector:
            assert (await selector.select()).value.data == "a"
            _, pieces = await taken(client)
            assert sum(map(len, pieces)) == 5000
            assert (await selector.select()).value.data == "b"


async def test_it_is_refused_a_second_after_all_before_it_is_received(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        await has_used_streams(client, server)
        server.send(text("a"), frame(BINARY, bytes(5000)))
        await trio.sleep(100)
        assert (await client.receive_value()).data == "a"
        await refused(client, 101)


async def test_it_is_refused_a_second_after_the_stream_before_it_is_left(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB, keepalive="7s") as client:
        server.send(frame(BINARY, bytes(5000)), frame(BINARY, bytes(5000)))
        async with client.receive_stream() as pieces:
            assert sum([len(piece) async for piece in pieces]) == 5000
            await trio.sleep(100)
            assert client.close_code is None
        await refused(client, 101)
        assert [one.opcode for one in server.frames].count(PING) > 10


async def test_closing_refuses_it(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        await has_used_streams(client, server)
        server.send(text("a"), frame(BINARY, bytes(5000)))
        await wait_all_tasks_blocked()
        await client.close()
        assert trio.current_time() == 0
    assert server.closes == [1000]


async def test_a_connection_that_breaks_drops_it(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_limit=KIB) as client:
        await has_used_streams(client, server)
        server.send(text("a"), frame(BINARY, bytes(5000)))
        await wait_all_tasks_blocked()
        server.broken = True
        with pytest.raises(ConnectionFailedError):
            await client.send("x")
        await client.wait_closed()
        assert (await client.receive_value()).data == "a"
        with pytest.raises(ConnectionFailedError, match="the connection was lost"):
            await taken(client)


# Timeouts -------------------------------------------------------------------------------------------------------------


async def test_each_piece_is_progress_for_the_read_timeout(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s") as client:
        taking = Taking(client, nursery)
        for number in range(10):
            await trio.sleep(4)
            server.send(frame(CONTINUATION if number else TEXT, b"x", fin=False))
        await taking.ended.wait()
        assert trio.current_time() == pytest.approx(45)
        assert isinstance(taking.error, ConnectionTimeoutError)
        assert len(taking.pieces) == 10


async def test_who_takes_pieces_slowly_is_not_the_peers_fault(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, read_timeout="5s", keepalive="3s") as client:
        server.send(frame(BINARY, b"x", fin=False), frame(CONTINUATION, bytes(MIB), fin=False), frame(CONTINUATION))
        async with client.receive_stream() as pieces:
            await trio.sleep(60)
            assert sum([len(piece) async for piece in pieces]) == MIB + 1
        assert client.close_code is None


# In memory ------------------------------------------------------------------------------------------------------------


async def test_a_server_of_a_test_takes_one_too(autojump_clock: MockClock) -> None:
    async with testing.websocket_pair(read_limit=KIB) as (client, server):
        await client.send("x" * 5000)
        assert "".join(map(str, (await taken(server))[1])) == "x" * 5000
        await server.send("y" * 900)
        assert await taken(client) == ("text", ["y" * 900])


async def test_a_message_that_does_not_come_fails_the_test_of_a_server(autojump_clock: MockClock) -> None:
    async def handle(connection: testing.ServerConnection) -> None:
        await taken(connection)

    async def connect_and_leave() -> None:
        async with testing.websocket_server(handle, "ws://t/"), websocket.connect("ws://t/"):
            pass

    with pytest.raises(AssertionError, match="waits for a message, and the client sends no more"):
        await connect_and_leave()


async def test_a_message_that_is_cut_fails_the_test_of_a_server(autojump_clock: MockClock) -> None:
    async def handle(connection: testing.ServerConnection) -> None:
        await connection.accept()
        connection._connection.feed(masked(TEXT, b"half", fin=False))  # clients of ours send whole messages only
        await taken(connection)

    async def connect_and_leave() -> None:
        async with testing.websocket_server(handle, "ws://t/"), websocket.connect("ws://t/") as client:
            await wait_all_tasks_blocked()
            await client.close()

    with pytest.raises(AssertionError):
        await connect_and_leave()


async def test_a_cut_message_is_no_failure_of_a_servers_handler(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with listening() as (server, lobby):
        client = lobby.connect()
        await client.send(handshake(), masked(TEXT, b"half", fin=False), close_frame(1000))
        connection = await server.channel().receive_value()
        with pytest.raises(ConnectionFailedError, match="the message was cut"):
            await taken(connection)
        await client.leave()
