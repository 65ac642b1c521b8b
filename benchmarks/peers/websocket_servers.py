"""The WebSocket servers that are compared, each used as its documentation says, and with its defaults.

    python -m benchmarks.peers.websocket_servers SERVER WORK DESCRIPTOR

A process of its own, which serves on the listening socket of that descriptor until its standard input ends. The work
is ``echo``, to send each message back, or ``broadcast``, to send it to all connections. With ``loop`` it is sent to one
after the other, where a library has a way that does better.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio

from benchmarks.meters.measure import available, load
from benchmarks.meters.rig import raise_file_limit
from benchmarks.meters.served import stay_on_the_last_core

_MOST_DESCRIPTORS = 6000

Serve: TypeAlias = Callable[[socket.socket, str], None]
"""Serves on a listening socket, and does its work."""


# csp ------------------------------------------------------------------------------------------------------------------


async def _csp(listener: socket.socket, work: str) -> None:
    """Serve all connections in one task, with a Selector over all that arrives."""
    import csp  # noqa: PLC0415  # the processes of the others do not have it
    from csp import websocket  # noqa: PLC0415

    hub = websocket.Hub()
    members: dict[object, websocket.ServerConnection] = {}
    async with websocket.listen(sockets=[listener]) as server:
        with csp.Selector[object]() as selector:
            selector.add(server.channel())
            async for r in selector:
                if isinstance(r.value, websocket.ServerConnection):
                    await r.value.accept()
                    channel = r.value.channel()
                    members[channel] = r.value
                    if work == "broadcast":
                        hub.add(r.value)
                    selector.add(channel)
                elif isinstance(r.value, websocket.Message):
                    if work == "echo":
                        await members[r.channel].send(r.value.data)
                    elif work == "broadcast":
                        hub.broadcast(r.value.data)
                    else:
                        for member in members.values():
                            await member.send(r.value.data)
                else:
                    del members[r.channel]


async def _csp_serve(listener: socket.socket, work: str) -> None:
    """Serve each connection in a task of its own, as handlers are."""
    from csp import websocket  # noqa: PLC0415

    assert work == "echo"

    async def handler(connection: websocket.ServerConnection) -> None:
        await connection.accept()
        async for message in connection:
            await connection.send(message.data)

    await websocket.serve(handler, sockets=[listener])


# Trio -----------------------------------------------------------------------------------------------------------------


async def _trio_websocket(listener: socket.socket, work: str) -> None:
    library = load("trio_websocket")
    members: set[Any] = set()

    async def echo(request: Any) -> None:
        connection = await request.accept()
        while True:
            try:
                await connection.send_message(await connection.get_message())
            except library.ConnectionClosed:
                break

    async def broadcast(request: Any) -> None:
        connection = await request.accept()
        members.add(connection)
        while True:
            try:
                message = await connection.get_message()
            except library.ConnectionClosed:
                members.remove(connection)
                break
            for member in members:
                await member.send_message(message)

    # What `serve_websocket` does with the listeners it opens.
    trio_listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    await library.WebSocketServer(echo if work == "echo" else broadcast, [trio_listener]).run()


async def _websockets_trio(listener: socket.socket, work: str) -> None:
    library = load("websockets.trio.server")
    trio_listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    await library.serve(_websockets_handler(work, library.broadcast), listeners=[trio_listener])


def _websockets_handler(work: str, broadcast: Callable[[Any, Any], Any]) -> Callable[[Any], Awaitable[None]]:
    """Return the handler of a server of websockets', on Trio or on asyncio."""
    members: set[Any] = set()

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def send_to_all(connection: Any) -> None:
        members.add(connection)
        try:
            async for message in connection:
                if work == "broadcast":
                    sending = broadcast(members, message)
                    if sending is not None:  # on Trio
                        await sending
                else:
                    for member in members:
                        await member.send(message)
        finally:
            members.remove(connection)

    return echo if work == "echo" else send_to_all


# asyncio --------------------------------------------------------------------------------------------------------------


