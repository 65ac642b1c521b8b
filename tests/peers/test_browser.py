"""A real browser, Chromium without a window, with this project's own server.

It is skipped where there is no Chromium; ``python -m tests.peers chromium`` brings it.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from csp import websocket
from tests.peers._browser import Browser, Page, browsing
from tests.peers._clients import listening
from tests.peers._servers import CHROMIUM, REPORT_SECONDS, ROOT, Server
from tests.peers.test_real_clients import cost, echoed
from tests.peers.test_real_peers import MESSAGES, MIB
from tests.websocket.command_line._process import environment

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
    from typing import Unpack

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

PLANES = "".join(chr((plane << 16) + 0x1234) for plane in range(17)) + "\0\ufeff\uffff\U0010ffff"
CHAT_PAGE = ROOT / "examples" / "chat_page.py"

# `dial` opens a WebSocket whose events are taken one by one, each as a list, with `next`.
PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>Tests</title><script>
function dial({url = location.href.replace("http", "ws"), protocols = [], binary = "arraybuffer"} = {}) {
  const socket = new WebSocket(url, protocols), events = [];
  let wake = () => {};
  const note = (...event) => { events.push(event); wake(); };
  socket.binaryType = binary;
  socket.onopen = () => note("open", socket.protocol, socket.extensions);
  socket.onmessage = ({data}) => socket.echo ? socket.send(data) : note("message", data);
  socket.onerror = () => note("error");
  socket.onclose = ({code, reason, wasClean}) => note("close", code, reason, wasClean);
  socket.next = async () => {
    while (!events.length) await new Promise((resolve) => { wake = resolve; });
    return events.shift();
  };
  return socket;
}

async function digest(data) {
  const bytes = typeof data === "string" ? new TextEncoder().encode(data) : await new Blob([data]).arrayBuffer();
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
</script>"""


@pytest.fixture(scope="module", params=[CHROMIUM], ids=str)
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    if (missing := request.param.missing()) is not None:
        pytest.skip(missing)
    with request.param.running() as program:
        yield program


@pytest.fixture(scope="module")
def devtools(running: Server) -> str:
    """The URL of the browser's DevTools."""
    return devtools_of(running)


def devtools_of(program: Server) -> str:
    return program.url(program.reports.get(timeout=REPORT_SECONDS))


async def page_of_the_tests(request: websocket.Request) -> websocket.Response:
    return websocket.Response(200, PAGE, {"Content-Type": "text/html; charset=utf-8", "Set-Cookie": "seen=yes"})


@asynccontextmanager
async def visited(
    devtools: str, arguments: str = "{}", **options: Unpack[websocket.ListenOptions]
) -> AsyncGenerator[tuple[Page, websocket.ServerConnection]]:
    """Have a page of the server's connect back to it; and close its connection at the end."""
    options["http"] = page_of_the_tests
    async with listening(**options) as server, browsing(devtools) as browser:
        page = await browser.open(page_url(server))
        await page.run(f"window.s = dial({arguments})")
        connection = await server.receive_value()
        async with connection:
            yield page, connection


def page_url(server: websocket.Server) -> str:
    return server.url.replace("ws", "http", 1)


async def event(page: Page) -> Any:
    """Return the next event of the page's WebSocket."""
    return await page.run("return await s.next()")


async def test_it_runs(running: Server, devtools: str, record_property: Callable[[str, object], None]) -> None:
    record_property("version", running.version)
    requests: list[websocket.Request] = []

    async def http(request: websocket.Request) -> websocket.Response:
        requests.append(request)
        return await page_of_the_tests(request)

    async with listening(http=http) as server, browsing(devtools) as browser:
        page = await browser.open(page_url(server) + "a%20page?of=tests")
        assert await page.run("return [document.title, location.pathname]") == ["Tests", "/a%20page"]
        assert [(each.method, each.path, each.query) for each in requests] == [("GET", "/a%20page", "of=tests")]
        assert requests[0].headers["Sec-Fetch-Dest"] == "document"
        assert page.complaints == []


async def test_what_the_handshake_says(devtools: str) -> None:
    async with visited(devtools) as (page, connection):
        assert (connection.path, connection.query, connection.protocols) == ("/", "", ())
        assert connection.origin == await page.run("return location.origin")
        assert connection.headers["Cookie"] == "seen=yes"
        assert "Chrome/" in connection.headers["User-Agent"]
        assert connection.headers["Sec-WebSocket-Extensions"] == "permessage-deflate; client_max_window_bits"
        assert connection.remote is not None
        assert connection.remote[0] == "127.0.0.1"
        await connection.accept(headers={"Set-Cookie": "connected=yes"})
        assert await event(page) == ["open", "", ""]
        assert await page.run("return document.cookie") == "seen=yes; connected=yes"
        assert page.complaints == []


