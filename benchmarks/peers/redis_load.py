"""What takes the messages of servers that are fed from one topic: plain sockets, with all of their bytes compared."""

from __future__ import annotations

import selectors
import socket
from contextlib import ExitStack
from time import perf_counter

from benchmarks.meters.across import Program, begin, server_port
from benchmarks.meters.rig import raise_file_limit
from benchmarks.peers.websocket_load import open_connections
from benchmarks.peers.websocket_messages import frame

SERVERS = 2
CONNECTIONS = 1000
"""Of all servers together."""
_SPARE_DESCRIPTORS = 200
_BINARY = 0x82
_WAITING_SECONDS = 30


def connections_of_redis() -> int:
    """Return how many connections the Redis server has, without the one that asks."""
    with socket.create_connection(("127.0.0.1", server_port())) as stream, stream.makefile("rb") as lines:
        stream.sendall(b"CLIENT LIST\r\n")
        size = int(lines.readline()[1:])
        return lines.read(size).count(b"id=") - 1


def take_all(streams: list[socket.socket], expected: bytes, *, waiting_seconds: float = _WAITING_SECONDS) -> None:
    """Receive on all connections until each has had what was published, in order.

    Raises:
        RuntimeError: something else comes; or nothing, for so long, on those that miss something.
    """
    with selectors.DefaultSelector() as selector:
        left: dict[socket.socket, int] = dict.fromkeys(streams, 0)
        for each in streams:
            selector.register(each, selectors.EVENT_READ, each)
        while left:
            ready = selector.select(waiting_seconds)
            if not ready:
                raise RuntimeError(f"{len(left)} connections miss messages")
            for key, _ in ready:
                stream: socket.socket = key.data
                data = stream.recv(1 << 16)
                start = left[stream]
                if not data or expected[start : start + len(data)] != data:
                    raise RuntimeError("a server has closed a connection, or sent something else than the values")
                left[stream] += len(data)
                if left[stream] == len(expected):
                    selector.unregister(stream)
                    del left[stream]


def feed(count: int) -> float:
    """Publish values one after the other, and take each from every connection of two servers.

    Return the time on the wall of one message in microseconds, from the first call of publish to the last message.

    Raises:
        RuntimeError: a message is missing, or a server has other than two connections to Redis.
    """
    values = max(1, count // CONNECTIONS)
    expected = b"".join(frame(_BINARY, b"%0100d" % number) for number in range(values))
    raise_file_limit(CONNECTIONS + _SPARE_DESCRIPTORS)
    before = connections_of_redis()
    servers = [Program("benchmarks.peers.redis_fed", str(server_port())) for _ in range(SERVERS)]
    try:
        ports = [int(server.answer()) for server in servers]
        if connections_of_redis() - before != 2 * SERVERS:
            raise RuntimeError(f"the servers have {connections_of_redis() - before} connections to Redis")
        with ExitStack() as stack:
            streams = [
                stream
                for port in ports
                for stream in stack.enter_context(open_connections(port, CONNECTIONS // SERVERS))
            ]
            start = perf_counter()
            publisher = begin("csp", "publish", values)
            take_all(streams, expected)
            seconds = perf_counter() - start
            publisher.answer()
            if connections_of_redis() - before != 2 * SERVERS:
                raise RuntimeError("the servers have other connections to Redis than before")
    finally:
        for server in servers:
            server.end()
    return seconds / (values * CONNECTIONS) * 1e6
