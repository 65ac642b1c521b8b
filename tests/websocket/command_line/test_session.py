"""Sessions in this process: what a script gets, and what a person at a terminal may do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio

import csp
from csp import testing, websocket
from tests.websocket.command_line._session import URL, Run
from trio_csp_websocket.command_line.conversation import Stop

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio.testing import MockClock

    from trio_csp_websocket.command_line.lines import Line


async def test_lines_are_sent_and_answers_shown_until_it_is_silent(echoing: None, autojump_clock: MockClock) -> None:
    run = Run()
    assert await run.carry_through("a", "", "b", None, wait="1s") == 0
    assert run.texts() == ["a", "", "b"]
    assert run.texts("note") == [f"connected to {URL}", "closed with code 1000 (NORMAL)"]
    assert trio.current_time() == pytest.approx(1, abs=0.1)


async def test_silence_is_counted_from_the_last_message(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        for number in range(4):
            await trio.sleep(0.9)
            await connection.send(str(number))
        await connection.wait_closed()

    run = Run()
    async with testing.websocket_server(handler):
        assert await run.carry_through(None, wait="1s") == 0
    assert run.texts() == ["0", "1", "2", "3"]
    assert trio.current_time() == pytest.approx(4.6, abs=0.1)


async def test_answers_to_pings_are_no_messages_to_wait_for(echoing: None, autojump_clock: MockClock) -> None:
    run = Run()
    assert await run.carry_through(None, wait="1s", ping="300ms") == 0
    assert [text.startswith("pong after ") for text in run.texts("note")] == [False, True, True, True, False]


async def test_without_a_wait_only_the_server_ends_it(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await trio.sleep(10_000)
        await connection.close(1001, "enough")

    run = Run()
    async with testing.websocket_server(handler):
        assert await run.carry_through(None, wait=None) == 0
    assert run.texts("note")[-1] == "closed by the server with code 1001 (GOING_AWAY): enough"


async def test_count_ends_it_after_so_many_messages(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        for number in range(10):
            await connection.send(str(number))
        await connection.wait_closed()

    run = Run()
    async with testing.websocket_server(handler):
        assert await run.carry_through(count=3) == 0
    assert run.texts() == ["0", "1", "2"]


async def test_fewer_messages_than_the_count_are_an_error(echoing: None, autojump_clock: MockClock) -> None:
    run = Run()
    assert await run.carry_through("one", None, count=2, wait="1s") == 1
    assert run.texts("error") == ["1 of 2 messages came"]


@pytest.mark.parametrize("drop", [True, False])
async def test_an_error_at_the_end_is_told(autojump_clock: MockClock, drop: bool) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.send("last")
        if drop:
            connection.drop()
        else:
            await connection.close(4001, "go \x1b[2J away")

    run = Run()
    async with testing.websocket_server(handler):
        assert await run.carry_through() == 1
    assert run.texts() == ["last"]
    (told,) = run.texts("error")
    assert ("lost" if drop else "the peer closed the connection with code 4001: go \\u001b[2J away") in told


async def test_a_server_that_does_not_answer_the_close_is_told(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.accept()
        connection.stop_reading()
        await trio.sleep_forever()

    run = Run()
    async with testing.websocket_server(handler):
        await run.stops.send(Stop(130))
        assert await run.carry_through() == 130
    assert run.texts("note")[-1] == "closed; the server did not answer the close"


async def test_json_tells_messages_pongs_and_the_end(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.send("Grüße\n\x1b")
        await connection.send(b"\0\xff")
        await trio.sleep(1.5)
        await connection.close(1011, "broken")

    run = Run()
    async with testing.websocket_server(handler):
        assert await run.carry_through(as_json=True, ping="1s") == 1
    text, binary, pong, close = map(json.loads, run.texts())
    assert text == {"type": "text", "data": "Grüße\n\x1b"}
    assert binary == {"type": "binary", "data": "AP8="}
    assert pong.keys() == {"type", "seconds"}
    assert 0 <= pong["seconds"] < 1
    assert {**close, "error": ""} == {"type": "close", "code": 1011, "reason": "broken", "error": ""}
    assert "broken" in close["error"]


async def test_json_of_a_good_end_has_no_error(echoing: None, autojump_clock: MockClock) -> None:
    run = Run()
    await run.carry_through(None, as_json=True, wait="1s")
    assert [json.loads(text) for text in run.texts()] == [{"type": "close", "code": 1000, "reason": "", "error": None}]


async def test_what_was_agreed_on_is_told(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.accept(subprotocol=connection.protocols[0], compression=websocket.COMPRESSION.CONTEXT_TAKEOVER)
        await connection.wait_closed()

    run = Run()
    async with testing.websocket_server(handler):
        await run.carry_through(None, wait="1s", protocols=["chat"], compression=1)
    assert run.texts("note")[0] == f"connected to {URL}, protocol chat, compressed"


async def test_what_was_agreed_on_shows_no_secret(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.accept(subprotocol=connection.protocols[0])

    run = Run()
    async with testing.websocket_server(handler):
        url = f"{URL.replace('//', '//alice:hunter2@')}?token=hunter2"
        assert await run.carry_through(url=url, protocols=["bearer.hunter2"]) == 0
    assert run.texts("note")[0] == f"connected to {URL}?..., a protocol that looks like a secret"


async def test_a_stop_closes_with_1000_and_says_why(echoing: None, autojump_clock: MockClock) -> None:
    run = Run()
    await run.stops.send(Stop(1, "standard input: no"))
    await run.stops.send(Stop(2))
    assert await run.carry_through() == 1
    assert run.texts("error") == ["standard input: no"]
    assert run.texts("note")[-1] == "closed with code 1000 (NORMAL)"


@pytest.mark.parametrize(("error", "status"), [(BrokenPipeError(32, "Broken pipe"), 0), (OSError(28, "No space"), 1)])
async def test_output_that_fails_ends_it(echoing: None, autojump_clock: MockClock, error: OSError, status: int) -> None:
    async def show(lines: Iterable[Line]) -> None:
        if any(line.kind == "received" for line in lines):
            raise error
        await run.show(lines)

    run = Run()
    assert await run.carry_through(*map(str, range(200)), show=show) == status
    assert run.texts("error") == ([] if status == 0 else ["cannot write the output: No space"])
    assert run.texts("note")[-1] == "closed with code 1000 (NORMAL)"


async def test_output_that_fails_as_the_connection_ends_is_told(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.send("being written")
        await trio.sleep(1.5)
        await connection.send("to be written")
        await connection.close(1000)

    async def show(lines: Iterable[Line]) -> None:
        await trio.sleep(1)
        if any(line.text == "being written" for line in lines):
            raise OSError(28, "No space")
        await run.show(lines)

    run = Run()
    async with testing.websocket_server(handler):
        assert await run.carry_through(show=show) == 1
    assert [line.text for line in run.lines] == [
        f"connected to {URL}",
        "closed by the server with code 1000 (NORMAL)",
        "cannot write the output: No space",
    ]


async def test_output_that_nobody_takes_slows_the_server_down_and_does_not_hold_up_a_stop(
    autojump_clock: MockClock,
) -> None:
    sent = 0

    async def handler(connection: testing.ServerConnection) -> None:
        nonlocal sent
        while True:
            await connection.send("x" * 100_000)
            sent += 1

    async def show(lines: Iterable[Line]) -> None:
        await run.show(lines)
        await trio.sleep_forever()

    run = Run()
    async with testing.websocket_server(handler), csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.carry_through(show=show))
        await trio.sleep(10)
        assert 64 < sent < 200
        before = sent
        await trio.sleep(10)
        assert sent == before
        await run.stops.send(Stop(130))
        await trio.sleep(20)
        assert run.status == 130


async def test_a_server_that_does_not_read_slows_the_input_down(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.accept()
        connection.stop_reading()
        await trio.sleep(10)
        connection.read_on()
        await connection.wait_closed()

    run = Run()
    run.input = csp.Channel[str | None](0)
    taken = 0
    async with testing.websocket_server(handler), csp.BackgroundNursery() as nursery:
        nursery.start_soon(run.carry_through)
        with trio.move_on_after(5):
            while True:
                await run.input.send("x" * 100_000)
                taken += 1
        assert taken < 100


@pytest.mark.parametrize("drop", [False, True])
async def test_what_is_lost_with_the_only_connection_is_told_of_by_its_end_alone(
    autojump_clock: MockClock, drop: bool
) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.accept()
        connection.stop_reading()
        await trio.sleep(1)
        if drop:
            connection.drop()
        await trio.sleep_forever()

    run = Run()
    async with testing.websocket_server(handler), csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.carry_through("x" * 1_000_000, "y", None))
        await trio.sleep(5)
        await run.stops.send(Stop(130))
        await trio.sleep(20)  # more than the close_timeout
    assert len(run.texts("error")) == drop
    assert run.status == (1 if drop else 130)


# When the input is sent ----------------------------------------------------------------------------------------------


class Listener:
    """A server that greets after some seconds, and notes when each message came since the connection was made."""

    def __init__(self, greets_after: float | None = None, *, answers: bool = False) -> None:
        self.greets_after = greets_after
        self.answers = answers
        self.came: list[tuple[float, str | bytes]] = []

    async def __call__(self, connection: testing.ServerConnection) -> None:
        await connection.accept()
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            if self.greets_after is not None:
                nursery.start_soon(self.greet, connection, self.greets_after)
            async for message in connection:
                self.came.append((round(trio.current_time() - start), message.data))
                if self.answers:
                    await connection.send(message.data)
            nursery.cancel_scope.cancel()

    async def greet(self, connection: testing.ServerConnection, seconds: float) -> None:
        await trio.sleep(seconds)
        await connection.send("welcome")


async def test_after_first_sends_nothing_before_a_message_has_come(autojump_clock: MockClock) -> None:
    run, listener = Run(), Listener(20, answers=True)
    async with testing.websocket_server(listener):
        assert await run.carry_through("a", "b", None, wait="1s", first_within="30s") == 0
    assert listener.came == [(20, "a"), (20, "b")]
    assert run.texts() == ["welcome", "a", "b"]


async def test_after_first_a_binary_message_is_a_message_and_a_pong_is_not(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await trio.sleep(10)
        assert connection.channel().statistics().buffered == 0
        await connection.send(b"")
        assert (await connection.receive_value()).data == "a"

    run = Run()
    async with testing.websocket_server(handler):
        assert await run.carry_through("a", None, ping="1s", first_within="30s") == 0
    assert run.texts() == [""]


async def test_after_first_nothing_is_sent_if_no_message_comes_in_time(autojump_clock: MockClock) -> None:
    run, listener = Run(), Listener()
    async with testing.websocket_server(listener):
        assert await run.carry_through("a", None, wait="1s", first_within="30s") == 1
    assert listener.came == []
    assert run.texts("error") == ["no message came within 30s, so nothing was sent"]
    assert run.texts("note")[-1] == "closed with code 1000 (NORMAL)"


@pytest.mark.parametrize("as_json", [True, False])
async def test_after_first_it_is_an_error_if_the_server_closes_before(autojump_clock: MockClock, as_json: bool) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.close(1000)
        received.extend([message async for message in connection])

    received: list[object] = []
    run = Run()
    async with testing.websocket_server(handler):
        assert await run.carry_through("a", None, as_json=as_json, first_within="30s") == 1
    assert received == []
    assert run.texts("error") == ["no message came, so nothing was sent"]


async def test_after_first_a_stop_does_not_wait_for_the_message(autojump_clock: MockClock) -> None:
    run, listener = Run(), Listener()
    await run.stops.send(Stop(130))
    async with testing.websocket_server(listener):
        assert await run.carry_through("a", None, first_within="30s") == 130
    assert (listener.came, run.texts("error")) == ([], [])


async def test_after_first_the_first_message_counts(autojump_clock: MockClock) -> None:
    run, listener = Run(), Listener(1, answers=True)
    async with testing.websocket_server(listener):
        assert await run.carry_through("a", "b", None, count=2, first_within="30s") == 0
    assert run.texts() == ["welcome", "a"]


async def test_a_delay_stands_before_the_first_line_and_between_lines(autojump_clock: MockClock) -> None:
    run, listener = Run(), Listener()
    async with testing.websocket_server(listener):
        assert await run.carry_through("a", "b", "c", None, delay="10s", wait="1s") == 0
    assert listener.came == [(10, "a"), (20, "b"), (30, "c")]


async def test_a_delay_does_not_hold_up_a_line_that_comes_late(autojump_clock: MockClock) -> None:
    run, listener = Run(), Listener()
    async with testing.websocket_server(listener), csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.carry_through(delay="10s", wait="1s"))
        await trio.sleep(25)
        for line in ("a", "b", None):
            await run.input.send(line)
        await trio.sleep(100)
    assert listener.came == [(25, "a"), (35, "b")]
    assert run.status == 0


async def test_a_delay_begins_with_the_first_message_if_that_is_waited_for(autojump_clock: MockClock) -> None:
    run, listener = Run(), Listener(5)
    async with testing.websocket_server(listener):
        assert await run.carry_through("a", "b", None, delay="10s", first_within="30s", wait="1s") == 0
    assert listener.came == [(15, "a"), (25, "b")]


async def test_a_stop_does_not_wait_for_a_delay(autojump_clock: MockClock) -> None:
    run, listener = Run(), Listener()
    async with testing.websocket_server(listener), csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.carry_through("a", "b", None, delay="10s"))
        await trio.sleep(15)
        await run.stops.send(Stop(143))
        await trio.sleep(1)
        assert run.status == 143
    assert listener.came == [(10, "a")]


# What is typed at a terminal ------------------------------------------------------------------------------------------


async def test_a_person_sends_lines_and_commands(echoing: None, autojump_clock: MockClock) -> None:
    run = Run()
    typed = [
        "hello",
        "",
        "/ping",
        "/help",
        "//slash",
        "/nonsense \x1b",
        "/close 99",
        "/close now",
        "/close 1" + 4999 * "0",
    ]
    async with csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.carry_through(*typed, interactive=True, terminal=True))
        await trio.sleep(1)
        assert run.status is None
        assert run.texts("sent") == ["hello", "/slash"]
        assert run.texts() == ["hello", "/slash"]
        assert run.texts("error") == [
            "not understood: /nonsense \\u001b; see /help",
            "code must be 1000 to 1003, 1007 to 1014 or 3000 to 4999, not 99",
            "not understood: /close now; see /help",
            f"not understood: /close {'1' + 4999 * '0'}; see /help",
        ]
        assert sum(text.startswith("pong after ") for text in run.texts("note")) == 1
        assert any(text.startswith("/close") for text in run.texts("note"))
        await run.input.send("/close 4000 so long")
        await trio.sleep(1)
    assert run.status == 0
    assert run.texts("note")[-1] == "closed with code 4000: so long"


async def test_the_end_of_what_is_typed_closes_with_1000(echoing: None, autojump_clock: MockClock) -> None:
    run = Run()
    assert await run.carry_through(None, interactive=True) == 0
    assert run.texts("note")[-1] == "closed with code 1000 (NORMAL)"


async def deaf(connection: testing.ServerConnection) -> None:
    await connection.accept()
    connection.stop_reading()
    await trio.sleep_forever()


@pytest.mark.parametrize("signalled", [False, True])
async def test_ctrl_c_while_closing_does_not_wait_for_the_server(autojump_clock: MockClock, signalled: bool) -> None:
    run = Run()
    async with testing.websocket_server(deaf), csp.BackgroundNursery() as nursery:
        nursery.start_soon(lambda: run.carry_through("before", None, "late", "", interactive=True, terminal=True))
        await trio.sleep(1)
        assert run.status is None
        assert run.texts("sent") == ["before"]
        assert run.texts("error") == ["not sent: closing"]
        assert run.texts("note")[-1] == "closing; Ctrl-C again does not wait for the server"
        if signalled:
            await run.stops.send(Stop(0))
        else:
            await run.input.send(None)
        await trio.sleep(0.1)
        assert run.status == 0


async def test_a_person_is_not_held_up_by_a_server_that_does_not_read(autojump_clock: MockClock) -> None:
    run = Run()
    async with testing.websocket_server(deaf):
        assert await run.carry_through(*["x" * 1_000_000] * 5, "/ping", "/ping", None, interactive=True) == 0
