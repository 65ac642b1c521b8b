"""Durations: Go's strings (``"1m30s"``) and `datetime.timedelta`, as seconds."""

from __future__ import annotations

import re
from datetime import timedelta
from numbers import Number
from typing import TypeAlias

from csp.errors import InvalidError, InvalidTypeError

Duration: TypeAlias = str | timedelta

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek letter mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
# Go keeps a duration in a signed 64-bit count of nanoseconds: about 292 years.
_MAX_NANOSECONDS = 2**63 - 1

# Longer strings are not remembered: nobody writes such literals.
_MAX_REMEMBERED_LENGTH = 32
_MOST_REMEMBERED = 64

remembered: dict[str, float] = {}
"""The seconds of strings that were parsed: most durations are one of a few literals. For who cannot afford a call."""

_TERM = re.compile(r"(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?(?P<unit>ns|us|\u00b5s|\u03bcs|ms|s|m|h)")


def parse_duration(duration: Duration, *, name: str = "duration") -> float:
    """Return a duration in seconds.

    A string follows the grammar of Go's ``time.ParseDuration``: an optional sign, then decimal numbers each with a
    unit of ``ns``, ``us`` (``µs``), ``ms``, ``s``, ``m`` or ``h``, as in ``"300ms"``, ``"-1.5h"``, ``"2h45m"``; or
    ``"0"``.

    Args:
        duration: a string or a timedelta.
        name: what errors call the duration.

    Raises:
        InvalidTypeError: it is neither a string nor a timedelta; a bare number has no unit.
        InvalidError: the string is malformed, or the duration is beyond Go's 292 years.
    """
    if isinstance(duration, str):
        seconds = remembered.get(duration)
        return _remember(duration, name) if seconds is None else seconds
    if isinstance(duration, timedelta):
        if abs(duration / timedelta(microseconds=1)) * 1000 > _MAX_NANOSECONDS:
            raise InvalidError(f"{name} must be within 292 years, not {duration!r}")
        return duration.total_seconds()
    if isinstance(duration, Number) and not isinstance(duration, bool):
        # 30 could be seconds or milliseconds; make the caller say which.
        message = f"{name} must be a string with a unit or a timedelta, not "
        if isinstance(duration, int) and abs(duration) > _MAX_NANOSECONDS:
            raise InvalidTypeError(message + "a number such as this")  # Python may refuse to print it
        if not re.fullmatch(r"-?[0-9]{1,19}(\.[0-9]+)?", str(duration)):
            raise InvalidTypeError(message + f"the number {duration}")
        raise InvalidTypeError(message + f'the number {duration} (write "{duration}s" or "{duration}ms")')
    raise InvalidTypeError(f'{name} must be a string such as "1m30s" or a timedelta, not {duration!r}')


def positive_duration(duration: Duration, name: str) -> float:
    """Return a duration in seconds, as `parse_duration` does; raise `InvalidError` if it is not above 0."""
    seconds = parse_duration(duration, name=name)
    if seconds <= 0:
        raise InvalidError(f"{name} must be above 0, not {duration!r}")
    return seconds


def _parse(text: str, name: str) -> int:
    """Return the nanoseconds of a Go duration string."""
    negative = text.startswith("-")
    limit = _MAX_NANOSECONDS + negative
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    if unsigned == "0":
        return 0
    total = 0
    position = 0
    while position < len(unsigned) or not unsigned:
        term = _TERM.match(unsigned, position)
        if term is None or not (term["whole"] or term["fraction"]):
            raise InvalidError(f'{name} must be a duration such as "1m30s" or "250ms", not {_shorten(text)}')
        total += _nanoseconds(term)
        position = term.end()
        if total > limit:
            raise InvalidError(f"{name} must be within 292 years, not {_shorten(text)}")
    return -total if negative else total


def _remember(text: str, name: str) -> float:
    """Return the seconds of a Go duration string, and remember them."""
    seconds = _parse(text, name) / 1e9
    if len(text) <= _MAX_REMEMBERED_LENGTH:
        if len(remembered) >= _MOST_REMEMBERED:
            remembered.clear()
        remembered[text] = seconds
    return seconds


def _nanoseconds(term: re.Match[str]) -> int:
    # Twenty digits are more than 64 bits hold; reading no more keeps hostile input from costing quadratic time.
    scale = _NANOSECONDS[term["unit"]]
    whole = (term["whole"] or "").lstrip("0")
    if len(whole) > 20:
        return _MAX_NANOSECONDS + 2
    nanoseconds = int(whole or "0") * scale
    digits = (term["fraction"] or "")[:20]
    while digits and int(digits) > _MAX_NANOSECONDS:
        digits = digits[:-1]
    if digits:
        # A float, as in Go, so that 0.3333333333333333333h is 20 minutes and not a nanosecond less.
        nanoseconds += int(int(digits) * (scale / 10.0 ** len(digits)))
    return nanoseconds


def _shorten(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:40]!r}..."
