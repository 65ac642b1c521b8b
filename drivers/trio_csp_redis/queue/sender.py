"""Values on their way into a queue."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, final

import trio

from csp.errors import ConnectionFailedError, Error, Kind
from trio_csp_redis.protocol.failures import may_have_arrived
from trio_csp_redis.protocol.names import once_key
from trio_csp_redis.queue.scripts import SEND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_redis.connection.commands import Commands

QueueOverflow: TypeAlias = Literal["wait", "error"]
"""What `Queue.send` does when the queue is full: wait until it is not, or raise."""

# Not the generator of the `random` module, which a program may seed.
_chance = random.Random()

# The waits between two attempts to put something into a full queue: their bound doubles.
_MIN_WAIT_SECONDS = 0.005
_MAX_WAIT_SECONDS = 0.5


@final
class Sender:
    """Puts values into a queue.

    Args:
        commands: of the bus.
        key: of the queue.
        name: of the queue.
        capacity: how much of it may not be done.
        overflow: what becomes of a value that there is no room for.
        key_ttl_milliseconds: how long keys of values are kept.
    """

    def __init__(
        self,
        commands: Commands,
        key: bytes,
        name: str,
        *,
        capacity: int,
        overflow: QueueOverflow,
        key_ttl_milliseconds: int,
    ) -> None:
        self._commands = commands
        self._key = key
        self._name = name
        self.capacity = capacity
        self._overflow: QueueOverflow = overflow
        self._key_ttl_milliseconds = key_ttl_milliseconds
        self._doing = f"sending to queue {name!r}"

    async def send(self, values: Sequence[bytes], keys: Sequence[str] = ()) -> list[str]:
        """Put values into the queue, in order; return their ids.

        Args:
            values: what is sent.
            keys: one for each value, or none: what was sent with a key is not sent again.

        Raises:
            Error: there was no room (kind RATE_LIMITED), or the server says something else.
            ConnectionFailedError: there was no answer; without keys, values may have arrived.
        """
        ids: list[str] = []
        wait = Waiting(self._overflow, self._name, self.capacity)
        while len(ids) < len(values):
            # Those that were not taken are the last ones, but for values with keys, which are then told again.
            answer = await self._send(values[len(ids) :], keys[len(ids) :])
            for entry in answer:
                if entry is None:
                    break
                ids.append(entry.decode())
            if len(ids) < len(values):
                await wait.for_room()
        return ids

    async def _send(self, values: Sequence[bytes], keys: Sequence[str]) -> list[bytes | None]:
        prefix = self._commands.settings.prefix
        once = [once_key(prefix, self._name, key) for key in keys]
        arguments: list[bytes | int] = [self.capacity, self._key_ttl_milliseconds, *values]
        counts = self._commands.counts
        while True:
            link = await self._commands.link()
            try:
                answer = await link.run(SEND, (self._key, *once), arguments, self._doing)
            except ConnectionFailedError as error:
                if link.usable:  # it is what the server says
                    raise
                if not keys:
                    raise may_have_arrived(error) from None
                counts.repeated += len(keys)
                continue
            ids, added = cast("tuple[list[bytes | None], int]", answer)
            counts.sent += added
            return ids


@final
class Waiting:
    """Waits for room in a queue, or says that there is none.

    Args:
        overflow: which of both.
        name: of the queue.
        capacity: of the queue.
    """

    def __init__(self, overflow: QueueOverflow, name: str, capacity: int) -> None:
        self._overflow = overflow
        self._name = name
        self._capacity = capacity
        self._bound_seconds = _MIN_WAIT_SECONDS

    async def for_room(self) -> None:
        """Wait a moment, longer each time.

        Raises:
            Error: it is not to be waited for room. Kind RATE_LIMITED.
        """
        if self._overflow == "error":
            raise Error(
                f"queue {self._name!r} is full: {self._capacity} values are not done",
                kind=Kind.RATE_LIMITED,
                retryable=True,
            )
        self._bound_seconds = min(_MAX_WAIT_SECONDS, 2 * self._bound_seconds)
        await trio.sleep(_chance.uniform(_MIN_WAIT_SECONDS, self._bound_seconds))
