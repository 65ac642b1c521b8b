"""Listening sockets that the service manager hands over."""

from __future__ import annotations

import os
import socket

from csp.errors import Kind, ListenFailedError, shown
from trio_csp_websocket.server.place import why_it_cannot_accept

# The first of the descriptors that are handed over: SD_LISTEN_FDS_START of sd_listen_fds(3).
_FIRST_DESCRIPTOR = 3


def inherited_sockets() -> list[socket.socket]:
    """Return the listening sockets that systemd has opened for this process (socket activation, sd_listen_fds(3)).

    They are yours to close, or to give as ``sockets`` to a server, which closes them at its end. They are closed in
    programs that this process starts. The variables LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES are removed from the
    environment, whatever they say, so that such programs do not take them for their own; so a second call returns
    nothing. The names in LISTEN_FDNAMES are ignored.

    Returns an empty list if there are none, or if they are meant for another process.

    Raises:
        ListenFailedError: the variables are malformed, or what was handed over is not a listening stream socket; the
            descriptors stay open. Not retryable.
    """
    pid, count = os.environ.pop("LISTEN_PID", None), os.environ.pop("LISTEN_FDS", None)
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid is None or count is None:
        return []
    if _number("LISTEN_PID", pid) != os.getpid():
        return []
    descriptors = range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + _number("LISTEN_FDS", count))
    sockets: list[socket.socket] = []
    try:
        for descriptor in descriptors:
            sockets.append(_socket_of(descriptor))  # noqa: PERF401  # those before one that fails are let go of
    except ListenFailedError:
        for taken in sockets:
            taken.detach()
        raise
    return sockets


def _number(name: str, text: str) -> int:
    # No descriptor and no process has a number of more than ten digits.
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise _failure(f"{name} is '{shown(text, limit=40)}', which is no number")
    return int(text)


def _socket_of(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        found = socket.socket(fileno=descriptor)
    except OSError as error:
        raise _failure(f"descriptor {descriptor} is no socket") from error
    problem = why_it_cannot_accept(found)
    if problem is not None:
        found.detach()
        raise _failure(f"descriptor {descriptor} {problem}")
    return found


def _failure(reason: str) -> ListenFailedError:
    return ListenFailedError(
        f"cannot listen on the sockets that systemd hands over: {reason}", kind=Kind.UNAVAILABLE, retryable=False
    )
