"""Sending a message in pieces: a frame for each piece as it comes (RFC 6455, section 5.4)."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import trio

from csp.errors import InvalidError
from trio_csp_websocket.connection.outgoing import Piece, Turn
from trio_csp_websocket.connection.state import State
from trio_csp_websocket.connection.writer import WriteTimeoutError
from trio_csp_websocket.protocol.constants import TEXT, CloseCode
from trio_csp_websocket.protocol.messages import check_type, encoded

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from typing_extensions import Buffer

    from trio_csp_websocket.connection.connection import Connection

_OF_WRITING = (trio.BrokenResourceError, trio.ClosedResourceError, WriteTimeoutError)

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class PiecesSender:
    """Sends one message in pieces.

    Each piece is a frame that is not the last; behind them goes an empty one that is, because nobody knows which piece
    is the last before the next one fails to come.

    Args:
        connection: where it is sent.
        pieces: gives the pieces.
        type: the type of the message; None if the first piece decides.
    """

    def __init__(
        self,
        connection: Connection,
        pieces: AsyncIterable[str | Buffer],
        type: int | None,  # noqa: A002  # the specified name
    ) -> None:
        check_type(type)
        self._connection = connection
        self._pieces = pieces
        self._type = type
        self._turn = Turn()
        # Around the waiting for the next piece.
        self._waiting = trio.CancelScope()
        # Checks text that comes as bytes, which may be cut anywhere.
        self._utf8 = _Utf8Decoder()
        self._begun = False
        self.iterable_failed: bool = False
        """Whether what `send` has raised comes out of the iterable."""
        self._last = Piece(lambda encoder: encoder.encode_end())

    def ended(self, connection: Connection) -> None:
        """Wait no longer for the next piece, because the connection has ended."""
        self._waiting.cancel()

    async def send(self) -> None:
        """Send the message; raise what `Writer.send` does, `InvalidError`, and what the iterable raises."""
        writer = self._connection.writer
        iterator = aiter(self._pieces)
        self._connection.follow(self)
        try:
            async with _closed_behind(iterator):
                while (piece := await self._next(iterator)) is not None:
                    await self._send_piece(piece)
            if self._utf8.getstate()[0]:
                raise InvalidError("the pieces must be UTF-8 to go as text: the last character is cut")
            if self._begun:
                await writer.send_piece(self._last)
            elif self._type is None:
                raise InvalidError("there is no piece: give the type, TEXT or BINARY, to send an empty message")
            else:
                await writer.send(self._type, b"")
        except BaseException as error:
            if self.iterable_failed or not isinstance(error, _OF_WRITING):
                await self._cut(error)
            elif isinstance(error, WriteTimeoutError) and self._begun:
                error.started = True
            raise
        finally:
            writer.end_pieces(self._turn)
            self._connection.unfollow(self)

    async def _next(self, iterator: AsyncIterator[str | Buffer]) -> str | Buffer | None:
        """Return the next piece; None if there is none."""
        if self._connection.ending is None:
            with trio.CancelScope() as self._waiting:
                try:
                    return await anext(iterator, None)
                except Exception:
                    self.iterable_failed = True
                    raise
        raise trio.ClosedResourceError("the connection has ended")

    async def _send_piece(self, given: str | Buffer) -> None:
        opcode, payload = self._encoded(given)
        if self._begun:
            await self._connection.writer.send_piece(Piece(lambda encoder: encoder.encode_piece(payload)))
            return
        self._type = opcode
        await self._connection.writer.begin_pieces(self._turn)
        first = Piece(lambda encoder: encoder.encode_first_piece(opcode, payload))
        try:
            await self._connection.writer.send_piece(first)
        finally:
            self._begun = first.started

    def _encoded(self, given: str | Buffer) -> tuple[int, bytes]:
        # What is said to be text is not checked as a whole: a character may be cut in two.
        as_text = self._type == TEXT and not isinstance(given, str)
        opcode, payload = encoded(given, None if as_text else self._type, name="each piece")
        if as_text or (opcode == TEXT and self._utf8.getstate()[0]):
            try:
                self._utf8.decode(payload)
            except UnicodeDecodeError as error:
                raise InvalidError(f"the pieces must be UTF-8 to go as text: {error}") from None
        return TEXT if as_text else opcode, bytes(payload)

    async def _cut(self, error: BaseException) -> None:
        """End the connection, if part of the message was sent: the peer cannot be told to forget that part."""
        if self._begun and not self._last.started and self._connection.state is State.OPEN:
            if isinstance(error, Exception):
                await self._connection.drop("the pieces of a message have failed", CloseCode.INTERNAL_ERROR)
            else:
                await self._connection.drop("sending a message in pieces was cancelled")


@contextlib.asynccontextmanager
async def _closed_behind(iterator: AsyncIterator[str | Buffer]) -> AsyncGenerator[None, None]:
    """Close a generator behind the block, as nobody else may hold it. Anything else is its user's."""
    try:
        yield
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()
