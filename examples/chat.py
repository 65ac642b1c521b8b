"""A chat server on loopback, and two people in its room: each end is one select over what is said there and here."""

from __future__ import annotations

import os
import signal
from functools import partial

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C ends it at once, also while this loads

import trio

import csp
from csp import websocket

LINES = {"alice": ["hello, bob", "shall we select?"], "bob": ["hi, alice", "whichever comes first"]}


async def serve_person(said: csp.Channel[str], room: csp.Broadcast[str], person: websocket.ServerConnection) -> None:
    """Serve one connection: what it says goes to the room, what the room says goes to it."""
    with room.subscribe(100, overflow="close") as heard:  # who does not read is dropped, and holds up nobody
        await person.accept()
        while (r := await csp.select(person.channel().case_receive(), heard.case_receive())).ok:
            if person.channel().gave(r):
                await said.send(f"<{person.path.strip('/')}> {r.value.data!s}")
            elif heard.gave(r):
                await person.send(r.value)


async def be(name: str, url: str, typed: csp.Source[float]) -> None:
    """Say a line whenever one is typed, and print what is read, until every line of both was."""
    lines = iter(LINES[name])
    async with websocket.connect(url + name) as client:
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
        server = await background.start(websocket.serve, partial(serve_person, said, room), 0)
        async with trio.open_nursery() as people:
            people.start_soon(be, "alice", server.url, csp.tick("200ms"))
            people.start_soon(be, "bob", server.url, csp.tick("300ms"))
    print("all lines were read by both")


if __name__ == "__main__":
    trio.run(main)
