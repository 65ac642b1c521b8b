"""`select`: wait for several channel operations and perform exactly one of them.

A select costs what its cases cost: each is looked at, and if none is ready, joins a queue and leaves it again. For a
channel's receive case, by far the most common, the three loops read the channel themselves: with method calls, a case
cost twice as much. Every other case goes through methods.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast, overload

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

from csp._core.channel import ChannelCase
from csp._core.checkpoint import OPERATIONS_PER_SCHEDULE_POINT, schedule_point_due, turns
from csp._core.results import SelectResult, new_tuple
from csp._core.runs import check_run
from csp._core.sending import SendCase
from csp._core.source import Moment, ReceiveCase
from csp._core.waiters import GONE, Taken, Waiter
from csp.errors import InvalidTypeError

if TYPE_CHECKING:
    from csp._core.case import Case

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")

_AnyCase: TypeAlias = ChannelCase[Any] | ReceiveCase[Any] | SendCase[Any]

_CASE_TYPES = frozenset((ReceiveCase, ChannelCase, SendCase, type(None)))

_rng = random.Random()

# So many guesses find a ready case most of the time when several are ready, without asking every case.
_GUESSES = 2


_DEFAULT: SelectResult[Any] = SelectResult(None, None, True, True, -1, False)


# Cases of different types: the value is of one of them.
@overload
async def select(case1: Case[T1] | None, /, *, default: bool = ..., priority: bool = ...) -> SelectResult[T1]: ...
@overload
async def select(
    case1: Case[T1] | None, case2: Case[T2] | None, /, *, default: bool = ..., priority: bool = ...
) -> SelectResult[T1 | T2]: ...
@overload
async def select(
    case1: Case[T1] | None,
    case2: Case[T2] | None,
    case3: Case[T3] | None,
    /,
    *,
    default: bool = ...,
    priority: bool = ...,
) -> SelectResult[T1 | T2 | T3]: ...
@overload
async def select(
    case1: Case[T1] | None,
    case2: Case[T2] | None,
    case3: Case[T3] | None,
    case4: Case[T4] | None,
    /,
    *,
    default: bool = ...,
    priority: bool = ...,
) -> SelectResult[T1 | T2 | T3 | T4]: ...
@overload
async def select(
    case1: Case[T1] | None,
    case2: Case[T2] | None,
    case3: Case[T3] | None,
    case4: Case[T4] | None,
    case5: Case[T5] | None,
    /,
    *,
    default: bool = ...,
    priority: bool = ...,
) -> SelectResult[T1 | T2 | T3 | T4 | T5]: ...
@overload
async def select(
    case1: Case[T1] | None,
    case2: Case[T2] | None,
    case3: Case[T3] | None,
    case4: Case[T4] | None,
    case5: Case[T5] | None,
    case6: Case[T6] | None,
    /,
    *,
    default: bool = ...,
    priority: bool = ...,
) -> SelectResult[T1 | T2 | T3 | T4 | T5 | T6]: ...
@overload
async def select(*cases: Case[T] | None, default: bool = ..., priority: bool = ...) -> SelectResult[T]: ...
@enable_ki_protection
async def select(  # noqa: C901  # a call costs more than a branch
    *cases: Any, default: bool = False, priority: bool = False
) -> SelectResult[Any]:
    """Perform exactly one of the cases, waiting until one is ready.

    A receive is ready when there is a value, or when its channel is closed and drained (``ok`` is then False); a send
    is ready when a receiver waits, the buffer has room, or the channel never waits for any (see `Overflow`). None is a
    case that is never ready: a way to switch a case off. Without any case this waits until it is cancelled. If
    cancelled, no case was performed.

    See Go's specification, "Select statements", for the model.

    Args:
        cases: what `Source.case_receive` and `Channel.case_send` return.
        default: if nothing is ready, return at once with ``default=True`` instead of waiting.
        priority: of several ready cases, perform the first. Otherwise one is chosen uniformly at random.

    Raises:
        InvalidTypeError: an argument is not a case; nothing was done.
        ChannelClosedError: the case that was chosen sends to a channel that is closed, or was closed while waiting;
            nothing was sent.
    """
    if not _CASE_TYPES.issuperset(map(type, cases)):
        raise _not_a_case(cases)
    try:
        turn = turns.current
        changes = turn.changes
        chosen = _choose(cases, priority)
        result: SelectResult[Any]
        if chosen is None and not default:
            waiter = SelectWaiter(cases, priority)
            waiter.enqueue()
            if turn.changes != changes or waiter._task is None:
                waiter.look_again()
            result = await wait_task_rescheduled(waiter.abort)
            return result
        await checkpoint_if_cancelled()
        if chosen is None:
            _want(cases)
            result = _DEFAULT
        else:
            try:
                result = _perform(chosen, cast("_AnyCase", cases[chosen]))
            except Exception as error:
                if type(error) is trio.WouldBlock and (
                    type(cases[chosen]) is SendCase or not _is_ready(cases[chosen], Moment()) or turn.changes != changes
                ):
                    # A finalizer has taken the value, or the room, since the case was found ready.
                    return await select(*cases, default=default, priority=priority)
                if schedule_point_due():  # a loop that ignores the error must not starve the others
                    await cancel_shielded_checkpoint()
                raise
        turn.left -= 1
        if turn.left <= 0:
            await turn.end()
    except Taken:
        return await select(*cases, default=default, priority=priority)
    except RuntimeError:
        check_run("select")
        raise
    return result


def _choose(cases: tuple[_AnyCase | None, ...], priority: bool) -> int | None:
    """Return the index of a case that is ready now, or None."""
    moment = Moment()
    if not priority and len(cases) > _GUESSES:
        # A case guessed at random that is ready is a uniform choice among the ready ones, and cheap to find.
        for _ in range(_GUESSES):
            guess = int(_rng.random() * len(cases))
            if _is_ready(cases[guess], moment):
                return guess
    ready: list[int] = []
    index = 0
    for case in cases:
        if type(case) is ChannelCase:
            channel = case.channel
            is_ready = channel._buffered or channel._senders is not None or channel._closed
        else:
            is_ready = _is_ready(case, moment)
        if is_ready:
            ready.append(index)
            if priority:
                break
        index += 1  # noqa: SIM113  # enumerate makes a tuple for each case
    if not ready:
        return None
    return ready[0 if len(ready) == 1 else int(_rng.random() * len(ready))]


def _is_ready(case: _AnyCase | None, moment: Moment) -> bool:
    if case is None:
        return False
    if isinstance(case, ReceiveCase):
        return case.channel.is_ready(moment)
    return case.channel._can_send()


def _want(cases: tuple[_AnyCase | None, ...]) -> None:
    """Tell the sources of a select that polls that their values are wanted: one that fetches them may do so."""
    for case in cases:
        if type(case) is ReceiveCase:
            case.channel.on_wanted()


def _perform(index: int, case: _AnyCase) -> SelectResult[Any]:
    channel: Any = case.channel
    result: SelectResult[Any]
    if isinstance(case, ReceiveCase):
        value, ok = channel.receive_nowait()
        result = new_tuple(SelectResult, (channel, value, ok, False, index, False))
    else:
        channel.send_nowait(case.value)
        result = new_tuple(SelectResult, (channel, case.value, True, False, index, True))
    return result


def _not_a_case(cases: tuple[object, ...]) -> InvalidTypeError:
    position, case = next((position, case) for position, case in enumerate(cases) if type(case) not in _CASE_TYPES)
    hint = "; write channel.case_receive()" if hasattr(case, "case_receive") else ""
    return InvalidTypeError(f"argument {position} of select must be a case or None, not {case!r}{hint}")


class SelectWaiter(Waiter):
    """A task parked in `select`, in the queues of all its cases."""

    __slots__ = ("_cases", "_closed", "_priority", "_result")

    _result: SelectResult[Any]

    def __init__(self, cases: tuple[_AnyCase | None, ...], priority: bool) -> None:
        self._task = current_task()
        turns.current.left = OPERATIONS_PER_SCHEDULE_POINT
        self._cases = cases
        self._priority = priority
        self._closed: SendCase[Any] | None = None

    def enqueue(self) -> None:
        try:
            for case in self._cases:
                if type(case) is ChannelCase:
                    channel = case.channel
                    if channel._receivers is None:
                        channel._receivers = self
                    else:
                        channel._park(self)
                elif type(case) is ReceiveCase:
                    case.channel._park(self)
                elif type(case) is SendCase:
                    case.channel._park_sender(self)
        except BaseException:  # of a source's on_wanted
            self.leave()
            raise

    def look_again(self) -> None:
        """Take what became ready before the waiter was in every queue, as by a finalizer or a source's on_wanted."""
        if self._task is None:
            self.leave()  # it was completed before it had joined the other queues
        elif _choose(self._cases, self._priority) is not None:
            self.take()

    def leave(self) -> None:
        self._leave(None)

    def _leave(self, source: object) -> list[int]:
        """Take the waiter out of every queue; return the indices of the cases of ``source``."""
        indices: list[int] = []
        index = 0
        for case in self._cases:
            if type(case) is ChannelCase:
                channel = case.channel
                if channel._receivers is self:
                    channel._receivers = None
                else:
                    channel._unpark(self)
                if channel is source:
                    indices.append(index)
            elif case is not None:
                if isinstance(case, ReceiveCase):
                    case.channel._unpark(self)
                else:
                    case.channel._unpark_sender(self)
                if case.channel is source:
                    indices.append(index)
            index += 1  # noqa: SIM113  # as in _choose
        return indices

    def deliver(self, source: object, value: object, ok: bool) -> bool:
        task = self._task
        if task is None:
            self.leave()
            return False
        self._task = None
        index = self._choose_from(source, ReceiveCase)
        self._result = new_tuple(SelectResult, (source, value, ok, False, index, False))
        reschedule(task, self)
        return True

    def offer(self, source: object) -> object:
        task = self._task
        if task is None:
            self.leave()
            return GONE
        self._task = None
        index = self._choose_from(source, SendCase)
        value: object = cast("SendCase[Any]", self._cases[index]).value
        self._result = new_tuple(SelectResult, (source, value, True, False, index, True))
        reschedule(task, self)
        return value

    def fail(self, source: object) -> None:
        task, self._task = self._task, None
        if task is None:
            self.leave()
            return
        index = self._choose_from(source, (ReceiveCase, SendCase))
        case = self._cases[index]
        if isinstance(case, SendCase):
            self._closed = case
        else:
            self._result = new_tuple(SelectResult, (source, None, False, False, index, False))
        reschedule(task, self)

    def take(self) -> None:
        task, self._task = self._task, None
        # Leaving the queues comes first, so that a select that sends to and receives from one channel cannot pair with
        # itself.
        self.leave()
        if task is None:
            return
        try:
            # Several timers can be due at once; which of them is taken follows the same rules as without waiting.
            chosen = _choose(self._cases, self._priority)
            if chosen is None:
                raise Taken
            self._result = _perform(chosen, cast("_AnyCase", self._cases[chosen]))
        except trio.WouldBlock:
            reschedule(task, outcome.Error(Taken()))
        except BaseException as error:  # noqa: BLE001  # it is raised in the task
            reschedule(task, outcome.Error(error))
        else:
            reschedule(task, self)

    def _choose_from(self, source: object, kinds: type | tuple[type, ...]) -> int:
        """Leave every queue; return the index of one of the cases that ``source`` has just made ready."""
        indices = self._leave(source)
        if len(indices) == 1:
            return indices[0]
        indices = [index for index in indices if isinstance(self._cases[index], kinds)]
        return indices[0 if self._priority else int(_rng.random() * len(indices))]

    def unwrap(self) -> object:
        if self._closed is not None:
            raise self._closed.channel._closed_error()
        return self._result
