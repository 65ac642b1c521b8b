"""Servers and clients of other makers, each in a process of its own. For clients see also `_clients.py`.

A server's program picks its port, and prints a line of JSON with the port and its version; it ends with its standard
input, so whatever becomes of the test. What it does depends on the path: ``/echo`` echoes; ``/close/CODE/REASON``
closes; ``/told`` prints how the client closed, as a line of JSON; ``/refuse/STATUS`` refuses with the body ``no``. It
chooses the subprotocol ``second``, and accepts permessage-deflate, some only with ``?deflate``.

What they need is looked for on PATH, on NODE_PATH, and in the interpreter that PEERS_PYTHON names, or else this one.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import trio
import trustme

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
START_SECONDS, END_SECONDS, REPORT_SECONDS = 30, 10, 10


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    peer: Peer
    process: subprocess.Popen[str]
    port: int
    version: str
    reports: queue.SimpleQueue[Any]
    tls: ssl.SSLContext | None = None
    """With which to connect; None for a server of ``ws:`` URLs."""

    def url(self, path: str) -> str:
        return f"{'ws' if self.tls is None else 'wss'}://127.0.0.1:{self.port}{path}"

    async def reported(self) -> Any:
        """Wait for the server's next report."""
        return await trio.to_thread.run_sync(lambda: self.reports.get(timeout=REPORT_SECONDS))

    def die(self) -> None:
        """Let the process end with no word to its clients, as if killed."""
        assert self.process.stdin is not None
        self.process.stdin.close()


