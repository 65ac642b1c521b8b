"""Compression through the whole client, against a server in memory."""

from __future__ import annotations

import random
import socket
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from csp.websocket import Message
from tests.websocket._server import (
    BINARY,
    CLOSE,
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
    details,
    drained,
    frame,
    text,
)
from trio_csp_websocket.protocol.constants import Compression
from trio_csp_websocket.transport.socket import SocketTransport

if TYPE_CHECKING:
    from trio.testing import MockClock

    from csp.websocket import Client
    from trio_csp_websocket.transport.base import Transport

TAKEOVER, NO_CONTEXT = Compression.CONTEXT_TAKEOVER, Compression.NO_CONTEXT
BOTH = pytest.mark.parametrize("compression", [TAKEOVER, NO_CONTEXT])
KIB, MIB = 1 << 10, 1 << 20
TAIL = b"\x00\x00\xff\xff"


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def compressing(*parameters: str, after: bytes = b"", answers_close: bool = True) -> Server:
    """Return a server that agrees to compression, and goes on with these bytes in the same block."""
    extension = "; ".join(["Sec-WebSocket-Extensions: permessage-deflate", *parameters])
    return Server(lambda request: accepting(request, extension) + after, answers_close=answers_close)


def compressed(opcode: int, data: bytes) -> bytes:
    return frame(opcode, deflated(data), reserved=COMPRESSED)


def understood(server: Server, *, takeover: bool = True, bits: int = 15) -> list[bytes]:
    """Return the messages the server understands, which has one decompressor for all where there is a context."""
    decompressor = zlib.decompressobj(-bits)
    messages: list[bytes] = []
    for sent in server.frames:
        if sent.opcode in (TEXT, BINARY):
            payload = sent.payload
            if sent.compressed:
                if not takeover:
                    decompressor = zlib.decompressobj(-bits)
                payload = decompressor.decompress(payload + TAIL)
            messages.append(payload)
    return messages


# Agreeing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compression", "offered"),
    [
        (Compression.DISABLED, None),
        (TAKEOVER, "permessage-deflate; client_max_window_bits"),
        (
            NO_CONTEXT,
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover; client_max_window_bits",
        ),
    ],
)
async def test_the_request_offers_what_was_asked_for(
    compression: Compression, offered: str | None, autojump_clock: MockClock
) -> None:
    server = Server()
    async with connecting(server, compression=compression, headers={"X-More": "yes"}):
        assert server.request is not None
        assert server.request["Sec-WebSocket-Extensions"] == offered
        assert server.request["X-More"] == "yes"


@BOTH
async def test_a_server_may_want_no_compression(compression: Compression, autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, compression=compression, compression_threshold=0) as client:
        await client.send("x" * 1000)
        assert server.frames == [Frame(TEXT, b"x" * 1000)]
        server.send(compressed(TEXT, b"x"))
        assert await drained(client) == []
        assert client.close_code == 1002


async def test_what_was_agreed_on_is_in_the_response_headers_and_unknown_to_trio_websocket(
    autojump_clock: MockClock,
) -> None:
    # It raises an error for an extension that it has not offered itself.
    async with connecting(compressing("server_max_window_bits=9"), compression=TAKEOVER) as client:
        agreed = "permessage-deflate; server_max_window_bits=9"
        assert client.response_headers["Sec-WebSocket-Extensions"] == agreed


@pytest.mark.parametrize("parameter", ["server_max_window_bits=16", "client_max_window_bits", "surprise"])
async def test_an_answer_that_was_not_offered_fails_the_connection_at_once(
    parameter: str, autojump_clock: MockClock
) -> None:
    server = compressing(parameter)
    start = trio.current_time()
    with pytest.raises(ConnectionFailedError, match=parameter.partition("=")[0]) as caught:
        async with connecting(server, compression=TAKEOVER):
            pytest.fail("it was opened")
    assert caught.value.kind is Kind.INTERNAL
    assert trio.current_time() == start
    assert server.closed


# Sending --------------------------------------------------------------------------------------------------------------


