"""The command line client in a pseudo-terminal: in this process, and as a process."""

from __future__ import annotations

import io
import re
import select
import signal
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from prompt_toolkit.data_structures import Size
from prompt_toolkit.output.vt100 import Vt100_Output

from csp import testing
from tests.websocket._peers import CLOSE, TEXT, Peer, frame, raw_server
from tests.websocket.command_line._session import URL, echo
from tests.websocket.command_line._site import Site
from tests.websocket.command_line._terminal import (
    CTRL_C,
    CTRL_D,
    at_terminal,
    keyboard,
    rows_on_screen,
    standard_terminal,
)
from trio_csp_websocket.command_line import program
from trio_csp_websocket.command_line.arguments import parse
from trio_csp_websocket.command_line.lines import on_screen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from tests.websocket._peers import LibraryServer


pytestmark = pytest.mark.usefixtures("state")


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


async def test_a_person_may_be_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with standard_terminal() as terminal, trio.fail_after(10):
        terminal.type("hello\n\x04")
        assert await program.run(parse(["--listen", "0"])) == 0
        terminal.wait_for("- stopped listening\r\n")
    assert "- what you type is sent to all; /help tells more, Ctrl-D ends" in terminal.shown.splitlines()
    assert "- it is sent once somebody has connected" in terminal.shown.splitlines()


async def test_what_a_server_is_given_is_kept_out_of_the_history(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with standard_terminal(), keyboard() as keys, trio.fail_after(10):
        keys.send_text(f"of hunter2\rof nobody\r{CTRL_D}")
        assert await program.run(parse(["--listen", "0", "--protocol", "bearer.hunter2", "--protocol", "hunter2"])) == 0
    assert "+of nobody" in _kept(state)
    assert "hunter2" not in _kept(state)


def _kept(history: Path) -> str:
    return history.read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [["--delay", "1s"], ["--after-first"]])
