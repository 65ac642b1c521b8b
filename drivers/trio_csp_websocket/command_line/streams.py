"""The standard streams: lines read from one descriptor, and written to others.

Descriptors are read and written in threads, through files without a buffer: a thread that is abandoned in the middle of
one holds no lock of ``sys.stdin`` or ``sys.stdout`` for which the interpreter would wait at its end.

For a console of Windows, `open` returns another kind of file, which reads and writes UTF-8; `os.read` and `os.write`
would give and take bytes of the console's code page.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import trio

from csp.errors import InvalidError
from trio_csp_websocket.command_line.lines import MARKS, Line, Show, on_screen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

MAX_LINE_BYTES = 16 * 1024 * 1024
# Of a terminal that does not know its own size.
_USUAL_COLUMNS = 80
_BLOCK_BYTES = 1 << 16

WINDOWS = sys.platform == "win32"


def is_console(fd: int) -> bool:
    """Whether a descriptor reads from a console of Windows: `os.isatty` says that it does of ``NUL`` too.

    With PYTHONLEGACYWINDOWSSTDIO set, none does: what is read then has the console's code page.
    """
    return WINDOWS and not isinstance(_opened(fd, "rb"), io.FileIO)


def is_typed(fd: int) -> bool:
    """Whether a descriptor reads what somebody types at a terminal."""
    return os.isatty(fd) and (is_console(fd) or not WINDOWS)


async def read_lines(fd: int, take: Callable[[str], Awaitable[None]]) -> None:
    """Hand each line of a descriptor, without its line break, to ``take``; read on when that returns.

    On a console of Windows, Ctrl-Z at the beginning of a line is the end, and so is Ctrl-C.

    Raises:
        InvalidError: a line is not UTF-8, or longer than `MAX_LINE_BYTES`; those before it were handed over.
        OSError: reading failed.
    """
    file = _opened(fd, "rb")
    number, rest = 0, bytearray()
    while block := await trio.to_thread.run_sync(_read, file, abandon_on_cancel=True):
        rest += block
        if b"\n" in block:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                number += 1
                await take(_decoded(line.removesuffix(b"\r"), number))
        if len(rest) > MAX_LINE_BYTES:
            raise InvalidError(f"line {number + 1} is longer than {MAX_LINE_BYTES} bytes")
    if rest:
        await take(_decoded(rest, number + 1))


def _opened(fd: int, mode: Literal["rb", "wb"]) -> io.RawIOBase:
    return open(fd, mode, buffering=0, closefd=False)


def _read(file: io.RawIOBase) -> bytes:
    # None: the parent process left it non-blocking, and may need it so.
    while (block := file.read(_BLOCK_BYTES)) is None:
        select.select([file], [], [])
    return block


def write_text(fd: int, text: str) -> None:
    """Write a text to a descriptor, as UTF-8, whatever the locale; return when it is written. Raises OSError."""
    file, data = _opened(fd, "wb"), memoryview(text.encode())
    while data:
        try:
            written = file.write(data)
        except OSError as error:
            if WINDOWS and error.errno == errno.EINVAL:  # what Windows says of a pipe whose other end is closed
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from error
            raise
        if written is None:
            select.select([], [file], [])
        else:
            data = data[written:]


def _decoded(line: bytearray, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InvalidError(
            f"line {number} is not UTF-8: its byte {error.start + 1} is 0x{line[error.start]:02x}"
        ) from None


def screen_columns(fd: int) -> int | None:
    """Return how many columns the terminal has that a descriptor leads to; None if it leads to something else."""
    try:
        return os.get_terminal_size(fd).columns or _USUAL_COLUMNS
    except OSError:
        return None


def streams(*, out: int = 1, err: int = 2, interactive: bool = False) -> Show:
    """Return what writes messages to one descriptor and the rest to another, on a terminal with a mark before each.

    Args:
        out: the descriptor for messages.
        err: the descriptor for the rest.
        interactive: whether somebody types at a terminal, which is ``out``: then everything goes there, but not what is
            sent, as the terminal shows what is typed.
    """

    def write(lines: Iterable[Line]) -> None:
        if interactive:
            lines = [line for line in lines if line.kind != "sent"]
        for fd, group in groupby(lines, lambda line: out if interactive or line.kind == "received" else err):
            columns = screen_columns(fd)
            texts = [
                line.text if columns is None else on_screen(MARKS[line.kind], line.text, columns) for line in group
            ]
            write_text(fd, "".join(f"{text}\n" for text in texts))

    async def show(lines: Iterable[Line]) -> None:
        await trio.to_thread.run_sync(write, lines, abandon_on_cancel=True)

    return show
