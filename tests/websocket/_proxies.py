"""Proxies made by hand, on loopback, that relay bytes: HTTP CONNECT, the same in TLS, SOCKS 4, 4a and 5.

Each notes what it was asked, byte by byte, and can be told to misbehave. It looks no name up: whatever host it is asked
for, it connects to 127.0.0.1, so a client may ask for names and addresses that do not exist.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import ipaddress
import socket
import ssl
import struct
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from tests.websocket._peers import CLOSE, LIMIT_SECONDS, Peer, driver_tasks, frame, open_sockets

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

Protocol: TypeAlias = Literal["http", "https", "socks4", "socks5"]
"""What a proxy speaks; ``socks4`` is 4a too."""
Stopping: TypeAlias = Literal["close", "reset", "stall"]
"""How a proxy stops: it closes the connection, resets it, or keeps it open and says no more."""

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
SOCKS4_GRANTED = bytes([0, 90, 0, 0, 0, 0, 0, 0])
SOCKS5_GRANTED = bytes([5, 0, 0, 1, 0, 0, 0, 0, 0, 0])

_READ_BYTES = 64 * 1024


class OverError(Exception):
    """The conversation with a client is over."""


@dataclass
class Asked:
    """What one client asked a proxy for."""

    raw: bytes = b""
    """All that it sent before the tunnel; for a proxy in TLS, what was inside."""
    host: str = ""
    """A name, or an address without brackets."""
    port: int = 0
    by_name: bool = False
    """Whether the host is a name, which the proxy has to look up."""
    credentials: tuple[bytes, bytes | None] | None = None
    """User and password; SOCKS 4 has no password."""
    tunnel: bytes = b""
    """All that the client sent through the tunnel."""


def steps(protocol: Protocol, *, login: bool = False) -> list[str]:
    """Return where a proxy can stop, in order."""
    exchanges = ["connect"]
    if protocol == "socks5":
        exchanges = ["greeting", "login", "connect"] if login else ["greeting", "connect"]
    parts = [f"{exchange} {part}" for exchange in exchanges for part in ("read", "half answered", "answered")]
    return ["accept", *(["tls"] if protocol == "https" else []), *parts]


@dataclass
class Proxy:
    """A proxy, and what it does wrong.

    Its parts in a conversation are exchanges: ``connect``, and before it, of SOCKS 5, ``greeting`` and ``login``.
    """

    protocol: Protocol
    login: tuple[bytes, bytes] | None = None
    """User and password that it wants; for SOCKS 4 only the user counts."""
    tls: ssl.SSLContext | None = None
    """With which it speaks TLS, if it is an ``https`` proxy; by default with that of `contexts`."""
    leads_to: int | None = None
    """The port on 127.0.0.1 it connects to; None for the one it was asked for."""
    banner: bytes = b""
    """What it says as soon as a client has come, before TLS."""
    answers: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """What it says in an exchange instead of the right answer."""
    informs: bytes = b""
    """What it says before its answer to ``connect``."""
    early: bytes = b""
    """What it says behind its answer to ``connect``, in the same packet, on the target's behalf: what the target then
    says must begin with it, and goes on from there."""
    flood: bytes = b""
    """What it says without end behind its answer to ``connect``."""
    piece_bytes: int = 0
    """How many bytes of an answer come at a time, each time when the client has taken those before; 0 for all."""
    stops_at: str = ""
    """Where it stops: one of `steps`."""
    stops_by: Stopping = "close"
    asked: list[Asked] = field(default_factory=list[Asked])
    """What was asked, one for each connection that came."""
    flooded: int = 0
    """How many bytes of the flood were sent."""
    stopped: trio.Event = field(default_factory=trio.Event)
    """Set where it has stopped."""
    port: int = 3128
    """Its port, once it runs as a server of its own."""

    def url(self, *, scheme: str = "", credentials: str = "", host: str = "127.0.0.1") -> str:
        """Return its URL, as the option ``proxy`` takes it."""
        return f"{scheme or self.protocol}://{credentials and credentials + '@'}{host}:{self.port}"

    @asynccontextmanager
    async def running(self, *, sockets_left: bool = False) -> AsyncGenerator[Proxy]:
        """Serve on a free port. At the end of the block every connection must be over, and no socket be left."""
        sockets = open_sockets()
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        self.port = listener.socket.getsockname()[1]
        with trio.fail_after(LIMIT_SECONDS):
            async with trio.open_nursery() as handlers, trio.open_nursery() as nursery:
                nursery.start_soon(partial(trio.serve_listeners, self._serve, [listener], handler_nursery=handlers))
                yield self
                nursery.cancel_scope.cancel()
        assert driver_tasks() == []
        assert sockets_left or open_sockets() == sockets

    async def _serve(self, tcp: trio.SocketStream) -> None:
        conversation = Conversation(self, tcp)
        try:
            # Whatever a client does to its connection, a proxy goes on.
            with contextlib.suppress(OverError, trio.BrokenResourceError, trio.ClosedResourceError):
                await self.open_tunnel(conversation)
                await _Relay(conversation, self.leads_to, self.early).run()
        finally:
            await conversation.close()

    async def open_tunnel(self, conversation: Conversation) -> None:
        """Talk with a client until it has its tunnel; after a wrong answer, as if it had.

        Raises:
            OverError: the client or the proxy has ended it; close the conversation.
            trio.BrokenResourceError: the client has broken it off; close the conversation.
        """
        self.asked.append(conversation.asked)
        await conversation.begin()
        match self.protocol:
            case "socks4":
                await _socks4(conversation)
            case "socks5":
                await _socks5(conversation)
            case _:
                await _http(conversation)
        while self.flood:
            await conversation.stream.send_all(self.flood)
            self.flooded += len(self.flood)


class Conversation:
    """What a proxy and one client say to each other before the tunnel."""

    def __init__(self, proxy: Proxy, tcp: trio.SocketStream) -> None:
        self.proxy = proxy
        self.asked = Asked()
        self.stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = tcp
        self.target: trio.SocketStream | None = None
        """Where the tunnel leads, if that was connected to before the answer."""
        self._tcp = tcp

    async def begin(self) -> None:
        if self.proxy.banner:
            await self._tcp.send_all(self.proxy.banner)
        await self._reached("accept")
        if self.proxy.protocol == "https":
            if self.proxy.stops_at == "tls":
                await self._tcp.receive_some()
                await self._reached("tls")
            self.stream = trio.SSLStream(
                self._tcp, self.proxy.tls or contexts()[0], server_side=True, https_compatible=True
            )
            await self.stream.do_handshake()

    async def take(self, count: int) -> bytes:
        """Return so many bytes of the client's."""
        data = b""
        while len(data) < count:
            data += await self._more(count - len(data))
        return data

    async def take_until(self, end: bytes) -> bytes:
        """Return what the client says up to an end, which must be the last of it until it is answered."""
        data = b""
        while end not in data:
            data += await self._more(_READ_BYTES)
        assert data.endswith(end), "the client did not wait for an answer"
        return data

    async def _more(self, at_most: int) -> bytes:
        data = bytes(await self.stream.receive_some(at_most))
        if not data:
            raise OverError
        self.asked.raw += data
        return data

    async def say(self, exchange: str, answer: bytes) -> bytes:
        """Answer, and return what was said, which may be something else."""
        await self._reached(f"{exchange} read")
        answer = self.proxy.answers.get(exchange, answer)
        last = exchange == "connect"
        said = (self.proxy.informs if last else b"") + answer + (self.proxy.early if last else b"")
        if self.proxy.stops_at == f"{exchange} half answered":
            await self._send(said[: len(said) // 2])
            await self._reached(f"{exchange} half answered")
        await self._send(said)
        await self._reached(f"{exchange} answered")
        return answer

    async def _send(self, data: bytes) -> None:
        size = self.proxy.piece_bytes
        if not size:
            await self.stream.send_all(data)
            return
        for start in range(0, len(data), size):
            await self.stream.send_all(data[start : start + size])
            await wait_all_tasks_blocked()

    async def connect_to_target(self) -> bool:
        """Connect to the target, unless the answer does not depend on it; tell whether that went well."""
        if "connect" not in self.proxy.answers:
            try:
                self.target = await trio.open_tcp_stream("127.0.0.1", self.proxy.leads_to or self.asked.port)
            except OSError:
                return False
        return True

    async def _reached(self, step: str) -> None:
        if step != self.proxy.stops_at:
            return
        self.proxy.stopped.set()
        if self.proxy.stops_by == "reset":
            self.reset_at_close()
        elif self.proxy.stops_by == "stall":
            while data := await self._tcp.receive_some():
                self.asked.tunnel += data
        raise OverError

    def reset_at_close(self) -> None:
        """Let the connection to the client end with a TCP reset."""
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async def close(self) -> None:
        """Close the connections to the client and to the target."""
        try:
            await self._tcp.aclose()
        finally:
            if self.target is not None:
                await self.target.aclose()

    async def refuse(self) -> None:
        """Wait until the client has gone, to which no tunnel was given."""
        while data := await self.stream.receive_some():
            self.asked.tunnel += data
        raise OverError


async def _http(talk: Conversation) -> None:
    """Serve CONNECT (RFC 9110, section 9.3.6)."""
    head = await talk.take_until(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    method, authority, version = line.split(" ")
    assert (method, version) == ("CONNECT", "HTTP/1.1")
    host, _, port = authority.rpartition(":")
    talk.asked.by_name = not _is_address(host.strip("[]"))
    assert host.startswith("[") == (":" in host), "an IPv6 address goes in brackets, and nothing else does"
    talk.asked.host, talk.asked.port = host.strip("[]"), int(port)
    named = dict(line.split(": ", 1) for line in fields if line)
    assert named["Host"] == authority
    if "Proxy-Authorization" in named:
        kind, _, encoded = named["Proxy-Authorization"].partition(" ")
        assert kind == "Basic"
        user, _, password = base64.b64decode(encoded, validate=True).partition(b":")
        talk.asked.credentials = user, password
    if talk.proxy.login not in (None, talk.asked.credentials):
        await talk.say("connect", http_answer(407, b'Proxy-Authenticate: Basic realm="tests"\r\n'))
        await talk.refuse()
    if not await talk.connect_to_target():
        await talk.say("connect", http_answer(502))
        await talk.refuse()
    await talk.say("connect", ESTABLISHED)


def http_answer(status: int, fields: bytes = b"", body: bytes = b"no") -> bytes:
    """Return a proxy's answer that has a body."""
    return b"HTTP/1.1 %d Because\r\n%sContent-Length: %d\r\n\r\n%s" % (status, fields, len(body), body)


async def _socks4(talk: Conversation) -> None:
    """Serve SOCKS 4, and 4a, where an address of 0.0.0.x has a name behind it."""
    head = await talk.take(8)
    assert head[:2] == b"\x04\x01"
    talk.asked.port = int.from_bytes(head[2:4], "big")
    address = ipaddress.IPv4Address(head[4:8])
    user = (await _until_null(talk)).removesuffix(b"\0")
    if user:
        talk.asked.credentials = user, None
    talk.asked.by_name = head[4:7] == bytes(3)
    talk.asked.host = str(address)
    if talk.asked.by_name:
        talk.asked.host = (await _until_null(talk)).removesuffix(b"\0").decode("ascii")
    if talk.proxy.login is not None and user != talk.proxy.login[0]:
        await talk.say("connect", socks4_answer(93))
        await talk.refuse()
    if not await talk.connect_to_target():
        await talk.say("connect", socks4_answer(91))
        await talk.refuse()
    await talk.say("connect", SOCKS4_GRANTED)


async def _until_null(talk: Conversation) -> bytes:
    data = b""
    while not data.endswith(b"\0"):
        data += await talk.take(1)
    return data


def socks4_answer(code: int) -> bytes:
    return bytes([0, code, 0, 0, 0, 0, 0, 0])


async def _socks5(talk: Conversation) -> None:
    """Serve SOCKS 5 (RFC 1928), with a login (RFC 1929) if it wants one."""
    version, count = await talk.take(2)
    assert version == 5
    methods = await talk.take(count)
    wanted = 0 if talk.proxy.login is None else 2
    said = await talk.say("greeting", bytes([5, wanted if wanted in methods else 0xFF]))
    if said[1:2] == b"\xff":
        await talk.refuse()
    if said[1:2] == b"\x02":
        assert await talk.take(1) == b"\x01"
        user = await talk.take((await talk.take(1))[0])
        password = await talk.take((await talk.take(1))[0])
        talk.asked.credentials = user, password
        right = talk.asked.credentials == talk.proxy.login
        said = await talk.say("login", bytes([1, not right]))
        if said[1:2] != b"\0":
            await talk.refuse()
    version, command, reserved, kind = await talk.take(4)
    assert (version, command, reserved) == (5, 1, 0)
    match kind:
        case 1:
            talk.asked.host = str(ipaddress.IPv4Address(await talk.take(4)))
        case 4:
            talk.asked.host = str(ipaddress.IPv6Address(await talk.take(16)))
        case _:
            assert kind == 3
            talk.asked.by_name = True
            talk.asked.host = (await talk.take((await talk.take(1))[0])).decode("ascii")
    talk.asked.port = int.from_bytes(await talk.take(2), "big")
    if not await talk.connect_to_target():
        await talk.say("connect", socks5_answer(5))
        await talk.refuse()
    await talk.say("connect", SOCKS5_GRANTED)


def socks5_answer(code: int, bound: bytes = bytes([1, 0, 0, 0, 0, 0, 0])) -> bytes:
    """Return the answer with a code, and the address that the proxy is bound to, without its null at the end."""
    return bytes([5, code, 0]) + bound


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _Relay:
    """Carries bytes between a client and its target. If the target is not connected to, the first byte does that."""

    def __init__(self, talk: Conversation, leads_to: int | None, early: bytes) -> None:
        self._talk = talk
        self._port = leads_to or talk.asked.port
        self._early = early

    async def run(self) -> None:
        first = b""
        if self._talk.target is None:
            first = bytes(await self._talk.stream.receive_some(_READ_BYTES))
            if not first:
                return
            self._talk.target = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._outward, self._talk.target, first)
            try:
                await self._inward(self._talk.target)
            except trio.BrokenResourceError:
                # Either end has broken it off, and so does the proxy.
                self._talk.reset_at_close()
                nursery.cancel_scope.cancel()

    async def _outward(self, target: trio.SocketStream, data: bytes) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data or (data := bytes(await self._talk.stream.receive_some(_READ_BYTES))):
                self._talk.asked.tunnel += data
                await target.send_all(data)
                data = b""
            await target.send_eof()

    async def _inward(self, target: trio.SocketStream) -> None:
        while data := bytes(await target.receive_some(_READ_BYTES)):
            while len(data) < len(self._early):
                data += bytes(await target.receive_some(_READ_BYTES))
            assert data.startswith(self._early)
            await self._talk.stream.send_all(data[len(self._early) :])
            self._early = b""
        if isinstance(self._talk.stream, trio.SSLStream):
            await self._talk.stream.aclose()
        else:
            await self._talk.stream.send_eof()


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS contexts of a proxy at 127.0.0.1, and of a client that trusts it, and no target."""
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "proxy.test").configure_cert(serving)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)  # pyright: ignore[reportUnknownMemberType]  # the same
    return serving, trusting


# Targets --------------------------------------------------------------------------------------------------------------


class Echo:
    """What a target does: it echoes messages until the client closes, and notes the requests."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        # A client that does not trust its certificate breaks it off.
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.accept()
            self.requests.append(peer.request)
            while (received := await peer.read_frame()) is not None:
                await peer.send(frame(received.opcode, received.payload))
                if received.opcode == CLOSE:
                    break
            await peer.stream.aclose()
