"""A transport that never has nothing to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from trio.testing import MockClock


class Flooding(StreamTransport):
    """Once the server has sent something, there is always the same to read, and every look at it takes 0.1 s."""

    def __init__(self, stream: trio.abc.Stream, clock: MockClock, begin: bytes, flood: bytes) -> None:
        super().__init__(stream)
        self.clock = clock
        self.begin = begin
        self.flood = flood
        self.flooding = False

    async def receive_some(self, max_bytes: int) -> bytes:
        if self.flooding:
            self.clock.jump(0.1)
            await trio.lowlevel.checkpoint()
            return self.flood
        data = await super().receive_some(max_bytes)
        self.flooding = data.endswith(self.begin)
        return data
