"""`Hub`: one message to many connections, seen from the wire."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
import tracemalloc
import weakref
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from csp import testing, websocket
from csp.errors import ConnectionFailedError, InvalidError, InvalidTypeError, NoContextError
from csp.websocket import BINARY, COMPRESSION, TEXT, BroadcastResult, Hub
from tests.websocket._peers import driver_tasks
from tests.websocket._server import Frame, Server, connecting
from tests.websocket.server._crowd import Crowd, Link, Member, crowded
from tests.websocket.server._lobby import PING, PONG, RawClient, close_frame, connected, masked
from trio_csp_websocket.protocol import encoder
from trio_csp_websocket.protocol.deflate import Deflater
from trio_csp_websocket.protocol.encoder import Encoder
from trio_csp_websocket.protocol.masking import apply_mask

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from csp.websocket import HubOverflow, ServerConnection

TOO_SLOW = (1013, "messages come faster than they are read")
# More than a link of small buffers takes at once.
LARGE = random.Random(0).randbytes(400_000)


def result(*, written: int = 0, queued: int = 0, dropped: int = 0, closed: int = 0) -> BroadcastResult:
    return BroadcastResult(written, queued, dropped, closed)


def hub_of(*members: Member, **options: Any) -> Hub:
    hub = Hub(**options)
    for member in members:
        hub.add(member.connection)
    return hub


async def come(crowd: Crowd, number: int) -> list[Member]:
    return [await crowd.come() for _ in range(number)]


# Arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"overflow": "wait"}, 'overflow must be "close", "drop_oldest" or "drop_newest", not \'wait\''),
        ({"overflow": ["close"]}, 'overflow must be "close", "drop_oldest" or "drop_newest", not [\'close\']'),
        ({"capacity": 0}, "capacity must be 1 to 1000000, not 0"),
        ({"capacity": 1_000_001}, "capacity must be 1 to 1000000, not 1000001"),
    ],
)
async def test_what_is_out_of_range_is_refused_by_the_hub_and_for_a_member(
    arguments: dict[str, Any], text: str, autojump_clock: MockClock
) -> None:
    with pytest.raises(InvalidError) as caught:
        Hub(**arguments)
    assert str(caught.value) == text
    async with crowded() as crowd:
        hub, member = Hub(), await crowd.come()
        with pytest.raises(InvalidError) as caught:
            hub.add(member.connection, **arguments)
        assert str(caught.value) == text
        assert member.connection not in hub


@pytest.mark.parametrize("size", [0, (1 << 30) + 1])
def test_capacity_bytes_has_bounds(size: int) -> None:
    with pytest.raises(InvalidError, match=f"capacity_bytes must be 1 to 1073741824, not {size}"):
        Hub(capacity_bytes=size)
    assert len(Hub(capacity=1_000_000, capacity_bytes=1 << 30)) == 0


@pytest.mark.parametrize("name", ["capacity", "capacity_bytes"])
@pytest.mark.parametrize("wrong", ["64", 64.0, True])
def test_capacities_are_whole_numbers(name: str, wrong: Any) -> None:
    with pytest.raises(InvalidTypeError, match=f"{name} must be a whole number"):
        Hub(**{name: wrong})


@pytest.mark.parametrize("wrong", [None, 1, "connection", object()])
def test_only_connections_are_members(wrong: Any) -> None:
    hub = Hub()
    for method in (hub.add, hub.discard):
        with pytest.raises(InvalidTypeError, match="connection must be a ServerConnection or a Client, not"):
            method(wrong)
    assert wrong not in hub


async def test_an_unanswered_connection_is_told_to_be_accepted_first(autojump_clock: MockClock) -> None:
    hub = Hub()
    async with connected() as (connection, client):
        with pytest.raises(NoContextError, match="accept it first"):
            hub.add(connection)
        assert len(hub) == 0
        hub.discard(connection)
        await connection.accept()
        hub.add(connection)
        await client.answer()
        assert hub.broadcast("hello") == result(queued=1)
        assert await client.text() == "hello"


async def test_a_connection_that_was_rejected_is_not_added(autojump_clock: MockClock) -> None:
    hub = Hub()
    async with connected() as (connection, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.answer)
            await connection.reject()
        hub.add(connection)
        assert len(hub) == 0


@pytest.mark.parametrize("wrong", [1, None, ["text"], {"a": 1}])
async def test_what_is_no_message_is_sent_to_nobody(wrong: Any, autojump_clock: MockClock) -> None:
    async with crowded() as crowd:
        member = await crowd.come()
        hub = hub_of(member)
        with pytest.raises(InvalidTypeError):
            hub.broadcast(wrong)
        with pytest.raises(InvalidError):
            hub.broadcast(b"\xff", TEXT)
        with pytest.raises(InvalidError):
            hub.broadcast("\ud800")
        with pytest.raises(InvalidError):
            hub.broadcast("ping", PING)
        hub.broadcast("next")
        assert await member.data(1) == ["next"]


@pytest.mark.parametrize("wrong", [1, None, [1], "text"])
async def test_only_connections_are_excluded(wrong: Any, autojump_clock: MockClock) -> None:
    async with crowded() as crowd:
        member = await crowd.come()
        hub = hub_of(member)
        with pytest.raises(InvalidTypeError, match=r"exclude must be a (connection or an iterable|ServerConnection)"):
            hub.broadcast("never", exclude=wrong)
        hub.broadcast("next")
        assert await member.data(1) == ["next"]


# Messages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["memory", "lockstep", "socket", "tls"])
async def test_all_members_get_all_messages_of_all_kinds_and_sizes(link: Link, autojump_clock: MockClock) -> None:
    sent: list[str | bytes] = ["", b"", "ü" * 60, b"x" * 125, b"x" * 126, "y" * 65_535, b"z" * 65_536, LARGE]
    async with crowded(link) as crowd:
        members = await come(crowd, 3)
        hub = hub_of(*members)
        for data in sent:
            hub.broadcast(data)
        for member in members:
            assert await member.data(len(sent)) == sent


async def test_the_type_of_a_message_is_that_of_send(autojump_clock: MockClock) -> None:
    async with crowded() as crowd:
        member = await crowd.come()
        hub = hub_of(member)
        for data, kind in (("ä", BINARY), ("ä".encode(), TEXT), (bytearray(b"a"), None), (memoryview(b"b"), None)):
            hub.broadcast(data, kind)
        assert await member.data(4) == ["ä".encode(), "ä", b"a", b"b"]


async def test_what_waits_is_not_changed_with_the_buffer_it_came_from(autojump_clock: MockClock) -> None:
    async with crowded() as crowd:
        member = await crowd.come()
        hub = hub_of(member)
        data = bytearray(b"before")
        hub.broadcast(data)
        data[:] = b"behind"
        assert await member.data(1) == [b"before"]


async def test_where_the_system_takes_it_a_message_is_written_at_once(autojump_clock: MockClock) -> None:
    async with crowded("socket") as crowd:
        members = await come(crowd, 3)
        hub = hub_of(*members)
        assert hub.broadcast("now") == result(written=3)
        # All that is ahead of a member's next message is its own, and half written counts as waiting.
        assert hub.broadcast(LARGE) == result(queued=3)
        assert hub.broadcast("behind it") == result(queued=3)
        for member in members[:2]:
            assert await member.data(3) == ["now", LARGE, "behind it"]
        await wait_all_tasks_blocked()
        assert hub.broadcast("who listens") == result(written=2, queued=1)
        assert await members[2].data(4) == ["now", LARGE, "behind it", "who listens"]
    assert driver_tasks() == []


async def test_a_stream_that_is_no_socket_takes_nothing_at_once(autojump_clock: MockClock) -> None:
    async with crowded("memory") as crowd:
        member = await crowd.come()
        hub = hub_of(member)
        assert [hub.broadcast(str(number)) for number in range(3)] == [result(queued=1)] * 3
        await wait_all_tasks_blocked()
        assert hub.broadcast("3") == result(queued=1)
        assert await member.data(4) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("link", ["lockstep", "socket", "tls"])
async def test_what_is_sent_to_a_member_otherwise_keeps_its_place(link: Link, autojump_clock: MockClock) -> None:
    async with crowded(link) as crowd, trio.open_nursery() as nursery:
        member, other = await come(crowd, 2)
        hub = hub_of(member, other)
        expected: list[str | bytes] = []
        for number in range(10):
            expected += [b"%d" % number + LARGE[:20_000], f"broadcast {number}", f"sent {number}"]
            nursery.start_soon(member.connection.send, expected[-3])
            await wait_all_tasks_blocked()
            hub.broadcast(f"broadcast {number}")
            nursery.start_soon(member.connection.send, expected[-1])
            await wait_all_tasks_blocked()
        assert await member.data(30) == expected
        assert await other.data(10) == expected[1::3]


async def test_a_ping_and_a_pong_go_between_what_waits(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        member = await crowd.come()
        hub = hub_of(member)
        for number in range(3):
            hub.broadcast(bytes([number]) * 70_000)
            await wait_all_tasks_blocked()
        await member.client.send(masked(PING, b"?"))
        await wait_all_tasks_blocked()
        heads = [(await member.client.frame())[0] & 0xF for _ in range(4)]
        assert heads == [BINARY, PONG, BINARY, BINARY]


async def test_those_excluded_get_nothing(autojump_clock: MockClock) -> None:
    async with crowded() as crowd:
        members = await come(crowd, 4)
        stranger = await crowd.come()
        first, second, third, _ = (member.connection for member in members)
        hub, others = hub_of(*members), Hub()
        others.add(third)
        forms: list[tuple[Any, list[int]]] = [
            ((), [0, 1, 2, 3]),
            (first, [1, 2, 3]),
            ([first, second], [2, 3]),
            ({second}, [0, 2, 3]),
            (iter((second, third)), [0, 3]),
            ((one for one in (first, first)), [1, 2, 3]),
            (others, [0, 1, 3]),
            (stranger.connection, [0, 1, 2, 3]),
            (hub, []),
        ]
        expected: list[list[str | bytes]] = [[], [], [], []]
        for number, (exclude, who) in enumerate(forms):
            assert hub.broadcast(str(number), exclude=exclude) == result(queued=len(who))
            for one in who:
                expected[one].append(str(number))
        for member, sent in zip(members, expected, strict=True):
            assert await member.data(len(sent)) == sent


def test_a_hub_without_members_sends_nothing() -> None:
    hub = Hub()
    assert hub.broadcast("anybody?") == result()
    assert (len(hub), list(hub), repr(hub)) == (0, [], "<csp.websocket.Hub, 0 members>")


# Who is a member ------------------------------------------------------------------------------------------------------


async def test_a_member_is_one_however_often_it_is_added(autojump_clock: MockClock) -> None:
    async with crowded() as crowd:
        member = await crowd.come()
        hub = hub_of(member, member)
        assert (len(hub), list(hub), member.connection in hub) == (1, [member.connection], True)
        assert repr(hub) == "<csp.websocket.Hub, 1 member>"
        hub.broadcast("once")
        hub.discard(member.connection)
        hub.discard(member.connection)
        assert member.connection not in hub
        assert hub.broadcast("to nobody") == result()
        hub.add(member.connection)
        hub.broadcast("again")
        assert await member.data(2) == ["once", "again"]


async def test_members_leave_when_their_connections_end(autojump_clock: MockClock) -> None:
    async with crowded() as crowd:
        by_client, by_us, lost, stays = members = await come(crowd, 4)
        hub, other = hub_of(*members), hub_of(*members)
        await by_client.client.send(close_frame(1000))
        await by_client.connection.wait_closed()
        await lost.client.leave()
        await lost.connection.wait_closed()
        assert list(hub) == [by_us.connection, stays.connection]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(by_us.connection.close)
            await wait_all_tasks_blocked()
            # It is being closed, and does not count any more; but it has not ended.
            assert hub.broadcast("hello") == result(queued=1)
            assert list(hub) == [stays.connection]
            hub.add(by_us.connection)
            assert list(hub) == [stays.connection]
            await by_us.client.send(close_frame(1000))
        assert list(other) == [stays.connection]
        for member in (by_client, by_us, lost):
            hub.add(member.connection)
            hub.discard(member.connection)
        assert list(hub) == [stays.connection]
        assert await stays.data(1) == ["hello"]


async def test_iteration_goes_over_the_members_as_they_were(autojump_clock: MockClock) -> None:
    async with crowded() as crowd:
        members = await come(crowd, 3)
        hub = hub_of(*members)
        seen: list[object] = []
        for connection in hub:
            seen.append(connection)
            hub.discard(connection)
            hub.discard(members[2].connection)
        assert seen == [member.connection for member in members]
        assert len(hub) == 0


async def test_a_connection_is_in_many_hubs_with_a_line_of_its_own_in_each(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        member = await crowd.come()
        hubs = [hub_of(member, capacity=2, overflow="drop_newest") for _ in range(3)]
        outcomes = [hub.broadcast(f"{number} {turn}") for turn in range(3) for number, hub in enumerate(hubs)]
        assert outcomes == [result(queued=1)] * 6 + [result(dropped=1)] * 3
        hubs[0].discard(member.connection)
        assert [member.connection in hub for hub in hubs] == [False, True, True]
        assert await member.data(6) == ["0 0", "1 0", "2 0", "0 1", "1 1", "2 1"]
        await member.client.send(close_frame(1000))
        await member.client.closed()
        assert [len(hub) for hub in hubs] == [0, 0, 0]


# What waits, and how much ---------------------------------------------------------------------------------------------


async def waiting(hub: Hub, count: int) -> list[str | bytes]:
    """Broadcast what is being written to a member that does not read, and so many messages that wait."""
    sent: list[str | bytes] = ["in flight", *(str(number) for number in range(count))]
    hub.broadcast(sent[0])
    await wait_all_tasks_blocked()
    for data in sent[1:]:
        assert hub.broadcast(data) == result(queued=1)
    return sent


@pytest.mark.parametrize("capacity", [1, 2, 64])
async def test_the_oldest_that_wait_are_dropped(capacity: int, autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        member = await crowd.come()
        hub = hub_of(member, overflow="drop_oldest", capacity=capacity)
        sent = await waiting(hub, capacity)
        for number in range(3):
            assert hub.broadcast(f"new {number}") == result(queued=1, dropped=1)
            sent.append(f"new {number}")
        assert await member.data(1 + capacity) == [sent[0], *sent[-capacity:]]
        assert member.connection.statistics().messages_sent == 1 + capacity
        assert member.connection in hub


@pytest.mark.parametrize("capacity", [1, 2, 64])
async def test_the_newest_is_dropped(capacity: int, autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        member = await crowd.come()
        hub = hub_of(member, overflow="drop_newest", capacity=capacity)
        sent = await waiting(hub, capacity)
        for _ in range(3):
            assert hub.broadcast("never") == result(dropped=1)
        assert await member.data(1 + capacity) == sent
        hub.broadcast("there is room again")
        assert await member.data(1) == ["there is room again"]
        assert member.connection.statistics().messages_sent == 2 + capacity


async def test_who_is_too_slow_is_closed_with_1013_and_what_waited_is_discarded(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd, trio.open_nursery() as nursery:
        slow, quick = await come(crowd, 2)
        hub = hub_of(slow, quick, capacity=2)
        received: list[str | bytes] = []
        nursery.start_soon(_take_all, quick, received)
        for number in range(4):
            outcome = hub.broadcast(str(number))
            assert outcome == (result(queued=1, closed=1) if number == 3 else result(queued=2))
            await wait_all_tasks_blocked()
        assert list(hub) == [quick.connection]
        assert await slow.data(1) == ["0"]
        assert await slow.client.closed() == TOO_SLOW
        await slow.client.send(close_frame(1013))
        await slow.client.ended()
        # For the application it is a close of its own.
        assert [message async for message in slow.connection] == []
        assert (slow.connection.closing, slow.connection.close_code, slow.connection.error) == (True, 1013, None)
        assert received == ["0", "1", "2", "3"]
        await quick.client.leave()


async def _take_all(member: Member, received: list[str | bytes]) -> None:
    while True:
        try:
            received += await member.data(1)
        except (AssertionError, trio.ClosedResourceError):
            return


async def test_a_member_that_is_closed_is_told_within_close_timeout_or_lost(autojump_clock: MockClock) -> None:
    async with crowded("lockstep", close_timeout="7s") as crowd:
        member = await crowd.come()
        hub = hub_of(member, capacity=1)
        await waiting(hub, 1)
        begin = trio.current_time()
        assert hub.broadcast("too much") == result(closed=1)
        await member.connection.wait_closed()
        assert trio.current_time() - begin == 7
        assert (member.connection.close_code, member.connection.error) == (1006, None)
    assert driver_tasks() == []


async def test_between_the_broadcast_and_the_close_nothing_is_sent_and_nobody_is_added(
    autojump_clock: MockClock,
) -> None:
    async with crowded("socket") as crowd:
        member = await crowd.come()
        hub, other = hub_of(member, capacity=1), hub_of(member, capacity=1)
        hub.broadcast(LARGE)
        hub.broadcast("waits")
        other.broadcast("waits too")
        assert hub.broadcast("too much") == result(closed=1)
        assert other.broadcast("too late") == result()
        for one in (hub, other):
            one.add(member.connection)
            assert len(one) == 0
        with pytest.raises(ConnectionFailedError, match="is being closed"):
            await member.connection.send("nor this")
        assert await member.data(2) == [LARGE, "waits too"]
        assert await member.client.closed() == TOO_SLOW


async def test_two_hubs_close_a_member_once(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        member = await crowd.come()
        hubs = [hub_of(member, capacity=1) for _ in range(2)]
        await waiting(hubs[0], 1)
        assert hubs[1].broadcast("waits too") == result(queued=1)
        assert [hub.broadcast("too much") for hub in hubs] == [result(closed=1), result()]
        await wait_all_tasks_blocked()
        assert [task for task in driver_tasks() if "close" in task] == ["csp.websocket close"]
        # What waits in the other hub's line was promised, and is sent.
        assert await member.data(2) == ["in flight", "waits too"]
        assert await member.client.closed() == TOO_SLOW


async def test_each_member_may_have_a_policy_and_a_capacity_of_its_own(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        members = await come(crowd, 4)
        hub = Hub(overflow="drop_newest", capacity=2)
        policies: list[HubOverflow | None] = [None, "drop_oldest", "close", None]
        capacities = [None, None, 1, 3]
        for member, policy, capacity in zip(members, policies, capacities, strict=True):
            hub.add(member.connection, overflow=policy, capacity=capacity)
        hub.broadcast("in flight")
        await wait_all_tasks_blocked()
        outcomes = [hub.broadcast(str(number)) for number in range(4)]
        assert outcomes == [
            result(queued=4),
            result(queued=3, closed=1),
            result(queued=2, dropped=2),
            result(queued=1, dropped=3),
        ]
        assert await members[0].data(3) == ["in flight", "0", "1"]
        assert await members[1].data(3) == ["in flight", "2", "3"]
        assert await members[2].data(1) == ["in flight"]
        assert await members[2].client.closed() == TOO_SLOW
        assert await members[3].data(4) == ["in flight", "0", "1", "2"]


async def test_what_is_said_when_a_member_is_added_again_counts(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        member = await crowd.come()
        hub = hub_of(member, overflow="drop_newest", capacity=1)
        await waiting(hub, 1)
        assert hub.broadcast("never") == result(dropped=1)
        hub.add(member.connection, capacity=2)
        assert hub.broadcast("1") == result(queued=1)
        assert hub.broadcast("never") == result(dropped=1)
        hub.add(member.connection, overflow="drop_oldest", capacity=1)
        # Only as many wait then as may.
        assert hub.broadcast("2") == result(queued=1, dropped=2)
        assert await member.data(2) == ["in flight", "2"]


async def test_what_waits_is_bounded_in_bytes(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        oldest, newest = await come(crowd, 2)
        hub = Hub(capacity_bytes=100)
        hub.add(oldest.connection, overflow="drop_oldest")
        hub.add(newest.connection, overflow="drop_newest")
        hub.broadcast("in flight")
        await wait_all_tasks_blocked()
        sent = [b"a" * 40, b"b" * 40, b"c" * 20, b"", b"d", b"e" * 80, b"f" * 101, b"g" * 101, b"h" * 100]
        assert [hub.broadcast(data) for data in sent] == [
            *[result(queued=2)] * 4,
            result(queued=1, dropped=1 + 1),  # the oldest of one, the newest of the other
            result(queued=1, dropped=2 + 1),
            result(queued=1, dropped=3 + 1),  # one that is larger by itself waits alone
            result(queued=1, dropped=1 + 1),
            result(queued=1, dropped=1 + 1),
        ]
        assert (await oldest.data(2))[1] == sent[-1]
        assert await newest.data(5) == ["in flight", *sent[:4]]


async def test_what_waits_for_who_leaves_the_hub_is_still_sent_and_still_counts(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        member = await crowd.come()
        hub = hub_of(member, overflow="drop_newest", capacity=2)
        sent = await waiting(hub, 2)
        for _ in range(3):
            hub.discard(member.connection)
            assert hub.broadcast("to nobody") == result()
            hub.add(member.connection)
            assert hub.broadcast("no room") == result(dropped=1)
        assert await member.data(2) == sent[:2]
        hub.discard(member.connection)
        hub.add(member.connection)
        assert [hub.broadcast("one") for _ in range(3)] == [result(queued=1)] * 2 + [result(dropped=1)]
        assert await member.data(3) == [sent[2], "one", "one"]


async def test_what_others_have_waiting_for_a_member_does_not_count(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd, trio.open_nursery() as nursery:
        member = await crowd.come()
        await waiting(hub_of(member), 1)
        nursery.start_soon(member.connection.send, "sent")
        await wait_all_tasks_blocked()
        hub = hub_of(member, overflow="drop_newest", capacity=1)
        assert [hub.broadcast("one") for _ in range(2)] == [result(queued=1), result(dropped=1)]
        assert await member.data(4) == ["in flight", "0", "sent", "one"]


async def test_what_waits_for_two_members_is_kept_once(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        members = await come(crowd, 20)
        hub = hub_of(*members)
        hub.broadcast("in flight")
        await wait_all_tasks_blocked()
        with _traced() as memory:
            for number in range(10):
                hub.broadcast(bytes([number]) * 50_000)
            held = memory()
        assert held < 10 * 50_000 * 2
        for member in members:
            assert (await member.data(11))[10] == bytes([9]) * 50_000


@contextlib.contextmanager
def _traced() -> Generator[Callable[[], int]]:
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


# What is left over ----------------------------------------------------------------------------------------------------


async def test_a_hub_goes_when_nobody_holds_it_and_what_waits_is_sent(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        member = await crowd.come()
        hub = hub_of(member)
        sent = await waiting(hub, 2)
        gc.disable()
        try:
            gone = weakref.ref(hub)
            del hub
            assert gone() is None
        finally:
            gc.enable()
        assert await member.data(3) == sent
        hub = hub_of(member)
        hub.broadcast("of another hub")
        assert await member.data(1) == ["of another hub"]


async def test_a_hub_keeps_nothing_of_a_connection_that_has_ended(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        hub = Hub()
        gone = await _come_and_go(crowd, hub)
        gc.collect()
        assert (gone(), len(hub)) == (None, 0)


async def _come_and_go(crowd: Crowd, hub: Hub) -> weakref.ref[ServerConnection]:
    member = await crowd.come()
    hub.add(member.connection)
    await waiting(hub, 2)
    await member.client.leave()
    await member.connection.wait_closed()
    return weakref.ref(member.connection)


async def test_members_are_only_held_once_they_are_in_a_hub(autojump_clock: MockClock) -> None:
    async with crowded() as crowd:
        member = await crowd.come()
        plane = member.connection._connection
        assert plane.followers is None
        hub = hub_of(member)
        hub.discard(member.connection)
        assert plane.followers is None


# Clients --------------------------------------------------------------------------------------------------------------


async def test_clients_are_members_and_each_frame_has_a_key_of_its_own(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    servers = [Server() for _ in range(3)]
    keys: list[bytes] = []

    def noting(data: bytes, key: bytes) -> bytes:
        keys.append(key)
        return apply_mask(data, key)

    async with contextlib.AsyncExitStack() as stack:
        hub = Hub()
        for server in servers:
            hub.add(await stack.enter_async_context(connecting(server)))
        monkeypatch.setattr(encoder, "apply_mask", noting)
        hub.broadcast("to servers")
        hub.broadcast(b"x" * 70_000)
        await wait_all_tasks_blocked()
        monkeypatch.undo()
    for server in servers:
        assert server.frames[:2] == [Frame(TEXT, b"to servers"), Frame(BINARY, b"x" * 70_000)]
        assert server.closes == [1000]
    assert len(hub) == 0
    assert len(keys) == 6
    assert len(set(keys)) == 6


@pytest.mark.parametrize("mode", [COMPRESSION.CONTEXT_TAKEOVER, COMPRESSION.NO_CONTEXT])
async def test_clients_and_servers_ends_of_every_compression_get_the_same(
    mode: websocket.Compression, autojump_clock: MockClock
) -> None:
    hub = Hub()
    sent = ["price " * 200, "short", "price " * 200]
    async with (
        testing.websocket_pair(compression=mode) as (compressing, its_server),
        testing.websocket_pair() as (plain, plain_server),
    ):
        for member in (compressing, its_server, plain, plain_server):
            hub.add(member)
        for text in sent:
            assert hub.broadcast(text) == result(queued=4)
        for member in (compressing, its_server, plain, plain_server):
            assert [(await member.receive_value()).data for _ in sent] == sent
        await wait_all_tasks_blocked()
        counts = [member.statistics() for member in (compressing, its_server, plain, plain_server)]
    assert {one.payload_bytes_sent for one in counts} == {sum(map(len, sent))}
    assert {one.messages_sent for one in counts} == {3}
    assert all(one.bytes_sent < 1500 for one in counts[:2])
    assert all(one.bytes_sent > 2400 for one in counts[2:])


# Compression ----------------------------------------------------------------------------------------------------------

OFFER = "Sec-WebSocket-Extensions: permessage-deflate"
WITHOUT = f"{OFFER}; server_no_context_takeover"
COMPRESSED = 0x40


def inflated(wire: list[tuple[int, bytes]], *, takeover: bool) -> list[str]:
    """Return the text of frames that came."""
    found: list[str] = []
    inflater = zlib.decompressobj(-15)
    for head, payload in wire:
        assert head & ~COMPRESSED == 0x80 | TEXT
        if not takeover:
            inflater = zlib.decompressobj(-15)
        whole = inflater.decompress(payload + b"\x00\x00\xff\xff") if head & COMPRESSED else payload
        found.append(whole.decode())
    return found


@pytest.fixture
def deflated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets, for each message that is compressed, the bits of the window."""
    windows: list[int] = []
    deflate = Deflater.deflate

    def noting(self: Deflater, payload: bytes | bytearray | memoryview) -> bytes:
        windows.append(self.window_bits)
        return deflate(self, payload)

    monkeypatch.setattr(Deflater, "deflate", noting)
    return windows


