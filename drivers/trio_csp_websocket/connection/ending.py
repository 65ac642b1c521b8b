"""How a connection ended: close code, reason, and an error unless it ended as it should.

``closing`` says whether we had begun to close the connection before it ended: then the ending has no error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind, renew, shown
from trio_csp_websocket.protocol.close import ForbiddenCodeViolation
from trio_csp_websocket.protocol.constants import CloseCode

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.frames import ProtocolViolation

# A peer that closes with one of these has simply finished.
_CLEAN_CODES = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS)
# A new connection may succeed after these.
_RETRYABLE_CODES = (1011, 1012, 1013, 1014)


class Ending(NamedTuple):
    """The end of a connection."""

    code: int
    reason: str
    error: ConnectionFailedError | None

    @property
    def shown(self) -> str:
        """How it ended, as a clause."""
        return f"closed with code {_name(self.code)}{_told(self.reason)}" if self.error is None else str(self.error)

    @property
    def details(self) -> dict[str, object]:
        """What the errors of those who wait for more say about it."""
        return {"code": int(self.code), "reason": self.reason}


def closed_by_peer(code: int, reason: str, *, closing: bool) -> Ending:
    """Return the ending after a close frame of the peer."""
    if closing or code in _CLEAN_CODES:
        return Ending(code, reason, None)
    message = f"the peer closed the connection with code {_name(code)}{_told(reason)}"
    return Ending(code, reason, _unavailable(message, code, reason, retryable=code in _RETRYABLE_CODES))


def quiet_end(code: int, reason: str) -> ConnectionFailedError:
    """Return an error for an ending that has none: the peer closed with 1000, 1001 or without a code.

    It is retryable where the peer may still have more to send, that is but for 1000.
    """
    message = f"the peer closed the connection with code {_name(code)}{_told(reason)}"
    return _unavailable(message, code, reason, retryable=code != CloseCode.NORMAL)


def cut_short(ending: Ending | None) -> ConnectionFailedError:
    """Return an error for a message of which the rest will not come.

    Args:
        ending: how the connection has ended; None if it has not, or this end has closed it.
    """
    if ending is None:
        return ConnectionFailedError(
            "the message was cut: this end has closed the connection", kind=Kind.CANCELED, retryable=False
        )
    error = quiet_end(ending.code, ending.reason) if ending.error is None else ending.error
    return renew(error, f"the message was cut: {error.message}")


def failed_by_us(violation: ProtocolViolation, *, closing: bool) -> Ending:
    """Return the ending after the peer broke the protocol or a limit.

    A close frame with a code that it must not have fails the connection, but the peer meant to close it. Some servers
    do so with 1006, for clients that a new connection would serve well.
    """
    if closing:
        return Ending(violation.code, violation.reason, None)
    if isinstance(violation, ForbiddenCodeViolation):
        code, reason = violation.sent_code, violation.sent_reason
        message = f"the peer closed the connection with code {_name(code)}, which must not be sent{_told(reason)}"
        return Ending(violation.code, violation.reason, _unavailable(message, code, reason, retryable=True))
    option = " (read_limit)" if violation.code == CloseCode.MESSAGE_TOO_BIG else ""
    error = ConnectionFailedError(
        f"this end closed the connection with code {_name(violation.code)}: {violation.reason}{option}",
        kind=Kind.INTERNAL,
        retryable=False,
        details={"code": int(violation.code), "reason": violation.reason},
    )
    return Ending(violation.code, violation.reason, error)


def lost(how: str, *, closing: bool) -> Ending:
    """Return the ending without a close frame of the peer."""
    code = CloseCode.ABNORMAL_CLOSURE
    error = None if closing else _unavailable(f"the connection was lost: {shown(how)}", code, "", retryable=True)
    return Ending(code, "", error)


def refused(how: str, *, closing: bool) -> Ending:
    """Return the ending of a connection whose request was refused, or whose client had gone before the answer."""
    code = CloseCode.ABNORMAL_CLOSURE
    error = None if closing else _unavailable(f"the connection was not opened: {how}", code, "", retryable=False)
    return Ending(code, "", error)


def dropped(how: str, *, closing: bool) -> Ending:
    """Return the ending after this end has left the connection without waiting for the peer."""
    code = CloseCode.ABNORMAL_CLOSURE
    if closing:
        return Ending(code, "", None)
    error = ConnectionFailedError(
        f"this end dropped the connection: {how}",
        kind=Kind.CANCELED,
        retryable=True,
        details={"code": int(code), "reason": ""},
    )
    return Ending(code, "", error)


def stalled(reason: str) -> Ending:
    """Return the ending after the peer let us wait for too long."""
    return _timed_out(CloseCode.INTERNAL_ERROR, reason, f"the peer has sent {reason}")


def write_timed_out(how: str, *, closing: bool) -> Ending:
    """Return the ending after a frame was not written in time."""
    return lost(how, closing=True) if closing else _timed_out(CloseCode.ABNORMAL_CLOSURE, "", how)


def _timed_out(code: int, reason: str, how: str) -> Ending:
    error = ConnectionTimeoutError(
        f"the connection timed out: {how}",
        kind=Kind.TIMEOUT,
        retryable=True,
        details={"code": int(code), "reason": reason},
    )
    return Ending(code, reason, error)


def _unavailable(message: str, code: int, reason: str, *, retryable: bool) -> ConnectionFailedError:
    return ConnectionFailedError(
        message,
        kind=Kind.UNAVAILABLE,
        retryable=retryable,
        details={"code": int(code), "reason": reason},
    )


def _told(reason: str) -> str:
    return f": {shown(reason)}" if reason else ""


def _name(code: int) -> str:
    try:
        return f"{int(code)} ({CloseCode(code).name})"
    except ValueError:
        return str(int(code))
