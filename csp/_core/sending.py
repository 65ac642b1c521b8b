"""The sending side of a channel: the case of a select that sends, and the tasks that wait to send."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from itertools import repeat, starmap
from typing import TYPE_CHECKING, Any, Never, TypeVar, final

from trio.lowlevel import current_task, reschedule

from csp._core.case import Case
from csp._core.checkpoint import OPERATIONS_PER_SCHEDULE_POINT, turns
from csp._core.waiters import GONE, Waiter

if TYPE_CHECKING:
    from csp._core.sink import Sink

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def move(values: deque[T], to: list[T], number: int) -> int:
    """Move so many values from the left end of a deque to the end of a list; return how many there were.

    Each is in one of the two at any moment; no finalizer runs in between.
    """
    before = len(to)
    with suppress(IndexError):  # a finalizer has taken some, since they were counted
        to.extend(starmap(values.popleft, repeat((), number)))
    return len(to) - before


@final
class SendCase(Case[T_co]):
    """The case of `select` that sends a value to a channel."""

    __slots__ = ("channel", "value")

    # It takes values of type T_co and maybe others; all that is known of a sink of any type is that it takes Never.
    channel: Sink[Never]
    value: T_co

    def __init__(self, channel: Sink[T_co], value: T_co) -> None:
        self.channel = channel
        self.value = value

    def __repr__(self) -> str:
        return f"<send case of {self.channel!r}>"


class SendWaiter(Waiter):
    """A task parked in `Channel.send`."""

    __slots__ = ("_channel", "_failed", "_value")

    def __init__(self, channel: Sink[Any], value: object) -> None:
        self._task = current_task()
        turns.current.left = OPERATIONS_PER_SCHEDULE_POINT
        self._channel = channel
        self._value = value
        self._failed = False

    def offer(self, source: object) -> object:
        task = self._task
        if task is None:
            self._channel._unpark_sender(self)
            return GONE
        self._task = None
        value, self._value = self._value, GONE
        self._channel._unpark_sender(self)
        reschedule(task, self)
        return value

    def fail(self, source: object) -> None:
        task, self._task = self._task, None
        self._channel._unpark_sender(self)
        if task is not None:
            self._failed = True
            reschedule(task, self)

    def leave(self) -> None:
        self._channel._unpark_sender(self)

    def unwrap(self) -> object:
        if self._failed:
            raise self._channel._closed_error()
        return None


class SendManyWaiter(SendWaiter):
    """A task parked in `Channel.send_many`: it keeps its place until its last value is taken."""

    __slots__ = ("_rest",)

    _rest: deque[Any]

    def __init__(self, channel: Sink[Any], values: deque[Any]) -> None:
        super().__init__(channel, values[0])
        # The next value is taken out of the deque, so that a receiver gets it whatever others do to the deque.
        values.popleft()
        self._rest = values

    def offer(self, source: object) -> object:
        rest = self._rest
        if not rest:
            return super().offer(source)
        value, following = self._value, rest.popleft()
        if self._value is not value:  # a finalizer has taken the value meanwhile
            return following
        self._value = following
        return value

    def offer_many(self, source: object, to: deque[Any], most: int) -> int:
        """Move the next values to the end of a deque, up to ``most``; complete the send with the last there is.

        Returns how many were moved.
        """
        value = self._value
        following: list[Any] = []
        number = move(self._rest, following, min(most, len(self._rest)))
        if following:
            last = following.pop()
            if self._value is value:
                self._value = last
                to.append(value)
            else:  # a finalizer has taken it
                following.append(last)
            to.extend(following)
        if number < most and (value := self.offer(source)) is not GONE:
            to.append(value)
            number += 1
        return number

    def fail(self, source: object) -> None:
        task, self._task = self._task, None
        if task is None:
            super().leave()
            return
        self.leave()
        self._failed = True
        reschedule(task, self)

    def leave(self) -> None:
        self._rest.appendleft(self._value)
        self._rest, self._value = deque(), GONE  # nothing more is offered
        super().leave()
