"""One connection after the other: what keeps a feed connected.

One task does it all, attempt by attempt: connect, subscribe, pass on what comes until the connection has ended, wait.
Each attempt enters a `Connecting` of its own, so that nothing of a connection outlives it, and the security policies
are asked each time.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias, cast, final

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

import csp
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Error, Kind
from trio_csp_websocket.client.backoff import Backoff, may_come_back, retry_after
from trio_csp_websocket.client.connect import Connecting, Dial
from trio_csp_websocket.client.states import Gap, State
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.messages import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.client.options import Options
    from trio_csp_websocket.protocol.url import Target

Subscribe: TypeAlias = "Callable[[Client], Awaitable[object]]"
"""What makes a new connection give what is wanted."""

_STATES_KEPT = 16


@final
class Keeper:
    """Keeps a connection open, and passes on what all of them receive.

    Args:
        target: where to connect to.
        options: those of each connection.
        backoff: how long to wait between attempts, and when to stop.
        subscribe: awaited with each new client, if given.
        dial: opens the byte stream, if not over the network.
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
        self.channel = csp.Channel[Message | Gap](options.connection.channel_capacity)
        """The messages and gaps; closed at the end."""
        self.states = csp.Channel[State](_STATES_KEPT, overflow="drop_oldest")
        """Each new `state`, of which the latest are kept; closed at the end."""
        self.state = State("connecting", 1)
        self.changed = trio.Event()
        """Set, and made again, whenever there may be another `client`, or none any more."""
        self.ended = trio.Event()
        """Set when all of it has ended."""
        self._target = target
        self._options = options
        self._dial = dial
        self._backoff = backoff
        self._subscribe = subscribe
        self._client: Client | None = None
        # Around all that is done, and inside of it what is done with one connection, while there is one.
        self._scope = trio.CancelScope()
        self._serving: trio.CancelScope | None = None
        # Code and reason, once it is to be closed.
        self._closing: tuple[int, str] | None = None
        # The number of attempts since the last connection; for how long that of the latest was open; how and when the
        # last one ended.
        self._attempts = 0
        self._lasted_seconds = 0.0
        self._lost: tuple[ConnectionFailedError | None, float] | None = None

    @property
    def client(self) -> Client | None:
        """The client of the open connection; None while there is none, or it is not subscribed."""
        return self._client if self._client is not None and self._client.close_code is None else None

    async def close(self, code: int, reason: str) -> None:
        """End it, closing its connection with code and reason, or giving up what is done to get one.

        Closing again does nothing but wait for the end. If cancelled, the socket is closed at once.
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
        """Do all of it; return at the end."""
        cause: Exception | None = None
        try:
            with self._scope:
                cause = await self._keep_connected()
        except Exception as error:  # noqa: BLE001  # whatever it is, the consumer gets it
            cause = error
        finally:
            self.channel.close(cause)
            self._tell(State("closed", self.state.attempt, cause))
            self.states.close()
            self.ended.set()
            self.changed.set()

    async def _keep_connected(self) -> Error | None:
        """Connect again and again; return why there is no going on."""
        while not self.channel.closed:
            self._attempts += 1
            attempt = self._backoff.failures + 1
            self._tell(State("connecting", attempt))
            self._lasted_seconds = 0.0
            error: Error | None = None
            code: int | None = None
            try:
                client = await self._attempt()
                # After a close of the user's, the code of the answer says nothing.
                error, code = client.error, CloseCode.NORMAL if client.closing else client.close_code
            except Error as failure:
                error = failure
            if self._closing is not None:
                return None
            if not may_come_back(error, code):
                return error
            self._backoff.attempt_ended(self._lasted_seconds)
            if self._backoff.exhausted:
                return error or _closed_too_soon(code)
            seconds = self._backoff.next_delay(retry_after(error, datetime.now(UTC)))
            self._tell(State("waiting", attempt, error, seconds))
            await trio.sleep(seconds)
        return None  # nothing more is wanted

    async def _attempt(self) -> Client:
        """Connect, subscribe, and pass on what comes; return the client when the connection has ended."""
        async with Connecting(self._target, self._options, dial=self._dial) as client:
            try:
                with trio.CancelScope() as self._serving:
                    await self._serve(client)
            finally:
                self._serving = None
                if self._closing is not None:
                    await client.close(*self._closing)  # at once, if cancelled
        return client

    async def _serve(self, client: Client) -> None:
        """Subscribe, and pass on what a connection receives until it has ended."""
        if self._subscribe is not None:
            try:
                await self._call(self._subscribe, client)
            except trio.TooSlowError as error:
                raise ConnectionTimeoutError("subscribing took too long", kind=Kind.TIMEOUT, retryable=True) from error
            except Exception as error:
                if client.close_code is None or not _of_the_connection(error):
                    raise
                return  # how the connection ended says more than what came of it
        opened_at = trio.current_time()
        self._client = client
        self._tell(State("open", self.state.attempt))
        self.changed.set()
        self.changed = trio.Event()
        attempts, self._attempts = self._attempts, 0
        try:
            if self._lost is not None:
                why, ended_at = self._lost
                await self.channel.send(Gap(why, opened_at - ended_at, attempts))
            await self._pass_on(client.channel())
        except csp.ChannelClosedError:
            # By whoever reads it: nothing more is wanted.
            self._closing = self._closing or (CloseCode.NORMAL, "")
        self._lost = client.error, trio.current_time()
        self._lasted_seconds = trio.current_time() - opened_at

    @staticmethod
    @disable_ki_protection
    async def _call(subscribe: Subscribe, client: Client) -> None:
        await subscribe(client)

    async def _pass_on(self, messages: csp.Channel[Message]) -> None:
        """Pass on the messages of one connection until there are no more, as many at a time as have come."""
        batch: deque[Message | Gap] = deque()
        while (received := await messages.receive()).ok:
            batch.append(received.value)
            # Not until it is empty: that would be all that the connection has read.
            for _ in range(len(messages)):
                batch.append(messages.receive_nowait().value)
            await self.channel.send_all(batch)

    def _tell(self, state: State) -> None:
        self.state = state
        self.states.send_nowait(state)


def _of_the_connection(error: Exception) -> bool:
    """Whether it can be what a connection that has ended makes of its user, also in a nursery."""
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
