"""What the logger ``csp.websocket.client`` is told: attempts, redirects, failures and ends, and nothing secret."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import testing, websocket
from csp.errors import ConnectionFailedError
from tests.websocket._peers import CLOSE, Peer, close_frame, raw_server
from tests.websocket._server import accepting, close, frame

if TYPE_CHECKING:
    from trio.testing import MockClock

NAME = "csp.websocket.client"
URL = "wss://api.test/feed"
SECRET = "hunter2"


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger=NAME)
    return caplog


def logged(log: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return what was logged: levels and texts."""
    found = [record for record in log.records if record.name == NAME]
    assert all(record.exc_info is None and record.getMessage().isprintable() for record in found)
    return [(record.levelname, record.getMessage()) for record in found]


async def accept(connection: testing.ServerConnection) -> None:
    await connection.accept()
    await connection.wait_closed()


async def test_an_attempt_a_connection_and_its_end(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async with testing.websocket_server(accept), websocket.connect(f"{URL}?token={SECRET}"):
        assert logged(log) == [("DEBUG", f"connecting to {URL}?..."), ("INFO", f"connected to {URL}?...")]
        log.clear()
    assert logged(log) == [("INFO", f"the connection to {URL}?... has ended: closed with code 1000 (NORMAL)")]


async def test_where_the_server_is(log: pytest.LogCaptureFixture) -> None:
    async def serve(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(CLOSE)
        await peer.send(close_frame(1000))

    async with raw_server(serve) as url, websocket.connect(url):
        assert ("INFO", f"connected to {url} ({url[5:-1]})") in logged(log)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (("127.0.0.1", 81), "127.0.0.1:81"),
        (("2001:db8::1", 81), "[2001:db8::1]:81"),
        ("/run/app.sock", "/run/app.sock"),
        ("", "a Unix socket"),
        ("\0a\n", "\\u0000a\\u000a"),
    ],
)
async def test_how_addresses_are_shown(address: Any, shown: str, log: pytest.LogCaptureFixture) -> None:
    class Addressed(trio.socket.SocketType):
        """A socket that only says where it is."""

        def getsockname(self) -> Any:
            return ""

        def getpeername(self) -> Any:
            return address

    near, far = trio.testing.memory_stream_pair()
    near.socket = Addressed.__new__(Addressed)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]

    async def dial(_host: str, _port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return near

    async def serve() -> None:
        peer = Peer(far, trio.Event())
        await peer.accept(close_frame(1000))
        await peer.expect(CLOSE)
        await far.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with websocket.connect("ws://api.test/", dial=dial) as client:
            assert client.remote == address
            await client.wait_closed()
    assert ("INFO", f"connected to ws://api.test/ ({shown})") in logged(log)


async def test_the_end_is_logged_once_as_the_error_tells_it(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def restart(connection: testing.ServerConnection) -> None:
        await connection.accept()
        await connection.close(1012, "two\nlines")

    async with testing.websocket_server(restart), websocket.connect(URL) as client:
        await client.wait_closed()
        assert client.error is not None
        assert logged(log)[2:] == [("INFO", f"the connection to {URL} has ended: {client.error}")]
        await client.close()
    assert len(logged(log)) == 3


@pytest.mark.parametrize("then", [close(1000), b"", frame(3)], ids=["closed", "lost", "failed"])
async def test_an_end_in_the_packet_of_the_acceptance_is_logged(
    then: bytes, log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def end(connection: testing.ServerConnection) -> None:
        await connection.send_bytes(accepting(connection.headers) + then)
        connection.drop()

    async with testing.websocket_server(end), websocket.connect(URL) as client:
        await client.wait_closed()
    texts = [text for _, text in logged(log)]
    assert texts[:2] == [f"connecting to {URL}", f"connected to {URL}"]
    assert [text.startswith(f"the connection to {URL} has ended: ") for text in texts[2:]] == [True]


async def test_a_failure_is_logged_as_the_error_tells_it(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def refuse(connection: testing.ServerConnection) -> None:
        await connection.reject(403, body="two\nlines")

    async def wait(_connection: testing.ServerConnection) -> None:
        await trio.sleep_forever()

    for handler in (refuse, wait):
        log.clear()
        async with testing.websocket_server(handler):
            with pytest.raises(ConnectionFailedError) as caught:
                await websocket.connect(URL).__aenter__()
        assert logged(log) == [("DEBUG", f"connecting to {URL}"), ("INFO", str(caught.value))]


async def test_each_step_of_a_way(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async def redirect(connection: testing.ServerConnection) -> None:
        match connection.url:
            case "wss://api.test/feed?token=hunter2":
                await connection.reject(302, headers={"Location": f"/{SECRET}/b?key={SECRET}"})
            case "wss://api.test/hunter2/b?key=hunter2":
                await connection.reject(302, headers={"Location": "wss://other.test/c"})
            case _:
                await accept(connection)

    async with testing.websocket_server(redirect), websocket.connect(f"{URL}?token={SECRET}"):
        pass
    assert logged(log) == [
        ("DEBUG", f"connecting to {URL}?..."),
        ("INFO", f"redirected to wss://api.test/.../b?... (redirected from {URL}?...)"),
        ("DEBUG", "connecting to wss://api.test/.../b?..."),
        ("INFO", f"redirected to wss://other.test/c (redirected from {URL}?... -> wss://api.test/.../b?...)"),
        ("DEBUG", "connecting to wss://other.test/c"),
        ("INFO", "connected to wss://other.test/c"),
        ("INFO", "the connection to wss://other.test/c has ended: closed with code 1000 (NORMAL)"),
    ]


async def test_a_way_that_leads_back_with_a_secret_in_its_path_does_not_show_it(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def redirect(connection: testing.ServerConnection) -> None:
        if connection.path.startswith("/feed"):
            await connection.reject(302, headers={"Location": f"/{SECRET}"})
        else:
            await connection.accept()
            await connection.close(1011)

    async with testing.websocket_server(redirect), websocket.connect(URL, headers={"X-Key": SECRET}) as client:
        await client.wait_closed()
    assert SECRET not in log.text
    assert len(logged(log)) == 5


async def test_a_feed_logs_each_connection(log: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    served = 0

    async def restart(connection: testing.ServerConnection) -> None:
        nonlocal served
        served += 1
        await connection.accept()
        await connection.send("a")
        await connection.close(1012 if served < 3 else 1000)

    async with testing.websocket_server(restart), websocket.reconnecting(URL) as feed:
        while (await feed.receive()).ok:
            pass
    assert [text.partition(" ")[0] for _, text in logged(log)] == ["connecting", "connected", "the"] * 3


async def test_a_logger_that_is_not_asked_costs_no_text(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    log.set_level(logging.WARNING, logger=NAME)
    async with testing.websocket_server(accept), websocket.connect(URL) as client:
        assert client._connection.on_finished is None
    assert logged(log) == []


def test_importing_logs_nothing_and_sets_nothing_up() -> None:
    program = (
        "import logging; before = logging.root.level; from csp import testing, websocket; "
        f"logger = logging.getLogger({NAME!r}); "
        "assert (logging.root.handlers, logger.handlers, logger.level, logger.propagate, logger.filters) "
        "== ([], [], logging.NOTSET, True, []); assert logging.root.level == before"
    )
    # Where nothing is installed, the checkout must be found by the child as it was by this process.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
