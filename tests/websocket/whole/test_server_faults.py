"""What must not end a server: shortages, streams that fail, and clients that come at the wrong moment."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError, NoContextError
from tests.hostile._foe import head, sent
from tests.websocket._entrance import Caller, Entrance
from tests.websocket._forging import Forger, forgeable
from tests.websocket._links import SMALL_BUFFER_BYTES, contexts
from tests.websocket._peers import CLOSE, TEXT, driver_tasks
from trio_csp_websocket.protocol.request import RequestReader
from trio_csp_websocket.protocol.unmasking_decoder import UnmaskingDecoder

if TYPE_CHECKING:
    from pathlib import Path

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


class Failing(trio.abc.HalfCloseableStream):
    """Raises what no stream should, in some of its methods, once it is to fail."""

    def __init__(self, inner: trio.abc.HalfCloseableStream, methods: str) -> None:
        self._inner = inner
        self._methods = methods.split()
        self.fails = False
        self.closed = False

    def _fail(self, method: str) -> None:
        if self.fails and method in self._methods:
            raise RecursionError("much too deep")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._inner.receive_some(max_bytes))
        self._fail("receive_some")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._fail("send_all")
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        self._fail("send_eof")
        await self._inner.send_eof()

    async def aclose(self) -> None:
        self.closed = True
        try:
            await self._inner.aclose()
        finally:
            self._fail("aclose")


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "methods", ["receive_some", "send_all", "send_eof", "aclose", "receive_some send_all send_eof aclose"]
)
@pytest.mark.parametrize("when", ["in the request", "in a message", "at the end of the server"])
async def test_a_stream_that_fails_ends_its_own_connection_only(
    when: str, methods: str, over_tls: bool, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    serving, trusting = contexts()
    entrance = Entrance()
    ours, theirs = memory_stream_pair()
    stream = Failing(theirs, methods)
    caller = Caller(ours, head())
    options: websocket.ListenOptions = {"sockets": [entrance]}
    if over_tls:
        options |= {"ssl_context": serving, "hosts": "*"}
    async with trio.open_nursery() as nursery, websocket.listen(**options) as server:
        nursery.start_soon(serve_all, server)
        entrance.put(stream)
        with contextlib.suppress(trio.BrokenResourceError):
            if over_tls:
                await caller.secure(trusting)
            stream.fails = when == "in the request"
            await caller.start()
            if when != "in the request":
                await caller.hear_until(b"\r\n\r\n")
                stream.fails = True
            if when != "at the end of the server":
                await caller.stream.send_all(sent(TEXT, b"hello") + sent(CLOSE, b"\x03\xe8"))
                await caller.hear()
        other = entrance.ask(then=sent(TEXT, b"hello"))
        if over_tls:
            await other.secure(trusting)
        await other.hear_until(b"hello")
        if when == "at the end of the server":
            await caller.stream.send_all(sent(TEXT, b"late"))
            nursery.start_soon(caller.hear)
            nursery.start_soon(other.hear)
        else:
            await trio.aclose_forcefully(caller.stream)
            await trio.aclose_forcefully(other.stream)
            await trio.sleep(20)
            assert server.connections == ()
    assert stream.closed
    assert driver_tasks() == []
    failures = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in failures] == [
        "a stream that was accepted has failed, and its connection ends"
    ]
    assert failures[0].exc_info is not None
    assert failures[0].exc_info[0] is RecursionError


@pytest.mark.parametrize("begins", [b"", b"BAD"], ids=["a message", "a request"])
async def test_a_fault_of_the_drivers_own_ends_its_connection_only(
    begins: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    feed, read = UnmaskingDecoder.feed, RequestReader.feed

    def feed_or_fail(self: UnmaskingDecoder, data: bytes) -> object:
        assert b"BAD" not in data
        return feed(self, data)

    def read_or_fail(self: RequestReader, data: bytes) -> object:
        assert not data.startswith(b"BAD")
        return read(self, data)

    monkeypatch.setattr(UnmaskingDecoder, "feed", feed_or_fail)
    monkeypatch.setattr(RequestReader, "feed", read_or_fail)
    entrance = Entrance()
    async with websocket.listen(sockets=[entrance]) as server, trio.open_nursery() as nursery:
        nursery.start_soon(serve_all, server)
        await entrance.ask(request=begins + head(), then=sent(TEXT, b"BAD")).hear()
        await greet(entrance)
        whose = "" if begins else " for /"
        (failure,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
        assert failure.getMessage() == f"the connection of somebody{whose} has failed"
        assert failure.exc_info is not None
        nursery.cancel_scope.cancel()


async def test_a_listener_that_cannot_be_closed_leaves_its_connections(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    class Stuck(Entrance):
        async def aclose(self) -> None:
            await super().aclose()
            raise RecursionError("much too deep")

    entrance = Stuck()
    heard: list[Said] = []

    async def hear() -> None:
        heard.append(await entrance.ask().hear())

    async with trio.open_nursery() as nursery, websocket.listen(sockets=[entrance]) as server:
        nursery.start_soon(hear)
        connection = await server.receive_value()
        await connection.accept()
        server.stop()
        await wait_all_tasks_blocked()
        await connection.send("still here")
    assert heard[0].data.count(b"still here") == 1
    assert heard[0].code == 1001
    (failure,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert "closing the listener" in failure.getMessage()


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


@pytest.mark.parametrize("answer", [None, "accept", "reject"])
async def test_who_asks_for_new_keys_ahead_of_its_request_has_to_take_the_answers_first(
    answer: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    serving, trusting = contexts()
    serving.num_tickets = 0  # which would have to be read
    forgeable(trusting, tmp_path / "keys")
    entrance = Entrance()
    near, far = lockstep_stream_pair()
    entrance.put(far)
    async with websocket.listen(sockets=[entrance], ssl_context=serving, hosts="*", keepalive=None) as server:
        client = trio.SSLStream(near, trusting, server_hostname="server.test")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
        forger = Forger(trusting)
        await near.send_all(b"".join(forger.key_update() for _ in range(10)) + forger.data(head()))
        await wait_all_tasks_blocked()
        assert server.statistics().waiting == 0
        if answer is None:
            await trio.sleep(11)
            assert server.statistics().timed_out == 1
            assert caplog.messages[1:] == ["no request from somebody: the request was not complete within 10 s"]
            return
        said = bytearray()

        async def hear() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                async for block in client:
                    said.extend(block)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            connection = await server.receive_value()
            if answer == "accept":
                await connection.send("hello")
            else:
                await connection.reject(404)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(client)
        assert said.startswith(b"HTTP/1.1 101 " if answer == "accept" else b"HTTP/1.1 404 ")
        assert said.count(b"HTTP/1.1") == 1
        assert said.endswith(b"hello") == (answer == "accept")


async def test_who_asks_for_new_keys_behind_its_request_and_takes_nothing_does_not_hold_up_accept(
    tmp_path: Path,
) -> None:
    serving, trusting = contexts()
    serving.num_tickets = 0
    forgeable(trusting, tmp_path / "keys")
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)  # accepted ones inherit it
    async with websocket.listen(sockets=[listening], ssl_context=serving, keepalive=None, hosts="*") as server:
        caller = trio.socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        await caller.connect(("127.0.0.1", server.port))
        wire = trio.SocketStream(caller)
        client = trio.SSLStream(wire, trusting, server_hostname="server.test")
        await client.do_handshake()
        forger = Forger(trusting)
        await wire.send_all(forger.data(head()))
        connection = await server.receive_value()
        # Its answers take more than the system does.
        await wire.send_all(b"".join(forger.key_update() for _ in range(1000)) + forger.data(sent(TEXT, b"hello")))
        await connection.accept()
        assert connection._connection.writer.busy
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.send, "hello, too")
                said = bytearray()
                while not said.endswith(b"hello, too"):
                    said += await client.receive_some()
            assert said.startswith(b"HTTP/1.1 101 ")
            assert (await connection.receive_value()).data == "hello"
        await trio.aclose_forcefully(client)


async def test_a_listener_that_its_owner_closes_leaves_the_others() -> None:
    closed, left = Entrance(), Entrance()
    async with websocket.listen(sockets=[closed, left]) as server, trio.open_nursery() as nursery:
        closed.errors.append(trio.ClosedResourceError())
        closed.connect()  # so that it asks again
        await wait_all_tasks_blocked()
        assert not closed.errors
        nursery.start_soon(left.ask().hear)
        await (await server.receive_value()).reject()
