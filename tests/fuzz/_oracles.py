"""Readers of a stream with one kind of result: ours, wsproto's and websockets', at either end of a connection."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

import wsproto.connection
import wsproto.events
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as WebsocketsFrame
from websockets.frames import Opcode as WebsocketsOpcode
from websockets.protocol import Protocol as WebsocketsProtocol
from websockets.protocol import Side, State
from wsproto.connection import ConnectionState
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from tests.websocket._server import CLOSE, PING, PONG
from trio_csp_websocket.protocol.decoder import Decoder
from trio_csp_websocket.protocol.deflate import Inflater
from trio_csp_websocket.protocol.frames import Control
from trio_csp_websocket.protocol.messages import Message
from trio_csp_websocket.protocol.negotiation import DeflateParameters
from trio_csp_websocket.protocol.unmasking_decoder import UnmaskingDecoder

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_STATUS: Final = 1005

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Setting(NamedTuple):
    """What a reader knows of the connection."""

    limit: int
    deflate: DeflateParameters | None = None
    """What was agreed on, as this end sees it."""
    server: bool = False
    """Whether this end is the server's."""

    def at_the_other_end(self) -> Setting:
        if self.deflate is None:
            return self._replace(server=not self.server)
        own_afresh, peer_afresh, own_bits, peer_bits = self.deflate
        return Setting(self.limit, DeflateParameters(peer_afresh, own_afresh, peer_bits, own_bits), not self.server)


class Verdict(NamedTuple):
    """The end of reading: the stream is refused with this code."""

    code: int


Event: TypeAlias = Message | Control | Verdict


class Found(NamedTuple):
    """What a reader found: messages and control frames, each in order, and how it ended, if it did."""

    messages: list[Message]
    controls: list[Control]
    verdict: int | None


class Reader(Protocol):
    """Reads a stream, block by block."""

    def feed(self, block: bytes) -> list[Event]:
        """Return what the block completes; after a close frame or a verdict, nothing."""
        ...


class Ours:
    """`Decoder` or `UnmaskingDecoder`, and `Inflater`."""

    def __init__(self, setting: Setting) -> None:
        self.decoder = (UnmaskingDecoder if setting.server else Decoder)(setting.limit)
        if setting.deflate is not None:
            self.decoder.inflater = Inflater(setting.deflate)
        self._ended = False

    def feed(self, block: bytes) -> list[Event]:
        decoder = self.decoder
        events: list[Event] = []
        rest: bytes | None = block
        while rest is not None:
            controls = decoder.feed(rest)
            events += [*decoder.messages, *controls]
            decoder.messages.clear()
            rest = b"" if decoder.paused else None
        if decoder.violation is not None and not self._ended:
            self._ended = True
            events.append(Verdict(int(decoder.violation.code)))
        return events


