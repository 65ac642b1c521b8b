"""Listening over TCP and on given sockets: what is bound, what it says of itself, why it fails, and what is left."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import websocket
from csp.errors import ConnectionFailedError, Kind, ListenFailedError
from tests.websocket._network import AF_UNIX, Names
from tests.websocket._peers import open_sockets
from tests.websocket._sweep import Steps
from trio_csp_websocket.network.failures import error_text
from trio_csp_websocket.server.binding import Bound, bind
from trio_csp_websocket.server.place import Place, parse_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as made:
            made.bind(("::1", 0))
    except OSError:
        return False
    return True


def has_second_loopback() -> bool:
    try:
        with socket.socket() as made:
            made.bind(("127.0.0.2", 0))
    except OSError:
        return False
    return True


needs_two_addresses = pytest.mark.skipif(not has_second_loopback(), reason="127.0.0.2 is no address of this system")
needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this system has no IPv6")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    sockets = open_sockets()
    yield
    assert open_sockets() == sockets


async def failure(place: Place) -> ListenFailedError:
    with pytest.raises(ListenFailedError) as caught:
        await bind(place)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.details["url"] == place.url(secure=False)
    assert caught.value.__cause__ is not None
    return caught.value


def refusing(
    monkeypatch: pytest.MonkeyPatch, method: str, number: int, when: Callable[[socket.socket], bool] = lambda _: True
) -> None:
    """Have a method of sockets fail with an error of the system."""
    real = getattr(socket.socket, method)

    def fail(made: socket.socket, *given: Any) -> Any:
        if when(made):
            raise OSError(number, "no")
        return real(made, *given)

    monkeypatch.setattr(socket.socket, method, fail, raising=False)


# What is bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [0, None])
async def test_a_server_listens_at_its_port(port: int | None) -> None:
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    bound = await bind(parse_place(port, {"host": "127.0.0.1", "backlog": 5}))
    try:
        assert bound.addresses == (("127.0.0.1", bound.port),)
        assert port in (0, bound.port)
        assert bound.loopback
        assert bound.url(secure=False) == f"ws://127.0.0.1:{bound.port}/"
        assert bound.url(secure=True) == f"wss://127.0.0.1:{bound.port}/"
        (listener,) = bound.listeners
        assert bound.port is not None
        async with await trio.open_tcp_stream("127.0.0.1", bound.port) as theirs, await listener.accept() as ours:
            await theirs.send_all(b"hello")
            assert await ours.receive_some(5) == b"hello"
    finally:
        bound.close()


async def test_a_client_reaches_what_the_url_says() -> None:
    bound = await bind(parse_place(0, {}))
    bound_url = bound.url(secure=False)
    assert bound_url == f"ws://localhost:{bound.port}/"
    try:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def hang_up() -> None:
                stream = await bound.listeners[0].accept()
                await stream.receive_some()
                await stream.aclose()

            with pytest.raises(ConnectionFailedError, match="closed the connection"):
                async with websocket.connect(bound_url):
                    raise AssertionError
    finally:
        bound.close()


async def test_without_a_host_it_is_every_interface() -> None:
    bound = await bind(parse_place(0, {"host": None}))
    bound.close()
    hosts, ports = ({address[index] for address in bound.addresses} for index in (0, 1))
    assert "0.0.0.0" in hosts  # that is what was asked for
    assert hosts <= {"0.0.0.0", "::"}
    assert ports == {bound.port}
    assert not bound.loopback
    assert bound.url(secure=False) == f"ws://localhost:{bound.port}/"


@needs_ipv6
async def test_a_free_port_is_the_same_for_all_addresses() -> None:
    Names(["127.0.0.1", "::1"])
    bound = await bind(parse_place(0, {}))
    bound.close()
    assert bound.addresses == (("127.0.0.1", bound.port), ("::1", bound.port))
    assert bound.port
    assert bound.loopback


@needs_two_addresses
@pytest.mark.parametrize("method", ["bind", "listen"])
async def test_a_free_port_that_is_taken_at_another_address_is_given_up_for_another(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(["127.0.0.1", "127.0.0.2"])
    calls = 0

    def taken(_made: socket.socket) -> bool:
        nonlocal calls
        calls += 1
        return calls <= 6 and calls % 2 == 0

    refusing(monkeypatch, method, errno.EADDRINUSE, taken)
    bound = await bind(parse_place(0, {}))
    bound.close()
    assert calls == 8
    assert bound.addresses == (("127.0.0.1", bound.port), ("127.0.0.2", bound.port))


async def test_where_no_port_is_free_at_all_addresses_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def taken(_made: socket.socket) -> bool:
        nonlocal calls
        calls += 1
        return True

    refusing(monkeypatch, "bind", errno.EADDRINUSE, taken)
    error = await failure(parse_place(0, {"host": "127.0.0.1"}))
    assert str(error) == "cannot listen on ws://127.0.0.1:0/: the address is in use"
    assert calls == 20


async def test_an_address_that_a_name_has_twice_is_bound_once() -> None:
    Names(["127.0.0.1", "127.0.0.1"])
    bound = await bind(parse_place(0, {}))
    bound.close()
    assert len(bound.listeners) == 1


async def test_an_address_that_is_not_here_is_left_out() -> None:
    Names(["192.0.2.1", "127.0.0.1"])
    bound = await bind(parse_place(0, {}))
    bound.close()
    assert bound.addresses == (("127.0.0.1", bound.port),)


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
async def test_ipv4_alone_will_do_where_there_is_no_ipv6(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(["::1", "127.0.0.1"])
    refusing(monkeypatch, "bind", number, lambda made: made.family == socket.AF_INET6)
    bound = await bind(parse_place(0, {}))
    bound.close()
    assert bound.addresses == (("127.0.0.1", bound.port),)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="this system has no SO_REUSEPORT")
async def test_servers_may_share_a_port() -> None:
    one = await bind(parse_place(0, {"host": "127.0.0.1", "reuse_port": True}))
    try:
        two = await bind(parse_place(one.port, {"host": "127.0.0.1", "reuse_port": True}))
        two.close()
        assert two.port == one.port
    finally:
        one.close()


async def test_the_backlog_is_given_to_the_system_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    real = socket.socket.listen

    def listen(made: socket.socket, backlog: int) -> None:
        given.append(backlog)
        real(made, backlog)

    monkeypatch.setattr(socket.socket, "listen", listen, raising=False)
    for backlog in (None, 7, 100_000):
        (await bind(parse_place(0, {"backlog": backlog, "host": "127.0.0.1"}))).close()
    assert given == [0xFFFF, 7, 0xFFFF]


# Why it fails ---------------------------------------------------------------------------------------------------------


async def test_an_address_in_use_may_be_free_later() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        error = await failure(parse_place(port, {"host": "127.0.0.1"}))
    assert str(error) == f"cannot listen on ws://127.0.0.1:{port}/: the address is in use"
    assert error.retryable
    assert error.details == {"url": f"ws://127.0.0.1:{port}/", "errno": errno.EADDRINUSE}
    assert isinstance(error, OSError)


@needs_two_addresses
async def test_of_several_addresses_none_is_bound_if_one_is_in_use() -> None:
    Names(["127.0.0.1", "127.0.0.2"])
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        other.listen()
        assert (await failure(parse_place(other.getsockname()[1], {}))).retryable


async def test_an_address_of_another_machine_cannot_be_bound() -> None:
    error = await failure(parse_place(80, {"host": "192.0.2.1"}))
    assert str(error) == "cannot listen on ws://192.0.2.1:80/: the address is not one of this machine"
    assert (error.retryable, error.details["errno"]) == (True, errno.EADDRNOTAVAIL)


@pytest.mark.parametrize(("number", "retryable"), [(errno.EACCES, False), (errno.EPERM, False), (errno.EINVAL, False)])
async def test_what_the_system_refuses_is_told_in_its_words(
    number: int, retryable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, "bind", number)
    error = await failure(parse_place(80, {"host": "127.0.0.1"}))
    assert str(error) == f"cannot listen on ws://127.0.0.1:80/: {error_text(number)}"
    assert (error.retryable, error.details["errno"]) == (retryable, number)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_where_the_system_has_no_more_of_something_it_may_have_later(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, "listen", number)
    assert (await failure(parse_place(0, {"host": "127.0.0.1"}))).retryable


async def test_the_error_names_the_url_that_policies_see() -> None:
    with pytest.raises(ListenFailedError, match=r"^cannot listen on wss://192\.0\.2\.1:443/: ") as caught:
        await bind(parse_place(443, {"host": "192.0.2.1"}), secure=True)
    assert caught.value.details["url"] == "wss://192.0.2.1:443/"


class Raising(trio.abc.HostnameResolver):
    """Fails to look up a name."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        trio.socket.set_custom_hostname_resolver(self)

    async def getaddrinfo(self, *_given: Any) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        await trio.lowlevel.checkpoint()
        raise self._error

    async def getnameinfo(self, *_given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError


@pytest.mark.parametrize(
    ("number", "words", "said", "retryable"),
    [
        (socket.EAI_NONAME, ("not known",), "not known", False),
        (socket.EAI_AGAIN, ("try again",), "try again", True),
        (socket.EAI_FAIL, (), str(socket.EAI_FAIL), False),
    ],
)
async def test_an_unknown_host_is_told(number: int, words: tuple[str, ...], said: str, retryable: bool) -> None:
    Raising(socket.gaierror(number, *words))
    error = await failure(parse_place(80, {"host": "bücher.test"}))
    name = "xn--bcher-kva.test"
    assert str(error) == f"cannot listen on ws://{name}:80/: the name {name} cannot be resolved: {said}"
    assert error.retryable is retryable
    assert error.details == {"url": f"ws://{name}:80/"}


async def test_an_error_without_a_number_is_told_as_it_is() -> None:
    Raising(OSError("no resolver"))
    error = await failure(parse_place(80, {}))
    assert str(error) == "cannot listen on ws://localhost:80/: no resolver"
    assert error.retryable is False


@pytest.mark.parametrize("addresses", [[], ["/tmp/elsewhere"], ["other.test"]])  # nothing is made there
async def test_a_resolver_that_says_no_address_is_told(addresses: list[str]) -> None:
    Names(addresses)
    assert str(await failure(parse_place(80, {}))).startswith("cannot listen on ws://localhost:80/: ")


async def test_the_zone_of_an_address_is_looked_up_with_it() -> None:
    names = Names([])
    await failure(parse_place(80, {"host": "fe80::1%no-such-if0"}))
    # The system, which is asked first, knows no such interface.
    assert names.asked == [b"fe80::1%no-such-if0"]


# Given sockets --------------------------------------------------------------------------------------------------------


def listening(family: int = socket.AF_INET, where: Any = ("127.0.0.1", 0)) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.bind(where)
    made.listen()
    return made


class Own(trio.abc.Listener[trio.abc.Stream]):
    """A listener of the user's own."""

    def __init__(self) -> None:
        self.closed = False

    async def accept(self) -> trio.abc.Stream:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closed = True


async def test_given_sockets_are_closed_at_the_end_and_other_listeners_are_left_to_their_aclose() -> None:
    plain, own = listening(), Own()
    wrapped = trio.SocketListener(trio.socket.from_stdlib_socket(listening()))
    bound = await bind(parse_place(None, {"sockets": [own, wrapped, plain]}))
    assert bound.listeners[:2] == [own, wrapped]
    assert bound.others == [own]
    assert [address[1] for address in bound.addresses] == [wrapped.socket.getsockname()[1], plain.getsockname()[1]]
    assert bound.port == wrapped.socket.getsockname()[1]
    assert bound.loopback
    assert bound.url(secure=False) == "ws://localhost/"
    bound.close()
    bound.close()
    assert plain.fileno() == wrapped.socket.fileno() == -1
    assert not own.closed


async def test_what_accepts_meanwhile_is_told_that_it_is_closed(nursery: trio.Nursery) -> None:
    bound = await bind(parse_place(None, {"sockets": [listening()]}))
    ended = trio.Event()

    @nursery.start_soon
    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await bound.listeners[0].accept()
        ended.set()

    await wait_all_tasks_blocked()
    bound.close()
    await ended.wait()


async def test_only_other_listeners_have_no_address() -> None:
    bound = await bind(parse_place(None, {"sockets": [Own()]}))
    assert (bound.addresses, bound.port, bound.loopback) == ((), None, False)


@needs_ipv6
@pytest.mark.parametrize(("host", "loopback"), [("::1", True), ("::ffff:127.0.0.1", True), ("::", False)])
async def test_a_given_address_of_ipv6_is_looked_at(host: str, loopback: bool) -> None:
    made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind((host, 0))
    made.listen()
    bound = await bind(parse_place(None, {"sockets": [made]}))
    bound.close()
    assert bound.loopback is loopback
    assert bound.url(secure=False) == f"ws://[{host}]:{bound.port}/"


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Python has no Unix sockets on this system")
async def test_the_path_of_a_given_socket_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bound = await bind(parse_place(None, {"sockets": [listening(AF_UNIX, "given.sock")]}))
    bound.close()
    assert bound.addresses == ("given.sock",)
    assert (tmp_path / "given.sock").is_socket()
    assert (bound.port, bound.loopback) == (None, False)


async def test_a_socket_that_was_closed_after_it_was_checked_is_told() -> None:
    other, closed = listening(), listening()
    place = parse_place(None, {"sockets": [other, closed]})
    closed.close()
    await failure(place)
    assert other.fileno() != -1
    other.close()


async def test_a_socket_that_does_not_listen_any_more_is_told() -> None:
    with socket.socket() as silent:
        error = await failure(Place(sockets=(silent,)))
    assert "listening" in str(error)


# Cancellation ---------------------------------------------------------------------------------------------------------


def files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


@pytest.mark.parametrize("way", ["numbers", "names", "path", "sockets"])
async def test_cancelled_before_any_step_it_leaves_nothing(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "path" and not hasattr(socket, "AF_UNIX"):
        pytest.skip("Python has no Unix sockets on this system")
    monkeypatch.chdir(tmp_path)
    Names(["127.0.0.1", "127.0.0.2"])
    with ExitStack() as stack:
        given: dict[str, object] = {}
        if way == "numbers":
            given["host"] = "127.0.0.1"
        elif way == "path":
            given["unix_socket"] = "app.sock"
        elif way == "sockets":
            given["sockets"] = [stack.enter_context(listening())]
        place = parse_place(0 if way in ("numbers", "names") else None, given)
        before = open_sockets()
        steps = 0
        bound: Bound | None = None
        while bound is None:
            steps += 1
            scope = trio.CancelScope()
            trio.lowlevel.add_instrument(watch := Steps({steps: scope.cancel}))
            with scope:
                bound = await bind(place)
            trio.lowlevel.remove_instrument(watch)
            if bound is None:
                assert open_sockets() == before
                assert not files(tmp_path)
        assert steps > 1
        bound.close()
    assert not files(tmp_path)
