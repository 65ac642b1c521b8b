"""Lines to show: of messages, and of what happens to the connection."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from trio_csp_websocket.protocol.constants import CloseCode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.protocol.messages import Message

_PREVIEW_BYTES = 16
# Characters that control a terminal, and those that reorder text so that it reads differently.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_BREAK = re.compile("\r\n|\n|\r")

MARKS = {"received": "< ", "sent": "> ", "note": "- ", "error": "! "}
"""What is put in front of a line on a terminal."""


class Line(NamedTuple):
    """Something to show, already safe for where it is shown."""

    kind: Literal["received", "sent", "note", "error"]
    text: str


Show: TypeAlias = "Callable[[Iterable[Line]], Awaitable[None]]"
"""Shows lines, returning when they are written. Raises OSError."""


def escaped(text: str) -> str:
    """Return a text that is safe on a terminal: control characters become escapes, as in JSON."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


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
            text = None if error is None else str(error)
            return self.members(type="close", code=code, reason=reason, error=text)
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
