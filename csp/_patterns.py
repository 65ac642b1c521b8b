"""Which patterns of a policy can match what the drivers ask about, and the form to write.

A policy is compared as it is written. One that can never match is a trap: what it was to deny is allowed. It is found
where it can be known: in patterns of WebSocket and Redis URLs, and in policies that name nothing but actions listed
here. The normal form of a URL is that of its driver (RFC 3986, section 6.2.2), but for international host names, which
only the driver can turn into ASCII.
"""

from __future__ import annotations

import re
import string
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING
from urllib.parse import quote

from csp.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DEFAULT_PORTS = {"ws": 80, "wss": 443}
_SCHEMES = tuple(f"{scheme}://" for scheme in _DEFAULT_PORTS)
_PROXY_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080, "socks4": 1080, "socks4a": 1080}
_PROXY_URL = re.compile(r"(?P<scheme>[a-z0-9]+)://(?P<host>\[[^]]*\]|[^]/?#@:\\[]+)(:(?P<port>[1-9][0-9]{0,4}))?")
_BEGINS_AS_URL = re.compile(r"wss?:", re.IGNORECASE)
_ENDS_IN_AUTHORITY = re.compile(r"wss?://[^/?#]+", re.IGNORECASE)
_URL = re.compile(
    r"(?P<scheme>wss?)://([^/?#\\]*@)?(?P<host>\[[^]]*\]|[^]/?#@:\\[]+)(:(?P<port>[0-9]{0,9}))?"
    r"(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?",
    re.IGNORECASE,
)
_REDIS_SCHEMES = ("redis://", "rediss://")
_REDIS_PORT = 6379
_REDIS_MAX_DATABASE = 2**31 - 1
_MAX_NAME_CHARACTERS = 500
_BEGINS_AS_REDIS_URL = re.compile(r"rediss?:", re.IGNORECASE)
_ENDS_IN_REDIS_AUTHORITY = re.compile(r"rediss?://[^/?#]+", re.IGNORECASE)
_REDIS_URL = re.compile(
    r"(?P<scheme>rediss?)://([^/?#\\]*@)?(?P<host>\[[^]]*\]|[^]/?#@:\\[]+)(:(?P<port>[0-9]{0,9}))?"
    r"(/(?P<database>[0-9]{0,10}))?",
    re.IGNORECASE,
)
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_BEGUN_ESCAPE = re.compile(r"%[0-9A-Fa-f]?\Z")
_UNRESERVED = frozenset((string.ascii_letters + string.digits + "-._~").encode())
_PATH_SAFE = "!$&'()*+,/:;=@%"
_BEGINS_AS_ADDRESS = re.compile(r"([0-9]{1,3}\.){0,3}[0-9]{0,3}|[0-9a-f:]*")

_RULES = (
    "scheme and host in lower case, an international host name in its ASCII form, no user, no default port, a path of "
    "at least /, nothing percent-encoded without need, no spaces and no fragment"
)

_REDIS_RULES = (
    "scheme and host in lower case, an international host name in its ASCII form, no user, always the port and the "
    "number of a database"
)


def check_resources(actions: tuple[str, ...], resources: tuple[str, ...]) -> None:
    """Check that the patterns of a policy's resources can match what its actions are asked about.

    Raises:
        InvalidError: one cannot; the text says what to write.
    """
    if any(matches(action, "websocket.connect.url") for action in actions):
        for resource in filter(_BEGINS_AS_URL.match, resources):
            _check_url(resource)
    if any(matches(action, "redis.connect.url") for action in actions):
        for resource in filter(_BEGINS_AS_REDIS_URL.match, resources):
            _check_redis_url(resource)
    if actions and all(action in _ASKED_ABOUT for action in actions):
        for resource in resources:
            if not any(_ASKED_ABOUT[action][0](resource) for action in actions):
                asked = ", ".join(f"{action} is asked about {_ASKED_ABOUT[action][1]}" for action in actions)
                raise InvalidError(f"resources must not have {_shown(resource)!r}, which never matches: {asked}")


def matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern is a name, or with a ``*`` at its end the beginning of it."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _check_url(pattern: str) -> None:
    beginning = pattern.removesuffix("*")
    form = _normal_pattern(beginning) if pattern.endswith("*") else _normal_url(pattern)
    _check_form(
        *(pattern, form, _RULES, _ENDS_IN_AUTHORITY),
        "such as 'wss://example.com.evil.example/' for 'wss://example.com*'",
    )


def _check_redis_url(pattern: str) -> None:
    beginning = pattern.removesuffix("*")
    form = _normal_redis_pattern(beginning) if pattern.endswith("*") else _normal_redis_url(pattern)
    _check_form(
        *(pattern, form, _REDIS_RULES, _ENDS_IN_REDIS_AUTHORITY),
        "such as 'redis://example.com.evil.example:6379/0' for 'redis://example.com*'",
    )


def _check_form(pattern: str, form: str | None, rules: str, ends_in_authority: re.Pattern[str], others: str) -> None:
    """Check that a pattern is in its normal form; ``form`` is that, or None if there is none."""
    if form == pattern:
        return
    write = f"its normal form has {rules}" if form is None else f"write {_without_query(form)!r}"
    if pattern.endswith("*") and ends_in_authority.fullmatch(pattern[:-1]):
        raise InvalidError(
            f"resources must not have a * in the host or port of a URL, as {_shown(pattern)!r} has: it matches hosts "
            f"of others too, {others}; {write}"
        )
    raise InvalidError(
        f"resources must have URLs in their normal form, unlike {_shown(pattern)!r}, which never matches; {write}"
    )


def _shown(pattern: str) -> str:
    """Return a pattern as texts show it: without its query, and nothing of it where it may have a user's password."""
    return "..." if "@" in pattern else _without_query(pattern)


def _without_query(pattern: str) -> str:
    path, mark, _ = pattern.partition("?")
    return f"{path}{mark and '?...'}"


def _normal_pattern(beginning: str) -> str | None:
    """Return the normal form of a pattern that ends in ``*``, given what stands before that; None if there is none."""
    if any(scheme.startswith(beginning.lower()) for scheme in _SCHEMES):
        return f"{beginning.lower()}*"
    if _ENDS_IN_AUTHORITY.fullmatch(beginning):
        url = _normal_url(f"{beginning}/")
        return url and f"{url}*"
    # What is behind it makes the last segment no dot segment, and may complete an escape.
    begun = None if "?" in beginning else _BEGUN_ESCAPE.search(beginning)
    escape = begun[0] if begun else ""
    url = _normal_url(f"{beginning.removesuffix(escape)}x")
    return url and f"{url[:-1]}{escape.upper()}*"


def _normal_url(url: str) -> str | None:
    """Return the normal form of a URL; None if it has none, or only the driver knows it."""
    parts = _URL.fullmatch(url)
    if parts is None or _NOT_IN_URLS.search(url):
        return None
    scheme = parts["scheme"].lower()
    host = _normal_host(parts["host"])
    port = int(parts["port"] or _DEFAULT_PORTS[scheme])
    path = _normal_path(parts["path"] or "/")
    if host is None or path is None or not 1 <= port <= 65535:
        return None
    authority = host if port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"
    return f"{scheme}://{authority}{path}{quote(parts['query'] or '', safe=string.punctuation)}"


def _normal_redis_pattern(beginning: str) -> str | None:
    """Return the normal form of a pattern that ends in ``*``, given what stands before that; None if there is none."""
    if any(scheme.startswith(beginning.lower()) for scheme in _REDIS_SCHEMES):
        return f"{beginning.lower()}*"
    url = _normal_redis_url(beginning)
    # Without the number of a database, it is for all of them.
    return url and f"{url if beginning[-1].isdigit() and beginning.count('/') > 2 else url[:-1]}*"


def _normal_redis_url(url: str) -> str | None:
    """Return the normal form of a URL; None if it has none, or only the driver knows it."""
    parts = _REDIS_URL.fullmatch(url)
    if parts is None or _NOT_IN_URLS.search(url):
        return None
    host = _normal_host(parts["host"])
    port = int(parts["port"] or _REDIS_PORT)
    database = int(parts["database"] or 0)
    if host is None or not 1 <= port <= 65535 or database > _REDIS_MAX_DATABASE:
        return None
    return f"{parts['scheme'].lower()}://{host}:{port}/{database}"


