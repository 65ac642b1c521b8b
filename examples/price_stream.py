"""Live prices over a connection that comes back: of its own exchange for ten seconds, or of one at a ws:// URL."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from contextlib import suppress

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C while this loads

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

import csp
from csp import websocket


async def exchange(request: WebSocketRequest) -> None:
    """Send prices to one subscriber, and restart after a second or three."""
    connection = await request.accept()
    with suppress(ConnectionClosed), trio.move_on_after(random.uniform(1, 3)):
        symbols = json.loads(await connection.get_message())["subscribe"]
        while True:
            await connection.send_message(json.dumps({random.choice(symbols): round(random.gauss(150, 2), 2)}))
            await trio.sleep(random.expovariate(20))
    await connection.aclose(websocket.CLOSE_CODES.SERVICE_RESTART)


async def subscribe(client: websocket.Client) -> None:
    """Ask for prices, on each new connection."""
    await client.send_json({"subscribe": ["BTC-EUR", "ETH-EUR", "EUR-USD"]})


async def main(url: str | None) -> None:
    """Print the latest prices twice a second, and what becomes of the connection."""
    prices: dict[str, float] = {}
    async with csp.BackgroundNursery() as background, csp.from_signals(signal.SIGINT) as stop:
        limit, show = csp.never() if url else csp.after("10s"), csp.tick("500ms")
        if url is None:
            server = await background.start(serve_websocket, exchange, "127.0.0.1", 0, None)
            url = f"ws://127.0.0.1:{server.port}"
        async with websocket.reconnecting(url, subscribe=subscribe, read_timeout="5s") as feed:
            while True:
                r = await csp.select(*(s.case_receive() for s in (stop, limit, show, feed.states(), feed.channel())))
                if isinstance(r.value, websocket.Message):
                    prices.update(r.value.json())
                elif feed.channel().gave(r) or feed.states().gave(r):
                    print(r.value, flush=True)  # a gap, or what becomes of the connection
                elif show.gave(r):
                    print("  ".join(f"{symbol} {price:.2f}" for symbol, price in prices.items()) or "...", flush=True)
                else:  # the end
                    raise SystemExit(130 if stop.gave(r) else feed.channel().cause)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
