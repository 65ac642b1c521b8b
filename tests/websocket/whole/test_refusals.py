"""What the error tells of a server that does not switch protocols: from raw answers, through `connect`."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, cast

import pytest

from csp import testing, websocket
from csp.errors import ConnectionFailedError, wrap
from tests.websocket._server import accepting, text

if TYPE_CHECKING:
    from trio.testing import MockClock

URL = "wss://api.test/feed"
BEGIN = f"cannot connect to {URL}: "


async def failure(answer: bytes, url: str = URL, **options: Any) -> ConnectionFailedError:
    """Connect to a server that gives this answer, and nothing more; return the error."""

    async def handler(connection: testing.ServerConnection) -> None:
        await connection.send_bytes(answer)
        connection.drop()

    async with testing.websocket_server(handler):
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(url, **options).__aenter__()
    return caught.value


def answer(status: str, *lines: str, body: bytes | str = b"") -> bytes:
    body = body.encode() if isinstance(body, str) else body
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


# For programs ---------------------------------------------------------------------------------------------------------


async def test_a_refusal_has_its_status(autojump_clock: MockClock) -> None:
    error = await failure(answer("403 Forbidden"))
    assert error.status == 403
    for same in (wrap(error, "no prices"), pickle.loads(pickle.dumps(error))):
        assert same.status == 403


async def test_what_is_no_answer_in_http_has_no_status(autojump_clock: MockClock) -> None:
    assert (await failure(b"SSH-2.0-OpenSSH_9.6\r\n")).status is None
    assert (await failure(b"")).status is None


async def test_an_acceptance_that_is_not_valid_has_its_status(autojump_clock: MockClock) -> None:
    error = await failure(b"HTTP/1.1 101 Switching Protocols\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n")
    assert error.status == 101
    assert cast("websocket.Headers", error.details["response_headers"]).get_all("set-cookie") == ["a=1", "b=2"]


async def test_each_cookie_of_a_refusal_can_be_told_from_the_others(autojump_clock: MockClock) -> None:
    cookies = ["a=1; Expires=Wed, 09 Jun 2027 10:18:14 GMT", "b=2; Path=/"]
    error = await failure(answer("401 Unauthorized", *(f"Set-Cookie: {cookie}" for cookie in cookies)))
    for same in (error, pickle.loads(pickle.dumps(error))):
        headers = same.details["response_headers"]
        assert isinstance(headers, websocket.Headers)
        assert headers.get_all("Set-Cookie") == cookies
        assert cast("dict[str, str]", same.details["headers"])["set-cookie"] == ", ".join(cookies)


async def test_an_error_always_has_details(autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.accept()

    async with testing.websocket_server(handler), websocket.connect(URL) as client:
        await client.wait_closed()
        with pytest.raises(ConnectionFailedError) as caught:
            await client.send("late")
    assert caught.value.details == {}
    assert caught.value.status is None


# For people: the status -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (answer("404 Not Found"), "the server refused the connection with status 404 Not Found"),
        (
            answer("200 OK"),
            "the server answered with status 200 OK, as to an ordinary request, and did not switch to WebSocket",
        ),
        (
            answer("204 "),
            "the server answered with status 204, as to an ordinary request, and did not switch to WebSocket",
        ),
        (
            answer("300 Multiple Choices", "Location: /x"),
            "the server refused the connection with status 300 Multiple Choices",
        ),
        (answer("301 Moved"), "the server refused the connection with status 301 Moved"),
        (answer("304 Not Modified", "Location: /x"), "the server refused the connection with status 304 Not Modified"),
        (
            answer("401 No", 'WWW-Authenticate: Basic realm="a"', "WWW-Authenticate: Bearer"),
            'the server refused the connection with status 401 No (WWW-Authenticate: Basic realm="a", Bearer)',
        ),
        (
            answer("407 Authenticate!", "Proxy-Authenticate: Negotiate"),
            "the server refused the connection with status 407 Authenticate! (Proxy-Authenticate: Negotiate)",
        ),
        (
            answer("426 Upgrade!", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 7", "Upgrade: h2c"),
            "the server refused the connection with status 426 Upgrade! (Sec-WebSocket-Version: 8, 7; Upgrade: h2c)",
        ),
        (
            answer("400 Bad Request", "Sec-WebSocket-Version: 8"),
            "the server refused the connection with status 400 Bad Request (Sec-WebSocket-Version: 8)",
        ),
        (
            answer("429 Slow Down", "Retry-After: 30"),
            "the server refused the connection with status 429 Slow Down (Retry-After: 30)",
        ),
        (answer("429 Slow Down", "Retry-After: "), "the server refused the connection with status 429 Slow Down"),
        (
            answer("426 Upgrade!", "Sec-WebSocket-Version:", "Upgrade: h2c"),
            "the server refused the connection with status 426 Upgrade! (Upgrade: h2c)",
        ),
        (
            answer("503 Busy", "Retry-After: 5", "WWW-Authenticate: Basic", body="come back"),
            "the server refused the connection with status 503 Busy (Retry-After: 5): come back",
        ),
    ],
)
async def test_the_status_is_told_with_what_it_asks_for(raw: bytes, says: str, autojump_clock: MockClock) -> None:
    assert str(await failure(raw)) == BEGIN + says


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (
            answer("302 Found", "Location: https://bob:hunter2@login.test/start?token=hunter2", body="moved"),
            "the server redirects to https://login.test/start?... (status 302 Found), and redirects are not followed",
        ),
        (
            answer("308 Permanent Redirect", "Location: "),
            "the server redirects (status 308 Permanent Redirect), and redirects are not followed",
        ),
        (answer("301 Moved"), "the server refused the connection with status 301 Moved"),
    ],
)
async def test_without_redirects_a_redirect_is_a_refusal(raw: bytes, says: str, autojump_clock: MockClock) -> None:
    error = await failure(raw, max_redirects=0)
    assert str(error) == BEGIN + says
    assert (error.retryable, error.details["url"]) == (False, URL)
    assert error.details["body"] == raw.partition(b"\r\n\r\n")[2]
    assert "redirects" not in error.details


# The body -------------------------------------------------------------------------------------------------------------

CHROMIUM = "Rejected an incoming WebSocket connection from the http://localhost origin. Use --remote-allow-origins=*"


@pytest.mark.parametrize(
    ("body", "shows"),
    [
        ("Signature expired", "Signature expired"),
        ("\n  Signature expired \r\nat 10:15\n", "Signature expired"),
        (CHROMIUM, CHROMIUM),
        ("grün \x1b[2J\tnow", "grün \\u001b[2J\\u0009now"),
        ("x" * 201, f"{'x' * 200}... (1 more characters)"),
        ('{"code":1,"message":"Session ID unknown"}', '{"code":1,"message":"Session ID unknown"}'),
        ('\ufeff{\r\n  "code": 1,\r\n  "why": "no"\r\n}\r\n', '{ "code": 1, "why": "no" }'),
        ("<html><head><TITLE lang=en>\n Sign&nbsp;in\n to &lt;X&gt; </title></head>", "Sign in to <X>"),
    ],
)
async def test_the_first_line_of_a_body_is_told(body: str, shows: str, autojump_clock: MockClock) -> None:
    error = await failure(answer("403 Forbidden", body=body))
    assert str(error) == f"{BEGIN}the server refused the connection with status 403 Forbidden: {shows}"
    assert error.details["body"] == body.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n ",
        b"Forbidden\n",
        b"<h1>403 Forbidden</h1>",
        b"<html><title>403 Forbidden</title>",
        b"<html><title></title>",
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        b"gr\xfcn",
        "gr\u00fcn".encode("utf-16"),
        b"PK\0\1",
    ],
)
async def test_a_body_that_tells_nothing_more_is_not_shown(body: bytes, autojump_clock: MockClock) -> None:
    error = await failure(answer("403 Forbidden", body=body))
    assert str(error) == f"{BEGIN}the server refused the connection with status 403 Forbidden"
    assert error.details["body"] == body


@pytest.mark.parametrize(
    ("body", "shows"),
    [
        ("whole line\nhalf a li", ": whole line"),
        ("half a li", ""),
        ('{"half": ', ""),
        ("<title>Sign in</title><p>ha", ": Sign in"),
        ("<title>Sig", ""),
        ("whole line\ngr\xc3", ": whole line"),
    ],
)
async def test_of_a_body_that_was_cut_off_a_line_that_came_as_a_whole_is_told(
    body: str, shows: str, autojump_clock: MockClock
) -> None:
    error = await failure(answer("403 Forbidden", body=body.encode("latin-1") + b"xx")[:-2])
    assert str(error) == f"{BEGIN}the server refused the connection with status 403 Forbidden{shows}"


async def test_a_long_first_line_is_not_told_where_its_end_was_not_read(autojump_clock: MockClock) -> None:
    error = await failure(b"HTTP/1.1 403 Forbidden\r\n\r\n" + b"x" * 10_000)
    assert str(error).endswith("403 Forbidden")


# No answer in HTTP ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (
            b"\x15\x03\x03\0\x02\x02\x46",
            r"it began with b'\x15\x03\x03\x00\x02\x02F', as TLS does; is it a wss: server?",
        ),
        (
            b"\0\0\x06\x04\0\0\0\0\0",
            r"it began with b'\x00\x00\x06\x04\x00\x00\x00\x00\x00', as HTTP/2 does, and WebSocket needs HTTP/1.1",
        ),
        (b"HTTP/1.1 101 OK\r\nno 'colon\r\n\r\n", r"""illegal header line: b"no \'colon" """.strip()),
        (b"HTTP/1.1 101 OK\r\nno 'colon\"\r\n\r\n", r"""illegal header line: b'no \'colon"'"""),
    ],
)
async def test_what_is_not_http_is_shown(raw: bytes, says: str, autojump_clock: MockClock) -> None:
    assert str(await failure(raw)) == f"{BEGIN}the server did not answer in HTTP: {says}"


async def test_a_server_that_echoes_the_request_is_told_without_it(autojump_clock: MockClock) -> None:
    error = await failure(b"GET /?token=hunter2 HTTP/1.1\r\n", "wss://api.test/?token=hunter2")
    said = "the server did not answer in HTTP: it sent a request, as a server that echoes does"
    assert str(error) == f"cannot connect to wss://api.test/?...: {said}"


# What it repeats ------------------------------------------------------------------------------------------------------

TOKEN = "t0ken/+="
SECRET_URL = "wss://alice:pa%2Fss%22w0rd@api.test/feed?sig=4f%2F2b9a&x=1"
SECRETS: dict[str, Any] = {
    "headers": {
        "X-Key": f"Key {TOKEN}",
        "Cookie": 'session="c00kie"; x=1',
        "User-Agent": "robot/1.0",
        "X-Short": "abc",
    },
    "protocols": ["v1", "jwt.s3cret"],
}


@pytest.mark.parametrize(
    ("line", "shows"),
    [
        (f"bad key: {TOKEN}!", "bad key: ...!"),
        (f"bad header: Key {TOKEN}", "bad header: ..."),
        ("no session C00KIE for robot/1.0 abc v1", "no session ... for robot/1.0 abc v1"),
        ("bad signature 4f/2b9a", "bad signature ..."),
        ("cannot GET /feed?sig=4f%2F2b9a&x=1", "cannot GET /feed?..."),
        ('alice:pa/ss"w0rd is unknown', "... is unknown"),
        ("bad credentials YWxpY2U6cGEvc3MidzByZA==", "bad credentials ..."),
        ("no subprotocol jwt.s3cret", "no subprotocol ..."),
        # Where it is encoded in another way, nothing of the line is shown.
        (r'{"key": "t0ken\/+="}', ""),
        (r'{"key": "t0ken/\u002b="}', ""),
        ("bad key t0ken%2F%2B%3D", ""),
        ("bad password pa/ss&quot;w0rd", ""),
    ],
)
async def test_what_may_be_secret_in_the_request_is_hidden_where_the_answer_repeats_it(
    line: str, shows: str, autojump_clock: MockClock
) -> None:
    error = await failure(answer("403 Forbidden", body=line), SECRET_URL, **SECRETS)
    said = f"the server refused the connection with status 403 Forbidden{': ' if shows else ''}{shows}"
    assert str(error) == f"cannot connect to wss://api.test/feed?...: {said}"
    assert error.details["body"] == line.encode()


@pytest.mark.parametrize(
    "raw",
    [
        answer(f"403 {TOKEN}"),
        answer("302 Found", f"Location: /{TOKEN}"),
        answer("401 No", f"WWW-Authenticate: Key {TOKEN}"),
        b"HTTP/1.1 101 OK\r\nUpgrade: t0ken/+=\r\n\r\n",
        b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: t0ken/+=\r\n\r\n",
    ],
)
async def test_it_is_hidden_in_every_part_of_the_answer(raw: bytes, autojump_clock: MockClock) -> None:
    said = str(await failure(raw, SECRET_URL, **SECRETS))
    assert TOKEN not in said
    assert "..." in said.removeprefix("cannot connect to wss://api.test/feed?...:")


@pytest.mark.parametrize(
    ("line", "shows"),
    [
        ("session s:abc/def= has expired", "session ... has expired"),
        ("bad key: k3y one!", "bad key: ...!"),
        ("no user 7oken4user", "no user ..."),
        (r'{"sent": "\ud83d\uDD11-123"}', ""),
        (r'{"sent": "tab\tbed"}', ""),
        (r'{"sent": "\ud83d is half a character"}', r'{"sent": "\ud83d is half a character"}'),
        (r"C:\users\u12\u", r"C:\users\u12\u"),
    ],
)
async def test_a_secret_is_hidden_as_a_server_decodes_it(line: str, shows: str, autojump_clock: MockClock) -> None:
    url = "wss://7oken4user@api.test/feed?key=%F0%9F%94%91-123&other=tab%09bed"
    headers = {"Cookie": "sid=s%3Aabc%2Fdef%3D; x=1", "X-Key": "Key k3y%20one"}
    error = await failure(answer("403 Forbidden", body=line), url, headers=headers)
    assert str(error).partition("status 403 Forbidden")[2] == f"{': ' if shows else ''}{shows}"


@pytest.mark.parametrize(
    "raw",
    [
        f"{TOKEN}\r\n".encode(),
        TOKEN[:6].encode(),
        f"12345678901234{TOKEN}".encode(),
        b"t0ken%2F%2B%3D\r\n\r\n",
        f"HTTP/1.1 101 OK\r\n{TOKEN} is bad\r\n\r\n".encode(),
        b"HTTP/1.1 101 OK\r\nX: " + b"x" * 5000 + f"\r\n{TOKEN} is bad\r\n\r\n".encode(),
    ],
)
async def test_what_is_no_answer_is_not_shown_if_it_repeats_a_secret(raw: bytes, autojump_clock: MockClock) -> None:
    error = await failure(raw, SECRET_URL, **SECRETS)
    said = "the server did not answer in HTTP: it repeats a part of the request"
    assert str(error) == f"cannot connect to wss://api.test/feed?...: {said}"
    assert error.details["answer"] == raw[:4096]


async def test_an_answer_above_a_limit_is_told_whatever_it_repeats(autojump_clock: MockClock) -> None:
    error = await failure(f"HTTP/1.1 101 {TOKEN}\r\n".encode() + b"X: 1\r\n" * 101, SECRET_URL, **SECRETS)
    assert str(error).endswith("the head of the server's answer has more than 100 lines of headers")


async def test_a_header_that_repeats_a_secret_in_an_encoded_form_is_not_told(autojump_clock: MockClock) -> None:
    raw = answer("401 No", "WWW-Authenticate: Key t0ken%2F%2B%3D", body="log in")
    error = await failure(raw, SECRET_URL, **SECRETS)
    assert str(error).endswith("status 401 No: log in")


async def test_credentials_that_are_no_base64_are_hidden_as_they_are(autojump_clock: MockClock) -> None:
    error = await failure(answer("403 No", body="not Basic: t0ken!"), headers={"Authorization": "Basic t0ken!"})
    assert str(error).endswith("status 403 No: not Basic: ...")


# Offers that come back ------------------------------------------------------------------------------------------------


async def invalid(*lines: str, **options: Any) -> str:
    """Accept with these lines more; return why the client does not take it."""

    async def handler(connection: testing.ServerConnection) -> None:
        await connection.send_bytes(accepting(connection.headers, *lines))
        connection.drop()

    async with testing.websocket_server(handler):
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(URL, **options).__aenter__()
    return str(caught.value).removeprefix(f"{BEGIN}the server's answer to the handshake is invalid: ")


@pytest.mark.parametrize("lines", [["v1, v2"], ["v2 ,v1"], ["v1", "v2"]])
async def test_a_server_that_repeats_all_subprotocols_is_told_to_choose(
    lines: list[str], autojump_clock: MockClock
) -> None:
    said = await invalid(*(f"Sec-WebSocket-Protocol: {line}" for line in lines), protocols=["v1", "v2"])
    assert said == "it repeats all 2 subprotocols that were offered, and must choose one of them"


async def test_a_server_that_chooses_several_of_many_is_told_to_choose_one(autojump_clock: MockClock) -> None:
    said = await invalid("Sec-WebSocket-Protocol: v1, v2", protocols=["v1", "v2", "v3"])
    assert said == "it must choose one of the subprotocols that were offered (3), not another or several"


@pytest.mark.parametrize("compression", [1, 2])
async def test_a_server_that_repeats_the_offer_of_compression_is_told(
    compression: int, autojump_clock: MockClock
) -> None:
    offers: list[str] = []

    async def handler(connection: testing.ServerConnection) -> None:
        offers.append(connection.headers["Sec-WebSocket-Extensions"])
        await connection.send_bytes(accepting(connection.headers, f"Sec-WebSocket-Extensions:  {offers[0]}\t"))

    async with testing.websocket_server(handler):
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(URL, compression=compression).__aenter__()
    assert "Sec-WebSocket-Extensions header repeats the whole offer" in str(caught.value)


async def test_an_extension_that_repeats_a_secret_is_not_shown(autojump_clock: MockClock) -> None:
    headers = {"X-Key": "t0ken", "X-Other": "a+b c"}
    said = await invalid("Sec-WebSocket-Extensions: t0ken", headers=headers)
    assert said == "it wants the extension '...', which was not offered"
    said = await invalid("Sec-WebSocket-Extensions: t%30ken", headers=headers)
    assert said == "its Sec-WebSocket-Extensions header is not what was offered"


# A second answer ------------------------------------------------------------------------------------------------------

SECOND = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("compression", [0, 1])
@pytest.mark.parametrize("messages", [0, 1])
async def test_an_answer_in_http_behind_the_acceptance_is_told(
    messages: int, compression: int, autojump_clock: MockClock
) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        extensions = ["Sec-WebSocket-Extensions: permessage-deflate"] * compression
        await connection.send_bytes(accepting(connection.headers, *extensions) + text("a") * messages + SECOND)
        await connection.wait_closed()

    async with testing.websocket_server(handler), websocket.connect(URL, compression=compression) as client:
        await client.wait_closed()
        assert len(client.channel()) == messages
        assert client.close_reason == "an HTTP answer instead of a frame: HTTP/1.1 502 Bad Gateway"
        assert client.close_code == 1002
        assert str(client.error).endswith(client.close_reason)


@pytest.mark.parametrize(
    ("raw", "shows"),
    [
        (b"HT", "HT"),
        (b"HTTP/1.1 408 \x1b\xff" + b"x" * 300, f"HTTP/1.1 408 \\u001b\u00ff{'x' * 30}... (155 more characters)"),
        (b"HTTP/1.0 400\nDate: x", "HTTP/1.0 400"),
    ],
)
async def test_of_an_answer_in_http_the_first_line_is_shown(raw: bytes, shows: str, autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.send_bytes(accepting(connection.headers) + raw)
        await connection.wait_closed()

    async with testing.websocket_server(handler), websocket.connect(URL) as client:
        await client.wait_closed()
        assert client.close_reason == f"an HTTP answer instead of a frame: {shows}"


@pytest.mark.parametrize("raw", [b"HX", b"H\xd4TP/", b"\x49TTP/"])
async def test_what_only_resembles_http_is_not_taken_for_it(raw: bytes, autojump_clock: MockClock) -> None:
    async def handler(connection: testing.ServerConnection) -> None:
        await connection.send_bytes(accepting(connection.headers) + raw)
        await connection.wait_closed()

    async with testing.websocket_server(handler), websocket.connect(URL) as client:
        await client.wait_closed()
        assert client.close_code == 1002
        assert "HTTP" not in (client.close_reason or "")
