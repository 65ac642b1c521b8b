"""A message in pieces, sent: over memory, where a task writes, and over TCP, where the sender does."""

from __future__ import annotations

import contextlib
import zlib
from typing import TYPE_CHECKING, Literal, TypeAlias

import pytest
import trio
from trio.testing import Sequencer, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

import csp
from csp import testing, websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, InvalidError, InvalidTypeError, Kind
from tests.websocket._server import Server, connecting
from tests.websocket.server._lobby import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    RawClient,
    connected,
    handshake,
    listening,
    masked,
)
from trio_csp_websocket.connection.outgoing import Piece, Turn
from trio_csp_websocket.protocol.deflate import Deflater
from trio_csp_websocket.protocol.negotiation import DeflateParameters

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from typing import Unpack

    from trio.testing import MockClock

FIN = 0x80
Way: TypeAlias = Literal["memory", "lockstep", "tcp"]
MEMORY: Way = "memory"
LOCKSTEP: Way = "lockstep"
"""In memory, and what is sent is written once it is read."""
TCP: Way = "tcp"
WAYS = pytest.mark.parametrize("way", [MEMORY, TCP])
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


async def one_and_no_more() -> AsyncIterator[str]:
    yield "begun"
    await trio.sleep_forever()


@contextlib.asynccontextmanager
async def joined(
    way: Way, request: bytes | None = None, **options: Unpack[websocket.ListenOptions]
) -> AsyncGenerator[tuple[websocket.ServerConnection, RawClient]]:
    """Give a connection that was accepted, and its client."""
    async with contextlib.AsyncExitStack() as stack:
        if way != TCP:
            server, lobby = await stack.enter_async_context(listening(**options))
            near, far = memory_stream_pair() if way == MEMORY else lockstep_stream_pair()
            lobby.bring(far)
            client = RawClient(near)
        else:
            options["host"] = "127.0.0.1"
            server = await stack.enter_async_context(websocket.listen(0, **options))
            client = RawClient(await trio.open_tcp_stream("127.0.0.1", server.port or 0))
        await client.send(handshake() if request is None else request)
        connection = await server.receive_value()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.accept)
            assert (await client.answer()).status == 101
        try:
            yield connection, client
        finally:
            await client.leave()


async def pieces(*given: str | bytes) -> AsyncIterator[str | bytes]:
    for piece in given:
        yield piece


async def frames_of_message(client: RawClient) -> list[tuple[int, bytes]]:
    frames = [await client.frame()]
    while not frames[-1][0] & FIN:
        frames.append(await client.frame())
    return frames


# What is sent ---------------------------------------------------------------------------------------------------------


@WAYS
async def test_each_piece_is_a_frame_of_one_message(way: Way) -> None:
    async with joined(way) as (connection, client):
        await connection.send(pieces("a", "", "bc"))
        assert await frames_of_message(client) == [(TEXT, b"a"), (0, b""), (0, b"bc"), (FIN, b"")]
        await connection.send(pieces(b"\xff", b"\x00"))
        assert await frames_of_message(client) == [(BINARY, b"\xff"), (0, b"\x00"), (FIN, b"")]
        assert connection.statistics().messages_sent == 2
        assert connection.statistics().payload_bytes_sent == 5


@pytest.mark.parametrize(
    ("given", "kind", "opcode", "message"),
    [
        (("é".encode()[:1], "é".encode()[1:]), websocket.TEXT, TEXT, "é".encode()),
        (("a", b"b", "c"), websocket.TEXT, TEXT, b"abc"),
        (("a", b"b"), None, TEXT, b"ab"),
        (("a", b"\xff"), websocket.BINARY, BINARY, b"a\xff"),
        ((b"\xff", "a"), None, BINARY, b"\xffa"),
        ((bytearray(b"a"), memoryview(b"b")), None, BINARY, b"ab"),
        ((), websocket.TEXT, FIN | TEXT, b""),
        ((), websocket.BINARY, FIN | BINARY, b""),
        (("",), None, TEXT, b""),
    ],
    ids=[
        "a character cut in two", "text of both kinds", "a str decides", "binary of both kinds", "bytes decide",
        "buffers", "no piece of text", "no piece of binary", "an empty piece",
    ],
)  # fmt: skip
async def test_the_type_is_said_or_the_first_piece_decides(
    given: tuple[str | bytes, ...], kind: int | None, opcode: int, message: bytes
) -> None:
    async with joined(MEMORY) as (connection, client):
        await connection.send(pieces(*given), kind)
        frames = await frames_of_message(client)
        assert frames[0][0] == opcode
        assert b"".join(payload for _, payload in frames) == message