def _normal_host(host: str) -> str | None:
    if host.startswith("["):
        address = _normal_address(host[1:-1]) if ":" in host else None
        return f"[{address}]" if address and ":" in address else address
    host = host.lower().removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _normal_address(host)
    is_name = _HOST.fullmatch(host) and all(1 <= len(label) <= 63 for label in labels) and len(host) <= 253
    return host if is_name else None


def _normal_path(path: str) -> str | None:
    if any(escape[1] is None for escape in _ESCAPE.finditer(path)):
        return None
    segments: list[str] = []
    names = _ESCAPE.sub(_normal_escape, quote(path, safe=_PATH_SAFE)).split("/")[1:]
    for name in names:
        if name == "..":
            del segments[-1:]
        elif name != ".":
            segments.append(name)
    if names[-1] in (".", ".."):
        segments.append("")
    return "/" + "/".join(segments)


def _normal_escape(escape: re.Match[str]) -> str:
    byte = int(escape[1], 16)
    return chr(byte) if byte in _UNRESERVED else escape[0].upper()


def _normal_address(address: str) -> str | None:
    """Return how an IP address is written, IPv4 as such where it is mapped; None if it is none."""
    try:
        if ":" not in address:
            return str(IPv4Address(address))
        parsed = IPv6Address(address)
    except AddressValueError:
        return None
    return None if parsed.scope_id is not None else str(parsed.ipv4_mapped or parsed)


def _can_be_url(pattern: str) -> bool:
    # One that begins as a URL was checked before.
    return bool(_BEGINS_AS_URL.match(pattern)) or any(matches(pattern, scheme) for scheme in _SCHEMES)


def _can_be_redis_url(pattern: str) -> bool:
    # One that begins as a URL was checked before.
    return bool(_BEGINS_AS_REDIS_URL.match(pattern)) or any(matches(pattern, scheme) for scheme in _REDIS_SCHEMES)


def _can_be_name(pattern: str) -> bool:
    name = pattern.removesuffix("*")
    return (pattern.endswith("*") or name != "") and len(name) <= _MAX_NAME_CHARACTERS and not {"{", "}"} & set(name)


def _can_be_address(pattern: str) -> bool:
    # A resolver of the user's own may say the path of a Unix socket.
    if pattern.endswith("*"):
        return pattern.startswith("/") or bool(_BEGINS_AS_ADDRESS.fullmatch(pattern[:-1]))
    return pattern.startswith("/") or _normal_address(pattern) == pattern


def _can_be_proxy(pattern: str) -> bool:
    if pattern.endswith("*"):
        schemes = [f"{scheme}://" for scheme in _PROXY_PORTS]
        return any(matches(pattern, scheme) or pattern.startswith(scheme) for scheme in schemes)
    parts = _PROXY_URL.fullmatch(pattern)
    if parts is None or parts["scheme"] not in _PROXY_PORTS or _normal_host(parts["host"]) != parts["host"]:
        return False
    return parts["port"] is None or int(parts["port"]) != _PROXY_PORTS[parts["scheme"]]


_NAMES = "names of queues and topics, without the prefix of their keys (1 to 500 characters, no braces)"

_ASKED_ABOUT: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "websocket.connect": (lambda pattern: pattern in ("", "*"), "the empty string"),
    "websocket.connect.url": (_can_be_url, "URLs such as 'wss://example.com/'"),
    "websocket.connect.address": (
        _can_be_address,
        "IP addresses such as '192.0.2.1' and '2001:db8::1' (for a network, write '192.0.2.*' or a condition)",
    ),
    "websocket.connect.proxy": (
        _can_be_proxy,
        "URLs of proxies such as 'http://proxy.example.com:3128' (lower case, no user, no path, no default port)",
    ),
    "redis.connect": (lambda pattern: pattern in ("", "*"), "the empty string"),
    "redis.connect.url": (_can_be_redis_url, "URLs such as 'redis://example.com:6379/0', with port and database"),
    "redis.send": (_can_be_name, _NAMES),
    "redis.receive": (_can_be_name, _NAMES),
}
"""For each action of a driver, whether a pattern can match what it is asked about, and what that is."""
