"""`Bus`: queues and topics of one server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, final, overload

import trio
from trio.lowlevel import enable_ki_protection

import csp
from csp.errors import NoContextError
from trio_csp_redis.connection.commands import Commands
from trio_csp_redis.connection.exceptions import single
from trio_csp_redis.connection.permission import check_connect
from trio_csp_redis.connection.settings import parse_settings
from trio_csp_redis.protocol.codec import BYTES, check_codec
from trio_csp_redis.queue.queue import Queue
from trio_csp_redis.reading.reader import Reader
from trio_csp_redis.topic.topic import Topic

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    from trio_csp_redis.connection.counts import BusStatistics
    from trio_csp_redis.protocol.codec import Codec
    from trio_csp_redis.queue.sender import QueueOverflow

T = TypeVar("T")
U = TypeVar("U")


@final
class Bus(Generic[T]):
    """Queues and topics of one server, as a block.

        async with redis.Bus("redis://localhost:6379") as bus:
            jobs = bus.queue("jobs")
            await jobs.send(b"a job")

    Entering it does not wait for the server, which may be down: what needs a connection waits for one. A bus that has
    lost its connection comes back by itself, after a random wait whose bound doubles from twice ``min_delay`` to
    ``max_delay``. It ends for good after ``max_attempts``, if the server refuses user or password or is too old, and if
    the policies deny the URL. That is never raised by the block: it is the ``error`` of `state`, the ``cause`` of the
    bus's sources, and the cause of what its other calls raise.

    At the end of the block everything that the bus opened is closed. Workers and subscriptions are blocks of their own,
    which should end before.

    Logger ``csp.redis`` tells each change of a connection at level INFO, but at WARNING the first failure of an outage,
    and that the bus has ended for good.

    Args:
        url: ``redis://user:password@host:port/db``, or ``rediss:`` for TLS. User and password are percent-decoded; they
            are shown nowhere.
        ssl_context: for TLS; None for the system's authorities.
        dial_timeout: for a connection to be made, TLS and login included.
        timeout: for an answer to a command. If there is none, the connection is given up.
        close_timeout: for what is to be sent at the end of a worker's block.
        prefix: what all keys in Redis begin with; no braces.
        codec: makes bytes of values, and values of bytes, where a queue or topic has no other: a pair of plain
            functions, such as `JSON`. None: values are bytes, and a str goes as UTF-8.
        min_delay: the shortest wait before the next attempt to connect.
        max_delay: the largest bound of those waits.
        max_attempts: the number of failed attempts in a row after which the bus ends; None for no limit. A connection
            that is lost sooner than the last wait could have been counts as a failed attempt.

    Raises:
        InvalidError: the URL or an option is malformed or out of range. Raised by the call, before any I/O.
        InvalidTypeError: the same for a wrong type.
        PermissionDeniedError: on entering: the policies do not allow ``redis.connect``, or the URL
            (``redis.connect.url``), which is asked without the user.
        NoContextError: on entering outside a Trio run, or for a second time.
    """

    @overload
    def __init__(
        self: Bus[bytes],
        url: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        dial_timeout: csp.Duration = "30s",
        timeout: csp.Duration = "10s",
        close_timeout: csp.Duration = "1s",
        prefix: str = "",
        codec: None = None,
        min_delay: csp.Duration = "50ms",
        max_delay: csp.Duration = "5s",
        max_attempts: int | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        url: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        dial_timeout: csp.Duration = "30s",
        timeout: csp.Duration = "10s",
        close_timeout: csp.Duration = "1s",
        prefix: str = "",
        codec: Codec[T],
        min_delay: csp.Duration = "50ms",
        max_delay: csp.Duration = "5s",
        max_attempts: int | None = None,
    ) -> None: ...
    def __init__(
        self,
        url: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        dial_timeout: csp.Duration = "30s",
        timeout: csp.Duration = "10s",
        close_timeout: csp.Duration = "1s",
        prefix: str = "",
        codec: Codec[Any] | None = None,
        min_delay: csp.Duration = "50ms",
        max_delay: csp.Duration = "5s",
        max_attempts: int | None = None,
    ) -> None:
        settings = parse_settings(
            url,
            ssl_context=ssl_context,
            prefix=prefix,
            dial_timeout=dial_timeout,
            timeout=timeout,
            close_timeout=close_timeout,
            min_delay=min_delay,
            max_delay=max_delay,
            max_attempts=max_attempts,
        )
        if codec is not None:
            check_codec(codec)
        self._codec = cast("Codec[T]", BYTES if codec is None else codec)
        self._commands = Commands(settings)
        self._reader = Reader(self._commands)
        self._background = csp.BackgroundNursery()
        # Around what the bus does: where all is cancelled, workers still say what becomes of their values.
        self._scope = trio.CancelScope(shield=True)

    @property
    def url(self) -> str:
        """Where the server is, with host, port and database, and without the user."""
        return self._commands.settings.target.url

    # The block -------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._commands.entered:
            raise NoContextError("this bus was used before; make another one")
        check_connect(self.url)
        nursery = await self._background.__aenter__()
        self._commands.entered = True
        nursery.start_soon(self._run, name="csp.redis bus")
        return self

    async def _run(self) -> None:
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._commands.run, name="csp.redis commands")
                    nursery.start_soon(self._reader.run, name="csp.redis reader")
            except BaseExceptionGroup as group:
                raise single(group) from None

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._commands.end(None)
        self._scope.cancel()
        return await self._background.__aexit__(exc_type, exc, traceback)

    # Queues and topics -----------------------------------------------------------------------------------------------

    @overload
    def queue(
        self,
        name: str,
        *,
        capacity: int = 100_000,
        overflow: QueueOverflow = "wait",
        codec: None = None,
        key_ttl: csp.Duration = "24h",
    ) -> Queue[T]: ...
    @overload
    def queue(
        self,
        name: str,
        *,
        capacity: int = 100_000,
        overflow: QueueOverflow = "wait",
        codec: Codec[U],
        key_ttl: csp.Duration = "24h",
    ) -> Queue[U]: ...
    def queue(
        self,
        name: str,
        *,
        capacity: int = 100_000,
        overflow: QueueOverflow = "wait",
        codec: Codec[Any] | None = None,
        key_ttl: csp.Duration = "24h",
    ) -> Queue[Any]:
        """Return a work queue of the server. No I/O: Redis makes it when it is first used.

        Args:
            name: 1 to 500 characters, no braces. A topic may have the same.
            capacity: how many values may not be done at a time, 1 to 10**9. Each sender keeps to its own.
            overflow: what `Queue.send` does with more: ``"wait"``, or ``"error"``.
            codec: for this queue; None for that of the bus.
            key_ttl: for how long the keys of `Queue.send` are remembered.

        Raises:
            InvalidError: an argument is malformed or out of range.
            InvalidTypeError: an argument has the wrong type.
        """
        return Queue(
            self._commands,
            self._reader,
            name,
            capacity=capacity,
            overflow=overflow,
            codec=cast("Codec[Any]", self._codec if codec is None else codec),
            key_ttl=key_ttl,
        )

    @overload
    def topic(self, name: str, *, keep: int = 10_000, codec: None = None) -> Topic[T]: ...
    @overload
    def topic(self, name: str, *, keep: int = 10_000, codec: Codec[U]) -> Topic[U]: ...
    def topic(self, name: str, *, keep: int = 10_000, codec: Codec[Any] | None = None) -> Topic[Any]:
        """Return a topic of the server. No I/O: Redis makes it when something is first published.

        Args:
            name: 1 to 500 characters, no braces. A queue may have the same.
            keep: how many values are kept for subscribers that are slow or away, 1 to 10**9. Redis keeps some more, up
                to about 100. Each publisher trims to its own.
            codec: for this topic; None for that of the bus.

        Raises:
            InvalidError: an argument is malformed or out of range.
            InvalidTypeError: an argument has the wrong type.
        """
        return Topic(
            self._commands, self._reader, name, keep, cast("Codec[Any]", self._codec if codec is None else codec)
        )

    # State -----------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> csp.ConnectionState:
        """What the bus is doing, by its connection for commands."""
        return self._commands.state

    def states(self) -> csp.Source[csp.ConnectionState]:
        """Return the source on which each new `state` arrives: always the same one.

        It need not be read: it keeps the latest 16. It is never closed, but silent after the state ``"closed"``.
        """
        return self._commands.states

    def statistics(self) -> BusStatistics:
        """Return counts of what the bus has done so far."""
        return self._commands.counts.statistics()

    def __repr__(self) -> str:
        return f"<csp.redis.Bus {self.state.name}, {self.url}>"
