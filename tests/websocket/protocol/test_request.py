"""What a server makes of a client's request, without I/O: taken or refused, however it was cut."""

from __future__ import annotations

import gc
import random
from typing import TYPE_CHECKING

import h11
import pytest

from tests._steps import steps
from trio_csp_websocket.protocol import request as request_module
from trio_csp_websocket.protocol.headers import parse_headers
from trio_csp_websocket.protocol.request import ParsedRequest, RefusedRequestError, RequestReader

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Sequence

LIMIT = 16 * 1024
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    b"Host: server.test",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: " + KEY,
    b"Sec-WebSocket-Version: 13",
)
SECRETS = (b"t0ken", b"passw0rd", b"c00kie", KEY)


def head(*lines: bytes, first: bytes = b"GET /chat HTTP/1.1") -> bytes:
    return b"\r\n".join([first, *lines, b"", b""])


def handshake(*more: bytes, drop: bytes = b"", first: bytes = b"GET /chat HTTP/1.1") -> bytes:
    """Return a request for a WebSocket with further lines, and without the header of a name."""
    lines = [line for line in HANDSHAKE if not drop or not line.startswith(drop + b":")]
    return head(*lines, *more, first=first)


def page(*lines: bytes, first: bytes = b"GET / HTTP/1.1") -> bytes:
    return head(b"Host: server.test", *lines, first=first)


def read(blocks: Iterable[bytes], limit: int = LIMIT) -> tuple[ParsedRequest | None, bytes]:
    """Feed blocks; return the request if there is one, and what came behind it."""
    reader = RequestReader(limit)
    request = None
    rest = b""
    for block in blocks:
        if request is None:
            request = reader.feed(block)
            rest = b"" if request is None else reader.rest()
        else:
            rest += block
    return request, rest


def taken(data: bytes, limit: int = LIMIT) -> ParsedRequest:
    """Return the request that bytes are, at once and a byte at a time."""
    request, rest = read([data], limit)
    assert request is not None
    assert rest == b""
    assert read(pieces(data, 1), limit) == (request, b"")
    return request


def refusal(data: bytes, limit: int = LIMIT) -> RefusedRequestError:
    """Return why bytes are refused, at once and a byte at a time."""
    whole = refused([data], limit)
    cut = refused(pieces(data, 1), limit)
    assert (cut.status, str(cut), cut.headers) == (whole.status, str(whole), whole.headers)
    assert str(whole).isprintable()
    assert not any(secret.decode() in str(whole) for secret in SECRETS)
    return whole


def refused(blocks: Iterable[bytes], limit: int = LIMIT) -> RefusedRequestError:
    with pytest.raises(RefusedRequestError) as caught:
        read(blocks, limit)
    return caught.value


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


# Taken ----------------------------------------------------------------------------------------------------------------


def test_a_handshake_is_read_with_all_that_it_says() -> None:
    request = taken(
        handshake(
            b"Origin: https://app.test",
            b"Sec-WebSocket-Protocol: chat.v2, chat.v1",
            b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
            b"Sec-WebSocket-Extensions: x-other",
            b"COOKIE: a=1",
            b"Cookie:b=2 \t",
            b"X-Empty:",
            b"X-Latin: \xe9",
            first=b"GET /chat?a=b&c HTTP/1.1",
        )
    )
    assert request == ParsedRequest(
        method="GET",
        target="/chat?a=b&c",
        host="server.test",
        http_1_0=False,
        head=request.head,
        websocket=True,
        origin="https://app.test",
        key=KEY,
        protocols=("chat.v2", "chat.v1"),
        extensions="permessage-deflate; client_max_window_bits, x-other",
    )
    headers = parse_headers(request.head)
    assert headers.get_all("cookie") == ["a=1", "b=2"]
    assert list(headers)[-3:] == ["COOKIE", "X-Empty", "X-Latin"]
    assert (headers["x-empty"], headers["x-latin"]) == ("", "\xe9")


