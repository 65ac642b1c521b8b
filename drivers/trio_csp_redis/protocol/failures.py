"""What the server and the client library report, as errors of `csp.errors`.

The texts of a server go through `csp.errors.shown`, and those that name a user are told without it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from coredis import exceptions as reported

from csp.errors import (
    ConnectionFailedError,
    ConnectionTimeoutError,
    Error,
    InvalidError,
    Kind,
    PermissionDeniedError,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# Conditions of a server that pass.
_UNAVAILABLE = re.compile(r"(LOADING|READONLY|MASTERDOWN|MISCONF|NOREPLICAS|BUSY|TRYAGAIN|CLUSTERDOWN)\b")
# Where a script may not run a command or use a key, servers say so in words of their own.
_NOT_PERMITTED = re.compile(r"(NOPERM|DENIED|ACL failure in script|The user executing the script can't)\b")
_USER = re.compile(r"\bUser \S+ has no permissions\b")
_TOO_MANY_CLIENTS = "max number of clients reached"
_OF_SCRIPT = re.compile(r"(,? script: [^:]*@user_script:[0-9]+\.?|: @user_script:.*)$")


def answered(error: Exception, doing: str) -> Error:
    """Return the error for what an open connection reports.

    Args:
        error: what the client library raised.
        doing: what was being done, as ``"sending to queue 'jobs'"``.
    """
    text = _text(error)
    found: Error
    match error:
        case reported.AuthenticationRequiredError():
            found = PermissionDeniedError(f"{doing}: the server wants a password, and was given none")
        case reported.AuthenticationError():
            found = PermissionDeniedError(f"{doing}: the server wants another user or password: {text}")
        case reported.AuthorizationError():
            found = PermissionDeniedError(f"{doing}: the server does not permit it: {text}")
        case reported.WrongTypeError():
            found = Error(f"{doing}: a key holds something else: {text}", kind=Kind.CONFLICT, retryable=False)
        case reported.StreamConsumerGroupError() | reported.UnblockedError():
            found = Error(f"{doing}: the queue is gone: {text}", kind=Kind.NOT_FOUND, retryable=True)
        case reported.BusyLoadingError() | reported.ReadOnlyError():
            found = unavailable(f"{doing}: the server cannot serve now: {text}")
        case reported.ResponseError():
            found = _of_response(str(error), text, doing)
        case _:
            found = unavailable(f"{doing}: the connection was lost: {_why(error)}")
    return found


def not_connected(error: BaseException, url: str) -> Error:
    """Return the error for an attempt to connect that failed."""
    doing = f"connecting to {url} failed"
    for inner in _chain(error):
        match inner:
            case reported.UnknownCommandError():
                return too_old("older than version 6")
            case reported.ResponseError() | reported.BusyLoadingError():
                found = answered(inner, doing)
                return found if found.kind is not Kind.UNKNOWN else InvalidError(f"{doing}: {_text(inner)}")
            case reported.ConnectionError() if str(inner) == _TOO_MANY_CLIENTS:
                return unavailable(f"{doing}: the server cannot serve now: {_TOO_MANY_CLIENTS}")
            case _:
                pass
    return ConnectionFailedError(f"{doing}: {_why(error)}", kind=Kind.INTERNAL, retryable=True)


def too_old(version: str) -> InvalidError:
    """Return the error for a server that is too old."""
    return InvalidError(f"the server is {shown(version, 40)}: Redis 7.0 or Valkey 7.2 is needed, or newer")


def unavailable(text: str) -> ConnectionFailedError:
    """Return the error for a connection that was lost, or a server that cannot serve now."""
    return ConnectionFailedError(text, kind=Kind.UNAVAILABLE, retryable=True)


def may_have_arrived(error: ConnectionFailedError) -> ConnectionFailedError:
    """Return an error that also says that what was sent may have arrived."""
    return type(error)(f"{error.message}; what was sent may have arrived", kind=error.kind, retryable=error.retryable)


def late(text: str) -> ConnectionTimeoutError:
    """Return the error for an answer that did not come in time."""
    return ConnectionTimeoutError(text, kind=Kind.TIMEOUT, retryable=True)


def _of_response(code: str, text: str, doing: str) -> Error:
    if code.startswith("OOM"):
        return Error(f"{doing}: the server is out of memory: {text}", kind=Kind.RATE_LIMITED, retryable=True)
    if _NOT_PERMITTED.match(code):
        return PermissionDeniedError(f"{doing}: the server does not permit it: {text}")
    if _UNAVAILABLE.match(code):
        return unavailable(f"{doing}: the server cannot serve now: {text}")
    return Error(f"{doing}: the server answered with an error: {text}", kind=Kind.UNKNOWN, retryable=None)


def _text(error: BaseException) -> str:
    """Return what a server said, without names of users and of scripts."""
    return shown(_USER.sub("the user has no permissions", _OF_SCRIPT.sub("", str(error))), 200)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Go from an error to what caused it, through groups."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
                yield from _chain(inner)
            return
        error = error.__cause__


def _why(error: BaseException) -> str:
    """Return why there is no connection, from what its tasks raised."""
    found = [each for each in _chain(error) if not isinstance(each, BaseExceptionGroup)]
    for each in reversed(found):
        if isinstance(each, OSError) and str(each):
            return shown(str(each), 200)
    if any(isinstance(each, EndOfStream | BrokenResourceError | ClosedResourceError) for each in found):
        return "the server closed it"
    if isinstance(found[-1], reported.ConnectionError):
        return _text(found[-1])
    # What the parser raises, and what takes the answer to HELLO apart: of many types.
    return "what answers there is no Redis server"
