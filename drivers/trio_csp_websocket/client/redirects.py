"""The way that redirects of a handshake lead (RFC 6455, section 4.1; RFC 9110, section 15.4)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from csp.errors import ConnectionFailedError, InvalidError, Kind, PermissionDeniedError, shown
from trio_csp_websocket.network.verifying import without_certificate
from trio_csp_websocket.protocol.authority import check_characters
from trio_csp_websocket.protocol.url import Target, parse_url

if TYPE_CHECKING:
    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.protocol.refusal import RedirectError
    from trio_csp_websocket.protocol.secrets import Secrets

# What only the server that the user named may get, beside the credentials in the URL.
_CREDENTIALS = frozenset((b"authorization", b"cookie", b"proxy-authorization"))
_HTTP = re.compile(r"\Ahttp(?=s?:)", re.IGNORECASE)
# How many of the URLs before the last one a text names: the first, and the latest; and how much of each.
_NAMES_SHOWN = 12
_MAX_NAME_CHARACTERS = 100


class Way:
    """Where the user's URL has led so far, and the options for the server there.

    Args:
        target: the user's URL.
        options: the user's options.
    """

    def __init__(self, target: Target, options: Options) -> None:
        self.target = target
        self.options = options
        self.secrets: Secrets | None = None
        """What may be secret in the requests so far; None before the first."""
        # The targets before that, and the URLs that redirects led to.
        self._before: list[Target] = []
        # Whether they have led to another origin; what was left behind then does not come back.
        self._elsewhere = False
        self._redirects: list[str] = []

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
        elif not self._elsewhere:
            self._elsewhere = True
            self.options = _for_another_origin(self.options)
        self._before.append(self.target)
        self._redirects.append(target.url)
        self.secrets = redirect.secrets
        self.target = replace(target, shown_as=_name(target, redirect.secrets))

    def _parsed(self, redirect: RedirectError) -> Target:
        try:
            location = redirect.location()
            check_characters(location, "it")
            return parse_url(_HTTP.sub("ws", _joined(self.target.url, location), count=1))
        except InvalidError as error:
            why = redirect.secrets.hidden(str(error)) or "it is malformed"
            raise self._refused(redirect, f"where no WebSocket can be: {shown(why, _MAX_NAME_CHARACTERS)}") from None

    def _refused(self, redirect: RedirectError, why: str) -> ConnectionFailedError:
        return ConnectionFailedError(
            f"{redirect.message}, {why}", kind=Kind.INTERNAL, retryable=False, details=redirect.details
        )

    @property
    def shown(self) -> str:
        """The way as texts show it: without queries, and without what a server repeats of them in a path."""
        return self.target.shown + self._redirected

    @property
    def _redirected(self) -> str:
        if not self._before:
            return ""
        names = [target.shown for target in self._before]
        if len(names) > _NAMES_SHOWN:
            names[1 : 1 - _NAMES_SHOWN] = [f"{len(names) - _NAMES_SHOWN} more"]
        return f" (redirected from {' -> '.join(names)})"

    def denied(self, error: PermissionDeniedError) -> PermissionDeniedError:
        """Return the error of an address or a proxy that is denied, with the way to it."""
        if not self._before:
            return error
        return PermissionDeniedError(error.message + self._redirected, details={**self.details, **error.details})

    @property
    def details(self) -> dict[str, object]:
        """What errors tell programs of it."""
        details: dict[str, object] = {"url": self.target.url}
        if self._redirects:
            details["redirects"] = tuple(self._redirects)
        return details


def _name(target: Target, secrets: Secrets) -> str:
    """Return a URL as texts show it: a server may repeat in a path what is secret, and make it as long as it likes."""
    name = target.shown
    is_long = len(name) > _MAX_NAME_CHARACTERS
    hidden = secrets.hidden(name[:_MAX_NAME_CHARACTERS], cut=is_long)
    return f"{hidden}..." if is_long or not hidden else hidden


def _joined(url: str, location: str) -> str:
    """Return the absolute form of a Location, which a fragment does not belong to here (RFC 3986, section 5.2).

    Raises:
        InvalidError: it is malformed.
    """
    try:
        return urljoin(url, location.partition("#")[0])
    except ValueError:
        # The text of this error can contain credentials.
        raise InvalidError("it is malformed") from None


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