async def test_without_context_a_message_is_compressed_once_for_each_window(
    deflated: list[int], autojump_clock: MockClock
) -> None:
    async with crowded(compression=COMPRESSION.NO_CONTEXT, compression_threshold=10) as crowd:
        members = [await crowd.come(WITHOUT) for _ in range(5)]
        small = [await crowd.come(f"{WITHOUT}; server_max_window_bits=9") for _ in range(5)]
        plain = await come(crowd, 5)
        hub = hub_of(*members, *small, *plain)
        sent = ["price " * 300, "short", "other " * 300]
        for text in sent:
            assert hub.broadcast(text) == result(queued=15)
        wire = {member: [await member.client.frame() for _ in sent] for member in (*members, *small, *plain)}
    assert len(deflated) == 4
    assert len(set(deflated)) == 2
    for member, frames in wire.items():
        assert inflated(frames, takeover=False) == sent
        assert [bool(head & COMPRESSED) for head, _ in frames] == [member not in plain, False, member not in plain]


async def test_with_context_it_is_compressed_for_each_connection(
    deflated: list[int], autojump_clock: MockClock
) -> None:
    async with crowded(compression=COMPRESSION.CONTEXT_TAKEOVER, compression_threshold=10) as crowd:
        members = [await crowd.come(OFFER) for _ in range(3)]
        hub = hub_of(*members)
        text = "".join(random.Random(0).choices("abcdefgh", k=400))
        # What only one of them gets, it alone may refer to.
        await members[0].connection.send(text)
        for _ in range(3):
            hub.broadcast(text)
        wire = [[await member.client.frame() for _ in range(3 + (member is members[0]))] for member in members]
    assert len(deflated) == 1 + 3 * 3
    for frames in wire:
        assert set(inflated(frames, takeover=True)) == {text}
        assert all(len(payload) < 30 for _, payload in frames[1:])


