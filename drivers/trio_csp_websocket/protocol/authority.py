"""Where a URL or a Host header leads: scheme, user, host and port (RFC 3986, section 3.2), normalised. No I/O."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, urlsplit

import idna

from csp.errors import InvalidError, InvalidTypeError, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^][]*\]|[^][:]+)(:(?P<port>[0-9]{0,5}))?")
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
_MAX_PORT = 65535

# Most requests of a server name one of a few hosts, and to look at one takes a twentieth of what accepting does. So
# what was found is remembered, of as many hosts.
_REMEMBERED = 128


class Place(NamedTuple):
    """Where a URL leads, and the rest of it."""

    scheme: str
    host: str
    """Normalised, without brackets and zone."""
    zone: str
    """The interface that leads to a link-local IPv6 address; "" for any other host."""
    port: int | None
    parts: SplitResult
    """What urllib makes of the URL, for its user, path and query."""

    def host_and_port(self, default_port: int | None) -> str:
        """Return host and port as they stand in a URL: an IPv6 address in brackets, and no default port."""
        bracketed = f"[{self.host}]" if ":" in self.host else self.host
        return bracketed if self.port in (None, default_port) else f"{bracketed}:{self.port}"


def parse_place(url: str, schemes: Mapping[str, int], name: str = "url") -> Place:
    """Parse a URL up to its path.

    Args:
        url: the URL.
        schemes: those it may have, with their default ports.
        name: what errors call it. Their texts show no credentials.

    Raises:
        InvalidError: it is malformed, or has another scheme or a fragment.
        InvalidTypeError: it is not a string.
    """
    if not isinstance(url, str):
        raise InvalidTypeError(f"{name} must be a string, not {type(url).__name__}")
    check_characters(url, name)
    # The texts of urllib's own errors can contain the credentials.
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidError(f"{name} is malformed: what follows the scheme names no valid host") from None
    try:
        port = parts.port
    except ValueError:
        raise InvalidError(f"{name} has a port that is not a number of 1 to 65535") from None
    if parts.scheme not in schemes:
        # Without "://", what looks like a scheme can be a user's name.
        found = f', not "{parts.scheme}:"' if "://" in url else ""
        *others, last = (f'"{scheme}://"' for scheme in schemes)
        raise InvalidError(f"{name} must start with {', '.join(others)} or {last}{found}")
    if "#" in url:
        raise InvalidError(f"{name} must not have a fragment (#...): it would not be sent")
    if port == 0:
        raise InvalidError(f"{name} must have a port of 1 to 65535, not 0")
    host, zone = _url_host(parts, name)
    return Place(parts.scheme, host, zone, port, parts)


class HostAndPort(NamedTuple):
    """What a Host header says."""

    host: str
    """Normalised, without brackets."""
    port: int | None
    written: str
    """The host in lower case, and otherwise as it was written: an IPv6 address in brackets, a dot at the end kept."""


def parse_host_and_port(text: str, problem: str) -> HostAndPort:
    """Parse ``host``, ``host:`` or ``host:port``, with an IPv6 address in brackets (RFC 9110, section 7.2).

    A host name may be international: `HostAndPort.host` is its ASCII form.

    Raises:
        InvalidError: it is malformed, or its port is not 1 to 65535; the text begins with ``problem``.
    """
    parts = _HOST_AND_PORT.fullmatch(text)
    if parts is None:
        raise InvalidError(f"{problem}: {shown(repr(text))}")
    written = parts["host"]
    if written.startswith("["):
        try:
            host = normalized_ipv6(written[1:-1])
        except AddressValueError:
            raise InvalidError(f"{problem}: {shown(repr(written))} is no IPv6 address") from None
    else:
        host = normalized_host(written, problem)
    port = int(parts["port"]) if parts["port"] else None
    if port is not None and not 1 <= port <= _MAX_PORT:
        raise InvalidError(f"{problem}: the port must be 1 to {_MAX_PORT}, not {port}")
    return HostAndPort(host, port, written.lower())


@lru_cache(_REMEMBERED)
def host_and_port(field: str) -> HostAndPort | None:
    """Parse a Host header, or what stands for it, as a peer sent it: in ASCII. None: it is malformed."""
    if len(field) > 2 * _MAX_HOST_CHARACTERS or not field.isascii():
        return None
    try:
        return parse_host_and_port(field, "")
    except InvalidError:
        return None


@lru_cache(_REMEMBERED)
def check_host_header(host_and_port: str, name: str) -> None:
    """Refuse what cannot be sent as a Host header; errors begin with ``name``."""
    try:
        host_and_port.encode("idna")  # as wsproto will
    except UnicodeError:
        raise InvalidError(f"{name} has a host name whose last part is too long to stand before a port") from None


def check_characters(url: str, name: str) -> None:
    """Refuse what libraries would let pass, or take much time for."""
    if len(url) > _MAX_URL_CHARACTERS:
        raise InvalidError(f"{name} must have at most {_MAX_URL_CHARACTERS} characters, not {len(url)}")
    # urlsplit would drop some of these silently.
    if re.search(r"[\x00-\x20\x7f\ud800-\udfff]", url):
        raise InvalidError(f"{name} must not contain spaces, control characters or surrogates")
    # Browsers take it for a slash, which ends the host, and urllib does not: who has checked a URL before it came here
    # may have had another host in mind.
    if _BACKSLASH_BEFORE_PATH.match(url):
        raise InvalidError(f"{name} must not have a backslash before its path; in a password, write %5C")
    authority = _AUTHORITY.match(url)
    if authority is not None and len(authority[1]) > _MAX_AUTHORITY_CHARACTERS:
        raise InvalidError(
            f"{name} must have at most {_MAX_AUTHORITY_CHARACTERS} characters of credentials, host and port, not "
            f"{len(authority[1])}"
        )
    zone = None if authority is None else _ZONE_IN_BRACKETS.match(authority[1].rpartition("@")[2])
    if zone is not None and _ZONE.fullmatch(zone[1]) is None:
        raise InvalidError(
            f"{name} has an IPv6 zone that is not made of letters, digits, and the characters - . _ ~ only: write the "
            "interface's name or number, as in [fe80::1%25eth0]"
        )


def _url_host(parts: SplitResult, name: str) -> tuple[str, str]:
    """Return the host, and its zone or ""."""
    host = parts.hostname or ""
    if not host:
        raise InvalidError(f"{name} must name a host")
    location = parts.netloc.rpartition("@")[2]
    if location.startswith("["):
        try:
            if not re.fullmatch(r"\[[^]]*\](:[0-9]*)?", location):
                raise AddressValueError
            address, mark, zone = host.partition("%")
            normalized = normalized_ipv6(address)
        except AddressValueError:
            raise InvalidError(f"{name} has an invalid IPv6 address: {location.partition(']')[0]}]") from None
        if not mark:
            return normalized, ""
        if ":" not in normalized or not IPv6Address(normalized).is_link_local:
            raise InvalidError(f"{name} has the address {normalized} with a zone: only those of fe80::/10 may have one")
        found = _ZONE.fullmatch(zone)
        assert found is not None  # it was checked
        return normalized, found[1]
    return normalized_host(host, f"{name} has an invalid host name"), ""


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


def is_address(host: str) -> bool:
    """Tell whether a normalised host is an IP address."""
    return ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


@lru_cache(_REMEMBERED)
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
