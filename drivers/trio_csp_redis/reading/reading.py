"""What one subscription has read of a stream, and has room for.

A reading is up to date when its last answer had fewer entries than were asked for: then it waits for new ones, with
others, in one request. If not, or if its buffer is full, it is behind: it is read by itself, from its own cursor, and
only while at least half of its room is free. So one that is slow holds a bounded buffer, and holds nobody up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import trio

from trio_csp_redis.protocol.ids import FIRST, id_of
from trio_csp_redis.reading.appetite import Appetite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import csp
    from trio_csp_redis.connection.line import Outage
    from trio_csp_redis.connection.link import Link
    from trio_csp_redis.protocol.ids import Id

Entry: TypeAlias = "tuple[bytes, Sequence[bytes]]"
"""An entry of a stream as it comes: its id, and its fields with their values."""


def _nothing() -> None:
    """Stand in for `Reading.nudge` and `Reading.wake` until they are set."""


class Reading(ABC):
    """What one subscription has read of a stream, and has room for.

    Args:
        key: of the stream.
        capacity: how many entries may be held.
    """

    __slots__ = (
        "_appetite",
        "_capacity",
        "behind",
        "cause",
        "cursor",
        "ended",
        "held",
        "key",
        "link",
        "low",
        "nudge",
        "reached",
        "settled",
        "wake",
    )

    size_at: ClassVar[int]
    """Which of an entry's fields and values is the large one."""

    def __init__(self, key: bytes, capacity: int) -> None:
        self.key: bytes = key
        self._capacity = capacity
        self._appetite = Appetite(capacity)
        self.cursor: Id = FIRST
        """The last entry that was read."""
        self.held: deque[Entry | csp.Gap] = deque()
        """What was read and not received."""
        self.behind: bool = True
        """Whether there may be entries that were not read."""
        self.low: int = self._appetite.low
        """If it is behind: reading goes on when no more are held; else -1."""
        self.link: Link | None = None
        """The connection on which it is known what was missed."""
        self.reached: bool = False
        """Whether the server was reached, and the cursor known."""
        self.settled: trio.Event = trio.Event()
        """Set when that is so, or the reading has ended before."""
        self.ended: bool = False
        """Whether nothing more is read."""
        self.cause: BaseException | None = None
        """Why; None if its block was left."""
        self.nudge: Callable[[], object] = _nothing
        """To be called when no more than `low` are held any more."""
        self.wake: Callable[[], object] = _nothing
        """Called when something was read, and at the end."""

    # What a subclass provides ----------------------------------------------------------------------------------------

    @abstractmethod
    async def open(self, link: Link, outage: Outage | None) -> None:
        """Learn from the server where to read on.

        Args:
            link: a new connection.
            outage: what was between the one before and this one; None for the first.

        Raises:
            Error: the server has refused it.
        """

    @abstractmethod
    def hold(self, entries: Sequence[Entry]) -> None:
        """Put entries into `held`."""

    @abstractmethod
    def start_again(self) -> None:
        """Note that the stream was deleted, and is read from its start."""

    # What the reader calls -------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many entries to ask for; 0 if there is no room."""
        return self._appetite.count(len(self.held))

    @property
    def any_count(self) -> int:
        """How many of its entries an answer that is shared may have."""
        return self._appetite.any_count

    @property
    def readable(self) -> bool:
        """Whether it is behind, and has room enough to be read by itself."""
        return self.behind and len(self.held) <= self.low

    def go_to(self, cursor: Id) -> None:
        """Read on after an entry."""
        self.cursor = cursor

    def set_behind(self, behind: bool) -> None:  # says what is set
        """Note whether there may be entries that were not read."""
        self.behind = behind
        self.low = self._appetite.low if behind else -1

    def take(self, entries: Sequence[Entry], asked: int) -> None:
        """Hold those entries of an answer that there is room for.

        Args:
            entries: what follows the cursor.
            asked: how many were asked for.
        """
        room = self.count
        behind = len(entries) >= asked or len(entries) > room
        entries = entries[:room]
        if entries:
            at = self.size_at
            self._appetite.saw(max([len(fields[at]) for _, fields in entries]), len(self.held))
            self.cursor = id_of(entries[-1][0])
            self.hold(entries)
        self.set_behind(behind)
        if entries:
            self.wake()

    def check(self, last: Id) -> None:
        """Start again if the stream's last entry comes before what was read: it was deleted."""
        if last < self.cursor:
            self.cursor = FIRST
            self.set_behind(True)
            self.start_again()

    def reach(self) -> None:
        """Note that the server was reached, and the cursor is known."""
        self.reached = True
        self.settled.set()

    def leave(self, cause: BaseException | None) -> None:
        """Drop what is held, and note that nothing more is read."""
        self.held.clear()
        self.held = deque()  # for what an answer that is on its way still brings
        self.end(cause)

    def end(self, cause: BaseException | None) -> None:
        """Note that nothing more is read; what is held can still be received."""
        if not self.ended:
            self.ended = True
            self.cause = cause
            self.settled.set()
            self.wake()
