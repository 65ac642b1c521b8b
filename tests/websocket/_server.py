"""A server in memory, played by hand: it answers when the client sends, and otherwise does what the test tells it to.

It lives inside the hooks of the client's stream, so that what the client has sent is in `Server.frames` as soon as the
client's send returns, and no task is needed to read it.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from email.parser import BytesHeaderParser
from typing import TYPE_CHECKING, NamedTuple, Unpack

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream

from trio_csp_websocket.client.connect import Connecting
from trio_csp_websocket.client.options import ConnectOptions, parse_options
from trio_csp_websocket.protocol.url import parse_url
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from email.message import Message as Headers

    from csp.errors import Error
    from csp.websocket import Client
    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.network.route import Route
    from trio_csp_websocket.protocol.url import Target
    from trio_csp_websocket.transport.base import Transport

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
COMPRESSED = 0x40
"""The reserved bit of a compressed message's first frame (RFC 7692, section 6)."""
URL = "ws://server.test/feed"

# Of type object, because the type of `Received` says that there is a value.
ENDED: object = (None, False)
"""What is received at the end."""


class Frame(NamedTuple):
    """A frame as the client sent it, unmasked."""

    opcode: int
    payload: bytes
    fin: bool = True
    compressed: bool = False


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, mask: bytes | None = None
) -> bytes:
    """Return a server's frame; with a mask, as only a client may send it."""
    masked = 0x80 if mask is not None else 0
    head = bytes([(0x80 if fin else 0) | reserved | opcode])
    if len(payload) < 126:
        head += bytes([masked | len(payload)])
    elif len(payload) < 1 << 16:
        head += bytes([masked | 126]) + len(payload).to_bytes(2, "big")
    else:
        head += bytes([masked | 127]) + len(payload).to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def received(value: object) -> object:
    """Return what is received when it is a value."""
    return (value, True)


def text(data: str) -> bytes:
    return frame(TEXT, data.encode())


def close(code: int | None = None, reason: str = "") -> bytes:
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())