async def test_a_subprotocol_is_chosen(devtools: str) -> None:
    arguments = json.dumps({"protocols": ["chat.v1", "chat.v2"]})
    async with visited(devtools, arguments, protocols=["chat.v3", "chat.v2"]) as (page, connection):
        assert connection.protocols == ("chat.v1", "chat.v2")
        await connection.accept()
        assert await event(page) == ["open", "chat.v2", ""]


# Messages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", ["arraybuffer", "blob"])
@pytest.mark.parametrize("mode", ["DISABLED", "NO_CONTEXT", "CONTEXT_TAKEOVER"])
async def test_messages_arrive_as_they_were_sent_and_come_back(devtools: str, mode: str, binary: str) -> None:
    options: websocket.ListenOptions = {"compression": websocket.COMPRESSION[mode], "read_limit": 2 * MIB}
    messages = [*MESSAGES.values(), PLANES, PLANES * 5000, random.Random(0).randbytes(MIB)]
    async with visited(devtools, json.dumps({"binary": binary}), **options) as (page, connection):
        await connection.accept()
        _, _, extensions = await event(page)
        assert ("permessage-deflate" in extensions) == (mode != "DISABLED")
        assert ("server_no_context_takeover" in extensions) == (mode == "NO_CONTEXT")
        for message in messages:
            await connection.send(message)
            told = await page.run(
                "const data = (await s.next())[1]; return [data.constructor.name, await digest(data)]"
            )
            kind = "String" if isinstance(message, str) else {"arraybuffer": "ArrayBuffer", "blob": "Blob"}[binary]
            data = message.encode() if isinstance(message, str) else message
            assert told == [kind, hashlib.sha256(data).hexdigest()]
        await page.run("s.echo = true")
        for message in messages:
            await echoed(connection, message)
        # Of these 2000 bytes the first half says all.
        there, back = await cost(connection, random.Random(0).randbytes(500).hex() * 2)
        assert (there < 1300) == (back < 1300) == (mode != "DISABLED")
        assert page.complaints == []


async def test_a_message_in_pieces_is_one(devtools: str) -> None:
    async def pieces() -> AsyncIterator[str]:
        for piece in ["Grüße, ", "世", "", "界 🌍"]:
            yield piece

    async with visited(devtools) as (page, connection):
        await connection.send(pieces())
        assert (await event(page))[0] == "open"
        assert await event(page) == ["message", "Grüße, 世界 🌍"]


async def test_a_flood_waits_while_it_is_not_taken_and_comes_whole(devtools: str) -> None:
    async with visited(devtools, channel_capacity=1) as (page, connection):
        await connection.accept()
        await event(page)
        await page.run("for (let number = 0; number < 3000; number++) s.send(String(number).padStart(1000))")
        await trio.sleep(0.2)
        for number in range(3000):
            assert (await connection.receive_value()).data == str(number).rjust(1000)


async def test_pings_are_answered(devtools: str) -> None:
    async with visited(devtools, keepalive="300ms") as (page, connection):
        for answer in [await connection.ping(), await connection.ping("payload"), await connection.ping(bytes(125))]:
            assert (await answer.receive()).ok
        # The keepalive's own are answered as well, each by an empty pong of 6 bytes; or it would close the connection.
        received = connection.statistics().bytes_received
        while connection.statistics().bytes_received < received + 3 * 6:  # noqa: ASYNC110  # nothing tells of them
            await trio.sleep(0.01)
        assert connection.error is None
        await page.run("s.echo = true")
        await echoed(connection, "still open")


# The end --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1012, "the server restarts"), (4000, "Grüße, 世界"), (1008, "é" * 61)],
    ids=["1000", "1012", "4000", "a long reason"],
)
async def test_the_page_sees_with_what_the_server_closes(devtools: str, code: int, reason: str) -> None:
    async with visited(devtools) as (page, connection):
        await connection.accept()
        await event(page)
        await connection.close(code, reason)
        assert await event(page) == ["close", code, reason, True]
        assert (connection.close_code, connection.error) == (code, None)
        assert page.complaints == []


