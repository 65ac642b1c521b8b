"""The prompt at which a person types, with line editing, history and colours, by prompt_toolkit."""

from __future__ import annotations

import asyncio
import contextlib
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import csp
from trio_csp_websocket.command_line.lines import MARKS, Line, Show

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from prompt_toolkit import PromptSession
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyPressEvent

_COLOURS = {"received": "ansicyan", "sent": "ansigreen", "note": "ansibrightblack", "error": "ansired"}


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
        if not app.is_done:  # pragma: no branch  # the terminal may be gone at this very moment
            app.exit()

    async def print_above(lines: Iterable[Line]) -> None:
        text: StyleAndTextTuples = [
            part for line in lines for part in ((_COLOURS[line.kind], MARKS[line.kind]), ("", f"{line.text}\n"))
        ]
        # Not by run_in_terminal, nor by patch_stdout, which uses it: what is typed meanwhile would be echoed, or lost.
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
        hand_over(_as_utf_8(buffer.text))
        return False

    def end(_event: KeyPressEvent) -> None:
        hand_over(None)

    keys = KeyBindings()
    session: PromptSession[str] = PromptSession("> ", history=_history(), key_bindings=keys, erase_when_done=True)
    session.default_buffer.accept_handler = accept
    keys.add("c-c")(end)
    keys.add("c-d", filter=Condition(lambda: not session.default_buffer.text))(end)
    return session


def _as_utf_8(text: str) -> str:
    """Replace the surrogates that stand for bytes typed at the terminal that are not UTF-8."""
    return text.encode(errors="replace").decode()


def history_file() -> Path | None:
    """Return where the XDG Base Directory Specification puts the state of a user's programs; None without a home."""
    # The specification has relative paths ignored.
    with contextlib.suppress(RuntimeError):
        state = Path(os.environ.get("XDG_STATE_HOME", ""))
        return (state if state.is_absolute() else Path.home() / ".local" / "state") / "trio-csp" / "websocket_history"
    return None


def _history() -> FileHistory:
    from prompt_toolkit.history import FileHistory  # noqa: PLC0415

    class History(FileHistory):
        """A history in memory, and in a file where that can be read and written."""

        def load_history_strings(self) -> Iterable[str]:
            with contextlib.suppress(OSError):
                return list(super().load_history_strings())
            return []

        def store_string(self, string: str) -> None:
            with contextlib.suppress(OSError):
                path = Path(os.fsdecode(self.filename))
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.touch(mode=0o600)  # what is typed can be a secret
                super().store_string(_as_utf_8(string))

    return History(history_file() or os.devnull)
