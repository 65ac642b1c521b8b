"""The TLS context of connections that were given none: it trusts the system's authorities, also once they change."""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path
from typing import TypeAlias

_Stamp: TypeAlias = "tuple[str, tuple[int, int, int] | None]"


def verifying_context() -> ssl.SSLContext:
    """Return a context that verifies the server's certificate and name against the system's authorities.

    It is the same one until the file or a folder of the authorities changes, or the environment variables
    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name others.
    """
    return _context(_authorities())


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
