"""A chat in a web page, and for terminals: run it, and open what it prints. Its argument is the port, 8765 by default.

Somebody joins from a terminal with: csp-websocket 'ws://localhost:8765/chat?name=alice'
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C while this loads

import trio

import csp
from csp import errors, websocket

PAGE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
POLICY = "default-src 'nonce-{}'; connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; \
frame-ancestors 'none'; require-trusted-types-for 'script'"
names, hub = dict[object, str](), websocket.Hub()  # names by the channels of connections


async def page(request: websocket.Request) -> websocket.Response | None:
    """Answer a browser with the page, in which no script runs but its own."""
    nonce = secrets.token_urlsafe()
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": POLICY.format(nonce)}
    return websocket.Response(200, PAGE.replace("NONCE", nonce), headers) if request.path == "/" else None


async def enter(person: websocket.ServerConnection) -> None:
    """Let somebody in, by a name that nobody else has and that does not look like a line of the server."""
    if person.path != "/chat":
        await person.reject(404)
        return
    await person.accept()
    asked = "".join(c for c in parse_qs(person.query).get("name", [""])[0] if c.isprintable() and c not in ":,*")
    name = asked[:20].strip() or "guest"
    names[person.channel()] = next(
        n for n in [name, *(f"{name} {i}" for i in range(2, 999))] if n not in names.values()
    )
    hub.add(person)
    tell(f"{names[person.channel()]} has come")


def tell(news: str) -> None:
    """Tell everybody who has come or gone, and who is here."""
    print(news, flush=True)
    hub.broadcast(f"* {news}; here: {', '.join(names.values())}")


def say(name: str, data: str | bytes) -> None:
    """Tell everybody what somebody says: one line, so that nobody can speak for others. Bytes come behind a line."""
    if isinstance(data, str):
        hub.broadcast(f"{name}: {' '.join(data.splitlines())}")
    else:
        hub.broadcast(f"* {name} sends {len(data)} bytes")
        hub.broadcast(data)


async def main(port: int) -> None:
    """Serve the page and the chat until a signal comes, and then tell everybody that the server will be back."""
    listening = websocket.listen(port, http=page, read_limit=256 * 1024, max_connections=200)
    async with listening as server, csp.from_signals(signal.SIGINT, signal.SIGTERM) as stop:
        print(f"open {server.url.replace('ws', 'http', 1)}", flush=True)
        with csp.Selector[object]() as selector:
            selector.add(server.channel())
            selector.add(stop)
            async for r in selector:
                if isinstance(r.value, websocket.ServerConnection):
                    with suppress(errors.ConnectionFailedError):  # it may have left already
                        await enter(r.value)
                        selector.add(r.value.channel())
                elif isinstance(r.value, websocket.Message):
                    say(names[r.channel], r.value.data)
                elif r.channel in names:  # its connection has ended
                    tell(f"{names.pop(r.channel)} has gone")
                elif isinstance(r.value, int):
                    await server.close(websocket.CLOSE_CODES.SERVICE_RESTART, "the server restarts")
                    sys.exit(128 + r.value)


if __name__ == "__main__":
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8765)
    except errors.Error as error:
        sys.exit(f"chat_page: {error}")
