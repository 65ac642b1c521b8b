"""Servers that die, stall, half-close, never answer a close, or keep TCP open after it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import trio

from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.hostile._attack import Attack
from tests.websocket._peers import BINARY, CLOSE, CONTINUATION, PING, TEXT, Peer, close_frame, frame
from tests.websocket._server import drained

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from csp import websocket

BEFORE = frame(TEXT, b"before")


# What servers do ----------------------------------------------------------------------------------------------------


async def hang_up(peer: Peer) -> None:
    await peer.stream.aclose()


async def reset(peer: Peer) -> None:
    peer.reset()


async def nothing(_peer: Peer) -> None: ...


def sending(
    data: bytes, then: Callable[[Peer], Awaitable[object]] = nothing, *, delivered: bool = False
) -> Callable[[Peer], Awaitable[None]]:
    """Send frames, and then do something more; wait for a frame in between if they have to be ``delivered``."""

    async def serve(peer: Peer) -> None:
        await peer.accept(data)
        if delivered:
            await peer.read_frame()
        await then(peer)

    return serve


def answering_close(data: bytes, *, end: bool = False) -> Callable[[Peer], Awaitable[None]]:
    """Send bytes when the client's close has come, and then close TCP if that is to be the ``end``."""

    async def serve(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(CLOSE)
        await peer.send(data)
        if end:
            await peer.stream.aclose()

    return serve


def flooding_at_close(answer: bytes) -> Callable[[Peer], Awaitable[None]]:
    async def serve(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(CLOSE)
        await peer.send(answer)
        while True:
            await peer.send((frame(TEXT, b"more") * 100 + frame(PING)) * 100)

    return serve


def reading_little(data: bytes) -> Callable[[Peer], Awaitable[None]]:
    """Read the beginning of what the client sends, and answer it."""

    async def serve(peer: Peer) -> None:
        await peer.accept(BEFORE)
        await peer.read(1000)
        await peer.send(data)

    return serve


# What clients do ----------------------------------------------------------------------------------------------------


async def be_seen(client: websocket.Client) -> str | bytes:
    """Take the first message, and tell the server that it may go on."""
    first = (await client.receive()).value.data
    await client.send("seen")
    return first


async def close(client: websocket.Client) -> list[str | bytes]:
    await client.close(4000, "enough")
    return await drained(client)


async def send_much(client: websocket.Client) -> list[str | bytes]:
    """Send until it fails; the system takes some of it."""

    async def send_for_ever() -> None:
        while True:
            await client.send(bytes(1 << 20))

    with pytest.raises(ConnectionFailedError):
        await send_for_ever()
    return await drained(client)


async def wait_for_a_pong(client: websocket.Client) -> None:
    # It may be over before the ping is out.
    with contextlib.suppress(ConnectionFailedError):
        answer = await client.ping()
        assert not (await answer.receive()).ok


async def do_all_at_once(client: websocket.Client) -> list[str | bytes]:
    """Receive, send, and wait for a pong; all of them have to end."""
    first = await be_seen(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_a_pong, client)
        nursery.start_soon(send_much, client)
        return [first, *await drained(client)]


async def receive_to_the_end(client: websocket.Client) -> list[str | bytes]:
    return [await be_seen(client), *await drained(client)]


# The table ----------------------------------------------------------------------------------------------------------


def dying() -> Iterator[Attack]:
    def lost(
        name: str,
        data: bytes,
        end: Callable[[Peer], Awaitable[object]],
        use: Callable[[websocket.Client], Awaitable[list[str | bytes]]] = receive_to_the_end,
    ) -> Attack:
        return Attack(
            name,
            sending(BEFORE + data, end, delivered=True),
            "the connection was lost",
            code=1006,
            received=("before",),
            use=use,
            kind=Kind.UNAVAILABLE,
            retryable=True,
            details={"code": 1006, "reason": ""},
            # When everybody is at work, the end may come in the middle of a frame.
            reads=use is not do_all_at_once,
            tcp_only=end is Peer.end,
        )

    for name, end in (("hangs up", hang_up), ("hangs up its half", Peer.end), ("resets", reset)):
        for when, data in (
            ("between messages", b""),
            ("in a header", frame(BINARY, bytes(1000))[:3]),
            ("in a message", frame(BINARY, bytes(100_000))[:50_000]),
            ("in a fragmented message", frame(TEXT, b"a", fin=False)),
            ("in a close frame", close_frame(1000, "bye")[:4]),
        ):
            yield lost(f"{name} {when}", data, end)
        yield lost(f"{name} under everything", b"", end, do_all_at_once)


def stalling() -> Iterator[Attack]:
    def timed_out(
        name: str, serve: Callable[[Peer], Awaitable[None]], says: str, option: str, code: int = 1011
    ) -> Attack:
        return Attack(
            name,
            serve,
            says,
            code=code,
            wire=code if code == 1011 else None,
            received=("before",),
            use=send_much if option == "write_timeout" else drained,
            error=ConnectionTimeoutError,
            kind=Kind.TIMEOUT,
            retryable=True,
            needs_timeout=option,
            stays=code != 1011,
            reads=code == 1011,
        )

    for name, data in (
        ("between messages", b""),
        ("in a header", frame(BINARY, bytes(1000))[:3]),
        ("in a message", frame(BINARY, bytes(100_000))[:50_000]),
        ("between fragments", frame(TEXT, b"a", fin=False) + frame(CONTINUATION, fin=False)),
    ):
        yield timed_out(f"stalls {name}", sending(BEFORE + data), r"no message within 0\.1 s", "read_timeout")
    yield timed_out("answers no ping", sending(BEFORE), r"nothing for 0\.1 s after a ping", "keepalive")
    yield timed_out("does not read", reading_little(b""), "written", "write_timeout", 1006)


def closing() -> Iterator[Attack]:
    def closed(
        name: str,
        serve: Callable[[Peer], Awaitable[None]],
        code: int,
        option: str | None = None,
        *,
        wire: int | None = 4000,
        stays: bool = False,
    ) -> Attack:
        return Attack(name, serve, code=code, wire=wire, use=close, needs_timeout=option, stays=stays)

    yield closed("never answers a close", answering_close(b""), 1006, "close_timeout", stays=True)
    yield closed(
        "answers a close and keeps TCP open", answering_close(close_frame(4000)), 4000, "close_timeout", stays=True
    )
    yield closed("answers a close with another", answering_close(close_frame(1008)), 1008)
    yield closed("answers a close without a code", answering_close(frame(CLOSE)), 1005)
    yield closed(
        "answers a close with another and keeps TCP open",
        answering_close(close_frame(1011)),
        1011,
        "close_timeout",
        stays=True,
    )
    yield closed("hangs up instead of answering a close", answering_close(b"", end=True), 1006)
    yield closed("answers a close with half a close", answering_close(close_frame(4000)[:3], end=True), 1006)
    yield closed("answers a close with pings and a close", answering_close(frame(PING) * 3 + close_frame(4000)), 4000)
    yield closed("answers a close with a violation", answering_close(frame(3)), 1002)
    yield closed("answers a close with a bad close", answering_close(close_frame(1005)), 1002)
    yield closed("answers a close twice", answering_close(close_frame(4000) * 2), 4000)
    yield closed(
        "answers a close with an unfinished message",
        answering_close(frame(TEXT, fin=False)),
        1006,
        "close_timeout",
        stays=True,
    )
    yield closed("floods instead of answering a close", flooding_at_close(b""), 1006, "close_timeout")
    yield closed("floods after its answer to a close", flooding_at_close(close_frame(4000)), 4000, "close_timeout")
    yield Attack(
        "closes and keeps TCP open",
        sending(close_frame(1001)),
        code=1001,
        wire=1001,
        needs_timeout="close_timeout",
        stays=True,
    )
    yield Attack(
        "closes and sends more",
        sending(BEFORE + close_frame(1000) + BEFORE),
        code=1000,
        wire=1000,
        received=("before",),
    )
    yield Attack("closes twice", sending(close_frame(1000) + close_frame(1011)), code=1000, wire=1000)
    yield Attack(
        "violates the protocol and keeps TCP open",
        sending(frame(3)),
        "opcode 3",
        code=1002,
        wire=1002,
        needs_timeout="close_timeout",
        stays=True,
    )
    yield Attack(
        "closes and does not read",
        reading_little(close_frame(1001)),
        code=1001,
        received=("before",),
        use=send_much,
        needs_timeout="close_timeout",
        stays=True,
        reads=False,
    )


ATTACKS = [*dying(), *stalling(), *closing()]
