"""``python -m csp.websocket`` where a person types: the prompt, and the program in a pseudo-terminal."""

from __future__ import annotations

import io
import math
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.output.vt100 import Vt100_Output

import csp
from csp import testing
from tests.websocket._peers import LibraryServer, WebsocketsServer
from trio_csp_websocket.command_line import program
from trio_csp_websocket.command_line.arguments import parse
from trio_csp_websocket.command_line.lines import Line
from trio_csp_websocket.command_line.prompt import history_file, prompt

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from prompt_toolkit.input import PipeInput
    from prompt_toolkit.output import Output
    from trio.testing import MockClock

CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"
URL = "ws://server.test/"


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Keep the history of these tests out of the user's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("PROMPT_TOOLKIT_NO_CPR", "1")  # nobody here answers where the cursor is
    return tmp_path / "trio-csp" / "websocket_history"


@contextmanager
def keyboard(output: Output | None = None) -> Generator[PipeInput]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=output or DummyOutput()):
        yield keys


# The prompt -----------------------------------------------------------------------------------------------------------


async def test_the_prompt_gives_lines_and_what_ends_it() -> None:
    typed = csp.Channel[str | None](math.inf)
    with keyboard() as keys, trio.fail_after(10):
        async with prompt(typed):
            keys.send_text("one\rtwo\x7f\x7fhree\r\r")
            assert [(await typed.receive()).value for _ in range(3)] == ["one", "three", ""]
            keys.send_text(f"ab{CTRL_D}\r{CTRL_D}{CTRL_C}")
            assert [(await typed.receive()).value for _ in range(3)] == ["ab", None, None]
            keys.send_bytes(b"\xff\xc3\xa9\r")
            assert (await typed.receive()).value == "?é"


async def test_the_prompt_may_be_left_and_cancelled_with_a_line_half_typed() -> None:
    typed = csp.Channel[str | None](math.inf)
    with keyboard() as keys, trio.fail_after(10):
        with trio.CancelScope() as scope:
            async with prompt(typed):
                keys.send_text("half")
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
    assert len(typed) == 0


async def test_a_terminal_that_is_gone_ends_what_is_typed_and_shows_nothing() -> None:
    typed = csp.Channel[str | None](math.inf)
    with keyboard() as keys, trio.fail_after(10):
        async with prompt(typed) as show:
            keys.close()
            assert (await typed.receive()).value is None
            await trio.sleep(0.05)
            await show([Line("note", "unheard")])


async def test_lines_are_shown_above_what_is_being_typed() -> None:
    screen = io.StringIO()
    typed = csp.Channel[str | None](math.inf)
    output = Vt100_Output(screen, lambda: Size(rows=24, columns=80), enable_cpr=False)
    with keyboard(output) as keys, trio.fail_after(10):
        async with prompt(typed) as show:
            keys.send_text("being typed")
            while "typed" not in screen.getvalue():  # noqa: ASYNC110  # it comes from another thread
                await trio.sleep(0.001)
            before = len(screen.getvalue())
            await show([Line("received", "first"), Line("error", "second")])
            while "being typed" not in (shown := screen.getvalue()[before:]):  # noqa: ASYNC110  # as above
                await trio.sleep(0.001)
    # The lines, and then the prompt with what was typed, drawn anew.
    places = [shown.index(part) for part in ("first\r\n", "second\r\n", "being typed")]
    assert places == sorted(places)


# The history ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unreadable(state: Path) -> None:
    state.mkdir(parents=True)


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def type_and_recall(line: str | None, recalled: str) -> None:
    """Type a line, if there is one, and go back to it; the prompt loads its history in the background."""
    typed = csp.Channel[str | None](math.inf)
    with keyboard() as keys, trio.fail_after(10):
        async with prompt(typed):
            if line is not None:
                keys.send_text(f"{line}\r")
                assert (await typed.receive()).value == line
            keys.send_text(f"{UP}\r")
            while (await typed.receive()).value != recalled:
                keys.send_text(f"{UP}\r")


async def test_the_history_is_kept_for_the_user_alone(state: Path) -> None:
    await type_and_recall("remember me", "remember me")
    assert [permissions(path) for path in (state, state.parent)] == [0o600, 0o700]
    await type_and_recall(None, "remember me")


async def test_a_history_that_cannot_be_written_is_kept_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    await type_and_recall("again", "again")


async def test_a_history_that_cannot_be_read_is_empty(unreadable: None) -> None:
    await type_and_recall("again", "again")


def test_the_history_is_where_the_specification_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "trio-csp/websocket_history"
    assert history_file() == tmp_path / name
    monkeypatch.setenv("HOME", "/home/alice")
    for unusable in ("relative/path", ""):
        monkeypatch.setenv("XDG_STATE_HOME", unusable)
        assert str(history_file()) == f"/home/alice/.local/state/{name}"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", homeless)
    assert history_file() is None


# The program, in this process ---------------------------------------------------------------------------------------


class Terminal:
    """The other side of a pseudo-terminal, and all it has shown so far."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until the text has been shown."""
        deadline = time.monotonic() + 20
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            self.read(0.1)

    def read(self, seconds: float) -> bool:
        """Read what is there within this time; return False at the end."""
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 1 << 16)
            except OSError:  # Linux says so when the other side of a terminal is closed
                return False
            self.shown += data.decode()
            return bool(data)
        return True


