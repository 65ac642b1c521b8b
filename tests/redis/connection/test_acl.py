"""Users of an ACL: what they need, and what becomes of those who lack something."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import trio

from csp import redis
from csp.errors import PermissionDeniedError
from tests.redis import _wire
from tests.redis._fake import state_named
from tests.redis.connection._roles import CONNECT, ROLES, prepare

if TYPE_CHECKING:
    from collections.abc import Iterable

    from csp import testing


async def grant(server: _wire.Place, commands: Iterable[str], keys: Iterable[str]) -> str:
    """Make a user that may do this and no more; return a URL with it."""
    rules = [*(f"~{key}" for key in keys), *(f"+{command}" for command in commands)]
    await _wire.command(server, "ACL", "SETUSER", "alice7", "reset", "on", ">secret8", *rules)
    return f"redis://alice7:secret8@127.0.0.1:{server.port}/0"


@pytest.mark.parametrize("name", ROLES)
async def test_a_user_may_do_with_its_role_what_it_is_for(server: testing.RedisServer, name: str) -> None:
    role = ROLES[name]
    await prepare(server, name)
    url = await grant(server, (*CONNECT, *role.commands, *role.others, *role.sometimes), role.keys)
    async with redis.Bus(url) as bus:
        with trio.fail_after(10):
            await role.run(bus)
        assert bus.state.name == "open"
    denied = await _wire.command(server, "ACL", "LOG")
    entries = cast("list[list[object]]", denied)
    # The library tells its name where the server can take it, which nobody needs.
    assert {dict(zip(entry[::2], entry[1::2], strict=True))[b"object"] for entry in entries} <= {b"client|setinfo"}


@pytest.mark.parametrize("name", ROLES)
async def test_whatever_a_role_lacks_fails_that_call_or_source_and_not_the_bus(
    server: testing.RedisServer, name: str
) -> None:
    role = ROLES[name]
    commands = (*CONNECT, *role.commands)
    lacking = [(command, role.keys) for command in commands if command != "info"]
    lacking += [("", tuple(other for other in role.keys if other != key)) for key in role.keys]
    for without, keys in lacking:
        await prepare(server, name)
        url = await grant(
            server, (*(each for each in commands if each != without), *role.others, *role.sometimes), keys
        )
        async with redis.Bus(url) as bus:
            with pytest.raises(PermissionDeniedError) as caught, trio.fail_after(10):
                await role.run(bus)
            text = str(caught.value)
            assert "the server does not permit it: " in text, (without, keys)
            assert "alice7" not in text
            assert bus.state.name in ("connecting", "open"), (without, keys)
            assert not bus._commands.ended.is_set()  # no state tells that it goes on


@pytest.mark.parametrize("name", ROLES)
async def test_what_a_role_does_not_need_at_once_may_be_lacking(server: testing.RedisServer, name: str) -> None:
    role = ROLES[name]
    await prepare(server, name)
    async with redis.Bus(
        await grant(server, (*CONNECT, *role.commands, *role.sometimes), role.keys), timeout="400ms"
    ) as bus:
        with trio.fail_after(10):
            await role.run(bus)
        assert bus.state.name == "open"


async def test_a_worker_that_may_not_look_for_those_that_are_gone_goes_on(
    server: testing.RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    role = ROLES["work"]
    url = await grant(server, (*CONNECT, *role.commands, *ROLES["send"].commands), (*role.keys, *ROLES["send"].keys))
    async with redis.Bus(url) as bus, bus.queue("jobs").work() as deliveries:
        with trio.fail_after(10):
            while not any("are not deleted" in record.message for record in caplog.records):  # noqa: ASYNC110
                await trio.sleep(0.01)
            await bus.queue("jobs").send(b"x")
            (await deliveries.receive_value()).ack()
            await deliveries.flush()
    texts = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(texts) == 1
    assert texts[0].startswith("workers that are no more are not deleted: working on queue 'jobs': the server does not")
    assert "alice7" not in texts[0]


async def test_a_user_that_may_not_ask_the_server_who_it_is_has_no_bus(server: testing.RedisServer) -> None:
    async with redis.Bus(await grant(server, ["eval", "evalsha", "xlen", "xadd"], ["*"])) as bus:
        state = await state_named(bus, "closed", "waiting")
        assert state.name == "closed"
        assert isinstance(state.error, PermissionDeniedError)


async def test_another_database_needs_the_right_to_select_it(server: testing.RedisServer) -> None:
    role = ROLES["send"]
    url = (await grant(server, (*CONNECT, *role.commands), role.keys)).replace("/0", "/3")
    async with redis.Bus(url) as bus:
        assert isinstance((await state_named(bus, "closed", "waiting")).error, PermissionDeniedError)
    await grant(server, (*CONNECT, *role.commands, "select"), role.keys)
    async with redis.Bus(url) as bus:
        await role.run(bus)
        assert await _wire.command(server, "INFO", "keyspace")


async def test_one_queue_that_is_not_permitted_does_not_keep_another_one_from_working(
    server: testing.RedisServer,
) -> None:
    url = await grant(
        server, (*CONNECT, *ROLES["send"].commands, *ROLES["work"].commands, *ROLES["work"].sometimes), ["{mine}*"]
    )
    async with redis.Bus(url) as bus:
        mine = bus.queue("mine")
        async with bus.queue("theirs").work() as denied, mine.work() as deliveries:
            assert not (await denied.receive()).ok
            assert isinstance(denied.cause, PermissionDeniedError)
            await mine.send(b"x")
            with await deliveries.receive_value() as delivery:
                assert delivery.data == b"x"
