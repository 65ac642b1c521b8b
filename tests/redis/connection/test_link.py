"""One connection, seen through `redis.Bus`: what servers say that are none, or are not well."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from csp import redis
from csp.errors import (
    ConnectionFailedError,
    ConnectionTimeoutError,
    Error,
    InvalidError,
    Kind,
    PermissionDeniedError,
)
from tests.redis._fake import ANSWERS, answering, bulk, hello, saying, serving, state_named

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_SERVER = "what answers there is no Redis server"
RANDOM = random.Random(7).randbytes(4000).replace(b"\n", b"")


async def failure_at(url: str, dial_timeout: str = "30s") -> Error:
    """Return why a bus does not get a connection, after it has tried for a second time."""
    async with redis.Bus(url, min_delay="1ms", max_delay="2ms", dial_timeout=dial_timeout) as bus:
        first = await state_named(bus, "waiting", "closed")
        if first.name == "waiting":
            second = await state_named(bus, "waiting", "closed")
            assert (second.name, str(second.error)) == ("waiting", str(first.error))
            assert second.attempt == first.attempt + 1
        assert isinstance(first.error, Error)
        assert first.error.__context__ is None
        return first.error


# Servers that are none ------------------------------------------------------------------------------------------------

NOT_REDIS: Mapping[str, bytes] = {
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "smtp": b"220 mail.test ESMTP\r\n",
    "pop": b"+OK POP3 ready\r\n",
    "tls alert": b"\x15\x03\x03\x00\x02\x02\x16\r\n",
    "random bytes": b"\x8e" + RANDOM + b"\r\n",
    "nul": b"\0" * 100 + b"\r\n",
    "empty line": b"\r\n",
    "status": b"+OK\r\n",
    "string": bulk("hi"),
    "nil": b"_\r\n",
    "nil string": b"$-1\r\n",
    "nil list": b"*-1\r\n",
    "integer": b":3\r\n",
    "no integer": b":three\r\n",
    "empty integer": b":\r\n",
    "endless integer": b":" + b"9" * 20_000 + b"\r\n",
    "size that is none": b"$x\r\n",
    "negative size": b"$-7\r\n\r\n",
    "size of a map that is none": b"%x\r\n",
    "double": b",1.5e\r\n",
    "boolean": b"#t\r\n",
    "empty boolean": b"#\r\n",
    "verbatim": b"=3\r\nabc\r\n",
    "set": b"~1\r\n:1\r\n",
    "list": b"*2\r\n:1\r\n:2\r\n",
    "empty list": b"*0\r\n",
    "empty map": b"%0\r\n",
    "no protocol": b"%1\r\n$7\r\nversion\r\n$3\r\n7.2\r\n",
    "another protocol": hello(proto=b":2\r\n"),
    "version that is nil": b"%2\r\n$5\r\nproto\r\n:3\r\n$7\r\nversion\r\n_\r\n",
    "id that is text": hello(id=bulk("x")),
    "id that is nil": hello(id=b"_\r\n"),
    "error that is not UTF-8": b"-ERR \xff\xfe\r\n",
    "moved nowhere": b"-MOVED\r\n",
    "map with a list as key": b"%1\r\n*1\r\n~1\r\n:1\r\n:2\r\n",
    "nested lists": b"*1\r\n" * 100_000,
    "nested sets": b"~1\r\n" * 100_000,
    "nested keys": b"%1\r\n" + b"*1\r\n" * 100_000 + b":1\r\n:2\r\n",
    "endless list": b"*2147483647\r\n" + b":1\r\n" * 50_000,
    "endless string": b"$536870912\r\n" + b"x" * 100_000,
    "endless line": b"+" + b"x" * 100_000,
    "endless pushes": b">1\r\n+a\r\n" * 50_000,
}


@pytest.mark.parametrize("said", NOT_REDIS.values(), ids=NOT_REDIS)
async def test_what_is_no_redis_server_is_told_so_and_tried_again(said: bytes) -> None:
    async with saying(said, close=False) as place:
        error = await failure_at(place.url)
    assert isinstance(error, ConnectionFailedError)
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)
    assert str(error) == f"connecting to {place.url} failed: {NO_SERVER}"


async def test_a_version_that_is_no_number_that_python_reads_is_none_of_a_redis_server() -> None:
    async with answering({"HELLO": hello("9" * 5000)}) as place:
        error = await failure_at(place.url)
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)
    assert str(error) == f"connecting to {place.url} failed: {NO_SERVER}"


async def test_what_never_ends_before_the_server_says_who_it_is_is_not_read_for_long() -> None:
    sent = 0

    async def handle(stream: trio.abc.Stream) -> None:
        nonlocal sent
        while True:
            await stream.send_all(b"+" * 10_000)
            sent += 10_000

    async with serving(handle) as place, redis.Bus(place.url, max_attempts=1) as bus:
        state = await state_named(bus, "closed")
        assert NO_SERVER in str(state.error)
    # What the system's buffers take goes on being sent.
    assert sent < 20_000_000


@pytest.mark.parametrize("said", [b"", b"%7\r\n$6\r\nserver\r\n", b"-ERR unknown comm"])
async def test_a_server_that_closes_the_connection_in_the_middle_of_its_greeting(said: bytes) -> None:
    async with saying(said) as place:
        error = await failure_at(place.url)
    assert isinstance(error, ConnectionFailedError)
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)
    assert str(error) == f"connecting to {place.url} failed: the server closed it"


async def test_a_server_that_closes_the_connection_after_its_greeting() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(hello() + b"+OK\r\n+OK\r\n")
        await stream.receive_some()

    async with serving(handle) as place:
        error = await failure_at(place.url)
    assert isinstance(error, ConnectionFailedError)
    assert error.retryable
    assert "the server closed it" in str(error)


async def test_a_port_that_nobody_listens_on() -> None:
    async with saying() as place:
        pass
    error = await failure_at(place.url)
    assert isinstance(error, ConnectionFailedError)
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)
    assert "refused" in str(error)


async def test_a_host_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    async def getaddrinfo(*_: object, **__: object) -> object:
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    error = await failure_at("redis://nowhere.invalid")
    assert isinstance(error, ConnectionFailedError)
    assert (error.kind, error.retryable) == (Kind.INTERNAL, True)
    assert str(error).startswith("connecting to redis://nowhere.invalid:6379/0 failed: ")
    assert "not known" in str(error)


@pytest.mark.parametrize("said", [b"", hello()[:20], hello()])
async def test_a_server_that_says_nothing_more_is_given_up_after_dial_timeout(said: bytes) -> None:
    async with saying(said, close=False) as place:
        error = await failure_at(place.url, dial_timeout="50ms")
    assert isinstance(error, ConnectionTimeoutError)
    assert (error.kind, error.retryable) == (Kind.TIMEOUT, True)
    assert str(error) == f"connecting to {place.url} failed: no answer within dial_timeout, 0.05 s"


async def test_a_server_that_is_slow_but_in_time_is_one() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        for index in range(len(hello())):
            await stream.send_all(hello()[index : index + 1])
        for said in (b"+OK\r\n", b"+OK\r\n", ANSWERS["INFO server"], ANSWERS["INFO persistence"]):
            await stream.receive_some()
            for index in range(len(said)):
                await stream.send_all(said[index : index + 1])
        await trio.sleep_forever()

    async with serving(handle) as place, redis.Bus(place.url) as bus:
        assert (await state_named(bus, "open", "waiting")).name == "open"


# Servers that cannot serve --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "version"),
    [
        ({"HELLO": hello("6.2.14")}, "version 6.2.14"),
        ({"HELLO": hello("6.0.0")}, "version 6.0.0"),
        ({"HELLO": hello("")}, "version "),
        ({"HELLO": hello("seven")}, "version seven"),
        ({"HELLO": b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n"}, "older than version 6"),
        ({"HELLO": b"-ERR unknown command 'HELLO'\r\n"}, "older than version 6"),
    ],
)
async def test_a_server_that_is_too_old_ends_the_bus(answers: dict[str, bytes | None], version: str) -> None:
    async with answering(answers) as place:
        error = await failure_at(place.url)
    assert isinstance(error, InvalidError)
    assert str(error) == f"the server is {version}: Redis 7.0 or Valkey 7.2 is needed, or newer"


@pytest.mark.parametrize("version", ["7.0.0", "7.2.4", "8.0", "10.1.0", "255.255.255"])
async def test_a_server_that_is_new_enough_is_one(version: str) -> None:
    async with answering({"HELLO": hello(version)}) as place, redis.Bus(place.url) as bus:
        assert (await state_named(bus, "open", "waiting", "closed")).name == "open"


@pytest.mark.parametrize(
    ("command", "said", "text"),
    [
        ("INFO persistence", bulk("loading:1\r\n"), "the server is still loading its data"),
        ("HELLO", b"-LOADING Redis is loading the dataset in memory\r\n", "the server cannot serve now: Redis is "),
        ("INFO server", b"-LOADING Redis is loading the dataset\r\n", "the server cannot serve now: Redis is loading"),
        ("INFO server", b"-BUSY Redis is busy running a script.\r\n", "the server cannot serve now: BUSY Redis is "),
        ("HELLO", b"-ERR max number of clients reached\r\n", "the server cannot serve now: max number of clients"),
        ("HELLO", b"-MASTERDOWN Link with MASTER is down\r\n", "the server cannot serve now: MASTERDOWN Link"),
        ("INFO server", b"!garbage\r\n", f"the connection was lost: {NO_SERVER}"),
    ],
)
async def test_a_server_that_cannot_serve_now_is_tried_again(command: str, said: bytes, text: str) -> None:
    async with answering({command: said}) as place:
        error = await failure_at(place.url)
    assert isinstance(error, ConnectionFailedError)
    assert (error.kind, error.retryable) == (Kind.UNAVAILABLE, True)
    assert str(error).startswith(f"connecting to {place.url} failed: {text}")


async def test_a_server_that_has_loaded_its_data_is_used() -> None:
    loading = {"INFO persistence": bulk("loading:1\r\n")}

    async with answering(loading) as place, redis.Bus(place.url, min_delay="1ms", max_delay="2ms") as bus:
        assert (await state_named(bus, "waiting")).seconds <= 0.002
        place.answers["INFO persistence"] = bulk("loading:0\r\n")
        assert (await state_named(bus, "open")).error is None


@pytest.mark.parametrize(
    "said", [b"+OK\r\n", b":1\r\n", b"_\r\n", b"*0\r\n", bulk("nothing to see"), bulk(b"\xff:\xff")]
)
async def test_a_server_that_tells_nothing_of_itself_is_used(said: bytes) -> None:
    answers: dict[str, bytes | None] = {"INFO server": said, "INFO persistence": said}
    async with answering(answers) as place, redis.Bus(place.url) as bus:
        assert (await state_named(bus, "open", "waiting", "closed")).name == "open"


@pytest.mark.parametrize(
    ("command", "said", "text"),
    [
        ("HELLO", b"-WRONGPASS invalid username-password pair\r\n", "the server wants another user or password"),
        ("HELLO", b"-NOAUTH HELLO must be called with the client\r\n", "the server wants a password, and was"),
        ("HELLO", b"-DENIED Redis is running in protected mode\r\n", "the server does not permit it: DENIED Redis"),
        ("INFO server", b"-NOPERM User alice has no permissions\r\n", "the server does not permit it: the user has no"),
    ],
)
async def test_a_server_that_does_not_permit_it_ends_the_bus(command: str, said: bytes, text: str) -> None:
    async with answering({command: said}) as place:
        error = await failure_at(place.url)
    assert isinstance(error, PermissionDeniedError)
    assert str(error).startswith(f"connecting to {place.url} failed: {text}")


@pytest.mark.parametrize(
    ("command", "said"),
    [("SELECT", b"-ERR DB index is out of range\r\n"), ("HELLO", b"-ODD what is this\r\n")],
)
async def test_an_error_that_trying_again_does_not_help_ends_the_bus(command: str, said: bytes) -> None:
    async with answering({command: said}) as place:
        error = await failure_at(place.url.replace("/0", "/3"))
    assert isinstance(error, InvalidError)
    assert said.decode().strip("-\r\n").removeprefix("ERR ") in str(error)


# Answers on an open connection ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kind", "retryable", "text"),
    [
        (b"-WRONGTYPE Operation against a key\r\n", Kind.CONFLICT, False, "a key holds something else"),
        (b"-OOM command not allowed. script: 0a, on @user_script:1.\r\n", Kind.RATE_LIMITED, True, "allowed."),
        (b"-READONLY You can't write\r\n", Kind.UNAVAILABLE, True, "the server cannot serve now: You can't"),
        (b"-LOADING Redis is loading\r\n", Kind.UNAVAILABLE, True, "the server cannot serve now: Redis is"),
        (b"-MISCONF Redis is configured\r\n", Kind.UNAVAILABLE, True, "the server cannot serve now: MISCONF"),
        (b"-MASTERDOWN Link\r\n", Kind.UNAVAILABLE, True, "the server cannot serve now: MASTERDOWN"),
        (b"-NOPERM User alice has no permissions to x\r\n", Kind.PERMISSION_DENIED, False, "the user has no perm"),
        (b"-ERR ACL failure in script: User alice has no permissions\r\n", Kind.PERMISSION_DENIED, False, "ACL"),
        (b"-ERR The user executing the script can't run\r\n", Kind.PERMISSION_DENIED, False, "The user executing"),
        (b"-NOAUTH Authentication required.\r\n", Kind.PERMISSION_DENIED, False, "a password, and was given none"),
        (b"-ERR something\r\n", Kind.UNKNOWN, None, "the server answered with an error: something"),
        (b"-NOSCRIPT No matching script\r\n", Kind.UNKNOWN, None, "the server answered with an error: No matching"),
        (b"-NOGROUP No such key\r\n", Kind.NOT_FOUND, True, "the queue is gone"),
        (b"-UNBLOCKED the stream key no longer exists\r\n", Kind.NOT_FOUND, True, "the queue is gone"),
    ],
)
async def test_what_a_server_answers_to_a_command_fails_that_call_only(
    said: bytes, kind: Kind, retryable: bool | None, text: str
) -> None:
    async with answering(then=said) as place, redis.Bus(place.url) as bus:
        with pytest.raises(Error) as caught:
            await bus.queue("jobs").depth()
        error = caught.value
        assert (error.kind, error.retryable) == (kind, retryable)
        assert text in str(error)
        assert "alice" not in str(error)
        assert "user_script" not in str(error)
        assert str(error).startswith("looking at queue 'jobs': ")
        assert error.__context__ is None
        assert bus.state.name == "open"
        assert bus.statistics().connections == 1


@pytest.mark.parametrize("said", [b"?\r\n", b":x\r\n", b"*1\r\n:\r\n", b"-ERR \xff\r\n", b"-MOVED 1\r\n"])
async def test_garbage_on_an_open_connection_ends_that_connection(said: bytes) -> None:
    async with answering(then=said) as place, redis.Bus(place.url, min_delay="1ms") as bus:
        with pytest.raises(ConnectionFailedError) as caught:
            await bus.queue("jobs").depth()
        assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)
        assert str(caught.value) == f"looking at queue 'jobs': the connection was lost: {NO_SERVER}"
        assert (await state_named(bus, "waiting")).error is not None
        assert (await state_named(bus, "open")).error is None


async def test_a_server_that_closes_the_connection_in_the_middle_of_an_answer() -> None:
    async with answering(then=b"*4\r\n:1\r\n", close=True) as place, redis.Bus(place.url, min_delay="1ms") as bus:
        with pytest.raises(ConnectionFailedError) as caught:
            await bus.queue("jobs").depth()
        assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)
        assert str(caught.value) == "looking at queue 'jobs': the connection was lost: the server closed it"


async def test_a_command_that_is_never_answered_breaks_the_connection_for_all_of_its_calls() -> None:
    caught: list[Error] = []

    async with answering() as place, redis.Bus(place.url, timeout="60ms", min_delay="1ms") as bus:
        await state_named(bus, "open")

        async def ask(delay: float) -> None:
            await trio.sleep(delay)
            with pytest.raises(ConnectionFailedError) as error:
                await bus.queue("jobs").depth()
            caught.append(error.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 0.0)
            nursery.start_soon(ask, 0.02)
        first, second = caught
        assert isinstance(first, ConnectionTimeoutError)
        assert (first.kind, first.retryable) == (Kind.TIMEOUT, True)
        assert str(first) == "looking at queue 'jobs': no answer within 0.06 s"
        assert not isinstance(second, ConnectionTimeoutError)
        assert (second.kind, second.retryable) == (Kind.UNAVAILABLE, True)
        assert str(second) == f"looking at queue 'jobs': the connection was lost: {first}"
        state = await state_named(bus, "waiting")
        assert state.error is first
        await state_named(bus, "open")


async def test_a_script_is_sent_in_full_where_the_server_does_not_know_it() -> None:
    answers = {"EVALSHA": b"-NOSCRIPT No matching script\r\n", "EVAL": b"*4\r\n:5\r\n:2\r\n:0\r\n:0\r\n"}
    answers["EVALSHA"], answers["EVAL "] = answers["EVALSHA"], answers.pop("EVAL")
    async with answering(answers) as place, redis.Bus(place.url) as bus:
        assert await bus.queue("jobs").depth() == 5
        assert [words[0] for words in place.commands[-2:]] == [b"EVALSHA", b"EVAL"]


# What nobody asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b">2\r\n+message\r\n+x\r\n", b"+OK\r\n"])
async def test_a_server_that_sends_what_nobody_asked_for_is_left(said: bytes) -> None:
    sent = 0

    async def handle(stream: trio.abc.Stream) -> None:
        nonlocal sent
        await stream.receive_some()
        await stream.send_all(hello())
        for answer in (b"+OK\r\n", b"+OK\r\n", ANSWERS["INFO server"], ANSWERS["INFO persistence"]):
            await stream.receive_some()
            await stream.send_all(answer)
        while True:
            await stream.send_all(said * 1000)
            sent += 1000 * len(said)

    async with serving(handle) as place, redis.Bus(place.url, min_delay="1h", max_delay="1h") as bus:
        # It may come with the last answer, or once the connection is open.
        state = await state_named(bus, "waiting")
        assert isinstance(state.error, ConnectionFailedError)
        assert (state.error.kind, state.error.retryable) == (Kind.UNAVAILABLE, True)
    assert sent < 60_000_000


async def test_the_answer_to_a_call_that_was_cancelled_is_dropped() -> None:
    answer = b"*4\r\n:5\r\n:2\r\n:0\r\n:0\r\n"
    gate = trio.Event()
    asked = trio.Event()

    async def handle(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(hello())
        for said in (b"+OK\r\n", b"+OK\r\n", ANSWERS["INFO server"], ANSWERS["INFO persistence"]):
            await stream.receive_some()
            await stream.send_all(said)
        await stream.receive_some()
        asked.set()
        await gate.wait()
        await stream.send_all(answer)
        await stream.receive_some()
        await stream.send_all(answer.replace(b":5", b":6"))
        await trio.sleep_forever()

    async with serving(handle) as place, redis.Bus(place.url) as bus, trio.open_nursery() as nursery:
        nursery.start_soon(bus.queue("jobs").depth)
        await asked.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            gate.set()
            assert await bus.queue("jobs").depth() == 6
            assert bus.statistics().connections == 1


async def test_an_answer_that_is_late_is_noticed_although_every_caller_was_cancelled_before() -> None:
    async with answering() as place, redis.Bus(place.url, timeout="80ms", min_delay="1ms") as bus:
        await state_named(bus, "open")
        with trio.fail_after(10):
            while place.connections == 1:
                with trio.move_on_after(0.02):
                    await bus.queue("jobs").depth()
        await state_named(bus, "waiting")
