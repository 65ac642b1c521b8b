"""Channels: a buffer of Trio's, and queues of our own around it.

The buffer and its bound are a Trio memory channel, of which only ``send_nowait`` and ``receive_nowait`` are used. No
task ever waits in it: one that has to wait, in a plain operation or in a select, waits in the queues described in
`csp._core.waiters`, because a select must be able to leave all its queues in one step. The memory channel is opened
when the first value is buffered, so that an idle or unbuffered channel stays small.

The values of a `Channel.send_many` that has to wait go around it: from its deque into another one, which is behind the
memory channel, and from there to the receivers. That costs a fifth of a way through the memory channel, and who sends
many values has most to gain. The buffer is both then, under the one bound; once it is empty, it is the memory channel
alone again.

Invariants, outside of a method:

- a value is buffered only while no receiver is parked, and a sender is parked only while the buffer is full (a select
  that both sends to and receives from one unbuffered channel may be in both queues: it never serves itself, because it
  has left them whenever it runs);
- a closed channel has no parked waiter.

A finalizer may send, receive and close in the middle of a method, wherever something is called or allocated. So what a
method has found out before such a point is asked again behind it, or what fails there is tried again. The count of
values goes up before a value is put into the buffer, and down after one was taken from it. So it is never less than
what is in there, and what the count has room for, the memory channel has room for. (``self._buffered -= call()`` would
take back what a finalizer does in the call: the count is read before.)
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeAlias, TypeGuard, TypeVar, cast, final, get_args

import trio
from trio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint,
    checkpoint_if_cancelled,
    enable_ki_protection,
    wait_task_rescheduled,
)

from csp._core.arguments import check_count
from csp._core.checkpoint import Turn, schedule_point_due, turns
from csp._core.ends import ReceiveEnd, SendEnd
from csp._core.queues import Queue, count, first, items, join, leave
from csp._core.results import Received, SelectResult, new_tuple
from csp._core.runs import check_run, no_run
from csp._core.sending import SendCase, SendManyWaiter, SendWaiter, move
from csp._core.source import Moment, ReceiveCase, ReceiveWaiter, Source
from csp._core.waiters import GONE, Taken, Waiter
from csp.errors import (
    ChannelClosedError,
    EndOfChannelError,
    Error,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")


Overflow: TypeAlias = Literal["wait", "drop_oldest", "drop_newest", "close"]
"""What a send to a full buffer does. Only the first waits; with the others, a send is always ready in a select.

- ``"wait"``: wait for room
- ``"drop_oldest"``: drop the value that was buffered first
- ``"drop_newest"``: drop the value being sent
- ``"close"``: close the channel, with an `Error` of kind CANCELED as the cause; the send fails, and what is buffered
  can still be received
