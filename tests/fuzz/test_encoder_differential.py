"""What is encoded at either end, as wsproto, websockets and ours read it at the other."""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz._oracles import ORACLES, Found, Ours, Setting, found, read
from tests.fuzz._streams import blobs, close_payloads, split, texts
from tests.websocket._server import BINARY, CLOSE, PING, PONG, TEXT
from trio_csp_websocket.protocol.deflate import Deflater
from trio_csp_websocket.protocol.encoder import Encoder, MaskingEncoder
from trio_csp_websocket.protocol.frames import Control
from trio_csp_websocket.protocol.messages import Message
from trio_csp_websocket.protocol.negotiation import DeflateParameters

LONG_RUN = os.environ.get("CSP_FUZZ_EXAMPLES")
LIMIT = 1 << 20

examples = settings(
    max_examples=int(LONG_RUN) // 10 if LONG_RUN else 150,
    derandomize=not LONG_RUN,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Sent(NamedTuple):
    """What one end sends."""

    deflate: DeflateParameters | None
    threshold: int
    frames: list[tuple[int, bytes]]
    cuts: list[int]


sizes = st.sampled_from([0, 125, 126, 65_535, 65_536])
pieces = st.one_of(
    st.tuples(st.just(TEXT), texts.map(str.encode)),
    st.tuples(st.just(BINARY), blobs),
    st.tuples(st.sampled_from([TEXT, BINARY]), sizes.map(lambda size: b"x" * size)),
    st.tuples(st.sampled_from([PING, PONG]), st.one_of(st.binary(max_size=8), st.just(b"p" * 125))),
)
# wsproto has a close code of its own mind: `_differences`.
closes = close_payloads.filter(lambda payload: payload[:2] != (1014).to_bytes(2, "big"))
endings = st.one_of(st.just(()), st.just((b"",)), closes.map(lambda payload: (payload,)))
deflates = st.one_of(
    st.none(),
    st.tuples(st.booleans(), st.integers(8, 15)).map(
        lambda parts: DeflateParameters(own_no_context_takeover=parts[0], own_max_window_bits=parts[1])
    ),
)
sent = st.tuples(
    deflates,
    st.sampled_from([0, 0, 1, 100, 100_000]),
    st.tuples(st.lists(pieces, max_size=10), endings).map(
        lambda parts: parts[0] + [(CLOSE, payload) for payload in parts[1]]
    ),
    st.lists(st.integers(0, 200_000), max_size=4),
).map(lambda parts: Sent(*parts))


def meant(frames: list[tuple[int, bytes]]) -> Found:
    messages = [
        Message("text", payload.decode()) if opcode == TEXT else Message("binary", payload)
        for opcode, payload in frames
        if opcode in (TEXT, BINARY)
    ]
    return Found(messages, [Control(opcode, payload) for opcode, payload in frames if opcode >= CLOSE], None)


@pytest.mark.parametrize("server", [False, True], ids=["client", "server"])
@example(Sent(DeflateParameters(), 0, [(TEXT, b"Hello"), (TEXT, b""), (BINARY, b"Hello, Hello")], []))
@examples
@given(sent)
def test_the_other_end_finds_what_was_encoded(server: bool, sent: Sent) -> None:
    encoder = Encoder() if server else MaskingEncoder()
    encoder.deflater = None if sent.deflate is None else Deflater(sent.deflate)
    encoder.compression_threshold_bytes = sent.threshold
    stream = b"".join(encoder.encode(opcode, payload) for opcode, payload in sent.frames)
    other_end = Setting(LIMIT, sent.deflate, server).at_the_other_end()
    for make in (Ours, *ORACLES.values()):
        assert found(read(make(other_end), split(stream, sent.cuts))) == meant(sent.frames)
