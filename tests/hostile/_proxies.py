"""Proxies that do not open the tunnel they are asked for: HTTP CONNECT (RFC 9110, section 9.3.6), SOCKS 4 and 5.

The client asks for a server that no proxy has to reach. All but those that a timeout has to end keep the connection
open, unless an end is part of the misdeed. Over TLS they are proxies of ``https:`` URLs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from csp.errors import ConnectionTimeoutError
from tests.hostile._attack import MIB, Attack, Certificates
from tests.hostile._handshakes import NOT_HTTP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from csp.websocket import ConnectOptions
    from tests.websocket._peers import Peer

LARGE = 2_000_000
URL = "ws://server.test/feed"


# How the client comes to them -----------------------------------------------------------------------------------------


def through(scheme: str) -> Callable[[str, Certificates | None], tuple[str, ConnectOptions]]:
    """Return what lets the client connect through the hostile server, as a proxy of this kind."""

    def reach(url: str, certificates: Certificates | None) -> tuple[str, ConnectOptions]:
        place = url.partition("://")[2].strip("/")
        credentials = "user" if scheme == "socks4a" else "user:hunter2"
        if certificates is None:
            return URL, {"proxy": f"{scheme}://{credentials}@{place}"}
        return URL, {"proxy": f"https://{credentials}@{place}", "proxy_ssl_context": certificates.client}

    return reach


# What they do ---------------------------------------------------------------------------------------------------------


async def drain(peer: Peer) -> None:
    """Read what the client sends until it has gone. It may be bytes of TLS, and half a request."""
    while await peer.stream.receive_some():
        pass


async def read_head(peer: Peer) -> None:
    """Read the request, which is CONNECT."""
    request = b""
    while b"\r\n\r\n" not in request:
        block = await peer.stream.receive_some()
        assert block, "the client went away in the middle of its request"
        request += block
    assert request.startswith(b"CONNECT server.test:80 HTTP/1.1\r\n")


async def read_greeting(peer: Peer) -> None:
    """Read the greeting of SOCKS 5, with two methods: none, and a login."""
    assert await peer.read(4) == b"\x05\x02\x00\x02"


async def read_socks4(peer: Peer) -> None:
    """Read the request of SOCKS 4a, with a user and a name."""
    assert await peer.read(25) == b"\x04\x01\x00\x50\x00\x00\x00\x01user\0server.test\0"


def answering(
    read: Callable[[Peer], Awaitable[None]], *answers: bytes, end: bool = False
) -> Callable[[Peer], Awaitable[None]]:
    """Read a request, answer it, and read what comes then before each further answer; close at the ``end``, or not."""

    async def serve(peer: Peer) -> None:
        await read(peer)
        for number, answer in enumerate(answers):
            if number:
                await peer.stream.receive_some()
            await peer.send(answer)
        if end:
            await peer.stream.aclose()
        else:
            await drain(peer)

    return serve


def flooding(read: Callable[[Peer], Awaitable[None]], begin: bytes, more: bytes) -> Callable[[Peer], Awaitable[None]]:
    async def serve(peer: Peer) -> None:
        await read(peer)
        await peer.send(begin)
        while True:
            await peer.send(more)

    return serve


def dripping(
    read: Callable[[Peer], Awaitable[None]], answer: bytes, seconds: float
) -> Callable[[Peer], Awaitable[None]]:
    """Answer a byte at a time, until the client has had enough."""

    async def serve(peer: Peer) -> None:
        await read(peer)
        for number in range(len(answer)):
            await peer.send(answer[number : number + 1])
            with trio.move_on_after(seconds):
                assert not await peer.stream.receive_some(1)
                break

    return serve


def bad(
    kind: str, scheme: str, name: str, serve: Callable[[Peer], Awaitable[object]], says: str, more: dict[str, Any]
) -> Attack:
    """Return an attack of a proxy that is told as one; retryable, if nothing else is said."""
    more.setdefault("retryable", True)
    return Attack(f"{kind}: {name}", serve, f"proxy.*{says}", reach=through(scheme), reads=False, **more)


def http(name: str, serve: Callable[[Peer], Awaitable[object]], says: str = "", **more: Any) -> Attack:
    return bad("HTTP", "http", name, serve, says, more)


def socks5(name: str, serve: Callable[[Peer], Awaitable[object]], says: str = "", **more: Any) -> Attack:
    return bad("SOCKS 5", "socks5h", name, serve, says, {"tcp_only": True, **more})


def socks4(name: str, serve: Callable[[Peer], Awaitable[object]], says: str = "", **more: Any) -> Attack:
    return bad("SOCKS 4", "socks4a", name, serve, says, {"tcp_only": True, **more})


# CONNECT --------------------------------------------------------------------------------------------------------------

TIMED_OUT: dict[str, Any] = {"error": ConnectionTimeoutError, "needs_timeout": "dial_timeout"}


async def hang_up_unread(peer: Peer) -> None:
    await peer.stream.aclose()


def connects() -> Iterator[Attack]:
    for name, answer in NOT_HTTP.items():
        yield http(name, answering(read_head, answer))
    for name, begin, more in (
        ("a header of any length", b"HTTP/1.1 200 OK\r\nX: ", b"x" * 8192),
        ("any number of headers", b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
        ("any number of headers of a refusal", b"HTTP/1.1 403 No\r\n", b"X: y\r\n" * 1000),
        ("a status line of any length", b"HTTP/1.1 200 ", b"x" * 8192),
        ("answers before the answer, without end", b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        ("noise without end", b"", b"x" * 8192),
        ("empty lines without end", b"", b"\r\n" * 4096),
    ):
        yield http(name, flooding(read_head, begin, more), "", max_bytes_over_limit=MIB)
    yield http(
        "a head of spaces, and a byte that HTTP forbids",
        answering(read_head, b"HTTP/1.1 200 OK\r\nX:" + b" " * 60_000 + b"\x01\r\n\r\n"),
        "",
    )
    for status, retryable in ((403, False), (407, False), (302, False), (502, True), (503, True), (504, True)):
        head = b"HTTP/1.1 %d Because\r\nContent-Length: %d\r\nLocation: ws://evil.test/\r\n\r\n" % (status, LARGE)
        yield http(
            f"status {status} and 2 MB", answering(read_head, head + b"x" * LARGE), f"{status}", retryable=retryable
        )
        yield http(
            f"status {status} and a body without end",
            flooding(read_head, head, b"sorry " * 1000),
            f"{status}",
            retryable=retryable,
            max_bytes_over_limit=MIB,
        )
    for size in (0, 1, 8, 12, 30):
        cut = b"HTTP/1.1 200 Connection established\r\n\r\n"[:size]
        yield http(f"{size} bytes and the end", answering(read_head, cut, end=True), "closed")
    yield http("no interest in the request", hang_up_unread, "")
    yield http("nothing", answering(read_head), "did not answer", **TIMED_OUT)
    yield http("nothing, not even read", drain, "did not answer", **TIMED_OUT, tcp_only=True)
    yield http("an answer, a byte a minute", dripping(read_head, b"HTTP/1.1 200 OK\r\n\r\n", 60), "", **TIMED_OUT)
    yield http(
        "an answer before the answer and no more", answering(read_head, b"HTTP/1.1 100 Go on\r\n\r\n"), "", **TIMED_OUT
    )


# SOCKS ----------------------------------------------------------------------------------------------------------------

NOT_SOCKS = {
    "a page": b"HTTP/1.1 400 Bad Request\r\n\r\n<html>",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "mail": b"220 mail.test ESMTP\r\n",
    "noise": bytes(range(255, -1, -1)) * 4,
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46\x00\x00\x00",
}


def socks() -> Iterator[Attack]:
    for name, answer in NOT_SOCKS.items():
        yield socks5(name, answering(read_greeting, answer))
        yield socks4(name, answering(read_socks4, answer))
        yield socks5(f"{name}, behind the greeting", answering(read_greeting, b"\x05\x00", answer))
        yield socks5(f"{name}, behind the login", answering(read_greeting, b"\x05\x02", b"\x01\x00", answer))
    for answer in (b"\x05\x01", b"\x05\x03", b"\x05\x7f", b"\x05\xff", b"\x00\x00", b"\x04\x5a"):
        yield socks5(
            f"{answer.hex()} for a greeting",
            answering(read_greeting, answer),
            retryable=answer not in (b"\x05\xff", b"\x05\x02"),
        )
    yield socks5("no such login", answering(read_greeting, b"\x05\x02", b"\x01\x01"), retryable=False)
    yield socks5("a login of another version", answering(read_greeting, b"\x05\x02", b"\x05\x00"))
    for code in (1, 2, 3, 4, 5, 6, 7, 8, 9, 255):
        yield socks5(
            f"code {code}",
            answering(read_greeting, b"\x05\x00", bytes([5, code, 0, 1, *bytes(6)])),
            retryable=code not in (7, 8),
        )
    for kind in (0, 2, 5, 255):
        yield socks5(
            f"bound to an address of kind {kind}",
            answering(read_greeting, b"\x05\x00", bytes([5, 0, 0, kind, *bytes(6)])),
        )
    for code in (0, 89, 91, 92, 93, 255):
        yield socks4(
            f"code {code}", answering(read_socks4, bytes([0, code, *bytes(6)])), retryable=code not in (92, 93)
        )
    yield socks4("another version", answering(read_socks4, bytes([4, 90, *bytes(6)])))
    reply = bytes([5, 0, 0, 3, 255]) + bytes(257)
    for size in (0, 1, 3, 4, 5, 261):
        yield socks5(
            f"{size} bytes and the end", answering(read_greeting, b"\x05\x00", reply[:size], end=True), "closed"
        )
    for size in (0, 1, 7):
        yield socks4(
            f"{size} bytes and the end", answering(read_socks4, bytes([0, 90, *bytes(6)])[:size], end=True), "closed"
        )
    yield socks5("the end of the greeting", answering(read_greeting, b"\x05", end=True), "closed")
    yield socks5("nothing", drain, "did not answer", **TIMED_OUT)
    yield socks5("nothing behind the greeting", answering(read_greeting, b"\x05\x00"), "did not", **TIMED_OUT)
    yield socks5("nothing behind the login", answering(read_greeting, b"\x05\x02", b"\x01\x00"), "did not", **TIMED_OUT)
    yield socks5(
        "half a reply, and no more", answering(read_greeting, b"\x05\x00", reply[:100]), "did not", **TIMED_OUT
    )
    yield socks5("a reply, a byte a minute", dripping(read_greeting, b"\x05\x00", 60), "", **TIMED_OUT)
    yield socks4("nothing", drain, "did not answer", **TIMED_OUT)
    yield socks5("noise without end", flooding(read_greeting, b"", b"x" * 8192), max_bytes_over_limit=MIB)
    yield socks4("noise without end", flooding(read_socks4, b"", b"x" * 8192), max_bytes_over_limit=MIB)


# What is in the tunnel ------------------------------------------------------------------------------------------------


def tunnels() -> Iterator[Attack]:
    """Yield proxies that open a tunnel to nothing: the target is what is told."""
    opened = b"HTTP/1.1 200 OK\r\n\r\n"
    silence = "did not answer the WebSocket handshake"
    yield Attack(
        "HTTP: a tunnel that leads nowhere",
        answering(read_head, opened),
        silence,
        reach=through("http"),
        reads=False,
        retryable=True,
        **TIMED_OUT,
    )
    yield Attack(
        "HTTP: a page in the packet of the answer",
        answering(read_head, opened + b"<html>welcome</html>\r\n\r\n"),
        "did not answer in HTTP",
        reach=through("http"),
        reads=False,
        retryable=True,
    )
    yield Attack(
        "HTTP: the refusal of somebody else in the packet of the answer",
        answering(read_head, opened + b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
        "status 404",
        reach=through("http"),
        reads=False,
        details={"status": 404},
    )
    yield Attack(
        "HTTP: 2 MB in the packet of the answer",
        answering(read_head, opened + b"HTTP/1.1 404 No\r\n" + b"X: y\r\n" * (LARGE // 6)),
        "more than 100 lines",
        reach=through("http"),
        reads=False,
        retryable=True,
        max_bytes_over_limit=8 * MIB,
    )
    yield Attack(
        "SOCKS 5: a page in the packet of the reply",
        answering(read_greeting, b"\x05\x00", bytes([5, 0, 0, 1, *bytes(6)]) + b"<html>welcome</html>\r\n\r\n"),
        "did not answer in HTTP",
        reach=through("socks5h"),
        reads=False,
        retryable=True,
        tcp_only=True,
    )


ATTACKS = [*connects(), *socks(), *tunnels()]
