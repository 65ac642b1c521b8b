"""TLS on loopback: whom the client trusts, and that the data plane works as well on it."""

from __future__ import annotations

import contextlib
import random
import ssl
from typing import cast

import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, InvalidError, Kind
from tests.websocket._peers import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    close_frame,
    frame,
    parse_close,
    raw_server,
)

MIB = 1 << 20


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def context_for(authority: trustme.CA, identity: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(identity).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    return context


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    return context_for(authority, "127.0.0.1")


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    return context


def tcp_of(peer: Peer) -> trio.SocketStream:
    """Return what is below a server's TLS."""
    return cast("trio.SSLStream[trio.SocketStream]", peer.stream).transport_stream


async def frames_until_close(peer: Peer) -> list[Frame]:
    """Read up to the client's close, and answer it."""
    frames: list[Frame] = []
    while not frames or frames[-1].opcode != CLOSE:
        received = await peer.read_frame()
        assert received is not None
        frames.append(received)
    await peer.send(frame(CLOSE, frames[-1].payload))
    return frames


async def fails_to_connect(url: str, context: ssl.SSLContext | None, says: str) -> None:
    with pytest.raises(ConnectionFailedError, match=says) as caught:
        async with websocket.connect(url, ssl_context=context):
            pytest.fail("connected")
    assert not isinstance(caught.value, ConnectionTimeoutError)
    assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, True)