async def test_each_member_gets_a_message_as_was_agreed_with_it(deflated: list[int], autojump_clock: MockClock) -> None:
    async with crowded(compression=COMPRESSION.CONTEXT_TAKEOVER, compression_threshold=0) as crowd:
        kept = await crowd.come(OFFER)
        fresh = [await crowd.come(OFFER, compression=COMPRESSION.NO_CONTEXT) for _ in range(2)]
        plain = await crowd.come(OFFER, compression=COMPRESSION.DISABLED)
        hub = hub_of(kept, *fresh, plain)
        sent = ["price " * 300, "", "price " * 300]
        for text in sent:
            hub.broadcast(text)
        assert inflated([await kept.client.frame() for _ in sent], takeover=True) == sent
        for member in fresh:
            assert inflated([await member.client.frame() for _ in sent], takeover=False) == sent
        assert await plain.data(3) == sent
    assert len(deflated) == 3 + 3


async def test_the_threshold_is_that_of_the_server(deflated: list[int], autojump_clock: MockClock) -> None:
    async with crowded(compression=COMPRESSION.NO_CONTEXT, compression_threshold=100) as crowd:
        member = await crowd.come(WITHOUT)
        hub = hub_of(member)
        for size in (99, 100, 101):
            hub.broadcast("x" * size)
        heads = [(await member.client.frame())[0] for _ in range(3)]
    assert [bool(head & COMPRESSED) for head in heads] == [False, True, True]
    assert len(deflated) == 2


