"""Sessions over many connections, in this process: what ``--reconnect`` sends, counts and waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import csp
from csp import testing
from tests.websocket._server import frame
from tests.websocket.command_line._roles import (
    noting,
    one_after_another,
    refuse,
    say_and_close,
    say_and_drop,
)
from tests.websocket.command_line._session import Run, echo

if TYPE_CHECKING:
    from trio.testing import MockClock


# What is sent ---------------------------------------------------------------------------------------------------------


async def test_the_input_waits_for_a_connection(autojump_clock: MockClock) -> None:
    received: list[str | bytes] = []
    run = Run()
    async with testing.websocket_server(one_after_another(refuse, refuse, noting(received))):
        assert await run.keep_up("a", "b", None, wait="1s") == 0
    assert received == ["a", "b"]


@pytest.mark.parametrize("pause", [0, 3])
async def test_what_is_not_sent_when_the_server_closes_goes_to_the_next_connection(
    autojump_clock: MockClock, pause: float
) -> None:
    received: list[str | bytes] = []

    async def close(connection: testing.ServerConnection) -> None:
        await connection.send_bytes(frame(8, (1012).to_bytes(2, "big")))
        await trio.sleep(pause)  # closing, and the stream is still open

    run = Run()
    run.input = csp.Channel[str | None](0)
    server = one_after_another(noting(received, close, after=1), refuse, noting(received))
    async with testing.websocket_server(server), csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.keep_up(wait="1s"))
        await run.input.send("0")
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, 20):
            await run.input.send(str(number))
        await run.input.send(None)
        await trio.sleep(100)
    assert run.status == 0
    assert received == [str(number) for number in range(20)]


@pytest.mark.parametrize("interactive", [False, True])
async def test_a_line_that_may_be_lost_is_told_and_not_sent_again(autojump_clock: MockClock, interactive: bool) -> None:
    received: list[str | bytes] = []
    line = "x" * 1_000_000

    async def deaf(connection: testing.ServerConnection) -> None:
        await connection.accept()
        assert (await connection.receive_value()).data == "first"
        connection.stop_reading()
        await trio.sleep(5)
        connection.drop()

    run = Run()
    server = one_after_another(deaf, noting(received))
    async with testing.websocket_server(server), csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.keep_up("first", line, "last", interactive=interactive, wait="1s"))
        await trio.sleep(60)
        await run.input.send(None)
        await trio.sleep(60)
    assert received == ["last"]
    what = line if interactive else "line 2 of the input"
    assert f"the connection ended while this was sent, and it may be lost: {what}" in run.texts("error")
    assert run.status == 1


async def test_the_input_is_delayed_from_the_first_connection_on(autojump_clock: MockClock) -> None:
    received: list[str | bytes] = []
    run = Run()
    async with (
        testing.websocket_server(one_after_another(refuse, noting(received))),
        csp.BackgroundNursery() as nursery,
    ):
        nursery.start_soon(lambda: run.keep_up("a", delay="1m"))
        await trio.sleep(59)
        assert received == []
        await trio.sleep(10)
        assert received == ["a"]


# What is counted, and what it waits for -------------------------------------------------------------------------------


async def test_messages_of_all_connections_are_counted(autojump_clock: MockClock) -> None:
    run = Run()
    async with testing.websocket_server(say_and_drop("1", "2")):
        assert await run.keep_up(count=5) == 0
    assert run.texts() == ["1", "2", "1", "2", "1"]


async def test_only_the_silence_of_an_open_connection_counts(autojump_clock: MockClock) -> None:
    async def late(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await trio.sleep(0.8)
        connection.drop()

    run = Run()
    async with testing.websocket_server(one_after_another(refuse, refuse, late, refuse, late, say_and_close("last"))):
        assert await run.keep_up(None, wait="1s") == 0
    assert run.texts() == ["last"]
    assert run.texts("note")[-1] == "closed by the server with code 1000 (NORMAL)"


async def test_silence_ends_it_once_it_is_connected(autojump_clock: MockClock) -> None:
    run = Run()
    async with testing.websocket_server(one_after_another(refuse, refuse, echo)):
        assert await run.keep_up("a", None, wait="1s") == 0
    assert run.texts() == ["a"]
    assert run.texts("note")[-1] == "closed with code 1000 (NORMAL)"


async def test_after_first_the_message_may_come_on_a_later_connection(autojump_clock: MockClock) -> None:
    received: list[str | bytes] = []

    async def greet(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await trio.sleep(20)
        await connection.send("welcome")
        received.extend([message.data async for message in connection])

    async def lose(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await trio.sleep(20)
        connection.drop()

    run = Run()
    async with testing.websocket_server(one_after_another(refuse, lose, lose, greet)):
        assert await run.keep_up("a", None, wait="1s", first_within="30s") == 0
    assert (received, run.texts()) == (["a"], ["welcome"])


async def test_after_first_an_open_connection_that_brings_nothing_ends_it(autojump_clock: MockClock) -> None:
    run = Run()
    async with testing.websocket_server(one_after_another(refuse, echo)):
        assert await run.keep_up("a", None, first_within="30s") == 1
    assert run.texts("error")[1:] == ["no message came within 30s, so nothing was sent"]


async def test_pings_go_to_the_open_connection_only(autojump_clock: MockClock) -> None:
    async def slow(connection: testing.ServerConnection) -> None:
        await connection.accept()
        with trio.move_on_after(3.5):
            await connection.wait_closed()
        connection.drop()

    async def late(connection: testing.ServerConnection) -> None:
        await trio.sleep(10)
        await slow(connection)

    run = Run()
    async with testing.websocket_server(one_after_another(slow, late, say_and_close())):
        assert await run.keep_up(ping="1s") == 0
    kinds = ["pong" if text.startswith("pong") else text.split()[0] for text in run.texts("note")]
    assert [kinds[:4], kinds.count("pong")] == [["connected", "pong", "pong", "pong"], 6]