"""

_OVERFLOWS = get_args(Overflow)


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """A snapshot of a channel, as `Channel.statistics` returns it."""

    buffered: int
    capacity: float
    tasks_waiting_send: int
    tasks_waiting_receive: int
    selectors: int
    dropped: int
    closed: bool


@final
class ChannelCase(ReceiveCase[T]):
    """The receive case of a channel, whose state and queues `select` reads itself."""

    __slots__ = ()

    # Narrowing would be wrong for an attribute that may be set; this one is set once, by the constructor.
    channel: Channel[Any]  # pyright: ignore[reportIncompatibleVariableOverride]


@final
class Channel(Source[T]):
    """A first-in, first-out channel between tasks, as in Go.

    Args:
        capacity: how many values it buffers: 0 for none (a send waits for a receive), `math.inf` for no bound.
        overflow: what a send to a full buffer does: see `Overflow`.

    As a block, ``with channel:``, it is closed at the end, with the exception that ends the block as the cause: whoever
    receives learns of a producer's failure even if somebody else catches and logs it. Any exception is one, Cancelled
    too; for an end that is meant, such as a timeout, put the cancel scope inside the block.

    Raises:
        InvalidError: capacity is negative, or 0 with an ``overflow``; or ``overflow`` is anything else.
        InvalidTypeError: capacity is neither an int nor `math.inf`.
    """

    __slots__ = (
        "_abandoned",
        "_around",
        "_buffered",
        "_capacity",
        "_cause",
        "_closed",
        "_details",
        "_drained",
        "_dropped",
        "_from_around",
        "_memory",
        "_next",
        "_overflow",
        "_put",
        "_room",
        "_senders",
        "_take",
    )

    # ``send_nowait`` and ``receive_nowait`` of the memory channel, once it is open.
    _memory: tuple[Callable[[T], None], Callable[[], T]]
    # Puts a value into the buffer, once there is one: into the memory channel, or around it.
    _put: Callable[[T], None]
    # Takes one that went around.
    _from_around: Callable[[], T]
    # Takes the next value of it, and raises if there is none there: `trio.WouldBlock`, or IndexError around it.
    _next: Callable[[], T]
    # The same; while `_call_when_drained` waits, with what that does.
    _take: Callable[[], T]

    def __init__(self, capacity: float = 0, *, overflow: Overflow = "wait") -> None:
        super().__init__()
        if capacity != math.inf:
            check_count(capacity, "capacity", least=0, expected="an int of at least 0 or math.inf")
        if overflow not in _OVERFLOWS:
            raise InvalidError(f"overflow must be {', '.join(map(repr, _OVERFLOWS))}, not {overflow!r}")
        if overflow != "wait" and not capacity:
            raise InvalidError(f"overflow={overflow!r} needs a capacity of at least 1, not 0")
        self._capacity = capacity
        # None to wait, so that the hot path need not compare strings.
        self._overflow = None if overflow == "wait" else overflow
        # The capacity once the memory channel is open and until this channel is closed, else 0: the hot path then needs
        # one comparison only.
        self._room = 0.0
        self._put = _not_open
        self._buffered = 0
        # The values that go around the memory channel, from when the first does until the buffer is empty.
        self._around: deque[T] | None = None
        self._senders: Queue[Waiter] = None
        self._closed = False
        self._cause: BaseException | None = None
        self._details: Mapping[str, object] | None = None
        # Closed by its receiving end: senders get BrokenResourceError then.
        self._abandoned = False
        self._dropped = 0
        # What `_call_when_drained` waits to call; None while it does not.
        self._drained: Callable[[], None] | None = None

    # Sending ---------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def send(self, value: T) -> None:
        """Send a value, waiting until a receiver takes it or there is room in the buffer.

        Waiting senders are served in the order they came. If cancelled, the value was not sent. See
        `csp.OPERATIONS_PER_SCHEDULE_POINT` for when other tasks run.

        Raises:
            ChannelClosedError: the channel is closed, or closed while waiting, or by this send (see `Overflow`); the
                value was not sent.
        """
        try:
            if 0 < self._buffered < self._room:
                await checkpoint_if_cancelled()
                self._buffered += 1
                try:
                    self._put(value)
                except trio.WouldBlock:  # a finalizer has filled it
                    self._buffered -= 1
                    await self.send(value)
                    return
            elif self._receivers is not None or self._buffered < self._capacity or self._can_send():
                await checkpoint_if_cancelled()
                try:
                    self.send_nowait(value)
                except ChannelClosedError:
                    if schedule_point_due():  # a loop that ignores the error must not starve the others
                        await cancel_shielded_checkpoint()
                    raise
                except trio.WouldBlock:  # as above
                    await self.send(value)
                    return
            else:
                waiter = SendWaiter(self, value)
                self._park_sender(waiter)
                await wait_task_rescheduled(waiter.abort)
                return
            turn = turns.current
            turn.left -= 1
            if turn.left <= 0:
                await turn.end()
        except RuntimeError:
            check_run("a send")
            raise

    @enable_ki_protection
    async def send_many(self, values: deque[T]) -> None:
        """Send the values of a deque, from its left end; return when all are sent and it is empty.

        The same as a `send` for each of them, but the task waits only once, keeping its place among the senders, and is
        woken when the last value is taken. What is appended to the deque while it waits is sent too, before the values
        of other senders that wait. Meanwhile the next value is not in the deque; if cancelled, all that was not sent is
        in it again.

        Raises:
            ChannelClosedError: the channel is closed, or closed while waiting; what was not sent is in the deque.
            InvalidTypeError: ``values`` is not a deque.
        """
        if not isinstance(values, deque):
            raise InvalidTypeError(f"values must be a collections.deque, not {values!r}")
        if not values:
            check_run("a send")
            await checkpoint()
        while values:
            if not self._can_send():
                try:
                    waiter = SendManyWaiter(self, values)
                except RuntimeError:
                    raise no_run("a send") from None
                if self._buffered and self._around is None:
                    self._begin_around()
                self._park_sender(waiter)
                await wait_task_rescheduled(waiter.abort)
                continue
            if 0 < self._buffered < self._room:
                await checkpoint_if_cancelled()
                turn = turns.current
                self._put_many(values, turn)
                if turn.left <= 0:
                    await turn.end()
                continue
            value = values.popleft()
            try:
                await self.send(value)
            except BaseException:
                values.appendleft(value)
                raise

    def _put_many(self, values: deque[T], turn: Turn) -> None:
        """Send values as long as there is room, nobody is waiting, and no visit to the scheduler is due."""
        while turn.left > 0 and values:
            value = values.popleft()
            if not 0 < self._buffered < self._room:  # full; or a finalizer has received, or closed the channel
                values.appendleft(value)
                return
            self._buffered += 1
            self._put(value)
            turn.left -= 1

    @enable_ki_protection
    def send_nowait(self, value: T) -> None:  # noqa: C901  # a call costs more than a branch
        """Send a value without waiting.

        Raises:
            trio.WouldBlock: no receiver waits and the buffer is full; the value was not sent.
            ChannelClosedError: the channel is closed, or by this send (see `Overflow`); the value was not sent.
        """
        if 0 < self._buffered < self._room:
            # No task is parked to receive, and the selectors know already that there is something to take.
            self._buffered += 1
            self._put(value)
            return
        if self._closed:
            raise self._closed_error()
        if self._watches is not None:
            if not self._buffered and self._hand_over(value):
                return
        elif self._receivers is not None:
            self._selectors_turn = True
            receivers = self._receivers
            if isinstance(receivers, OrderedDict) or not receivers.deliver(self, value, True):
                self._send_to_first(value)
            return
        if self._buffered >= self._capacity:
            self._send_to_full(value)
        elif self._put is _not_open:
            self._open()
            self.send_nowait(value)
        elif self._around is not None and not self._buffered:
            self._end_around()
            self.send_nowait(value)
        else:
            self._buffered += 1
            self._put(value)
            turns.current.changes += 1
            if self._unaware is not None:
                self._notify()

    def _send_to_first(self, value: T) -> None:
        """Give a value to the task that has waited longest, of several; send it anew if a finalizer was there first."""
        waiter = first(self._receivers)
        if waiter is None:  # a finalizer sends, while the last is just leaving
            self._receivers = None
        if waiter is None or not waiter.deliver(self, value, True):
            self.send_nowait(value)

    def _send_to_full(self, value: T) -> None:
        """Do what `Overflow` says with a value for which there is no room."""
        if self._overflow is None:
            raise trio.WouldBlock
        if self._overflow == "close":
            self.close(_not_kept_up(self._capacity))
            raise self._closed_error()
        self._dropped += 1
        if self._overflow == "drop_oldest":
            # The buffer is empty, in spite of the count, if a finalizer sends this value in the middle of another send
            # or a receive. Then this value is the one that is dropped.
            with suppress(trio.WouldBlock):
                dropped = self._take()
                self._buffered -= 1
                self.send_nowait(value)
                # Only now: its finalizer may do anything, such as closing the channel.
                del dropped

    def send_from_thread(self, value: T, *, trio_token: trio.lowlevel.TrioToken | None = None) -> None:
        """Send a value from another thread, blocking it until a receiver takes the value or there is room.

        Closing the channel ends the wait, which tells the thread to stop.

        Args:
            value: what to send.
            trio_token: the run to send into, for threads that `trio.to_thread.run_sync` did not start: what
                `trio.lowlevel.current_trio_token` returned there. With it, cancelling such a call does not end the
                wait.

        Raises:
            ChannelClosedError: the channel is closed, or closed while waiting; the value was not sent.
            trio.RunFinishedError: the run is over, or ended while waiting; the value was not sent.
            trio.Cancelled: the call of `trio.to_thread.run_sync` was cancelled while waiting; the value was not sent.
            NoContextError: called in the thread that runs Trio, which it would block.
            RuntimeError: Trio did not start the thread, and no trio_token was given.
        """
        if trio.lowlevel.in_trio_run():
            raise NoContextError(
                "send_from_thread blocks, so it is for other threads: here, `await channel.send(value)`"
            )
        if trio_token is None:
            trio.from_thread.run(self.send, value)
            return
        try:
            trio.from_thread.run(self.send, value, trio_token=trio_token)
        except trio.Cancelled:
            # Only the end of the run cancels it; code in a thread that Trio did not start does not know Cancelled.
            raise trio.RunFinishedError("the Trio run ended before the value was sent") from None

    def _hand_over(self, value: T) -> bool:
        """Give a value being sent to a task that is parked here, if there is one; tell whether there was.

        Tasks in `receive` and in `select` are served in the order they came; they take turns with a `Selector` in which
        a task is parked.
        """
        if self._receivers is None or self._selectors_turn:
            watch = self._parked_watch()
            if watch is not None and watch.deliver(value):
                self._selectors_turn = False
                self._end_turn(watch)
                return True
        waiter = first(self._receivers)
        if waiter is None:
            return False
        self._selectors_turn = True
        return waiter.deliver(self, value, True) or self._hand_over(value)

    def _can_send(self) -> bool:
        """Tell whether `send_nowait` would not block: it would succeed, or raise because the channel is closed."""
        return (
            self._buffered < self._capacity
            or self._receivers is not None
            or self._closed
            or self._overflow is not None
            or (self._unaware is not None and self._parked_watch() is not None)
        )

    def case_send(self, value: T) -> SendCase[T]:
        """Return the case of `select` that sends a value here."""
        return SendCase(self, value)

    def took(self, result: SelectResult[object]) -> TypeGuard[SelectResult[T]]:
        """Tell whether a select sent a value here: ``result.value``. See `gave` for what it received."""
        return result.sent and result.channel is self

    def _park_sender(self, waiter: Waiter) -> None:
        """Put a waiter at the end of the queue of senders; it stays until it is served or leaves."""
        queue = self._senders
        joined = waiter if queue is None else join(queue, waiter)
        if self._senders is queue:
            self._senders = joined
        elif waiter._task is not None:  # a finalizer has changed the queue meanwhile, and not claimed this one
            self._park_sender(waiter)
            return
        if self._closed:  # by a finalizer, after it was asked
            self._fail_waiters()
        elif self._unaware is not None:
            self._notify()

    def _unpark_sender(self, waiter: Waiter) -> None:
        """Take a waiter out of the queue of senders, if it is there."""
        queue = self._senders
        left = None if queue is waiter else leave(queue, waiter)
        if self._senders is queue:  # else a finalizer has changed it, and set it
            self._senders = left

    # Receiving -------------------------------------------------------------------------------------------------------

    def case_receive(self) -> ReceiveCase[T]:
        """Return the case of `select` that receives from here; equal to every other one of the same channel."""
        return ChannelCase(self)

    def _park(self, waiter: Waiter) -> None:
        # As in Source, without the call of on_wanted.
        if self._receivers is None:
            self._receivers = waiter
        else:
            self._join_receivers(waiter)
        if self._closed:  # by a finalizer, after it was asked
            self._fail_waiters()

    def is_ready(self, moment: Moment) -> bool:
        """Tell whether `receive_nowait` would not block."""
        return self._buffered > 0 or self._senders is not None or self._closed

    @enable_ki_protection
    async def receive(self) -> Received[T]:  # noqa: C901  # a call costs more than a branch
        """Take the next value, waiting until there is one or the channel is closed.

        Values come in the order they were sent; waiting receivers are served in the order they came. If cancelled,
        nothing is lost: the next receiver gets the value. See `csp.OPERATIONS_PER_SCHEDULE_POINT` for when other tasks
        run.

        Returns ``(value, True)``, or ``(None, False)`` once the channel is closed and drained.
        """
        try:
            # As in Source, but without a call of is_ready: this is the hottest path there is.
            received: Received[T]
            if self._buffered:
                await checkpoint_if_cancelled()
                try:
                    value = self._take()
                except (trio.WouldBlock, IndexError):  # what is next went around, or a finalizer has taken it
                    self._go_around()
                    return await self.receive()
                senders = self._senders
                if senders is None:
                    self._buffered -= 1
                elif isinstance(senders, OrderedDict) or (offered := senders.offer(self)) is GONE:
                    self._refill()
                else:  # as in _refill, without the call
                    self._put(offered)
                received = new_tuple(Received, (value, True))
            elif self._senders is not None or self._closed:
                await checkpoint_if_cancelled()
                try:
                    received = self.receive_nowait()
                except trio.WouldBlock:  # as above
                    return await self.receive()
            else:
                waiter = ReceiveWaiter(self)
                self._park(waiter)
                if self._buffered:  # a finalizer has sent something, before there was a waiter to serve
                    waiter.take()
                received = await wait_task_rescheduled(waiter.abort)
                return received
            turn = turns.current
            turn.left -= 1
            if turn.left <= 0:
                await turn.end()
        except Taken:
            return await self.receive()
        except RuntimeError:
            check_run("a receive")
            raise
        return received

    @enable_ki_protection
    async def __anext__(self) -> T:
        """Take the next value, as in `Source`; a call less for each."""
        if not self._buffered:
            return await super().__anext__()
        try:
            await checkpoint_if_cancelled()
            try:
                value = self._take()
            except (trio.WouldBlock, IndexError):  # as in receive
                self._go_around()
                return await super().__anext__()
            senders = self._senders
            if senders is None:
                self._buffered -= 1
            elif isinstance(senders, OrderedDict) or (offered := senders.offer(self)) is GONE:
                self._refill()
            else:
                self._put(offered)
            turn = turns.current
            turn.left -= 1
            if turn.left <= 0:
                await turn.end()
        except RuntimeError:
            check_run("a receive")
            raise
        return value

    @enable_ki_protection
    def receive_nowait(self) -> Received[T]:
        """Take the next value without waiting.

        Returns ``(value, True)``, or ``(None, False)`` once the channel is closed and drained.

        Raises:
            trio.WouldBlock: the channel is open, and nothing is buffered and no sender waits.
        """
        if self._buffered:
            try:
                value = self._take()
            except (trio.WouldBlock, IndexError):
                if self._go_around():
                    return self.receive_nowait()
                raise trio.WouldBlock from None  # a finalizer takes it, in the middle of a receive
            if self._senders is None:
                self._buffered -= 1
            else:
                self._refill()
        elif self._senders is not None and (offered := self._next_offer()) is not GONE:
            value = cast("T", offered)
        elif self._closed:
            return Received(cast("T", None), False)
        else:
            raise trio.WouldBlock
        received: Received[T] = new_tuple(Received, (value, True))
        return received

    def _take_more(self, values: list[T], most: int) -> None:
        around = self._around
        if around is None or self._drained is not None:
            super()._take_more(values, most)
            return
        # What the memory channel still has comes before.
        there = len(values)
        super()._take_more(values, min(most, self._buffered - len(around)))
        most -= len(values) - there
        if most > 0 and self._go_around() and self._around is around:
            self._take_from_around(values, most, around)

    def _take_from_around(self, values: list[T], most: int, around: deque[T]) -> None:
        """Take values, all of which have gone around the memory channel, or will do."""
        sender = self._senders
        if isinstance(sender, SendManyWaiter):
            # For what is taken as much comes from there.
            self._buffered += most
            missing = most - sender.offer_many(self, around, most)
            self._buffered -= missing
        elif sender is not None:
            super()._take_more(values, most)
            return
        number = move(around, values, min(most, len(around)))
        self._buffered -= number

    def _next_offer(self) -> Any:
        """Return the value of the sender that has waited longest; `GONE` if none waits any more."""
        while (waiter := first(self._senders)) is not None:
            if (value := waiter.offer(self)) is not GONE:
                return value
        return GONE

    def _refill(self) -> None:
        """Give the place of a value that was taken to the sender that has waited longest."""
        value = self._next_offer()
        if value is GONE:
            self._buffered -= 1
        else:
            self._put(cast("T", value))

    def _open(self) -> None:
        """Open the memory channel, unless it is open."""
        sender, receiver = trio.open_memory_channel[T](self._capacity)
        memory = put, take = sender.send_nowait, receiver.receive_nowait
        # Only now: a finalizer may have opened one while this one was made.
        if self._put is _not_open:
            self._memory = memory
            self._put = put
            self._next = self._take = take
            self._room = 0 if self._closed else self._capacity

    # In the next three, what is made comes first, and then all is set in one step, in which no finalizer runs.

    def _begin_around(self) -> None:
        """Put values around the memory channel from now on."""
        around = deque[T]()
        put, take = around.append, around.popleft
        self._around = around
        self._put = put
        self._from_around = take

    def _go_around(self) -> bool:
        """Take the next values from those that went around the memory channel; tell whether there are any."""
        if not self._around:
            return False
        self._next = self._from_around
        if self._drained is None:  # else what `_take` is takes the next
            self._take = self._from_around
        return True

    def _end_around(self) -> None:
        """Put values into the memory channel again, if the buffer is empty."""
        put, take = self._memory
        if not self._buffered:
            self._around = None
            self._put = put
            self._next = take
            if self._drained is None:
                self._take = take

    def _call_when_drained(self, number: int, call: Callable[[], None]) -> Callable[[], None]:
        """Have a function called, once: when values are taken and at most ``number`` stay, or the channel is closed.

        For drivers that bound what waits here by more than the number of values. Of several calls, the last is to be
        called off first.

        Returns a function that calls it off.
        """
        outer = self._drained
        before = self._take

        def taking() -> T:
            value = self._next() if outer is None else before()
            # It is counted until this returns. If senders wait, the next of them takes its place.
            if self._buffered <= number + 1 and self._senders is None:
                drained()
            return value

        def drained() -> None:
            call_off()
            call()

        def call_off() -> None:
            self._take = self._next if outer is None else before
            self._drained = outer

        self._take = taking
        self._drained = drained
        return call_off

    @property
    @enable_ki_protection
    def _awaited(self) -> bool:
        """Whether a task waits for a value, in a receive, a select or a selector. For drivers."""
        return self._receivers is not None or any(watch.parked for watch in items(self._unaware))

    # Closing ---------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    def close(self, cause: BaseException | None = None, *, details: Mapping[str, object] | None = None) -> None:
        """Close the channel: no more sends; what is buffered stays receivable.

        Waiting senders get `ChannelClosedError`, waiting receivers ``(None, False)``. Closing it again does nothing;
        the first cause stays.

        Args:
            cause: the error that ended the stream of values; `cause` returns it, and ``async for`` raises an error
                caused by it.
            details: facts about an end without a cause, for the `EndOfChannelError` of `receive_value`.

        Raises:
            InvalidTypeError: cause is not an exception, or details is not a mapping.
        """
        if cause is not None and not isinstance(cause, BaseException):
            raise InvalidTypeError(f"cause must be an exception or None, not {cause!r}")
        if details is not None and not isinstance(details, Mapping):
            raise InvalidTypeError(f"details must be a mapping or None, not {details!r}")
        if self._closed:
            return
        self._closed = True
        self._room = 0
        self._cause = cause
        self._details = None if details is None else dict(details)
        turns.current.changes += 1
        self._fail_waiters()
        if self._drained is not None:
            self._drained()
        self._notify()

    def _fail_waiters(self) -> None:
        """Tell all that wait that the channel is closed."""
        while (waiter := first(self._senders)) is not None:
            waiter.fail(self)
        while (waiter := first(self._receivers)) is not None:
            waiter.fail(self)

    @enable_ki_protection
    def _abandon(self) -> None:
        """Close the channel from its receiving end: what is buffered is discarded too."""
        self._abandoned = True
        self.close()
        while self._buffered:
            self.receive_nowait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(exc)

    def _closed_error(self) -> ChannelClosedError:
        """Return a new error for a sender that finds the channel closed."""
        error = ChannelClosedError("cannot send: the channel is closed")
        error.__cause__ = self._cause
        return error

    def _end_of_channel(self) -> EndOfChannelError:
        error = super()._end_of_channel()
        if self._details:
            facts = ", ".join(f"{name} {shown(repr(value))}" for name, value in self._details.items())
            error = EndOfChannelError(f"{error} ({facts})", details=self._details)
        return error

    # State -----------------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the channel is closed; values may still be buffered."""
        return self._closed

    @property
    def cause(self) -> BaseException | None:
        """The exception the channel was closed with, or None."""
        return self._cause

    @property
    def capacity(self) -> float:
        """How many values the channel buffers; `math.inf` for no bound."""
        return self._capacity

    def __len__(self) -> int:
        """Return how many values are buffered."""
        return self._buffered

    def __bool__(self) -> bool:
        # An empty channel must not look like no channel.
        return True

    def statistics(self) -> ChannelStatistics:
        """Return counts of buffered values and waiting tasks; a parked `Selector` counts under ``selectors`` only."""
        return ChannelStatistics(
            buffered=self._buffered,
            capacity=self._capacity,
            tasks_waiting_send=count(self._senders),
            tasks_waiting_receive=count(self._receivers),
            selectors=sum(watch.alive for watch in items(self._watches)),
            dropped=self._dropped,
            closed=self._closed,
        )

    @property
    def sender(self) -> SendEnd[T]:
        """The channel as a `trio.abc.SendChannel`, for code that is written against Trio."""
        return SendEnd(self)

    @property
    def receiver(self) -> ReceiveEnd[T]:
        """The channel as a `trio.abc.ReceiveChannel`, for code that is written against Trio."""
        return ReceiveEnd(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<csp.Channel {state}, {self._buffered} of {self._capacity} buffered, at {id(self):#x}>"


def _not_open(_value: object) -> NoReturn:
    """Stand for ``send_nowait`` of a memory channel that is not open yet."""
    raise NotImplementedError  # pragma: no cover  # nothing is put before it is open


def _not_kept_up(capacity: float) -> Error:
    return Error(
        f"the channel was closed: its receiver did not keep up, and its buffer of {capacity} is full",
        kind=Kind.CANCELED,
        retryable=True,
    )