async def test_messages_are_compressed_from_the_threshold_on(autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=TAKEOVER, compression_threshold=100) as client:
        for data in ("x" * 99, b"y" * 99, "x" * 100, b"y" * 100, "\u20ac" * 33, "\u20ac" * 34):
            await client.send(data)
        assert [sent.compressed for sent in server.frames] == [False, False, True, True, False, True]
        assert [sent.opcode for sent in server.frames] == [TEXT, BINARY, TEXT, BINARY, TEXT, TEXT]
        assert understood(server) == [
            *(b"x" * 99, b"y" * 99, b"x" * 100, b"y" * 100),
            *("\u20ac".encode() * 33, "\u20ac".encode() * 34),
        ]


async def test_with_a_threshold_of_0_an_empty_message_is_compressed(autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=TAKEOVER, compression_threshold=0) as client:
        await client.send("")
        await client.send("")
        assert server.frames == [Frame(TEXT, b"\x00", compressed=True)] * 2


@pytest.mark.parametrize(("compression", "threshold"), [(TAKEOVER, 128), (NO_CONTEXT, 512)])
async def test_the_threshold_is_that_of_the_mode_by_default(
    compression: Compression, threshold: int, autojump_clock: MockClock
) -> None:
    server = compressing()
    async with connecting(server, compression=compression) as client:
        await client.send(bytes(threshold - 1))
        await client.send(bytes(threshold))
        assert [sent.compressed for sent in server.frames] == [False, True]


@pytest.mark.parametrize(
    ("compression", "parameters", "takeover"),
    [
        (TAKEOVER, ["server_no_context_takeover"], True),
        (TAKEOVER, ["client_no_context_takeover"], False),
        (NO_CONTEXT, ["client_no_context_takeover"], False),
        (NO_CONTEXT, [], False),
    ],
)
async def test_messages_refer_to_those_before_only_if_both_want_that(
    compression: Compression, parameters: list[str], takeover: bool, autojump_clock: MockClock
) -> None:
    server, data = compressing(*parameters), noise(1000)
    async with connecting(server, compression=compression) as client:
        await client.send(data)
        await client.send(data)
        assert understood(server, takeover=takeover) == [data, data]
        assert (len(server.frames[1].payload) < 30) is takeover


async def test_the_window_is_no_larger_than_the_server_wants(autojump_clock: MockClock) -> None:
    for bits, reached in ((9, False), (15, True)):
        server, data = compressing(f"client_max_window_bits={bits}"), noise(1000)
        async with connecting(server, compression=TAKEOVER) as client:
            await client.send(data)
            await client.send(data)
            assert understood(server, bits=bits) == [data, data]
            assert (len(server.frames[1].payload) < 30) is reached


async def test_pings_and_closes_are_not_compressed(autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=TAKEOVER, compression_threshold=0) as client:
        await client.ping(b"x" * 125)
        server.send(frame(PING, b"y" * 125))
        await wait_all_tasks_blocked()
        await client.close(1000, "z" * 123)
    assert server.frames == [
        Frame(PING, b"x" * 125),
        Frame(PONG, b"y" * 125),
        Frame(CLOSE, b"\x03\xe8" + b"z" * 123),
    ]


# What each of the tasks sends: noise that later messages of the same noise refer to.
def messages_for_tasks(count: int) -> list[bytes]:
    return [bytes([number]) + noise(600, number % 5) for number in range(count)]


async def test_a_send_cancelled_while_it_waits_in_line_was_never_compressed(autojump_clock: MockClock) -> None:
    server = compressing()
    messages = messages_for_tasks(40)
    scopes = [trio.CancelScope() for _ in messages]

    async def send(client: Client, number: int) -> None:
        with scopes[number]:
            await client.send(messages[number])

    async with connecting(server, compression=TAKEOVER) as client:
        await client.send(b"before " * 100)
        server.stop_reading()
        async with trio.open_nursery() as nursery:
            for number in range(len(messages)):
                nursery.start_soon(send, client, number)
                await wait_all_tasks_blocked()
            # The first has begun and goes out whatever happens; those behind it wait in line.
            for number in (0, 1, 5, 6, 7, 20, 39):
                scopes[number].cancel()
            await wait_all_tasks_blocked()
            server.read_on()
        await client.send(b"after " * 100)
    kept = [message for number, message in enumerate(messages) if number not in (1, 5, 6, 7, 20, 39)]
    assert understood(server) == [b"before " * 100, *kept, b"after " * 100]


