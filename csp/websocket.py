"""The WebSocket client: connections whose messages arrive on a channel.

    async with websocket.connect("wss://example.com/feed") as client:
        await client.send("hello")
        async for message in client:
            print(message.data)

This module is the face of the driver in ``trio_csp_websocket``.
"""

from trio_csp_websocket._client import Client, Statistics
from trio_csp_websocket._connect import Connecting, connect
from trio_csp_websocket._constants import (
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
from trio_csp_websocket._frames import Message
from trio_csp_websocket._options import ConnectOptions, Timeout

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
    "Client",
    "CloseCode",
    "Compression",
    "ConnectOptions",
    "Connecting",
    "Message",
    "Statistics",
    "Timeout",
    "connect",
]
