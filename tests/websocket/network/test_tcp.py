"""Connecting to one of a host's addresses: in which order, how long each is waited for, and what is left open."""

from __future__ import annotations

import errno
import re
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import security, websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError
from tests.websocket._network import Names, Sockets, refuse
from trio_csp_websocket.network.failures import error_text
from trio_csp_websocket.network.progress import Progress
from trio_csp_websocket.network.tcp import open_tcp_stream
from trio_csp_websocket.protocol.url import parse_url

if TYPE_CHECKING:
    from trio.testing import MockClock

TARGET = parse_url("ws://server.test:81/")
ONE, TWO, THREE = "192.0.2.1", "192.0.2.2", "192.0.2.3"
REFUSED = error_text(errno.ECONNREFUSED)
SIX, SEVEN = "2001:db8::6", "2001:db8::7"


async def accept(_address: str) -> None:
    await trio.lowlevel.checkpoint()


async def ignore(_address: str) -> None:
    await trio.sleep_forever()


async def differ(behaviours: dict[str, Any], address: str) -> None:
    await behaviours[address](address)


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ([ONE], [ONE]),
        ([ONE, TWO], [ONE, TWO]),
        ([SIX, SEVEN, ONE, TWO], [SIX, ONE, SEVEN, TWO]),
        ([SIX, SEVEN, ONE], [SIX, ONE, SEVEN]),
        ([ONE, SIX, TWO, SEVEN, THREE], [ONE, SIX, TWO, SEVEN, THREE]),
        ([TWO, ONE, THREE, SIX], [TWO, SIX, ONE, THREE]),
    ],
)
async def test_families_take_turns_and_else_the_order_stays(given: list[str], order: list[str]) -> None:
    Names(given)
    network = Sockets(refuse)
    with pytest.raises(ConnectionFailedError, match=re.escape(REFUSED)):
        async with websocket.connect(TARGET.url):
            pytest.fail("it was opened")
    assert network.connected_to == order
    assert network.open == 0


async def test_an_address_that_refuses_makes_room_for_the_next_at_once(autojump_clock: MockClock) -> None:
    Names([ONE, TWO, THREE])
    network = Sockets(partial(differ, {ONE: refuse, TWO: accept}))
    stream = await open_tcp_stream(TARGET, Progress())
    assert network.connected_to == [ONE, TWO]
    assert network.began_at[0] == network.began_at[1]
    assert network.open == 1
    stream.socket.close()
    assert network.open == 0


async def test_a_host_with_thousands_of_addresses_costs_a_socket_at_a_time_where_they_refuse() -> None:
    Names([f"192.0.{number >> 8}.{number & 255}" for number in range(4000)])
    network = Sockets(refuse)
    with pytest.raises(ConnectionFailedError, match=f"/: {re.escape(REFUSED)}$"):
        await websocket.connect(TARGET.url).__aenter__()
    assert len(network.connected_to) == 4000
    assert network.most_open == 1


async def test_of_thousands_of_silent_addresses_those_are_tried_for_which_there_is_time(
    autojump_clock: MockClock,
) -> None:
    Names([f"192.0.{number >> 8}.{number & 255}" for number in range(4000)])
    network = Sockets(ignore)
    with pytest.raises(ConnectionTimeoutError):
        await websocket.connect(TARGET.url).__aenter__()
    # One each 250 ms of the 30 s.
    assert 100 <= len(network.connected_to) == network.most_open <= 121
    assert network.open == 0


async def test_an_address_that_is_silent_is_not_waited_for_and_is_given_up_for_another(
    autojump_clock: MockClock,
) -> None:
    Names([ONE, TWO, THREE])
    network = Sockets(partial(differ, {ONE: ignore, TWO: accept}))
    stream = await open_tcp_stream(TARGET, Progress())
    assert network.connected_to == [ONE, TWO]
    assert network.began_at[0] < network.began_at[1]
    assert network.open == 1
    stream.socket.close()
    assert network.open == 0


