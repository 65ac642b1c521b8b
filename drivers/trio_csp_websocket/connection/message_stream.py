"""What an application holds of a message that it takes piece by piece."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, final

import trio
from trio.lowlevel import enable_ki_protection

from csp import schedule_point_due
from csp.errors import NoContextError
from trio_csp_websocket.connection.incoming import Incoming

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import Self

    from csp.errors import ConnectionFailedError
    from trio_csp_websocket.connection.connection import Connection
    from trio_csp_websocket.protocol.constants import MessageType
    from trio_csp_websocket.protocol.messages import Message


@final
class MessageStream:
    """The next message, in pieces. Made by `Client.receive_stream`.

    ``async with`` waits until the message has begun; inside, ``async for`` goes over its pieces as they arrive. No
    piece is empty, and so an empty message has none. Where the peer or the network cut a message into pieces says
    nothing. Pieces of text are whole characters: one whose bytes arrive apart comes with the last of them.

    A message that was received before comes as one piece. Otherwise it may have any size: ``read_limit`` does not hold,
    and reading rests while 256 KiB of it wait to be taken, as measured in memory. Messages behind it go into the
    channel, from where other tasks may receive them meanwhile.

    Leaving the block early drops the rest of the message as it arrives; the connection stays as it is, and the next
    message is received as ever. A stream can be entered once, and a connection has one at a time.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        prepare: Callable[[], Awaitable[None]],
        missing: Callable[[], Awaitable[Message]],
        cut: Callable[[], ConnectionFailedError],
    ) -> None:
        self._connection = connection
        # What comes before the first use of the endpoint; raises what a wait for a message raises that will not come;
        # what is raised for a message whose rest will not come.
        self._prepare = prepare
        self._missing = missing
        self._cut = cut
        self._incoming = Incoming()
        self._entered = False

    @property
    def type(self) -> MessageType:
        """Return ``"text"`` if the pieces are str, and ``"binary"`` if they are bytes.

        Raises:
            NoContextError: the block was not entered.
        """
        if self._incoming.type is None:
            raise NoContextError("the message has not begun: enter the stream with `async with`")
        return self._incoming.type

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        """Wait until the next message has begun.

        If cancelled before that, nothing of it is lost.

        Raises:
            NoContextError: the stream was entered before, or another one of the connection is open.
            ConnectionFailedError: the connection has ended with an error, and there is no such message.
            EndOfChannelError: it has ended without one; ``code`` and ``reason`` are in the details.
        """
        if self._entered:
            raise NoContextError("a stream can be entered only once: ask receive_stream for another")
        delivery = self._connection.delivery
        if delivery.stream is not None:
            raise NoContextError("another receive_stream of this connection is open: a connection has one at a time")
        self._entered = True
        delivery.stream, delivery.streams = self._incoming, True
        try:
            await self._prepare()
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._begin()
        except BaseException:
            self._connection.leave(self._incoming)
            raise
        return self

    async def _begin(self) -> None:
        delivery, incoming = self._connection.delivery, self._incoming
        while delivery.unread:
            with contextlib.suppress(trio.WouldBlock):
                received = delivery.channel.receive_nowait()
                if received.ok:
                    self._take_whole(received.value)
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return
            await trio.lowlevel.checkpoint()  # it is on its way to the channel
        if not (delivery.stopped or delivery.channel.closed):
            self._connection.arm(incoming)
        while incoming.type is None:
            if incoming.cut or delivery.stopped or delivery.channel.closed:
                await self._missing()
            else:
                await incoming.wait()

    def _take_whole(self, message: Message) -> None:
        self._incoming.begin(message.type)
        if message.data:
            self._incoming.add(message.data)
        self._incoming.end()

    @enable_ki_protection
    async def __aexit__(self, *_: object) -> None:
        """Drop what was not taken, and what still arrives of the message. Waits for nothing."""
        self._connection.leave(self._incoming)

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self

    @enable_ki_protection
    async def __anext__(self) -> str | bytes:
        """Take the next piece, waiting for it; stop the iteration at the end of the message.

        If cancelled, nothing is lost: the next call gets the piece.

        Raises:
            ConnectionFailedError: the connection has ended before the message had, or is being closed by this end. The
                pieces that have arrived come first.
            NoContextError: the block was not entered, or has been left.
        """
        incoming = self._incoming
        if self._connection.delivery.stream is not incoming:
            raise NoContextError("the pieces of a message can be taken only inside of its block")
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while not incoming and not incoming.complete:
            if incoming.cut:
                raise self._cut()
            await incoming.wait()
            waited = True
        if not incoming:
            raise StopAsyncIteration
        was_full = incoming.full
        piece = incoming.take()
        if was_full and not incoming.full:
            self._connection.delivery.wake()
        if not waited and schedule_point_due():
            await trio.lowlevel.cancel_shielded_checkpoint()
        return piece

    def __repr__(self) -> str:
        incoming = self._incoming
        if not self._entered:
            state = "not entered"
        elif self._connection.delivery.stream is not incoming:
            state = "left"
        elif incoming.type is None:
            state = "waiting for a message"
        else:
            state = f"{incoming.type}, {'complete' if incoming.complete else 'cut' if incoming.cut else 'arriving'}"
        return f"<{type(self).__module__}.{type(self).__name__} {state}>"
