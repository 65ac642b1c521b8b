"""What can be received from: `Source`, and the waiting that all sources share.

A source of your own is a subclass of `Source` with two methods, `is_ready` and `receive_nowait`, that calls `wake`
whenever it has become ready. Everything else is here, for channels and timers as for yours: ``await source.receive()``,
iteration, `select` and `Selector`. `on_wanted` is for sources that fetch their values only when somebody asks, as
`csp.PullSource` does with any async function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from types import MethodType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    NoReturn,
    Protocol,
    Self,
    SupportsIndex,
    TypeGuard,
    TypeVar,
    cast,
)

import outcome
import trio
from trio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint_if_cancelled,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from csp._core.arguments import check_count
from csp._core.case import Case
from csp._core.causes import error_of
from csp._core.checkpoint import OPERATIONS_PER_SCHEDULE_POINT, schedule_point_due, turns
from csp._core.queues import Queue, first, items, join, leave
from csp._core.results import Received, SelectResult, new_tuple
from csp._core.runs import check_run, no_run
from csp._core.waiters import Taken, Waiter
from csp.errors import EndOfChannelError, InvalidTypeError

if TYPE_CHECKING:
    from collections.abc import Callable

T_co = TypeVar("T_co", covariant=True)


class Moment:
    """One reading of Trio's clock, taken when it is first needed.

    A select asks each of its timers whether it is due; all must refer to the same moment, and a select without timers
    must not pay for reading the clock.
    """

    _time: float | None = None

    def time(self) -> float:
        """Return `trio.current_time` as it was at the first call.

        Raises:
            NoContextError: called outside a Trio run.
        """
        if self._time is None:
            try:
                self._time = trio.current_time()
            except RuntimeError:
                raise no_run("a timer") from None
        return self._time


class Watch(Hashable, Protocol):
    """A `Selector`'s registration with a source, as the source sees it."""

    @property
    def alive(self) -> bool:
        """Whether the selector still exists; the garbage collector may take it at any time, in any thread."""
        ...

    @property
    def parked(self) -> bool:
        """Whether a task is parked in the selector, so that a value can be handed to it."""
        ...

    def deliver(self, value: object) -> bool:
        """Hand a value to the task that has waited longest in the selector; tell whether there still was one."""
        ...

    def notify(self) -> None:
        """Tell the selector that the source is ready. It calls `Source._told`, by which the source notes that."""

    def when_forgotten(self, call: Callable[[], object]) -> None:
        """Have a function called if the selector is garbage collected while it watches.

        The garbage collector may call it at any moment, and in any thread.
        """

    def forget(self) -> None:
        """Tell the selector that the source gives nothing any more, and drop the watch."""


