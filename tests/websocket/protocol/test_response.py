"""What the client makes of a server's answer to the handshake, without I/O."""

from __future__ import annotations

from email.parser import BytesHeaderParser
from typing import TYPE_CHECKING, cast

import h11
import pytest
import wsproto
import wsproto.events

from csp.errors import ConnectionFailedError, Kind
from tests.websocket._server import accept_key, accepting, text
from trio_csp_websocket.protocol.constants import Compression
from trio_csp_websocket.protocol.negotiation import DeflateParameters
from trio_csp_websocket.protocol.refusal import MAX_BODY_BYTES, RedirectError
from trio_csp_websocket.protocol.response import ResponseReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
REQUEST_LINES = (
    "GET /feed HTTP/1.1",
    "Host: server.test",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
)
REQUEST = BytesHeaderParser().parsebytes("\r\n".join(REQUEST_LINES[1:]).encode())


def handshake(*protocols: str, compression: Compression = Compression.DISABLED) -> ResponseReader:
    started = ResponseReader(protocols, compression)
    started.request_sent("\r\n".join([*REQUEST_LINES, "", ""]).encode())
    return started


def failure(
    *answer: bytes,
    protocols: Sequence[str] = (),
    compression: Compression = Compression.DISABLED,
    ended: bool = True,
) -> ConnectionFailedError:
    """Feed blocks, and the end of the stream if they are not enough; return the error that comes of it."""
    started = handshake(*protocols, compression=compression)

    def feed() -> None:
        for block in (*answer, b"") if ended else answer:
            assert started.feed(block) is None

    with pytest.raises(ConnectionFailedError) as caught:
        feed()
    assert caught.value.kind is Kind.INTERNAL
    return caught.value


def accepted(*more: str, drop: str = "") -> bytes:
    return accepting(REQUEST, *more, drop=drop)


def refusal(status: int = 404, *headers: str, body: bytes = b"", reason: str = "Not Found") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} {reason}", *headers, "", ""]).encode() + body


