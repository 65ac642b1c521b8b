"""What keeps a feed connected: one connection after another.

One task, `Keeper.run`, makes one attempt after another: connect, subscribe, pass messages on until the connection has
ended, wait. Each attempt enters a `Connecting` of its own, so nothing of a connection outlives its attempt, and the
security policies are checked each time.

Other tasks stop it in two ways. `Keeper.close` notes code and reason in ``_closing``, and cancels what the task does
with its connection; the task then closes the connection, and ends. If there is no connection, the whole task is
cancelled. A consumer stops the task by closing the feed's channel.
"""

from __future__ import annotations

import contextlib
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast, final

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

import csp
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Error, Kind
from trio_csp_websocket.client.backoff import Backoff, may_come_back, retry_after
from trio_csp_websocket.client.connect import Connecting, Dial
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.messages import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.protocol.url import Target

Subscribe: TypeAlias = "Callable[[Client], Awaitable[object]]"
"""Asks the server of a new connection for the messages that the application wants."""

_STATES_KEPT = 16


class _Lost(NamedTuple):
    """How and when a connection ended."""

    error: ConnectionFailedError | None
    code: int | None
    reason: str | None
    at: float


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
        """Set when the feed has ended."""
        self._target = target
        self._options = options
        self._dial = dial
        self._backoff = backoff
        self._subscribe = subscribe
        self._client: Client | None = None
        # Around everything the task does.
        self._scope = trio.CancelScope()
        # Inside that, around what is done with the open connection, while there is one.
        self._serving: trio.CancelScope | None = None
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

    @property
    def client(self) -> Client | None:
        """The client of the open connection; None while there is none, or it is still subscribing."""
        return self._client if self._client is not None and self._client.close_code is None else None

    async def close(self, code: int, reason: str) -> None:
        """End the feed: close its connection with code and reason, or stop trying to get one.

        Returns when the feed has ended. Closing again only waits for that. If cancelled, the socket is closed at once.
        """
        if self._closing is None:
            self._closing = code, reason
            (self._serving or self._scope).cancel()
        try:
            await self.ended.wait()
        finally:
            self._scope.cancel()

    @enable_ki_protection
    async def run(self) -> None:
        """Run the feed; return when it has ended, with its channel closed."""
        cause: Exception | None = None
        try:
            with self._scope:
                cause = await self._keep_connected()
        except Exception as error:  # noqa: BLE001  # the consumer gets any exception
            cause = error
        finally:
            last = self._latest
            details = None if last is None else {"code": last.close_code, "reason": last.close_reason}
            self.channel.close(cause, details=details)
            # The consumer may have closed it first, with another cause or none.
            self._set_state(csp.ConnectionState("closed", self.state.attempt, self.channel.cause))
            self.ended.set()
            self.changed.set()

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
                # If the user closed the client, the code is only that of the server's answer, and does not matter.
                error, code = client.error, CloseCode.NORMAL if client.closing else client.close_code
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
        """Connect, subscribe, and pass messages on; return the client when the connection has ended."""
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
        """Subscribe, and pass on what the connection receives until it has ended."""
        if self._subscribe is not None:
            try:
                await self._call(self._subscribe, client)
            except trio.TooSlowError as error:
                raise ConnectionTimeoutError("subscribing took too long", kind=Kind.TIMEOUT, retryable=True) from error
            except Exception as error:
                if client.close_code is None or not _caused_by_ending(error):
                    raise
                return  # the connection's own ending says more than this error, which it caused
        opened_at = trio.current_time()
        self._client = client
        self._set_state(csp.ConnectionState("open", self.state.attempt))
        self.changed.set()
        self.changed = trio.Event()
        attempts, self._attempts = self._attempts, 0
        try:
            if self._lost is not None:
                lost = self._lost
                gap = csp.Gap(lost.error, opened_at - lost.at, attempts, code=lost.code, reason=lost.reason)
                await self.channel.send(gap)
            await self._pass_on(client.channel())
        except csp.ChannelClosedError:
            # The consumer has closed it.
            self._closing = self._closing or (CloseCode.NORMAL, "")
        self._lost = _Lost(client.error, client.close_code, client.close_reason, trio.current_time())
        self._lasted_seconds = trio.current_time() - opened_at

    @staticmethod
    @disable_ki_protection
    async def _call(subscribe: Subscribe, client: Client) -> None:
        await subscribe(client)

    async def _pass_on(self, messages: csp.Channel[Message]) -> None:
        """Pass on the messages of one connection until there are no more, as many at a time as are there."""
        batch: deque[Message | csp.Gap] = deque()
        while (received := await messages.receive()).ok:
            batch.append(received.value)
            # Only those that are there now: each message taken makes room for one that the connection has read already,
            # so emptying the channel would collect all of these as well.
            for _ in range(len(messages)):
                batch.append(messages.receive_nowait().value)
            await self.channel.send_many(batch)

    def _set_state(self, state: csp.ConnectionState) -> None:
        self.state = state
        with contextlib.suppress(csp.ChannelClosedError):  # by a user, who can see that it is a channel
            self.states.send_nowait(state)


def _caused_by_ending(error: Exception) -> bool:
    """Return whether user code may have raised this because the connection ended; if a group, everything in it."""
    kinds = (Error, StopAsyncIteration)
    if isinstance(error, ExceptionGroup):
        return cast("ExceptionGroup[Exception]", error).split(kinds)[1] is None
    return isinstance(error, kinds)


def _closed_too_soon(code: int | None) -> ConnectionFailedError:
    return ConnectionFailedError(
        f"the server closed the connection too soon, too often; the last time with code {code}",
        kind=Kind.UNAVAILABLE,
        retryable=True,
        details={"code": code},
    )
