"""Clients in Python: see `_clients.py` for what they are told to do, and how they start and end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import queue
import ssl
import sys
import threading
import time
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
    from contextlib import AbstractAsyncContextManager

MAX_BYTES = 1 << 26


class RefusedError(Exception):
    """The server has answered with another status than 101: it, its X-Why header, and its body, if that is shown."""

    def __init__(self, status: int, why: str | None, body: bytes | None) -> None:
        super().__init__(status)
        self.report = ["refused", status, why, None if body is None else body.decode()]


class Connection:
    """A connection of one of the libraries."""

    subprotocol: str | None = None

    async def receive(self) -> str | bytes | None:
        """Return the next message; None once the connection has ended."""
        raise NotImplementedError

    async def send(self, data: str | bytes) -> None:
        raise NotImplementedError

    async def send_fragments(self, fragments: Sequence[str]) -> None:
        raise NotImplementedError

    async def ping(self, payload: str) -> None:
        """Send a ping, and wait for the pong."""
        raise NotImplementedError

    async def close(self, code: int, reason: str) -> None:
        raise NotImplementedError

    def end(self) -> list[Any]:
        """Return with which code and reason it has ended."""
        raise NotImplementedError


class Websockets(Connection):
    """Of `websockets`, and of picows, which has the same names."""

    def __init__(self, library: Any, connection: Any) -> None:
        self._closed = library.ConnectionClosed
        self._connection = connection
        self.subprotocol = connection.subprotocol

    async def receive(self) -> str | bytes | None:
        try:
            data: str | bytes = await self._connection.recv()
        except self._closed:
            return None
        return data

    async def send(self, data: str | bytes) -> None:
        with contextlib.suppress(self._closed):
            await self._connection.send(data)

    async def send_fragments(self, fragments: Sequence[str]) -> None:
        await self._connection.send(fragments)

    async def ping(self, payload: str) -> None:
        await (await self._connection.ping(payload))

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)

    def end(self) -> list[Any]:
        return [self._connection.close_code, self._connection.close_reason or ""]


class Threaded(Websockets):
    """Of `websockets`, in threads."""

    async def receive(self) -> str | bytes | None:
        try:
            data: str | bytes = await asyncio.to_thread(self._connection.recv)
        except self._closed:
            return None
        return data

    async def send(self, data: str | bytes) -> None:
        with contextlib.suppress(self._closed):
            await asyncio.to_thread(self._connection.send, data)

    async def send_fragments(self, fragments: Sequence[str]) -> None:
        await asyncio.to_thread(self._connection.send, fragments)

    async def ping(self, payload: str) -> None:
        await asyncio.to_thread(self._connection.ping(payload).wait)

    async def close(self, code: int, reason: str) -> None:
        await asyncio.to_thread(self._connection.close, code, reason)

    def end(self) -> list[Any]:
        protocol = self._connection.protocol
        return [protocol.close_code, protocol.close_reason or ""]


class Aiohttp(Connection):
    """Of `aiohttp`. It answers pings here, so that pongs are seen."""

    def __init__(self, kinds: Any, connection: Any) -> None:
        self._kinds = kinds
        self._connection = connection
        self._reason = ""
        self.subprotocol = connection.protocol

    async def receive(self) -> str | bytes | None:
        while True:
            message = await self._connection.receive()
            if message.type is self._kinds.PING:
                await self._connection.pong(message.data)
            elif message.type in (self._kinds.TEXT, self._kinds.BINARY):
                data: str | bytes = message.data
                return data
            elif message.type is self._kinds.PONG:
                continue
            else:
                self._reason = message.extra or ""
                return None

    async def send(self, data: str | bytes) -> None:
        with contextlib.suppress(ConnectionError):
            await (self._connection.send_str if isinstance(data, str) else self._connection.send_bytes)(data)

    async def ping(self, payload: str) -> None:
        await self._connection.ping(payload.encode())
        message = await self._connection.receive()
        assert (message.type, message.data) == (self._kinds.PONG, payload.encode()), message

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code=code, message=reason.encode())

    def end(self) -> list[Any]:
        return [self._connection.close_code, self._reason]


class TrioWebsocket(Connection):
    """Of trio-websocket, on wsproto."""

    def __init__(self, library: Any, connection: Any) -> None:
        self._closed = library.ConnectionClosed
        self._connection = connection
        self.subprotocol = connection.subprotocol

    async def receive(self) -> str | bytes | None:
        try:
            data: str | bytes = await self._connection.get_message()
        except self._closed:
            return None
        return data

    async def send(self, data: str | bytes) -> None:
        with contextlib.suppress(self._closed):
            await self._connection.send_message(data)

    async def ping(self, payload: str) -> None:
        await self._connection.ping(payload.encode())

    async def close(self, code: int, reason: str) -> None:
        await self._connection.aclose(code, reason)

    def end(self) -> list[Any]:
        closed = self._connection.closed
        return [closed.code, closed.reason or ""]


# Connecting -----------------------------------------------------------------------------------------------------------


def tls(task: dict[str, Any]) -> ssl.SSLContext | None:
    if "authority" not in task:
        return None
    context = ssl.create_default_context(cafile=task["authority"])
    if "certificate" in task:
        context.load_cert_chain(task["certificate"])
    return context


@contextlib.asynccontextmanager
async def websockets(task: dict[str, Any]) -> AsyncGenerator[Connection]:
    library = importlib.import_module("websockets")
    connect = importlib.import_module("websockets.asyncio.client").connect
    with refusals(library):
        async with connect(task["url"], **websockets_options(task)) as connection:
            yield Websockets(library, connection)


@contextlib.asynccontextmanager
async def websockets_threads(task: dict[str, Any]) -> AsyncGenerator[Connection]:
    library = importlib.import_module("websockets")
    connect = importlib.import_module("websockets.sync.client").connect
    with refusals(library):
        connection = await asyncio.to_thread(lambda: connect(task["url"], **websockets_options(task)))
    try:
        yield Threaded(library, connection)
    finally:
        await asyncio.to_thread(connection.close)


@contextlib.asynccontextmanager
async def picows(task: dict[str, Any]) -> AsyncGenerator[Connection]:
    library = importlib.import_module("picows.websockets")
    with refusals(library):
        async with library.connect(task["url"], **websockets_options(task)) as connection:
            yield Websockets(library, connection)


def websockets_options(task: dict[str, Any]) -> dict[str, Any]:
    return {
        "subprotocols": task.get("protocols"),
        "compression": "deflate" if "compress" in task else None,
        "ssl": tls(task),
        "max_size": MAX_BYTES,
        "proxy": None,
    }


@contextlib.contextmanager
def refusals(library: Any) -> Generator[None]:
    try:
        yield
    except library.InvalidStatus as error:
        response = error.response
        raise RefusedError(int(response.status_code), response.headers.get("X-Why"), response.body) from error


@contextlib.asynccontextmanager
async def aiohttp(task: dict[str, Any]) -> AsyncGenerator[Connection]:
    library = importlib.import_module("aiohttp")
    async with library.ClientSession() as session:
        try:
            connection = await session.ws_connect(
                task["url"],
                protocols=task.get("protocols", ()),
                compress=15 if "compress" in task else 0,
                ssl=tls(task) or True,
                max_msg_size=MAX_BYTES,
                autoping=False,
            )
        except library.WSServerHandshakeError as error:
            raise RefusedError(error.status, error.headers.get("X-Why"), None) from error
        async with connection:
            yield Aiohttp(library.WSMsgType, connection)


@contextlib.asynccontextmanager
async def trio_websocket(task: dict[str, Any]) -> AsyncGenerator[Connection]:
    library = importlib.import_module("trio_websocket")
    try:
        async with library.open_websocket_url(
            task["url"], tls(task), subprotocols=task.get("protocols"), max_message_size=MAX_BYTES
        ) as connection:
            yield TrioWebsocket(library, connection)
    except library.ConnectionRejected as error:
        headers = dict(error.headers)
        why = headers.get(b"x-why")
        raise RefusedError(error.status_code, why and why.decode(), error.body) from error


# What they are told to do ---------------------------------------------------------------------------------------------


def report(*what: object) -> None:
    print(json.dumps(what), flush=True)


async def echo(connection: Connection) -> None:
    while (data := await connection.receive()) is not None:
        await connection.send(data)


async def act(connection: Connection, action: str, argument: Any) -> None:
    match action:
        case "echo":
            pass
        case "fragments":
            await connection.send_fragments(argument)
        case "ping":
            await connection.ping(argument)
            report("pong")
        case "send":
            await connection.send("x" * argument)
        case "count":
            for number in range(argument):
                await connection.send(str(number))
        case "close":
            await connection.close(*argument)
        case "deaf":
            time.sleep(1000)  # noqa: ASYNC251  # nothing is read
        case _:
            raise AssertionError(action)


async def do(
    connect: Callable[[dict[str, Any]], AbstractAsyncContextManager[Connection]], task: dict[str, Any]
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        try:
            opened = [await stack.enter_async_context(connect(task)) for _ in range(task.get("connections", 1))]
        except RefusedError as error:
            report(*error.report)
            return
        report("open", opened[0].subprotocol)
        for connection in opened:
            await act(connection, task["action"], task.get("argument"))
            await echo(connection)
            report("closed", *connection.end())


# The program ----------------------------------------------------------------------------------------------------------

LIBRARIES: dict[str, tuple[str, Callable[[dict[str, Any]], AbstractAsyncContextManager[Connection]]]] = {
    "websockets": ("websockets", websockets),
    "websockets-threads": ("websockets", websockets_threads),
    "aiohttp": ("aiohttp", aiohttp),
    "trio-websocket": ("trio-websocket", trio_websocket),
    "picows": ("picows", picows),
}


def read(tasks: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)


async def do_all(
    connect: Callable[[dict[str, Any]], AbstractAsyncContextManager[Connection]],
    next_task: Callable[[], Awaitable[dict[str, Any]]],
) -> None:
    # In one run: asyncio closes a TLS connection after its user has left it.
    while True:
        await do(connect, await next_task())
        # trio-websocket leaves a socket to the garbage collector.
        gc.collect()


def main(name: str) -> None:
    distribution, connect = LIBRARIES[name]
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=read, args=(tasks,), daemon=True).start()
    report(None, f"{distribution} {version(distribution)}")
    if name == "trio-websocket":
        trio = importlib.import_module("trio")
        trio.run(do_all, connect, partial(trio.to_thread.run_sync, tasks.get))
    else:
        asyncio.run(do_all(connect, partial(asyncio.to_thread, tasks.get)))


if __name__ == "__main__":
    main(sys.argv[1])
