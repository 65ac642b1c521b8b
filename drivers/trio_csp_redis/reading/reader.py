"""The connection that reads for all subscriptions of a bus.

It works in rounds. In each, the readings that are behind and have room get a request of their own; all that are up to
date share one, which has each key once. All requests of a round are written together. If no reading is behind, the
shared request waits at the server for new entries (BLOCK), until a reading comes, goes, or has room again: then CLIENT
UNBLOCK, on the connection for commands, ends the wait.

No wake-up is lost: what a round reads is decided, and its requests are written, without a checkpoint in between; and
each change from then on is met with CLIENT UNBLOCK until the round has ended, because a request may be on its way when
the first one comes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast, final

import trio

import csp
from csp.errors import Error
from trio_csp_redis.connection.line import Line
from trio_csp_redis.protocol.ids import id_of, written
from trio_csp_redis.protocol.script import Script

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from trio_csp_redis.connection.commands import Commands
    from trio_csp_redis.connection.line import Outage
    from trio_csp_redis.connection.link import Link
    from trio_csp_redis.protocol.ids import Id
    from trio_csp_redis.reading.reading import Entry, Reading

_Answer: TypeAlias = "dict[bytes, list[Entry]] | None"

_DOING = "reading"
_MAX_BLOCK_SECONDS = 5.0
# How long to wait before a request that had not arrived is looked for again.
_UNBLOCK_SECONDS = 0.005
# How many requests that look for something are under way at a time.
_AT_ONCE = 100

# Keys: a stream. Returns the id of the last entry it ever had.
LAST = Script("""
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then
  if string.find(info.err, 'no such key', 1, true) then return '0-0' end
  return info
