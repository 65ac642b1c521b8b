"""Options that several rooms have, checked."""

from __future__ import annotations

from typing import cast

import csp
from csp.errors import InvalidError, InvalidTypeError

# What Redis counts its times in, and more than anybody waits for.
_MAX_SECONDS = 366 * 24 * 3600.0


def parse_seconds(name: str, duration: object, *, least: float = 0.0) -> float:
    """Return a duration in seconds.

    Args:
        name: what errors call it.
        duration: a Go duration or a timedelta.
        least: what it must be at least; 0 for anything above 0.

    Raises:
        InvalidError: it is malformed, too short, or longer than a year.
        InvalidTypeError: it is anything else, such as a number without a unit.
    """
    seconds = csp.parse_duration(cast("csp.Duration", duration), name=name)
    if seconds <= 0 or seconds < least or seconds > _MAX_SECONDS:
        bound = f"at least {least:g} s" if least else "above 0"
        raise InvalidError(f"{name} must be {bound} and at most a year, not {duration!r}")
    return seconds


def parse_whole_number(name: str, number: object, least: int, most: int) -> int:
    """Return the number if it is a whole one within its bounds.

    Raises:
        InvalidError: it is out of range.
        InvalidTypeError: it is no whole number.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidTypeError(f"{name} must be a whole number, not {type(number).__name__}")
    if not least <= number <= most:
        shown = repr(number) if abs(number) < 10**100 else "a number that large"
        raise InvalidError(f"{name} must be {least} to {most}, not {shown}")
    return number


def parse_text(name: str, text: object, most: int, *, least: int = 1) -> str:
    """Return a string of ``least`` to ``most`` characters that can be written as UTF-8.

    Raises:
        InvalidError: it is shorter or longer, or has surrogates.
        InvalidTypeError: it is no string.
    """
    if not isinstance(text, str):
        raise InvalidTypeError(f"{name} must be a string, not {type(text).__name__}")
    if not least <= len(text) <= most:
        raise InvalidError(f"{name} must have {least} to {most} characters, not {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidError(f"{name} must be text that can be written as UTF-8: it has a surrogate") from None
    return text
