"""`serve`: a handler runs for each connection."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError, InvalidError, InvalidTypeError, NoContextError
from tests.websocket._peers import driver_tasks
from tests.websocket.server._lobby import LOGGER, TEXT, Lobby, RawClient, close_frame, handshake, masked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Serving:
    """A server that runs in a nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.lobby = Lobby()
        self.server: websocket.Server

    async def start(
        self, handler: Callable[[websocket.ServerConnection], Awaitable[object]], **options: Any
    ) -> Serving:
        self.server = await self._nursery.start(partial(websocket.serve, handler, sockets=[self.lobby], **options))
        return self

    async def client(self, *then: bytes) -> RawClient:
        client = self.lobby.connect()
        self._nursery.cancel_scope.deadline = trio.current_time() + 10_000
        await client.send(handshake(), *then)
        return client


async def echo(connection: websocket.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)


async def test_an_echo_server(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        serving = await Serving(nursery).start(echo)
        clients = [await serving.client() for _ in range(3)]
        for number, client in enumerate(clients):
            await client.answer()
            await client.send(masked(TEXT, b"%d" % number))
        for number, client in enumerate(clients):
            assert await client.text() == str(number)
            await client.close()
        await serving.server.close()
    assert driver_tasks() == []


async def test_over_tcp_with_the_client_of_this_project() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(websocket.serve, echo, 0)
        async with websocket.connect(server.url) as client:
            await client.send(b"x" * 300_000)
            assert (await client.receive_value()).data == b"x" * 300_000
        nursery.cancel_scope.cancel()


# How handlers end -----------------------------------------------------------------------------------------------------


async def accept(connection: websocket.ServerConnection) -> None:
    await connection.accept()


async def say_nothing(connection: websocket.ServerConnection) -> None:
    await trio.lowlevel.checkpoint()


async def accept_and_fail(connection: websocket.ServerConnection) -> None:
    await connection.accept()
    raise ValueError("of the handler")


async def fail(connection: websocket.ServerConnection) -> None:
    raise ValueError("of the handler")


async def fail_in_a_group(connection: websocket.ServerConnection) -> None:
    await connection.accept()
    raise ExceptionGroup("x", [ValueError("of the handler"), ExceptionGroup("y", [KeyError()])])


async def test_a_handler_that_returns_closes_with_1000(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        serving = await Serving(nursery).start(accept)
        client = await serving.client()
        await client.answer()
        assert await client.closed() == (1000, "")
        await client.send(close_frame(1000))
        await client.ended()
        await client.leave()
        await serving.server.close()


async def test_one_that_returns_without_an_answer_refuses_with_403(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        serving = await Serving(nursery).start(say_nothing)
        assert (await (await serving.client()).answer()).status == 403
        await serving.server.close()
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("handler", [accept_and_fail, fail_in_a_group, fail])
async def test_one_that_fails_is_logged_and_the_server_goes_on(
    handler: Callable[[websocket.ServerConnection], Awaitable[object]],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        serving = await Serving(nursery).start(handler)
        for _ in range(2):
            client = await serving.client()
            answer = await client.answer()
            if handler is fail:
                assert answer.status == 500
                assert b"of the handler" not in answer.body
            else:
                assert await client.closed() == (1011, "")
            await client.leave()
        await serving.server.close()
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.name for record in failures] == [LOGGER] * 2
    assert failures[0].exc_info is not None
    assert "of the handler" in caplog.text


@pytest.mark.parametrize("handler", [accept_and_fail, fail])
async def test_what_it_raises_comes_out_as_it_is_if_that_is_wanted(
    handler: Callable[[websocket.ServerConnection], Awaitable[object]],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    lobby = Lobby()
    other, client = lobby.connect(), lobby.connect()
    await other.send(handshake("/other"))
    await client.send(handshake())

    async def either(connection: websocket.ServerConnection) -> None:
        if connection.path == "/other":
            await echo(connection)
        else:
            await handler(connection)

    with pytest.raises(ValueError, match="of the handler"):
        await websocket.serve(either, sockets=[lobby], handler_errors="raise", close_timeout="1s")
    assert not [record for record in caplog.records if record.levelno == logging.ERROR]
    await other.answer()
    assert await other.closed() == (1001, "")


@pytest.mark.parametrize("mode", ["log", "raise"])
async def test_a_handler_that_is_not_async_ends_the_server(mode: Any, autojump_clock: MockClock) -> None:
    lobby = Lobby()
    await lobby.connect().send(handshake())
    with pytest.raises(InvalidTypeError, match=r"handler must be an async function: .* returned NoneType") as caught:
        await websocket.serve(lambda _connection: None, sockets=[lobby], handler_errors=mode)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert caught.type is InvalidTypeError  # a traceback names what can be caught, and no class of ours


# The connection's own end is no failure -------------------------------------------------------------------------------


async def receive(connection: websocket.ServerConnection) -> None:
    await connection.receive_value()


async def iterate_the_channel(connection: websocket.ServerConnection) -> None:
    await connection.accept()
    async for _ in connection.channel():
        pass


async def send_on(connection: websocket.ServerConnection) -> None:
    while True:
        await connection.send("x")
        await trio.sleep(1)


async def ping_on(connection: websocket.ServerConnection) -> None:
    while True:
        await connection.ping()
        await trio.sleep(1)


async def in_a_nursery(connection: websocket.ServerConnection) -> None:
    await connection.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo, connection)
        nursery.start_soon(send_on, connection)


@pytest.mark.parametrize("handler", [echo, receive, iterate_the_channel, send_on, ping_on, in_a_nursery])
@pytest.mark.parametrize("end", ["leaves", "closes", "closes with 4000", "breaks the protocol"])
async def test_that_the_connection_has_ended_is_no_failure(
    handler: Callable[[websocket.ServerConnection], Awaitable[object]],
    end: str,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        serving = await Serving(nursery).start(handler, handler_errors="raise")
        client = await serving.client()
        await client.answer()
        await wait_all_tasks_blocked()
        if end == "closes":
            await client.send(close_frame(1000))
        elif end == "closes with 4000":
            await client.send(close_frame(4000))
        elif end == "breaks the protocol":
            await client.send(b"\xff\x80\0\0\0\0")
        await client.leave()
        await serving.server.close()
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_that_another_connection_has_ended_is_a_failure(autojump_clock: MockClock) -> None:
    lobby = Lobby()
    await lobby.connect().send(handshake())

    async def handler(connection: websocket.ServerConnection) -> None:
        raise ConnectionFailedError("of another", kind="INTERNAL")

    with pytest.raises(ConnectionFailedError, match="of another"):
        await websocket.serve(handler, sockets=[lobby], handler_errors="raise")


async def test_that_it_was_turned_away_is_no_failure(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:

        async def late(connection: websocket.ServerConnection) -> None:
            await trio.sleep(20)
            await connection.accept()

        serving = await Serving(nursery).start(late, handler_errors="raise")
        client = await serving.client()
        assert (await client.answer()).status == 503
        await trio.sleep(20)
        await serving.server.close()


# How serving ends -----------------------------------------------------------------------------------------------------


async def test_it_returns_after_close_when_its_handlers_have(autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def slow(connection: websocket.ServerConnection) -> None:
        await echo(connection)
        await trio.sleep(100)
        ended.append("handler")

    async with trio.open_nursery() as nursery:
        lobby = Lobby()

        async def run(task_status: trio.TaskStatus[websocket.Server]) -> None:
            await websocket.serve(slow, sockets=[lobby], task_status=task_status)
            ended.append("serve")

        server: websocket.Server = await nursery.start(run)
        client = lobby.connect()
        await client.accepted()
        nursery.start_soon(server.close)
        assert await client.closed() == (1001, "")
        await client.leave()
    assert ended == ["handler", "serve"]
    assert trio.current_time() == pytest.approx(100)


async def test_it_returns_after_stop_with_its_last_connection(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        serving = await Serving(nursery).start(echo)
        client = await serving.client()
        await client.answer()
        serving.server.stop()
        await client.send(masked(TEXT, b"x"))
        assert await client.text() == "x"
        await client.close()


async def test_a_handler_may_close_the_server(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:

        async def closing(connection: websocket.ServerConnection) -> None:
            await connection.accept()
            await serving.server.close(1012)

        serving = await Serving(nursery).start(closing)
        client = await serving.client()
        await client.answer()
        assert await client.closed() == (1012, "")
        await client.leave()


async def test_cancelled_it_cancels_its_handlers_and_says_1001(autojump_clock: MockClock) -> None:
    cancelled: list[bool] = []

    async def wait(connection: websocket.ServerConnection) -> None:
        await connection.accept()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(True)
            raise

    async with trio.open_nursery() as nursery:
        serving = await Serving(nursery).start(wait)
        client = await serving.client()
        await client.answer()
        nursery.cancel_scope.cancel()
    assert cancelled == [True]
    assert await client.closed() == (1001, "")
    assert trio.current_time() == pytest.approx(0)
    assert driver_tasks() == []


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((None, 0), InvalidTypeError, "handler must be an async function of a ServerConnection, not None"),
        ((echo,), InvalidError, "exactly one of port, unix_socket and sockets must be given"),
        ((echo, 70000), InvalidError, "port must be 0 to 65535, not 70000"),
    ],
    ids=["no handler", "no place", "no port"],
)
def test_wrong_arguments_raise_in_the_call(arguments: Any, error: type[InvalidError], text: str) -> None:
    with pytest.raises(error, match=text):
        _ = websocket.serve(*arguments)


def test_wrong_options_raise_in_the_call() -> None:
    wrong: Any = "ignore"
    with pytest.raises(InvalidError, match='handler_errors must be "log" or "raise", not \'ignore\''):
        _ = websocket.serve(echo, 0, handler_errors=wrong)
    unknown: Any = {"x": 1}
    with pytest.raises(InvalidTypeError, match="unknown option 'x'; the options are backlog"):
        _ = websocket.serve(echo, 0, **unknown)


def test_outside_of_a_run() -> None:
    coroutine = websocket.serve(echo, 0)
    with pytest.raises(NoContextError, match=r"listen and serve work inside trio\.run only"):
        coroutine.send(None)
