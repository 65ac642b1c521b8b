"""Listening at the path of a Unix socket: who may connect, what is replaced, what is kept, and what is left."""

# ruff: noqa: ASYNC240  # the files of a test do not make it wait

from __future__ import annotations

import errno
import importlib
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp.errors import Kind, ListenFailedError
from tests.websocket._network import AF_UNIX
from tests.websocket._peers import open_sockets
from trio_csp_websocket.network.failures import error_text
from trio_csp_websocket.server.binding import bind
from trio_csp_websocket.server.place import parse_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

    from trio_csp_websocket.server.binding import Bound

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Python has no Unix sockets on this system")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory: paths in it are short enough wherever pytest keeps its files. No socket must be left."""
    monkeypatch.chdir(tmp_path)
    sockets = open_sockets()
    yield tmp_path
    assert open_sockets() == sockets


def names(directory: str = ".") -> list[str]:
    """Return the names in a directory."""
    return sorted(path.name for path in Path(directory).iterdir())


async def listen(path: str = "app.sock", **given: object) -> Bound:
    return await bind(parse_place(None, {"unix_socket": path, **given}))


async def failure(path: str = "app.sock") -> ListenFailedError:
    with pytest.raises(ListenFailedError) as caught:
        await listen(path)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert str(caught.value).startswith(f"cannot listen on ws+unix://{Path.cwd()}/{path}: ")
    return caught.value


def reason(error: ListenFailedError) -> str:
    return str(error).rpartition(": ")[2]


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).lstat().st_mode)


def leave_a_dead_one(path: str = "app.sock") -> None:
    with socket.socket(AF_UNIX) as made:
        made.bind(path)
        made.listen()


async def test_a_server_listens_at_a_path_and_takes_it_away() -> None:
    bound = await listen()
    assert bound.addresses == ("app.sock",)
    assert (bound.port, bound.loopback) == (None, False)
    assert bound.url(secure=False) == bound.url(secure=True) == f"ws+unix://{Path.cwd()}/app.sock"
    async with await trio.open_unix_socket("app.sock") as theirs, await bound.listeners[0].accept() as ours:
        await theirs.send_all(b"hello")
        assert await ours.receive_some(5) == b"hello"
    bound.close()
    assert not names()


