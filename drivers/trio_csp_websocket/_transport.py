"""The byte streams a connection runs over: a TCP socket of its own, or any Trio stream."""

from __future__ import annotations

import contextlib
import socket
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from typing_extensions import Buffer

# How many scheduler passes an operation gets that must not wait, on a stream that takes the scheduler: a few locks and
# checkpoints, and no waiting for the network.
_PASSES_WITHOUT_WAITING = 10

SLICE_BYTES = 256 * 1024
"""What a stream or TLS gets at a time, so that the progress of a large send can be seen."""


class Transport(ABC):
    """A connection's byte stream. Errors of the network are `trio.BrokenResourceError`."""

    synchronous: ClassVar[bool]
    """Whether `send_now` ever takes anything."""

    def __init__(self) -> None:
        self.bytes_sent: int = 0
        self.bytes_received: int = 0
        self.pending = False
        """Whether something waits in here that only `send_all`, which may be given nothing more, sends."""
        self.on_pending: Callable[[], None] | None = None
        """Called when receiving has made something pending."""

    @abstractmethod
    async def receive_some(self, max_bytes: int) -> bytes:
        """Return what has arrived, waiting for at least a byte; b"" at the end."""

    @abstractmethod
    async def receive_now(self, max_bytes: int) -> bytes | None:
        """Return what has arrived without waiting for the network; None if nothing has, b"" at the end."""

    @abstractmethod
    def send_now(self, data: Buffer) -> int:
        """Write what the system takes at once; return how many bytes that was, 0 if it would have to wait."""

    @abstractmethod
    async def send_all(self, data: Buffer) -> None:
        """Write everything."""

    @abstractmethod
    async def send_last(self, frame: bytes) -> None:
        """Try to write a last frame without waiting for the network; that it cannot be written is no error."""

    @abstractmethod
    async def send_eof(self) -> None:
        """Tell the peer that nothing more comes, where the stream has a way to say so; what arrives is not read."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close at once, even when cancelled; whoever waits in another method gets `trio.ClosedResourceError`."""


class SocketTransport(Transport):
    """A TCP socket, tried before waited for.

    A Trio socket visits the scheduler in every call. A send of a few bytes does not need that, so this takes the
    system's socket out of the Trio stream and uses Trio for waiting only, through `trio.lowlevel.wait_readable` and
    its like.
    """

    synchronous = True

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__()
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)

    async def receive_some(self, max_bytes: int) -> bytes:
        # Also lets the consumer of what was read before run first.
        await trio.lowlevel.checkpoint()
        while (data := await self.receive_now(max_bytes)) is None:
            await trio.lowlevel.wait_readable(self._socket)
        return data

    async def receive_now(self, max_bytes: int) -> bytes | None:
        try:
            data = self._socket.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._translated(error) from error
        self.bytes_received += len(data)
        return data

    def send_now(self, data: Buffer) -> int:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._translated(error) from error
        self.bytes_sent += sent
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


class StreamTransport(Transport):
    """Any Trio stream. What it does takes the scheduler, so that nothing is written synchronously."""

    synchronous = False

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__()
        self._stream = stream

    async def receive_some(self, max_bytes: int) -> bytes:
        data = bytes(await self._stream.receive_some(max_bytes))
        self.bytes_received += len(data)
        return data

    async def receive_now(self, max_bytes: int) -> bytes | None:
        received: list[bytes] = []

        async def receive() -> None:
            # Broken or closed: whoever receives next is told.
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                received.append(await self.receive_some(max_bytes))

        await _without_waiting(receive)
        return received[0] if received else None

    def send_now(self, data: Buffer) -> int:
        return 0

    async def send_all(self, data: Buffer) -> None:
        # Trio's streams take any buffer; their annotation names three types.
        with memoryview(data) as view:
            for start in range(0, view.nbytes, SLICE_BYTES):
                with view[start : start + SLICE_BYTES] as piece:
                    await self._stream.send_all(piece)
                    self.bytes_sent += piece.nbytes

    async def send_last(self, frame: bytes) -> None:
        async def send() -> None:
            # Busy if a task that was cancelled has not left the stream yet: then a frame is cut in two anyway.
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                await self._stream.send_all(frame)

        await _without_waiting(send)

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


async def _without_waiting(operation: Callable[[], Awaitable[object]]) -> None:
    """Run an operation for as long as it can go on without waiting for the network."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.enable_ki_protection(operation))
        for _ in range(_PASSES_WITHOUT_WAITING):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
