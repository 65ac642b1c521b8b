"""What must not end a server: shortages, streams that fail, and clients that come at the wrong moment."""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError, NoContextError
from tests.hostile._foe import head, sent
from tests.websocket._entrance import Caller, Entrance
from tests.websocket._links import contexts
from tests.websocket._peers import TEXT, driver_tasks

if TYPE_CHECKING:
    from csp.websocket import ServerConnection
    from tests.hostile._foe import Said

LOGGER = "csp.websocket.server"


async def echo(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionFailedError):
        async for message in connection:
            await connection.send(message.data)


async def greet(entrance: Entrance) -> None:
    """Be a client that is served."""
    said = await entrance.ask(then=sent(TEXT, b"hello")).hear_until(b"hello")
    assert said.startswith(b"HTTP/1.1 101 ")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# What the system lacks ------------------------------------------------------------------------------------------------


async def test_a_shortage_of_descriptors_is_told_once_and_outlasted(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    entrances = [Entrance(), Entrance()]
    for entrance in entrances:
        entrance.errors.extend(OSError(number, "too many") for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM))
    async with websocket.listen(sockets=entrances) as server, trio.open_nursery() as nursery:
        nursery.start_soon(serve_all, server)
        await greet(entrances[0])
        await greet(entrances[1])
        assert warnings(caplog) == [
            "accepting connections rests until it is possible again: there are no more file descriptors"
        ]
        # One comes and goes: that is no new shortage.
        entrances[0].errors.append(OSError(errno.EMFILE, "too many"))
        await greet(entrances[0])
        await greet(entrances[0])
        assert len(warnings(caplog)) == 1
        await trio.sleep(100)
        entrances[1].errors.append(OSError(errno.ENOBUFS, "no room"))
        await greet(entrances[1])
        await greet(entrances[1])
        assert warnings(caplog)[1:] == [
            f"accepting connections rests until it is possible again: [Errno {errno.ENOBUFS}] no room"
        ]
        nursery.cancel_scope.cancel()


async def serve_all(server: websocket.Server) -> None:
    async with trio.open_nursery() as nursery:
        async for connection in server:
            nursery.start_soon(echo, connection)


# Streams that fail ----------------------------------------------------------------------------------------------------


class Failing(trio.abc.Stream):
    """Raises what no stream should, once the client has sent ``last``."""

    def __init__(self, inner: trio.abc.Stream, last: bytes) -> None:
        self._inner = inner
        self._last = last
        self.closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._inner.receive_some(max_bytes))
        if data.endswith(self._last):
            raise RecursionError("much too deep")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.closed = True
        await self._inner.aclose()


@pytest.mark.parametrize("last", [b"\r\n\r\n", b"the end"], ids=["in the request", "in a message"])
async def test_a_stream_that_fails_ends_its_own_connection_only(
    last: bytes, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    entrance = Entrance()
    async with websocket.listen(sockets=[entrance]) as server, trio.open_nursery() as nursery:
        nursery.start_soon(serve_all, server)
        ours, theirs = memory_stream_pair()
        stream = Failing(theirs, last)
        entrance.put(stream)
        caller = Caller(ours, head())
        await caller.start()
        if last == b"the end":
            await caller.hear_until(b"\r\n\r\n")
            await ours.send_all(sent(TEXT, b"the end"))
        await caller.hear()
        await wait_all_tasks_blocked()
        assert stream.closed
        assert server.connections == ()
        await greet(entrance)
        failures = [record for record in caplog.records if record.levelno >= logging.WARNING]
        whose = "somebody for /" if last == b"the end" else "somebody"
        assert [record.getMessage() for record in failures] == [f"the connection of {whose} has failed"]
        assert failures[0].exc_info is not None
        assert failures[0].exc_info[0] is RecursionError
        nursery.cancel_scope.cancel()
    assert driver_tasks() == []


# Moments --------------------------------------------------------------------------------------------------------------


async def test_a_request_under_way_is_told_that_the_server_stops(autojump_clock: trio.testing.MockClock) -> None:
    entrance = Entrance()
    heard: list[Said] = []

    async def hear() -> None:
        heard.append(await entrance.ask(request=head()[:-2]).hear())

    async with trio.open_nursery() as nursery, websocket.listen(sockets=[entrance]) as server:
        nursery.start_soon(hear)
        await wait_all_tasks_blocked()
        await server.close()
        assert server.statistics().timed_out == 0
        assert server.statistics().rejected == {503: 1}
    assert heard[0].status == 503
    assert "the server is stopping" in heard[0].text


async def test_a_connection_that_was_never_answered_cannot_be_accepted_after_the_end() -> None:
    entrance = Entrance()
    caller = entrance.ask()
    arrived: list[ServerConnection] = []
    with trio.CancelScope() as scope:
        async with websocket.listen(sockets=[entrance]) as server:
            with trio.CancelScope(shield=True):
                await caller.start()
                arrived.append(await server.receive_value())
            scope.cancel()
            # The server's tasks end before the block does.
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
            server._nursery.cancel_scope.cancel()  # as when one of its tasks fails
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
                with pytest.raises(ConnectionFailedError, match="not answered"):
                    await arrived[0].accept()
    (connection,) = arrived
    with pytest.raises(ConnectionFailedError):
        await connection.accept()
    with pytest.raises(ConnectionFailedError):
        await connection.send("late")
    assert not (await connection.receive()).ok
    await connection.close()
    await connection.wait_closed()
    assert (await caller.hear()).data == b""


async def test_two_tasks_that_accept_over_tls_on_a_stream_get_one_connection() -> None:
    entrance = Entrance()
    serving, trusting = contexts()
    outcomes: list[str] = []

    async def accept(connection: ServerConnection) -> None:
        try:
            await connection.accept()
        except NoContextError:
            outcomes.append("answered already")
        else:
            outcomes.append("accepted")

    async with (
        websocket.listen(sockets=[entrance], ssl_context=serving, hosts="*") as server,
        trio.open_nursery() as nursery,
    ):
        caller = entrance.ask()
        await caller.secure(trusting)
        nursery.start_soon(caller.hear_until, b"\r\n\r\n")
        connection = await server.receive_value()
        async with trio.open_nursery() as accepting:
            accepting.start_soon(accept, connection)
            accepting.start_soon(accept, connection)
        assert sorted(outcomes) == ["accepted", "answered already"]
        assert server.statistics().accepted == 1
        await trio.aclose_forcefully(caller.stream)


async def test_a_listener_that_its_owner_closes_leaves_the_others() -> None:
    closed, left = Entrance(), Entrance()
    async with websocket.listen(sockets=[closed, left]) as server, trio.open_nursery() as nursery:
        closed.errors.append(trio.ClosedResourceError())
        closed.connect()  # so that it asks again
        await wait_all_tasks_blocked()
        assert not closed.errors
        nursery.start_soon(left.ask().hear)
        await (await server.receive_value()).reject()
