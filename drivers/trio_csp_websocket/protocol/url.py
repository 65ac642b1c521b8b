"""WebSocket URLs (RFC 6455, section 3), parsed and normalised: what is shown and checked is what is dialled."""

from __future__ import annotations

import base64
import re
import string
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

import idna

from csp.errors import InvalidError, InvalidTypeError

_DEFAULT_PORTS = {"ws": 80, "wss": 443}
_UNRESERVED = frozenset((string.ascii_letters + string.digits + "-._~").encode())
# What stands in a path as it is, besides the unreserved (RFC 3986, section 3.3); the rest is percent-encoded. In a
# query, only what is not ASCII is.
_PATH_SAFE = "!$&'()*+,/:;=@%"
_QUERY_SAFE = string.punctuation
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BACKSLASH_BEFORE_PATH = re.compile(r"[^/?#]*//[^/?#]*\\")
_AUTHORITY = re.compile(r"[^/?#]*//([^/?#]*)")
# The zone of an IPv6 address, and its form in a URL, where a % is written as %25 (RFC 6874, section 2).
_ZONE_IN_BRACKETS = re.compile(r"\[[^]%]*%([^]]*)")
_ZONE = re.compile(r"(?:25)?([A-Za-z0-9._~-]+)")
# So that what is not linear in what libraries do with a URL stays small: urllib, and Unicode's normal forms.
_MAX_URL_CHARACTERS = 64 * 1024
# User name, password, host and port.
_MAX_AUTHORITY_CHARACTERS = 4096
_MAX_HOST_CHARACTERS = 253
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

    @property
    def shown(self) -> str:
        """The URL as texts show it: with the zone, and without the query, which may hold a token."""
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
    if not isinstance(url, str):
        raise InvalidTypeError(f"url must be a string, not {type(url).__name__}")
    _check_characters(url)
    # The texts of urllib's own errors can contain the credentials.
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidError("url is malformed: what follows the scheme names no valid host") from None
    try:
        port = parts.port
    except ValueError:
        raise InvalidError("url has a port that is not a number of 1 to 65535") from None
    if parts.scheme not in _DEFAULT_PORTS:
        # Without "://", what looks like a scheme can be a user's name.
        found = f', not "{parts.scheme}:"' if "://" in url else ""
        raise InvalidError(f'url must start with "ws://" or "wss://"{found}')
    if "#" in url:
        raise InvalidError("url must not have a fragment (#...): it would not be sent")
    if port == 0:
        raise InvalidError("url must have a port of 1 to 65535, not 0")
    host, zone = _url_host(parts)
    bracketed = f"[{host}]" if ":" in host else host
    default_port = _DEFAULT_PORTS[parts.scheme]
    host_header = bracketed if port in (None, default_port) else f"{bracketed}:{port}"
    try:
        host_header.encode("idna")  # as wsproto will
    except UnicodeError:
        raise InvalidError("url has a host name whose last part is too long to stand before a port") from None
    resource = _path(parts.path) + (f"?{quote(parts.query, safe=_QUERY_SAFE)}" if "?" in url else "")
    return Target(
        url=f"{parts.scheme}://{host_header}{resource}",
        secure=parts.scheme == "wss",
        host=host,
        port=port or default_port,
        host_header=host_header,
        resource=resource,
        authorization=_authorization(parts),
        zone=zone,
    )


def _check_characters(url: str) -> None:
    """Refuse what libraries would let pass, or take much time for."""
    if len(url) > _MAX_URL_CHARACTERS:
        raise InvalidError(f"url must have at most {_MAX_URL_CHARACTERS} characters, not {len(url)}")
    # urlsplit would drop some of these silently.
    if re.search(r"[\x00-\x20\x7f\ud800-\udfff]", url):
        raise InvalidError("url must not contain spaces, control characters or surrogates")
    # Browsers take it for a slash, which ends the host, and urllib does not: who has checked a URL before it came here
    # may have had another host in mind.
    if _BACKSLASH_BEFORE_PATH.match(url):
        raise InvalidError("url must not have a backslash before its path; in a password, write %5C")
    authority = _AUTHORITY.match(url)
    if authority is not None and len(authority[1]) > _MAX_AUTHORITY_CHARACTERS:
        raise InvalidError(
            f"url must have at most {_MAX_AUTHORITY_CHARACTERS} characters of credentials, host and port, not "
            f"{len(authority[1])}"
        )
    zone = None if authority is None else _ZONE_IN_BRACKETS.match(authority[1].rpartition("@")[2])
    if zone is not None and _ZONE.fullmatch(zone[1]) is None:
        raise InvalidError(
            "url has an IPv6 zone that is not made of letters, digits, and the characters - . _ ~ only: write the "
            "interface's name or number, as in [fe80::1%25eth0]"
        )


def _url_host(parts: SplitResult) -> tuple[str, str]:
    """Return the host, and its zone or ""."""
    host = parts.hostname or ""
    if not host:
        raise InvalidError("url must name a host")
    location = parts.netloc.rpartition("@")[2]
    if location.startswith("["):
        try:
            if not re.fullmatch(r"\[[^]]*\](:[0-9]*)?", location):
                raise AddressValueError
            address, mark, zone = host.partition("%")
            normalized = normalized_ipv6(address)
        except AddressValueError:
            raise InvalidError(f"url has an invalid IPv6 address: {location.partition(']')[0]}]") from None
        if not mark:
            return normalized, ""
        if ":" not in normalized or not IPv6Address(normalized).is_link_local:
            raise InvalidError(f"url has the address {normalized} with a zone: only those of fe80::/10 may have one")
        found = _ZONE.fullmatch(zone)
        assert found is not None  # it was checked
        return normalized, found[1]
    return normalized_host(host, "url has an invalid host name"), ""


def normalized_ipv6(address: str) -> str:
    """Return the text of an IPv6 address; of one that IPv4 is mapped to (RFC 4291, section 2.5.5.2), the IPv4 address.

    Both lead to the same place, and Python writes a mapped address as ``::ffff:7f00:1`` up to 3.12 and as
    ``::ffff:127.0.0.1`` from 3.13: policies would hold on some of them only.

    Raises:
        AddressValueError: it is malformed, or has a zone, which may be any text.
    """
    if "%" in address:
        raise AddressValueError
    parsed = IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)


def normalized_host(host: str, problem: str) -> str:
    """Return a host name in its ASCII form and lower case, or raise an error that begins with ``problem``."""
    if len(host.removesuffix(".")) > _MAX_HOST_CHARACTERS:
        raise InvalidError(f"{problem}: it has {len(host)} characters, more than {_MAX_HOST_CHARACTERS}")
    given, host = host, host.lower()
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise InvalidError(f"{problem}: {error}") from None
    # With the dot of an absolute name, one host would have two names.
    host = host.removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            # The system takes "127.1" and "0x7f000001" for addresses too: other names of what a policy may deny.
            raise InvalidError(f"{problem}: {given!r} is no IPv4 address of four numbers") from None
    if (
        not _HOST.fullmatch(host)
        or not all(1 <= len(label) <= 63 for label in labels)
        or len(host) > _MAX_HOST_CHARACTERS
    ):
        raise InvalidError(f"{problem}: {given!r}")
    return host


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
