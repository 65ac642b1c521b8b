"""The path of a Unix socket, checked."""

from __future__ import annotations

import os
import socket
from typing import cast

from csp.errors import InvalidError, InvalidTypeError

# Of Linux; macOS takes 103.
_MAX_SOCKET_PATH_BYTES = 107


def parse_unix_socket(path: object) -> str | None:
    """Return the option ``unix_socket`` as a string; None if it is not given.

    The abstract names of Linux, which begin with a NUL character, are refused: no file permissions protect them.

    Raises:
        InvalidError: no socket can be there.
        InvalidTypeError: it is not a path.
    """
    if path is None:
        return None
    if not isinstance(path, str | os.PathLike):
        raise InvalidTypeError(f"unix_socket must be the path of a Unix socket, not {path!r}")
    name = os.fspath(cast("str | os.PathLike[str]", path))
    if not isinstance(name, str):
        raise InvalidTypeError(f"unix_socket must be a path as a string, not {name!r}")
    if not hasattr(socket, "AF_UNIX"):
        raise InvalidError("unix_socket must not be given: Python has no Unix sockets on this system")
    if not name or "\0" in name:
        raise InvalidError(f"unix_socket must be a path without NUL characters, not {name!r}")
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        raise InvalidError(f"unix_socket must be a path that the system can encode, not {name!r}") from None
    if size > _MAX_SOCKET_PATH_BYTES:
        raise InvalidError(f"unix_socket must be a path of at most {_MAX_SOCKET_PATH_BYTES} bytes, not {size}")
    return name
