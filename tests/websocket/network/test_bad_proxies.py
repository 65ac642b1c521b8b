"""Proxies that refuse, lie, babble, break off and say nothing: which error comes of it, and that nothing is left."""

from __future__ import annotations

import base64
import logging
import re
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.websocket._network import Names, Sockets, refuse
from tests.websocket._peers import connected, raw_server
from tests.websocket._proxies import (
    ESTABLISHED,
    SOCKS4_GRANTED,
    SOCKS5_GRANTED,
    Echo,
    Protocol,
    Proxy,
    Stopping,
    contexts,
    http_answer,
    socks4_answer,
    socks5_answer,
    steps,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

PROTOCOLS: list[Protocol] = ["http", "https", "socks4", "socks5"]
SCHEMES = {"http": "http", "https": "https", "socks4": "socks4a", "socks5": "socks5h"}
USER, PASSWORD = "agent47", "hunter2"
URL = "ws://me:swordfish@server.test:81/path?token=open-sesame"


def credentials(protocol: Protocol) -> str:
    return USER if protocol == "socks4" else f"{USER}:{PASSWORD}"


def options(proxy: Proxy) -> websocket.ConnectOptions:
    chosen: websocket.ConnectOptions = {
        "proxy": proxy.url(scheme=SCHEMES[proxy.protocol], credentials=credentials(proxy.protocol)),
        "headers": {"Cookie": "session=42"},
    }
    if proxy.protocol == "https":
        chosen["proxy_ssl_context"] = contexts()[1]
    return chosen


async def failure(
    proxy: Proxy, url: str = URL, error: type[ConnectionFailedError] = ConnectionFailedError, **more: Any
) -> ConnectionFailedError:
    """Return the error of a connection through a proxy, and check what is true of all."""
    with pytest.raises(ConnectionFailedError) as caught:
        async with connected(url, **options(proxy), **more):
            pytest.fail("connected")
    told = caught.value
    assert type(told) is error, repr(told)
    assert told.details["url"] == re.sub("//.*@", "//", url)
    check_secrets(told)
    return told


def check_secrets(error: BaseException) -> None:
    """Check that no credentials, neither the proxy's nor the target's, are in an error or in what caused it."""
    shown = "".join(traceback.format_exception(error))
    link: BaseException | None = error
    while link is not None:
        details = dict(getattr(link, "details", {}))
        # What the proxy says goes to programs as it came.
        details.pop("headers", None)
        shown += repr(link) + repr(link.args) + repr(details)
        link = link.__cause__ if link.__suppress_context__ else link.__context__
    secrets = [PASSWORD, USER, "swordfish", "session=42"]
    secrets += [base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(), base64.b64encode(b"me:swordfish").decode()]
    for secret in secrets:
        assert secret not in shown, secret


def blames(error: ConnectionFailedError, proxy: Proxy) -> None:
    """Check that an error names the proxy, without its credentials."""
    assert f"{SCHEMES[proxy.protocol]}://127.0.0.1:{proxy.port}" in str(error), str(error)
    assert "proxy" in str(error)


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        *((status, False) for status in (400, 401, 403, 404, 405, 407, 410, 451)),
        *((status, True) for status in (408, 429, 500, 501, 502, 503, 504)),
        *((status, False) for status in (300, 301, 302, 307, 308)),
    ],
)
@pytest.mark.parametrize("protocol", ["http", "https"])
async def test_a_refusal_says_its_status(protocol: Protocol, status: int, retryable: bool) -> None:
    answer = http_answer(status, b"Location: http://elsewhere.test/\r\n", b"sorry " * 10_000)
    async with Proxy(protocol, answers={"connect": answer}).running() as proxy:
        error = await failure(proxy)
    blames(error, proxy)
    assert re.search(rf"\b{status}\b.*Because", str(error))
    assert (error.kind, error.retryable) == (Kind.INTERNAL, retryable)
    assert error.details["by_proxy"] is True
    assert "elsewhere.test" not in str(error)
    assert proxy.asked[0].tunnel == b""


