"""`from_stream`: the bytes that a Trio stream receives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from csp._core.arguments import check_count
from csp._sources.pull import PullSource, named
from csp.errors import InvalidTypeError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from csp._core.source import Source


def from_stream(
    stream: trio.abc.ReceiveStream, max_bytes: int | None = None
) -> AbstractAsyncContextManager[Source[bytes], bool | None]:
    """Return a source of the bytes that a Trio stream receives, in pieces as they come.

    Closed when the stream ends; with a cause if it breaks. The stream is not closed here: that is up to the code that
    opened it.

    Args:
        stream: a socket, a process's output, any `trio.abc.ReceiveStream`.
        max_bytes: the largest piece in bytes, at least 1; None leaves it to the stream.

    Raises:
        InvalidTypeError: it is not such a stream, or max_bytes is not a whole number.
        InvalidError: max_bytes is below 1.
    """
    if not isinstance(stream, trio.abc.ReceiveStream):
        raise InvalidTypeError(f"stream must be a trio.abc.ReceiveStream, not {stream!r}")
    if max_bytes is not None:
        check_count(max_bytes, "max_bytes")

    async def receive() -> bytes:
        piece = await stream.receive_some(max_bytes)
        if not piece:
            raise trio.EndOfChannel
        return bytes(piece)

    return named(PullSource(receive), "from_stream")