async def test_what_is_typed_is_not_held_back(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with standard_terminal() as terminal:
        assert await program.run(parse([URL, *arguments])) == 2
        assert not select.select([terminal.fd], [], [], 0)[0]
    said = "--delay and --after-first are for input from a pipe or a file, and not for what is typed"
    assert capfd.readouterr().err == f"python -m csp.websocket: {said}\n"


# As a process --------------------------------------------------------------------------------------------------------


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
    assert "/ping" in state.read_text(encoding="utf-8")


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
    assert ("'trio-csp[cli]'" in terminal.shown) == plain
    for sequence in ("\x1b[31m", "\x1b]0;title", "\x07", "\x9b", "bye\x1b"):
        assert sequence not in terminal.shown


def test_without_termios_lines_are_plain(library: LibraryServer) -> None:
    code = "import runpy, sys; sys.modules['termios'] = sys.modules['tty'] = sys.modules['readline'] = None; "
    code += "runpy.run_module('csp.websocket', run_name='__main__')"
    with at_terminal("-c", code, library.url("/echo"), columns=200) as (terminal, process):
        terminal.wait_for("for line editing, history and colours: this Python has no termios")
        terminal.wait_for("Ctrl-D ends")
        terminal.type("grüße\n")
        terminal.wait_for("< grüße")
        terminal.type(CTRL_D)
        terminal.wait_for("closed with code 1000 (NORMAL)")
        assert process.wait(20) == 0
    assert "Traceback" not in terminal.shown


FORGED = ("closed with code 1000 (NORMAL)", "- closed with code 1000 (NORMAL)", "! forged", "> forged", "< forged")


def forging(columns: int) -> str:
    """Return a message whose parts stand at the left of a screen that wraps it, whatever is in front of it."""
    filled = ["x" * (columns - len(mark)) for mark in ("< ", "  ", "")]
    wide = "世" * (columns // 2 - 1)
    return "\n".join(line + forged + wide + forged for line in ("", *filled, wide) for forged in FORGED)


async def shown_by_the_program(
    handler: Callable[[Peer], Awaitable[None]], *arguments: str, columns: int, term: str
) -> str:
    """Return what the program shows of a server that ends it with an error."""
    async with raw_server(handler) as url:

        def run() -> str:
            with at_terminal("-m", "csp.websocket", *arguments, url, columns=columns, term=term) as (terminal, process):
                while terminal.read(20):
                    pass
                assert process.wait(20) == 1
            return terminal.shown

        return await trio.to_thread.run_sync(run)


@pytest.mark.parametrize("columns", [24, 80])
@pytest.mark.parametrize("term", ["dumb", "xterm"])
async def test_no_message_makes_a_line_that_looks_like_the_programs(term: str, columns: int) -> None:
    message = forging(columns).encode()
    reason = ("x" * (123 - len(FORGED[0])) + FORGED[0]).encode()

    async def forge(peer: Peer) -> None:
        await peer.accept(frame(TEXT, message) + frame(CLOSE, (4001).to_bytes(2, "big") + reason))
        await peer.stream.receive_some()

    shown = await shown_by_the_program(forge, columns=columns, term=term)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|.\x08|\r(?=\r)", "", shown)  # what the prompt does besides
    assert on_screen("< ", forging(columns), columns).replace("\n", "\r\n") in shown
    marked = [row for row in rows_on_screen(shown, columns) if not row.startswith("  ")]
    assert [row[:12] for row in marked] == ["- connected ", "- what you t", "< closed wit", "! the peer c", ""]
    assert rows_on_screen(shown, columns) == rows_on_screen(shown, 10_000), "the terminal had to wrap"


@pytest.mark.parametrize("columns", [24, 80])
async def test_no_refusal_makes_a_line_that_looks_like_the_programs(columns: int) -> None:
    reason = " ".join("x" * shift + FORGED[1] for shift in range(6))

    async def refuse(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(f"HTTP/1.1 403 {reason}\r\nContent-Length: 0\r\n\r\n".encode())
        await peer.stream.receive_some()

    shown = await shown_by_the_program(refuse, columns=columns, term="dumb")
    first, *more, end = rows_on_screen(shown, columns)
    assert (first[:10], end) == ("python -m ", "")
    assert len(more) > 3
    assert all(row.startswith("  ") for row in more)


@pytest.mark.parametrize("columns", [24, 80])
async def test_as_json_a_refusal_controls_nothing_on_a_terminal(columns: int) -> None:
    body = "\x1b[2J\x9b1m\u202e\r\n! the peer closed".encode()

    async def refuse(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(f"HTTP/1.1 403 No\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await peer.stream.receive_some()

    shown = await shown_by_the_program(refuse, "--json", columns=columns, term="dumb")
    marked = [row for row in rows_on_screen(shown, columns) if not row.startswith("  ")]
    assert [row[:10] for row in marked] == ['< {"type":', "python -m ", ""]
    assert shown.replace("\r\n", "").isprintable()


# Connecting again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_person_types_while_there_is_no_server(term: str) -> None:
    site = Site()
    with at_terminal("-m", "csp.websocket", "--reconnect", site.url, columns=200, term=term) as (terminal, process):
        terminal.wait_for("trying again in ")
        terminal.type("hello\r")
        terminal.wait_for("it is sent once there is a connection")
        with site.connection() as connection:
            assert connection.receive() == "hello"
            connection.send("welcome")
            terminal.wait_for("welcome")
            terminal.type(CTRL_D)
            connection.answer_close()
        terminal.wait_for("closed with code 1000 (NORMAL)")
        assert process.wait(20) == 0
    assert "Traceback" not in terminal.shown
    in_order = (f"connecting to {site.url}", "Ctrl-D ends", "is the server running", "connected to", "welcome")
    assert sorted(in_order, key=terminal.shown.index) == [*in_order]


# Where there is no prompt, Ctrl-C is a signal that the system sends.
@pytest.mark.parametrize(("term", "key"), [("xterm", CTRL_C), ("xterm", CTRL_D), ("dumb", None), ("dumb", CTRL_D)])
def test_a_person_ends_the_wait_for_a_connection(term: str, key: str | None) -> None:
    site = Site()
    with at_terminal("-m", "csp.websocket", "--reconnect", site.url, term=term) as (terminal, process):
        terminal.wait_for("trying again in ")
        if key is None:
            process.send_signal(signal.SIGINT)
        else:
            terminal.type(key)
        terminal.wait_for("ended; there was no connection")
        assert process.wait(20) == 0
    assert "closing" not in terminal.shown


# The history ----------------------------------------------------------------------------------------------------------


def typed_into_the_program(library: LibraryServer, lines: list[str], *arguments: str) -> str:
    """Type lines into the program, which connects with credentials, until it has answered; return what it shows."""
    url = library.url("/echo?key=query-secret").replace("//", "//alice:url-secret@")
    with at_terminal("-m", "csp.websocket", *arguments, "-H", "X-Key: header-secret", url) as (terminal, process):
        for line in lines:
            terminal.type(f"{line}\r")
        terminal.type("/ping\r")
        terminal.wait_for("pong after")
        terminal.type(CTRL_D)
        assert process.wait(20) == 0
    return terminal.shown


def test_what_is_typed_is_kept_but_no_credentials_and_nothing_of_the_command(
    library: LibraryServer, state: Path
) -> None:
    state.parent.mkdir()
    state.touch(0o644)
    lines = ["plain", " begins with a space", '{"token": "abc"}', "say url-secret", "say header-secret"]
    shown = typed_into_the_program(library, [*lines, "say query-secret"])
    kept = [line for line in state.read_text(encoding="utf-8").splitlines() if line.startswith("+")]
    assert kept == ["+plain", "+/ping"]
    assert "secret" not in state.read_text(encoding="utf-8")
    assert state.stat().st_mode & 0o777 == 0o600
    assert "/echo?..." in shown
    assert "alice" not in shown


def test_without_a_history_nothing_is_kept(library: LibraryServer, state: Path) -> None:
    typed_into_the_program(library, ["plain"], "--no-history")
    assert not state.parent.exists()


def test_a_history_that_is_a_link_is_told_in_a_line_and_not_followed(
    library: LibraryServer, state: Path, tmp_path: Path
) -> None:
    state.parent.mkdir()
    state.symlink_to(tmp_path / "other")
    shown = typed_into_the_program(library, ["plain"])
    told = f"what is typed is not kept in {state}: it is a symbolic link"
    assert told in "".join(shown.split("\r\n  ")).replace("\r", "")
    assert not (tmp_path / "other").exists()


def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(library: LibraryServer) -> None:
    termios = pytest.importorskip("termios", reason="this system has no pseudo-terminals")
    with at_terminal("-m", "csp.websocket", library.url("/echo")) as (terminal, process):
        before = termios.tcgetattr(terminal.fd)
        terminal.wait_for("Ctrl-D ends")
        process.send_signal(signal.SIGTERM)
        terminal.wait_for("closed with code 1000 (NORMAL)")
        assert process.wait(20) == 143
        assert termios.tcgetattr(terminal.fd) == before