async def test_a_channel_and_any_other_async_iterable_give_pieces_and_stay_open() -> None:
    channel = csp.Channel[str](10)
    async with joined(MEMORY) as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(connection.send, channel)
        await channel.send("one")
        assert await client.frame() == (TEXT, b"one")
        await channel.send("two")
        assert await client.frame() == (0, b"two")
        channel.close()
        assert await client.frame() == (FIN, b"")


@WAYS
@pytest.mark.parametrize("mode", ["", "; server_no_context_takeover"], ids=["with context", "without"])
async def test_pieces_are_compressed_each_so_that_it_can_be_read(way: Way, mode: str) -> None:
    request = handshake("/", DEFLATE + mode)
    compression = websocket.COMPRESSION.CONTEXT_TAKEOVER
    async with joined(way, request, compression=compression, compression_threshold=0) as (connection, client):
        inflater = zlib.decompressobj(-15)
        for _ in range(2):
            given = ["a" * 1000, "b" * 1000, ""]
            await connection.send(pieces(*given))
            frames = await frames_of_message(client)
            assert [head for head, _ in frames] == [TEXT | 0x40, 0, 0, FIN]
            assert [inflater.decompress(payload).decode() for _, payload in frames] == [*given, ""]
            inflater.decompress(b"\x00\x00\xff\xff")
            assert sum(len(payload) for _, payload in frames) < 100
            await connection.send("a whole one" * 20)
            head, payload = await client.frame()
            assert head == FIN | TEXT | 0x40
            assert inflater.decompress(payload + b"\x00\x00\xff\xff").decode() == "a whole one" * 20
            if mode:
                inflater = zlib.decompressobj(-15)


async def test_a_compressor_without_context_starts_afresh_behind_pieces() -> None:
    deflater = Deflater(DeflateParameters(own_no_context_takeover=True))
    first = [deflater.deflate_piece(b"abcdefghij" * 5), deflater.end_pieces()]
    assert [deflater.deflate_piece(b"abcdefghij" * 5), deflater.end_pieces()] == first


async def test_a_client_masks_pieces_and_a_server_reads_them_as_one_message() -> None:
    got: list[websocket.Message] = []

    async def handler(connection: websocket.ServerConnection) -> None:
        got.extend([message async for message in connection])

    async with trio.open_nursery() as nursery:
        server = await nursery.start(websocket.serve, handler, 0)
        async with websocket.connect(server.url) as client:
            await client.send(pieces("grüße ", "€"))
            await client.send(pieces(b"\x00" * 70_000, b"\x01" * 70_000))
        await server.close()
    assert got == [("text", "grüße €"), ("binary", b"\x00" * 70_000 + b"\x01" * 70_000)]


async def test_an_unanswered_connection_is_accepted_by_pieces() -> None:
    async with connected() as (connection, client):
        await connection.send(pieces("a"))
        assert (await client.answer()).status == 101
        assert await frames_of_message(client) == [(TEXT, b"a"), (FIN, b"")]
        await client.leave()


@pytest.mark.parametrize("way", [LOCKSTEP, TCP])
async def test_no_more_than_a_piece_is_in_memory(way: Way) -> None:
    taken = 0

    async def much() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield bytes(100_000)

    # A client that reads nothing: pieces are taken only as far as the system's buffers reach.
    async with joined(way, write_timeout=None) as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(connection.send, much())
        if way == LOCKSTEP:
            await wait_all_tasks_blocked()
            assert taken == 1
        else:
            before = -1
            while before != taken:
                before = taken
                await trio.sleep(0.1)
            assert taken < 500
        total = sum(len(payload) for _, payload in await frames_of_message(client))
        assert total == 100_000_000


