"""What a server does with one connection after another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from csp import testing

    Handler = Callable[[testing.ServerConnection], Awaitable[None]]


def one_after_another(*handlers: Handler) -> Handler:
    """Return a handler that is another one for each connection; the last one goes on."""
    rest = list(handlers)

    async def handle(connection: testing.ServerConnection) -> None:
        await (rest.pop(0) if len(rest) > 1 else rest[0])(connection)

    return handle


async def refuse(connection: testing.ServerConnection) -> None:
    await connection.reject(503)


async def silent(_connection: testing.ServerConnection) -> None:
    await trio.sleep_forever()


def say_and_drop(*texts: str) -> Handler:
    async def handle(connection: testing.ServerConnection) -> None:
        await connection.accept()
        for text in texts:
            await connection.send(text)
        await trio.sleep(0.5)
        connection.drop()

    return handle


def say_and_close(*texts: str, code: int = 1000, reason: str = "") -> Handler:
    async def handle(connection: testing.ServerConnection) -> None:
        await connection.accept()
        for text in texts:
            await connection.send(text)
        await connection.close(code, reason)

    return handle


def noting(received: list[str | bytes], then: Handler | None = None, *, after: float = math.inf) -> Handler:
    """Return a handler that notes what comes, and after a number of messages does something else."""

    async def handle(connection: testing.ServerConnection) -> None:
        await connection.accept()
        left = after
        async for message in connection:
            received.append(message.data)
            left -= 1
            if left == 0 and then is not None:
                await then(connection)

    return handle


async def drop(connection: testing.ServerConnection) -> None:
    connection.drop()
