"""A keyboard for the prompt, and pseudo-terminals."""

from __future__ import annotations

import codecs
import os
import select
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.utils import get_cwidth

if TYPE_CHECKING:
    from collections.abc import Generator

    from prompt_toolkit.input import PipeInput
    from prompt_toolkit.output import Output


CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"


@contextmanager
def keyboard(output: Output | None = None) -> Generator[PipeInput]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=output or DummyOutput()):
        yield keys


def rows_on_screen(shown: str, columns: int) -> list[str]:
    """Return the rows of a screen on which a text without escape sequences was shown, long lines wrapped."""
    rows, used = [""], 0
    for character in shown:
        if character == "\r":
            used = 0
        elif character == "\n":
            rows.append("")
        elif character == "\t":
            used = min(used + 8 - used % 8, columns - 1)
            rows[-1] += character
        else:
            width = get_cwidth(character)
            if used + width > columns:
                rows.append("")
                used = 0
            rows[-1] += character
            used += width
    return rows


def open_terminal() -> tuple[int, int]:
    """Open a pseudo-terminal; return both its sides. Where there are none, skip the test."""
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    ours, theirs = pty.openpty()
    return ours, theirs


def set_columns(fd: int, columns: int) -> None:
    """Say how many columns a pseudo-terminal has."""
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


class Terminal:
    """The other side of a pseudo-terminal, and all it has shown so far."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

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
            self.shown += self._decoder.decode(data)
            return bool(data)
        return True


@contextmanager
def standard_terminal() -> Generator[Terminal]:
    """Put a pseudo-terminal in the place of standard input and output."""
    ours, theirs = open_terminal()
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


@contextmanager
def at_terminal(
    *arguments: str, columns: int = 80, term: str = "xterm"
) -> Generator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """Start Python at a pseudo-terminal; at the end of the block, wait for its end."""
    # Where nothing is installed, the checkout must be found by the child as it was by this process.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TERM": term,
    }
    ours, theirs = open_terminal()
    set_columns(theirs, columns)
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
