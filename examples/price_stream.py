"""Live prices over a connection that comes back: of its own exchange for ten seconds, or of one at a ws:// URL."""

from __future__ import annotations

import os
import random
import signal
import sys

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C while this loads

import trio

import csp
from csp import websocket


async def exchange(connection: websocket.ServerConnection) -> None:
    """Send prices to one subscriber, and restart after a second or three."""
    with trio.move_on_after(random.uniform(1, 3)):
        symbols = (await connection.receive_value()).json()["subscribe"]
        while True:
            await connection.send_json({random.choice(symbols): round(random.gauss(150, 2), 2)})
            await trio.sleep(random.expovariate(20))
    await connection.close(websocket.CLOSE_CODES.SERVICE_RESTART)


async def subscribe(client: websocket.Client) -> None:
    """Ask for prices, on each new connection."""
    await client.send_json({"subscribe": ["BTC-EUR", "ETH-EUR", "EUR-USD"]})


async def main(url: str | None) -> None:
    """Print the latest prices twice a second, and what becomes of the connection."""
    prices: dict[str, float] = {}
    async with csp.BackgroundNursery() as background, csp.from_signals(signal.SIGINT) as stop:
        limit, show = csp.never() if url else csp.after("10s"), csp.tick("500ms")
        if url is None:
            server: websocket.Server = await background.start(websocket.serve, exchange, 0)
            url = server.url
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