async def test_each_member_counts_what_it_was_sent(autojump_clock: MockClock) -> None:
    async with crowded("lockstep") as crowd:
        reads, waits = await come(crowd, 2)
        before = [member.connection.statistics() for member in (reads, waits)]
        hub = hub_of(reads, waits)
        for _ in range(3):
            hub.broadcast(b"x" * 100_000)
        await reads.data(3)
        await wait_all_tasks_blocked()
        after = [member.connection.statistics() for member in (reads, waits)]
    sent = [
        (new.messages_sent - old.messages_sent, new.payload_bytes_sent - old.payload_bytes_sent)
        for old, new in zip(before, after, strict=True)
    ]
    assert sent == [(3, 300_000), (1, 100_000)]
    assert after[0].bytes_sent - before[0].bytes_sent == 3 * (10 + 100_000)


# Connections that break, and Ctrl-C -----------------------------------------------------------------------------------


async def test_a_member_whose_transport_is_broken_leaves_and_the_others_get_it(autojump_clock: MockClock) -> None:
    async with crowded("socket") as crowd:
        first, broken, last = await come(crowd, 3)
        hub = hub_of(first, broken, last)
        assert isinstance(broken.client.stream, trio.SocketStream)
        broken.client.stream.socket.close()  # before anybody can see it
        assert hub.broadcast("hello") == result(written=2, closed=1)
        assert list(hub) == [first.connection, last.connection]
        hub.add(broken.connection)
        assert broken.connection not in hub
        await broken.connection.wait_closed()
        assert (broken.connection.close_code, broken.connection.closing) == (1006, False)
        assert broken.connection.error is not None
        for member in (first, last):
            assert await member.data(1) == ["hello"]