@pytest.mark.parametrize("protocol", ["http", "https", "socks5"])
async def test_a_login_that_is_refused_is_not_tried_again(protocol: Protocol) -> None:
    async with Proxy(protocol, login=(b"somebody", b"else")).running() as proxy:
        error = await failure(proxy)
    blames(error, proxy)
    assert (error.kind, error.retryable) == (Kind.INTERNAL, False)
    assert proxy.asked[0].credentials == (USER.encode(), PASSWORD.encode())
    assert len(proxy.asked) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_login_that_is_wanted_and_was_not_given_is_not_tried_again(protocol: Protocol) -> None:
    async with Proxy(protocol, login=(b"somebody", b"else")).running() as proxy:
        given = options(proxy)
        given["proxy"] = proxy.url(scheme=SCHEMES[protocol])
        with pytest.raises(ConnectionFailedError) as caught:
            async with connected(URL, **given):
                pytest.fail("connected")
    blames(caught.value, proxy)
    assert not caught.value.retryable
    check_secrets(caught.value)


@pytest.mark.parametrize("protocol", ["http", "socks5"])
async def test_a_feed_ends_where_the_login_is_refused(protocol: Protocol) -> None:
    async with Proxy(protocol, login=(b"somebody", b"else")).running() as proxy:
        with trio.fail_after(10):
            async with websocket.reconnecting(URL, min_delay="1ms", **options(proxy)) as feed:
                await feed.wait_closed()
                cause = feed.channel().cause
                shown = repr(feed)
    assert isinstance(cause, ConnectionFailedError)
    assert not cause.retryable
    check_secrets(cause)
    assert PASSWORD not in shown
    assert len(proxy.asked) == 1


@pytest.mark.parametrize(
    ("code", "retryable"), [*((code, True) for code in (91, 0, 1, 89, 94, 255)), (92, False), (93, False)]
)
async def test_socks_4_refuses_with_a_code(code: int, retryable: bool) -> None:
    async with Proxy("socks4", answers={"connect": socks4_answer(code)}).running() as proxy:
        error = await failure(proxy)
    blames(error, proxy)
    assert error.retryable == retryable


@pytest.mark.parametrize("code", [*range(1, 10), 0x80, 0xFF])
async def test_socks_5_refuses_with_a_code(code: int) -> None:
    async with Proxy("socks5", answers={"connect": socks5_answer(code)}).running() as proxy:
        error = await failure(proxy)
    blames(error, proxy)
    # These say that it will never do what it was asked for: no CONNECT, no such kind of address.
    assert error.retryable == (code not in (7, 8))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_target_that_the_proxy_cannot_reach_is_tried_again(protocol: Protocol) -> None:
    # The proxy's own port has somebody listening while it runs, the one it leads to has not.
    with trio.socket.socket() as bound:
        await bound.bind(("127.0.0.1", 0))
        async with Proxy(protocol, leads_to=bound.getsockname()[1]).running() as proxy:
            error = await failure(proxy)
    blames(error, proxy)
    assert error.retryable


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_proxy_that_does_not_listen_is_tried_again(protocol: Protocol) -> None:
    with trio.socket.socket() as bound:
        await bound.bind(("127.0.0.1", 0))
        proxy = Proxy(protocol, port=bound.getsockname()[1])
        error = await failure(proxy)
    blames(error, proxy)
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)
    assert re.search("refused|WinError", str(error))


async def nothing_to_connect_to(proxy: str, url: str = URL) -> ConnectionFailedError:
    with pytest.raises(ConnectionFailedError) as caught:
        async with websocket.connect(url, proxy=proxy):
            pytest.fail("connected")
    check_secrets(caught.value)
    assert (caught.value.kind, caught.value.retryable) == (Kind.INTERNAL, True)
    return caught.value