def test_a_request_for_a_page_has_nothing_of_a_handshake() -> None:
    request = taken(
        page(
            b"Sec-WebSocket-Key: " + KEY,
            b"Sec-WebSocket-Protocol: ,",
            b"Sec-WebSocket-Extensions: x",
            first=b"HEAD /health?t0ken HTTP/1.1",
        )
    )
    assert (request.method, request.target, request.host, request.websocket) == (
        "HEAD",
        "/health?t0ken",
        "server.test",
        False,
    )
    assert (request.origin, request.key, request.protocols, request.extensions) == (None, b"", (), "")


def test_http_1_0_needs_no_host() -> None:
    request = taken(b"GET / HTTP/1.0\r\n\r\n")
    assert (request.host, request.http_1_0, request.head) == (None, True, b"")
    assert taken(head(b"Host: a.test", first=b"GET / HTTP/1.0")).host == "a.test"


def test_the_repr_shows_no_secrets() -> None:
    text = repr(taken(handshake(b"Cookie: c00kie", b"Sec-WebSocket-Protocol: t0ken", first=b"GET /?t0ken HTTP/1.1")))
    assert "server.test" in text
    assert not any(secret.decode() in text for secret in SECRETS)


@pytest.mark.parametrize(
    "line",
    [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Content-Length: 0", b"Upgrade: h2c", b"Connection: close"],
)
def test_a_request_for_a_page_may_have_a_body_that_is_left(line: bytes) -> None:
    request, rest = read([page(line) + b"hello"])
    assert request is not None
    assert not request.websocket
    assert rest == b"hello"


@pytest.mark.parametrize(
    ("upgrade", "connection"),
    [
        ((b"Upgrade: WebSocket",), (b"Connection: upgrade",)),
        ((b"Upgrade: h2c, websocket",), (b"Connection: keep-alive, Upgrade",)),
        (
            (b"Upgrade: h2c", b"Upgrade: WEBSOCKET"),
            (b"Connection: keep-alive", b"Connection: HTTP2-Settings ,UPGRADE\t"),
        ),
        ((b"Upgrade: ,websocket,,",), (b"Connection:,upgrade,",)),
    ],
)
def test_upgrade_and_connection_are_lists_in_any_case(upgrade: Sequence[bytes], connection: Sequence[bytes]) -> None:
    lines = [line for line in HANDSHAKE if not line.startswith((b"Upgrade", b"Connection"))]
    assert taken(head(*lines, *upgrade, *connection)).websocket


@pytest.mark.parametrize(
    ("lines", "protocols"),
    [
        ((b"a",), ("a",)),
        ((b"a, b", b"c"), ("a", "b", "c")),
        ((b"b,a , b\t,", b"a"), ("b", "a")),
        ((b", a,, b",), ("a", "b")),
        ((b"", b"a"), ("a",)),
        ((b"A, a",), ("A", "a")),
        ((b"!#$%&'*+-.^_`|~09azAZ",), ("!#$%&'*+-.^_`|~09azAZ",)),
    ],
)
def test_protocols_come_in_order_each_once(lines: Sequence[bytes], protocols: Sequence[str]) -> None:
    request = taken(handshake(*(b"Sec-WebSocket-Protocol: " + line for line in lines)))
    assert request.protocols == protocols


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        (b"/", "server.test", "/"),
        (b"//double?x?y", "server.test", "//double?x?y"),
        (b"/%41%2f;=@:!$&'()*+,|\"<>\\^`{}[]?%zz", "server.test", "/%41%2f;=@:!$&'()*+,|\"<>\\^`{}[]?%zz"),
        (b"http://other.test/chat?x", "other.test", "/chat?x"),
        (b"HTTPS://Other.Test:8443", "Other.Test:8443", "/"),
        (b"ws://other.test?x", "other.test", "/?x"),
        (b"wss://[::1]:80/", "[::1]:80", "/"),
    ],
)
def test_an_absolute_target_counts_instead_of_the_host(target: bytes, host: str, path: str) -> None:
    request = taken(handshake(first=b"GET " + target + b" HTTP/1.1"))
    assert (request.host, request.target) == (host, path)
    without_host = head(first=b"GET " + target + b" HTTP/1.0")
    assert taken(without_host).host == (None if target.startswith(b"/") else host)


