"""Agreeing on compression: the offer of permessage-deflate, and the server's answer (RFC 7692, section 7.1). No I/O."""

from __future__ import annotations

import re
from typing import NamedTuple

from trio_csp_websocket.protocol.constants import Compression

_EXTENSION = "permessage-deflate"
# With client_max_window_bits a server may ask for a smaller window than 15 bits; without, it may not.
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

_MAX_SHOWN = 200


class DeflateParameters(NamedTuple):
    """How both ends compress: whether each starts afresh with every message, and its window in bits."""

    own_no_context_takeover: bool = False
    peer_no_context_takeover: bool = False
    own_max_window_bits: int = 15
    peer_max_window_bits: int = 15


def offer(compression: Compression) -> str | None:
    """Return the Sec-WebSocket-Extensions header that asks for a compression; None for no header."""
    return _OFFERS.get(compression)


def agreed(answer: str, compression: Compression) -> DeflateParameters | None:
    """Return what the server's Sec-WebSocket-Extensions header agrees to; None if it wants no compression.

    A server may leave compression out, may start afresh with every message, and may limit either window. One that
    does not confirm ``server_no_context_takeover`` is taken to keep its context, which costs memory and nothing else.

    Raises:
        ValueError: the header is malformed, or contains what was not offered; the text says what.
    """
    parameters: DeflateParameters | None = None
    position = 0
    while position < len(answer):
        if answer[position] in " \t,":
            position += 1
            continue
        name = _NAME.match(answer, position)
        if name is None or answer[name.end() : name.end() + 1] not in ("", ",", ";"):
            raise _malformed(answer)
        if name[1] != _EXTENSION or compression not in _OFFERS:
            raise ValueError(f"it wants the extension {_shown(name[1])}, which was not offered")
        if parameters is not None:
            raise ValueError(f"it wants the extension {name[1]!r} twice")
        position = name.end()
        found: dict[str, str | None] = {}
        while (parameter := _PARAMETER.match(answer, position)) is not None:
            if parameter[1] in found:
                raise ValueError(f"it gives the parameter {_shown(parameter[1])} of {_EXTENSION} twice")
            found[parameter[1]] = parameter[2] or parameter[3]
            position = parameter.end()
        if position < len(answer) and answer[position] != ",":
            raise _malformed(answer)
        parameters = _parameters(found)
        if compression is Compression.NO_CONTEXT:
            # A sender may always start afresh, whether or not the server has taken note of it.
            parameters = parameters._replace(own_no_context_takeover=True)
    return parameters


def _parameters(found: dict[str, str | None]) -> DeflateParameters:
    """Check the parameters of permessage-deflate (RFC 7692, section 7.1)."""
    for name, value in found.items():
        if name in ("client_no_context_takeover", "server_no_context_takeover"):
            valid = value is None
        elif name in ("client_max_window_bits", "server_max_window_bits"):
            valid = value is not None and _WINDOW_BITS.fullmatch(value) is not None
        else:
            raise ValueError(f"it gives {_EXTENSION} the parameter {_shown(name)}, which does not exist")
        if not valid:
            raise ValueError(f"it gives the parameter {name!r} of {_EXTENSION} the value {_shown(value)}")
    return DeflateParameters(
        own_no_context_takeover="client_no_context_takeover" in found,
        peer_no_context_takeover="server_no_context_takeover" in found,
        own_max_window_bits=int(found.get("client_max_window_bits") or 15),
        peer_max_window_bits=int(found.get("server_max_window_bits") or 15),
    )


def _malformed(answer: str) -> ValueError:
    return ValueError(f"its Sec-WebSocket-Extensions header is malformed: {_shown(answer)}")


def _shown(text: str | None) -> str:
    """Return what a server said as it is to be shown: not all of it, if that is long."""
    return repr(text if text is None or len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")
