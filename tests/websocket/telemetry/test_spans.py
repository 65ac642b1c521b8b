"""Spans: of connecting, of accepting, and of the attempts of a feed."""

from __future__ import annotations

import pytest
import trio
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from trio.testing import MockClock, wait_all_tasks_blocked

from csp import errors, security, testing, websocket
from tests.websocket._peers import CLOSE, Peer, close_frame, raw_server
from tests.websocket.server._lobby import handshake, listening
from tests.websocket.telemetry._exported import attributes, instrumented

URL = "wss://api.test/feed"


async def accept(connection: testing.ServerConnection) -> None:
    await connection.accept()
    await connection.wait_closed()


def current() -> trace.SpanContext:
    return trace.get_current_span().get_span_context()


async def test_connecting_and_accepting_are_a_span_each(autojump_clock: MockClock) -> None:
    with instrumented() as exported:
        async with testing.websocket_server(accept), websocket.connect(f"{URL}?token=SECRET"):
            (accepting,), (connecting,) = exported.spans("accept"), exported.spans("connect")
            assert not current().is_valid
    assert (connecting.kind, accepting.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    place = {"url.scheme": "wss", "url.path": "/feed", "server.address": "api.test", "server.port": 443}
    answer = {"http.response.status_code": 101, "websocket.compressed": False}
    assert attributes(connecting) == {**place, **answer, "websocket.outcome": "connected"}
    assert attributes(accepting) == {**place, **answer, "websocket.outcome": "accepted"}
    assert connecting.status.status_code is accepting.status.status_code is StatusCode.UNSET
    assert len(exported.spans()) == 2


async def test_the_end_of_a_socket_is_named(autojump_clock: MockClock) -> None:
    async def serve(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(CLOSE)
        await peer.send(close_frame(1000))

    with instrumented() as exported:
        async with raw_server(serve) as url, websocket.connect(url):
            pass
    found = attributes(exported.spans("connect")[0])
    assert (found["network.peer.address"], found["network.peer.port"]) == ("127.0.0.1", found["server.port"])


async def test_a_redirect_is_an_event_of_the_same_span(autojump_clock: MockClock) -> None:
    async def redirect(connection: testing.ServerConnection) -> None:
        if connection.path == "/feed":
            await connection.reject(302, headers={"Location": "/b?key=SECRET"})
        else:
            await accept(connection)

    with instrumented() as exported:
        async with testing.websocket_server(redirect), websocket.connect(URL):
            pass
    (connecting,) = exported.spans("connect")
    assert [(event.name, dict(event.attributes or {})) for event in connecting.events] == [
        ("redirected", {"websocket.url": "wss://api.test/b?..."})
    ]
    assert attributes(connecting)["url.path"] == "/b"
    assert [attributes(span)["websocket.outcome"] for span in exported.spans("accept")] == ["refused", "accepted"]


@pytest.mark.parametrize(("status", "server_status"), [(403, StatusCode.UNSET), (500, StatusCode.ERROR)])
async def test_a_refusal_is_an_error_of_the_client_and_one_of_the_server_from_500_on(
    status: int, server_status: StatusCode, autojump_clock: MockClock
) -> None:
    async def refuse(connection: testing.ServerConnection) -> None:
        await connection.reject(status, body="two\nlines")

    with instrumented() as exported:
        async with testing.websocket_server(refuse):
            with pytest.raises(errors.ConnectionFailedError):
                await websocket.connect(URL).__aenter__()
    (connecting,), (accepting,) = exported.spans("connect"), exported.spans("accept")
    assert (connecting.status.status_code, connecting.status.description) == (StatusCode.ERROR, None)
    assert attributes(connecting)["error.type"] == str(status)
    assert accepting.status.status_code is server_status
    for span in (connecting, accepting):
        assert attributes(span)["http.response.status_code"] == status


async def test_a_failure_tells_its_type_and_nothing_it_says(autojump_clock: MockClock) -> None:
    async def garble(connection: testing.ServerConnection) -> None:
        await connection.send_bytes(b"HTTP/1.1 101 SECRET\r\nUpgrade: SECRET\r\n\r\n")

    async def wait(_connection: testing.ServerConnection) -> None:
        await trio.sleep_forever()

    with instrumented() as exported:
        for handler in (garble, wait):
            async with testing.websocket_server(handler):
                with pytest.raises(errors.ConnectionFailedError):
                    await websocket.connect(URL).__aenter__()
    first, second = exported.spans("connect")
    assert (attributes(first)["error.type"], attributes(second)["error.type"]) == (
        "ConnectionFailedError",
        "ConnectionTimeoutError",
    )
    assert "SECRET" not in first.to_json() + second.to_json()


async def test_connecting_that_is_cancelled_or_denied_ends_its_span(autojump_clock: MockClock) -> None:
    async def wait(_connection: testing.ServerConnection) -> None:
        await trio.sleep_forever()

    async def redirect(connection: testing.ServerConnection) -> None:
        await connection.reject(302, headers={"Location": "/elsewhere"})

    deny = security.Policy("websocket.connect.url", "wss://api.test/elsewhere", "deny")
    with instrumented() as exported:
        async with testing.websocket_server(wait):
            with trio.move_on_after(1):
                await websocket.connect(URL).__aenter__()
        async with testing.websocket_server(redirect):
            scope = security.Scope([security.Policy("*", "*"), deny])
            context = security.context(actor=security.Actor("alice"), scope=scope)
            with context, pytest.raises(errors.PermissionDeniedError):
                await websocket.connect(URL).__aenter__()
    cancelled, denied = exported.spans("connect")
    assert (cancelled.status.status_code, denied.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert [attributes(span)["error.type"] for span in (cancelled, denied)] == ["Cancelled", "PermissionDeniedError"]


async def test_what_brings_no_request_or_wants_a_page_or_is_cut_off_is_a_span(autojump_clock: MockClock) -> None:
    seen: list[trace.SpanContext] = []

    async def page(_request: websocket.Request) -> websocket.Response:
        await trio.lowlevel.checkpoint()
        seen.append(current())
        return websocket.Response(200, "fine")

    with instrumented() as exported:
        async with listening(http=page, handshake_timeout="5s") as (server, lobby):
            await lobby.connect().leave()
            await lobby.connect().ask(b"GET /health?SECRET HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await lobby.connect().ask(b"GARBAGE\r\n\r\n")
            slow = lobby.connect()
            await slow.send(b"GET")
            assert (await slow.answer()).status == 408
            gone = lobby.connect()
            await gone.send(handshake())
            await server.receive_value()
            await wait_all_tasks_blocked()
    spans = exported.spans("accept")
    told = [
        (attributes(span)["websocket.outcome"], attributes(span).get("http.response.status_code")) for span in spans
    ]
    assert told == [("no_request", None), ("answered", 200), ("refused", 400), ("refused", 408), ("refused", 503)]
    assert [spans[1].get_span_context()] == seen
    assert "SECRET" not in spans[1].to_json()


async def test_an_attempt_of_a_feed_is_around_its_functions_and_its_connection(autojump_clock: MockClock) -> None:
    seen: dict[str, trace.SpanContext] = {}
    served = 0

    async def serve(connection: testing.ServerConnection) -> None:
        nonlocal served
        served += 1
        if served == 1:
            await connection.reject(503)
        else:
            await connection.send("a")
            await connection.wait_closed()

    async def headers() -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        seen["headers"] = current()
        return {}

    async def subscribe(_client: websocket.Client) -> None:
        await trio.lowlevel.checkpoint()
        seen["subscribe"] = current()

    with instrumented() as exported:
        async with (
            testing.websocket_server(serve),
            websocket.reconnecting(lambda: URL, headers=headers, subscribe=subscribe) as feed,
        ):
            await feed.receive()
            assert not current().is_valid
    failed, opened = exported.spans("attempt")
    connecting = exported.spans("connect")
    assert [span.parent for span in connecting] == [span.get_span_context() for span in (failed, opened)]
    assert failed.status.status_code is StatusCode.ERROR
    assert attributes(failed)["error.type"] == "503"
    assert [attributes(span)["websocket.attempt"] for span in (failed, opened)] == [1, 2]
    assert attributes(opened)["websocket.outcome"] == "open"
    assert seen == {"headers": opened.get_span_context(), "subscribe": opened.get_span_context()}


async def test_an_attempt_that_is_given_up_or_ends_the_feed_ends_its_span(autojump_clock: MockClock) -> None:
    async def wait(_connection: testing.ServerConnection) -> None:
        await trio.sleep_forever()

    def url() -> str:
        raise LookupError("SECRET")

    with instrumented() as exported:
        async with testing.websocket_server(wait), websocket.reconnecting(URL):
            await wait_all_tasks_blocked()
        async with websocket.reconnecting(url) as feed:
            await feed.wait_closed()
    given_up, raised = exported.spans("attempt")
    assert (attributes(given_up)["websocket.outcome"], given_up.status.status_code) == ("abandoned", StatusCode.UNSET)
    assert (attributes(raised)["error.type"], raised.status.status_code) == ("LookupError", StatusCode.ERROR)


async def test_the_function_that_dials_is_inside_the_span_and_its_tasks_are_not_afterwards(
    autojump_clock: MockClock,
) -> None:
    seen: list[trace.SpanContext] = []

    async def dial(_host: str, _port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        seen.append(current())
        raise OSError("no")

    with instrumented() as exported, exported.tracers.get_tracer("mine").start_as_current_span("mine") as mine:
        with pytest.raises(errors.ConnectionFailedError):
            await websocket.connect(URL, dial=dial).__aenter__()
        assert trace.get_current_span() is mine
    (connecting,) = exported.spans("connect")
    assert seen == [connecting.get_span_context()]
    assert connecting.parent == mine.get_span_context()
