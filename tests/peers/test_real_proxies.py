"""Real proxies of many makers, through which the client connects to a server on loopback."""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trustme

from csp.errors import ConnectionFailedError
from tests.peers._servers import DANTE, SQUID, TINYPROXY, Peer, Server
from tests.websocket import _links
from tests.websocket._network import Names
from tests.websocket._peers import connected, driver_tasks, open_sockets, raw_server
from tests.websocket._proxies import Echo

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from csp import websocket

PROXIES = [SQUID, TINYPROXY, DANTE]
SCHEMES = {"squid": ["http"], "tinyproxy": ["http"], "dante": ["socks5h", "socks5", "socks4"]}
NAMES = {"squid": "server.test", "tinyproxy": "localhost", "dante": "localhost"}
"""A name that a proxy finds on loopback."""
MUCH = "much " * 200_000


@contextmanager
def run(peer: Peer, *arguments: str) -> Generator[Server]:
    """Run a proxy, or skip the test; nothing of the test's connections may be left."""
    missing = peer.missing()
    if missing is not None:
        pytest.skip(missing)
    with replace(peer, arguments=[*peer.arguments, *arguments]).running() as server:
        sockets = open_sockets()
        yield server
        assert driver_tasks() == []
        assert open_sockets() == sockets


def through(server: Server, scheme: str = "", credentials: str = "") -> str:
    scheme = scheme or SCHEMES[str(server.peer)][0]
    return f"{scheme}://{credentials and credentials + '@'}127.0.0.1:{server.port}"


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].strip("/"))


async def echoed(client: websocket.Client, text: str = "hello") -> None:
    await client.send(text)
    assert (await anext(client)).data == text


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("peer", PROXIES, ids=str)
async def test_messages_go_through_to_an_address(
    peer: Peer, secure: bool, record_property: Callable[[str, object], None]
) -> None:
    with run(peer, "open") as proxy:
        record_property("version", proxy.version)
        for scheme in SCHEMES[str(peer)]:
            async with raw_server(Echo(), tls=_links.contexts()[0] if secure else None) as url:
                options: websocket.ConnectOptions = {"proxy": through(proxy, scheme)}
                if secure:
                    options["ssl_context"] = _links.contexts()[1]
                    options["server_hostname"] = "server.test"
                async with connected(url, **options) as client:
                    assert client.proxy == options["proxy"]
                    await echoed(client)
                    await echoed(client, MUCH)
                assert (client.close_code, client.error) == (1000, None)


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("peer", PROXIES, ids=str)
async def test_the_proxy_looks_the_name_up(peer: Peer, secure: bool) -> None:
    names = Names([])
    with run(peer, "open") as proxy:
        async with raw_server(Echo(), tls=_links.contexts()[0] if secure else None) as url:
            options: websocket.ConnectOptions = {"proxy": through(proxy)}
            if secure:
                options["ssl_context"] = _links.contexts()[1]
                options["server_hostname"] = "server.test"
            async with connected(url.replace("127.0.0.1", NAMES[str(peer)]), **options) as client:
                await echoed(client)
    assert names.asked == []


@pytest.mark.parametrize("peer", [SQUID, TINYPROXY], ids=str)
async def test_with_the_right_login_it_connects(peer: Peer) -> None:
    with run(peer, "login") as proxy:
        async with (
            raw_server(Echo()) as url,
            connected(url, proxy=through(proxy, credentials="user:pass")) as client,
        ):
            await echoed(client)
            assert client.proxy == through(proxy)


@pytest.mark.parametrize("credentials", ["user:hunter2", ""], ids=["another", "none"])
@pytest.mark.parametrize("peer", PROXIES, ids=str)
async def test_another_login_or_none_is_not_tried_again(peer: Peer, credentials: str) -> None:
    with run(peer, "login") as proxy, pytest.raises(ConnectionFailedError) as caught:
        async with connected("ws://127.0.0.1:81/", proxy=through(proxy, credentials=credentials)):
            pytest.fail("connected")
    assert not caught.value.retryable
    assert through(proxy) in str(caught.value)
    assert "hunter2" not in str(caught.value) + repr(caught.value.details)


@pytest.mark.parametrize("peer", PROXIES, ids=str)
async def test_a_destination_that_is_not_allowed_is_told(peer: Peer) -> None:
    with run(peer, "open") as proxy:
        for scheme in SCHEMES[str(peer)]:
            host = "forbidden.test" if peer is TINYPROXY else "127.0.0.1"
            with pytest.raises(ConnectionFailedError) as caught:
                async with connected(f"ws://{host}:9/", proxy=through(proxy, scheme)):
                    pytest.fail("connected")
            assert through(proxy, scheme) in str(caught.value)
            # SOCKS has no refusal for good.
            assert caught.value.retryable == (peer is DANTE)


@pytest.mark.parametrize("peer", PROXIES, ids=str)
async def test_a_target_that_does_not_listen_is_tried_again(peer: Peer) -> None:
    async with raw_server(Echo()) as url:
        pass
    with run(peer, "open") as proxy:
        for scheme in SCHEMES[str(peer)]:
            with pytest.raises(ConnectionFailedError) as caught:
                async with connected(url, proxy=through(proxy, scheme)):
                    pytest.fail("connected")
            assert through(proxy, scheme) in str(caught.value)
            assert caught.value.retryable


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("peer", [SQUID], ids=str)
async def test_a_proxy_may_be_reached_by_tls(peer: Peer, secure: bool, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    for folder in (certificate, *certificate.parents[:3]):
        folder.chmod(0o755)  # it is not read as whoever runs the tests
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)  # pyright: ignore[reportUnknownMemberType]  # names a type of OpenSSL's
    with run(peer, "login", str(certificate)) as proxy:
        async with raw_server(Echo(), tls=_links.contexts()[0] if secure else None) as url:
            address = url.replace("127.0.0.1", "server.test")
            options: websocket.ConnectOptions = {"proxy": through(proxy, "https", "user:pass")}
            if secure:
                options["ssl_context"] = _links.contexts()[1]
            with pytest.raises(ConnectionFailedError, match="certificate"):
                async with connected(address, **options):
                    pytest.fail("connected")
            options["proxy_ssl_context"] = trusting
            async with connected(address, **options) as client:
                await echoed(client)
                await echoed(client, MUCH)


@pytest.mark.parametrize("peer", PROXIES, ids=str)
async def test_a_proxy_that_dies_ends_the_connection(peer: Peer) -> None:
    with run(peer, "open") as proxy:
        async with raw_server(Echo()) as url, connected(url, proxy=through(proxy)) as client:
            await echoed(client)
            proxy.die()
            assert not (await client.receive()).ok
            assert client.close_code == 1006
