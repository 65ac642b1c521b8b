"""What to try where there is no connection, as far as that is known."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from csp.errors import ConnectionFailedError
from trio_csp_websocket.protocol.secrets import Secrets

_OF_CAUSES = (
    (socket.gaierror, "; is the host name right?"),
    (ssl.SSLCertVerificationError, "; --ca FILE trusts its authority, --insecure trusts anybody"),
)
# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH: the certificate is that of another server.
_MISMATCHES = (62, 64)
_ARGUMENTS = {"proxy=None": "--no-proxy", "max_redirects": "--max-redirects"}
_OPTIONS = re.compile("|".join(_ARGUMENTS))


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line, as far as those must know it who tell what came of it."""

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


def told(error: BaseException) -> str:
    """Return the text of an error, with the names that arguments have here in place of those of options."""
    return _OPTIONS.sub(lambda option: _ARGUMENTS[option[0]], str(error))


def advice(error: BaseException | None, request: Request) -> str:
    """Return what to try after connecting has failed, as the rest of a sentence; "" where nothing is known."""
    if isinstance(error, ConnectionFailedError) and error.status is not None:
        return _of_status(error, request)
    while error is not None:
        if getattr(error, "verify_code", None) in _MISMATCHES:
            return "; is the host name right?"
        if isinstance(error, ConnectionRefusedError):
            return f"; is the server running{'' if request.unix_socket else ', and on this port'}?"
        for kind, text in _OF_CAUSES:
            if isinstance(error, kind):
                return text
        error = error.__cause__
    return ""


def _of_status(error: ConnectionFailedError, request: Request) -> str:
    if "proxy" in error.details:
        return ""  # it is the proxy's, and the text says what it wants
    match error.status:
        case 401 | 403:
            if not request.has_credentials:
                return "; credentials go into --header 'Authorization: ...' or the URL"
            if urlsplit(str(error.details.get("url", request.url)))[:2] != urlsplit(request.url)[:2]:
                return "; the credentials are for the server of the URL, and not sent to another that it redirects to"
            return "; the credentials were not accepted"
        case 404:
            return "; is the path right?"
        case _:
            return ""
