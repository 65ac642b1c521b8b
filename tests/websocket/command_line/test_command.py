"""``python -m csp.websocket`` without a terminal: in this process over memory, and as a process in a pipe."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

import csp
from csp import testing, websocket
from tests.websocket._peers import LibraryServer, NodeServer, Peer, WebsocketsServer, raw_server
from trio_csp_websocket.command_line import program
from trio_csp_websocket.command_line.arguments import parse
from trio_csp_websocket.command_line.lines import Format, Line, escaped
from trio_csp_websocket.command_line.session import Session, Stop
from trio_csp_websocket.command_line.streams import MAX_LINE_BYTES, read_lines, streams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterable, Iterator

    from trio.testing import MockClock

URL = "ws://server.test/"
FULL = Path("/dev/full")


# A session in this process ------------------------------------------------------------------------------------------


class Run:
    """A session with a server played by the test; what it shows is in `lines`."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.input = csp.Channel[str | None](math.inf)
        self.stops = csp.Channel[Stop](math.inf)
        self.status: int | None = None

    def texts(self, kind: str = "received") -> list[str]:
        return [line.text for line in self.lines if line.kind == kind]

    async def show(self, lines: Iterable[Line]) -> None:
        self.lines += lines

    async def carry_through(
        self, *typed: str | None, as_json: bool = False, terminal: bool = False, url: str = URL, **options: Any
    ) -> int:
        for line in typed:
            await self.input.send(line)
        show = options.pop("show", self.show)
        connecting = {name: options.pop(name) for name in ("protocols", "compression") if name in options}
        async with websocket.connect(url, **connecting) as client:
            form = Format(json=as_json, terminal=terminal)
            await trio.testing.wait_all_tasks_blocked()  # what the server says at once has come
            self.status = await Session(client, self.input, show, self.stops, form, **options).run()
        return self.status


async def echo(connection: testing.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)


@pytest.fixture
async def echoing() -> AsyncIterator[None]:
    async with testing.websocket_server(echo, "ws://server.test/"):
        yield


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
        await connection.accept(protocol=connection.protocols[0], compression=True)
        await connection.wait_closed()

    run = Run()
    async with testing.websocket_server(handler):
        await run.carry_through(None, wait="1s", protocols=["chat"], compression=1)
    assert run.texts("note")[0] == f"connected to {URL}, protocol chat, compressed"


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


# How things are written -----------------------------------------------------------------------------------------------


def test_a_terminal_gets_no_control_characters() -> None:
    form = Format(json=False, terminal=True)
    every = "".join(map(chr, range(0x300))) + "\u202e\u2066\u2028"
    shown = form.message(websocket.Message("text", every)).text
    assert [
        character for character in shown if not character.isprintable() and character not in "\t\n\u00ad\u00a0"
    ] == []
    assert form.message(websocket.Message("text", "one\r\n- two\rthree")).text == "one\n  - two\n  three"
    assert escaped("Grüße 世界 👩\u200d🚀\ta\nb") == "Grüße 世界 👩\u200d🚀\ta\\u000ab"
    shown = Format(json=True, terminal=True).message(websocket.Message("text", every)).text
    assert json.loads(shown)["data"] == every
    assert "\x7f" not in shown
    assert "\x9b" not in shown


def test_a_program_gets_a_line_a_message() -> None:
    form = Format(json=False, terminal=False)
    assert form.message(websocket.Message("text", '{"a":\r\n1,\n"b":2}\x1b')).text == '{"a": 1, "b":2}\x1b'
    assert form.message(websocket.Message("binary", b"\0\n\xff")).text == "000aff"


def test_a_terminal_gets_a_preview_of_binary_messages() -> None:
    form = Format(json=False, terminal=True)
    assert form.message(websocket.Message("binary", b"hello\0")).text == "binary, 6 bytes: 68656c6c 6f00  |hello.|"
    assert form.message(websocket.Message("binary", bytes(100))).text == (
        "binary, 100 bytes: 00000000 00000000 00000000 00000000...  |................|..."
    )


# Standard streams -----------------------------------------------------------------------------------------------------