async def test_a_send_that_times_out_while_it_waits_in_line_was_never_compressed(autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=TAKEOVER, write_timeout="10s") as client, trio.open_nursery() as nursery:
        server.stop_reading()
        nursery.start_soon(client.send, noise(1000))
        await trio.sleep(5)
        nursery.start_soon(client.send, noise(1000, 1))

        async def time_out() -> None:
            with pytest.raises(ConnectionTimeoutError, match="not begun"):
                await client.send(noise(1000, 2))

        with trio.move_on_after(4):
            await time_out()
        server.read_on()
        await trio.sleep(1)
        await client.send(noise(1000, 2))
        await client.send(noise(1000))
    assert understood(server) == [noise(1000), noise(1000, 1), noise(1000, 2), noise(1000)]


async def test_many_tasks_send_over_a_socket_and_some_are_cancelled(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, theirs = trio.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = compressing()
    reading = trio.Event()

    async def serve() -> None:
        stream = trio.SocketStream(theirs)
        async with stream, trio.open_nursery() as both_ways:

            async def outwards() -> None:
                while data := await server.stream.receive_some():
                    await stream.send_all(data)
                await stream.send_eof()

            both_ways.start_soon(outwards)
            while data := await stream.receive_some():
                await server.stream.send_all(data)
                if server.frames:
                    await reading.wait()

    async def dial() -> Transport:
        return SocketTransport(trio.SocketStream(ours))

    nursery.start_soon(serve)
    messages = [noise(30_000), *messages_for_tasks(40)]
    cancelled = (3, 4, 8, 21, 40)
    scopes = [trio.CancelScope() for _ in messages]

    async def send(client: Client, number: int) -> None:
        with scopes[number]:
            await client.send(messages[number])

    async with connecting(server, reach=dial, compression=TAKEOVER) as client:
        await client.send(b"before " * 100)  # at once
        # The server reads nothing more, so that the next is written in part and the others wait.
        async with trio.open_nursery() as senders:
            for number in range(len(messages)):
                senders.start_soon(send, client, number)
                await wait_all_tasks_blocked()
            for number in (0, *cancelled):
                scopes[number].cancel()
            await wait_all_tasks_blocked()
            reading.set()
        await client.send(b"after " * 100)
        await client.close()
    kept = [message for number, message in enumerate(messages) if number not in cancelled]
    assert understood(server) == [b"before " * 100, *kept, b"after " * 100]


# Receiving ------------------------------------------------------------------------------------------------------------


@BOTH
async def test_compressed_messages_are_received_between_others(
    compression: Compression, autojump_clock: MockClock
) -> None:
    server = compressing()
    async with connecting(server, compression=compression) as client:
        payload = deflated(b"Hello, Hello")
        server.send(
            compressed(TEXT, b"a" * 1000),
            text("b"),
            frame(TEXT, payload[:4], fin=False, reserved=COMPRESSED),
            frame(PING, b"p"),
            frame(CONTINUATION, payload[4:]),
            compressed(BINARY, b"\xff" * 1000),
        )
        received = [(await client.receive()).value for _ in range(4)]
        assert received == [
            Message("text", "a" * 1000),
            Message("text", "b"),
            Message("text", "Hello, Hello"),
            Message("binary", b"\xff" * 1000),
        ]
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, b"p")]


@pytest.mark.parametrize("takeover", [True, False])
async def test_messages_may_refer_to_those_before_unless_the_server_said_that_they_do_not(
    takeover: bool, autojump_clock: MockClock
) -> None:
    server = compressing() if takeover else compressing("server_no_context_takeover")
    compressor = zlib.compressobj(wbits=-15)
    payloads = [
        (compressor.compress(b"Hello, Hello") + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)
        for _ in range(2)
    ]
    async with connecting(server, compression=TAKEOVER) as client:
        server.send(*(frame(TEXT, payload, reserved=COMPRESSED) for payload in payloads))
        server.end()
        assert await drained(client) == ["Hello, Hello"] * (2 if takeover else 1)
        assert client.close_code == (1006 if takeover else 1007)


