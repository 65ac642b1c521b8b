"""An option that is a list, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from csp.errors import InvalidTypeError, shown


def parse_list(name: str, given: object, expected: str) -> list[object]:
    """Return what a list has, or any other iterable but a single string.

    Args:
        name: what errors call the option.
        given: the value of the option.
        expected: what it must be, for errors.

    Raises:
        InvalidTypeError: it is something else. Of a string the text says to write a list.
    """
    if isinstance(given, str):
        raise InvalidTypeError(f"{name} must be {expected}; write [{shown(repr(given))}]")
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise InvalidTypeError(f"{name} must be {expected}, not {type(given).__name__}")
    return list(cast("Iterable[object]", given))


def parse_strings(name: str, given: object, expected: str) -> list[str]:
    """Do the same as `parse_list` for a list of strings only."""
    strings: list[str] = []
    for entry in parse_list(name, given, expected):
        if not isinstance(entry, str):
            raise InvalidTypeError(f"{name} must have strings in its list, not {type(entry).__name__}")
        strings.append(entry)
    return strings
