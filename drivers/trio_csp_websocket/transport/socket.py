"""A socket of TCP, or of Unix, as a connection's byte stream."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import trio

from trio_csp_websocket.transport.base import SLICE_BYTES, Transport, ends_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

# From this size on, data is cut into slices. The last one has what is left, so that none is small: each takes a packet.
_TOO_LARGE_BYTES = 2 * SLICE_BYTES


class SocketTransport(Transport):
    """A socket. Each call tries the socket first, and waits only if it is not ready.

    A Trio socket visits the scheduler in every call. A send of a few bytes does not need that, so this class takes the
    system's socket out of the Trio stream, and uses Trio only to wait, through `trio.lowlevel.wait_readable` and
    `trio.lowlevel.wait_writable`.
    """

    synchronous = True
    receives_at_once = True

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__()
        self.local, self.remote = ends_of(stream.socket)
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        # Whether the last read found less than it asked for: there is nothing more then, most of the time.
        self._emptied = False

    async def receive_some(self, max_bytes: int) -> bytes:
        await self._let_others_run()
        while (data := await self.receive_now(max_bytes)) is None:
            await trio.lowlevel.wait_readable(self._socket)
        return data

    async def _let_others_run(self) -> None:
        """Let the consumer of the previous block run first; wait for the next one, where a read would find nothing."""
        if self._emptied and not self._unread and self._socket.fileno() != -1:
            await trio.lowlevel.wait_readable(self._socket)
        else:
            await trio.lowlevel.checkpoint()

    async def receive_into(self, room: Callable[[], memoryview], max_bytes: int) -> int | bytes:
        if self._unread:
            return await self.receive_some(max_bytes)
        await self._let_others_run()
        while (size := self._read_into(room)) is None:
            await trio.lowlevel.wait_readable(self._socket)
        return size

    def _read_into(self, room: Callable[[], memoryview]) -> int | None:
        """Read what has arrived; return None if nothing has."""
        try:
            with room() as view:
                size = self._socket.recv_into(view)
                self._emptied = size < len(view)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._translated(error) from error
        self.bytes_received += size
        return size

    async def receive_now(self, max_bytes: int) -> bytes | None:
        try:
            data = self._take_unread(max_bytes) if self._unread else self._socket.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._translated(error) from error
        self.bytes_received += len(data)
        self._emptied = len(data) < max_bytes
        return data

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        if len(data) >= _TOO_LARGE_BYTES:
            return self._send_slices(data)
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._translated(error) from error
        self.bytes_sent += sent
        return sent

    def _send_slices(self, data: bytes | bytearray | memoryview) -> int:
        sent = 0
        with memoryview(data) as view:
            while sent < len(view):
                size = len(view) - sent
                if size >= _TOO_LARGE_BYTES:
                    size = SLICE_BYTES
                with view[sent : sent + size] as piece:
                    taken = self.send_now(piece)
                sent += taken
                if taken < size:
                    break
        return sent

    async def send_all(self, data: Buffer) -> None:
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                with view[sent:] as rest:
                    taken = self.send_now(rest)
                sent += taken
                if not taken:
                    await trio.lowlevel.wait_writable(self._socket)
        await trio.lowlevel.checkpoint()

    async def send_last(self, frame: bytes) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self.send_now(frame)

    async def send_eof(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._translated(error) from error

    async def aclose(self) -> None:
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _translated(self, error: OSError) -> trio.ClosedResourceError | trio.BrokenResourceError:
        if self._socket.fileno() == -1:
            return trio.ClosedResourceError("the connection was closed")
        return trio.BrokenResourceError(error.strerror or str(error))
