from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio
from coredis.connection import TCPConnection, TCPLocation
from coredis.exceptions import ConnectionError as CoredisConnectionError
from coredis.exceptions import ResponseError

from csp import redis
from tests.redis._fake import saying, state_named
from trio_csp_redis.connection.guard import dialled
from trio_csp_redis.protocol.url import parse_url

if TYPE_CHECKING:
    from tests.redis.conftest import SharedServer


async def test_the_library_logs_nothing_of_our_connections(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with saying(b"HTTP/1.1 400 Bad Request\r\n") as place:
        async with redis.Bus(place.url, max_attempts=1) as bus:
            await state_named(bus, "closed")
        assert {record.name for record in caplog.records} == {"csp.redis"}
        # It does of those of others.
        with pytest.raises(Exception, match=r"Unable to establish a connection|Unknown RESP"):
            await TCPConnection(TCPLocation("127.0.0.1", place.port)).run()
        logging.getLogger("coredis").info("something else")
    assert "something else" in caplog.messages


async def test_what_the_driver_relies_on_in_the_library(shared_server: SharedServer) -> None:
    """If this fails with a new version of coredis, the driver has to be looked at."""
    connection = await dialled(parse_url(shared_server.url), None)
    assert not connection.usable
    async with trio.open_nursery() as nursery:
        # It returns when the login is done.
        await nursery.start(connection.run)
        assert connection.usable
        assert connection.reusable
        assert isinstance(connection.client_id, int)
        assert connection.server_version is not None
        assert int(connection.server_version.split(".")[0]) >= 7
        # Requests are written in the order in which they are made; answers come as bytes.
        one = connection.create_request(b"ECHO", b"1", decode=False, timeout=5)
        two = connection.create_request(b"ECHO", b"2", decode=False, timeout=5)
        assert (await two, await one) == (b"2", b"1")
        with pytest.raises(ResponseError, match="wrong number of arguments"):
            await connection.create_request(b"GET", decode=False, timeout=5)
        # One that is late raises TimeoutError, and the connection goes on; its answer is dropped.
        with pytest.raises(TimeoutError):
            await connection.create_request(b"BLPOP", b"nothing", 0.05, decode=False, timeout=0.01)
        assert connection.usable
        assert await connection.create_request(b"ECHO", b"3", decode=False, timeout=5) == b"3"
        # So does one that was cancelled.
        with trio.move_on_after(0.01):
            await connection.create_request(b"BLPOP", b"nothing", 0.05, decode=False, timeout=5)
        assert await connection.create_request(b"ECHO", b"4", decode=False, timeout=5) == b"4"
        # Its end fails what is under way, and `run` returns without an error.
        pending = connection.create_request(b"BLPOP", b"nothing", 5, decode=False, timeout=5)
        connection.invalidate()
        with pytest.raises(CoredisConnectionError):
            await pending
        assert not connection.usable
    with pytest.raises(CoredisConnectionError):
        connection.create_request(b"ECHO", b"6", decode=False, timeout=5)


async def test_an_answer_that_nobody_asked_for_ends_a_connection(shared_server: SharedServer) -> None:
    connection = await dialled(parse_url(shared_server.url), None)
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        connection.send_command(b"ECHO", b"1")
    # It has ended by itself.
    assert not connection.usable
    assert not connection.transport_healthy


async def test_the_sending_side_can_be_ended(shared_server: SharedServer) -> None:
    connection = await dialled(parse_url(shared_server.url), None)
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        assert connection.stream is not None
        await connection.stream.send_eof()
    # The server has closed it.
    assert not connection.usable
