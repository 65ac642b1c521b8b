"""Real clients of many makers, with this project's own server.

Those that are not installed are skipped; ``python -m tests.peers`` brings all of them, and shows what each could.
"""

from __future__ import annotations

import random
import ssl
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from csp import websocket
from csp.errors import ConnectionFailedError
from tests.peers._clients import listening, tell
from tests.peers._servers import CLIENTS, Peer, Server
from tests.peers.test_real_peers import CODES, MESSAGES, MIB, REASONS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from pathlib import Path
    from typing import Unpack


@pytest.fixture(scope="module", params=CLIENTS, ids=str)
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    peer: Peer = request.param
    missing = peer.missing()
    if missing is not None:
        pytest.skip(missing)
    with peer.running() as program:
        yield program


@pytest.fixture
def program(running: Server) -> Server:
    """A client's program that has nothing more to say of the tests before."""
    assert running.reports.empty()
    return running


@pytest.fixture
def fragmenting(running: Server) -> None:
    skip_if_it_cannot(running, "fragment")


@pytest.fixture
def compressing(running: Server) -> None:
    skip_if_it_cannot(running, "compress")


@pytest.fixture
def obeying(running: Server) -> None:
    skip_if_it_cannot(running, "do as it is told")


def skip_if_it_cannot(program: Server, what: str) -> None:
    if what in program.peer.cannot:
        pytest.skip(program.peer.cannot[what])


@asynccontextmanager
async def visited(
    program: Server, action: str = "echo", argument: object = None, **options: Unpack[websocket.ListenOptions]
) -> AsyncGenerator[websocket.ServerConnection]:
    """Have a client connect and do something; at the end of the block, close, and wait until the client has told."""
    async with listening(**options) as server:
        tell(program, server.url, action, argument)
        connection = await server.receive_value()
        async with connection:
            await connection.accept()
            yield connection
        if tells(program):
            assert (await program.reported())[0] == "open"
            while (await program.reported())[0] != "closed":
                pass


def tells(program: Server) -> bool:
    return "do as it is told" not in program.peer.cannot


async def echoed(connection: websocket.ServerConnection, message: str | bytes) -> None:
    """Send a message, and check that it comes back as it went."""
    await connection.send(message)
    received, ok = await connection.receive()
    assert ok, connection.error
    # Not in the assertion itself: to explain how megabytes differ takes minutes.
    same = received == ("text" if isinstance(message, str) else "binary", message)
    assert same


async def test_it_runs(program: Server, record_property: Callable[[str, object], None]) -> None:
    record_property("version", program.version)
    async with visited(program) as connection:
        assert (connection.path, connection.query, connection.protocols) == ("/", "", ())
        assert connection.subprotocol is None
        assert connection.remote is not None
        assert connection.remote[0] == "127.0.0.1"


# Messages -------------------------------------------------------------------------------------------------------------


async def test_messages_come_back_as_they_went(program: Server) -> None:
    async with visited(program, read_limit=2 * MIB) as connection:
        for message in MESSAGES.values():
            await echoed(connection, message)


async def test_five_hundred_round_trips(program: Server) -> None:
    async with visited(program) as connection:
        for number in range(500):
            await echoed(connection, str(number))


@pytest.mark.usefixtures("fragmenting")
async def test_fragments_are_one_message(program: Server) -> None:
    fragments = ["Grüße, ", "世", "界 🌍", "!"]
    async with visited(program, "fragments", fragments) as connection:
        assert (await connection.receive_value()).data == "".join(fragments)
        await echoed(connection, "and on")


async def test_pings_are_answered(program: Server) -> None:
    async with visited(program) as connection:
        for answer in [await connection.ping(), await connection.ping("payload"), await connection.ping(bytes(125))]:
            assert (await answer.receive()).ok


@pytest.mark.usefixtures("obeying")
async def test_its_ping_is_answered(program: Server) -> None:
    async with listening() as server:
        tell(program, server.url, "ping", "payload")
        connection = await server.receive_value()
        await connection.accept()
        assert (await program.reported())[0] == "open"
        assert await program.reported() == ["pong"]
        await connection.close()
        assert (await program.reported())[0] == "closed"


