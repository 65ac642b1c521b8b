"""`Queue`: a work queue of a server."""

from __future__ import annotations

import os
import secrets
import socket
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast, final

import trio

from csp.errors import InvalidError, InvalidTypeError
from trio_csp_redis.connection.permission import check_receive, check_send
from trio_csp_redis.connection.visiting import checked
from trio_csp_redis.protocol.checks import parse_seconds, parse_text, parse_whole_number
from trio_csp_redis.protocol.codec import check_codec, encoded
from trio_csp_redis.protocol.names import check_name, dead_key, queue_key
from trio_csp_redis.queue.backlog import Backlog
from trio_csp_redis.queue.dead_letters import DeadLetter, DeadLetters, discard, requeue
from trio_csp_redis.queue.deliveries import Deliveries
from trio_csp_redis.queue.outlet import MAX_KEY_CHARACTERS, Outlet
from trio_csp_redis.queue.scripts import BACKLOG
from trio_csp_redis.queue.sender import QueueOverflow, Sender
from trio_csp_redis.queue.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import csp
    from trio_csp_redis.connection.commands import Commands
    from trio_csp_redis.protocol.codec import Codec
    from trio_csp_redis.reading.reader import Reader

T = TypeVar("T")

_MAX_QUEUE_CAPACITY = 1_000_000_000
_MAX_CAPACITY = 10_000
_MAX_DELIVERIES = 1_000_000
_LEAST_LEASE_SECONDS = 0.1


