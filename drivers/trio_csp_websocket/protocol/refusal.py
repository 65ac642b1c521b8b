"""What the text of a refusal tells: its status, the headers that explain it, and the first line of its body. No I/O."""

from __future__ import annotations

import codecs
import html
import re
from typing import TYPE_CHECKING

from csp.errors import ConnectionFailedError, InvalidError, Kind, shown
from trio_csp_websocket.protocol.url import without_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_websocket.protocol.headers import Headers
    from trio_csp_websocket.protocol.secrets import Secrets

MAX_BODY_BYTES = 4096
"""How much is kept of a refusal's body, and of what turns out to be no answer at all."""

# The headers that say what a status asks for: credentials (RFC 9110, section 11.6), another version or protocol
# (RFC 6455, section 4.4), or time.
_EXPLAINING_HEADERS = {
    400: ("Sec-WebSocket-Version",),
    401: ("WWW-Authenticate",),
    407: ("Proxy-Authenticate",),
    426: ("Sec-WebSocket-Version", "Upgrade"),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
# A client may wait and try again after these, and after any 5xx.
_PASSING_STATUSES = (408, 425, 429)
REDIRECTS = (301, 302, 303, 307, 308)
"""The statuses that lead elsewhere by a Location (RFC 9110, section 15.4)."""
_MAX_REASON_CHARACTERS = 100
# More than is shown of it.
_MAX_PLACE_CHARACTERS = 400
_MAX_HEADER_CHARACTERS = 100
_TITLE = re.compile(r"<title[^<>]*>([^<]*)</title", re.IGNORECASE)


class RedirectError(ConnectionFailedError):
    """The server says by a Location that the connection is to be had elsewhere.

    Attributes:
        secrets: those of the request.
    """

    def __init__(self, message: str, locations: Sequence[str], secrets: Secrets, details: dict[str, object]) -> None:
        super().__init__(message, kind=Kind.INTERNAL, retryable=False, details=details)
        self.secrets = secrets
        self._locations = locations

    def location(self) -> str:
        """Return where it leads.

        Raises:
            InvalidError: it is empty, or there are several.
        """
        first, *others = {location.strip(" \t"): None for location in self._locations}
        if others:
            raise InvalidError("it names several places")
        if not first:
            raise InvalidError("it is empty")
        try:
            # Python reads headers as Latin-1; browsers send and expect UTF-8 in URLs.
            return first.encode("latin-1").decode()
        except UnicodeDecodeError:
            return first


def redirect_text(status: str, location: str, secrets: Secrets) -> str:
    """Return what a redirect says, as a clause without the secrets of the request."""
    place = without_secrets(location)
    rest = len(place) - _MAX_PLACE_CHARACTERS
    place = secrets.hidden(place[:_MAX_PLACE_CHARACTERS], cut=rest > 0)
    if place and rest > 0:
        place += "." * rest  # which is not looked through, and so not shown, but counted
    to = f" to {shown(place)}" if place else ""
    return f"the server redirects{to} (status {status})"


def status_text(status: int, reason: str, secrets: Secrets) -> str:
    """Return a status with its reason phrase, without the secrets of the request."""
    return f"{status} {shown(secrets.hidden(reason), _MAX_REASON_CHARACTERS)}".rstrip()


def refusal_text(status: int, reason: str, headers: Headers, line: str, secrets: Secrets) -> str:
    """Return what an answer with another status than 101 says, as a sentence without the secrets of the request.

    Args:
        status: its status.
        reason: the reason phrase behind that.
        headers: its headers.
        line: what `first_line` gives of its body.
        secrets: those of the request.
    """
    told = status_text(status, reason, secrets)
    if status in REDIRECTS and "location" in headers:
        return f"{redirect_text(told, headers['location'], secrets)}, and redirects are not followed"
    if 200 <= status <= 299:
        text = f"the server answered with status {told}, as to an ordinary request, and did not switch to WebSocket"
    else:
        text = f"the server refused the connection with status {told}"
    explaining = [
        f"{name}: {value}"
        for name in _EXPLAINING_HEADERS.get(status, ())
        if (value := secrets.hidden(", ".join(headers.get_all(name))))
    ]
    if explaining:
        text += f" ({shown('; '.join(explaining), _MAX_HEADER_CHARACTERS)})"
    line = secrets.hidden(line)
    # Many bodies only repeat the status.
    return text if line.lower() in told.lower() else f"{text}: {shown(line)}"


def may_pass(status: int) -> bool:
    """Return whether the same request may succeed later."""
    return status in _PASSING_STATUSES or status >= 500


def first_line(body: bytes, *, complete: bool) -> str:
    """Return the line of a refusal's body that is shown; "" if there is none, or it has not come as a whole.

    Of plain text it is the first that is not blank; of JSON all lines as one; of HTML the title. What is not UTF-8 is
    not shown.

    Args:
        body: what has come of it.
        complete: whether that is all of it.
    """
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(body, final=complete).strip()
    except UnicodeDecodeError:
        return ""
    if "\0" in text:
        return ""
    if text.startswith("<"):
        title = _TITLE.search(text)
        return "" if title is None else " ".join(html.unescape(title[1]).split())
    if text.startswith(("{", "[")):
        return " ".join(line.strip() for line in text.split("\n")) if complete else ""
    line, end, _ = text.partition("\n")
    return line.strip() if complete or end else ""
