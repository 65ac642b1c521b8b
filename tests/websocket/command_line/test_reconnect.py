"""Sessions over many connections, in this process: what ``--reconnect`` shows, and how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

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
    silent,
)
from tests.websocket.command_line._session import URL, Run, echo
from trio_csp_websocket.command_line.conversation import Stop

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio.testing import MockClock

    from tests.websocket.command_line._roles import Handler
    from trio_csp_websocket.command_line.lines import Line


LOST = "the connection was lost: the peer closed it without a close frame"
REFUSED = f"cannot connect to {URL}: the server refused the connection with status 503 Service Unavailable"
TRYING = "; trying again in "


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
        f"cannot connect to {URL}: the server refused the connection with status 401 Unauthorized"
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
