"""Agreeing on compression with wsproto and websockets, for every combination of parameters; and then with messages."""

from __future__ import annotations

import itertools
import zlib
from typing import TYPE_CHECKING, Literal, TypeAlias

import pytest
from websockets.exceptions import NegotiationError
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from trio_csp_websocket.protocol.constants import Compression
from trio_csp_websocket.protocol.deflate import Deflater, Inflater
from trio_csp_websocket.protocol.negotiation import DeflateParameters, accepted, agreed, offer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from websockets.typing import ExtensionName, ExtensionParameter

Bits: TypeAlias = Literal[True] | int | None

KIB = 1 << 10
NAME = "permessage-deflate"
TAIL = b"\x00\x00\xff\xff"
MODES = (Compression.CONTEXT_TAKEOVER, Compression.NO_CONTEXT)
EITHER_MODE = pytest.mark.parametrize("compression", MODES, ids=["takeover", "no context"])
OUR_BITS = pytest.mark.parametrize("bits", range(9, 16))
FLAGS = (False, True)
# The second can refer to the first, and each to itself, from near and far.
MESSAGES = (bytes(index * index % 251 for index in range(5000)) * 2, b"the first again" + bytes(range(250)) * 40)


def websockets_offers() -> Iterator[ClientPerMessageDeflateFactory]:
    every_client_bits: tuple[Bits, ...] = (None, True, *range(9, 16))
    for afresh, ours_afresh in itertools.product(FLAGS, FLAGS):
        for server_bits, client_bits in itertools.product((None, *range(8, 16)), every_client_bits):
            yield ClientPerMessageDeflateFactory(afresh, ours_afresh, server_bits, client_bits)


def websockets_servers() -> Iterator[ServerPerMessageDeflateFactory]:
    for afresh, client_afresh in itertools.product(FLAGS, FLAGS):
        for server_bits, client_bits in itertools.product((None, *range(9, 16)), (None, *range(8, 16))):
            yield ServerPerMessageDeflateFactory(afresh, client_afresh, server_bits, client_bits)


def written(parameters: list[ExtensionParameter]) -> str:
    name: ExtensionName = ClientPerMessageDeflateFactory.name
    return build_extension([(name, parameters)])


def read(header: str) -> Sequence[ExtensionParameter]:
    ((name, parameters),) = parse_extension(header)
    assert name == NAME
    return parameters


def exchange(deflate: DeflateParameters, peer: PerMessageDeflate) -> None:
    """Let both ends send messages to each other."""
    ours, theirs = Deflater(deflate), Inflater(deflate)
    for data in MESSAGES:
        frame = peer.decode(Frame(Opcode.BINARY, ours.deflate(data), rsv1=True))
        assert bytes(frame.data) == data
        frame = peer.encode(Frame(Opcode.BINARY, data))
        assert theirs.inflate_message(bytes(frame.data)) == data


# A server of ours -----------------------------------------------------------------------------------------------------


@EITHER_MODE
@OUR_BITS
def test_websockets_as_a_client_takes_our_answer_to_any_offer(compression: Compression, bits: int) -> None:
    for number, factory in enumerate(websockets_offers()):
        offered = list(factory.get_request_params())
        agreement = accepted(written(offered), compression, bits)
        assert agreement is not None
        peer = factory.process_response_params(read(agreement.header), [])
        deflate = agreement.deflate
        assert deflate.own_no_context_takeover == peer.remote_no_context_takeover
        assert deflate.peer_no_context_takeover == peer.local_no_context_takeover
        assert deflate.own_max_window_bits == peer.remote_max_window_bits
        assert deflate.peer_max_window_bits == peer.local_max_window_bits
        if number % 7 == bits - 9:  # each with one of our settings
            exchange(deflate, peer)


@EITHER_MODE
@OUR_BITS
def test_wsproto_as_a_client_takes_our_answer_to_any_offer(compression: Compression, bits: int) -> None:
    for afresh, client_afresh in itertools.product(FLAGS, FLAGS):
        for server_bits, client_bits in itertools.product(range(9, 16), range(9, 16)):
            peer = WsprotoDeflate(client_afresh, client_bits, afresh, server_bits)
            agreement = accepted(f"{NAME}; {peer.offer()}", compression, bits)
            assert agreement is not None
            peer.finalize(agreement.header)
            assert peer.enabled()
            deflate = agreement.deflate
            assert deflate.own_no_context_takeover == peer.server_no_context_takeover
            assert deflate.peer_no_context_takeover == peer.client_no_context_takeover
            assert deflate.own_max_window_bits == peer.server_max_window_bits
            assert deflate.peer_max_window_bits == peer.client_max_window_bits


