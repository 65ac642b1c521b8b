"""Data messages: those received, and those a user gives to be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.protocol.constants import BINARY, TEXT, MessageType

if TYPE_CHECKING:
    from collections.abc import Callable


class Message(NamedTuple):
    """A data message: its type, ``"text"`` or ``"binary"``, and its data, a str or bytes accordingly.

    A tuple, because those are made fast; read its fields by name, as later versions may add some.
    """

    type: MessageType
    data: str | bytes


# What `Message` itself comes down to, at half its price; for the hot paths. The core has one like it, but a driver uses
# only what is public there.
new_tuple = cast(
    "Callable[[type[Message], tuple[MessageType, str | bytes]], Message]",
    tuple.__new__,  # pyright: ignore[reportUnknownMemberType]
)


def encoded(data: object, type: int | None, *, name: str = "data") -> tuple[int, bytes | bytearray]:  # noqa: A002
    """Return opcode and payload for a message; raise `InvalidError` for what cannot be sent."""
    if type is None and isinstance(data, str):
        return TEXT, utf_8(data, name)
    if type is not None and (isinstance(type, bool) or not isinstance(type, int)):
        raise InvalidTypeError(f"type must be TEXT (1) or BINARY (2), not {type!r}")
    if type not in (None, TEXT, BINARY):
        raise InvalidError(f"type must be TEXT (1) or BINARY (2), not {type!r}")
    if isinstance(data, str):
        return TEXT if type is None else type, utf_8(data, name)
    if isinstance(data, bytes | bytearray):
        payload: bytes | bytearray = data
    else:
        try:
            payload = memoryview(data).tobytes()  # type: ignore[arg-type]  # whether it is a buffer is the question
        except TypeError:
            raise InvalidTypeError(f"{name} must be a str or bytes-like, not {data.__class__.__name__}") from None
    if type == TEXT:
        try:
            str(payload, "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidError(f"{name} must be UTF-8 to go as text: {error}") from None
    return BINARY if type is None else type, payload


def utf_8(text: str, name: str) -> bytes:
    """Return a text's UTF-8; raise `InvalidError`, with the name of the argument, for one with surrogates."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidError(f"{name} cannot be encoded as UTF-8: {error}") from None
