"""`reconnecting`: one channel of messages over many connections, opened one after another."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self, Unpack, final

import trio
from trio.lowlevel import enable_ki_protection

import csp
from csp.errors import (
    ConnectionFailedError,
    InvalidError,
    InvalidTypeError,
    Kind,
    NoContextError,
)
from trio_csp_websocket.client.backoff import Backoff
from trio_csp_websocket.client.connect import check
from trio_csp_websocket.client.keeper import Keeper, Subscribe
from trio_csp_websocket.client.options import ConnectOptions
from trio_csp_websocket.connection.settings import parse_timeout, parse_whole_number
from trio_csp_websocket.protocol.close import check_close
from trio_csp_websocket.protocol.constants import CloseCode
from trio_csp_websocket.protocol.messages import Message, encoded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType

    from typing_extensions import Buffer

    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.client.states import Gap, State

_MAX_ATTEMPTS = 1_000_000_000


def reconnecting(
    url: str,
    *,
    subscribe: Subscribe | None = None,
    min_delay: csp.Duration | float = "500ms",
    max_delay: csp.Duration | float = "30s",
    max_attempts: int | None = None,
    **options: Unpack[ConnectOptions],
) -> Feed:
    """Keep a WebSocket connection open: connect again whenever it is lost; all messages come on one channel.

        async def subscribe(client):
            await client.send('{"subscribe": "prices"}')

        async with websocket.reconnecting("wss://example.com/feed", subscribe=subscribe, read_timeout="30s") as feed:
            async for message in feed:
                if isinstance(message, websocket.Gap):
                    await reload()
                else:
                    print(message.data)

    Entering the block does not wait for the first connection: the server may be down. Leaving it closes the feed with
    code 1000. After an exception it does so with 1011, and the exception comes out unchanged. If cancelled, it closes
    the feed at once. Nothing of the feed outlives the block, and leaving never raises how the feed ended: that is the
    ``cause`` of `Feed.channel`.

    The feed connects again after a ``retryable`` error, and after the server closes with 1001 or without a code.
    Otherwise it ends. The channel's ``cause`` is then

    - None, if the server closed with 1000, or the user closed the client;
    - the error, if that is not retryable: a refusal such as 401, a denial by `csp.security`, a violation of the
      protocol;
    - the last error, after ``max_attempts``;
    - the exception of ``subscribe``, if it raised any other.

    Before each new attempt the feed waits a random time, from 0 to a bound that doubles from ``min_delay`` to
    ``max_delay``; before that it waits the Retry-After of a refusal, however long. If a connection lasted longer than
    the bound, delays and attempts start again; if not, it counts as a failed attempt. Without a ``read_timeout`` or
    ``keepalive``, it may take hours to notice that a server has vanished without closing the connection.

    Args:
        url: as in `connect`.
        subscribe: awaited with the `Client` of each new connection, before messages are passed on. It may send and
            receive on that client; the feed does not see what it receives. The attempt has failed if it raises because
            the connection has ended, as ``send`` and ``await anext(client)`` do, or if it raises another
            `csp.errors.Error` that is ``retryable``. Any other exception ends the feed. Only ``read_timeout`` and
            ``keepalive`` limit how long it may take.
        min_delay: the first bound: milliseconds, a Go duration or a timedelta. 500 ms.
        max_delay: the largest bound, given like ``min_delay``. 30 s.
        max_attempts: the number of failed attempts in a row after which the feed ends; None for no limit.
        options: the options of each connection: those of `connect` except ``nursery``. ``channel_capacity`` is also
            that of the feed's channel; about twice as many more may be on their way from the connection to it.

    Raises:
        InvalidError: the URL or an option is out of range or malformed. Raised by the call, before any I/O.
        InvalidTypeError: the same for a wrong type or an unknown option.
        NoContextError: on entering outside a Trio run, or for a second time.
    """
    if options.get("nursery") is not None:
        raise InvalidError(
            "nursery must not be given: a feed is a block, `async with websocket.reconnecting(url) as feed`, "
            "and its connections end with it"
        )
    for name in options.keys() - ConnectOptions.__annotations__.keys():
        known = {"subscribe", "min_delay", "max_delay", "max_attempts", *ConnectOptions.__annotations__} - {"nursery"}
        raise InvalidTypeError(f"unknown option {name!r}; the options are {', '.join(sorted(known))}")
    # Checked only once, here: the headers may be an iterator.
    target, checked = check(url, options)
    if subscribe is not None and not callable(subscribe):
        raise InvalidTypeError(f"subscribe must be an async function or None, not {subscribe!r}")
    least = parse_timeout("min_delay", min_delay, optional=False)
    most = parse_timeout("max_delay", max_delay, optional=False)
    if least > most:
        raise InvalidError(f"max_delay must be at least min_delay, which is {least:g} s, not {most:g} s")
    if max_attempts is not None:
        parse_whole_number("max_attempts", max_attempts, 1, _MAX_ATTEMPTS)
    backoff = Backoff(least, most, max_attempts=max_attempts)
    return Feed(target.url, Keeper(target, checked, backoff, subscribe))


@final
class Feed:
    """What `reconnecting` returns, the feed: enter it with ``async with``, only once."""

    def __init__(self, url: str, keeper: Keeper) -> None:
        self._url = url
        self._keeper = keeper
        self._block: contextlib.AbstractAsyncContextManager[None] | None = None

    def __repr__(self) -> str:
        return f"<csp.websocket.Feed {self.state.name}, {self._url}>"

    # Receiving -------------------------------------------------------------------------------------------------------

    def channel(self) -> csp.Channel[Message | Gap]:
        """Return the channel on which the messages of all connections arrive: always the same one.

        One `Gap` stands between the last message of a connection and the first of the next. The channel closes when
        the feed has ended, after the last message received; its ``cause`` tells why. `close` discards messages that
        are not in the channel yet. While the channel is full, the connection reads on until its own channel is full
        too. Closing the channel ends the feed at the next message, or before the next attempt.
        """
        return self._keeper.channel

    async def receive(self) -> csp.Received[Message | Gap]:
        """Take the next message or gap: ``(value, True)``, or ``(None, False)`` once the feed has ended.

        Short for ``channel().receive()``.
        """
        self._check_entered()
        return await self._keeper.channel.receive()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message | Gap:
        """Take the next message or gap. When the feed has ended, stop the iteration, or raise its cause if any."""
        self._check_entered()
        return await self._keeper.channel.__anext__()

    # State -----------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What the feed is doing."""
        return self._keeper.state

    def states(self) -> csp.Channel[State]:
        """Return the channel on which each new `state` arrives: always the same one.

        It need not be read: it keeps the latest 16. It closes, without a cause, when the feed has ended.
        """
        return self._keeper.states

    @property
    def client(self) -> Client | None:
        """The client of the open connection; None while there is none, or it is still subscribing."""
        return self._keeper.client

    # Sending and closing ---------------------------------------------------------------------------------------------

    async def send(self, data: str | Buffer, type: int | None = None) -> None:  # noqa: A002  # as in Client
        """Send a message on the open connection, as `Client.send` does; wait for a connection if there is none.

        A message is never sent twice: if the connection fails during the send, it is not known whether the server got
        it. Tasks that wait for a connection send in no particular order. If cancelled while waiting for a connection,
        nothing is sent.

        Raises:
            InvalidError: as in `Client.send`.
            ConnectionFailedError: as in `Client.send`; or the feed has ended, ``from`` its cause. Kind INTERNAL, not
                retryable.
            ConnectionTimeoutError: sending took longer than ``write_timeout``, which counts from when there is a
                connection.
            NoContextError: there is no connection, and the feed has not been entered.
        """
        client = self.client
        if client is None:
            encoded(data, type)  # raises at once if it cannot be sent
            client = await self._next_client()
        await client.send(data, type)

    async def _next_client(self) -> Client:
        """Wait until there is an open connection."""
        self._check_entered()
        while (client := self.client) is None:
            if self._keeper.ended.is_set():
                await trio.lowlevel.checkpoint()  # a loop that ignores the error must not starve the others
                raise ConnectionFailedError(
                    "sending failed: the feed has ended", kind=Kind.INTERNAL, retryable=False
                ) from self._keeper.channel.cause
            await self._keeper.changed.wait()
        return client

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """End the feed: close its connection as `Client.close` does, or stop trying to get one.

        Returns when the feed has ended. Closing again only waits for that. If cancelled, the socket is closed at once.

        Args:
            code: as in `Client.close`.
            reason: as in `Client.close`.

        Raises:
            InvalidError: code or reason is out of range; nothing was done.
            InvalidTypeError: code is not an int, or reason not a str.
            NoContextError: the feed has not been entered.
        """
        check_close(code, reason)
        self._check_entered()
        await self._keeper.close(code, reason)

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
        self._block = self._run_keeper()
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
    async def _run_keeper(self) -> AsyncGenerator[None]:
        async with csp.BackgroundNursery() as nursery:
            nursery.start_soon(self._keeper.run, name="csp.websocket.reconnecting")
            try:
                yield
            except Exception:
                # If this is cancelled, the exception already leaves through the cancelled scope.
                with contextlib.suppress(trio.Cancelled):
                    await self.close(CloseCode.INTERNAL_ERROR)
                raise
            await self.close(CloseCode.NORMAL)
