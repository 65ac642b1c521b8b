"""What a connection, and a feed, can hold at most while nobody receives: the numbers that the documentation gives."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import csp
from csp.errors import ConnectionFailedError
from csp.websocket import Compression, Gap, Message
from tests.websocket._server import (
    BINARY,
    COMPRESSED,
    CONTINUATION,
    ENDED,
    PING,
    TEXT,
    Server,
    accepting,
    close,
    connecting,
    deflated,
    drained,
    frame,
)
from tests.websocket.client._feed import Site, rest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from email.message import Message as Headers

    from trio.testing import MockClock

    from csp.websocket import ConnectOptions, Feed

KIB, MIB = 1024, 1024 * 1024
LIMIT = 2 * MIB
BLOCK_BYTES = 64 * KIB

# Times the read limit: the documentation says both.
WAITING, WHILE_PARSED = 5.5, 7.5
WAITING_OF_A_FEED, WHILE_PARSED_OF_A_FEED = 17, 21.5
FIXED_BYTES, FIXED_BYTES_OF_A_FEED = 6 * MIB, 16 * MIB
"""What is read ahead, what messages take besides their data, and the rest of the connection."""


class Supply(trio.abc.ReceiveStream):
    """Gives an answer to the handshake, then block after block as fast as they are read."""

    def __init__(self, answers: trio.abc.ReceiveStream, blocks: Iterator[bytes]) -> None:
        self._answers = answers
        self._answered = False
        self._blocks = blocks

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._answered:
            await trio.lowlevel.checkpoint()
            block = next(self._blocks, None)
            if block is not None:
                return block
        self._answered = True
        return await self._answers.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._answers.aclose()


def supplying(*parts: bytes | tuple[bytes, int]) -> Server:
    """Return a server that sends parts: bytes in large blocks, or a small block so and so many times."""
    server = Server(_agreeing)
    server.stream = trio.StapledStream(server.stream.send_stream, Supply(server.stream.receive_stream, _blocks(parts)))
    return server


def _blocks(parts: Iterable[bytes | tuple[bytes, int]]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, tuple):
            yield from itertools.repeat(*part)
        else:
            # Slices: the whole may be large, and is not what is measured.
            yield from (part[start : start + BLOCK_BYTES] for start in range(0, len(part), BLOCK_BYTES))


def _agreeing(request: Headers[str, str]) -> bytes:
    extension = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
    return accepting(request, *([extension] if "Sec-WebSocket-Extensions" in request else []))


@contextmanager
def measured() -> Generator[Callable[[], tuple[int, int]]]:
    """Measure memory in bytes: what is held, and the most that was."""
    tracemalloc.start()
    try:
        yield tracemalloc.get_traced_memory
    finally:
        tracemalloc.stop()


def fragmented(payload: bytes) -> bytes:
    middle = len(payload) // 2
    return frame(TEXT, payload[:middle], fin=False) + frame(CONTINUATION, payload[middle:])


def emoji(size: int) -> bytes:
    """Return text of which every character takes four bytes in memory, and all but one of them one on the wire."""
    return b"a" * (size - 4) + "\U0001f600".encode()


LARGE_TEXT, LARGE_BINARY = emoji(LIMIT), bytes(LIMIT)
SMALLER = "one emoji behind what just does not fill it"
SMALLER_COMPRESSED = f"{SMALLER}, compressed"
SMALL_BINARY = frame(BINARY, bytes(LIMIT - 64 * KIB))
KINDS = {
    "binary": frame(BINARY, LARGE_BINARY) * 8,
    "ASCII": frame(TEXT, LARGE_BINARY) * 8,
    "one emoji": frame(TEXT, LARGE_TEXT) * 8,
    "one emoji, in fragments": fragmented(LARGE_TEXT) * 8,
    "one emoji, compressed": frame(TEXT, deflated(LARGE_TEXT), reserved=COMPRESSED) * 20,
    "binary, compressed": frame(BINARY, deflated(LARGE_BINARY), reserved=COMPRESSED) * 20,
    SMALLER: SMALL_BINARY + frame(TEXT, LARGE_TEXT) * 4,
    SMALLER_COMPRESSED: SMALL_BINARY + frame(TEXT, deflated(LARGE_TEXT), reserved=COMPRESSED) * 5,
    "one emoji in each of many": frame(TEXT, emoji(20 * KIB)) * 200,
    "compressed, one emoji in each of many": frame(TEXT, deflated(emoji(20 * KIB)), reserved=COMPRESSED) * 400,
    "small messages": frame(TEXT, b"abc") * 60_000,
    "empty messages": frame(BINARY) * 60_000,
}
CAPACITIES = [1, 16, 10_000]


# How much -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_connection_holds_at_most(kind: str, capacity: int, autojump_clock: MockClock) -> None:
    server = supplying(KINDS[kind])
    with measured() as memory:
        async with connecting(
            server, read_limit=LIMIT, channel_capacity=capacity, compression=Compression.NO_CONTEXT
        ) as client:
            await wait_all_tasks_blocked()
            held, peak = memory()
            assert client.statistics().messages_received
            assert held < WAITING * LIMIT + FIXED_BYTES
            assert peak < WHILE_PARSED * LIMIT + FIXED_BYTES


EMPTY, FACE = frame(BINARY), frame(TEXT, "\U0001f600".encode())
FULL_OF_EMPTY = EMPTY * (BLOCK_BYTES // len(EMPTY))
SMALL_LIMIT = 64 * KIB
COMPRESSED_TEXTS = frame(TEXT, deflated(emoji(SMALL_LIMIT)), reserved=COMPRESSED) * 4
EMPTY_AND_COMPRESSED = EMPTY * ((BLOCK_BYTES - len(COMPRESSED_TEXTS)) // len(EMPTY)) + COMPRESSED_TEXTS
JUST_NOT_TOO_MUCH = frame(BINARY, bytes(SMALL_LIMIT - KIB))
PACKETS: dict[str, tuple[bytes | tuple[bytes, int], ...]] = {
    "empty messages": (FULL_OF_EMPTY * 3,),
    "one emoji a block, then empty messages": ((FACE, 4_090), FULL_OF_EMPTY * 3),
    "one emoji a block in all the room, then empty messages": ((FACE, 14_090), FULL_OF_EMPTY * 3),
    "all of it": (JUST_NOT_TOO_MUCH, (FACE, 4_000), EMPTY_AND_COMPRESSED * 2),
}


# With each kind, the capacity that is the worse for it; CSP_MEMORY=1 takes both, and all kinds in a feed.
LONG_RUN = os.environ.get("CSP_MEMORY")
SMALL_CASES = (
    list(itertools.product(PACKETS, [1, 10_000]))
    if LONG_RUN
    else list(zip(PACKETS, [10_000, 1, 10_000, 1], strict=True))
)
KINDS_IN_A_FEED = list(PACKETS) if LONG_RUN else ["empty messages"]


@pytest.mark.parametrize(("kind", "capacity"), SMALL_CASES)
async def test_what_small_messages_take_besides_their_data(kind: str, capacity: int, autojump_clock: MockClock) -> None:
    server = supplying(*PACKETS[kind])
    with measured() as memory:
        async with connecting(
            server, read_limit=SMALL_LIMIT, channel_capacity=capacity, compression=Compression.NO_CONTEXT
        ) as client:
            await wait_all_tasks_blocked()
            held, peak = memory()
            assert client.statistics().messages_received
            assert held < WAITING * SMALL_LIMIT + FIXED_BYTES
            assert peak < WHILE_PARSED * SMALL_LIMIT + FIXED_BYTES


@pytest.mark.parametrize("capacity", [1, 10_000])
async def test_messages_that_come_one_by_one_take_no_more_than_those_that_come_together(
    capacity: int, autojump_clock: MockClock
) -> None:
    server = supplying((frame(BINARY, b"x"), 10_000))
    async with connecting(server, channel_capacity=capacity, read_limit=SMALL_LIMIT) as client:
        with measured() as memory:
            await wait_all_tasks_blocked()
            held, _ = memory()
        messages = client.statistics().messages_received
        assert messages == min(capacity + 4096, 10_000)
        assert held < 130 * messages


async def test_a_quarter_of_a_mebibyte_from_a_server_takes_no_more_than_one_message(
    autojump_clock: MockClock,
) -> None:
    message = frame(TEXT, deflated(emoji(16 * MIB)), reserved=COMPRESSED)
    server = supplying(message * 17)
    assert 256 * KIB < len(message) * 17 < 300 * KIB
    with measured() as memory:
        async with connecting(server, compression=Compression.NO_CONTEXT) as client:
            await wait_all_tasks_blocked()
            held, peak = memory()
            assert client.statistics().messages_received == 1
            assert held < 66 * MIB
            assert peak < 98 * MIB


async def lose_connections(site: Site, feed: Feed, count: int) -> None:
    """Lose so many connections, each once it holds as much as it may."""
    for number in range(count):
        await trio.sleep(100)
        assert len(site.servers) == number + 1
        site.servers[-1].broken = True
        with pytest.raises(ConnectionFailedError):
            await feed.send("are you there?")


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("kind", ["ASCII", "one emoji", "binary, compressed", SMALLER, SMALLER_COMPRESSED])
async def test_what_a_feed_holds_at_most_however_many_connections_it_loses(
    kind: str, capacity: int, autojump_clock: MockClock
) -> None:
    site = Site(*(supplying(KINDS[kind]) for _ in range(6)))
    with measured() as memory:
        async with site.feed(read_limit=LIMIT, channel_capacity=capacity, compression=Compression.NO_CONTEXT) as feed:
            await lose_connections(site, feed, 6)
            held, peak = memory()
            # Of large messages: nearly all is their data.
            assert held < WAITING_OF_A_FEED * LIMIT + FIXED_BYTES
            assert peak < WHILE_PARSED_OF_A_FEED * LIMIT + FIXED_BYTES


@pytest.mark.parametrize("kind", KINDS_IN_A_FEED)
async def test_what_small_messages_take_besides_their_data_in_a_feed(kind: str, autojump_clock: MockClock) -> None:
    site = Site(*(supplying(*PACKETS[kind]) for _ in range(3)))
    with measured() as memory:
        async with site.feed(
            read_limit=SMALL_LIMIT, channel_capacity=10_000, compression=Compression.NO_CONTEXT
        ) as feed:
            await lose_connections(site, feed, 3)
            held, peak = memory()
            assert held < WAITING_OF_A_FEED * SMALL_LIMIT + FIXED_BYTES_OF_A_FEED
            assert peak < WHILE_PARSED_OF_A_FEED * SMALL_LIMIT + FIXED_BYTES_OF_A_FEED


# Resting, and going on ------------------------------------------------------------------------------------------------

LARGE = frame(TEXT, emoji(LIMIT))
OPTIONS: ConnectOptions = {"read_limit": LIMIT, "channel_capacity": 100}


async def test_reading_rests_at_the_limit_and_goes_on_as_large_messages_are_taken(autojump_clock: MockClock) -> None:
    server = supplying(LARGE * 5)
    async with connecting(server, **OPTIONS) as client:
        for number in range(5):
            await trio.sleep(1)
            assert client.statistics().messages_received == number + 1
            assert (await client.receive_value()).data[-1:] == "\U0001f600"
        assert (client.statistics().messages_received, client.close_code) == (5, None)


async def test_small_messages_behind_a_large_one_are_read_once_that_is_taken(autojump_clock: MockClock) -> None:
    server = supplying(frame(TEXT, b"abc") * 3 + LARGE + frame(BINARY, bytes(60 * KIB)) * 5)
    async with connecting(server, **OPTIONS) as client:
        await trio.sleep(1)
        received = client.statistics().messages_received
        assert 4 <= received <= 5
        for _ in range(4):  # the first three free too little
            await trio.sleep(1)
            assert client.statistics().messages_received == received
            assert (await client.receive_value()).type == "text"
        assert [len((await client.receive_value()).data) for _ in range(5)] == [60 * KIB] * 5


@pytest.mark.parametrize("how", ["select", "Selector", "receive_nowait", "iterate"])
async def test_reading_goes_on_however_messages_are_taken(how: str, autojump_clock: MockClock) -> None:
    server = supplying(LARGE * 4)
    taken = 0
    async with connecting(server, **OPTIONS) as client:
        with trio.fail_after(60), csp.Selector(client.channel()) as selector:
            while taken < 4:
                await trio.sleep(1)
                if how == "select":
                    taken += (await csp.select(client.channel().case_receive())).ok
                elif how == "Selector":
                    taken += (await selector.select()).ok
                elif how == "receive_nowait":
                    taken += client.channel().receive_nowait().ok
                else:
                    await anext(client)
                    taken += 1
        assert client.statistics().messages_received == 4


async def test_a_channel_that_is_closed_while_reading_rests(autojump_clock: MockClock) -> None:
    server = supplying(LARGE * 5)
    async with connecting(server, **OPTIONS) as client:
        await trio.sleep(1)
        client.channel().close()
        await trio.sleep(1)
        assert client.statistics().messages_received == 5  # and are discarded
        assert len(client.channel()) == 1


async def test_closing_while_reading_rests(autojump_clock: MockClock) -> None:
    server = Server()
    async with connecting(server, **OPTIONS) as client:
        server.send(LARGE * 3)
        await trio.sleep(1)
        await client.close(4000, "enough")
        assert trio.current_time() == 1
        assert (server.closes, client.close_code) == ([4000], 1000)


async def test_a_block_that_is_cancelled_while_reading_rests(autojump_clock: MockClock) -> None:
    server = supplying(LARGE * 3)
    with trio.move_on_after(1) as scope:
        async with connecting(server, **OPTIONS):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert server.closes == [1001]
    assert server.closed


async def test_who_waits_for_a_pong_while_reading_rests_is_told(autojump_clock: MockClock) -> None:
    server = supplying(LARGE * 3)
    async with connecting(server, **OPTIONS) as client:
        await trio.sleep(1)
        pong = await client.ping()
        with trio.fail_after(5):
            assert await pong.receive() == ENDED
        assert client.close_code is None


async def test_a_peer_is_pinged_and_not_blamed_while_reading_rests(autojump_clock: MockClock) -> None:
    server = supplying(LARGE * 3)
    async with connecting(server, read_timeout="2s", keepalive="1s", read_limit=LIMIT) as client:
        await trio.sleep(100)
        assert client.close_code is None
        assert 95 <= sum(sent.opcode == PING for sent in server.frames) <= 100
        for _ in range(3):
            assert (await client.receive_value()).type == "text"
        assert client.close_code is None


async def test_a_write_that_breaks_while_reading_rests(autojump_clock: MockClock) -> None:
    server = supplying(LARGE * 3)
    async with connecting(server, **OPTIONS) as client:
        await trio.sleep(1)
        server.broken = True
        with pytest.raises(ConnectionFailedError):
            await client.send("are you there?")
        assert client.close_code == 1006
        assert "behind the messages that wait (1) was not read" in str(client.error)
        assert [len(data) for data in await drained(client)] == [LIMIT - 3]


# Of a feed ------------------------------------------------------------------------------------------------------------


def numbered(number: int, size: int) -> bytes:
    return frame(TEXT, f"{number:010}".encode() + emoji(size - 10))


async def test_a_feed_passes_large_and_small_messages_on_in_order(autojump_clock: MockClock) -> None:
    sizes = [LIMIT if number % 3 == 0 else 30 if number % 3 == 1 else LIMIT // 10 for number in range(60)]
    site = Site(supplying(b"".join(map(numbered, range(60), sizes))))
    async with site.feed(**OPTIONS) as feed:
        for number in range(60):
            if number % 7 == 0:
                await trio.sleep(1)
            value = await feed.receive_value()
            assert isinstance(value, Message)
            assert isinstance(value.data, str)
            assert int(value.data[:10]) == number


async def test_large_messages_that_a_lost_connection_left_are_passed_on_one_by_one(autojump_clock: MockClock) -> None:
    size = LIMIT // 4
    site = Site(supplying(b"".join(numbered(number, size // 3) for number in range(10))))
    async with site.feed(read_limit=size, channel_capacity=100) as feed:
        await trio.sleep(1)
        site.servers[0].broken = True
        with pytest.raises(ConnectionFailedError):
            await feed.send("are you there?")
        await trio.sleep(100)
        assert feed.state.name == "open"
        assert len(feed.channel()) == 1
        values: list[Message | Gap] = []
        while not values or isinstance(values[-1], Message):
            values.append(await feed.receive_value())
        numbers = [int(str(value.data)[:10]) for value in values if isinstance(value, Message)]
        assert numbers == list(range(len(values) - 1))
        assert len(numbers) > 2


async def test_a_feed_that_ends_behind_large_messages_says_so(autojump_clock: MockClock) -> None:
    server = Server(answers_close=False)
    async with Site(server).feed(read_limit=LIMIT, channel_capacity=100) as feed:
        await trio.sleep(1)
        for data in (frame(TEXT, bytes(LIMIT // 2)) * 2, numbered(1, 30) + close(1000, "done")):
            server.send(data)
            await trio.sleep(1)
        assert feed.state.name == "closed"
        with pytest.raises(ConnectionFailedError, match="the feed has ended"):
            await feed.send("too late")
        assert [len(str(data)) for data in await rest(feed)] == [LIMIT // 2, LIMIT // 2, 27]


@pytest.mark.parametrize("how", ["feed", "channel", "block"])
async def test_a_feed_that_is_closed_while_too_much_waits(how: str, autojump_clock: MockClock) -> None:
    site = Site(supplying(LARGE * 5))
    async with site.feed(**OPTIONS) as feed:
        await trio.sleep(1)
        if how == "feed":
            await feed.close()
        elif how == "channel":
            feed.channel().close()
            await trio.sleep(1)
    assert feed.state.name == "closed"
    assert site.servers[0].closes == [1000]
