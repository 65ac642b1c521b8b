"""A check that several functions make of an argument."""

from __future__ import annotations

from csp.errors import InvalidError, InvalidTypeError


def check_count(number: object, name: str) -> None:
    """Raise for what is no whole number of at least 1.

    Raises:
        InvalidError: it is below 1.
        InvalidTypeError: it is no int.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidTypeError(f"{name} must be a whole number, not {number!r}")
    if number < 1:
        raise InvalidError(f"{name} must be at least 1, not {number}")
