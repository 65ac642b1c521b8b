"""TLS contexts that verify servers: one that trusts the system's authorities, also once they change; and copies."""

from __future__ import annotations

import functools
import os
import ssl
import warnings
from pathlib import Path
from typing import TypeAlias

_Stamp: TypeAlias = "tuple[str, tuple[int, int, int] | None]"


def verifying_context() -> ssl.SSLContext:
    """Return a context that verifies the server's certificate and name against the system's authorities.

    It is the same one until the file or a folder of the authorities changes, or the environment variables
    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name others.
    """
    return _context(_authorities())


def without_certificate(context: ssl.SSLContext) -> ssl.SSLContext:
    """Return a context that trusts as another one does, and has no certificate of the client's to show.

    Whether a context has one cannot be told, so what can be read of it is copied: its authorities, how it verifies, its
    versions and ciphers. Not copied are authorities of a folder, which OpenSSL reads only when it needs them, and
    certificates of single servers. A subclass, such as one that lets the system verify, is replaced by the default.
    """
    if type(context) is not ssl.SSLContext:
        return verifying_context()
    copy = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    copy.check_hostname = False  # or the next line might raise
    copy.verify_mode = context.verify_mode
    copy.check_hostname = context.check_hostname
    copy.hostname_checks_common_name = context.hostname_checks_common_name
    copy.verify_flags = context.verify_flags
    with warnings.catch_warnings():
        # The user has been warned of versions that should not be used.
        warnings.simplefilter("ignore", DeprecationWarning)
        copy.options = context.options
        copy.minimum_version = context.minimum_version
        copy.maximum_version = context.maximum_version
    authorities = context.get_ca_certs(binary_form=True)
    if authorities:
        copy.load_verify_locations(cadata=b"".join(authorities))
    # Those of TLS 1.3 cannot be chosen. The level says how short keys may be, and is written among the ciphers.
    ciphers = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    copy.set_ciphers(":".join([*ciphers, f"@SECLEVEL={context.security_level}"]))
    copy.set_alpn_protocols(["http/1.1"])
    return copy


# One is kept: loading the authorities takes tens of milliseconds, looking whether they have changed microseconds.
@functools.lru_cache(maxsize=1)
def _context(_authorities: tuple[_Stamp, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    # What follows the handshake is HTTP/1.1 (RFC 7301); some servers would speak HTTP/2 otherwise, or hang up.
    context.set_alpn_protocols(["http/1.1"])
    return context


def _authorities() -> tuple[_Stamp, ...]:
    """Return where OpenSSL looks for authorities, and what tells whether these are still the same."""
    defaults = ssl.get_default_verify_paths()
    # Its `cafile` and `capath` are None for what does not exist, and for a list of folders.
    file = os.environ.get(defaults.openssl_cafile_env, defaults.openssl_cafile)
    folders = os.environ.get(defaults.openssl_capath_env, defaults.openssl_capath)
    return tuple(_stamp(path) for path in (file, *folders.split(os.pathsep)))


def _stamp(path: str) -> _Stamp:
    try:
        found = Path(path).stat()
    except OSError:
        return path, None
    return path, (found.st_mtime_ns, found.st_size, found.st_ino)
