"""Real proxies in front of this project's own server, with this project's client before them.

Those that are not installed are skipped; ``python -m tests.peers nginx-front haproxy-front`` brings them.
"""

from __future__ import annotations

import json
import ssl
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio
import trustme

from csp import websocket
from csp.errors import ConnectionFailedError
from tests.peers._clients import listening
from tests.peers._servers import HAPROXY_FRONT, NGINX_FRONT, Peer, Server
from tests.peers.front_server import stream_module
from tests.websocket._peers import LIMIT_SECONDS, connected, driver_tasks, open_sockets

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from pathlib import Path
    from typing import Unpack

MIB = 1 << 20
BOTH = [NGINX_FRONT, HAPROXY_FRONT]
SPEAKING = [(NGINX_FRONT, 1), (HAPROXY_FRONT, 1), (HAPROXY_FRONT, 2)]
"""With the versions of the PROXY protocol that they speak."""
PAGE = "https://app.test"


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Peer:
    """A proxy that is installed."""
    found: Peer = request.param
    missing = found.missing()
    if missing is not None:
        pytest.skip(missing)
    return found


@pytest.fixture
def streaming(peer: Peer) -> None:
    if peer is NGINX_FRONT and stream_module() is None:
        pytest.skip("nginx has no module for streams: python -m tests.peers nginx-front")


@contextmanager
def front(peer: Peer, **told: object) -> Generator[Server]:
    """Run a proxy."""
    with replace(peer, arguments=[*peer.arguments, json.dumps(told)]).running() as server:
        yield server


class Pair(NamedTuple):
    """Both ends of a connection."""

    client: websocket.Client
    connection: websocket.ServerConnection

    async def echoed(self, message: str | bytes = "hello") -> None:
        """Check that a message goes through, there and back."""

        async def send() -> None:
            await self.client.send(message)

        async def send_back() -> None:
            await self.connection.send((await self.connection.receive_value()).data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(send_back)
            same = (await self.client.receive_value()).data == message
        assert same


@asynccontextmanager
async def met(server: websocket.Server, url: str, **options: Unpack[websocket.ConnectOptions]) -> AsyncGenerator[Pair]:
    """Connect by way of a proxy, and accept."""
    accepted: list[websocket.ServerConnection] = []

    async def accept() -> None:
        connection = await server.receive_value()
        await connection.accept()
        accepted.append(connection)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        async with connected(url, **options) as client:
            with trio.fail_after(LIMIT_SECONDS):
                while not accepted:  # noqa: ASYNC110  # the answer may be here before the task over there goes on
                    await trio.sleep(0.001)
            yield Pair(client, accepted[0])


@contextmanager
def certificate(folder: Path) -> Generator[tuple[str, ssl.SSLContext]]:
    """Yield the file of a certificate, and a context that trusts it."""
    authority = trustme.CA()
    path = folder / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(path))
    context = ssl.create_default_context()
    authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    yield str(path), context


# What a proxy tells of the client -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "said"),
    # HAProxy 2.6 does not write Forwarded.
    [(NGINX_FRONT, "X-Forwarded"), (NGINX_FRONT, "Forwarded"), (HAPROXY_FRONT, "X-Forwarded")],
    ids=str,
    indirect=["peer"],
)
async def test_client_scheme_and_host_are_those_before_the_proxy(
    peer: Peer, said: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with certificate(tmp_path) as (path, context):
        async with listening(trusted_proxies=["127.0.0.1"]) as server:
            with front(peer, port=server.port, certificate=path, forwarded=said == "Forwarded") as proxy:
                record_property("version", proxy.version)
                # What the client itself says is not believed, or not alone.
                lies = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "ftp", "X-Forwarded-Host": "evil.test"}
                url = f"wss://127.0.0.1:{proxy.port}/chat?room=1"
                async with met(server, url, ssl_context=context, headers=lies) as pair:
                    await pair.echoed()
                    assert (pair.connection.path, pair.connection.query) == ("/chat", "room=1")
                    assert pair.connection.url == url
                    assert pair.connection.remote is not None
                    # With Forwarded, X-Forwarded-For does not count; without, its last entry is the proxy's own.
                    expected = {"127.0.0.1"} if said == "Forwarded" else {"127.0.0.1", "203.0.113.9"}
                    assert pair.connection.remote[0] in expected


@pytest.mark.parametrize("peer", BOTH, ids=str, indirect=True)
async def test_a_proxy_that_is_not_trusted_is_the_client(peer: Peer) -> None:
    async with listening(hosts="*") as server:
        with front(peer, port=server.port) as proxy:
            async with met(server, f"ws://127.0.0.1:{proxy.port}/", headers={"X-Forwarded-For": "203.0.113.9"}) as pair:
                await pair.echoed()
                assert pair.connection.remote is not None
                assert pair.connection.remote[0] == "127.0.0.1"
                assert pair.connection.headers["X-Forwarded-For"].startswith("203.0.113.9")


