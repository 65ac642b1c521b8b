"""What the program says about itself, on standard error."""

from __future__ import annotations

import contextlib

from trio_csp_websocket.command_line.arguments import program_name
from trio_csp_websocket.command_line.lines import escaped, on_screen
from trio_csp_websocket.command_line.streams import screen_columns, write_text


def say(text: str) -> None:
    """Print something about the program on standard error."""
    line, columns = f"{program_name()}: {escaped(text)}", screen_columns(2)
    with contextlib.suppress(OSError):
        write_text(2, f"{line if columns is None else on_screen('', line, columns)}\n")
