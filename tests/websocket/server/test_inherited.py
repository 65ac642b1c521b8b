"""The sockets that systemd hands over: which are taken, and what is not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from csp.errors import Kind, ListenFailedError
from trio_csp_websocket.server import inherited
from trio_csp_websocket.server.binding import bind
from trio_csp_websocket.server.inherited import inherited_sockets
from trio_csp_websocket.server.place import parse_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sockets have no descriptors there")

# In place of 3, which is not free here.
FIRST = 180
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@pytest.fixture
def hand_over(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[socket.socket]]]:
    """A function that hands over sockets, as systemd does."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(inherited, "_FIRST_DESCRIPTOR", FIRST)
    descriptors: set[int] = set()
    with ExitStack() as stack:

        def hand_over(*sockets: socket.socket, **variables: str) -> list[socket.socket]:
            for descriptor, one in enumerate(sockets, FIRST):
                os.dup2(one.fileno(), descriptor)
                descriptors.add(descriptor)
                stack.enter_context(one)
            given = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": "a:b"}
            for name, value in (given | variables).items():
                monkeypatch.setenv(name, value)
            return inherited_sockets()

        yield hand_over
    for descriptor in descriptors:
        os.close(descriptor)
    assert not set(VARIABLES) & os.environ.keys()


def listening() -> socket.socket:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made


def test_without_the_variables_there_are_none(hand_over: object) -> None:
    assert inherited_sockets() == []


def test_one_variable_is_not_enough(hand_over: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert inherited_sockets() == []


async def test_listening_sockets_are_taken_once_and_kept_from_children(
    hand_over: Callable[..., list[socket.socket]],
) -> None:
    one, two = listening(), listening()
    found = hand_over(one, two)
    assert [other.fileno() for other in found] == [FIRST, FIRST + 1]
    assert [other.getsockname() for other in found] == [one.getsockname(), two.getsockname()]
    assert not any(os.get_inheritable(other.fileno()) for other in found)
    assert inherited_sockets() == []
    bound = await bind(parse_place(None, {"sockets": found}))
    assert bound.port == one.getsockname()[1]
    for other in found:
        other.detach()  # the test closes the descriptors


def test_none_may_be_handed_over(hand_over: Callable[..., list[socket.socket]]) -> None:
    assert hand_over() == []


def test_what_is_meant_for_another_process_is_left(hand_over: Callable[..., list[socket.socket]]) -> None:
    assert hand_over(listening(), LISTEN_PID=str(os.getppid())) == []
    assert os.get_inheritable(FIRST)


@pytest.mark.parametrize("name", ["LISTEN_PID", "LISTEN_FDS"])
@pytest.mark.parametrize("value", ["", "one", "-1", "1.0", " 1", "٣", "1" * 5000])
def test_variables_that_are_no_numbers_are_told(
    name: str, value: str, hand_over: Callable[..., list[socket.socket]]
) -> None:
    with pytest.raises(ListenFailedError, match=f": {name} is '") as caught:
        hand_over(**{name: value})
    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.retryable is False
    assert len(str(caught.value)) < 400


def test_what_is_no_listening_stream_socket_is_told_and_stays_open(
    hand_over: Callable[..., list[socket.socket]],
) -> None:
    begin = "cannot listen on the sockets that systemd hands over: "
    for second, problem in ((socket.socket(), "does not listen"), (socket.socket(type=socket.SOCK_DGRAM), "is no str")):
        with pytest.raises(ListenFailedError, match=f"^{begin}descriptor {FIRST + 1} {problem}"):
            hand_over(listening(), second)
        os.fstat(FIRST)
        os.fstat(FIRST + 1)


def test_descriptors_that_are_no_sockets_are_told(hand_over: Callable[..., list[socket.socket]]) -> None:
    with pytest.raises(ListenFailedError, match=f"descriptor {FIRST} is no socket"):
        hand_over(LISTEN_FDS="1")


PROGRAM = """
import os, socket
from trio_csp_websocket.server.inherited import inherited_sockets

made = socket.socket()
made.bind(("127.0.0.1", 0))
made.listen()
where = made.getsockname()
os.dup2(made.detach(), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
(found,) = inherited_sockets()
assert (found.fileno(), found.getsockname()) == (3, where)
print(inherited_sockets(), "LISTEN_FDS" in os.environ)
"""


def test_the_first_descriptor_is_3() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout == "[] False\n"
