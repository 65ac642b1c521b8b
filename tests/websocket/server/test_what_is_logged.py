"""What stands in the log: one record for each client that is not served, without secrets and control characters."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csp import websocket
from tests.websocket.server._lobby import LOGGER, Lobby, handshake, listening

if TYPE_CHECKING:
    from trio.testing import MockClock

TARGET = "/x?token=SECRET"
BAD: list[tuple[int, bytes]] = [
    (400, handshake(TARGET, "Authorization: Bearer SECRET\x01")),
    (400, handshake(TARGET, "Cookie: SECRET\x00")),
    (400, handshake(TARGET, "SECRET")),
    (400, handshake(TARGET, "Cookie : SECRET")),
    (400, handshake(TARGET, "Cookie: a", " SECRET")),
    (400, handshake(TARGET, "Origin: http://\x1b[31mevil")),
    (403, handshake(TARGET, "Origin: http://\x85\xa0\u00adevil", "Cookie: SECRET")),
    (400, handshake(TARGET, "Sec-WebSocket-Protocol: chat, SECRET SECRET")),
    (400, handshake(TARGET, "Content-Length: SECRET")),
    (400, handshake(TARGET, "Transfer-Encoding: SECRET")),
    (426, handshake(TARGET, Sec_WebSocket_Version="\x85")),
    (400, handshake(TARGET, Sec_WebSocket_Key="SECRET")),
    (421, handshake(TARGET, host="evil.example")),
    (400, handshake(TARGET, host="a..b")),
    (400, handshake(f"/%zz{TARGET}")),
    (400, handshake(f"http://user:SECRET@localhost{TARGET}")),
    (400, handshake(f"{TARGET}#SECRET")),
    (400, handshake(f"{TARGET} SECRET")),
    (431, handshake(TARGET + "x" * 20_000)),
    (400, b"GE\x1bT /?token=SECRET HTTP/1.1\r\n\r\n"),
    (405, b"POST /?token=SECRET HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    (505, b"GET /?token=SECRET HTTP/3.1\r\nHost: localhost\r\n\r\n"),
    (426, b"GET /?token=SECRET HTTP/1.1\r\nHost: localhost\r\n\r\n"),
]


def checked(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """Return the level and the text of each record; there must be no secret and no control character."""
    assert "SECRET" not in caplog.text
    records = [record for record in caplog.records if record.name == LOGGER]
    lines = [(record.levelno, record.getMessage()) for record in records]
    for _, line in lines:
        assert line.isprintable(), line
    return lines


@pytest.mark.parametrize(("status", "request_"), BAD, ids=range(len(BAD)))
async def test_a_bad_request_is_one_record(
    status: int, request_: bytes, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    async with listening(hosts=["localhost"]) as (server, lobby):
        answer = await lobby.connect().ask(request_)
        assert answer.status == status
        assert b"SECRET" not in answer.body
        assert server.statistics().rejected == {status: 1}
    (level, line), *_ = lines = checked(caplog)[1:-1]
    assert (len(lines), level) == (1, logging.DEBUG)
    assert re.match(rf"refused somebody( for /x?)? with status {status}: ", line)


async def test_what_becomes_of_a_request_is_one_record(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    request = handshake(TARGET, "Cookie: SECRET", "Sec-WebSocket-Protocol: SECRET")
    async with listening(handshake_timeout="5s") as (server, lobby):
        for answer in ("accept", "reject", "close", None):
            client = lobby.connect()
            await client.send(request)
            connection = await server.receive_value()
            assert "SECRET" not in repr(connection)
            if answer is None:
                await trio.sleep(6)
            else:
                await getattr(connection, answer)()
            assert "SECRET" not in repr(connection)
        await lobby.connect().leave()
        await wait_all_tasks_blocked()
    assert [line for level, line in checked(caplog) if level == logging.DEBUG] == [
        "accepted somebody for /x",
        "did not accept somebody for /x: it was refused with status 403",
        "did not accept somebody for /x: it was refused with status 403",
        "did not accept somebody for /x: nobody has answered within 5 s",
        "no request from somebody: nothing came",
        "the connection of somebody for /x has ended: closed with code 1006 (ABNORMAL_CLOSURE)",
    ]


async def test_a_handler_that_fails_is_logged_without_the_query(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def fail(connection: websocket.ServerConnection) -> None:
        raise ValueError("mine")

    lobby = Lobby()
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[websocket.Server]) -> None:
            await websocket.serve(fail, sockets=[lobby], task_status=task_status)

        server: websocket.Server = await nursery.start(serve)
        client = lobby.connect()
        assert (await client.ask(handshake(TARGET))).status == 500
        await client.leave()
        await server.close()
    (failure,) = [line for level, line in checked(caplog) if level == logging.ERROR]
    assert failure.startswith("the handler of <csp.websocket.ServerConnection ")
    assert failure.endswith(", ws://localhost/x?...> has failed")
