"""Agreeing on compression: a client offers permessage-deflate, a server answers (RFC 7692, section 7.1). No I/O.

On the wire the parameters are the client's and the server's. Nothing outside this file needs to know which is which:
what was agreed on is told of our own end and of the peer's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from csp.errors import shown
from trio_csp_websocket.protocol.constants import Compression

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_EXTENSION = "permessage-deflate"
# Only if client_max_window_bits is offered may a server ask the client for a smaller window than 15 bits.
_OFFERS = {
    Compression.CONTEXT_TAKEOVER: f"{_EXTENSION}; client_max_window_bits",
    Compression.NO_CONTEXT: (
        f"{_EXTENSION}; client_no_context_takeover; server_no_context_takeover; client_max_window_bits"
    ),
}

# RFC 6455, section 9.1: what is quoted must be a token too.
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NAME = re.compile(rf"({_WORD})[ \t]*")
_PARAMETER = re.compile(rf";[ \t]*({_WORD})[ \t]*(?:=[ \t]*(?:({_WORD})|\"({_WORD})\")[ \t]*)?")
_WINDOW_BITS = re.compile(r"[89]|1[0-5]")

_MAX_WINDOW_BITS = 15


class DeflateParameters(NamedTuple):
    """How both ends compress: whether each starts afresh with every message, and its window in bits."""

    own_no_context_takeover: bool = False
    peer_no_context_takeover: bool = False
    own_max_window_bits: int = _MAX_WINDOW_BITS
    peer_max_window_bits: int = _MAX_WINDOW_BITS


# The client's end -----------------------------------------------------------------------------------------------------


def offer(compression: Compression) -> str | None:
    """Return the Sec-WebSocket-Extensions header that asks for a compression; None for no header."""
    return _OFFERS.get(compression)


def agreed(answer: str, compression: Compression) -> DeflateParameters | None:
    """Return what the server's Sec-WebSocket-Extensions header agrees to; None if it wants no compression.

    A server may leave compression out, may start afresh with every message, and may limit either window. One that
    does not confirm ``server_no_context_takeover`` is taken to keep its context, which costs memory and nothing else.

    Raises:
        ValueError: the header is malformed, repeats the offer, or contains what was not offered; the text says what.
    """
    offered = offer(compression)
    if offered is not None and re.sub("[ \t]", "", answer) == offered.replace(" ", ""):
        raise ValueError(
            "its Sec-WebSocket-Extensions header repeats the whole offer, and must say which window it chooses: "
            "client_max_window_bits has no value"
        )
    terms: _Terms | None = None
    for name, parameters in _extensions(answer):
        if name != _EXTENSION or compression not in _OFFERS:
            raise ValueError(f"it wants the extension '{shown(name)}', which was not offered")
        if terms is not None:
            raise ValueError(f"it wants the extension {name!r} twice")
        terms = _terms(parameters)
    if terms is None:
        return None
    return DeflateParameters(
        # A sender may always start afresh, whether or not the server has confirmed it.
        own_no_context_takeover=terms.client_no_context_takeover or compression is Compression.NO_CONTEXT,
        peer_no_context_takeover=terms.server_no_context_takeover,
        own_max_window_bits=terms.client_max_window_bits or _MAX_WINDOW_BITS,
        peer_max_window_bits=terms.server_max_window_bits or _MAX_WINDOW_BITS,
    )


# The server's end -----------------------------------------------------------------------------------------------------


class Agreement(NamedTuple):
    """What a server agrees to."""

    header: str
    """Its Sec-WebSocket-Extensions."""
    deflate: DeflateParameters


def accepted(offers: str, compression: Compression, max_window_bits: int) -> Agreement | None:
    """Return what to agree to, given a client's Sec-WebSocket-Extensions header; None for no compression.

    The first offer of permessage-deflate that a server may accept is accepted. One that has a parameter that does not
    exist, a bad value, or a parameter twice is passed over (RFC 7692, section 7). A malformed header offers nothing.

    Args:
        offers: the header; several are joined by commas.
        compression: what the server wants.
        max_window_bits: how large a window that is kept from one message to the next may be, 9 to 15. A client that
            does not offer to limit its own keeps one of 15. One of 8 bits is granted but never asked for: most clients
            use zlib, which cannot compress with it.
    """
    if compression is Compression.DISABLED:
        return None
    try:
        extensions = list(_extensions(offers))
    except ValueError:
        return None
    for name, parameters in extensions:
        if name == _EXTENSION:
            try:
                terms = _terms(parameters, offered=True)
            except ValueError:
                continue
            return _agreement(terms, compression, max_window_bits)
    return None


def _agreement(offered: _Terms, compression: Compression, max_window_bits: int) -> Agreement:
    """Accept an offer: grant what it asks for, and ask for more where RFC 7692, section 7.1, allows it."""
    afresh = compression is Compression.NO_CONTEXT
    server_afresh = afresh or offered.server_no_context_takeover
    client_afresh = afresh or offered.client_no_context_takeover
    # Only a window that is kept holds memory.
    server_bits = min(
        offered.server_max_window_bits or _MAX_WINDOW_BITS, _MAX_WINDOW_BITS if server_afresh else max_window_bits
    )
    client_bits = _MAX_WINDOW_BITS
    if offered.client_max_window_bits is not None:
        client_bits = min(offered.client_max_window_bits, _MAX_WINDOW_BITS if client_afresh else max_window_bits)
    parameters = [_EXTENSION]
    if server_afresh:
        parameters.append("server_no_context_takeover")
    if client_afresh:
        parameters.append("client_no_context_takeover")
    if server_bits < _MAX_WINDOW_BITS or offered.server_max_window_bits is not None:
        parameters.append(f"server_max_window_bits={server_bits}")
    if client_bits < _MAX_WINDOW_BITS:
        parameters.append(f"client_max_window_bits={client_bits}")
    return Agreement("; ".join(parameters), DeflateParameters(server_afresh, client_afresh, server_bits, client_bits))


# What both say --------------------------------------------------------------------------------------------------------


class _Terms(NamedTuple):
    """The parameters of permessage-deflate as an offer or an answer has them; None for a window it does not mention."""

    client_no_context_takeover: bool
    server_no_context_takeover: bool
    client_max_window_bits: int | None
    server_max_window_bits: int | None


def _extensions(header: str) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Yield the names in a Sec-WebSocket-Extensions header, each with its parameters (RFC 6455, section 9.1).

    Raises:
        ValueError: the header is malformed; what comes before that place has been yielded.
    """
    position = 0
    while position < len(header):
        if header[position] in " \t,":
            position += 1
            continue
        name = _NAME.match(header, position)
        if name is None:
            raise _malformed(header)
        position = name.end()
        parameters: list[tuple[str, str | None]] = []
        while (parameter := _PARAMETER.match(header, position)) is not None:
            parameters.append((parameter[1], parameter[2] or parameter[3]))
            position = parameter.end()
        if position < len(header) and header[position] != ",":
            raise _malformed(header)
        yield name[1], parameters