@pytest.mark.parametrize("mode", ["CONTEXT_TAKEOVER", "NO_CONTEXT"])
@pytest.mark.usefixtures("compressing")
async def test_messages_are_compressed_both_ways(program: Server, mode: str) -> None:
    compression = websocket.COMPRESSION[mode]
    async with listening(compression=compression, max_window_bits=15, read_limit=2 * MIB) as server:
        tell(program, server.url, "echo", compress="none" if mode == "NO_CONTEXT" else "context")
        connection = await server.receive_value()
        async with connection:
            await connection.accept()
            for message in MESSAGES.values():
                await echoed(connection, message)
            # Of these 2000 bytes the first half says all, and with context the whole was said before.
            line = random.Random(0).randbytes(500).hex() * 2
            first = await cost(connection, line)
            again = await cost(connection, line)
            assert max(first) < 1300
            if mode == "CONTEXT_TAKEOVER":
                assert again[0] < 300
            else:
                assert min(again) > 300
            await echoed(connection, random.Random(1).randbytes(MIB))
            assert max(await cost(connection, MESSAGES["1 MiB of bytes"])) < MIB / 10
        assert (await program.reported())[0] == "open"
        assert (await program.reported())[0] == "closed"


async def cost(connection: websocket.ServerConnection, message: str | bytes) -> tuple[int, int]:
    """Return the bytes on the wire for a message there and back."""
    before = connection.statistics()
    await echoed(connection, message)
    after = connection.statistics()
    return after.bytes_sent - before.bytes_sent, after.bytes_received - before.bytes_received


@pytest.mark.usefixtures("compressing")
async def test_a_client_that_offers_compression_to_a_server_that_wants_none(program: Server) -> None:
    async with listening() as server:
        tell(program, server.url, "echo", compress="context")
        async with await server.receive_value() as connection:
            await connection.accept()
            message = "a" * 10_000
            assert min(await cost(connection, message)) > len(message)
        assert (await program.reported())[0] == "open"
        assert (await program.reported())[0] == "closed"


@pytest.mark.usefixtures("obeying")
async def test_a_message_above_the_limit_is_refused_with_1009(program: Server) -> None:
    async with listening() as server:
        tell(program, server.url, "send", 3 * MIB)
        connection = await server.receive_value()
        await connection.accept()
        assert not (await connection.receive()).ok
        assert connection.close_code == 1009
        assert await program.reported() == ["open", None]
        # It was still sending, and has got the close frame nevertheless.
        assert (await program.reported())[:2] == ["closed", 1009]


# Opening and closing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preferred", ["first", "second"])
async def test_a_subprotocol_is_agreed_on(program: Server, preferred: str) -> None:
    async with listening(protocols=[preferred, "third"]) as server:
        tell(program, server.url, "echo", protocols=["first", "second"])
        async with await server.receive_value() as connection:
            assert connection.protocols == ("first", "second")
            await connection.accept()
            assert connection.subprotocol == preferred
            await echoed(connection, "in this protocol")
        if tells(program):
            assert await program.reported() == ["open", preferred]
            assert (await program.reported())[0] == "closed"


@pytest.mark.parametrize("status", [401, 404, 503])
@pytest.mark.usefixtures("obeying")
async def test_a_refusal_is_told_with_status_headers_and_body(program: Server, status: int) -> None:
    async with listening() as server:
        tell(program, server.url, "close", [1000, ""])
        connection = await server.receive_value()
        await connection.reject(status, headers={"X-Why": "because"}, body="no, and why not")
        refused, told, why, body = await program.reported()
        assert (refused, told, why) == ("refused", status, "because")
        if "show a refusal's body" not in program.peer.cannot:
            assert body == "no, and why not"
        assert server.statistics().rejected == {status: 1}


async def test_our_close_is_told_with_code_and_reason(program: Server) -> None:
    async with listening() as server:
        for code in CODES:
            for reason in ["", *REASONS]:
                tell(program, server.url, "echo")
                connection = await server.receive_value()
                await connection.accept()
                await connection.close(code, reason)
                assert connection.error is None
                if tells(program):
                    assert await program.reported() == ["open", None]
                    assert await program.reported() == ["closed", code, reason]


