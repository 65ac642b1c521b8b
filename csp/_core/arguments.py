"""A check that several functions make of an argument."""

from __future__ import annotations

from csp.errors import InvalidError, InvalidTypeError


def check_count(number: object, name: str, *, least: int = 1, expected: str = "a whole number") -> None:
    """Raise for anything but an int of at least ``least``; a bool is not one.

    Args:
        number: what was given.
        name: what the argument is called, for the error.
        least: the smallest that will do.
        expected: what was to be given, for the error.

    Raises:
        InvalidError: it is below ``least``.
        InvalidTypeError: it is not an int.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidTypeError(f"{name} must be {expected}, not {number!r}")
    if number < least:
        raise InvalidError(f"{name} must be at least {least}, not {number}")