def _terms(parameters: Sequence[tuple[str, str | None]], *, offered: bool = False) -> _Terms:
    """Check the parameters of permessage-deflate (RFC 7692, section 7.1).

    Args:
        parameters: names and values.
        offered: whether this is an offer. There ``client_max_window_bits`` may have no value, which means 15: the
            client lets the server choose.

    Raises:
        ValueError: one of them does not exist, is there twice, or has a bad value; the text says what.
    """
    found: dict[str, str | None] = {}
    for name, value in parameters:
        if name in found:
            raise ValueError(f"it gives the parameter '{shown(name)}' of {_EXTENSION} twice")
        found[name] = value
    for name, value in found.items():
        if name in ("client_no_context_takeover", "server_no_context_takeover"):
            valid = value is None
        elif name in ("client_max_window_bits", "server_max_window_bits"):
            may_lack = offered and name == "client_max_window_bits"
            valid = may_lack if value is None else _WINDOW_BITS.fullmatch(value) is not None
        else:
            raise ValueError(f"it gives {_EXTENSION} the parameter '{shown(name)}', which does not exist")
        if not valid:
            given = "no value" if value is None else f"the value '{shown(value)}'"
            raise ValueError(f"it gives the parameter {name!r} of {_EXTENSION} {given}")
    return _Terms(
        client_no_context_takeover="client_no_context_takeover" in found,
        server_no_context_takeover="server_no_context_takeover" in found,
        client_max_window_bits=_window_bits(found, "client_max_window_bits"),
        server_max_window_bits=_window_bits(found, "server_max_window_bits"),
    )


def _window_bits(found: dict[str, str | None], name: str) -> int | None:
    return int(found[name] or _MAX_WINDOW_BITS) if name in found else None


def _malformed(header: str) -> ValueError:
    return ValueError(f"its Sec-WebSocket-Extensions header is malformed: '{shown(header)}'")
