"""Compression against the servers of `websockets`, `aiohttp` and npm's `ws`, which share no code with the driver.

That something was really compressed is told by the bytes on the wire, which the client counts where they pass, and by
the server of `websockets`, which says what it was given.
"""

from __future__ import annotations

import functools
import json
import random
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import websocket
from csp.errors import Kind
from tests.websocket._peers import AiohttpServer, LibraryServer, NodeServer, WebsocketsServer, connected

if TYPE_CHECKING:
    from collections.abc import Iterator

AnyServer: TypeAlias = LibraryServer | NodeServer

KIB, MIB = 1 << 10, 1 << 20
CONTEXT_TAKEOVER, NO_CONTEXT = websocket.COMPRESSION.CONTEXT_TAKEOVER, websocket.COMPRESSION.NO_CONTEXT
DEFAULT_THRESHOLDS = {CONTEXT_TAKEOVER: 128, NO_CONTEXT: 512}
# Of a frame with up to 64 KiB, sent by a client: with the mask.
HEADER_BYTES = 8

KINDS: dict[str, type[AnyServer]] = {"websockets": WebsocketsServer, "aiohttp": AiohttpServer, "ws": NodeServer}


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[AnyServer]:
    with KINDS[request.param]().running() as running:
        yield running


@pytest.fixture(scope="module", params=["websockets", "ws"])
def adjustable(request: pytest.FixtureRequest) -> Iterator[AnyServer]:
    """A server that can be asked for windows, for starting afresh, and for fragments; aiohttp knows none of them."""
    with KINDS[request.param]().running() as running:
        yield running


@pytest.fixture(scope="module")
def ws() -> Iterator[NodeServer]:
    with NodeServer().running() as running:
        yield running


@pytest.fixture(scope="module")
def noting() -> Iterator[LibraryServer]:
    """A server that says how its messages came."""
    with WebsocketsServer().running() as running:
        yield running


@pytest.fixture(params=[CONTEXT_TAKEOVER, NO_CONTEXT], ids=["context", "no context"])
def mode(request: pytest.FixtureRequest) -> websocket.Compression:
    compression: websocket.Compression = request.param
    return compression


# Messages -------------------------------------------------------------------------------------------------------------


