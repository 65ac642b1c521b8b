"""Servers that do not answer the handshake as they should (RFC 6455, section 4.1).

All but those that a timeout has to end keep the connection open, unless an end is part of the misdeed: nothing but
what they have said tells the client that it is over.
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import trio

from csp.errors import ConnectionTimeoutError
from tests.hostile._attack import Attack
from tests.websocket._peers import Peer, acceptance

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

LARGE = 2_000_000


def answering(answer: bytes | Callable[[Peer], bytes], *, end: bool = False) -> Callable[[Peer], Awaitable[None]]:
    """Answer, and then close the connection if that is to be the ``end``."""

    async def serve(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(answer if isinstance(answer, bytes) else answer(peer))
        if end:
            await peer.stream.aclose()

    return serve


def changed(old: bytes, new: bytes) -> Callable[[Peer], bytes]:
    """Return the right answer with something else in it."""

    def answer(peer: Peer) -> bytes:
        assert old in peer.answer
        return peer.answer.replace(old, new)

    return answer


def with_lines(*lines: str) -> Callable[[Peer], bytes]:
    return lambda peer: acceptance(peer.request, *lines)


def bad(name: str, says: str, answer: bytes | Callable[[Peer], bytes], *, end: bool = False) -> Attack:
    details: dict[str, object] = {"answer": answer[:4096]} if isinstance(answer, bytes) else {}
    return Attack(name, answering(answer, end=end), says, retryable=True, details=details)


# No HTTP ------------------------------------------------------------------------------------------------------------

NOT_HTTP = {
    "noise": bytes(range(256)) * 4,
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "HTTP/2 settings": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "mail": b"220 mail.test ESMTP\r\n",
    "a line of nulls": bytes(100) + b"\r\n\r\n",
    "an empty line": b"\r\n\r\n",
    "a web socket without a handshake": b"\x81\x05Hello",
    "a status line of nulls": b"HTTP/1.1 101 \0\r\n\r\n",
    "no status": b"HTTP/1.1 banana\r\n\r\n",
    "four digits of status": b"HTTP/1.1 1010 Switching\r\n\r\n",
    "another HTTP": b"HTTP/2 101\r\n\r\n",
    "a header without a colon": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade\r\n\r\n",
    "a header with a null": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: web\0socket\r\n\r\n",
    "a header without a name": b"HTTP/1.1 101 Switching Protocols\r\n: websocket\r\n\r\n",
    "a folded first header": b"HTTP/1.1 101 Switching Protocols\r\n Upgrade: websocket\r\n\r\n",
}


# Cut off ------------------------------------------------------------------------------------------------------------


async def hang_up(peer: Peer) -> None:
    await peer.read_request()
    await peer.stream.aclose()


async def hang_up_unread(peer: Peer) -> None:
    await peer.stream.receive_some(1)
    await peer.stream.aclose()


async def reset(peer: Peer) -> None:
    await peer.read_request()
    peer.reset()


def cut_off() -> Iterator[Attack]:
    cut = "closed the connection in the middle of the WebSocket handshake"
    unanswered = "closed the connection without an answer to the WebSocket handshake"
    yield Attack("no answer but the end", hang_up, unanswered, retryable=True, details={"answer": b""})
    yield Attack(
        "no interest in the request",
        hang_up_unread,
        f"broke during the WebSocket handshake|{unanswered}",
        retryable=True,
    )
    yield Attack(
        "a reset instead of an answer", reset, "the connection broke during the WebSocket handshake", retryable=True
    )
    for size in (1, 8, 12, 40):
        answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"[:size]
        yield bad(f"{size} bytes and the end", cut, answer, end=True)
    yield bad("all but the last byte, and the end", cut, lambda peer: peer.answer[:-1], end=True)
    yield bad("an answer before the answer, and the end", cut, b"HTTP/1.1 100 Continue\r\n\r\n", end=True)


# Almost an acceptance -----------------------------------------------------------------------------------------------

SWITCHING = {"status": 101}
ALMOST: dict[str, tuple[str, Callable[[Peer], bytes]]] = {
    "no Upgrade": ("Upgrade header", changed(b"Upgrade: websocket\r\n", b"")),
    "an upgrade to HTTP/2": ("Upgrade header", changed(b"Upgrade: websocket", b"Upgrade: h2c")),
    "two upgrades": ("Upgrade header", with_lines("Upgrade: h2c")),
    "no Connection": ("Connection header", changed(b"Connection: Upgrade\r\n", b"")),
    "Connection: close": ("Connection header", changed(b"Connection: Upgrade", b"Connection: close")),
    "no accept key": ("Accept header does not match", changed(b"Sec-WebSocket-Accept", b"X-Accept")),
    "a wrong accept key": ("Accept header does not match", changed(b"Accept: ", b"Accept: A")),
    "an accept key of another case": (
        "Accept header does not match",
        lambda peer: peer.answer.replace(_accept_key(peer), _accept_key(peer).swapcase()),
    ),
    "an empty accept key": ("Accept header does not match", lambda peer: peer.answer.replace(_accept_key(peer), b"")),
    "two accept keys": ("Accept header does not match", with_lines("Sec-WebSocket-Accept: x")),
    "compression unasked": ("extension", with_lines("Sec-WebSocket-Extensions: permessage-deflate")),
    "an extension unasked": ("extension", with_lines("Sec-WebSocket-Extensions: x-surprise; a=1")),
    "a subprotocol unasked": ("subprotocol 'surprise'", with_lines("Sec-WebSocket-Protocol: surprise")),
    "a switch to nothing after an answer before": (
        "Upgrade header",
        lambda _: b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
    ),
}
DEFLATE_ANSWERS = (
    "permessage-deflate, permessage-deflate",
    "permessage-deflate, x-surprise",
    "permessage-deflate; surprise",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; server_max_window_bits=7",
    "permessage-deflate; server_max_window_bits=16",
    "permessage-deflate; server_max_window_bits=010",
    "permessage-deflate; client_max_window_bits=banana",
    "permessage-deflate; server_no_context_takeover=1",
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    "x-webkit-deflate-frame",
    "permessage-deflate; ;",
)


def _accept_key(peer: Peer) -> bytes:
    return peer.answer.partition(b"Accept: ")[2].partition(b"\r\n")[0]


def almost() -> Iterator[Attack]:
    for name, (says, answer) in ALMOST.items():
        yield Attack(name, answering(answer), says, retryable=True, details=SWITCHING)
    for extension in DEFLATE_ANSWERS:
        yield Attack(
            f"Sec-WebSocket-Extensions: {extension}",
            answering(with_lines(f"Sec-WebSocket-Extensions: {extension}")),
            "answer to the handshake is invalid",
            retryable=True,
            details=SWITCHING,
            options={"compression": 1},
        )
    for lines in (("x",), ("a", "b"), ("a, b",), ("",), ("A",)):
        yield Attack(
            f"subprotocol {' and '.join(lines) or 'nothing'} of a and b",
            answering(with_lines(*(f"Sec-WebSocket-Protocol: {line}" for line in lines))),
            "must choose one of (the subprotocols that were offered|them)",
            retryable=True,
            details=SWITCHING,
            options={"protocols": ["a", "b"]},
        )


# Refusals -----------------------------------------------------------------------------------------------------------

REDIRECTS = (300, 301, 302, 303, 307, 308)
SUCCESSES = (200, 201, 206)
CLIENT_ERRORS = (400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 413, 418, 421, 425, 426, 428, 429, 431, 451)
SERVER_ERRORS = (500, 501, 502, 503, 504, 505, 511, 520, 599, 600, 999)
RETRYABLE = (408, 425, 429)

SORRY = b"sorry " * 100
PACKED = gzip.compress(SORRY, mtime=0)
# By name: header lines, the body as it is sent, the start of it that the error tells, and whether the server closes.
BODIES: dict[str, tuple[bytes, bytes, bytes, bool]] = {
    "no body": (b"Content-Length: 0", b"", b"", False),
    "a body": (b"Content-Length: 600", SORRY, SORRY, False),
    "a body up to the end": (b"Connection: close", SORRY, SORRY, True),
    "half a body": (b"Content-Length: 1200", SORRY, SORRY, True),
    "no body but the end": (b"Content-Length: 600", b"", b"", True),
    "a body in chunks": (b"Transfer-Encoding: chunked", b"258\r\n" + SORRY + b"\r\n0\r\n\r\n", SORRY, False),
    "half a chunk": (b"Transfer-Encoding: chunked", b"fff\r\n" + SORRY, SORRY, True),
    "a chunk of no size": (b"Transfer-Encoding: chunked", b"258\r\n" + SORRY + b"\r\nbanana\r\n", SORRY, False),
    "chunks with trailers": (
        b"Transfer-Encoding: chunked",
        b"258\r\n" + SORRY + b"\r\n0\r\nX-Trailer: 1\r\n\r\n",
        SORRY,
        False,
    ),
    "a packed body": (b"Content-Encoding: gzip\r\nContent-Length: %d" % len(PACKED), PACKED, PACKED, False),
    "a body that is not text": (b"Content-Length: 256", bytes(range(256)), bytes(range(256)), False),
    "a body of 2 MB": (b"Content-Length: %d" % LARGE, b"x" * LARGE, b"x" * 4096, False),
    "a chunk of 2 MB": (b"Transfer-Encoding: chunked", b"1e8480\r\n" + b"x" * LARGE, b"x" * 4096, False),
    "two lengths": (b"Content-Length: 3\r\nContent-Length: 4", b"sorry", b"", False),
}


async def flood_with_body(peer: Peer) -> None:
    await peer.read_request()
    await peer.send(b"HTTP/1.1 500 Broken\r\n\r\n")
    while True:
        await peer.send(b"sorry " * 1000)


def says(status: int) -> str:
    if status in (301, 302, 303, 307, 308):
        return rf"redirects to wss://other\.test/ \(status {status} Because\), and redirects are not followed$"
    told = "answered" if 200 <= status <= 299 else "refused the connection"
    return f"{told} with status {status} Because"


def refused(name: str, status: int, head: bytes, body: bytes, told: bytes, *, end: bool) -> Attack:
    answer = b"HTTP/1.1 %d Because\r\nLocation: wss://other.test/\r\n%s\r\n\r\n%s" % (status, head, body)
    return Attack(
        name,
        answering(answer, end=end),
        says(status),
        retryable=status in RETRYABLE or status >= 500,
        details={"status": status, "body": told},
        # What a redirect leads to is another table's.
        options={"max_redirects": 0},
    )


def refusals() -> Iterator[Attack]:
    for status in (*REDIRECTS, *SUCCESSES, *CLIENT_ERRORS, *SERVER_ERRORS):
        head, body, told, end = BODIES["a body"]
        yield refused(f"status {status}", status, head, body, told, end=end)
    for name, (head, body, told, end) in BODIES.items():
        if name == "two lengths":
            yield bad(name, "did not answer in HTTP", b"HTTP/1.1 404 No\r\n" + head + b"\r\n\r\n" + body)
            continue
        for status in (302, 403, 503):
            yield refused(f"status {status} with {name}", status, head, body, told, end=end)
    for status in (204, 304):
        yield refused(f"status {status}, which has no body", status, b"X: y", b"", b"", end=False)
    yield Attack(
        "status 500 with a body that never ends",
        flood_with_body,
        "refused the connection with status 500 Broken",
        retryable=True,
        details={"status": 500, "body": (b"sorry " * 1000)[:4096]},
    )
    old = b"HTTP/1.0 503 Busy\r\n\r\nlater"
    yield Attack("HTTP/1.0", answering(old, end=True), "status 503", retryable=True, details={"body": b"later"})


# Too much, too slow -------------------------------------------------------------------------------------------------


async def inform_for_ever(peer: Peer) -> None:
    await peer.read_request()
    while True:
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" * 100)


def dripping(answer: bytes | None, seconds: float, at_once: bytes = b"") -> Callable[[Peer], Awaitable[None]]:
    """Send an answer, the right one if None, one byte at a time, until the client has had enough."""

    async def serve(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(at_once)
        for byte in peer.answer if answer is None else answer:
            with trio.move_on_after(seconds):
                assert not await peer.stream.receive_some(1)
                break
            await peer.send(bytes((byte,)))

    return serve


async def say_nothing(peer: Peer) -> None:
    await peer.read_request()


def too_much() -> Iterator[Attack]:
    large = "head of the server's answer is larger than 65536 bytes"
    switching = b"HTTP/1.1 101 Switching Protocols\r\n"
    refusing = b"HTTP/1.1 404 Not Found\r\n"
    for begun in (switching, refusing):
        status = begun[9:12].decode()
        yield bad(f"{status} with a header of 2 MB", large, begun + b"X: " + b"x" * LARGE)
        yield bad(
            f"{status} with 2 MB of headers", "more than 100 lines", begun + (b"X: " + b"x" * 100 + b"\r\n") * 20_000
        )
    yield bad("2 MB of a status line", large, b"HTTP/1.1 404 " + b"x" * LARGE)
    yield bad("2 MB without a line", "did not answer in HTTP", b"x" * LARGE)
    yield Attack("answers before the answer, without end", inform_for_ever, "more than 100 lines", retryable=True)


def too_slow() -> Iterator[Attack]:
    for name, noise in {"noise": b"noise", "what begins like HTTP": b"HTTP is no HTTP\r\n"}.items():
        yield Attack(f"{name}, byte by byte", dripping(noise, 0.001), "did not answer in HTTP", retryable=True)
    for name, serve in {
        "nothing at all": say_nothing,
        "the right answer, a byte a minute": dripping(None, 60),
        "the right answer, a byte every 10 ms": dripping(None, 0.01),
        "an answer before the answer and no more": answering(b"HTTP/1.1 100 Continue\r\n\r\n"),
    }.items():
        yield Attack(
            name,
            serve,
            r"0\.1 s",
            error=ConnectionTimeoutError,
            retryable=True,
            needs_timeout="dial_timeout",
        )
    yield Attack(
        "a refusal whose body comes a byte a minute",
        dripping(b"no", 60, b"HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nn"),
        "status 404",
        details={"status": 404, "body": b"n"},
    )


ATTACKS = [
    *(bad(name, "did not answer in HTTP", answer) for name, answer in NOT_HTTP.items()),
    *cut_off(),
    *almost(),
    *refusals(),
    *too_much(),
    *too_slow(),
]