async def test_the_path_is_taken_away_wherever_the_process_is_by_then(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = await listen()
    (directory / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    bound.close()
    assert names("..") == ["elsewhere"]


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0])
async def test_the_mode_is_the_given_one_whatever_the_umask(umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        bound = await listen(mode=mode)
    finally:
        os.umask(before)
    assert mode_of("app.sock") == mode
    bound.close()


async def test_nobody_can_connect_before_the_mode_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    real = socket.socket.listen

    def listen_after_a_try(made: socket.socket, backlog: int) -> None:
        with socket.socket(AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
            early.connect("app.sock")
        tried.append(mode_of("app.sock"))
        real(made, backlog)

    monkeypatch.setattr(socket.socket, "listen", listen_after_a_try, raising=False)
    (await listen()).close()
    assert tried == [0o600]


async def test_a_dead_socket_is_replaced() -> None:
    leave_a_dead_one()
    bound = await listen()
    async with await trio.open_unix_socket("app.sock"), await bound.listeners[0].accept():
        assert names() == ["app.sock"]
    bound.close()
    assert not names()


async def test_where_somebody_listens_the_address_is_in_use() -> None:
    first = await listen()
    error = await failure()
    assert reason(error) == "the address is in use"
    assert error.retryable
    assert error.details["errno"] == errno.EADDRINUSE
    async with await trio.open_unix_socket("app.sock"):
        pass
    first.close()
    (await listen()).close()


async def test_who_does_not_accept_still_listens() -> None:
    with socket.socket(AF_UNIX) as slow:
        slow.bind("app.sock")
        slow.listen(0)
        waiting: list[socket.socket] = []
        try:
            # Until the line of waiting connections is full.
            while True:
                waiting.append(other := socket.socket(AF_UNIX))
                other.setblocking(False)
                other.connect("app.sock")
        except BlockingIOError:
            assert reason(await failure()) == "the address is in use"
        finally:
            for other in waiting:
                other.close()


async def test_what_is_no_socket_is_kept() -> None:
    Path("app.sock").write_text("kept", encoding="utf-8")
    error = await failure()
    assert reason(error) == "what is at this path is no socket, and is kept"
    assert error.retryable is False
    assert Path("app.sock").read_text(encoding="utf-8") == "kept"


async def test_a_directory_and_a_symbolic_link_are_kept() -> None:
    Path("app.sock").mkdir()
    Path("link.sock").symlink_to("elsewhere")
    for path in ("app.sock", "link.sock"):
        assert reason(await failure(path)) == "what is at this path is no socket, and is kept"
    assert names() == ["app.sock", "link.sock"]


async def test_a_socket_of_another_type_is_kept() -> None:
    with socket.socket(AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind("app.sock")
        assert (await failure()).retryable is False
    assert names() == ["app.sock"]


async def test_a_directory_that_is_not_there_is_told() -> None:
    error = await failure("missing/app.sock")
    assert reason(error) == error_text(errno.ENOENT)
    assert (error.retryable, error.details["errno"]) == (False, errno.ENOENT)


@pytest.mark.parametrize("method", ["bind", "listen"])
async def test_what_the_system_refuses_is_told_and_leaves_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_given: Any) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(socket.socket, method, refuse, raising=False)
    error = await failure()
    assert reason(error) == error_text(errno.EACCES)
    assert error.retryable is False
    assert not names()


async def test_a_file_in_the_place_of_the_socket_stays_at_the_end() -> None:
    bound = await listen()
    Path("app.sock").unlink()
    leave_a_dead_one()
    bound.close()
    assert names() == ["app.sock"]


async def test_a_path_that_is_gone_is_no_error_at_the_end() -> None:
    bound = await listen()
    Path("app.sock").unlink()
    bound.close()
    assert not names()


async def test_closing_again_leaves_the_next_server_alone() -> None:
    first = await listen()
    first.close()
    second = await listen()
    first.close()
    async with await trio.open_unix_socket("app.sock"):
        pass
    second.close()


async def test_who_looks_while_it_closes_finds_a_server_or_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = await listen()
    real = Path.unlink
    lived: list[bool] = []

    def unlink_after_a_look(path: Path, missing_ok: bool = False) -> None:
        with socket.socket(AF_UNIX) as other:
            other.connect("app.sock")
            lived.append(True)
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_after_a_look)
    bound.close()
    assert lived == [True]


# Two that start at once -----------------------------------------------------------------------------------------------


def locked() -> int:
    """Lock the directory as another process does; return what holds the lock until it is closed."""
    fcntl = importlib.import_module("fcntl")
    held = os.open(".", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    return held


async def test_another_process_that_is_about_to_listen_is_waited_for(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    # What it has bound refuses connections, like one that was left behind.
    held = locked()
    with socket.socket(AF_UNIX) as other:
        other.bind("app.sock")
        told: list[ListenFailedError] = []

        @nursery.start_soon
        async def try_to_listen() -> None:
            told.append(await failure())

        await wait_all_tasks_blocked()
        other.listen()
        os.close(held)
        await trio.sleep(1)
        assert reason(told[0]) == "the address is in use"


async def test_a_directory_that_stays_locked_is_told(autojump_clock: MockClock) -> None:
    held = locked()
    error = await failure()
    os.close(held)
    assert reason(error) == "another process has locked its directory"
    assert (error.retryable, error.details["errno"]) == (True, errno.EAGAIN)
    assert not names()


async def test_of_many_that_start_at_once_one_listens() -> None:
    leave_a_dead_one()
    bound: list[Bound] = []
    failed: list[ListenFailedError] = []

    async def start() -> None:
        try:
            bound.append(await listen())
        except ListenFailedError as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(start)
    assert len(bound) == 1
    assert all(error.retryable for error in failed)
    async with await trio.open_unix_socket("app.sock"):
        pass
    bound[0].close()


def open_descriptors() -> int:
    """Count the descriptors of this process; always 0 where the system does not show them."""
    directory = Path("/proc/self/fd")
    return len(names(str(directory))) if directory.exists() else 0


async def test_while_it_waits_it_can_be_cancelled(autojump_clock: MockClock) -> None:
    held = locked()
    descriptors = open_descriptors()
    with trio.move_on_after(0.5) as scope:
        await listen()
    assert scope.cancelled_caught
    assert open_descriptors() == descriptors
    os.close(held)
    assert not names()
