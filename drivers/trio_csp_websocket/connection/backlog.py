"""How many bytes wait for the application in a channel, and on the way to it.

A message is bounded by what it takes on the wire, and as a `str` takes up to four times that: one character that needs
four bytes makes all of them do. So what waits is measured as it is in memory. To measure costs time, and so messages
that are too small to matter, because a channel of them takes a quarter of the limit at most, are not.

Messages are numbered as they come. Which of them wait follows from how many do.
"""

from __future__ import annotations

from collections import deque
from operator import itemgetter
from sys import getsizeof
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import csp
    from trio_csp_websocket.protocol.messages import Message

# A quarter, of messages that take four times as much in memory as on the wire.
_PARTS = 16

# Messages are counted together, for as long as they have less than this part of the limit. To note the bytes of each
# would take more memory than the smallest have.
_TOGETHER = 64

_data = itemgetter(1)


class Backlog:
    """Counts the bytes of the messages that wait.

    Args:
        max_bytes: how many are too many.
        capacity: the capacity of the channel in which messages wait.
    """

    __slots__ = ("_bytes", "_max_bytes", "_measured", "too_large", "unmeasured_bytes")

    def __init__(self, max_bytes: int, capacity: int) -> None:
        self.unmeasured_bytes: int = max_bytes // capacity // _PARTS
        """Messages that have up to this many bytes on the wire need not be added."""
        self.too_large: bool = False
        """Whether too many bytes wait, by what it was told. An attribute, as it is asked for after each block."""
        self._max_bytes = max_bytes
        self._bytes = 0
        # The number of the last message of those that are counted together, and their bytes. None while there are none:
        # most connections never have any, and an empty deque takes more memory than all else here.
        self._measured: deque[tuple[int, int]] | None = None

    def add(self, messages: Iterable[Message], last: int) -> None:
        """Add messages that came together; ``last`` is the number of the last of them."""
        if self._measured is None:
            self._measured = deque()
        size = sum(map(getsizeof, map(_data, messages)))
        self._bytes += size
        if self._measured and self._measured[-1][1] < self._max_bytes // _TOGETHER:
            size += self._measured.pop()[1]
        self._measured.append((last, size))
        self.too_large = self._bytes >= self._max_bytes

    def forget(self, taken: int) -> None:
        """Take note that all messages up to this number were taken."""
        measured = self._measured
        while measured and measured[0][0] <= taken:
            self._bytes -= measured.popleft()[1]
        if not measured:
            self._measured = None
        self.too_large = self._bytes >= self._max_bytes

    @property
    def first(self) -> int:
        """The number of the message that has to be taken until fewer bytes wait."""
        return self._measured[0][0] if self._measured else 0


def call_when_drained(channel: csp.Channel[Any], number: int, call: Callable[[], None]) -> Callable[[], None]:
    """Have a function called once: when values are taken and at most ``number`` stay in a channel, or it is closed.

    Nothing public tells when values are taken, and nobody else needs it; to ask again and again would cost each message
    something. Returns a function that calls it off.
    """
    return channel._call_when_drained(number, call)  # noqa: SLF001


def is_awaited(channel: csp.Channel[Any]) -> bool:
    """Tell whether a task waits for a value of a channel, in a receive, a select or a `csp.Selector`."""
    return channel._awaited  # noqa: SLF001  # as above
