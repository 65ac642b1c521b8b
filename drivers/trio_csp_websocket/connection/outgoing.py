"""What waits to be written to a peer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from trio_csp_websocket.protocol.frames import CONTINUATION, TEXT_FRAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_csp_websocket.protocol.encoder import Encoder
    from trio_csp_websocket.protocol.large_frame import LargeFrame


class Outgoing(Protocol):
    """A frame that waits to be written."""

    @property
    def opcode(self) -> int: ...

    @property
    def size(self) -> int:
        """How many bytes of payload wait, uncompressed."""
        ...

    @property
    def number(self) -> int:
        """How many messages or pings it is."""
        ...

    def begin(self, encoder: Encoder) -> bytes | LargeFrame:
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
    def number(self) -> int:
        return 1

    @property
    def size(self) -> int:
        return len(self.payload)

    def begin(self, encoder: Encoder) -> bytes | LargeFrame:
        self.started = True
        return encoder.begin(self.opcode, self.payload)

    def written(self) -> None:
        self.done.set()

    def failed(self, failure: Exception) -> None:
        self.failure = failure
        self.done.set()


class Several(Awaited):
    """Messages that go out together, one right behind the other.

    Args:
        messages: their opcodes and payloads.
    """

    __slots__ = ("_messages",)

    @property
    def number(self) -> int:
        return len(self._messages)

    def __init__(self, messages: Sequence[tuple[int, bytes]]) -> None:
        super().__init__(TEXT_FRAME, b"")
        self._messages = messages

    @property
    def size(self) -> int:
        return sum(len(payload) for _, payload in self._messages)

    def begin(self, encoder: Encoder) -> bytes:
        self.started = True
        return encoder.encode_many(self._messages)


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
