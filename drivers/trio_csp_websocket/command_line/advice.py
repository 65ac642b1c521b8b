"""What to try where there is no connection, as far as that is known."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field

from csp.errors import ConnectionFailedError
from trio_csp_websocket.protocol.secrets import Secrets

_OF_CAUSES = (
    (ConnectionRefusedError, "; is the server running, and on this port?"),
    (socket.gaierror, "; is the host name right?"),
    (ssl.SSLCertVerificationError, "; --ca FILE trusts its authority, --insecure trusts anybody"),
)
# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH: the certificate is that of another server.
_MISMATCHES = (62, 64)


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line, as far as those must know it who tell what came of it."""

    shown: str = ""
    """The URL as texts show it."""
    secrets: Secrets = field(default_factory=lambda: Secrets("", ()))
    """What may be secret of it."""
    has_credentials: bool = False
    """Whether there are credentials for the server in it."""


def advice(error: BaseException | None, request: Request) -> str:
    """Return what to try after connecting has failed, as the rest of a sentence; "" where nothing is known."""
    match error.status if isinstance(error, ConnectionFailedError) else None:
        case 401 | 403:
            missing = "; credentials go into --header 'Authorization: ...' or the URL"
            return "; the credentials were not accepted" if request.has_credentials else missing
        case 404:
            return "; is the path right?"
        case _:
            pass
    while error is not None:
        if getattr(error, "verify_code", None) in _MISMATCHES:
            return "; is the host name right?"
        for kind, text in _OF_CAUSES:
            if isinstance(error, kind):
                return text
        error = error.__cause__
    return ""