class Source(ABC, Generic[T_co]):
    """Something that gives values, each to one receiver.

    Not thread-safe: like most of Trio's objects, a source belongs to one run.
    """

    __slots__ = ("__weakref__", "_handed", "_receivers", "_selectors_turn", "_unaware", "_watches")

    _receivers: Queue[Waiter]
    _watches: Queue[Watch]
    # The watches whose selectors are still to be told that the source is ready. One leaves when its selector is told,
    # and comes back when that finds the source empty. Those of selectors in which a task is parked are all here. Others
    # are told when they are met in a search for a parked one, so that no search meets them again.
    _unaware: Queue[Watch]
    # The watch whose selector was handed a value last: all others come before it.
    _handed: Watch | None
    # Whether it is the turn of the parked selectors; they alternate with plain receivers, so that neither starves.
    _selectors_turn: bool

    one_shot: ClassVar[bool] = False
    """Whether the source gives one value at most, so that all selectors that have it forget it when one has taken that.

    If others may take it, by `receive` or in a select, the source is to be closed then: a selector hears of that."""

    def __init__(self) -> None:
        self._receivers = None
        self._watches = None
        self._unaware = None
        self._handed = None
        self._selectors_turn = False

    # What a subclass provides ----------------------------------------------------------------------------------------

    @abstractmethod
    def is_ready(self, moment: Moment) -> bool:
        """Tell whether `receive_nowait` would succeed at ``moment``."""

    @abstractmethod
    def receive_nowait(self) -> Received[T_co]:
        """Take the next value without waiting.

        Returns ``(value, True)``, or ``(None, False)`` once the source is closed and drained.

        Raises:
            trio.WouldBlock: there is nothing to take now.
        """

    @property
    def closed(self) -> bool:
        """Whether the source is closed; it may still have values. A source that can close overrides it."""
        return False

    @property
    def cause(self) -> BaseException | None:
        """The exception the source was closed with, or None. A source that can be closed with one overrides it."""
        return None

    def _check_entered(self) -> None:
        """Raise `NoContextError` if the source is a block that was not entered."""

    def on_wanted(self) -> None:
        """Called when a value is asked for that is not there, by a task, a `Selector` or a select that polls.

        Does nothing here. A source that has to fetch its values overrides it. It may be called many times for one
        value, must not wait, and must not make the source ready before it returns.
        """

    # What a subclass calls -------------------------------------------------------------------------------------------

    @enable_ki_protection
    def wake(self) -> None:
        """Give what there is to take to the tasks that wait for it; to be called whenever the source becomes ready.

        That is when there is a value, and when there will be no more: `receive_nowait` then returns ``(None, False)``,
        and so every waiting task gets that. What `receive_nowait` raises is raised in the task that waits; what
        `is_ready` raises, here.
        """
        turns.current.changes += 1
        while self.is_ready(Moment()):
            watch = self._parked_watch() if self._receivers is None or self._selectors_turn else None
            if watch is not None:
                self._selectors_turn = False
                watch.notify()  # a task is parked in its selector, which takes the value at once
                self._end_turn(watch)
            elif (waiter := first(self._receivers)) is not None:
                self._selectors_turn = True
                # A select may take another of its cases, if several have become ready at the same moment.
                waiter.take()
            else:
                self._notify()
                break

    @property
    @enable_ki_protection
    def wanted(self) -> bool:
        """Whether a task waits for a value, or a `Selector` has the source among its cases."""
        if self._receivers is not None:
            return True
        while (watch := first(self._watches)) is not None:
            if watch.alive:
                return True
            self._unwatch(watch)
        return False

    def _parked_watch(self) -> Watch | None:
        """Return the first watch whose selector has a parked task, or None.

        Those before it are told that the source is ready, whether or not it is: they leave the queue, and come back
        when they find the source empty.
        """
        while (watch := first(self._unaware)) is not None and not watch.parked:
            watch.notify()
        return watch

    def _end_turn(self, watch: Watch) -> None:
        """Put a selector that was handed a value behind all others."""
        self._handed = watch
        queue = self._unaware
        if isinstance(queue, OrderedDict) and watch in queue:
            queue.move_to_end(watch)

    @enable_ki_protection
    def _notify(self) -> None:
        """Tell the selectors that watch this source that it is ready."""
        for watch in items(self._unaware):
            watch.notify()

    def __reduce_ex__(self, _protocol: SupportsIndex) -> NoReturn:
        raise InvalidTypeError(f"{self!r} cannot be copied or pickled: its values go to one receiver each")

    # Waiting ---------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def receive(self) -> Received[T_co]:
        """Take the next value, waiting until there is one or the source is closed.

        Values come in the order they were sent; waiting receivers are served in the order they came. If cancelled,
        nothing is lost: the next receiver gets the value. See `csp.OPERATIONS_PER_SCHEDULE_POINT` for when other tasks
        run.

        Returns ``(value, True)``, or ``(None, False)`` once the source is closed and drained.
        """
        try:
            turn = turns.current
            changes = turn.changes
            if self.is_ready(Moment()):
                await checkpoint_if_cancelled()
                try:
                    return self.receive_nowait()
                except trio.WouldBlock:
                    if self.is_ready(Moment()) and turn.changes == changes:
                        raise
                    return await self.receive()  # a finalizer was there first
                finally:
                    if schedule_point_due():  # also if it raises: a loop that ignores that must not starve the others
                        await cancel_shielded_checkpoint()
            waiter = ReceiveWaiter(self)
            self._park(waiter)
            if turn.changes != changes and self.is_ready(Moment()):
                waiter.take()
            return cast("Received[T_co]", await wait_task_rescheduled(waiter.abort))
        except Taken:
            return await self.receive()
        except RuntimeError:
            check_run("a receive")
            raise

    @enable_ki_protection
    async def receive_many(self, limit: int) -> list[T_co]:
        """Take the values that are there now, up to ``limit`` of them, waiting for the first.

        For consumers that can treat several at once: a batch costs little more than one value. They come in the order
        of `receive`, and each counts towards the next visit to the scheduler: see `csp.OPERATIONS_PER_SCHEDULE_POINT`.
        If cancelled, nothing is lost. See tokio's ``Receiver::recv_many`` for the model.

        Returns a list of at least one value; an empty one once the source is closed and drained, as `cause` then tells.

        Raises:
            InvalidError: limit is below 1.
            InvalidTypeError: limit is not an int.
        """
        check_count(limit, "limit")
        value, ok = await self.receive()
        if not ok:
            return []
        values = [value]
        self._take_more(values, limit - 1)
        turn = turns.current
        turn.left -= len(values) - 1
        if turn.left <= 0:
            await turn.end()
        return values

    def _take_more(self, values: list[T_co], most: int) -> None:
        """Take the values that are there now, up to ``most``, and put them at the end of a list."""
        # What a source raises that has given something waits for the next receive: what was taken must not be lost.
        with suppress(Exception):
            while most > 0 and self.is_ready(Moment()):
                value, ok = self.receive_nowait()
                if not ok:
                    return
                values.append(value)
                most -= 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        """Take the next value; end when the source is closed and drained.

        Raises:
            StopAsyncIteration: it was closed without a cause.
            Error: it was closed with a cause. A new error each time, raised from the cause: of the same type if that is
                one of `csp.errors`, else a `ChannelBrokenError`, which see.
        """
        value, ok = await self.receive()
        if ok:
            return value
        if self.cause is None:
            raise StopAsyncIteration
        raise error_of(self.cause)

    async def receive_value(self) -> T_co:
        """Take the next value, waiting until there is one; raise if there will be none.

        Like ``anext(source)``, with another error at the end, for code that is not a loop: an answer that must come.
        If cancelled, nothing is lost.

        Raises:
            EndOfChannelError: it was closed without a cause, and is drained.
            Error: it was closed with a cause. A new error each time, raised from the cause: of the same type if that is
                one of `csp.errors`, else a `ChannelBrokenError`, which see.
        """
        value, ok = await self.receive()
        if ok:
            return value
        if self.cause is None:
            raise self._end_of_channel()
        raise error_of(self.cause)

    def _end_of_channel(self) -> EndOfChannelError:
        """Return a new error for a receiver that finds no more values, and no cause."""
        return EndOfChannelError("there are no more values: the channel is closed")

    def gave(self, result: SelectResult[object]) -> TypeGuard[SelectResult[T_co]]:
        """Tell whether a select received a value from here: ``result.value``.

            r = await csp.select(messages.case_receive(), pong.case_receive())
            if messages.gave(r):
                print(r.value.data)  # type checkers know that it is a message

        False for a value sent here, and for the news that the source is closed (``not r.ok``).
        """
        return result.channel is self and result.ok and not result.sent

    def case_receive(self) -> ReceiveCase[T_co]:
        """Return the case of `select` that receives from here; equal to every other one of the same source."""
        return ReceiveCase(self)

    @enable_ki_protection
    def _park(self, waiter: Waiter) -> None:
        """Put a waiter at the end of the queue; it stays until it is served or leaves."""
        if self._receivers is None:
            self._receivers = waiter
        else:
            self._join_receivers(waiter)
        try:
            self.on_wanted()
        except BaseException:  # a task that does not park must not stay in the queue
            self._unpark(waiter)
            raise

    @enable_ki_protection
    def _unpark(self, waiter: Waiter) -> None:
        """Take a waiter out of the queue, if it is there."""
        if self._receivers is waiter:
            self._receivers = None
        else:
            self._leave_receivers(waiter)

    def _join_receivers(self, waiter: Waiter) -> None:
        queue = self._receivers
        joined = join(queue, waiter)
        if self._receivers is queue:
            self._receivers = joined
        elif waiter._task is not None:  # a finalizer has changed the queue meanwhile, and not claimed this one
            self._join_receivers(waiter)

    def _leave_receivers(self, waiter: Waiter) -> None:
        queue = self._receivers
        left = leave(queue, waiter)
        if self._receivers is queue:  # else a finalizer has changed it, and set it
            self._receivers = left

    @enable_ki_protection
    def _watch(self, watch: Watch) -> None:
        """Add a selector's watch."""
        self._drop_dead_watches()
        queue = self._watches
        joined = join(queue, watch)
        if self._watches is not queue:  # a finalizer has changed it meanwhile
            self._watch(watch)
            return
        self._watches = joined
        self._join_unaware(watch)
        self.on_wanted()

    def _drop_dead_watches(self) -> None:
        """Drop watches of selectors that no longer exist.

        Two are looked at for each that is added, so that dead ones do not pile up, and adding stays O(1).
        """
        for _ in range(2):
            queue = self._watches
            oldest = first(queue)
            if oldest is None:
                return
            if not oldest.alive:
                self._unwatch(oldest)
            elif isinstance(queue, OrderedDict) and oldest in queue:
                queue.move_to_end(oldest)

    def _forget_watches(self) -> None:
        """Tell the selectors that watch this source that there will be no other value."""
        for watch in items(self._watches):
            watch.forget()

    def _told(self, watch: Watch) -> None:
        """Note that a selector has been told that the source is ready."""
        queue = self._unaware
        left = leave(queue, watch)
        if self._unaware is queue:  # else a finalizer has changed it, and set it
            self._unaware = left

    def _join_unaware(self, watch: Watch) -> Queue[Watch]:
        """Put a watch at the end of those that are to be told; return the queue."""
        queue = self._unaware
        joined = join(queue, watch)
        if self._unaware is not queue:  # a finalizer has changed it meanwhile
            return self._join_unaware(watch)
        self._unaware = joined
        return joined

    def _await_ready(self, watch: Watch) -> None:
        """Note that a selector, which has found the source empty, is to be told when it is ready.

        It is put first, so that the one that was handed a value last stays behind all others. That one is put last.
        """
        queue = self._join_unaware(watch)
        if watch is not self._handed and isinstance(queue, OrderedDict) and watch in queue:
            queue.move_to_end(watch, last=False)

    @enable_ki_protection
    def _unwatch(self, watch: Watch) -> None:
        """Drop a selector's watch, if it is there."""
        queue = self._watches
        left = leave(queue, watch)
        if self._watches is queue:  # else a finalizer has changed it, and set it
            self._watches = left
        self._told(watch)
        if self._handed is watch:
            self._handed = None


