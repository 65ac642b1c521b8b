"""The server of the WebSocket benchmarks: a process of its own, with blocking sockets and a thread for each connection.

It does next to nothing for a message, so that it is faster than any client. What it sends is encoded beforehand, and
of what it is sent it counts the bytes. The path of a request says what it does:

    /flood/SIZE/COUNT        after WARM_UP messages waits for any message, then sends COUNT of SIZE bytes
    /compressed/SIZE/COUNT   the same, compressed
    /gated/SIZE/COUNT/GATE   after one message waits for its gate to be opened, then sends COUNT
    /gate/GATE               opens a gate with every message
    /sink/SIZE/COUNT         when WARM_UP + COUNT messages of SIZE bytes have come, sends one
    /echo                    sends back what comes, which is also how an idle connection is had
    /bomb                    waits for any message, then sends one of 1 MiB that inflates to 1 GiB

It writes its ports and the certificate of its authority to standard output as JSON, and ends when its standard input
does, or after 20 minutes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeAlias

from benchmarks.meters.measure import load
from benchmarks.meters.rig import raise_file_limit
from benchmarks.peers.websocket_messages import TEXT, WARM_UP, bomb, frame, message, message_length

_CLOSE = 0x88
_BLOCK_BYTES = 512 * 1024
_LOOKING_SECONDS = 0.0002
_LIFETIME_SECONDS = 20 * 60
_GATE_SECONDS = 60
_KEY_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3

_gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)


class _Closed(Exception):  # noqa: N818  # no error
    """The client has closed the connection, or has gone."""


class _Connection:
    """A client's connection after its handshake, in which clients have one frame for a message."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self._received = bytearray()
        request = self._receive_until_blank_line()
        self.path = request.split(b" ", 2)[1].decode()
        fields = dict(line.split(b": ", 1) for line in request.split(b"\r\n")[1:] if b": " in line)
        key = next(value for name, value in fields.items() if name.lower() == b"sec-websocket-key")
        accept = base64.b64encode(hashlib.sha1(key.strip() + _KEY_SUFFIX, usedforsecurity=False).digest())
        lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
        lines.append(b"Sec-WebSocket-Accept: " + accept)
        if self.path.startswith(("/compressed/", "/bomb")):
            lines.append(b"Sec-WebSocket-Extensions: permessage-deflate")
        stream.sendall(b"\r\n".join([*lines, b"", b""]))

    def _receive_until_blank_line(self) -> bytes:
        while b"\r\n\r\n" not in self._received:
            self._receive_more()
        request, _, rest = bytes(self._received).partition(b"\r\n\r\n")
        self._received[:] = rest
        return request

    def _receive_more(self) -> None:
        data = self.stream.recv(1 << 16)
        if not data:
            raise _Closed
        self._received += data

    def receive(self) -> bytes:
        """Return the next message's payload; answer a close frame."""
        while (length := self._frame_length()) is None or len(self._received) < length:
            self._receive_more()
        data = bytes(self._received[:length])
        del self._received[:length]
        size = length - message_length(0) - (2 if data[1] == 0xFE else 8 if data[1] == 0xFF else 0)
        key = data[length - size - 4 : length - size] * (size // 4 + 1)
        masked = int.from_bytes(data[length - size :], "big")
        payload = (masked ^ int.from_bytes(key[:size], "big")).to_bytes(size, "big")
        if data[0] == _CLOSE:
            self.stream.sendall(frame(_CLOSE, payload))
            raise _Closed
        return payload

    def _frame_length(self) -> int | None:
        """Return the length of the frame that has begun to come in; None if that is not known yet."""
        received = self._received
        if len(received) < 14:
            return message_length(received[1] & 0x7F) if len(received) >= 2 and received[1] < 0xFE else None
        size = received[1] & 0x7F
        if size > 125:
            size = int.from_bytes(received[2:4] if size == 126 else received[2:10], "big")
        return message_length(size)

    def count_bytes(self, expected: int) -> None:
        """Receive so many bytes, and throw them away.

        Looks for them instead of waiting: to wake this process would be work of the client's, which it has not with a
        server elsewhere.
        """
        buffer = bytearray(1 << 20)
        left = expected - len(self._received)
        self._received.clear()
        self.stream.setblocking(False)
        while left > 0:
            try:
                received = self.stream.recv_into(buffer, min(left, len(buffer)))
            except (BlockingIOError, ssl.SSLWantReadError):
                time.sleep(_LOOKING_SECONDS)
                continue
            if not received:
                raise _Closed
            left -= received
        self.stream.setblocking(True)

    def send_repeatedly(self, data: bytes, count: int) -> None:
        """Send a frame so many times, in large blocks."""
        at_once = min(max(1, _BLOCK_BYTES // len(data)), count)
        block = data * at_once
        for _ in range(count // at_once):
            self.stream.sendall(block)
        self.stream.sendall(data * (count % at_once))


def _flood(connection: _Connection, size: str, count: str) -> None:
    data = message(int(size), compressed=connection.path.startswith("/compressed/"))
    connection.send_repeatedly(data, WARM_UP)
    connection.receive()
    connection.send_repeatedly(data, int(count))


def _gated(connection: _Connection, size: str, count: str, gate: str) -> None:
    data = message(int(size), compressed=False)
    connection.send_repeatedly(data, 1)
    _gates[gate].wait(_GATE_SECONDS)
    connection.send_repeatedly(data, int(count))


def _open_gate(connection: _Connection, gate: str) -> None:
    while True:
        connection.receive()
        _gates[gate].set()


def _sink(connection: _Connection, size: str, count: str) -> None:
    connection.count_bytes(message_length(int(size)) * (WARM_UP + int(count)))
    connection.send_repeatedly(message(32, compressed=False), 1)


def _echo(connection: _Connection) -> None:
    while True:
        connection.stream.sendall(frame(TEXT, connection.receive()))


def _send_bomb(connection: _Connection) -> None:
    data = bomb()
    connection.receive()
    connection.stream.sendall(data)


_ACTIONS: dict[str, Callable[..., None]] = {
    "flood": _flood,
    "compressed": _flood,
    "gated": _gated,
    "gate": _open_gate,
    "sink": _sink,
    "echo": _echo,
    "bomb": _send_bomb,
}

Wrap: TypeAlias = Callable[[socket.socket], socket.socket]


def _serve(plain: socket.socket, wrap: Wrap) -> None:
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        with wrap(plain) as stream:
            connection = _Connection(stream)
            action, *arguments = connection.path.strip("/").split("/")
            _ACTIONS[action](connection, *arguments)
            while True:
                connection.receive()
    except (_Closed, OSError):
        pass  # the client is done, or was stopped


def _accept(listener: socket.socket, wrap: Wrap) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection, wrap), daemon=True).start()


def _listen(wrap: Wrap) -> int:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    threading.Thread(target=_accept, args=(listener, wrap), daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def main(*, secure: bool) -> None:
    """Serve until standard input ends."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    raise_file_limit()
    threading.stack_size(256 * 1024)
    answer: dict[str, object] = {"ws": _listen(lambda stream: stream)}
    if secure:
        trustme = load("trustme")
        authority = trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        answer["wss"] = _listen(lambda stream: context.wrap_socket(stream, server_side=True))
        answer["authority"] = authority.cert_pem.bytes().decode()
    print(json.dumps(answer), flush=True)
    ended = threading.Thread(target=sys.stdin.read, daemon=True)
    ended.start()
    ended.join(_LIFETIME_SECONDS)


if __name__ == "__main__":
    main(secure="--secure" in sys.argv)
