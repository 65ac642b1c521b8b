"""What a connection of a server in memory runs over: the parts of the data plane that a test can have misbehave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_csp_websocket.protocol.encoder import Encoder
from trio_csp_websocket.protocol.frames import PING
from trio_csp_websocket.protocol.unmasking_decoder import UnmaskingDecoder
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.frames import Control
    from trio_csp_websocket.protocol.large_frame import LargeFrame

RAW = 0x100
"""Stands for an opcode: what `ScriptedEncoder` is given with it is written as it is. Frames have 0 to 15."""


class ClientEnd(StreamTransport):
    """The client's end of a stream in memory."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.closed: bool = False
        """Whether the client has closed it."""

    async def aclose(self) -> None:
        self.closed = True
        await super().aclose()


class ScriptedTransport(StreamTransport):
    """The server's end of a stream in memory.

    Args:
        stream: the stream.
        client_end: its other end.
    """

    def __init__(self, stream: trio.abc.Stream, client_end: ClientEnd) -> None:
        super().__init__(stream)
        self._client_end = client_end
        self._dropped = False
        # Set while it reads.
        self._reads = trio.Event()
        self._reads.set()
        # Around the wait for bytes.
        self._reading = trio.CancelScope()

    @property
    def client_has_gone(self) -> bool:
        """Whether the client has closed its end."""
        return self._client_end.closed

    def stop_reading(self) -> None:
        """Read nothing more, at once, until `read_on`."""
        if self._reads.is_set():
            self._reads = trio.Event()
            self._reading.cancel()

    def read_on(self) -> None:
        """Read again after `stop_reading`."""
        self._reads.set()

    def drop(self) -> None:
        """Have what reads find the stream closed, at once; it then closes it."""
        self._dropped = True
        self._reads.set()
        self._reading.cancel()

    async def receive_some(self, max_bytes: int) -> bytes:
        while True:
            while not (self._reads.is_set() or self._dropped):
                await self._reads.wait()
            if self._dropped:
                raise trio.ClosedResourceError("the server has dropped the connection")
            with trio.CancelScope() as self._reading:
                return await super().receive_some(max_bytes)

    async def aclose(self) -> None:
        self.drop()
        await super().aclose()


class ScriptedDecoder(UnmaskingDecoder):
    """Parses a client's frames, and can leave its pings unanswered."""

    def __init__(self, read_limit_bytes: int) -> None:
        super().__init__(read_limit_bytes)
        self.answer_pings: bool = True
        """Whether pings are returned, and so answered."""

    def feed(self, block: bytes | memoryview) -> list[Control]:
        controls = super().feed(block)
        return controls if self.answer_pings else [control for control in controls if control.opcode != PING]


class ScriptedEncoder(Encoder):
    """Builds a server's frames, and passes on bytes that are to be sent as they are."""

    def encode(self, opcode: int, payload: bytes | bytearray | memoryview) -> bytes:
        return bytes(payload) if opcode == RAW else super().encode(opcode, payload)

    def begin(self, opcode: int, payload: bytes | bytearray | memoryview) -> bytes | LargeFrame:
        return bytes(payload) if opcode == RAW else super().begin(opcode, payload)