# Its turn -------------------------------------------------------------------------------------------------------------


@WAYS
async def test_other_messages_wait_behind_it_in_order_and_control_frames_do_not(way: Way) -> None:
    sequence = Sequencer()

    async def slow() -> AsyncIterator[str]:
        yield "first"
        async with sequence(1):
            yield "second"

    async with joined(way) as (connection, client), trio.open_nursery() as nursery:
        hub = websocket.Hub()
        hub.add(connection)
        async with sequence(0):
            nursery.start_soon(connection.send, slow())
            assert await client.frame() == (TEXT, b"first")
            nursery.start_soon(connection.send, "one")
            await wait_all_tasks_blocked()
            assert hub.broadcast("two") == (0, 1, 0, 0)
            nursery.start_soon(connection.send, pieces("th", "ree"))
            await wait_all_tasks_blocked()
            nursery.start_soon(connection.send, "four")
            await wait_all_tasks_blocked()
            pong = await connection.ping("ping")
            assert await client.frame() == (FIN | PING, b"ping")
            await client.send(masked(PONG, b"ping"), masked(PING, b"theirs"))
            assert (await pong.receive()).ok
            assert await client.frame() == (FIN | PONG, b"theirs")
        assert [await client.frame() for _ in range(2)] == [(0, b"second"), (FIN, b"")]
        assert [await client.text() for _ in range(2)] == ["one", "two"]
        assert await frames_of_message(client) == [(TEXT, b"th"), (0, b"ree"), (FIN, b"")]
        assert await client.text() == "four"
        await connection.send("five")
        assert await client.text() == "five"


@WAYS
async def test_messages_are_sent_until_its_first_piece_comes(way: Way) -> None:
    given = trio.Event()

    async def late() -> AsyncIterator[str]:
        await given.wait()
        yield "late"

    async with joined(way) as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(connection.send, late())
        await wait_all_tasks_blocked()
        await connection.send("early")
        given.set()
        assert await client.text() == "early"
        assert await frames_of_message(client) == [(TEXT, b"late"), (FIN, b"")]


async def test_a_send_that_waits_behind_it_can_be_cancelled(autojump_clock: MockClock) -> None:
    async def slow() -> AsyncIterator[str]:
        yield "first"
        await trio.sleep(10)

    async with joined(MEMORY) as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(connection.send, slow())
        assert await client.frame() == (TEXT, b"first")
        with trio.move_on_after(1) as waiting:
            await connection.send("never sent")
        with trio.move_on_after(1) as waiting_too:
            await connection.send(pieces("never", "sent"))
        assert waiting.cancelled_caught
        assert waiting_too.cancelled_caught
        await connection.send("sent")
        assert await client.frame() == (FIN, b"")
        assert await client.text() == "sent"


@pytest.mark.parametrize("steps", range(20))
async def test_whenever_its_sender_is_cancelled_the_next_message_gets_its_turn_or_the_connection_ends(
    steps: int, autojump_clock: MockClock
) -> None:
    async with joined(LOCKSTEP) as (connection, client), trio.open_nursery() as nursery:
        nursery.start_soon(connection.send, "ahead")
        await wait_all_tasks_blocked()
        scope = trio.CancelScope()

        async def send() -> None:
            with scope:
                await connection.send(pieces("one", "two"))

        async def send_behind() -> None:
            with contextlib.suppress(ConnectionFailedError):
                await connection.send("behind")

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        nursery.start_soon(send_behind)
        await wait_all_tasks_blocked()
        got: list[tuple[int, bytes]] = []

        async def read() -> None:
            with contextlib.suppress(AssertionError, trio.ClosedResourceError):
                while True:
                    got.append(await client.frame())

        nursery.start_soon(read)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()
        await trio.sleep(1)
        whole = [(FIN | TEXT, b"ahead"), (TEXT, b"one"), (0, b"two"), (FIN, b""), (FIN | TEXT, b"behind")]
        if connection.error is None:
            assert got in (whole, [whole[0], whole[-1]])
        else:
            if got[-1][0] == FIN | CLOSE:
                assert got.pop()[1] == (1001).to_bytes(2, "big")
            assert got == whole[: len(got)]
            assert len(got) < 4
        await client.leave()


