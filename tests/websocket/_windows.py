"""A server in memory that is reached over the sockets of Windows, emulated on a slow link.

While less than `Link.room_bytes` wait in such a socket, a send that must not wait is taken whole, however large it is;
while that many wait, nothing is taken. What the driver asks of a socket is answered here, so the clock may jump.
"""

from __future__ import annotations

import math
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING

import trio
from trio.testing import memory_stream_pair

from tests.websocket._links import contexts
from tests.websocket._network import Names, Sockets
from trio_csp_websocket.transport import socket as transport

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    import pytest

    from tests.websocket._server import Server

    Stream: TypeAlias = trio.StapledStream[Any, Any]


# WSAENOBUFS and WSAENOTSOCK.
_NO_BUFFERS = 10055
_NOT_A_SOCKET = 10038

_PACKET_BYTES = 16 * 1024


class Link:
    """What is between a client and its server: the client's socket, and a network that carries so much a second.

    Args:
        monkeypatch: puts its sockets in the place of the system's.
        server: who is at the other end.
        nursery: where its tasks run.
        bytes_a_second: how fast what the client sends goes to the server; what the server sends comes at once.
        secure: whether the server speaks TLS; it is that of `tests.websocket._links.contexts`.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        server: Server,
        nursery: trio.Nursery,
        *,
        bytes_a_second: int,
        secure: bool = False,
    ) -> None:
        self.sizes: list[int] = []
        """The sizes of the sends that were taken."""
        self.most_waiting = 0
        """The most bytes that ever waited to be carried."""
        self.connections = 0
        self.room_bytes = 64 * 1024
        """The size of the send buffer, as it is at first."""
        self.refuses_above: float = math.inf
        """A send of more bytes is refused; on Windows, that depends on the system's memory."""
        self.stalled = trio.Event()
        """Set when nothing is carried any more."""
        self.stalls_after: float = math.inf
        """The number of bytes after which the link carries nothing more."""
        self._server = server
        self._nursery = nursery
        self._packet_seconds = _PACKET_BYTES / bytes_a_second
        self._secure = secure
        Names(["8.8.8.8"])
        Sockets(_connect)
        names = SimpleNamespace(socket=self._connected, SHUT_WR=socket.SHUT_WR)
        monkeypatch.setattr(transport, "socket", names)
        for name in ("wait_readable", "wait_writable"):
            monkeypatch.setattr(trio.lowlevel, name, getattr(_Socket, name))
        monkeypatch.setattr(trio.lowlevel, "notify_closing", _Socket.notify_closing)

    def _connected(self, fileno: int) -> _Socket:
        """Return the socket of a connection: what `socket.socket` does for the number of one that is open."""
        assert fileno == 0
        self.connections += 1
        made = _Socket(self)
        ours: Stream = self._server.stream
        if self._secure:
            ours, theirs = memory_stream_pair()
            self._nursery.start_soon(self._decrypt, theirs)
        self._nursery.start_soon(self._carry_out, made, ours)
        self._nursery.start_soon(self._carry_in, made, ours)
        return made

    async def _carry_out(self, ours: _Socket, stream: Stream) -> None:
        carried = 0
        while ours.waiting or not ours.ended:
            await ours.wait_until(lambda: ours.waiting or ours.ended)
            if carried >= self.stalls_after:
                self.stalled.set()
                return
            await trio.sleep(self._packet_seconds)
            packet = bytes(ours.waiting[:_PACKET_BYTES])
            del ours.waiting[:_PACKET_BYTES]
            carried += len(packet)
            ours.changed()
            await stream.send_all(packet)
        await stream.send_eof()

    async def _carry_in(self, ours: _Socket, stream: Stream) -> None:
        while data := await stream.receive_some():
            ours.arrived += data
            ours.changed()
        ours.at_end = True
        ours.changed()

    async def _decrypt(self, wire: Stream) -> None:
        tls = trio.SSLStream(wire, contexts()[0], server_side=True, https_compatible=True)
        await tls.do_handshake()

        async def inward() -> None:
            while data := await tls.receive_some():
                await self._server.stream.send_all(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(inward)
            while data := await self._server.stream.receive_some():
                await tls.send_all(data)
            await wire.send_eof()


async def _connect(_address: str) -> None:
    await trio.lowlevel.checkpoint()


class _Socket:
    """A connected socket, as far as the driver uses one."""

    def __init__(self, link: Link) -> None:
        self.waiting = bytearray()
        """What was sent, and the network has not carried yet."""
        self.arrived = bytearray()
        self.at_end = False
        """Whether nothing more arrives."""
        self.ended = False
        """Whether nothing more is sent."""
        self._link = link
        self._changed = trio.Event()
        self._number = 1

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def fileno(self) -> int:
        return self._number

    def send(self, data: bytes | memoryview) -> int:
        if self._number < 0 or self.ended:
            raise OSError(_NOT_A_SOCKET, "not a socket")
        if len(self.waiting) >= self._link.room_bytes:
            raise BlockingIOError
        if len(data) > self._link.refuses_above:
            raise OSError(_NO_BUFFERS, "no buffer space available")
        self.waiting += data
        self._link.sizes.append(len(data))
        self._link.most_waiting = max(self._link.most_waiting, len(self.waiting))
        self.changed()
        return len(data)

    def recv(self, max_bytes: int) -> bytes:
        if self._number < 0:
            raise OSError(_NOT_A_SOCKET, "not a socket")
        if not self.arrived and not self.at_end:
            raise BlockingIOError
        data = bytes(self.arrived[:max_bytes])
        del self.arrived[:max_bytes]
        return data

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR
        self.ended = True
        self.changed()

    def close(self) -> None:
        self._number = -1
        self.ended = True
        self.changed()

    # What Trio does with a socket ------------------------------------------------------------------------------------

    async def wait_readable(self) -> None:
        await self.wait_until(lambda: self.arrived or self.at_end)

    async def wait_writable(self) -> None:
        await self.wait_until(lambda: len(self.waiting) < self._link.room_bytes)

    def notify_closing(self) -> None:
        self.close()

    # What the link does with it --------------------------------------------------------------------------------------

    async def wait_until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds, or the socket is closed."""
        await trio.lowlevel.checkpoint()
        while not holds():
            if self._number < 0:
                raise trio.ClosedResourceError
            await self._changed.wait()

    def changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
