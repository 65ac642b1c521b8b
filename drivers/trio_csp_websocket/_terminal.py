"""What ``python -m csp.websocket`` reads and shows: the standard streams, and a prompt where a person types.

Descriptors are read and written in threads by `os.read` and `os.write`: a thread that is abandoned in the middle of one
holds no lock of ``sys.stdin`` or ``sys.stdout`` for which the interpreter would wait at its end.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import trio

import csp
from csp.errors import InvalidError
from trio_csp_websocket._constants import CloseCode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from prompt_toolkit import PromptSession
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyPressEvent

    from csp.websocket import Client, Message

MAX_LINE_BYTES = 16 * 1024 * 1024
_PREVIEW_BYTES = 16
# What a terminal obeys, and what reorders text, so that it reads as another.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_BREAK = re.compile("\r\n|\n|\r")

_MARKS = {"received": "< ", "sent": "> ", "note": "- ", "error": "! "}
_COLOURS = {"received": "ansicyan", "sent": "ansigreen", "note": "ansibrightblack", "error": "ansired"}


class Line(NamedTuple):
    """Something to show, already safe for where it is shown."""

    kind: Literal["received", "sent", "note", "error"]
    text: str


Show: TypeAlias = "Callable[[Iterable[Line]], Awaitable[None]]"
"""Shows lines, returning when they are written. Raises OSError."""


def escaped(text: str) -> str:
    """Return a text as a terminal may have it: control characters become escapes, as in JSON."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@dataclass(frozen=True)
class Format:
    """How what happens is written: as JSON or not, for a terminal or for another program."""

    json: bool
    terminal: bool

    def message(self, message: Message) -> Line:
        """Return the line of a message."""
        data = message.data
        if self.json:
            text = data if isinstance(data, str) else base64.b64encode(data).decode()
            return self.members(type=message.type, data=text)
        if isinstance(data, bytes):
            return Line("received", _preview(data) if self.terminal else data.hex())
        if self.terminal:
            # Indented, so that no line of a message looks like one of ours.
            return Line("received", "\n  ".join(escaped(line) for line in _LINE_BREAK.split(data)))
        return Line("received", _LINE_BREAK.sub(" ", data))

    def pong(self, seconds: float) -> Line:
        """Return the line of a ping's answer."""
        if self.json:
            return self.members(type="pong", seconds=seconds)
        return Line("note", f"pong after {1000 * seconds:.2f} ms")

    def end(self, client: Client, *, ours: bool) -> Line:
        """Return the line that says how the connection ended; ``ours`` if it was closed from here."""
        code, reason, error = client.close_code, client.close_reason, client.error
        if self.json:
            told = None if error is None else str(error)
            return self.members(type="close", code=code, reason=reason, error=told)
        if error is not None:
            return Line("error", escaped(str(error)))
        if ours and code == CloseCode.ABNORMAL_CLOSURE:
            return Line("note", "closed; the server did not answer the close")
        name = f" ({CloseCode(code).name})" if code in tuple(CloseCode) else ""
        by = "" if ours else " by the server"
        return Line("note", escaped(f"closed{by} with code {code}{name}{f': {reason}' if reason else ''}"))

    def members(self, **members: object) -> Line:
        """Return the line of a JSON object."""
        text = json.dumps(members, ensure_ascii=False)
        return Line("received", escaped(text) if self.terminal else text)


def _preview(data: bytes) -> str:
    start = data[:_PREVIEW_BYTES]
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in start)
    more = "..." if len(data) > len(start) else ""
    return f"binary, {len(data)} bytes: {start.hex(' ', -4)}{more}  |{text}|{more}"


# The standard streams -------------------------------------------------------------------------------------------------


async def read_lines(fd: int, take: Callable[[str], Awaitable[None]]) -> None:
    """Give each line of a descriptor, without its end; read on when it is taken.

    Raises:
        InvalidError: a line is not UTF-8, or longer than `MAX_LINE_BYTES`; those before it were given.
        OSError: reading failed.
    """
    number, rest = 0, bytearray()
    while block := await trio.to_thread.run_sync(os.read, fd, 1 << 16, abandon_on_cancel=True):
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


