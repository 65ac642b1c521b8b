"""picows' own interface, which calls its user with each frame and has no coroutine that receives or sends."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.meters.measure import load
from benchmarks.meters.rig import LIMIT_BYTES, differences

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator


class Listener:
    """picows calls this with each frame; the other half of it is `picows.WSListener`, see `connect`."""

    def __init__(self) -> None:
        picows = load("picows")
        self._TEXT = picows.WSMsgType.TEXT
        self._transport: Any = None
        self._missing = 0
        self._received = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._answer: str | None = None
        self._times: list[float] = []

    # What picows calls -----------------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: Any) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type != self._TEXT:
            transport.disconnect()  # after the server's close frame
            return
        frame.get_payload_as_utf8_text()
        self._missing -= 1
        if self._answer is not None:
            self._times.append(perf_counter())
            if self._missing > 0:
                transport.send(self._TEXT, self._answer)
        if self._missing == 0:
            self._received.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # What the benchmarks call ----------------------------------------------------------------------------------------

    async def receive(self, count: int) -> None:
        # Messages that came ahead of the call have been counted.
        self._missing += count
        if self._missing > 0:
            self._received.clear()
            await self._received.wait()

    async def send(self, text: str, count: int) -> None:
        for _ in range(count):
            self._transport.send(self._TEXT, text)
            if not self._writable.is_set():
                await self._writable.wait()

    async def ping_pong(self, text: str, count: int) -> list[float]:
        self._answer, self._times = text, [perf_counter()]
        self._transport.send(self._TEXT, text)
        await self.receive(count)
        self._answer = None
        return differences(self._times)


@asynccontextmanager
async def connect(url: str, tls: ssl.SSLContext | None, *, compressed: bool) -> AsyncGenerator[Listener, None]:
    assert not compressed
    picows = load("picows")
    # A type of its own, made when needed: the base class may not be installed.
    listener_type = type("Listener", (Listener, picows.WSListener), {})
    transport, listener = await picows.ws_connect(listener_type, url, ssl_context=tls, max_frame_size=LIMIT_BYTES)
    try:
        yield listener
    finally:
        transport.send_close(picows.WSCloseCode.OK)
        await transport.wait_disconnected()
