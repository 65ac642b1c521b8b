"""The program on Windows, emulated: its consoles, its pipes, ``NUL``, Ctrl-Break, and where its history lies."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from csp import testing
from tests.websocket.command_line._process import environment
from tests.websocket.command_line._session import URL, echo
from trio_csp_websocket.command_line import history, program, streams
from trio_csp_websocket.command_line.arguments import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from typing_extensions import Buffer

    from tests.websocket._peers import LibraryServer

pytestmark = [
    pytest.mark.usefixtures("state"),
    pytest.mark.skipif(sys.platform == "win32", reason="it imitates Windows on other systems"),
]

CODE_PAGE = "cp850"  # of a console in western Europe
CTRL_C, CTRL_Z = b"\x03", b"\x1a\r\n"


class Console(io.RawIOBase):
    """A console as `open` returns it: UTF-8 here, while its descriptor has bytes of the code page."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, _size: int = -1, /) -> bytes:
        data = os.read(self.fd, 1 << 16)
        if data == CTRL_C:
            signal.raise_signal(signal.SIGINT)
        # CPython ends a read that a signal interrupts with no bytes, like one that begins with Ctrl-Z.
        return b"" if data in {CTRL_C, CTRL_Z} else data.decode(CODE_PAGE).encode()

    def write(self, data: Buffer, /) -> int:
        text = bytes(data).decode()[:100]  # a long text is taken in parts
        os.write(self.fd, text.encode(CODE_PAGE))
        return len(text.encode())


class BrokenPipe(io.FileIO):
    """A pipe whose other end is closed."""

    def write(self, _data: Buffer, /) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")