def blocks(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def details(error: ConnectionFailedError) -> Mapping[str, object]:
    return error.details


# Accepted -------------------------------------------------------------------------------------------------------------


def test_the_sample_key_of_the_rfc_gives_its_accept_key() -> None:
    assert accept_key(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert handshake().feed(accepted()) is not None


def test_an_acceptance_gives_its_head_and_what_came_after() -> None:
    answer = handshake().feed(accepted() + text("hi"))
    assert answer is not None
    head, rest = answer
    assert rest == text("hi")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert head.endswith(b"\r\n\r\n")


def test_the_head_has_nothing_of_the_servers_but_what_was_checked() -> None:
    started = handshake("chat", "v2", compression=Compression.CONTEXT_TAKEOVER)
    answer = started.feed(
        b"HTTP/1.1 101 \xa0anything\r\nX-More: \xff\x1c\r\nUPGRADE: \tWebSocket \r\n"
        b"Connection: keep-alive, \x85, UPGRADE\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
        b"Sec-WebSocket-Protocol: v2 \r\nSec-WebSocket-Accept:\t" + accept_key(KEY).encode() + b" \r\n\r\n"
    )
    assert answer is not None
    assert answer[0].decode("ascii").split("\r\n") == [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(KEY)}",
        "Sec-WebSocket-Protocol: v2",
        "",
        "",
    ]
    # The user sees all of it.
    assert started.headers["x-more"] == "\xff\x1c"


# What `str.strip` takes for spaces, and h11 lets pass; HTTP knows only the space and the tab.
NO_SPACES = [b"\xa0", b"\x85", b"\x1c", b"\x1d", b"\x1e", b"\x1f"]


@pytest.mark.parametrize("no_space", NO_SPACES, ids=bytes.hex)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("header", "value", "said"),
    [
        ("Upgrade", "websocket", "its Upgrade header must be websocket"),
        ("Connection", "Upgrade", "its Connection header must contain Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(KEY), "its Sec-WebSocket-Accept header does not match"),
        (
            "Sec-WebSocket-Protocol",
            "chat",
            "it must choose one of the subprotocols that were offered (1), not another or several",
        ),
        ("Sec-WebSocket-Extensions", "permessage-deflate", "its Sec-WebSocket-Extensions header is malformed"),
    ],
)
def test_what_is_no_space_in_http_is_part_of_a_value(
    header: str, value: str, said: str, before: bool, no_space: bytes
) -> None:
    around = (no_space + value.encode()) if before else (value.encode() + no_space)
    answer = accepted(f"{header}: @", drop=header).replace(b"@", around)
    error = failure(answer, protocols=["chat"], compression=Compression.CONTEXT_TAKEOVER)
    assert said in str(error)


def test_the_reason_of_a_refusal_ends_where_http_has_no_more_spaces() -> None:
    error = failure(b"HTTP/1.1 404 no\xa0 \t\r\nContent-Length: 0\r\n\r\n")
    assert str(error) == "the server refused the connection with status 404 no\\u00a0"


def test_an_acceptance_byte_by_byte_is_accepted_with_its_last_byte() -> None:
    started, answer = handshake(), accepted()
    for index in range(len(answer) - 1):
        assert started.feed(answer[index : index + 1]) is None
    assert started.feed(answer[-1:]) is not None


def test_the_head_can_be_understood_by_wsproto() -> None:
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    request = client.send(
        wsproto.events.Request(host="server.test", target="/feed", subprotocols=["chat", "v2"], extra_headers=[])
    )
    started = ResponseReader(("chat", "v2"), Compression.DISABLED)
    started.request_sent(request)
    sent = BytesHeaderParser().parsebytes(request.partition(b"\r\n")[2])
    answer = started.feed(accepting(sent, "Sec-WebSocket-Protocol: v2", "Set-Cookie: a=1", "Set-Cookie: b=2"))
    assert answer is not None
    client.receive_data(answer[0])
    (event,) = client.events()
    assert isinstance(event, wsproto.events.AcceptConnection)
    assert event.subprotocol == "v2"


@pytest.mark.parametrize(
    "lines",
    [
        ("UPGRADE: WebSocket", "Connection: upgrade"),
        ("Upgrade:   websocket  ", "CONNECTION: keep-alive, UPGRADE"),
        ("Upgrade: websocket", "Connection: keep-alive", "Connection: Upgrade"),
    ],
)
def test_case_spaces_and_lists_in_headers_are_as_http_allows(lines: tuple[str, ...]) -> None:
    answer = "\r\n".join(["HTTP/1.1 101 Fine", *lines, f"sec-websocket-ACCEPT: {accept_key(KEY)}", "", ""])
    assert handshake().feed(answer.encode()) is not None


def test_the_reason_of_an_acceptance_may_be_anything() -> None:
    assert handshake().feed(accepted().replace(b"101 Switching Protocols", b"101 ")) is not None


def test_informational_answers_before_the_acceptance_are_passed_over() -> None:
    started = handshake()
    assert started.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n") is None
    assert not started.refused
    assert started.feed(accepted()) is not None
    assert "link" not in started.headers


def test_the_headers_of_the_answer_are_kept_with_repetitions() -> None:
    started = handshake()
    started.feed(accepted("Set-Cookie: a=1", "Set-Cookie: b=2", "X-Latin: gr\u00fcn"))
    assert started.headers.get_all("SET-COOKIE") == ["a=1", "b=2"]
    assert started.headers["x-latin"] == "gr\u00fcn"


def test_an_offered_subprotocol_is_accepted() -> None:
    assert handshake("chat", "v2").feed(accepted("Sec-WebSocket-Protocol: v2")) is not None


def test_no_subprotocol_is_accepted_although_some_were_offered() -> None:
    assert handshake("chat").feed(accepted()) is not None


def test_a_request_with_very_large_headers_is_understood() -> None:
    started = ResponseReader((), Compression.DISABLED)
    started.request_sent("\r\n".join([*REQUEST_LINES, "X-Large: " + "x" * 100_000, "", ""]).encode())
    assert started.feed(accepted()) is not None


# Compression ----------------------------------------------------------------------------------------------------------


def test_an_answer_that_agrees_to_compression_says_how() -> None:
    started = handshake(compression=Compression.CONTEXT_TAKEOVER)
    assert started.deflate is None
    started.feed(accepted("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10"))
    assert started.deflate == DeflateParameters(peer_max_window_bits=10)


def test_an_answer_without_an_extension_wants_no_compression() -> None:
    for answer in (accepted(), accepted("Sec-WebSocket-Extensions:")):
        started = handshake(compression=Compression.NO_CONTEXT)
        assert started.feed(answer) is not None
        assert started.deflate is None


def test_the_head_for_trio_websocket_is_without_the_extension_and_otherwise_the_same() -> None:
    plain = handshake(compression=Compression.CONTEXT_TAKEOVER)
    plain_answer = plain.feed(accepted("X-More: yes"))
    assert plain_answer is not None
    lines = ["SEC-WebSocket-Extensions: ", "X-More: yes", "sec-websocket-extensions: permessage-deflate"]
    started = handshake(compression=Compression.CONTEXT_TAKEOVER)
    assert started.feed(accepted(*lines) + text("hi")) == (plain_answer[0], text("hi"))
    assert b"extensions" not in plain_answer[0].lower()
    # The application may want to know.
    assert started.headers.get_all("Sec-WebSocket-Extensions") == ["", "permessage-deflate"]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["permessage-deflate; client_max_window_bits=16"], "'16'"),
        (["permessage-deflate; surprise"], "'surprise'"),
        (["x-webkit-deflate-frame"], "'x-webkit-deflate-frame'"),
        (["permessage-deflate, x-more"], "'x-more'"),
        (["permessage-deflate", "permessage-deflate"], "twice"),
        (["permessage-deflate", "x-more"], "'x-more'"),
        (["permessage-deflate;"], "malformed"),
        (["\u00fcber"], "malformed"),
    ],
)
def test_an_answer_that_agrees_to_what_was_not_offered_is_refused_at_once(lines: Sequence[str], named: str) -> None:
    answer = accepted(*(f"Sec-WebSocket-Extensions: {line}" for line in lines))
    error = failure(answer, compression=Compression.CONTEXT_TAKEOVER, ended=False)
    assert str(error).startswith("the server's answer to the handshake is invalid: it")
    assert named in str(error)
    assert error.retryable is True
    assert details(error)["status"] == 101
    headers = details(error)["headers"]
    assert isinstance(headers, dict)
    assert headers["sec-websocket-extensions"] == ", ".join(lines)


