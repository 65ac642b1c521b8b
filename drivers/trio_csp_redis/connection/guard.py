"""A connection of coredis that keeps nothing which nobody asked for.

coredis keeps without bound what it reads before it is known that a Redis server is there, and later what answers no
request. Its parser, which is compiled, overflows the stack on arrays that are nested some ten thousand times. What it
logs of a connection of this driver is dropped.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, final

from anyio import TASK_STATUS_IGNORED, connect_tcp
from anyio.abc import ByteStream
from coredis.connection import TCPConnection, TCPLocation
from coredis.exceptions import InvalidResponse

if TYPE_CHECKING:
    import ssl

    from anyio.abc import TaskStatus

    from trio_csp_redis.protocol.url import Target

# Set in the tasks of a connection of this driver.
_silent: ContextVar[bool] = ContextVar("_silent", default=False)


def _is_of_others(_record: logging.LogRecord) -> bool:
    """Let records of coredis pass, but for those of this driver's connections.

    It logs the names of users that may not call CLIENT SETINFO, and each failed attempt as an error with a traceback.
    ``csp.redis`` tells what became of a connection.
    """
    return not _silent.get()


logging.getLogger("coredis").addFilter(_is_of_others)

# The answers to HELLO, CLIENT SETINFO and SELECT have some hundred bytes; that of HELLO names the server's modules.
_MAX_GREETING_BYTES = 32 * 1024


@final
class GuardedConnection(TCPConnection):
    """A connection that ends when the server sends what nobody asked for. `dialled` makes it."""

    def __init__(self, stream: ByteStream, target: Target) -> None:
        super().__init__(
            TCPLocation(target.host, target.port),
            # Without a user, a password is that of the user "default".
            username=target.user or ("default" if target.password else None),
            password=target.password,
            db=target.database,
        )
        self._dialled = _Guarded(stream, self)

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        token = _silent.set(True)
        try:
            await super().run(task_status=task_status)
        finally:
            _silent.reset(token)

    async def _connect(self) -> ByteStream:
        return self._dialled


async def dialled(target: Target, ssl_context: ssl.SSLContext | None) -> GuardedConnection:
    """Open a connection, with TLS if there is a context; nothing was said yet.

    coredis would do this itself, but leaves something open when it fails, and raises an error in place of Cancelled.

    Raises:
        OSError: it cannot be opened; among others `ssl.SSLError`.
    """
    if ssl_context is None:
        stream: ByteStream = await connect_tcp(target.host, target.port)
    else:
        stream = await connect_tcp(
            target.host, target.port, ssl_context=ssl_context, tls_standard_compatible=False, tls_hostname=target.host
        )
    return GuardedConnection(stream, target)


@final
class _Guarded(ByteStream):
    """The bytes of a connection, which are looked at before more are read."""

    def __init__(self, stream: ByteStream, connection: TCPConnection) -> None:
        self._stream = stream
        self._connection = connection
        self._greeting_bytes = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._connection.usable:
            if not self._connection.reusable:
                raise InvalidResponse("the server sent what nobody asked for")
            return await self._stream.receive(max_bytes)
        # One byte more than there may be, so that too many are found to be so without having been parsed.
        data = await self._stream.receive(min(max_bytes, _MAX_GREETING_BYTES + 1 - self._greeting_bytes))
        self._greeting_bytes += len(data)
        if self._greeting_bytes > _MAX_GREETING_BYTES:
            raise InvalidResponse("the server said too much before it said who it is")
        return data

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
