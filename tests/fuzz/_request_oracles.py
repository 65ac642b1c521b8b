"""What others make of a request that is taken: h11, and of a handshake wsproto and websockets too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import h11
import websockets.http11
import websockets.server
import wsproto
import wsproto.events
from websockets.exceptions import InvalidHandshake
from websockets.streams import StreamReader
from websockets.typing import Subprotocol

from tests.websocket._server import accept_key
from trio_csp_websocket.protocol.answer import acceptance
from trio_csp_websocket.protocol.headers import Headers, parse_headers

if TYPE_CHECKING:
    from trio_csp_websocket.protocol.request import ParsedRequest

_TOKENS: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
# websockets refuses longer lines, and more of them.
_WEBSOCKETS_MAX_LINE: Final = 8192


def agree(head: bytes, request: ParsedRequest) -> None:
    """Fail if others find something else in a head, or refuse it, and nothing known is the reason."""
    headers = parse_headers(request.head)
    _h11(head, request, headers)
    if request.websocket:
        found = _websockets(head, headers)
        if found is not None:
            assert found == (accept_key(request.key.decode()), list(request.protocols))
        offered = _wsproto(head, headers)
        if offered is not None:
            # It keeps what is there twice.
            assert tuple(dict.fromkeys(offered)) == request.protocols
        accept = b"\r\nSec-WebSocket-Accept: " + accept_key(request.key.decode()).encode() + b"\r\n"
        assert accept in acceptance(request.key, None, None, ())


def _h11(head: bytes, request: ParsedRequest, headers: Headers) -> None:
    server = h11.Connection(h11.SERVER)
    server.receive_data(head)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    assert event.method == request.method.encode()
    assert event.target.decode().endswith(request.target.removeprefix("/"))
    assert request.http_1_0 == (event.http_version == b"1.0")
    # Headers of one name are together.
    fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers.raw_items()]
    assert headers.multi_items() == Headers(fields).multi_items()


def _plain(headers: Headers, *names: str) -> bool:
    """Tell whether headers are there once each, as lists without empty elements."""
    return all(len(headers.get_all(name)) == 1 and _TOKENS.fullmatch(headers[name]) for name in names)


def _websockets(head: bytes, headers: Headers) -> tuple[str, list[str]] | None:
    """Return the accept key and the subprotocols; None where it is known to be stricter than RFC 9110."""
    if max(map(len, head.split(b"\r\n"))) >= _WEBSOCKETS_MAX_LINE:
        return None
    reader = StreamReader()
    reader.feed_data(head)
    reader.feed_eof()
    parsing = websockets.http11.Request.parse(reader.read_line)
    try:
        next(parsing)
    except StopIteration as result:
        parsed = result.value
    else:
        raise AssertionError("websockets finds no end of the head")
    assert isinstance(parsed, websockets.http11.Request)
    assert Headers(parsed.headers.raw_items()).multi_items() == headers.multi_items()
    server = websockets.server.ServerProtocol(
        subprotocols=[Subprotocol("chat")], select_subprotocol=lambda _server, _names: None
    )
    # It wants one Upgrade, and in lists also tokens where it does not look for any.
    lists = [name for name in ("upgrade", "connection", "sec-websocket-protocol") if name in headers]
    strict = _plain(headers, *lists) and headers["upgrade"].lower() == "websocket"
    try:
        key, _, _ = server.process_request(parsed)
    except InvalidHandshake:
        if strict:
            raise
        return None
    names = [name for value in headers.get_all("sec-websocket-protocol") for name in re.split(r"[ \t]*,[ \t]*", value)]
    return key, list(dict.fromkeys(name for name in names if name))


def _wsproto(head: bytes, headers: Headers) -> list[str] | None:
    """Return the subprotocols; None where it reads only the last of several headers, or no such host or extensions."""
    if not _plain(headers, "upgrade", "connection") or headers["upgrade"].lower() != "websocket":
        return None
    if not "".join(headers.get_all("sec-websocket-extensions")).isascii():
        return None
    try:
        headers["host"].encode("ascii").decode("idna")
    except UnicodeError:
        return None
    server = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    server.receive_data(head)
    event = next(server.events())
    assert isinstance(event, wsproto.events.Request)
    return [name for name in event.subprotocols if name]
