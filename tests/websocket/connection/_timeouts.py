"""What the tests of a connection's timeouts look at, and a server that does nothing but answer pings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from csp.errors import ConnectionFailedError, ConnectionTimeoutError, Kind
from tests.websocket._server import CLOSE, PING, PONG, Frame, Server, frame

if TYPE_CHECKING:
    from csp.websocket import Client

# More than is written in one piece.
LARGE = bytes(600 * 1024)


class PongingServer(Server):
    """Answers pings, and does nothing else of its own."""

    def take_in(self) -> None:
        known = len(self.frames)
        super().take_in()
        for one in self.frames[known:]:
            if one.opcode == PING and not (self.closed or self.closes):
                self.send(frame(PONG, one.payload))


def opcodes(server: Server) -> list[int]:
    return [one.opcode for one in server.frames]


def pings(server: Server) -> int:
    return opcodes(server).count(PING)


def take_one_piece(server: Server) -> None:
    """Let a server that does not read take what is being written to it, and nothing of what follows."""
    server.read_on()
    server.stop_reading()


async def iterated(client: Client) -> tuple[list[str | bytes], ConnectionFailedError | None]:
    """Iterate to the end; return the data, and the error that the end is."""
    received: list[str | bytes] = []
    try:
        async for message in client:
            received.append(message.data)  # noqa: PERF401  # what came before the error counts
    except ConnectionFailedError as error:
        return received, error
    return received, None


async def ended(client: Client) -> float:
    """Wait until the connection has ended, for whatever reason; return the time."""
    with trio.fail_after(10_000):
        await client._connection.finished.wait()
    return trio.current_time()


def check_stalled(client: Client, server: Server, reason: str) -> None:
    """Check all that a connection tells whose peer let us wait for too long."""
    error = client.error
    assert type(error) is ConnectionTimeoutError
    assert isinstance(error, TimeoutError)
    assert isinstance(error, ConnectionError)
    assert (error.kind, error.retryable) == (Kind.TIMEOUT, True)
    assert error.details == {"code": 1011, "reason": reason}
    assert str(error) == f"the connection timed out: the peer has sent {reason}"
    assert (client.close_code, client.close_reason) == (1011, reason)
    assert client.channel().cause is error
    assert server.frames[-1] == Frame(CLOSE, (1011).to_bytes(2, "big") + reason.encode())
    assert server.closed