# Invalid acceptances --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (accepted(drop="Upgrade"), "Upgrade"),
        (accepted("Upgrade: h2c", drop="Upgrade"), "h2c"),
        (accepted("Upgrade: websocket"), "Upgrade"),
        (accepted("Upgrade: websocket, h2c", drop="Upgrade"), "Upgrade"),
        (accepted(drop="Connection"), "Connection"),
        (accepted("Connection: close", drop="Connection"), "'close'"),
        (accepted(drop="Sec-WebSocket-Accept"), "Sec-WebSocket-Accept"),
        (accepted("Sec-WebSocket-Accept: " + accept_key("x"), drop="Sec-WebSocket-Accept"), "Sec-WebSocket-Accept"),
        (accepted("Sec-WebSocket-Accept: " + accept_key(KEY)), "Sec-WebSocket-Accept"),
        (accepted(f"Sec-WebSocket-Accept: {accept_key(KEY).lower()}", drop="Sec-WebSocket-A"), "Sec-WebSocket-Accept"),
        (accepted("Sec-WebSocket-Accept: gr\u00fcn", drop="Sec-WebSocket-Accept"), "Sec-WebSocket-Accept"),
        (accepted("Sec-WebSocket-Extensions: permessage-deflate"), "permessage-deflate"),
        (accepted("Sec-WebSocket-Protocol: chat"), "none was offered"),
    ],
)
def test_an_acceptance_that_is_not_valid_is_refused_naming_the_header(answer: bytes, named: str) -> None:
    error = failure(answer, ended=False)
    assert named in str(error)
    assert error.retryable is True
    assert details(error)["status"] == 101
    assert details(error)["body"] == b""


