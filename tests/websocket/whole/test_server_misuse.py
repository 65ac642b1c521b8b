"""Handlers and blocks of a server that do what they should not, or what nobody expects."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import csp
from csp import websocket
from csp.errors import ConnectionFailedError, InvalidError, NoContextError
from tests.hostile._foe import sent
from tests.websocket._entrance import Caller, Entrance
from tests.websocket._peers import CLOSE, TEXT, driver_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from csp.websocket import ServerConnection
    from tests.hostile._foe import Said

GOODBYE = sent(CLOSE, b"\x03\xe8")


async def served(
    handler: Callable[[ServerConnection], Awaitable[object]], *requests: bytes, **options: object
) -> list[Said]:
    """Serve clients, one after the other, that each send something behind their request; return what each heard."""
    entrance = Entrance()
    heard: list[Said] = []
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[websocket.Server]) -> None:
            await websocket.serve(handler, sockets=[entrance], task_status=task_status, **options)  # type: ignore[arg-type]  # any options

        server: websocket.Server = await nursery.start(serve)
        heard += [await entrance.ask(then=data).hear() for data in requests]
        await server.close()
    assert driver_tasks() == []
    return heard


def failures(caplog: pytest.LogCaptureFixture) -> list[BaseException | None]:
    return [record.exc_info[1] for record in caplog.records if record.levelno >= logging.WARNING and record.exc_info]


# What handlers raise --------------------------------------------------------------------------------------------------


async def test_of_a_group_only_what_is_not_the_connections_own_end_is_a_failure(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        await connection.wait_closed()
        with pytest.raises(ConnectionFailedError) as caught:
            await connection.send("late")
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [caught.value])])

    heard = await served(handler, GOODBYE)
    assert [said.code for said in heard] == [1000]
    assert failures(caplog) == []


async def test_a_group_with_a_failure_is_logged_without_the_end(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        await connection.wait_closed()
        with pytest.raises(ConnectionFailedError) as caught:
            await connection.send("late")
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [caught.value]), ValueError("mine")])

    await served(handler, GOODBYE, GOODBYE)
    found = failures(caplog)
    assert len(found) == 2
    for failure in found:
        assert isinstance(failure, ExceptionGroup)
        group = cast("ExceptionGroup[Exception]", failure)
        assert [type(one) for one in group.exceptions] == [ValueError]


async def test_the_end_of_another_connection_is_a_failure(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    first: list[ServerConnection] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        if not first:
            first.append(connection)
            await connection.wait_closed()
        else:
            await first[0].send("late")

    heard = await served(handler, GOODBYE, b"")
    assert [said.code for said in heard] == [1000, 1011]
    assert [type(failure) for failure in failures(caplog)] == [ConnectionFailedError]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_is_no_exception_comes_out_of_serve_and_the_others_are_told(
    error: type[BaseException], autojump_clock: MockClock
) -> None:
    entrance = Entrance()
    heard: list[Said] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        if connection.protocols:
            raise error
        await connection.wait_closed()

    async def hear() -> None:
        heard.append(await entrance.ask().hear())

    async def come_later() -> None:
        await wait_all_tasks_blocked()
        await entrance.ask("Sec-WebSocket-Protocol: fatal").start()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        nursery.start_soon(come_later)
        with pytest.raises(error):
            await websocket.serve(handler, sockets=[entrance])
    assert [said.code for said in heard] == [1001]
    assert driver_tasks() == []


async def test_a_handler_that_never_ends_is_cancelled_with_serve(autojump_clock: MockClock) -> None:
    entrance = Entrance()
    ended: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        try:
            await trio.sleep_forever()
        finally:
            ended.append("cancelled")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(entrance.ask().hear)
        with trio.move_on_after(1):
            await websocket.serve(handler, sockets=[entrance])
    assert ended == ["cancelled"]
    assert driver_tasks() == []


# What handlers do to the server and to each other --------------------------------------------------------------------


async def test_a_handler_may_close_the_server_and_serve_returns(autojump_clock: MockClock) -> None:
    entrance = Entrance()
    servers: list[websocket.Server] = []
    heard: list[Said] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        if connection.protocols:
            await servers[0].close(1012, "again")
            servers[0].stop()
            servers[0].stop()
            await servers[0].close()
        await connection.wait_closed()

    async def hear(*more: str) -> None:
        heard.append(await entrance.ask(*more, then=b"").hear())

    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[websocket.Server]) -> None:
            await websocket.serve(handler, sockets=[entrance], task_status=task_status)

        servers.append(await nursery.start(serve))
        nursery.start_soon(hear)
        await wait_all_tasks_blocked()
        nursery.start_soon(hear, "Sec-WebSocket-Protocol: last")
    assert [said.code for said in heard] == [1012, 1012]
    assert driver_tasks() == []


async def test_a_handler_may_close_the_connection_of_another(autojump_clock: MockClock) -> None:
    first: list[ServerConnection] = []
    entrance = Entrance()
    heard: list[Said] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        first.append(connection)
        if len(first) > 1:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first[0].close, 4000, "you")
                nursery.start_soon(first[0].close, 4001, "you too")
        async for _ in connection:
            pass

    async def hear(data: bytes) -> None:
        heard.append(await entrance.ask(then=data).hear())

    async with trio.open_nursery() as nursery, websocket.listen(sockets=[entrance]) as server:
        nursery.start_soon(hear, b"")
        await wait_all_tasks_blocked()
        nursery.start_soon(hear, GOODBYE)
        async with trio.open_nursery() as handlers:
            for _ in range(2):
                handlers.start_soon(handler, await server.receive_value())
    assert sorted(said.code or 0 for said in heard) in ([1000, 4000], [1000, 4001])


@pytest.mark.parametrize("first", ["accept", "send", "receive", "ping", "iterate"])
@pytest.mark.parametrize("second", ["accept", "send", "receive", "ping", "iterate", "reject", "close"])
async def test_two_tasks_may_be_the_first_to_use_a_connection(
    first: str, second: str, autojump_clock: MockClock
) -> None:
    entrance = Entrance()

    async def use(connection: ServerConnection, how: str) -> None:
        try:
            uses: dict[str, Callable[[], Awaitable[object]]] = {
                "accept": connection.accept,
                "send": lambda: connection.send("hello"),
                "receive": connection.receive,
                "ping": connection.ping,
                "iterate": connection.__anext__,
                "reject": lambda: connection.reject(404),
                "close": connection.close,
            }
            await uses[how]()
        except (NoContextError, ConnectionFailedError, StopAsyncIteration) as error:
            assert how in ("accept", "reject") or not isinstance(error, NoContextError)  # noqa: PT017  # which may fail

    heard: list[Said] = []

    async def hear() -> None:
        heard.append(await entrance.ask(then=sent(TEXT, b"hello")).hear())

    async with trio.open_nursery() as nursery, websocket.listen(sockets=[entrance]) as server:
        nursery.start_soon(hear)
        connection = await server.receive_value()
        with trio.move_on_after(5):
            async with trio.open_nursery() as using:
                using.start_soon(use, connection, first)
                using.start_soon(use, connection, second)
    # One answer: see `Said.status`.
    assert heard[0].status in (101, 403, 404)
    assert driver_tasks() == []


# Channels -------------------------------------------------------------------------------------------------------------


async def test_a_connection_whose_channel_its_user_has_closed_lives_on(autojump_clock: MockClock) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        connection.channel().close()
        await connection.send("still here")
        await connection.wait_closed()

    heard = await served(handler, sent(TEXT, b"lost") * 100 + GOODBYE)
    assert heard[0].code == 1000


async def test_a_server_whose_channel_its_user_has_closed_turns_away(autojump_clock: MockClock) -> None:
    entrance = Entrance()
    async with websocket.listen(sockets=[entrance]) as server:
        server.channel().close()
        said = await entrance.ask().hear()
        assert said.status == 503
        assert not (await server.receive()).ok


async def test_serve_whose_channel_was_closed_returns_with_its_last_handler(autojump_clock: MockClock) -> None:
    entrance = Entrance()
    heard: list[Said] = []
    servers: list[websocket.Server] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.accept()
        servers[0].channel().close()
        heard.append(await entrance.ask().hear())
        await connection.send("still here")

    async def hear(caller: Caller) -> None:
        heard.append(await caller.hear())

    async def serve(*, task_status: trio.TaskStatus[websocket.Server]) -> None:
        await websocket.serve(handler, sockets=[entrance], task_status=task_status)

    async with trio.open_nursery() as nursery:
        servers.append(await nursery.start(serve))
        nursery.start_soon(hear, entrance.ask())
    assert heard[0].status == 503
    assert b"still here" in heard[1].data
    assert heard[1].code == 1000


async def test_a_selector_over_a_server_and_its_connections_sees_all_of_it_end(autojump_clock: MockClock) -> None:
    entrance = Entrance()
    seen: list[str] = []
    async with trio.open_nursery() as nursery, websocket.listen(sockets=[entrance]) as server:
        nursery.start_soon(entrance.ask(then=sent(TEXT, b"hello") + GOODBYE).hear)
        nursery.start_soon(entrance.ask(then=GOODBYE).hear)
        open_ones = 0
        # What it gives is told apart below.
        both: csp.Selector[Any] = csp.Selector(server.channel())
        with both as selector:
            async for r in selector:
                if server.channel().gave(r):
                    await r.value.accept()
                    selector.add(r.value.channel())
                    open_ones += 1
                elif r.channel is server.channel():
                    seen.append("stopped")
                elif not r.ok:
                    seen.append("ended")
                    open_ones -= 1
                    if not open_ones:
                        server.stop()
                else:
                    seen.append("message")
    assert sorted(seen) == ["ended", "ended", "message", "stopped"]


# Blocks ---------------------------------------------------------------------------------------------------------------


async def test_a_block_inside_a_shielded_scope_ends_by_itself(autojump_clock: MockClock) -> None:
    entrance = Entrance()
    with trio.move_on_after(1) as outer:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery, websocket.listen(sockets=[entrance]) as server:
                nursery.start_soon(entrance.ask().hear)
                await (await server.receive_value()).accept()
                outer.cancel()
                await trio.sleep(5)
        await trio.lowlevel.checkpoint()
    assert outer.cancelled_caught
    assert driver_tasks() == []


async def test_a_server_in_the_block_of_another_ends_before_it(autojump_clock: MockClock) -> None:
    outside, inside = Entrance(), Entrance()
    codes: dict[str, int | None] = {}

    async def hear(name: str, entrance: Entrance) -> None:
        codes[name] = (await entrance.ask().hear()).code

    async with trio.open_nursery() as nursery, websocket.listen(sockets=[outside]) as outer:
        nursery.start_soon(hear, "outer", outside)
        kept = await outer.receive_value()
        await kept.accept()

        async def fail_inside() -> None:
            async with websocket.listen(sockets=[inside]) as inner:
                nursery.start_soon(hear, "inner", inside)
                await (await inner.receive_value()).accept()
                raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            await fail_inside()
        await wait_all_tasks_blocked()
        assert codes == {"inner": 1011}
        assert kept.close_code is None
    assert codes == {"inner": 1011, "outer": 1001}


async def test_a_connection_is_of_no_use_after_its_server(autojump_clock: MockClock) -> None:
    entrance = Entrance()
    async with trio.open_nursery() as nursery, websocket.listen(sockets=[entrance]) as server:
        nursery.start_soon(entrance.ask().hear)
        nursery.start_soon(entrance.ask().hear)
        accepted, unanswered = await server.receive_value(), await server.receive_value()
        await accepted.accept()
    for connection in (accepted, unanswered):
        for use in (lambda c=connection: c.send("x"), connection.ping):
            with pytest.raises(ConnectionFailedError):
                await use()
        assert not (await connection.receive()).ok
        await connection.close()
        await connection.wait_closed()
        assert connection.close_code is not None
        with pytest.raises(InvalidError):
            await connection.close(1006)
    with pytest.raises(NoContextError):
        await accepted.accept()
    with pytest.raises(ConnectionFailedError):
        await unanswered.accept()
    with pytest.raises(ConnectionFailedError):
        await unanswered.reject()
    assert server.connections == ()
    await server.close()
    server.stop()


async def test_a_block_that_is_cancelled_while_nobody_has_answered_closes_the_stream(autojump_clock: MockClock) -> None:
    entrance = Entrance()
    heard: list[Said] = []

    async def hear() -> None:
        heard.append(await entrance.ask().hear())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        with trio.move_on_after(1):
            async with websocket.listen(sockets=[entrance]):
                await trio.sleep_forever()
    assert heard[0].status in (None, 503)
    assert driver_tasks() == []
