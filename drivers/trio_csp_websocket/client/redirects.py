"""The way that redirects of a handshake lead (RFC 6455, section 4.1; RFC 9110, section 15.4)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from csp.errors import ConnectionFailedError, InvalidError, Kind, shown
from trio_csp_websocket.network.verifying import without_certificate
from trio_csp_websocket.protocol.authority import check_characters
from trio_csp_websocket.protocol.url import Target, parse_url

if TYPE_CHECKING:
    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.protocol.refusal import RedirectError
    from trio_csp_websocket.protocol.secrets import Secrets

# What only the server that the user named may get, beside the credentials in the URL.
_CREDENTIALS = frozenset((b"authorization", b"cookie", b"proxy-authorization"))
_HTTP = re.compile(r"http(?=s?:)", re.IGNORECASE)


class Way:
    """Where the user's URL has led so far, and the options for the server there.

    Args:
        target: the user's URL.
        options: the user's options.
    """

    def __init__(self, target: Target, options: Options) -> None:
        self.target = target
        self.options = options
        # The targets before that, the URLs that redirects led to, and what was secret in the requests.
        self._before: list[Target] = []
        self._redirects: list[str] = []
        self._secrets: list[Secrets] = []

    def follow(self, redirect: RedirectError) -> None:
        """Take the next step.

        Raises:
            ConnectionFailedError: the redirect leads nowhere, to what must not be followed, or is one too many. Not
                retryable.
        """
        if len(self._redirects) >= self.options.max_redirects:
            raise self._refused(redirect, f"which is one more than max_redirects ({self.options.max_redirects})")
        target = self._parsed(redirect)
        if self.target.secure and not target.secure:
            raise self._refused(redirect, "which would leave TLS")
        if _origin(target) == _origin(self.target):
            # What was for this server stays.
            authorization = target.authorization or self.target.authorization
            target = replace(target, authorization=authorization, zone=self.target.zone)
        elif self.options.route.unix_socket is not None:
            raise self._refused(redirect, "which is another server than that of the Unix socket")
        else:
            self.options = _for_another_origin(self.options)
        self._before.append(self.target)
        self._secrets.append(redirect.secrets)
        self._redirects.append(target.url)
        self.target = target

    def _parsed(self, redirect: RedirectError) -> Target:
        try:
            location = redirect.location()
            check_characters(location, "it")
            joined = _HTTP.sub("ws", urljoin(self.target.url, location.partition("#")[0]), count=1)
            return parse_url(joined)
        except (InvalidError, ValueError) as error:
            why = redirect.secrets.hidden(str(error)) or "it is malformed"
            raise self._refused(redirect, f"where no WebSocket can be: {shown(why)}") from None

    def _refused(self, redirect: RedirectError, why: str) -> ConnectionFailedError:
        return ConnectionFailedError(
            f"{redirect.message}, {why}", kind=Kind.INTERNAL, retryable=False, details=redirect.details
        )

    @property
    def shown(self) -> str:
        """The way as texts show it: without queries, and without what a server repeats of them in a path."""
        if not self._before:
            return self.target.shown
        return f"{self._shown(self.target)} (redirected from {' -> '.join(map(self._shown, self._before))})"

    def _shown(self, target: Target) -> str:
        text = target.shown
        for secrets in self._secrets:
            text = secrets.hidden(text) or "..."
        return text

    @property
    def details(self) -> dict[str, object]:
        """What errors tell programs of it."""
        details: dict[str, object] = {"url": self.target.url}
        if self._redirects:
            details["redirects"] = tuple(self._redirects)
        return details


def _origin(target: Target) -> tuple[bool, str, int]:
    """Return what tells servers apart (RFC 6454, section 4)."""
    return target.secure, target.host, target.port


def _for_another_origin(options: Options) -> Options:
    """Return options without what is meant for the server that the user named: credentials and names of its own."""
    route = options.route
    return replace(
        options,
        headers=tuple((name, value) for name, value in options.headers if name.lower() not in _CREDENTIALS),
        host_header=None,
        route=replace(
            route,
            server_hostname=None,
            ssl_context=None if route.ssl_context is None else without_certificate(route.ssl_context),
        ),
    )