async def lines_of(data: bytes) -> list[str]:
    ours, theirs = os.pipe()
    taken: list[str] = []

    async def take(line: str) -> None:
        taken.append(line)

    def write() -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(theirs, view) :]
        os.close(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, write)
        try:
            await read_lines(ours, take)
        except csp.errors.InvalidError as error:
            taken.append(str(error))
            while await trio.to_thread.run_sync(os.read, ours, 1 << 20):
                pass
    os.close(ours)
    return taken


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\nb\r\n\nc", ["a", "b", "", "c"]),
        (b"\r\r\n", ["\r"]),
        ("é\n".encode() * 50_000, ["é"] * 50_000),
        (b"x" * 200_000 + b"\ny\n", ["x" * 200_000, "y"]),
        (b"ok\na\xff\nb\n", ["ok", "line 2 is not UTF-8: its byte 2 is 0xff"]),
        (b"ok\n\xff", ["ok", "line 2 is not UTF-8: its byte 1 is 0xff"]),
        (b"\n" + bytes(MAX_LINE_BYTES + 1), ["", f"line 2 is longer than {MAX_LINE_BYTES} bytes"]),
    ],
    ids=["nothing", "ends", "cr", "many", "long", "not-utf-8", "not-utf-8-at-end", "endless"],
)
async def test_lines_are_read_without_their_ends(data: bytes, lines: list[str]) -> None:
    assert await lines_of(data) == lines


@pytest.mark.parametrize("marked", [False, True])
async def test_messages_go_to_one_descriptor_and_the_rest_to_another(marked: bool) -> None:
    out, err = os.pipe(), os.pipe()
    lines = [Line("note", "n"), Line("received", "é"), Line("sent", "s"), Line("error", "e")]
    await streams(out=out[1], err=err[1], marked=marked)(lines)
    os.close(out[1])
    os.close(err[1])
    assert (os.read(out[0], 99).decode(), os.read(err[0], 99).decode()) == (
        ("- n\n< é\n! e\n", "") if marked else ("é\n", "n\ns\ne\n")
    )
    os.close(out[0])
    os.close(err[0])


async def test_descriptors_left_non_blocking_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    for fd in (ours, theirs):
        os.set_blocking(fd, False)
    taken: list[str] = []
    read = bytearray()
    wait = select.select

    def wait_to_read(*fds: Any) -> object:
        os.write(theirs, b"a\n")
        os.close(theirs)
        return wait(*fds)

    def wait_to_write(*fds: Any) -> object:
        read.extend(os.read(ours, 1 << 20))
        return wait(*fds)

    async def take(line: str) -> None:
        taken.append(line)

    monkeypatch.setattr(select, "select", wait_to_write)
    await streams(out=theirs)([Line("received", "x" * 300_000)])
    assert len(read + os.read(ours, 1 << 20)) == 300_001
    monkeypatch.setattr(select, "select", wait_to_read)
    await read_lines(ours, take)
    assert taken == ["a"]
    os.close(ours)


# The command line -----------------------------------------------------------------------------------------------------


def test_arguments_become_options() -> None:
    parsed = parse(["-H", "A: b:c", "--header=D:", "--protocol", "p", "--protocol=q", "--compress", "ws://h/"])
    assert parsed.options == {
        "headers": [("A", "b:c"), ("D", "")],
        "protocols": ["p", "q"],
        "compression": websocket.COMPRESSION.CONTEXT_TAKEOVER,
        "dial_timeout": "30s",
        "close_timeout": "2s",
    }
    assert parse(["ws://h/", "--timeout", "5s"]).options["dial_timeout"] == "5s"
    parsed = parse(["ws://h/", "--compress", "no-context", "--wait", "forever", "--ping=1m", "--count", "3"])
    assert parsed.options["compression"] == websocket.COMPRESSION.NO_CONTEXT
    assert (parsed.wait, parsed.ping, parsed.count) == (None, "1m", 3)
    assert parse(["wss://h/", "-k"]).options["ssl_context"].verify_mode == 0
    waits = {wait: parse(["ws://h/", *wait.split()]).wait for wait in ("", "--count 3", "--count 3 --wait 5s")}
    assert waits == {"": "1s", "--count 3": None, "--count 3 --wait 5s": "5s"}


def test_authorities_of_your_own_replace_the_systems(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    context = parse(["--ca", str(file), "wss://h/"]).options["ssl_context"]
    assert (context.check_hostname, context.verify_mode, len(context.get_ca_certs())) == (True, ssl.CERT_REQUIRED, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either a URL or --demo"),
        (["ws://h/", "--demo"], "give either a URL or --demo"),
        (["http://h/"], 'url must start with "ws://" or "wss://", not "http:"'),
        (["localhost:8765"], 'url must start with "ws://" or "wss://"'),
        (["ws://h/", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["ws://h/", "-H", "secret"], "argument -H/--header: must be 'NAME: VALUE'"),
        (["ws://h/", "-H", "a b: c"], "headers must have names without spaces and separators, not 'a b'"),
        (["ws://h/", "--protocol", ""], "protocols must be names without spaces and separators, not ''"),
        (["ws://h/", "--count", "0"], "argument --count: must be a whole number of at least 1, not '0'"),
        (["ws://h/", "--count", "x"], "argument --count: must be a whole number of at least 1, not 'x'"),
        (["ws://h/", "--ping", "0s"], "argument --ping: must be above 0, not 0s"),
        (["ws://h/", "--wait", "1"], "argument --wait: must be a duration such as 300ms, 10s or 1m30s, not 1"),
        (["ws://h/", "--timeout", "forever"], "argument --timeout: must be a duration such as"),
        (["ws://h/", "--compress=x"], "argument --compress: invalid choice: 'x'"),
        (["ws://h/", "-k"], "--ca and --insecure need a wss:// URL"),
        (["wss://h/", "--ca", "/no/such/file"], "--ca /no/such/file: No such file or directory"),
        (["wss://h/", "--ca", __file__], f"--ca {__file__}: no certificates in it"),
    ],
)
def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        program.main(arguments)
    assert exit_info.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"python -m csp.websocket: error: {said}")
    assert "secret" not in err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        program.main(arguments)
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    assert csp.__version__ in out if arguments == ["--version"] else "exit status:" in out
    assert max(map(len, out.splitlines())) <= 80


