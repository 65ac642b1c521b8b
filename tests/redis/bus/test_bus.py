from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from csp import redis
from csp.errors import ConnectionFailedError, Error, InvalidError, InvalidTypeError, NoContextError
from tests.redis._fake import answering, saying, state_named

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer

FIRST = "trio_csp_redis.bus.bus"
"""What the face imports first of what needs coredis."""
NOWHERE = "redis://127.0.0.1:1"


async def test_entering_does_not_wait_for_the_server() -> None:
    with trio.testing.assert_checkpoints():
        async with redis.Bus(NOWHERE) as bus:
            assert bus.state.name == "connecting"
            assert repr(bus) == "<csp.redis.Bus connecting, redis://127.0.0.1:1/0>"
    assert repr(bus) == "<csp.redis.Bus closed, redis://127.0.0.1:1/0>"


async def test_it_is_entered_once() -> None:
    bus = redis.Bus(NOWHERE)
    async with bus:
        with pytest.raises(NoContextError, match="this bus was used before; make another one"):
            await bus.__aenter__()
    with pytest.raises(NoContextError, match="this bus was used before"):
        await bus.__aenter__()


def test_it_is_made_and_has_handles_outside_of_trio_but_is_not_entered_there() -> None:
    bus = redis.Bus(NOWHERE)
    assert bus.queue("jobs").name == "jobs"
    assert bus.topic("prices").name == "prices"
    assert bus.statistics().sent == 0
    assert bus.state.name == "connecting"
    with pytest.raises(NoContextError):
        bus.__aenter__().send(None)


async def test_a_bus_made_outside_of_a_run_is_used_in_one() -> None:
    async with answering() as place:
        bus = await trio.to_thread.run_sync(redis.Bus, place.url)
        async with bus:
            await state_named(bus, "open")


async def test_before_its_block_it_does_nothing() -> None:
    bus = redis.Bus(NOWHERE)
    jobs, prices = bus.queue("jobs"), bus.topic("prices")
    for call in (lambda: jobs.send(b"x"), jobs.depth, lambda: prices.publish(b"x")):
        with pytest.raises(NoContextError, match="a bus is a block"):
            await call()
    for block in (jobs.work(), prices.subscribe(), jobs.dead_letters(), jobs.outlet()):
        with pytest.raises(NoContextError, match="a bus is a block"):
            await block.__aenter__()


async def test_after_its_block_what_is_used_says_that_it_has_ended(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url) as bus:
        jobs, prices = bus.queue("jobs"), bus.topic("prices")
        await jobs.send(b"x")
    for call in (lambda: jobs.send(b"x"), jobs.depth, lambda: prices.publish(b"x")):
        with pytest.raises(ConnectionFailedError, match="the bus has ended"):
            await call()
    async with jobs.work() as deliveries, prices.subscribe() as updates:
        for source in (deliveries, updates):
            assert not (await source.receive()).ok
            assert isinstance(source.cause, ConnectionFailedError)


async def test_an_exception_of_the_block_comes_out_as_it_is(shared_server: SharedServer) -> None:
    with pytest.raises(KeyError):  # noqa: PT012
        async with redis.Bus(shared_server.url) as bus:
            await bus.queue("jobs").depth()
            raise KeyError
    with pytest.raises(KeyError):
        async with redis.Bus(NOWHERE):
            raise KeyError


async def test_how_it_ended_is_not_raised_by_the_block() -> None:
    async with saying() as place, redis.Bus(place.url, max_attempts=1) as bus:
        await state_named(bus, "closed")
    assert isinstance(bus.state.error, ConnectionFailedError)