end
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then return info[i + 1] end
end
""")


@final
class Reader:
    """Reads streams, on one connection.

    Args:
        commands: of the bus.
    """

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._block_seconds = min(_MAX_BLOCK_SECONDS, commands.settings.timeout_seconds / 2)
        # In the order in which they came.
        self._readings: dict[Reading, None] = {}
        # Set when a reading has come, gone, or has room again, since a round was begun.
        self._changed = trio.Event()
        # Set when that is so while a request waits at the server.
        self._interrupted = trio.Event()
        # The connection on which a request waits at the server, or None; and how many such requests there were.
        self._waiting: Link | None = None
        self._waits = 0
        # When to look for streams that were deleted.
        self._look_at = 0.0

    def add(self, reading: Reading) -> None:
        """Read for a subscription from now on; it is ended when the bus ends."""
        if self._commands.ended.is_set():
            reading.end(self._why_ended())
            return
        reading.nudge = self._nudge
        self._readings[reading] = None
        self._nudge()

    def remove(self, reading: Reading) -> None:
        """Read nothing more for a subscription, if anything is."""
        if reading in self._readings:
            del self._readings[reading]
            self._nudge()

    def _nudge(self) -> None:
        self._changed.set()
        if self._waiting is not None:
            self._interrupted.set()

    def _why_ended(self) -> Error:
        return self._commands.cause or self._commands.why_ended()

    async def run(self) -> None:
        """Read until the bus ends."""
        try:
            async with csp.BackgroundNursery() as nursery:
                nursery.start_soon(self._keep)
                await self._commands.ended.wait()
        finally:
            readings, self._readings = self._readings, {}
            for reading in readings:
                reading.end(self._why_ended())

    async def _keep(self) -> None:
        await self._changed.wait()  # there is no connection before something is read
        line = Line(self._commands.settings, self._commands.counts, "topics")
        try:
            error = await line.run(lambda link: self._serve(link, line.outage))
        except Error as failure:
            error = failure
        self._commands.end(error)

    async def _serve(self, link: Link, outage: Outage | None) -> None:
        """Read on one connection."""
        self._look_at = trio.current_time() + self._block_seconds / 2
        async with csp.BackgroundNursery() as nursery:
            nursery.start_soon(self._interrupt)
            while True:
                if trio.current_time() >= self._look_at:
                    await self._look(link)
                    self._look_at = trio.current_time() + self._block_seconds / 2
                await self._open(link, outage)
                await self._round(link)

    # What is known of the streams ------------------------------------------------------------------------------------

    async def _open(self, link: Link, outage: Outage | None) -> None:
        """Have those readings that do not know yet learn where to read on; then all do, and no checkpoint follows."""

        async def open_one(reading: Reading) -> None:
            try:
                await reading.open(link, outage)
            except Error as error:
                self._fail((reading,), error)
            else:
                reading.link = link

        while new := [reading for reading in self._readings if reading.link is not link]:
            await _all(partial(open_one, reading) for reading in new[:_AT_ONCE])

    async def _look(self, link: Link) -> None:
        """Look for streams that were deleted: what comes next may then come before what was read."""

        async def look_at(key: bytes) -> None:
            try:
                last = id_of(cast("bytes", await link.run(LAST, (key,), (), _DOING)))
            except Error as error:
                self._fail(known(key), error)
            else:
                for reading in known(key):
                    reading.check(last)

        def known(key: bytes) -> list[Reading]:
            return [reading for reading in self._readings if reading.key == key and reading.link is link]

        keys = list(dict.fromkeys(reading.key for reading in self._readings if reading.link is link))
        for start in range(0, len(keys), _AT_ONCE):
            await _all(partial(look_at, key) for key in keys[start : start + _AT_ONCE])

    def _fail(self, readings: Iterable[Reading], error: Error) -> None:
        """End readings for an error that does not pass; raise one that does, and that of a connection."""
        if error.retryable:
            raise error
        for reading in readings:
            self.remove(reading)
            reading.end(error)

    # A round ---------------------------------------------------------------------------------------------------------

    async def _round(self, link: Link) -> None:
        changed = self._changed = trio.Event()
        for reading in self._readings:
            if not reading.behind and not reading.count:
                reading.set_behind(True)
        behind = [reading for reading in self._readings if reading.readable]
        current = [reading for reading in self._readings if not reading.behind]
        if behind:
            reads = [partial(self._read_one, link, reading) for reading in behind]
            await _all([*reads, partial(self._read_shared, link, current, 0.0)] if current else reads)
        elif current:
            self._waiting = link
            self._waits += 1
            try:
                await self._read_shared(link, current, self._block_seconds)
            finally:
                self._waiting = None
        else:
            await changed.wait()

    async def _read_one(self, link: Link, reading: Reading) -> None:
        count = reading.count
        try:
            answer = await _xread(link, count, ((reading.key, reading.cursor),), 0.0)
        except Error as error:
            self._fail((reading,), error)
        else:
            reading.take(answer[reading.key] if answer else (), count)

    async def _read_shared(self, link: Link, readings: Sequence[Reading], block_seconds: float) -> None:
        cursors: dict[bytes, Id] = {}
        for reading in readings:
            cursors[reading.key] = min(reading.cursor, cursors.get(reading.key, reading.cursor))
        count = min(max(reading.count for reading in readings), *(reading.any_count for reading in readings))
        try:
            answer = await _xread(link, count, tuple(cursors.items()), block_seconds)
        except Error as error:
            if error.retryable:
                raise
            await self._find(link, cursors, error)
            return
        for reading in readings if answer else ():
            entries = cast("dict[bytes, list[Entry]]", answer).get(reading.key)
            if entries is not None:
                reading.take(_after(reading.cursor, cursors[reading.key], entries), count)

    async def _find(self, link: Link, cursors: dict[bytes, Id], error: Error) -> None:
        """End the readings of the keys that a shared request failed for."""
        failed = False
        for key, cursor in cursors.items():
            try:
                await _xread(link, 1, ((key, cursor),), 0.0)
            except Error as found:
                failed = True
                self._fail([reading for reading in self._readings if reading.key == key], found)
        if not failed:
            raise error

    async def _interrupt(self) -> None:
        """End the wait of a request at the server when there is something else to read."""
        while True:
            await self._interrupted.wait()
            self._interrupted = trio.Event()
            link, waits = self._waiting, self._waits
            try:
                while link is not None and link is self._waiting and waits == self._waits:
                    await self._commands.call(b"CLIENT", b"UNBLOCK", link.client_id, doing=_DOING)
                    await trio.sleep(_UNBLOCK_SECONDS)
            except Error as error:
                if error.retryable:  # else the wait ends by itself
                    self._interrupted.set()
                    await trio.sleep(_UNBLOCK_SECONDS)


async def _xread(link: Link, count: int, cursors: Sequence[tuple[bytes, Id]], block_seconds: float) -> _Answer:
    """Read what follows the cursors; ``block_seconds`` is 0 not to wait for new entries."""
    block = (b"BLOCK", max(1, int(block_seconds * 1000))) if block_seconds else ()
    keys = (key for key, _ in cursors)
    ids = (written(cursor) for _, cursor in cursors)
    answer = await link.call(
        b"XREAD", b"COUNT", count, *block, b"STREAMS", *keys, *ids, doing=_DOING, seconds=block_seconds
    )
    return cast("_Answer", answer)


def _after(cursor: Id, asked: Id, entries: list[Entry]) -> list[Entry]:
    """Return those entries that follow a cursor, of what followed one that is not above it."""
    if cursor == asked:
        return entries
    return [entry for entry in entries if id_of(entry[0]) > cursor]


async def _all(calls: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Call functions at the same time, and wait for all; raise the first error."""
    first, *others = calls
    if not others:
        await first()
        return
    errors: list[Error] = []

    async def call(function: Callable[[], Awaitable[None]]) -> None:
        try:
            await function()
        except Error as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for each in (first, *others):
            nursery.start_soon(call, each)
    if errors:
        raise errors[0]
