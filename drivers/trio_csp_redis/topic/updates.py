"""`Updates`: the block and source of a subscription."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, final

import trio
from trio.lowlevel import enable_ki_protection

import csp
from csp.errors import InvalidError
from trio_csp_redis.reading.entries import Entries
from trio_csp_redis.topic.published import Published, published
from trio_csp_redis.topic.topic_reading import DATA_AT

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_csp_redis.connection.commands import Commands
    from trio_csp_redis.reading.reader import Reader
    from trio_csp_redis.topic.topic_reading import TopicReading

T = TypeVar("T")

# A tuple's own constructor costs half of what a NamedTuple's does.
_new_tuple = cast(
    "Callable[[type[tuple[object, ...]], tuple[object, ...]], Any]",
    tuple.__new__,  # pyright: ignore[reportUnknownMemberType]
)


@final
class Updates(Entries["Published[T] | csp.Gap"], Generic[T]):
    """Values of a topic, as a block and a source. Made by `Topic.subscribe`.

    A `csp.Gap` stands where values are missing; see `Topic.subscribe`. Entering does not wait for the server. It is
    closed at the end of the block, which drops what was not received, and when the topic cannot be read any more: its
    ``cause`` tells why.
    """

    __slots__ = ("_counts", "_decode", "_name")

    def __init__(
        self,
        commands: Commands,
        reader: Reader,
        reading: TopicReading,
        name: str,
        decode: Callable[[bytes], T],
    ) -> None:
        super().__init__(commands, reader, reading, "subscribe", f"subscribing to topic {name!r}")
        self._name = name
        self._decode = decode
        self._counts = commands.counts

    @enable_ki_protection
    def receive_nowait(self) -> csp.Received[Published[T] | csp.Gap]:
        """Take the next value, or a gap.

        Returns ``(value, True)``, or ``(None, False)`` once the source is closed and drained.

        Raises:
            trio.WouldBlock: there is none now.
        """
        held = self._held
        reading = self._reading
        if not held:
            self._check_entered()
            if reading.ended:
                return csp.Received(cast("csp.Gap", None), False)
            raise trio.WouldBlock
        item = held.popleft()
        if len(held) == reading.low:
            reading.nudge()
        if isinstance(item, csp.Gap):
            return csp.Received(item, True)
        entry, fields = item
        try:
            data = self._decode(fields[DATA_AT])
        except Exception as error:  # noqa: BLE001  # a user's function may raise anything
            return self._end(entry, error, of_topic=bool(fields))
        self._counts.received += 1
        received: csp.Received[Published[T]] = _new_tuple(csp.Received, (published(entry.decode(), data), True))
        return received

    def _end(self, entry: bytes, error: Exception, *, of_topic: bool) -> csp.Received[Published[T] | csp.Gap]:
        """Close the source at an entry that is no value."""
        why = f"cannot be decoded: {type(error).__name__}" if of_topic else "was not published by csp.redis"
        cause = InvalidError(f"{self._doing}: the entry {entry.decode()} {why}")
        cause.__cause__ = error if of_topic else None
        self._reader.remove(self._reading)
        self._reading.leave(cause)
        return csp.Received(cast("csp.Gap", None), False)

    def __repr__(self) -> str:
        return f"<csp.redis.Updates of {self._name!r}: {self._state()}>"