@pytest.mark.parametrize("peer", BOTH, ids=str, indirect=True)
async def test_pages_of_the_same_origin_connect_where_tls_ends_at_the_proxy(peer: Peer, tmp_path: Path) -> None:
    with certificate(tmp_path) as (path, context):
        async with listening(trusted_proxies=["127.0.0.1"]) as server:
            with front(peer, port=server.port, certificate=path) as proxy:
                url = f"wss://127.0.0.1:{proxy.port}/"
                for host in (f"127.0.0.1:{proxy.port}", "app.test"):
                    page = {"Origin": f"https://{host}"}
                    async with met(server, url, ssl_context=context, headers=page, host_header=host) as pair:
                        assert pair.connection.origin == f"https://{host}"
                        await pair.echoed()
                with pytest.raises(ConnectionFailedError) as caught:
                    async with connected(url, ssl_context=context, headers={"Origin": PAGE}):
                        pytest.fail("connected")
                assert caught.value.details["status"] == 403


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize(("peer", "version"), SPEAKING, ids=str, indirect=["peer"])
async def test_the_proxy_protocol_tells_the_client(peer: Peer, version: int) -> None:
    async with listening(proxy_protocol=True, hosts="*") as server:
        with front(peer, port=server.port, proxy_protocol=version) as proxy:
            async with met(server, f"ws://127.0.0.1:{proxy.port}/") as pair:
                assert pair.connection.remote == pair.client.local
                await pair.echoed()
        # Who does not speak it is not let in.
        with pytest.raises(ConnectionFailedError):
            async with connected(server.url):
                pytest.fail("connected")


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize(("peer", "version"), SPEAKING, ids=str, indirect=["peer"])
async def test_the_proxy_protocol_comes_ahead_of_tls(peer: Peer, version: int, tmp_path: Path) -> None:
    with certificate(tmp_path) as (path, context):
        own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own.load_cert_chain(path)
        async with listening(proxy_protocol=True, hosts="*", ssl_context=own) as server:
            with front(peer, port=server.port, proxy_protocol=version, secure=True) as proxy:
                scheme = "wss" if peer is NGINX_FRONT else "ws"
                options: websocket.ConnectOptions = {"ssl_context": context} if peer is NGINX_FRONT else {}
                async with met(server, f"{scheme}://127.0.0.1:{proxy.port}/", **options) as pair:
                    assert pair.connection.remote == pair.client.local
                    assert pair.connection.url == f"wss://127.0.0.1:{proxy.port}/"
                    await pair.echoed("much " * 200_000)


@pytest.mark.parametrize(
    ("peer", "version"),
    [(NGINX_FRONT, None), *((HAPROXY_FRONT, version) for version in (None, 1, 2))],
    ids=str,
    indirect=["peer"],
)
async def test_by_a_unix_socket(peer: Peer, version: int | None, tmp_path: Path) -> None:
    sockets = open_sockets()
    path = tmp_path / "server"
    with trio.fail_after(2 * LIMIT_SECONDS):
        # nginx's worker runs as another user if its master is root.
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(0o755)
        proxied = version is not None
        async with websocket.listen(
            unix_socket=path, mode=0o666, trusted_proxies=["unix"], proxy_protocol=proxied
        ) as server:
            told: dict[str, Any] = {"path": str(path)} | ({} if version is None else {"proxy_protocol": version})
            with front(peer, **told) as proxy:
                url = f"ws://127.0.0.1:{proxy.port}/"
                async with met(server, url, headers={"Origin": f"http://127.0.0.1:{proxy.port}"}) as pair:
                    assert pair.connection.remote is not None
                    assert pair.connection.remote[0] == "127.0.0.1"
                    assert pair.connection.url == url
                    await pair.echoed()
    assert driver_tasks() == []
    assert open_sockets() == sockets


# Health, silence, size, and the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("http_version", "version"), [("1.0", None), ("1.1", None), ("1.0", 1), ("1.1", 2)])
@pytest.mark.parametrize("peer", [HAPROXY_FRONT], ids=str, indirect=True)
async def test_health_checks_open_and_shut_the_way(peer: Peer, http_version: str, version: int | None) -> None:
    health = 200
    asked: list[tuple[str, str]] = []

    async def http(request: websocket.Request) -> websocket.Response:
        asked.append((request.method, request.path))
        return websocket.Response(health, "ok")

    # In the PROXY protocol, these requests are HAProxy's own: LOCAL, or UNKNOWN.
    proxied = version is not None
    told: dict[str, Any] = {"check": http_version} | ({"proxy_protocol": version} if proxied else {})
    async with listening(trusted_proxies=["127.0.0.1"], http=http, proxy_protocol=proxied) as server:
        with front(peer, port=server.port, **told) as proxy:
            url = f"ws://127.0.0.1:{proxy.port}/"
            async with met(server, url) as pair:
                await asked_for(asked, 4)
                await pair.echoed()
                health = 503
                await asked_for(asked, 10)
                # HAProxy sends nobody to a server that is not well, and leaves those that are there.
                with pytest.raises(ConnectionFailedError) as caught:
                    async with connected(url):
                        pytest.fail("connected")
                assert caught.value.details["status"] == 503
                await pair.echoed()
                health = 200
                await asked_for(asked, 16)
            async with met(server, url) as pair:
                await pair.echoed()
        assert set(asked) == {("GET", "/health")}


