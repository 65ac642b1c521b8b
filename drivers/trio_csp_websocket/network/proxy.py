"""A proxy: what its URL says, and what texts say of it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.protocol.authority import parse_place

if TYPE_CHECKING:
    from collections.abc import Mapping

_PORTS: Final[Mapping[str, int]] = {
    "http": 80,
    "https": 443,
    "socks5": 1080,
    "socks5h": 1080,
    "socks4": 1080,
    "socks4a": 1080,
}
# RFC 1929, section 2: the length of each is a byte.
_MAX_SOCKS_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, as its URL and the setting that named it say."""

    scheme: str
    """http and https: CONNECT (RFC 9110, section 9.3.6). socks5 and socks5h: RFC 1928. socks4 and socks4a."""
    host: str
    zone: str
    port: int
    url: str
    """The normalised URL, without credentials and the scheme's own port."""
    user: bytes = field(repr=False)
    password: bytes = field(repr=False)
    setting: str = ""
    """What named it, if that was not the option: an environment variable, or the system's settings."""

    @property
    def is_http(self) -> bool:
        """Whether it is asked by CONNECT."""
        return self.scheme in ("http", "https")

    @property
    def resolves_names(self) -> bool:
        """Whether it is given the name of the target; else it gets an address."""
        return self.scheme not in ("socks5", "socks4")

    @property
    def shown(self) -> str:
        """It as texts show it, with what named it, and what to write to do without."""
        if not self.setting:
            return f"the proxy {self.url}"
        return f"the proxy {self.url} (named by {self.setting}; proxy=None connects without it)"

    @property
    def authorization(self) -> bytes | None:
        """The Proxy-Authorization header for its credentials (RFC 7617), if it has any."""
        if not (self.user or self.password):
            return None
        return b"Basic " + base64.b64encode(self.user + b":" + self.password)


def parse_proxy(url: str, *, setting: str = "") -> Proxy:
    """Parse the URL of a proxy.

    Args:
        url: the URL: a scheme, credentials if need be, a host, and a port if it is not the scheme's own.
        setting: what named it, if that was not the option ``proxy``; errors begin with it.

    Raises:
        InvalidError: it is malformed, or has credentials that its kind of proxy cannot be given. The text shows none.
        InvalidTypeError: it is not a string.
    """
    name = setting or "proxy"
    if not isinstance(url, str):
        raise InvalidTypeError(f"proxy must be a URL, True or None, not {type(url).__name__}")
    place = parse_place(url, _PORTS, name)
    parts = place.parts
    if parts.path.strip("/") or "?" in url:
        raise InvalidError(f"{name} must end with the proxy's host and port: it has a path or a query")
    proxy = Proxy(
        scheme=place.scheme,
        host=place.host,
        zone=place.zone,
        port=place.port or _PORTS[place.scheme],
        url=f"{place.scheme}://{place.host_and_port(_PORTS[place.scheme])}",
        user=unquote_to_bytes(parts.username or ""),
        password=unquote_to_bytes(parts.password or ""),
        setting=setting,
    )
    _check_credentials(proxy, name)
    return proxy


def _check_credentials(proxy: Proxy, name: str) -> None:
    if proxy.is_http:
        if b":" in proxy.user:
            raise InvalidError(f"{name} has a user name with a colon, which Basic authorization cannot express")
        return
    credentials = proxy.user, proxy.password
    if not all(each.isascii() and b"\0" not in each for each in credentials):
        raise InvalidError(f"{name} has credentials that are not ASCII, or have a NUL, which SOCKS cannot be given")
    if any(len(each) > _MAX_SOCKS_CHARACTERS for each in credentials):
        raise InvalidError(f"{name} has a user name or a password of more than {_MAX_SOCKS_CHARACTERS} characters")
    if proxy.scheme in ("socks4", "socks4a"):
        if proxy.password:
            raise InvalidError(f"{name} has a password, and SOCKS4 knows none: it takes a user name only")
    elif bool(proxy.user) != bool(proxy.password):
        raise InvalidError(f"{name} has a user name without a password, or the reverse: SOCKS5 takes both, or neither")
