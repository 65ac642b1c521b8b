"""The line: what was taken from the connections of a feed, one after another, and is not in the feed's channel yet.

One task, `Line.run`, moves messages from the connection's channel into the line, and from there into the feed's
channel. A consumer that does not receive, perhaps because it waits in `Feed.send` for a connection, must not keep the
feed from making one. So when a connection ends after which another follows, all that it has received is set aside in
the line, and the next attempt begins at once. The line is bounded: while it still holds what an earlier connection
left, nothing is taken from a new one, which then stops reading; and if that one is lost too, what it has received is
dropped, and counted in the gap. Nothing is set aside of a connection after which the feed ends: its messages are passed
on as the consumer receives.

Few large messages fill the memory before they fill the feed's channel. So that counts as full as well while the read
limit waits in it, as it is in memory: see ``connection/backlog``.
"""

from __future__ import annotations

import contextlib
from collections import deque
from sys import getsizeof
from typing import TYPE_CHECKING, NamedTuple, TypeGuard, cast

import trio
from trio.lowlevel import enable_ki_protection

import csp
from trio_csp_websocket.connection.backlog import Backlog, call_when_drained
from trio_csp_websocket.connection.delivery import READ_AHEAD_BYTES
from trio_csp_websocket.protocol.decoder import MAX_INFLATED_BYTES
from trio_csp_websocket.protocol.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from csp.errors import ConnectionFailedError
    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.connection.settings import Settings

# Of what a connection has received when it ends, what is more than twice the read limit and this is dropped. It is more
# than a connection ever has: but if it ends in the middle of a compressed block, which is parsed only as its messages
# are taken, any number may come out of that.
_SET_ASIDE_BYTES = 4 * (READ_AHEAD_BYTES + MAX_INFLATED_BYTES)


class _Lost(NamedTuple):
    """How and when the last connection ended whose messages are in the line, or were."""

    error: ConnectionFailedError | None
    code: int | None
    reason: str | None
    at: float
    """When the latest connection ended."""
    seconds: float = 0.0
    """How long there was no connection before that, since messages are missing."""
    attempts: int = 0
    """How many attempts there were before that."""
    dropped: int = 0
    """How many messages were received since, and dropped."""


