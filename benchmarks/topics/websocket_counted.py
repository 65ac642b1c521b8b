"""A WebSocket over loopback whose operations can be counted.

Its other end is a socket of the very task that measures, used between the client's operations: so what there is to read
when the client reads is the same each time.
"""

from __future__ import annotations

import zlib
from contextlib import asynccontextmanager
from socket import MSG_WAITALL, socket
from typing import TYPE_CHECKING, NamedTuple

import trio
import wsproto
from trio.testing import wait_all_tasks_blocked
from wsproto.events import AcceptConnection, Request
from wsproto.extensions import PerMessageDeflate

from benchmarks.topics.compression import json_messages
from csp import websocket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from benchmarks.meters.measure import Meter

TEXT = "x" * 32
_SENT_BYTES = 2 + 4 + len(TEXT)
"""The client's frame for it."""


class _Ends(NamedTuple):
    """A connection's two ends."""

    client: websocket.Client
    server: socket

    def take(self, size: int) -> None:
        """Receive so many bytes at the server's end; all of them have been sent."""
        assert len(self.server.recv(size, MSG_WAITALL)) == size


@asynccontextmanager
async def _connection(compression: int = websocket.COMPRESSION.DISABLED) -> AsyncGenerator[_Ends]:
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        accepted: list[socket] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_accept, listener, accepted)
            async with websocket.connect(url, compression=compression) as client:
                await wait_all_tasks_blocked()
                with accepted[0] as server:
                    yield _Ends(client, server)
                    nursery.cancel_scope.cancel()  # nobody would answer a close


async def _accept(listener: trio.socket.SocketType, accepted: list[socket]) -> None:
    stream, _ = await listener.accept()
    protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    protocol.receive_data(await stream.recv(64 * 1024))
    assert isinstance(next(protocol.events()), Request)
    await stream.send(protocol.send(AcceptConnection(extensions=[PerMessageDeflate()])))
    server = socket(fileno=stream.detach())
    server.setblocking(True)
    accepted.append(server)


def frame(payload: bytes, *, compressed: bool = False) -> bytes:
    head = b"\xc1" if compressed else b"\x81"
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 1 << 16:
        return head + b"\x7e" + len(payload).to_bytes(2, "big") + payload
    return head + b"\x7f" + len(payload).to_bytes(8, "big") + payload


def _deflated(text: bytes) -> bytes:
    """Return a compressed message that refers to none before it."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


async def receive(frames: Sequence[bytes], count: int, meter: Meter, *, compression: int = 0) -> None:
    """Receive messages of which so many arrive together."""
    block = b"".join(frames)
    async with _connection(compression) as ends:
        channel = ends.client.channel()
        with meter:
            for _ in range(count // len(frames)):
                ends.server.sendall(block)
                for _ in frames:
                    await channel.receive()


async def receive_compressed(count: int, meter: Meter) -> None:
    frames = [frame(_deflated(message), compressed=True) for message in json_messages(1024)]
    await receive(frames, count, meter, compression=websocket.COMPRESSION.CONTEXT_TAKEOVER)


async def send(tasks: int, count: int, meter: Meter) -> None:
    """Send from some tasks, each taking its messages at the other end when it has sent a few."""
    few = 32

    async def send_some() -> None:
        for _ in range(count // (tasks * few)):
            for _ in range(few):
                await ends.client.send(TEXT)
            ends.take(few * _SENT_BYTES)

    async with _connection() as ends:
        with meter:
            async with trio.open_nursery() as nursery:
                for _ in range(tasks):
                    nursery.start_soon(send_some)


async def ping_pong(count: int, meter: Meter) -> None:
    answer = frame(TEXT.encode())
    async with _connection() as ends:
        channel = ends.client.channel()
        with meter:
            for _ in range(count):
                await ends.client.send(TEXT)
                ends.take(_SENT_BYTES)
                ends.server.sendall(answer)
                await channel.receive()