async def test_messages_of_all_sizes_go_both_ways(server_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        while (received := await peer.read_frame()) is not None and received.opcode != CLOSE:
            if received.opcode != PONG:
                await peer.send(frame(PING, b"alive?") + frame(received.opcode, received.payload))
        await peer.send(close_frame(1000))

    messages: list[str | bytes] = ["", b"", "é" * 100, bytes(range(256)) * 256, b"x" * (4 * MIB), "z" * MIB] * 2
    async with raw_server(server, tls=server_tls) as url, websocket.connect(url, ssl_context=trusting) as client:
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for message in messages:
                    await client.send(message)

            nursery.start_soon(send)
            for message in messages:
                assert (await client.receive()).value.data == message
        await client.close()
        assert (client.close_code, client.error) == (1000, None)


async def test_an_untrusted_certificate_is_refused(server_tls: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            assert await peer.stream.receive_some() == b""

    async with raw_server(server, tls=server_tls) as url:
        await fails_to_connect(url, None, "not trusted")
        await fails_to_connect(url, ssl.create_default_context(), "not trusted")


async def test_a_certificate_for_another_host_is_refused(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            assert await peer.stream.receive_some() == b""

    async with raw_server(server, tls=context_for(authority, "example.com")) as url:
        await fails_to_connect(url, trusting, r"not trusted.*127\.0\.0\.1")


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100, b""])
async def test_a_server_without_tls_behind_wss_fails_at_once(says: bytes, trusting: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        assert (await peer.stream.receive_some())[:1] == b"\x16"
        await peer.send(says)

    async with raw_server(server) as url:
        await fails_to_connect(url.replace("ws:", "wss:"), trusting, "TLS failed")


async def test_a_server_that_says_nothing_to_tls_is_left_after_the_dial_timeout(trusting: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        await peer.expect_gone()

    async with raw_server(server) as url:
        with pytest.raises(ConnectionTimeoutError):
            async with websocket.connect(url.replace("ws:", "wss:"), ssl_context=trusting, dial_timeout=50):
                pytest.fail("connected")


def test_a_context_for_a_url_without_tls_is_invalid(trusting: ssl.SSLContext) -> None:
    with pytest.raises(InvalidError, match="ssl_context"):
        websocket.connect("ws://127.0.0.1:1/", ssl_context=trusting)


async def test_pings_are_answered_during_a_large_send(server_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    received = trio.Event()

    async def server(peer: Peer) -> None:
        await peer.accept()
        for number in range(100):
            await peer.send(frame(PING, b"%d" % number) + frame(TEXT, b"%d" % number))
        await received.wait()
        frames = await frames_until_close(peer)
        assert [len(one.payload) for one in frames if one.opcode == BINARY] == [24 * MIB]
        pongs = [one.payload for one in frames if one.opcode == PONG]
        assert len(pongs) < 10
        assert pongs[-1] == b"99"

    async with raw_server(server, tls=server_tls) as url, websocket.connect(url, ssl_context=trusting) as client:
        assert client.close_code is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, bytes(24 * MIB))
            for number in range(100):
                assert (await client.receive()).value.data == str(number)
            received.set()


async def test_a_cancelled_block_tells_the_server_that_we_go_away(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        assert parse_close(await peer.expect(CLOSE)) == (1001, "")
        await peer.expect_end()

    async with raw_server(server, tls=server_tls) as url:
        with trio.CancelScope() as scope:
            async with websocket.connect(url, ssl_context=trusting) as client:
                scope.cancel()
                await client.receive()
        assert scope.cancelled_caught


async def test_a_cancelled_block_ends_at_once_although_the_server_does_not_read(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.expect_gone()

    async with raw_server(server, tls=server_tls) as url:
        with trio.CancelScope() as scope:
            async with (
                websocket.connect(url, ssl_context=trusting, close_timeout=None) as client,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(client.send, bytes(24 * MIB))
                await wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught


@pytest.mark.parametrize("ends", ["an exception", "a cancellation"])
async def test_leaving_a_connection_that_broke_unnoticed_raises_nothing_of_its_own(
    ends: str, server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    # Nothing is read while the channel is full, so the reset is noticed only when the last frame is written.
    die = trio.Event()

    async def server(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"message") * 10)
        await die.wait()
        Peer(tcp_of(peer), peer.left).reset()

    async with raw_server(server, tls=server_tls) as url:
        client: websocket.Client | None = None
        with trio.CancelScope() as scope, contextlib.suppress(ValueError):
            async with websocket.connect(url, ssl_context=trusting, channel_capacity=1) as client:
                await wait_all_tasks_blocked()
                die.set()
                await wait_all_tasks_blocked()
                if ends == "an exception":
                    raise ValueError("mine")
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert client is not None
        assert client.close_code == 1006


@pytest.mark.parametrize("reset", [False, True])
async def test_a_server_that_dies_inside_a_tls_record_is_reported(
    reset: bool, server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"whole"))
        await peer.expect(TEXT)
        tcp = tcp_of(peer)
        # The beginning of a record of application data.
        await tcp.send_all(b"\x17\x03\x03\x10\x00" + bytes(100))
        if reset:
            Peer(tcp, peer.left).reset()
        else:
            await tcp.aclose()

    async with raw_server(server, tls=server_tls) as url, websocket.connect(url, ssl_context=trusting) as client:
        assert (await client.receive()).value.data == "whole"
        await client.send("die")
        assert not (await client.receive()).ok
        assert client.error is not None
        assert (client.error.kind, client.error.retryable) == (Kind.UNAVAILABLE, True)
        assert client.close_code == 1006


async def test_noise_instead_of_a_tls_record_is_reported(server_tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(TEXT)
        await tcp_of(peer).send_all(b"this is no TLS" * 100)
        with contextlib.suppress(trio.BrokenResourceError):
            await tcp_of(peer).receive_some()

    async with raw_server(server, tls=server_tls) as url, websocket.connect(url, ssl_context=trusting) as client:
        await client.send("go")
        assert not (await client.receive()).ok
        assert client.error is not None
        assert (client.error.kind, client.close_code) == (Kind.UNAVAILABLE, 1006)


async def test_a_server_that_keeps_tls_open_after_the_closes_is_left_after_the_close_timeout(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def server(peer: Peer) -> None:
        await peer.accept()
        await frames_until_close(peer)
        await peer.expect_gone()

    async with (
        raw_server(server, tls=server_tls) as url,
        websocket.connect(url, ssl_context=trusting, close_timeout=100) as client,
    ):
        await client.close()
        assert (client.close_code, client.error) == (1000, None)


async def test_sends_cancelled_at_random_never_corrupt_or_reorder_the_stream(
    server_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    rng = random.Random(0)
    arrived: list[int] = []
    sent: list[int] = []

    async def server(peer: Peer) -> None:
        await peer.accept()
        for one in await frames_until_close(peer):
            if one.opcode == BINARY:
                arrived.append(int.from_bytes(one.payload[:2], "big"))
                assert one.payload == one.payload[:2] + bytes(len(one.payload) - 2)

    async with raw_server(server, tls=server_tls) as url, websocket.connect(url, ssl_context=trusting) as client:
        for number in range(300):
            with trio.CancelScope() as scope:
                if rng.random() < 0.7:
                    scope.deadline = trio.current_time() + rng.random() * rng.choice((0, 0.0002, 0.002))
                await client.send(number.to_bytes(2, "big") + bytes(rng.choice((0, 1000, 300_000))))
                sent.append(number)
    assert arrived == sorted(set(arrived))
    assert set(sent) <= set(arrived)
    assert len(sent) < 300


async def test_a_server_that_is_silent_in_the_tls_handshake_is_given_up_in_time() -> None:
    async def server(peer: Peer) -> None:
        await peer.read(1)
        await peer.expect_gone()

    async with raw_server(server) as url:
        with pytest.raises(ConnectionTimeoutError):
            async with websocket.connect(url.replace("ws:", "wss:"), dial_timeout="50ms"):
                pytest.fail("connected")


async def test_a_reset_in_the_tls_handshake_is_a_failed_connection() -> None:
    async def server(peer: Peer) -> None:
        await peer.read(1)
        peer.reset()

    async with raw_server(server) as url:
        with pytest.raises(ConnectionFailedError, match="TLS failed: Connection reset by peer") as caught:
            async with websocket.connect(url.replace("ws:", "wss:")):
                pytest.fail("connected")
    assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, True)