async def test_the_page_sees_that_a_handler_has_failed(devtools: str, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(connection: websocket.ServerConnection) -> None:
        await connection.receive_value()
        raise ValueError("of the handler")

    async with trio.open_nursery() as nursery:
        serve = partial(websocket.serve, fail, 0, host="127.0.0.1", http=page_of_the_tests)
        server: websocket.Server = await nursery.start(serve)
        async with browsing(devtools) as browser:
            page = await browser.open(page_url(server))
            await page.run("window.s = dial()")
            await event(page)
            await page.run("s.send('go')")
            assert (await event(page))[:2] == ["close", 1011]
        nursery.cancel_scope.cancel()
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["of the handler"]


async def test_the_page_sees_that_a_message_is_too_large(devtools: str) -> None:
    async with visited(devtools, read_limit=1000) as (page, connection):
        await connection.accept()
        await event(page)
        await page.run("s.send('a'.repeat(1000))")
        assert (await connection.receive_value()).data == "a" * 1000
        await page.run("s.send('a'.repeat(1001))")
        assert (await event(page))[:2] == ["close", 1009]


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [("s.close()", 1005, ""), ("s.close(1000)", 1000, ""), ("s.close(4001, 'bye, 世界')", 4001, "bye, 世界")],
    ids=["no code", "1000", "4001"],
)
async def test_the_server_sees_how_the_page_closes(devtools: str, script: str, code: int, reason: str) -> None:
    async with visited(devtools) as (page, connection):
        await connection.accept()
        await event(page)
        await page.run(f"s.send('last'); {script}")
        assert (await connection.receive_value()).data == "last"
        assert not (await connection.receive()).ok
        assert (connection.close_code, connection.close_reason) == (code, reason)
        assert await event(page) == ["close", code, reason, True]


@pytest.mark.parametrize("how", ["the tab is closed", "another page is loaded", "it is loaded again"])
async def test_the_server_sees_that_the_page_has_gone(devtools: str, how: str) -> None:
    async with visited(devtools) as (page, connection):
        await connection.accept()
        await event(page)
        match how:
            case "the tab is closed":
                await page.close()
            case "another page is loaded":
                await page.load("about:blank")
            case _:
                await page.load(await page.run("return location.href"))
        assert not (await connection.receive()).ok
        assert connection.close_code == 1001


async def test_the_server_sees_that_the_browser_was_killed(running: Server) -> None:
    with running.peer.running() as mortal:
        url = await trio.to_thread.run_sync(devtools_of, mortal)
        async with visited(url) as (page, connection):
            await connection.accept()
            await event(page)
            mortal.die()
            assert not (await connection.receive()).ok
            assert connection.close_code == 1006


# Who may come in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("let_in", [False, True], ids=["same", "listed"])
async def test_a_page_of_another_origin(devtools: str, let_in: bool) -> None:
    async with listening(http=page_of_the_tests) as server, browsing(devtools) as browser:
        own = page_url(server).rstrip("/")
        origins = [own] if let_in else "same"
        # Another port is another origin, and so is another name of the same machine.
        async with websocket.listen(0, host="127.0.0.1", origins=origins) as other:
            page = await browser.open(page_url(server))
            await page.run(f"window.s = dial({json.dumps({'url': other.url})})")
            if let_in:
                async with await other.receive_value() as connection:
                    await connection.accept()
                    assert connection.origin == own
                    assert (await event(page))[0] == "open"
            else:
                assert await event(page) == ["error"]
                assert (await event(page))[:2] == ["close", 1006]
                assert other.statistics().rejected == {403: 1}
                assert any("403" in complaint for complaint in page.complaints)
        await page.run(f"window.s = dial({json.dumps({'url': server.url.replace('127.0.0.1', 'localhost')})})")
        assert await event(page) == ["error"]
        assert server.statistics().rejected == {403: 1}


async def test_a_frame_without_an_origin_is_refused(devtools: str) -> None:
    async with listening(http=page_of_the_tests) as server, browsing(devtools) as browser:
        page = await browser.open(page_url(server))
        told = await page.run(
            """
            const frame = document.createElement("iframe");
            frame.sandbox = "allow-scripts";
            frame.srcdoc = `<script>
              const socket = new WebSocket("${location.href.replace("http", "ws")}");
              socket.onopen = () => parent.postMessage("open", "*");
              socket.onerror = () => parent.postMessage("error", "*");
            <\\/script>`;
            const told = new Promise((resolve) => addEventListener("message", ({data}) => resolve(data)));
            document.body.append(frame);
            return await told;
            """
        )
        assert (told, server.statistics().rejected) == ("error", {403: 1})


