"""The prompt."""

from __future__ import annotations

import io
import math

import pytest
import trio
from prompt_toolkit.data_structures import Size
from prompt_toolkit.output.vt100 import Vt100_Output

import csp
from tests.websocket.command_line._terminal import CTRL_C, CTRL_D, keyboard
from trio_csp_websocket.command_line.lines import Line
from trio_csp_websocket.command_line.prompt import prompt

pytestmark = pytest.mark.usefixtures("state")


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