async def test_what_waits_behind_it_does_not_time_out_while_its_pieces_are_waited_for(
    autojump_clock: MockClock,
) -> None:
    async def slow() -> AsyncIterator[str]:
        yield "first"
        await trio.sleep(1000)
        yield "second"

    async with joined(MEMORY, keepalive=None, write_timeout="30s") as (connection, client):
        hub = websocket.Hub()
        hub.add(connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send, slow())
            assert await client.frame() == (TEXT, b"first")
            nursery.start_soon(connection.send, "behind")
            await wait_all_tasks_blocked()
            hub.broadcast("and behind that")
            assert [await client.frame() for _ in range(2)] == [(0, b"second"), (FIN, b"")]
            assert [await client.text() for _ in range(2)] == ["behind", "and behind that"]


async def test_a_clients_send_that_waits_behind_it_times_out_unsent(autojump_clock: MockClock) -> None:
    async def slow() -> AsyncIterator[str]:
        yield "first"
        await trio.sleep(100)

    async def handler(connection: testing.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message.data)

    async with (
        testing.websocket_server(handler, "wss://example.com"),
        websocket.connect("wss://example.com", write_timeout="30s") as client,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, slow())
            await wait_all_tasks_blocked()
            with pytest.raises(ConnectionTimeoutError, match=r"not begun within 30 s"):
                await client.send("unsent")
        await client.send("sent")
        assert [(await client.receive_value()).data for _ in range(2)] == ["first", "sent"]


# A message that is cut ------------------------------------------------------------------------------------------------


async def raising(*given: str | bytes, error: BaseException) -> AsyncIterator[str | bytes]:
    for piece in given:
        yield piece
    raise error


@WAYS
@pytest.mark.parametrize(
    "error", [ValueError("mine"), trio.BrokenResourceError("a file's"), trio.ClosedResourceError("a file's")],
    ids=["ValueError", "Broken", "Closed"],
)  # fmt: skip
async def test_what_the_iterable_raises_comes_out_and_ends_the_connection(way: Way, error: Exception) -> None:
    async with joined(way) as (connection, client):
        with pytest.raises(type(error)) as caught:
            await connection.send(raising("begun", error=error))
        assert caught.value is error
        assert await client.frame() == (TEXT, b"begun")
        if way == TCP:
            assert await client.closed() == (1011, "")
        await connection.wait_closed()
        assert connection.close_code == 1006
        assert connection.error is not None
        assert connection.error.kind is Kind.CANCELED
        assert str(connection.error) == "this end dropped the connection: the pieces of a message have failed"
        with pytest.raises(ConnectionFailedError):
            await connection.send("more")


@pytest.mark.parametrize(
    ("given", "kind", "error", "match"),
    [
        (("a", 1), None, InvalidTypeError, "each piece must be a str or bytes-like, not int"),
        (("a", "\ud800"), None, InvalidError, "each piece cannot be encoded as UTF-8"),
        (("a", b"\xff"), None, InvalidError, "the pieces must be UTF-8 to go as text"),
        (("a", b"\xc3", "b"), None, InvalidError, "the pieces must be UTF-8 to go as text"),
        (("a", b"\xc3"), None, InvalidError, "the pieces must be UTF-8 to go as text: the last character is cut"),
    ],
    ids=["a number", "a surrogate", "bad bytes", "a str behind half a character", "half a character"],
)  # fmt: skip
async def test_a_piece_that_cannot_be_sent_ends_the_connection(
    given: tuple[str | bytes, ...], kind: int | None, error: type[Exception], match: str
) -> None:
    async with joined(TCP) as (connection, client):
        with pytest.raises(error, match=match):
            await connection.send(pieces(*given), kind)
        assert await client.frame() == (TEXT, b"a")
        while (frame := await client.frame())[0] != FIN | CLOSE:
            assert frame == (0, b"\xc3")
        assert frame[1] == (1011).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("given", "kind", "error"),
    [
        ((1, "a"), None, InvalidTypeError),
        (("\ud800",), None, InvalidError),
        ((b"\xff",), websocket.TEXT, InvalidError),
        ((), None, InvalidError),
        (("a",), 3, InvalidError),
        (("a",), "text", InvalidTypeError),
        (("a",), True, InvalidTypeError),
    ],
)
async def test_nothing_is_sent_if_the_first_piece_or_the_type_is_bad(
    given: tuple[str | bytes, ...], kind: int | None, error: type[Exception]
) -> None:
    async with joined(MEMORY) as (connection, client):
        with pytest.raises(error):
            await connection.send(pieces(*given), kind)
        await connection.send("fine")
        assert await client.text() == "fine"