class Line:
    """Passes on the messages of one connection after another, with gaps between them.

    Args:
        settings: those of each connection.
        late: called when the last connection has ended, and not all that it has received fits into the channel.
    """

    def __init__(self, settings: Settings, late: Callable[[], None]) -> None:
        self.channel: csp.Channel[Message | csp.Gap] = csp.Channel[Message | csp.Gap](settings.channel_capacity)
        """The messages and gaps. Not closed here."""
        self._late = late
        # What was taken from connections, and is not in the channel yet.
        self._values: deque[Message | csp.Gap] = deque()
        # How many values were put into it, and how many large messages it has.
        self._put_in = 0
        self._large = 0
        # Of what waits in the channel. Values have the numbers in which they were put into the line.
        self._backlog = Backlog(settings.read_limit_bytes, settings.channel_capacity)
        self._set_aside_bytes = 2 * settings.read_limit_bytes + _SET_ASIDE_BYTES
        # Whether the line is being sent; then one value is not in it.
        self._sending = False
        # The client whose messages are passed on.
        self._source: Client | None = None
        # Once that one's connection has ended: whether another one may follow.
        self._another: bool | None = None
        # Whether the line still holds what came before the messages of `_source`.
        self._behind = False
        # How and when the last connection ended from which messages were passed on.
        self._lost: _Lost | None = None
        # Around what the task waits for; cancelled when `_source` has changed, or has ended.
        self._passing = trio.CancelScope()
        # Set, and replaced, when the task has emptied the line, set a connection's messages aside, or ended.
        self._passed = trio.Event()

    # What the task that connects calls -------------------------------------------------------------------------------

    def follow(self, client: Client, opened_at: float, attempts: int) -> csp.Gap | None:
        """Pass on the messages of a new connection; ahead of them a gap, which is returned, if there was one before.

        Args:
            client: its client.
            opened_at: when it was opened.
            attempts: how many attempts it took.
        """
        gap = None if self._lost is None else self._put_gap(self._lost, opened_at, attempts)
        self._lost = None
        self._behind = self.waits
        self._source = client
        self._another = None
        self._passing.cancel()
        return gap

    def follows(self, client: Client) -> bool:
        """Whether the messages of this client are not all taken yet."""
        return self._source is client

    def source_ended(self, *, another: bool) -> None:
        """Note that the connection that is followed has ended.

        Args:
            another: whether another one may follow, so that what this one has received is set aside.
        """
        self._another = another
        self._passing.cancel()

    async def wait_taken(self, client: Client) -> None:
        """Wait until all is taken that the connection of this client has received, or the channel is closed."""
        while self._source is client and not self.channel.closed:
            await self._passed.wait()

    def end(self, ended_at: float, attempts: int) -> csp.Gap | None:
        """Note that no connection will follow; if messages were dropped, a gap tells of them, which is returned.

        Args:
            ended_at: when that was clear.
            attempts: how many attempts there were after the last connection.
        """
        if self._lost is None or not self._lost.dropped:
            return None
        self._passing.cancel()
        return self._put_gap(self._lost, ended_at, attempts)

    @property
    def waits(self) -> bool:
        """Whether a value is not in the channel yet."""
        return self._sending or bool(self._values)

    @property
    def waiting(self) -> int:
        """How many messages and gaps were not received."""
        source = 0 if self._source is None else self._source.statistics().messages_waiting_receive
        return len(self.channel) + len(self._values) + source

    async def wait_sent(self) -> None:
        """Wait until all values are in the channel, or it is closed."""
        while self.waits and not self.channel.closed:
            await self._passed.wait()

    # The task that passes on -----------------------------------------------------------------------------------------

    @enable_ki_protection
    async def run(self) -> None:
        """Pass messages on for ever.

        Raises:
            ChannelClosedError: the consumer has closed the channel.
        """
        try:
            while True:
                if self._source is not None and self._another is not None:
                    self._send_now()
                    if self._another:
                        await self._set_aside(self._source)
                    elif self._values or self._too_much_waits():
                        self._late()
                with trio.CancelScope() as self._passing:
                    await self._pass_some()
        finally:
            self._note_passed()

    async def _pass_some(self) -> None:
        """Empty the line; or, if it is empty, take what the connection has received."""
        if self._too_much_waits():
            await self._wait_for_room()
        elif self._values:
            self._sending = True
            try:
                await self._send_some()
            finally:
                self._sending = False
            if not self._values:
                self._behind = False
                self._note_passed()
        elif self._source is None:
            await trio.sleep_forever()
        else:
            messages = self._source.channel()
            received = await messages.receive()
            if received.ok:
                self._put(received.value)
                # Only those that are there now: each message taken makes room for one that the connection has read
                # already, so emptying the channel would collect all of these as well.
                for _ in range(len(messages)):
                    if self._large:
                        break
                    self._put(messages.receive_nowait().value)
            elif self._source.close_code is None:
                await self._source.close()  # a user has closed its channel, and so wants no more
            elif self._another is False:
                self._source = None
                self._note_passed()
            else:
                await trio.sleep_forever()  # until `source_ended` is called; what is left is then set aside

    async def _set_aside(self, client: Client) -> None:
        """Take all that a connection has received, which has ended; drop it if the line is behind."""
        at = trio.current_time()
        behind = self._behind and bool(self._values)
        size = dropped = 0
        while (received := await client.channel().receive()).ok:
            if behind or size > self._set_aside_bytes:
                dropped += 1
            else:
                size += getsizeof(received.value.data)
                self._put(received.value)
            del received  # or what is dropped would be kept while the next message is waited for
        if behind:
            # Nobody was told of this connection: its gap is not needed, and the next one counts from the one before.
            gap = cast("csp.Gap", self._values.pop())
            self._put_in -= 1
            dropped += gap.missed or 0
            self._lost = _Lost(gap.error, gap.code, gap.reason, at, gap.seconds, gap.attempts, dropped)
        else:
            self._lost = _Lost(client.error, client.close_code, client.close_reason, at, dropped=dropped)
        self._source = None
        self._note_passed()

    async def _send_some(self) -> None:
        """Send the line; if it has large messages, only the first value."""
        if not self._large:
            await self.channel.send_many(self._values)
        else:
            await self.channel.send(self._values[0])
            self._note_sent()

    def _send_now(self) -> None:
        """Send what the channel has room for."""
        with contextlib.suppress(trio.WouldBlock):
            while self._values and not self._too_much_waits():
                self.channel.send_nowait(self._values[0])
                self._note_sent()

    def _note_sent(self) -> None:
        """Take the first value out of the line: it is in the channel."""
        value = self._values.popleft()
        if self._is_large(value):
            self._large -= 1
            self._backlog.add((value,), self._sent)

    def _put(self, value: Message | csp.Gap) -> None:
        """Put a value into the line."""
        self._values.append(value)
        self._put_in += 1
        if self._is_large(value):
            self._large += 1

    def _put_gap(self, lost: _Lost, opened_at: float, attempts: int) -> csp.Gap:
        seconds = lost.seconds + opened_at - lost.at
        missed = lost.dropped or None
        gap = csp.Gap(lost.error, seconds, lost.attempts + attempts, missed, lost.code, lost.reason)
        self._put(gap)
        return gap

    def _is_large(self, value: Message | csp.Gap) -> TypeGuard[Message]:
        """Whether it is a message so large that its bytes have to be counted."""
        return isinstance(value, Message) and len(value.data) > self._backlog.unmeasured_bytes

    def _too_much_waits(self) -> bool:
        """Whether so many bytes wait in the channel that it counts as full."""
        if self._backlog.too_large:
            self._backlog.forget(self._sent - len(self.channel))
        return self._backlog.too_large and not self.channel.closed

    async def _wait_for_room(self) -> None:
        """Wait until fewer bytes wait in the channel than now, when there are too many."""
        drained = trio.Event()
        call_off = call_when_drained(self.channel, self._sent - self._backlog.first, drained.set)
        try:
            await drained.wait()
        finally:
            call_off()

    @property
    def _sent(self) -> int:
        """How many values were sent to the channel, while none is being sent."""
        return self._put_in - len(self._values)

    def _note_passed(self) -> None:
        self._passed.set()
        self._passed = trio.Event()
