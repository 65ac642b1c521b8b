"""The errors this package raises: one root, a kind for programs, a sentence for people.

Every error is an `Error`, with its `Kind`, whether trying again can help, and details. There is a subclass where
callers react differently to it. It also derives from the builtin that a Python programmer would catch: `ValueError` for
an argument out of range, `ConnectionError` for a connection, and so on.
"""

from __future__ import annotations

import copy
import functools
import re
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, TypeVar, overload

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ALREADY_EXISTS",
    "CANCELED",
    "CONFLICT",
    "INTERNAL",
    "INVALID",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "RATE_LIMITED",
    "TIMEOUT",
    "UNAVAILABLE",
    "UNKNOWN",
    "ChannelBrokenError",
    "ChannelClosedError",
    "ConnectionFailedError",
    "ConnectionTimeoutError",
    "EndOfChannelError",
    "Error",
    "InvalidError",
    "InvalidTypeError",
    "Kind",
    "ListenFailedError",
    "NoContextError",
    "PermissionDeniedError",
    "is_kind",
    "shown",
    "wrap",
]

# What `str.isprintable` passes although it shows as nothing (Unicode's Default_Ignorable_Code_Point).
_SHOWN_AS_NOTHING = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_NOT_PRINTABLE_ASCII = re.compile(r"[^ -~]+")


class Kind(StrEnum):
    """What sort of failure an `Error` is. The value of each member is its name."""

    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    INVALID = "INVALID"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"
    CANCELED = "CANCELED"
    CONFLICT = "CONFLICT"
    TIMEOUT = "TIMEOUT"
    RATE_LIMITED = "RATE_LIMITED"
    UNKNOWN = "UNKNOWN"


NOT_FOUND = Kind.NOT_FOUND
ALREADY_EXISTS = Kind.ALREADY_EXISTS
INVALID = Kind.INVALID
PERMISSION_DENIED = Kind.PERMISSION_DENIED
UNAVAILABLE = Kind.UNAVAILABLE
INTERNAL = Kind.INTERNAL
CANCELED = Kind.CANCELED
CONFLICT = Kind.CONFLICT
TIMEOUT = Kind.TIMEOUT
RATE_LIMITED = Kind.RATE_LIMITED
UNKNOWN = Kind.UNKNOWN


class Error(Exception):
    """Root of the errors of this package.

    Attributes:
        message: one sentence for people; also ``str(error)``.
        kind: the `Kind` of failure, for programs.
        retryable: whether the same can succeed when it is tried again; None if that is not known.
        details: facts about the failure by name (a close code, an HTTP status); empty where none are known.
    """

    message: str
    kind: Kind
    retryable: bool | None
    details: Mapping[str, object]

    def __init__(
        self,
        message: str,
        *,
        kind: Kind | str,
        retryable: bool | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = _checked(kind)
        self.retryable = retryable
        self.details = {} if details is None else dict(details)

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, kind={self.kind}, retryable={self.retryable})"

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class with the message alone, without the keyword arguments.
        return (_rebuild, (type(self), self.args), self.__dict__)


class _OneKindError(Error):
    """An error whose class says its kind, and that cannot be helped by trying again."""

    _kind: ClassVar[Kind]

    def __init__(self, message: str, *, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message, kind=self._kind, retryable=False, details=details)


class InvalidError(_OneKindError, ValueError):
    """An argument or option is out of range or malformed, or a message cannot be decoded; nothing was done."""

    _kind = Kind.INVALID


class InvalidTypeError(InvalidError, TypeError):
    """An argument or option is of the wrong type, or unknown; nothing was done."""


class PermissionDeniedError(_OneKindError, PermissionError):
    """The security policies do not allow it; nothing was done."""

    _kind = Kind.PERMISSION_DENIED


class NoContextError(_OneKindError, RuntimeError):
    """Something was called where it cannot work: outside a Trio run, or without the nursery it needs."""

    _kind = Kind.INTERNAL


class ChannelClosedError(_OneKindError, trio.ClosedResourceError):
    """A send to a channel that is closed, or that was closed while the sender waited.

    ``__cause__`` is what the channel was closed with, if anything.
    """

    _kind = Kind.UNAVAILABLE


class ChannelBrokenError(_OneKindError, trio.BrokenResourceError):
    """What was received from was closed by an error, which is ``__cause__``.

    It is raised where that error is none of this package's, or an `EndOfChannelError` of another source: other errors
    of this package are raised anew instead. Code written for Trio's channels gets it in either case, and as a sender,
    without a cause, when the receiving end was closed.

    It is also the cause with which a source is closed whose block, such as that of `csp.merge`, failed or was cancelled
    before the values had ended. ``details`` then has the name of the ``block``, and ``__cause__`` is what the block
    failed with, or None.
    """

    _kind = Kind.UNAVAILABLE