async def test_a_block_that_is_cancelled_ends_at_once_and_leaves_nothing() -> None:
    async with answering() as place:
        with trio.CancelScope() as scope:
            async with redis.Bus(place.url) as bus:
                await state_named(bus, "open")
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        with trio.fail_after(10):
            while place.open:
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("secure", [False, True])
async def test_cancelled_while_it_connects_at_each_step_it_leaves_nothing(secure: bool) -> None:
    """Each number of steps of the scheduler, until the connection is open; the server is in the same run."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    context, trusting, is_open = None, None, False
    if secure:
        from tests.redis.connection.test_tls import SERVER, of_client

        context, trusting = SERVER, of_client()
    for steps in range(400):
        async with answering(ssl_context=context) as place:
            url = place.url.replace("redis:", "rediss:") if secure else place.url
            bus = redis.Bus(url, ssl_context=trusting)
            with trio.CancelScope() as scope:
                async with bus:
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    is_open = bus.state.name == "open"
                    assert bus.state.name in ("connecting", "open")
                    scope.cancel()
                    await trio.sleep_forever()
            assert scope.cancelled_caught
            assert bus.state.name == "closed"
            with trio.fail_after(10):
                while place.open:
                    await trio.lowlevel.checkpoint()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        if is_open:
            return
    pytest.fail("it was never open")


async def test_two_buses_know_nothing_of_each_other(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url, prefix="a:") as one, redis.Bus(shared_server.url, prefix="b:") as two:
        await one.queue("jobs").send(b"x")
        assert (await one.queue("jobs").depth(), await two.queue("jobs").depth()) == (1, 0)


async def test_values_go_through_the_codec_of_the_bus_or_of_the_queue(shared_server: SharedServer) -> None:
    async with redis.Bus(shared_server.url, codec=redis.JSON) as bus:
        own: redis.Codec[int] = (str, int)
        for queue, value in ((bus.queue("a"), {"k": [1, None]}), (bus.queue("b", codec=own), 7)):
            await queue.send(value)  # type: ignore[arg-type]
            async with queue.work() as deliveries:
                with await deliveries.receive_value() as delivery:
                    assert delivery.data == value


@pytest.mark.parametrize("name", ["", "{a", "a}", "n" * 501, "\ud800"], ids=ascii)
@pytest.mark.parametrize("kind", ["queue", "topic"])
def test_a_malformed_name_is_refused_by_the_call(name: str, kind: str) -> None:
    with pytest.raises(InvalidError, match=r"^(name|topic) must "):
        getattr(redis.Bus(NOWHERE), kind)(name)


@pytest.mark.parametrize(
    ("kind", "options", "error"),
    [
        ("queue", {"capacity": 0}, InvalidError),
        ("queue", {"capacity": 10**9 + 1}, InvalidError),
        ("queue", {"capacity": "1"}, InvalidTypeError),
        ("queue", {"overflow": "drop"}, InvalidError),
        ("queue", {"key_ttl": "0s"}, InvalidError),
        ("queue", {"key_ttl": 1}, InvalidTypeError),
        ("queue", {"codec": str}, InvalidTypeError),
        ("topic", {"keep": 0}, InvalidError),
        ("topic", {"keep": 10**9 + 1}, InvalidError),
        ("topic", {"keep": 1.0}, InvalidTypeError),
        ("topic", {"codec": (1, 2)}, InvalidTypeError),
    ],
)
def test_a_malformed_option_of_a_handle_is_refused_by_the_call(kind: str, options: Any, error: type[Error]) -> None:
    with pytest.raises(error) as caught:
        getattr(redis.Bus(NOWHERE), kind)("name", **options)
    assert type(caught.value) is error


async def test_statistics_count_connections() -> None:
    async with answering() as place, redis.Bus(place.url, min_delay="1ms", max_delay="1ms") as bus:
        await state_named(bus, "open")
        await place.cut()
        await state_named(bus, "open")
        found = bus.statistics()
        assert (found.connections, found.open_connections) == (2, 1)
    assert bus.statistics().open_connections == 0


# What is imported -----------------------------------------------------------------------------------------------------


def import_without(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleNotFoundError:
    """Import the face again where importing coredis fails because a module is missing; return the error."""

    class Blocked:
        def find_spec(self, wanted: str, _path: object = None, _target: object = None) -> None:
            if wanted == FIRST:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.delitem(sys.modules, FIRST)
    monkeypatch.setattr(sys, "meta_path", [Blocked(), *sys.meta_path])
    spec = importlib.util.spec_from_file_location("csp_redis_again", redis.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ModuleNotFoundError) as caught:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return caught.value


def test_without_coredis_importing_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    error = import_without("coredis", monkeypatch)
    assert str(error) == "csp.redis needs coredis: pip install 'trio-csp[redis]'"
    assert error.name == "coredis"
    assert error.__suppress_context__


def test_another_module_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    error = import_without("anyio", monkeypatch)
    assert str(error) == "No module named 'anyio'"
    assert error.name == "anyio"


def test_nothing_else_imports_coredis() -> None:
    program = (
        "import csp, csp.websocket, csp.testing, sys, json\n"
        "print(json.dumps([name for name in sys.modules if name.split('.')[0] in ('coredis', 'anyio')]))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == []
