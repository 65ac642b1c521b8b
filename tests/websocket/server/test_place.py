"""Where to listen: what the options mean, which exclude each other, how wrong values are told, and the URL."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp.errors import InvalidError, InvalidTypeError
from tests.websocket._network import AF_UNIX
from trio_csp_websocket.server.place import Place, parse_place, why_it_cannot_accept

if TYPE_CHECKING:
    from collections.abc import Iterator

has_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Python has no Unix sockets on this system")


def parsed(port: object = None, **given: object) -> Place:
    return parse_place(port, given)


def invalid(port: object = None, **given: object) -> str:
    """Return the text of the error."""
    with pytest.raises(InvalidError) as caught:
        parse_place(port, given)
    return str(caught.value)


def wrong_type(port: object = None, **given: object) -> str:
    with pytest.raises(InvalidTypeError) as caught:
        parse_place(port, given)
    return str(caught.value)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes the sockets that a test makes."""
    with ExitStack() as stack:
        yield stack


def listening(opened: ExitStack, family: int = socket.AF_INET, where: Any = ("127.0.0.1", 0)) -> socket.socket:
    made = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
    made.bind(where)
    made.listen()
    return made


# What they mean -------------------------------------------------------------------------------------------------------


def test_a_port_is_one_of_localhost() -> None:
    assert parsed(8080) == Place(port=8080, host="localhost")


@pytest.mark.parametrize("port", [0, 1, 65535])
def test_a_port_may_be_a_free_one_or_any(port: int) -> None:
    assert parsed(port).port == port


def test_no_host_is_every_interface() -> None:
    assert parsed(1, host=None).host is None


@pytest.mark.parametrize(
    ("given", "host", "zone"),
    [
        ("LocalHost.", "localhost", ""),
        ("bücher.example", "xn--bcher-kva.example", ""),
        ("0.0.0.0", "0.0.0.0", ""),  # nothing listens there
        ("::1", "::1", ""),
        ("[0:0::1]", "::1", ""),
        ("::", "::", ""),
        ("::ffff:127.0.0.1", "127.0.0.1", ""),
        ("fe80::1%eth0", "fe80::1", "eth0"),
        ("[fe80::1%25eth0]", "fe80::1", "eth0"),
    ],
)
def test_a_host_is_normalised_as_that_of_a_url(given: str, host: str, zone: str) -> None:
    place = parsed(1, host=given)
    assert (place.host, place.zone) == (host, zone)


@has_unix
def test_a_unix_socket_is_for_its_user_alone_unless_the_mode_says_otherwise() -> None:
    assert parsed(unix_socket="app.sock") == Place(unix_socket="app.sock", mode=0o600)
    assert parsed(unix_socket=Path("app.sock"), mode=0o666, backlog=5) == Place(
        unix_socket="app.sock", mode=0o666, backlog=5
    )


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="this system has no SO_REUSEPORT")
def test_a_port_may_be_shared() -> None:
    assert parsed(1, reuse_port=True, backlog=7) == Place(port=1, host="localhost", reuse_port=True, backlog=7)


async def test_sockets_may_be_of_python_of_trio_or_any_listener(opened: ExitStack) -> None:
    class Own(trio.abc.Listener[trio.abc.Stream]):
        async def accept(self) -> trio.abc.Stream:
            raise NotImplementedError

        async def aclose(self) -> None:
            raise NotImplementedError

    plain = listening(opened)
    wrapped = trio.SocketListener(trio.socket.from_stdlib_socket(listening(opened)))
    own = Own()
    assert parsed(sockets=iter((plain, wrapped, own))).sockets == (plain, wrapped, own)


# What is wrong --------------------------------------------------------------------------------------------------------


def test_exactly_one_place_must_be_given() -> None:
    begin = "exactly one of port, unix_socket and sockets must be given, not "
    assert invalid() == invalid(host=None) == begin + "none of them"
    assert invalid(1, sockets=[1]) == begin + "port and sockets"


@has_unix
def test_a_port_and_a_path_are_not_one_place() -> None:
    assert invalid(1, unix_socket="a", sockets=[]).endswith("not port and unix_socket and sockets")


