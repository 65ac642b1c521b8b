"""`listen`: a server for the length of a block, or in a nursery; and what an application holds of it."""

from __future__ import annotations

import logging
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp import security, websocket
from csp.errors import (
    ConnectionFailedError,
    InvalidError,
    InvalidTypeError,
    Kind,
    ListenFailedError,
    NoContextError,
    PermissionDeniedError,
)
from tests.websocket._peers import driver_tasks, open_sockets
from tests.websocket.server._lobby import (
    LOGGER,
    TEXT,
    Lobby,
    close_frame,
    connected,
    debug_lines,
    handshake,
    listening,
    masked,
)

if TYPE_CHECKING:
    from pathlib import Path

# Leaving the block ----------------------------------------------------------------------------------------------------


async def test_leaving_closes_all_with_1001_at_once(autojump_clock: MockClock) -> None:
    begin = trio.current_time()
    async with listening(close_timeout="3s") as (server, lobby):
        clients = [lobby.connect() for _ in range(5)]
        for client in clients:
            await client.send(handshake())
            await (await server.receive_value()).accept()
            await client.answer()
        connections = server.connections
        assert len(connections) == 5
    # Nobody has answered: all of them together have taken the time of one.
    assert trio.current_time() - begin == 3
    for client in clients:
        assert await client.closed() == (1001, "")
    assert [connection.close_code for connection in connections] == [1006] * 5
    assert [connection.error for connection in connections] == [None] * 5
    assert lobby.closed
    assert driver_tasks() == []


async def test_leaving_waits_for_the_clients_close(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery, connected() as (connection, client):
        await connection.accept()
        await client.answer()

        @nursery.start_soon
        async def answer() -> None:
            assert await client.closed() == (1001, "")
            await client.send(close_frame(1001))
            await client.ended()
            await client.leave()

    assert (connection.close_code, connection.closing) == (1001, True)
    assert trio.current_time() == pytest.approx(0)


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError("x"), 1011), (KeyboardInterrupt(), 1001), (BaseExceptionGroup("x", [SystemExit()]), 1001)],
)
async def test_an_exception_comes_out_as_it_is(error: BaseException, code: int, autojump_clock: MockClock) -> None:
    lobby = Lobby()
    client = lobby.connect()

    async def fail() -> None:
        async with websocket.listen(sockets=[lobby]) as server:
            await client.send(handshake())
            await (await server.receive_value()).accept()
            await client.answer()
            raise error

    with pytest.raises(type(error)) as caught:
        await fail()
    assert caught.value is error
    assert await client.closed() == (code, "")


async def test_a_cancelled_block_sends_1001_without_waiting(autojump_clock: MockClock) -> None:
    lobby = Lobby()
    accepted, waiting = lobby.connect(), lobby.connect()
    connections: list[websocket.ServerConnection] = []
    with trio.CancelScope() as scope:
        async with websocket.listen(sockets=[lobby], close_timeout="3s") as server:
            await accepted.send(handshake())
            connections.append(await server.receive_value())
            await connections[0].accept()
            await accepted.answer()
            await waiting.send(handshake())
            connections.append(await server.receive_value())
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(0)
    assert await accepted.closed() == (1001, "")
    await accepted.ended()
    assert connections[0].close_code == 1006
    await connections[1].wait_closed()
    with pytest.raises(ConnectionFailedError):
        await connections[1].accept()
    assert driver_tasks() == []