async def test_of_two_that_answer_at_once_one_is_kept_and_the_other_closed(autojump_clock: MockClock) -> None:
    answer = trio.Event()

    async def wait(_address: str) -> None:
        with trio.CancelScope(shield=True):  # as if both had answered before either task ran
            await answer.wait()

    Names([ONE, TWO])
    network = Sockets(wait)

    async def connect() -> None:
        (await open_tcp_stream(TARGET, Progress())).socket.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        await trio.sleep(10)
        assert network.connected_to == [ONE, TWO]
        answer.set()
        await wait_all_tasks_blocked()
    assert network.open == 0


async def test_all_that_are_silent_are_given_up_when_the_timeout_expires(autojump_clock: MockClock) -> None:
    Names([ONE, SIX, TWO])
    network = Sockets(ignore)
    with pytest.raises(ConnectionTimeoutError, match=f"no TCP connection to port 81 of {ONE}, {SIX}, {TWO}$"):
        async with websocket.connect(TARGET.url, dial_timeout="10s"):
            pytest.fail("it was opened")
    assert network.connected_to == [ONE, SIX, TWO]
    assert network.open == 0


async def test_a_zone_says_by_which_interface_and_is_not_asked_about() -> None:
    asked: list[tuple[str, str]] = []

    def note(_actor: object, action: str, resource: str, _meta: object) -> bool:
        asked.append((action, resource))
        return True

    network = Sockets(refuse)
    scope = security.Scope([security.Policy("*", "*", condition=note)])
    with security.context(scope=scope, strict=False), pytest.raises(ConnectionFailedError) as caught:
        await websocket.connect("ws://[fe80::1%251]:81/").__aenter__()
    # Real getaddrinfo: an address needs no look-up.
    assert network.places == [("fe80::1", 81, 0, 1)]
    assert ("websocket.connect.url", "ws://[fe80::1]:81/") in asked
    assert ("websocket.connect.address", "fe80::1") in asked
    assert str(caught.value) == "cannot connect to ws://[fe80::1%251]:81/: Connection refused"
    assert caught.value.details["url"] == "ws://[fe80::1]:81/"


@pytest.mark.parametrize("zone", ["no-such0", "a..b", ".", "x" * 64, "x" * 1000])
async def test_a_zone_that_does_not_exist_is_told(zone: str) -> None:
    url = f"ws://[fe80::1%25{zone}]/"
    with pytest.raises(ConnectionFailedError, match=f"^cannot connect to {re.escape(url)}: "):
        await websocket.connect(url).__aenter__()


async def test_of_many_that_are_silent_the_first_are_named(autojump_clock: MockClock) -> None:
    Names([ONE, TWO, THREE, "192.0.2.4", "192.0.2.5"])
    Sockets(ignore)
    with pytest.raises(ConnectionTimeoutError) as caught:
        await websocket.connect(TARGET.url, dial_timeout="10s").__aenter__()
    text = f"no connection to ws://server.test:81/ within 10 s: no TCP connection to port 81 of {ONE}, {TWO}, {THREE}"
    assert str(caught.value) == f"{text} and 2 more"


async def test_a_name_that_is_not_looked_up_in_time_is_told(autojump_clock: MockClock) -> None:
    class Silent(Names):
        async def getaddrinfo(self, *_given: Any) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
            return await trio.sleep_forever()

    Silent([])
    with pytest.raises(ConnectionTimeoutError, match=r"within 10 s: the name server\.test was not looked up$"):
        await websocket.connect(TARGET.url, dial_timeout="10s").__aenter__()


