"""How a connection ended: close code, reason, and an error unless it ended as it should.

``closing`` says whether we had begun to close the connection before it ended: then the ending has no error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from trio_csp_websocket.protocol.constants import CloseCode

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.frames import ProtocolViolation

# A peer that closes with one of these has simply finished.
_CLEAN_CODES = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS)
# A new connection may succeed after these.
_RETRYABLE_CODES = (1006, 1011, 1012, 1013, 1014)


class Ending(NamedTuple):
    """The end of a connection."""

    code: int
    reason: str
    error: ConnectionFailedError | None

    @property
    def details(self) -> dict[str, object]:
        """What the errors of those who wait for more say about it."""
        return {"code": int(self.code), "reason": self.reason}


def closed_by_peer(code: int, reason: str, *, closing: bool) -> Ending:
    """Return the ending after a close frame of the peer."""
    if closing or code in _CLEAN_CODES:
        return Ending(code, reason, None)
    told = f": {reason}" if reason else ""
    return Ending(
        code, reason, _unavailable(f"the peer closed the connection with code {_name(code)}{told}", code, reason)
    )


def failed_by_us(violation: ProtocolViolation, *, closing: bool) -> Ending:
    """Return the ending after the peer broke the protocol or a limit."""
    if closing:
        return Ending(violation.code, violation.reason, None)
    error = ConnectionFailedError(
        f"the connection was failed with code {_name(violation.code)}: {violation.reason}",
        kind=Kind.INTERNAL,
        retryable=False,
        details={"code": int(violation.code), "reason": violation.reason},
    )
    return Ending(violation.code, violation.reason, error)


def lost(how: str, *, closing: bool) -> Ending:
    """Return the ending without a close frame of the peer."""
    code = CloseCode.ABNORMAL_CLOSURE
    return Ending(code, "", None if closing else _unavailable(f"the connection was lost: {how}", code, ""))


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


def _unavailable(message: str, code: int, reason: str) -> ConnectionFailedError:
    return ConnectionFailedError(
        message,
        kind=Kind.UNAVAILABLE,
        retryable=code in _RETRYABLE_CODES,
        details={"code": int(code), "reason": reason},
    )


def _name(code: int) -> str:
    try:
        return f"{int(code)} ({CloseCode(code).name})"
    except ValueError:
        return str(int(code))