async def test_the_servers_window_may_be_smaller(autojump_clock: MockClock) -> None:
    server = compressing("server_max_window_bits=8")
    async with connecting(server, compression=TAKEOVER) as client:
        server.send(frame(BINARY, deflated(noise(150) * 3 + noise(5000), bits=8), reserved=COMPRESSED))
        assert (await client.receive()).value.data == noise(150) * 3 + noise(5000)


async def test_compressed_messages_may_come_with_the_answer_and_pause_parsing(autojump_clock: MockClock) -> None:
    server = compressing(after=b"".join(compressed(BINARY, bytes(MIB + number)) for number in range(5)) + text("end"))
    async with connecting(server, compression=TAKEOVER, channel_capacity=1) as client:
        assert [len((await client.receive()).value.data) for _ in range(6)] == [*range(MIB, MIB + 5), 3]


async def test_statistics_count_what_was_inflated_and_what_was_on_the_wire(autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=TAKEOVER) as client:
        before = client.statistics()
        server.send(compressed(TEXT, b"x" * 10_000), compressed(BINARY, b"y" * 5000))
        for _ in range(2):
            await client.receive()
        await client.send("z" * 20_000)
        await client.send("short")
        after = client.statistics()
        assert (after.messages_received, after.payload_bytes_received) == (2, 15_000)
        assert (after.messages_sent, after.payload_bytes_sent) == (2, 20_005)
        wire = len(compressed(TEXT, b"x" * 10_000)) + len(compressed(BINARY, b"y" * 5000))
        assert after.bytes_received - before.bytes_received == wire < 200
        wire = len(server.frames[0].payload) + 6 + len(b"short") + 6
        assert after.bytes_sent - before.bytes_sent == wire < 200


# Hostile servers ------------------------------------------------------------------------------------------------------


