"""The lines that wait to be shown while others are being written."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import csp
from trio_csp_websocket.command_line.lines import Line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_csp_websocket.command_line.lines import Show

MAX_LINES = 64
"""Lines collected while earlier ones are being written; with that many nothing is received, which slows the server."""


class Output:
    """Collects lines, and has them shown by a task of its own.

    Args:
        show: shows lines.
        on_failure: told of lines that could not be written.
    """

    def __init__(self, show: Show, on_failure: Callable[[OSError], Awaitable[None]]) -> None:
        self._show = show
        self._on_failure = on_failure
        self._lines: list[Line] = []
        self._handed_over = csp.Channel[list[Line]]()

    def add(self, *lines: Line) -> None:
        """Have lines shown behind the others."""
        self._lines += lines

    @property
    def empty(self) -> bool:
        """Whether no line waits; some may still be being written."""
        return not self._lines

    @property
    def full(self) -> bool:
        """Whether so many lines wait that no more should be made."""
        return len(self._lines) >= MAX_LINES

    def case(self) -> csp.SendCase[list[Line]] | None:
        """Return the case of a select that hands over the lines; None if there are none."""
        return self._handed_over.case_send(self._lines) if self._lines else None

    def took(self, result: csp.SelectResult[object]) -> bool:
        """Whether a select has handed over the lines; then they wait no more."""
        if took := self._handed_over.took(result):
            self._lines = []
        return took

    async def run(self) -> None:
        """Write the lines that are handed over, for ever."""
        lost = False
        async for lines in self._handed_over:  # pragma: no branch  # it is never closed
            # What is not a message is still shown when messages can no longer be written.
            for is_message, group in groupby(lines, lambda line: line.kind == "received"):
                if lost and is_message:
                    continue
                try:
                    await self._show(list(group))
                except OSError as error:
                    lost = True
                    await self._on_failure(error)

    async def write_all(self) -> None:
        """Wait until all lines are written, or have failed."""
        await self._handed_over.send(self._lines)
        self._lines = []
        await self._handed_over.send([])  # taken once the lines before are written, or have failed
