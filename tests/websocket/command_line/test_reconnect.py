"""Sessions over many connections, in this process: what ``--reconnect`` shows, sends, counts, and how it ends."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import csp
from csp import testing
from tests.websocket._server import frame
from tests.websocket.command_line._session import URL, Run, echo
from trio_csp_websocket.command_line.session import Stop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from trio.testing import MockClock

    from trio_csp_websocket.command_line.lines import Line

    Handler = Callable[[testing.ServerConnection], Awaitable[None]]

LOST = "the connection was lost: the peer closed it without a close frame"
REFUSED = f"cannot connect to {URL}: the server refused the connection with status 503"
TRYING = "; trying again in "


def one_after_another(*handlers: Handler) -> Handler:
    """Return a handler that is another one for each connection; the last one goes on."""
    rest = list(handlers)

    async def handle(connection: testing.ServerConnection) -> None:
        await (rest.pop(0) if len(rest) > 1 else rest[0])(connection)

    return handle


async def refuse(connection: testing.ServerConnection) -> None:
    await connection.reject(503)


async def silent(_connection: testing.ServerConnection) -> None:
    await trio.sleep_forever()


def say_and_drop(*texts: str) -> Handler:
    async def handle(connection: testing.ServerConnection) -> None:
        await connection.accept()
        for text in texts:
            await connection.send(text)
        await trio.sleep(0.5)
        connection.drop()

    return handle


def say_and_close(*texts: str, code: int = 1000, reason: str = "") -> Handler:
    async def handle(connection: testing.ServerConnection) -> None:
        await connection.accept()
        for text in texts:
            await connection.send(text)
        await connection.close(code, reason)

    return handle


def beginnings(texts: Iterable[str]) -> list[str]:
    """Return lines up to where they say when they try again, which is chance."""
    return [text.partition(TRYING)[0] for text in texts]


async def about_the_connection(*handlers: Handler, **options: Any) -> tuple[int, list[str]]:
    """Return the status, and the lines that are no messages, of a server that plays these roles in turn."""
    run = Run()
    async with testing.websocket_server(one_after_another(*handlers)):
        status = await run.keep_up(**options)
    return status, beginnings(line.text for line in run.lines if line.kind != "received")


# What is told ---------------------------------------------------------------------------------------------------------


async def test_it_connects_again_when_the_connection_is_lost_and_says_so(autojump_clock: MockClock) -> None:
    run = Run()
    server = one_after_another(say_and_drop("1", "2"), refuse, say_and_close("3"))
    async with testing.websocket_server(server):
        assert await run.keep_up() == 0
    assert run.texts() == ["1", "2", "3"]
    lost, refused = run.texts("error")
    assert beginnings([lost, refused]) == [LOST, REFUSED]
    assert (lost[-12:], refused[-12:]) == (" (attempt 1)", " (attempt 2)")
    first, again, gap, closed = run.texts("note")
    assert (first, again) == (f"connected to {URL}", f"connected again to {URL}")
    assert gap.startswith("there was no connection for ")
    assert gap.endswith(" s: messages may be missing")
    assert closed == "closed by the server with code 1000 (NORMAL)"


async def test_the_gap_stands_between_the_messages_of_two_connections(autojump_clock: MockClock) -> None:
    run = Run()
    async with testing.websocket_server(one_after_another(say_and_drop("1", "2"), say_and_close("3"))):
        await run.keep_up(as_json=True)
    told = [json.loads(text) for text in run.texts()]
    in_order = [value for value in told if value["type"] in {"text", "gap", "close"}]
    assert [value.get("data", value["type"]) for value in in_order] == ["1", "2", "gap", "3", "close"]


async def test_json_tells_of_each_connection(autojump_clock: MockClock) -> None:
    run = Run()
    server = one_after_another(refuse, say_and_close(code=1001, reason="soon"), say_and_drop(), say_and_close())
    async with testing.websocket_server(server):
        assert await run.keep_up(as_json=True) == 0
    told = [json.loads(text) for text in run.texts()]
    refused, opened, going_away, reopened, gap, lost, *_, end = told
    assert refused.pop("seconds") >= 0.5
    assert refused == {"type": "waiting", "attempt": 2, "error": REFUSED}
    assert opened == reopened == {"type": "open"}
    assert {**going_away, "seconds": 0} == {"type": "waiting", "seconds": 0, "attempt": 1, "error": None}
    assert gap.pop("seconds") >= 0.5
    assert gap == {"type": "gap", "attempts": 1, "missed": None, "code": 1001, "reason": "soon", "error": None}
    assert (lost["type"], lost["error"]) == ("waiting", LOST)
    assert end == {"type": "close", "code": 1000, "reason": "", "error": None}
    assert len(run.texts("note") + run.texts("error")) == 3 + 2 + 3  # opened, gaps, waiting: as without JSON


async def test_a_server_that_closes_with_1001_is_come_back_to(autojump_clock: MockClock) -> None:
    status, told = await about_the_connection(say_and_close(code=1001, reason="so\x1b long"), say_and_close())
    assert status == 0
    assert told[1] == "closed by the server with code 1001 (GOING_AWAY): so\\u001b long"


async def test_a_retry_after_is_told(autojump_clock: MockClock) -> None:
    async def later(connection: testing.ServerConnection) -> None:
        await connection.reject(503, headers={"Retry-After": "40"})

    run = Run()
    async with testing.websocket_server(one_after_another(later, say_and_close())):
        await run.keep_up()
    (refused,) = run.texts("error")
    assert ", as the server asks for 40 s (attempt 2)" in refused


async def test_messages_that_were_dropped_are_counted(autojump_clock: MockClock) -> None:
    blocked = trio.Event()

    async def show(lines: Iterable[Line]) -> None:
        lines = list(lines)
        await run.show(lines)
        if any(line.kind == "received" for line in lines):
            await blocked.wait()

    run = Run()
    many = say_and_drop(*map(str, range(200)))
    async with (
        testing.websocket_server(one_after_another(many, many, say_and_close())),
        csp.BackgroundNursery() as nursery,
    ):
        nursery.start_soon(lambda: run.keep_up(show=show))
        await trio.sleep(60)
        blocked.set()
        await trio.sleep(60)
    assert run.status == 0
    assert [text.partition(": ")[2] for text in run.texts("note") if text.startswith("there was")] == [
        "200 or more messages are missing"
    ]
    assert len(run.texts()) == 200


async def test_a_close_that_is_told_of_later_than_the_next_connection_has_no_code(autojump_clock: MockClock) -> None:
    shown = trio.Event()

    async def show(lines: Iterable[Line]) -> None:
        await run.show(lines)
        await shown.wait()

    async def wait(connection: testing.ServerConnection) -> None:
        await connection.accept()
        shown.set()
        await connection.wait_closed()

    run = Run()
    server = one_after_another(say_and_close(*"x" * 100, code=1001), wait)
    async with testing.websocket_server(server), csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.keep_up(show=show))
        await trio.sleep(60)
        await run.stops.send(Stop(130))
        await trio.sleep(5)
    assert "closed by the server" in beginnings(run.texts("note"))


# What is sent ---------------------------------------------------------------------------------------------------------


def noting(received: list[str | bytes], then: Handler | None = None, *, after: float = math.inf) -> Handler:
    """Return a handler that notes what comes, and after a number of messages does something else."""

    async def handle(connection: testing.ServerConnection) -> None:
        await connection.accept()
        left = after
        async for message in connection:
            received.append(message.data)
            left -= 1
            if left == 0 and then is not None:
                await then(connection)

    return handle


async def drop(connection: testing.ServerConnection) -> None:
    connection.drop()


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


# How it ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [say_and_close(code=1000), say_and_close(code=1008, reason="no")])
async def test_a_close_that_no_other_attempt_changes_ends_it(autojump_clock: MockClock, handler: Handler) -> None:
    status, told = await about_the_connection(handler)
    assert (status, told[1:]) in (
        (0, ["closed by the server with code 1000 (NORMAL)"]),
        (1, ["the peer closed the connection with code 1008 (POLICY_VIOLATION): no"]),
    )


async def test_a_connection_that_breaks_the_protocol_ends_it_and_is_no_failure_to_connect(
    autojump_clock: MockClock,
) -> None:
    async def babble(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await connection.send_bytes(b"\xff\xff")
        await connection.wait_closed()

    run = Run()
    async with testing.websocket_server(one_after_another(say_and_drop("1"), babble)):
        assert await run.keep_up(as_json=True) == 1
    end = json.loads(run.texts()[-1])
    assert (end["type"], end["code"]) == ("close", 1002)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("before", [[], [say_and_drop("1")]])
async def test_a_refusal_that_no_other_attempt_changes_ends_it_with_advice(
    autojump_clock: MockClock, before: list[Handler], as_json: bool
) -> None:
    async def forbid(connection: testing.ServerConnection) -> None:
        await connection.reject(401)

    run = Run()
    async with testing.websocket_server(one_after_another(*before, forbid)):
        assert await run.keep_up(as_json=as_json) == 1
    assert run.texts("error")[-1] == (
        f"cannot connect to {URL}: the server refused the connection with status 401"
        "; credentials go into --header 'Authorization: ...' or the URL"
    )
    objects = [json.loads(text) for text in run.texts() if as_json]
    assert [(end["type"], end["status"]) for end in objects[-1:]] == [("refused", 401)] * as_json


@pytest.mark.parametrize("handler", [refuse, say_and_drop("1"), silent], ids=["refused", "lost", "silent"])
@pytest.mark.parametrize(("stop", "status"), [(Stop(130), 130), (None, 0)])
async def test_closing_while_there_is_no_connection_ends_it_at_once(
    autojump_clock: MockClock, handler: Handler, stop: Stop | None, status: int
) -> None:
    run = Run()
    server = one_after_another(handler, refuse)
    async with testing.websocket_server(server), csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.keep_up(as_json=True, interactive=stop is None, wait="1s"))
        await trio.sleep(10)
        assert run.status is None
        if stop:
            await run.stops.send(stop)
        else:
            await run.input.send(None)
        await trio.testing.wait_all_tasks_blocked()
        assert run.status == status
    assert json.loads(run.texts()[-1]) == {"type": "close", "code": None, "reason": None, "error": None}


async def test_closing_the_open_connection_ends_it(autojump_clock: MockClock) -> None:
    run = Run()
    async with testing.websocket_server(one_after_another(say_and_drop("1"), echo)), csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.keep_up(interactive=True))
        await trio.sleep(10)
        await run.input.send("/close 4001 so long")
        await trio.sleep(0.1)
        assert run.status == 0
    assert run.texts("note")[-1] == "closed with code 4001: so long"


async def test_a_second_ctrl_c_does_not_wait_for_the_server(autojump_clock: MockClock) -> None:
    async def deaf(connection: testing.ServerConnection) -> None:
        await connection.accept()
        connection.stop_reading()
        await trio.sleep_forever()

    run = Run()
    async with testing.websocket_server(deaf), csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.keep_up(interactive=True))
        await trio.sleep(1)
        await run.input.send(None)
        await trio.sleep(0.1)
        assert run.status is None
        await run.input.send(None)
        await trio.testing.wait_all_tasks_blocked()
        assert run.status == 0


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


# What is typed --------------------------------------------------------------------------------------------------------


async def test_a_person_may_type_while_there_is_no_connection(autojump_clock: MockClock) -> None:
    received: list[str | bytes] = []
    down = trio.Event()

    async def come_up(connection: testing.ServerConnection) -> None:
        await (noting(received) if down.is_set() else refuse)(connection)

    run = Run()
    async with testing.websocket_server(come_up), csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.keep_up(interactive=True, terminal=True))
        await trio.sleep(5)
        await run.input.send("early")
        await run.input.send("/ping")
        await trio.sleep(0.1)
        assert run.texts("note")[:2] == [
            f"connecting to {URL} ...",
            "what you type is sent; /help tells more, Ctrl-D ends",
        ]
        assert run.texts("note")[2:] == ["it is sent once there is a connection"]
        assert "there is no connection" in run.texts("error")
        down.set()
        await trio.sleep(60)  # more than the longest wait between attempts
        assert received == ["early"]
        await run.input.send("late")
        await run.input.send("/ping")
        await trio.sleep(1)
        assert received == ["early", "late"]
        assert run.texts("note")[-1].startswith("pong after")
        await run.input.send("/close")
        await trio.sleep(1)
    assert run.status == 0
    assert run.texts("note").count("it is sent once there is a connection") == 1


# Servers that break things --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
async def test_what_a_server_says_controls_nothing(autojump_clock: MockClock, as_json: bool) -> None:
    evil = "\x1b[2J\u202e\r\n! forged"

    async def close(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await connection.send_bytes(frame(8, (1012).to_bytes(2, "big") + evil.encode()))

    async def refuse_evil(connection: testing.ServerConnection) -> None:
        await connection.reject(503, body=evil)

    run = Run()
    async with testing.websocket_server(one_after_another(close, refuse_evil, say_and_close(code=1000, reason=evil))):
        assert await run.keep_up(as_json=as_json, terminal=True) == 0
    assert all(line.text.isprintable() for line in run.lines)
    assert len(run.texts("error")) == 2