@pytest.mark.parametrize("offered", MODES)
@EITHER_MODE
@OUR_BITS
def test_our_client_and_our_server_agree_and_understand_each_other(
    compression: Compression, offered: Compression, bits: int
) -> None:
    offers = offer(offered)
    assert offers is not None
    agreement = accepted(offers, compression, bits)
    assert agreement is not None
    client, server = agreed(agreement.header, offered), agreement.deflate
    assert client is not None
    assert client == (server[1], server[0], server[3], server[2])
    for one, other in ((client, server), (server, client)):
        deflater, inflater = Deflater(one), Inflater(other)
        assert [inflater.inflate_message(deflater.deflate(data)) for data in MESSAGES] == list(MESSAGES)


@OUR_BITS
def test_what_we_send_needs_no_larger_window_than_was_agreed_on(bits: int) -> None:
    agreement = accepted(NAME, Compression.CONTEXT_TAKEOVER, bits)
    assert agreement is not None
    deflater = Deflater(agreement.deflate)
    decompressor = zlib.decompressobj(-bits)
    for data in MESSAGES:
        payload = deflater.deflate(data) + TAIL
        assert b"".join(decompressor.decompress(payload[i : i + 1]) for i in range(len(payload))) == data


def refused(offers: str) -> bool:
    """Tell whether websockets, as a server that wants nothing of its own, accepts none of the offers."""
    for name, parameters in parse_extension(offers):
        if name == NAME:
            try:
                ServerPerMessageDeflateFactory().process_request_params(parameters, [])
            except NegotiationError:
                continue
            return False
    return True


PARAMETERS = (
    "server_no_context_takeover",
    "server_no_context_takeover=1",
    "client_no_context_takeover",
    "client_max_window_bits",
    "client_max_window_bits=9",
    "client_max_window_bits=16",
    "client_max_window_bits=09",
    "server_max_window_bits",
    "server_max_window_bits=9",
    'server_max_window_bits="9"',
    "server_max_window_bits=7",
    "unknown",
    "unknown=9",
)


def test_the_same_offers_are_passed_over_as_by_websockets() -> None:
    outcomes = {False: 0, True: 0}
    for count in range(4):
        for parameters in itertools.product(PARAMETERS, repeat=count):
            offers = "; ".join([NAME, *parameters])
            outcome = refused(offers)
            outcomes[outcome] += 1
            assert (accepted(offers, Compression.CONTEXT_TAKEOVER, 12) is None) == outcome, offers
    assert min(outcomes.values()) > 100


# A client of ours -----------------------------------------------------------------------------------------------------


@EITHER_MODE
def test_our_client_takes_any_answer_of_websockets_as_a_server(compression: Compression) -> None:
    offers = offer(compression)
    assert offers is not None
    for factory in websockets_servers():
        answer, peer = factory.process_request_params(read(offers), [])
        deflate = agreed(written(answer), compression)
        assert deflate is not None
        assert deflate.own_no_context_takeover == peer.remote_no_context_takeover
        assert deflate.peer_no_context_takeover == peer.local_no_context_takeover
        assert deflate.own_max_window_bits == peer.remote_max_window_bits
        assert deflate.peer_max_window_bits == peer.local_max_window_bits
        exchange(deflate, peer)


@EITHER_MODE
def test_our_client_takes_any_answer_of_wsproto_as_a_server(compression: Compression) -> None:
    offers = offer(compression)
    assert offers is not None
    for afresh, client_afresh in itertools.product(FLAGS, FLAGS):
        for server_bits, client_bits in itertools.product(range(9, 16), range(9, 16)):
            peer = WsprotoDeflate(client_afresh, client_bits, afresh, server_bits)
            deflate = agreed(f"{NAME}; {peer.accept(offers)}", compression)
            assert deflate is not None
            assert deflate.own_max_window_bits == peer.client_max_window_bits
            assert deflate.own_no_context_takeover or not peer.client_no_context_takeover
            assert deflate.peer_no_context_takeover == peer.server_no_context_takeover