class Wsproto:
    """wsproto's end. It leaves the limit to its user, who counts what comes out, as it comes."""

    def __init__(self, setting: Setting) -> None:
        extensions: list[WsprotoDeflate] = []
        if setting.deflate is not None:
            extension = WsprotoDeflate()
            peer = "client" if setting.server else "server"
            takeover = f"; {peer}_no_context_takeover" if setting.deflate.peer_no_context_takeover else ""
            # It does not know of 8.
            bits = max(9, setting.deflate.peer_max_window_bits)
            extension.finalize(f"permessage-deflate; {peer}_max_window_bits={bits}{takeover}")
            extensions.append(extension)
        kind = wsproto.ConnectionType.SERVER if setting.server else wsproto.ConnectionType.CLIENT
        self._peer = wsproto.connection.Connection(kind, list(extensions))
        self._limit = setting.limit
        self._data = bytearray()
        self._ended = False

    def feed(self, block: bytes) -> list[Event]:
        events: list[Event] = []
        if self._ended:
            return events
        self._peer.receive_data(block)
        for event in self._peer.events():
            found = self._event(event)
            if found is not None:
                events.append(found)
            if self._ended:
                break
        return events

    def _event(self, event: wsproto.events.Event) -> Event | None:
        match event:
            case wsproto.events.TextMessage() | wsproto.events.BytesMessage():
                return self._message(event)
            case wsproto.events.Ping():
                return Control(PING, bytes(event.payload))
            case wsproto.events.Pong():
                return Control(PONG, bytes(event.payload))
            case _:
                assert isinstance(event, wsproto.events.CloseConnection)
                self._ended = True
                if self._peer.state is not ConnectionState.REMOTE_CLOSING:
                    return Verdict(int(event.code))
                code = b"" if event.code == NO_STATUS else int(event.code).to_bytes(2, "big")
                return Control(CLOSE, code + (event.reason or "").encode())

    def _message(self, event: wsproto.events.TextMessage | wsproto.events.BytesMessage) -> Event | None:
        self._data += event.data.encode() if isinstance(event.data, str) else event.data
        if len(self._data) > self._limit:
            self._ended = True
            return Verdict(1009)
        if not event.message_finished:
            return None
        data = bytes(self._data)
        self._data.clear()
        is_text = isinstance(event, wsproto.events.TextMessage)
        return Message("text", data.decode()) if is_text else Message("binary", data)


class Websockets:
    """websockets' end. It leaves UTF-8 to its user, who looks at each fragment."""

    def __init__(self, setting: Setting) -> None:
        side = Side.SERVER if setting.server else Side.CLIENT
        self._peer = WebsocketsProtocol(side, state=State.OPEN, max_size=setting.limit)
        if setting.deflate is not None:
            deflate = setting.deflate
            self._peer.extensions = [
                PerMessageDeflate(deflate.peer_no_context_takeover, True, deflate.peer_max_window_bits, 15)
            ]
        self._data = bytearray()
        self._text: codecs.IncrementalDecoder | None = None
        self._ended = False

    def feed(self, block: bytes) -> list[Event]:
        events: list[Event] = []
        if self._ended:
            return events
        self._peer.receive_data(block)
        for frame in self._peer.events_received():
            assert isinstance(frame, WebsocketsFrame)
            found = self._event(frame)
            if found is not None:
                events.append(found)
            if self._ended:
                return events
        if self._peer.parser_exc is not None:
            self._ended = True
            assert self._peer.close_sent is not None
            events.append(Verdict(int(self._peer.close_sent.code)))
        return events

    def _event(self, frame: WebsocketsFrame) -> Event | None:
        if frame.opcode in (CLOSE, PING, PONG):
            self._ended = frame.opcode == CLOSE
            return Control(int(frame.opcode), bytes(frame.data))
        if frame.opcode is not WebsocketsOpcode.CONT:
            self._text = _Utf8Decoder() if frame.opcode is WebsocketsOpcode.TEXT else None
        self._data += frame.data
        if self._text is not None:
            try:
                self._text.decode(frame.data, frame.fin)
            except UnicodeDecodeError:
                self._ended = True
                return Verdict(1007)
        if not frame.fin:
            return None
        data = bytes(self._data)
        self._data.clear()
        return Message("binary", data) if self._text is None else Message("text", data.decode())


ORACLES: Final[dict[str, type[Wsproto | Websockets]]] = {"wsproto": Wsproto, "websockets": Websockets}


def read(reader: Reader, blocks: Sequence[bytes]) -> list[tuple[Event, ...]]:
    """Return what each block completes."""
    return [tuple(reader.feed(block)) for block in blocks]


def found(log: Sequence[tuple[Event, ...]]) -> Found:
    """Return what was found in all blocks together."""
    events = [event for block in log for event in block]
    verdicts = [event.code for event in events if isinstance(event, Verdict)]
    return Found(
        [event for event in events if isinstance(event, Message)],
        [event for event in events if isinstance(event, Control)],
        verdicts[0] if verdicts else None,
    )
