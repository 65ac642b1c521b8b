"""What a fuzzer that is guided by coverage may feed: any bytes, of which the first choose options.

A target returns if all is well, and raises otherwise. Each says how it takes the bytes apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import h11

from csp.errors import ConnectionFailedError, InvalidError
from tests.fuzz._differences import compare
from tests.fuzz._oracles import Ours, Setting, found, read
from tests.fuzz._request_oracles import agree
from tests.fuzz._streams import LIMITS, split
from tests.websocket._server import BINARY, COMPRESSED, CONTINUATION, frame
from trio_csp_websocket.protocol.answer import text_answer
from trio_csp_websocket.protocol.constants import Compression
from trio_csp_websocket.protocol.negotiation import DeflateParameters
from trio_csp_websocket.protocol.request import ParsedRequest, RefusedRequestError, RequestReader
from trio_csp_websocket.protocol.response import ResponseReader
from trio_csp_websocket.protocol.url import parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Of the options: the limit or the kind of compression, the window, and where the stream is cut, by three bytes.
OPTIONS_BYTES: Final = 5


def decoder(data: bytes) -> None:
    """A server's stream of frames: what ours, wsproto and websockets find in it.

    The first byte chooses the limit and whether to compress, the second the window and whether there is a context, the
    next three where the stream is cut into blocks.
    """
    _decoder(data, server=False)


def unmasking_decoder(data: bytes) -> None:
    """The same for a client's stream."""
    _decoder(data, server=True)


def _decoder(data: bytes, *, server: bool) -> None:
    if len(data) < OPTIONS_BYTES:
        return
    deflate = None
    if data[0] & 0x80:
        deflate = DeflateParameters(peer_no_context_takeover=bool(data[1] & 8), peer_max_window_bits=8 + data[1] % 8)
    setting = Setting(LIMITS[data[0] % len(LIMITS)], deflate, server)
    stream = data[OPTIONS_BYTES:]
    log, _ = compare(setting, stream)
    assert found(read(Ours(setting), split(stream, _cuts(data)))) == found(log)


def deflate(data: bytes) -> None:
    """Compressed messages: the same as `decoder`, with the frames around them put there.

    The options as there. Then fragments, each behind a byte with twice its length, one more if it is not the last.
    """
    if len(data) < OPTIONS_BYTES:
        return
    stream, rest, inside = b"", data[OPTIONS_BYTES:], False
    while rest:
        length, fin = rest[0] // 2, not rest[0] % 2
        payload, rest = rest[1 : 1 + length], rest[1 + length :]
        opcode, reserved = (CONTINUATION, 0) if inside else (BINARY, COMPRESSED)
        stream += frame(opcode, payload, fin=fin, reserved=reserved)
        inside = not fin
    decoder(bytes([data[0] | 0x80]) + data[1:OPTIONS_BYTES] + stream)


_HEAD_LIMITS: Final = (4096, 4096, 4096, 300, 20)

REQUEST: Final = (
    b"GET / HTTP/1.1\r\nHost: server.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def handshake(data: bytes) -> None:
    """An answer to the handshake: it is accepted or refused with the documented error, in whatever blocks it comes.

    The first byte chooses the compression that was offered and whether subprotocols were, the next three where the
    answer is cut into blocks.
    """
    if len(data) < OPTIONS_BYTES:
        return
    answer = data[OPTIONS_BYTES:]
    protocols = ("chat", "v2") if data[0] & 0x80 else ()
    offered = Compression(data[0] % len(Compression))
    whole = _answered(ResponseReader(protocols, offered), [answer])
    assert _answered(ResponseReader(protocols, offered), split(answer, _cuts(data))) == whole
    assert _answered(ResponseReader(protocols, offered), [answer[i : i + 1] for i in range(len(answer))]) == whole


def _answered(handshake: ResponseReader, blocks: Sequence[bytes]) -> object:
    """Return what comes of an answer, at the latest at its end."""
    handshake.request_sent(REQUEST)
    rest = b""
    answer = None
    try:
        for block in [block for block in blocks if block] + [b""]:
            if answer is not None:
                rest += block
                continue
            answer = handshake.feed(block)
            assert len(handshake._body) < 1 << 17
    except ConnectionFailedError as error:
        details = dict(error.details)
        # What is not HTTP is refused, and shown, as far as it has come.
        return error.kind, error.retryable, details if details.pop("answer", None) is None else None
    assert answer is not None
    head, begun = answer
    # What trio-websocket is given is an answer that h11 understands.
    client = h11.Connection(h11.CLIENT)
    client.send(
        h11.Request(method="GET", target="/", headers=[("Host", "x"), ("Upgrade", "x"), ("Connection", "upgrade")])
    )
    client.send(h11.EndOfMessage())
    client.receive_data(head)
    event = client.next_event()
    assert isinstance(event, h11.InformationalResponse)
    assert event.status_code == 101
    return head, begun + rest, handshake.deflate, list(handshake.headers.items())


def request(data: bytes) -> None:
    """A client's request: it is taken, refused with the documented error, or not complete, in whatever blocks it comes.

    What is taken others understand in the same way. The first byte chooses how large a head may be, the next three
    where the request is cut into blocks.
    """
    if len(data) < OPTIONS_BYTES:
        return
    stream, limit = data[OPTIONS_BYTES:], _HEAD_LIMITS[data[0] % len(_HEAD_LIMITS)]
    whole = requested([stream], limit)
    assert requested(split(stream, _cuts(data)), limit) == whole
    assert requested([stream[i : i + 1] for i in range(len(stream))], limit) == whole
    if isinstance(whole[0], ParsedRequest):
        agree(stream.removesuffix(whole[1]), whole[0])


def requested(blocks: Sequence[bytes], limit: int) -> tuple[ParsedRequest | str | None, bytes]:
    """Return a request, why it was refused, or None for one that is not complete; and what came behind it."""
    reader = RequestReader(limit)
    taken: ParsedRequest | None = None
    rest = b""
    for block in blocks:
        if taken is not None:
            rest += block
            continue
        try:
            taken = reader.feed(block)
        except RefusedRequestError as error:
            return _refusal(error), b""
        if taken is not None:
            rest = reader.rest()
    return taken, rest


def _refusal(error: RefusedRequestError) -> str:
    """Return what a client is told, which h11 understands."""
    assert error.status in (400, 405, 426, 431, 505)
    assert str(error).isprintable()
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.receive_data(text_answer(error.status, str(error), error.headers))
    assert isinstance(client.next_event(), h11.Response)
    return f"{error.status} {error} {error.headers}"


def url(data: bytes) -> None:
    """A URL: it is refused with the documented error, or normalised for good, and then safe to put in a request."""
    try:
        target = parse_url(data.decode(errors="surrogatepass"))
    except (InvalidError, UnicodeDecodeError):
        return
    assert parse_url(target.url) == replace(target, authorization=None)
    for part in (target.host_header, target.resource, target.authorization or ""):
        assert part.isascii()
        assert part.isprintable()
    assert " " not in target.host_header + target.resource


def _cuts(data: bytes) -> list[int]:
    """Return where to cut, near the start or anywhere."""
    return [data[2], data[3], 37 * data[4]]


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "decoder": decoder,
    "unmasking_decoder": unmasking_decoder,
    "deflate": deflate,
    "handshake": handshake,
    "request": request,
    "url": url,
}