class EndOfChannelError(_OneKindError, trio.EndOfChannel):
    """There are no more values: what was received from is closed and drained, and no error closed it.

    From the channel of a WebSocket connection, of a feed, or of a ping that was not answered, ``details`` has the close
    ``code`` and ``reason`` of the connection.
    """

    _kind = Kind.UNAVAILABLE


class ConnectionFailedError(Error, ConnectionError):
    """A connection could not be made, ended in failure, or was used after its end."""

    @property
    def status(self) -> int | None:
        """The HTTP status of the server's answer to the handshake, such as 401; None if no such answer came.

        101 if the server accepted the connection with an answer that is not valid. The same as ``details["status"]``.
        """
        status = self.details.get("status")
        return status if isinstance(status, int) else None


class ConnectionTimeoutError(ConnectionFailedError, TimeoutError):
    """A connection was not made in the time allowed for it (kind INTERNAL), or stalled for too long (TIMEOUT)."""


class ListenFailedError(Error, OSError):
    """A server cannot listen where it was told to (kind UNAVAILABLE); nothing was left there.

    It is retryable where the reason may pass, such as an address in use. ``details`` has the ``url`` and, if the system
    gave a reason, its ``errno``; the attribute of that name is None.
    """


ErrorT = TypeVar("ErrorT", bound=Error)


def is_kind(error: BaseException | None, kind: Kind | str) -> bool:
    """Tell whether ``error`` is an `Error` of this kind; False for anything else, None included."""
    return isinstance(error, Error) and error.kind is _checked(kind)


@overload
def wrap(error: ErrorT, text: str) -> ErrorT: ...
@overload
def wrap(error: BaseException, text: str) -> Error: ...
def wrap(error: BaseException, text: str) -> Error:
    """Return a new error whose message is ``text``, a colon and the message of ``error``; the original stays as it was.

    If it is an `Error`, the new one has its type, kind, retryable, details and ``__cause__``. Otherwise it is the cause
    of the new one, an `Error` of kind UNKNOWN.
    """
    if isinstance(error, Error):
        return renew(error, f"{text}: {error.message}")
    wrapped = Error(f"{text}: {error}", kind=Kind.UNKNOWN)
    wrapped.__cause__ = error
    return wrapped


def shown(text: str, limit: int | None = 200) -> str:
    """Return a text that somebody else said, such as a server, as errors and logs show it: on one line, and cut.

    What would not be seen, or acts on a terminal, becomes an escape as in JSON: control characters, line breaks, spaces
    outside ASCII, characters without width and those that reorder text, lone surrogates, and what Unicode does not
    define.

    Args:
        text: what was said.
        limit: how many characters are shown, with the escapes; after those, how many of the text are not. None to show
            all of it.
    """
    if limit is None:
        return _NOT_PRINTABLE_ASCII.sub(_escaped, text)
    head = _NOT_PRINTABLE_ASCII.sub(_escaped, text[:limit])
    if len(text) <= limit and len(head) <= limit:
        return head
    head, count = "", 0
    for character in text[:limit]:
        piece = _shown_character(character)
        if len(head) + len(piece) > limit:
            break
        head += piece
        count += 1
    return f"{head}... ({len(text) - count} more characters)"


def _escaped(found: re.Match[str]) -> str:
    """Return a run of characters with escapes for those that must not be shown as they are."""
    run = found[0]
    if run.isprintable() and not _SHOWN_AS_NOTHING.search(run):
        return run
    return "".join(map(_shown_character, run))


@functools.lru_cache(maxsize=256)  # what a text has, it mostly has many times
def _shown_character(character: str) -> str:
    if character.isprintable() and not _SHOWN_AS_NOTHING.match(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def renew(error: ErrorT, message: str) -> ErrorT:
    """Return a new error like ``error`` with another message: the same type and fields, no traceback yet."""
    fresh = copy.copy(error)
    fresh.args = (message,)
    fresh.message = message
    if error.__cause__ is not None:
        fresh.__cause__ = error.__cause__
    if hasattr(fresh, "__notes__"):
        fresh.__notes__ = list(fresh.__notes__)
    return fresh


def _rebuild(cls: type[Error], args: tuple[object, ...]) -> Error:
    error = cls.__new__(cls, *args)
    error.args = args
    return error


def _checked(kind: Kind | str) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        raise InvalidError(f"kind must be one of {', '.join(Kind)}, not {kind!r}") from None
