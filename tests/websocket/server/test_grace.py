"""Who is on the way in when a server stops: requests under way, and streams that wait to be accepted."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from csp import websocket
from tests.websocket.server._lobby import RawClient, close_frame, handshake, listening

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

# Requests under way when it closes with grace -------------------------------------------------------------------------


async def test_grace_lets_requests_that_are_under_way_arrive(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby), trio.open_nursery() as nursery:
        half = lobby.connect()
        await half.send(handshake()[:-2])
        await wait_all_tasks_blocked()
        nursery.start_soon(lambda: server.close(1012, grace="5s"))
        await wait_all_tasks_blocked()
        assert lobby.closed
        assert repr(server).startswith("<csp.websocket.Server stopped")
        await half.send(b"\r\n")
        connection = await server.receive_value()
        assert not (await server.receive()).ok
        await connection.accept()
        assert (await half.answer()).status == 101
        assert await half.closed() == (1012, "")
        await half.send(close_frame(1012))
        await half.leave()
    assert trio.current_time() == 5
    assert server.statistics().rejected == {}


async def test_grace_lets_requests_arrive_for_which_there_is_no_room_yet(autojump_clock: MockClock) -> None:
    async with listening(max_waiting=1) as (server, lobby), trio.open_nursery() as nursery:
        clients = [lobby.connect() for _ in range(3)]
        for client in clients:
            await client.send(handshake())
        await wait_all_tasks_blocked()
        nursery.start_soon(lambda: server.close(1012, grace="5s"))
        await wait_all_tasks_blocked()
        async for connection in server:
            await connection.accept()
        for client in clients:
            assert (await client.answer()).status == 101
            await client.close()
    assert server.statistics().rejected == {}


async def test_a_request_that_is_not_complete_when_grace_is_over_gets_503(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby), trio.open_nursery() as nursery:
        half = lobby.connect()
        await half.send(handshake()[:-2])
        await wait_all_tasks_blocked()
        nursery.start_soon(lambda: server.close(1012, grace="5s"))
        answer = await half.answer()
        assert (answer.status, answer.body) == (503, b"the server is stopping\n")
        assert trio.current_time() == 5
        assert not (await server.receive()).ok
        await half.leave()
    assert server.statistics().timed_out == 0


@pytest.mark.parametrize("rest", [b"", b"Sec-WebSocket-Version: 12\r\n\r\n"], ids=["leaves", "is refused"])
async def test_whoever_never_arrives_does_not_use_the_grace_up(rest: bytes, autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby), trio.open_nursery() as nursery:
        half = lobby.connect()
        await half.send(handshake()[:-2])
        await wait_all_tasks_blocked()
        nursery.start_soon(lambda: server.close(grace="5s"))
        await wait_all_tasks_blocked()
        await half.send(rest)
        await half.leave()
    assert trio.current_time() == 0


async def test_stop_cuts_short_what_grace_gives_to_requests(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby), trio.open_nursery() as nursery:
        half = lobby.connect()
        await half.send(handshake()[:-2])
        await wait_all_tasks_blocked()
        nursery.start_soon(lambda: server.close(grace="5s"))
        await wait_all_tasks_blocked()
        server.stop()
        assert not (await server.receive()).ok
        await half.send(b"\r\n")
        assert (await half.answer()).status == 503
        await half.leave()
    assert trio.current_time() == 0


async def test_a_close_that_is_cancelled_while_requests_are_under_way_ends_all(autojump_clock: MockClock) -> None:
    async with listening() as (server, lobby):
        half, old = lobby.connect(), lobby.connect()
        await half.send(handshake()[:-2])
        await old.send(handshake())
        await (await server.receive_value()).accept()
        assert (await old.answer()).status == 101
        with trio.move_on_after(1) as scope:
            await server.close(1012, grace="5s")
        assert scope.cancelled_caught
        assert not (await server.receive()).ok
        assert await old.closed() == (1001, "")
        await half.leave()


# Streams that wait in the system to be accepted -----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def two_that_wait(tmp_path: Path, kind: str) -> AsyncGenerator[tuple[websocket.Server, list[RawClient]]]:
    """Listen, and have two clients whose requests have come, and are not accepted: no other task has run since."""
    path = str(tmp_path / "socket")
    options: dict[str, Any] = {"unix_socket": path} if kind == "path" else {"port": 0, "host": "127.0.0.1"}
    async with websocket.listen(**options) as server:
        await wait_all_tasks_blocked()
        family = socket.AF_INET if kind == "port" else getattr(socket, "AF_UNIX")  # noqa: B009  # Windows has none
        clients: list[RawClient] = []
        for _ in range(2):
            made = socket.socket(family)
            made.connect(("127.0.0.1", server.port) if kind == "port" else path)
            made.sendall(handshake())
            clients.append(RawClient(trio.SocketStream(trio.socket.from_stdlib_socket(made))))
        yield server, clients
        for client in clients:
            await client.leave()


KINDS = ["port", pytest.param("path", marks=pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets"))]


@pytest.mark.parametrize("kind", KINDS)
async def test_who_waits_to_be_accepted_arrives_within_grace(kind: str, tmp_path: Path) -> None:
    async with two_that_wait(tmp_path, kind) as (server, clients), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.close(1012, grace="1m"))
        async for connection in server:
            await connection.accept()
            nursery.start_soon(connection.close)
        for client in clients:
            assert (await client.answer()).status == 101
            assert await client.closed() == (1000, "")
            await client.send(close_frame(1000))
            await client.leave()
    assert server.statistics().accepted == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_who_waits_to_be_accepted_is_told_that_the_server_stops(kind: str, tmp_path: Path) -> None:
    async with two_that_wait(tmp_path, kind) as (server, clients):
        server.stop()
        for client in clients:
            answer = await client.answer()
            assert (answer.status, answer.body) == (503, b"the server is stopping\n")
    assert server.statistics().rejected == {503: 2}


async def test_who_waits_in_a_given_socket_is_left_to_others_that_have_it() -> None:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        async with websocket.listen(sockets=[own.dup()]) as server:
            await wait_all_tasks_blocked()
            with socket.create_connection(own.getsockname()) as client:
                server.stop()
                own.setblocking(True)
                accepted, address = own.accept()
                accepted.close()
                assert address == client.getsockname()


async def test_no_more_than_a_bound_is_taken_in_of_those_who_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("trio_csp_websocket.server.server._MOST_WAITING", 1)
    async with two_that_wait(tmp_path, "port") as (server, (first, second)):
        server.stop()
        assert (await first.answer()).status == 503
        with pytest.raises(trio.BrokenResourceError):
            await second.answer()
    assert server.statistics().rejected == {503: 1}


async def test_who_is_taken_in_as_it_closes_is_told_so_and_not_waited_for() -> None:
    with trio.fail_after(30):
        async with websocket.listen(0, host="127.0.0.1") as server:
            with socket.create_connection(("127.0.0.1", server.port)) as waiting:
                await server.close()
                waiting.settimeout(10)
                assert waiting.recv(1000).startswith(b"HTTP/1.1 503 ")
