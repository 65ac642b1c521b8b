"""What keeps a feed connected: one connection after another, and one line of messages from all of them.

Two tasks. One, `Keeper.run`, makes one attempt after another: connect, subscribe, wait until the connection has ended,
wait. Each attempt enters a `Connecting` of its own, so nothing of a connection outlives its attempt, and the security
policies are checked each time.

The other, `Keeper._pass_on`, moves messages from the connection's channel to the feed's, through a *line*: what was
taken from the connection, and is not in the feed's channel yet. A consumer that does not receive, perhaps because it
waits in `Feed.send` for a connection, must not keep the first task from making one. So when a connection ends, all that
it has received is set aside in the line, and the next attempt begins at once. The line is bounded: while it still holds
what an earlier connection left, nothing is taken from a new one, which then stops reading; and if that one is lost too,
what it has received is dropped, and counted in the gap. Nothing is set aside of a connection after which the feed ends:
its messages are passed on as the consumer receives.

Few large messages fill the memory before they fill the feed's channel. So that counts as full as well while the read
limit waits in it, as it is in memory: see ``connection/backlog``.

Other tasks stop it in two ways. `Keeper.close` notes code and reason in ``_closing``, and cancels what the first task
does with its connection; that task then closes the connection, and ends. If there is no connection, the whole of it is
cancelled. A consumer stops the feed by closing its channel.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable
from datetime import UTC, datetime
from sys import getsizeof
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeGuard, cast, final

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

import csp
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Error, InvalidError, InvalidTypeError, Kind
from trio_csp_websocket.client.backoff import Backoff, may_come_back, retry_after
from trio_csp_websocket.client.connect import Connecting, Reach
from trio_csp_websocket.connection.backlog import Backlog, call_when_drained
from trio_csp_websocket.connection.delivery import READ_AHEAD_BYTES
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.decoder import MAX_INFLATED_BYTES
from trio_csp_websocket.protocol.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.protocol.url import Target

Subscribe: TypeAlias = "Callable[[Client], Awaitable[object]]"
"""Asks the server of a new connection for the messages that the application wants."""

_STATES_KEPT = 16

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


@final
class Keeper:
    """Keeps a connection open by making new ones, and passes their messages on.

    Args:
        target: the server to connect to.
        options: the options of each connection.
        backoff: how long to wait between attempts, and when to stop.
        subscribe: awaited with each new client, if given.
        reach: opens the byte stream; by default as `dial` does.
    """

    def __init__(
        self,
        target: Target,
        options: Options,
        backoff: Backoff,
        subscribe: Subscribe | None = None,
        *,
        reach: Reach | None = None,
    ) -> None:
        self.channel: csp.Channel[Message | csp.Gap] = csp.Channel[Message | csp.Gap](
            options.connection.channel_capacity
        )
        """The messages and gaps; closed when the feed has ended."""
        self.states: csp.Channel[csp.ConnectionState] = csp.Channel[csp.ConnectionState](
            _STATES_KEPT, overflow="drop_oldest"
        )
        """Each new `state`; the latest are kept. Never closed: a select that finds a channel closed takes it at random
        ahead of values that wait in others, and so consumers would stop before the last messages."""
        self.state: csp.ConnectionState = csp.ConnectionState("connecting", 1)
        self.changed: trio.Event = trio.Event()
        """Set, and replaced by a new event, when there is a new `client`; set for good when the feed has ended."""
        self.ended: trio.Event = trio.Event()
        """Set when the feed has ended; what was received may still be on its way to the channel."""
        self.cause: Exception | None = None
        """What ended it, if that was an error."""
        self._target = target
        self._options = options
        self._reach = reach
        self._backoff = backoff
        self._subscribe = subscribe
        self._client: Client | None = None
        # Around everything the first task does.
        self._scope = trio.CancelScope()
        # Inside that, around what is done with the open connection, while there is one.
        self._serving: trio.CancelScope | None = None
        # That task while it is in `subscribe`.
        self._subscribing: trio.lowlevel.Task | None = None
        # Code and reason, once the feed is to be closed.
        self._closing: tuple[int, str] | None = None
        # The number of attempts since there was a connection.
        self._attempts = 0
        # How long the connection of the latest attempt was open; 0 if there was none.
        self._lasted_seconds = 0.0
        # How and when the last connection ended from which messages were passed on.
        self._lost: _Lost | None = None
        # The client of the latest connection, also while that is still subscribing.
        self._latest: Client | None = None
        # The client whose messages are passed on.
        self._source: Client | None = None
        # What was taken from it, and is not in the channel yet.
        self._line: deque[Message | csp.Gap] = deque()
        # How many values were put into it, and how many large messages it has.
        self._put_into_line = 0
        self._large_in_line = 0
        # Of what waits in the channel. Values have the numbers in which they were put into the line.
        self._backlog = Backlog(options.connection.read_limit_bytes, options.connection.channel_capacity)
        self._set_aside_bytes = 2 * options.connection.read_limit_bytes + _SET_ASIDE_BYTES
        # Whether the line is being sent; then one value is not in it.
        self._sending = False
        # Whether the line still holds what came before the messages of `_source`.
        self._behind = False
        # Around what the task that passes on waits for; cancelled when `_source` has changed, or has ended.
        self._passing = trio.CancelScope()
        # Set, and replaced, when that task has emptied the line, set a connection's messages aside, or ended.
        self._passed = trio.Event()

    @property
    def client(self) -> Client | None:
        """The client of the open connection; None while there is none, or it is still subscribing."""
        return self._client if self._client is not None and self._client.close_code is None else None

    async def close(self, code: int, reason: str) -> None:
        """End the feed: close its connection with code and reason, or stop trying to get one.

        Returns when the feed has ended. Closing again only waits for that. If cancelled, the socket is closed at once.
        """
        self._stop(code, reason)
        try:
            await self.ended.wait()
        finally:
            self._scope.cancel()
        self._close_channel()

    def _stop(self, code: int, reason: str) -> None:
        """Have the first task close its connection, or stop trying to get one, unless it is told so already."""
        if self._closing is None:
            self._closing = code, reason
            (self._serving or self._scope).cancel()

    @property
    def subscribes_here(self) -> bool:
        """Whether the current task is in `subscribe`, or is one that `subscribe` waits for."""
        if self._subscribing is None:
            return False
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        while task is not None and task is not self._subscribing:
            task = None if task.parent_nursery is None else task.parent_nursery.parent_task
        return task is not None

    @enable_ki_protection
    async def run(self) -> None:
        """Run the feed; return when it has ended, and its channel is closed behind the last message."""
        try:
            async with csp.BackgroundNursery() as nursery:
                nursery.start_soon(self._pass_on, name="csp.websocket.reconnecting line")
                with self._scope:
                    cause: Exception | None = None
                    try:
                        cause = await self._keep_connected()
                    except Exception as error:  # noqa: BLE001  # the consumer gets any exception
                        cause = error
                    if self._closing is None:
                        await self._pass_on_rest(cause)
                    else:
                        self._end(cause)
        finally:
            self._close_channel()
            self._end(None)

    async def _pass_on_rest(self, cause: Exception | None) -> None:
        """End the feed because of ``cause``, and wait until what was received is in the channel."""
        if self._lost is not None and self._lost.dropped:
            # No connection came after those that were dropped.
            self._put(_gap(self._lost, trio.current_time(), self._attempts))
            self._passing.cancel()
        if self._line_waits():
            self._end(cause)
        else:
            self.cause = cause
        while self._line_waits() and not self.channel.closed:
            await self._passed.wait()

    def _end(self, cause: Exception | None) -> None:
        """Note that the feed has ended, unless it has before."""
        if not self.ended.is_set():
            self.cause = self.cause or cause
            # A consumer may have closed the channel before, with another cause or none.
            error = self.channel.cause if self.channel.closed else self.cause
            self._set_state(csp.ConnectionState("closed", self.state.attempt, error))
            self.ended.set()
            self.changed.set()

    def _close_channel(self) -> None:
        last = self._latest
        details = None if last is None else {"code": last.close_code, "reason": last.close_reason}
        self.channel.close(self.cause, details=details)

    # The task that connects ------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> Error | None:
        """Connect again and again; return the error that ends the feed, None if it ends without one."""
        while not self.channel.closed:
            self._attempts += 1
            self._backoff.attempt_began(trio.current_time())
            attempt = self._backoff.failures + 1
            self._set_state(csp.ConnectionState("connecting", attempt))
            self._lasted_seconds = 0.0
            error: Error | None = None
            code: int | None = None
            try:
                client = await self._attempt()
                error, code = client.error, _ending_code(client)
            except Error as failure:
                error = failure
            if self._closing is not None:
                return None
            if not may_come_back(error, code):
                return error
            self._backoff.attempt_ended(trio.current_time(), self._lasted_seconds)
            if self._backoff.exhausted:
                return error or _closed_too_soon(code)
            asked_seconds = retry_after(error, datetime.now(UTC))
            seconds = self._backoff.next_delay(asked_seconds)
            self._set_state(csp.ConnectionState("waiting", attempt, error, seconds, asked_seconds))
            await trio.sleep(seconds)
        return None  # the consumer has closed the channel

    async def _attempt(self) -> Client:
        """Connect, subscribe, and have messages passed on; return the client when the connection has ended."""
        async with Connecting(self._target, self._options, reach=self._reach) as client:
            self._latest = client
            try:
                with trio.CancelScope() as self._serving:
                    await self._serve(client)
            finally:
                self._serving = None
                if self._closing is not None:
                    await client.close(*self._closing)  # at once, if cancelled
        return client

    async def _serve(self, client: Client) -> None:
        """Subscribe, and have passed on what the connection receives until it has ended, and all of that is taken."""
        if self._subscribe is not None:
            self._subscribing = trio.lowlevel.current_task()
            try:
                await self._call(self._subscribe, client)
            except trio.TooSlowError as error:
                raise ConnectionTimeoutError("subscribing took too long", kind=Kind.TIMEOUT, retryable=True) from error
            except Exception as error:
                if client.close_code is None or not _caused_by_ending(error):
                    raise
                return  # the connection's own ending says more than this error, which it caused
            finally:
                self._subscribing = None
        opened_at = trio.current_time()
        self._client = client
        self._set_state(csp.ConnectionState("open", self.state.attempt))
        self.changed.set()
        self.changed = trio.Event()
        attempts, self._attempts = self._attempts, 0
        if self._lost is not None:
            self._put(_gap(self._lost, opened_at, attempts))
            self._lost = None
        self._behind = self._line_waits()
        self._source = client
        self._passing.cancel()
        await client._connection.wait_ended()  # noqa: SLF001  # applications have `wait_closed`
        self._lasted_seconds = trio.current_time() - opened_at
        self._passing.cancel()
        while self._source is client and not self.channel.closed:
            await self._passed.wait()

    @staticmethod
    @disable_ki_protection
    async def _call(subscribe: Subscribe, client: Client) -> None:
        waiting: object = subscribe(client)
        if not isinstance(waiting, Awaitable):
            raise InvalidTypeError(
                f"subscribe must be an async function: it returned {type(waiting).__name__}, which cannot be awaited"
            )
        await waiting

    # The task that passes on -----------------------------------------------------------------------------------------

    @enable_ki_protection
    async def _pass_on(self) -> None:
        """Pass messages on until the consumer closes the channel."""
        try:
            while True:
                if self._source is not None and self._source.close_code is not None:
                    self._send_now()
                    if _may_come_back(self._source):
                        await self._set_aside(self._source)
                    elif self._line or self._too_much_waits():
                        self._end(self._source.error)
                with trio.CancelScope() as self._passing:
                    await self._pass_some()
        except csp.ChannelClosedError:
            self._stop(CloseCode.NORMAL, "")
        finally:
            self._note_passed()

    async def _pass_some(self) -> None:
        """Empty the line; or, if it is empty, take what the connection has received."""
        if self._too_much_waits():
            await self._wait_for_room()
        elif self._line:
            self._sending = True
            try:
                await self._send_some()
            finally:
                self._sending = False
            if not self._line:
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
                    if self._large_in_line:
                        break
                    self._put(messages.receive_nowait().value)
            elif self._source.close_code is None:
                await self._source.close()  # a user has closed its channel, and so wants no more
            elif not _may_come_back(self._source):
                self._source = None
                self._note_passed()

    async def _set_aside(self, client: Client) -> None:
        """Take all that a connection has received, which has ended; drop it if the line is behind."""
        at = trio.current_time()
        behind = self._behind and bool(self._line)
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
            gap = cast("csp.Gap", self._line.pop())
            self._put_into_line -= 1
            dropped += gap.missed or 0
            self._lost = _Lost(gap.error, gap.code, gap.reason, at, gap.seconds, gap.attempts, dropped)
        else:
            self._lost = _Lost(client.error, client.close_code, client.close_reason, at, dropped=dropped)
        self._source = None
        self._note_passed()

    async def _send_some(self) -> None:
        """Send the line; if it has large messages, only the first value."""
        if not self._large_in_line:
            await self.channel.send_many(self._line)
        else:
            await self.channel.send(self._line[0])
            self._note_sent()

    def _send_now(self) -> None:
        """Send what the channel has room for."""
        with contextlib.suppress(trio.WouldBlock):
            while self._line and not self._too_much_waits():
                self.channel.send_nowait(self._line[0])
                self._note_sent()

    def _note_sent(self) -> None:
        """Take the first value out of the line: it is in the channel."""
        value = self._line.popleft()
        if self._is_large(value):
            self._large_in_line -= 1
            self._backlog.add((value,), self._sent)

    def _put(self, value: Message | csp.Gap) -> None:
        """Put a value into the line."""
        self._line.append(value)
        self._put_into_line += 1
        if self._is_large(value):
            self._large_in_line += 1

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
        return self._put_into_line - len(self._line)

    def _line_waits(self) -> bool:
        return self._sending or bool(self._line)

    def _note_passed(self) -> None:
        self._passed.set()
        self._passed = trio.Event()

    def _set_state(self, state: csp.ConnectionState) -> None:
        self.state = state
        with contextlib.suppress(csp.ChannelClosedError):  # by a user, who can see that it is a channel
            self.states.send_nowait(state)


def _gap(lost: _Lost, opened_at: float, attempts: int) -> csp.Gap:
    seconds = lost.seconds + opened_at - lost.at
    missed = lost.dropped or None
    return csp.Gap(lost.error, seconds, lost.attempts + attempts, missed, lost.code, lost.reason)


def _ending_code(client: Client) -> int | None:
    """Return the close code that decides whether to come back."""
    # If the user closed the client, the code is only that of the server's answer, and does not matter.
    return CloseCode.NORMAL if client.closing else client.close_code


def _may_come_back(client: Client) -> bool:
    """Return whether another connection may follow one that has ended, and so needs room for what it receives."""
    return may_come_back(client.error, _ending_code(client))


def _caused_by_ending(error: Exception) -> bool:
    """Return whether user code may have raised this because the connection ended; if a group, everything in it."""
    if isinstance(error, ExceptionGroup):
        return all(map(_caused_by_ending, cast("ExceptionGroup[Exception]", error).exceptions))
    # An argument is wrong whatever becomes of the connection.
    return isinstance(error, (Error, StopAsyncIteration)) and not isinstance(error, InvalidError)


def _closed_too_soon(code: int | None) -> ConnectionFailedError:
    return ConnectionFailedError(
        "max_attempts have failed in a row; in the last one the server closed the connection soon after it was opened, "
        f"with code {code}",
        kind=Kind.UNAVAILABLE,
        retryable=True,
        details={"code": code},
    )
