"""A server on one port that goes and comes back, for the command line client as a process."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.websocket._peers import CLOSE, TEXT, acceptance, close_frame, frame, unmasked

if TYPE_CHECKING:
    from collections.abc import Generator

_LIMIT_SECONDS = 30


class Connection:
    """The server's end of a connection over TCP."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        stream.settimeout(_LIMIT_SECONDS)
        request = b""
        while b"\r\n\r\n" not in request:
            request += self._some()
        stream.sendall(acceptance(request))

    def send(self, *texts: str) -> None:
        for text in texts:
            self.stream.sendall(frame(TEXT, text.encode()))

    def receive(self) -> str:
        """Return the next message of less than 126 bytes; "" for a close frame."""
        opcode, size = self._exactly(2)
        payload = self._exactly(4 + (size & 0x7F))
        return "" if opcode & 0x0F == CLOSE else unmasked(payload[4:], payload[:4]).decode()

    def close(self, code: int = 1000) -> None:
        """Close as RFC 6455 says."""
        self.stream.sendall(close_frame(code))
        while self.receive():
            pass
        self.stream.close()

    def answer_close(self) -> None:
        """Wait for the client's close, and answer it."""
        while self.receive():
            pass
        self.stream.sendall(close_frame(1000))
        self.stream.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self._some(count - len(data))
        return data

    def _some(self, count: int = 1) -> bytes:
        data = self.stream.recv(count)
        assert data, "the client has ended the connection"
        return data


class Site:
    """An address where a server listens at times. Of no server, it refuses connections."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}/"

    @contextmanager
    def connection(self) -> Generator[Connection]:
        """Listen for one connection; at the end of the block it is lost, unless it was closed, and nobody listens."""
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            listener.settimeout(_LIMIT_SECONDS)
            stream, _ = listener.accept()
        with stream:
            yield Connection(stream)
