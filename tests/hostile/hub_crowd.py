"""A hub with a crowd, of which one in ten does not read: over TCP and TLS, and each way to compress.

``python -m tests.hostile.hub_crowd`` does so with 5,000 connections, and prints how long broadcasts took and how much
memory the server's process has used; ``--connections``, ``--tls`` and ``--compression`` change that. The server is in a
process of its own. The next message is broadcast when all who read have the one before; who does not read is told to
come back when it reads at last. It ends with an error if anybody missed a message.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import ssl
import string
import subprocess
import sys
import time
import zlib
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from csp import websocket
from csp.websocket import COMPRESSION, Compression
from tests.websocket._links import contexts
from tests.websocket.server._lobby import CLOSE, TEXT, RawClient, handshake

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from csp.websocket import ServerConnection

MESSAGES = 60
MESSAGE_BYTES = 2048
CAPACITY = 16
SOCKET_BYTES = 8192
"""What the system buffers of what is not read, at each end; it takes more than that."""
ROUND_SECONDS = 120.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
MIB = 1 << 20
COMPRESSED = 0x40


class Way(NamedTuple):
    """What the connections are like."""

    tls: bool
    compression: Compression

    @property
    def shown(self) -> str:
        return f"{'TLS' if self.tls else 'TCP'}, {self.compression.name}"


WAYS = [Way(tls, compression) for tls in (False, True) for compression in Compression]


class Report(NamedTuple):
    """What the server's process has measured."""

    closed: int
    dropped: int
    seconds: list[float]
    """How long each broadcast took."""
    before_bytes: int
    """Of memory, with all connections open."""
    most_bytes: int
    """Of memory, at a time, while messages were broadcast."""


def text_of(number: int) -> str:
    """Return a message; it can be compressed by a quarter."""
    letters = random.Random(number).choices(string.ascii_letters + string.digits, k=MESSAGE_BYTES - 6)
    return f"{number:06}{''.join(letters)}"


# The server -----------------------------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Return how much memory this process has; 0 where the system does not show it."""
    statistics = Path("/proc/self/statm")
    return int(statistics.read_text().split()[1]) * PAGE_BYTES if statistics.exists() else 0


