"""What waits for a member of a hub: counted, and bounded."""

from __future__ import annotations

import pytest
import trio

from tests.websocket._server import BINARY, TEXT
from trio_csp_websocket.connection.outbox import Outbox
from trio_csp_websocket.protocol.encoder import Encoder
from trio_csp_websocket.protocol.shared import SharedMessage


def message(size: int) -> SharedMessage:
    return SharedMessage(BINARY, bytes(size))


def test_there_is_room_for_one_message_of_any_size() -> None:
    outbox = Outbox(None, 1, 1)
    assert outbox.has_room(message(1000))
    outbox.add(message(1000))
    assert len(outbox) == 1
    assert not outbox.has_room(message(0))


@pytest.mark.parametrize(("sizes", "most"), [([1, 1], 3), ([3], 2), ([5], 0), ([6], -1), ([1, 1, 1], -1), ([0, 0], 5)])
def test_both_bounds_hold(sizes: list[int], most: int) -> None:
    outbox = Outbox(None, 3, 5)
    for size in sizes:
        outbox.add(message(size))
    assert [size for size in range(10) if outbox.has_room(message(size))] == list(range(most + 1))


def test_what_is_written_refused_or_withdrawn_is_taken_out_once() -> None:
    outbox = Outbox(None, 10, 100)
    begun, failed, withdrawn, stays = [outbox.add(message(size)) for size in (10, 20, 30, 40)]
    assert outbox.oldest is begun
    assert begun.begin(Encoder()) == b"\x82\x0a" + bytes(10)
    begun.written()
    assert outbox.oldest is failed
    # Those in flight fail as well.
    for one in (failed, begun):
        one.failed(trio.ClosedResourceError())
    outbox.remove(withdrawn)
    outbox.remove(withdrawn)
    assert (len(outbox), outbox.oldest, stays.opcode) == (1, stays, BINARY)
    assert outbox.has_room(message(60))
    assert not outbox.has_room(message(61))


def test_a_message_is_encoded_once_for_all_who_get_it_in_the_same_form() -> None:
    shared = SharedMessage(TEXT, b"hello")
    first, second = Encoder(), Encoder()
    assert first.encode_shared(shared) is second.encode_shared(shared)
    assert (second.messages_sent, second.payload_bytes_sent) == (1, 5)
