"""Any stream, right or wrong, against wsproto and websockets: the same messages, the same control frames, the same end.

``CSP_FUZZ_EXAMPLES=20000 pytest tests/fuzz`` runs as many examples, not the same ones each time.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz._differences import (
    DIFFERENCES,
    LATER,
    MIB,
    REFUSED_1002,
    REFUSED_1007,
    REFUSED_1009,
    SOONER,
    Events,
    compare,
    masked,
    raw_frames,
)
from tests.fuzz._oracles import ORACLES, Found, Ours, Setting, found, read
from tests.fuzz._streams import DAMAGES, FAULTS, TAIL, Case, Spec, cases, split
from tests.websocket._server import BINARY, CLOSE, COMPRESSED, CONTINUATION, PING, PONG, TEXT, close, deflated, frame
from trio_csp_websocket.protocol.frames import Control
from trio_csp_websocket.protocol.messages import Message
from trio_csp_websocket.protocol.negotiation import DeflateParameters

LONG_RUN = os.environ.get("CSP_FUZZ_EXAMPLES")

EITHER_END = pytest.mark.parametrize("server", [False, True], ids=["client", "server"])

PLAIN = Setting(1000)
TAKEOVER = Setting(1000, DeflateParameters())
HELLO = deflated(b"Hello")
"""The same data again would give other bytes, referring to these."""
FINAL = zlib.compress(b"Hello", wbits=-15)
"""A final block."""

NO_FAULT = "no fault"
MASKING = {False: "a frame from the server is masked", True: "a frame from the client is not masked"}
VERDICTS = (
    "a reserved bit is set",
    "unknown control opcode #",
    "unknown data opcode #",
    "a control frame is fragmented",
    "a control frame has # bytes of payload, more than #",
    "a continuation without a message to continue",
    "a new message inside a fragmented one",
    "a frame's length of # is not in its shortest form",
    "a frame's length of # is more than # bits can hold",
    "a close frame has one byte instead of a code of two",
    "a close frame has the invalid code #",
    "a close frame's reason is not UTF-8",
    "a text message is not UTF-8",
    "a compressed message cannot be inflated",
    "a message of at least # bytes, more than #",
    "a message of more than # bytes, inflated",
    "a compressed frame of # bytes, too large for a message of #",
)


def compressed(payload: bytes, *, opcode: int = BINARY, fin: bool = True) -> bytes:
    return frame(opcode, payload, fin=fin, reserved=COMPRESSED)


def examples(ordinary: int, *, runs: int = 1) -> settings:
    """Return how many examples to draw; a long run's are for several ``runs`` together."""
    return settings(
        max_examples=int(LONG_RUN) // runs if LONG_RUN else ordinary,
        derandomize=not LONG_RUN,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# All at once, in some blocks, or byte by byte.
cuts = st.one_of(st.lists(st.integers(0, 200_000), max_size=8), st.just([*range(1000)]))


def check(counts: Counter[str], fault: str, case: Case, cuts: list[int]) -> None:
    log, differences = compare(case.setting, case.stream)
    whole = found(log)
    reader = Ours(case.setting)
    assert found(read(reader, split(case.stream, cuts))) == whole
    if fault == NO_FAULT:
        assert whole == Found([*case.messages], [*case.controls], None)
    if case.setting.deflate is not None and not case.setting.deflate.peer_no_context_takeover:
        forgetful = case.setting._replace(deflate=case.setting.deflate._replace(peer_no_context_takeover=True))
        counts["refers to a message before"] += found(read(Ours(forgetful), [case.stream])) != whole
    counts["examples"] += 1
    counts["messages"] += len(whole.messages)
    counts.update(f"{oracle} {difference}" for oracle, difference in differences)
    if reader.decoder.violation is not None:
        counts[re.sub(r": .*", "", re.sub(r"(?<![\w-])\d+", "#", reader.decoder.violation.reason))] += 1
        counts[f"ended with {whole.verdict}"] += 1
    else:
        counts["ended with a close" if CLOSE in [control.opcode for control in whole.controls] else "not ended"] += 1
    for oracle in ORACLES:
        counts[f"no difference from {oracle}"] += oracle not in [whose for whose, _ in differences]


@EITHER_END
def test_any_stream_in_any_blocks_gives_what_wsproto_and_websockets_find(
    server: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    # What the streams were like: a fuzz whose streams all end the same tests nothing.
    counts: Counter[str] = Counter()
    faults = [NO_FAULT, *FAULTS, *DAMAGES]
    for fault in faults:
        profile = examples(80 if fault == NO_FAULT else 22, runs=len(faults))
        profile(given(st.just(counts), st.just(fault), cases(fault, server=server), cuts)(check))()
    with capsys.disabled():
        print(
            f"\nfuzz, {'server' if server else 'client'}:",
            ", ".join(f"{number} {what}" for what, number in counts.most_common()),
        )
    for what in (*VERDICTS, MASKING[server], "refers to a message before"):
        assert counts[what] >= 2, what
    for what in ("ended with 1002", "ended with 1007", "ended with 1009", "ended with a close", "not ended"):
        assert counts[what] > counts["examples"] / 35, what
    for oracle in ORACLES:
        assert counts[f"no difference from {oracle}"] > counts["examples"] / 2


# The same in other fragments ------------------------------------------------------------------------------------------


class Fragmented(NamedTuple):
    """The payload of a compressed message, in two ways."""

    payload: bytes
    one: list[bytes]
    other: list[bytes]


blocks = st.sampled_from([HELLO, HELLO + TAIL, FINAL, FINAL + b"\x00", b"\x00", b"\x00" + TAIL, TAIL, b"\x06"])


@st.composite
def fragmented(draw: st.DrawFn) -> Fragmented:
    payload = b"".join(draw(st.lists(blocks, max_size=4)))

    def fragments() -> list[bytes]:
        cuts = draw(st.lists(st.integers(0, len(payload)), max_size=4))
        return split(payload, cuts) + [b""] * draw(st.integers(0, 2))

    return Fragmented(payload, fragments(), fragments())


def in_fragments(fragments: list[bytes]) -> bytes:
    """Return a message in fragments, and another that may refer to it."""
    last = len(fragments) - 1
    stream = b"".join(
        frame(CONTINUATION if number else BINARY, fragment, fin=number == last, reserved=0 if number else COMPRESSED)
        for number, fragment in enumerate(fragments)
    )
    return stream + compressed(HELLO)


@examples(150)
@given(fragmented())
def test_a_compressed_message_is_the_same_in_any_fragments(drawn: Fragmented) -> None:
    one, other = (found(read(Ours(TAKEOVER), [in_fragments(fragments)])) for fragments in (drawn.one, drawn.other))
    assert one == other


# What is known to differ ----------------------------------------------------------------------------------------------


class Example(NamedTuple):
    """A stream, and what ours and the oracle make of the last frame of it that they agree to look at."""

    stream: bytes
    ours: Events
    theirs: Events
    setting: Setting = PLAIN


CLOSE_1014 = close(1014)
HELLO_TWICE = compressed(HELLO + TAIL, fin=False) + frame(PING) + frame(CONTINUATION, HELLO)
THREE_BYTES_FROM_300_BACK = b"\x02\x86\x15\x00"
HELLOS = deflated(b"Hello" * 20)

EXAMPLES: dict[tuple[str, str], Example] = {
    ("wsproto", "looks at text before its user can look at the size"): Example(
        frame(TEXT, b"\xff" * 1001), REFUSED_1009, REFUSED_1007
    ),
    ("wsproto", "holds back a character that a fragment cuts"): Example(
        frame(TEXT, b"x" * 999 + b"\xe2\x82", fin=False), REFUSED_1009, ()
    ),
    ("wsproto", "stops inflating at a control frame inside a compressed message"): Example(
        HELLO_TWICE, (Message("binary", b"HelloHello"),), (Message("binary", b"Hello" + HELLO),), TAKEOVER
    ),
    ("wsproto", "drops what follows a final block"): Example(
        compressed(FINAL + HELLO), (Message("binary", b"HelloHello"),), (Message("binary", b"Hello"),), TAKEOVER
    ),
    ("wsproto", "appends the end of a message to nothing"): Example(
        compressed(b"") + compressed(HELLO), (Message("binary", b"Hello"),), REFUSED_1007, TAKEOVER
    ),
    ("wsproto", "refuses the close code 1014"): Example(CLOSE_1014, (Control(CLOSE, CLOSE_1014[2:]),), REFUSED_1002),
    ("wsproto", "inflates a frame of any size"): Example(
        compressed((b"\x00" + TAIL) * 500 + b"\x00"), REFUSED_1009, (Message("binary", b""),), TAKEOVER
    ),
    ("wsproto", "has a window of 9 bits where 8 were agreed on"): Example(
        compressed(deflated(bytes(range(200)) * 3)) + compressed(THREE_BYTES_FROM_300_BACK),
        REFUSED_1007,
        (Message("binary", b"def"),),
        Setting(1000, DeflateParameters(peer_max_window_bits=8)),
    ),
    ("wsproto", "inflates a message inside another before it refuses it"): Example(
        compressed(HELLO, fin=False) + compressed(b"\x06"), REFUSED_1002, REFUSED_1007, TAKEOVER
    ),
    ("wsproto", "inflates all of a frame before its user can look at the size"): Example(
        compressed(deflated(bytes(300_000)) + TAIL + b"\x06"), REFUSED_1009, REFUSED_1007, TAKEOVER
    ),
    ("wsproto", SOONER): Example(frame(TEXT, b"\xff" * 9)[:3], (), REFUSED_1007),
    ("wsproto", LATER): Example(frame(CONTINUATION, b"x")[:2], REFUSED_1002, ()),
    ("websockets", "accepts lengths in a longer form than needed"): Example(
        Spec(BINARY, b"x", width=16).encoded(), REFUSED_1002, (Message("binary", b"x"),)
    ),
    ("websockets", "looks at the size before anything else"): Example(
        frame(CONTINUATION, bytes(1001)), REFUSED_1002, REFUSED_1009
    ),
    ("websockets", "has the limit of messages for control frames too"): Example(
        frame(PONG, b"xx"), (Control(PONG, b"xx"),), REFUSED_1009, Setting(1)
    ),
    ("websockets", "has the limit for what is compressed too"): Example(
        compressed(deflated(bytes(range(200)))),
        (Message("binary", bytes(range(200))),),
        REFUSED_1009,
        Setting(200, DeflateParameters()),
    ),
    ("websockets", "does not count what zlib holds back at the end of a fragment"): Example(
        compressed(HELLOS[:-1], fin=False), REFUSED_1009, (), Setting(99, DeflateParameters())
    ),
    ("websockets", "fails with 1002 on what cannot be inflated"): Example(
        compressed(b"\x06"), REFUSED_1007, REFUSED_1002, TAKEOVER
    ),
    ("websockets", "stops inflating at the limit to the byte"): Example(
        compressed(deflated(bytes(2000)) + TAIL + b"\x06"), REFUSED_1007, REFUSED_1009, TAKEOVER
    ),
    ("websockets", "inflates up to the limit before its user can look at the text"): Example(
        compressed(deflated(b"\xff" * (MIB + 1)), opcode=TEXT, fin=False),
        REFUSED_1007,
        REFUSED_1009,
        Setting(MIB, DeflateParameters()),
    ),
    ("websockets", "decodes a close frame's reason before it looks at the code"): Example(
        frame(CLOSE, b"\x00\x00\xff"), REFUSED_1002, REFUSED_1007
    ),
    ("websockets", "refuses a close inside a fragmented message"): Example(
        frame(TEXT, b"x", fin=False) + close(), (Control(CLOSE, b""),), REFUSED_1002
    ),
    ("websockets", "drops what follows a final block"): Example(
        compressed(FINAL + HELLO), (Message("binary", b"HelloHello"),), (Message("binary", b"Hello"),), TAKEOVER
    ),
    ("websockets", "appends the end of a message to nothing"): Example(
        compressed(b"") + compressed(HELLO), (Message("binary", b"Hello"),), REFUSED_1002, TAKEOVER
    ),
    ("websockets", SOONER): Example(b"\x83\x7e", (), REFUSED_1002),
    ("websockets", LATER): Example(frame(PING, b"x", reserved=COMPRESSED)[:2], REFUSED_1002, ()),
}


def test_there_is_an_example_of_every_known_difference() -> None:
    assert set(EXAMPLES) == {*DIFFERENCES, *((oracle, when) for oracle in ORACLES for when in (SOONER, LATER))}


@EITHER_END
@pytest.mark.parametrize(("oracle", "difference"), EXAMPLES)
def test_a_known_difference_is_still_there(oracle: str, difference: str, server: bool) -> None:
    stream, ours, theirs, setting = EXAMPLES[oracle, difference]
    if server:
        stream, setting = masked(stream, b"\x12\x00\xff\x80"), setting._replace(server=True)
    blocks = [raw.data for raw in raw_frames(stream)]
    one, other = read(Ours(setting), blocks), read(ORACLES[oracle](setting), blocks)
    assert one[:-1] == other[:-1]
    assert (one[-1], other[-1]) == (ours, theirs)
    assert (oracle, difference) in compare(setting, stream)[1]
