"""Through a proxy and then another: python examples/proxy_chain.py wss://api.example.com/ socks5://one:1080 http://two:3128."""

from __future__ import annotations

import math
import os
import signal
import sys
from typing import cast

signal.signal(signal.SIGINT, lambda _signal, _frame: os._exit(130))  # Ctrl-C ends it at once, also while this loads

import trio
from python_socks import ProxyError
from python_socks.async_.trio.v2 import Proxy

from csp import errors, websocket


async def main(url: str, first: str, second: str) -> None:
    """Print what the server sends. The first proxy is asked for the second, and that for the server, by its name."""
    proxies = Proxy.from_url(second, rdns=True, forward=Proxy.from_url(first, rdns=True))

    async def dial(host: str, port: int) -> trio.abc.Stream:
        try:
            opened = await proxies.connect(host, port, timeout=math.inf)  # dial_timeout is the limit
        except ProxyError as error:
            raise OSError(str(error)) from error  # an attempt that has failed, and not an error of this program
        return cast("trio.abc.Stream", opened.trio_stream)  # pyright: ignore[reportUnknownMemberType]  # TLS over what?

    async with websocket.connect(url, dial=dial) as client:
        async for message in client:
            print(message.data, flush=True)


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
    except errors.Error as error:
        sys.exit(f"proxy_chain: {error}")