def _decoded(line: bytearray, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InvalidError(
            f"line {number} is not UTF-8: its byte {error.start + 1} is 0x{line[error.start]:02x}"
        ) from None


def streams(*, out: int = 1, err: int = 2, marked: bool = False) -> Show:
    """Return what shows messages on one descriptor and the rest on another; or all of it, with marks, on the first."""

    def write(lines: Iterable[Line]) -> None:
        if marked:
            lines = [line for line in lines if line.kind != "sent"]  # the terminal shows what is typed
        for fd, group in groupby(lines, lambda line: out if marked or line.kind == "received" else err):
            text = "".join(f"{_MARKS[line.kind] if marked else ''}{line.text}\n" for line in group)
            data = memoryview(text.encode())
            while data:
                data = data[os.write(fd, data) :]

    async def show(lines: Iterable[Line]) -> None:
        await trio.to_thread.run_sync(write, lines, abandon_on_cancel=True)

    return show


# The prompt -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def prompt(typed: csp.Channel[str | None]) -> AsyncGenerator[Show]:
    """Keep a prompt at the bottom of the terminal; lines typed go into the channel, None for Ctrl-C and Ctrl-D.

    One prompt stays all the time. With one for each line, what is shown between two of them could get lost.

    Raises:
        ImportError: prompt_toolkit is missing.
    """
    token, started = trio.lowlevel.current_trio_token(), trio.Event()
    session = _prompt_session(lambda text: token.run_sync_soon(typed.send_nowait, text))
    app = session.app

    def run() -> None:
        try:
            session.prompt(pre_run=lambda: token.run_sync_soon(started.set))
        except EOFError:  # the terminal is gone
            token.run_sync_soon(typed.send_nowait, None)
        finally:
            token.run_sync_soon(started.set)

    def leave() -> None:
        if not app.is_done:  # pragma: no branch  # the terminal may go in this very moment
            app.exit()

    async def print_above(lines: Iterable[Line]) -> None:
        text: StyleAndTextTuples = [
            part for line in lines for part in ((_COLOURS[line.kind], _MARKS[line.kind]), ("", f"{line.text}\n"))
        ]
        # Not by run_in_terminal, nor patch_stdout, which uses it: what is typed meanwhile would be echoed, or get lost.
        app.renderer.erase()
        app.print_text(text)
        app.invalidate()

    def print_lines(lines: Iterable[Line]) -> None:
        if app.loop is not None:
            asyncio.run_coroutine_threadsafe(print_above(lines), app.loop).result()

    async def show(lines: Iterable[Line]) -> None:
        await trio.to_thread.run_sync(print_lines, lines, abandon_on_cancel=True)

    async with csp.BackgroundNursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, run)
        with trio.CancelScope(shield=True):
            await started.wait()
        try:
            yield show
        finally:
            if app.loop is not None:
                app.loop.call_soon_threadsafe(leave)


def _prompt_session(hand_over: Callable[[str | None], object]) -> PromptSession[str]:
    # An optional extra, and slow to load.
    from prompt_toolkit import PromptSession  # noqa: PLC0415
    from prompt_toolkit.filters import Condition  # noqa: PLC0415
    from prompt_toolkit.key_binding import KeyBindings  # noqa: PLC0415

    def accept(buffer: Buffer) -> bool:
        # A byte that is no UTF-8 comes from the terminal as a surrogate.
        hand_over(buffer.text.encode(errors="replace").decode())
        return False

    def end(_event: KeyPressEvent) -> None:
        hand_over(None)

    keys = KeyBindings()
    session: PromptSession[str] = PromptSession("> ", history=_history(), key_bindings=keys, erase_when_done=True)
    session.default_buffer.accept_handler = accept
    keys.add("c-c")(end)
    keys.add("c-d", filter=Condition(lambda: not session.default_buffer.text))(end)
    return session


def history_file() -> Path | None:
    """Return where the XDG Base Directory Specification puts the state of a user's programs; None without a home."""
    # It says that a relative path must be ignored.
    with contextlib.suppress(RuntimeError):
        state = Path(os.environ.get("XDG_STATE_HOME", ""))
        return (state if state.is_absolute() else Path.home() / ".local" / "state") / "trio-csp" / "websocket_history"
    return None


def _history() -> FileHistory:
    from prompt_toolkit.history import FileHistory  # noqa: PLC0415

    class History(FileHistory):
        """A history in memory, and in a file as far as there can be one."""

        def load_history_strings(self) -> Iterable[str]:
            with contextlib.suppress(OSError):
                return list(super().load_history_strings())
            return []

        def store_string(self, string: str) -> None:
            with contextlib.suppress(OSError):
                path = Path(os.fsdecode(self.filename))
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.touch(mode=0o600)  # what is typed can be a secret
                super().store_string(string)

    return History(history_file() or os.devnull)