# The program, in this process -----------------------------------------------------------------------------------------


@contextmanager
def standard_input(data: bytes) -> Generator[None]:
    """Put a file in the place of standard input; pytest has its own in that of standard output."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        saved = os.dup(0)
        os.dup2(file.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(saved, 0)
            os.close(saved)


async def run_program(*arguments: str, given: bytes = b"") -> int:
    with standard_input(given), trio.fail_after(10):
        return await program.run(parse(arguments))


async def test_messages_go_to_standard_output_and_the_rest_to_standard_error(
    echoing: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await run_program(URL, "--wait", "50ms", given="a\nGrüße".encode()) == 0
    assert capfd.readouterr() == ("a\nGrüße\n", f"connected to {URL}\nclosed with code 1000 (NORMAL)\n")


async def test_the_demo_greets_echoes_and_ticks(capfd: pytest.CaptureFixture[str]) -> None:
    assert await run_program("--demo", "--wait", "50ms", given=b"hello\n") == 0
    assert capfd.readouterr().out.splitlines()[1:] == ["hello"]


async def test_the_demo_ticks(autojump_clock: MockClock) -> None:
    run = Run()
    async with testing.websocket_server(program.demo):
        assert await run.carry_through("last", count=4) == 0
    assert run.texts()[1:] == ["last", "tick", "tick"]
    assert trio.current_time() == pytest.approx(10, abs=0.1)


async def test_input_that_is_not_utf_8_is_an_error(echoing: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert await run_program(URL, given=b"a\n\xff\n") == 1
    assert "standard input: line 2 is not UTF-8: its byte 1 is 0xff" in capfd.readouterr().err.splitlines()


async def test_input_that_cannot_be_read_is_an_error(
    echoing: None, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    with standard_input(b""), trio.fail_after(10):
        os.dup2(directory, 0)
        assert await program.run(parse([URL])) == 1
    os.close(directory)
    assert "standard input: Is a directory" in capfd.readouterr().err.splitlines()


async def test_connecting_is_given_up_after_the_timeout(capfd: pytest.CaptureFixture[str]) -> None:
    async def wait(_connection: testing.ServerConnection) -> None:
        await trio.sleep_forever()

    async with testing.websocket_server(wait):
        assert await run_program(URL, "--timeout", "10ms") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "within 0.01 s" in line


@pytest.mark.parametrize("arguments", [["-H", "authorization: Bearer x", URL], [URL.replace("//", "//user:password@")]])
async def test_credentials_that_are_refused_are_not_asked_for(
    capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    async def refuse(connection: testing.ServerConnection) -> None:
        await connection.reject(403)

    async with testing.websocket_server(refuse):
        assert await run_program(*arguments) == 1
    assert capfd.readouterr().err.endswith("; the credentials were not accepted\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_certificate_for_another_host_is_not_to_be_trusted(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, host: str
) -> None:
    async def server(peer: Peer) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            assert await peer.stream.receive_some() == b""

    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.com").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with raw_server(server, tls=context) as url:
        assert await run_program("--ca", str(tmp_path / "ca.pem"), url.replace("127.0.0.1", host)) == 1
    assert capfd.readouterr().err.endswith("; is the host name right?\n")


@pytest.mark.parametrize(
    ("status", "headers", "advice"),
    [
        (401, {}, "; credentials go into --header 'Authorization: ...' or the URL"),
        (404, {}, "; is the path right?"),
        (
            302,
            {"Location": "wss://else.where/"},
            "; redirects are not followed, and this one leads to wss://else.where/",
        ),
        (503, {}, ""),
    ],
)
async def test_a_refusal_is_told_with_what_to_try(
    capfd: pytest.CaptureFixture[str], status: int, headers: dict[str, str], advice: str
) -> None:
    async def refuse(connection: testing.ServerConnection) -> None:
        await connection.reject(status, headers=headers)

    async with testing.websocket_server(refuse):
        assert await run_program(URL) == 1
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"python -m csp.websocket: cannot connect to {URL}: ")
    assert f"status {status}" in line
    assert not advice or line.endswith(advice)


@pytest.mark.parametrize(
    ("causes", "advice"),
    [
        ([], ""),
        ([OSError("no")], ""),
        ([ConnectionRefusedError()], "; is the server running, and on this port?"),
        ([socket.gaierror()], "; is the host name right?"),
        (
            [OSError("no"), ssl.SSLCertVerificationError()],
            "; --ca FILE trusts its authority, --insecure trusts anybody",
        ),
    ],
)
def test_the_cause_of_a_failure_tells_what_to_try(causes: list[Exception], advice: str) -> None:
    error: Exception = csp.errors.ConnectionFailedError("no", kind="INTERNAL")
    outermost = error
    for cause in causes:
        error.__cause__ = error = cause
    assert program.advice(outermost) == advice


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_connecting(number: signal.Signals) -> None:
    async def wait(_connection: testing.ServerConnection) -> None:
        signal.raise_signal(number)
        await trio.sleep_forever()

    async with testing.websocket_server(wait):
        assert await run_program(URL) == 128 + number


async def test_a_signal_closes_and_a_second_does_not_wait() -> None:
    async def deaf(connection: testing.ServerConnection) -> None:
        await connection.accept()
        connection.stop_reading()
        signal.raise_signal(signal.SIGINT)
        await trio.sleep(0.1)
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    async with testing.websocket_server(deaf):
        assert await run_program(URL, "--wait", "forever") == 130


def test_streams_that_are_closed_are_no_files_to_be_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    real_open = os.open

    def note(path: str, flags: int) -> int:
        opened.append(real_open(path, flags))
        return opened[-1]

    monkeypatch.setattr(os, "open", note)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit):
        program.main(["--version"])
    (fd,) = opened
    os.close(fd)


# The program, as a process --------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    # Where nothing is installed, the checkout must be found by the child as it was by this process.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def start(*arguments: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "csp.websocket", *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(),
    )


def finished(*arguments: str, given: str = "") -> tuple[int, list[str], list[str]]:
    with start(*arguments) as process:
        out, err = process.communicate(given, timeout=30)
    return process.returncode, out.splitlines(), err.splitlines()


@pytest.fixture(scope="module")
def library() -> Iterator[LibraryServer]:
    with WebsocketsServer().running() as running:
        yield running


@pytest.fixture(scope="module")
def node() -> Iterator[NodeServer]:
    with NodeServer().running() as running:
        yield running


def test_websockets_echoes_with_compression_and_a_count(library: LibraryServer) -> None:
    numbers = [str(number) for number in range(1000)]
    url = library.url("/echo?deflate")
    status, out, err = finished("--compress", "--count", "1000", url, given="\n".join(numbers))
    assert (status, out) == (0, numbers)
    assert err == [f"connected to {url}, compressed", "closed with code 1000 (NORMAL)"]


def test_npm_ws_echoes(node: NodeServer) -> None:
    status, out, _ = finished(
        "--json", "--compress", "no-context", "--wait", "200ms", node.url("/echo?deflate"), given="é"
    )
    assert status == 0
    assert [json.loads(line) for line in out] == [
        {"type": "text", "data": "é"},
        {"type": "close", "code": 1000, "reason": "", "error": None},
    ]


def test_headers_and_protocols_reach_the_server(library: LibraryServer) -> None:
    arguments = ["--count", "1", "-H", "X-Token: a b", "--protocol", "first", "--protocol", "second"]
    status, out, err = finished(*arguments, library.url("/headers"))
    assert status == 0
    assert ["X-Token", "a b"] in json.loads(out[0])
    assert err[0].endswith(", protocol second")


def test_a_port_nobody_listens_on_is_told_in_one_line() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}/"
        said = f"cannot connect to {url}: Connection refused; is the server running, and on this port?"
        assert finished(url) == (1, [], [f"python -m csp.websocket: {said}"])


def test_ctrl_c_in_a_pipe_closes_and_is_status_130(library: LibraryServer) -> None:
    with start(library.url("/echo")) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("a\n")
        process.stdin.flush()
        assert process.stdout.readline() == "a\n"  # although the input goes on
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "closed with code 1000 (NORMAL)"


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk_at_the_end_is_status_1(library: LibraryServer) -> None:
    with FULL.open("w") as full, start(library.url("/count/3"), stdout=full) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    said = ["closed by the server with code 1000 (NORMAL)", "cannot write the output: No space left on device"]
    assert sorted(err.splitlines()[1:]) == sorted(said)


def test_a_pipe_that_is_closed_ends_it_quietly(library: LibraryServer) -> None:
    with start(library.url("/count/20000")) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.wait(30) == 0
        assert "Error" not in process.stderr.read()
