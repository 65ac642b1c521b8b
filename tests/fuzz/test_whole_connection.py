"""The same streams through a whole connection from a server in memory; and what a client sends, as others read it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from csp import websocket
from tests.fuzz._oracles import ORACLES, Found, Ours, Setting, found, read
from tests.fuzz._streams import DAMAGES, FAULTS, Case, blobs, cases, sendable_codes, split, texts
from tests.websocket._server import CLOSE, PING, PONG, Server, accepting, close, connecting, drained
from trio_csp_websocket.protocol.frames import Control
from trio_csp_websocket.protocol.messages import Message
from trio_csp_websocket.protocol.negotiation import DeflateParameters
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csp.websocket import Client
    from trio_csp_websocket.transport.base import Transport

LONG_RUN = os.environ.get("CSP_FUZZ_EXAMPLES")


def examples(ordinary: int) -> settings:
    return settings(
        max_examples=int(LONG_RUN) // 20 if LONG_RUN else ordinary,
        derandomize=not LONG_RUN,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def agreeing(deflate: DeflateParameters | None) -> Server:
    """Return a server that agrees to this."""
    if deflate is None:
        return Server(answers_close=False)
    parameters = [
        "permessage-deflate",
        f"client_max_window_bits={deflate.own_max_window_bits}",
        f"server_max_window_bits={deflate.peer_max_window_bits}",
    ]
    parameters += ["client_no_context_takeover"] if deflate.own_no_context_takeover else []
    parameters += ["server_no_context_takeover"] if deflate.peer_no_context_takeover else []
    line = f"Sec-WebSocket-Extensions: {'; '.join(parameters)}"
    return Server(lambda request: accepting(request, line), answers_close=False)


def compression(deflate: DeflateParameters | None) -> websocket.Compression:
    return websocket.COMPRESSION.DISABLED if deflate is None else websocket.COMPRESSION.CONTEXT_TAKEOVER


# What the server sends ------------------------------------------------------------------------------------------------


class Ended(NamedTuple):
    data: list[str | bytes]
    close_code: int | None
    closes: list[int | None]
    """The close frames that the client sent."""
    pongs: list[bytes]


async def received(setting: Setting, blocks: Sequence[bytes]) -> Ended:
    """Let a client read blocks and then the end of the stream."""
    server = agreeing(setting.deflate)

    async def send() -> None:
        for block in blocks:
            if block:
                server.send(block)
                await wait_all_tasks_blocked()
        server.end()

    async with (
        connecting(server, read_limit=setting.limit, compression=compression(setting.deflate)) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(send)
        data = await drained(client)
    pongs = [frame.payload for frame in server.frames if frame.opcode == PONG]
    return Ended(data, client.close_code, server.closes, pongs)


@examples(60)
@given(st.sampled_from(["no fault", *FAULTS, *DAMAGES]).flatmap(cases), st.lists(st.integers(0, 200_000), max_size=3))
def test_a_client_receives_what_the_decoder_finds_and_says_why_it_ends(case: Case, cuts: list[int]) -> None:
    whole = found(read(Ours(case.setting), [case.stream]))
    ended = trio.run(received, case.setting, split(case.stream, cuts), clock=MockClock(autojump_threshold=0))
    assert ended.data == [message.data for message in whole.messages]
    closes = [control.payload for control in whole.controls if control.opcode == CLOSE]
    if whole.verdict is not None:
        assert (ended.close_code, ended.closes) == (whole.verdict, [whole.verdict])
    elif closes:
        code = int.from_bytes(closes[0][:2], "big") if closes[0] else None
        assert (ended.close_code, ended.closes) == (code or 1005, [code])
    else:
        assert (ended.close_code, ended.closes) == (1006, [])
    # Where several pings wait for an answer, not all of them get one.
    pings = iter([control.payload for control in whole.controls if control.opcode == PING])
    assert all(pong in pings for pong in ended.pongs)


# What the client sends ------------------------------------------------------------------------------------------------


class Send(NamedTuple):
    payload: str | bytes | bytearray | memoryview
    type: int | None = None


class Ping(NamedTuple):
    payload: bytes


class Session(NamedTuple):
    deflate: DeflateParameters | None
    threshold: int
    deeds: list[Send | Ping]
    code: int
    reason: str


# Lengths take 7, 16 or 64 bits.
sizes = st.sampled_from([0, 125, 126, 65_535, 65_536])
deeds = st.one_of(
    texts.map(Send),
    sizes.map(lambda size: Send(b"x" * size)),
    sizes.map(lambda size: Send("x" * size)),
    blobs.map(Send),
    blobs.map(lambda data: Send(bytearray(data))),
    blobs.map(lambda data: Send(memoryview(data))),
    texts.map(lambda text: Send(text, websocket.BINARY)),
    texts.map(lambda text: Send(text.encode(), websocket.TEXT)),
    st.one_of(st.binary(max_size=8), st.just(b"p" * 125)).map(Ping),
)
deflates = st.one_of(
    st.none(),
    st.tuples(st.booleans(), st.integers(8, 15)).map(
        lambda parts: DeflateParameters(own_no_context_takeover=parts[0], own_max_window_bits=parts[1])
    ),
)
sessions = st.tuples(
    deflates,
    st.sampled_from([0, 1, 100, 100_000]),
    st.lists(deeds, max_size=10),
    sendable_codes,
    st.sampled_from(["", "bye", "\u20ac" * 41]),
).map(lambda parts: Session(*parts))


class Recording(trio.abc.SendStream):
    """Keeps what is sent."""

    def __init__(self, stream: trio.abc.SendStream) -> None:
        self._stream = stream
        self.sent = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def do(client: Client, deed: Send | Ping) -> None:
    if isinstance(deed, Ping):
        await client.ping(deed.payload)
    elif deed.type is None:
        await client.send(deed.payload)
    else:
        await client.send(deed.payload, deed.type)


async def sent(session: Session) -> bytes:
    """Return the frames a client sends."""
    server = agreeing(session.deflate)
    recording = Recording(server.stream.send_stream)

    async def dial() -> Transport:
        return StreamTransport(trio.StapledStream(recording, server.stream.receive_stream))

    options = compression(session.deflate)
    async with connecting(server, reach=dial, compression=options, compression_threshold=session.threshold) as client:
        for deed in session.deeds:
            await do(client, deed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.close, session.code, session.reason)
            await wait_all_tasks_blocked()
            server.send(close(session.code))
            server.end()
    return recording.sent.partition(b"\r\n\r\n")[2]


def meant(session: Session) -> Found:
    """Return what a server should find."""
    messages: list[Message] = []
    controls: list[Control] = []
    for deed in session.deeds:
        if isinstance(deed, Ping):
            controls.append(Control(PING, deed.payload))
            continue
        payload = deed.payload.encode() if isinstance(deed.payload, str) else bytes(deed.payload)
        is_text = deed.type == websocket.TEXT or (deed.type is None and isinstance(deed.payload, str))
        messages.append(Message("text", payload.decode()) if is_text else Message("binary", payload))
    controls.append(Control(CLOSE, session.code.to_bytes(2, "big") + session.reason.encode()))
    return Found(messages, controls, None)


@examples(80)
@given(sessions)
@example(Session(DeflateParameters(), 0, [Send("Hello"), Send(""), Send("Hello, Hello")], 1000, ""))
def test_wsproto_and_websockets_as_servers_find_what_a_client_was_told_to_send(session: Session) -> None:
    stream = trio.run(sent, session, clock=MockClock(autojump_threshold=0))
    # The code that wsproto does not know is a difference of its own.
    known = {name: make for name, make in ORACLES.items() if not (name == "wsproto" and session.code == 1014)}
    for make in known.values():
        assert found(read(make(Setting(1 << 20, session.deflate).at_the_other_end()), [stream])) == meant(session)
