"""One open connection to the server: requests and their answers.

coredis has the socket, the parser, and the matching of answers to requests. Its limits are of time only, and an answer
that is late breaks the connection here, so that a server that has vanished is noticed.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, final

import trio
from coredis import exceptions as reported

import csp
from csp.errors import ConnectionTimeoutError, Error, Kind
from trio_csp_redis.connection.guard import dialled
from trio_csp_redis.protocol import failures

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from trio_csp_redis.connection.settings import Settings
    from trio_csp_redis.protocol.script import Script

_OLDEST = (7, 0)


class Answer(Awaitable[object], Protocol):
    """The answer to a request, which may come."""

    @property
    def complete(self) -> bool:
        """Whether it has come."""
        ...


class Connection(Protocol):
    """What is used of a connection of coredis, whose own types are not all known."""

    client_id: int | None
    server_version: str | None

    @property
    def usable(self) -> bool:
        """Whether requests can be written."""
        ...

    async def run(self, *, task_status: Any) -> None:
        """Log in, and keep the connection."""

    def invalidate(self) -> None:
        """Close it."""

    def create_request(self, command: bytes, *args: bytes | str | int, decode: bool, timeout: float) -> Answer:
        """Write a request; return what waits for its answer."""
        ...


@final
class Link:
    """One open connection. Made by `connected`."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._timeout_seconds = settings.timeout_seconds
        self._url = settings.target.url
        self._broken: Error | None = None
        # The oldest request whose caller was cancelled, and when its answer is due.
        self._abandoned: tuple[Answer, float] | None = None
        self.run_id: bytes = b""
        """Of the server's process: another one after a restart."""
        self.lost: trio.Event = trio.Event()
        """Set when the connection is no more."""

    @property
    def client_id(self) -> int:
        """The number by which the server knows this connection."""
        assert self._connection.client_id is not None
        return self._connection.client_id

    @property
    def version(self) -> str:
        """What the server says its version is."""
        return self._connection.server_version or ""

    @property
    def usable(self) -> bool:
        """Whether requests can be written."""
        return self._connection.usable

    async def keep(self, task_status: trio.TaskStatus[None]) -> None:
        """Log in, and keep the connection until it is lost."""
        try:
            await self._connection.run(task_status=task_status)
        finally:
            self.lost.set()

    def give_up_if_late(self) -> None:
        """Close the connection if an answer is late that nobody waits for any more; who waits, notices by itself."""
        if self._abandoned is not None:
            answer, due = self._abandoned
            if answer.complete:
                self._abandoned = None
            elif trio.current_time() >= due:
                self.break_off(failures.late(f"no answer within {self._timeout_seconds:g} s"))

    def why_lost(self) -> Error:
        """Return what broke the connection."""
        return self._broken or failures.unavailable(f"the connection to {self._url} was lost")

    def break_off(self, error: Error) -> None:
        """Close the connection at once; the first error tells why."""
        self._broken = self._broken or error
        self._connection.invalidate()

    async def call(self, command: bytes, *arguments: bytes | str | int, doing: str, seconds: float = 0.0) -> object:
        """Write a request, and wait for its answer.

        If cancelled, the request may be carried out all the same; its answer is dropped when it comes.

        Args:
            command: the command.
            arguments: its arguments.
            doing: what errors say is being done.
            seconds: for how long the server may hold the answer back, beside the timeout.

        Raises:
            Error: what the server answered; see `failures.answered`.
            ConnectionTimeoutError: no answer in time. The connection is closed.
        """
        return await self._answer(command, arguments, doing, self._timeout_seconds + seconds)

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int], doing: str) -> object:
        """Have the server run a script, and wait for what it returns. As `call`."""
        rest = (len(keys), *keys, *arguments)
        try:
            return await self._asked(b"EVALSHA", (script.sha, *rest), doing, self._timeout_seconds)
        except reported.NoScriptError:  # so it has not run
            pass
        return await self._answer(b"EVAL", (script.code, *rest), doing, self._timeout_seconds)

    async def _answer(
        self, command: bytes, arguments: Sequence[bytes | str | int], doing: str, seconds: float
    ) -> object:
        try:
            return await self._asked(command, arguments, doing, seconds)
        except reported.NoScriptError as error:
            failure = failures.answered(error, doing)
        raise failure

    async def _asked(
        self, command: bytes, arguments: Sequence[bytes | str | int], doing: str, seconds: float
    ) -> object:
        """As `call`, but that `NoScriptError` comes out as it is."""
        due = trio.current_time() + seconds
        try:
            request = self._connection.create_request(command, *arguments, decode=False, timeout=seconds)
            try:
                return await request
            except trio.Cancelled:
                if self._abandoned is None or self._abandoned[0].complete:
                    self._abandoned = request, due
                raise
        except reported.NoScriptError:
            raise
        except TimeoutError:
            failure: Error = failures.late(f"{doing}: no answer within {seconds:g} s")
            self.break_off(failure)
        except Exception as error:  # noqa: BLE001  # the library's connection ends with whatever its tasks raised
            if self._broken is not None:
                failure = failures.unavailable(f"{doing}: the connection was lost: {self._broken.message}")
            else:
                failure = failures.answered(error, doing)
        # Out here, where it does not refer to what was caught: a text of the server's may show who logs in.
        raise failure


@asynccontextmanager
async def connected(settings: Settings) -> AsyncGenerator[Link]:
    """Connect; the connection is closed at the end of the block.

    Raises:
        Error: connecting failed; see `failures.not_connected`.
        ConnectionTimeoutError: it took longer than ``dial_timeout``.
    """
    async with csp.BackgroundNursery() as nursery:
        yield await _dialled(nursery, settings)


async def _dialled(nursery: trio.Nursery, settings: Settings) -> Link:
    url = settings.target.url
    failure: Error | None = None
    await trio.lowlevel.checkpoint_if_cancelled()
    scope = trio.move_on_after(settings.dial_seconds)
    try:
        with scope:
            link = Link(await dialled(settings.target, settings.ssl_context), settings)
            await nursery.start(link.keep)
            await _look(link, url)
            return link
    except Exception as error:  # noqa: BLE001  # the library raises what it likes, also in place of Cancelled
        if not scope.cancel_called:
            failure = error if isinstance(error, Error) else failures.not_connected(error, url)
    await trio.lowlevel.checkpoint_if_cancelled()
    # Out here, where it does not refer to what was caught: a text of the server's may show who logs in.
    raise failure or ConnectionTimeoutError(
        f"connecting to {url} failed: no answer within dial_timeout, {settings.dial_seconds:g} s",
        kind=Kind.TIMEOUT,
        retryable=True,
    )


async def _look(link: Link, url: str) -> None:
    """Learn which server it is, and whether it can serve."""
    doing = f"connecting to {url} failed"
    version = link.version
    if _parsed(version) < _OLDEST:
        raise failures.too_old(f"version {version}")
    server = _fields(await link.call(b"INFO", b"server", doing=doing))
    link.run_id = server.get(b"run_id", b"")
    state = _fields(await link.call(b"INFO", b"persistence", doing=doing))
    if state.get(b"loading") == b"1":
        raise failures.unavailable(f"{doing}: the server is still loading its data")


def _parsed(version: str) -> tuple[int, ...]:
    numbers = version.split(".")[:2]
    return tuple(int(number) if number.isdecimal() else 0 for number in numbers)


def _fields(info: object) -> dict[bytes, bytes]:
    """Return the fields of what INFO answers: lines of ``name:value``."""
    lines = info.splitlines() if isinstance(info, bytes) else []
    return {name: value for name, mark, value in (line.partition(b":") for line in lines) if mark}