async def test_what_waits_for_a_member_that_breaks_is_forgotten(autojump_clock: MockClock) -> None:
    async with crowded("socket") as crowd:
        member = await crowd.come()
        hub = hub_of(member)
        hub.broadcast(LARGE)
        assert hub.broadcast("waits") == result(queued=1)
        await member.client.leave()
        await member.connection.wait_closed()
        assert hub.broadcast("nobody") == result()
        assert not member.connection._connection.writer.busy


def test_ctrl_c_in_the_middle_of_a_broadcast_comes_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[list[str | bytes]] = []
    encode = Encoder.encode_shared

    def interrupted(self: Encoder, message: Any) -> bytes:
        if not texts:
            texts.append([])
            signal.raise_signal(signal.SIGINT)
        return encode(self, message)

    async def main() -> None:
        async with crowded("socket") as crowd:
            members = await come(crowd, 3)
            hub = hub_of(*members)
            monkeypatch.setattr(Encoder, "encode_shared", interrupted)
            assert hub.broadcast("hello") == result(written=3)
            with pytest.raises(KeyboardInterrupt):
                await trio.lowlevel.checkpoint()
            monkeypatch.undo()
            hub.broadcast("behind it")
            texts.extend([await member.data(2) for member in members])

    trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)
    assert texts == [[], *[["hello", "behind it"]] * 3]


