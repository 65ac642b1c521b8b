"""Lines to show: of messages, and of what happens to the connection."""

from __future__ import annotations

import base64
import codecs
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, cast

from csp.errors import ConnectionFailedError, shown
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.refusal import MAX_BODY_BYTES
from trio_csp_websocket.protocol.url import without_secrets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from csp.errors import Error
    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.protocol.messages import Message
    from trio_csp_websocket.protocol.secrets import Secrets

_PREVIEW_BYTES = 16
# Spaces that stand in ordinary text, and do no harm.
_SPACES = re.compile("([\t\u00a0\u202f\u3000])")
_LINE_BREAK = re.compile("\r\n|\n|\r")

_INDENT = "  "
# On a screen of fewer columns, what is shown is not kept inside it.
_MIN_COLUMNS = 10

_SWITCHING_PROTOCOLS = 101

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


@dataclass(frozen=True)
class Format:
    """How lines are written: as JSON or not, for a terminal or for another program."""

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
            return Line("received", "\n".join(escaped(line) for line in _LINE_BREAK.split(data)))
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
            text = None if error is None else str(error)
            return self.members(type="close", code=code, reason=reason, error=text)
        if error is not None:
            return Line("error", str(error))
        if ours and code == CloseCode.ABNORMAL_CLOSURE:
            return Line("note", "closed; the server did not answer the close")
        name = f" ({CloseCode(code).name})" if code in tuple(CloseCode) else ""
        by = "" if ours else " by the server"
        return Line("note", f"closed{by} with code {code}{name}{f': {shown(reason)}' if reason else ''}")

    def no_connection(self, error: Error, secrets: Secrets) -> Line:
        """Return the JSON object that says why there is no connection, without the secrets of the request."""
        why = {"error": str(error), "retryable": error.retryable}
        status = error.status if isinstance(error, ConnectionFailedError) else None
        if status in (None, _SWITCHING_PROTOCOLS):
            return self.members(type="error", **why)
        headers = dict(cast("dict[str, str]", error.details["headers"]))
        if "location" in headers:
            headers["location"] = without_secrets(headers["location"])
        raw = cast("bytes", error.details["body"])
        body = _text(raw)
        return self.members(
            type="refused",
            status=status,
            headers={secrets.hidden(name): secrets.hidden(value) for name, value in headers.items()},
            body=None if body is None else secrets.hidden(body, cut=len(raw) == MAX_BODY_BYTES),
            **why,
        )

    def members(self, **members: object) -> Line:
        """Return the line of a JSON object."""
        text = json.dumps(members, ensure_ascii=False)
        return Line("received", escaped(text) if self.terminal else text)


def _text(body: bytes) -> str | None:
    """Return a body as text, without a character that was cut at its end; None if it is not UTF-8."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(body)
    except UnicodeDecodeError:
        return None


def _preview(data: bytes) -> str:
    start = data[:_PREVIEW_BYTES]
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in start)
    more = "..." if len(data) > len(start) else ""
    return f"binary, {len(data)} bytes: {start.hex(' ', -4)}{more}  |{text}|{more}"