class Windows:
    """What is different there, of what the program asks about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: dict[int, Callable[[int], io.RawIOBase]] = {}
        self.devices: set[int] = set()
        real_isatty, real_size = os.isatty, os.get_terminal_size

        def open_file(fd: int, mode: str, **options: Any) -> Any:
            return self.files[fd](fd) if fd in self.files else builtins.open(fd, mode, **options)

        def isatty(fd: int) -> bool:
            return fd in self.devices or self.files.get(fd) is Console or real_isatty(fd)

        def size(fd: int) -> os.terminal_size:
            return os.terminal_size((80, 24)) if self.files.get(fd) is Console else real_size(fd)

        monkeypatch.setattr(streams, "WINDOWS", True)
        monkeypatch.setattr(streams, "open", open_file, raising=False)
        monkeypatch.setattr(os, "isatty", isatty)
        monkeypatch.setattr(os, "get_terminal_size", size)
        monkeypatch.setenv("TERM", "dumb")  # line by line: prompt_toolkit has its own ways to a console


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Windows:
    return Windows(monkeypatch)


@contextmanager
def standard_input(data: bytes) -> Generator[Callable[[bytes], int]]:
    """Put a pipe in the place of standard input, which stays open; yield what writes more to it."""
    ours, theirs = os.pipe()
    os.write(theirs, data)
    saved = os.dup(0)
    os.dup2(ours, 0)
    try:
        yield lambda more: os.write(theirs, more)
    finally:
        os.dup2(saved, 0)
        for fd in (ours, theirs, saved):
            os.close(fd)


@pytest.mark.parametrize("out", [Console, None], ids=["console", "pipe"])
async def test_what_is_typed_and_shown_at_a_console_is_text_in_any_code_page(
    windows: Windows, capfdbinary: pytest.CaptureFixture[bytes], out: Callable[[int], io.RawIOBase] | None
) -> None:
    windows.files[0] = Console
    if out is not None:
        windows.files[1] = out
    typed = "grüße " * 100
    with standard_input(f"{typed}\r\n".encode(CODE_PAGE)), trio.fail_after(10):
        async with testing.websocket_server(echo):
            assert await program.run(parse([URL, "--count", "1"])) == 0
    shown = capfdbinary.readouterr().out.decode("utf-8" if out is None else CODE_PAGE)
    if out is None:
        assert shown == f"{typed}\n"
    else:
        assert shown[shown.index("< ") :].replace("\n  ", "").startswith(f"< {typed}\n- closed")


async def test_ctrl_z_at_a_console_closes_the_connection(windows: Windows, capfd: pytest.CaptureFixture[str]) -> None:
    windows.files = {0: Console, 1: Console}
    with standard_input(CTRL_Z), trio.fail_after(10):
        async with testing.websocket_server(echo):
            assert await program.run(parse([URL])) == 0
    assert capfd.readouterr().out.endswith("- closed with code 1000 (NORMAL)\n")


@pytest.mark.parametrize(("out", "status"), [(Console, 0), (io.FileIO, 130)], ids=["console", "pipe"])
async def test_ctrl_c_at_a_console_is_not_the_end_of_what_is_typed_as_well(
    windows: Windows, capfd: pytest.CaptureFixture[str], out: Callable[[int], io.RawIOBase], status: int
) -> None:
    async def slow_to_close(connection: testing.ServerConnection) -> None:
        await connection.accept()
        connection.stop_reading()
        press(CTRL_C)
        await trio.sleep(2 * program.SIGNAL_SECONDS)
        connection.read_on()
        await connection.wait_closed()

    windows.files[0] = Console
    if out is Console:
        windows.files[1] = out
    with standard_input(b"") as press, trio.fail_after(10):
        async with testing.websocket_server(slow_to_close):
            assert await program.run(parse([URL])) == status
    assert "closed with code 1000 (NORMAL)\n" in "".join(capfd.readouterr())


async def test_nul_is_nobody_who_types(windows: Windows, capfd: pytest.CaptureFixture[str]) -> None:
    async def one(connection: testing.ServerConnection) -> None:
        await trio.testing.wait_all_tasks_blocked(0.01)
        await connection.send("a")
        await connection.close(1000)

    windows.files[1] = Console
    windows.devices.add(0)
    nul = os.open(os.devnull, os.O_RDONLY)
    with standard_input(b""), trio.fail_after(10):
        os.dup2(nul, 0)
        os.close(nul)
        async with testing.websocket_server(one):
            assert await program.run(parse([URL, "--wait", "forever"])) == 0
    assert capfd.readouterr().out == "< a\n"


async def test_nul_shows_nothing_to_anybody(windows: Windows, capfd: pytest.CaptureFixture[str]) -> None:
    async def one(connection: testing.ServerConnection) -> None:
        await connection.send("\x1b")
        await connection.close(1000)

    windows.files[0] = Console
    windows.devices.add(1)
    with standard_input(b""), trio.fail_after(10):
        async with testing.websocket_server(one):
            assert await program.run(parse([URL])) == 0
    assert capfd.readouterr().out == "\x1b\n"


@pytest.mark.parametrize(("there", "status"), [(True, 0), (False, 1)])
async def test_a_pipe_that_is_closed_ends_it_quietly_where_the_system_calls_it_an_invalid_argument(
    windows: Windows,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    there: bool,
    status: int,
) -> None:
    monkeypatch.setattr(streams, "WINDOWS", there)
    windows.files[1] = lambda fd: BrokenPipe(fd, "wb", closefd=False)
    with standard_input(b"a\n"), trio.fail_after(10):
        async with testing.websocket_server(echo):
            assert await program.run(parse([URL])) == status
    assert ("cannot write the output: Invalid argument" in capfd.readouterr().err) == (not there)


def test_ctrl_break_ends_it_as_ctrl_c_does(library: LibraryServer) -> None:
    code = (
        "import runpy, signal; signal.SIGBREAK = signal.SIGUSR1; runpy.run_module('csp.websocket', run_name='__main__')"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, library.url("/echo")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("a\n")
        process.stdin.flush()
        assert process.stdout.readline() == "a\n"
        process.send_signal(getattr(signal, "SIGUSR1"))  # noqa: B009  # Windows has none
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "closed with code 1000 (NORMAL)"


def test_the_history_is_among_the_users_local_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(history, "WINDOWS", True)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert history.history_file() == tmp_path / "trio-csp" / "websocket_history"
    monkeypatch.delenv("LOCALAPPDATA")
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    assert history.history_file() == tmp_path / "AppData" / "Local" / "trio-csp" / "websocket_history"


def test_a_symbolic_link_is_not_followed_where_the_system_cannot_be_told(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_SAFE_FLAGS", 0)
    kept = history.open_history(state)
    state.parent.mkdir()
    state.symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="it is a symbolic link"):
        history.open_history(state)
    kept.store_string("ours")
    assert not (tmp_path / "other").exists()
