"""WebSocket connections whose messages arrive on a channel: the client and the server.

    async with websocket.connect("wss://example.com/feed") as client:
        await client.send("hello")
        async for message in client:
            print(message.data)

    async def echo(connection: websocket.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message.data)

    await websocket.serve(echo, 8765)

This module is the face of the driver in ``trio_csp_websocket``.
"""

from csp._connections import ConnectionState, Gap
from csp._home import publish
from trio_csp_websocket.client.backoff import default_retry
from trio_csp_websocket.client.client import Client
from trio_csp_websocket.client.connect import Connecting, connect
from trio_csp_websocket.client.destination import FeedOptions
from trio_csp_websocket.client.feed import Feed
from trio_csp_websocket.client.feed_counts import FeedStatistics
from trio_csp_websocket.client.options import ConnectOptions
from trio_csp_websocket.client.reconnecting import reconnecting
from trio_csp_websocket.client.user_functions import Retry, Subscribe
from trio_csp_websocket.connection.message_stream import MessageStream
from trio_csp_websocket.connection.settings import Timeout
from trio_csp_websocket.connection.statistics import Statistics
from trio_csp_websocket.network.route import Dial
from trio_csp_websocket.protocol.constants import (
    BINARY,
    CLOSE_CODES,
    COMPRESSION,
    TEXT,
    TYPE_BINARY,
    TYPE_CLOSE,
    TYPE_PING,
    TYPE_PONG,
    TYPE_TEXT,
    CloseCode,
    Compression,
)
from trio_csp_websocket.protocol.headers import Headers
from trio_csp_websocket.protocol.messages import Message
from trio_csp_websocket.server.hub import BroadcastResult, Hub, HubOverflow
from trio_csp_websocket.server.inherited import inherited_sockets
from trio_csp_websocket.server.listen import Listening, listen
from trio_csp_websocket.server.options import ListenOptions, ServeOptions
from trio_csp_websocket.server.page import Http, Request, Response
from trio_csp_websocket.server.register import ServerStatistics
from trio_csp_websocket.server.serve import Handler, serve
from trio_csp_websocket.server.server import Server
from trio_csp_websocket.server.server_connection import ServerConnection

State = ConnectionState
"""What a feed is doing: `csp.ConnectionState`."""

__all__ = [
    "BINARY",
    "CLOSE_CODES",
    "COMPRESSION",
    "TEXT",
    "TYPE_BINARY",
    "TYPE_CLOSE",
    "TYPE_PING",
    "TYPE_PONG",
    "TYPE_TEXT",
    "BroadcastResult",
    "Client",
    "CloseCode",
    "Compression",
    "ConnectOptions",
    "Connecting",
    "Dial",
    "Feed",
    "FeedOptions",
    "FeedStatistics",
    "Gap",
    "Handler",
    "Headers",
    "Http",
    "Hub",
    "HubOverflow",
    "ListenOptions",
    "Listening",
    "Message",
    "MessageStream",
    "Request",
    "Response",
    "Retry",
    "ServeOptions",
    "Server",
    "ServerConnection",
    "ServerStatistics",
    "State",
    "Statistics",
    "Subscribe",
    "Timeout",
    "connect",
    "default_retry",
    "inherited_sockets",
    "listen",
    "reconnecting",
    "serve",
]

publish(__name__, [globals()[name] for name in __all__])