async def test_excluding_may_broadcast_itself(autojump_clock: MockClock) -> None:
    async with crowded("socket") as crowd:
        members = await come(crowd, 2)
        hub = hub_of(*members)

        def all_but_the_last() -> Generator[ServerConnection]:
            hub.broadcast("from inside")
            hub.discard(members[1].connection)
            yield members[0].connection

        assert hub.broadcast("from outside", exclude=all_but_the_last()) == result()
        hub.add(members[1].connection)
        hub.broadcast("last")
        for member in members:
            assert await member.data(2) == ["from inside", "last"]


# A message in pieces --------------------------------------------------------------------------------------------------


class Pieces:
    """Gives pieces when the test does."""

    def __init__(self) -> None:
        self._give, self._given = trio.open_memory_channel[str](10)

    def give(self, piece: str) -> None:
        self._give.send_nowait(piece)

    def end(self) -> None:
        self._give.close()

    async def __aiter__(self) -> AsyncGenerator[str]:
        async for piece in self._given:
            yield piece


async def whole(client: RawClient) -> str:
    """Return a message that comes in frames."""
    text = b""
    while True:
        head, payload = await client.frame()
        text += payload
        if head & 0x80:
            return text.decode()


@pytest.mark.parametrize("link", ["memory", "socket", "tls"])
async def test_what_is_broadcast_waits_behind_a_message_in_pieces_and_blames_nobody(
    link: Link, autojump_clock: MockClock
) -> None:
    async with crowded(link, write_timeout="5s") as crowd, trio.open_nursery() as nursery:
        member, other = await come(crowd, 2)
        hub = Hub(capacity=2)
        hub.add(member.connection, overflow="drop_oldest")
        hub.add(other.connection)
        pieces = Pieces()
        nursery.start_soon(member.connection.send, pieces)
        pieces.give("one ")
        await wait_all_tasks_blocked()
        hub.broadcast("dropped")
        hub.broadcast("first")
        await trio.sleep(60)
        # The oldest is behind the message in pieces, where it can be dropped as well.
        assert hub.broadcast("second").dropped == 1
        nursery.start_soon(member.connection.send, "third")
        await trio.sleep(60)
        pieces.give("two")
        await trio.sleep(60)
        pieces.end()
        assert await whole(member.client) == "one two"
        assert await member.data(3) == ["first", "second", "third"]
        assert await other.data(3) == ["dropped", "first", "second"]
        await wait_all_tasks_blocked()
        assert [task for task in driver_tasks() if "timeout" in task] == []
        # It is written at once again, where that can be.
        assert hub.broadcast("free") == (result(queued=2) if link == "memory" else result(written=2))