@pytest.mark.parametrize(
    "host",
    ["a", "A.B-c_d.test.", "localhost:0", "a:65535", "127.0.0.1:80", "[::1]", "[2001:db8::1]:443", "[::ffff:1.2.3.4]"],
)
def test_a_host_is_kept_as_written(host: str) -> None:
    assert taken(head(b"Host:  " + host.encode() + b"\t", first=b"GET / HTTP/1.1")).host == host


@pytest.mark.parametrize("origin", ["null", "https://a.test:1", "\xe9", ""])
def test_an_origin_is_kept_as_written(origin: str) -> None:
    assert taken(handshake(b"Origin: " + origin.encode("latin-1"))).origin == origin


def test_what_is_behind_the_head_is_left_as_it_is() -> None:
    data = handshake() + b"\x81\x82\0\0\0\0\r\n\r\n\r"
    for cut in range(len(data) + 1):
        request, rest = read([data[:cut], data[cut:]])
        assert request is not None
        assert rest == b"\x81\x82\0\0\0\0\r\n\r\n\r"


def test_a_reader_tells_whether_anything_has_come() -> None:
    reader = RequestReader(LIMIT)
    assert not reader.begun
    assert reader.feed(b"") is None
    assert not reader.begun
    assert reader.feed(b"G") is None
    assert reader.begun
    assert reader.feed(handshake()[1:]) is not None
    assert reader.rest() == b""
    assert reader.begun


def test_an_incomplete_head_is_neither_taken_nor_refused() -> None:
    data = handshake()
    for end in range(len(data)):
        assert read([data[:end]]) == (None, b"")


def test_nothing_of_h11_is_kept() -> None:
    def alive() -> int:
        return sum(type(thing) in (h11.Connection, h11.Request, h11.RemoteProtocolError) for thing in gc.get_objects())

    gc.collect()
    gc.disable()  # nothing may wait for it
    try:
        before = alive()
        reader = RequestReader(LIMIT)
        request = reader.feed(handshake())
        assert request is not None
        assert alive() == before
    finally:
        gc.enable()


# Refused: no HTTP -----------------------------------------------------------------------------------------------------

TLS_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(500)


@pytest.mark.parametrize(
    ("data", "at", "text"),
    [
        (TLS_HELLO, 1, "the request begins as TLS does, and this port speaks plain HTTP: use ws:"),
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
            16,
            "the request begins as HTTP/2 does, and this port speaks HTTP/1.1",
        ),
        (b"\0" * 20, 1, "the request is not in HTTP: it begins with b'\\x00'"),
        (b"\r\nGET / HTTP/1.1\r\n", 1, "the request is not in HTTP: it begins with b'\\r'"),
        (b" GET / HTTP/1.1\r\n", 1, "the request is not in HTTP: it begins with b' '"),
        (b"\x80.\x01\x03", 1, "the request is not in HTTP: it begins with b'\\x80'"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 20, "the request is not in HTTP: it begins with b'SSH-2.0-OpenSSH_9.2\\r'"),
        (b'{"id": 1}', 1, "the request is not in HTTP: it begins with b'{'"),
        (b"M" * 40 + b" / HTTP/1.1\r\n", 33, f"the request is not in HTTP: it begins with b'{'M' * 33}'"),
        (b"GET /\0", 6, "the request contains the byte b'\\x00', which HTTP forbids"),
        (
            b"EHLO example.com\r\n",
            18,
            "the first line of the request is malformed: it must be a method, a target in ASCII and HTTP/1.1",
        ),
    ],
)
def test_what_is_not_http_is_refused_as_soon_as_it_is_certain(data: bytes, at: int, text: str) -> None:
    assert (refusal(data).status, str(refusal(data))) == (400, text)
    reader = RequestReader(LIMIT)
    for byte in pieces(data[: at - 1], 1):
        assert reader.feed(byte) is None
    with pytest.raises(RefusedRequestError):
        reader.feed(data[at - 1 : at])


def test_a_method_may_have_32_bytes() -> None:
    assert refusal(page(first=b"M" * 32 + b" / HTTP/1.1")).status == 405