@pytest.mark.usefixtures("obeying")
async def test_its_close_is_told_with_code_and_reason(program: Server) -> None:
    async with listening() as server:
        for code in CODES:
            for reason in ["", *REASONS]:
                tell(program, server.url, "close", [code, reason])
                connection = await server.receive_value()
                await connection.accept()
                assert not (await connection.receive()).ok
                assert (connection.close_code, connection.close_reason) == (code, reason)
                assert (await program.reported())[0] == "open"
                assert (await program.reported())[0] == "closed"


async def test_a_stop_closes_with_the_code_that_is_given(program: Server) -> None:
    async with listening() as server:
        tell(program, server.url, "echo")
        connection = await server.receive_value()
        await connection.accept()
        await echoed(connection, "hello")
        await server.close(1012, "again")
        if tells(program):
            assert await program.reported() == ["open", None]
            assert await program.reported() == ["closed", 1012, "again"]


# TLS ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True], ids=["server", "both"])
@pytest.mark.usefixtures("obeying")
async def test_over_tls_with_a_certificate_of_the_server_or_of_both(program: Server, own: bool, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    more = {"authority": str(tmp_path / "authority.pem")}
    if own:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]
        more["certificate"] = str(tmp_path / "certificate.pem")
        authority.issue_cert("client.test").private_key_and_cert_chain_pem.write_to_path(more["certificate"])
    async with listening(ssl_context=context, read_limit=2 * MIB) as server:
        tell(program, server.url, "echo", **more)
        async with await server.receive_value() as connection:
            await connection.accept()
            certificate = connection.peer_certificate
            if own:
                assert certificate is not None
                assert ("DNS", "client.test") in certificate["subjectAltName"]
            else:
                assert not certificate
            for message in MESSAGES.values():
                await echoed(connection, message)
        assert await program.reported() == ["open", None]
        assert (await program.reported())[:2] == ["closed", 1000]


# Many, and those that do not behave -----------------------------------------------------------------------------------


async def test_many_connections_are_served_by_one_handler(program: Server) -> None:
    count = 10 if program.peer.name == "websocat-client" else 60
    served: set[str] = set()
    done = trio.Event()

    async def handle(connection: websocket.ServerConnection) -> None:
        await connection.accept()
        if len(server.connections) == count:
            done.set()
        await done.wait()
        name = f"number {len(served)}"
        served.add(name)
        await echoed(connection, name)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server: websocket.Server = await nursery.start(partial(websocket.serve, handle, 0, host="127.0.0.1"))
            tell(program, server.url, "echo", connections=count)
            if tells(program):
                assert (await program.reported())[0] == "open"
                for _ in range(count):
                    assert await program.reported() == ["closed", 1000, ""]
            while len(served) < count or server.connections:  # noqa: ASYNC110  # websocat tells nothing
                await trio.sleep(0.01)
            assert server.statistics().accepted == count
            await server.close()


@pytest.mark.usefixtures("obeying")
async def test_a_flood_waits_while_it_is_not_taken_and_comes_whole(program: Server) -> None:
    async with visited(program, "count", 3000, channel_capacity=1) as connection:
        for number in range(3000):
            assert (await connection.receive_value()).data == str(number)
            if number < 20:
                await trio.sleep(0.005)


async def test_its_death_is_told(program: Server) -> None:
    with program.peer.running() as mortal:
        async with listening() as server:
            tell(mortal, server.url, "echo")
            connection = await server.receive_value()
            await connection.accept()
            await echoed(connection, "hello")
            mortal.die()
            assert not (await connection.receive()).ok
            assert connection.close_code == 1006
            assert connection.error is not None


@pytest.mark.usefixtures("obeying")
async def test_one_that_reads_nothing_is_given_up_while_others_are_served(program: Server) -> None:
    with program.peer.running() as deaf:
        async with listening(write_timeout="500ms") as server:
            tell(deaf, server.url, "deaf")
            connection = await server.receive_value()
            await connection.accept()

            async def fill() -> None:
                while True:
                    await connection.send(bytes(MIB))

            async def fill_until_it_ends() -> None:
                with pytest.raises(ConnectionFailedError):
                    await fill()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(fill_until_it_ends)
                tell(program, server.url, "echo")
                async with await server.receive_value() as other:
                    await other.accept()
                    await echoed(other, "meanwhile")
            assert connection.close_code == 1006
            assert connection.statistics().bytes_sent < 64 * MIB
        assert (await program.reported())[0] == "open"
        assert (await program.reported())[0] == "closed"
