"""What a server accepts streams from in memory, and clients there that say bytes of the test's."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from typing import TYPE_CHECKING

import trio
from trio.testing import memory_stream_pair

from tests.hostile._foe import Said, head

if TYPE_CHECKING:
    import ssl

_Stream = trio.abc.Stream


class Entrance(trio.abc.Listener[trio.abc.Stream]):
    """A listener that gives what the test puts into it: streams, and errors, which it raises."""

    def __init__(self) -> None:
        self.errors: deque[Exception] = deque()
        """What is raised before anything else is given."""
        self._closed = False
        self._send, self._receive = trio.open_memory_channel[_Stream](math.inf)

    @property
    def closed(self) -> bool:
        return self._closed

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.popleft()
        return await self._receive.receive()

    async def aclose(self) -> None:
        """Close it, and what was not accepted."""
        self._closed = True
        with trio.CancelScope(shield=True), contextlib.suppress(trio.WouldBlock):
            while True:
                await trio.aclose_forcefully(self._receive.receive_nowait())
        self._receive.close()
        await trio.lowlevel.checkpoint()

    def put(self, stream: trio.abc.Stream) -> None:
        """Have a stream accepted; as long as this is not closed."""
        assert not self._closed
        self._send.send_nowait(stream)

    def connect(self) -> trio.abc.HalfCloseableStream:
        """Connect a client; return its end."""
        ours, theirs = memory_stream_pair()
        self.put(theirs)
        return ours

    async def dial(self, _host: str, _port: int) -> trio.abc.Stream:
        """Connect a client, as its option ``dial`` does."""
        await trio.lowlevel.checkpoint()
        return self.connect()

    def ask(self, *more: str, then: bytes = b"", request: bytes | None = None) -> Caller:
        """Connect a client, and send a request for a WebSocket, or another one."""
        return Caller(self.connect(), (head(*more) if request is None else request) + then)


class Caller:
    """A client that has sent something."""

    def __init__(self, stream: trio.abc.Stream, first: bytes) -> None:
        self.stream = stream
        self._first = first
        self._heard = bytearray()

    async def secure(self, context: ssl.SSLContext) -> None:
        """Speak TLS first."""
        self.stream = trio.SSLStream(self.stream, context, server_hostname="server.test")
        await self.stream.do_handshake()

    async def start(self) -> None:
        first, self._first = self._first, b""
        await self.stream.send_all(first)

    async def hear_until(self, said: bytes) -> bytes:
        """Listen until the server has said something; return all of it so far."""
        await self.start()
        while said not in self._heard:
            block = await self.stream.receive_some()
            assert block, self._heard
            self._heard += block
        return bytes(self._heard)

    async def hear(self) -> Said:
        """Listen until the stream ends, and close it."""
        try:
            await self.start()
            while block := await self.stream.receive_some():
                self._heard += block
        except trio.BrokenResourceError:
            return Said(bytes(self._heard), clean=False)
        finally:
            await trio.aclose_forcefully(self.stream)
        return Said(bytes(self._heard), clean=True)