def deflated(data: bytes, *, bits: int = 15, level: int = 6) -> bytes:
    """Return the payload of a compressed message that stands alone; for 8 bits, 9 never refer further than 250 back."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -max(bits, 9))
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def take_frame(data: bytes | bytearray, *, masked: bool = True) -> tuple[Frame, int] | None:
    """Return the first of a client's frames, or of a server's, and its length in bytes; None if it is not complete."""
    if len(data) < 2:
        return None
    assert not data[0] & 0x30, "a reserved bit is set"
    assert bool(data[1] & 0x80) == masked, "the client did not mask a frame, or the server did"
    length, start = data[1] & 0x7F, 2
    if length > 125:
        width = 2 if length == 126 else 8
        length, start = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
    key = data[start : start + 4] if masked else bytes(4)
    start += 4 if masked else 0
    end = start + length
    if len(data) < end:
        return None
    payload = bytes(byte ^ key[index % 4] for index, byte in enumerate(data[start:end]))
    return Frame(data[0] & 0x0F, payload, bool(data[0] & 0x80), bool(data[0] & COMPRESSED)), end


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


def accepting(request: Mapping[str, str] | Headers[str, str], *more: str, drop: str = "") -> bytes:
    """Return an answer that accepts a request, with more header lines, or without those of one name."""
    lines = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(request['Sec-WebSocket-Key'])}",
    ]
    kept = [line for line in lines if not (drop and line.startswith(drop))]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *kept, *more, "", ""]).encode("latin-1")


class Server:
    """The other end of a client's stream.

    Args:
        answer: what comes back for the request of the handshake: bytes, or a function of the request's headers; by
            default an acceptance. If it agrees to permessage-deflate, the client may send compressed messages.
        answers_close: whether it answers the client's close frame and then ends the stream.
    """

    def __init__(
        self,
        answer: bytes | Callable[[Headers[str, str]], bytes] = accepting,
        *,
        answers_close: bool = True,
    ) -> None:
        self.answer = answer
        self.answers_close = answers_close
        self.request_line = ""
        self.request: Headers[str, str] | None = None
        self.compresses = False
        self.frames: list[Frame] = []
        self.unparsed = bytearray()
        """The beginning of a frame that has not come completely."""
        self.half_closed = False
        """Whether the client has ended its direction."""
        self.closed = False
        """Whether the client has closed the stream."""
        self.broken = False
        """Whether what the client sends fails."""
        self.was_reset = False
        self.bytes_sent = 0
        self.bytes_received = 0
        self._reads = trio.Event()
        self._reads.set()
        self._outgoing = MemorySendStream(self._take_in, close_hook=self._half_close)
        self._incoming = MemoryReceiveStream(close_hook=self._close)
        self.stream: trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream] = trio.StapledStream(
            self._outgoing, _Receiving(self, self._incoming)
        )

    # What a test says ------------------------------------------------------------------------------------------------

    def send(self, *data: bytes) -> None:
        """Send bytes that arrive in one block."""
        block = b"".join(data)
        self.bytes_sent += len(block)
        self._incoming.put_data(block)

    def end(self) -> None:
        """End the stream; the client reads what is left, then EOF."""
        self._incoming.put_eof()

    def reset(self) -> None:
        """Break the connection; the client reads what is left, then gets an error."""
        self.was_reset = self.broken = True
        self._incoming.put_eof()

    def stop_reading(self) -> None:
        """From now on, let the client's sends wait."""
        self._reads = trio.Event()

    def read_on(self) -> None:
        self._reads.set()

    @property
    def payloads(self) -> list[bytes]:
        return [frame.payload for frame in self.frames]

    @property
    def closes(self) -> list[int | None]:
        """The codes of the close frames that came."""
        return [
            int.from_bytes(frame.payload[:2], "big") if frame.payload else None
            for frame in self.frames
            if frame.opcode == CLOSE
        ]

    # What the client does --------------------------------------------------------------------------------------------

    async def _take_in(self) -> None:
        if self.broken:
            raise trio.BrokenResourceError("the server is gone")
        await self._reads.wait()
        if self.closed:
            raise trio.ClosedResourceError
        self.take_in()

    def take_in(self) -> None:
        """Take in what the client has sent and nobody has read."""
        data = self._outgoing.get_data_nowait()
        self.bytes_received += len(data)
        self.unparsed += data
        if self.request is None:
            head, end, rest = self.unparsed.partition(b"\r\n\r\n")
            if not end:
                return
            line, _, headers = head.partition(b"\r\n")
            self.request_line = line.decode("ascii")
            self.request = BytesHeaderParser().parsebytes(bytes(headers))
            self.unparsed = rest
            answer = self.answer if isinstance(self.answer, bytes) else self.answer(self.request)
            self.compresses = b"permessage-deflate" in answer
            if answer:
                self.send(answer)
        while (taken := take_frame(self.unparsed)) is not None:
            frame, size = taken
            del self.unparsed[:size]
            assert not self.closes, f"the client sent {frame} after its close frame"
            assert self.compresses or not frame.compressed, "a reserved bit is set"
            self.frames.append(frame)
            if frame.opcode == CLOSE and self.answers_close and not self.closed:
                self.send(close(1000))
                self.end()

    def _half_close(self) -> None:
        self.half_closed = True

    def _close(self) -> None:
        self.closed = True
        self._reads.set()


class _Receiving(trio.abc.ReceiveStream):
    """What the client reads from; raises at its end if the connection was reset."""

    def __init__(self, server: Server, stream: MemoryReceiveStream) -> None:
        self._server = server
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytearray:
        data = await self._stream.receive_some(max_bytes)
        if not data and self._server.was_reset:
            raise trio.BrokenResourceError("connection reset")
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


def connecting(
    server: Server,
    url: str = URL,
    *,
    reach: Callable[[], Awaitable[Transport]] | None = None,
    nursery: trio.Nursery | None = None,
    **options: Unpack[ConnectOptions],
) -> Connecting:
    """Return what `connect` would, for a server in memory."""

    async def dial_memory(_target: Target, _route: Route, _progress: Progress) -> Transport:
        return StreamTransport(server.stream) if reach is None else await reach()

    return Connecting(parse_url(url), parse_options(options), nursery, reach=dial_memory)


# What a client has to tell -------------------------------------------------------------------------------------------


def details(error: Error | None) -> dict[str, object]:
    assert error is not None
    return dict(error.details)


async def drained(client: Client) -> list[str | bytes]:
    """Receive until the channel is closed; return the data."""
    received: list[str | bytes] = []
    with trio.fail_after(1000):
        while (message := await client.receive()).ok:
            received.append(message.value.data)
    return received
