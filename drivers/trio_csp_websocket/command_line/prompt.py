"""The prompt at which a person types, with line editing, history and colours, by prompt_toolkit."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

import csp
from trio_csp_websocket.command_line.lines import MARKS, Line, Show, on_screen

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from prompt_toolkit import PromptSession
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyPressEvent

_COLOURS = {"received": "ansicyan", "sent": "ansigreen", "note": "ansibrightblack", "error": "ansired"}


@asynccontextmanager
async def prompt(typed: csp.Channel[str | None], history: History | None = None) -> AsyncGenerator[Show]:
    """Keep a prompt at the bottom of the terminal; lines typed go into the channel, None for Ctrl-C and Ctrl-D.

    One prompt stays all the time. With one for each line, what is shown between two of them could get lost.

    Args:
        typed: where what is typed goes.
        history: what was typed before; None for a history in memory, which is empty.

    Raises:
        ImportError: prompt_toolkit is missing.
    """
    token, started = trio.lowlevel.current_trio_token(), trio.Event()
    session = _prompt_session(lambda text: token.run_sync_soon(typed.send_nowait, text), history)
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
        columns = app.output.get_size().columns
        text = [part for line in lines for part in _coloured(line, columns)]
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


def _coloured(line: Line, columns: int) -> StyleAndTextTuples:
    mark = MARKS[line.kind]
    return [(_COLOURS[line.kind], mark), ("", f"{on_screen(mark, line.text, columns)[len(mark) :]}\n")]


def _prompt_session(hand_over: Callable[[str | None], object], history: History | None) -> PromptSession[str]:
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
    session: PromptSession[str] = PromptSession("> ", history=history, key_bindings=keys, erase_when_done=True)
    session.default_buffer.accept_handler = accept
    keys.add("c-c")(end)
    keys.add("c-d", filter=Condition(lambda: not session.default_buffer.text))(end)
    return session


def _as_utf_8(text: str) -> str:
    """Replace the surrogates that stand for bytes typed at the terminal that are not UTF-8."""
    return text.encode(errors="replace").decode()
