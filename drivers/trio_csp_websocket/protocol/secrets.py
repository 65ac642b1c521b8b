"""Which parts of a client's request may be secret, what a server says without them, and what looks secret. No I/O."""

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
# No program has as many, or as long ones.
_MAX_SECRETS = 1000
_MAX_CHARACTERS = 256 * 1024
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
# A character beyond U+FFFF is two escapes (RFC 8259, section 7).
_JSON_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4})+|\\.")
_LOOKS_SECRET = re.compile(
    r"pass(word|wd|phrase)|secret|token|bearer|authori[sz]ation|\bauth\b|login|credential|cookie|signature"
    r"|(api|access|private|session)[-_ ]?(key|id)|eyJ[\w-]{8}|://[^/\s]*@",
    re.IGNORECASE,
)
# A longer word is hardly a name.
_MAX_NAME_CHARACTERS = 40
_SHORT_JSON_ESCAPES = {"\\b": "\b", "\\f": "\f", "\\n": "\n", "\\r": "\r", "\\t": "\t"}


class Secrets:
    """What may be secret in a request: its query, credentials, cookies, subprotocols, and headers of the user's.

    Args:
        target: path and query, as they stand in the request line.
        headers: names, in any case, and values.
        earlier: what may be secret in the requests whose redirects led to this one, which a server may have put into
            its path.
    """

    def __init__(self, target: str, headers: Iterable[tuple[str, str]], earlier: Secrets | None = None) -> None:
        found = {*_of_query(target.partition("?")[2])}
        if earlier is not None:
            found.update(earlier._secrets)  # noqa: SLF001  # its own class
        for name, value in headers:
            found.update(_of_header(name.lower(), value))
        # The longest first: a part of one may be another.
        secrets = {secret.lower() for secret in found if len(secret) >= _MIN_CHARACTERS}
        self._secrets: list[str] = sorted(secrets, key=lambda secret: (-len(secret), secret))
        self.too_many: bool = len(secrets) > _MAX_SECRETS or sum(map(len, secrets)) > _MAX_CHARACTERS
        """Whether they are so many that nothing is shown. A server can make them as many as it likes, by redirects."""

    def hidden(self, text: str, *, cut: bool = False) -> str:
        """Return a text with ``...`` in place of each secret, in any case; "" if it has one in an encoded form.

        Encoded forms are those of URLs, HTML and JSON. Returns "" for any text if there are too many secrets to look
        for.

        Args:
            text: what the server says.
            cut: whether more may follow it. Then the beginning of a secret at its end is hidden too.
        """
        if self.too_many:
            return ""
        for secret in self._in(text):
            text = re.sub(re.escape(secret), "...", text, flags=re.IGNORECASE)
        if cut and (size := self._begun(text)):
            text = f"{text[:-size]}..."
        # Mostly these are all the same.
        decoded = {unquote(text), unquote_plus(text), html.unescape(text), _JSON_ESCAPES.sub(_unescaped, text)}
        return "" if any(self._in(form) or (cut and self._begun(form)) for form in decoded) else text

    def _in(self, text: str) -> list[str]:
        lowered = text.lower()
        return [secret for secret in self._secrets if secret in lowered]

    def _begun(self, text: str) -> int:
        """Return how many characters at the end of a text are the beginning of a secret, 0 for none."""
        # Character by character, as a few characters have longer ones in lower case.
        lowered = "".join(character.lower()[0] for character in text)
        begun = 0
        for secret in self._secrets:
            for size in range(min(len(secret) - 1, len(lowered)), max(begun, _MIN_CHARACTERS - 1), -1):
                if lowered.endswith(secret[:size]):
                    begun = size
                    break
        return begun


def looks_secret(text: str) -> bool:
    """Whether a text has a word that goes with credentials, such as ``password``, a JWT, or credentials in a URL."""
    return _LOOKS_SECRET.search(text) is not None


def name_unless_secret(name: str) -> str:
    """Return the name of a subprotocol as texts show it: ``...`` if it may be a token that was put in its place."""
    return "..." if len(name) > _MAX_NAME_CHARACTERS or looks_secret(name) else name


def _of_query(query: str) -> Iterator[str]:
    for part in (query, *re.split("[&;]", query)):
        name, equals, value = part.partition("=")
        for text in (part, value if equals else name):
            yield from (text, unquote(text), unquote_plus(text))


def _of_header(name: str, value: str) -> Iterator[str]:
    if name in _PUBLIC_HEADERS:
        return
    scheme, _, credentials = value.partition(" ")
    # Servers decode cookies in different ways, and may repeat what they decoded.
    for text in (value, credentials):
        yield from (text, unquote(text))
    if scheme.lower() == "basic":
        yield from _of_basic(credentials)
    elif name == "cookie":
        for pair in value.split(";"):
            text = pair.partition("=")[2].strip(' "')
            yield from (text, unquote(text))
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
        # A token often stands in the place of the user's name, with an empty password or a word that says so.
        user, _, password = text.partition(":")
        yield from (text, user, password)


def _unescaped(escapes: re.Match[str]) -> str:
    """Return what JSON escapes stand for; a surrogate that has no other half stays one."""
    text = escapes[0]
    if len(text) > len("\\u"):
        units = b"".join(int(digits, 16).to_bytes(2, "big") for digits in text.split("\\u")[1:])
        return units.decode("utf-16-be", "surrogatepass")
    return _SHORT_JSON_ESCAPES.get(text, text[1])
