"""What can be set for a connection in either role: limits, timeouts, compression and subprotocols, checked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import csp
from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.protocol.constants import Compression
from trio_csp_websocket.protocol.headers import TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping

Timeout: TypeAlias = int | csp.Duration | None
"""Milliseconds as an int, a Go duration string such as ``"10s"``, or a timedelta, above 0; None for no limit.

Only the three timeouts of the specified client take an int."""

_DEFAULT_CLOSE_TIMEOUT = "10s"
DEFAULT_THRESHOLDS = {
    Compression.DISABLED: 128,
    Compression.CONTEXT_TAKEOVER: 128,
    Compression.NO_CONTEXT: 512,
}
_MAX_THRESHOLD = 100 * 1024 * 1024
_DEFAULT_CHANNEL_CAPACITY = 16
_MAX_CHANNEL_CAPACITY = 10_000
_DEFAULT_READ_LIMIT = 16 * 1024 * 1024
_MAX_READ_LIMIT = 128 * 1024 * 1024

# The longest of Go's durations: 2**63 ns.
_MAX_MILLISECONDS = 2**63 / 1_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings."""

    read_timeout_seconds: float
    write_timeout_seconds: float
    compression: Compression
    compression_threshold_bytes: int
    read_limit_bytes: int
    channel_capacity: int
    keepalive_seconds: float
    close_timeout_seconds: float
    write_timeout_of_progress: bool = False
    """Whether the write timeout is the limit for the peer to take any byte, and not for a whole send."""


def parse_settings(given: Mapping[str, object], *, write_timeout_of_progress: bool = False) -> Settings:
    """Check the options that concern an open connection; ignore the others.

    Args:
        given: the options.
        write_timeout_of_progress: see `Settings`.

    Raises:
        InvalidError: an option is out of range or malformed; the text gives its name, its value and the bound.
        InvalidTypeError: an option has the wrong type.
    """
    compression = parse_compression(given.get("compression", Compression.DISABLED))
    return Settings(
        read_timeout_seconds=parse_timeout("read_timeout", given.get("read_timeout"), milliseconds=True),
        write_timeout_seconds=parse_timeout("write_timeout", given.get("write_timeout"), milliseconds=True),
        write_timeout_of_progress=write_timeout_of_progress,
        compression=compression,
        compression_threshold_bytes=parse_whole_number(
            "compression_threshold",
            given.get("compression_threshold", DEFAULT_THRESHOLDS[compression]),
            0,
            _MAX_THRESHOLD,
        ),
        read_limit_bytes=parse_whole_number("read_limit", given.get("read_limit", 0), 0, _MAX_READ_LIMIT)
        or _DEFAULT_READ_LIMIT,
        channel_capacity=parse_whole_number(
            "channel_capacity", given.get("channel_capacity", _DEFAULT_CHANNEL_CAPACITY), 1, _MAX_CHANNEL_CAPACITY
        ),
        keepalive_seconds=parse_timeout("keepalive", given.get("keepalive")),
        close_timeout_seconds=parse_timeout("close_timeout", given.get("close_timeout", _DEFAULT_CLOSE_TIMEOUT)),
    )


def check_names(given: Iterable[str], known: Iterable[str], others: Iterable[str]) -> None:
    """Refuse options that there are not.

    Args:
        given: the names of those that were given.
        known: those that there are.
        others: the other keyword arguments of the function that was called, for the error that lists what there is.
    """
    for name in given:
        if name not in known:
            raise InvalidTypeError(f"unknown option {name!r}; the options are {', '.join(sorted((*known, *others)))}")


def parse_protocols(protocols: object) -> tuple[str, ...]:
    """Return subprotocols (RFC 6455, section 4.1); raise `InvalidError` for what are none."""
    if protocols is None:
        return ()
    if isinstance(protocols, str | bytes) or not isinstance(protocols, Iterable):
        raise InvalidTypeError(f"protocols must be an iterable of strings, not {type(protocols).__name__}")
    # A subprotocol may be a token, so errors only say which one it is.
    names: list[str] = []
    for number, name in enumerate(cast("Iterable[object]", protocols), 1):
        if not isinstance(name, str):
            raise InvalidTypeError(f"protocols must be strings, and number {number} is {type(name).__name__}")
        if not TOKEN.fullmatch(name):
            raise InvalidError(f"protocols must be names without spaces and separators, unlike number {number}")
        if name in names:
            raise InvalidError(f"protocols must be different, and number {number} came before")
        names.append(name)
    return tuple(names)


def parse_timeout(name: str, timeout: object, *, milliseconds: bool = False, optional: bool = True) -> float:
    """Return a timeout in seconds.

    Args:
        name: what errors call it.
        timeout: a duration.
        milliseconds: whether an int is taken too, as milliseconds.
        optional: whether None is taken too, and gives `math.inf`.

    Raises:
        InvalidError: it is malformed, not above 0, or too long.
        InvalidTypeError: it is anything else, such as a number without a unit.
    """
    if timeout is None and optional:
        return math.inf
    if milliseconds and isinstance(timeout, int) and not isinstance(timeout, bool):
        seconds = timeout / 1000 if -_MAX_MILLISECONDS <= timeout <= _MAX_MILLISECONDS else math.inf
    else:
        # It refuses what is no duration, and tells what to write instead of a number.
        seconds = csp.parse_duration(cast("csp.Duration", timeout), name=name)
    if not 0 < seconds < math.inf:
        no_limit = ", or None for no limit" if optional else ""
        raise InvalidError(f"{name} must be above 0 and finite{no_limit}, not {_shown(timeout)}")
    return seconds


def _shown(value: object) -> str:
    """Return a value as an error shows it; Python refuses to print an int with thousands of digits."""
    return "a number that large" if isinstance(value, int) and abs(value) > 10**1000 else repr(value)


def parse_whole_number(name: str, number: object, least: int, most: int) -> int:
    """Return the number if it is a whole one within its bounds; raise `InvalidError` if not."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidTypeError(f"{name} must be a whole number, not {number!r}")
    if not least <= number <= most:
        raise InvalidError(f"{name} must be {least} to {most}, not {_shown(number)}")
    return number


def parse_compression(mode: object) -> Compression:
    """Return a `Compression`; raise `InvalidError` for what is none."""
    wanted = "COMPRESSION.DISABLED (0), CONTEXT_TAKEOVER (1) or NO_CONTEXT (2)"
    if not isinstance(mode, int) or isinstance(mode, bool):
        raise InvalidTypeError(f"compression must be {wanted}, not {mode!r}")
    if mode not in tuple(Compression):
        raise InvalidError(f"compression must be {wanted}, not {_shown(mode)}")
    return Compression(mode)
