"""What waits to be written to a peer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from trio_csp_websocket.protocol.frames import CONTINUATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_csp_websocket.protocol.encoder import Encoder


class Outgoing(Protocol):
    """A frame that waits to be written."""

    @property
    def opcode(self) -> int: ...

    @property
    def size(self) -> int:
        """How many bytes of payload wait, uncompressed."""
        ...

    def begin(self, encoder: Encoder) -> bytes:
        """Return the frame, which is written next."""
        ...

    def written(self) -> None:
        """Take note that it is written."""

    def failed(self, failure: Exception) -> None:
        """Take note that it will not be written, or not all of it."""


class Awaited:
    """A data frame or a ping that a task waits to have written."""

    __slots__ = ("done", "failure", "opcode", "payload", "started")

    def __init__(self, opcode: int, payload: bytes, *, started: bool = False) -> None:
        self.opcode: int = opcode
        self.payload: bytes = payload
        self.started: bool = started
        self.done: trio.Event = trio.Event()
        self.failure: Exception | None = None

    @property
    def size(self) -> int:
        return len(self.payload)

    def begin(self, encoder: Encoder) -> bytes:
        self.started = True
        return encoder.encode(self.opcode, self.payload)

    def written(self) -> None:
        self.done.set()

    def failed(self, failure: Exception) -> None:
        self.failure = failure
        self.done.set()


class Piece(Awaited):
    """A frame of a message in pieces.

    Args:
        payload: what it holds.
        encode: makes the frame.
    """

    __slots__ = ("_encode",)

    def __init__(self, payload: bytes, encode: Callable[[Encoder], bytes]) -> None:
        super().__init__(CONTINUATION, payload)
        self._encode = encode

    def begin(self, encoder: Encoder) -> bytes:
        self.started = True
        return self._encode(encoder)


class Turn(Awaited):
    """The place of a message in pieces among the others: done when it is its turn."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(CONTINUATION, b"")