@pytest.mark.parametrize(
    "lines",
    [
        ("Sec-WebSocket-Protocol: other",),
        ("Sec-WebSocket-Protocol: Chat",),
        ("Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: chat"),
        ("Sec-WebSocket-Protocol:",),
    ],
)
def test_a_subprotocol_that_was_not_offered_or_more_than_one_is_refused(lines: tuple[str, ...]) -> None:
    error = failure(accepted(*lines), protocols=["chat", "v2"], ended=False)
    assert "it must choose one of the subprotocols that were offered (2), not " in str(error)


def test_the_details_show_the_headers_by_lower_case_names() -> None:
    error = failure(accepted("X-A: 1", "x-a: 2", drop="Upgrade"), ended=False)
    headers = details(error)["headers"]
    assert isinstance(headers, dict)
    assert headers["x-a"] == "1, 2"
    assert headers["connection"] == "Upgrade"


# Not an answer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nno colon\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
    ],
)
def test_what_is_not_http_is_an_error_at_the_latest_at_the_end(answer: bytes) -> None:
    error = failure(answer)
    assert error.retryable is True
    assert details(error) == {"answer": answer}
    assert "in HTTP" in str(error) or "middle of the WebSocket handshake" in str(error)


def test_what_is_not_http_need_not_be_waited_for() -> None:
    assert "did not answer in HTTP" in str(failure(b"garbage\r\n\r\n", ended=False))


def test_an_end_without_an_answer_is_an_error() -> None:
    error = failure()
    assert "the server closed the connection" in str(error)
    assert error.retryable is True


@pytest.mark.parametrize("size", [1, 8, 20, 60])
def test_an_answer_cut_off_is_an_error(size: int) -> None:
    error = failure(accepted()[:size])
    assert "in the middle of the WebSocket handshake" in str(error)
    assert error.retryable is True


def test_an_end_after_an_informational_answer_is_an_error() -> None:
    assert "the server closed the connection" in str(failure(b"HTTP/1.1 100 Continue\r\n\r\n"))