async def test_a_proxy_whose_name_leads_nowhere_is_tried_again() -> None:
    names = Names([])
    network = Sockets(refuse)
    error = await nothing_to_connect_to("http://agent47:hunter2@proxy.test:3128")
    assert "the proxy http://proxy.test:3128" in str(error)
    assert names.asked == [b"proxy.test"]
    assert network.places == []


async def test_a_target_whose_name_leads_nowhere_is_not_blamed_on_the_proxy() -> None:
    names = Names([])
    network = Sockets(refuse)
    error = await nothing_to_connect_to("socks5://agent47:hunter2@192.0.2.9")
    assert "cannot be reached" not in str(error)
    assert names.asked == [b"server.test"]
    assert network.places == []


async def test_of_a_proxys_addresses_each_is_tried() -> None:
    Names(["2001:db8::1", "192.0.2.1", "192.0.2.2"])
    network = Sockets(refuse)
    error = await nothing_to_connect_to("http://agent47:hunter2@proxy.test:3128")
    assert network.connected_to == ["2001:db8::1", "192.0.2.1", "192.0.2.2"]
    assert network.open == 0
    assert "the proxy http://proxy.test:3128" in str(error)


async def test_a_proxy_that_takes_no_connection_is_given_up_with_the_dial_timeout(autojump_clock: MockClock) -> None:
    async def ignore(_address: str) -> None:
        await trio.sleep_forever()

    Names(["192.0.2.1", "192.0.2.2"])
    network = Sockets(ignore)
    error = await nothing_to_connect_to("http://agent47:hunter2@proxy.test:3128")
    assert type(error) is ConnectionTimeoutError
    assert "no TCP connection to port 3128 of 192.0.2.1, 192.0.2.2" in str(error)
    assert "proxy http://proxy.test:3128" in str(error)
    assert network.open == 0


@pytest.mark.parametrize("protocol", ["http", "https"])
async def test_a_proxy_that_says_the_credentials_again_does_not_get_them_shown(protocol: Protocol) -> None:
    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode())
    answer = (
        b"HTTP/1.1 407 No %(basic)s\r\nProxy-Authenticate: Basic %(basic)s, Basic realm=%(basic)s\r\n"
        b"X-Echo: Proxy-Authorization: Basic %(basic)s\r\n\r\n" % {b"basic": basic}
    )
    async with Proxy(protocol, answers={"connect": answer}).running() as proxy:
        error = await failure(proxy)
    blames(error, proxy)
    async with Proxy(protocol, answers={"connect": b"HTTP/1.1 banana %b\r\n\r\n" % basic}).running() as proxy:
        error = await failure(proxy)
    blames(error, proxy)


# Breaking off ---------------------------------------------------------------------------------------------------------

STEPS = [(protocol, step) for protocol in PROTOCOLS for step in steps(protocol, login=True)]


@pytest.mark.parametrize("stops_by", ["close", "reset"])
@pytest.mark.parametrize(("protocol", "step"), STEPS)
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
async def test_a_proxy_that_breaks_off_is_tried_again(
    protocol: Protocol, step: str, stops_by: Stopping, secure: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    login = (USER.encode(), PASSWORD.encode())
    async with (
        raw_server(_nobody) as url,
        Proxy(protocol, login=login, stops_at=step, stops_by=stops_by, leads_to=port_of(url)).running() as proxy,
    ):
        error = await failure(proxy, URL.replace("ws:", "wss:") if secure else URL)
    if step != "connect answered":
        blames(error, proxy)
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)
    assert len(proxy.asked) == 1
    assert PASSWORD not in caplog.text


async def _nobody(peer: Any) -> None:
    """Take a connection in which nothing is said."""
    await peer.stream.receive_some()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].strip("/"))


