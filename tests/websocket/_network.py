"""A network that is not there: names lead to the addresses a test gives, and connecting to one does what it says."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


AF_UNIX: int = getattr(socket, "AF_UNIX", 1)
"""Python on Windows does not name it."""


class Names(trio.abc.HostnameResolver):
    """Answers each look-up with the next of the given lists of addresses, and the last again and again."""

    def __init__(self, *answers: list[Any]) -> None:
        self._answers = list(answers)
        self.asked: list[object] = []
        trio.socket.set_custom_hostname_resolver(self)

    # Takes whatever Trio gives.
    async def getaddrinfo(self, *given: Any) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        await trio.lowlevel.checkpoint()
        self.asked.append(given[0])
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [entry(address, given[1]) for address in answer]

    async def getnameinfo(self, *_given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError


def entry(address: object, port: int) -> tuple[Any, ...]:
    """Return what getaddrinfo returns for an address, or for the path of a Unix socket."""
    text = str(address)
    if "/" in text:
        return (AF_UNIX, socket.SOCK_STREAM, 0, "", text)
    if ":" in text:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (text, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port))


class Sockets(trio.abc.SocketFactory):
    """Makes sockets that only connect, and notes to what they do."""

    def __init__(self, connect: Callable[[str], Awaitable[None]]) -> None:
        self._connect = connect
        self.connected_to: list[str] = []
        """The addresses to which connecting began, in order."""
        self.began_at: list[float] = []
        self.open = 0
        self.most_open = 0
        trio.socket.set_custom_socket_factory(self)

    def socket(self, *_given: Any) -> trio.socket.SocketType:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        return _Socket(self)

    async def connect(self, place: Any) -> None:
        self.connected_to.append(place if isinstance(place, str) else place[0])
        self.began_at.append(trio.current_time())
        await self._connect(self.connected_to[-1])


class _Socket(trio.socket.SocketType):
    def __init__(self, network: Sockets) -> None:
        self._network = network
        self._is_open = True

    @property
    def type(self) -> socket.SocketKind:
        return socket.SOCK_STREAM

    async def connect(self, address: Any) -> None:
        await self._network.connect(address)

    def setsockopt(self, *_given: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pass

    def detach(self) -> int:
        self.close()
        return 0  # as a number, it is the test's to say what it stands for

    def close(self) -> None:
        self._network.open -= self._is_open
        self._is_open = False


async def refuse(_address: str) -> None:
    """Refuse a connection."""
    await trio.lowlevel.checkpoint()
    raise ConnectionRefusedError(errno.ECONNREFUSED, "no")