MALFORMED = "the first line of the request is malformed: it must be a method, a target in ASCII and HTTP/1.1"


@pytest.mark.parametrize(
    ("first", "status", "text"),
    [
        (b"GET /", 400, MALFORMED),
        (b"GET  HTTP/1.1", 400, MALFORMED),
        (b"GET  / HTTP/1.1", 400, MALFORMED),
        (b"GET /  HTTP/1.1", 400, MALFORMED),
        (b"GET / HTTP/1.1 ", 400, MALFORMED),
        (b"GET\t/ HTTP/1.1", 400, "the request is not in HTTP: it begins with b'GET\\t'"),
        (b"GET /t0ken a HTTP/1.1", 400, MALFORMED),
        (b"GET /\xc3\xa9?t0ken HTTP/1.1", 400, MALFORMED),
        (b"GET / http/1.1", 400, MALFORMED),
        (b"GET / HTTP/1", 400, MALFORMED),
        (b"GET / HTTP/11", 400, MALFORMED),
        (b"GET / HTTP/0.9", 505, "the request must be in HTTP/1.1, not HTTP/0.9"),
        (b"GET / HTTP/1.2", 505, "the request must be in HTTP/1.1, not HTTP/1.2"),
        (b"GET / HTTP/2.0", 505, "the request must be in HTTP/1.1, not HTTP/2.0"),
    ],
)
def test_a_first_line_that_http_1_1_does_not_have(first: bytes, status: int, text: str) -> None:
    error = refusal(handshake(first=first))
    assert (error.status, str(error)) == (status, text)


LINE_FEED = "a line of the request ends with a line feed alone: HTTP wants a carriage return before it"
RETURN = "the request contains a carriage return without a line feed behind it"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", LINE_FEED),
        (b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", LINE_FEED),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", LINE_FEED),
        (b"GET / HTTP/1.1\r\nHost: a\rX: 1\r\n\r\n", RETURN),
        (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", RETURN),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", RETURN),
        *(
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nX: a" + byte + b"b\r\n\r\n",
                f"the request contains the byte {byte!r}, which HTTP forbids",
            )
            for byte in (b"\0", b"\x01", b"\x08", b"\x0b", b"\x0c", b"\x1b", b"\x1f", b"\x7f")
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n t0ken\r\n\r\n",
            "line 3 of the request begins with a space: a header must not go on in a further line",
        ),
        (
            b"GET / HTTP/1.1\r\n\tHost: a\r\n\r\n",
            "line 2 of the request begins with a space: a header must not go on in a further line",
        ),
        *(
            (
                b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n",
                "line 3 of the request is no header: it must begin with a name and a colon",
            )
            for line in (b"t0ken", b"X : 1", b": t0ken", b"Auth t0ken: 1", b"\xe9: 1")
        ),
    ],
)
def test_lines_that_http_does_not_have(data: bytes, text: str) -> None:
    error = refusal(data)
    assert (error.status, str(error)) == (400, text)


@pytest.mark.parametrize("byte", [*range(0x20), 0x7F, *range(0x80, 0x100, 0x1F), 0x20, 0x22, 0x28])
@pytest.mark.parametrize("place", ["name", "value"])
def test_no_byte_makes_h11_quote_a_line(byte: int, place: str) -> None:
    odd = bytes([byte])
    data = page(b"X" + odd + b"y: t0ken" if place == "name" else b"Cookie: c00kie" + odd + b"t0ken")
    if place == "value" and (byte in (0x09, 0x20, 0x22, 0x28) or byte >= 0x80):
        assert odd in taken(data).head
    else:
        assert "is not valid in HTTP" not in str(refusal(data))


# Refused: too large ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_a_head_may_be_as_large_as_the_limit(size: int) -> None:
    data = page(b"X: " + b"x" * 500)
    request, rest = read(pieces(data + b"behind" * 100, size), len(data))
    assert request is not None
    assert rest == b"behind" * 100
    error = refused(pieces(data, size), len(data) - 1)
    assert (error.status, str(error)) == (431, f"the head of the request is larger than {len(data) - 1} bytes")


