"""`select`: wait for several channel operations and perform exactly one of them."""

from __future__ import annotations

import random
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast, overload

from trio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint_if_cancelled,
    enable_ki_protection,
    wait_task_rescheduled,
)

from csp._checkpoint import visit_due
from csp._sending import SendCase
from csp._source import Moment, ReceiveCase
from csp._waiters import Waiter, new_tuple
from csp.errors import InvalidTypeError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")

Case: TypeAlias = ReceiveCase[T] | SendCase[T]
_AnyCase: TypeAlias = ReceiveCase[Any] | SendCase[Any]

_CASE_TYPES = frozenset((ReceiveCase, SendCase, type(None)))

_rng = random.Random()

# With several cases ready, as many guesses as this find one in most rounds without asking every case.
_GUESSES = 2


class SelectResult(NamedTuple, Generic[T_co]):
    """Which case was performed, and what came of it.

    Attributes:
        channel: the channel or timer of the case; compare it with ``is``. None for the default.
        value: the value received or sent. Typed as a value although it is None when ``ok`` is False and for the
        default.
        ok: False if the channel received from is closed and drained, else True.
        default: whether nothing was ready and ``default=True`` was given.
        index: the position of the case among the arguments (in a `Selector`, its order of adding); -1 for the default.
    """

    channel: object
    value: T_co
    ok: bool
    default: bool
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


_DEFAULT: SelectResult[Any] = SelectResult(None, None, True, True, -1)


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
async def select(*cases: Case[T] | None, default: bool = ..., priority: bool = ...) -> SelectResult[T]: ...
@overload
async def select(*cases: _AnyCase | None, default: bool = ..., priority: bool = ...) -> SelectResult[Any]: ...
@enable_ki_protection
async def select(*cases: _AnyCase | None, default: bool = False, priority: bool = False) -> SelectResult[Any]:
    """Perform exactly one of the cases, waiting until one is ready.

    A receive is ready when there is a value, or when its channel is closed and drained (``ok`` is then False); a send
    is ready when a receiver waits or the buffer has room. None is a case that is never ready, so that a case can be
    switched off. Without any case this waits until it is cancelled. If cancelled, no case was performed.

    See Go's specification, "Select statements", for the model.

    Args:
        cases: what `Channel.case_receive`, `Channel.case_send` and their like on other sources return.
        default: if nothing is ready, return at once with ``default=True`` instead of waiting.
        priority: of several ready cases, perform the first. Otherwise it is chosen uniformly at random.

    Raises:
        InvalidTypeError: an argument is not a case; nothing was done.
        ChannelClosedError: a send was chosen, or woken, whose channel is closed; nothing was sent.
    """
    if not _CASE_TYPES.issuperset(map(type, cases)):
        raise _not_a_case(cases)
    chosen = _choose(cases, priority)
    if chosen is None and not default:
        waiter = SelectWaiter(cases, priority)
        waiter.enqueue()
        return cast("SelectResult[Any]", await wait_task_rescheduled(waiter.abort))
    await checkpoint_if_cancelled()
    try:
        return _DEFAULT if chosen is None else _perform(chosen, cast("_AnyCase", cases[chosen]))
    finally:
        # Also when it raises: a loop that ignores the error must not starve the others.
        if visit_due():
            await cancel_shielded_checkpoint()


def _choose(cases: tuple[_AnyCase | None, ...], priority: bool) -> int | None:
    """Return the index of a case that is ready now, or None."""
    moment = Moment()
    if not priority and len(cases) > _GUESSES:
        # A random case that happens to be ready is a uniform choice among the ready ones, and cheap to find.
        for _ in range(_GUESSES):
            guess = int(_rng.random() * len(cases))
            if _is_ready(cases[guess], moment):
                return guess
    ready: list[int] = []
    for index, case in enumerate(cases):
        if _is_ready(case, moment):
            if priority:
                return index
            ready.append(index)
    if len(ready) > 1:
        return ready[int(_rng.random() * len(ready))]
    return ready[0] if ready else None


def _is_ready(case: _AnyCase | None, moment: Moment) -> bool:
    if case is None:
        return False
    if isinstance(case, ReceiveCase):
        return case.channel.is_ready(moment)
    return case.channel.can_send()


def _perform(index: int, case: Case[T]) -> SelectResult[T]:
    if isinstance(case, ReceiveCase):
        value, ok = case.channel.receive_nowait()
    else:
        value, ok = case.value, True
        case.channel.send_nowait(value)
    result: SelectResult[T] = new_tuple(SelectResult, (case.channel, value, ok, False, index))
    return result


def _not_a_case(cases: tuple[object, ...]) -> InvalidTypeError:
    position, case = next((position, case) for position, case in enumerate(cases) if type(case) not in _CASE_TYPES)
    hint = "; write channel.case_receive()" if hasattr(case, "case_receive") else ""
    return InvalidTypeError(f"argument {position} of select must be a case or None, not {case!r}{hint}")


class SelectWaiter(Waiter):
    """A task parked in `select`, in the queue of every one of its cases."""

    __slots__ = ("_cases", "_closed", "_priority", "_result")

    def __init__(self, cases: tuple[_AnyCase | None, ...], priority: bool) -> None:
        super().__init__()
        self._cases = cases
        self._priority = priority
        self._closed: SendCase[Any] | None = None
        self._result: SelectResult[Any] | None = None

    def enqueue(self) -> None:
        for case in self._cases:
            if case is None:
                continue
            if isinstance(case, ReceiveCase):
                case.channel._park(self)
            else:
                case.channel._park_sender(self)

    def leave(self) -> None:
        for case in self._cases:
            if case is None:
                continue
            if isinstance(case, ReceiveCase):
                case.channel._unpark(self)
            else:
                case.channel._unpark_sender(self)

    def deliver(self, source: object, value: object, ok: bool) -> None:
        index, _ = self._pick(source, receives=True, sends=False)
        self._complete(source, value, ok, index)

    def take(self) -> None:
        # Several timers can be due at once; which of them it is follows the same rules as without waiting.
        # Having left the queues, a select that sends to and receives from one channel does not take itself for another.
        self.leave()
        chosen = _choose(self._cases, self._priority)
        assert chosen is not None
        self._result = _perform(chosen, cast("_AnyCase", self._cases[chosen]))
        self.wake()

    def offer(self, source: object) -> object:
        index, case = self._pick(source, receives=False, sends=True)
        value: object = cast("SendCase[Any]", case).value
        self._complete(source, value, True, index)
        return value

    def fail(self, source: object) -> None:
        index, case = self._pick(source, receives=True, sends=True)
        if isinstance(case, SendCase):
            self._closed = case
        self._complete(source, None, False, index)

    def _pick(self, source: object, *, receives: bool, sends: bool) -> tuple[int, _AnyCase]:
        """Choose among the own cases that ``source`` has just made ready."""
        candidates = [
            (index, case)
            for index, case in enumerate(self._cases)
            if case is not None and case.channel is source and (receives if isinstance(case, ReceiveCase) else sends)
        ]
        if self._priority or len(candidates) == 1:
            return candidates[0]
        return candidates[int(_rng.random() * len(candidates))]

    def _complete(self, source: object, value: object, ok: bool, index: int) -> None:
        self.leave()
        self._result = new_tuple(SelectResult, (source, value, ok, False, index))
        self.wake()

    def unwrap(self) -> object:
        if self._closed is not None:
            raise self._closed.channel._closed_error()
        return self._result
