"""The data plane at both ends of one connection: what either end does, the other understands."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

import csp
from csp import errors
from csp.websocket import COMPRESSION, Compression
from trio_csp_websocket.connection.connection import Connection
from trio_csp_websocket.connection.endpoint import Endpoint
from trio_csp_websocket.connection.settings import Settings, parse_settings
from trio_csp_websocket.connection.state import State
from trio_csp_websocket.protocol.decoder import Decoder
from trio_csp_websocket.protocol.deflate import Deflater, Inflater
from trio_csp_websocket.protocol.encoder import Encoder, MaskingEncoder
from trio_csp_websocket.protocol.frames import BINARY_FRAME
from trio_csp_websocket.protocol.negotiation import accepted, agreed, offer
from trio_csp_websocket.protocol.unmasking_decoder import UnmaskingDecoder
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_csp_websocket.protocol.negotiation import DeflateParameters

ROLES = ["client", "server"]
Role = Literal["client", "server"]


class Ends(NamedTuple):
    client: Endpoint
    server: Endpoint

    def this(self, role: Role) -> Endpoint:
        return self.client if role == "client" else self.server

    def other(self, role: Role) -> Endpoint:
        return self.server if role == "client" else self.client


def plane(
    stream: trio.abc.Stream, role: Role, nursery: trio.Nursery, options: Settings, parameters: DeflateParameters | None
) -> Connection:
    """Return one end, as its role makes it."""
    decoder = (Decoder if role == "client" else UnmaskingDecoder)(options.read_limit_bytes)
    encoder = MaskingEncoder() if role == "client" else Encoder()
    if parameters is not None:
        decoder.inflater = Inflater(parameters)
        encoder.deflater = Deflater(parameters)
        encoder.compression_threshold_bytes = options.compression_threshold_bytes
    return Connection(StreamTransport(stream), options, nursery, decoder=decoder, encoder=encoder)


@asynccontextmanager
async def connected(**options: object) -> AsyncGenerator[Ends]:
    """Give both ends of an open connection; at the end, look that both have ended and nothing is left."""
    checked = parse_settings(options)
    parameters: dict[Role, DeflateParameters | None] = {"client": None, "server": None}
    offered = offer(checked.compression)
    if offered is not None:
        agreement = accepted(offered, checked.compression, 12)
        assert agreement is not None
        parameters = {"client": agreed(agreement.header, checked.compression), "server": agreement.deflate}
    streams = dict(zip(ROLES, memory_stream_pair(), strict=True))
    async with trio.open_nursery() as nursery:
        planes = [plane(streams[role], role, nursery, checked, parameters[role]) for role in parameters]
        for one in planes:
            nursery.start_soon(one.run)
        yield Ends(*(Endpoint(one, "ws://memory/", None) for one in planes))
        with trio.fail_after(1000):
            for one in planes:
                await one.close(1001, "")
                await one.delivery.finished.wait()
    assert [one.state for one in planes] == [State.FINISHED, State.FINISHED]


async def drained(endpoint: Endpoint) -> list[str | bytes]:
    received: list[str | bytes] = []
    while (message := await endpoint.receive()).ok:
        received.append(message.value.data)
    return received


@pytest.mark.parametrize("role", ROLES)
async def test_messages_of_every_kind_and_size_arrive(role: Role, autojump_clock: MockClock) -> None:
    sent: list[str | bytes] = ["", b"", "ü" * 60, b"x" * 125, b"x" * 126, "y" * 65_535, b"z" * 65_536, b"a" * 300_000]
    async with connected() as ends, trio.open_nursery() as nursery:

        async def send() -> None:
            for data in sent:
                await ends.this(role).send(data)
            await ends.this(role).close()

        nursery.start_soon(send)
        assert await drained(ends.other(role)) == sent


@pytest.mark.parametrize("mode", [COMPRESSION.CONTEXT_TAKEOVER, COMPRESSION.NO_CONTEXT])
@pytest.mark.parametrize("role", ROLES)
async def test_compressed_messages_arrive(role: Role, mode: Compression, autojump_clock: MockClock) -> None:
    sent: list[str | bytes] = ["price" * 100, b"price" * 10_000, "short", "price" * 100]
    async with connected(compression=mode, compression_threshold=10) as ends, trio.open_nursery() as nursery:

        async def send() -> None:
            for data in sent:
                await ends.this(role).send(data)
            await ends.this(role).close()

        nursery.start_soon(send)
        assert await drained(ends.other(role)) == sent
        statistics = ends.this(role).statistics()
        assert statistics.bytes_sent < statistics.payload_bytes_sent / 10


@pytest.mark.parametrize("role", ROLES)
async def test_a_ping_is_answered(role: Role, autojump_clock: MockClock) -> None:
    async with connected() as ends:
        answer = await ends.this(role).ping("payload")
        assert (await answer.receive()).ok
        assert ends.this(role).latency == 0


@pytest.mark.parametrize("code", [999, 1006, 5000])
@pytest.mark.parametrize("role", ROLES)
async def test_either_end_takes_a_code_that_must_not_be_sent_for_a_close(
    role: Role, code: int, autojump_clock: MockClock
) -> None:
    async with connected() as ends:
        this, other = ends.this(role), ends.other(role)
        await this._connection.close(code, "stale")  # which the endpoint's own would refuse
        assert await drained(other) == []
        assert other.error is not None
        assert (other.error.kind, other.error.retryable) == (errors.Kind.UNAVAILABLE, True)
        assert other.close_code == 1002
        assert other.error.details == {"code": code, "reason": "stale"}
        assert (this.close_code, this.error) == (1002, None)


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1014, 3000, 4999])
@pytest.mark.parametrize("role", ROLES)
async def test_either_end_closes(role: Role, code: int, autojump_clock: MockClock) -> None:
    async with connected() as ends:
        await ends.this(role).send("before")
        await ends.this(role).close(code, "reason")
        assert await drained(ends.other(role)) == ["before"]
        this, other = ends.this(role), ends.other(role)
        assert (this.close_code, this.close_reason, this.error, this.closing) == (code, "reason", None, True)
        assert (other.close_code, other.close_reason, other.closing) == (code, "reason", False)
        assert (other.error is None) == (code in (1000, 1001))


async def test_both_ends_close_at_the_same_time(autojump_clock: MockClock) -> None:
    async with connected() as ends:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.client.close, 3000)
            nursery.start_soon(ends.server.close, 4000)
        assert {ends.client.close_code, ends.server.close_code} <= {3000, 4000}
        assert (ends.client.error, ends.server.error) == (None, None)


@pytest.mark.parametrize(
    ("role", "told"),
    [("client", "a frame from the client is not masked"), ("server", "a frame from the server is masked")],
)
async def test_a_frame_as_only_the_other_role_may_send_it_is_refused(
    role: Role, told: str, autojump_clock: MockClock
) -> None:
    wrong = Encoder() if role == "client" else MaskingEncoder()
    async with connected() as ends:
        transport = ends.this(role)._connection.transport
        await transport.send_all(wrong.encode(BINARY_FRAME, b"data"))
        other = ends.other(role)
        assert await drained(other) == []
        assert (other.close_code, other.close_reason) == (1002, told)
        assert await drained(ends.this(role)) == []
        assert ends.this(role).close_code == 1002


@pytest.mark.parametrize("role", ROLES)
async def test_a_message_above_the_limit_is_refused(role: Role, autojump_clock: MockClock) -> None:
    async with connected(read_limit=1000) as ends:
        await ends.this(role).send(b"x" * 1000)
        await ends.this(role).send(b"x" * 1001)
        assert await drained(ends.other(role)) == [b"x" * 1000]
        assert ends.other(role).close_code == 1009
        assert await drained(ends.this(role)) == []
        assert ends.this(role).close_code == 1009


@pytest.mark.parametrize("role", ROLES)
async def test_an_end_that_is_closed_in_a_cancelled_scope_says_so(role: Role, autojump_clock: MockClock) -> None:
    async with connected() as ends:
        with trio.CancelScope() as scope:
            scope.cancel()
            await ends.this(role).close(3000, "in a hurry")
        assert ends.this(role)._connection.finished.is_set()
        assert await drained(ends.other(role)) == []
        assert (ends.other(role).close_code, ends.other(role).close_reason) == (3000, "in a hurry")


@pytest.mark.parametrize("role", ROLES)
async def test_an_end_that_vanishes_is_noticed(role: Role, autojump_clock: MockClock) -> None:
    async with connected() as ends:
        await ends.this(role)._connection.abort("gone")
        assert await drained(ends.other(role)) == []
        assert ends.other(role).close_code == 1006
        error = ends.other(role).error
        assert error is not None
        assert error.kind is errors.UNAVAILABLE


@pytest.mark.parametrize("option", ["read_timeout", "keepalive"])
@pytest.mark.parametrize("role", ROLES)
async def test_an_end_that_is_silent_is_given_up(role: Role, option: str, autojump_clock: MockClock) -> None:
    streams = dict(zip(ROLES, memory_stream_pair(), strict=True))
    async with trio.open_nursery() as nursery:
        one = plane(streams[role], role, nursery, parse_settings({option: "3s"}), None)
        nursery.start_soon(one.run)
        assert await drained(Endpoint(one, "ws://memory/", None)) == []
        assert one.ending is not None
        assert one.ending.code == 1011
        assert one.ending.error is not None
        assert one.ending.error.kind is errors.TIMEOUT


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(
    traffic=st.lists(
        st.tuples(st.sampled_from(ROLES), st.sampled_from(["send", "ping", "compressible"]), st.integers(0, 70_000)),
        max_size=20,
    ),
    closer=st.sampled_from(ROLES),
    capacity=st.integers(1, 5),
    mode=st.sampled_from(list(Compression)),
)
def test_whatever_both_ends_say_arrives_once_and_in_order(
    traffic: list[tuple[Role, str, int]], closer: Role, capacity: int, mode: Compression
) -> None:
    sent: dict[str, list[bytes]] = {role: [] for role in ROLES}
    received: dict[str, list[str | bytes]] = {}

    async def speak(ends: Ends, role: Role, speaking: csp.Channel[None]) -> None:
        for number, (speaker, deed, size) in enumerate(traffic):
            if speaker != role:
                continue
            data = number.to_bytes(4, "big") + bytes(size) * (deed == "compressible") + b"x" * (size // 100)
            if deed == "ping":
                await ends.this(role).ping()
            else:
                sent[role].append(data)
                await ends.this(role).send(data)
        await speaking.send(None)

    async def listen(ends: Ends, role: Role) -> None:
        received[role] = await drained(ends.this(role))

    async def main() -> None:
        async with connected(channel_capacity=capacity, compression=mode) as ends, trio.open_nursery() as nursery:
            speaking = csp.Channel[None](len(ROLES))
            for role in ("client", "server"):
                nursery.start_soon(listen, ends, role)
                nursery.start_soon(speak, ends, role, speaking)
            for _ in ROLES:
                await speaking.receive()
            await wait_all_tasks_blocked()
            await ends.this(closer).close()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert received == {"client": sent["server"], "server": sent["client"]}
