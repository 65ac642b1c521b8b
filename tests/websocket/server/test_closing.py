"""What is left when a server closes, and what it waits for until then."""

from __future__ import annotations

import contextlib
import weakref
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError
from tests.websocket._peers import driver_tasks
from tests.websocket.server._lobby import Lobby, RawClient, handshake, listening
from trio_csp_websocket.connection.connection import Connection

if TYPE_CHECKING:
    from csp.websocket import Request, Response, ServerConnection

BODY = bytes(500_000)


async def ask_without_reading(lobby: Lobby, request: bytes) -> RawClient:
    """Be a client that sends a request, and to which nothing can be sent before it reads."""
    ours, theirs = lockstep_stream_pair()
    lobby.bring(theirs)
    client = RawClient(ours)
    await client.send(request)
    return client


async def cancel(scope: trio.CancelScope) -> None:
    """Cancel a block, in the same step of the scheduler as what is started with this."""
    scope.cancel()


async def accept(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionFailedError):
        await connection.accept()


async def test_a_refusal_that_nobody_reads_is_given_up_without_a_write_timeout_too(autojump_clock: MockClock) -> None:
    async with listening(write_timeout=None, handshake_timeout="7s") as (server, lobby):
        client = await ask_without_reading(lobby, handshake())
        connection = await server.receive_value()
        begin = trio.current_time()
        await connection.reject(404, body=BODY)
        assert trio.current_time() - begin == 7
        await connection.wait_closed()
        with pytest.raises(trio.BrokenResourceError):
            await client.send(b"more")


async def test_closing_cuts_a_refusal_off_that_nobody_reads(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with listening(write_timeout=None, handshake_timeout=None) as (server, lobby):
            await ask_without_reading(lobby, handshake())
            connection = await server.receive_value()
            nursery.start_soon(lambda: connection.reject(404, body=BODY))
            await wait_all_tasks_blocked()
            await server.close()
            await connection.wait_closed()
            assert server.statistics().rejected == {404: 1}
        assert driver_tasks() == []


class TellingLobby(Lobby):
    """Tells when it has accepted a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted = trio.Event()

    async def accept(self) -> trio.abc.Stream:
        stream = await super().accept()
        self.accepted.set()
        return stream


async def test_whoever_is_accepted_as_the_server_stops_is_told(autojump_clock: MockClock) -> None:
    for _ in range(20):  # the scheduler decides whether the stream's task begins before the block is left
        lobby = TellingLobby()
        async with websocket.listen(sockets=[lobby]):
            client = lobby.connect()
            await lobby.accepted.wait()
        answer = await client.answer()
        assert (answer.status, answer.body) == (503, b"the server is stopping\n")


async def test_whoever_is_accepted_as_the_server_closes_arrives_within_grace(autojump_clock: MockClock) -> None:
    for _ in range(20):  # the scheduler decides whether the stream's task begins before the server closes
        lobby = TellingLobby()
        async with websocket.listen(sockets=[lobby]) as server, trio.open_nursery() as nursery:
            client = lobby.connect()
            await client.send(handshake())
            await lobby.accepted.wait()
            nursery.start_soon(partial(server.close, grace="5s"))
            connection = await server.receive_value()
            await connection.reject(404)
            assert (await client.answer()).status == 404
            await client.leave()


async def test_serve_ends_though_a_handler_rejects_somebody_who_does_not_read(autojump_clock: MockClock) -> None:
    lobby = Lobby()

    async def handler(connection: ServerConnection) -> None:
        await connection.reject(404, body=BODY)

    async def close_soon(*, task_status: trio.TaskStatus[websocket.Server]) -> None:
        await websocket.serve(
            handler, sockets=[lobby], write_timeout=None, handshake_timeout=None, task_status=task_status
        )

    async with trio.open_nursery() as nursery:
        server: websocket.Server = await nursery.start(close_soon)
        await ask_without_reading(lobby, handshake())
        await wait_all_tasks_blocked()
        await server.close()
    assert driver_tasks() == []


async def test_closing_cuts_a_page_off_that_takes_long(autojump_clock: MockClock) -> None:
    cancelled: list[bool] = []

    async def page(_request: Request) -> Response | None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(True)

    async with listening(http=page, handshake_timeout=None) as (server, lobby):
        client = lobby.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await wait_all_tasks_blocked()
        await server.close()
        assert cancelled
        await client.ended()


async def test_a_rejection_does_not_outlast_a_block_that_is_cancelled_before_it_is_sent(
    autojump_clock: MockClock,
) -> None:
    met: list[ServerConnection] = []
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with listening(write_timeout=None, handshake_timeout=None) as (server, lobby):
                    await ask_without_reading(lobby, handshake())
                    met.append(await server.receive_value())
                    nursery.start_soon(met[0].reject)
                    nursery.start_soon(cancel, scope)
                    await trio.sleep_forever()
        await met[0].wait_closed()


async def test_a_block_cancelled_as_a_connection_is_accepted_keeps_nothing_of_it(autojump_clock: MockClock) -> None:
    met: list[ServerConnection] = []
    servers: list[websocket.Server] = []
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with listening() as (server, lobby):
                servers.append(server)
                client = lobby.connect()
                await client.send(handshake())
                met.append(await server.receive_value())
                nursery.start_soon(accept, met[0])
                nursery.start_soon(cancel, scope)
                await trio.sleep_forever()
    assert servers[0].statistics().accepted == 1
    assert repr(servers[0]).endswith("0 connections>")
    held = weakref.ref(met.pop())
    assert held() is None


async def test_a_fault_while_closing_comes_out_and_closes_all(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def fail(self: Connection, code: int, reason: str) -> None:
        raise RuntimeError("of closing")

    lobby = Lobby()
    client = lobby.connect()

    async def close() -> None:
        async with websocket.listen(sockets=[lobby]) as server:
            await client.send(handshake())
            await (await server.receive_value()).accept()
            await client.answer()
            monkeypatch.setattr(Connection, "close", fail)

    with pytest.raises(ExceptionGroup) as caught:
        await close()
    assert [str(error) for error in caught.value.exceptions] == ["of closing"]
    assert await client.closed() == (1001, "")
    await client.ended()
    assert driver_tasks() == []