def check_source(source: object, name: str) -> None:
    """Raise for what cannot be received from, saying what to write instead.

    Raises:
        InvalidTypeError: it is not a source.
        NoContextError: it is a block that was not entered.
    """
    if isinstance(source, Source):
        source._check_entered()
        return
    hint = ""
    if isinstance(getattr(source, "channel", None), MethodType):
        hint = "; write client.channel()"
    elif hasattr(source, "__aiter__"):
        hint = "; csp.from_async_iterable makes one"
    elif hasattr(source, "__aenter__"):
        hint = "; enter it first: async with ... as source"
    elif isinstance(source, list | tuple):
        hint = "; give the sources as arguments of their own"
    raise InvalidTypeError(f"{name} must be a csp.Source, such as a channel or a timer, not {source!r}{hint}")


class ReceiveCase(Case[T_co]):
    """The case of `select` and `Selector` that receives from a source."""

    __slots__ = ("channel",)

    channel: Source[T_co]

    def __init__(self, channel: Source[T_co]) -> None:
        self.channel = channel

    def __eq__(self, other: object) -> bool:
        # pyright narrows the type to ReceiveCase[Unknown].
        return isinstance(other, ReceiveCase) and other.channel is self.channel  # pyright: ignore[reportUnknownMemberType]

    def __hash__(self) -> int:
        return id(self.channel)

    def __repr__(self) -> str:
        return f"<receive case of {self.channel!r}>"


class ReceiveWaiter(Waiter):
    """A task parked in `Source.receive`."""

    __slots__ = ("_received", "_source")

    def __init__(self, source: Source[Any]) -> None:
        self._task = current_task()
        turns.current.left = OPERATIONS_PER_SCHEDULE_POINT
        self._source = source

    def deliver(self, source: object, value: object, ok: bool) -> bool:
        task = self._task
        if task is None:
            self._source._unpark(self)
            return False
        self._task = None
        self._source._unpark(self)
        self._received = new_tuple(Received, (value, ok))
        reschedule(task, self)
        return True

    def fail(self, source: object) -> None:
        self.deliver(source, None, False)

    def take(self) -> None:
        task, self._task = self._task, None
        self._source._unpark(self)
        if task is None:
            return
        try:
            self._received = self._source.receive_nowait()
        except trio.WouldBlock:
            reschedule(task, outcome.Error(Taken()))
        except BaseException as error:  # noqa: BLE001  # it is raised in the task
            reschedule(task, outcome.Error(error))
        else:
            reschedule(task, self)

    def leave(self) -> None:
        self._source._unpark(self)

    def unwrap(self) -> object:
        return self._received
