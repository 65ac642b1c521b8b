"""TLS inside TLS, as through an ``https`` proxy: what the outer layer holds back is sent, and nothing is lost."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.websocket._links import SMALL_BUFFER_BYTES
from tests.websocket.transport.test_tls import ALL, OverMemory, OverSockets, Server, asking, serving, trusting
from trio_csp_websocket.connection.writer import Writer
from trio_csp_websocket.protocol.encoder import MaskingEncoder
from trio_csp_websocket.transport.socket import SocketTransport
from trio_csp_websocket.transport.tls import TlsTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KIB = 1024
MIB = 1024 * KIB


async def inside(link: OverMemory | OverSockets) -> tuple[TlsTransport, Server]:
    """Shake hands once more over a link; return the inner layer, and its server."""
    transport, server = TlsTransport(link.transport, trusting(), "server.test"), Server(serving())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.handshake)
        for _ in range(2):
            arrived = link.server.decrypt(bytes(await link.wire.receive_some(ALL)))
            await link.wire.send_all(link.server.records(server.shake_hands(arrived) or b""))
    assert await transport.receive_now(100) is None
    return transport, server


def over_wire(link: OverMemory | OverSockets, server: Server, arrived: bytes) -> bytes:
    """Return what is in what has arrived, through both layers."""
    return server.decrypt(link.server.decrypt(arrived))


@pytest.mark.parametrize("over", [OverMemory, OverSockets])
async def test_messages_go_both_ways_and_are_counted_above_both(over: type[OverMemory | OverSockets]) -> None:
    async with over() as link:
        transport, server = await inside(link)
        await link.wire.send_all(link.server.records(server.records(b"hello", b" and more")))
        assert await transport.receive_some(100) == b"hello and more"
        await transport.send_all(b"answer")
        assert over_wire(link, server, bytes(await link.wire.receive_some(ALL))) == b"answer"
        assert (transport.bytes_received, transport.bytes_sent) == (14, 6)


async def test_what_the_outer_layer_could_not_send_is_pending_and_the_next_send_brings_it() -> None:
    async with OverMemory() as link:
        transport, server = await inside(link)
        # A stream is not written at once, so the outer layer keeps it.
        assert transport.send_now(b"first") == 5
        assert transport.pending
        assert transport.send_now(b"second") == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.send_all, b"second")
            received = b""
            while len(received) < len(b"firstsecond"):
                received += over_wire(link, server, bytes(await link.wire.receive_some(ALL)))
        assert received == b"firstsecond"
        assert not transport.pending


async def test_an_answer_of_the_outer_layer_is_written_by_the_writer_of_the_inner(nursery: trio.Nursery) -> None:
    async with OverMemory(*asking()) as link:
        transport, server = await inside(link)
        link.server.tls.verify_client_post_handshake()
        asked = link.server.records(server.records(b"who are you?"))
        Writer(transport, nursery, MaskingEncoder())
        await link.wire.send_all(asked)
        assert await transport.receive_some(100) == b"who are you?"
        while link.server.tls.getpeercert() is None:
            link.server.decrypt(bytes(await link.wire.receive_some(ALL)))
        await trio.testing.wait_all_tasks_blocked()
        assert not transport.pending


async def test_an_answer_that_comes_before_there_is_a_writer_is_pending_and_written_by_it(
    nursery: trio.Nursery,
) -> None:
    async with OverMemory(*asking()) as link:
        transport, server = await inside(link)
        link.server.tls.verify_client_post_handshake()
        await link.wire.send_all(link.server.records(server.records(b"who are you?")))
        assert await transport.receive_some(100) == b"who are you?"
        assert transport.pending
        Writer(transport, nursery, MaskingEncoder())
        while link.server.tls.getpeercert() is None:
            link.server.decrypt(bytes(await link.wire.receive_some(ALL)))


@pytest.mark.parametrize("at_once", [False, True], ids=["send_all", "send_now"])
async def test_much_goes_both_ways_at_the_same_time_through_sockets_with_little_room(*, at_once: bool) -> None:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
    tcp = SocketTransport(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    outer = TlsTransport(tcp, trusting(), "server.test")
    inner = TlsTransport(outer, trusting(), "server.test")
    served = trio.SSLStream(trio.SSLStream(stream, serving(), server_side=True), serving(), server_side=True)
    data = bytes(range(256)) * KIB

    async def send_at_once(data: bytes) -> None:
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                sent += inner.send_now(view[sent:])
                if inner.pending:
                    await inner.send_all(b"")

    async def exchange(send: Callable[[bytes], Awaitable[object]], receive: Callable[[], Awaitable[bytes]]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, data)
            received = bytearray()
            while len(received) < len(data):
                received += await receive()
            assert received == data

    async def serve() -> None:
        await served.do_handshake()
        await exchange(served.send_all, partial(served.receive_some, 16 * KIB))  # type: ignore[arg-type]  # bytes-like

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await outer.handshake()
        await inner.handshake()
        await exchange(send_at_once if at_once else inner.send_all, partial(inner.receive_some, MIB))
    await inner.aclose()
    await trio.aclose_forcefully(served)
    assert ours.fileno() == -1


async def test_closing_the_inner_layer_closes_all_and_its_alert_goes_first() -> None:
    async with OverSockets() as link:
        transport, server = await inside(link)
        await transport.send_eof()
        arrived = b""
        while data := bytes(await link.wire.receive_some(ALL)):
            arrived += data
        assert over_wire(link, server, arrived) == b""
        assert server.alerted
        await transport.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await link.inner.receive_some(1)


@pytest.mark.parametrize("over", [OverMemory, OverSockets])
async def test_what_was_read_too_far_is_received_ahead_of_what_comes(over: type[OverMemory | OverSockets]) -> None:
    async with over() as link:
        link.transport.unread(b"early ")
        await link.wire.send_all(link.server.records(b"late"))
        assert await link.transport.receive_some(3) == b"ear"
        assert await link.transport.receive_now(100) == b"ly "
        assert await link.transport.receive_some(100) == b"late"
        assert link.transport.bytes_received == 10
