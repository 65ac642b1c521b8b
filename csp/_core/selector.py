"""`Selector`: a select that stays registered, so that the cost of a value does not grow with the number of channels.

A select asks every case and joins every queue, each time. A selector registers once: each of its sources keeps a
*watch*, and a source that becomes ready puts its watch on the selector's ready queue. `Selector.select` only looks at
the head of that queue, or parks without registering anywhere.

The ready queue holds hints, not values: a value stays in its channel until it is handed out. So nothing is lost when a
selector is cancelled or dropped, and a watch whose source another receiver has emptied is skipped. While a task is
parked in the selector, the queue is empty and no source is ready: a source that becomes ready then hands its value
straight to the task. A source tells each watch once, until the selector finds it empty and takes it off the queue: so
what a value costs does not grow with the number of selectors that share the source.

A source holds its watches, and a watch holds its selector weakly. The garbage collector chooses the moment in which a
selector is forgotten, and the thread. So nothing is changed at that moment: a source drops the watch the next time it
comes across it. Only timers are told (`_Watch.when_forgotten`), and they too drop it later, in the run.
"""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import suppress
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NoReturn,
    Self,
    SupportsIndex,
    TypeAlias,
    TypeVar,
    cast,
    final,
    overload,
)

import outcome
import trio
from trio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint_if_cancelled,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from csp._core.arguments import check_count
from csp._core.channel import Channel
from csp._core.checkpoint import schedule_point_due, turns
from csp._core.queues import Queue, first, items, join, leave
from csp._core.results import SelectResult, new_tuple
from csp._core.runs import check_run
from csp._core.sending import SendCase
from csp._core.source import Moment, ReceiveCase, Source, check_source
from csp._core.waiters import Taken, Waiter
from csp.errors import InvalidTypeError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")

_Receivable: TypeAlias = Source[T] | ReceiveCase[T]

# How many values one ready channel gives before it is the next one's turn; the docstring of `Selector` says it too.
_VALUES_IN_A_ROW = 16

_MIN_QUEUE_TO_CLEAN = 64

# How often a finalizer may take a value, and have another one come, before a source is blamed that says it is ready.
_TRIES = 8


