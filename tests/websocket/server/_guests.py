"""The clients of random programs: those of `websocket.connect`, raw ones, and those that want no WebSocket."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, cast

import trio

import csp
from csp import websocket
from csp.errors import ConnectionFailedError
from csp.websocket import Compression
from tests.websocket._links import contexts
from tests.websocket.server._ends import CODES, PAUSE_SECONDS, SIZES, End, Notes, OwnError, note_end
from tests.websocket.server._lobby import BINARY, CLOSE, PING, PONG, TEXT, close_frame, handshake, masked

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from csp.websocket import ConnectOptions

    Dial = Callable[[str, int], Awaitable[trio.abc.HalfCloseableStream]]

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


def client_options(chance: random.Random) -> ConnectOptions:
    return {
        "dial_timeout": chance.choice(["1s", "30s"]),
        "read_timeout": chance.choice([None, None, "5s"]),
        "write_timeout": chance.choice([None, "2s"]),
        "compression": chance.choice([*Compression]),
        "read_limit": chance.choice([0, 0, 0, 60_000]),
        "channel_capacity": chance.choice([1, 2, 16]),
        "keepalive": chance.choice([None, "1s", "20s"]),
        "close_timeout": chance.choice(["1s", "10s"]),
        "max_redirects": 0,
    }


class Guest:
    """A client of a program.

    Args:
        url: of the server, with a path of its own.
        dial: connects.
        chance: what decides.
        notes: what it notes.
    """

    def __init__(self, url: str, dial: Dial, chance: random.Random, notes: Notes) -> None:
        self.url = url
        self.dial = dial
        self.chance = chance
        self.notes = notes
        self.over_tls = False
        self.status: int | None = None
        """The status of the answer, once that has come."""

    def way_there(self) -> ConnectOptions:
        return {"dial": self.dial, "proxy": None, "ssl_context": contexts()[1] if self.over_tls else None}

    async def run(self) -> None:
        """Be a client from the beginning to the end."""
        raise NotImplementedError


class Connecting(Guest):
    """A client of `websocket.connect`."""

    async def run(self) -> None:
        with contextlib.suppress(OwnError, ConnectionFailedError), trio.CancelScope() as scope:
            async with (
                csp.BackgroundNursery() as nursery,
                websocket.connect(self.url, **(client_options(self.chance) | self.way_there())) as client,
            ):
                self.status = 101
                nursery.start_soon(note_end, client, self.notes)
                self.notes.codes |= {1000, 1001, 1011}  # the end of the block
                end = End(client, self.notes, self.chance)
                await end.act(self.chance.choice([0, 1, 5, 15]))
                match self.chance.randrange(8):
                    case 0:
                        scope.cancel()
                    case 1:
                        raise OwnError
                    case 2:
                        pass
                    case _:
                        await end.leave()


class Raw(Guest):
    """A client that makes its frames by hand, and may break any rule."""

    async def run(self) -> None:
        with contextlib.suppress(*_GONE):
            stream = await self.dial("", 0)
            self._stream: trio.abc.Stream = stream
            if self.over_tls:
                tcp = cast("trio.SocketStream", stream)
                self._stream = trio.SSLStream(tcp, contexts()[1], server_hostname="server.test", https_compatible=True)
            try:
                await self._begin()
                self._sending, self._reading = trio.Lock(), trio.Event()
                self._reading.set()
                self._answers_pings = self.chance.random() < 0.8
                self._answers_close = self.chance.random() < 0.8
                with trio.CancelScope() as scope:
                    async with csp.BackgroundNursery() as nursery:
                        nursery.start_soon(self._read, scope)
                        await self._act()
                        await trio.sleep(self.chance.choice([0, 0.1, 30]))
                        scope.cancel()
            finally:
                self._leave()
                await trio.aclose_forcefully(self._stream)

    def _leave(self) -> None:
        if isinstance(self._stream, trio.SocketStream) and self.chance.random() < 0.3:  # reset it
            with contextlib.suppress(OSError):
                self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _begin(self) -> None:
        request = handshake("/" + self.url.rpartition("/")[2])
        behind = b""
        if self.chance.random() < 0.2:
            behind = self._message(1)
        pieces = [request[:40], request[40:], behind] if self.chance.random() < 0.3 else [request + behind]
        for piece in pieces:
            await self._stream.send_all(piece)
            await trio.sleep(self.chance.choice([0, 0, 0.01, 3]))

    def _message(self, size: int) -> bytes:
        payload = self.notes.text(size).encode()
        opcode = self.chance.choice([TEXT, BINARY])
        half = len(payload) // 2
        if self.chance.random() < 0.3:
            return masked(opcode, payload[:half], fin=False) + masked(PING, b"between") + masked(0, payload[half:])
        return masked(opcode, payload)

    async def _say(self, *data: bytes) -> None:
        async with self._sending:
            for one in data:
                await self._stream.send_all(one)

    async def _act(self) -> None:
        for _ in range(self.chance.choice([0, 1, 5, 15])):
            what = self.chance.random()
            if what < 0.5:
                message = self._message(self.chance.choice(SIZES))
                number = self.notes.begun[-1]
                await self._say(message)
                self.notes.sent.add(number)
            elif what < 0.6:
                await self._say(masked(PING, b"ping") * self.chance.choice([1, 100]))
            elif what < 0.8:
                await trio.sleep(self.chance.choice(PAUSE_SECONDS))
            elif what < 0.9:
                self._reading = trio.Event()
                await trio.sleep(self.chance.choice(PAUSE_SECONDS))
                self._reading.set()
            elif what < 0.94:
                code = self.chance.choice(CODES)
                self.notes.codes.add(code)
                await self._say(close_frame(code))
                return
            elif what < 0.96:
                await self._say(self.chance.choice([b"\xff\xff", masked(TEXT, b"\xff"), masked(CLOSE, b"\x03")]))
                return
            elif what < 0.98:
                if isinstance(self._stream, trio.abc.HalfCloseableStream):  # TLS cannot be half-closed
                    async with self._sending:
                        await self._stream.send_eof()
                return
            else:
                return

    async def _read(self, scope: trio.CancelScope) -> None:
        """Read what comes; then it is the end."""
        buffer = bytearray()
        with contextlib.suppress(*_GONE):
            while data := await self._stream.receive_some(65536):
                buffer += data
                if self.status is None:
                    head, found, _ = bytes(buffer).partition(b"\r\n\r\n")
                    if not found:
                        continue
                    self.status = int(head[9:12])
                    del buffer[: len(head) + 4]
                if self.status == 101:
                    while frame := _take_frame(buffer):
                        await self._take(*frame)
                await self._reading.wait()
        scope.cancel()

    async def _take(self, opcode: int, payload: bytes) -> None:
        if opcode in (TEXT, BINARY):
            self.notes.take(payload)
        elif opcode == PING and self._answers_pings:
            await self._say(masked(PONG, payload))
        elif opcode == CLOSE:
            assert not self.notes.ended, "two close frames came"
            self.notes.ended = self.notes.drained = True
            self.notes.closing = bool(self.notes.codes)
            self.notes.close_code = int.from_bytes(payload[:2], "big") if payload else 1005
            if self._answers_close and not self.notes.closing:
                await self._say(masked(CLOSE, payload))


def _take_frame(buffer: bytearray) -> tuple[int, bytes] | None:
    """Take a whole frame of a server, if there is one."""
    if len(buffer) < 2:
        return None
    length, start = buffer[1], 2
    if length > 125:
        start = 4 if length == 126 else 10
        length = int.from_bytes(buffer[2:start], "big")
    if len(buffer) < start or len(buffer) < start + length:
        return None
    head, payload = buffer[0], bytes(buffer[start : start + length])
    assert head & 0xF0 == 0x80, "a server of ours sends whole messages, and compresses only what was agreed"
    del buffer[: start + length]
    return head & 0x0F, payload


class Visitor(Guest):
    """A client that wants no WebSocket, or says half of what it wants, or nonsense."""

    REQUESTS = (
        b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"HEAD /page HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n" + bytes(900_000),
        handshake(host="elsewhere.test"),
        handshake("/", "Origin: https://elsewhere.test"),
        handshake(Sec_WebSocket_Version="12"),
        handshake()[:-2],
        b"\x16\x03\x01 TLS, or something",
        b"",
    )

    async def run(self) -> None:
        with contextlib.suppress(*_GONE):
            stream = await self.dial("", 0)
            try:
                with trio.move_on_after(self.chance.choice([0.0, 1.0, 60.0])):
                    async with csp.BackgroundNursery() as nursery:
                        nursery.start_soon(self._read, stream, nursery.cancel_scope)
                        with contextlib.suppress(*_GONE):
                            await stream.send_all(self.chance.choice(self.REQUESTS))
                            await trio.sleep(60)
            finally:
                await trio.aclose_forcefully(stream)

    async def _read(self, stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
        answer = b""
        with contextlib.suppress(*_GONE):
            while data := await stream.receive_some(65536):
                answer += data
        if answer:
            self.status = int(answer[9:12])
        scope.cancel()


class Bystander(Guest):
    """A client that behaves, and tries until it is served."""

    ATTEMPTS = 60

    async def run(self) -> None:
        for _ in range(self.ATTEMPTS):
            try:
                async with websocket.connect(self.url, **self.way_there()) as client:
                    await client.send("hello")
                    assert (await client.receive_value()).data == "hello"
                    self.status = 101
                    return
            except ConnectionFailedError:
                await trio.sleep(5)
        raise AssertionError("nobody has served the bystander")


GUESTS = cast("list[type[Guest]]", [Connecting, Connecting, Connecting, Raw, Raw, Raw, Visitor])
