"""What becomes of errors while a server is being reached: `ConnectionFailedError` in the system's words."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import trio

from csp.errors import ConnectionFailedError, Error, Kind

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping


def not_connected(reason: str) -> ConnectionFailedError:
    return ConnectionFailedError(reason, kind=Kind.INTERNAL, retryable=True)


@contextlib.contextmanager
def system_errors(what: str = "") -> Generator[None]:
    """Turn an `OSError` of the block, as those of sockets and of name resolution, into a `ConnectionFailedError`.

    Args:
        what: begins its text.
    """
    try:
        yield
    except Error:  # some of them are an OSError too
        raise
    except OSError as error:
        attempts = _failed_attempts(error)
        # The cause is a group only if several addresses failed.
        raise not_connected(what + _reasons(attempts)) from (error if len(attempts) > 1 else attempts[0])
    except BaseExceptionGroup as group:
        # Ctrl-C can hit one of the tasks that try addresses; it then comes in a group.
        _, failures = group.split(trio.Cancelled)
        if failures is None or len(failures.exceptions) != 1:
            raise
        raise failures.exceptions[0] from None


def _failed_attempts(error: OSError) -> list[BaseException]:
    """Return the errors of a host's addresses, which are in the cause of the error."""
    attempts = getattr(error.__cause__, "exceptions", None)
    return [error.__cause__ or error] if attempts is None else list(attempts)


def _reasons(attempts: list[BaseException]) -> str:
    return "; ".join(dict.fromkeys(map(_reason, attempts)))


def _reason(attempt: BaseException) -> str:
    """Return why connecting to an address failed, in the system's words; Trio's own text repeats the address."""
    if isinstance(attempt, OSError) and not isinstance(attempt, socket.gaierror) and attempt.errno is not None:
        return error_text(attempt.errno)
    return getattr(attempt, "strerror", None) or str(attempt)


def error_text(number: int) -> str:
    """Return the system's text for the number of an error.

    On Windows strerror knows no error of a socket; Python has texts for these.
    """
    of_sockets: Mapping[int, str] = getattr(socket, "errorTab", {})
    return of_sockets.get(number, "").removesuffix(".") or os.strerror(number)
