"""A client for tests that look at a server without the driver: it sends a command as it is, and returns the reply.

Replies are those of RESP2, and of RESP3 once ``HELLO 3`` has been sent: bytes, str for a status, int, float, bool,
None, lists, dicts and sets. An error raises `ReplyError`; one inside a reply, as in that of ``EXEC``, is returned.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


class ReplyError(Exception):
    """A server's reply that is an error, such as ``ERR unknown command``."""


# What is made of the rest of a line, or of the bytes whose number it has, by the line's first character.
_SHORT: dict[bytes, Callable[[str], object]] = {
    b"+": str,
    b"(": int,
    b"-": ReplyError,
    b":": int,
    b",": float,
    b"#": "t".__eq__,
    b"_": lambda _: None,
}
_LONG: dict[bytes, Callable[[bytes], object]] = {
    b"$": bytes,
    b"=": lambda value: value[len("txt:") :],
    b"!": lambda value: ReplyError(value.decode()),
}
# How many values follow for each that is counted.
_VALUES = {b"*": 1, b"~": 1, b">": 1, b"%": 2}


class Place(Protocol):
    """Where a server is: a `csp.testing.RedisServer`, or that of the fixture `shared_server`."""

    @property
    def port(self) -> int: ...


def encoded(*words: bytes | str | float) -> bytes:
    """Return a command as a client sends it."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Wire:
    """A connection to a server, on any of Trio's streams."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._read = bytearray()

    async def command(self, *words: bytes | str | float) -> object:
        """Send a command, and return its reply."""
        await self.stream.send_all(encoded(*words))
        return await self.reply()

    async def reply(self) -> object:
        """Return the next reply, or what the server sends by itself.

        Raises:
            ReplyError: it is an error.
            EOFError: the server has closed the connection.
        """
        value = await self._value()
        if isinstance(value, ReplyError):
            raise value
        return value

    async def _line(self) -> bytes:
        while b"\r\n" not in self._read:
            await self._more()
        line, _, rest = self._read.partition(b"\r\n")
        self._read = rest
        return bytes(line)

    async def _bytes(self, count: int) -> bytes:
        while len(self._read) < count + 2:
            await self._more()
        value = bytes(self._read[:count])
        del self._read[: count + 2]
        return value

    async def _more(self) -> None:
        piece = await self.stream.receive_some()
        if not piece:
            raise EOFError("the server has closed the connection")
        self._read += piece

    async def _value(self) -> object:
        line = await self._line()
        mark, text = line[:1], line[1:].decode()
        if mark in _SHORT:
            return _SHORT[mark](text)
        count = int(text)
        if count == -1:
            return None
        if mark in _LONG:
            return _LONG[mark](await self._bytes(count))
        values = [await self._value() for _ in range(count * _VALUES[mark])]
        return dict(zip(values[::2], values[1::2], strict=True)) if mark == b"%" else values


@asynccontextmanager
async def connected(place: Place) -> AsyncGenerator[Wire]:
    """Open a connection to a server on 127.0.0.1 for the length of a block."""
    async with await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
        yield Wire(stream)


async def command(place: Place, *words: bytes | str | float) -> object:
    """Send one command on a connection of its own, and return its reply."""
    async with connected(place) as wire:
        return await wire.command(*words)