def test_a_limit_may_be_above_that_of_h11() -> None:
    assert len(taken(page(b"X: " + b"x" * 40_000), 64 * 1024).head) > 40_000


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 17 * 1024,
        b"GET /" + b"a" * 17 * 1024 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        page(b"X: " + b"a" * 17 * 1024),
        page(b"X: " + b" " * 17 * 1024),
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"a" * 17 * 1024 + b"\0",
    ],
)
def test_more_than_the_limit_is_too_large_whatever_is_behind_it(data: bytes) -> None:
    error = refusal(data)
    assert (error.status, str(error)) == (431, "the head of the request is larger than 16384 bytes")


def test_a_fault_within_the_limit_comes_first() -> None:
    assert refusal(b"GET / HTTP/1.1\r\nX\r\n" + b"a" * 20_000).status == 400


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_a_head_may_have_a_hundred_lines_of_headers(size: int) -> None:
    lines = [b"X-%d: x" % number for number in range(99)]
    assert read(pieces(page(*lines), size))[0] is not None
    error = refused(pieces(page(*lines, b"X: 1"), size))
    assert (error.status, str(error)) == (431, "the request has more than 100 lines of headers")


def test_no_more_than_the_limit_is_waited_for() -> None:
    data = page(b"X: " + b"x" * 500)
    assert read([data[:-1]], len(data)) == (None, b"")
    assert refused([data[:-1]], len(data) - 1).status == 431


@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_the_work_for_a_head_without_end_grows_with_its_bytes(begin: bytes) -> None:
    def work(size: int) -> int:
        reader = RequestReader(1 << 30)
        blocks = pieces(begin + b"a" * size, 1)
        return steps(lambda: [reader.feed(block) for block in blocks])

    work(10)
    assert work(4000) < 2.2 * work(2000)


def test_each_byte_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0

    class Counting:
        """Counts what steps do not see: how many bytes a pattern is given."""

        def search(self, data: bytearray, start: int, end: int) -> re.Match[bytes] | None:
            nonlocal looked_at
            found = stop.search(data, start, end)
            looked_at += (end if found is None else found.end()) - start
            return found

    stop = request_module._STOP
    monkeypatch.setattr(request_module, "_STOP", Counting())
    data = page(*(b"X: " + b"x" * 100 for _ in range(50)))
    assert read(pieces(data, 1))[0] is not None
    # A carriage return once more, with what is behind it.
    assert len(data) <= looked_at <= len(data) + data.count(b"\r")


# Refused: requests that are not answered ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [b"POST", b"OPTIONS", b"CONNECT", b"get", b"DELETE", b"X!"])
def test_other_methods_are_told_which_there_are(method: bytes) -> None:
    error = refusal(page(first=method + b" / HTTP/1.1"))
    assert (error.status, error.headers) == (405, (("Allow", "GET, HEAD"),))
    assert str(error) == f"the method must be GET or HEAD, not {method.decode()}"


@pytest.mark.parametrize("method", [b"POST", b"HEAD"])
def test_a_handshake_needs_get(method: bytes) -> None:
    error = refusal(handshake(b"Content-Length: 5", first=method + b" / HTTP/1.1"))
    assert (error.status, error.headers) == (405, (("Allow", "GET"),))
    assert str(error) == f"the method of a request for a WebSocket must be GET, not {method.decode()}"


@pytest.mark.parametrize("first", [b"CONNECT server.test:80 HTTP/1.1", b"OPTIONS * HTTP/1.1"])
def test_targets_of_other_methods_are_methods_that_there_are_not(first: bytes) -> None:
    assert refusal(page(first=first)).status == 405