async def test_a_block_that_is_cancelled_while_it_closes_closes_at_once(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as scope:
        async with listening(close_timeout="30s") as (server, lobby):
            client = lobby.connect()
            await client.send(handshake())
            await (await server.receive_value()).accept()
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(1)
    assert driver_tasks() == []


async def test_an_exception_comes_out_although_closing_is_cancelled(autojump_clock: MockClock) -> None:
    lobby = Lobby()
    client = lobby.connect()

    async def fail() -> None:
        async with websocket.listen(sockets=[lobby], close_timeout="30s") as server:
            await client.send(handshake())
            await (await server.receive_value()).accept()
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"), trio.move_on_after(1):
        await fail()
    assert trio.current_time() == pytest.approx(1)
    assert driver_tasks() == []


async def test_what_is_not_answered_gets_503_at_the_end(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery, listening() as (server, lobby):
        taken, in_channel, incomplete = (lobby.connect() for _ in range(3))
        await taken.send(handshake())
        connection = await server.receive_value()
        await in_channel.send(handshake())
        await incomplete.send(handshake()[:-2])
        await wait_all_tasks_blocked()
        for client in (taken, in_channel, incomplete):

            @nursery.start_soon
            async def ask(client: Any = client) -> None:
                answer = await client.answer()
                assert answer.status == 503
                assert answer.headers["Retry-After"] == "5"
                await client.ended()
                await client.leave()

    with pytest.raises(ConnectionFailedError, match="the server is stopping") as caught:
        await connection.accept()
    assert caught.value.kind == Kind.UNAVAILABLE
    assert server.statistics().rejected == {503: 3}


async def test_nothing_outlives_the_block() -> None:
    before = open_sockets()
    async with websocket.listen(0) as server:
        port = server.port
        assert port is not None
    assert open_sockets() == before
    assert driver_tasks() == []
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


# Entering -------------------------------------------------------------------------------------------------------------


async def test_it_is_entered_once() -> None:
    listening = websocket.listen(0)
    assert repr(listening) == "<csp.websocket.listen on ws://localhost:0/>"
    async with listening:
        pass
    with pytest.raises(NoContextError, match="was used before"):
        await listening.__aenter__()


async def test_awaited_without_a_nursery() -> None:
    with pytest.raises(NoContextError, match="listen was awaited without a nursery"):
        await websocket.listen(0)


async def test_in_a_nursery_it_runs_until_it_is_closed(autojump_clock: MockClock) -> None:
    lobby = Lobby()
    async with trio.open_nursery() as nursery:
        server = await websocket.listen(sockets=[lobby], nursery=nursery)
        client = lobby.connect()
        await client.send(handshake())
        await (await server.receive_value()).accept()
        await client.answer()
        nursery.start_soon(server.close)
        assert await client.closed() == (1001, "")
        await client.leave()
    assert lobby.closed


async def test_in_a_nursery_it_ends_with_its_last_connection_after_stop(autojump_clock: MockClock) -> None:
    lobby = Lobby()
    async with trio.open_nursery() as nursery:
        server = await websocket.listen(sockets=[lobby], nursery=nursery)
        client = lobby.connect()
        await client.send(handshake())
        connection = await server.receive_value()
        await connection.accept()
        await client.answer()
        server.stop()
        await trio.sleep(5)
        await connection.send("still here")
        assert await client.text() == "still here"
        await client.close()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, InvalidError, "exactly one of port, unix_socket and sockets must be given, not none"),
        ({"port": 0, "unix_socket": "/x"}, InvalidError, "not port and unix_socket"),
        ({"port": 0, "nursery": 1}, InvalidTypeError, "nursery must be a trio.Nursery, not 1"),
        (
            {"port": 0, "colour": 1},
            InvalidTypeError,
            "unknown option 'colour'; the options are backlog, channel_capacity",
        ),
    ],
    ids=str,
)
def test_wrong_arguments_raise_in_the_call(arguments: dict[str, Any], error: type[InvalidError], text: str) -> None:
    with pytest.raises(error, match=text):
        websocket.listen(**arguments)


async def test_an_address_in_use() -> None:
    async with websocket.listen(0, host="127.0.0.1") as server:
        with pytest.raises(ListenFailedError, match="the address is in use") as caught:
            async with websocket.listen(server.port, host="127.0.0.1"):
                pass
    assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)
    assert driver_tasks() == []


@pytest.mark.parametrize("kind", ["port", "path"])
async def test_the_policy_sees_the_url_as_asked_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    url = "ws://localhost:0/" if kind == "port" else f"ws+unix://{path}"
    options: dict[str, Any] = {"port": 0} if kind == "port" else {"unix_socket": path}
    me = security.Actor("me")
    for policies in ([], [security.Policy("websocket.listen", "ws://other/")]):
        with (
            security.context(actor=me, scope=security.Scope(policies)),
            pytest.raises(PermissionDeniedError, match=re.escape(f"listening on {url} is not allowed")),
        ):
            await websocket.listen(**options).__aenter__()
    with security.context(actor=me, scope=security.Scope([security.Policy("websocket.listen", url)])):
        async with websocket.listen(**options):
            pass