async def test_an_iterable_that_fails_before_its_first_piece_ends_nothing() -> None:
    class Failing:
        def __aiter__(self) -> AsyncIterator[str]:
            raise ValueError("mine")

    async with joined(MEMORY) as (connection, client):
        for failing in (Failing(), raising(error=ValueError("mine"))):
            with pytest.raises(ValueError, match="mine"):
                await connection.send(failing)
        await connection.send("fine")
        assert await client.text() == "fine"


async def test_a_generator_is_closed_when_sending_fails(autojump_clock: MockClock) -> None:
    closed = False

    async def generator() -> AsyncIterator[str | int]:
        nonlocal closed
        try:
            yield "begun"
            yield 1
        finally:
            closed = True

    async with joined(TCP) as (connection, _):
        with pytest.raises(InvalidTypeError):
            await connection.send(generator())  # type: ignore[arg-type]  # that is the point
        assert closed


@WAYS
async def test_cancelled_in_the_middle_the_connection_ends(way: Way) -> None:
    async def endless() -> AsyncIterator[str]:
        yield "begun"
        await trio.sleep_forever()

    async with joined(way) as (connection, client):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.send, endless())
                assert await client.frame() == (TEXT, b"begun")
                scope.cancel()
        if way == TCP:
            assert await client.closed() == (1001, "")
        await connection.wait_closed()
        assert str(connection.error) == "this end dropped the connection: sending a message in pieces was cancelled"


async def test_cancelled_before_its_first_piece_nothing_is_sent() -> None:
    async def late() -> AsyncIterator[str]:
        await trio.sleep_forever()
        yield "never"

    async with joined(MEMORY) as (connection, client):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.send, late())
                await wait_all_tasks_blocked()
                scope.cancel()
        await connection.send("fine")
        assert await client.text() == "fine"


async def test_cancelled_while_its_last_frame_is_written_it_is_complete(autojump_clock: MockClock) -> None:
    async with joined(LOCKSTEP) as (connection, client), trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def send() -> None:
            with scope:
                await connection.send(pieces("one"))

        nursery.start_soon(send)
        assert await client.frame() == (TEXT, b"one")
        await wait_all_tasks_blocked()
        scope.cancel()
        nursery.start_soon(connection.send, "behind")
        assert await client.frame() == (FIN, b"")
        assert await client.text() == "behind"
        assert connection.error is None


# The end of the connection meanwhile ----------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("how", ["the peer closes", "the peer leaves", "we close", "the peer breaks the rules"])
async def test_the_iterable_is_not_waited_for_once_the_connection_has_ended(way: Way, how: str) -> None:
    async def endless() -> AsyncIterator[str]:
        yield "begun"
        await trio.sleep_forever()

    failures: list[ConnectionFailedError] = []

    async with joined(way) as (connection, client):

        async def send(what: object) -> None:
            with pytest.raises(ConnectionFailedError) as caught:
                await connection.send(what)  # type: ignore[arg-type]
            failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, endless())
            assert await client.frame() == (TEXT, b"begun")
            nursery.start_soon(send, "behind")
            await wait_all_tasks_blocked()
            nursery.start_soon(send, pieces("be", "hind"))
            await wait_all_tasks_blocked()
            if how == "the peer closes":
                await client.send(masked(CLOSE, b"\x03\xe8"))
                assert await client.closed() == (1000, "")
            elif how == "the peer leaves":
                await client.leave()
            elif how == "we close":
                nursery.start_soon(connection.close, 4000)
                assert await client.closed() == (4000, "")
                await client.send(masked(CLOSE, b"\x0f\xa0"))
            else:
                await client.send(masked(0xF))
                assert (await client.closed())[0] == 1002
            await client.leave()
        await connection.wait_closed()
        assert len(failures) == 3
        assert all(failure.kind is Kind.INTERNAL for failure in failures)