async def asked_for(asked: list[tuple[str, str]], count: int) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        while len(asked) < count:  # noqa: ASYNC110  # HAProxy asks when it likes
            await trio.sleep(0.01)


@pytest.mark.parametrize("peer", BOTH, ids=str, indirect=True)
async def test_the_servers_pings_keep_a_silent_connection_open(peer: Peer) -> None:
    async with listening(trusted_proxies=["127.0.0.1"], keepalive="1s") as server:
        with front(peer, port=server.port, silence_seconds=3) as proxy:
            async with met(server, f"ws://127.0.0.1:{proxy.port}/") as pair:
                await trio.sleep(7)
                await pair.echoed()


@pytest.mark.parametrize("peer", BOTH, ids=str, indirect=True)
async def test_without_pings_the_proxy_cuts_it_off_and_both_ends_are_told(peer: Peer) -> None:
    async with listening(trusted_proxies=["127.0.0.1"], keepalive=None) as server:
        with front(peer, port=server.port, silence_seconds=1) as proxy:
            async with met(server, f"ws://127.0.0.1:{proxy.port}/") as pair:
                assert not (await pair.connection.receive()).ok
                assert not (await pair.client.receive()).ok
                assert pair.connection.close_code == pair.client.close_code == 1006


@pytest.mark.parametrize("peer", BOTH, ids=str, indirect=True)
async def test_large_messages_go_through_compressed_or_not(peer: Peer) -> None:
    for compression in (websocket.COMPRESSION["DISABLED"], websocket.COMPRESSION["CONTEXT_TAKEOVER"]):
        async with listening(trusted_proxies=["127.0.0.1"], compression=compression, read_limit=8 * MIB) as server:
            with front(peer, port=server.port) as proxy:
                url = f"ws://127.0.0.1:{proxy.port}/"
                async with met(server, url, compression=compression) as pair:
                    await pair.echoed("0123456789abcdé" * (1 << 18))
                    await pair.echoed(bytes(range(256)) * (1 << 14))


@pytest.mark.parametrize("peer", BOTH, ids=str, indirect=True)
async def test_a_stop_reaches_the_clients_behind_the_proxy(peer: Peer) -> None:
    async with listening(trusted_proxies=["127.0.0.1"]) as server:
        with front(peer, port=server.port) as proxy:
            url = f"ws://127.0.0.1:{proxy.port}/"
            async with met(server, url) as pair:
                await pair.echoed()
                await server.close(1012, "again")
                assert not (await pair.client.receive()).ok
                assert (pair.client.close_code, pair.client.close_reason) == (1012, "again")
            # The proxy has nobody to ask any more.
            with pytest.raises(ConnectionFailedError) as caught:
                async with connected(url):
                    pytest.fail("connected")
            assert caught.value.details["status"] in (502, 503)


@pytest.mark.parametrize("peer", BOTH, ids=str, indirect=True)
async def test_a_refusal_comes_through_whole(peer: Peer) -> None:
    async with listening(trusted_proxies=["127.0.0.1"]) as server, trio.open_nursery() as nursery:

        async def refuse() -> None:
            async for connection in server:
                await connection.reject(401, headers={"WWW-Authenticate": "Bearer"}, body="who are you?")

        nursery.start_soon(refuse)
        with front(peer, port=server.port) as proxy:
            for _ in range(20):
                with pytest.raises(ConnectionFailedError) as caught:
                    async with connected(f"ws://127.0.0.1:{proxy.port}/"):
                        pytest.fail("connected")
                details = caught.value.details
                assert (details["status"], details["body"]) == (401, b"who are you?")
        await server.close()


@pytest.mark.parametrize("peer", BOTH, ids=str, indirect=True)
async def test_the_end_of_the_proxy_is_the_end_of_its_connections(peer: Peer) -> None:
    async with listening(trusted_proxies=["127.0.0.1"]) as server:
        with front(peer, port=server.port) as proxy:
            async with met(server, f"ws://127.0.0.1:{proxy.port}/") as pair:
                await pair.echoed()
                proxy.die()
                assert not (await pair.connection.receive()).ok
                assert not (await pair.client.receive()).ok
                assert pair.connection.close_code == pair.client.close_code == 1006


@pytest.mark.parametrize("peer", BOTH, ids=str, indirect=True)
async def test_a_request_over_http_1_0_is_told_that_this_is_a_websocket(peer: Peer) -> None:
    async with listening(trusted_proxies=["127.0.0.1"]) as server:
        with front(peer, port=server.port) as proxy:
            stream = await trio.open_tcp_stream("127.0.0.1", proxy.port)
            async with stream:
                await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
                answer = b""
                while data := await stream.receive_some():
                    answer += data
        assert b" 426 " in answer.splitlines()[0]
        assert b"\r\n\r\nthis server speaks WebSocket only" in answer
