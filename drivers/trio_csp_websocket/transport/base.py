"""What a connection needs of the byte stream it runs over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

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
