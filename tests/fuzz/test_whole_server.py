"""Streams of frames from clients, right and wrong, through a whole connection of a server, from the request on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from csp import websocket
from tests.fuzz._oracles import Ours, Setting, found, read
from tests.fuzz._streams import DAMAGES, FAULTS, Case, cases, split
from tests.fuzz.test_whole_connection import Ended, examples
from tests.hostile._foe import Said, head
from tests.websocket._entrance import Entrance
from tests.websocket._peers import CLOSE, PING, PONG, driver_tasks
from trio_csp_websocket.protocol.negotiation import DeflateParameters

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


async def received(setting: Setting, blocks: Sequence[bytes], *, behind: bool) -> Ended:
    """Let a server read blocks from a client, and then the end of the stream.

    Args:
        setting: what both ends know.
        blocks: what comes.
        behind: whether the first of them comes together with the request.
    """
    entrance, offer = Entrance(), [] if setting.deflate is None else [DEFLATE]
    data: list[str | bytes] = []
    heard = bytearray()
    async with (
        websocket.listen(
            sockets=[entrance],
            read_limit=setting.limit,
            compression=websocket.COMPRESSION.CONTEXT_TAKEOVER,
            max_window_bits=15,
            keepalive=None,
        ) as server,
        trio.open_nursery() as nursery,
    ):
        stream = entrance.connect()

        async def send() -> None:
            waiting = [head(*offer), *blocks]
            if behind and blocks:
                waiting[:2] = [waiting[0] + waiting[1]]
            for block in waiting:
                await stream.send_all(block)
                await wait_all_tasks_blocked()
            await stream.send_eof()

        async def hear() -> None:
            while block := await stream.receive_some():
                heard.extend(block)

        nursery.start_soon(send)
        nursery.start_soon(hear)
        connection = await server.receive_value()
        await connection.accept()
        while (got := await connection.receive()).ok:
            data.append(got.value.data)
        await connection.wait_closed()
        code = connection.close_code
    assert driver_tasks() == []
    said = Said(bytes(heard), clean=True)
    assert said.status == 101
    pongs = [payload for opcode, payload in said.frames if opcode == PONG]
    return Ended(data, code, [said.code] if said.code is not None else [], pongs)


@examples(60)
@given(
    st.sampled_from(["no fault", *FAULTS, *DAMAGES]).flatmap(lambda fault: cases(fault, server=True)),
    st.lists(st.integers(0, 200_000), max_size=3),
    st.booleans(),
)
def test_a_server_receives_what_the_decoder_finds_and_says_why_it_ends(
    case: Case, cuts: list[int], behind: bool
) -> None:
    deflate = None if case.setting.deflate is None else DeflateParameters(False, False, 15, 15)
    setting = Setting(case.setting.limit, deflate, server=True)
    whole = found(read(Ours(setting), [case.stream]))
    blocks = [block for block in split(case.stream, cuts) if block]
    ended = trio.run(lambda: received(setting, blocks, behind=behind), clock=MockClock(autojump_threshold=0))
    assert ended.data == [message.data for message in whole.messages]
    closes = [control.payload for control in whole.controls if control.opcode == CLOSE]
    if whole.verdict is not None:
        assert (ended.close_code, ended.closes) == (whole.verdict, [whole.verdict])
    elif closes:
        code = int.from_bytes(closes[0][:2], "big") if closes[0] else 1005
        assert (ended.close_code, ended.closes) == (code, [code])
    else:
        assert (ended.close_code, ended.closes) == (1006, [])
    # Where several pings wait for an answer, not all of them get one.
    pings = iter([control.payload for control in whole.controls if control.opcode == PING])
    assert all(pong in pings for pong in ended.pongs)