NO_TARGET = "the target of the request must be a path, or a URL that begins with http:, https:, ws: or wss:"
NO_PLACE = "the target of the request names no valid host and port"


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (b"*", NO_TARGET),
        (b"server.test:80", NO_TARGET),
        (b"chat?t0ken", NO_TARGET),
        (b"?t0ken", NO_TARGET),
        (b"ftp://a.test/", NO_TARGET),
        (b"http:/a.test/", NO_TARGET),
        (b"http:a.test", NO_TARGET),
        (b"http://", NO_PLACE),
        (b"http:///chat", NO_PLACE),
        (b"http://a b/".replace(b" ", b"%20"), NO_PLACE),
        (b"ws://a.test:/", NO_PLACE),
        (b"ws://a.test:99999/", NO_PLACE),
        (b"ws://[::1/", NO_PLACE),
        (b"ws://user:passw0rd@a.test/", "the target of the request must not have a user and a password"),
        (b"ws://@a.test/", "the target of the request must not have a user and a password"),
        (b"/chat#t0ken", "the target of the request must not have a fragment (#...)"),
        (b"/?t0ken#", "the target of the request must not have a fragment (#...)"),
        (b"http://a.test/#", "the target of the request must not have a fragment (#...)"),
        (b"http://a.test#t0ken", NO_PLACE),
        (b"/%4", "the path of the request has a % that is not followed by two hexadecimal digits"),
        (b"/%zz?t0ken", "the path of the request has a % that is not followed by two hexadecimal digits"),
    ],
)
def test_targets_that_lead_nowhere(target: bytes, text: str) -> None:
    for request in (page(first=b"GET " + target + b" HTTP/1.1"), handshake(first=b"GET " + target + b" HTTP/1.1")):
        error = refusal(request)
        assert (error.status, str(error)) == (400, text)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ((), "the request is not valid in HTTP: Missing mandatory Host: header"),
        ((b"Host: a", b"host: a"), "the request is not valid in HTTP: Found multiple Host: headers"),
        *(
            ((b"Host: " + host,), "the Host header of the request names no valid host and port")
            for host in (
                *(
                    b"",
                    b"a b",
                    b"a,b",
                    b"a/b",
                    b"user:passw0rd@a",
                    b"a:",
                    b":80",
                    b"a:65536",
                    b"a:+8",
                    b"a:http",
                    b"\xe9",
                ),
                *(b"[::1", b"::1", b"[::1]x", b"[a]", b"[1.2.3.4]", b"[fe80::1%25eth0]", b"[]", b"a%41", b"http://a"),
            )
        ),
    ],
)
def test_a_request_names_one_host(lines: Sequence[bytes], text: str) -> None:
    others = [line for line in HANDSHAKE if not line.startswith(b"Host")]
    # The Host header is checked even if it does not count.
    for first in (b"GET / HTTP/1.1", b"GET http://a.test/ HTTP/1.1"):
        for request in (head(*lines, first=first), head(*lines, *others, first=first)):
            error = refusal(request)
            assert (error.status, str(error)) == (400, text)


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: t0ken",),
        (b"Content-Length: 1", b"Content-Length: 2"),
        (b"Transfer-Encoding: gzip",),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    ],
)
def test_a_body_that_nobody_could_measure(lines: Sequence[bytes]) -> None:
    assert refusal(page(*lines)).status == 400
    assert refusal(handshake(*lines)).status == 400


def test_two_origins() -> None:
    for request in (page(b"Origin: null", b"origin: null"), handshake(b"Origin: null", b"origin: null")):
        error = refusal(request)
        assert (error.status, str(error)) == (400, "the request must have one Origin header at most")


# Refused: handshakes --------------------------------------------------------------------------------------------------

