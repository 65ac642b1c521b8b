"""Ids of entries of a stream: milliseconds and a number, ``1733030400000-0``.

https://redis.io/docs/latest/develop/data-types/streams/#entry-ids
"""

from __future__ import annotations

import re
from typing import TypeAlias

from csp.errors import InvalidError, InvalidTypeError

Id: TypeAlias = tuple[int, int]

FIRST: Id = (0, 0)
"""Before all entries."""

_ID = re.compile(rb"([0-9]{1,20})-([0-9]{1,20})")
_MAX_PART = 2**64 - 1


def id_of(written: bytes) -> Id:
    """Return an id that the server has written; ids compare as entries follow each other."""
    milliseconds, _, number = written.partition(b"-")
    return int(milliseconds), int(number)


def written(entry: Id) -> bytes:
    """Return an id as Redis writes it."""
    return b"%d-%d" % entry


def parse_id(name: str, text: object) -> Id:
    """Return an id that a user gives.

    Raises:
        InvalidError: it is no id.
        InvalidTypeError: it is no string.
    """
    if not isinstance(text, str):
        raise InvalidTypeError(f"{name} must be a string, not {type(text).__name__}")
    parts = _ID.fullmatch(text.encode(errors="replace"))
    if parts is None or int(parts[1]) > _MAX_PART or int(parts[2]) > _MAX_PART:
        text = text[:60]
        raise InvalidError(f"{name} must be 'now', 'start' or an entry's id such as '1733030400000-0', not {text!r}")
    return int(parts[1]), int(parts[2])
