"""HTTP headers: names in any case, repeated ones kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, cast, final

from csp.errors import InvalidError, InvalidTypeError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, section 5.6.2; also the grammar of a subprotocol (RFC 6455, section 4.1)."""
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@final
class Headers(Mapping[str, str]):
    """The headers of a request or an answer; they cannot be changed, and their names match in any case.

    Made from a mapping, or from pairs of names and values.

    ``headers[name]`` is the first value of a header that came several times; `get_all` and `multi_items` give all of
    them. Iteration gives each name once, as it was first written. (RFC 9110, section 5.)

    The ``repr`` shows names only, because the values may be secrets, such as cookies and tokens.
    """

    __slots__ = ("_values",)

    def __init__(self, fields: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        # By names in lower case: the name as written, and the values.
        self._values: dict[str, tuple[str, list[str]]] = {}
        for name, value in field_pairs(fields):
            self._values.setdefault(name.lower(), (name, []))[1].append(value)

    def __getitem__(self, name: str) -> str:
        if name not in self:
            raise KeyError(name)
        return self._values[name.lower()][1][0]

    def get_all(self, name: str) -> list[str]:
        """Return all values of a header, in the order they came; an empty list if there is none."""
        return self._values[name.lower()][1].copy() if name in self else []

    def multi_items(self) -> list[tuple[str, str]]:
        """Return names and values of all headers, repeated ones too; those of one name are together."""
        return [(name, value) for name, values in self._values.values() for value in values]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._values.values())

    def __len__(self) -> int:
        """Return how many different names there are."""
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        """Compare names in any case, and all values of each; no other mapping is equal."""
        if not isinstance(other, Headers):
            return NotImplemented
        return {name: values for name, (_, values) in self._values.items()} == {
            name: values for name, (_, values) in other._values.items()
        }

    __hash__ = None  # type: ignore[assignment]  # as a mapping's

    def __repr__(self) -> str:
        return f"<csp.websocket.Headers {shown(', '.join(self)) or 'without any'}>"


def field_pairs(fields: object) -> list[tuple[str, str]]:
    """Return headers, given as a mapping or as pairs, as pairs of names and values.

    Raises:
        InvalidTypeError: they are neither, or a name or a value is not a string. No value is shown: it may be a secret.
    """
    if isinstance(fields, str | bytes) or not isinstance(fields, Iterable):
        raise InvalidTypeError(f"headers must be a mapping or an iterable of pairs, not {type(fields).__name__}")
    pairs: list[tuple[str, str]] = []
    for pair in _items(cast("Iterable[object]", fields)):
        if not isinstance(pair, tuple | list) or len(cast("Sequence[object]", pair)) != 2:
            raise InvalidTypeError("headers must be pairs of a name and a value")
        name, value = cast("Sequence[object]", pair)
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidTypeError(f"headers must have strings as names and values, not as in {shown_name(name)}")
        pairs.append((name, value))
    return pairs


def encoded_field(name: str, value: str) -> tuple[bytes, bytes]:
    """Return a header as it goes on the wire (RFC 9110, section 5).

    Raises:
        InvalidError: it cannot be written. The value is not shown: it may be a secret.
    """
    if not TOKEN.fullmatch(name):
        raise InvalidError(f"headers must have names without spaces and separators, not {shown_name(name)}")
    if _CONTROL_CHARACTER.search(value):
        raise InvalidError(f"headers must not contain control characters such as line breaks, as {name!r} does")
    try:
        return name.encode("ascii"), value.strip(" \t").encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidError(f"headers must have values in Latin-1, unlike that of {name!r}") from None


def shown_name(name: object) -> str:
    """Return what was given as a header's name as errors show it: not what is behind the name, if that is a value."""
    if not isinstance(name, str):
        return type(name).__name__
    begin = re.match(r"[^\s:]*:?", name)
    assert begin is not None  # it may be empty
    return repr(name) if begin.end() == len(name) else f"{begin[0]!r} and more"


def _items(fields: Iterable[object]) -> Iterable[object]:
    if isinstance(fields, Headers):
        return fields.multi_items()
    return cast("Mapping[object, object]", fields).items() if isinstance(fields, Mapping) else fields


def parse_headers(head: bytes) -> Headers:
    """Parse lines of ``name: value``, as `ResponseReader.head` has them."""
    lines = [line.partition(": ") for line in head.decode("latin-1").split("\r\n")] if head else []
    return Headers((name, value) for name, _, value in lines)


def joined(headers: Headers) -> dict[str, str]:
    """Return headers by their names in lower case, repeated ones joined as RFC 9110, section 5.3, allows."""
    return {name.lower(): ", ".join(headers.get_all(name)) for name in sorted(headers, key=str.lower)}