NO_BODY = "a request for a WebSocket must have no body, and so no {} header"
NO_UPGRADE = "the Connection header of a request for a WebSocket must contain Upgrade"
NO_LIST = "the Sec-WebSocket-Protocol header of the request must be a list of names, with commas between them"
NO_KEY = "the Sec-WebSocket-Key header of the request must be 16 bytes in base64"


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (handshake(first=b"GET / HTTP/1.0"), "a request for a WebSocket must be in HTTP/1.1, not HTTP/1.0"),
        (handshake(b"Content-Length: 0"), NO_BODY.format("Content-Length")),
        (handshake(b"transfer-encoding: chunked"), NO_BODY.format("Transfer-Encoding")),
        (handshake(drop=b"Connection"), NO_UPGRADE),
        (handshake(b"Connection: keep-alive", drop=b"Connection"), NO_UPGRADE),
        (handshake(b"Connection: upgrades", drop=b"Connection"), NO_UPGRADE),
        (
            handshake(drop=b"Sec-WebSocket-Key"),
            "the request must have one Sec-WebSocket-Key header, not 0",
        ),
        (
            handshake(b"Sec-WebSocket-Key: " + KEY),
            "the request must have one Sec-WebSocket-Key header, not 2",
        ),
        *(
            (handshake(b"Sec-WebSocket-Key: " + key, drop=b"Sec-WebSocket-Key"), NO_KEY)
            for key in (
                *(
                    b"",
                    b"=",
                    KEY[:-1],
                    KEY[:-2],
                    KEY + b"=",
                    KEY[:-2] + b"==" + b"==",
                    b"*" + KEY[1:],
                    b"\xe9" + KEY[1:],
                ),
                *(KEY[:21] + b"===", b"SGVsbG8sIHdvcmxkIQ==", KEY[:10] + b" " + KEY[11:], b"-_" + KEY[2:]),
            )
        ),
        *(
            (handshake(b"Sec-WebSocket-Protocol: " + names), NO_LIST)
            for names in (b"", b",", b" , ,", b"a b", b"a;b", b'"a"', b"a, t0ken/1", b"\xe9", b"a\xa0")
        ),
    ],
)
def test_handshakes_that_are_refused(request_: bytes, text: str) -> None:
    error = refusal(request_)
    assert (error.status, str(error), error.headers) == (400, text, ())


def test_bits_of_a_key_beyond_16_bytes_do_not_matter() -> None:
    key = KEY[:21] + b"R" + b"=="
    assert taken(handshake(b"Sec-WebSocket-Key: " + key, drop=b"Sec-WebSocket-Key")).key == key


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ((), "missing"),
        ((b"8",), "'8'"),
        ((b"",), "''"),
        ((b"13, 8",), "'13, 8'"),
        ((b"13", b"13"), "'13, 13'"),
        ((b"013",), "'013'"),
        ((b"\x9b13",), "'\\u009b13'"),
    ],
)
def test_another_version_of_the_protocol_is_told_which_there_is(lines: Sequence[bytes], shown: str) -> None:
    # Older versions have other keys.
    data = handshake(*(b"Sec-WebSocket-Version: " + line for line in lines), drop=b"Sec-WebSocket-Version").replace(
        KEY, b"old"
    )
    error = refusal(data)
    assert str(error) == f"the Sec-WebSocket-Version header of the request must be 13, not {shown}"
    assert (error.status, error.headers) == (426, (("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")))


# Cut ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        handshake(b"Sec-WebSocket-Protocol: a, b"),
        page(b"X: a"),
        page(b"X: a\rb"),
        page(b"X: a\nb"),
        page(b"X: a", b" b"),
        page(b"X: a\x0bb"),
        page(b"X a"),
        handshake(first=b"GET / HTTP/3.0"),
        handshake(drop=b"Host"),
        handshake(drop=b"Sec-WebSocket-Version"),
        b"GET / HTTP/1.1\r\n" + b"a: 1\r\n" * 101 + b"\0",
        TLS_HELLO[:100],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_wherever_a_request_is_cut_it_has_the_same_result(data: bytes) -> None:
    def result(blocks: Sequence[bytes], limit: int) -> object:
        try:
            return read(blocks, limit)
        except RefusedRequestError as error:
            return error.status, str(error), error.headers

    for limit in (LIMIT, 30):
        whole = result([data], limit)
        for cut in range(len(data) + 1):
            assert result([data[:cut], data[cut:]], limit) == whole
        chance = random.Random(1)
        for _ in range(20):
            first, second = sorted(chance.sample(range(len(data)), 2))
            assert result([data[:first], data[first:second], data[second:]], limit) == whole


def test_h11_agrees_with_what_was_found() -> None:
    data = handshake(b"X-A: 1 ", b"x-b:2")
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    found = [(name.decode(), value.decode()) for name, value in event.headers.raw_items()]
    assert parse_headers(taken(data).head).multi_items() == found