async def serve(connections: int, way: Way) -> None:
    """Be the server's process: print the port, broadcast once all are here, print a report, and wait to be ended."""
    hub = websocket.Hub(capacity=CAPACITY)
    all_here = trio.Event()
    send_done, done = trio.open_memory_channel[int](1)
    messages = [text_of(number) for number in range(MESSAGES)]

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        if connection.path == "/control":
            async for message in connection:
                await send_done.send(int(message.data))
            return
        hub.add(connection)
        if len(hub) == connections:
            all_here.set()
        async for _ in connection:
            pass

    listening = trio.socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
    await listening.bind(("127.0.0.1", 0))
    listening.listen(1000)
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[websocket.Server]) -> None:
            await websocket.serve(
                handler,
                sockets=[trio.SocketListener(listening)],
                ssl_context=contexts()[0] if way.tls else None,
                compression=way.compression,
                close_timeout="600s",
                write_timeout="600s",
                handshake_timeout="120s",
                keepalive=None,
                hosts="*",
                task_status=task_status,
            )

        server: websocket.Server = await nursery.start(run)
        print(json.dumps(listening.getsockname()[1]), flush=True)
        await all_here.wait()
        total: Counter[str] = Counter()
        seconds: list[float] = []
        before = most = resident_bytes()
        for number, text in enumerate(messages):
            begin = time.perf_counter()
            outcome = hub.broadcast(text)
            seconds.append(time.perf_counter() - begin)
            total.update(outcome._asdict())
            assert await done.receive() == number
            most = max(most, resident_bytes())
        print(json.dumps(Report(total["closed"], total["dropped"], seconds, before, most)), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
    assert server.connections == ()


# The clients ----------------------------------------------------------------------------------------------------------


class Crowd:
    """The clients, one in ten of which does not read before the end."""

    def __init__(self, port: int, connections: int, way: Way) -> None:
        self.readers = connections - connections // 10
        self._connections = connections
        self._port = port
        self._way = way
        self._texts = [text_of(number) for number in range(MESSAGES)]
        self._have: Counter[int] = Counter()
        self._all_have, self._done = trio.open_memory_channel[int](MESSAGES)
        self._trusting = ssl.create_default_context()
        self._trusting.check_hostname = False
        self._trusting.verify_mode = ssl.CERT_NONE
        self.open = 0

    async def run(self) -> None:
        """Connect them all, and have each read what it has to."""
        over = trio.Event()
        limiter = trio.CapacityLimiter(50)
        control = await self._connect("/control", reads=True)
        async with trio.open_nursery() as nursery:
            for number in range(self._connections):
                reads = number % 10 != 9
                nursery.start_soon(self._be_one, limiter, reads, over)
            with trio.fail_after(ROUND_SECONDS * 5):
                for number in range(MESSAGES):
                    assert await self._done.receive() == number
                    await control.send(_masked_text(str(number)))
            over.set()
        await trio.aclose_forcefully(control.stream)

    async def _be_one(self, limiter: trio.CapacityLimiter, reads: bool, over: trio.Event) -> None:
        async with limiter:
            client = await self._connect("/", reads=reads)
        self.open += 1
        if not reads:
            await over.wait()
        with trio.fail_after(ROUND_SECONDS * 5):
            count = await self._read(client, notes=reads)
        assert (count == MESSAGES) == reads, f"{count} of {MESSAGES} messages have come"
        if not reads:
            assert await client.closed() == (1013, "messages come faster than they are read")
        await trio.aclose_forcefully(client.stream)

    async def _connect(self, path: str, *, reads: bool) -> RawClient:
        one = trio.socket.socket()
        if not reads:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        await one.connect(("127.0.0.1", self._port))
        stream: trio.abc.Stream = trio.SocketStream(one)
        if self._way.tls:
            stream = trio.SSLStream(stream, self._trusting, server_hostname="server.test")
        client = RawClient(stream)  # type: ignore[arg-type]  # nothing is half-closed
        offers = {
            Compression.DISABLED: [],
            Compression.CONTEXT_TAKEOVER: ["Sec-WebSocket-Extensions: permessage-deflate"],
            Compression.NO_CONTEXT: ["Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"],
        }
        await client.accepted(handshake(path, *offers[self._way.compression]))
        return client

    async def _read(self, client: RawClient, *, notes: bool) -> int:
        """Read messages, which must come in order, to the last one or up to a close; return how many came."""
        inflater = zlib.decompressobj(-15)
        for number, text in enumerate(self._texts):
            head, payload = await client.frame()
            if head == 0x80 | CLOSE:
                client.unread(head, payload)
                return number
            assert bool(head & COMPRESSED) == (self._way.compression is not Compression.DISABLED)
            assert head & ~COMPRESSED == 0x80 | TEXT
            if head & COMPRESSED:
                if self._way.compression is Compression.NO_CONTEXT:
                    inflater = zlib.decompressobj(-15)
                payload = inflater.decompress(payload + b"\x00\x00\xff\xff")
            assert payload.decode() == text, f"message {number} is missing or changed"
            if notes:
                self._have[number] += 1
                if self._have[number] == self.readers:
                    self._all_have.send_nowait(number)
        return MESSAGES


def _masked_text(text: str) -> bytes:
    return bytes((0x80 | TEXT, 0x80 | len(text))) + bytes(4) + text.encode()


# Both -----------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(connections: int, way: Way) -> AsyncGenerator[trio.Process]:
    """Run the server's process for the length of a block."""
    command = [sys.executable, "-m", __spec__.name, "--connections", str(connections), "--serve"]
    command += ["--compression", way.compression.name, *(["--tls"] if way.tls else [])]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
        await process.stdin.aclose()
        with trio.fail_after(ROUND_SECONDS):
            assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await trio.aclose_forcefully(process.stdin)
            await trio.aclose_forcefully(process.stdout)


async def run(connections: int, way: Way) -> Report:
    """Run both; check that all went as it should."""
    async with serving(connections, way) as process:
        assert process.stdout is not None
        lines = b""
        while not lines.endswith(b"\n"):
            block = await process.stdout.receive_some()
            assert block, "the server has failed"
            lines += block
        crowd = Crowd(json.loads(lines), connections, way)
        await crowd.run()
        lines = b""
        while not lines.endswith(b"\n"):
            block = await process.stdout.receive_some()
            assert block, "the server has failed"
            lines += block
    report = Report(*json.loads(lines))
    assert (report.closed, report.dropped) == (connections - crowd.readers, 0)
    # A compressor is made for each connection with the first message that keeps its context. What a member that does
    # not read takes is what is written at a time, which is 64 KiB and a message, and what waits, which all share.
    each = (160 if way.compression is COMPRESSION.CONTEXT_TAKEOVER else 0) + (48 if way.tls else 16)
    most = 16 * MIB + connections * each * 1024 + report.closed * 160 * 1024
    assert report.most_bytes - report.before_bytes <= most, (report.before_bytes, report.most_bytes)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description="A hub with a crowd, of which one in ten does not read.")
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--tls", action="store_true", help="only over TLS")
    parser.add_argument("--compression", choices=Compression.__members__, help="only in this way")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve, arguments.connections, Way(arguments.tls, Compression[arguments.compression]))
        return
    for way in WAYS:
        if arguments.compression in (None, way.compression.name) and (way.tls or not arguments.tls):
            report = trio.run(run, arguments.connections, way)
            median, most = sorted(report.seconds)[len(report.seconds) // 2], max(report.seconds)
            more = (report.most_bytes - report.before_bytes) / MIB
            print(
                f"{way.shown:<22} {arguments.connections} connections: a broadcast takes {1000 * median:.1f} ms, "
                f"at most {1000 * most:.1f} ms (number {report.seconds.index(most)}); "
                f"memory {report.before_bytes / MIB:.0f} MiB, {more:.1f} MiB more at most; {report.closed} closed",
                flush=True,
            )


if __name__ == "__main__":
    main()
