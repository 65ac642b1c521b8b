"""A live price table: one select over two price feeds, a heartbeat, a shutdown channel and a time limit.

    python examples/price_stream.py                      # its own exchange on loopback, for ten seconds
    python examples/price_stream.py ws://localhost:8765  # an exchange of yours, until Ctrl-C or --seconds

The exchange is asked for prices with ``{"subscribe": ["BTC-EUR", ...]}`` and then sends one message per trade:
``{"symbol": "BTC-EUR", "price": 61250.5}``. On a terminal the table is redrawn in place; otherwise its
lines are printed one below the other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sys
from dataclasses import dataclass
from datetime import timedelta

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

import csp
from csp import websocket

FEEDS = {"crypto": ["BTC-EUR", "ETH-EUR"], "forex": ["EUR-USD", "GBP-USD"]}
OPENING_PRICES = {"BTC-EUR": 61250.0, "ETH-EUR": 2875.0, "EUR-USD": 1.0842, "GBP-USD": 1.2671}
DEMO_SECONDS = 10
HEADING = f"{'symbol':10}{'last':>12}{'change':>10}{'msg/s':>8}{'latency':>11}"


@dataclass
class Quote:
    """What is known of one symbol."""

    feed: websocket.Client
    first: float = 0.0
    last: float = 0.0
    messages: int = 0
    shown: int = 0


class Table:
    """Collects quotes and shows them."""

    def __init__(self) -> None:
        self.quotes: dict[str, Quote] = {}
        self.ignored = 0
        self.started = self.shown_at = trio.current_time()
        self.height = 0  # of the table last printed

    def update(self, feed: websocket.Client, message: websocket.Message) -> None:
        """Take in a message of a feed; one that is no price is counted and otherwise ignored."""
        try:
            trade = json.loads(message.data)
            symbol, price = str(trade["symbol"]), float(trade["price"])
        except (ValueError, TypeError, KeyError):
            self.ignored += 1
            return
        quote = self.quotes.setdefault(symbol, Quote(feed, first=price))
        quote.last = price
        quote.messages += 1

    def show(self) -> None:
        """Print the table: in place on a terminal, lines elsewhere."""
        now = trio.current_time()
        seconds = max(now - self.shown_at, 1e-3)
        rows: list[str] = []
        for symbol, quote in sorted(self.quotes.items()):
            rate = (quote.messages - quote.shown) / seconds
            quote.shown = quote.messages
            rows.append(self.row(symbol, quote, rate))
        self.shown_at = now
        if sys.stdout.isatty():
            lines = [HEADING, *rows]
            up = f"\x1b[{self.height}A" if self.height else ""
            print(up + "\n".join(f"\x1b[2K{line}" for line in lines), flush=True)
            self.height = len(lines)
        elif rows:
            print("\n".join(rows if self.height else [HEADING, *rows]), flush=True)
            self.height = len(rows)

    @staticmethod
    def row(symbol: str, quote: Quote, rate: float) -> str:
        """Return the line of one symbol."""
        change = 100 * (quote.last / quote.first - 1) if quote.first else 0.0
        latency = "-" if quote.feed.latency is None else f"{1000 * quote.feed.latency:.2f} ms"
        return f"{symbol:10}{quote.last:>12.4f}{change:>+9.3f}%{rate:>8.0f}{latency:>11}"

    def summary(self, why: str) -> str:
        """Return one line about the whole run."""
        seconds = trio.current_time() - self.started
        messages = sum(quote.messages for quote in self.quotes.values())
        ignored = f", {self.ignored} messages ignored" if self.ignored else ""
        return (
            f"{why}: {messages} prices of {len(self.quotes)} symbols in {seconds:.1f} s, "
            f"{messages / seconds:.0f} a second{ignored}"
        )


async def watch(url: str, shutdown: csp.Channel[str], limit: csp.Source[float]) -> str:
    """Show the prices of an exchange until it ends, or shutdown or the limit says so; return the summary."""
    async with websocket.connect(url) as crypto, websocket.connect(url) as forex:
        feeds: dict[object, websocket.Client] = {crypto.channel(): crypto, forex.channel(): forex}
        await crypto.send(json.dumps({"subscribe": FEEDS["crypto"]}))
        await forex.send(json.dumps({"subscribe": FEEDS["forex"]}))
        heartbeat = csp.tick("500ms")
        table = Table()
        while True:
            r = await csp.select(
                shutdown.case_receive(),
                limit.case_receive(),
                heartbeat.case_receive(),
                crypto.channel().case_receive(),
                forex.channel().case_receive(),
            )
            if r.channel is shutdown or r.channel is limit:
                return table.summary(str(r.value) if r.channel is shutdown else "time is up")
            if r.channel is heartbeat:
                table.show()
                await ping(crypto)
                await ping(forex)
            elif isinstance(r.value, websocket.Message):
                table.update(feeds[r.channel], r.value)
            else:
                feed = feeds[r.channel]
                return table.summary(str(feed.error) if feed.error else "the exchange closed the feed")


async def ping(feed: websocket.Client) -> None:
    """Measure a feed's latency."""
    with contextlib.suppress(csp.errors.ConnectionFailedError):  # its channel tells that it has ended, and why
        await feed.ping()


async def close_on_ctrl_c(shutdown: csp.Channel[str], *, task_status: trio.TaskStatus[None]) -> None:
    """Turn Ctrl-C into a message on the shutdown channel."""
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            await shutdown.send("interrupted")


async def exchange(request: WebSocketRequest) -> None:
    """Serve one subscriber of the loopback exchange: prices that wander at random."""
    connection = await request.accept()
    try:
        symbols: list[str] = json.loads(await connection.get_message())["subscribe"]
        prices = {symbol: OPENING_PRICES[symbol] for symbol in symbols}
        while True:
            symbol = random.choice(symbols)
            prices[symbol] *= 1 + random.gauss(0, 1e-4)
            await connection.send_message(json.dumps({"symbol": symbol, "price": round(prices[symbol], 4)}))
            await trio.sleep(random.expovariate(100))
    except ConnectionClosed:
        pass


async def run(url: str | None, limit: timedelta | None) -> tuple[str, bool]:
    """Watch an exchange, or one started for the purpose; return what to say at the end, and whether all went well."""
    async with trio.open_nursery() as nursery:
        shutdown = csp.Channel[str](1)
        await nursery.start(close_on_ctrl_c, shutdown)
        if url is None:
            server = await nursery.start(serve_websocket, exchange, "127.0.0.1", 0, None)
            url = f"ws://127.0.0.1:{server.port}"
            limit = limit or timedelta(seconds=DEMO_SECONDS)
        try:
            result = await watch(url, shutdown, csp.after(limit) if limit else csp.never()), True
        except csp.errors.Error as error:
            result = str(error), False
        nursery.cancel_scope.cancel()
    return result


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="Show live prices of an exchange; by default of one of its own.")
    parser.add_argument("url", nargs="?", help="ws:// or wss:// URL of an exchange")
    parser.add_argument("--seconds", type=float, help=f"end after this time (default: {DEMO_SECONDS} without a URL)")
    arguments = parser.parse_args()
    try:
        limit = timedelta(seconds=arguments.seconds) if arguments.seconds is not None else None
    except (ValueError, OverflowError):
        parser.error(f"--seconds must be a number of seconds, not {arguments.seconds}")
    if limit is not None and limit <= timedelta(0):
        parser.error(f"--seconds must be above 0, not {arguments.seconds}")
    text, ok = trio.run(run, arguments.url, limit)
    if ok:
        print(text)
    else:
        sys.exit(f"price_stream: {text}")


if __name__ == "__main__":
    main()
