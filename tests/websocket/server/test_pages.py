"""Requests that want no WebSocket, and the function that answers them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

from csp import websocket
from tests.websocket.server._lobby import LOGGER, debug_lines, handshake, listening

if TYPE_CHECKING:
    from trio.testing import MockClock


def get(
    target: str = "/", *lines: str, method: str = "GET", version: str = "1.1", host: str | None = "localhost"
) -> bytes:
    own = [] if host is None else [f"Host: {host}"]
    return "\r\n".join((f"{method} {target} HTTP/{version}", *own, *lines, "", "")).encode()


async def page(request: websocket.Request) -> websocket.Response | None:
    if request.path == "/healthz":
        return websocket.Response(200, "well\n")
    if request.path == "/echo":
        told = (
            f"{request.method} {request.path} {request.query} {request.headers['X']} {request.origin} {request.remote}"
        )
        return websocket.Response(201, told.encode(), {"Content-Type": "text/x"})
    return None


async def test_a_page(autojump_clock: MockClock) -> None:
    async with listening(http=page) as (server, lobby):
        client = lobby.connect()
        answer = await client.ask(get("/healthz"))
        assert (answer.status, answer.body) == (200, b"well\n")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["Connection"] == "close"
        assert "GMT" in answer.headers["Date"]
        await client.ended()
        assert server.statistics().rejected == {}


async def test_the_function_sees_the_request(autojump_clock: MockClock) -> None:
    async with listening(http=page) as (_, lobby):
        answer = await lobby.connect().ask(get("/a/../%65cho?b=%20", "x: 1", "Origin: https://other.example"))
        assert (answer.status, answer.headers["Content-Type"]) == (201, "text/x")
        assert answer.body == b"GET /echo b=%20 1 https://other.example None"


async def test_a_request_shows_no_secrets() -> None:
    headers = websocket.Headers({"Cookie": "secret"})
    request = websocket.Request("GET", "/x", "token=secret", headers, None, None)
    assert repr(request) == "<csp.websocket.Request GET /x>"


@pytest.mark.parametrize("http", [None, page])
async def test_what_it_leaves_alone_gets_426(http: websocket.Http | None, autojump_clock: MockClock) -> None:
    async with listening(http=http) as (server, lobby):
        answer = await lobby.connect().ask(get("/other"))
        assert (answer.status, answer.body) == (426, b"this server speaks WebSocket only\n")
        assert answer.headers["Upgrade"] == "websocket"
        assert "Upgrade" in answer.headers["Connection"]
        assert server.statistics().rejected == {426: 1}


async def test_head_gets_no_body(autojump_clock: MockClock) -> None:
    async with listening(http=page) as (_, lobby):
        for target, status in (("/healthz", 200), ("/other", 426)):
            client = lobby.connect()
            await client.send(get(target, method="HEAD"))
            head = b""
            while block := await client.stream.receive_some():
                head += block
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert head.endswith(b"\r\n\r\n")
            assert b"Content-Length: 5" in head if status == 200 else b"Content-Length: 34" in head


async def test_other_methods_get_405(autojump_clock: MockClock) -> None:
    async with listening(http=page) as (_, lobby):
        answer = await lobby.connect().ask(get("/healthz", "Content-Length: 2", method="POST") + b"hi")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


async def test_old_load_balancers_ask_in_http_1_0_without_a_host(autojump_clock: MockClock) -> None:
    async with listening(http=page, hosts=["example.com"]) as (_, lobby):
        assert (await lobby.connect().ask(get("/healthz", version="1.0", host=None))).status == 200


async def test_hosts_apply_and_origins_do_not(autojump_clock: MockClock) -> None:
    async with listening(http=page, hosts=["example.com"], origins=[]) as (_, lobby):
        assert (await lobby.connect().ask(get("/healthz"))).status == 421
        assert (await lobby.connect().ask(get("/healthz", "Origin: null", host="example.com"))).status == 200


async def test_a_body_is_never_read(autojump_clock: MockClock) -> None:
    async with listening(http=page) as (_, lobby):
        client = lobby.connect()
        # What stands there looks like another request.
        await client.send(get("/healthz", "Content-Length: 1000"), get("/healthz"))
        assert (await client.answer()).status == 200
        await client.ended()


async def fail(request: websocket.Request) -> websocket.Response:
    raise ValueError("of the page")


async def give_too_little(request: websocket.Request) -> Any:
    return "text"


async def give_nonsense(request: websocket.Request) -> websocket.Response:
    return websocket.Response(99)


def not_async(request: websocket.Request) -> Any:
    return websocket.Response(200)


@pytest.mark.parametrize(
    ("http", "text"),
    [
        (fail, "of the page"),
        (give_too_little, "http must return a Response or None, not str"),
        (give_nonsense, "status must be 200 to 599, not 99"),
        (not_async, "http must be an async function: it returned Response"),
    ],
)
async def test_one_that_fails_gets_500_and_is_logged(
    http: Any, text: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with listening(http=http) as (_, lobby):
        for _ in range(2):
            answer = await lobby.connect().ask(get("/x?token=secret"))
            assert (answer.status, answer.body) == (500, b"the server has failed\n")
    assert [record.levelno for record in caplog.records if record.name == LOGGER] == [logging.ERROR] * 2
    assert text in caplog.text
    assert "secret" not in caplog.text


async def test_one_that_takes_too_long_gets_503(autojump_clock: MockClock) -> None:
    async def wait(request: websocket.Request) -> None:
        await trio.sleep_forever()

    async with listening(http=wait, handshake_timeout="5s") as (_, lobby):
        answer = await lobby.connect().ask(get())
        assert (answer.status, answer.body) == (503, b"the page was not made within 5 s\n")
        assert trio.current_time() == pytest.approx(5)


async def test_a_large_page_may_be_read_slowly(autojump_clock: MockClock) -> None:
    body = bytes(1_000_000)

    async def large(request: websocket.Request) -> websocket.Response:
        return websocket.Response(200, body)

    near, far = trio.testing.lockstep_stream_pair()
    async with listening(http=large) as (_, lobby):
        lobby.bring(far)
        await near.send_all(get())
        received = b""
        while block := await near.receive_some(50_000):
            received += block
            await trio.sleep(10)
        assert received.endswith(body)
        assert trio.current_time() > 100


async def test_a_page_that_nobody_takes_is_given_up(autojump_clock: MockClock) -> None:
    async def large(request: websocket.Request) -> websocket.Response:
        return websocket.Response(200, bytes(1_000_000))

    near, far = trio.testing.lockstep_stream_pair()
    async with listening(http=large, write_timeout="3s") as (_, lobby):
        lobby.bring(far)
        await near.send_all(get())
        await trio.sleep(5)
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"x")


async def test_there_are_as_many_pages_under_way_as_there_may_be_connections(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)

    async def large(request: websocket.Request) -> websocket.Response:
        if request.path == "/slow":
            await trio.sleep(3)
        return websocket.Response(200, "large")

    near, far = lockstep_stream_pair()
    async with listening(http=large, max_connections=2) as (server, lobby):
        # Connections do not count for pages, nor pages for connections.
        for _ in range(2):
            client = lobby.connect()
            await client.send(handshake())
            await (await server.receive_value()).accept()
        lobby.bring(far)
        await near.send_all(get())
        slow = lobby.connect()
        await slow.send(get("/slow"))
        await wait_all_tasks_blocked()
        refused = lobby.connect()
        answer = await refused.ask(get())
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert answer.body == b"there are too many requests\n"
        head_only = lobby.connect()
        await head_only.send(get(method="HEAD"))
        await wait_all_tasks_blocked()
        assert bytes(await head_only.stream.receive_some()).endswith(b"\r\n\r\n")
        assert server.statistics().rejected == {503: 2}
        why = "there are 2 pages under way, as many as there may be (max_connections)"
        assert debug_lines(caplog)[3:] == [f"refused somebody for / with status 503: {why}"] * 2
        assert (await slow.answer()).status == 200
        await slow.leave()
        await wait_all_tasks_blocked()
        assert (await lobby.connect().ask(get())).status == 200
        assert bytes(await near.receive_some()).endswith(b"large")


async def test_a_page_is_not_cut_off_for_refusals_until_it_is_sent(autojump_clock: MockClock) -> None:
    async def large(request: websocket.Request) -> websocket.Response:
        return websocket.Response(200, "large")

    near, far = lockstep_stream_pair()
    async with listening(http=large, max_handshakes=2) as (_, lobby):
        lobby.bring(far)
        await near.send_all(get())
        await wait_all_tasks_blocked()
        for _ in range(5):
            assert (await lobby.connect().ask(get(method="POST"))).status == 405
        assert bytes(await near.receive_some()).endswith(b"large")
        # Now it is one of those that linger, and the others end it.
        for _ in range(5):
            assert (await lobby.connect().ask(get(method="POST"))).status == 405
        assert await near.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"x")
        assert trio.current_time() < 1


async def test_what_is_answered_is_logged(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    async with listening(http=page) as (_, lobby):
        await lobby.connect().ask(get("/healthz"))
        await lobby.connect().ask(handshake("/", method="x")[:-2] + b"Origin: https://evil.example\r\n\r\n")
    answered, refused = debug_lines(caplog)
    assert answered == "answered somebody for /healthz with status 200"
    assert refused == (
        "refused somebody for / with status 403: pages of the origin 'https://evil.example' may not connect: the "
        "option origins= says which may"
    )
