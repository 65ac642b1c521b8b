"""Large messages over real sockets, in both directions: the bytes that were sent, whatever stands around them."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import errors, websocket
from tests.websocket._peers import BINARY, CLOSE, TEXT, Frame, Peer, frame, raw_server, until
from trio_csp_websocket.connection.connection import READ_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

LIMIT = 1 << 23
CLOSED = Frame(CLOSE, b"", 0)
SIZES = [0, 125, 126, 65_535, 65_536, READ_BYTES - 10, READ_BYTES, READ_BYTES + 1, 250_000, 262_145, 600_000, 3_000_000]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def letters(size: int) -> str:
    return ("Grüße, 世界, \U0001f600. " * (size // 12 + 1))[:size]


async def echo(connection: websocket.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)


@asynccontextmanager
async def echoing(
    handler: Callable[[websocket.ServerConnection], Awaitable[None]] = echo, *, compressed: bool = False
) -> AsyncGenerator[websocket.Client]:
    """A client of a server, by default of one that echoes."""
    mode = websocket.COMPRESSION.CONTEXT_TAKEOVER if compressed else websocket.COMPRESSION.DISABLED
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(websocket.serve, handler, 0, read_limit=LIMIT, compression=mode))
        async with websocket.connect(server.url, read_limit=LIMIT, compression=mode) as client:
            yield client
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("compressed", [False, True])
async def test_messages_of_every_size_come_back_as_they_were(compressed: bool) -> None:
    async with echoing(compressed=compressed) as client:
        for size in SIZES + SIZES[::-1]:
            for data in (noise(size), letters(size // 3)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.send, data)
                    assert (await client.receive_value()).data == data


async def test_large_and_small_ones_without_waiting_for_each_other() -> None:
    data = [noise(size, number) for number, size in enumerate([10, 1_000_000, 0, 700_000, 300_000, 5, 131_072] * 3)]
    async with echoing() as client, trio.open_nursery() as nursery:

        async def send() -> None:
            for each in data:
                await client.send(each)

        nursery.start_soon(send)
        for each in data:
            assert (await client.receive_value()).data == each


@pytest.mark.parametrize("compressed", [False, True])
async def test_many_messages_in_one_go_both_ways(compressed: bool) -> None:
    async def echo_many(connection: websocket.ServerConnection) -> None:
        while messages := await connection.receive_many(10):
            await connection.send_many([message.data for message in messages])

    data = [noise(size) for size in (1, 0, 300_000, 20)] * 20 + [letters(number) for number in range(100)]
    async with echoing(echo_many, compressed=compressed) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send_many, data)
        got: list[str | bytes] = []
        while len(got) < len(data):
            got += [message.data for message in await client.receive_many(1000)]
    assert got == data


async def test_a_server_can_send_many_before_it_has_accepted() -> None:
    async def greet(connection: websocket.ServerConnection) -> None:
        await connection.send_many(["hello", b"you"])

    async with echoing(greet) as client:
        assert [message.data async for message in client] == ["hello", b"you"]


async def test_several_connections_receive_parts_of_large_messages_in_turn() -> None:
    async with trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            async with echoing() as client, trio.open_nursery() as sending:
                for round_ in range(3):
                    data = noise(1_000_000 + number, number + 10 * round_)
                    sending.start_soon(client.send, data)
                    assert (await client.receive_value()).data == data

        for number in range(4):
            nursery.start_soon(one, number)


@asynccontextmanager
async def served(*blocks: bytes, go: trio.Event | None = None) -> AsyncGenerator[websocket.Client]:
    """A client of a server that sends these bytes: the first, and the others once it may go on."""

    async def server(peer: Peer) -> None:
        await peer.accept()
        for number, block in enumerate(blocks):
            if number and go is not None:
                await go.wait()
            await peer.send(block)
        while (await peer.read_frame() or CLOSED).opcode != CLOSE:
            pass

    async with raw_server(server) as url, websocket.connect(url, read_limit=LIMIT) as client:
        yield client


@pytest.mark.parametrize("fragment", [1000, 70_000, 400_000])
async def test_a_large_text_in_fragments_that_cut_characters(fragment: int) -> None:
    text = letters(500_000)
    raw = text.encode()
    parts = [raw[start : start + fragment] for start in range(0, len(raw), fragment)]
    frames = [frame(0 if number else TEXT, part, fin=number == len(parts) - 1) for number, part in enumerate(parts)]
    async with served(b"".join(frames), frame(BINARY, b"next")) as client:
        assert (await client.receive_value()).data == text
        assert (await client.receive_value()).data == b"next"


async def test_a_large_text_that_is_not_utf_8_ends_the_connection_and_the_next_is_not_affected() -> None:
    bad = frame(TEXT, letters(500_000).encode()[:-1] + b"\xff")
    for _ in range(2):
        async with served(bad) as client:
            with pytest.raises(errors.ConnectionFailedError, match="not UTF-8"):
                await client.receive_value()
            assert client.close_code == 1007
        async with served(frame(TEXT, b"a" * 1_000_000)) as client:
            assert (await client.receive_value()).data == "a" * 1_000_000


@pytest.mark.parametrize("kind", [TEXT, BINARY])
async def test_a_message_that_is_under_way_can_be_taken_in_pieces(kind: int) -> None:
    data = (b"0123456789" * 200_000)[:1_500_000]
    whole = frame(kind, data)
    for cut in (READ_BYTES // 2, 300_000, 900_000):
        go = trio.Event()
        async with served(whole[:cut], whole[cut:], frame(BINARY, b"next"), go=go) as client:
            await until(lambda cut=cut, client=client: client.statistics().bytes_received >= cut)  # type: ignore[misc]
            async with client.receive_stream() as pieces:
                go.set()
                got = [piece async for piece in pieces]
            assert b"".join(piece.encode() if isinstance(piece, str) else piece for piece in got) == data
            assert (await client.receive_value()).data == b"next"


async def test_what_is_only_announced_takes_no_memory() -> None:
    announced = frame(BINARY, bytes(LIMIT))[:10]
    tracemalloc.start()
    try:
        async with served(announced + bytes(1000)) as client:
            before = tracemalloc.get_traced_memory()[0]
            await until(lambda: client.statistics().bytes_received >= 1000)
            await wait_all_tasks_blocked()
            assert tracemalloc.get_traced_memory()[0] - before < 2 * READ_BYTES
    finally:
        tracemalloc.stop()
