"""Data messages: those received, and those a user gives to be sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast, overload

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_websocket.protocol.constants import BINARY, TEXT, MessageType
from trio_csp_websocket.protocol.json_text import compact_dumps, decoded_json, encoded_json, strict_loads

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

T = TypeVar("T")


class Message(NamedTuple):
    """A data message: its type, ``"text"`` or ``"binary"``, and its data, a str or bytes accordingly.

    A tuple, because those are made fast; read its fields by name, as later versions may add some.
    """

    type: MessageType
    data: str | bytes

    # What JSON holds is known to the caller only, and with `object` each use of it would need a cast.
    @overload
    def json(self, *, loads: None = None) -> Any: ...
    @overload
    def json(self, *, loads: Callable[[str | bytes], T]) -> T: ...
    def json(self, *, loads: Callable[[str | bytes], Any] | None = None) -> Any:
        """Return the data decoded as JSON, be it text or the UTF-8 of a binary message.

        Args:
            loads: the decoder, which gets `data` as it is. By default it is `json.loads`, which also takes NaN and
                Infinity for numbers.

        Raises:
            InvalidError: the decoder raised an exception, which is ``__cause__``: the data is not JSON or not UTF-8,
                is nested too deep, has a number with too many digits, or is not what the decoder expects. The text
                shows the first 40 characters or bytes of the data.
            InvalidTypeError: ``loads`` cannot be called.
        """
        return decoded_json(self.data, strict_loads if loads is None else loads)


# What `Message` itself comes down to, at half its price; for the hot paths. The core has one like it, but a driver uses
# only what is public there.
new_tuple = cast(
    "Callable[[type[Message], tuple[MessageType, str | bytes]], Message]",
    tuple.__new__,  # pyright: ignore[reportUnknownMemberType]
)


def check_type(type: object) -> None:  # noqa: A002
    """Raise `InvalidError` for what is neither the type of a message nor None."""
    if type is not None and (isinstance(type, bool) or not isinstance(type, int)):
        raise InvalidTypeError(f"type must be TEXT (1) or BINARY (2), not {type!r}")
    if type not in (None, TEXT, BINARY):
        raise InvalidError(f"type must be TEXT (1) or BINARY (2), not {type!r}")


def encoded(data: object, type: int | None, *, name: str = "data") -> tuple[int, bytes | bytearray]:  # noqa: A002
    """Return opcode and payload for a message; raise `InvalidError` for what cannot be sent."""
    if type is None and isinstance(data, str):
        return TEXT, utf_8(data, name)
    check_type(type)
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


def encoded_many(messages: object, type: int | None) -> list[tuple[int, bytes]]:  # noqa: A002
    """Return opcode and payload of each of many messages; raise `InvalidError` if one of them cannot be sent."""
    check_type(type)
    payloads: list[tuple[int, bytes]] = []
    add = payloads.append
    for message in cast("Iterable[object]", each_of(messages)):
        if type is None and isinstance(message, str) and message.isascii():  # most are: without calls
            add((TEXT, message.encode()))
        else:
            opcode, payload = encoded(message, type, name="each message")
            add((opcode, bytes(payload)))
    return payloads


def each_of(messages: T) -> T:
    """Return messages if they are many; raise `InvalidTypeError` for anything else."""
    given = type(messages).__name__
    if isinstance(messages, str | bytes | bytearray | memoryview):
        raise InvalidTypeError(f"messages must be an iterable of messages, not {given}; send takes one")
    if not isinstance(messages, Iterable):
        raise InvalidTypeError(f"messages must be an iterable of messages, not {given}")
    return cast("T", messages)


def json_payload(value: T, dumps: Callable[[T], str | Buffer] | None) -> bytes | bytearray:
    """Return the payload of a text message that is a value as JSON; raise `InvalidError` for what cannot be sent."""
    if dumps is None:
        return encoded(encoded_json(value, compact_dumps), TEXT, name="value as JSON")[1]
    return encoded(encoded_json(value, dumps), TEXT, name="what dumps returns")[1]


def utf_8(text: str, name: str) -> bytes:
    """Return a text's UTF-8; raise `InvalidError`, with the name of the argument, for one with surrogates."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidError(f"{name} cannot be encoded as UTF-8: {error}") from None
