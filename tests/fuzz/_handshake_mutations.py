"""Answers to the opening handshake, and what chance makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.fuzz._streams import split
from tests.websocket._server import accept_key

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping
    from email.message import Message as Headers

# What readers of HTTP take for spaces, ends of lines or separators, and should or should not.
_ODD: Final = (
    *(bytes([byte]) for byte in (0, 8, 9, 10, 11, 12, 13, 0x1C, 0x1D, 0x1E, 0x1F, 0x20, 0x7F, 0x80, 0x85, 0xA0, 0xFF)),
    *(b'"', b",", b";", b":", b"=", b"\r\n", b"\r\n ", b"\n\t", b"\xc2\xa0", b"\xe2\x80\xa8", b"\xef\xbb\xbf"),
)
_CRLF: Final = b"\r\n"
# After many, little of the answer is read.
_NUMBERS_OF_MUTATIONS: Final = (0, 1, 1, 1, 2, 2, 4)

_ACCEPTING: Final = (
    (),
    (b"Sec-WebSocket-Protocol: v2",),
    (b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10",),
    (b"Server: test", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"Date: Sun, 06 Nov 1994 08:49:37 GMT"),
)
_REFUSING: Final = (
    b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 4\r\n\r\nbusy",
    b"HTTP/1.1 503 Busy\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\nDate: Sun, 06 Nov 1994 08:49:07 GMT\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsor\r\n2\r\nry\r\n0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: ws://other.test/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n<html>",
)


def mutated(chance: random.Random, request: Mapping[str, str] | Headers[str, str]) -> list[bytes]:
    """Return the blocks of an answer to a request: one that accepts or refuses it, changed in a few places."""
    answer = changed(chance, _answer(chance, accept_key(request["Sec-WebSocket-Key"]).encode()))
    cuts = [chance.randint(0, len(answer)) for _ in range(chance.choice((0, 0, 1, 3)))]
    return [block for block in split(answer, cuts) if block]


def changed(chance: random.Random, answer: bytes) -> bytes:
    """Change an answer in HTTP in a few places, or in none."""
    for _ in range(chance.choice(_NUMBERS_OF_MUTATIONS)):
        answer = chance.choice(_MUTATIONS)(chance, answer)
    return answer


def _answer(chance: random.Random, accept: bytes) -> bytes:
    if chance.random() < 0.25:
        return chance.choice(_REFUSING)
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
        *chance.choice(_ACCEPTING),
    ]
    before = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" if chance.random() < 0.1 else b""
    return before + _CRLF.join(lines) + 2 * _CRLF


# Mutations ------------------------------------------------------------------------------------------------------------


def _flip_bit(chance: random.Random, answer: bytes) -> bytes:
    if not answer:
        return answer
    place = chance.randrange(len(answer))
    return answer[:place] + bytes([answer[place] ^ 1 << chance.randrange(8)]) + answer[place + 1 :]


def _insert_anywhere(chance: random.Random, answer: bytes) -> bytes:
    place = chance.randint(0, len(answer))
    return answer[:place] + chance.choice(_ODD) + answer[place:]


def _insert_around_value(chance: random.Random, answer: bytes) -> bytes:
    """Put an odd byte before or after a header's value, before or after the space that is there."""

    def change(line: bytes) -> bytes:
        name, colon, value = line.partition(b":")
        odd = chance.choice(_ODD)
        return chance.choice(
            (
                name + colon + odd + value,
                name + colon + b" " + odd + value.removeprefix(b" "),
                line + odd,
                name + odd + colon + value,
            )
        )

    return _change_line(chance, answer, lambda line: [change(line)])


def _duplicate_line(chance: random.Random, answer: bytes) -> bytes:
    return _change_line(chance, answer, lambda line: [line, line])


def _drop_line(chance: random.Random, answer: bytes) -> bytes:
    return _change_line(chance, answer, lambda _line: [])


def _fold_line(chance: random.Random, answer: bytes) -> bytes:
    """Continue a line on the next, as HTTP once allowed (RFC 9112, section 5.2)."""

    def fold(line: bytes) -> list[bytes]:
        place = chance.randint(0, len(line))
        return [line[:place], chance.choice((b" ", b"\t")) + line[place:]]

    return _change_line(chance, answer, fold)


def _change_case(chance: random.Random, answer: bytes) -> bytes:
    return _change_line(chance, answer, lambda line: [chance.choice((line.upper(), line.lower(), line.swapcase()))])


def _cut_off(chance: random.Random, answer: bytes) -> bytes:
    return answer[: chance.randint(0, len(answer))]


def _add_frames(chance: random.Random, answer: bytes) -> bytes:
    return answer + chance.choice((b"\x81\x02hi", b"\x88\x00", b"\x88\x02\x03\xee", b"\x83\x00", b"\x81", b"\xff" * 9))


def _change_line(chance: random.Random, answer: bytes, change: Callable[[bytes], list[bytes]]) -> bytes:
    lines = answer.split(_CRLF)
    number = chance.randrange(len(lines))
    return _CRLF.join(lines[:number] + change(lines[number]) + lines[number + 1 :])


_MUTATIONS: Final = (
    _flip_bit,
    _insert_anywhere,
    *[_insert_around_value] * 6,
    _duplicate_line,
    _drop_line,
    _fold_line,
    _change_case,
    _cut_off,
    _add_frames,
)
