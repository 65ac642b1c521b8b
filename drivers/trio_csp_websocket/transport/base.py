"""What a connection needs of the byte stream it runs over."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, cast

from csp.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

Address: TypeAlias = tuple[str, int] | str
"""An IP address and a port; of a Unix socket, its path, "" if it has none."""

PeerCertificate: TypeAlias = "Mapping[str, Any]"


class Ends(Protocol):
    """What tells the addresses of its two ends, as sockets do."""

    def getsockname(self) -> object: ...
    def getpeername(self) -> object: ...


SLICE_BYTES = 128 * 1024
"""How much of a large send a socket, a stream or TLS is given at a time, so that `bytes_taken` shows its progress.

Windows takes a send whole, whatever its size, or refuses it as too large. A message would then count as written while
nearly all of it still waits in the system's memory. Slices of half this size make messages of 128 KiB to 1 MiB a fifth
dearer to send, over loopback on Linux; of this size they cost nothing that can be measured.
"""


class Transport(ABC):
    """A connection's byte stream.

    Network errors are raised as `trio.BrokenResourceError`, use after closing as `trio.ClosedResourceError`.
    """

    synchronous: ClassVar[bool]
    """Whether `send_now` ever writes anything."""
    receives_at_once: bool
    """Whether `receive_now` lets no other task run."""

    def __init__(self) -> None:
        self.bytes_sent: int = 0
        self.bytes_received: int = 0
        self.pending = False
        """Whether the transport holds bytes that only a call of `send_all`, with b"" if need be, will send."""
        self.on_pending: Callable[[], None] | None = None
        """Called when receiving has set `pending`."""
        self.local: Address | None = None
        """Where this end is."""
        self.remote: Address | None = None
        """Where the other end is: the peer, or a proxy that leads to it."""
        self.proxy: str | None = None
        """The URL of the proxy that leads to the peer, without credentials."""
        # What was read, and is to be received again.
        self._unread = b""

    def unread(self, data: bytes) -> None:
        """Have bytes received again, ahead of all that has not been read. Whoever read them counts them again."""
        self._unread = data + self._unread

    def _take_unread(self, max_bytes: int) -> bytes:
        taken, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
        return taken

    @property
    def bytes_taken(self) -> int:
        """A count that grows whenever the peer, or the system, takes anything."""
        return self.bytes_sent

    @property
    def peer_certificate(self) -> PeerCertificate | None:
        """The peer's certificate, as `ssl.SSLSocket.getpeercert` returns it; None without TLS."""
        return None

    @abstractmethod
    async def receive_some(self, max_bytes: int) -> bytes:
        """Return what has arrived, waiting for at least one byte; b"" at the end."""

    async def receive_into(self, room: Callable[[], memoryview], max_bytes: int) -> int | bytes:
        """Read to where ``room`` says, and return how much, waiting for at least one byte; 0 at the end.

        ``room`` is asked right before something is read, and nothing else runs between that and the return. A transport
        that cannot do that returns what `receive_some` does, and does not ask.
        """
        return await self.receive_some(max_bytes)

    @abstractmethod
    async def receive_now(self, max_bytes: int) -> bytes | None:
        """Return what has arrived without waiting for the network; None if nothing has, b"" at the end."""

    @abstractmethod
    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        """Write what the system takes at once; return the number of bytes, 0 if writing would have to wait."""

    @abstractmethod
    async def send_all(self, data: Buffer) -> None:
        """Write everything, waiting as long as that takes. If cancelled, part of the data may have been sent."""

    @abstractmethod
    async def send_last(self, frame: bytes) -> None:
        """Try to write a last frame without waiting for the network. It is not an error if that fails."""

    @abstractmethod
    async def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent, if the stream can. Does not read what still arrives."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close at once, even when cancelled. Tasks waiting in other methods get `trio.ClosedResourceError`."""


def ends_of(found: Ends) -> tuple[Address | None, Address | None]:
    """Return where a socket's own end and the other end are; None for what it does not say, as when it is broken."""
    return _address_of(found.getsockname), _address_of(found.getpeername)


def _address_of(ask: Callable[[], object]) -> Address | None:
    try:
        name = ask()
    except (OSError, NotImplementedError):  # the latter of a socket of the user's own
        return None
    if isinstance(name, tuple):
        host, port, *_ = cast("tuple[str, int]", name)
        return host, port
    if isinstance(name, bytes):
        return os.fsdecode(name)  # of Linux's abstract sockets
    return name if isinstance(name, str) else None


def shown_address(address: Address) -> str:
    """Return an address as texts show it."""
    if isinstance(address, str):
        return shown(address) or "a Unix socket"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
