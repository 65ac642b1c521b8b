"""Looks for work that grows faster than what a peer sends: the same input twice as long, and twice again.

An input is a small random unit, repeated: what makes a parser's work grow with the square of the input is mostly a unit
that is repeated, and so it is clear what twice as long means. There are two meters:

- steps, which are the same on every machine, and see what Python does, but not what compiled code does within a step;
- seconds of the processor, which see all of it, such as a pattern that tries every way to divide a line of spaces, but
  are not exact. So they are for inputs so long that the square shows, and for ``python -m tests.fuzz.growth``.
"""

from __future__ import annotations

import time
import urllib.parse
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import trio

from csp import testing, websocket
from csp.errors import ConnectionFailedError, InvalidError
from tests.fuzz._targets import REQUEST
from trio_csp_websocket.client.backoff import retry_after
from trio_csp_websocket.protocol.constants import Compression
from trio_csp_websocket.protocol.headers import Headers, joined, parse_headers
from trio_csp_websocket.protocol.negotiation import accepted, agreed
from trio_csp_websocket.protocol.request import RefusedRequestError, RequestReader
from trio_csp_websocket.protocol.response import ResponseReader
from trio_csp_websocket.protocol.url import parse_url
from trio_csp_websocket.server.forwarded import forwarded, parse_networks
from trio_csp_websocket.server.hosts import local_hosts
from trio_csp_websocket.server.origins import parse_origins
from trio_csp_websocket.server.proxy_protocol import ProxyHeader, ProxyProtocolError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

# Twice the input may take this many times the work: 2 for work that is linear, 4 for work that is quadratic, and in
# between if it is both. Seconds are not exact.
TOO_MANY_STEPS: Final = 2.2
TOO_MANY_SECONDS: Final = 2.8
_LENGTHS: Final = (1, 2, 4, 8)
_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Target(NamedTuple):
    """What is tried, and what its inputs are made of."""

    run: Callable[[list[bytes]], object]
    """Does the work for an input that comes in blocks."""
    firsts: Sequence[bytes]
    """What an input can begin with."""
    parts: Sequence[bytes]
    """What its unit is made of. A # becomes the number of the unit."""
    lasts: Sequence[bytes]
    """What it can end with."""
    sizes: Sequence[int] = (1, 50, 1 << 30)
    """How large its blocks may be."""


class Input(NamedTuple):
    """A unit that is repeated, and what is around it."""

    first: bytes
    unit: bytes
    last: bytes
    block_bytes: int

    def blocks(self, count: int) -> list[bytes]:
        """Return the input with so many units."""
        units = [self.unit.replace(b"#", b"%x" % number) for number in range(count)]
        data = b"".join([self.first, *units, self.last])
        return [data[start : start + self.block_bytes] for start in range(0, len(data), self.block_bytes)]


def chosen(target: Target, chance: random.Random) -> Input:
    """Return a random input."""
    unit = b"".join(chance.choice(target.parts) for _ in range(chance.choice((1, 1, 2, 3))))
    return Input(chance.choice(target.firsts), unit, chance.choice(target.lasts), chance.choice(target.sizes))


def grows_too_fast(cost: Callable[[int], float], too_much: float) -> bool:
    """Tell whether doubling costs too much, twice in a row: once, something may only be done from a size on."""
    costs = [cost(length) for length in _LENGTHS]
    return costs[3] > too_much * costs[2] > too_much**2 * costs[1]