@pytest.mark.parametrize(("protocol", "step"), STEPS)
async def test_a_proxy_that_stalls_is_given_up_with_the_dial_timeout(
    protocol: Protocol, step: str, mock_clock: MockClock
) -> None:
    login = (USER.encode(), PASSWORD.encode())
    async with (
        raw_server(_nobody) as url,
        Proxy(protocol, login=login, stops_at=step, stops_by="stall", leads_to=port_of(url)).running() as proxy,
        trio.open_nursery() as nursery,
    ):

        async def pass_the_time() -> None:
            await proxy.stopped.wait()
            await wait_all_tasks_blocked()
            mock_clock.jump(5)

        nursery.start_soon(pass_the_time)
        error = await failure(proxy, error=ConnectionTimeoutError, dial_timeout="5s")
    assert "within 5 s" in str(error)
    assert error.retryable
    if step != "connect answered":
        blames(error, proxy)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_stalled_proxy_can_be_cancelled(protocol: Protocol) -> None:
    for step in steps(protocol, login=True)[:-1]:
        login = (USER.encode(), PASSWORD.encode())
        async with (
            raw_server(_nobody) as url,
            Proxy(protocol, login=login, stops_at=step, stops_by="stall", leads_to=port_of(url)).running() as proxy,
            trio.open_nursery() as nursery,
        ):

            async def connect() -> None:
                async with websocket.connect(URL, **options(proxy)):  # it ends inside this round
                    pytest.fail("connected")

            nursery.start_soon(connect)
            await proxy.stopped.wait()
            nursery.cancel_scope.cancel()


# Babble ---------------------------------------------------------------------------------------------------------------

BABBLE = {
    "a page": b"<html><head><title>Welcome</title></head><body>hello</body></html>\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "mail": b"220 mail.test ESMTP Postfix\r\n",
    "NULs": bytes(64),
    "noise": bytes(range(256)),
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "line ends": b"\r\n" * 8,
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80",
    "an answer in HTTP/0.9": b"OK\r\n\r\n",
    "an escape sequence": b"\x1b[2J\x1b[31mHTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("banner", BABBLE.values(), ids=BABBLE)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_speaks_another_protocol_is_told(protocol: Protocol, banner: bytes) -> None:
    # An answer of SOCKS 4 is not read before all of it is there.
    banner = banner.ljust(8, b".")
    async with Proxy(protocol, banner=banner, stops_at="accept", stops_by="stall").running() as proxy:
        error = await failure(proxy)
    blames(error, proxy)
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)
    assert str(error).isprintable()
    assert len(str(error)) < 1000


@pytest.mark.parametrize("banner", BABBLE.values(), ids=BABBLE)
@pytest.mark.parametrize("protocol", ["http", "https"])
async def test_what_answers_in_another_protocol_is_told(protocol: Protocol, banner: bytes) -> None:
    async with Proxy(protocol, answers={"connect": banner}).running() as proxy:
        error = await failure(proxy)
    blames(error, proxy)
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)
    assert str(error).isprintable()
    assert proxy.asked[0].tunnel == b""


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 -200 OK\r\n\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: first\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nbanana\r\n\r\n",
    ],
    ids=lambda answer: answer.decode().replace("\r\n", "; "),
)
async def test_what_is_almost_an_answer_in_http_is_told(answer: bytes) -> None:
    async with Proxy("http", answers={"connect": answer}).running() as proxy:
        error = await failure(proxy)
    blames(error, proxy)
    assert str(error).isprintable()
    assert proxy.asked[0].tunnel == b""


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_a_proxy_says_in_the_tunnel_is_told_as_no_tls_where_that_was_to_come(protocol: Protocol) -> None:
    opened = {"socks4": SOCKS4_GRANTED, "socks5": SOCKS5_GRANTED}.get(protocol, ESTABLISHED)
    for said in BABBLE.values():
        answers = {"connect": opened + said}
        async with (
            raw_server(_nobody) as url,
            Proxy(protocol, answers=answers, leads_to=port_of(url)).running() as proxy,
        ):
            error = await failure(proxy, URL.replace("ws:", "wss:"))
        assert "TLS failed" in str(error)
        assert error.retryable


