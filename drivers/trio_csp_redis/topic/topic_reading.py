"""What a subscription reads of a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

import csp
from trio_csp_redis.protocol.ids import FIRST, id_of, written
from trio_csp_redis.reading.reading import Reading
from trio_csp_redis.topic.position import Mark, Position, gap, mark_before, mark_of, merged
from trio_csp_redis.topic.scripts import POSITION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_csp_redis.connection.counts import Counts
    from trio_csp_redis.connection.line import Outage
    from trio_csp_redis.connection.link import Link
    from trio_csp_redis.protocol.ids import Id
    from trio_csp_redis.reading.reading import Entry

DATA_AT: Final = 5
"""Where in the fields of an entry the data is."""

_FOREIGN: Final = ()


@final
class TopicReading(Reading):
    """What a subscription reads of a topic.

    Args:
        keys: of the topic and its count.
        capacity: how many values may be held.
        since: the id after which it begins; None for now.
        counts: of the bus.
        doing: what errors say is being done.
    """

    __slots__ = ("_counts", "_doing", "_keys", "_position", "_run_id", "_since")

    size_at = -1

    def __init__(self, keys: tuple[bytes, bytes], capacity: int, since: Id | None, counts: Counts, doing: str) -> None:
        super().__init__(keys[0], capacity)
        self._keys = keys
        self._since = since
        self._counts = counts
        self._doing = doing
        self._position = Position()
        # Of the server when the position was known last.
        self._run_id = b""

    async def open(self, link: Link, outage: Outage | None) -> None:
        first = not self.reached
        since = (self._since if first else self.cursor) or FIRST
        answer = await link.run(POSITION, self._keys, (written(since),), self._doing)
        last_id, epoch, number, found, kept = cast("tuple[bytes, bytes, int, bytes | None, int]", answer)
        last = id_of(last_id)
        if first:
            self._begin(last, Mark(epoch, number), found, kept=bool(kept))
        elif link.run_id != self._run_id:
            self._restarted(last, outage)
        else:
            self._position.reconnected(cast("Outage", outage))
            self.check(last)
        self._run_id = link.run_id
        self.reach()

    def _begin(self, last: Id, mark: Mark, found: bytes | None, *, kept: bool) -> None:
        """Learn where to begin: the server is reached for the first time."""
        if self._since is None:
            self.go_to(last)
            self._position.set(mark)
            self.set_behind(False)
        elif self._since > last:
            self.go_to(self._since)
            self.check(last)
        else:
            self.go_to(self._since)
            if self._since != FIRST:
                self._position.set(mark_before(self._since, mark.epoch, found, kept=kept))

    def _restarted(self, last: Id, outage: Outage | None) -> None:
        """Go on after the server was started again: it may have lost values that were there."""
        if last < self.cursor:
            self.go_to(FIRST)
        self._position.set(None)
        self._miss(gap(outage, None))

    def start_again(self) -> None:
        self._miss(self._position.begin_again())

    def _miss(self, missing: csp.Gap) -> None:
        """Hold a gap; merge it with the last one if there is no room."""
        held = self.held
        if not self.count and isinstance(held[-1], csp.Gap):
            held[-1] = merged(held[-1], missing)
        else:
            held.append(missing)
        self.wake()

    def hold(self, entries: Sequence[Entry]) -> None:
        first, last = mark_of(entries[0][1]), mark_of(entries[-1][1])
        if first is not None and last is not None and self._position.follow(first, last, len(entries)):
            self.held.extend(entries)
            return
        for entry in entries:
            mark = mark_of(entry[1])
            if mark is None:
                self.held.append((entry[0], _FOREIGN))
                continue
            missing = self._position.gap_before(mark)
            if missing is not None:
                self._counts.missed += missing.missed or 0
                self.held.append(missing)
            self.held.append(entry)
