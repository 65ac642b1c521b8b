"""Servers that make much work of few bytes, or say what is written to be shown.

The table of ``python -m tests.hostile`` tells what they cost: the longest time in which a task let no other run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from csp.errors import ConnectionTimeoutError, Kind
from tests.hostile._attack import MIB, Attack
from tests.hostile._bombs import sending, survived
from tests.hostile._handshakes import answering, bad, changed, with_lines
from tests.websocket._forging import Forger
from tests.websocket._peers import PING, PONG, TEXT, Peer, close_frame, frame
from tests.websocket._server import deflated, drained
from trio_csp_websocket.transport.tls import TlsTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterator

    import trio

    from csp import websocket

KIB = 1 << 10
HEAD = 64 * KIB
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\n"
CHUNKED = NOT_FOUND + b"Transfer-Encoding: chunked\r\n\r\n"
BEFORE = frame(TEXT, b"before")
RSV1 = 0x40
UNANSWERED_PINGS = 1024


# Answers to the handshake ---------------------------------------------------------------------------------------------


def byte_by_byte(answer: bytes) -> Callable[[Peer], Awaitable[None]]:
    async def serve(peer: Peer) -> None:
        await peer.read_request()
        for byte in answer:
            await peer.send(bytes((byte,)))

    return serve


def headers(count: int) -> bytes:
    return b"".join(b"%x:\r\n" % number for number in range(count))


def heads(size: int) -> Iterator[Attack]:
    lines = "more than 100 lines of headers"
    # As many different headers as there is room for.
    yield bad("a refusal with 10,829 headers", lines, NOT_FOUND + headers(10_829) + b"\r\n")
    yield bad("a refusal with 101 headers", lines, NOT_FOUND + headers(101) + b"\r\n")
    yield bad("an acceptance with 101 headers", lines, with_lines(*(f"{number}:" for number in range(98))))
    yield bad("a header of 10,000 folded lines", lines, NOT_FOUND + b"X: 1\r\n" + b" 1\r\n" * 10_000 + b"\r\n")
    yield bad("2,600 informational answers", lines, b"HTTP/1.1 100 Continue\r\n\r\n" * 2_600)
    yield bad("101 informational answers with a hint each", lines, b"HTTP/1.1 103 Go\r\nLink: x\r\n\r\n" * 101)
    for name, begun in (("a status line", b"HTTP/1.1 404 "), ("a header", NOT_FOUND + b"X: ")):
        yield Attack(
            f"{name} of {size} bytes, byte by byte, and the end of all heads",
            byte_by_byte(begun + b"x" * (size - len(begun)) + b"\x0b\r\n\r\n"),
            "larger than 65536 bytes" if size + 5 > HEAD else "contains the byte",
            retryable=True,
            max_steps=8 * HEAD,
            tcp_only=True,
        )
    yield bad(
        "64 KiB of spaces and a vertical tab", "contains the byte", NOT_FOUND + b"X:" + b" " * 60_000 + b"\x0b\r\n\r\n"
    )
    yield bad("64 KiB of tabs and a null", "contains the byte", NOT_FOUND + b"X:" + b"\t" * 60_000 + b"\0\r\n\r\n")


def bodies() -> Iterator[Attack]:
    def refused(name: str, answer: bytes, body: bytes) -> Attack:
        return Attack(name, answering(answer), "status 404 Not Found", details={"status": 404, "body": body})

    spaces = b" " * 60_000
    yield refused("a chunk with an extension of 64 KiB", CHUNKED + b"5;" + spaces + b"\nx\r\n", b"")
    yield refused("a trailer of 64 KiB", CHUNKED + b"2\r\nno\r\n0\r\nX:" + spaces + b"\x0b\r\n\r\n", b"no")
    yield refused("chunks of a byte", CHUNKED + b"1\r\nx\r\n" * 5_000, b"x" * 4096)
    extension = b";" + b" " * 900
    yield refused(
        "chunks of a byte with much about each", CHUNKED + (b"1" + extension + b"\r\nx\r\n") * 5_000, b"x" * 4096
    )


def values() -> Iterator[Attack]:
    for name, header in (
        ("commas", "," * 60_000),
        ("extensions", "permessage-deflate," * 3_000),
        ("parameters", "permessage-deflate" + ";a" * 30_000),
        ("parameters with values", "permessage-deflate" + "; a = b" * 8_000),
        ("half a quoted value", 'permessage-deflate; a="' + "a" * 60_000),
        ("spaces and a bad character", "permessage-deflate;" + " " * 60_000 + "\x01"),
    ):
        yield Attack(
            f"Sec-WebSocket-Extensions of many {name}",
            answering(with_lines(f"Sec-WebSocket-Extensions: {header}", "Upgrade: h2c")),
            "Upgrade header",
            retryable=True,
        )
        if name != "commas":
            yield Attack(
                f"Sec-WebSocket-Extensions of many {name}, compression offered",
                answering(with_lines(f"Sec-WebSocket-Extensions: {header}")),
                "answer to the handshake is invalid",
                retryable=True,
                options={"compression": 1},
            )
    commas = changed(b"Connection: Upgrade", b"Connection: " + b"," * 60_000)
    yield bad("Connection of many commas", "Connection header", commas)


def waits() -> Iterator[Attack]:
    for name, value in (
        ("9,999,999,999 s", "9999999999"),
        ("10,000 digits", "9" * 10_000),
        ("a negative number", "-1"),
        ("the year 9999", "Fri, 31 Dec 9999 23:59:59 GMT"),
        ("a year of 4,000 digits", f"Fri, 31 Dec {'9' * 4000} 23:59:59 GMT"),
        ("64 KiB of colons", "Sun, 06 Nov 1994 " + ":" * 60_000),
    ):
        yield Attack(
            f"Retry-After: {name}",
            answering(f"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: {value}\r\n\r\n".encode()),
            "status 503",
            retryable=True,
            details={"status": 503},
        )


# The open connection --------------------------------------------------------------------------------------------------


async def ping_often(client: websocket.Client) -> list[str | bytes]:
    """Have as many pings unanswered as there can be, and wait for the end."""
    answers = [await client.ping() for _ in range(UNANSWERED_PINGS)]
    received = await drained(client)
    assert not any([(await answer.receive()).ok for answer in answers])
    return received


def ponging(*pongs: bytes) -> Callable[[Peer], Awaitable[None]]:
    async def serve(peer: Peer) -> None:
        await peer.accept()
        for _ in range(UNANSWERED_PINGS):
            await peer.expect(PING)
        await peer.send(BEFORE + b"".join(pongs) + close_frame(1000))

    return serve


def frames() -> Iterator[Attack]:
    for name, pongs in (
        ("empty pongs", frame(PONG) * 63_000),
        ("pongs with a number", frame(PONG, b"\xff" * 8) * 12_600),
        ("long pongs", frame(PONG, bytes(125)) * 1_000),
    ):
        yield Attack(
            f"126 KB of {name} against 1,024 unanswered pings",
            ponging(pongs),
            code=1000,
            wire=1000,
            received=("before",),
            use=ping_often,
        )
    yield survived("126 KB of empty pings", frame(PING) * 63_000)
    yield survived(
        "126 KB of messages with a final block each", frame(TEXT, b"\x03\x00", reserved=RSV1) * 31_500, compressed=True
    )
    # 16 MiB of ASCII are 16 MiB, and with one character beyond it four times as many.
    emoji = "a" * (4 * MIB - 4) + "\N{PILE OF POO}"
    for name, payload, reserved in (
        ("", emoji.encode(), 0),
        (", deflated", deflated(emoji.encode(), level=9), RSV1),
    ):
        yield Attack(
            f"4 MiB of text with one emoji{name}",
            sending(frame(TEXT, payload, reserved=reserved) + close_frame(1000), compressed=bool(reserved)),
            code=1000,
            wire=1000,
            received=None,
            use=take_and_drop,
            options={"read_limit": 4 * MIB, "compression": int(bool(reserved))},
            max_bytes_over_limit=5 * 4 * MIB + 4 * MIB,
        )


async def take_and_drop(client: websocket.Client) -> list[str | bytes]:
    async for _ in client:
        pass
    return []


# What is shown --------------------------------------------------------------------------------------------------------


def texts() -> Iterator[Attack]:
    for name, text in {
        "an escape sequence": "\x1b[2J\x1b[31mforged",
        "line breaks": "one\r\nERROR two\n\N{LINE SEPARATOR}three",
        "C1 controls": "\x9b2J\x85forged",
        "right-to-left marks": "\N{RIGHT-TO-LEFT OVERRIDE}degrof",
    }.items():
        yield Attack(
            f"closes with {name} in its reason",
            sending(close_frame(1011, text)),
            "1011",
            code=1011,
            wire=1011,
            received=("before",),
            kind=Kind.UNAVAILABLE,
            retryable=True,
            details={"reason": text},
        )
    for name, reason in {
        "an escape sequence": b"\x1b[2J",
        "C1 controls": b"\x9b2J\x85",
        "no ASCII": b"\xff\xfe" * 5_000,
    }.items():
        yield Attack(
            f"refuses with {name} in its reason phrase",
            answering(b"HTTP/1.1 404 No" + reason + b"\r\nContent-Length: 0\r\n\r\n"),
            "status 404 No",
            details={"status": 404},
        )


# TLS ------------------------------------------------------------------------------------------------------------------


def forging(records: Callable[[Forger], Iterator[bytes]]) -> Callable[[Peer], Awaitable[None]]:
    """Say a message, and then what OpenSSL would not say for a server; read nothing meanwhile."""

    async def serve(peer: Peer) -> None:
        await peer.accept()
        await peer.send(BEFORE)
        stream = cast("trio.SSLStream[trio.SocketStream]", peer.stream)
        forger = Forger(cast("ssl.SSLContext", stream.context), records_sent=2)
        for record in records(forger):
            await stream.transport_stream.send_all(record)
        await peer.left.wait()

    return serve


async def answer_little(client: websocket.Client) -> list[str | bytes]:
    received = await drained(client)
    transport = client._connection.transport
    assert isinstance(transport, TlsTransport)
    assert transport._outgoing.pending < 2 * MIB
    return received


def requests(forger: Forger) -> Iterator[bytes]:
    return (forger.requests(1) for _ in range(20_000))


def requests_in_large_records(forger: Forger) -> Iterator[bytes]:
    return (forger.requests(500) for _ in range(40))


def key_updates(forger: Forger) -> Iterator[bytes]:
    return (forger.key_update() for _ in range(20_000))


def tls() -> Iterator[Attack]:
    for name, records in (
        ("asks for a certificate 20,000 times", requests),
        ("asks for a certificate 20,000 times, 500 in a record", requests_in_large_records),
        ("asks for 20,000 new keys", key_updates),
    ):
        yield Attack(
            f"{name}, and does not read",
            forging(records),
            r"no message within 0\.1 s",
            code=1011,
            received=("before",),
            use=answer_little,
            error=ConnectionTimeoutError,
            kind=Kind.TIMEOUT,
            retryable=True,
            options={"close_timeout": "100ms"},
            needs_timeout="read_timeout",
            stays=True,
            reads=False,
            tls_only=True,
            shows_certificate=True,
        )


def attacks(head_bytes: int) -> list[Attack]:
    return [*heads(head_bytes), *bodies(), *values(), *waits(), *frames(), *texts(), *tls()]


ATTACKS = attacks(4 * KIB)
