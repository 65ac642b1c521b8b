"""What keeps a feed connected: one connection after another.

Two tasks. One, `Keeper.run`, makes one attempt after another: ask where to, connect, subscribe, wait until the
connection has ended, wait. Each attempt enters a `Connecting` of its own, so nothing of a connection outlives its
attempt, and the security policies are checked each time. The other passes on what connections receive: see
``client/line``.

How an attempt has ended is judged once, in `Keeper._judge`: whether another one follows decides what becomes of what
its connection has received, and that is to be known before the connection is wound up.

Other tasks stop it in two ways. `Keeper.close` notes code and reason in ``_closing``, and cancels what the first task
does with its connection; that task then closes the connection, and ends. If there is no connection, the whole of it is
cancelled. A consumer stops the feed by closing its channel. `Keeper.reconnect` does as `close`, but only the turn is
cancelled: an attempt, or the wait that follows it. Then the next turn begins.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, cast, final

import trio
from trio.lowlevel import enable_ki_protection

import csp
from csp.errors import (
    ConnectionFailedError,
    ConnectionTimeoutError,
    Error,
    InvalidError,
    Kind,
    PermissionDeniedError,
    shown,
)
from trio_csp_websocket.client.backoff import Backoff, default_retry, retry_after
from trio_csp_websocket.client.connect import Connecting, Reach
from trio_csp_websocket.client.feed_counts import FeedCounts
from trio_csp_websocket.client.line import Line
from trio_csp_websocket.client.user_functions import TookTooLongError, UserFunctions, asked
from trio_csp_websocket.connection.ending import quiet_end
from trio_csp_websocket.events import Events, fields_of, inside, text_of
from trio_csp_websocket.protocol.constants import CloseCode

if TYPE_CHECKING:
    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.client.destination import Destination
    from trio_csp_websocket.client.feed_counts import FeedStatistics
    from trio_csp_websocket.client.user_functions import Retry, Subscribe
    from trio_csp_websocket.protocol.messages import Message

_events = Events("csp.websocket.feed")

_STATES_KEPT = 16


class _Ended(NamedTuple):
    """How an attempt has failed, or its connection has ended, and what follows."""

    error: Error | None
    """None if the connection ended as it should."""
    told: Error
    """The same as an error in any case."""
    again: bool
    """Whether another attempt follows."""
    cause: Exception | None
    """If not: what ends the feed, None if it ends quietly."""


@final
class Keeper:
    """Keeps a connection open by making new ones, and passes their messages on.

    Args:
        destination: where to connect to, and the options of each connection.
        backoff: how long to wait between attempts, and when to stop.
        subscribe: awaited with each new client, if given.
        retry: decides whether to come back, if given.
        reach: opens the byte stream; by default as `dial` does.
    """

    def __init__(
        self,
        destination: Destination,
        backoff: Backoff,
        subscribe: Subscribe | None = None,
        retry: Retry | None = None,
        *,
        reach: Reach | None = None,
    ) -> None:
        self._line = Line(destination.options.connection, late=self._end_late)
        self.channel: csp.Channel[Message | csp.Gap] = self._line.channel
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
        self.functions: UserFunctions = UserFunctions()
        """Runs the user's functions."""
        self._counts = FeedCounts()
        self._destination = destination
        self._reach = reach
        self._backoff = backoff
        self._subscribe = subscribe
        self._retry = retry
        self._client: Client | None = None
        # Around everything the first task does.
        self._scope = trio.CancelScope()
        # Inside that, around an attempt, or the wait that follows it.
        self._turn = trio.CancelScope()
        # Inside that, around what is done with the open connection, while there is one.
        self._serving: trio.CancelScope | None = None
        # Code and reason, once the feed is to be closed.
        self._closing: tuple[int, str] | None = None
        # Whether the turn is to be left, and another one begun.
        self._reconnecting = False
        # Set, and replaced, when the turn has begun that `reconnect` waits for; set for good when the feed has ended.
        self._begun = trio.Event()
        # How the latest attempt has ended; None before that.
        self._judged: _Ended | None = None
        # The number of attempts since there was a connection.
        self._attempts = 0
        # How long the connection of the latest attempt was open; 0 if there was none.
        self._lasted_seconds = 0.0
        # The client of the latest connection, also while that is still subscribing.
        self._latest: Client | None = None

    @property
    def client(self) -> Client | None:
        """The client of the open connection; None while there is none, or it is still subscribing."""
        return self._client if self._client is not None and self._client.close_code is None else None

    def statistics(self) -> FeedStatistics:
        return self._counts.statistics(waiting=self._line.waiting)

    @property
    def shown_url(self) -> str:
        """The URL of the latest attempt, without its query."""
        return self._destination.shown

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

    @enable_ki_protection
    async def reconnect(self) -> bool:
        """Leave what the first task does, and have it begin the next attempt; return when it has.

        Returns False if no attempt follows, because the feed has ended or is about to.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.ended.is_set() or self._closing is not None or (self._judged is not None and not self._judged.again):
            await trio.lowlevel.cancel_shielded_checkpoint()  # a loop that ignores it must not starve the others
            return False
        if not self._reconnecting:
            self._reconnecting = True
            (self._serving or self._turn).cancel()
        await self._begun.wait()
        return not self.ended.is_set()

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

    async def _pass_on(self) -> None:
        """Pass messages on until the consumer closes the channel."""
        try:
            await self._line.run()
        except csp.ChannelClosedError:
            self._stop(CloseCode.NORMAL, "")

    async def _pass_on_rest(self, cause: Exception | None) -> None:
        """End the feed because of ``cause``, and wait until what was received is in the channel."""
        gap = self._line.end(trio.current_time(), self._attempts)
        if gap is not None:
            self._log_gap(gap)
        if self._line.waits:
            self._end(cause)
        else:
            self.cause = cause
        await self._line.wait_sent()

    def _end_late(self) -> None:
        """Note that the feed has ended although messages of its last connection wait for room."""
        assert self._judged is not None
        self._end(self._judged.cause)

    def _end(self, cause: Exception | None) -> None:
        """Note that the feed has ended, unless it has before."""
        if not self.ended.is_set():
            self.cause = self.cause or cause
            # A consumer may have closed the channel before, with another cause or none.
            error = self.channel.cause if self.channel.closed else self.cause
            self._set_state(csp.ConnectionState("closed", self.state.attempt, error))
            why = "" if error is None else f": {text_of(error)}"
            self._tell("ended", logging.INFO, "%s: ended%s", why, **fields_of(error))
            self.ended.set()
            self.changed.set()
            self._begun.set()

    def _close_channel(self) -> None:
        last = self._latest
        details = None if last is None else {"code": last.close_code, "reason": last.close_reason}
        self.channel.close(self.cause, details=details)

    # The task that connects ------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> Exception | None:
        """Connect again and again; return the error that ends the feed, None if it ends without one."""
        while not self.channel.closed:
            attempt = self._begin_attempt()
            try:
                with trio.CancelScope() as self._turn:
                    self._judged = await self._attempt()
            finally:
                self._counts.end()
                failure = sys.exception() or (None if self._judged is None else self._judged.told)
                self._tell("tried", None, "", **fields_of(failure))
            if self._closing is not None:
                return None
            if self._reconnecting:
                self._abandon_attempt()
                continue
            assert self._judged is not None
            error, told, again, cause = self._judged
            if not again:
                return cause
            self._backoff.attempt_ended(trio.current_time(), self._lasted_seconds)
            if self._backoff.exhausted:
                return error or _closed_too_soon(told.details["code"])
            asked_seconds = retry_after(error, datetime.now(UTC))
            seconds = self._backoff.next_delay(asked_seconds)
            self._set_state(csp.ConnectionState("waiting", attempt, error, seconds, asked_seconds))
            text = "%s: %s; next attempt in %.2f s"
            fields = fields_of(told)
            self._tell(
                "waiting", logging.INFO, text, text_of(told), seconds, seconds=seconds, attempt=attempt, **fields
            )
            with trio.CancelScope() as self._turn:
                await trio.sleep(seconds)
        return None  # the consumer has closed the channel

    def _begin_attempt(self) -> int:
        """Note that an attempt begins; return its number in a row."""
        self._attempts += 1
        self._counts.attempts += 1
        self._judged = None
        self._lasted_seconds = 0.0
        self._backoff.attempt_began(trio.current_time())
        attempt = self._backoff.failures + 1
        self._set_state(csp.ConnectionState("connecting", attempt))
        self._tell("attempt", logging.DEBUG, "%s: attempt %d begins", attempt, attempt=attempt)
        self._reconnecting = False
        self._begun.set()
        self._begun = trio.Event()
        return attempt

    def _abandon_attempt(self) -> None:
        """Note that `reconnect` has ended the attempt or its connection."""
        self._backoff.attempt_abandoned(trio.current_time(), self._lasted_seconds)
        self._tell("reconnect", logging.INFO, "%s: reconnect() was called")
        if self._attempts:  # there was no connection yet
            self._attempts -= 1

    async def _attempt(self) -> _Ended | None:
        """Connect, subscribe, and have messages passed on; return how that has ended, None if others have ended it."""
        try:
            with inside(self):
                target, options = await self._destination.ask(self.functions)
            async with Connecting(target, options, reach=self._reach, parent=self) as client:
                self._latest = client
                self._counts.begin(client)
                try:
                    with trio.CancelScope() as self._serving:
                        self._judged = await self._serve(client)
                finally:
                    self._serving = None
                    if self._closing is not None:
                        await client.close(*self._closing)  # at once, if cancelled
                if self._reconnecting and self._closing is None:
                    await self._drop(client)
        except TookTooLongError as error:
            failure = ConnectionTimeoutError(str(error), kind=Kind.TIMEOUT, retryable=True)
            failure.__cause__ = error.__cause__
            return self._judge(failure)
        except Error as error:
            # An InvalidError is about what a function returned.
            if self._closing is None and (self.functions.is_final(error) or isinstance(error, InvalidError)):
                raise
            return self._judge(error)
        return self._judged

    async def _serve(self, client: Client) -> _Ended:
        """Subscribe, and have passed on what the connection receives until it has ended, and all of that is taken."""
        if self._subscribe is not None:
            try:
                with inside(self):
                    await self.functions.call("subscribe", self._subscribe, client, plain_allowed=False)
            except Exception as error:
                if client.close_code is None or not _caused_by_ending(error):
                    raise
                return self._judge(client.error, client)  # that says more than this error, which it caused
        self._counts.connections += 1
        opened_at = trio.current_time()
        self._client = client
        self._set_state(csp.ConnectionState("open", self.state.attempt))
        self._tell("open", logging.INFO, "%s: open", attempt=self.state.attempt)
        self.changed.set()
        self.changed = trio.Event()
        attempts, self._attempts = self._attempts, 0
        gap = self._line.follow(client, opened_at, attempts)
        if gap is not None:
            self._log_gap(gap)
        try:
            await client._connection.wait_ended()  # noqa: SLF001  # applications have `wait_closed`
        finally:
            self._lasted_seconds = trio.current_time() - opened_at
        self._tell_lost(client)
        self._judged = self._judge(client.error, client)
        self._line.source_ended(another=self._judged.again)
        await self._line.wait_taken(client)
        return self._judged

    async def _drop(self, client: Client) -> None:
        """Drop the connection for another one, and set aside what it has received."""
        await client._connection.drop("reconnect() was called")  # noqa: SLF001  # applications have `close`
        if self._line.follows(client):
            self._line.source_ended(another=True)
            await self._line.wait_taken(client)

    def _judge(self, error: Error | None, client: Client | None = None) -> _Ended:
        """Decide what follows an attempt that has failed, or a connection that has ended.

        Args:
            error: how it ended; None if it ended as it should.
            client: the client of the connection; None if there was none, or it was open when the attempt failed.
        """
        if error is not None:
            told = error
        else:
            assert client is not None
            assert client.close_code is not None
            told = quiet_end(client.close_code, client.close_reason or "")
            if client.closing and not self._reconnecting:  # the code is only that of the server's answer
                return _Ended(None, told, again=False, cause=None)
        if self._reconnecting:
            again = True
        elif self._retry is None:
            again = default_retry(told)
        elif self.channel.closed:
            return _Ended(error, told, again=False, cause=None)
        elif isinstance(error, PermissionDeniedError):
            again = False
        elif self._closing is not None or self._backoff.exhausts(self._lasted_seconds):
            again = True  # whatever it would say: another attempt is not made
        else:
            try:
                again = asked(self._retry, told)
            except Exception as failure:  # noqa: BLE001  # the consumer gets any exception
                return _Ended(error, told, again=False, cause=failure)
            said, fields = "yes" if again else "no", fields_of(told)
            text = "%s: retry says %s to: %s"
            self._tell("retry", logging.DEBUG, text, said, text_of(told), again=again, **fields)
        return _Ended(error, told, again, error)

    def _set_state(self, state: csp.ConnectionState) -> None:
        self.state = state
        with contextlib.suppress(csp.ChannelClosedError):  # by a user, who can see that it is a channel
            self.states.send_nowait(state)

    def _tell_lost(self, client: Client) -> None:
        """Tell that the open connection has ended, unless the user closed it."""
        assert client.close_code is not None
        assert client.close_reason is not None
        if not client.closing:
            told = client.error or quiet_end(client.close_code, client.close_reason)
            reason = shown(client.close_reason) or None
            fields = {"code": client.close_code, "reason": reason, **fields_of(told)}
            seconds = self._lasted_seconds
            self._tell(
                "lost", logging.DEBUG, "%s: lost after %.2f s: %s", seconds, text_of(told), seconds=seconds, **fields
            )

    def _log_gap(self, gap: csp.Gap) -> None:
        self._counts.missed += gap.missed or 0
        text = shown(str(gap), None)
        fields = fields_of(gap.error)
        self._tell(
            "gap",
            logging.DEBUG,
            "%s: %s",
            text,
            seconds=gap.seconds,
            attempts=gap.attempts,
            missed=gap.missed,
            **fields,
        )

    def _tell(self, name: str, level: int | None, text: str, *arguments: object, **fields: Any) -> None:
        """Tell an event; the text begins with the URL."""
        url = self.shown_url
        _events.tell(f"feed.{name}", level, text, url, *arguments, about=self, subject=self, url=url, **fields)


def _caused_by_ending(error: Exception) -> bool:
    """Return whether user code may have raised this because the connection ended; if a group, everything in it."""
    if isinstance(error, ExceptionGroup):
        return all(map(_caused_by_ending, cast("ExceptionGroup[Exception]", error).exceptions))
    # An argument is wrong whatever becomes of the connection.
    return isinstance(error, (Error, StopAsyncIteration)) and not isinstance(error, InvalidError)


def _closed_too_soon(code: object) -> ConnectionFailedError:
    return ConnectionFailedError(
        "max_attempts have failed in a row; in the last one the server closed the connection soon after it was opened, "
        f"with code {code}",
        kind=Kind.UNAVAILABLE,
        retryable=True,
        details={"code": code},
    )