async def test_a_name_for_which_no_thread_is_free_is_told(autojump_clock: MockClock) -> None:
    # The clock jumps while threads run: it knows nothing of them.
    threads = trio.to_thread.current_default_thread_limiter()
    threads.total_tokens = 2
    work_is_done = threading.Event()

    async def work() -> None:
        await trio.to_thread.run_sync(work_is_done.wait)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(work)
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionTimeoutError) as caught:
            await websocket.connect(TARGET.url, dial_timeout="10s").__aenter__()
        work_is_done.set()
    said = "the name server.test was not looked up: all 2 threads in which Trio looks names up are busy"
    assert str(caught.value) == f"no connection to ws://server.test:81/ within 10 s: {said}"


async def test_the_reasons_of_all_addresses_are_told_once_each() -> None:
    async def fail(address: str) -> None:
        await refuse(address) if address != TWO else None
        raise OSError(errno.ENETUNREACH, "no")

    Names([ONE, TWO, THREE])
    Sockets(fail)
    with pytest.raises(ConnectionFailedError) as caught:
        await websocket.connect(TARGET.url).__aenter__()
    assert str(caught.value).endswith(f": {REFUSED}; {error_text(errno.ENETUNREACH)}")


async def test_errors_that_only_windows_has_are_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    # As Python has them there, where strerror knows none of them.
    monkeypatch.setattr(socket, "errorTab", {10061: "Connection refused."}, raising=False)

    async def fail(_address: str) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(10061, "no")

    Names([ONE])
    Sockets(fail)
    with pytest.raises(ConnectionFailedError, match=r"/: Connection refused$"):
        await websocket.connect(TARGET.url).__aenter__()


async def test_a_socket_that_cannot_be_made_is_a_failed_attempt() -> None:
    class NoSockets(Sockets):
        def socket(self, *_given: Any) -> trio.socket.SocketType:  # pyright: ignore[reportIncompatibleMethodOverride]
            raise OSError(errno.EAFNOSUPPORT, "no")

    Names([ONE])
    NoSockets(accept)
    with pytest.raises(ConnectionFailedError, match=re.escape(error_text(errno.EAFNOSUPPORT))):
        await websocket.connect(TARGET.url).__aenter__()


async def test_a_name_without_addresses_is_told() -> None:
    Names([])
    Sockets(accept)
    with pytest.raises(ConnectionFailedError, match="the host has no address") as caught:
        await websocket.connect(TARGET.url).__aenter__()
    assert caught.value.retryable is True


@pytest.mark.parametrize("host", ["localhost", "127.1", "0177.0.0.1", "0x7f000001", "", "<broadcast>", "::g"])
async def test_a_resolver_that_says_a_name_is_not_believed(host: str) -> None:
    # The socket would look it up, and connect to an address that no policy was asked about.
    Names([host])
    network = Sockets(accept)
    with pytest.raises(ConnectionFailedError, match=r"the host name led to '.*', which is no IP address$"):
        await websocket.connect(TARGET.url).__aenter__()
    assert network.connected_to == []


async def test_a_cancelled_attempt_leaves_nothing_open(autojump_clock: MockClock) -> None:
    Names([ONE, TWO])
    network = Sockets(ignore)
    with trio.move_on_after(5) as scope:
        await open_tcp_stream(TARGET, Progress())
    assert scope.cancelled_caught
    assert network.connected_to == [ONE, TWO]
    assert network.open == 0


async def test_a_connection_that_is_made_when_all_is_cancelled_is_closed(autojump_clock: MockClock) -> None:
    scope = trio.CancelScope()

    async def accept_and_cancel(_address: str) -> None:
        await trio.lowlevel.checkpoint()
        scope.cancel()

    Names([ONE])
    network = Sockets(accept_and_cancel)
    with scope:
        await open_tcp_stream(TARGET, Progress())
    assert scope.cancelled_caught
    assert (network.most_open, network.open) == (1, 0)


async def test_a_real_connection_is_made_to_a_literal_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = await open_tcp_stream(parse_url(f"ws://127.0.0.1:{server.getsockname()[1]}/"), Progress())
        accepted, peer = server.accept()
        with accepted:
            assert stream.socket.getsockname() == peer
        await stream.aclose()
