"""What random programs that mix everything send, and what they note of it for the checks."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from csp.errors import ConnectionTimeoutError

if TYPE_CHECKING:
    from csp.websocket import Client, ServerConnection, Statistics

Fate: TypeAlias = Literal["begun", "sent", "doomed", "posted", "droppable"]
"""What is known of a message: its sending has begun, and may have failed; or it returned. Not all of it was given to be
sent. A hub has sent it: to a member that must get it, or may not."""

_NOISE = "".join(map(chr, random.Random(1).choices(range(33, 127), k=400_000)))
_FILLERS = ["x" * 400_000, _NOISE, "xé€😀" * 100_000]
FIN = "fin"


def content(name: str, size: int) -> str:
    """Return what a message says: its name, how long it is, and more, by its name, up to that size."""
    head = f"{name}:{size}:"
    number = sum(map(ord, name))
    return head + _FILLERS[number % len(_FILLERS)][number : number + max(0, size - len(head))]


def name_of(begin: str) -> str | None:
    """Return which message it is that begins so; None if that is not known yet."""
    parts = begin.split(":", 2)
    return parts[0] if len(parts) == 3 else None


def checked(data: str | bytes) -> str:
    """Return which message it is, which must be whole."""
    text = data if isinstance(data, str) else data.decode()
    name, size, _ = text.split(":", 2)
    assert text == content(name, int(size)), f"{name} is not what was sent: {text[:60]!r}, {len(text)} characters"
    return name


@dataclass
class Ledger:
    """The messages in one direction of a connection."""

    fates: dict[str, Fate] = field(default_factory=dict[str, Fate])
    """Those whose sending began, in the order of the calls."""
    received: dict[str, None] = field(default_factory=dict[str, None])
    left: dict[str, None] = field(default_factory=dict[str, None])
    """Those whose stream was left before their end, or ended with an error."""
    unknown: int = 0
    """Streams that were left before it was known which message it was."""

    def begin(self, size: int, fate: Fate = "begun") -> str:
        """Return the next message."""
        name = f"m{len(self.fates)}"
        self.fates[name] = fate
        return content(name, size)

    def may_drop(self) -> None:
        """Note that what a hub has sent may not come."""
        for name, fate in self.fates.items():
            if fate == "posted":
                self.fates[name] = "droppable"

    def take(self, name: str, *, whole: bool) -> None:
        """Note a message that was received."""
        assert name in self.fates, f"{name} was not sent"
        assert name not in self.received, f"{name} came twice"
        assert name not in self.left, f"{name} came twice"
        assert not whole or self.fates[name] != "doomed", f"{name} was cut, and came as if it were whole"
        (self.received if whole else self.left)[name] = None

    def check(self, *, complete: bool) -> int:
        """Check that nothing was lost; return how many messages of a hub are missing ahead of the last one that came.

        Args:
            complete: whether all that was sent must have come; otherwise all ahead of the last one that has.
        """
        names = list(self.fates)
        seen = self.received.keys() | self.left.keys()
        last = max((number for number, name in enumerate(names) if name in seen), default=-1)
        lost = [name for name in names[: last + 1] if name not in seen and self.fates[name] in ("sent", "posted")]
        if complete:
            # What a hub has sent is given up if it waits behind a message in pieces when the connection is closed.
            lost += [name for name in names[last + 1 :] if self.fates[name] == "sent"]
        assert len(lost) <= self.unknown, f"{lost} did not come of {self.fates}"
        # One that is broadcast while the connection is being closed is counted nowhere.
        return sum(self.fates[name] == "droppable" for name in names[: last + 1] if name not in seen)


class Reader:
    """One task that receives: what it gets comes in order."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._last = -1

    def take(self, data: str | bytes) -> str:
        """Note a whole message."""
        name = checked(data)
        self.note(name, whole=True)
        return name

    def note(self, name: str, *, whole: bool) -> None:
        self._ledger.take(name, whole=whole)
        place = list(self._ledger.fates).index(name)
        assert place > self._last, f"{name} came out of order"
        self._last = place


@dataclass
class Outcome:
    """How a connection has ended for one end."""

    code: int
    closing: bool
    error: Exception | None
    statistics: Statistics

    @property
    def stalled(self) -> bool:
        return isinstance(self.error, ConnectionTimeoutError)


def outcome_of(endpoint: Client | ServerConnection) -> Outcome:
    assert endpoint.close_code is not None
    return Outcome(endpoint.close_code, endpoint.closing, endpoint.error, endpoint.statistics())
