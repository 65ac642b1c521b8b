"""A client that says any bytes at any pace, and what a server has said to it."""

from __future__ import annotations

import re
import socket
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

import trio

from tests.websocket._peers import CLOSE, frame

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

# Heads ----------------------------------------------------------------------------------------------------------------

HOST = "Host: 127.0.0.1"
FIELDS = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def head(*more: str, first: str = "GET / HTTP/1.1", host: str | None = HOST, fields: Sequence[str] = FIELDS) -> bytes:
    """Return the head of a request for a WebSocket, or of one that is wrong somewhere.

    Args:
        more: further lines of headers.
        first: the first line.
        host: the line of the Host header; None for none.
        fields: the lines that make it a request for a WebSocket.
    """
    lines = (first, *([] if host is None else [host]), *fields, *more, "", "")
    return "\r\n".join(lines).encode("latin-1")


def without(name: str) -> list[str]:
    """Return the headers of a handshake but for one."""
    return [line for line in FIELDS if not line.startswith(f"{name}:")]


# Frames ---------------------------------------------------------------------------------------------------------------


def sent(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    """Return a frame as a client sends it, with a mask of zeros."""
    return frame(opcode, payload, fin=fin, reserved=reserved, masked=True)


def from_client(frames: bytes) -> bytes:
    """Return frames of a server, which may break any rule, as a client sends them: with a mask of zeros each."""
    masked = bytearray()
    while frames:
        length = frames[1] & 0x7F
        size = {126: 4, 127: 10}.get(length, 2)
        if size > 2:
            length = int.from_bytes(frames[2:size], "big")
        masked += frames[:1] + bytes([frames[1] | 0x80]) + frames[2:size] + bytes(4) + frames[size : size + length]
        frames = frames[size + length :]
    return bytes(masked)


class Said(NamedTuple):
    """What a server has said to a client until the stream ended."""

    data: bytes
    clean: bool
    """Whether the stream ended as it should; False after a reset, or an error of TLS."""

    @property
    def status(self) -> int | None:
        """The status of its answer; None if there is none. There must not be a second one."""
        answers = re.findall(rb"HTTP/1.1 (\d+)", self.data)
        assert len(answers) <= 1, self.data
        return int(answers[0]) if answers else None

    @property
    def text(self) -> str:
        return self.data.decode("latin-1")

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """The opcodes and payloads of the frames behind the answer."""
        found: list[tuple[int, bytes]] = []
        rest = self.data.partition(b"\r\n\r\n")[2] if self.status == 101 else b""
        while rest:
            length = rest[1]
            size = {126: 4, 127: 10}.get(length, 2)
            if size > 2:
                length = int.from_bytes(rest[2:size], "big")
            found.append((rest[0] & 0x0F, rest[size : size + length]))
            rest = rest[size + length :]
        return found

    @property
    def code(self) -> int | None:
        """The code of its close frame, behind which nothing must come; 1005 for a close frame without one."""
        frames = self.frames
        closes = [payload for opcode, payload in frames if opcode == CLOSE]
        if not closes:
            return None
        assert len(closes) == 1, closes
        assert frames[-1][0] == CLOSE, frames
        return int.from_bytes(closes[0][:2], "big") if closes[0] else 1005


class Foe:
    """A client that misbehaves."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream: trio.abc.Stream = stream
        self.socket = stream
        self._heard = bytearray()

    async def secure(self, context: ssl.SSLContext) -> None:
        """Carry out the handshake of TLS."""
        stream = trio.SSLStream(self.socket, context, server_hostname="127.0.0.1")
        self.stream = stream
        await stream.do_handshake()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def say(self, data: bytes, *, each: int = 1) -> bool:
        """Send what the server may not want to hear, in pieces; return whether all of it could be sent."""
        try:
            for start in range(0, len(data), each):
                await self.send(data[start : start + each])
                await trio.lowlevel.checkpoint()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    async def open(self, *more: str, path: str = "/", then: bytes = b"") -> None:
        """Carry out the opening handshake, and send something right behind the request."""
        await self.send(head(*more, first=f"GET {path} HTTP/1.1") + then)
        await self.hear_until(b"\r\n\r\n")
        assert self._heard.startswith(b"HTTP/1.1 101 "), self._heard

    async def hear_until(self, said: bytes) -> None:
        """Listen until the server has said something, and no further if it is the last that it says for now."""
        while said not in self._heard:
            block = await self.stream.receive_some(1 << 16)
            assert block, self._heard
            self._heard += block

    async def hear(self, data: bytes = b"") -> Said:
        """Send something, and listen until the stream ends."""
        try:
            await self.send(data)
            while block := await self.stream.receive_some(1 << 16):
                self._heard += block
        except trio.BrokenResourceError:
            return Said(bytes(self._heard), clean=False)
        return Said(bytes(self._heard), clean=True)

    async def hear_out(self, data: bytes = b"") -> Said:
        """Do the same, and close the stream, as a client does that behaves."""
        said = await self.hear(data)
        await trio.aclose_forcefully(self.stream)
        return said

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.socket.close()

    def take_little(self) -> None:
        """Have the system keep few bytes that were not read."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
