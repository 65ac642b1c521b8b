"""Servers that say what a test wants: some of them speak Redis."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from csp import redis


def bulk(text: str | bytes) -> bytes:
    """Return a string as a server writes it."""
    data = text if isinstance(text, bytes) else text.encode()
    return b"$%d\r\n%s\r\n" % (len(data), data)


def hello(version: str = "7.2.4", **others: bytes) -> bytes:
    """Return the answer to HELLO; others overrule what it says, as they are on the wire."""
    fields = {"server": bulk("redis"), "version": bulk(version), "proto": b":3\r\n", "id": b":7\r\n"} | others
    return b"%%%d\r\n" % len(fields) + b"".join(bulk(name) + value for name, value in fields.items())


ANSWERS: Mapping[str, bytes] = {
    "HELLO": hello(),
    "CLIENT SETINFO": b"+OK\r\n",
    "SELECT": b"+OK\r\n",
    "INFO server": bulk("# Server\r\nrun_id:one\r\n"),
    "INFO persistence": bulk("loading:0\r\n"),
}
"""What a server says to a client that connects, by how commands begin."""


class Place:
    """Where a server is, and what came to it."""

    def __init__(self, port: int) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.open = 0
        """How many connections there are."""
        self.connections = 0
        """How many there have been."""
        self.streams: set[trio.SocketStream] = set()
        self.commands: list[list[bytes]] = []
        self.answers: dict[str, bytes | None] = {}
        """What `answering` says; a test may change it."""

    async def cut(self) -> None:
        """End all connections."""
        for stream in list(self.streams):
            await trio.aclose_forcefully(stream)


async def _words(stream: trio.abc.Stream, read: bytearray) -> list[bytes] | None:
    """Return the next command of a client; None when it has left."""

    async def line() -> bytes:
        while b"\r\n" not in read:
            piece = await stream.receive_some()
            if not piece:
                raise EOFError
            read.extend(piece)
        found, _, rest = bytes(read).partition(b"\r\n")
        read[:] = rest
        return found

    try:
        words: list[bytes] = []
        for _ in range(int((await line())[1:])):
            size = int((await line())[1:])
            while len(read) < size + 2:
                read.extend(await stream.receive_some())
            words.append(bytes(read[:size]))
            del read[: size + 2]
    except EOFError:
        return None
    return words


@asynccontextmanager
async def serving(
    handle: Callable[[trio.abc.Stream], Awaitable[object]], *, ssl_context: ssl.SSLContext | None = None
) -> AsyncGenerator[Place]:
    """Serve connections on loopback: they are closed when ``handle`` returns."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    place = Place(listener.socket.getsockname()[1])

    async def serve(stream: trio.SocketStream) -> None:
        place.open += 1
        place.streams.add(stream)
        place.connections += 1
        served: trio.abc.Stream = stream
        if ssl_context is not None:
            served = trio.SSLStream(stream, ssl_context, server_side=True, https_compatible=True)
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await handle(served)
        finally:
            place.streams.discard(stream)
            await trio.aclose_forcefully(stream)
            place.open -= 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        try:
            yield place
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def answering(
    answers: Mapping[str, bytes | None] | None = None,
    *,
    then: bytes | None = None,
    close: bool = False,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncGenerator[Place]:
    """Serve what speaks Redis: each command gets the answer of the longest text it begins with.

    Args:
        answers: beside `ANSWERS`, or instead of them; None says nothing.
        then: the answer to other commands; None says nothing.
        close: whether other commands end the connection, after ``then``.
        ssl_context: for TLS.
    """

    async def handle(stream: trio.abc.Stream) -> None:
        read = bytearray()
        while (words := await _words(stream, read)) is not None:
            place.commands.append(words)
            known = place.answers
            text = b" ".join(words).decode(errors="replace")
            found = max((each for each in known if text.startswith(each)), key=len, default=None)
            answer = then if found is None else known[found]
            if answer is not None:
                await stream.send_all(answer)
            if found is None and close:
                return

    async with serving(handle, ssl_context=ssl_context) as place:
        place.answers.update({**ANSWERS, **(answers or {})})
        yield place


@asynccontextmanager
async def saying(*pieces: bytes, close: bool = True, wait: bool = True) -> AsyncGenerator[Place]:
    """Serve what says the same to everybody.

    Args:
        pieces: what it says.
        close: whether the connection is closed then.
        wait: whether it is said when something has come.
    """

    async def handle(stream: trio.abc.Stream) -> None:
        if wait:
            await stream.receive_some()
        for piece in pieces:
            await stream.send_all(piece)
        if not close:
            await trio.sleep_forever()

    async with serving(handle) as place:
        yield place


@asynccontextmanager
async def relay(port: int, ssl_context: ssl.SSLContext | None = None) -> AsyncGenerator[Place]:
    """Pass bytes on to a server on loopback, from connections that may have TLS, which it has not."""

    async def copy(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, scope: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for piece in source:
                await sink.send_all(piece)
        scope.cancel()

    async def handle(stream: trio.abc.Stream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(copy, stream, server, nursery.cancel_scope)
            nursery.start_soon(copy, server, stream, nursery.cancel_scope)

    async with serving(handle, ssl_context=ssl_context) as place:
        if ssl_context is not None:
            place.url = f"rediss://127.0.0.1:{place.port}/0"
        yield place


async def state_named(bus: redis.Bus[bytes], *names: str) -> redis.State:
    """Wait for a state of a bus with one of these names; return it."""
    with trio.fail_after(10):
        while True:
            state = await bus.states().receive_value()
            if state.name in names:
                return state