def bomb(size: int) -> bytes:
    """Return a message that inflates to this many MiB."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    independent = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return frame(BINARY, (independent * size).removesuffix(TAIL), reserved=COMPRESSED)


async def test_a_bomb_is_1009_and_costs_little_memory(autojump_clock: MockClock) -> None:
    server = compressing()
    bad = bomb(1024) + text("c")
    assert MIB < len(bad) < 1.1 * MIB
    async with connecting(server, compression=TAKEOVER, read_limit=MIB) as client:
        server.send(text("a"), compressed(TEXT, b"b" * 1000))
        blocks = [bad[start : start + 16 * KIB] for start in range(0, len(bad), 16 * KIB)]
        await wait_all_tasks_blocked()
        tracemalloc.start()
        try:
            while not server.closes:
                server.send(blocks.pop(0))
                await wait_all_tasks_blocked()
            assert tracemalloc.get_traced_memory()[1] < 3 * MIB
        finally:
            tracemalloc.stop()
        assert await drained(client) == ["a", "b" * 1000]
        assert client.close_code == 1009
        assert client.error is not None
        assert client.error.kind is Kind.INTERNAL
        assert client.error.retryable is False
        assert client.channel().cause is client.error
        assert details(client.error)["code"] == 1009
    assert server.closes == [1009]
    # A few KiB of it were enough.
    assert len(blocks) > 50


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (frame(TEXT, b"\xff\xff", reserved=COMPRESSED), 1007),
        (compressed(TEXT, b"\xff" * 100), 1007),
        (frame(CONTINUATION, b"\x00", reserved=COMPRESSED), 1002),
        (compressed(TEXT, b"x" * 1001), 1009),
        (frame(TEXT, bytes(1000 + 1000 // 16 + 1025), reserved=COMPRESSED)[:4], 1009),
    ],
    ids=["corrupt", "not UTF-8", "continuation", "too large", "too large by its header"],
)
async def test_a_message_that_is_refused_ends_the_connection_behind_those_before(
    stream: bytes, code: int, autojump_clock: MockClock
) -> None:
    server = compressing()
    async with connecting(server, compression=TAKEOVER, read_limit=1000) as client:
        server.send(compressed(TEXT, b"a" * 1000), text("b"), stream, text("c"))
        assert await drained(client) == ["a" * 1000, "b"]
        assert client.close_code == code
        assert client.error is not None
        assert client.error.kind is Kind.INTERNAL
    assert server.closes == [code]


# Pausing --------------------------------------------------------------------------------------------------------------


def numbered(count: int) -> list[bytes]:
    """Return messages of a mebibyte each, compressed to a thousandth."""
    zeros = bytes(MIB - 1)
    return [compressed(BINARY, bytes([number]) + zeros) for number in range(count)]


@pytest.mark.parametrize("in_one_block", [True, False])
async def test_a_slow_consumer_bounds_what_is_inflated(in_one_block: bool, autojump_clock: MockClock) -> None:
    server = compressing()
    stream = b"".join(numbered(60)) + text("end")
    assert len(stream) < 64 * KIB
    async with connecting(server, compression=TAKEOVER, channel_capacity=1) as client:
        tracemalloc.start()
        try:
            for block in [stream] if in_one_block else [stream[i : i + 3000] for i in range(0, len(stream), 3000)]:
                server.send(block)
            for number in range(60):
                await wait_all_tasks_blocked()
                assert tracemalloc.get_traced_memory()[1] < 8 * MIB
                # One in the channel, one waiting for room.
                assert client.statistics().messages_received == number + 2
                data = (await client.receive()).value.data
                assert isinstance(data, bytes)
                assert (data[0], len(data)) == (number, MIB)
            assert (await client.receive()).value.data == "end"
            assert tracemalloc.get_traced_memory()[1] < 8 * MIB
        finally:
            tracemalloc.stop()


async def test_a_ping_behind_a_pause_is_answered_once_the_consumer_gets_there(autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=TAKEOVER, channel_capacity=1) as client:
        server.send(frame(PING, b"1"), *numbered(3), frame(PING, b"2"), text("end"))
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, b"1")]
        for _ in range(2):
            await client.receive()
        await wait_all_tasks_blocked()
        assert server.frames == [Frame(PONG, b"1"), Frame(PONG, b"2")]


async def test_sending_goes_on_while_parsing_is_paused(autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=TAKEOVER, channel_capacity=1) as client:
        server.send(*numbered(5))
        await wait_all_tasks_blocked()
        await client.send("a" * 1000)
        await client.ping(b"p")
        assert understood(server) == [b"a" * 1000]
        assert server.frames[-1] == Frame(PING, b"p")


@pytest.mark.parametrize("answers_close", [True, False])
async def test_closing_while_parsing_is_paused_discards_the_rest(
    answers_close: bool, autojump_clock: MockClock
) -> None:
    server = compressing(answers_close=answers_close)
    async with connecting(server, compression=TAKEOVER, channel_capacity=1, close_timeout="10s") as client:
        server.send(*numbered(20), text("end"))
        await wait_all_tasks_blocked()
        start = trio.current_time()
        await client.close(3000)
        assert trio.current_time() - start == (0 if answers_close else 10)
        assert server.closed
        assert client.close_code == (1000 if answers_close else 1006)
        assert client.error is None
        # What was in the channel can still be received.
        assert [len(data) for data in await drained(client)] == [MIB]
    assert server.closes == [3000]


async def test_a_block_cancelled_while_parsing_is_paused_ends_at_once(autojump_clock: MockClock) -> None:
    server = compressing(answers_close=False)
    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with connecting(server, compression=TAKEOVER, channel_capacity=1):
            server.send(*numbered(20))
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == start
    assert server.closed
    assert server.closes == [1001]


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_peers_close_behind_a_pause_comes_behind_its_messages(at_once: bool, autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=TAKEOVER, channel_capacity=1) as client:
        if at_once:
            server.send(*numbered(5), text("end"), close(1011, "no"))
        else:
            server.send(*numbered(5))
            server.send(text("end"), close(1011, "no"))
        server.end()
        await wait_all_tasks_blocked()
        assert not server.closes
        received = await drained(client)
        assert [len(data) for data in received] == [MIB] * 5 + [3]
        assert (client.close_code, client.close_reason) == (1011, "no")
        assert client.error is not None
        assert client.error.kind is Kind.UNAVAILABLE
    assert server.closes == [1011]


@pytest.mark.parametrize("reset", [True, False])
async def test_what_was_read_before_the_connection_was_lost_is_delivered(
    reset: bool, autojump_clock: MockClock
) -> None:
    server = compressing()
    async with connecting(server, compression=TAKEOVER, channel_capacity=1) as client:
        server.send(*numbered(5))
        if reset:
            server.reset()
        else:
            server.end()
        assert [len(data) for data in await drained(client)] == [MIB] * 5
        assert client.close_code == 1006


async def test_a_violation_behind_a_pause_is_found_behind_the_messages(autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=TAKEOVER, channel_capacity=1) as client:
        server.send(*numbered(3), frame(TEXT, b"\xff\xff", reserved=COMPRESSED), text("not this"))
        assert [len(data) for data in await drained(client)] == [MIB] * 3
        assert client.close_code == 1007
    assert server.closes == [1007]


@pytest.mark.parametrize("option", ["keepalive", "read_timeout"])
async def test_a_pause_is_not_the_servers_fault(option: str, autojump_clock: MockClock) -> None:
    server = compressing()
    options: dict[str, Any] = {option: "5s"}
    async with connecting(server, compression=TAKEOVER, channel_capacity=1, **options) as client:
        server.send(*numbered(4))
        for _ in range(3):
            await trio.sleep(100)
            assert len((await client.receive()).value.data) == MIB
        await client.receive()
        server.send(text("a"))
        assert (await client.receive()).value.data == "a"
        assert client.close_code is None


@pytest.mark.parametrize(
    "messages", [[text("x" * 1000)] * 5, numbered(5)], ids=["waiting for room", "where parsing is paused"]
)
async def test_what_was_read_before_a_write_timeout_is_delivered(
    messages: list[bytes], autojump_clock: MockClock
) -> None:
    server = compressing()
    options: dict[str, Any] = {"compression": TAKEOVER, "channel_capacity": 1, "write_timeout": "5s"}
    async with connecting(server, **options) as client:
        server.send(*messages, text("end"))
        await wait_all_tasks_blocked()
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError):
            await client.send("a")
        received = await drained(client)
        assert (len(received), received[-1]) == (6, "end")
        assert client.close_code == 1006


@pytest.mark.parametrize("ended", [False, True], ids=["open", "ended"])
async def test_a_block_cancelled_where_parsing_is_paused_closes_the_channel(
    ended: bool, autojump_clock: MockClock
) -> None:
    server = compressing()
    options: dict[str, Any] = {"compression": TAKEOVER, "channel_capacity": 1, "write_timeout": "5s"}
    clients: list[Client] = []
    with trio.CancelScope() as scope:
        async with connecting(server, **options) as client:
            clients.append(client)
            server.send(*numbered(5))
            await wait_all_tasks_blocked()
            if ended:
                server.stop_reading()
                with pytest.raises(ConnectionTimeoutError):
                    await client.send("a")
            assert not client.channel().closed
            scope.cancel()
    (client,) = clients
    assert client.channel().closed


async def test_a_violation_that_is_parsed_after_the_end_changes_nothing(autojump_clock: MockClock) -> None:
    server = compressing()
    async with connecting(server, compression=TAKEOVER, channel_capacity=1, write_timeout="5s") as client:
        server.send(*numbered(5), frame(0x3))
        await wait_all_tasks_blocked()
        server.stop_reading()
        with pytest.raises(ConnectionTimeoutError):
            await client.send("a")
        assert len(await drained(client)) == 5
        assert client.close_code == 1006
        assert isinstance(client.error, ConnectionTimeoutError)