@contextmanager
def standard_terminal() -> Generator[Terminal]:
    """Put a pseudo-terminal in the place of standard input and output."""
    ours, theirs = pty.openpty()
    saved = os.dup(0), os.dup(1)
    os.dup2(theirs, 0)
    os.dup2(theirs, 1)
    try:
        yield Terminal(ours)
    finally:
        for number, fd in enumerate(saved):
            os.dup2(fd, number)
            os.close(fd)
        os.close(ours)
        os.close(theirs)


async def echo(connection: testing.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message.data)


@pytest.mark.parametrize("missing", [True, False])
async def test_without_a_prompt_lines_are_plain(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], missing: bool
) -> None:
    if missing:
        monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    else:
        monkeypatch.setenv("TERM", "dumb")
    with standard_terminal() as terminal, trio.fail_after(10):
        terminal.type("hello\n\x04")
        async with testing.websocket_server(echo):
            assert await program.run(parse([URL])) == 0
        terminal.wait_for("(NORMAL)\r\n")
    lines = terminal.shown.splitlines()
    assert f"- connected to {URL}" in lines
    assert lines[-1] == "- closed with code 1000 (NORMAL)"
    assert "> hello" not in lines
    hint = "python -m csp.websocket: for line editing, history and colours: pip install 'trio-csp[cli]'\n"
    assert capfd.readouterr().err == (hint if missing else "")


async def test_with_a_prompt_the_program_converses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    output = Vt100_Output(screen, lambda: Size(rows=24, columns=80), enable_cpr=False)
    with standard_terminal(), keyboard(output) as keys, trio.fail_after(10):
        keys.send_text(f"hello\r{CTRL_D}")
        async with testing.websocket_server(echo):
            assert await program.run(parse([URL])) == 0
    assert "hello\r\n" in screen.getvalue()
    assert "closed with code 1000 (NORMAL)\r\n" in screen.getvalue()


async def test_who_waits_for_a_connection_is_told(monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock) -> None:
    monkeypatch.setenv("TERM", "dumb")

    async def handler(connection: testing.ServerConnection) -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert terminal.shown == ""
        mock_clock.jump(1)
        await trio.to_thread.run_sync(terminal.wait_for, f"- connecting to {URL} ...")
        await connection.close(1000)

    with standard_terminal() as terminal:
        async with testing.websocket_server(handler):
            assert await program.run(parse(["ws://user:password@server.test/"])) == 0


# The program, as a process --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library() -> Iterator[LibraryServer]:
    with WebsocketsServer().running() as running:
        yield running


@contextmanager
def at_terminal(*arguments: str) -> Generator[tuple[Terminal, subprocess.Popen[bytes]]]:
    # Where nothing is installed, the checkout must be found by the child as it was by this process.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TERM": "xterm",
    }
    ours, theirs = pty.openpty()
    command = [sys.executable, "-W", "error", *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        terminal = Terminal(ours)
        try:
            yield terminal, process
            while terminal.read(20):
                pass
        finally:
            process.kill()
    os.close(ours)


def test_a_person_at_a_terminal_types_and_sees(library: LibraryServer, state: Path) -> None:
    with at_terminal("-m", "csp.websocket", library.url("/echo")) as (terminal, process):
        terminal.wait_for("Ctrl-D ends")
        terminal.type("hello\r")
        terminal.wait_for("hello\r")
        terminal.type("/ping\r")
        terminal.wait_for("pong after")
        terminal.type(CTRL_C)
        terminal.wait_for("closed with code 1000 (NORMAL)")
        assert process.wait(20) == 0
    assert "Traceback" not in terminal.shown
    assert "/ping" in state.read_text()


@pytest.mark.parametrize("plain", [False, True])
def test_no_escape_sequence_of_the_server_reaches_the_terminal(library: LibraryServer, plain: bool) -> None:
    evil = b"\x1b[31mred\x1b]0;title\x07\xc2\x9b2J"
    raw = bytes([0x81, len(evil)]) + evil + bytes([0x88, 9]) + (4001).to_bytes(2, "big") + b"bye\x1b[2J"
    missing = "import runpy, sys; sys.modules['prompt_toolkit'] = None; "
    code = f"{missing}runpy.run_module('csp.websocket', run_name='__main__')"
    program = ["-c", code] if plain else ["-m", "csp.websocket"]
    with at_terminal(*program, library.url(f"/raw/{raw.hex()}")) as (terminal, process):
        terminal.wait_for("code 4001: bye\\u001b[2J")
        assert process.wait(20) == 1
    assert "\\u001b[31mred\\u001b]0;title\\u0007\\u009b2J" in terminal.shown
    assert ("pip install 'trio-csp[cli]'" in terminal.shown) == plain
    for sequence in ("\x1b[31m", "\x1b]0;title", "\x07", "\x9b", "bye\x1b"):
        assert sequence not in terminal.shown


def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(library: LibraryServer) -> None:
    with at_terminal("-m", "csp.websocket", library.url("/echo")) as (terminal, process):
        before = termios.tcgetattr(terminal.fd)
        terminal.wait_for("Ctrl-D ends")
        process.send_signal(signal.SIGTERM)
        terminal.wait_for("closed with code 1000 (NORMAL)")
        assert process.wait(20) == 143
        assert termios.tcgetattr(terminal.fd) == before
