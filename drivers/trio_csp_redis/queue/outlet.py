"""`Outlet`: a local channel that is pumped into a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio
from trio.lowlevel import enable_ki_protection

import csp
from csp.errors import NoContextError
from trio_csp_redis.protocol.checks import parse_text
from trio_csp_redis.protocol.codec import encoded

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from trio_csp_redis.connection.commands import Commands
    from trio_csp_redis.protocol.codec import Codec
    from trio_csp_redis.queue.sender import Sender

T = TypeVar("T")

# How many values are sent at once.
_BATCH = 64
MAX_KEY_CHARACTERS = 500


@final
class Outlet(Generic[T]):
    """A block that gives a local channel, whose values are sent to a queue. Made by `Queue.outlet`.

    Leaving it closes the channel, and waits until everything is sent. After an exception of the block it does so for at
    most ``close_timeout`` of the bus, and not at all if the block is cancelled: what is then still in the channel is
    dropped.

    If a value cannot be sent, the channel is closed with the reason as its cause, and what it holds is dropped. Leaving
    the block raises that reason, unless the block raises itself.
    """

    def __init__(
        self,
        commands: Commands,
        sender: Sender,
        capacity: int,
        codec: Codec[T],
        key: Callable[[T], str] | None,
    ) -> None:
        self._commands = commands
        self._sender = sender
        self._codec = codec
        self._key = key
        self._channel: csp.Channel[T] = csp.Channel[T](capacity)
        self._background = csp.BackgroundNursery()
        self._entered = False
        self._failure: BaseException | None = None
        self._finished = trio.Event()

    @enable_ki_protection
    async def __aenter__(self) -> csp.Channel[T]:
        self._commands.check_entered()
        if self._entered:
            raise NoContextError("this outlet was used before; call outlet again for another one")
        nursery = await self._background.__aenter__()
        self._entered = True
        nursery.start_soon(self._pump, name="csp.redis outlet")
        return self._channel

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._channel.close()
        try:
            with trio.CancelScope() as scope:
                if exc is not None:
                    scope.deadline = trio.current_time() + self._commands.settings.close_seconds
                await self._finished.wait()
        except trio.Cancelled:
            if exc is None:
                raise
        finally:
            caught = await self._background.__aexit__(exc_type, exc, traceback)
        if exc is None and self._failure is not None:
            raise self._failure
        return caught

    async def _pump(self) -> None:
        try:
            while True:
                values = await self._next()
                if not values:
                    break
                data: list[bytes] = []
                keys: list[str] = []
                try:
                    for value in values:
                        encoding = encoded(self._codec, value)
                        if self._key is not None:
                            keys.append(parse_text("key", self._key(value), MAX_KEY_CHARACTERS))
                        data.append(encoding)
                finally:  # what came before one that cannot be sent
                    await self._sender.send(data, keys)
        except Exception as error:  # noqa: BLE001  # a user's function may raise anything
            self._failure = error
            self._channel.close(error)
        finally:
            self._finished.set()

    async def _next(self) -> list[T]:
        """Return the values that are there, at least one; none at the end."""
        value, ok = await self._channel.receive()
        values: list[T] = []
        while ok:
            values.append(value)
            if len(values) == _BATCH:
                break
            try:
                value, ok = self._channel.receive_nowait()
            except trio.WouldBlock:
                break
        return values