@final
class Queue(Generic[T]):
    """A work queue of a server: each value is done at least once, by one worker at a time. Made by `Bus.queue`.

    A value leaves the queue when a worker acks it. Values are handed out in the order they were sent, but for those
    that are handed out again.
    """

    def __init__(
        self,
        commands: Commands,
        reader: Reader,
        name: str,
        *,
        capacity: int,
        overflow: QueueOverflow,
        codec: Codec[T],
        key_ttl: csp.Duration,
    ) -> None:
        self._name = check_name("name", name)
        if overflow not in ("wait", "error"):
            raise InvalidError(f'overflow must be "wait" or "error", not {overflow!r}')
        check_codec(codec)
        key_ttl_seconds = parse_seconds("key_ttl", key_ttl, least=0.001)
        prefix = commands.settings.prefix
        self._commands = commands
        self._reader = reader
        self._codec = codec
        self._keys = queue_key(prefix, name), dead_key(prefix, name)
        self._sender = Sender(
            commands,
            self._keys[0],
            name,
            capacity=parse_whole_number("capacity", capacity, 1, _MAX_QUEUE_CAPACITY),
            overflow=overflow,
            key_ttl_milliseconds=int(key_ttl_seconds * 1000),
        )
        self._overflow: QueueOverflow = overflow

    @property
    def name(self) -> str:
        """The name, without the prefix of the bus."""
        return self._name

    async def send(self, value: T | str, *, key: str | None = None) -> str:
        """Put a value into the queue; return the id of its entry.

        It waits for a connection, and while the queue is full, unless its ``overflow`` is ``"error"``. If cancelled
        while it waits for those, nothing was sent. If it fails or is cancelled after it was written, the value may have
        arrived. To try again is harmless with a ``key`` only. The driver does so itself then, when a connection is
        lost.

        Args:
            value: the value; what the codec takes, and without one bytes or a str, which goes as UTF-8.
            key: what makes it the same value, such as the number of an order: if a value was sent with it before,
                within ``key_ttl``, nothing is sent, and the first one's id is returned, also if the queue is full. 1 to
                500 characters.

        Raises:
            ConnectionFailedError: the connection was lost before there was an answer (kind UNAVAILABLE, retryable), and
                there is no key: the value may have arrived; or the bus has ended (INTERNAL).
            ConnectionTimeoutError: there was no answer within the ``timeout`` of the bus. Likewise.
            Error: the queue is full, or the server out of memory (RATE_LIMITED); or a key in Redis holds something else
                (CONFLICT).
            PermissionDeniedError: the policies or the server do not permit it.
            InvalidError: the value cannot be encoded, or the key is malformed; nothing was sent.
            NoContextError: the bus has not been entered.
        """

        def check() -> tuple[bytes, tuple[str, ...]]:
            check_send(self._name)
            data = encoded(self._codec, value)
            keys = () if key is None else (parse_text("key", key, MAX_KEY_CHARACTERS),)
            self._commands.check_entered()
            return data, keys

        data, keys = await checked(check)
        await trio.lowlevel.checkpoint_if_cancelled()
        (entry,) = await self._sender.send((data,), keys)
        return entry

    def outlet(
        self, *, capacity: int = 16, key: Callable[[T], str] | None = None
    ) -> AbstractAsyncContextManager[csp.Channel[T], bool | None]:
        """Return a block that gives a local channel, whose values are sent to the queue.

            async with jobs.outlet() as channel:
                await channel.send(value)

        It is for producers that wait in a `csp.select`, with `csp.Channel.case_send`, and for those that send much:
        values go in batches. A channel's ``send`` returns when the value is in the channel. Leaving the block waits
        until all is sent. If one cannot be sent, the channel is closed with the reason as its cause, and leaving raises
        it; what was in the channel is dropped. The reason may be that a connection was lost: with a ``key`` the driver
        sends again instead. See `send`.

        After an exception of the block, sending goes on for at most ``close_timeout`` of the bus; a cancelled block
        drops what is in the channel.

        Args:
            capacity: of the channel, 0 to 10000.
            key: makes the key of a value: see `send`.

        Raises:
            InvalidError: capacity is out of range.
            InvalidTypeError: an argument has the wrong type.
            PermissionDeniedError: the policies do not permit it.
            NoContextError: on entering: the bus has not been entered; or it is entered twice.
        """
        check_send(self._name)
        if key is not None and not callable(key):
            raise InvalidTypeError(f"key must be a function or None, not {type(key).__name__}")
        size = parse_whole_number("capacity", capacity, 0, _MAX_CAPACITY)
        return Outlet(self._commands, self._sender, size, self._codec, key)

    def work(
        self,
        *,
        consumer: str | None = None,
        capacity: int = 16,
        lease: csp.Duration = "30s",
        max_deliveries: int = 5,
    ) -> Deliveries[T]:
        """Return a worker of the queue: a block, and the source of its deliveries.

            async with jobs.work() as deliveries:
                async for delivery in deliveries:
                    with delivery:
                        await work(delivery.data)

        A worker has a connection of its own. It fetches up to ``capacity`` values ahead. What was fetched is its own
        for the ``lease``, which is renewed until the delivery is settled, however long that takes. If it is not
        renewed, because the worker has died, is stopped or has no connection, the value is handed out to another one.

        Args:
            consumer: the name of the worker, 1 to 500 characters, which no other worker of the queue may have at the
                same time. When a worker is started again with the name it had before, what it had in hand is handed out
                again at once, here or elsewhere. None for a name of its own.
            capacity: how many values are fetched ahead, 1 to 10000. Fewer, where the values are large.
            lease: how soon a value of a worker that has died is handed out again; at least 100 ms. All workers of a
                queue must have the same.
            max_deliveries: how often a value is delivered before it becomes a dead letter; see `Delivery.attempt`.

        Raises:
            InvalidError: an argument is out of range or malformed. On entering: a worker of this process has the name.
            InvalidTypeError: an argument has the wrong type.
            PermissionDeniedError: the policies do not permit it.
            NoContextError: on entering: the bus has not been entered; or it is entered twice.
        """
        check_receive(self._name)
        name = _own_name() if consumer is None else parse_text("consumer", consumer, 500)
        size = parse_whole_number("capacity", capacity, 1, _MAX_CAPACITY)
        lease_seconds = parse_seconds("lease", lease, least=_LEAST_LEASE_SECONDS)
        most = parse_whole_number("max_deliveries", max_deliveries, 1, _MAX_DELIVERIES)

        def worker(wake: Callable[[], object]) -> Worker[T]:
            return Worker(
                self._commands,
                self._keys,
                self._name,
                name,
                capacity=size,
                lease_seconds=lease_seconds,
                max_deliveries=most,
                decode=self._codec[1],
                wake=wake,
            )

        return Deliveries(self._commands, (self._commands.settings.target.url, self._keys[0], name), worker)

    async def depth(self) -> int:
        """Return how many values are not done: those that wait, and those that workers have.

        Raises:
            ConnectionFailedError: as in `send`.
            ConnectionTimeoutError: as in `send`.
            Error: the key of the queue holds something else (CONFLICT).
            PermissionDeniedError: the policies or the server do not permit it.
            NoContextError: the bus has not been entered.
        """
        return (await self.backlog()).depth

    async def backlog(self) -> Backlog:
        """Return what there is in the queue, for monitoring.

        Raises:
            Error: as in `depth`.
        """
        await checked(partial(self._check, check_receive))
        doing = f"looking at queue {self._name!r}"
        answer = await self._commands.run_script(BACKLOG, self._keys, (), doing)
        depth, pending, dead, age_milliseconds = cast("list[int]", answer)
        pending = min(pending, depth)  # somebody may have deleted entries that workers have
        return Backlog(depth - pending, pending, dead, age_milliseconds / 1000)

    def dead_letters(self, *, capacity: int = 64) -> DeadLetters[T]:
        """Return a block and source of the dead letters, from the oldest on; it follows new ones. Reading removes none.

        Args:
            capacity: how many are read ahead, 1 to 10000.

        Raises:
            InvalidError: capacity is out of range.
            InvalidTypeError: capacity has the wrong type.
            PermissionDeniedError: the policies do not permit it.
            NoContextError: on entering: the bus has not been entered; or it is entered twice.
        """
        check_receive(self._name)
        size = parse_whole_number("capacity", capacity, 1, _MAX_CAPACITY)
        return DeadLetters(self._commands, self._reader, self._name, self._keys[1], size, self._codec)

    async def requeue(self, letter: DeadLetter[T]) -> str:
        """Put a dead letter into its queue again, as a new value, and remove it; return the new id.

        It waits while the queue is full, as `send` does.

        Raises:
            Error: it is not among the dead letters any more (kind NOT_FOUND); or as in `send`.
        """
        await checked(partial(self._check, check_send))
        return await requeue(self._commands, self._keys, self._name, self._sender.capacity, self._overflow, letter)

    async def discard(self, letter: DeadLetter[T]) -> None:
        """Remove a dead letter.

        Raises:
            Error: it is not among the dead letters any more (kind NOT_FOUND); or as in `depth`.
        """
        await checked(partial(self._check, check_receive))
        await discard(self._commands, self._keys[1], self._name, letter)

    def _check(self, permit: Callable[[str], None]) -> None:
        """Check that the policies permit something, and that the bus has been entered."""
        permit(self._name)
        self._commands.check_entered()

    def __repr__(self) -> str:
        return f"<csp.redis.Queue {self._name!r} at {self._commands.settings.target.url}>"


def _own_name() -> str:
    return f"{socket.gethostname()[:60]}-{os.getpid()}-{secrets.token_hex(4)}"
