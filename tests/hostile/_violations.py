"""Servers that break the protocol of the open connection (RFC 6455, sections 5 to 8; RFC 7692).

Each sends a message that is in order, then its violation, and stays: the client has to end it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from csp.errors import Kind
from tests.hostile._attack import Attack
from tests.websocket._peers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Peer,
    acceptance,
    close_frame,
    frame,
)
from tests.websocket._server import deflated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

READ_LIMIT = 1000
RSV1, RSV2, RSV3 = 0x40, 0x20, 0x10
BEFORE = frame(TEXT, b"before")
UNFINISHED = frame(TEXT, b"unfinished", fin=False)


class Violation(NamedTuple):
    """Bytes that break the protocol, the close code they bring, and what the reason says."""

    data: bytes
    code: int
    says: str
    sent_code: int | None = None
    """The code of a close frame that must not have it: the error tells it as the peer's close."""


def length_form(width: int, length: int) -> bytes:
    """Return the beginning of a binary frame with its length in 16 or 64 bits, the shortest form or not."""
    return bytes([0x82, 126 if width == 16 else 127]) + length.to_bytes(width // 8, "big")


# Refused by a frame's header alone, also in the middle of a fragmented message.
HEADERS = {
    **{f"opcode {opcode}": Violation(frame(opcode), 1002, f"data opcode {opcode}") for opcode in range(3, 8)},
    **{f"opcode {opcode}": Violation(frame(opcode), 1002, f"control opcode {opcode}") for opcode in range(11, 16)},
    **{
        f"reserved bit {number} on opcode {opcode}": Violation(frame(opcode, reserved=bit), 1002, "reserved bit")
        for number, bit in enumerate((RSV1, RSV2, RSV3), 1)
        for opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
    },
    **{
        f"{name} that is masked": Violation(frame(opcode, bytes(size), masked=True), 1002, "masked")
        for name, opcode, size in (
            ("an empty continuation", CONTINUATION, 0),
            ("a text", TEXT, 5),
            ("a large binary", BINARY, 70_000),
            ("a ping", PING, 0),
            ("a close", CLOSE, 2),
        )
    },
    **{
        f"a fragment of opcode {opcode}": Violation(frame(opcode, fin=False), 1002, "fragmented")
        for opcode in (CLOSE, PING, PONG)
    },
    **{
        f"a control frame {opcode} of {size} bytes": Violation(frame(opcode, bytes(size)), 1002, f"{size} bytes")
        for opcode in (CLOSE, PING, PONG)
        for size in (126, 70_000)
    },
    **{
        f"a length of {length} in {width} bits": Violation(length_form(width, length), 1002, "shortest form")
        for width, length in ((16, 0), (16, 125), (64, 0), (64, 125), (64, 126), (64, 65_535))
    },
    **{
        f"a length of {name}": Violation(length_form(64, length), 1002, "length")
        for name, length in (("2**63", 1 << 63), ("2**64 - 1", (1 << 64) - 1))
    },
}

# Between messages.
MESSAGES = {
    "a continuation of nothing": Violation(frame(CONTINUATION, b"hi"), 1002, "continuation"),
    "an unfinished continuation of nothing": Violation(frame(CONTINUATION, b"hi", fin=False), 1002, "continuation"),
    "a text inside a text": Violation(UNFINISHED + frame(TEXT), 1002, "inside"),
    "a binary inside a text": Violation(UNFINISHED + frame(BINARY), 1002, "inside"),
    "a fragment of a text inside a binary": Violation(
        frame(BINARY, fin=False) + frame(TEXT, fin=False), 1002, "inside"
    ),
    "a length of 2**62": Violation(length_form(64, 1 << 62), 1009, str(1 << 62)),
    "a length of 2**63 - 1": Violation(length_form(64, (1 << 63) - 1), 1009, str((1 << 63) - 1)),
    "a message above the limit": Violation(frame(BINARY, bytes(READ_LIMIT + 1)), 1009, "1001"),
    "a message above the limit, its header only": Violation(length_form(16, READ_LIMIT + 1), 1009, "1001"),
    "a text above the limit by its bytes": Violation(frame(TEXT, "\u00e9".encode() * 501), 1009, "1002"),
    "fragments above the limit": Violation(
        frame(BINARY, bytes(600), fin=False) + frame(PING) + frame(CONTINUATION, bytes(401)), 1009, "1001"
    ),
    "two messages above the limit": Violation(frame(BINARY, bytes(READ_LIMIT + 1)) * 2, 1009, "1001"),
}

# What is no UTF-8 (RFC 3629, section 3).
NOT_UTF8 = {
    "a byte that is never used": b"\xff",
    "a continuation byte alone": b"\x80",
    "a start byte alone": b"\xc3(",
    "an overlong slash": b"\xc0\xaf",
    "an overlong null": b"\xe0\x80\x80",
    "a surrogate": b"\xed\xa0\x80",
    "a pair of surrogates": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
}

CLOSES = {
    **{
        f"a close with {code}": Violation(close_frame(code), 1002, f"the peer closed .* {code}", code)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
    "a close with half a code": Violation(frame(CLOSE, b"\x03"), 1002, "instead of a code of two"),
    **{
        f"a close whose reason is not UTF-8: {name}": Violation(frame(CLOSE, b"\x03\xe8" + bad), 1007, "not UTF-8")
        for name, bad in NOT_UTF8.items()
    },
    "a close whose reason ends in a character": Violation(frame(CLOSE, b"\x03\xe8\xe2\x82"), 1007, "not UTF-8"),
}


def texts() -> Iterator[tuple[str, Violation]]:
    for name, bad in NOT_UTF8.items():
        yield f"a text with {name}", Violation(frame(TEXT, b"text " + bad), 1007, "not UTF-8")
        # Refused as soon as it is there: the message never ends.
        yield (
            f"a fragment with {name}",
            Violation(UNFINISHED + frame(CONTINUATION, bad, fin=False), 1007, "not UTF-8"),
        )
    yield "a text that ends in a character", Violation(frame(TEXT, b"\xe2\x82"), 1007, "not UTF-8")
    yield (
        "fragments that end in a character",
        Violation(frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"\x82"), 1007, "not UTF-8"),
    )


# Where compression was agreed.
COMPRESSED = {
    "a compressed continuation": Violation(
        frame(TEXT, deflated(b"a"), fin=False, reserved=RSV1) + frame(CONTINUATION, b"", reserved=RSV1),
        1002,
        "reserved bit",
    ),
    "a compressed ping": Violation(frame(PING, deflated(b"a"), reserved=RSV1), 1002, "reserved bit"),
    "a compressed close": Violation(frame(CLOSE, deflated(b"\x03\xe8"), reserved=RSV1), 1002, "reserved bit"),
    "another reserved bit": Violation(frame(TEXT, deflated(b"a"), reserved=RSV1 | RSV2), 1002, "reserved bit"),
    "what cannot be inflated": Violation(frame(BINARY, b"\xff\xff", reserved=RSV1), 1007, "inflated"),
    "a fragment that cannot be inflated": Violation(
        frame(BINARY, b"\xff\xff", fin=False, reserved=RSV1), 1007, "inflated"
    ),
    "a reference to before the beginning": Violation(
        frame(BINARY, bytes.fromhex("62060000"), reserved=RSV1), 1007, "inflated"
    ),
    "a compressed text that is not UTF-8": Violation(frame(TEXT, deflated(b"\xff"), reserved=RSV1), 1007, "not UTF-8"),
    "a compressed fragment that is not UTF-8": Violation(
        frame(TEXT, deflated(b"\xff") + b"\x00\x00\xff\xff", fin=False, reserved=RSV1), 1007, "not UTF-8"
    ),
    "a compressed message above the limit": Violation(
        frame(BINARY, deflated(bytes(READ_LIMIT + 1)), reserved=RSV1), 1009, "1000"
    ),
    "a compressed frame that is itself above the limit": Violation(
        length_form(16, 3000)[:1].replace(b"\x82", b"\xc2") + length_form(16, 3000)[1:], 1009, "3000"
    ),
}


def sending(data: bytes, *, compressed: bool = False) -> Callable[[Peer], Awaitable[None]]:
    async def serve(peer: Peer) -> None:
        await peer.read_request()
        extension = ["Sec-WebSocket-Extensions: permessage-deflate"] if compressed else []
        await peer.send(acceptance(peer.request, *extension) + data)

    return serve


def byte_by_byte(data: bytes) -> Callable[[Peer], Awaitable[None]]:
    async def serve(peer: Peer) -> None:
        await peer.accept()
        for byte in data:
            await peer.send(bytes((byte,)))

    return serve


def refused(name: str, violation: Violation, serve: Callable[[Peer], Awaitable[None]], **more: object) -> Attack:
    closed = violation.sent_code is not None
    return Attack(
        name,
        serve,
        violation.says,
        code=violation.code,
        wire=violation.code,
        received=("before",),
        kind=Kind.UNAVAILABLE if closed else Kind.INTERNAL,
        retryable=closed,
        details={"code": violation.sent_code} if closed else {},
        options={"read_limit": READ_LIMIT, **more},
    )


def attacks() -> Iterator[Attack]:
    plain = {**HEADERS, **MESSAGES, **CLOSES, **dict(texts())}
    for name, violation in plain.items():
        yield refused(name, violation, sending(BEFORE + violation.data))
    for name, violation in HEADERS.items():
        yield refused(f"{name}, inside a message", violation, sending(BEFORE + UNFINISHED + violation.data))
    for name in ("opcode 3", "a text that is masked", "a close with 1005", "a text with a surrogate"):
        violation = plain[name]
        yield refused(f"{name}, byte by byte", violation, byte_by_byte(BEFORE + violation.data))
        # It must neither be read as frames, nor bring a reset that overtakes the close frame.
        flood = BEFORE + violation.data + frame(TEXT, b"after") + close_frame(1000) + bytes(300_000)
        yield refused(f"{name}, and a flood behind it", violation, sending(flood))
    for name, violation in COMPRESSED.items():
        yield refused(name, violation, sending(BEFORE + violation.data, compressed=True), compression=1)


ATTACKS = list(attacks())
