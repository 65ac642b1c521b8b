"""Values to bytes and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

from csp.errors import InvalidError, InvalidTypeError, shown

T = TypeVar("T")

Codec: TypeAlias = tuple[Callable[[T], bytes | str], Callable[[bytes], T]]
"""Two plain functions: one that makes bytes, or a str that is written as UTF-8, of a value; and one that makes the
value of the bytes. What they raise means that the value cannot be sent, or cannot be read."""

MAX_BYTES = 512 * 1024 * 1024
"""The longest string that Redis takes (``proto-max-bulk-len``)."""


def _as_bytes(value: bytes | str) -> bytes | str:
    if isinstance(value, bytes | str):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise InvalidTypeError(f"data must be bytes or a str, not {type(value).__name__}; a codec takes other values")


def _itself(data: bytes) -> bytes:
    return data


def _to_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


BYTES: Codec[bytes] = (_as_bytes, _itself)
"""Bytes as they are; a str goes as UTF-8 and comes as bytes."""

JSON: Codec[Any] = (_to_json, json.loads)
"""Values of JSON, by the standard library's `json`."""


def check_codec(codec: object) -> None:
    """Check that a codec is a pair of functions.

    Raises:
        InvalidTypeError: it is not.
    """
    pair = cast("tuple[object, ...]", codec)
    if not isinstance(codec, tuple) or len(pair) != 2 or not all(map(callable, pair)):
        raise InvalidTypeError(f"codec must be a pair of functions (encode, decode), not {shown(repr(pair))}")


def encoded(codec: Codec[T], value: T | str) -> bytes:
    """Return the bytes of a value.

    Raises:
        InvalidError: it cannot be encoded, or is longer than Redis takes.
        InvalidTypeError: ``encode`` returned neither bytes nor a str, or without a codec the value is neither.
    """
    try:
        data = codec[0](cast("T", value))
    except InvalidError:
        raise
    except Exception as error:
        raise InvalidError(f"the value cannot be encoded: {type(error).__name__}") from error
    if isinstance(data, str):
        try:
            data = data.encode()
        except UnicodeEncodeError:
            raise InvalidError("the value cannot be written as UTF-8: it has a surrogate") from None
    if not isinstance(data, bytes):
        raise InvalidTypeError(f"encode must return bytes or a str, not {type(data).__name__}")
    if len(data) > MAX_BYTES:
        raise InvalidError(f"a value must be at most {MAX_BYTES} bytes, which is what Redis takes, not {len(data)}")
    return data
