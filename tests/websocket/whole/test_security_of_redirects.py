"""A redirect leads nowhere that a policy does not allow: each step is asked about before anything goes there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from csp import security, testing, websocket
from csp.errors import Kind, PermissionDeniedError
from csp.security import Actor, Policy, Scope
from tests.websocket._network import Names
from tests.websocket._peers import Peer, driver_tasks, raw_server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio.testing import MockClock

ALICE = Actor("alice")
ALL = Policy("*", "*")
URL = "wss://api.test/feed?x=1"


class Site:
    """A server in memory for every URL: some redirect, the others accept.

    Args:
        locations: by URL, where it redirects to.
    """

    def __init__(self, locations: Mapping[str, str]) -> None:
        self._locations = locations
        self.urls: list[str] = []

    async def handle(self, connection: testing.ServerConnection) -> None:
        self.urls.append(connection.url)
        location = self._locations.get(connection.url)
        if location is None:
            await connection.accept()
            await connection.wait_closed()
        else:
            await connection.reject(307, headers={"Location": location})


def denying(*urls: str) -> Scope:
    return Scope([ALL, Policy("websocket.connect.url", urls, "deny")])


async def denied(site: Site, scope: Scope, url: str = URL) -> PermissionDeniedError:
    async with testing.websocket_server(site.handle):
        with security.context(actor=ALICE, scope=scope), pytest.raises(PermissionDeniedError) as caught:
            await websocket.connect(url).__aenter__()
    assert driver_tasks() == []
    assert (caught.value.kind, caught.value.retryable) == (Kind.PERMISSION_DENIED, False)
    return caught.value


async def test_each_step_is_asked_about_before_it_is_taken(autojump_clock: MockClock) -> None:
    site = Site(
        {URL: "https://Other.test:443/%7Ethere?token=1", "wss://other.test/~there?token=1": "wss://a:b@third.test"}
    )
    asked: list[tuple[str, str, int]] = []

    def note(_actor: object, action: str, resource: str, _facts: object) -> bool:
        asked.append((action, resource, len(site.urls)))
        return True

    scope = Scope([Policy("*", "*", condition=note)])
    async with testing.websocket_server(site.handle):
        with security.context(actor=ALICE, scope=scope):
            async with websocket.connect(URL) as client:
                assert client.url == "wss://third.test/"
    assert asked == [
        ("websocket.connect", "", 0),
        ("websocket.connect.url", URL, 0),
        ("websocket.connect", "", 1),
        ("websocket.connect.url", "wss://other.test/~there?token=1", 1),
        ("websocket.connect", "", 2),
        ("websocket.connect.url", "wss://third.test/", 2),
    ]


@pytest.mark.parametrize(
    "location",
    [
        "wss://evil.test/there?token=1",
        "https://evil.test/there",
        "//evil.test",
        "WSS://EVIL.test.:443/%74here",
        "wss://alice:hunter2@evil.test/there",
    ],
)
async def test_a_target_that_is_denied_is_not_reached(location: str, autojump_clock: MockClock) -> None:
    site = Site({URL: location})
    error = await denied(site, denying("wss://evil.test/*"))
    assert site.urls == [URL]
    assert str(error).startswith("connections to wss://evil.test/")
    assert str(error).endswith(" (redirected from wss://api.test/feed?...) are not allowed")
    assert "hunter2" not in str(error)
    assert "token=1" not in str(error)
    assert error.details["redirects"] == (error.details["url"],)


async def test_what_is_not_listed_is_not_reached_either(autojump_clock: MockClock) -> None:
    site = Site({URL: "/there", "wss://api.test/there": "wss://other.test/"})
    listing = Scope([Policy("websocket.connect", ""), Policy("websocket.connect.url", "wss://api.test/*")])
    error = await denied(site, listing)
    assert site.urls == [URL, "wss://api.test/there"]
    way = "wss://other.test/ (redirected from wss://api.test/feed?... -> wss://api.test/there)"
    assert str(error) == f"connections to {way} are not allowed"
    assert error.details["redirects"] == ("wss://api.test/there", "wss://other.test/")


async def test_a_path_on_the_same_server_that_is_denied_is_not_reached(autojump_clock: MockClock) -> None:
    site = Site({URL: "../admin/./%61"})
    await denied(site, denying("wss://api.test/admin/*"))
    assert site.urls == [URL]


async def test_a_permission_that_ends_on_the_way_ends_the_way(autojump_clock: MockClock) -> None:
    site = Site({URL: "/1", "wss://api.test/1": "/2"})

    def at_first(*_: object) -> bool:
        return len(site.urls) < 2

    once = Policy("websocket.connect", "", condition=at_first)
    error = await denied(site, Scope([once, Policy("websocket.connect.url", "*")]))
    assert site.urls == [URL, "wss://api.test/1"]
    assert str(error) == "connections are not allowed: websocket.connect is denied"


async def test_a_denied_step_ends_a_feed(autojump_clock: MockClock) -> None:
    site = Site({URL: "wss://evil.test/"})
    async with testing.websocket_server(site.handle):
        with security.context(actor=ALICE, scope=denying("wss://evil.test/*")):
            async with websocket.reconnecting(URL) as feed:
                with pytest.raises(PermissionDeniedError, match=r"connections to wss://evil\.test/ .* are not allowed"):
                    await feed.receive_value()
    assert site.urls == [URL]


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("ws://inner.test/", "10.0.0.1"),
        ("http://10.0.0.1/", "10.0.0.1"),
        ("ws://[::ffff:10.0.0.1]:81/", "10.0.0.1"),
        ("ws://169.254.169.254/latest", "169.254.169.254"),
    ],
)
async def test_an_address_that_is_denied_is_not_connected_to(location: str, address: str) -> None:
    async def redirect(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
        await peer.read_frames()

    Names(["10.0.0.1"])
    scope = Scope([ALL, Policy("websocket.connect.address", ("10.*", "169.254.*"), "deny")])
    # No test goes to the network: what is denied is not dialled, so the timeout is not reached.
    async with raw_server(redirect) as url:
        with security.context(actor=ALICE, scope=scope), pytest.raises(PermissionDeniedError) as caught:
            await websocket.connect(url, dial_timeout="1h").__aenter__()
    denied = f" are not allowed: websocket.connect.address is denied for {address} (redirected from {url})"
    assert str(caught.value).endswith(denied)
    assert caught.value.details["addresses"] == (address,)
    assert caught.value.details["redirects"] == (caught.value.details["url"],)


async def test_a_secret_in_the_path_of_a_denied_address_is_not_shown() -> None:
    async def redirect(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 302 Found\r\nLocation: ws://10.0.0.1/hunter2/x\r\nContent-Length: 0\r\n\r\n")
        await peer.read_frames()

    scope = Scope([ALL, Policy("websocket.connect.address", "10.*", "deny")])
    async with raw_server(redirect) as url:
        with security.context(actor=ALICE, scope=scope), pytest.raises(PermissionDeniedError) as caught:
            await websocket.connect(f"{url}?token=hunter2").__aenter__()
    assert str(caught.value).startswith("connections to ws://10.0.0.1/.../x are not allowed")


async def test_a_server_that_redirects_for_ever_asks_so_many_times_and_no_more(autojump_clock: MockClock) -> None:
    asked = 0

    def count(_actor: object, action: str, _resource: str, _facts: object) -> bool:
        nonlocal asked
        asked += action == "websocket.connect.url"
        return True

    site = Site({f"wss://api.test/{number}": f"/{number + 1}" for number in range(100)})
    async with testing.websocket_server(site.handle):
        with security.context(actor=ALICE, scope=Scope([Policy("*", "*", condition=count)])):
            async with trio.open_nursery() as nursery:
                with pytest.raises(ConnectionError):
                    await websocket.connect("wss://api.test/0", nursery=nursery)
    assert asked == 11 == len(site.urls)
