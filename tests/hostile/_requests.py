"""Clients whose request is wrong, is no request, or never ends (RFC 9112; RFC 6455, section 4.2)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from tests.hostile._attack import MIB
from tests.hostile._field import ClientAttack
from tests.hostile._foe import FIELDS, HOST, head, sent, without
from tests.websocket._peers import CLOSE, TEXT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.hostile._field import Field
    from tests.hostile._foe import Said

HELLO = bytes.fromhex("16030100f8010000f40303") + bytes(240)
"""How TLS begins: a record of the type handshake."""
UNENDING = head(first="GET / HTTP/1.1")[:-2]


async def saying(field: Field, *, data: bytes, each: int | None = None) -> list[Said]:
    """Send bytes, in one segment or in pieces, and listen."""
    foe = await field.connect()
    if each is not None:
        await foe.say(data, each=each)
        data = b""
    return [await foe.hear_out(data)]


async def plainly(field: Field, *, data: bytes) -> list[Said]:
    """Send bytes to a port that speaks TLS, without it."""
    foe = await field.connect(plain=True)
    await foe.hear_out(data)
    return []


async def ending_early(field: Field, *, data: bytes, plain: bool = False) -> list[Said]:
    """Send bytes, and end the stream."""
    foe = await field.connect(plain=plain)
    await foe.send(data)
    await trio.aclose_forcefully(foe.stream)
    return []


async def resetting(field: Field, *, data: bytes) -> list[Said]:
    """Send bytes, and reset the connection."""
    foe = await field.connect()
    await foe.send(data)
    foe.reset()
    return []


async def with_a_body(field: Field, *, size: int) -> list[Said]:
    """Send a request with a body that nobody reads, and only then listen."""
    foe = await field.connect()
    request = head(f"Content-Length: {size}", first="POST / HTTP/1.1", fields=())
    assert await foe.say(request + bytes(size), each=MIB), "the body could not be sent"
    return [await foe.hear_out()]


def refused(name: str, status: int, says: str, data: bytes, *, each: int | None = None, **more: Any) -> ClientAttack:
    return ClientAttack(
        name,
        partial(saying, data=data, each=each),
        status=status,
        says=says,
        records={f"refused .* status {status}": 1},
        **more,
    )


def no_request(name: str, says: str, *, tcp_only: bool = False, **how: Any) -> ClientAttack:
    """Return an attack that gets no answer: it ends before there is a request."""
    return ClientAttack(name, partial(ending_early, **how), records={f"no request .*{says}": 1}, tcp_only=tcp_only)


# What is no HTTP, and what is wrong in it ----------------------------------------------------------------------------


def no_http() -> Iterator[ClientAttack]:
    yield refused("a TLS hello on a plain port", 400, "use ws:", HELLO, tcp_only=True)
    yield refused("garbage", 400, "not in HTTP", bytes(range(128, 256)) * 100)
    yield refused("NUL", 400, "not in HTTP", bytes(1000))
    yield refused("NUL in a header", 400, "forbids", head("X: a\0b"))
    yield refused("a method without end", 400, "not in HTTP", b"A" * 100_000)
    yield refused("line breaks without end", 400, "not in HTTP", b"\r\n" * 50_000)
    yield refused("HTTP/2", 400, "HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
    yield refused("HTTP/0.9", 400, "first line", b"GET /\r\n\r\n")
    yield refused("HTTP/3.1", 505, "HTTP/1.1", head(first="GET / HTTP/3.1"))
    yield refused("SSH", 400, "not in HTTP", b"SSH-2.0-OpenSSH_9.9\r\n")
    yield ClientAttack(
        "plain HTTP on a TLS port", partial(plainly, data=head()), records={"no request .*": 1}, tls_only=True
    )
    yield ClientAttack(
        "garbage on a TLS port", partial(plainly, data=b"\xff" * 1000), records={"no request .*": 1}, tls_only=True
    )
    yield no_request("nothing", "nothing came", data=b"")
    yield no_request("half a request", "it ended in the middle", data=UNENDING)
    yield ClientAttack(
        "a reset in the middle of a request", partial(resetting, data=UNENDING), records={"no request .*": 1}
    )
    yield ClientAttack(
        "the end in the middle of the handshake of TLS",
        partial(ending_early, data=HELLO[:50], plain=True),
        records={"no request .*": 1},
        tls_only=True,
    )


def malformed() -> Iterator[ClientAttack]:
    for name in ("Content-Length: 0", "Content-Length: 12", "Transfer-Encoding: chunked"):
        yield refused(f"{name} in a handshake", 400, "no body", head(name) + b"hello, world")
    yield refused(
        "both, and a second request",
        400,
        "",
        head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + head(),
    )
    yield refused("two Hosts", 400, "", head(HOST))
    yield refused("no Host", 400, "", head(host=None))
    yield refused("an empty Host", 400, "Host", head(host="Host: "))
    yield refused("a Host with a user", 400, "Host", head(host="Host: a@127.0.0.1"))
    yield refused("obs-fold", 400, "further line", head("X: a", " b"))
    yield refused("obs-fold in the first header", 400, "further line", head(host=None, fields=(" a: b", HOST, *FIELDS)))
    yield refused("bare line feeds", 400, "line feed alone", head().replace(b"\r\n", b"\n"))
    yield refused("one bare line feed", 400, "line feed alone", head("X: a\nY: b"))
    yield refused("a bare carriage return", 400, "carriage return", head("X: a\rY: b"))
    yield refused("a space before the colon", 400, "no header", head("Upgrade : websocket"))
    yield refused("HTTP/1.0", 400, "HTTP/1.1", head(first="GET / HTTP/1.0"))
    yield refused("POST", 405, "Allow: GET\r\n", head(first="POST / HTTP/1.1"))
    yield refused("POST of no handshake", 405, "Allow: GET, HEAD", head(first="POST / HTTP/1.1", fields=()))
    yield refused("CONNECT", 405, "Allow", head(first="CONNECT 127.0.0.1:80 HTTP/1.1"))
    yield refused("an asterisk for the target", 400, "target", head(first="GET * HTTP/1.1"))
    yield refused("spaces in the target", 400, "first line", head(first="GET /a b HTTP/1.1"))
    yield refused("a target that is no URL", 400, "target", head(first="GET ftp://127.0.0.1/ HTTP/1.1"))
    yield refused("an escape that is none", 400, "%", head(first="GET /%zz HTTP/1.1"))
    yield refused("no handshake", 426, "Upgrade: websocket", head(fields=()))


def smuggled() -> Iterator[ClientAttack]:
    """What is behind a request that is refused is no request: it gets no answer."""
    second = head(first="GET /second HTTP/1.1")
    yield refused("a request behind a page", 426, "", head(fields=()) + second)
    yield refused(
        "a request behind a body", 405, "", head("Content-Length: 3", first="POST / HTTP/1.1") + b"abc" + second
    )
    yield refused("a request in a chunk", 400, "", head("Transfer-Encoding: chunked") + b"0\r\n\r\n" + second)
    yield refused("a hundred requests", 426, "", head(fields=()) * 100)
    yield refused("a request behind one of another site", 403, "", head("Origin: http://evil.example") + second)


def unwanted() -> Iterator[ClientAttack]:
    yield refused("no version", 426, "Sec-WebSocket-Version: 13", head(fields=without("Sec-WebSocket-Version")))
    for version in ("8", "14", "13, 13", "13\r\nSec-WebSocket-Version: 13", "x" * 1000):
        fields = [*without("Sec-WebSocket-Version"), f"Sec-WebSocket-Version: {version}"]
        yield refused(f"version {version[:30]!r}", 426, "Sec-WebSocket-Version: 13", head(fields=fields))
    yield refused("no key", 400, "Sec-WebSocket-Key", head(fields=without("Sec-WebSocket-Key")))
    for key in ("", "x", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSE=", "=" * 24, "\xff" * 24):
        fields = [*without("Sec-WebSocket-Key"), f"Sec-WebSocket-Key: {key}"]
        yield refused(f"the key {key!r}", 400, "16 bytes in base64", head(fields=fields))
    yield refused("the key twice", 400, "one Sec-WebSocket-Key", head(FIELDS[-1]))
    for names in (",", "a b", "a, \x7f".replace("\x7f", "\xff"), '"quoted"'):
        yield refused(f"protocols {names!r}", 400, "list of names", head(f"Sec-WebSocket-Protocol: {names}"))
    for origin in ("http://evil.example", "null", "http://127.0.0.1.evil.example", "file://", "\xff" * 5000):
        yield refused(f"the Origin {origin[:30]!r}", 403, "origin", head(f"Origin: {origin}"))
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::2]"):
        yield refused(f"the Host {host}", 421, "hosts=", head(host=f"Host: {host}"))
    yield refused("another site in an absolute target", 421, "hosts=", head(first="GET http://evil.example/ HTTP/1.1"))
    yield refused(
        "an absolute target and the Origin of the Host",
        403,
        "origin",
        head("Origin: http://127.0.0.1", first="GET http://localhost/ HTTP/1.1"),
    )


# What is taken -------------------------------------------------------------------------------------------------------


async def greeting(field: Field, *, request: bytes) -> list[Said]:
    """Send a message right behind a request, and close when its echo has come."""
    foe = await field.connect()
    await foe.send(request + sent(TEXT, b"hello"))
    await foe.hear_until(b"hello")
    return [await foe.hear_out(sent(CLOSE, b"\x03\xe8"))]


def taken() -> Iterator[ClientAttack]:
    def accepted(name: str, request: bytes, says: str = "hello") -> ClientAttack:
        return ClientAttack(
            name,
            partial(greeting, request=request),
            status=101,
            says=says,
            code=1000,
            records={"accepted .*": 1},
            options={"compression": 1},
        )

    yield accepted("an absolute target", head(first="GET http://127.0.0.1/path HTTP/1.1", host="Host: localhost"))
    yield accepted("frames right behind the request", head())
    for extensions in (
        "permessage-deflate; unknown",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "=;;,",
        "x" * 8000,
        ", ".join(["permessage-deflate; unknown=1"] * 250),
    ):
        name = f"extensions {extensions[:60]!r}"
        yield accepted(name, head(f"Sec-WebSocket-Extensions: {extensions}"), r"\A(?!.*Extensions).*hello")


# What is too large, or never ends ------------------------------------------------------------------------------------


def large() -> Iterator[ClientAttack]:
    yield refused("17 KiB in one segment", 431, "larger than 16384", head("X: " + "x" * 17 * 1024))
    yield refused("a line without end", 431, "larger than 16384", b"GET /" + b"x" * 1_000_000)
    yield refused("headers without end", 431, "more than 100 lines", UNENDING + b"X: 1\r\n" * 50_000)
    yield refused("101 lines", 431, "more than 100 lines", head(*["X: 1"] * (101 - len(FIELDS) - 1)))
    yield refused("100 lines", 426, "", head(*["X: 1"] * 99, fields=()))
    bytewise: dict[str, Any] = {"each": 1, "max_steps": 100_000}
    for name, says, data in (
        ("a head without end, a byte a segment", "2048", UNENDING + b"X: " + b"x" * 2048),
        ("101 lines, a byte a segment", "100 lines", UNENDING + b"X: 1\r\n" * 101),
    ):
        yield refused(name, 431, says, data, **bytewise, options={"header_limit": 2048, "handshake_timeout": "1h"})
    yield refused("NUL behind a long line", 400, "forbids", UNENDING + b"X: " + b" " * 15_000 + b"\0\r\n\r\n")
    for name, first, line in (
        ("a header of spaces", "/", b"X:" + b" " * 120_000),
        ("a header that ends in spaces", "/", b"X: a" + b" " * 120_000),
        ("spaces, and a letter at their end", "/", b"X:" + b" " * 120_000 + b"x"),
        ("words", "/", b"X: " + b"x " * 60_000),
        ("tabs between commas", "/", b"Connection: " + b"\t," * 60_000 + b"Upgrade"),
        ("extensions", "/", b"Sec-WebSocket-Extensions: " + b"a;b=c," * 20_000),
        ("protocols", "/", b"Sec-WebSocket-Protocol: " + b",".join(b"%d" % n for n in range(20_000))),
        ("dots in the target", "/a/.." * 10_000, b"X: a"),
        ("escapes in the target", "/%41" * 16_000, b"X: a"),
        ("escapes of no text in the target", "/%ff" * 16_000, b"X: a"),
        ("a query of ampersands", "/?" + "&" * 64_000, b"X: a"),
    ):
        request = head(first=f"GET {first} HTTP/1.1")[:-2] + line + b"\r\n\r\n"
        yield ClientAttack(
            f"a head of {len(request) // 1000} kB: {name}",
            partial(saying, data=request + sent(CLOSE, b"\x03\xe8")),
            status=101,
            code=1000,
            records={"accepted .*": 1},
            options={"header_limit": 128 * 1024},
            max_bytes=24 * MIB,
        )
    yield ClientAttack(
        "900 kB of a body that nobody reads",
        partial(with_a_body, size=900_000),
        status=405,
        records={"refused .* status 405": 1},
        max_bytes=6 * MIB,
    )


def attacks() -> Iterator[ClientAttack]:
    groups: Sequence[Iterator[ClientAttack]] = [no_http(), malformed(), smuggled(), unwanted(), taken(), large()]
    for group in groups:
        yield from group


ATTACKS = list(attacks())