async def test_who_is_closed_in_the_middle_of_a_message_in_pieces_gets_nothing_behind_it(
    autojump_clock: MockClock,
) -> None:
    async with crowded("socket") as crowd, trio.open_nursery() as nursery:
        member = await crowd.come()
        hub = hub_of(member, capacity=1)
        pieces = Pieces()
        failures: list[str] = []

        async def send() -> None:
            with pytest.raises(ConnectionFailedError) as caught:
                await member.connection.send(pieces)
            failures.append(str(caught.value))

        nursery.start_soon(send)
        pieces.give("one")
        await wait_all_tasks_blocked()
        assert [hub.broadcast("waits"), hub.broadcast("too much")] == [result(queued=1), result(closed=1)]
        assert await member.client.frame() == (TEXT, b"one")
        assert await member.client.closed() == TOO_SLOW
        await member.client.send(close_frame(1013))
        await wait_all_tasks_blocked()
        assert failures == ["sending failed: the connection has ended (code 1013)"]


# The write timeout ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["lockstep", "socket", "tls"])
async def test_who_takes_nothing_for_a_write_timeout_is_lost_though_nobody_waits(
    link: Link, autojump_clock: MockClock
) -> None:
    async with crowded(link, write_timeout="30s", close_timeout=None) as crowd:
        member, reads = await come(crowd, 2)
        hub = hub_of(member, reads, overflow="drop_newest", capacity=1)
        async with trio.open_nursery() as nursery:
            received: list[str | bytes] = []
            nursery.start_soon(_take_all, reads, received)
            hub.broadcast(LARGE)
            begin = trio.current_time()
            await member.connection.wait_closed()
            assert trio.current_time() - begin == 30
            assert list(hub) == [reads.connection]
            error = member.connection.error
            assert str(error) == (
                "the connection timed out: a frame was not written: the peer took nothing within 30 s (write_timeout)"
            )
            await wait_all_tasks_blocked()
            await reads.client.leave()
        await reads.connection.wait_closed()
        await wait_all_tasks_blocked()
        assert not {"csp.websocket writer", "csp.websocket write timeout"}.intersection(driver_tasks())