async def test_over_tls(devtools: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    async with visited(devtools, ssl_context=context, read_limit=2 * MIB) as (page, connection):
        await connection.accept()
        assert connection.url.startswith("wss://")
        assert await event(page) == ["open", "", ""]
        await page.run("s.echo = true")
        for message in MESSAGES.values():
            await echoed(connection, message)


# Many, and over a restart ---------------------------------------------------------------------------------------------


async def test_many_tabs(devtools: str) -> None:
    tabs = 8
    hub = websocket.Hub()
    async with listening(http=page_of_the_tests) as server, browsing(devtools) as browser:
        pages: list[Page] = []
        for _ in range(tabs):
            pages.append(await browser.open(page_url(server)))
            await pages[-1].run("window.s = dial()")
            connection = await server.receive_value()
            await connection.accept()
            hub.add(connection)
            await event(pages[-1])
        assert len(server.connections) == tabs
        for number in range(100):
            result = hub.broadcast(str(number))
            assert result.written + result.queued == tabs
        for page in pages:
            heard = await page.run(
                "const heard = []; while (heard.length < 100) heard.push(await s.next()); return heard"
            )
            assert heard == [["message", str(number)] for number in range(100)]
        await server.close(1012, "the server restarts")
        for page in pages:
            assert await event(page) == ["close", 1012, "the server restarts", True]


class Program:
    """A program of this project, whose lines are read as they come."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""

    async def line(self, of: str) -> str:
        """Return the next line that has this in it."""
        assert self._process.stdout is not None
        while True:
            line, ended, rest = self._rest.partition(b"\n")
            if ended:
                self._rest = rest
                if of in line.decode():
                    return line.decode()
            else:
                more = await self._process.stdout.receive_some()
                assert more, f"it has ended before it said {of}"
                self._rest += more

    async def type(self, line: str) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(f"{line}\n".encode())

    async def end(self, number: int) -> int:
        self._process.send_signal(number)
        return await self._process.wait()


@asynccontextmanager
async def program(*arguments: str) -> AsyncGenerator[Program]:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-u", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.aclose()
            await process.stdout.aclose()


async def join(browser: Browser, url: str, name: str) -> Page:
    page = await browser.open(url)
    await page.run(f"document.getElementById('name').value = {json.dumps(name)}")
    await page.run("document.querySelector('#join button').click()")
    return page


async def say(page: Page, text: str) -> None:
    await page.run(f"document.getElementById('text').value = {json.dumps(text)}")
    await page.run("document.querySelector('#say button').click()")


async def shown(page: Page, text: str, inside: str = "log") -> None:
    """Wait until the chat page shows a text."""
    await page.run(
        f"""
        const place = document.getElementById({json.dumps(inside)}), text = {json.dumps(text)};
        while (!place.textContent.includes(text)) await new Promise((resolve) => setTimeout(resolve, 10));
        """
    )


async def test_a_page_and_a_terminal_talk_to_each_other_and_come_back_after_a_restart(devtools: str) -> None:
    with trio.fail_after(50):
        async with browsing(devtools) as browser, program(str(CHAT_PAGE), "0") as server:
            url = (await server.line("open http://")).removeprefix("open ")
            page = await join(browser, url, "alice")
            await shown(page, "alice has come")
            chat = f"{url.replace('http', 'ws')}chat?name=bob"
            async with program("-m", "csp.websocket", "--reconnect", chat) as terminal:
                await terminal.line("* bob has come; here: alice, bob")
                await shown(page, "alice (you)bob", "people")
                # What is text stays text, on both sides.
                markup = "<img src=x onerror=alert(1)> & </script>\u202e 世界 🌍"
                await terminal.type(markup)
                await shown(page, f"bob{markup}")
                await say(page, markup)
                assert (await terminal.line("alice: ")).startswith("alice: <img src=x onerror=alert(1)> & </script>")
                await send_picture(page)
                await terminal.line("* alice sends ")
                second = await join(browser, url, "alice")
                await terminal.line("* alice 2 has come; here: alice, bob, alice 2")
                await second.close()
                await terminal.line("* alice 2 has gone; here: alice, bob")
                assert page.complaints == []

                assert await server.end(signal.SIGTERM) == 128 + signal.SIGTERM
                await shown(page, "Connection lost: the server restarts")
                port = url.rpartition(":")[2].strip("/")
                async with program(str(CHAT_PAGE), port) as again:
                    await again.line("open ")
                    await shown(page, "Back again")
                    await shown(page, "Connected", "state")
                    await shown(page, "bob", "people")
                    await say(page, "hello again")
                    await terminal.line("alice: hello again")
                    assert await again.end(signal.SIGINT) == 128 + signal.SIGINT


async def send_picture(page: Page) -> None:
    """Choose a picture as a person does, and wait until the chat shows it."""
    await page.run(
        """
        const canvas = document.createElement("canvas");
        const drawing = await new Promise((resolve) => canvas.toBlob(resolve));
        const chosen = new DataTransfer();
        chosen.items.add(new File([drawing], "drawing.png"));
        const file = document.getElementById("file");
        file.files = chosen.files;
        file.dispatchEvent(new Event("change"));
        while (!document.querySelector(".mine img")?.naturalWidth) await new Promise((next) => setTimeout(next, 10));
        """
    )