@dataclass(frozen=True)
class Peer:
    """A server that can be run.

    Args:
        program: a file of this folder, or a program on PATH.
        needs: what must be installed, each as ``python NAME``, ``program NAME`` or ``npm NAME``.
        cannot: what it cannot be asked, and why.
    """

    name: str
    program: str
    arguments: Sequence[str] = ()
    needs: Sequence[str] = ()
    cannot: dict[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return self.name

    def missing(self) -> str | None:
        """Say what is not installed, if anything."""
        missing = [name for kind, name in map(str.split, self.needs) if not _installed(kind, name)]
        return f"{' and '.join(missing)} not installed: python -m tests.peers {self.name}" if missing else None

    @contextmanager
    def running(self) -> Generator[Server]:
        with self._started() as server:
            yield server

    @contextmanager
    def _started(
        self, *more: str, reports: queue.SimpleQueue[Any] | None = None, tls: ssl.SSLContext | None = None
    ) -> Generator[Server]:
        command = [*self._command(), *self.arguments, *more]
        path = [str(ROOT), str(ROOT / "drivers"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        lines: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        ) as process:
            assert process.stdin is not None
            reader = threading.Thread(target=_read, args=(process.stdout, lines))
            reader.start()
            try:
                first_line = lines.get(timeout=START_SECONDS)
                assert first_line is not None, f"{command} has failed"
                port, version = first_line
                yield Server(self, process, port, version, lines if reports is None else reports, tls)
            finally:
                process.stdin.close()
                try:
                    process.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
                finally:
                    reader.join()

    def _command(self) -> Sequence[str]:
        match Path(self.program).suffix:
            case ".py":
                theirs = any(need.startswith("python ") for need in self.needs)
                return (_python() if theirs else sys.executable, str(FOLDER / self.program))
            case ".cjs":
                return ("node", str(FOLDER / self.program))
            case _:
                return (self.program,)


@dataclass(frozen=True)
class Proxy(Peer):
    """A proxy in front of another peer, which gets its requests and tells its reports."""

    behind: Peer = field(kw_only=True)
    tls: bool = False

    @contextmanager
    def running(self) -> Generator[Server]:
        with self.behind.running() as server, tempfile.TemporaryDirectory() as folder:
            arguments = [str(server.port)]
            context: ssl.SSLContext | None = None
            if self.tls:
                authority = trustme.CA()
                certificate = Path(folder, "certificate.pem")
                authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
                arguments.append(str(certificate))
                context = ssl.create_default_context()
                authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
            with self._started(*arguments, reports=server.reports, tls=context) as proxy:
                yield proxy


def _read(output: IO[str], lines: queue.SimpleQueue[Any]) -> None:
    for line in output:
        lines.put(json.loads(line))
    lines.put(None)


def _python() -> str:
    return os.environ.get("PEERS_PYTHON", sys.executable)


def _installed(kind: str, name: str) -> bool:
    match kind:
        case "program":
            return shutil.which(name) is not None
        case "npm":
            folders = os.environ.get("NODE_PATH", "").split(os.pathsep)
            return any(folder and Path(folder, name).is_dir() for folder in folders)
        case "python":
            return name in _modules()
        case _:
            raise AssertionError(kind)


@functools.cache
def _modules() -> frozenset[str]:
    """Return the names of those modules that some peer needs and that its interpreter has."""
    names = {
        need.removeprefix("python ")
        for peer in [*PEERS, *OTHERS, *CLIENTS]
        for need in peer.needs
        if need.startswith("python ")
    }
    program = "import importlib.util, sys; print(*filter(importlib.util.find_spec, sys.argv[1:]))"
    found = subprocess.run([_python(), "-c", program, *names], check=True, capture_output=True, text=True)
    return frozenset(found.stdout.split())


WEBSOCKETS = Peer("websockets", "library_server.py", ["websockets"])
PEERS = [
    WEBSOCKETS,
    Peer("aiohttp", "library_server.py", ["aiohttp"]),
    Peer(
        "uvicorn",
        "asgi_server.py",
        ["uvicorn", "websockets", "websockets-sansio"],
        needs=["python uvicorn", "python websockets"],
    ),
    Peer(
        "uvicorn-wsproto",
        "asgi_server.py",
        ["uvicorn", "wsproto", "wsproto"],
        needs=["python uvicorn", "python wsproto"],
    ),
    Peer(
        "hypercorn",
        "asgi_server.py",
        ["hypercorn", "wsproto"],
        needs=["python hypercorn"],
        cannot={"tell": "hypercorn tells its application 1006 however its client closed"},
    ),
    Peer("picows", "picows_server.py", needs=["python picows"]),
    Peer("ws", "ws_server.cjs", needs=["program node", "npm ws"]),
    Proxy("nginx", "nginx_server.py", ["nginx"], needs=["program nginx"], behind=WEBSOCKETS),
    Proxy("nginx-tls", "nginx_server.py", ["nginx"], needs=["program nginx"], behind=WEBSOCKETS, tls=True),
    Proxy("haproxy", "haproxy_server.py", ["haproxy", "60s"], needs=["program haproxy"], behind=WEBSOCKETS),
    Peer(
        "websocat",
        "websocat_server.py",
        ["websocat"],
        needs=["program websocat"],
        cannot={
            "choose none": "websocat refuses who offers no subprotocol that it knows",
            "compress": "websocat knows no permessage-deflate",
            "tell": "websocat does not tell how its client closed",
        },
    ),
    Peer("coder", "coder_server", needs=["program coder_server"]),
]

# What each of these is asked is its own.
HASTY_HAPROXY = Proxy("haproxy", "haproxy_server.py", ["haproxy", "2s"], needs=["program haproxy"], behind=WEBSOCKETS)
NATS = Peer("nats", "nats_server.py", ["nats-server"], needs=["program nats-server"])
SOCKETIO = Peer("socketio", "socketio_server.py", needs=["python socketio", "python uvicorn", "python websockets"])
PROSODY = Peer("prosody", "prosody_server.py", ["prosody"], needs=["program prosody"])
MOSQUITTO = Peer("mosquitto", "mosquitto_server.py", ["mosquitto"], needs=["program mosquitto"])
# What they are proxies of is asked for; whether they want a login is an argument more.
SQUID = Peer("squid", "squid_server.py", ["squid"], needs=["program squid"])
TINYPROXY = Peer("tinyproxy", "tinyproxy_server.py", ["tinyproxy"], needs=["program tinyproxy"])
DANTE = Peer("dante", "dante_server.py", ["danted"], needs=["program danted"])
# Whose key it takes is an argument more.
SSHD = Peer("sshd", "sshd_server.py", ["sshd"], needs=["program sshd", "program ssh", "program ssh-keygen"])
# In front of this project's own server: what they are told is an argument more.
NGINX_FRONT = Peer("nginx-front", "front_server.py", ["nginx"], needs=["program nginx"])
HAPROXY_FRONT = Peer("haproxy-front", "front_server.py", ["haproxy"], needs=["program haproxy"])
# It prints one line more: the path of its DevTools.
CHROMIUM = Peer("chromium", "chromium_browser.py", ["chromium"], needs=["program chromium"])
OTHERS = [NATS, SOCKETIO, PROSODY, MOSQUITTO, SQUID, TINYPROXY, DANTE, SSHD, NGINX_FRONT, HAPROXY_FRONT, CHROMIUM]

_NO_FRAGMENTS = "{} cannot send a message in fragments"
CLIENTS = [
    Peer("websockets-client", "library_client.py", ["websockets"]),
    Peer("websockets-threads", "library_client.py", ["websockets-threads"]),
    Peer(
        "aiohttp-client",
        "library_client.py",
        ["aiohttp"],
        cannot={"fragment": _NO_FRAGMENTS.format("aiohttp"), "show a refusal's body": "aiohttp does not show it"},
    ),
    Peer(
        "trio-websocket",
        "library_client.py",
        ["trio-websocket"],
        cannot={
            "compress": "trio-websocket knows no permessage-deflate",
            "fragment": _NO_FRAGMENTS.format("trio-websocket"),
        },
    ),
    Peer(
        "picows-client",
        "library_client.py",
        ["picows"],
        needs=["python picows"],
        cannot={"show a refusal's body": "picows shows an empty one"},
    ),
    Peer("ws-client", "ws_client.cjs", needs=["program node", "npm ws"]),
    Peer(
        "websocat-client",
        "websocat_client.py",
        ["websocat"],
        needs=["program websocat"],
        cannot={
            "compress": "websocat knows no permessage-deflate",
            "do as it is told": "websocat is run as an echo, which tells nothing",
            "fragment": _NO_FRAGMENTS.format("websocat"),
        },
    ),
    Peer("coder-client", "coder_client", needs=["program coder_client"]),
]
"""Clients, which are tried with this project's own server."""
