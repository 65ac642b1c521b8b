"""WebSocket URLs (RFC 6455, section 3), parsed and normalised: what is shown and checked is what is dialled."""

from __future__ import annotations

import base64
import re
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from csp.errors import InvalidError
from trio_csp_websocket.protocol.authority import check_host_header, parse_place

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_DEFAULT_PORTS = {"ws": 80, "wss": 443}
_UNRESERVED = frozenset((string.ascii_letters + string.digits + "-._~").encode())
# What stands in a path as it is, besides the unreserved (RFC 3986, section 3.3); the rest is percent-encoded. In a
# query, only what is not ASCII is.
_PATH_SAFE = "!$&'()*+,/:;=@%"
_QUERY_SAFE = string.punctuation
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads."""

    url: str = field(repr=False)
    """The normalised URL, without credentials."""
    secure: bool
    host: str
    """For TLS, and the policies: without brackets and zone."""
    port: int
    host_header: str
    resource: str = field(repr=False)
    """Path and query, as they go into the request line."""
    authorization: str | None = field(repr=False)
    """The Authorization header made of the URL's credentials."""
    zone: str = ""
    """The interface that leads to a link-local IPv6 address, by name or number; "" for any other host. It means nothing
    to others, so it stands neither in `url` nor in what the server gets (RFC 6874, section 4)."""
    shown_as: str = ""
    """What `shown` is, if that is not made of the URL."""

    @property
    def shown(self) -> str:
        """The URL as texts show it: with the zone, and without the query, which may hold a token."""
        if self.shown_as:
            return self.shown_as
        shown = without_query(self.url)
        return shown.replace("]", f"%25{self.zone}]", 1) if self.zone else shown

    @property
    def looked_up(self) -> str:
        """The host for name resolution: with its zone."""
        return f"{self.host}%{self.zone}" if self.zone else self.host


def without_query(url: str) -> str:
    """Return a URL with ``...`` in place of its query."""
    path, mark, _ = url.partition("?")
    return f"{path}{mark}..." if mark else url


def path_and_query(url: str) -> tuple[str, str]:
    """Return the path of a normalised URL, and its query, "" if it has none."""
    place, _, query = url.partition("?")
    return "/" + place.split("/", 3)[3], query


def without_secrets(location: str) -> str:
    """Return where a redirect leads without credentials, query and fragment, which may hold tokens."""
    location = re.sub(r"^([^/?#]*//)[^/?#]*@", r"\1", location)
    return re.sub(r"([?#]).*", r"\1...", location, flags=re.DOTALL)


def parse_url(url: str) -> Target:
    """Parse and normalise a ``ws:`` or ``wss:`` URL.

    Scheme and host become lower case, an international host name its ASCII form, an IPv6 address that IPv4 is mapped
    to the IPv4 address; a default port is dropped, as is the dot at the end of an absolute host name; unreserved
    characters are percent-decoded and dot segments resolved (RFC 3986, section 6.2.2); the query stays as it is. A
    backslash is refused before the path, percent-encoded in it. A link-local IPv6 address may have a zone, written as
    ``%25eth0`` or ``%eth0``.

    Raises:
        InvalidError: it is malformed, or not a WebSocket URL. The text of the error shows no credentials.
    """
    place = parse_place(url, _DEFAULT_PORTS)
    parts = place.parts
    default_port = _DEFAULT_PORTS[place.scheme]
    host_header = place.host_and_port(default_port)
    check_host_header(host_header, "url")
    resource = _path(parts.path) + (f"?{quote(parts.query, safe=_QUERY_SAFE)}" if "?" in url else "")
    return Target(
        url=f"{place.scheme}://{host_header}{resource}",
        secure=place.scheme == "wss",
        host=place.host,
        port=place.port or default_port,
        host_header=host_header,
        resource=resource,
        authorization=_authorization(parts),
        zone=place.zone,
    )


def _path(path: str) -> str:
    """Return a path percent-encoded where it must be and nowhere else, without dot segments."""
    if any(escape[1] is None for escape in _ESCAPE.finditer(path)):
        raise InvalidError("url has a % in its path that is not followed by two hexadecimal digits")
    path = _ESCAPE.sub(_normalised_escape, quote(path, safe=_PATH_SAFE))
    # RFC 3986, section 5.2.4.
    segments: list[str] = []
    names = path.split("/")[1:] or [""]
    for name in names:
        if name == "..":
            del segments[-1:]
        elif name != ".":
            segments.append(name)
    if names[-1] in (".", ".."):
        segments.append("")
    return "/" + "/".join(segments)


def _normalised_escape(escape: re.Match[str]) -> str:
    byte = int(escape[1], 16)
    return chr(byte) if byte in _UNRESERVED else escape[0].upper()


def _authorization(parts: SplitResult) -> str | None:
    """Return Basic credentials (RFC 7617) for the user and password of a URL, if it has them."""
    if not parts.username and not parts.password:
        return None
    user, password = unquote_to_bytes(parts.username or ""), unquote_to_bytes(parts.password or "")
    if b":" in user:
        raise InvalidError("url has a user name with a colon, which Basic authorization cannot express")
    return "Basic " + base64.b64encode(user + b":" + password).decode("ascii")
