"""`reconnecting`: one channel of messages over many connections, opened one after the other.

One task does it all, attempt by attempt: connect, subscribe, pass on what comes until the connection has ended, wait.
Each attempt enters a `Connecting` of its own, so that nothing of a connection outlives it, and the security policies
are asked each time.
"""

from __future__ import annotations

import contextlib
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self, TypeAlias, Unpack, cast, final

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

import csp
from csp.errors import (
    ConnectionFailedError,
    ConnectionTimeoutError,
    Error,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
)
from trio_csp_websocket.client.backoff import Backoff, retry_after
from trio_csp_websocket.client.connect import Connecting, Dial, check
from trio_csp_websocket.client.options import ConnectOptions, Options
from trio_csp_websocket.client.states import Gap, State
from trio_csp_websocket.connection.settings import parse_timeout, parse_whole_number
from trio_csp_websocket.protocol.close import check_close
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.messages import Message, encoded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from types import TracebackType

    from typing_extensions import Buffer

    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.protocol.url import Target

Subscribe: TypeAlias = "Callable[[Client], Awaitable[object]]"
"""What makes a new connection give what is wanted."""

# A peer that closes with these, and without an error, has not said that it has nothing more to give.
_COME_BACK = (CloseCode.GOING_AWAY, CloseCode.NO_STATUS)
_STATES_KEPT = 16
_MAX_ATTEMPTS = 1_000_000_000


def reconnecting(
    url: str,
    *,
    subscribe: Subscribe | None = None,
    min_delay: csp.Duration | float = "500ms",
    max_delay: csp.Duration | float = "30s",
    max_attempts: int | None = None,
    **options: Unpack[ConnectOptions],
) -> Reconnecting:
    """Keep a WebSocket connection open: whenever it is lost, connect again; all messages come on one channel.

        async def subscribe(client):
            await client.send('{"subscribe": "prices"}')

        async with websocket.reconnecting("wss://example.com/feed", subscribe=subscribe, read_timeout="30s") as feed:
            async for message in feed:
                if isinstance(message, websocket.Gap):
                    await reload()
                else:
                    print(message.data)

    Entering the block does not wait for the first connection: the server may be down. Leaving it closes the feed: with
    code 1000; after an exception with 1011, and the exception comes out as it is; when cancelled, at once. Nothing of
    it outlives the block, and how it ended is never raised here: it is the ``cause`` of `Reconnecting.channel`.

    Tried again is what fails with a ``retryable`` error, and a connection that the server closes with 1001 or without
    a code. The feed ends with the channel's ``cause``

    - None when the server closes with 1000, or the client is closed with a code of the user's;
    - the very error, if that is not retryable: a refusal such as 401, what `csp.security` denies, a violation of the
      protocol;
    - the last error after ``max_attempts``;
    - any other exception of ``subscribe``.

    Delays are random, from 0 to a bound that doubles from ``min_delay`` to ``max_delay``; the Retry-After of a refusal
    is waited for first, however long. A connection that lasted no longer than the bound counts as a failed attempt;
    one that did lets delays and attempts start anew. Without a ``read_timeout`` or ``keepalive``, a server that has
    vanished without a word may not be noticed for hours.

    Args:
        url: as in `connect`.
        subscribe: awaited with the `Client` of each new connection, before messages are passed on; it may send and
            receive there, and what it receives is its own. The attempt has failed if it raises because the connection
            has ended, as ``send`` and ``await anext(client)`` do, or if it raises another `csp.errors.Error` that is
            ``retryable``. Any other exception ends the feed. Only ``read_timeout`` and ``keepalive`` limit how long it
            may take.
        min_delay: the first bound. Milliseconds, a Go duration or a timedelta, as is ``max_delay``. 500 ms.
        max_delay: the largest bound. 30 s.
        max_attempts: the number of failed attempts in a row after which the feed ends; None for no end.
        options: those of `connect` except ``nursery``, for each connection. ``channel_capacity`` is also that of the
            feed's channel. As many messages again may be on their way from the connection to it.

    Raises:
        InvalidError: the URL or an option is out of range or malformed. Raised by the call, before any I/O.
        InvalidTypeError: the same for a wrong type or an unknown option.
        NoContextError: entered outside a Trio run, or a second time.
    """
    if options.get("nursery") is not None:
        raise InvalidError(
            "nursery must not be given: a feed is a block, `async with websocket.reconnecting(url) as feed`, "
            "and its connections end with it"
        )
    for name in options.keys() - ConnectOptions.__annotations__.keys():
        known = {"subscribe", "min_delay", "max_delay", "max_attempts", *ConnectOptions.__annotations__} - {"nursery"}
        raise InvalidTypeError(f"unknown option {name!r}; the options are {', '.join(sorted(known))}")
    # Checked and read once: the headers may be an iterator.
    target, checked = check(url, options)
    if subscribe is not None and not callable(subscribe):
        raise InvalidTypeError(f"subscribe must be an async function or None, not {subscribe!r}")
    least = parse_timeout("min_delay", min_delay, optional=False)
    most = parse_timeout("max_delay", max_delay, optional=False)
    if least > most:
        raise InvalidError(f"max_delay must be at least min_delay, which is {least:g} s, not {most:g} s")
    if max_attempts is not None:
        parse_whole_number("max_attempts", max_attempts, 1, _MAX_ATTEMPTS)
    return Reconnecting(target, checked, Backoff(least, most), subscribe, max_attempts)


