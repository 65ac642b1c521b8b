"""Acks and returns on their way to the server: sent in batches, kept while there is no connection."""

from __future__ import annotations

import logging
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast, final

import trio

from csp.errors import ConnectionFailedError, Error, Kind
from trio_csp_redis.queue.scripts import ACK, REJECT, RETRY, RETURN, SETTLE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from trio_csp_redis.connection.commands import Commands
    from trio_csp_redis.queue.hold import Hold

_logger = logging.getLogger("csp.redis")

# How long acks wait for others that go with them, and how many there are to be.
_GATHER_SECONDS = 0.02
_BATCH = 128
# How long to wait after an answer of the server that may pass, such as that it is out of memory.
_PAUSE_SECONDS = 0.25

# What SETTLE returns for what it could not do.
_NO_MEMORY = -1
_REFUSED = -2


class _Settlement(NamedTuple):
    """What becomes of a value."""

    what: bytes
    hold: Hold[Any]
    reason: bytes
    number: int
    """How many were added before."""


@final
class Settling:
    """Sends what becomes of values.

    Args:
        commands: of the bus.
        keys: of the queue, and its dead letters.
        consumer: the worker.
        lease_milliseconds: of the worker.
        doing: what errors say is being done.
        returned: called when values have been given back.
        answered: called when the server has answered.
    """

    def __init__(
        self,
        commands: Commands,
        keys: tuple[bytes, bytes],
        consumer: bytes,
        lease_milliseconds: int,
        doing: str,
        returned: Callable[[], object],
        answered: Callable[[], object],
    ) -> None:
        self._commands = commands
        self._keys = keys
        self._head = (consumer, lease_milliseconds + 1)
        self._doing = doing
        self._returned = returned
        self._on_answer = answered
        # What is to be sent, by entry; the first ones may have been written already.
        self._waiting: OrderedDict[bytes, _Settlement] = OrderedDict()
        # Set while there is something to send, and while that is not to wait for more.
        self._wanted = trio.Event()
        self._urgent = trio.Event()
        self.added: int = 0
        """How many were added so far."""
        # Set, and replaced, when the server has answered.
        self._changed = trio.Event()
        self._ended = False
        # What was written, and not answered: it may have been done.
        self._uncertain: set[bytes] = set()

    @property
    def entries(self) -> Collection[bytes]:
        """The ids of what the server has not answered yet."""
        return self._waiting.keys()

    def add(self, what: bytes, hold: Hold[Any], reason: str = "") -> None:
        """Say what becomes of a value."""
        hold.settled = True
        self._waiting[hold.entry] = _Settlement(what, hold, reason.encode(errors="replace"), self.added)
        self.added += 1
        self._wanted.set()
        if what in (RETRY, RETURN) or len(self._waiting) >= _BATCH:
            self._urgent.set()

    def has_sent(self, until: int) -> bool:
        """Tell whether the server has answered the first ``until`` that were added; if not, hurry."""
        if not self._waiting or next(iter(self._waiting.values())).number >= until:
            return True
        self._urgent.set()
        return False

    def forget(self, entry: bytes) -> None:
        """Drop what concerns an entry, if anything does: its id is that of another value now."""
        if self._waiting.pop(entry, None) is not None:
            self._uncertain.discard(entry)
            self._tell()

    def forget_all(self) -> None:
        """Drop all that waits: the server has lost the values."""
        self._waiting.clear()
        self._uncertain.clear()
        self._tell()

    async def flush(self) -> None:
        """Wait until the server has answered what was added so far.

        Raises:
            ConnectionFailedError: the worker has ended before.
        """
        await trio.lowlevel.checkpoint()
        until = self.added
        while any(settlement.number < until for settlement in self._waiting.values()):
            if self._ended:
                if self._commands.ended.is_set():
                    raise self._commands.why_ended()
                text = "the worker has ended before everything was sent"
                raise ConnectionFailedError(text, kind=Kind.INTERNAL, retryable=False)
            self._urgent.set()
            await self._changed.wait()

    def end(self) -> None:
        """Note that nothing more is sent."""
        self._ended = True
        self._tell()

    async def run(self) -> None:
        """Send what is added; raises `csp.errors.Error` where the server does not permit it."""
        while True:
            await self._wanted.wait()
            with trio.move_on_after(_GATHER_SECONDS):
                await self._urgent.wait()
            await self._send()
            if not self._waiting:
                self._wanted = trio.Event()
                self._urgent = trio.Event()

    async def send_rest(self) -> None:
        """Send what waits, once `run` has ended; raises what it raised if that is still so."""
        while self._waiting:
            await self._send()

    async def _send(self) -> None:
        if batch := list(islice(self._waiting.values(), _BATCH)):
            await self._send_batch(batch)

    async def _send_batch(self, batch: list[_Settlement]) -> None:
        arguments: list[bytes | int] = [*self._head]
        for what, hold, reason, _ in batch:
            arguments += (what, hold.entry, hold.attempt, reason)
        try:
            answer = await self._commands.run_script(SETTLE, self._keys, arguments, self._doing)
        except Error as error:
            self._uncertain.update(settlement.hold.entry for settlement in batch)
            if error.kind is Kind.NOT_FOUND:
                self.forget_all()  # the queue is gone
            elif not error.retryable:
                raise
            elif not isinstance(error, ConnectionFailedError) or self._commands.connected:
                await trio.sleep(_PAUSE_SECONDS)
            return
        results = cast("list[int]", answer)
        self._note(batch, results)
        if _NO_MEMORY in results:
            await trio.sleep(_PAUSE_SECONDS)
        if _REFUSED in results:  # the others are done; alone, it raises
            await self._send_batch([batch[results.index(_REFUSED)]])

    def _note(self, batch: list[_Settlement], results: list[int]) -> None:
        counts = self._commands.counts
        returned = False
        for settlement, result in zip(batch, results, strict=True):
            what, entry = settlement.what, settlement.hold.entry
            if result < 0:
                if entry in self._waiting:
                    self._waiting.move_to_end(entry)  # acks go first: they make room
                continue
            uncertain = entry in self._uncertain
            self._uncertain.discard(entry)
            if self._waiting.get(entry) is settlement:  # else it was forgotten meanwhile
                del self._waiting[entry]
            if not result and not uncertain:
                counts.lost += 1
                text = "%s: %s of %s came too late: it is another's"
                _logger.info(text, self._doing, what.decode(), entry.decode())
            elif what == ACK:
                counts.acked += 1
            elif what == REJECT:
                counts.rejected += 1
            elif what == RETRY:
                counts.retried += 1
            else:
                counts.returned += 1
            returned = returned or what in (RETRY, RETURN)
        self._tell()
        if returned:
            self._returned()

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        self._on_answer()
