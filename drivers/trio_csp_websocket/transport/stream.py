"""Any Trio stream as a connection's byte stream."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from trio_csp_websocket.transport.base import SLICE_BYTES, Transport, ends_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from typing_extensions import Buffer

# A Trio stream cannot be called without visiting the scheduler. An operation that must not wait is given this many
# passes of it: enough for a few locks and checkpoints, too few to wait for the network.
_PASSES_WITHOUT_WAITING = 10
_ENDED = (trio.BrokenResourceError, trio.ClosedResourceError)


class StreamTransport(Transport):
    """Any Trio stream. Every call visits the scheduler, so nothing is written synchronously.

    Args:
        stream: the stream, closed together with this.
        on_fault: called once with the first exception that no stream should raise. All of them count as the end of the
            stream then. None to let them out as they are.
    """

    synchronous = False
    receives_at_once = False

    def __init__(self, stream: trio.abc.Stream, *, on_fault: Callable[[Exception], None] | None = None) -> None:
        super().__init__()
        self._stream = stream
        self._on_fault = on_fault
        self._faulty = False
        found: object = getattr(stream, "socket", None)  # that of a `trio.SocketStream`
        if isinstance(found, trio.socket.SocketType):
            self.local, self.remote = ends_of(found)

    async def receive_some(self, max_bytes: int) -> bytes:
        if self._unread:
            await trio.lowlevel.checkpoint()
            data = self._take_unread(max_bytes)
        else:
            with self._in_words():
                data = bytes(await self._stream.receive_some(max_bytes))
        self.bytes_received += len(data)
        return data

    async def receive_now(self, max_bytes: int) -> bytes | None:
        if self._unread:
            return await self.receive_some(max_bytes)
        received: list[bytes] = []

        async def receive() -> None:
            # Broken or closed: the next call of `receive_some` raises it again.
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                received.append(await self.receive_some(max_bytes))

        await _without_waiting(receive)
        return received[0] if received else None

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        return 0

    async def send_all(self, data: Buffer) -> None:
        # Trio's streams take any buffer; their annotation names three types.
        with memoryview(data) as view:
            for start in range(0, view.nbytes, SLICE_BYTES):
                with view[start : start + SLICE_BYTES] as piece:
                    with self._in_words():
                        await self._stream.send_all(piece)
                    self.bytes_sent += piece.nbytes

    async def send_last(self, frame: bytes) -> None:
        async def send() -> None:
            # Busy while a cancelled task has not left the stream yet: then a frame has been cut in two anyway.
            with contextlib.suppress(*_ENDED), self._in_words(), contextlib.suppress(trio.BusyResourceError):
                await self._stream.send_all(frame)
                self.bytes_sent += len(frame)

        await _without_waiting(send)

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            with self._in_words():
                await self._stream.send_eof()

    async def aclose(self) -> None:
        with contextlib.suppress(*_ENDED), self._in_words():
            await trio.aclose_forcefully(self._stream)

    @contextlib.contextmanager
    def _in_words(self) -> Generator[None]:
        """Turn errors of a stream that is broken into `trio.BrokenResourceError` with words; many of Trio's have none.

        Trio's own streams turn an `OSError` into one. Others may not.
        """
        try:
            yield
        except (OSError, trio.BrokenResourceError) as error:
            if isinstance(error, trio.BrokenResourceError) and str(error):
                raise
            said = _words(error) or _words(error.__cause__) or "the stream is broken"
            raise trio.BrokenResourceError(said) from error
        except trio.ClosedResourceError:
            raise
        except Exception as error:
            if self._on_fault is None:
                raise
            if not self._faulty:
                self._faulty = True
                self._on_fault(error)
            raise trio.BrokenResourceError(f"the stream has raised {error!r}") from error


def _words(error: BaseException | None) -> str:
    if error is None:
        return ""
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error)


async def _without_waiting(operation: Callable[[], Awaitable[object]]) -> None:
    """Run an operation, and cancel it once it would have to wait for the network."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.enable_ki_protection(operation))
        for _ in range(_PASSES_WITHOUT_WAITING):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
