"""What a server is asked for on the command line: where it listens, and its options."""

from __future__ import annotations

import argparse
import re
import ssl
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from csp.errors import InvalidError
from trio_csp_websocket.command_line.compression import COMPRESSION
from trio_csp_websocket.server.listen import check

if TYPE_CHECKING:
    from trio_csp_websocket.server.options import ListenOptions

_PLACE = re.compile(r"(?:(?P<host>[^:\[\]]+|\[[^\[\]]+\]):)?(?P<port>[0-9]{1,5})")
_MAX_PORT = 65535
_DEFAULT_HOST = "localhost"


class Place(NamedTuple):
    """Where to listen."""

    host: str
    port: int
    """0 for a free one."""


def place(text: str) -> Place:
    """Parse a port, or a host and a port. Nothing in front of the port is localhost, and not every interface."""
    found = _PLACE.fullmatch(text)
    if found is None or int(found["port"]) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"must be a port of 0 to {_MAX_PORT}, or HOST:PORT, not {text!r}")
    return Place((found["host"] or _DEFAULT_HOST).strip("[]"), int(found["port"]))


def server_options(parsed: argparse.Namespace) -> ListenOptions:
    """Return the options of `listen`. Raises InvalidError."""
    given: ListenOptions = {"host": parsed.listen.host, "protocols": parsed.protocol, "close_timeout": "2s"}
    if parsed.origin:
        # One of the two words stands alone.
        alone = parsed.origin[0] if len(parsed.origin) == 1 else None
        given["origins"] = "*" if alone == "*" else "same" if alone == "same" else parsed.origin
    if parsed.compress:
        given["compression"] = COMPRESSION[parsed.compress]
    if parsed.cert:
        given["ssl_context"] = _context(parsed.cert, parsed.key)
    check(parsed.listen.port, given, others=())
    return given


def _context(cert: str, key: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    def no_password() -> NoReturn:
        raise InvalidError(f"--key {key or cert}: the key is encrypted, and there is nobody to ask for its password")

    try:
        context.load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        reason = "the key is not that of the certificate" if error.reason == "KEY_VALUES_MISMATCH" else "is that PEM?"
        raise InvalidError(f"--cert {cert}{f', --key {key}' if key else ''}: {reason}") from None
    except OSError as error:
        raise InvalidError(f"--cert {cert}{f', --key {key}' if key else ''}: {error.strerror}") from None
    return context
