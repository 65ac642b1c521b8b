"""A listening Unix socket at a path.

A path outlives the process that listened there. What is left of it refuses connections, and so does a socket for the
moment between its `bind` and its `listen`. So that two processes which start at once do not take each other's socket
for one that was left behind, each holds a lock on the directory meanwhile; no file is needed for that.
"""

from __future__ import annotations

import errno
import importlib
import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

import trio

# How often, and for how long each time, a process that holds the lock is waited for; it needs microseconds.
_LOCK_TRIES = 100
_LOCK_SECONDS = 0.01


class File(NamedTuple):
    """Which file is at a path: it stays the same as long as a socket that was bound there is open."""

    device: int
    inode: int


class NotASocketError(OSError):
    """There is a file at the path that is no socket, and is kept."""


class LockedError(OSError):
    """Somebody has locked the directory for long."""


async def bind_unix_socket(path: str, mode: int, backlog: int) -> tuple[socket.socket, File]:
    """Return a socket that listens at a path, and the file that is there now.

    A socket where nothing listens any more is replaced. Nobody can connect before the permissions are set. If this
    fails or is cancelled, nothing is left.

    Args:
        path: where.
        mode: the permissions of the file, whatever the umask of the process.
        backlog: how many connections wait to be accepted.

    Raises:
        OSError: there is something else, somebody listens there, or the system refuses it.
    """
    fcntl = importlib.import_module("fcntl")  # Windows, where Python has no Unix sockets, lacks it
    directory = os.open(Path(path).parent, os.O_RDONLY)
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await trio.sleep(_LOCK_SECONDS)
        else:
            raise LockedError(errno.EAGAIN, "the directory is locked")
        _remove_what_is_dead(path)
        return _bound(path, mode, backlog)
    finally:
        os.close(directory)


def remove_file(path: str, file: File) -> None:
    """Remove a file if it is still there; ignore errors."""
    try:
        if _file_at(path) == file:
            Path(path).unlink()
    except OSError:
        pass


def _file_at(path: str) -> File:
    found = Path(path).lstat()
    return File(found.st_dev, found.st_ino)


def _remove_what_is_dead(path: str) -> None:
    """Remove a socket where nothing listens any more; raise `OSError` if there is anything else."""
    try:
        found = Path(path).lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise NotASocketError(errno.EEXIST, "it is no socket")
    with _unix_socket() as probe:
        # It never waits: a line of waiting connections that is full raises BlockingIOError.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):  # the latter if its owner has just removed it
            Path(path).unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "somebody listens there")


def _bound(path: str, mode: int, backlog: int) -> tuple[socket.socket, File]:
    made = _unix_socket()
    try:
        made.bind(path)
        file = _file_at(path)
        try:
            Path(path).chmod(mode)
            # From here on others can connect.
            made.listen(backlog)
        except BaseException:
            remove_file(path, file)
            raise
    except BaseException:
        made.close()
        raise
    return made, file


def _unix_socket() -> socket.socket:
    return socket.socket(getattr(socket, "AF_UNIX"), socket.SOCK_STREAM)  # noqa: B009  # Windows does not name it
