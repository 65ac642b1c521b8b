"""What loads the WebSocket servers: plain sockets and ready-made frames, the same for all of them.

It is far faster than any server: for a block of messages it has a system call or two, and compares what comes back as
a whole. It offers no extensions, so that no server compresses.
"""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from benchmarks.meters.rig import raise_file_limit
from benchmarks.peers.websocket_messages import TEXT, WARM_UP, frame, text

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from benchmarks.meters.measure import Meter

STALLED_BUFFER_BYTES = 4096
"""What the system may hold of what a server sends, and of what a client has not read, where some do not read."""

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_MASK = b"\x3a\x95\xc7\x1e"
_NORMAL_CLOSURE = (1000).to_bytes(2, "big")
_WAITING_SECONDS = 30
_WARM_UP_VISITS = 10
_WARM_UP_BROADCASTS = 2
_SPARE_DESCRIPTORS = 100


def masked(head: int, payload: bytes) -> bytes:
    """Return a client's frame (RFC 6455, section 5.3)."""
    plain = frame(head, payload)
    start = len(plain) - len(payload)
    key = (_MASK * (len(payload) // 4 + 1))[: len(payload)]
    covered = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")
    return bytes((plain[0], plain[1] | 0x80)) + plain[2:start] + _MASK + covered


CLOSE = masked(0x88, _NORMAL_CLOSURE)


def _connect(port: int, *, receive_buffer_bytes: int | None = None) -> socket.socket:
    """Open a connection to the server on a port of this machine."""
    stream = socket.socket()
    try:
        if receive_buffer_bytes is not None:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        stream.connect(("127.0.0.1", port))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A timeout of Python's own would take a further system call before each.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _WAITING_SECONDS, 0))
        stream.sendall(REQUEST % port)
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            data = stream.recv(4096)
            answer += data
            if not data or not answer.startswith(b"HTTP/1.1 101 "):
                raise RuntimeError(f"the server refused the connection: {answer!r}")
    except BaseException:
        stream.close()
        raise
    return stream


@contextmanager
def open_connections(port: int, count: int, *, one_in_ten_stalls: bool = False) -> Generator[Sequence[socket.socket]]:
    """Open connections for the length of a block; every tenth of them with little room for what is not read."""
    raise_file_limit(count + _SPARE_DESCRIPTORS)
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                _connect(port, receive_buffer_bytes=STALLED_BUFFER_BYTES if one_in_ten_stalls and _stalls(i) else None)
            )
            for i in range(count)
        ]


def _stalls(number: int) -> bool:
    return number % 10 == 9


class _Blocks:
    """Sends blocks of messages on a connection, and takes as many echoes."""

    def __init__(self, stream: socket.socket, size: int, in_flight: int) -> None:
        payload = text(size).encode()
        self._stream = stream
        self._block = masked(TEXT, payload) * in_flight
        self._echo = frame(TEXT, payload) * in_flight
        self._received = bytearray(len(self._echo))

    def exchange(self, count: int) -> None:
        """Send a block and take its echo, so many times."""
        stream, block, echo, received = self._stream, self._block, self._echo, self._received
        room = memoryview(received)
        for _ in range(count):
            stream.sendall(block)
            taken = 0
            while taken < len(echo):
                more = stream.recv_into(room[taken:])
                if not more:
                    raise RuntimeError("the server has closed the connection")
                taken += more
            if bytes(room) != echo:
                raise RuntimeError("the server sent something else than the echo")


def echo(size: int, in_flight: int, port: int, count: int, meter: Meter) -> int:
    """Send messages of a size on one connection, so many together, and go on when all of them are back."""
    blocks = -(-count // in_flight)
    with open_connections(port, 1) as (stream,):
        exchanging = _Blocks(stream, size, in_flight)
        exchanging.exchange(WARM_UP)
        with meter:
            exchanging.exchange(blocks)
    return blocks * in_flight


def visit(port: int, count: int, meter: Meter) -> int:
    """Open a connection and close it, one after the other."""
    answer = frame(0x88, _NORMAL_CLOSURE)

    def come_and_go(times: int) -> None:
        for _ in range(times):
            with _connect(port) as stream:
                stream.sendall(CLOSE)
                received = b""
                while data := stream.recv(4096):
                    received += data
                if received != answer:
                    raise RuntimeError(f"the server did not answer the close, but sent {received!r}")

    come_and_go(_WARM_UP_VISITS)
    with meter:
        come_and_go(count)
    return count


def stay(port: int, count: int, meter: Meter) -> int:
    """Open connections on which nothing happens."""
    with open_connections(port, 1) as (first,), ExitStack() as stack:
        _Blocks(first, 32, 1).exchange(WARM_UP)
        with meter:
            stack.enter_context(open_connections(port, count))
            # The last of them has a task of its own when the server has gone on to this.
            _Blocks(first, 32, 1).exchange(WARM_UP)
    return count


def broadcast(connections: int, port: int, count: int, meter: Meter, *, one_in_ten_stalls: bool = False) -> int:
    """Send a message of 128 B that the server sends to all connections, and go on when it has come to all that read.

    An operation is a message that has come to one of them.
    """
    payload = text(128).encode()
    message, copy = masked(TEXT, payload), frame(TEXT, payload)
    with open_connections(port, connections, one_in_ten_stalls=one_in_ten_stalls) as streams:
        reading = [stream for i, stream in enumerate(streams) if not (one_in_ten_stalls and _stalls(i))]
        times = -(-count // len(reading))

        def send_to_all(times: int) -> None:
            for _ in range(times):
                streams[0].sendall(message)
                for stream in reading:
                    received = stream.recv(len(copy), socket.MSG_WAITALL)
                    if received != copy:
                        raise RuntimeError(f"the server sent something else than the message: {received!r}")

        send_to_all(_WARM_UP_BROADCASTS)
        with meter:
            send_to_all(times)
    return times * len(reading)