@final
class Reconnecting:
    """What `reconnecting` returns: enter it with ``async with``, once; it is the feed."""

    def __init__(
        self,
        target: Target,
        options: Options,
        backoff: Backoff,
        subscribe: Subscribe | None = None,
        max_attempts: int | None = None,
        *,
        dial: Dial | None = None,
    ) -> None:
        self._target = target
        self._options = options
        self._dial = dial
        self._backoff = backoff
        self._subscribe = subscribe
        self._max_attempts = max_attempts
        self._channel = csp.Channel[Message | Gap](options.connection.channel_capacity)
        self._states = csp.Channel[State](_STATES_KEPT, overflow="drop_oldest")
        self._state = State("connecting", 1)
        self._client: Client | None = None
        # Set, and made anew, whenever one who waits to send should look again.
        self._changed = trio.Event()
        self._ended = trio.Event()
        # Around all the feed does, and inside of it what it does with one connection, while there is one.
        self._scope = trio.CancelScope()
        self._serving: trio.CancelScope | None = None
        # Code and reason, once it is to be closed.
        self._closing: tuple[int, str] | None = None
        self._block: contextlib.AbstractAsyncContextManager[None] | None = None
        # Attempts that failed in a row, and those since the last connection.
        self._failures = 0
        self._attempts = 0
        # For how long the connection of this attempt was open; how and when the last one ended.
        self._lasted_seconds = 0.0
        self._lost: tuple[ConnectionFailedError | None, float] | None = None

    def __repr__(self) -> str:
        return f"<csp.websocket.Reconnecting {self._state.name}, {self._target.url}>"

    # Receiving -------------------------------------------------------------------------------------------------------

    def channel(self) -> csp.Channel[Message | Gap]:
        """Return the channel on which the messages of all connections arrive: always the same one.

        Between the last message of a connection and the first of the next stands one `Gap`. The channel closes when
        the feed has ended, behind all that was received; its ``cause`` tells why. After the feed's own `close`, what
        was not in it yet is discarded. While it is full, nothing more is read from the server once what is on its way
        has found a place. Closing it ends the feed at the next message, or before the next attempt.
        """
        return self._channel

    async def receive(self) -> csp.Received[Message | Gap]:
        """Take the next message or gap: ``(value, True)``, or ``(None, False)`` once the feed has ended.

        Short for ``channel().receive()``.
        """
        self._check_entered()
        return await self._channel.receive()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message | Gap:
        """Take the next message or gap; when the feed has ended, end quietly or raise its cause."""
        self._check_entered()
        return await self._channel.__anext__()

    # State -----------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What the feed is doing."""
        return self._state

    def states(self) -> csp.Channel[State]:
        """Return the channel on which each new `state` arrives: always the same one.

        Nobody has to read it: it keeps the latest 16. It closes, without a cause, when the feed has ended.
        """
        return self._states

    @property
    def client(self) -> Client | None:
        """The client of the open connection; None while there is none, or it is not subscribed."""
        return self._client if self._client is not None and self._client.close_code is None else None

    # Sending and closing ---------------------------------------------------------------------------------------------

    async def send(self, data: str | Buffer, type: int | None = None) -> None:  # noqa: A002  # as in Client
        """Send a message on the open connection, as `Client.send`, waiting for one if there is none.

        Nothing is sent twice: if the connection fails meanwhile, nobody knows what has reached the server. Several
        tasks that wait for a connection send in no particular order.

        Raises:
            InvalidError: as in `Client.send`.
            ConnectionFailedError: as in `Client.send`; or the feed has ended, ``from`` its cause. Kind INTERNAL, not
                retryable.
            ConnectionTimeoutError: it took longer than ``write_timeout``, which begins when there is a connection.
        """
        client = self.client
        if client is None:
            encoded(data, type)  # what cannot be sent is told at once
            client = await self._next_client()
        await client.send(data, type)

    async def _next_client(self) -> Client:
        """Wait until there is an open connection."""
        self._check_entered()
        while (client := self.client) is None:
            if self._ended.is_set():
                await trio.lowlevel.checkpoint()  # a loop that ignores the error must not starve the others
                raise ConnectionFailedError(
                    "sending failed: the feed has ended", kind=Kind.INTERNAL, retryable=False
                ) from self._channel.cause
            await self._changed.wait()
        return client

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """End the feed, closing its connection as `Client.close` does, or giving up what it does to get one.

        Returns when all of it has ended. Closing again does nothing but wait for that. If cancelled, the socket is
        closed at once.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999.
            reason: up to 123 bytes of UTF-8, without line breaks and NUL.

        Raises:
            InvalidError: code or reason is out of range; nothing was done.
            InvalidTypeError: code is not an int, or reason not a str.
            NoContextError: the feed has not been entered.
        """
        check_close(code, reason)
        self._check_entered()
        if self._closing is None:
            self._closing = code, reason
            (self._serving or self._scope).cancel()
        try:
            await self._ended.wait()
        finally:
            self._scope.cancel()

    def _check_entered(self) -> None:
        if self._block is None:
            raise NoContextError("a feed is a block: write `async with websocket.reconnecting(url) as feed`")

    # The block -------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        if not trio.lowlevel.in_trio_task():
            raise NoContextError("reconnecting works inside trio.run only")
        if self._block is not None:
            raise NoContextError("this reconnecting(...) was used before; call reconnecting again for another feed")
        self._block = self._running()
        await self._block.__aenter__()
        return self

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._block is not None
        return await self._block.__aexit__(exc_type, exc, traceback)

    @contextlib.asynccontextmanager
    @enable_ki_protection
    async def _running(self) -> AsyncGenerator[None]:
        async with csp.BackgroundNursery() as nursery:
            nursery.start_soon(self._run, name="csp.websocket.reconnecting")
            try:
                yield
            except Exception:
                # If it is cancelled meanwhile, the exception is on its way out through the cancelled scope already.
                with contextlib.suppress(trio.Cancelled):
                    await self.close(CloseCode.INTERNAL_ERROR)
                raise
            await self.close(CloseCode.NORMAL)

    # Its task --------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def _run(self) -> None:
        cause: Exception | None = None
        try:
            with self._scope:
                cause = await self._keep_connected()
        except Exception as error:  # noqa: BLE001  # whatever it is, the consumer gets it
            cause = error
        finally:
            self._channel.close(cause)
            self._tell(State("closed", self._state.attempt, cause))
            self._states.close()
            self._ended.set()
            self._changed.set()

    async def _keep_connected(self) -> Error | None:
        """Connect again and again; return why there is no going on."""
        while not self._channel.closed:
            self._attempts += 1
            attempt = self._failures + 1
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
            if self._closing is not None or (error is None and code not in _COME_BACK):
                return None
            if error is not None and not error.retryable:
                return error
            if self._lasted_seconds > self._backoff.bound_seconds:
                self._failures = 0
                self._backoff.start_anew()
            else:
                self._failures += 1
            if self._failures == self._max_attempts:
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
        self._tell(State("open", self._state.attempt))
        self._changed.set()
        self._changed = trio.Event()
        attempts, self._attempts = self._attempts, 0
        try:
            if self._lost is not None:
                why, ended_at = self._lost
                await self._channel.send(Gap(why, opened_at - ended_at, attempts))
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
            await self._channel.send_all(batch)

    def _tell(self, state: State) -> None:
        self._state = state
        self._states.send_nowait(state)


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
