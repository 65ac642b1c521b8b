"""A server of the command line: who comes and goes, what comes, what goes to whom, and how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import websocket
from tests.websocket.command_line._host import hosting
from tests.websocket.server._lobby import BINARY, CLOSE, PING, PONG, TEXT, close_frame, handshake, masked
from trio_csp_websocket.command_line.conversation import Stop
from trio_csp_websocket.command_line.guests import PATIENCE_SECONDS, TOO_SLOW
from trio_csp_websocket.command_line.output import MAX_LINES
from trio_csp_websocket.command_line.refusals import MAX_WAITING
from trio_csp_websocket.protocol.constants import Compression

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio.testing import MockClock

    from trio_csp_websocket.command_line.lines import Line

SLOW = "it did not read what was sent, and was closed with code 1013 (TRY_AGAIN_LATER)"


async def test_who_comes_and_goes_is_told_with_a_number(autojump_clock: MockClock) -> None:
    async with hosting() as host:
        first = await host.come(handshake("/chat?token=hunter2"))
        second = await host.come()
        await first.close(1000)
        await second.send(close_frame(4001, "go \x1b[2J away"))
        await second.closed()
        await second.leave()
        third = await host.come()
        await third.leave()
        await wait_all_tasks_blocked()
    assert host.texts("note") == [
        "listening on ws://here/",
        "#1 connected from somebody, path /chat (1 connected)",
        "#2 connected from somebody, path / (2 connected)",
        "#1 disconnected: closed by the client with code 1000 (NORMAL) (1 connected)",
        "#2 disconnected: the peer closed the connection with code 4001: go \\u001b[2J away (0 connected)",
        "#3 connected from somebody, path / (1 connected)",
        "#3 disconnected: the connection was lost: the peer closed it without a close frame (0 connected)",
    ]


async def test_what_was_agreed_on_is_told(autojump_clock: MockClock) -> None:
    request = handshake(
        "/",
        "Origin: https://app.example.com",
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Extensions: permessage-deflate",
    )
    options: websocket.ListenOptions = {
        "origins": "*",
        "protocols": ["chat"],
        "compression": Compression.CONTEXT_TAKEOVER,
    }
    async with hosting(server=options) as host:
        await host.come(request)
    said = "path /, a page of https://app.example.com, protocol chat, compressed"
    assert host.texts("note")[1] == f"#1 connected from somebody, {said} (1 connected)"


async def test_on_a_terminal_a_message_begins_with_its_number(autojump_clock: MockClock) -> None:
    async with hosting(terminal=True) as host:
        first, second = await host.come(), await host.come()
        await second.send(masked(TEXT, b"\x1b[2J\n#1: forged"))
        await wait_all_tasks_blocked()
        await first.send(masked(BINARY, bytes(20)))
        await wait_all_tasks_blocked()
    assert host.texts()[0] == "#2: \\u001b[2J\n#1: forged"  # further lines are indented
    assert host.texts()[1].startswith("#1: binary, 20 bytes: 00000000 ")


async def test_in_a_pipe_a_message_is_nothing_but_itself(autojump_clock: MockClock) -> None:
    async with hosting() as host:
        client = await host.come()
        await client.send(masked(TEXT, b"a\nb"), masked(BINARY, b"\0\xff"))
        await wait_all_tasks_blocked()
    assert host.texts() == ["a b", "00ff"]


async def test_an_echo_goes_to_the_sender_only_and_has_the_same_type(autojump_clock: MockClock) -> None:
    async with hosting(echo=True) as host:
        first, second = await host.come(), await host.come()
        await first.send(masked(TEXT, "é".encode()), masked(BINARY, b"\0\xff"))
        assert await first.frame() == (0x80 | TEXT, "é".encode())
        assert await first.frame() == (0x80 | BINARY, b"\0\xff")
        await host.stops.send(Stop(0))
        assert await second.closed() == (1001, "")
    assert host.texts() == ["é", "00ff"]


async def test_an_echo_that_cannot_be_sent_ends_nothing_else(autojump_clock: MockClock) -> None:
    async with hosting(echo=True) as host:
        client = await host.come()
        await client.send(masked(TEXT, b"a"), masked(TEXT, b"b"))
        await client.leave()
        await wait_all_tasks_blocked()
        await host.come()
    assert host.texts() == ["a", "b"]
    assert host.texts("note")[-1] == "#2 connected from somebody, path / (1 connected)"


async def test_lines_go_to_all_who_are_connected(autojump_clock: MockClock) -> None:
    async with hosting("a", "b", interactive=True) as host:
        assert host.texts("note")[1:] == [
            "what you type is sent to all; /help tells more, Ctrl-D ends",
            *["it is sent once somebody has connected"] * 2,
        ]
        first = await host.come()
        assert [await first.text(), await first.text()] == ["a", "b"]
        second = await host.come()
        await host.type("//c")
        assert (await first.text(), await second.text()) == ("/c", "/c")
        await first.close()
        await second.close()
        await wait_all_tasks_blocked()
        await host.type("d")
        assert await (await host.come()).text() == "d"
    assert host.texts("sent") == ["a", "b", "/c", "d"]


async def test_an_input_waits_for_somebody_and_its_end_for_nothing(autojump_clock: MockClock) -> None:
    async with hosting("a", None, delay="5s") as host:
        await trio.sleep(100)
        client = await host.come()
        before = trio.current_time()
        assert await client.text() == "a"
        assert trio.current_time() - before == pytest.approx(5, abs=0.1)
        await trio.sleep(10)
        assert host.status is None


async def test_commands_are_about_all_connections(autojump_clock: MockClock) -> None:
    async with hosting("/ping", "/help", "/close 1005", "/shout", interactive=True) as host:
        assert host.texts("error")[0] == "there is no connection"
        assert host.texts("error")[1].startswith("code must be ")
        assert host.texts("error")[2] == "not understood: /shout; see /help"
        assert "/close [CODE [REASON]]   close all connections and end, as Ctrl-C and Ctrl-D do" in host.texts("note")
        clients = [await host.come(), await host.come()]
        await host.type("/ping")
        for client in clients:
            head, payload = await client.frame()
            assert head == 0x80 | PING
            await client.send(masked(PONG, payload))
        await wait_all_tasks_blocked()
        pongs = [text for text in host.texts("note") if "pong" in text]
        assert sorted(text[:14] for text in pongs) == ["#1: pong after", "#2: pong after"]
        await host.type("/close 4000 bye all")
        for client in clients:
            assert await client.closed() == (4000, "bye all")
            await client.send(close_frame(4000))
        assert await host.finished() == 0
    assert host.texts("note")[-1] == "stopped listening"


async def test_whoever_does_not_answer_a_ping_keeps_no_other_from_being_pinged(autojump_clock: MockClock) -> None:
    async with hosting(ping="1s") as host:
        deaf, client = await host.come(), await host.come()
        for _ in range(3):
            _, payload = await client.frame()
            await client.send(masked(PONG, payload))
        await wait_all_tasks_blocked()
        await host.stops.send(Stop(0))
        assert (await deaf.frame())[0] == 0x80 | PING
        assert await deaf.closed() == (1001, "")
    assert [text[:14] for text in host.texts("note") if "pong" in text] == ["#2: pong after"] * 3


@pytest.mark.parametrize("typed", [True, False])
async def test_the_end_of_what_is_typed_closes_all_with_1001(autojump_clock: MockClock, typed: bool) -> None:
    async with hosting(interactive=typed) as host:
        clients = [await host.come(), await host.come()]
        if typed:
            await host.type(None)
        else:
            await host.stops.send(Stop(143))
        for client in clients:
            assert await client.closed() == (1001, "")
        await clients[0].send(close_frame(1001))
        assert await host.finished() == (0 if typed else 143)
    ours = "closing; Ctrl-C again does not wait for the clients"
    said = host.texts("note")[4 if typed else 3 :]
    assert said == [
        *([ours] if typed else []),
        "#1 disconnected: closed with code 1001 (GOING_AWAY) (1 connected)",
        "#2 disconnected: closed; the client did not answer the close (0 connected)",
        "stopped listening",
    ]


async def test_a_second_ctrl_c_does_not_wait_for_the_clients(autojump_clock: MockClock) -> None:
    async with hosting(None, "late", interactive=True) as host:
        pass
    assert host.texts("error") == ["not sent: closing"]
    async with hosting(interactive=True) as host:
        await host.come()
        before = trio.current_time()
        await host.type(None, None)
        assert await host.finished() == 0
        assert trio.current_time() == before


async def test_json_has_the_number_of_the_connection(autojump_clock: MockClock) -> None:
    async with hosting(as_json=True, ping="1s", server={"origins": "*"}) as host:
        client = await host.come(handshake("/a?b", "Origin: https://x.test"))
        second = await host.come()
        await client.send(masked(TEXT, b"\x1b\n"), masked(BINARY, b"\0\xff"))
        _, payload = await client.frame()
        await client.send(masked(PONG, payload))
        await wait_all_tasks_blocked()
        await client.close()
        await second.send(close_frame(1011, "broken"))
        await wait_all_tasks_blocked()
    objects = list(map(json.loads, host.texts()))
    (pong,) = [one for one in objects if one["type"] == "pong"]
    assert pong.keys() == {"type", "seconds", "connection"}
    objects.remove(pong)
    error = objects[-1].pop("error")
    assert "broken" in error
    opened = {"type": "open", "remote": "somebody"}
    assert objects == [
        {"type": "listening", "url": "ws://here/"},
        {**opened, "connection": 1, "path": "/a", "origin": "https://x.test"},
        {**opened, "connection": 2, "path": "/", "origin": None},
        {"type": "text", "data": "\x1b\n", "connection": 1},
        {"type": "binary", "data": "AP8=", "connection": 1},
        {"type": "close", "connection": 1, "code": 1000, "reason": "", "error": None},
        {"type": "close", "connection": 2, "code": 1011, "reason": "broken"},
    ]


# What ends it ---------------------------------------------------------------------------------------------------------


async def test_count_ends_it_and_all_are_told(autojump_clock: MockClock) -> None:
    async with hosting(count=2) as host:
        first, second = await host.come(), await host.come()
        await first.send(masked(TEXT, b"a"))
        await wait_all_tasks_blocked()
        await second.send(masked(TEXT, b"b"), masked(TEXT, b"c"))
        for client in (first, second):
            assert await client.closed() == (1001, "")
            await client.send(close_frame(1001))
        assert await host.finished() == 0
    assert host.texts() == ["a", "b"]


async def test_fewer_messages_than_the_count_are_an_error(autojump_clock: MockClock) -> None:
    async with hosting(None, count=2, wait="1s") as host:
        client = await host.come()
        await client.send(masked(TEXT, b"a"))
        await client.closed()
        await client.leave()
        assert await host.finished() == 1
    assert host.texts("error") == ["1 of 2 messages came"]


async def test_the_silence_that_ends_it_begins_when_somebody_has_come(autojump_clock: MockClock) -> None:
    async with hosting(None, wait="1s") as host:
        await trio.sleep(100)
        client = await host.come()
        await trio.sleep(0.9)
        await client.close()
        await trio.sleep(0.9)
        assert host.status is None
        before = trio.current_time()
        assert await host.finished() == 0
        assert trio.current_time() - before == pytest.approx(0.1, abs=0.05)


async def test_output_that_fails_ends_it(autojump_clock: MockClock) -> None:
    async with hosting() as host:
        host.failure = OSError(28, "No space")
        client = await host.come()
        await client.send(masked(TEXT, b"a"))
        assert await client.closed() == (1001, "")
        await client.send(close_frame(1001))
        assert await host.finished() == 1
    assert host.texts("error") == ["cannot write the output: No space"]


# Clients that misbehave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (masked(TEXT, b"\xff"), 1007),
        (masked(TEXT, b"x" * 2000), 1009),
        (b"\x81\x05hello", 1002),
    ],
)
async def test_a_violation_ends_that_connection_only(autojump_clock: MockClock, data: bytes, code: int) -> None:
    async with hosting("to all", interactive=True, server={"read_limit": 1000}) as host:
        good, bad = await host.come(), await host.come()
        assert await good.text() == "to all"
        await bad.send(data)
        assert (await bad.closed())[0] == code
        await bad.leave()
        await wait_all_tasks_blocked()
        await good.send(masked(TEXT, b"still here"))
        await wait_all_tasks_blocked()
    assert host.texts() == ["still here"]
    assert str(code) in host.texts("note")[-1]
    assert host.texts("note")[-1].startswith("#2 disconnected: ")


async def test_a_page_of_elsewhere_is_refused_and_told_of(autojump_clock: MockClock) -> None:
    async with hosting() as host:
        client = host.lobby.connect()
        answer = await client.ask(handshake("/", "Origin: https://evil.example"))
        assert answer.status == 403
        await client.leave()
        await wait_all_tasks_blocked()
        other = host.lobby.connect()
        assert (await other.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")).status == 426
        await wait_all_tasks_blocked()
    said = "pages of the origin 'https://evil.example' may not connect: --origin says which may"
    assert host.texts("note")[1:] == [
        f"refused somebody with status 403: {said}",
        "refused somebody with status 426: this server speaks WebSocket only",
    ]


async def test_what_is_no_refusal_is_not_told(autojump_clock: MockClock) -> None:
    async def page(_request: websocket.Request) -> websocket.Response:
        return websocket.Response(404)

    async with hosting(server={"http": page}) as host:
        client = host.lobby.connect()
        assert (await client.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")).status == 404
        await client.leave()
        await wait_all_tasks_blocked()
    assert host.texts("note") == ["listening on ws://here/"]


async def test_a_name_that_only_leads_here_is_told_without_options_that_are_not_here(
    autojump_clock: MockClock,
) -> None:
    async with hosting(server={"hosts": ["localhost"]}) as host:
        client = host.lobby.connect()
        assert (await client.ask(handshake(host="evil.example"))).status == 421
        await client.leave()
        await wait_all_tasks_blocked()
    said = "this server does not serve the host 'evil.example'"
    assert host.texts("note")[1:] == [f"refused somebody with status 421: {said}"]


async def test_refusals_without_end_are_not_all_told(autojump_clock: MockClock) -> None:
    written: list[Line] = []
    go_on = trio.Event()

    async def stuck(lines: Iterable[Line]) -> None:
        await go_on.wait()
        written.extend(lines)

    async with hosting(show=stuck) as host:
        for _ in range(500):
            client = host.lobby.connect()
            assert (await client.ask(handshake("/", "Origin: https://evil.example"))).status == 403
            await client.leave()
        await wait_all_tasks_blocked()
        go_on.set()
        await wait_all_tasks_blocked()
    refused = [line for line in written if line.text.startswith("refused ")]
    assert MAX_LINES <= len(refused) <= MAX_LINES + MAX_WAITING + 2


async def test_who_leaves_before_the_answer_was_never_there(autojump_clock: MockClock) -> None:
    async with hosting() as host:
        client = host.lobby.connect()
        await client.send(handshake())
        await client.leave()
        await wait_all_tasks_blocked()
        await host.come()
    assert host.texts("note")[1:] == ["#1 connected from somebody, path / (1 connected)"]


async def test_a_person_is_not_held_up_by_who_does_not_read(autojump_clock: MockClock) -> None:
    async with hosting(interactive=True) as host:
        slow, client = await host.come_without_buffers(), await host.come()
        before = trio.current_time()
        lines = [f"line {number}" for number in range(300)]
        await host.type(*lines)
        assert [await client.text() for _ in lines] == lines
        assert trio.current_time() == before
        frames = [await slow.frame()]
        while frames[-1][0] == 0x80 | TEXT:
            frames.append(await slow.frame())
        assert len(frames) < len(lines)
        assert frames[-1] == (0x80 | CLOSE, (1013).to_bytes(2, "big") + TOO_SLOW.encode())
        await slow.send(close_frame(1013))
        await wait_all_tasks_blocked()
    assert host.texts("note")[-1] == f"#1 disconnected: {SLOW} (1 connected)"


async def test_an_input_waits_for_who_is_slow_and_not_for_who_does_not_read(autojump_clock: MockClock) -> None:
    lines = [f"line {number}" for number in range(200)]
    async with hosting(*lines, None, server={"keepalive": None}) as host:
        slow, deaf = await host.come_without_buffers(), await host.come_without_buffers()
        before = trio.current_time()
        came: list[str] = []
        for _ in lines:
            await trio.sleep(0.5)
            came.append(await slow.text())
        assert came == lines
        assert trio.current_time() - before < PATIENCE_SECONDS + 2 + len(lines)
        assert host.texts("note")[-1] == f"#2 disconnected: {SLOW} (1 connected)"
        await deaf.leave()
