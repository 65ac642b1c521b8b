"""Lines to show, and how each stands on a screen."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from csp.errors import shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

# Spaces that stand in ordinary text, and do no harm.
_SPACES = re.compile("([\t\u00a0\u202f\u3000])")

_INDENT = "  "
# On a screen of fewer columns, what is shown is not kept inside it.
_MIN_COLUMNS = 10

MARKS = {"received": "< ", "sent": "> ", "note": "- ", "error": "! "}
"""What is put in front of a line on a terminal."""


class Line(NamedTuple):
    """Something to show, already safe for where it is shown; of several lines only for a terminal, by `on_screen`."""

    kind: Literal["received", "sent", "note", "error"]
    text: str


Show: TypeAlias = "Callable[[Iterable[Line]], Awaitable[None]]"
"""Shows lines, returning when they are written. Raises OSError."""


def escaped(text: str) -> str:
    """Return a text that is safe on a terminal: what controls it, or is not seen, becomes an escape, as in JSON."""
    return "".join(part if _SPACES.match(part) else shown(part, None) for part in _SPACES.split(text))


def on_screen(mark: str, text: str, columns: int) -> str:
    """Return an escaped text with a mark in front, in lines that fit a screen; all but the first are indented.

    So only what the program itself begins with a mark begins at the left of the screen.
    """
    # The last column stays free: terminals differ in what follows once it is full.
    limit = max(columns - 1, _MIN_COLUMNS)
    rows: list[str] = []
    for line in text.split("\n"):
        row, start = _INDENT if rows else mark, 0
        while (end := _row_end(line, start, len(row), limit)) < len(line):
            end = line.rfind(" ", start, end) + 1 or end
            rows.append(row + line[start:end])
            row, start = _INDENT, end
        rows.append(row + line[start:])
    return "\n".join(rows)


def _row_end(line: str, start: int, used: int, limit: int) -> int:
    """Return where the characters end that fit on a row, of which ``used`` columns are taken."""
    end = start + max(limit - used, 0)
    piece = line[start:end]
    if piece.isascii() and "\t" not in piece:
        return end
    for index, character in enumerate(piece, start):
        used += 8 - used % 8 if character == "\t" else _columns(character)
        if used > limit:
            return index
    return end


def _columns(character: str) -> int:
    """Return how many columns a character takes, or one more.

    One that combines with the character before it counts too: not every terminal combines them.
    """
    wide = unicodedata.east_asian_width(character) in "WF" or character >= "\U0001f000"
    return 2 if wide else 1
