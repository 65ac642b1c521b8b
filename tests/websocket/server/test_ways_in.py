"""TLS, Unix sockets, given sockets, and several servers on one port, with the client of this project."""

from __future__ import annotations

import logging
import socket
import ssl
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from csp import websocket
from csp.errors import ConnectionFailedError
from tests.websocket._peers import until
from tests.websocket.server._lobby import LOGGER, Lobby, RawClient, handshake

if TYPE_CHECKING:
    from pathlib import Path

AUTHORITY = trustme.CA()
UNIX = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")


def server_context(*, ask_for_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("localhost", "127.0.0.1").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    if ask_for_certificate:
        AUTHORITY.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # the same
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(*, certificate: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    if certificate:
        AUTHORITY.issue_cert(certificate).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # the same
    return context


async def tell(connection: websocket.ServerConnection) -> None:
    certificate, remote = connection.peer_certificate, connection.remote
    await connection.accept()
    who = f"{remote[0]}:{remote[1]}" if isinstance(remote, tuple) else "a Unix socket"
    assert repr(connection) == f"<csp.websocket.ServerConnection open, {connection.url} from {who}>"
    await connection.send_json([connection.url.partition(":")[0], bool(certificate), remote])
    async for message in connection:
        await connection.send(message.data)


async def test_tls() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(websocket.serve, tell, 0, ssl_context=server_context()))
        assert server.url == f"wss://localhost:{server.port}/"
        async with websocket.connect(server.url, ssl_context=client_context()) as client:
            scheme, certified, remote = (await client.receive_value()).json()
            assert (scheme, certified, remote[0]) == ("wss", False, "127.0.0.1")
            await client.send(b"x" * 300_000)
            assert (await client.receive_value()).data == b"x" * 300_000
        await server.close()


async def test_client_certificates() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(websocket.serve, tell, 0, ssl_context=server_context(ask_for_certificate=True))
        )
        async with websocket.connect(server.url, ssl_context=client_context(certificate="me@example.com")) as client:
            assert (await client.receive_value()).json()[1]
        with pytest.raises(ConnectionFailedError):
            async with websocket.connect(server.url, ssl_context=client_context()):
                pass
        await server.close()


async def test_plain_http_on_a_port_of_tls_gets_no_answer_and_ends_nothing() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(websocket.serve, tell, 0, ssl_context=server_context()))
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(handshake())
        received = b""
        async for block in stream:
            received += block
        await stream.aclose()
        assert not received.startswith(b"HTTP")
        async with websocket.connect(server.url, ssl_context=client_context()) as client:
            await client.receive_value()
        await server.close()


@pytest.mark.parametrize("what", ["no certificate", "what only a client can do"])
async def test_a_context_that_cannot_be_used_ends_each_connection(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.check_hostname = what == "what only a client can do"
    async with websocket.listen(0, host="127.0.0.1", ssl_context=context) as server:
        for _ in range(2):
            with pytest.raises(ConnectionFailedError):
                async with websocket.connect(server.url, ssl_context=client_context()):
                    pass
        assert server.statistics().waiting == 0
    lines = [record for record in caplog.records if record.name == LOGGER]
    assert [record.levelno for record in lines[1:-1]] == [logging.DEBUG] * 2
    assert all(record.getMessage().startswith("no request from 127.0.0.1:") for record in lines[1:-1])


@UNIX
async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(websocket.serve, tell, unix_socket=path, mode=0o660))
        assert (server.url, server.port, server.addresses) == (f"ws+unix://{path}", None, (str(path),))
        assert path.stat().st_mode & 0o777 == 0o660
        async with websocket.connect("ws://anything/", unix_socket=path) as client:
            assert (await client.receive_value()).json() == ["ws", False, ""]
        await server.close()
    assert not path.exists()


async def test_given_sockets_are_closed_at_the_end() -> None:
    given = socket.create_server(("127.0.0.1", 0))
    async with websocket.listen(sockets=[given, Lobby()]) as server:
        assert server.port == given.getsockname()[1]
        assert server.url == f"ws://127.0.0.1:{server.port}/"
        client = RawClient(await trio.open_tcp_stream("127.0.0.1", server.port or 0))
        await client.send(handshake())
        await (await server.receive_value()).accept()
        assert (await client.answer()).status == 101
        await client.leave()
    assert given.fileno() == -1


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT") or sys.platform == "darwin", reason="one server has it all")
async def test_several_servers_share_a_port() -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(websocket.listen(0, host="127.0.0.1", reuse_port=True))
        other = await stack.enter_async_context(websocket.listen(one.port, host="127.0.0.1", reuse_port=True))
        assert one.port == other.port
        clients = [RawClient(await trio.open_tcp_stream("127.0.0.1", one.port or 0)) for _ in range(40)]
        for client in clients:
            await client.send(handshake())
        await until(lambda: one.statistics().waiting + other.statistics().waiting == 40)
        assert min(one.statistics().waiting, other.statistics().waiting) > 0
        for client in clients:
            await client.leave()