class Wrong(NamedTuple):
    exchange: str
    answer: bytes
    login: bool = False


WRONG_SOCKS5 = [
    Wrong("greeting", b"\x04\x00"),
    Wrong("greeting", b"\x00\x5a\x00\x00\x00\x00\x00\x00"),
    Wrong("greeting", b"\x00\x00"),
    Wrong("greeting", b"HT"),
    Wrong("greeting", b"\x05\x01"),
    Wrong("greeting", b"\x05\x03"),
    Wrong("greeting", b"\x05\x80"),
    Wrong("greeting", b"\x05\xff"),
    Wrong("login", b"\x05\x00", login=True),
    Wrong("login", b"\x00\x00", login=True),
    Wrong("login", b"\x01\x01", login=True),
    Wrong("login", b"\x01\xff", login=True),
    Wrong("connect", b"\x04" + socks5_answer(0)[1:]),
    Wrong("connect", b"\x00\x5a\x00\x00\x00\x00\x00\x00\x00\x00"),
    Wrong("connect", socks5_answer(0, bytes([0, 0, 0, 0, 0, 0, 0]))),
    Wrong("connect", socks5_answer(0, bytes([2, 0, 0, 0, 0, 0, 0]))),
    Wrong("connect", socks5_answer(0, bytes([3, 2, 0xFF, 0xFE, 0, 80]))),
    Wrong("connect", socks5_answer(0, bytes([255, 0, 0, 0, 0, 0, 0]))),
]


@pytest.mark.parametrize("wrong", WRONG_SOCKS5, ids=lambda wrong: f"{wrong.exchange} {wrong.answer.hex()}")
@pytest.mark.parametrize("piece_bytes", [0, 1])
async def test_what_is_no_answer_in_socks_5_is_told(wrong: Wrong, piece_bytes: int) -> None:
    login = (USER.encode(), PASSWORD.encode()) if wrong.login else None
    answers = {wrong.exchange: wrong.answer}
    async with Proxy("socks5", login, answers=answers, piece_bytes=piece_bytes).running() as proxy:
        error = await failure(proxy)
    blames(error, proxy)
    assert b"GET" not in proxy.asked[0].raw + proxy.asked[0].tunnel


async def test_a_socks_5_proxy_that_chooses_a_login_unasked_gets_none() -> None:
    async with Proxy("socks5", answers={"greeting": b"\x05\x02"}).running() as proxy:
        with pytest.raises(ConnectionFailedError) as caught:
            async with connected(URL, proxy=proxy.url(scheme="socks5h")):
                pytest.fail("connected")
    blames(caught.value, proxy)
    assert proxy.asked[0].raw == b"\x05\x01\x00"


@pytest.mark.parametrize("answer", [b"\x04" + bytes(7), b"\x05\x5a" + bytes(6), b"\x5a" * 8, b"HTTP/1.1"])
async def test_what_is_no_answer_in_socks_4_is_told(answer: bytes) -> None:
    async with Proxy("socks4", answers={"connect": answer}).running() as proxy:
        error = await failure(proxy)
    blames(error, proxy)
    assert proxy.asked[0].tunnel == b""


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_every_answer_that_is_cut_off_is_told(protocol: Protocol) -> None:
    whole = {"http": http_answer(200), "https": http_answer(200), "socks4": socks4_answer(90)}
    answer = whole.get(protocol, socks5_answer(0, bytes([3, 4]) + b"name" + bytes(2)))
    answer = answer.partition(b"\r\n\r\n")[0] if protocol in ("http", "https") else answer[:-1]
    for length in range(len(answer)):
        answers = {"connect": answer[:length]}
        async with Proxy(protocol, answers=answers, stops_at="connect answered").running() as proxy:
            error = await failure(proxy)
        blames(error, proxy)
        assert error.retryable


# Too much -------------------------------------------------------------------------------------------------------------

