"""Servers that redirect for ever, to nowhere, to everywhere, or with much ado (RFC 6455, section 4.1).

Each answers every connection anew, and keeps it open, unless an end is part of the misdeed: the client must be the one
that leaves, before it goes on.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import trio

from csp.errors import ConnectionTimeoutError
from tests.hostile._attack import Attack
from tests.hostile._handshakes import LARGE, NOT_HTTP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.websocket._peers import Peer

TOO_MANY = r"which is one more than max_redirects \({}\)$"
NO_WEB_SOCKET = "where no WebSocket can be: "


def redirect(*locations: bytes, status: int = 302, lines: bytes = b"", body: bytes = b"") -> bytes:
    """Return an answer that redirects, and says in vain how long its body is."""
    named = b"".join(b"Location: " + location + b"\r\n" for location in locations)
    return b"HTTP/1.1 %d Elsewhere\r\n%s%sContent-Length: 9999999\r\n\r\n%s" % (status, named, lines, body)


def path_of(peer: Peer) -> bytes:
    return peer.request.split(b" ")[1]


def host_of(peer: Peer) -> bytes:
    found = re.search(rb"\r\nHost: ([^\r]*)\r\n", peer.request)
    assert found is not None
    return found[1]


def answering(answer: Callable[[Peer], bytes] | bytes) -> Callable[[Peer], Awaitable[None]]:
    async def serve(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(answer if isinstance(answer, bytes) else answer(peer))

    return serve


def after_one(then: Callable[[Peer], Awaitable[None]]) -> Callable[[Peer], Awaitable[None]]:
    """Redirect once, and do something else where that leads."""

    async def serve(peer: Peer) -> None:
        await peer.read_request()
        if path_of(peer) == b"/there":
            await then(peer)
        else:
            await peer.send(redirect(b"/there"))

    return serve


# For ever -------------------------------------------------------------------------------------------------------------


def next_number(peer: Peer) -> bytes:
    return redirect(b"/%d" % (int(path_of(peer)[1:] or b"0") + 1))


def a_longer_one(peer: Peer) -> bytes:
    return redirect(path_of(peer) + path_of(peer)[1:] + b"x")


def a_longer_query(peer: Peer) -> bytes:
    return redirect(b"?" + path_of(peer).partition(b"?")[2] * 2 + b"secret=12345678&")


async def flood_with_body(peer: Peer) -> None:
    await peer.read_request()
    await peer.send(redirect(b"/again"))
    # Until the client has closed its end: then sending fails.
    while True:
        await peer.send(b"sorry " * 1000)


async def to_tls(peer: Peer) -> None:
    block = bytes(await peer.stream.receive_some())
    if block.startswith(b"GET "):
        peer.request = block
        await peer.send(redirect(b"https://" + host_of(peer) + b"/"))
    else:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        while await peer.stream.receive_some():
            pass


# Where it leads -------------------------------------------------------------------------------------------------------


async def say_nothing(peer: Peer) -> None:
    await peer.expect_end()


async def hang_up(peer: Peer) -> None:
    await peer.stream.aclose()


async def reset(peer: Peer) -> None:
    peer.reset()


async def cut_off(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 302 Found\r\nLocation: /")
    await peer.stream.aclose()


async def inform_for_ever(peer: Peer) -> None:
    while True:
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nLocation: /elsewhere\r\n\r\n")


async def drip(peer: Peer) -> None:
    for byte in redirect(b"/" + b"x" * 100_000):
        await peer.send(bytes([byte]))
        await trio.sleep(0.001)


def saying(answer: bytes) -> Callable[[Peer], Awaitable[None]]:
    async def say(peer: Peer) -> None:
        await peer.send(answer)

    return say


def endless(name: str, answer: Callable[[Peer], bytes] | bytes, **more: Any) -> Attack:
    most = more.get("options", {}).get("max_redirects", 10)
    return Attack(f"redirects: {name}", answering(answer), TOO_MANY.format(most), **more)


def nowhere(name: str, says: str, *locations: bytes, **more: Any) -> Attack:
    return Attack(f"redirects: {name}", answering(redirect(*locations)), says, details={"status": 302}, **more)


def there(
    name: str, then: Callable[[Peer], Awaitable[None]], says: str, *, retryable: bool = True, **more: Any
) -> Attack:
    way = r"there \(redirected from wss?://127\.0\.0\.1:\d+/\).*"
    return Attack(f"redirected, then {name}", after_one(then), way + says, retryable=retryable, **more)


ATTACKS = [
    endless("to itself", redirect(b"#")),
    endless("to its own URL", redirect(b"?")),
    endless("always further", next_number),
    endless("always further, a hundred times", next_number, options={"max_redirects": 100}),
    endless("with a body of 2 MB", redirect(b"/x", body=b"x" * LARGE)),
    endless("with an answer behind it", redirect(b"/x", body=b"HTTP/1.1 101 Switching Protocols\r\n\r\n")),
    endless("that looks accepted", redirect(b"/x", lines=b"Upgrade: websocket\r\nConnection: Upgrade\r\n")),
    endless("after hints that lead elsewhere", b"HTTP/1.1 103 Hints\r\nLocation: /y\r\n\r\n" + redirect(b"/x")),
    Attack("redirects: with a body that never ends", flood_with_body, TOO_MANY.format(10)),
    Attack(
        "redirects: twice as long each time",
        answering(a_longer_one),
        "the head of the server's answer is larger than 65536 bytes$",
        retryable=True,
        options={"max_redirects": 100},
    ),
    Attack(
        "redirects: a query that is twice as long each time",
        answering(a_longer_query),
        "the head of the server's answer is larger than 65536 bytes$",
        retryable=True,
        options={"max_redirects": 100},
    ),
    # Locations that are none.
    nowhere("many places", NO_WEB_SOCKET + "it names several places", *(b"/%d" % number for number in range(90))),
    nowhere("an empty place", NO_WEB_SOCKET + "it is empty", b""),
    nowhere("a script", NO_WEB_SOCKET + 'url must start with "ws://"', b"javascript:alert(1)"),
    nowhere("a file", NO_WEB_SOCKET + 'url must start with "ws://"', b"file:///etc/passwd"),
    nowhere("a host of 5 KB", NO_WEB_SOCKET + "it must have at most 4096 characters", b"ws://" + b"a" * 5000 + b"/"),
    nowhere("a host of combining characters", NO_WEB_SOCKET, b"ws://" + b"a\xcc\x81\xcc\x96" * 800 + b"/"),
    nowhere("a host of dots", NO_WEB_SOCKET, b"ws://" + b"." * 4000 + b"/"),
    nowhere("brackets", NO_WEB_SOCKET, b"ws://" + b"[" * 4000 + b"/"),
    nowhere("percent signs", NO_WEB_SOCKET + "url has a % in its path", b"/" + b"%" * 60_000),
    nowhere("60 KB of bytes", NO_WEB_SOCKET, b"/" + bytes(range(0xA0, 0x100)) * 625 + b" x"),
    endless("up and up again", redirect(b"/.." * 5000 + b"/x")),
    endless("many slashes", redirect(b"/x" + b"/" * 30_000)),
    endless("many colons", redirect(b"/x" + b":" * 30_000)),
    endless("20 KB that become 120", redirect(b"/" + b"\xfc" * 20_000)),
    # Where it leads.
    there("silence", say_nothing, "did not answer", error=ConnectionTimeoutError, needs_timeout="dial_timeout"),
    there("drops", drip, "was not complete", error=ConnectionTimeoutError, needs_timeout="dial_timeout"),
    there("hints for ever", inform_for_ever, "more than 100 lines of headers$"),
    there("a hang-up", hang_up, "without an answer to the WebSocket handshake"),
    there("a reset", reset, "the connection broke during the WebSocket handshake", tcp_only=True),
    there("half a redirect", cut_off, "closed the connection in the middle of the WebSocket handshake"),
    there(
        "a refusal",
        saying(b"HTTP/1.1 403 No\r\nContent-Length: 7\r\n\r\ngo away"),
        "status 403 No: go away$",
        retryable=False,
    ),
    there("an error", saying(b"HTTP/1.1 503 Busy\r\nContent-Length: 7\r\n\r\ngo away"), "status 503 Busy: go away$"),
    there(
        "an ordinary answer", saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "status 200 OK", retryable=False
    ),
    *(there(name, saying(answer), "did not answer in HTTP") for name, answer in NOT_HTTP.items()),
    Attack(
        "redirects: to a port where nobody listens",
        answering(redirect(b"//127.0.0.1:1/")),
        r"^cannot connect to wss?://127\.0\.0\.1:1/ \(redirected from wss?://127\.0\.0\.1:\d+/\): ",
        retryable=True,
    ),
    Attack(
        "redirects: to TLS, which it does not speak",
        to_tls,
        r"^cannot connect to wss://127\.0\.0\.1:\d+/ \(redirected from ws://127\.0\.0\.1:\d+/\): TLS failed: ",
        retryable=True,
        tcp_only=True,
    ),
    Attack(
        "redirects: away from TLS",
        answering(lambda peer: redirect(b"http://" + host_of(peer) + b"/")),
        "which would leave TLS$",
        tls_only=True,
    ),
]