@pytest.mark.parametrize("port", [-1, 65536, 10**30])
def test_a_port_out_of_range_is_invalid(port: int) -> None:
    assert invalid(port).startswith("port must be 0 to 65535, not ")


@pytest.mark.parametrize("port", [True, False, "8080", 80.0])
def test_a_port_is_a_whole_number(port: object) -> None:
    assert wrong_type(port) == f"port must be a whole number, not {port!r}"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a/b",
        "ws://a",
        "a?b",
        "a#b",
        "user@a",
        "a\\b",
        "1::2::3",
        "[::1",
        "::1]",
        "[localhost]",
        "::g",
        "1::2/3",
        "localhost:80",
        "localhost:",
        "[::1]:80",
        "[::1]:",
    ],
)
def test_what_is_no_host_is_invalid(host: str) -> None:
    assert invalid(1, host=host) == (
        f"host must be a name or an IP address without a port, or None for every interface, not {host!r}"
    )


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("a b", "host must not contain spaces, control characters or surrogates"),
        ("*", "host has an invalid host name: '*'"),
        ("127.1", "host has an invalid host name: '127.1' is no IPv4 address of four numbers"),
        ("::1%lo", "host has the address ::1 with a zone: only those of fe80::/10 may have one"),
        (f"{'a' * 64}.example", f"host has an invalid host name: '{'a' * 64}.example'"),
    ],
)
def test_a_malformed_host_is_invalid(host: str, text: str) -> None:
    assert invalid(1, host=host) == text


@pytest.mark.parametrize("host", [b"localhost", 0, ("::1", 1)])
def test_a_host_is_a_string(host: object) -> None:
    assert wrong_type(1, host=host) == f"host must be a string or None, not {host!r}"


@has_unix
@pytest.mark.parametrize("path", ["", "\0abstract", "a\0b", "x" * 108])
def test_a_unix_socket_is_a_path(path: str) -> None:
    assert invalid(unix_socket=path).startswith("unix_socket must be a path ")


@has_unix
@pytest.mark.parametrize("mode", [-1, 0o1777, 10**9])
def test_a_mode_out_of_range_is_invalid(mode: int) -> None:
    assert invalid(unix_socket="a", mode=mode) == f"mode must be 0 to 0o777, not {mode:#o}"


@has_unix
@pytest.mark.parametrize("mode", ["0o600", True, None])
def test_a_mode_is_a_whole_number(mode: object) -> None:
    assert wrong_type(unix_socket="a", mode=mode) == (
        f"mode must be permissions as a whole number, such as 0o660, not {mode!r}"
    )


@pytest.mark.parametrize("reuse", [1, "yes", None])
def test_reuse_port_is_true_or_false(reuse: object) -> None:
    assert wrong_type(1, reuse_port=reuse) == f"reuse_port must be True or False, not {reuse!r}"


def test_reuse_port_is_invalid_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    assert invalid(1, reuse_port=True) == "reuse_port must not be given: this system has no SO_REUSEPORT"
    assert parsed(1, reuse_port=False).port == 1


@pytest.mark.parametrize("backlog", [0, -1, 2**31])
def test_a_backlog_out_of_range_is_invalid(backlog: int) -> None:
    assert invalid(1, backlog=backlog).startswith("backlog must be 1 to 2147483647, not ")


@pytest.mark.parametrize("backlog", [True, 1.5, "5"])
def test_a_backlog_is_a_whole_number(backlog: object) -> None:
    assert wrong_type(1, backlog=backlog) == f"backlog must be a whole number, not {backlog!r}"


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [("host", None, "port"), ("mode", 0o600, "unix_socket"), ("backlog", 1, "port or unix_socket")],
)
def test_what_means_nothing_for_sockets_is_invalid(name: str, value: object, meant: str, opened: ExitStack) -> None:
    text = f"{name} must not be given with sockets: it is for {meant}"
    assert invalid(sockets=[listening(opened)], **{name: value}) == text


def test_a_mode_means_nothing_for_a_port() -> None:
    assert invalid(1, mode=0o600) == "mode must not be given with port: it is for unix_socket"