# The server -----------------------------------------------------------------------------------------------------------


async def test_where_it_listens() -> None:
    async with websocket.listen(0, host="127.0.0.1") as server:
        assert server.url == f"ws://127.0.0.1:{server.port}/"
        assert server.addresses == (("127.0.0.1", server.port),)
        assert repr(server) == f"<csp.websocket.Server listening, {server.url}, 0 connections>"
        async with websocket.listen(0, nursery=None) as other:
            assert other.url == f"ws://localhost:{other.port}/"
        assert repr(other).startswith("<csp.websocket.Server stopped")


async def test_connections_are_received_in_every_way(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby):
        clients = [lobby.connect() for _ in range(4)]
        for number, client in enumerate(clients):
            await client.send(handshake(f"/{number}"))
            await wait_all_tasks_blocked()
        assert server.statistics().waiting == 4
        assert (await server.receive()).value.path == "/0"
        assert (await server.receive_value()).path == "/1"
        assert (await csp.select(server.channel().case_receive())).value.path == "/2"
        async for connection in server:
            assert connection.path == "/3"
            break
        server.stop()
        assert not (await server.receive()).ok
        with pytest.raises(csp.errors.EndOfChannelError):
            await server.receive_value()
        assert [connection async for connection in server] == []


async def test_stop_lets_what_has_arrived_be_accepted(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby):
        old, arrived = lobby.connect(), lobby.connect()
        await old.send(handshake())
        connection = await server.receive_value()
        await connection.accept()
        await old.answer()
        await arrived.send(handshake())
        await wait_all_tasks_blocked()
        server.stop()
        server.stop()
        await wait_all_tasks_blocked()
        assert lobby.closed
        await (await server.receive_value()).accept()
        assert (await arrived.answer()).status == 101
        assert not (await server.receive()).ok
        await connection.send("x")
        assert await old.text() == "x"
        assert server.statistics().open == 2


async def test_stop_frees_the_port_at_once() -> None:
    async with websocket.listen(0, host="127.0.0.1") as server:
        assert server.channel() is server.channel()
        stream = await trio.open_tcp_stream("127.0.0.1", server.port or 0)
        await stream.send_all(handshake())
        connection = await server.receive_value()
        await connection.accept()
        server.stop()
        async with websocket.listen(server.port, host="127.0.0.1") as following:
            another = await trio.open_tcp_stream("127.0.0.1", following.port or 0)
            await another.send_all(handshake())
            assert (await following.receive()).ok
            await another.aclose()
        assert repr(server) == f"<csp.websocket.Server stopped, {server.url}, 1 connections>"
        await stream.aclose()
        await connection.wait_closed()
        assert repr(server).endswith("0 connections>")


async def test_a_request_that_becomes_complete_after_stop_gets_503(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby):
        half = lobby.connect()
        await half.send(handshake()[:-2])
        await wait_all_tasks_blocked()
        server.stop()
        await half.send(b"\r\n")
        answer = await half.answer()
        assert (answer.status, answer.body) == (503, b"the server is stopping\n")
        assert answer.headers["Retry-After"] == "5"
        assert (server.statistics().rejected, server.statistics().timed_out) == ({503: 1}, 0)


async def test_close_with_code_and_reason(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby), trio.open_nursery() as nursery:
        client = lobby.connect()
        await client.send(handshake())
        await (await server.receive_value()).accept()
        await client.answer()
        nursery.start_soon(server.close, 1012, "back soon")
        assert await client.closed() == (1012, "back soon")
        await client.send(close_frame(1012))
        await client.leave()
        await server.close()
    assert server.connections == ()


