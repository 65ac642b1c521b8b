"""What was asked for on the command line, as far as those must know it who tell what came of it."""

from __future__ import annotations

import base64
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

from trio_csp_websocket.command_line.history import given_secrets
from trio_csp_websocket.protocol.secrets import Secrets

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from urllib.parse import SplitResult


@dataclass(frozen=True)
class Request:
    """What texts need of the command line."""

    shown: str = ""
    """The URL as texts show it."""
    secrets: Secrets = field(default_factory=lambda: Secrets("", ()))
    """What may be secret of it."""
    has_credentials: bool = False
    """Whether there are credentials for the server in it."""
    url: str = ""
    """The URL as connections have it that no redirect has led elsewhere; "" if that is not known."""
    unix_socket: bool = False
    """Whether a Unix socket leads to the server, and no port."""
    pieces: frozenset[str] = frozenset()
    """Pieces of what may be secret, for the history: see `given_secrets`."""


def request(parsed: argparse.Namespace) -> Request:
    """Return what was asked for."""
    if parsed.target is None:  # --listen
        return Request(pieces=given_secrets([], [], parsed.protocol or ()))
    target, protocols, proxies = parsed.target, parsed.protocol or (), list(_proxies(parsed.proxy))
    secret = [
        *parsed.header,
        ("Authorization", target.authorization or ""),
        ("Sec-WebSocket-Protocol", ", ".join(protocols)),
        *(("Proxy-Authorization", _basic(proxy)) for proxy in proxies),
    ]
    return Request(
        shown=target.shown,
        url=target.url,
        secrets=Secrets(target.resource, secret),
        pieces=given_secrets([urlsplit(parsed.url or ""), *proxies], parsed.header, protocols),
        has_credentials=bool(target.authorization) or any(name.lower() == "authorization" for name, _ in parsed.header),
        unix_socket=parsed.unix_socket is not None,
    )


def _proxies(given: str | None) -> Iterator[SplitResult]:
    """Yield the URLs of the proxy that was given, and of those that the environment names."""
    # Here, because it takes milliseconds to load.
    import urllib.request  # noqa: PLC0415

    for url in (given or "", *urllib.request.getproxies().values()):
        with contextlib.suppress(ValueError):  # what is malformed is told when it is used
            yield urlsplit(url if "://" in url else f"//{url}")


def _basic(url: SplitResult) -> str:
    """Return the credentials of a URL as they are sent (RFC 7617)."""
    pair = unquote_to_bytes(url.username or "") + b":" + unquote_to_bytes(url.password or "")
    return f"Basic {base64.b64encode(pair).decode()}"