@has_unix
@pytest.mark.parametrize(("name", "value"), [("host", "localhost"), ("reuse_port", True)])
def test_what_means_nothing_for_a_path_is_invalid(name: str, value: object) -> None:
    assert invalid(unix_socket="a", **{name: value}) == f"{name} must not be given with unix_socket: it is for port"


@pytest.mark.parametrize("sockets", ["ab", b"ab", 5, object])
def test_sockets_are_an_iterable(sockets: object) -> None:
    assert wrong_type(sockets=sockets).startswith("sockets must be an iterable of listening sockets, not ")


def test_one_socket_is_no_iterable(opened: ExitStack) -> None:
    assert wrong_type(sockets=listening(opened)) == "sockets must be an iterable of listening sockets, not socket"


def test_there_must_be_a_socket() -> None:
    assert invalid(sockets=[]) == "sockets must have at least one listening socket"


def test_what_is_no_socket_is_of_a_wrong_type(opened: ExitStack) -> None:
    assert wrong_type(sockets=[listening(opened), 3]) == (
        "sockets must be of socket.socket or trio.abc.Listener, and number 2 is int"
    )


def test_a_socket_may_be_given_once(opened: ExitStack) -> None:
    one = listening(opened)
    assert invalid(sockets=[one, listening(opened), one]) == "sockets must be different, and number 3 came before"


def test_a_socket_must_listen(opened: ExitStack) -> None:
    silent = opened.enter_context(socket.socket())
    begin = "sockets must be listening stream sockets, and number 1 "
    assert invalid(sockets=[silent]) == begin + "does not listen"
    datagrams = opened.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    assert invalid(sockets=[datagrams]) == begin + "is no stream socket"


async def test_a_closed_socket_does_not_listen(opened: ExitStack) -> None:
    closed, wrapped = listening(opened), trio.SocketListener(trio.socket.from_stdlib_socket(listening(opened)))
    closed.close()
    await wrapped.aclose()
    begin = "sockets must be listening stream sockets, and number 1 "
    assert invalid(sockets=[closed]) == invalid(sockets=[wrapped]) == begin + "is closed"


def test_where_the_system_does_not_tell_a_socket_is_taken_for_one_that_listens() -> None:
    class Silent(socket.socket):
        def getsockopt(self, *_given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            raise OSError

    with Silent() as silent:
        assert why_it_cannot_accept(silent) is None


# The URL --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "//localhost:0/"),
        ({"host": None}, "//localhost:0/"),
        ({"host": "[::1]"}, "//[::1]:0/"),
        ({"host": "fe80::1%eth0"}, "//[fe80::1]:0/"),
        ({"host": "Server.Test"}, "//server.test:0/"),
    ],
)
def test_the_url_is_what_was_asked_for(given: dict[str, object], url: str) -> None:
    place = parse_place(0, given)
    assert place.url(secure=False) == f"ws:{url}"
    assert place.url(secure=True) == f"wss:{url}"


@has_unix
def test_the_url_of_a_path_is_absolute_and_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parsed(unix_socket="/run/ä b?.sock").url(secure=False) == "ws+unix:///run/%C3%A4%20b%3F.sock"
    assert parsed(unix_socket="app.sock").url(secure=True) == f"ws+unix://{Path.cwd()}/app.sock"


def test_the_url_of_sockets_is_that_of_the_first(opened: ExitStack) -> None:
    one, two = listening(opened), listening(opened)
    assert parsed(sockets=[one, two]).url(secure=False) == f"ws://127.0.0.1:{one.getsockname()[1]}/"


@has_unix
def test_the_url_of_a_unix_socket_that_is_given_is_its_path(
    opened: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = listening(opened, AF_UNIX, "given.sock")
    assert parsed(sockets=[made]).url(secure=False) == f"ws+unix://{Path.cwd()}/given.sock"


async def test_a_listener_without_an_address_is_at_localhost() -> None:
    class Own(trio.abc.Listener[trio.abc.Stream]):
        async def accept(self) -> trio.abc.Stream:
            raise NotImplementedError

        async def aclose(self) -> None:
            raise NotImplementedError

    assert parsed(sockets=[Own()]).url(secure=True) == "wss://localhost/"
