"""Where a URL leads: ``redis://user:password@host:port/db``, or ``rediss:`` for TLS.

https://www.iana.org/assignments/uri-schemes/prov/redis
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

import idna

from csp.errors import InvalidError, InvalidTypeError

_DEFAULT_PORT = 6379
# So that what is not linear in what libraries do with a URL stays small: urllib, and Unicode's normal forms.
_MAX_CHARACTERS = 4096
_MAX_HOST_CHARACTERS = 253
_MAX_DATABASE = 2**31 - 1
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f\ud800-\udfff\\]")
_BRACKETED = re.compile(r"\[[^]%]*\](:[0-9]*)?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_NO_HOST = (
    "url has a host that is neither a name nor an address: it must be a name, an IPv4 address of four numbers, or an "
    "IPv6 address in brackets without a zone"
)
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads."""

    url: str
    """Host, port and database; no user."""
    secure: bool
    host: str
    port: int
    database: int
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)


def parse_url(url: object) -> Target:
    """Parse a URL. Errors show no user and no password.

    Raises:
        InvalidError: it is malformed, or has another scheme, a query or a fragment.
        InvalidTypeError: it is no string.
    """
    if not isinstance(url, str):
        raise InvalidTypeError(f"url must be a string, not {type(url).__name__}")
    if len(url) > _MAX_CHARACTERS or _NOT_IN_URLS.search(url):
        raise InvalidError(
            f"url must have at most {_MAX_CHARACTERS} characters, and no spaces, control characters, surrogates or "
            "backslashes; percent-encode them in a user or password"
        )
    if "?" in url or "#" in url:
        raise InvalidError(
            "url must have no query and no fragment: options are arguments of Bus; in a user or password, write %3F "
            "and %23"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidError(
            "url is malformed: it needs a host, and a port of 1 to 65535; in a user or password, / is written as %2F"
        ) from None
    if parts.scheme not in ("redis", "rediss") or "://" not in url:
        raise InvalidError('url must start with "redis://" or "rediss://"')
    if port == 0:
        raise InvalidError("url must have a port of 1 to 65535, not 0")
    host = _host(parts)
    port = port or _DEFAULT_PORT
    database = _database(parts.path)
    bracketed = f"[{host}]" if ":" in host else host
    return Target(
        url=f"{parts.scheme}://{bracketed}:{port}/{database}",
        secure=parts.scheme == "rediss",
        host=host,
        port=port,
        database=database,
        user=_decoded(parts.username),
        password=_decoded(parts.password),
    )


def _host(parts: SplitResult) -> str:
    """Return the host in its normal form: what is shown, and asked of policies, is what is dialled."""
    host = parts.hostname or ""
    try:
        if "[" in parts.netloc.rpartition("@")[2]:
            return _ipv6_host(parts, host)
        if not host.isascii() and len(host) <= _MAX_HOST_CHARACTERS:
            host = idna.encode(host, uts46=True).decode()
        # With the dot of an absolute name, one host would have two names.
        host = host.removesuffix(".")
        labels = host.split(".")
        if _NUMBER.fullmatch(labels[-1]):
            # The system takes "127.1" and "0x7f000001" for addresses too: other names of what a policy may deny.
            return str(IPv4Address(host))
    except (AddressValueError, idna.IDNAError):
        raise InvalidError(_NO_HOST) from None
    if (
        not _HOST.fullmatch(host)
        or len(host) > _MAX_HOST_CHARACTERS
        or not all(1 <= len(each) <= 63 for each in labels)
    ):
        raise InvalidError(_NO_HOST)
    return host


def _ipv6_host(parts: SplitResult, host: str) -> str:
    """Return an IPv6 address; of one that IPv4 is mapped to (RFC 4291, section 2.5.5.2), the IPv4 address.

    Both lead to the same place, and versions of Python write a mapped address differently.

    Raises:
        AddressValueError: it is malformed, or has a zone.
    """
    if not _BRACKETED.fullmatch(parts.netloc.rpartition("@")[2]):
        raise AddressValueError
    address = IPv6Address(host)
    return str(address.ipv4_mapped or address)


def _database(path: str) -> int:
    number = path.removeprefix("/")
    if not re.fullmatch(r"[0-9]{0,10}", number) or int(number or 0) > _MAX_DATABASE:
        raise InvalidError("url must have nothing after host and port but the number of a database, as in /0")
    return int(number or 0)


def _decoded(text: str | None) -> str | None:
    """Return a percent-decoded user or password; None if there is none, or it is empty."""
    if not text:
        return None
    if _ESCAPE.search(text):
        raise InvalidError("url has a % in its user or password that is not followed by two hexadecimal digits")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise InvalidError("url has a user or password that is not UTF-8 once it is percent-decoded") from None
