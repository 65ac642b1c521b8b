"""What is told of a connection's life: the fields of each record of each logger; and nowhere anything secret."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import errors, testing, websocket
from tests.websocket.server._lobby import Lobby, handshake, listening
from tests.websocket.telemetry._exported import instrumented
from trio_csp_websocket.connection.report import tell_end_of
from trio_csp_websocket.events import Events

if TYPE_CHECKING:
    from trio.testing import MockClock

URL = "wss://api.test/feed"
SHOWN = f"{URL}?..."
SECRET = "hunter2"
COUNTS = {f"websocket_{name}_{way}" for name in ("messages", "bytes", "payload_bytes") for way in ("sent", "received")}


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "csp")


def told(caplog: pytest.LogCaptureFixture, logger: str) -> dict[str, dict[str, Any]]:
    """Return the fields of the records of a logger, by event; of one that came several times, the last."""
    return {
        vars(record)["websocket_event"]: {
            name.removeprefix("websocket_"): value
            for name, value in vars(record).items()
            if name.startswith("websocket_") and name != "websocket_event"
        }
        for record in caplog.records
        if record.name == f"csp.websocket.{logger}"
    }


async def test_the_fields_of_a_clients_events(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async def serve(connection: testing.ServerConnection) -> None:
        match connection.path:
            case "/feed":
                await connection.reject(302, headers={"Location": "/next"})
            case "/next":
                await connection.send("a")
                await trio.sleep(60)
                await connection.close(4000, "two\nlines")
            case _:
                await connection.reject(403)

    async with testing.websocket_server(serve):
        async with websocket.connect(f"{URL}?token={SECRET}") as client:
            await client.wait_closed()
        with pytest.raises(errors.ConnectionFailedError):
            await websocket.connect("wss://api.test/no").__aenter__()
        with trio.CancelScope() as scope:
            scope.cancel()
            await websocket.connect(URL).__aenter__()
    found = told(caplog, "client")
    ended = found.pop("client.ended")
    assert set(found) == {
        *("client.connecting", "client.redirected", "client.connected", "client.failed", "client.abandoned")
    }
    assert found["client.redirected"] == {"url": "wss://api.test/next"}
    assert found["client.connected"] == {"url": "wss://api.test/next", "compressed": False}
    assert found["client.failed"] == {
        "url": "wss://api.test/no",
        "status": 403,
        "error": "cannot connect to wss://api.test/no: the server refused the connection with status 403 Forbidden",
        "error_type": "ConnectionFailedError",
    }
    assert found["client.abandoned"] == {"url": URL, "error": "Cancelled", "error_type": "Cancelled"}
    assert (ended["code"], ended["reason"], ended["seconds"], ended["messages_received"]) == (
        *(4000, "two\\u000alines", 60, 1),
    )
    assert {f"websocket_{name}" for name in ended} >= COUNTS


async def test_the_fields_of_a_servers_events(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async def page(request: websocket.Request) -> websocket.Response:
        await trio.lowlevel.checkpoint()
        if request.path == "/broken":
            raise ValueError(SECRET.upper())
        return websocket.Response(200)

    async with listening(http=page, handshake_timeout="5s") as (server, lobby):
        client = lobby.connect()
        await client.send(handshake(f"/x?token={SECRET}", f"Cookie: {SECRET}"))
        await (await server.receive_value()).accept()
        await client.answer()
        await client.close(4000)
        await lobby.connect().ask(f"GET /health?{SECRET} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await lobby.connect().ask(f"GET /broken?{SECRET} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await lobby.connect().ask(b"GARBAGE\r\n\r\n")
        await lobby.connect().leave()
        await wait_all_tasks_blocked()
    found = told(caplog, "server")
    assert found["server.listening"] == found["server.stopped"] == {"url": "ws://localhost/"}
    assert found["server.accepted"] == {"url": "ws://localhost/x?...", "compressed": False}
    assert found["server.refused"]["status"] == 400
    assert found["server.no_request"] == {"error": "nothing came"}
    assert found["server.answered"] == {"url": "ws://localhost/broken?...", "status": 500}
    failed = found["server.http_failed"]
    assert failed == {"path": "/broken", "error": "ValueError", "error_type": "ValueError"}
    ended = found["server.ended"]
    assert (ended["url"], ended["code"], ended["seconds"]) == ("ws://localhost/x?...", 4000, 0)
    assert {f"websocket_{name}" for name in ended} >= COUNTS
    assert SECRET not in caplog.text


async def test_a_server_that_is_cancelled_tells_the_ends_of_its_connections(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    lobby = Lobby()
    with trio.CancelScope() as scope:
        async with websocket.listen(sockets=[lobby]) as server:
            await lobby.connect().send(handshake("/x"))
            await (await server.receive_value()).accept()
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert told(caplog, "server")["server.ended"]["code"] == 1006


async def test_the_fields_of_a_handler_that_fails(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async def fail(connection: websocket.ServerConnection) -> None:
        raise LookupError("mine")

    lobby = Lobby()
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[websocket.Server]) -> None:
            await websocket.serve(fail, sockets=[lobby], task_status=task_status)

        server: websocket.Server = await nursery.start(serve)
        client = lobby.connect()
        assert (await client.ask(handshake(f"/x?{SECRET}"))).status == 500
        await client.leave()
        await server.close()
    found = told(caplog, "server")["server.handler_failed"]
    assert found == {"url": "ws://localhost/x?...", "error": "LookupError", "error_type": "LookupError"}


async def test_the_fields_of_a_feeds_events(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    served = 0

    async def serve(connection: testing.ServerConnection) -> None:
        nonlocal served
        served += 1
        await connection.accept()
        await trio.sleep(60)
        await connection.close(1012 if served == 1 else 1000, "bye\n")

    async def headers() -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        return {"Authorization": SECRET}

    async with (
        testing.websocket_server(serve),
        websocket.reconnecting(
            lambda: f"{URL}?{SECRET}", headers=headers, min_delay="1s", max_delay="1s", retry=websocket.default_retry
        ) as feed,
    ):
        await feed.wait_closed()
    found = told(caplog, "feed")
    assert {name.removeprefix("feed.") for name in found} == {
        *("attempt", "url_asked", "headers_asked", "open", "lost", "waiting", "gap", "ended")
    }
    assert found["feed.attempt"] == found["feed.open"] == {"url": SHOWN, "attempt": 1}
    lost = found["feed.lost"]
    assert (lost["code"], lost["reason"], lost["seconds"]) == (1000, "bye\\u000a", 60)
    waiting, gap = found["feed.waiting"], found["feed.gap"]
    assert (waiting["seconds"], waiting["attempt"], waiting["error_type"]) == (1, 1, "ConnectionFailedError")
    assert (gap["seconds"], gap["attempts"]) == (1, 1)
    assert found["feed.ended"] == {"url": SHOWN}


async def test_an_end_that_came_before_anybody_could_be_told_is_told_at_once(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def accept(connection: testing.ServerConnection) -> None:
        await connection.accept()

    async with testing.websocket_server(accept), websocket.connect(URL) as client:
        await client.close()
        tell_end_of(client._connection, Events("csp.websocket.client"), "late", logging.INFO, "%s: %s", "it", url=URL)
    assert told(caplog, "client")["late"]["code"] == 1000


@pytest.mark.parametrize("shown", [True, False])
async def test_a_log_that_raises_harms_no_connection(
    shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], autojump_clock: MockClock
) -> None:
    async def echo(connection: testing.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message.data)

    def fail(record: logging.LogRecord) -> bool:
        failed.add(record.name)
        raise LookupError("mine")

    failed: set[str] = set()
    monkeypatch.setattr(logging, "raiseExceptions", shown)
    loggers = [logging.getLogger(f"csp.websocket.{name}") for name in ("client", "server", "feed", "frames")]
    for logger in loggers:
        logger.addFilter(fail)
    try:
        async with testing.websocket_server(echo), websocket.reconnecting(URL) as feed:
            await feed.send("a")
            assert isinstance(message := (await feed.receive()).value, websocket.Message)
            assert message.data == "a"
        async with listening() as (server, lobby):
            client = lobby.connect()
            await client.send(handshake("/x"))
            await (await server.receive_value()).accept()
            await client.answer()
            await client.close(4000)
    finally:
        for logger in loggers:
            logger.removeFilter(fail)
    assert failed == {logger.name for logger in loggers}
    assert ("LookupError: mine" in capsys.readouterr().err) == shown


async def test_no_field_is_one_of_a_records_own(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    plain = vars(logging.makeLogRecord({}))

    async def accept(connection: testing.ServerConnection) -> None:
        await connection.accept()

    async with testing.websocket_server(accept), websocket.connect(URL):
        pass
    ours = [record for record in caplog.records if record.name.startswith("csp.websocket.")]
    assert ours
    for record in ours:
        added = vars(record).keys() - plain.keys() - {"message", "asctime"}
        assert all(name.startswith("websocket_") for name in added), added
        json.dumps({name: value for name, value in vars(record).items() if name.startswith("websocket_")})


# Secrets --------------------------------------------------------------------------------------------------------------


async def test_nothing_secret_comes_out_of_a_session_of_clients_feeds_and_servers(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)  # of the libraries too
    reason = "\x1b[2J\r\nbye"
    served = 0

    async def serve(connection: testing.ServerConnection) -> None:
        nonlocal served
        served += 1
        match served:
            case 1:
                headers = {"Location": f"/{SECRET}?key={SECRET}", "Set-Cookie": SECRET}
                await connection.reject(302, headers=headers, body=SECRET)
            case 3:
                await connection.reject(503, headers={"WWW-Authenticate": SECRET}, body=f"no {SECRET}")
            case 4:
                await connection.send_bytes(f"HTTP/1.1 101 {SECRET}\r\nX: {SECRET}\r\n\r\n{SECRET}".encode())
            case _:
                await connection.accept(subprotocol=connection.protocols[0], headers={"X-Token": SECRET})
                await connection.send(SECRET)
                await connection.receive()
                await (await connection.ping(SECRET)).receive()
                await connection.close(4000, reason)

    async def subscribe(client: websocket.Client) -> None:
        await client.send(f"log in {SECRET}")

    url = f"wss://alice:{SECRET}@api.test/feed?token={SECRET}"
    options: Any = {"headers": {"Cookie": SECRET, "X-Key": SECRET}, "protocols": [f"bearer.{SECRET}"]}
    with instrumented() as exported:
        # What a server shows of the path that a redirect led to is what a client asked for: its own log is left out.
        monkeypatch.setattr(logging.getLogger("csp.websocket.server"), "disabled", True)
        async with testing.websocket_server(serve):
            async with websocket.connect(url, **options) as client:
                await client.send(SECRET)
                await (await client.ping(SECRET)).receive()
                await client.wait_closed()
            for _ in range(2):
                with pytest.raises(errors.ConnectionFailedError):
                    await websocket.connect(url, **options).__aenter__()
            async with websocket.reconnecting(
                lambda: url, subscribe=subscribe, max_attempts=2, retry=lambda _: True, **options
            ) as feed:
                await feed.wait_closed()
        spans = [span.to_json() for span in exported.spans() if "client" in str(span.kind).lower()]
        spans += [span.to_json() for span in exported.spans("attempt")]
        data = exported.reader.get_metrics_data()
        assert data is not None
        metrics = data.to_json()
    records = [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    ours = [record for record in caplog.records if record.name.startswith("csp.")]
    assert {record.name for record in ours} == {f"csp.websocket.{name}" for name in ("client", "feed", "frames")}
    assert len(spans) >= 6
    frames_of_the_server = [line for line in records if "somebody for /" in line]
    for text in (*(line for line in records if line not in frames_of_the_server), *spans, metrics):
        assert SECRET not in text, text
    for record in ours:
        assert record.getMessage().isprintable()
        assert record.exc_info is None


async def test_nothing_secret_comes_out_of_a_server(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    requests = [
        handshake(f"/x?token={SECRET}", f"Cookie: {SECRET}", f"Authorization: Bearer {SECRET}"),
        handshake(f"/x?token={SECRET}", f"Cookie: {SECRET}\x01"),
        f"GET /page?{SECRET} HTTP/1.1\r\nHost: localhost\r\nCookie: {SECRET}\r\n\r\n".encode(),
        f"GET http://u:{SECRET}@localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        SECRET.encode(),
    ]
    with instrumented() as exported:
        async with listening(handshake_timeout="5s") as (server, lobby):
            for request in requests:
                client = lobby.connect()
                await client.send(request)
                if request is requests[0]:
                    connection = await server.receive_value()
                    await connection.send(SECRET)
                    await client.answer()
                    await client.text()
                await client.stream.send_eof()
                await trio.sleep(10)
        spans = [span.to_json() for span in exported.spans("accept")]
    assert len(spans) == len(requests)
    for text in (caplog.text, *(str(vars(record)) for record in caplog.records), *spans):
        assert SECRET not in text, text