@final
class Selector(Generic[T]):
    """Receives from many sources, registered once; the cost of a value does not depend on how many there are.

    Fair: ready sources take turns, each giving at most 16 values in a row. A closed channel is reported once, with
    ``ok=False``, and then leaves the selector; a `csp.after` leaves it once its value was taken, whoever took it.
    Several tasks may share a selector, and several selectors and plain receivers may share a channel; each value goes
    to one of them.

    Use it as a context manager, or call `close`; a selector that is forgotten is unregistered too, and no value is
    lost.

    For type checkers, `SelectResult.value` is any of the types of up to six sources; `Source.gave` narrows it.

    Args:
        sources: what to receive from: sources or their receive cases, as for `add`.
    """

    __slots__ = ("__weakref__", "_added", "_closed", "_given", "_parked", "_ready", "_watches")

    # Sources of different types: the value is of one of them.
    @overload
    def __init__(self: Selector[T1], source1: _Receivable[T1], /) -> None: ...
    @overload
    def __init__(self: Selector[T1 | T2], source1: _Receivable[T1], source2: _Receivable[T2], /) -> None: ...
    @overload
    def __init__(
        self: Selector[T1 | T2 | T3], source1: _Receivable[T1], source2: _Receivable[T2], source3: _Receivable[T3], /
    ) -> None: ...
    @overload
    def __init__(
        self: Selector[T1 | T2 | T3 | T4],
        source1: _Receivable[T1],
        source2: _Receivable[T2],
        source3: _Receivable[T3],
        source4: _Receivable[T4],
        /,
    ) -> None: ...
    @overload
    def __init__(
        self: Selector[T1 | T2 | T3 | T4 | T5],
        source1: _Receivable[T1],
        source2: _Receivable[T2],
        source3: _Receivable[T3],
        source4: _Receivable[T4],
        source5: _Receivable[T5],
        /,
    ) -> None: ...
    @overload
    def __init__(
        self: Selector[T1 | T2 | T3 | T4 | T5 | T6],
        source1: _Receivable[T1],
        source2: _Receivable[T2],
        source3: _Receivable[T3],
        source4: _Receivable[T4],
        source5: _Receivable[T5],
        source6: _Receivable[T6],
        /,
    ) -> None: ...
    @overload
    def __init__(self, *sources: _Receivable[T]) -> None: ...
    def __init__(self, *sources: Any) -> None:
        self._watches: dict[ReceiveCase[T], _Watch] = {}
        self._ready: deque[_Watch] = deque()
        self._parked: Queue[_SelectorWaiter] = None
        self._added = 0
        self._given = 0
        self._closed = False
        cases = [_as_case(source, f"argument {position} of Selector") for position, source in enumerate(sources)]
        for case in cases:
            self._add(case)

    def add(self, source: _Receivable[T]) -> None:
        """Add a source, given as such or as its receive case; one that is there already changes nothing.

        Raises:
            InvalidTypeError: it is neither.
            NoContextError: it is a block that was not entered.
            trio.ClosedResourceError: the selector is closed.
        """
        self._add(_as_case(source, "source"))

    @enable_ki_protection
    def _add(self, case: ReceiveCase[T]) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the selector is closed")
        if case in self._watches:
            return
        watch = _Watch(self, case, self._added)
        self._added += 1
        self._watches[case] = watch
        try:
            case.channel._watch(watch)
            ready = case.channel.is_ready(Moment())
        except BaseException:  # of a source's on_wanted or is_ready
            self._drop(watch)
            raise
        if ready:
            watch.notify()

    @enable_ki_protection
    def remove(self, source: _Receivable[T]) -> None:
        """Remove a source, given as such or as its receive case; what it buffers stays there.

        Raises:
            KeyError: the selector does not have it.
        """
        self._drop(self._watches[ReceiveCase(source) if isinstance(source, Source) else source])
        self._end_iteration_if_empty()

    @enable_ki_protection
    def close(self) -> None:
        """Unregister from all sources; tasks in `select` get `trio.ClosedResourceError`, and iteration ends."""
        self._closed = True
        for watch in tuple(self._watches.values()):
            self._drop(watch)
        self._end_iteration_if_empty()
        while (waiter := first(self._parked)) is not None:
            waiter.fail(self)

    @enable_ki_protection
    async def select(self) -> SelectResult[T]:
        """Take the next value of any source, waiting until there is one or a channel is closed.

        If cancelled, nothing is lost. If there is no case left, this waits for one to be added. See
        `csp.OPERATIONS_PER_SCHEDULE_POINT` for when other tasks run.

        Raises:
            trio.ClosedResourceError: the selector is closed, or was closed while waiting.
        """
        result = await self._next(iterating=False)
        assert result is not None
        return result

    @enable_ki_protection
    async def select_many(self, limit: int) -> list[SelectResult[T]]:
        """Take what there is now of all sources, up to ``limit`` values, waiting for the first.

        The results are those that `select` would give one after the other, and each counts towards the next visit to
        the scheduler. If cancelled, nothing is lost.

        Returns a list of at least one result; an empty one, as iteration ends, once no case is left or the selector is
        closed.

        Raises:
            InvalidError: limit is below 1.
            InvalidTypeError: limit is not an int.
        """
        check_count(limit, "limit")
        result = await self._next(iterating=True)
        if result is None:
            return []
        results = [result]
        self._take_more(results, limit)
        turn = turns.current
        turn.left -= len(results) - 1
        if turn.left <= 0:
            await turn.end()
        return results

    def _take_more(self, results: list[SelectResult[T]], limit: int) -> None:
        """Take what there is now, until a list has ``limit`` results."""
        # What a source raises waits for the next select: what was taken must not be lost.
        with suppress(Exception):
            while len(results) < limit:
                result = self._take_buffered()
                if result is None:
                    watch = self._first_ready()
                    if watch is None:
                        break
                    result = self._take(watch)
                results.append(result)
        self._end_iteration_if_empty()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SelectResult[T]:
        """Take the next value, as `select` does; end when no case is left."""
        result = await self._next(iterating=True)
        if result is None:
            raise StopAsyncIteration
        return result

    @enable_ki_protection
    async def _next(  # noqa: C901, PLR0912  # a call costs more than a branch
        self, *, iterating: bool, tries: int = _TRIES
    ) -> SelectResult[T] | None:
        try:
            if self._ready:
                await checkpoint_if_cancelled()
                if (
                    self._ready
                    and type(source := self._ready[0].source) is Channel
                    and source._buffered > 1  # the last one takes more: then it is another's turn
                    and (result := self._take_buffered()) is not None
                ):
                    turn = turns.current
                    turn.left -= 1
                    if turn.left <= 0:
                        await turn.end()
                    return result
                watch = self._first_ready()
                if watch is not None:
                    try:
                        result = self._take(watch)
                        self._end_iteration_if_empty()
                    except trio.WouldBlock:
                        if not tries and watch.source.is_ready(Moment()):
                            raise
                        return await self._next(iterating=iterating, tries=tries - 1)  # a finalizer was there first
                    finally:
                        if schedule_point_due():  # also if it raises, as in Source.receive
                            await cancel_shielded_checkpoint()
                    return result
            if self._closed or (iterating and not self._watches):
                await checkpoint_if_cancelled()
                if schedule_point_due():
                    await cancel_shielded_checkpoint()
                if iterating:
                    return None
                raise trio.ClosedResourceError("the selector is closed")
            waiter = _SelectorWaiter(self, iterating)
            waiter.enqueue()
            return cast("SelectResult[T] | None", await wait_task_rescheduled(waiter.abort))
        except Taken:
            return await self._next(iterating=iterating)
        except RuntimeError:
            check_run("a Selector")
            raise

    def _serve(self) -> None:
        """Give what is ready to the tasks that are parked."""
        while (
            self._ready and (waiter := first(self._parked)) is not None and (watch := self._first_ready()) is not None
        ):
            waiter.take_from(watch)

    def _first_ready(self) -> _Watch | None:
        """Return the head of the ready queue, which has something to give; drop heads that others have emptied."""
        while True:
            # Asked here: behind the question of a while loop there is a jump back, where a finalizer may run.
            watch = self._ready[0] if self._ready else None
            if watch is None:
                return None
            if not watch.dropped and _is_ready(watch.source):
                return watch
            self._pass_on(watch)

    def _take_buffered(self) -> SelectResult[T] | None:
        """Take a value from the head, if it is a channel that has one in its buffer; None if it is anything else.

        The same as `_first_ready` and `_take` without their calls: this is what a selector mostly does.
        """
        watch = self._ready[0] if self._ready else None
        if watch is None:
            return None
        source: object = watch.source
        if type(source) is not Channel:
            return None
        channel: Channel[Any] = source  # pyright: ignore[reportUnknownVariableType]  # of anything
        if channel._buffered < 2 or watch.dropped:
            return None
        try:
            value = channel._take()
        except (trio.WouldBlock, IndexError):  # what is next went around, or a finalizer has taken it
            return None
        if channel._senders is None:
            channel._buffered -= 1
        else:
            channel._refill()
        self._given += 1
        if self._given >= _VALUES_IN_A_ROW:
            self._given = 0
            self._ready.rotate(-1)
        result: SelectResult[T] = new_tuple(SelectResult, (channel, value, True, False, watch.index, False))
        return result

    def _take(self, watch: _Watch) -> SelectResult[T]:
        """Take a value from the source at the head of the ready queue, which has one."""
        source = watch.source
        value, ok = source.receive_nowait()
        self._given += 1
        if source.one_shot:
            source._forget_watches()  # this one too
        elif not ok:
            self._drop(watch)
        elif not _is_ready(source):
            self._pass_on(watch)
        elif self._given >= _VALUES_IN_A_ROW:
            self._given = 0
            self._ready.rotate(-1)
        result: SelectResult[T] = new_tuple(SelectResult, (source, value, ok, False, watch.index, False))
        return result

    def _pass_on(self, watch: _Watch) -> None:
        """Take the head, whose source has nothing more to give now, off the ready queue."""
        if not self._ready or self._ready[0] is not watch:  # a finalizer has done it
            return
        self._ready.popleft()
        self._given = 0
        watch.queued = False
        if watch.dropped:
            return
        source = watch.source
        source._await_ready(watch)
        if _is_ready(source):  # a finalizer has sent something before the source knew of it
            watch.notify()
        elif watch.fetches:
            source.on_wanted()

    def _drop(self, watch: _Watch) -> None:
        """Forget a case. In the ready queue it is left to be skipped later, so that this is O(1), amortised."""
        if watch.dropped:
            return
        watch.dropped = True
        watch.source._unwatch(watch)
        del self._watches[watch.case]
        if not self._watches:
            self._ready.clear()
            self._given = 0
        elif len(self._ready) > 2 * len(self._watches) + _MIN_QUEUE_TO_CLEAN:
            self._ready = deque(watch for watch in self._ready if not watch.dropped)

    def _end_iteration_if_empty(self) -> None:
        """Wake the tasks that iterate, if no case is left; to be called only after the last value was handed out."""
        if self._watches:
            return
        for waiter in items(self._parked):
            if waiter.iterating:
                waiter.deliver(self, None, False)

    def __reduce_ex__(self, _protocol: SupportsIndex) -> NoReturn:
        raise InvalidTypeError(f"{self!r} cannot be copied or pickled: make another one of the same sources")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return how many cases there are."""
        return len(self._watches)

    def __bool__(self) -> bool:
        # An empty selector must not look like no selector.
        return True

    def __contains__(self, source: object) -> bool:
        """Tell whether a source is among the cases, given as such or as its receive case."""
        case: Any = source
        if isinstance(source, Source):
            case = ReceiveCase[Any](case)
        return case in self._watches

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<csp.Selector {state}, {len(self._watches)} cases, {len(self._ready)} ready, at {id(self):#x}>"


class _Watch:
    """A selector's registration with one source; the source holds it, and it holds the selector weakly."""

    __slots__ = ("_selector", "case", "dropped", "fetches", "index", "queued", "source")

    def __init__(self, selector: Selector[Any], case: ReceiveCase[Any], index: int) -> None:
        self._selector = weakref.ref(selector)
        self.case = case
        self.source: Source[Any] = case.channel
        self.index = index
        self.queued = False
        self.dropped = False
        # Whether the source has to be told that its values are wanted.
        # pyright sees the methods as those of Source[Unknown].
        self.fetches = type(self.source).on_wanted is not Source.on_wanted  # pyright: ignore[reportUnknownMemberType]

    @property
    def alive(self) -> bool:
        return self._selector() is not None

    @property
    def parked(self) -> bool:
        selector = self._selector()
        return selector is not None and selector._parked is not None

    def deliver(self, value: object) -> bool:
        result = new_tuple(SelectResult, (self.source, value, True, False, self.index, False))
        selector = self._selector()
        waiter = None if selector is None else first(selector._parked)
        return waiter is not None and waiter.deliver(selector, result, True)

    def notify(self) -> None:
        selector = self._selector()
        if selector is None:
            self.source._unwatch(self)
            return
        self.source._told(self)
        if self.queued:
            return
        self.queued = True
        selector._ready.append(self)
        # A channel that is added can have values for several of the tasks that are parked.
        selector._serve()
        selector._end_iteration_if_empty()

    def when_forgotten(self, call: Callable[[], object]) -> None:
        selector = self._selector()
        assert selector is not None
        self._selector = weakref.ref(selector, lambda _: call())

    def forget(self) -> None:
        selector = self._selector()
        if selector is not None:
            selector._drop(self)
            selector._end_iteration_if_empty()


