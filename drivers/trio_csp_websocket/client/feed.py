"""What an application holds of many connections, one after another."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self, TypeVar, final

import trio
from trio.lowlevel import enable_ki_protection

import csp
from csp.errors import ConnectionFailedError, Kind, NoContextError
from trio_csp_websocket.protocol.close import check_close
from trio_csp_websocket.protocol.constants import TEXT, CloseCode
from trio_csp_websocket.protocol.messages import each_of, encoded, encoded_many, json_payload

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable
    from types import TracebackType

    from typing_extensions import Buffer

    from trio_csp_websocket.client.client import Client
    from trio_csp_websocket.client.feed_counts import FeedStatistics
    from trio_csp_websocket.client.keeper import Keeper
    from trio_csp_websocket.protocol.messages import Message

T = TypeVar("T")


@final
class Feed:
    """Many connections, one after another, whose messages come on one channel. Made by `reconnecting`.

    Enter it with ``async with``, only once.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._block: contextlib.AbstractAsyncContextManager[None] | None = None

    def __repr__(self) -> str:
        return f"<csp.websocket.Feed {self.state.name}, {self._keeper.shown_url}>"

    # Receiving -------------------------------------------------------------------------------------------------------

    def channel(self) -> csp.Channel[Message | csp.Gap]:
        """Return the channel on which the messages of all connections arrive: always the same one.

        One `Gap` stands between the last message of a connection and the first of the next. The channel closes when
        the feed has ended, after the last message received; its ``cause`` tells why. `close` discards messages that
        are not in the channel yet. Closing the channel ends the feed at the next message, or before the next attempt.

        While the channel is full, the connection reads a bounded way ahead, and then no more. If it is lost, what it
        has received stays, and the feed connects again at once, whether or not anybody receives. What that new
        connection receives waits behind it; if it is lost as well before that was received, its messages are dropped
        and counted, in `Gap.missed`.
        """
        return self._keeper.channel

    async def receive(self) -> csp.Received[Message | csp.Gap]:
        """Take the next message or gap: ``(value, True)``, or ``(None, False)`` once the feed has ended.

        Short for ``channel().receive()``.

        Raises:
            NoContextError: the feed has not been entered; or it is called in ``url``, ``headers`` or ``subscribe``,
                which prepare a connection. In ``subscribe``, what the server answers comes to the client that is given
                there.
        """
        self._check_receiving()
        return await self._keeper.channel.receive()

    async def receive_value(self) -> Message | csp.Gap:
        """Take the next message or gap; raise if there will be none.

        Short for ``channel().receive_value()``.

        Raises:
            Error: the feed has ended with a cause: that anew, or a `ChannelBrokenError` if it is none of `csp.errors`.
            EndOfChannelError: it has ended without one; ``code`` and ``reason`` of its last connection are in the
                details, if there was one.
            NoContextError: as in `receive`.
        """
        self._check_receiving()
        return await self._keeper.channel.receive_value()

    async def receive_many(self, limit: int) -> list[Message | csp.Gap]:
        """Take the messages and gaps that are there now, up to ``limit`` of them, waiting for the first.

        Short for ``channel().receive_many(limit)``: an empty list once the feed has ended.

        Raises:
            InvalidError: limit is below 1.
            InvalidTypeError: limit is not an int.
            NoContextError: as in `receive`.
        """
        self._check_receiving()
        return await self._keeper.channel.receive_many(limit)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message | csp.Gap:
        """Take the next message or gap. When the feed has ended, stop the iteration, or raise its cause if any."""
        self._check_receiving()
        return await self._keeper.channel.__anext__()

    def _check_receiving(self) -> None:
        self._check_entered()
        self._check_not_preparing("receiving from the feed", "`await client.receive_value()`")

    # State -----------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> csp.ConnectionState:
        """What the feed is doing."""
        return self._keeper.state

    def states(self) -> csp.Source[csp.ConnectionState]:
        """Return the source on which each new `state` arrives: always the same one.

        It need not be read: it keeps the latest 16. It is never closed, but silent after the state ``"closed"``. That
        may come ahead of messages that still wait in `channel`: the end of those is the end of the feed. So a
        `csp.Selector` that has it does not end by itself.
        """
        return self._keeper.states

    def statistics(self) -> FeedStatistics:
        """Return counts of all connections so far, and of the attempts to connect."""
        return self._keeper.statistics()

    @property
    def client(self) -> Client | None:
        """The client of the open connection; None while there is none, or it is still subscribing."""
        return self._keeper.client

    # Sending and closing ---------------------------------------------------------------------------------------------

    async def send(self, data: str | Buffer, type: int | None = None) -> None:  # noqa: A002  # as in Client
        """Send a message on the open connection, as `Client.send` does; wait for a connection if there is none.

        That may be a newer connection than the one on which the message came that is answered. To answer on that one
        only, take `client` when the `Gap` before it comes, and send there: it fails once that connection has ended.

        A message is never sent twice: if the connection fails during the send, it is not known whether the server got
        it. Tasks that wait for a connection send in no particular order. If cancelled while waiting for a connection,
        nothing is sent.

        Raises:
            InvalidError: as in `Client.send`.
            ConnectionFailedError: as in `Client.send`; or the feed has ended, ``from`` its cause. Kind INTERNAL, not
                retryable.
            ConnectionTimeoutError: sending took longer than ``write_timeout``, which counts from when there is a
                connection.
            NoContextError: there is no connection, and the feed has not been entered; or it is called in ``url``,
                ``headers`` or ``subscribe``. In the latter, the client that is given there is to be used.
        """
        client = self.client
        if client is None:
            encoded(data, type)  # raises at once if it cannot be sent
            client = await self._next_client()
        await client.send(data, type)

    async def send_many(
        self,
        messages: Iterable[str | Buffer],
        type: int | None = None,  # noqa: A002  # as in Client
    ) -> None:
        """Send messages in one go, as `Client.send_many` does; wait for a connection if there is none.

        All of them go out on the same connection. What is said of `send` holds for all of them together.

        Raises:
            InvalidError: as in `Client.send_many`.
            InvalidTypeError: as in `Client.send_many`.
            ConnectionFailedError: as in `send`.
            ConnectionTimeoutError: as in `send`.
            NoContextError: as in `send`.
        """
        client = self.client
        if client is None:
            messages = tuple(each_of(messages))
            encoded_many(messages, type)  # raises at once if one of them cannot be sent
            client = await self._next_client()
        await client.send_many(messages, type)

    async def send_json(self, value: T, *, dumps: Callable[[T], str | Buffer] | None = None) -> None:
        """Send a value as JSON in a text message, as `Client.send_json` encodes it and as `send` sends it.

        It is encoded at once, before a connection is waited for.

        Raises:
            InvalidError: as in `Client.send_json`.
            ConnectionFailedError: as in `send`.
            ConnectionTimeoutError: as in `send`.
            NoContextError: as in `send`.
        """
        await self.send(json_payload(value, dumps), TEXT)

    async def _next_client(self) -> Client:
        """Wait until there is an open connection."""
        self._check_entered()
        self._check_not_preparing("feed.send", "`await client.send(...)`")
        while (client := self.client) is None:
            if self._keeper.ended.is_set():
                await trio.lowlevel.checkpoint()  # a loop that ignores the error must not starve the others
                raise self._ended("sending failed") from self._keeper.cause
            await self._keeper.changed.wait()
        return client

    async def reconnect(self) -> None:
        """Drop the connection, and connect again at once: no wait, no failed attempt, ``retry`` is not asked.

        The server gets a close frame with 1001 if it can be written without waiting, and the socket is closed. What was
        received is delivered as after any loss, and behind it a `Gap`. Its ``error`` says that it was this call: kind
        CANCELED; its ``code`` is 1006. ``url`` and ``headers`` are asked again. If there is no connection, a wait is
        cut short, and an attempt is abandoned and begun again.

        Returns when the next attempt begins: the old connection is dropped, and the state is ``"connecting"``. To wait
        for the new connection, use `states`, or `send` on it. Calls of many tasks at the same time make one attempt. It
        waits for nobody, so a server that is to be spared needs a pause between two calls.

        If cancelled before it began, nothing was done; later, the feed connects again all the same.

        Raises:
            ConnectionFailedError: the feed has ended or is being closed, ``from`` its cause. Kind INTERNAL, not
                retryable.
            NoContextError: the feed has not been entered; or it is called in ``url``, ``headers`` or ``subscribe``,
                which would be abandoned: raise a retryable error there instead.
        """
        self._check_entered()
        self._check_not_preparing("feed.reconnect", None)
        if not await self._keeper.reconnect():
            raise self._ended("reconnecting failed") from self._keeper.cause

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

    async def wait_closed(self) -> None:
        """Wait until the feed has ended, whatever the reason. Messages may still be in `channel`.

        Raises:
            NoContextError: the feed has not been entered.
        """
        self._check_entered()
        await self._keeper.ended.wait()

    @staticmethod
    def _ended(failed: str) -> ConnectionFailedError:
        return ConnectionFailedError(f"{failed}: the feed has ended", kind=Kind.INTERNAL, retryable=False)

    def _check_not_preparing(self, operation: str, instead: str | None) -> None:
        """Raise an error where the feed waits for the current task, to which ``operation`` would make it wait in turn.

        Args:
            operation: what is called.
            instead: what to write in ``subscribe``.
        """
        function = self._keeper.functions.running_here
        if function is None:
            return
        problem = f"{operation} inside {function} would wait for what {function} prepares"
        if function == "subscribe" and instead is not None:
            raise NoContextError(f"{problem}: write {instead}, with the client that subscribe is given")
        raise NoContextError(problem)

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