async def test_grace_lets_connections_end_by_themselves(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby), trio.open_nursery() as nursery:
        quick, slow = lobby.connect(), lobby.connect()
        for client in (quick, slow):
            await client.send(handshake())
            await (await server.receive_value()).accept()
            await client.answer()

        @nursery.start_soon
        async def close() -> None:
            await server.close(1012, grace="10s")
            assert trio.current_time() == pytest.approx(10)

        await trio.sleep(3)
        await quick.close()
        assert server.statistics().open == 1
        assert await slow.closed() == (1012, "")
        await slow.send(close_frame(1012))
        await slow.leave()


async def test_grace_ends_when_all_have_ended(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby), trio.open_nursery() as nursery:
        client = lobby.connect()
        await client.send(handshake())
        await (await server.receive_value()).accept()
        await client.answer()
        nursery.start_soon(lambda: server.close(grace="1h"))
        await trio.sleep(3)
        await client.close()
    assert trio.current_time() == pytest.approx(3)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"code": 999}, InvalidError), ({"reason": 1}, InvalidTypeError), ({"grace": 5}, InvalidTypeError)],
    ids=str,
)
async def test_a_wrong_argument_of_close_does_nothing(
    arguments: dict[str, Any], error: type[InvalidError], autojump_clock: MockClock
) -> None:
    async with listening() as (server, lobby):
        with pytest.raises(error):
            await server.close(**arguments)
        client = lobby.connect()
        await client.send(handshake())
        await (await server.receive_value()).accept()
        assert (await client.answer()).status == 101


async def test_statistics(autojump_clock: MockClock) -> None:
    async with listening(handshake_timeout="1s") as (server, lobby):
        accepted, rejected, slow, bad = (lobby.connect() for _ in range(4))
        await accepted.send(handshake())
        await (await server.receive_value()).accept()
        await rejected.send(handshake())
        await (await server.receive_value()).reject(404)
        assert (await bad.ask(b"GET / HTTP/1.1\r\n\r\n")).status == 400
        await slow.send(b"GET")
        assert (await slow.answer()).status == 408
        await lobby.connect().send(handshake())
        await server.receive_value()
        statistics = server.statistics()
        assert (statistics.accepted, statistics.open, statistics.waiting, statistics.timed_out) == (1, 1, 1, 1)
        assert statistics.rejected == {404: 1, 400: 1, 408: 1}
        with pytest.raises(TypeError):
            statistics.rejected[1] = 1  # type: ignore[index]  # pyright: ignore[reportIndexIssue]


async def test_what_is_logged(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    async with listening() as (_, lobby):
        await lobby.connect().ask(b"GET /?token=secret HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        await lobby.connect().leave()
        await wait_all_tasks_blocked()
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == LOGGER]
    assert lines[0] == ("INFO", "listening on ws://localhost/")
    assert lines[-1] == ("INFO", "stopped listening on ws://localhost/")
    assert [level for level, _ in lines[1:-1]] == ["DEBUG", "DEBUG"]
    assert lines[1][1].startswith("refused somebody with status 400: ")
    assert lines[2][1] == "no request from somebody: nothing came"
    assert "secret" not in caplog.text


async def test_what_becomes_of_a_connection_is_logged(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    async with listening(read_limit=1000) as (server, lobby):
        client = lobby.connect()
        await client.send(handshake("/chat%0A?token=secret"), masked(TEXT, b"x" * 1001))
        await (await server.receive_value()).accept()
        assert (await client.answer()).status == 101
        assert await client.closed() == (1009, "a message of at least 1001 bytes, more than 1000")
        await client.leave()
        await trio.sleep(10)
        gone = lobby.connect()
        await gone.send(handshake("/" + "x" * 300))
        await (await server.receive_value()).reject(404)
        await gone.leave()
        await wait_all_tasks_blocked()
    accepted, ended, refused = debug_lines(caplog)
    assert accepted == "accepted somebody for /chat%0A"
    assert ended.startswith("the connection of somebody for /chat%0A has ended: ")
    assert "a message of at least 1001 bytes, more than 1000 (read_limit)" in ended
    assert refused.startswith("did not accept somebody for /xxx")
    assert refused.endswith("x... (101 more characters): it was refused with status 404")
    assert "secret" not in caplog.text
