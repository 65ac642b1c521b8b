"""The standard streams: lines read from one descriptor, and written to others.

Descriptors are read and written in threads by `os.read` and `os.write`: a thread that is abandoned in the middle of one
holds no lock of ``sys.stdin`` or ``sys.stdout`` for which the interpreter would wait at its end.
"""

from __future__ import annotations

import os
import select
from itertools import groupby
from typing import TYPE_CHECKING

import trio

from csp.errors import InvalidError
from trio_csp_websocket.command_line.lines import MARKS, Line, Show, on_screen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

MAX_LINE_BYTES = 16 * 1024 * 1024
# Of a terminal that does not know its own size.
_USUAL_COLUMNS = 80


async def read_lines(fd: int, take: Callable[[str], Awaitable[None]]) -> None:
    """Hand each line of a descriptor, without its line break, to ``take``; read on when that returns.

    Raises:
        InvalidError: a line is not UTF-8, or longer than `MAX_LINE_BYTES`; those before it were handed over.
        OSError: reading failed.
    """
    number, rest = 0, bytearray()
    while block := await trio.to_thread.run_sync(_read, fd, abandon_on_cancel=True):
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


def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, 1 << 16)
        except BlockingIOError:  # the parent process left it non-blocking, and may need it so
            select.select([fd], [], [])


def _write(fd: int, data: memoryview) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            select.select([], [fd], [])


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
            _write(fd, memoryview("".join(f"{text}\n" for text in texts).encode()))

    async def show(lines: Iterable[Line]) -> None:
        await trio.to_thread.run_sync(write, lines, abandon_on_cancel=True)

    return show