def suspect(
    target: Target,
    tried: Input,
    smallest_bytes: int,
    meter: Callable[[Callable[[], object]], float],
    too_much: float,
) -> bool:
    """Tell whether the work for an input grows too fast, from so many bytes to eight times as many."""
    count = max(1, smallest_bytes // len(tried.unit))

    def cost(length: int) -> float:
        blocks = tried.blocks(length * count)
        return meter(lambda: target.run(blocks))

    return grows_too_fast(cost, too_much)


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes of the processor: the least of three times, where that is little."""
    times: list[float] = []
    while len(times) < 3 and sum(times) < 1:
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


# What is tried --------------------------------------------------------------------------------------------------------


def handshake(blocks: list[bytes]) -> None:
    reader = ResponseReader(("chat",), Compression.CONTEXT_TAKEOVER)
    reader.request_sent(REQUEST)
    with suppress(ConnectionFailedError):
        for block in [*blocks, b""]:
            if reader.feed(block) is not None:
                return


def request(blocks: list[bytes]) -> None:
    reader = RequestReader(1 << 30)
    with suppress(RefusedRequestError):
        for block in blocks:
            if reader.feed(block) is not None:
                return


def wait(blocks: list[bytes]) -> None:
    reader = ResponseReader((), Compression.DISABLED)
    reader.request_sent(REQUEST)
    try:
        for block in [*blocks, b""]:
            reader.feed(block)
    except ConnectionFailedError as error:
        retry_after(error, _NOW)


def url(blocks: list[bytes]) -> None:
    cast("Any", urllib.parse).clear_cache()  # else the second time costs nothing
    with suppress(InvalidError):
        parse_url(b"".join(blocks).decode(errors="replace"))


def headers(blocks: list[bytes]) -> None:
    joined(parse_headers(b"".join(blocks)))


def negotiation(blocks: list[bytes]) -> None:
    header = b"".join(blocks).decode("latin-1")
    with suppress(ValueError):
        agreed(header, Compression.CONTEXT_TAKEOVER)
    accepted(header, Compression.CONTEXT_TAKEOVER, 15)


def who(blocks: list[bytes]) -> None:
    """An Origin and a Host."""
    value = b"".join(blocks).decode("latin-1")
    local_hosts(["example.com"]).allows(value)
    for origins in ("same", ["https://*.example.com"]):
        parse_origins(origins).allows(value, value.partition("//")[2])


def proxied(blocks: list[bytes]) -> None:
    values = b"".join(blocks).decode("latin-1").split("\n")
    networks = parse_networks(["10.0.0.0/8"])
    forwarded(Headers([("Forwarded", value) for value in values]), ("10.0.0.1", 1), networks)
    names = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")
    forwarded(Headers([(name, value) for value in values for name in names]), ("10.0.0.1", 1), networks)


def proxy_header(blocks: list[bytes]) -> None:
    header = ProxyHeader()
    with suppress(ProxyProtocolError):
        for block in blocks:
            if header.feed(block):
                return


def connection(blocks: list[bytes]) -> None:
    """A connection that has about as many unanswered pings as the server sends frames, through `websocket.connect`."""

    pinged = trio.Event()

    async def serve(server: testing.ServerConnection) -> None:
        server.answer_pings = False
        await server.accept(compression=websocket.COMPRESSION.CONTEXT_TAKEOVER)
        await pinged.wait()
        for block in blocks:
            await server.send_bytes(block)
        server.drop()

    async def main() -> None:
        pings = min(1000, sum(map(len, blocks)) // 4)
        async with (
            testing.websocket_server(serve),
            websocket.connect(
                "ws://server.test/", compression=websocket.COMPRESSION.CONTEXT_TAKEOVER, channel_capacity=10_000
            ) as client,
        ):
            for _ in range(pings):
                await client.ping()
            pinged.set()
            while (await client.receive()).ok:
                pass

    trio.run(main)


_LINES = (b"\r\n", b"\n", b"\r\n\r\n")
_SPACES = (b" ", b"\t", b"  ")
_STATUS = b"HTTP/1.1 404 No\r\n"
_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n"
_GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
_HANDSHAKE = REQUEST.removesuffix(b"\r\n")
_CLOSE = b"\x88\x02\x03\xe8"

TARGETS: Final = {
    "heads": Target(
        handshake,
        (_STATUS, _SWITCHING, _STATUS + b"X:", _STATUS + b"X: a", b"HTTP/1.1 404 ", b""),
        (
            *_LINES,
            *_SPACES,
            b"a",
            b"#:",
            b"X:1\r\n",
            b"#: #\r\n",
            b" 1\r\n",
            b"HTTP/1.1 100 C\r\n\r\n",
            b",",
            b";",
            b"\xff",
        ),
        (b"\r\n\r\n", b"\x0b\r\n\r\n", b"\0\r\n\r\n", b"\r\r\n\r\n", b""),
    ),
    "bodies": Target(
        handshake,
        (
            _STATUS + b"Transfer-Encoding: chunked\r\n\r\n",
            _STATUS + b"Transfer-Encoding: chunked\r\n\r\n5;",
            _STATUS + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX:",
            _STATUS + b"Content-Length: 100000\r\n\r\n",
            _STATUS + b"\r\n",
        ),
        (*_LINES, *_SPACES, b"1\r\nx\r\n", b"0", b"5", b";", b"x", b"a;b=c\r\nxxxxxxxxxx\r\n", b"#: x\r\n"),
        (b"\r\n\r\n", b"\nx\r\n", b"\x0b\r\n\r\n", b""),
    ),
    "values": Target(
        handshake,
        (
            _SWITCHING + b"Upgrade: websocket\r\nConnection: ",
            _SWITCHING + b"Upgrade: ",
            _STATUS + b"Content-Length: ",
            _STATUS + b"Transfer-Encoding: ",
            _SWITCHING + b"Sec-WebSocket-Protocol: ",
        ),
        (*_SPACES, b",", b";", b"a", b"9", b"upgrade", b"chunked", b'"', b"="),
        (b"\r\n\r\n", b"\x0b\r\n\r\n", b"\r\nUpgrade: x\r\n\r\n"),
    ),
    "requests": Target(
        request,
        (
            *(b"", b"GET ", b"GET /", b"GET /?", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\nHost: "),
            *(_GET + b"X:", _GET + b"Upgrade: ", _GET + b"Content-Length: ", _GET + b"Transfer-Encoding: "),
            *(_HANDSHAKE + name + b": " for name in (b"Connection", b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Key")),
        ),
        (
            *(*_LINES, *_SPACES, b"a", b"%", b"/", b"[", b":", b"9", b",", b", ", b"#,", b";", b"\xff"),
            *(
                b"X:1\r\n",
                b"#: #\r\n",
                b"Host: a\r\n",
                b"Upgrade: websocket\r\n",
                b"upgrade,",
                b"Content-Length: 1\r\n",
            ),
        ),
        (
            b"",
            b"\r\n\r\n",
            b" HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x0b\r\n\r\n",
            b"\0\r\n\r\n",
            b"\r\r\n\r\n",
            b"]\r\n\r\n",
        ),
    ),
    "Retry-After": Target(
        wait,
        (b"HTTP/1.1 503 No\r\nRetry-After: ", b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nDate: Sun, 06 Nov 1994 "),
        (*_SPACES, b"9", b":", b",", b"-", b".", b"Sun", b"Nov", b"1994", b"GMT", b"+", b"\r\nRetry-After: "),
        (b"\r\n\r\n", b" GMT\r\n\r\n", b" Nov 1994 08:49:37 GMT\r\n\r\n"),
    ),
    "URLs": Target(
        url,
        (b"ws://", b"ws://a", b"ws://a/", b"ws://a/?", b"ws://[", b"ws://a:", b"", b"ws:"),
        (
            *(b"a", b".", b"..", b"/", b"../", b"%", b"%41", b"@", b":", b"[", b"]", b"?", b"\\", b"0", b"-", b"xn--"),
            *(text.encode() for text in ("\u0660", "\u0301", "\u0316", "\xfc", "\u30fb", "\xb7", "\u200d", "\u05d0")),
        ),
        (b"", b"/", b"@a/", b":80/", b"]/", b"?a", b"#"),
        (1 << 30,),
    ),
    "headers": Target(
        headers,
        (b"", b"X: "),
        (b"#: x\r\n", b"X: #\r\n", b"x: \r\n", b"#", b": ", b"\r\n", b":", b" "),
        (b"", b"X: x"),
        (1 << 30,),
    ),
    "negotiation": Target(
        negotiation,
        (b"permessage-deflate", b"permessage-deflate;", b"permessage-deflate; a", b'permessage-deflate; a="', b""),
        (
            *_SPACES,
            *(b",", b";", b"=", b'"', b"a", b";#", b"; a = b", b"permessage-deflate,", b"permessage-deflate;a,"),
            *(b"; server_max_window_bits", b"; server_max_window_bits=10", b"#,"),
        ),
        (b"", b'"', b"\x01", b";", b"permessage-deflate"),
        (1 << 30,),
    ),
    "origins and hosts": Target(
        who,
        (b"", b"https://", b"http://[", b"https://*.", b"https://a:"),
        (
            *_SPACES,
            *(b"a", b".", b"a.", b":", b"/", b"//", b"[", b"]", b"@", b"0", b"-", b"*.", b"xn--", b"https://a "),
        ),
        (b"", b".example.com", b"]", b":80", b"\xff"),
        (1 << 30,),
    ),
    "forwarded": Target(
        proxied,
        (b"", b"for=", b'for="', b"for=10.0.0.2,", b"10.0.0.2,"),
        (
            *_SPACES,
            *(b",", b";", b"=", b'"', b"\\", b'\\"', b"a", b"[", b"]", b":", b".", b"1", b"_", b"\n"),
            *(b"10.0.0.2,", b"for=10.0.0.2,", b'for="10.0.0.2:1";a#=b,', b";a#=b", b"::1,", b"unknown,"),
        ),
        (b"", b'"', b"10.0.0.2", b"for=10.0.0.2", b',for="10.0.0.2"'),
        (1 << 30,),
    ),
    "PROXY protocol": Target(
        proxy_header,
        (b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\x00", b"PROXY TCP6 "),
        (*_LINES, *_SPACES, b"1", b".", b":", b"\0", b"a", b"PROXY "),
        (b"", b"\r\n"),
    ),
    "connections": Target(
        connection,
        (b"", b"\x01\x01a", b"\x02\x00", b"\x82\x7e\x10\x00", b"\x82\x7f\0\0\0\0\0\1\0\0", b"\xc1\x7e\x08\x00"),
        (
            *(b"\x8a\x00", b"\x8a\x04none", b"\x89\x00", b"\x89\x04ping", b"\x81\x01a", b"\x82\x00", b"\x00\x00"),
            *(
                b"\x00\x01a",
                b"\xc1\x01\x00",
                b"\xc2\x02\x03\x00",
                b"\x00\x02\x03\x00",
                b"a",
                b"\x00\x05\x00\x00\x00\xff\xff",
            ),
            *(b"\x81\x04" + "\N{PILE OF POO}".encode(), b"\x81\x7e\x00\x7e" + bytes(126)),
        ),
        (b"", _CLOSE, b"\x80\x00" + _CLOSE, b"\x83\x00"),
        (50, 1 << 30),
    ),
}
