"""A server that answers, and what a client reaches it over: a stream in memory, a socket, or TLS on a socket.

The sockets are of this process and have a name in the file system; they are dialled as any other. Their buffers are
small, so that 20 KB take many writes.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import trio
import trustme

from tests.websocket._network import AF_UNIX
from tests.websocket._proxies import Conversation, OverError, Proxy
from tests.websocket._server import CLOSE, PING, PONG, Server, close, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from email.message import Message as Headers

Link: TypeAlias = Literal["memory", "socket", "tls"]
Way: TypeAlias = Literal["tcp", "redirect", "dial", "unix socket"]
"""How a client gets there: by a name that leads there, by a redirect from there, by a function, or by a path."""
Closing: TypeAlias = Literal["at once", "late", "never", "half"]
"""How a server answers a close: at once, after `LATE_SECONDS`, not at all, or without ending the stream."""

LATE_SECONDS = 4.0
SMALL_BUFFER_BYTES = 2048
"""What a socket is given that is to take few bytes at once. Linux makes 4,608 bytes of it, the least it allows."""
SERVER_TASK = "server:"
"""How the names of a server's tasks begin."""
_PIECE_BYTES = 2048


# Servers --------------------------------------------------------------------------------------------------------------


class AnsweringServer(Server):
    """A server that answers pings, and closes in a way of its own."""

    def __init__(
        self,
        answer: bytes | Callable[[Headers[str, str]], bytes],
        *,
        closing: Closing,
        pongs: bool,
        nursery: trio.Nursery,
    ) -> None:
        super().__init__(answer, answers_close=False)
        self.pongs = pongs
        self._closing: Closing = closing
        self._nursery = nursery
        self._ended = self._has_closed = False

    def take_in(self) -> None:
        known = len(self.frames)
        super().take_in()
        for sent in self.frames[known:]:
            if sent.opcode == PING and self.pongs:
                self.say(frame(PONG, sent.payload))
            elif sent.opcode == CLOSE and self._closing == "late":
                self._nursery.start_soon(self._close_late, name=f"{SERVER_TASK} a late close")
            elif sent.opcode == CLOSE and self._closing != "never":
                self.say_close(1000)
                if self._closing == "at once":
                    self.end()

    async def _close_late(self) -> None:
        # It crosses the client's close, and nobody may answer it.
        self.say(frame(PING, b"crossing"))
        await trio.sleep(LATE_SECONDS)
        self.say_close(1000)
        self.end()

    def say(self, *data: bytes) -> None:
        """Send, unless the stream is at its end."""
        if not (self._ended or self.closed):
            self.send(*data)

    def say_close(self, code: int) -> None:
        """Send a close frame, once."""
        if not self._has_closed:
            self._has_closed = True
            self.say(close(code))

    def end(self) -> None:
        self._ended = True
        super().end()

    def reset(self) -> None:
        self._ended = True
        super().reset()


class _OneAddress(trio.abc.HostnameResolver):
    """Finds every host at one address in the file system."""

    def __init__(self, path: str) -> None:
        self._path = path

    # Takes whatever Trio gives.
    async def getaddrinfo(self, *_given: Any) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        await trio.lowlevel.checkpoint()
        return [(AF_UNIX, socket.SOCK_STREAM, 0, "", self._path)]

    async def getnameinfo(self, *_given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError


class SmallBuffers(trio.abc.SocketFactory):
    """Makes sockets that take few bytes at once."""

    def __init__(self) -> None:
        self.made: list[trio.socket.SocketType] = []

    def socket(
        self,
        family: socket.AddressFamily | int = socket.AF_INET,
        type: socket.SocketKind | int = socket.SOCK_STREAM,  # noqa: A002  # the interface's name
        proto: int = 0,
    ) -> trio.socket.SocketType:
        made = trio.socket.from_stdlib_socket(socket.socket(family, type, proto))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
        self.made.append(made)
        return made


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS contexts of a server, and of a client that trusts it."""
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.test").configure_cert(serving)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)  # pyright: ignore[reportUnknownMemberType]  # the same
    return serving, trusting


async def listen(path: str) -> trio.SocketListener:
    """Listen at a path, and let every host be found there."""
    listening = trio.socket.socket(AF_UNIX, socket.SOCK_STREAM)
    await listening.bind(path)
    listening.listen()
    trio.socket.set_custom_hostname_resolver(_OneAddress(path))
    return trio.SocketListener(listening)


async def carry(link: Link, listener: trio.SocketListener, server: Server, proxy: Proxy | None = None) -> None:
    """Accept a client, and carry what it and the server say from one to the other, maybe as a proxy."""
    tcp = await listener.accept()
    if proxy is None:
        await _carry(link, tcp, tcp, server)
        return
    conversation = Conversation(proxy, tcp)
    try:
        await proxy.open_tunnel(conversation)
    except (OverError, trio.BrokenResourceError):
        await conversation.close()
    else:
        await _carry(link, tcp, conversation.stream, server)


async def carry_each(link: Link, listener: trio.SocketListener, servers: Iterable[Server]) -> None:
    """Accept a client for each server, one after the other, and carry what they say."""
    async with trio.open_nursery() as nursery:
        for server in servers:
            tcp = await listener.accept()
            nursery.start_soon(_carry, link, tcp, tcp, server, name=f"{SERVER_TASK} one of the links")


async def _carry(link: Link, tcp: trio.SocketStream, stream: trio.abc.Stream, server: Server) -> None:
    if link == "tls":
        stream = trio.SSLStream(stream, contexts()[0], server_side=True, https_compatible=True)

    async def inward() -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await stream.receive_some(_PIECE_BYTES):
                await server.stream.send_all(data)

    async def outward() -> None:
        try:
            if isinstance(stream, trio.SSLStream):
                await cast("trio.SSLStream[trio.abc.Stream]", stream).do_handshake()
            while data := await server.stream.receive_some():
                await stream.send_all(data)
            await tcp.send_eof()
        except trio.BrokenResourceError:
            if server.was_reset:
                tcp.socket.close()

    async with tcp, trio.open_nursery() as nursery:
        nursery.start_soon(inward, name=f"{SERVER_TASK} inward")
        nursery.start_soon(outward, name=f"{SERVER_TASK} outward")