@pytest.mark.parametrize(
    ("begun", "block"),
    [
        (b"HTTP/1.1 101 ", b"one endless line"),
        (b"HTTP/1.1 101 Switching Protocols\r\n", b"X-A: " + b"x" * 1000 + b"\r\n"),
        # Answers before the answer, without end.
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: <" + b"x" * 2000 + b">\r\n\r\n"),
    ],
)
def test_a_head_without_end_is_an_error_and_is_not_kept(begun: bytes, block: bytes) -> None:
    answer = begun + block * (66_000 // len(block) + 1)
    assert len(answer) > 65536
    for size in (1000, 50_000, len(answer)):
        error = failure(*blocks(answer, size), ended=False)
        assert "larger than 65536 bytes" in str(error)
        assert details(error) == {"answer": answer[:MAX_BODY_BYTES]}
    assert "middle of the WebSocket handshake" in str(failure(*blocks(answer[:65_000], 4096)))


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_a_head_of_many_lines_is_an_error_whatever_its_status(size: int) -> None:
    lines = [f"X-{number}: x" for number in range(100)]
    assert handshake().feed(accepted(*lines[:97])) is not None
    assert details(failure(refusal(404, *lines), ended=True))["status"] == 404
    for answer in (accepted(*lines), refusal(404, *lines, "Content-Length: 0"), b"HTTP/1.1 100 \r\n\r\n" * 102):
        error = failure(*blocks(answer, size), ended=False)
        assert str(error) == "the head of the server's answer has more than 100 lines of headers"
        assert error.retryable is True
        assert answer.startswith(cast("bytes", details(error)["answer"]))


# h11's expressions take time that grows with the square of such a line: minutes for 64 KiB.
@pytest.mark.parametrize("byte", [b"\0", b"\x0b", b"\x0c", b"\r"])
def test_a_line_of_spaces_and_a_byte_that_http_forbids_is_not_given_to_h11(byte: bytes) -> None:
    error = failure(b"HTTP/1.1 404 Not Found\r\nX:" + b" " * 60_000 + byte + b"\r\n\r\n", ended=False)
    assert str(error) == f"the server did not answer in HTTP: its head contains the byte {byte!r}"


@pytest.mark.parametrize(
    "body", [b"5;" + b" " * 60_000 + b"\nx\r\n", b"2\r\nno\r\n0\r\nX:" + b" " * 60_000 + b"\x0b\r\n\r\n"]
)
def test_a_long_line_in_a_chunked_body_ends_it(body: bytes) -> None:
    answer = refusal(404, "Transfer-Encoding: chunked", body=body)
    given: list[bytes] = []
    for size in (1000, len(answer)):
        error = failure(*blocks(answer, size), ended=False)
        given.append(cast("bytes", details(error)["body"]))
    assert given == [body[3:5] if body.startswith(b"2") else b""] * 2


def test_a_head_may_be_as_large_as_the_limit_whatever_is_behind_it() -> None:
    answer = accepted("X-Large: ")
    answer = answer.replace(b"X-Large: ", b"X-Large: " + b"x" * (65536 - len(answer)))
    for size in (1000, 65_000, 1 << 20):
        started = handshake()
        *first, last = blocks(answer + b"y" * 65536, size)
        taken: tuple[bytes, bytes] | None = None
        for block in (*first, last):
            taken = started.feed(block) if taken is None else (taken[0], taken[1] + block)
        assert taken is not None
        assert taken[1] == b"y" * 65536
    too_large = answer.replace(b"X-Large: ", b"X-Large: x")
    for size in (1000, 65_000, 1 << 20):
        assert "larger than 65536 bytes" in str(failure(*blocks(too_large, size), ended=False))
    assert "larger than 65536 bytes" in str(failure(too_large.replace(b"101", b"404"), ended=False))


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status", [200, 204, 301, 302, 307, 400, 401, 403, 404, 407, 409, 410, 418, 421, 426, 428, 431, 451]
)
def test_a_refusal_is_not_retryable_as_a_rule(status: int) -> None:
    error = failure(refusal(status, "Content-Length: 0"), ended=False)
    assert error.retryable is False
    assert details(error)["status"] == status


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 511, 599])
def test_a_refusal_that_may_pass_is_retryable(status: int) -> None:
    error = failure(refusal(status, "Content-Length: 0"), ended=False)
    assert error.retryable is True
    assert details(error)["status"] == status


def test_the_error_says_status_and_reason() -> None:
    assert str(failure(refusal(body=b""))) == "the server refused the connection with status 404 Not Found"
    assert str(failure(refusal(reason=""))) == "the server refused the connection with status 404"


def test_a_redirect_is_a_refusal_with_its_location_in_the_details() -> None:
    error = failure(refusal(302, "Location: wss://other.test/", "Content-Length: 0"), ended=False)
    headers = details(error)["headers"]
    assert isinstance(headers, dict)
    assert headers["location"] == "wss://other.test/"


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        (refusal(404, "Content-Length: 5", body=b"sorry"), False),
        (refusal(404, "Transfer-Encoding: chunked", body=b"3\r\nsor\r\n2\r\nry\r\n0\r\n\r\n"), False),
        (refusal(404, body=b"sorry"), True),
        (refusal(404, "Content-Length: 500", body=b"sorry"), True),
        (refusal(404, "Transfer-Encoding: chunked", body=b"3\r\nsor\r\n2\r\nry\r\nbad"), True),
    ],
    ids=["content-length", "chunked", "until EOF", "cut off", "chunked and garbled"],
)
def test_a_body_however_it_ends_is_in_the_details(answer: bytes, ended: bool) -> None:
    assert details(failure(answer, ended=ended))["body"] == b"sorry"
    single_bytes = [answer[index : index + 1] for index in range(len(answer))]
    assert details(failure(*single_bytes, ended=ended))["body"] == b"sorry"


