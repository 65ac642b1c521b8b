"""Fetches values of a queue, keeps their leases, and finds those of others that have run out.

Four tasks, while the block of `Deliveries` lasts:

- one fetches, on a connection of its own, which the server blocks until there is a value;
- one renews the leases of what is held, at a third of each;
- one looks for what was given back or has run out elsewhere, every second, and at once after a `retry` of this worker;
- one sends what becomes of values: see `settling`.

A lease is counted from when the request that began it was written, so that it ends here before it ends at the server.
A value that was delivered before may be one that kills its workers. Such values are claimed one at a time: of them, at
most one is fetched and not handed out, and it is handed out once the acks before it have arrived. So one that kills
does not take others along, which would have been counted as delivered each time, and would become dead letters with it.

What the server says of a value that is held is believed: that it is another's, that the queue is gone, that the server
was started again and may have forgotten who has what. An id that comes as a new value is one, even if it is held.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, final

import trio

import csp
from csp.errors import Error, InvalidError, Kind, PermissionDeniedError
from trio_csp_redis.connection.line import Line
from trio_csp_redis.queue import clock
from trio_csp_redis.queue.delivery import Delivery
from trio_csp_redis.queue.hold import Hold
from trio_csp_redis.queue.scripts import CLAIM, DATA, GROUP, JOIN, LEAVE, REJECT, RELEASE, RENEW, RETRY, TIDY
from trio_csp_redis.queue.settling import Settling
from trio_csp_redis.reading.appetite import Appetite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from trio_csp_redis.connection.commands import Commands
    from trio_csp_redis.connection.link import Link

T = TypeVar("T")

_logger = logging.getLogger("csp.redis")

# Not the generator of the `random` module, which a program may seed.
_chance = random.Random()

_MAX_BLOCK_SECONDS = 5.0
_SCAN_SECONDS = (0.5, 1.0)
# Leases after which a worker that is not heard of, and has nothing, is deleted.
_LEASES_KEPT = 10
_RENEWED_AT_ONCE = 500


@final
class Worker(Generic[T]):
    """What a `Deliveries` does.

    Args:
        commands: of the bus.
        keys: of the queue, and its dead letters.
        name: of the queue.
        consumer: the name of the worker.
        capacity: how many values are fetched ahead.
        lease_seconds: for how long a value is this worker's.
        max_deliveries: how often a value is handed out.
        decode: makes a value of bytes.
        wake: called when there are values, or there will be no more.
    """

    def __init__(
        self,
        commands: Commands,
        keys: tuple[bytes, bytes],
        name: str,
        consumer: str,
        *,
        capacity: int,
        lease_seconds: float,
        max_deliveries: int,
        decode: Callable[[bytes], T],
        wake: Callable[[], object],
    ) -> None:
        self._commands = commands
        self._keys = keys
        self._consumer = consumer.encode()
        self._lease_seconds = lease_seconds
        # At the server one more: it counts from the whole millisecond before the moment.
        self._lease_milliseconds = int(lease_seconds * 1000) + 1
        self._max_deliveries = max_deliveries
        self._decode = decode
        self._wake = wake
        self._doing = f"working on queue {name!r}"
        self._appetite = Appetite(capacity)
        self.settling: Settling = Settling(
            commands, keys, self._consumer, self._lease_milliseconds, self._doing, self._returned, self._wake
        )
        # What is not settled, by id: fetched, or in hand. And what of it is fetched only, in order.
        self._held: dict[bytes, Hold[T]] = {}
        self._fetched: deque[Hold[T]] = deque()
        # Of what is fetched: how many were delivered before. And whether there are more of them to be claimed.
        self._suspects = 0
        self._more_suspects = False
        # What a request is under way for.
        self._fetching: Link | None = None
        self._left = False
        # Whether the tasks have ended, and why, if one of them has failed.
        self._stopped = False
        self._failure: Error | None = None
        self._run_id: bytes | None = None
        # Claims go one after another: what one gets is known to the next.
        self._claiming = trio.Lock()
        # Whether something may have been claimed that never came.
        self._unsure = False
        # What was in hand when the server was started again: no claim may take it from this worker itself.
        self._orphaned: set[bytes] = set()
        # How often the server was asked to make the group.
        self._joins = 0
        # Whether what a worker of this name had before was given back: after that, what it has is this worker's.
        self._released = False
        # Whether the queue was gone when it was last asked.
        self._gone = False
        # Set, and replaced, when there is room; when it is to be looked for returned values.
        self._room = trio.Event()
        self._scan_now = trio.Event()
        self.reached: bool = False
        """Whether the server was reached, and the group made."""
        self.joined: trio.Event = trio.Event()
        """Set when that is so, or the worker has ended before."""
        # What was garbage-collected unsettled; from any thread.
        self._dropped: deque[Hold[T]] = deque()
        self._token: trio.lowlevel.TrioToken | None = None

    # What is held ----------------------------------------------------------------------------------------------------

    def ready(self, share: float = 1.0) -> bool:
        """Return whether a value can be handed out. Those are dropped of whose lease so much has run out."""
        fetched = self._fetched
        while fetched and fetched[0].spent(share):
            self._lose(self._take_first())
        return bool(fetched) and (fetched[0].attempt == 1 or self._has_turn(fetched[0]))

    def _has_turn(self, hold: Hold[T]) -> bool:
        """Return whether a value that was delivered before can be handed out: what was settled so far has arrived."""
        after = self.settling.added if hold.after is None else hold.after
        if not self.in_hand:  # else what is in hand may be settled before somebody asks again
            hold.after = after
        return self.settling.has_sent(after)

    def _take_first(self) -> Hold[T]:
        hold = self._fetched.popleft()
        if hold.attempt > 1:
            self._suspects -= 1
            if self._more_suspects:
                self._scan_now.set()
        if len(self._fetched) <= self._appetite.low:
            self._room.set()
        return hold

    def hand_out(self) -> Delivery[T]:
        """Hand the first value out; `ready` must be true."""
        hold = self._take_first()
        counts = self._commands.counts
        counts.delivered += 1
        if hold.attempt > 1:
            counts.redelivered += 1
        return Delivery(hold, self)

    @property
    def fetched(self) -> int:
        """How many values can be handed out."""
        return sum(not hold.gone for hold in self._fetched)

    @property
    def in_hand(self) -> int:
        """How many deliveries are neither settled nor known to be lost."""
        return len(self._held) - self.fetched

    def settle(self, hold: Hold[Any], what: bytes, reason: str = "") -> bool:
        if hold.settled or hold.gone or self._left:
            return False
        if hold.lost:
            # It may still be this worker's. But nobody works on it any more: it must not be renewed.
            self._lose(hold)
            return False
        self._held.pop(hold.entry, None)
        self.settling.add(what, hold, reason)
        return True

    def dropped(self, hold: Hold[Any]) -> None:
        if self._token is not None and not self._left:
            self._dropped.append(hold)
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._settle_dropped, idempotent=True)

    def _settle_dropped(self) -> None:
        while self._dropped:
            hold = self._dropped.popleft()
            if self.settle(hold, RETRY):
                text = "%s: delivery %s was garbage-collected, and neither acked nor given back: it is given back"
                _logger.warning(text, self._doing, hold.entry.decode())

    def _lose(self, hold: Hold[T]) -> None:
        """Note that a value is another's, unless that is known, or it was settled."""
        if not (hold.gone or hold.settled):
            hold.gone = True
            del self._held[hold.entry]
            self._commands.counts.lost += 1

    def _lose_all(self) -> None:
        for hold in list(self._held.values()):
            self._lose(hold)
        self._fetched.clear()
        self._suspects = 0
        self._room.set()

    def _in_hand(self) -> list[bytes]:
        """Return the ids of deliveries that are not settled."""
        fetched = {hold.entry for hold in self._fetched if not hold.gone}
        return [entry for entry in self._held if entry not in fetched]

    def _know(self) -> list[bytes]:
        """Return the ids of what must not be claimed: it is held, or what becomes of it is on its way."""
        return [*self._held, *self.settling.entries]

    # The tasks -------------------------------------------------------------------------------------------------------

    async def run(self) -> Error:
        """Work until the bus ends, or the queue cannot be worked on; return why."""
        self._token = trio.lowlevel.current_trio_token()
        async with csp.BackgroundNursery() as nursery:
            for task in (self.settling.run, self._renew, self._scan, self._tidy, self._keep):
                nursery.start_soon(self._run_task, task, nursery.cancel_scope)
            await self._commands.ended.wait()
        self._stopped = True
        if self._failure is not None:
            return self._failure
        self.leave_now()  # nothing can be sent any more
        return self._commands.cause or self._commands.why_ended()

    async def _run_task(self, task: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        """Run a task. If it fails, all end: with the first failure, as several may be refused at the same moment."""
        try:
            await task()
        except Error as error:
            self._failure = self._failure or error
            scope.cancel()

    async def _keep(self) -> None:
        line = Line(self._commands.settings, self._commands.counts, self._doing)
        self._commands.end(await line.run(self._serve))

    async def _serve(self, link: Link) -> None:
        """Fetch values on a connection."""
        await self._join(link)
        while True:
            if self._gone:
                await self._join(link)
            elif self._unsure:
                # No request for values is under way: what comes by one must not be claimed as well.
                self._unsure = False
                await self._claim(link, b"again")
            count = 0 if self._left else self._wanted_count()
            if not count:
                await self._room.wait()
                self._room = trio.Event()
                continue
            try:
                await self._fetch(link, count)
            except Error as error:
                if error.kind is not Kind.NOT_FOUND:
                    raise
                self._forget_all()

    def _forget_all(self) -> None:
        """Note that the queue is gone, and with it who has what."""
        self._gone = True
        self._lose_all()
        self._orphaned.clear()
        self.settling.forget_all()

    def _wanted_count(self) -> int:
        """Return how many values to ask for: none until half of the room is free."""
        held = len(self._fetched)
        return self._appetite.count(held) if held <= self._appetite.low else 0

    async def _join(self, link: Link) -> None:
        """Make the group if there is none, and take what this worker has that it does not know of."""
        self._joins += 1
        made = await link.run(JOIN, self._keys[:1], (), self._doing)
        if made:
            self._forget_all()
        elif self._run_id is not None and link.run_id != self._run_id:
            # A server that was started again may have forgotten who has what, and given it to others. If it has not,
            # what is in hand stays this worker's until its lease ends: it is not to be handed out twice at a time.
            self._orphaned.update(self._in_hand())
            self._lose_all()
        self._run_id = link.run_id
        self._gone = self._unsure = False
        if self._released:
            await self._claim_all(link, b"again")
        else:
            await link.run(RELEASE, self._keys[:1], (self._consumer, self._lease_milliseconds), self._doing)
            self._released = True
        await self._claim_all(link, b"others")  # it is older than what waits
        self.reached = True
        self.joined.set()

    async def _fetch(self, link: Link, count: int) -> None:
        block = min(self._lease_seconds / 4, _MAX_BLOCK_SECONDS, self._commands.settings.timeout_seconds / 2)
        written = clock.now()
        self._fetching = link
        try:
            answer = await link.call(
                b"XREADGROUP", b"GROUP", GROUP, self._consumer, b"COUNT", count, b"BLOCK", max(1, int(block * 1000)),
                b"STREAMS", self._keys[0], b">", doing=self._doing, seconds=block,
            )  # fmt: skip
        finally:
            self._fetching = None
        if answer:
            (entries,) = cast("dict[bytes, list[tuple[bytes, list[bytes]]]]", answer).values()
            self._take(((entry, 1, fields) for entry, fields in entries), written, new=True)

    async def _claim_all(self, link: Link, whose: bytes) -> None:
        while await self._claim(link, whose):
            pass

    async def _claim(self, link: Link, whose: bytes) -> bool:
        """Claim values, if there is room; return whether there may be more."""
        async with self._claiming:
            count = self._appetite.count(len(self._fetched))
            if count <= 0 or self._left:
                return False
            known = self._know() if whose == b"others" else [*self._know(), *self._orphaned]
            suspects = 0 if self._suspects else 1
            written = clock.now()
            claimed, buried, more = cast(
                "tuple[list[tuple[bytes, int, list[bytes]]], int, int]",
                await link.run(
                    CLAIM,
                    self._keys,
                    (self._consumer, self._lease_milliseconds, count, suspects, self._max_deliveries, whose, *known),
                    self._doing,
                ),
            )
            self._commands.counts.rejected += buried
            self._more_suspects = bool(more)
            self._take(claimed, written, new=False)
            return len(claimed) + buried >= count

    def _take(self, entries: Iterable[tuple[bytes, int, Sequence[bytes]]], written: float, *, new: bool) -> None:
        """Hold entries that the server has given to this worker."""
        before = len(self._fetched)
        largest = -1
        for entry, attempt, fields in entries:
            if new:  # whatever this worker has of that id
                if (held := self._held.get(entry)) is not None:
                    self._lose(held)
                self.settling.forget(entry)
            raw = _data_of(fields)
            hold = Hold(entry, attempt, cast("T", None), written, self._lease_seconds)
            try:
                if raw is None:
                    raise InvalidError(f"the entry has no field {DATA.decode()!r}")
                largest = max(largest, len(raw))
                hold.data = self._decode(raw)
            except Exception as error:  # noqa: BLE001  # a user's function may raise anything
                self.settling.add(REJECT, hold, _cannot_decode(error))
                continue
            self._held[entry] = hold
            self._fetched.append(hold)
            self._suspects += attempt > 1
        if largest >= 0:
            self._appetite.saw(largest, before)
        self._wake()

    async def _renew(self) -> None:
        """Renew the leases of what is held, at a third of each."""
        while True:
            await trio.sleep(self._lease_seconds / 12)
            due = clock.now() - self._lease_seconds / 3
            holds = [hold for hold in self._held.values() if hold.leased_at <= due]
            for first in range(0, len(holds), _RENEWED_AT_ONCE):
                await self._renew_some(holds[first : first + _RENEWED_AT_ONCE])

    async def _renew_some(self, holds: list[Hold[T]]) -> None:
        arguments: list[bytes | int] = [self._consumer]
        joins = self._joins
        try:
            link = await self._commands.link()
            joins = self._joins
            written = clock.now()
            holds = [hold for hold in holds if self._held.get(hold.entry) is hold]
            for hold in holds:
                arguments += (hold.entry, hold.attempt)
            own = cast("list[int]", await link.run(RENEW, self._keys[:1], arguments, self._doing))
        except Error as error:
            self._pass(error, joins)
            return
        for hold, is_own in zip(holds, own, strict=True):
            if is_own:
                hold.leased_at = written
            else:
                self._lose(hold)

    async def _scan(self) -> None:
        """Look for what was given back, or whose lease has run out."""
        await self.joined.wait()
        while True:
            with trio.move_on_after(_chance.uniform(*_SCAN_SECONDS)):
                await self._scan_now.wait()
            self._scan_now = trio.Event()
            joins = self._joins
            try:
                link = await self._commands.link()
                joins = self._joins
                if await self._claim(link, b"others"):
                    self._scan_now.set()
            except Error as error:
                self._unsure = True
                self._pass(error, joins)

    async def _tidy(self) -> None:
        """Delete workers that are no more."""
        milliseconds = self._lease_milliseconds * _LEASES_KEPT
        await self.joined.wait()
        while True:
            joins = self._joins
            try:
                await self._commands.run_script(TIDY, self._keys[:1], (self._consumer, milliseconds), self._doing)
            except PermissionDeniedError as error:
                _logger.warning("workers that are no more are not deleted: %s", csp.errors.shown(str(error), None))
                return
            except Error as error:
                self._pass(error, joins)
            await trio.sleep(max(1.0, self._lease_seconds))

    def _pass(self, error: Error, joins: int) -> None:
        """Raise an error that does not pass.

        Args:
            error: what the server said.
            joins: how often the group had been made when it was asked.
        """
        if not error.retryable and not self._commands.ended.is_set():
            raise error
        if error.kind is Kind.NOT_FOUND and not self._gone and joins == self._joins:
            self._forget_all()  # the task that fetches makes it again

    def _returned(self) -> None:
        """Look for what this worker has given back."""
        self._scan_now.set()

    # The end ---------------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Have the server know what becomes of everything; what is in hand stays this worker's until its lease ends."""
        if self._left:
            return  # it has ended
        self._left = True
        fetching = self._fetching
        if fetching is not None:
            await self._unblock(fetching)
        async with self._claiming:  # what comes by a claim that is under way is given back too
            for step in (self.settling.send_rest if self._stopped else self.settling.flush, self._give_back):
                try:
                    await step()
                except Error as error:
                    _logger.info("%s: leaving: %s", self._doing, csp.errors.shown(str(error), None))

    async def _give_back(self) -> None:
        """Give back what was not handed out; with nothing to give back, do not wait for a connection."""
        if self._joins and (self._fetched or self._commands.connected):
            kept = (*self._in_hand(), *self._orphaned, *self.settling.entries)
            arguments: list[bytes | int] = [self._consumer, self._lease_milliseconds, *kept]
            returned = await self._commands.run_script(LEAVE, self._keys[:1], arguments, self._doing)
            self._commands.counts.returned += cast("int", returned)

    def leave_now(self) -> None:
        """Forget everything: nothing more can be handed out or settled."""
        self._left = True
        self.joined.set()
        self.settling.end()
        for hold in self._held.values():
            hold.gone = True
        self._held.clear()
        self._fetched.clear()
        self._suspects = 0

    async def _unblock(self, link: Link) -> None:
        """Have the server answer the request for values that is under way."""
        while self._fetching is link and link.usable:
            try:
                await self._commands.call(b"CLIENT", b"UNBLOCK", link.client_id, doing=self._doing)
            except Error:
                return
            if self._fetching is link:
                await trio.sleep(0.005)  # it may not have been blocked yet


def _data_of(fields: Sequence[bytes]) -> bytes | None:
    """Return the value of an entry; None if it has none."""
    if len(fields) == 2 and fields[0] == DATA:  # each entry of ours
        return fields[1]
    return next((fields[index + 1] for index in range(0, len(fields) - 1, 2) if fields[index] == DATA), None)


def _cannot_decode(error: Exception) -> str:
    text = error.message if isinstance(error, InvalidError) else type(error).__name__
    return f"it cannot be decoded: {text}"
