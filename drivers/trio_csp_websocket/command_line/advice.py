"""What to try where there is no connection, or no server, as far as that is known."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from csp.errors import ConnectionFailedError, ListenFailedError

if TYPE_CHECKING:
    from trio_csp_websocket.command_line.request import Request

# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH: the certificate is that of another server.
_MISMATCHES = (62, 64)
_ARGUMENTS = {"proxy=None": "--no-proxy", "max_redirects": "--max-redirects"}
_OPTIONS = re.compile("|".join(_ARGUMENTS))


def told(error: BaseException) -> str:
    """Return the text of an error, with the names that arguments have here in place of those of options."""
    return _OPTIONS.sub(lambda option: _ARGUMENTS[option[0]], str(error))


def advice(error: BaseException | None, request: Request) -> str:
    """Return what to try after connecting or listening has failed, as the rest of a sentence; "" for nothing."""
    of_proxy = is_of_proxy(error)
    if isinstance(error, ListenFailedError):
        in_use = error.details.get("errno") == errno.EADDRINUSE
        return "; --listen 0 takes a free port" if in_use else ""
    if isinstance(error, ConnectionFailedError) and error.status is not None:
        return "" if of_proxy else _of_status(error, request)  # the text says what a proxy wants
    cause = error
    while cause is not None:
        match cause:
            case ssl.SSLCertVerificationError() if getattr(cause, "verify_code", 0) not in _MISMATCHES:
                return "" if of_proxy else "; --ca FILE trusts its authority, --insecure trusts anybody"
            case ssl.SSLCertVerificationError() | socket.gaierror():
                return f"; is the host name{' of the proxy' * of_proxy} right?"
            case ConnectionRefusedError():
                port = "" if request.unix_socket else ", and on this port"
                return f"; is the {'proxy' if of_proxy else 'server'} running{port}?"
            case _:
                cause = cause.__cause__
    return ""


def is_of_proxy(error: BaseException | None) -> bool:
    """Whether it is the proxy that has failed or refused, and not the server behind it."""
    return isinstance(error, ConnectionFailedError) and bool(error.details.get("by_proxy"))


def _of_status(error: ConnectionFailedError, request: Request) -> str:
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