FLOODS = {
    "a line without end": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 8192),
    "lines without end": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100),
    "a refusal's lines without end": (b"HTTP/1.1 403 No\r\n", b"X: y\r\n" * 100),
    "a status line without end": (b"HTTP/1.1 200 ", b"x" * 8192),
    "no line at all": (b"", b"x" * 8192),
    "empty lines without end": (b"", b"\r\n" * 100),
    "answers before the answer without end": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "NULs without end": (b"", bytes(8192)),
}
MOST_FLOODED = 16 << 20
"""What the buffers of two sockets may take in beside what the client reads."""


@pytest.mark.parametrize(("begin", "flood"), FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("protocol", ["http", "https"])
async def test_a_head_without_end_is_given_up(protocol: Protocol, begin: bytes, flood: bytes) -> None:
    async with Proxy(protocol, answers={"connect": begin}, flood=flood).running() as proxy:
        error = await failure(proxy, dial_timeout=None)
    blames(error, proxy)
    assert proxy.flooded < MOST_FLOODED


@pytest.mark.parametrize("status", [200, 403])
@pytest.mark.parametrize("piece_bytes", [0, 4096, 99])
async def test_a_head_may_have_16_kib_however_it_is_cut(status: int, piece_bytes: int) -> None:
    """A byte more is too much, whatever its status."""
    begin = b"HTTP/1.1 %d OK\r\nX: " % status
    for size, fits in ((16_384, True), (16_385, False)):
        head = begin.ljust(size - 4, b"x") + b"\r\n\r\n"
        bad = Proxy("http", answers={"connect": head}, piece_bytes=piece_bytes)
        async with raw_server(Echo()) as url, bad.running() as proxy:
            address = url.replace("127.0.0.1", "server.test")
            if fits and status == 200:
                async with connected(address, **options(proxy)) as client:
                    await client.send("x")
                    assert (await anext(client)).data == "x"
            else:
                error = await failure(proxy, address)
                blames(error, proxy)
                assert ("status 403" in str(error)) == fits


@pytest.mark.parametrize("size", [1 << 14, 60_000])
async def test_spaces_and_a_byte_that_http_forbids_do_not_keep_the_client_busy(size: int) -> None:
    """Regular expressions for heads take time that grows with the square of the spaces in a line."""
    answer = (b"HTTP/1.1 200 OK\r\nX:" + b" " * size)[: size - 5] + b"\0\r\n\r\n"
    async with Proxy("http", answers={"connect": answer}).running() as proxy:
        with trio.fail_after(10):
            error = await failure(proxy)
    blames(error, proxy)


async def test_a_refusals_body_without_end_is_not_read() -> None:
    refusal = b"HTTP/1.1 503 Busy\r\n\r\n"
    async with Proxy("http", answers={"connect": refusal}, flood=b"sorry " * 1000).running() as proxy:
        error = await failure(proxy, dial_timeout=None)
    blames(error, proxy)
    assert "status 503" in str(error)
    assert error.retryable
    assert proxy.flooded < MOST_FLOODED


@pytest.mark.parametrize("exchange", ["greeting", "login"])
async def test_socks_5_that_says_more_than_its_answer_before_the_tunnel_is_told(exchange: str) -> None:
    """What comes before it was asked for belongs to nothing."""
    answer = {"greeting": b"\x05\x02", "login": b"\x01\x00"}[exchange] + b"more"
    login = (USER.encode(), PASSWORD.encode())
    async with Proxy("socks5", login, answers={exchange: answer}).running() as proxy:
        error = await failure(proxy)
    blames(error, proxy)
    assert proxy.asked[0].tunnel == b""


@pytest.mark.parametrize("size", [8, 16, 40])
async def test_what_begins_as_its_credentials_is_not_shown(size: int) -> None:
    credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode())
    async with Proxy("http", answers={"connect": credentials[:size]}, stops_at="connect answered").running() as proxy:
        error = await failure(proxy)
    assert credentials[:6].decode() not in str(error)
    assert "did not answer in HTTP: it repeats a part of the request" in str(error)
