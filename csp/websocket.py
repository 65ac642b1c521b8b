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
from trio_csp_websocket._reconnecting import Reconnecting, Subscribe, reconnecting
from trio_csp_websocket._states import Gap, State

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
    "Gap",
    "Message",
    "Reconnecting",
    "State",
    "Statistics",
    "Subscribe",
    "Timeout",
    "connect",
    "reconnecting",
]

if __name__ == "__main__":  # pragma: no cover  # in a process of its own: tests/websocket/test_command.py
    import sys

    from trio_csp_websocket._command_line._program import main

    sys.exit(main())
