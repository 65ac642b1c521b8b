"""JSON (RFC 8259), out of a message's data and for a message to be sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from csp.errors import InvalidError, InvalidTypeError, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

T = TypeVar("T")

# How much of a message is shown where it is not JSON.
_SHOWN_LENGTH = 40


def decoded_json(data: str | bytes, loads: Callable[[str | bytes], T]) -> T:
    """Return what ``loads`` makes of a message's data; raise `InvalidError` from whatever it raises.

    Data is what a peer has sent. So not only a ValueError of a decoder says that it is not as it should be: JSON that
    is nested too deep is a RecursionError, and what a decoder makes of JSON with the wrong fields is often a TypeError.
    """
    _check_callable("loads", loads)
    try:
        return loads(data)
    except Exception as error:
        raise InvalidError(f"the message cannot be decoded as JSON: {_why(error)}; {_beginning(data)}") from error


def encoded_json(value: T, dumps: Callable[[T], str | Buffer]) -> str | Buffer:
    """Return what ``dumps`` makes of a value; raise `InvalidError` from whatever it raises."""
    _check_callable("dumps", dumps)
    try:
        return dumps(value)
    except Exception as error:
        kind = InvalidTypeError if isinstance(error, TypeError) else InvalidError
        raise kind(f"value cannot be encoded as JSON: {_why(error)}") from error


def strict_loads(data: str | bytes) -> Any:  # as json.loads
    """Parse JSON as `json.loads` does, but of bytes nothing other than UTF-8, without surrogates."""
    return json.loads(data if isinstance(data, str) else data.decode())


def compact_dumps(value: object) -> str:
    """Encode as JSON without spaces and with characters as they are; raise ValueError for NaN and infinity."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _check_callable(name: str, function: object) -> None:
    if not callable(function):
        raise InvalidTypeError(f"{name} must be a function, not {type(function).__name__}")


def _why(error: Exception) -> str:
    return shown(f"{type(error).__name__}: {error}".removesuffix(": "))


def _beginning(data: str | bytes) -> str:
    """Say how a message begins, and how long it is if that is not all of it."""
    if not data:
        return "it is empty"
    if isinstance(data, str):
        return f"it begins: {shown(data, _SHOWN_LENGTH)}"
    head = shown(data[:_SHOWN_LENGTH].decode(errors="backslashreplace"), None)
    return f"it begins: {head}" + (f"... ({len(data) - _SHOWN_LENGTH} more bytes)" if len(data) > _SHOWN_LENGTH else "")
