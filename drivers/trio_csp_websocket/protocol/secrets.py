"""Which parts of a client's request may be secret, and what a server says without them. No I/O."""

from __future__ import annotations

import base64
import binascii
import html
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# What is shorter is no secret, and would be found in many a word.
_MIN_CHARACTERS = 4
# Headers whose values may be shown; those of any other header may be secret.
_PUBLIC_HEADERS = frozenset(
    (
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "connection",
        "host",
        "origin",
        "pragma",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-version",
        "upgrade",
        "user-agent",
    )
)
_JSON_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")


class Secrets:
    """What may be secret in a request: its query, credentials, cookies, subprotocols, and headers of the user's.

    Args:
        target: path and query, as they stand in the request line.
        headers: names, in any case, and values.
    """

    def __init__(self, target: str, headers: Iterable[tuple[str, str]]) -> None:
        found = {*_of_query(target.partition("?")[2])}
        for name, value in headers:
            found.update(_of_header(name.lower(), value))
        # The longest first: a part of one may be another.
        secrets = {secret.lower() for secret in found if len(secret) >= _MIN_CHARACTERS}
        self._secrets = sorted(secrets, key=lambda secret: (-len(secret), secret))

    def hidden(self, text: str) -> str:
        """Return a text with ``...`` in place of each secret, in any case; "" if it has one in an encoded form.

        Encoded forms are those of URLs, HTML and JSON.
        """
        for secret in self._in(text):
            text = re.sub(re.escape(secret), "...", text, flags=re.IGNORECASE)
        decoded = unquote(text), unquote_plus(text), html.unescape(text), _JSON_ESCAPE.sub(_unescaped, text)
        return "" if any(self._in(form) for form in decoded) else text

    def _in(self, text: str) -> list[str]:
        lowered = text.lower()
        return [secret for secret in self._secrets if secret in lowered]


def _of_query(query: str) -> Iterator[str]:
    for part in (query, *re.split("[&;]", query)):
        name, equals, value = part.partition("=")
        for text in (part, value if equals else name):
            yield from (text, unquote(text), unquote_plus(text))


def _of_header(name: str, value: str) -> Iterator[str]:
    if name in _PUBLIC_HEADERS:
        return
    yield value
    scheme, _, credentials = value.partition(" ")
    yield credentials
    if scheme.lower() == "basic":
        yield from _of_basic(credentials)
    elif name == "cookie":
        yield from (pair.partition("=")[2].strip(' "') for pair in value.split(";"))
    elif name == "sec-websocket-protocol":
        yield from re.split("[ ,]+", value)


def _of_basic(credentials: str) -> Iterator[str]:
    """Yield what Basic credentials stand for (RFC 7617), in both encodings that servers read them in."""
    try:
        pair = base64.b64decode(credentials, validate=True)
    except (binascii.Error, ValueError):
        return
    for encoding in ("utf-8", "latin-1"):
        text = pair.decode(encoding, "replace")
        yield from (text, text.partition(":")[2])


def _unescaped(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else escape[2]