@pytest.mark.parametrize("begun", [False, True], ids=["before the first piece", "in the middle"])
async def test_a_piece_that_comes_once_we_have_closed_is_not_sent(begun: bool, autojump_clock: MockClock) -> None:
    closing = trio.Event()

    async def late() -> AsyncIterator[str]:
        if begun:
            yield "first"
        await closing.wait()
        yield "late"

    async with joined(MEMORY, keepalive=None) as (connection, client), trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(ConnectionFailedError, match="is being closed"):
                await connection.send(late())

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        nursery.start_soon(connection.close)
        await wait_all_tasks_blocked()
        closing.set()
        if begun:
            assert await client.frame() == (TEXT, b"first")
        assert await client.closed() == (1000, "")


@WAYS
async def test_after_the_end_the_iterable_is_not_asked(way: Way) -> None:
    async def never() -> AsyncIterator[str]:
        raise AssertionError
        yield ""

    async with joined(way) as (connection, client):
        await client.leave()
        await connection.wait_closed()
        with pytest.raises(ConnectionFailedError):
            await connection.send(never())


async def test_a_turn_that_comes_once_the_connection_is_being_closed_fails(autojump_clock: MockClock) -> None:
    async with joined(LOCKSTEP) as (connection, client), trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(ConnectionFailedError, match=r"is being closed|has ended \(code 1000\)"):
                await connection.send(pieces("never", "sent"))

        nursery.start_soon(connection.send, "ahead")
        await wait_all_tasks_blocked()
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        nursery.start_soon(connection.close)
        await wait_all_tasks_blocked()
        assert await client.text() == "ahead"
        await client.close()


async def test_pieces_to_a_peer_that_takes_nothing_time_out(autojump_clock: MockClock) -> None:
    async with joined(LOCKSTEP, keepalive=None, write_timeout="30s") as (connection, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.frame)
            with pytest.raises(ConnectionTimeoutError, match=r"the peer took nothing within 30 s"):
                await connection.send(pieces("begun", "and cut"))
        await connection.wait_closed()
        assert connection.close_code == 1006


async def test_pieces_of_a_client_that_wait_too_long_for_the_peer_end_the_connection(
    autojump_clock: MockClock,
) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.accept()
        connection.stop_reading()
        await trio.sleep(1000)

    async def much() -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)

    async with (
        testing.websocket_server(handler, "wss://example.com"),
        websocket.connect("wss://example.com", write_timeout="30s") as client,
    ):
        with pytest.raises(ConnectionTimeoutError, match=r"within 30 s"):
            await client.send(much())
        await client.wait_closed()
        assert isinstance(client.error, ConnectionTimeoutError)


@pytest.mark.parametrize("steps", range(8))
async def test_nothing_follows_pieces_that_are_cut_while_a_client_begins_to_close(
    steps: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server()
    cutting = trio.CancelScope()

    async def begin() -> None:
        with cutting, contextlib.suppress(ConnectionFailedError):
            await client.send(one_and_no_more())

    async def follow() -> None:
        with contextlib.suppress(ConnectionFailedError):
            await client.send("behind it")

    async with connecting(server) as client:
        for task in (begin, follow):
            nursery.start_soon(task)
            await wait_all_tasks_blocked()
        nursery.start_soon(client.close)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        cutting.cancel()
        await client.wait_closed()
        assert [frame.opcode for frame in server.frames] in ([TEXT, CLOSE], [TEXT])


# The writer's side ----------------------------------------------------------------------------------------------------


def test_a_piece_and_a_turn_are_no_pings() -> None:
    assert (Piece(b"", lambda _: b"").opcode, Turn().opcode) == (0, 0)
