"""TLS over another transport.

OpenSSL works between two buffers in memory: what has arrived goes into one, what must be sent comes out of the other.
Its calls never wait, so the task that reads and the tasks that write can all use it. Ciphertext must be sent in the
order in which OpenSSL produced it:

- There are three places for ciphertext that is not sent yet. The oldest is being written by `send_all`, which only one
  task at a time calls; next comes ``_rest``; the newest is in ``_outgoing``, where OpenSSL puts it.
- If the system does not take ciphertext at once, ``pending`` is set. It is also set while `send_all` runs. Until it is
  cleared only `send_all` sends: `send_now` encrypts nothing, and what OpenSSL produces meanwhile stays in
  ``_outgoing``.
- Reading can make OpenSSL produce ciphertext too, such as the answer to a peer that asks for a new key. The
  reader never waits to send that. If the system does not take it at once, ``on_pending`` is called, so that some task
  calls `send_all`. While too much of it lies in ``_outgoing``, nothing is read: a peer that does not read could
  otherwise make it grow without bound. Data never lies there while anything waits: whoever encrypts data takes the
  ciphertext out before it waits. So a large send never keeps the reader from reading.
- Once a closure alert or a last frame has been sent, nothing more is written, encrypted or not.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING

import trio

from trio_csp_websocket.transport.base import SLICE_BYTES, Transport
from trio_csp_websocket.transport.tls_reasons import reason_of, reason_of_client

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from trio_csp_websocket.transport.base import PeerCertificate

# The most data that a TLS record holds (RFC 8446, section 5.1).
_RECORD_BYTES = 16 * 1024

# The most that `receive_some` reads at a time: OpenSSL's buffers never shrink.
_BLOCK_BYTES = 256 * 1024

# While as much of what OpenSSL answered waits to be sent, nothing is read.
_MAX_ANSWERS_BYTES = 64 * 1024


class TlsTransport(Transport):
    """One side of TLS. Call `handshake` first. Counts the bytes of the plaintext.

    Args:
        inner: carries the ciphertext; closed together with this.
        context: which certificates to trust; a server's has its own as well.
        server_hostname: the name the server's certificate must be for, if a client's context checks it.
        server_side: whether this is the server.

    Raises:
        ssl.SSLError, ValueError: the context or the name cannot be used.
    """

    synchronous = True

    def __init__(
        self,
        inner: Transport,
        context: ssl.SSLContext,
        server_hostname: str | None = None,
        *,
        server_side: bool = False,
    ) -> None:
        super().__init__()
        self.local, self.remote, self.proxy = inner.local, inner.remote, inner.proxy
        self._inner = inner
        self.receives_at_once = inner.receives_at_once
        self.ends_at_proxy: bool = False
        """Whether the other end of this TLS is a proxy, and not the peer."""
        # What the inner transport holds back has to be sent by us.
        inner.on_pending = self._inner_pending
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._server_side = server_side
        self._rest: bytes | memoryview = b""
        # How many bytes of ciphertext had come when a client's handshake of TLS 1.3 was finished, if none of them was
        # behind it.
        self._handshake_bytes: int | None = None
        # Whether OpenSSL may hold data, or the end, that can be read before anything more is received.
        self._more = False
        # How the peer's direction ended.
        self._end: ssl.SSLError | None = None
        # Whether our own direction has ended.
        self._finished = False
        # Set when something has arrived, for a write that cannot go on before OpenSSL has read it.
        self._arrival: trio.Event | None = None
        # Set when answers have been taken out of the buffer, for a reader that rests.
        self._room: trio.Event | None = None
        # A request for a certificate is a few bytes, the answer some KiB: so many requests are not taken in at a time.
        self._block_bytes = _RECORD_BYTES if context.post_handshake_auth else _BLOCK_BYTES

    async def handshake(self) -> None:
        """Carry out the handshake, and verify the peer's certificate; a client's only if the context asks for one.

        If TLS fails, the alert that says why has been sent as far as that takes no waiting.

        Raises:
            trio.BrokenResourceError: it failed; the cause is an `OSError` if TLS failed, and not the network.
        """
        received_before = self._inner.bytes_received
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._inner.send_all(self._outgoing.read())
                self._feed(await self._inner.receive_some(_RECORD_BYTES))
            except OSError as error:  # of TLS, or of a context that has the system verify
                await self._inner.send_last(self._outgoing.read())
                if not self._server_side:
                    raise _broken(error) from error
                begun = self._inner.bytes_received > received_before
                raise trio.BrokenResourceError(reason_of_client(error, begun=begun)) from error
            else:
                await self._inner.send_all(self._outgoing.read())
                # The peer's first data may have come together with the end of its handshake.
                self._more = self._incoming.pending > 0
                # Told now: OpenSSL does not know its version any more at the end of the connection.
                if not self._server_side and self._tls.version() == "TLSv1.3" and not self._more:
                    self._handshake_bytes = self._inner.bytes_received
                return

    @property
    def bytes_taken(self) -> int:
        return self._inner.bytes_taken

    @property
    def peer_certificate(self) -> PeerCertificate | None:
        return None if self.ends_at_proxy else self._tls.getpeercert()

    @property
    def protocol(self) -> str | None:
        """The protocol that the server has chosen of those that the client offered (ALPN, RFC 7301), if any."""
        return self._tls.selected_alpn_protocol()

    @property
    def silent_since_handshake(self) -> bool:
        """Of a client, whether nothing has come since the end of a handshake of TLS 1.3.

        There a server checks the client's certificate after the client's handshake has ended. One that is content
        mostly sends session tickets then (RFC 8446, sections 2 and 4.6.1).
        """
        return self._inner.bytes_received == self._handshake_bytes

    def unread(self, data: bytes) -> None:
        super().unread(data)
        self._more = True

    async def receive_some(self, max_bytes: int) -> bytes:
        block_bytes = min(max(max_bytes, _RECORD_BYTES), self._block_bytes)
        if self._outgoing.pending:
            await self._wait_for_room()
        if self._more:
            await trio.lowlevel.checkpoint()
        else:
            self._feed(await self._inner.receive_some(block_bytes))
        while (data := self._decrypt(max_bytes)) is None:
            if self._outgoing.pending:
                await self._wait_for_room()
            self._feed(await self._inner.receive_some(block_bytes))
        return data

    async def receive_now(self, max_bytes: int) -> bytes | None:
        if self._crowded:
            return None
        data = self._decrypt(max_bytes) if self._more else None
        # One block only: a peer could send empty records for ever, and this does not let other tasks run.
        block_bytes = min(max(max_bytes, _RECORD_BYTES), self._block_bytes)
        if data is None and (block := await self._inner.receive_now(block_bytes)) is not None:
            self._feed(block)
            data = self._decrypt(max_bytes)
        return data

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        encrypted = 0
        with memoryview(data) as view:
            while encrypted < view.nbytes and not self.pending:
                with view[encrypted : encrypted + SLICE_BYTES] as piece:
                    if not self._encrypt(piece):
                        break
                    encrypted += piece.nbytes
                self._flush()
        self.bytes_sent += encrypted
        return encrypted

    async def send_all(self, data: Buffer) -> None:
        # Stays set if this is cancelled: nothing may follow part of a record.
        self.pending = True
        await self._drain()
        with memoryview(data) as view:
            for start in range(0, view.nbytes, SLICE_BYTES):
                with view[start : start + SLICE_BYTES] as piece:
                    while not self._encrypt(piece):
                        arrival = self._arrival = trio.Event()
                        await self._drain()
                        await arrival.wait()
                    await self._drain()
                    self.bytes_sent += piece.nbytes
        self.pending = False

    async def send_last(self, frame: bytes) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if not self.pending and self._encrypt(frame):
                self._finished = True
                await self._inner.send_last(self._outgoing.read())
                self.bytes_sent += len(frame)

    async def send_eof(self) -> None:
        # A closure alert comes before the end (RFC 8446, section 6.1), but cannot follow part of a record.
        alert = not (self._finished or self.pending)
        self._finished = True
        self._made_room()
        if alert:
            # Also wants the server's alert, and raises if that has not come.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            await self._inner.send_last(self._outgoing.read())
        await self._inner.send_eof()

    async def aclose(self) -> None:
        self._finished = True
        self._more = False
        self._arrived()
        self._made_room()
        await self._inner.aclose()

    # Receiving -------------------------------------------------------------------------------------------------------

    @property
    def _crowded(self) -> bool:
        """Whether too many answers of OpenSSL's wait to be sent."""
        return self._outgoing.pending >= _MAX_ANSWERS_BYTES and not self._finished

    async def _wait_for_room(self) -> None:
        while self._crowded:
            room = self._room = trio.Event()
            await room.wait()

    def _made_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    def _feed(self, block: bytes) -> None:
        if block:
            self._incoming.write(block)
        else:
            self._incoming.write_eof()

    def _decrypt(self, max_bytes: int) -> bytes | None:
        """Return the data of the complete records that have arrived; None if there is none, b"" at the end."""
        if self._finished:
            # The caller only waits for the end and throws data away, so there is no need to decrypt it.
            self._incoming.read()
            return b"" if self._incoming.eof else None
        data = self._read_records(max_bytes)
        self._arrived()
        if self._outgoing.pending and not self.pending:
            self._send_replies()
        if data:
            self.bytes_received += len(data)
            return data
        if self._end is None:
            return None
        if isinstance(self._end, (ssl.SSLZeroReturnError, ssl.SSLEOFError)):
            return b""
        raise _broken(self._end) from self._end

    def _read_records(self, max_bytes: int) -> bytes:
        if self._unread:
            return self._take_unread(max_bytes)
        pieces: list[bytes] = []
        room = max_bytes
        try:
            while self._end is None:
                piece = self._tls.read(min(room, _RECORD_BYTES))
                if not piece:
                    raise ssl.SSLZeroReturnError
                pieces.append(piece)
                room -= len(piece)
                # A read returns as much of one record as there is room for. OpenSSL takes no more than that record
                # out of the buffer, so an empty buffer means that there is nothing more to read.
                if not room or not self._incoming.pending:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._end = error.with_traceback(None)
        self._more = not room or self._end is not None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _send_replies(self) -> None:
        """Send what OpenSSL produced while reading, or have it sent."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._flush()
        if self.pending and self.on_pending is not None:
            self.on_pending()

    def _arrived(self) -> None:
        if self._arrival is not None:
            self._arrival.set()
            self._arrival = None

    # Sending ---------------------------------------------------------------------------------------------------------

    def _encrypt(self, data: Buffer) -> bool:
        """Encrypt all of the data; return False if OpenSSL must hear from the peer first."""
        if self._finished:
            raise trio.ClosedResourceError("TLS has ended")
        try:
            self._tls.write(data)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise _broken(error) from error
        return True

    def _flush(self) -> None:
        """Send as much ciphertext as the system takes. An error leaves it pending, so that `send_all` meets it too."""
        ciphertext = self._rest = self._outgoing.read()
        self.pending = True
        sent = self._inner.send_now(ciphertext)
        if sent == len(ciphertext):
            self._rest = b""
            self.pending = self._inner.pending
        else:
            self._rest = memoryview(ciphertext)[sent:]

    def _inner_pending(self) -> None:
        """Have sent what the inner transport holds back: it is TLS too, as to a proxy, and has to answer something."""
        self.pending = True
        if self.on_pending is not None:
            self.on_pending()

    async def _drain(self) -> None:
        while (ciphertext := self._rest or self._outgoing.read()) or self._inner.pending:
            self._rest = b""
            self._made_room()
            await self._inner.send_all(ciphertext)


def _broken(error: OSError) -> trio.BrokenResourceError:
    return trio.BrokenResourceError(reason_of(error))