def test_a_refusal_is_known_as_one_before_its_body_is_complete() -> None:
    started = handshake()
    assert not started.refused
    assert started.feed(refusal(503, "Content-Length: 10", body=b"busy")) is None
    assert started.refused
    error = started.refusal()
    assert details(error)["body"] == b"busy"
    assert error.retryable is True


@pytest.mark.parametrize("headers", [("Content-Length: 1000000",), ("Transfer-Encoding: chunked",), ()])
def test_of_a_huge_body_only_the_start_is_taken(headers: tuple[str, ...]) -> None:
    started = handshake()
    assert started.feed(refusal(404, *headers)) is None
    block = b"400\r\n" + b"x" * 1024 + b"\r\n" if "chunked" in str(headers) else b"x" * 1024
    for _ in range(MAX_BODY_BYTES // 1024 - 1):
        assert started.feed(block) is None
    with pytest.raises(ConnectionFailedError) as caught:
        started.feed(block)
    assert details(caught.value)["body"] == b"x" * MAX_BODY_BYTES


def test_of_a_huge_body_in_one_block_only_the_start_is_kept() -> None:
    error = failure(refusal(404, "Content-Length: 1000000", body=b"x" * 60_000), ended=False)
    assert details(error)["body"] == b"x" * MAX_BODY_BYTES


def test_a_refusal_after_an_informational_answer_is_a_refusal() -> None:
    error = failure(b"HTTP/1.1 100 Continue\r\n\r\n" + refusal(403, "Content-Length: 0"), ended=False)
    assert details(error)["status"] == 403


def test_the_headers_of_a_refusal_are_repeated_in_the_details() -> None:
    error = failure(refusal(401, "WWW-Authenticate: Basic", "www-authenticate: Digest", "Content-Length: 0"))
    headers = details(error)["headers"]
    assert isinstance(headers, dict)
    assert headers["www-authenticate"] == "Basic, Digest"


def test_what_follows_a_refusal_is_not_its_body() -> None:
    error = failure(refusal(404, "Content-Length: 2", body=b"no" + b"HTTP/1.1 200 OK\r\n\r\n"), ended=False)
    assert details(error)["body"] == b"no"


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_an_informational_status_is_never_an_answer(status: int) -> None:
    started = handshake()
    assert started.feed(refusal(status)) is None
    assert not started.refused


def test_the_request_reaches_the_parser_as_h11_would_have_it() -> None:
    with pytest.raises(h11.RemoteProtocolError):
        ResponseReader((), Compression.DISABLED).request_sent(b"garbage\r\n\r\n")


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01", b"HTTQ", b"\r\nHTTP/1.1 101"])
def test_a_server_of_another_protocol_is_refused_at_its_first_bytes(said: bytes) -> None:
    error = failure(said, ended=False)
    assert str(error) == f"the server did not answer in HTTP: it began with {said[:16]!r}"


def test_a_redirect_that_is_to_be_followed_is_no_refusal_whose_body_is_still_to_come() -> None:
    started = ResponseReader((), Compression.DISABLED, follow_redirects=True)
    started.request_sent("\r\n".join([*REQUEST_LINES, "", ""]).encode())
    with pytest.raises(RedirectError):
        started.feed(refusal(302, "Location: /there", "Content-Length: 5"))
    # Where the time is over at this moment, it is not taken for the reason.
    assert not started.refused


def test_of_an_answer_that_is_none_nothing_is_told_where_there_are_too_many_secrets() -> None:
    started = ResponseReader((), Compression.DISABLED)
    many = "&".join(f"name{number}" for number in range(1200))
    started.request_sent("\r\n".join([f"GET /?{many} HTTP/1.1", *REQUEST_LINES[1:], "", ""]).encode())
    with pytest.raises(ConnectionFailedError) as caught:
        started.feed(b"SSH-2.0\r\n")
    assert str(caught.value) == "the server did not answer in HTTP"
