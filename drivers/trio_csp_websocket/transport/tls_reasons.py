"""What went wrong in TLS, in words."""

from __future__ import annotations

import re
import ssl

# OpenSSL's names for what a server meets in a client's handshake.
_OF_CLIENTS = {
    "HTTP_REQUEST": "the client spoke plain HTTP, not TLS",
    "HTTPS_PROXY_REQUEST": "the client spoke plain HTTP, not TLS",
    "WRONG_VERSION_NUMBER": "the client did not speak TLS",
    "UNSUPPORTED_PROTOCOL": "the client speaks no version of TLS that the context allows",
    "NO_SHARED_CIPHER": "the client has no cipher in common with the context, or the context has no certificate",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client sent no certificate, and the context requires one",
}
# Its names of alerts begin with the version that first had them; clients send these about a server's certificate
# (RFC 8446, section 6.2).
_ALERT = re.compile(r"(?:SSL|TLS)V\d+_ALERT_(\w+)")
_ABOUT_CERTIFICATES = {
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA",
    "UNSUPPORTED_CERTIFICATE",
}


def reason_of(error: OSError, certificate: str = "the certificate") -> str:
    """Return in words what went wrong in TLS. An error that is not OpenSSL's may lack some of the attributes of one.

    Args:
        error: what OpenSSL, or a context of the user's, says of it.
        certificate: which one was verified, if the error is about that.
    """
    said = error.strerror or ", ".join(map(str, error.args))
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{certificate} is not trusted: {getattr(error, 'verify_message', said)}"
    return getattr(error, "reason", None) or said


def reason_of_client(error: OSError, *, begun: bool) -> str:
    """Return in words why a client's handshake failed at its server.

    Args:
        error: what OpenSSL, or a context of the user's, says of it.
        begun: whether the client has said anything.
    """
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        when = "in the middle of" if begun else "before"
        return f"the client closed the connection {when} the TLS handshake"
    reason = reason_of(error, "the client's certificate")
    if isinstance(error, ssl.SSLCertVerificationError):
        return reason
    alert = _ALERT.fullmatch(reason)
    if alert is None:
        return _OF_CLIENTS.get(reason, f"the TLS handshake failed: {reason}")
    words = alert[1].lower().replace("_", " ")
    if alert[1] in _ABOUT_CERTIFICATES:
        return f"the client does not accept the certificate: {words}"
    return f"the client gave the TLS handshake up: {words}"