class _SelectorWaiter(Waiter):
    """A task parked in a selector: in its queue only, however many sources there are."""

    __slots__ = ("_closed", "_result", "_selector", "iterating")

    def __init__(self, selector: Selector[Any], iterating: bool) -> None:
        super().__init__()
        self._selector = selector
        self.iterating = iterating
        self._closed = False

    def enqueue(self) -> None:
        selector = self._selector
        queue = selector._parked
        joined = join(queue, self)
        if selector._parked is queue:
            selector._parked = joined
        elif self._task is not None:  # a finalizer has changed the queue meanwhile, and not claimed this one
            self.enqueue()
            return
        # A finalizer may have sent or closed something, before there was a waiter to serve.
        selector._serve()
        selector._end_iteration_if_empty()
        if selector._closed:
            self.fail(selector)

    def deliver(self, source: object, value: object, ok: bool) -> bool:
        task, self._task = self._task, None
        self.leave()
        if task is None:
            return False
        self._result = value
        reschedule(task, self)
        return True

    def take_from(self, watch: _Watch) -> None:
        """Take a value from the head of the ready queue; what that raises is raised in the task."""
        task, self._task = self._task, None
        self.leave()
        if task is None:
            return
        try:
            self._result = self._selector._take(watch)
        except BaseException as error:  # noqa: BLE001  # it is raised in the task
            reschedule(task, outcome.Error(Taken() if type(error) is trio.WouldBlock else error))
        else:
            reschedule(task, self)

    def fail(self, source: object) -> None:
        if self._task is not None:
            self._closed = True
        self.deliver(source, None, False)

    def leave(self) -> None:
        selector = self._selector
        queue = selector._parked
        left = leave(queue, self)
        if selector._parked is queue:  # else a finalizer has changed it, and set it
            selector._parked = left

    def unwrap(self) -> object:
        if self._closed:
            raise trio.ClosedResourceError("the selector was closed")
        return self._result


def _is_ready(source: Source[Any]) -> bool:
    """Tell whether a source is ready; with fewer calls if it is a channel, as most are."""
    if type(source) is Channel:
        return source._buffered > 0 or source._senders is not None or source._closed
    return source.is_ready(Moment())


def _as_case(source: _Receivable[T], name: str) -> ReceiveCase[T]:
    """Return the receive case of what is given as a source or as its receive case; raise for anything else."""
    if isinstance(source, ReceiveCase):
        return source
    if isinstance(source, SendCase):
        raise InvalidTypeError(
            f"{name} must be a source or its receive case, not {source!r}: a selector takes a value only when it is "
            "asked for one, and so could not tell a receiver that there is something to take; use select for sends"
        )
    check_source(source, name)
    return source.case_receive()