async def _websockets(listener: socket.socket, work: str) -> None:
    library = load("websockets.asyncio.server")
    async with library.serve(_websockets_handler(work, library.broadcast), sock=listener) as server:
        await server.serve_forever()


async def _aiohttp(listener: socket.socket, work: str) -> None:
    web = load("aiohttp.web")
    text = load("aiohttp").WSMsgType.TEXT
    members: set[Any] = set()

    async def handler(request: Any) -> Any:
        connection = web.WebSocketResponse()
        await connection.prepare(request)
        members.add(connection)
        async for message in connection:
            if message.type == text:
                if work == "echo":
                    await connection.send_str(message.data)
                else:
                    for member in members:
                        await member.send_str(message.data)
        members.remove(connection)
        return connection

    application = web.Application()
    application.add_routes([web.get("/", handler)])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    await asyncio.Event().wait()


async def _picows(listener: socket.socket, work: str) -> None:
    picows = load("picows")
    close = picows.WSMsgType.CLOSE
    members: set[Any] = set()

    class Echoing:
        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == close:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
                transport.disconnect()
            else:
                transport.send(frame.msg_type, frame.get_payload_as_memoryview())

    class Broadcasting:
        def on_ws_connected(self, transport: Any) -> None:
            members.add(transport)

        def on_ws_disconnected(self, transport: Any) -> None:
            members.discard(transport)

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == close:
                transport.disconnect()
                return
            # Sending masks and moves bytes in place, so that what is sent to many must be a copy.
            payload = frame.get_payload_as_bytes()
            for member in members:
                member.send(frame.msg_type, payload)

    listener_type = type("Listener", (Echoing if work == "echo" else Broadcasting, picows.WSListener), {})

    def listener_for(_request: Any) -> Any:
        return listener_type()

    server = await picows.ws_create_server(listener_for, sock=listener)
    await server.serve_forever()


async def _hypercorn(listener: socket.socket, work: str) -> None:
    config = load("hypercorn.config").Config()
    config.bind = [f"fd://{listener.detach()}"]
    members: set[Any] = set()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.startup":
                pass
            await send({"type": "lifespan.startup.complete"})
            await asyncio.Event().wait()
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        members.add(send)
        while (event := await receive())["type"] == "websocket.receive":
            for member in (send,) if work == "echo" else members:
                await member({"type": "websocket.send", "text": event["text"]})
        members.remove(send)

    # Without a trigger it takes the signals.
    await load("hypercorn.asyncio").serve(application, config, shutdown_trigger=asyncio.Event().wait)


# All of them ----------------------------------------------------------------------------------------------------------


def _on_trio(main: Callable[[socket.socket, str], Awaitable[None]]) -> Serve:
    return lambda listener, work: trio.run(main, listener, work)


def _on_asyncio(main: Callable[[socket.socket, str], Any]) -> Serve:
    return lambda listener, work: asyncio.run(main(listener, work))


def _on_fastest(main: Callable[[socket.socket, str], Any]) -> Serve:
    return lambda listener, work: (load("uvloop") if available("uvloop") else asyncio).run(main(listener, work))


SERVERS: dict[str, Serve] = {
    "csp": _on_trio(_csp),
    "csp.serve": _on_trio(_csp_serve),
    "trio-websocket": _on_trio(_trio_websocket),
    "websockets (trio)": _on_trio(_websockets_trio),
    "websockets (asyncio)": _on_asyncio(_websockets),
    "aiohttp": _on_asyncio(_aiohttp),
    "picows": _on_fastest(_picows),
    "hypercorn": _on_asyncio(_hypercorn),
}
"""What serves, by the name of the peer in the tables."""


def main(server: str, work: str, descriptor: str) -> None:
    """Serve until standard input ends."""
    stay_on_the_last_core()
    raise_file_limit(_MOST_DESCRIPTORS)
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    SERVERS[server](socket.socket(fileno=int(descriptor)), work)


def _end_with_standard_input() -> None:
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