def text(size: int) -> str:
    """Return text of so many bytes that compresses well; most of its characters take several."""
    return cut("Grüße, 世界 🌍 " * (size // 20 + 1), size)


def cut(text: str, size: int) -> str:
    """Cut or fill up a text to so many bytes."""
    whole = text.encode()[:size].decode(errors="ignore")
    return whole + "." * (size - len(whole.encode()))


def repetitive(size: int) -> bytes:
    return (bytes(range(64)) * (size // 64 + 1))[:size]


def noise(size: int) -> bytes:
    """Return bytes that do not compress, the same each time."""
    return random.Random(size).randbytes(size)


def noisy_text(size: int) -> str:
    """Return text that hardly compresses: characters of two bytes each, U+0100 to U+04FF."""
    source = noise(size)
    return cut("".join(chr(0x100 + 4 * byte + (byte & 3)) for byte in source), size)


@functools.cache
def messages(size: int) -> list[str | bytes]:
    return [text(size), repetitive(size), noise(size), noisy_text(size)]


def size_of(message: str | bytes) -> int:
    return len(message.encode() if isinstance(message, str) else message)


class Wire(NamedTuple):
    """What a message cost on the wire, frame header included, there and back."""

    sent: int
    received: int


async def echoed(client: websocket.Client, message: str | bytes) -> Wire:
    """Send a message, and check that it comes back as it went."""
    before = client.statistics()
    await client.send(message)
    received, ok = await client.receive()
    assert ok, client.error
    # Not in the assertion itself: to explain how megabytes differ takes minutes.
    same = received == ("text" if isinstance(message, str) else "binary", message)
    assert same
    after = client.statistics()
    return Wire(after.bytes_sent - before.bytes_sent, after.bytes_received - before.bytes_received)


def agreed(client: websocket.Client) -> str:
    return client.response_headers.get("Sec-WebSocket-Extensions", "")


# Sizes and kinds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, 127, 128, 511, 512, KIB, 64 * KIB, MIB], ids=lambda size: f"{size} bytes" if size < MIB else "1 MiB"
)
async def test_a_message_comes_back_as_it_went(server: AnyServer, mode: websocket.Compression, size: int) -> None:
    # With a threshold of 0 the smallest are compressed as well.
    async with connected(server.url("/echo?deflate"), compression=mode, compression_threshold=0) as client:
        assert agreed(client).startswith("permessage-deflate")
        for message in messages(size):
            assert size_of(message) == size
            await echoed(client, message)
        # Once more: with context they refer to those before.
        costs = [await echoed(client, message) for message in messages(size)]
        if size >= KIB:
            assert max(costs[0] + costs[1]) < size / 10


async def test_16_mib_of_text_come_back_as_they_went(server: AnyServer, mode: websocket.Compression) -> None:
    message = text(16 * MIB)  # the default read_limit
    async with connected(server.url("/echo?deflate"), compression=mode) as client:
        assert max(await echoed(client, message)) < MIB
        assert await echoed(client, "and on") < (20, 20)


async def test_16_mib_that_do_not_compress_come_back_as_they_went(server: AnyServer) -> None:
    # One mode each, for a second a time: on its own, a message is the same in both.
    mode = NO_CONTEXT if server.name == "aiohttp" else CONTEXT_TAKEOVER
    async with connected(server.url("/echo?deflate"), compression=mode) as client:
        # What deflate adds to them is within what read_limit leaves room for.
        assert min(await echoed(client, noise(16 * MIB))) > 16 * MIB
        assert await echoed(client, "and on") < (20, 20)


async def test_messages_are_compressed_from_the_threshold_on(server: AnyServer, mode: websocket.Compression) -> None:
    threshold = DEFAULT_THRESHOLDS[mode]
    async with connected(server.url("/echo?deflate"), compression=mode) as client:
        below = repetitive(threshold - 1)
        assert (await echoed(client, below)).sent == HEADER_BYTES - 2 * (threshold < 126) + len(below)
        assert (await echoed(client, repetitive(threshold))).sent < threshold
        # And again, so that compressed and uncompressed messages take turns.
        assert (await echoed(client, below)).sent > len(below)
        assert (await echoed(client, repetitive(threshold))).sent < threshold


async def test_a_server_is_given_compressed_what_reaches_the_threshold(
    noting: LibraryServer, mode: websocket.Compression
) -> None:
    async with connected(noting.url("/frames?deflate"), compression=mode, compression_threshold=50) as client:
        for message, compressed in (
            (repetitive(49), False),
            (repetitive(50), True),
            ("", False),
            (text(1000), True),
            # Fifty bytes, though only seventeen characters.
            ("世" * 16 + "..", True),
            ("世" * 16 + ".", False),
        ):
            await client.send(message)
            is_compressed, size = (await client.receive()).value.json()
            assert is_compressed == compressed
            assert size == size_of(message) or compressed


# Context --------------------------------------------------------------------------------------------------------------


def random_line(seed: int, length: int = 600) -> str:
    """Return text that compresses by little but more than half of it, on its own."""
    return noise(length + seed).hex()[:length]


async def test_with_context_a_message_that_came_before_costs_next_to_nothing(server: AnyServer) -> None:
    async with connected(server.url("/echo?deflate"), compression=CONTEXT_TAKEOVER) as client:
        line = random_line(1)
        first = await echoed(client, line)
        assert min(first) > 300
        for _ in range(20):
            assert max(await echoed(client, line)) < 40


async def test_without_context_it_costs_as_much_each_time(server: AnyServer) -> None:
    async with connected(server.url("/echo?deflate"), compression=NO_CONTEXT) as client:
        line = random_line(2)
        first = await echoed(client, line)
        assert min(first) > 300
        assert max(first) < 600
        for _ in range(20):
            assert await echoed(client, line) == first


async def test_many_messages_in_a_row_keep_both_contexts_in_step(
    server: AnyServer, mode: websocket.Compression
) -> None:
    dice = random.Random(3)
    sent: list[str | bytes] = []
    for number in range(600):
        order = {"id": number, "symbol": dice.choice(["BTC-USD", "ETH-USD", "größe"]), "price": dice.random()}
        line = json.dumps([order] * dice.choice([1, 1, 2, 10, 100]), ensure_ascii=False)
        sent.append(line if dice.random() < 0.5 else line.encode() + dice.randbytes(dice.choice([0, 0, 10, 1000])))
    async with (
        connected(server.url("/echo?deflate"), compression=mode, channel_capacity=8) as client,
        trio.open_nursery() as nursery,
    ):

        async def send() -> None:
            for message in sent:
                await client.send(message)

        nursery.start_soon(send)
        for number, message in enumerate(sent):
            received, ok = await client.receive()
            assert ok, client.error
            same = received.data == message
            assert same, f"message {number}"
        statistics = client.statistics()
    assert statistics.payload_bytes_sent == statistics.payload_bytes_received == sum(map(size_of, sent))
    assert statistics.bytes_sent < statistics.payload_bytes_sent * 0.75
    assert statistics.bytes_received < statistics.payload_bytes_received * 0.75


async def test_a_cancelled_send_leaves_the_context_as_the_server_has_it(server: AnyServer) -> None:
    lines = [random_line(number) for number in range(4, 24)]
    async with connected(server.url("/echo?deflate"), compression=CONTEXT_TAKEOVER) as client:
        async with trio.open_nursery() as nursery:

            async def receive_all() -> None:
                while (await client.receive()).value.data != "last":
                    pass

            nursery.start_soon(receive_all)
            # Too large to be written at once, so that the others stand in line, and leave it when they are cancelled.
            nursery.start_soon(client.send, noise(6 * MIB))
            await wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as senders:
                    for line in lines:
                        senders.start_soon(client.send, line)
                    await wait_all_tasks_blocked()
                    scope.cancel()
            await client.send("last")
        for line in lines:
            await echoed(client, line)
        # Of its 600 bytes; which lines went out before, and in which order, makes some difference.
        assert max(await echoed(client, lines[-1])) < 150


# What a server answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(8, 16))
async def test_a_server_may_limit_the_clients_window(
    adjustable: AnyServer, mode: websocket.Compression, bits: int
) -> None:
    url = adjustable.url(f"/echo?deflate&client_max_window_bits={bits}")
    async with connected(url, compression=mode) as client:
        assert f"client_max_window_bits={bits}" in agreed(client)
        # A client that looked back further would be told, with a close, that this cannot be inflated.
        costs = await costs_of_returning_lines(client)
        cheap = mode is CONTEXT_TAKEOVER and bits >= 12
        assert {cost.sent < 100 for cost in costs} == {cheap}


@pytest.mark.parametrize("bits", range(9, 16))
async def test_a_server_may_limit_its_own_window(adjustable: AnyServer, mode: websocket.Compression, bits: int) -> None:
    await receives_within_a_window(adjustable, mode, bits)


async def test_a_server_may_limit_its_own_window_to_8_bits(ws: NodeServer, mode: websocket.Compression) -> None:
    # The others cannot: zlib does not compress with such a window. Node uses 9 bits, and does not look back as far.
    await receives_within_a_window(ws, mode, 8)


async def receives_within_a_window(server: AnyServer, mode: websocket.Compression, bits: int) -> None:
    url = server.url(f"/echo?deflate&server_max_window_bits={bits}")
    async with connected(url, compression=mode) as client:
        assert f"server_max_window_bits={bits}" in agreed(client)
        costs = await costs_of_returning_lines(client)
        cheap = mode is CONTEXT_TAKEOVER and bits >= 12
        assert {cost.received < 100 for cost in costs} == {cheap}


async def costs_of_returning_lines(client: websocket.Client) -> list[Wire]:
    """Send a line of 2000 bytes again and again, so that it lies inside a window of 12 bits and outside one of 11."""
    line = random_line(30, 2000)
    await echoed(client, line)
    costs = [await echoed(client, line) for _ in range(5)]
    # Larger than any window: what is needed of it lies both near and far.
    await echoed(client, text(100 * KIB))
    for distance in (100, 250, 300, 520, 1000, 5000, 32_700, 33_000):
        await echoed(client, line[:200] + noise(distance).hex()[:distance] + line[:200])
    return costs


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_server_may_ask_for_a_fresh_start_with_every_message(adjustable: AnyServer, side: str) -> None:
    url = adjustable.url(f"/echo?deflate&{side}_no_context_takeover")
    async with connected(url, compression=CONTEXT_TAKEOVER) as client:
        assert f"{side}_no_context_takeover" in agreed(client)
        line = random_line(40)
        first = await echoed(client, line)
        for _ in range(5):
            again = await echoed(client, line)
            # The other side keeps its context.
            assert (again.sent == first.sent, again.received == first.received) == (side == "client", side == "server")
            assert (again.sent < 40, again.received < 40) == (side == "server", side == "client")


async def test_a_fresh_start_is_agreed_on_where_the_client_wants_it(server: AnyServer) -> None:
    async with connected(server.url("/echo?deflate"), compression=NO_CONTEXT) as client:
        assert "server_no_context_takeover" in agreed(client)


async def test_both_sides_with_windows_and_a_fresh_start(adjustable: AnyServer) -> None:
    answer = (
        "deflate&client_max_window_bits=9&server_max_window_bits=9"
        "&client_no_context_takeover&server_no_context_takeover"
    )
    async with connected(adjustable.url(f"/echo?{answer}"), compression=CONTEXT_TAKEOVER) as client:
        for message in messages(64 * KIB) * 2:
            await echoed(client, message)


async def test_a_server_may_decline(server: AnyServer, mode: websocket.Compression) -> None:
    async with connected(server.url("/echo"), compression=mode) as client:
        assert agreed(client) == ""
        for message in messages(KIB):
            assert await echoed(client, message) == (KIB + 8, KIB + 4)


async def test_a_server_that_could_does_not_compress_where_it_is_not_asked_to(server: AnyServer) -> None:
    async with connected(server.url("/echo?deflate")) as client:
        assert agreed(client) == ""
        for message in messages(KIB):
            assert await echoed(client, message) == (KIB + 8, KIB + 4)


# Fragments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, KIB, MIB], ids=["10 bytes", "1 KiB", "1 MiB"])
async def test_compressed_fragments_with_pings_between_them_are_one_message(
    adjustable: AnyServer, mode: websocket.Compression, size: int
) -> None:
    url = adjustable.url("/fragments?deflate")
    async with connected(url, compression=mode, compression_threshold=0) as client:
        for message in messages(size):
            await echoed(client, message)
        # And the contexts are still in step.
        assert (await echoed(client, repetitive(size))).received < size / 2 + 100


# Limits ---------------------------------------------------------------------------------------------------------------


async def test_a_message_may_inflate_to_the_read_limit(adjustable: AnyServer, mode: websocket.Compression) -> None:
    url = adjustable.url(f"/send/2/{MIB}?deflate")
    async with connected(url, compression=mode, read_limit=MIB) as client:
        for _ in range(2):
            message, ok = await client.receive()
            same = ok and message.data == bytes(MIB)
            assert same
        assert client.statistics().bytes_received < 10_000
        await client.close()
    if adjustable.name == "websockets":
        assert await adjustable.reported() == "sent"
    assert tuple(await adjustable.reported()) == (1000, "")


async def test_one_that_inflates_to_a_byte_more_is_refused_and_the_server_told_why(
    adjustable: AnyServer, mode: websocket.Compression
) -> None:
    url = adjustable.url(f"/send/1/{MIB + 1}?deflate")
    async with connected(url, compression=mode, read_limit=MIB) as client:
        assert not (await client.receive()).ok
        assert client.error is not None
        assert (client.error.kind, client.close_code) == (Kind.INTERNAL, 1009)
    if adjustable.name == "websockets":
        assert await adjustable.reported() == "sent"
    code, reason = await adjustable.reported()
    assert (code, reason) == (1009, client.close_reason)
