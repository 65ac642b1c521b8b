"""What keeps a feed connected: one connection after another.

Two tasks. One, `Keeper.run`, makes one attempt after another: connect, subscribe, wait until the connection has ended,
wait. Each attempt enters a `Connecting` of its own, so nothing of a connection outlives its attempt, and the security
policies are checked each time. The other passes on what connections receive: see ``client/line``.

Other tasks stop it in two ways. `Keeper.close` notes code and reason in ``_closing``, and cancels what the first task
does with its connection; that task then closes the connection, and ends. If there is no connection, the whole of it is
cancelled. A consumer stops the feed by closing its channel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias, cast, final

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

import csp
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Error, InvalidError, InvalidTypeError, Kind
from trio_csp_websocket.client.backoff import Backoff, may_come_back, retry_after
from trio_csp_websocket.client.connect import Connecting, Dial
from trio_csp_websocket.client.line import Line
from trio_csp_websocket.protocol.constants import CloseCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.protocol.messages import Message
    from trio_csp_websocket.protocol.url import Target

Subscribe: TypeAlias = "Callable[[Client], Awaitable[object]]"
"""Asks the server of a new connection for the messages that the application wants."""

_STATES_KEPT = 16


@final
class Keeper:
    """Keeps a connection open by making new ones, and passes their messages on.

    Args:
        target: the server to connect to.
        options: the options of each connection.
        backoff: how long to wait between attempts, and when to stop.
        subscribe: awaited with each new client, if given.
        dial: opens the byte stream; by default over the network.
    """

    def __init__(
        self,
        target: Target,
        options: Options,
        backoff: Backoff,
        subscribe: Subscribe | None = None,
        *,
        dial: Dial | None = None,
    ) -> None:
        self._line = Line(options.connection, late=self._end_late)
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
        self._target = target
        self._options = options
        self._dial = dial
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
        # The client of the latest connection, also while that is still subscribing.
        self._latest: Client | None = None
        # What ends the feed, once the last connection has ended.
        self._final_error: Error | None = None

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
        self._line.end(trio.current_time(), self._attempts)
        if self._line.waits:
            self._end(cause)
        else:
            self.cause = cause
        await self._line.wait_sent()

    def _end_late(self) -> None:
        """Note that the feed has ended although messages of its last connection wait for room."""
        self._end(self._final_error)

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
        async with Connecting(self._target, self._options, dial=self._dial) as client:
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
        self._line.follow(client, opened_at, attempts)
        await client._connection.wait_ended()  # noqa: SLF001  # applications have `wait_closed`
        self._lasted_seconds = trio.current_time() - opened_at
        another = may_come_back(client.error, _ending_code(client))
        if not another:
            self._final_error = client.error
        self._line.source_ended(another=another)
        await self._line.wait_taken(client)

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
            await self._line.run()
        except csp.ChannelClosedError:
            self._stop(CloseCode.NORMAL, "")

    def _set_state(self, state: csp.ConnectionState) -> None:
        self.state = state
        with contextlib.suppress(csp.ChannelClosedError):  # by a user, who can see that it is a channel
            self.states.send_nowait(state)


def _ending_code(client: Client) -> int | None:
    """Return the close code that decides whether to come back."""
    # If the user closed the client, the code is only that of the server's answer, and does not matter.
    return CloseCode.NORMAL if client.closing else client.close_code


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