@pytest.mark.parametrize("how", ["broadcast", "sent"])
@pytest.mark.parametrize("link", ["socket", "tls"])
async def test_who_takes_a_little_in_time_is_not(link: Link, how: str, autojump_clock: MockClock) -> None:
    async with crowded(link, write_timeout="30s") as crowd, trio.open_nursery() as nursery:
        member = await crowd.come()
        hub = hub_of(member)
        if how == "sent":
            nursery.start_soon(member.connection.send, LARGE[:100_000])
        else:
            hub.broadcast(LARGE[:100_000])
        stream: trio.abc.Stream = member.client.stream
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        got = 0
        while got < 100_000:
            await trio.sleep(25)
            # Ciphertext, over TLS.
            block = await stream.receive_some(8000)
            assert block
            got += len(block)
        assert trio.current_time() > 10 * 30
        await wait_all_tasks_blocked()
        assert hub.broadcast("on time") == result(written=1)


@pytest.mark.parametrize("how", ["the peer leaves", "the peer closes", "we close", "the block ends"])
async def test_nothing_watches_a_connection_that_has_ended(how: str, autojump_clock: MockClock) -> None:
    async with crowded("lockstep", write_timeout="30s", close_timeout="1s") as crowd:
        member = await crowd.come()
        hub = hub_of(member)
        await waiting(hub, 2)
        assert "csp.websocket write timeout" in driver_tasks()
        if how == "the peer leaves":
            await member.client.leave()
        elif how == "the peer closes":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(member.client.send, close_frame(1000))
                await member.data(3)
                await member.client.closed()
        elif how == "we close":
            await member.connection.close()
        if how != "the block ends":
            await member.connection.wait_closed()
            await wait_all_tasks_blocked()
            assert "csp.websocket write timeout" not in driver_tasks()
    assert driver_tasks() == []


async def test_a_member_that_is_closed_and_takes_nothing_is_lost_by_its_write_timeout(
    autojump_clock: MockClock,
) -> None:
    async with crowded("socket", write_timeout="30s", close_timeout=None) as crowd:
        member = await crowd.come()
        hub = hub_of(member, capacity=1)
        begin = trio.current_time()
        assert [hub.broadcast(LARGE) for _ in range(3)] == [result(queued=1)] * 2 + [result(closed=1)]
        await member.connection.wait_closed()
        assert trio.current_time() - begin == 30
        assert (member.connection.close_code, member.connection.error) == (1006, None)
