"""A chat room on loopback, and two people in it: each is one select over what they type and what they hear."""

from __future__ import annotations

import os
import signal
from functools import partial

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C ends it at once, also while this loads

import trio
from trio_websocket import WebSocketRequest, serve_websocket

import csp
from csp import websocket

LINES = {"alice": ["hello, bob", "shall we select?"], "bob": ["hi, alice", "whichever comes first"]}


async def serve_person(said: csp.Channel[str], room: csp.Broadcast[str], request: WebSocketRequest) -> None:
    """Serve one connection: what it says goes to the room, what the room says goes to it."""
    connection = await request.accept()
    async with csp.PullSource(connection.get_message) as incoming:
        with room.subscribe(100, overflow="close") as heard:  # who does not read is dropped, and holds up nobody
            while (r := await csp.select(incoming.case_receive(), heard.case_receive())).ok:
                if heard.gave(r):
                    await connection.send_message(r.value)
                else:
                    await said.send(f"<{request.path.strip('/')}> {r.value!s}")


async def be(name: str, port: int, typed: csp.Source[float]) -> None:
    """Say a line whenever one is typed, and print what is read, until every line of both was."""
    lines = iter(LINES[name])
    async with websocket.connect(f"ws://127.0.0.1:{port}/{name}") as client:
        unread = sum(map(len, LINES.values()))
        while unread and (r := await csp.select(typed.case_receive(), client.channel().case_receive())).ok:
            if client.channel().gave(r):
                unread -= 1
                print(f"{name} reads: {r.value.data!s}")
            elif (line := next(lines, None)) is not None:
                await client.send(line)


async def main() -> None:
    """Open the room, and let both in."""
    said = csp.Channel[str](10)
    async with csp.broadcast(said) as room, csp.BackgroundNursery() as background:
        server = await background.start(serve_websocket, partial(serve_person, said, room), "127.0.0.1", 0, None)
        async with trio.open_nursery() as people:
            people.start_soon(be, "alice", server.port, csp.tick("200ms"))
            people.start_soon(be, "bob", server.port, csp.tick("300ms"))
    print("all lines were read by both")


if __name__ == "__main__":
    trio.run(main)
