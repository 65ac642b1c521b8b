"""A listener in memory, and clients that send it raw bytes."""

from __future__ import annotations

import base64
import logging
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Unpack

import trio
from trio.testing import memory_stream_pair

from csp import websocket
from trio_csp_websocket.protocol.headers import Headers, parse_headers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import pytest

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY = base64.b64encode(bytes(16)).decode()
LOGGER = "csp.websocket.server"


def handshake(
    target: str = "/", *lines: str, host: str | None = "localhost", without: str = "", **changed: str
) -> bytes:
    """Return the request of a handshake.

    Args:
        target: path and query.
        lines: further headers.
        host: the Host header; None for none.
        without: the name of a header to leave out.
        changed: other values for headers, by names with underscores.
    """
    headers = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    own = [f"{name}: {value}" for name, value in headers.items() if value is not None and name != without]
    return "\r\n".join((f"GET {target} HTTP/1.1", *own, *lines, "", "")).encode()


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    """Return a frame as a client sends it; the key is zero."""
    head = (0x80 if fin else 0) | reserved | opcode
    length = len(payload)
    if length < 126:
        start = bytes((head, 0x80 | length))
    elif length < 1 << 16:
        start = bytes((head, 0xFE)) + length.to_bytes(2, "big")
    else:
        start = bytes((head, 0xFF)) + length.to_bytes(8, "big")
    return start + bytes(4) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    return masked(CLOSE, code.to_bytes(2, "big") + reason.encode())


class Answer(NamedTuple):
    status: int
    headers: Headers
    body: bytes


class RawClient:
    """A client's end of a stream."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._unread = b""

    async def send(self, *data: bytes) -> None:
        await self.stream.send_all(b"".join(data))

    async def _more(self) -> bool:
        block = await self.stream.receive_some(65536)
        self._unread += block
        return bool(block)

    async def _read(self, count: int) -> bytes:
        while len(self._unread) < count and await self._more():
            pass
        data, self._unread = self._unread[:count], self._unread[count:]
        return data

    async def answer(self) -> Answer:
        """Return the answer to the request, with its body if it has one."""
        while b"\r\n\r\n" not in self._unread:
            assert await self._more(), f"the stream ended instead of an answer, after {self._unread!r}"
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        line, _, fields = head.partition(b"\r\n")
        headers = parse_headers(fields)
        body = await self._read(int(headers.get("Content-Length", "0")))
        version, status = line.split(b" ")[:2]
        assert version == b"HTTP/1.1"
        return Answer(int(status), headers, body)

    async def ask(self, request: bytes | None = None) -> Answer:
        await self.send(handshake() if request is None else request)
        return await self.answer()

    async def accepted(self, request: bytes | None = None) -> Answer:
        """Carry out the handshake."""
        answer = await self.ask(request)
        assert answer.status == 101, answer
        return answer

    async def frame(self) -> tuple[int, bytes]:
        """Return the first byte and the payload of the next frame."""
        start = await self._read(2)
        assert len(start) == 2, "the stream ended instead of a frame"
        head, length = start
        assert length < 0x80, "a server's frame must not be masked"
        if length > 125:
            length = int.from_bytes(await self._read(2 if length == 126 else 8), "big")
        return head, await self._read(length)

    def unread(self, head: int, payload: bytes) -> None:
        """Have a frame come again, ahead of all that was not read; it is a small one."""
        self._unread = bytes((head, len(payload))) + payload + self._unread

    async def text(self) -> str:
        head, payload = await self.frame()
        assert head == 0x80 | TEXT, (head, payload)
        return payload.decode()

    async def closed(self) -> tuple[int, str]:
        """Return code and reason of the next frame, which must be a close frame."""
        head, payload = await self.frame()
        assert head == 0x80 | CLOSE, (head, payload)
        return (int.from_bytes(payload[:2], "big"), payload[2:].decode()) if payload else (1005, "")

    async def ended(self) -> None:
        """Wait for the end of the stream, before which nothing may come."""
        rest = await self._read(1)
        assert rest == b"", rest

    async def end(self) -> None:
        """Half-close: nothing more comes from here."""
        await self.stream.send_eof()

    async def leave(self) -> None:
        await self.stream.aclose()

    async def close(self, code: int = 1000) -> None:
        """Close as a client should: the close frame, the server's, the end of the stream."""
        await self.send(close_frame(code))
        assert await self.closed() == (code, "")
        await self.ended()
        await self.leave()


class Lobby(trio.abc.Listener[trio.abc.Stream]):
    """Listens in memory: to be given as one of the ``sockets``."""

    def __init__(self) -> None:
        self._arrived, self._arriving = trio.open_memory_channel[trio.abc.Stream](math.inf)
        self.closed = False

    def bring(self, stream: trio.abc.Stream) -> None:
        """Have a stream accepted."""
        self._arrived.send_nowait(stream)

    def connect(self) -> RawClient:
        near, far = memory_stream_pair()
        self.bring(far)
        return RawClient(near)

    async def accept(self) -> trio.abc.Stream:
        return await self._arriving.receive()

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def listening(
    **options: Unpack[websocket.ListenOptions],
) -> AsyncGenerator[tuple[websocket.Server, Lobby]]:
    """Listen in memory."""
    lobby = Lobby()
    options["sockets"] = [lobby]
    # Keepalive would have a clock that jumps go on for ever.
    with trio.fail_after(300_000):
        async with websocket.listen(**options) as server:
            yield server, lobby


@asynccontextmanager
async def connected(
    request: bytes | None = None, **options: Unpack[websocket.ListenOptions]
) -> AsyncGenerator[tuple[websocket.ServerConnection, RawClient]]:
    """Listen in memory, and have a client whose request has come and is not answered."""
    async with listening(**options) as (server, lobby):
        client = lobby.connect()
        await client.send(handshake() if request is None else request)
        yield await server.receive_value(), client


def debug_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name == LOGGER and record.levelno == logging.DEBUG
    ]
