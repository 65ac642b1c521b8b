"""How what comes and what happens is written: as JSON or not, for a terminal or for another program."""

from __future__ import annotations

import base64
import codecs
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from csp.errors import ConnectionFailedError, Error, shown
from trio_csp_websocket.command_line.advice import advice, is_of_proxy, told
from trio_csp_websocket.command_line.lines import Line, escaped
from trio_csp_websocket.command_line.request import Request
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.refusal import MAX_BODY_BYTES
from trio_csp_websocket.protocol.secrets import looks_secret
from trio_csp_websocket.protocol.url import without_query, without_secrets

if TYPE_CHECKING:
    import csp
    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.command_line.link import Ending
    from trio_csp_websocket.protocol.messages import Message

_PREVIEW_BYTES = 16
_LINE_BREAK = re.compile("\r\n|\n|\r")
_SWITCHING_PROTOCOLS = 101


@dataclass(frozen=True)
class Format:
    """How lines are written."""

    json: bool
    terminal: bool
    """Whether standard output is one."""
    reconnect: bool = False
    """Whether there may be many connections, so that programs are told of each."""
    request: Request = field(default_factory=Request)

    def message(self, message: Message, number: int | None = None) -> Line:
        """Return the line of a message, and where somebody reads it, of which connection it is."""
        data = message.data
        if self.json:
            text = data if isinstance(data, str) else base64.b64encode(data).decode()
            return self.members(type=message.type, data=text, **_of(number))
        of = "" if number is None else f"#{number}: "
        if isinstance(data, bytes):
            return Line("received", f"{of}{_preview(data)}" if self.terminal else data.hex())
        if self.terminal:
            return Line("received", of + "\n".join(escaped(line) for line in _LINE_BREAK.split(data)))
        return Line("received", _LINE_BREAK.sub(" ", data))

    def pong(self, seconds: float, number: int | None = None) -> Line:
        """Return the line of a ping's answer."""
        if self.json:
            return self.members(type="pong", seconds=seconds, **_of(number))
        return Line("note", f"{'' if number is None else f'#{number}: '}pong after {1000 * seconds:.2f} ms")

    # The connection ---------------------------------------------------------------------------------------------------

    def connecting(self) -> Line:
        """Return the line for a person who waits for the first connection."""
        return Line("note", f"connecting to {self.request.shown} ...")

    def connected(self, client: Client, *, again: bool = False) -> list[Line]:
        """Return what says that a connection is open, to where, and what was agreed on with the server."""
        place, redirected = without_query(client.url), self.request.url not in ("", client.url)
        if redirected:  # the server may repeat in it what it was asked
            place = self.request.secrets.hidden(place) or "..."
        through = "" if client.proxy is None else f" through the proxy {client.proxy}"
        said = [f"connected {'again ' * again}to {place}{through}"]
        if redirected:
            said.append(f"redirected from {self.request.shown}")
        compressed = "permessage-deflate" in client.response_headers.get("Sec-WebSocket-Extensions", "")
        lines = [Line("note", ", ".join([*said, *agreed(client.subprotocol, compressed=compressed)]))]
        return [*lines, self.members(type="open")] if self.json and self.reconnect else lines

    def waiting(self, state: csp.ConnectionState, client: Client | None, *, attempt: int) -> list[Line]:
        """Return what says why there is no connection, and when the next attempt begins.

        Args:
            state: the feed's.
            client: the client of the latest connection.
            attempt: the number of the next attempt, since there was a connection.
        """
        asked = "" if state.asked_seconds is None else f", as the server asks for {state.asked_seconds:.0f} s"
        again = f"; trying again in {state.seconds:.1f} s{asked} (attempt {attempt})"
        if state.error is None:
            code, reason = (None, None) if client is None else (client.close_code, client.close_reason)
            line = Line("note", f"closed by the server{_with_code(code, reason)}{again}")
        else:
            # The first attempt that fails may do so because of a mistake; later ones need no more advice.
            advised = advice(state.error, self.request) if client is None and attempt == 2 else ""
            line = Line("error", f"{told(state.error)}{again}{advised}")
        error = None if state.error is None else told(state.error)
        if not self.json:
            return [line]
        return [line, self.members(type="waiting", seconds=state.seconds, attempt=attempt, error=error)]

    def gap(self, gap: csp.Gap) -> list[Line]:
        """Return what says that messages may be missing."""
        missing = "messages may be missing" if gap.missed is None else f"{gap.missed} or more messages are missing"
        line = Line("note", f"there was no connection for {gap.seconds:.1f} s: {missing}")
        if not self.json:
            return [line]
        error = None if gap.error is None else str(gap.error)
        size = {"seconds": gap.seconds, "attempts": gap.attempts, "missed": gap.missed}
        return [line, self.members(type="gap", **size, code=gap.code, reason=gap.reason, error=error)]

    def end(self, ending: Ending, *, ours: bool) -> list[Line]:
        """Return what says how it ended; ``ours`` if it was closed from here."""
        code, reason, error = ending
        if code is None and error is not None:
            line = Line("error", f"{told(error)}{advice(error, self.request)}")
            return [self.no_connection(error), line] if self.json and isinstance(error, Error) else [line]
        if self.json:
            return [self.members(type="close", code=code, reason=reason, error=None if error is None else str(error))]
        if error is not None:
            return [Line("error", str(error))]
        if code is None:
            return [Line("note", "ended; there was no connection")]
        return [Line("note", closed(code, reason, ours=ours, other="server"))]

    def no_connection(self, error: Error) -> Line:
        """Return the JSON object that says why there is no connection, without the secrets of the request."""
        secrets = self.request.secrets
        why = {"error": told(error), "retryable": error.retryable}
        status = error.status if isinstance(error, ConnectionFailedError) else None
        if status in (None, _SWITCHING_PROTOCOLS) or is_of_proxy(error):
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


def agreed(protocol: str | None, *, compressed: bool) -> list[str]:
    """Return what says what was agreed on for a connection."""
    said: list[str] = []
    if protocol is not None:
        said.append("a protocol that looks like a secret" if looks_secret(protocol) else f"protocol {protocol}")
    if compressed:
        said.append("compressed")
    return said


def closed(code: int | None, reason: str | None, *, ours: bool, other: str) -> str:
    """Return what says how a connection was closed; ``ours`` if from here, and ``other`` is who else could."""
    if ours and code == CloseCode.ABNORMAL_CLOSURE:
        return f"closed; the {other} did not answer the close"
    return f"closed{'' if ours else f' by the {other}'}{_with_code(code, reason)}"


def _of(number: int | None) -> dict[str, int]:
    """Return the member of a JSON object that says which connection it is about."""
    return {} if number is None else {"connection": number}


def _with_code(code: int | None, reason: str | None) -> str:
    """Return a close code and its reason, as the rest of a sentence; "" if they are not known."""
    if code is None:
        return ""
    name = f" ({CloseCode(code).name})" if code in tuple(CloseCode) else ""
    return f" with code {code}{name}{f': {shown(reason)}' if reason else ''}"


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
