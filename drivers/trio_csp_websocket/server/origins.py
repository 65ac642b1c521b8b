"""Which pages of browsers may connect, by their Origin (RFC 6454, section 7; RFC 6455, section 10.2). No I/O.

A browser lets any page open a WebSocket to any server, and sends the cookies of that server along. The Origin, which
the page cannot change, is what tells one page from another.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, final

from csp.errors import InvalidError, shown
from trio_csp_websocket.protocol.authority import host_and_port, is_address, parse_host_and_port
from trio_csp_websocket.server.listed import parse_strings

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_EXPECTED = '"same", "*" for any, or a list of origins'
_ORIGIN = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<any_label>\*\.)?(?P<place>[^/?#@]*)(?P<rest>.*)", re.DOTALL
)
_NULL = "null"


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None
    """That of the scheme if none is written; None if the scheme has none."""


@final
class Origins:
    """The Origins that requests may have."""

    __slots__ = ("_any", "_below", "_exact", "_null", "_same")

    def __init__(
        self,
        *,
        is_any: bool = False,
        same: bool = False,
        null: bool = False,
        exact: Iterable[_Origin] = (),
        below: Iterable[_Origin] = (),
    ) -> None:
        self._any = is_any
        self._same = same
        self._null = null
        self._exact = frozenset(exact)
        # Those whose hosts stand for all names below them.
        self._below = tuple(below)

    def allows(self, origin: str, host: str | None) -> bool:
        """Whether a request with this Origin is let in.

        Args:
            origin: the Origin header, as it was sent.
            host: the host and port that the client asked for, as it wrote them: the Host header, or what a trusted
                proxy says it was; None if there is none.

        With "same", the scheme must be http, https, ws or wss, and host and port those of ``host``. Both are compared
        as they are written but for case; the default port of the Origin's own scheme is the same as none. Otherwise it
        must be one of the origins listed. What is malformed, and several Origins in one header, are let in only with
        "*".
        """
        if self._any:
            return True
        if origin == _NULL:
            return self._null
        parts = _ORIGIN.fullmatch(origin)
        if parts is None or parts["any_label"] or parts["rest"]:
            return False
        scheme = parts["scheme"].lower()
        default_port = _DEFAULT_PORTS.get(scheme)
        place = host_and_port(parts["place"])
        if place is None:
            return False
        port = place.port or default_port
        if self._same:
            return default_port is not None and host is not None and _is_there(host, place.written, port, default_port)
        return (scheme, place.host, port) in self._exact or any(
            (scheme, port) == (above.scheme, above.port) and place.host.endswith(f".{above.host}")
            for above in self._below
        )


def parse_origins(origins: object) -> Origins:
    """Check the option ``origins``.

    Args:
        origins: ``"same"`` for the server's own pages; ``"*"`` for any; or a list, in which each is

            - an origin, such as ``"https://app.example.com"``, with a port unless it is the default one
            - one for all names below another, at any depth, such as ``"https://*.example.com"``; not for that one
            - ``"null"``, which browsers send for pages without an origin, such as files and any site's sandboxed frames

            An empty list lets no browser in.

    Raises:
        InvalidError: an entry is malformed.
        InvalidTypeError: it is neither one of the words nor an iterable of strings.
    """
    if origins == "*":
        return Origins(is_any=True)
    if origins == "same":
        return Origins(same=True)
    null, exact, below = False, list[_Origin](), list[_Origin]()
    for pattern in parse_strings("origins", origins, _EXPECTED):
        if pattern == _NULL:
            null = True
        else:
            _add(pattern, exact, below)
    return Origins(null=null, exact=exact, below=below)


def _add(pattern: str, exact: list[_Origin], below: list[_Origin]) -> None:
    quoted = shown(repr(pattern))
    if pattern in ("*", "same"):
        raise InvalidError(f"origins must have {quoted} alone, not in a list")
    parts = _ORIGIN.fullmatch(pattern)
    if parts is None:
        raise InvalidError(f"origins must have a scheme, as 'https://app.example.com' has, unlike {quoted}")
    if parts["rest"]:
        raise InvalidError(f"origins must have nothing but a scheme, a host and a port, unlike {quoted}")
    place = parse_host_and_port(parts["place"], f"origins has an invalid host in {quoted}")
    scheme = parts["scheme"].lower()
    if parts["any_label"] and is_address(place.host):
        raise InvalidError(f"origins must have a * before names only, not before an address, as {quoted} has")
    (below if parts["any_label"] else exact).append(
        _Origin(scheme, place.host, place.port or _DEFAULT_PORTS.get(scheme))
    )


def _is_there(host: str, written: str, port: int | None, default_port: int) -> bool:
    asked_for = host_and_port(host)
    return asked_for is not None and (written, port) == (asked_for.written, asked_for.port or default_port)
