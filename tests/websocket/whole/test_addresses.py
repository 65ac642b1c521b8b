"""Policies about addresses: what is asked about each is what is then connected to, and nothing before the answer."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from csp import security, testing, websocket
from csp.errors import ConnectionFailedError, Kind, PermissionDeniedError
from csp.security import Actor, Policy, Scope, context
from tests.websocket._network import Names, Sockets, refuse
from tests.websocket._peers import Peer, close_frame, raw_server
from trio_csp_websocket.network.failures import error_text

if TYPE_CHECKING:
    from trio.testing import MockClock

ALICE = Actor("alice")
ALL = Policy("*", "*")
URL = "ws://server.test:81/a?b"
ADDRESS = "websocket.connect.address"
OUTSIDE = "8.8.8.8"
POLICIES = Path(__file__).parents[3] / "docs" / "how-to" / "policies.md"


def denying(*addresses: str) -> Scope:
    return Scope([ALL, Policy(ADDRESS, addresses, "deny")])


async def reached(scope: Scope, *addresses: str, actor: Actor | None = ALICE) -> list[str]:
    """Connect to a host that has these addresses; return those that were connected to."""
    Names(list(addresses))
    network = Sockets(refuse)
    with (
        security.context(actor=actor, scope=scope, strict=True),
        pytest.raises(ConnectionFailedError, match=re.escape(error_text(errno.ECONNREFUSED))),
    ):
        async with websocket.connect(URL):
            pytest.fail("it was opened")
    return network.connected_to


async def denied(scope: Scope, *addresses: str, url: str = URL) -> PermissionDeniedError:
    """Connect to a host that has these addresses; return the error of the denial."""
    Names(list(addresses))
    network = Sockets(refuse)
    with security.context(scope=scope, strict=True), pytest.raises(PermissionDeniedError) as caught:
        async with websocket.connect(url):
            pytest.fail("it was opened")
    assert network.connected_to == []
    return caught.value


# What is asked --------------------------------------------------------------------------------------------------------


async def test_each_address_is_asked_about_before_any_is_connected_to() -> None:
    asked: list[tuple[object, ...]] = []

    def note(_actor: Actor | None, action: str, resource: str, meta: Mapping[str, object]) -> bool:
        asked.append((action, resource, dict(meta), list(network.connected_to)))
        return True

    Names(["8.8.8.8", "2001:db8::1"])
    network = Sockets(refuse)
    scope = Scope([Policy("*", "*", condition=note)])
    with security.context(actor=ALICE, scope=scope), pytest.raises(ConnectionFailedError):
        await websocket.connect("ws://user:pass@SERVER.test:81/a?b").__aenter__()
    facts = {"url": URL, "host": "server.test", "port": 81}
    assert asked == [
        ("websocket.connect", "", {}, []),
        ("websocket.connect.url", URL, {}, []),
        (ADDRESS, "8.8.8.8", facts, []),
        (ADDRESS, "2001:db8::1", facts, []),
    ]
    assert network.connected_to == ["8.8.8.8", "2001:db8::1"]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::ffff:7f00:1", "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("FE80::1", "fe80::1"),
        ("fe80::1%lo", "fe80::1"),
        ("::ffff:127.0.0.1%lo", "127.0.0.1"),
        ("/run/server.sock", "/run/server.sock"),
    ],
)
async def test_an_address_has_one_name_whatever_the_resolver_writes(address: str, name: str) -> None:
    deny = [
        ALL,
        Policy("*", "*", "deny", lambda _actor, action, resource, _meta: (action, resource) == (ADDRESS, name)),
    ]
    error = await denied(Scope(deny), address)
    assert error.details == {"url": URL, "addresses": (name,)}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ws://127.0.0.1:81/", "127.0.0.1"),
        ("ws://[::1]/", "::1"),
        ("wss://[::ffff:127.0.0.1]:81/", "127.0.0.1"),
        ("wss://[::]/", "::"),
    ],
)
async def test_an_address_in_the_url_is_asked_about_as_well(url: str, address: str) -> None:
    error = await denied(denying(address), "8.8.8.8", url=url)
    assert error.details["addresses"] == (address,)


async def test_the_address_that_was_allowed_is_connected_to_whatever_the_name_leads_to_next() -> None:
    names = Names([OUTSIDE], ["127.0.0.1"])
    network = Sockets(refuse)
    with security.context(scope=denying("127.*"), strict=True):
        with pytest.raises(ConnectionFailedError):
            await websocket.connect(URL).__aenter__()
        assert (names.asked, network.connected_to) == ([b"server.test"], [OUTSIDE])
        with pytest.raises(PermissionDeniedError):
            await websocket.connect(URL).__aenter__()
    assert (len(names.asked), network.connected_to) == (2, [OUTSIDE])


# What is decided ------------------------------------------------------------------------------------------------------


async def test_addresses_that_are_denied_are_left_out() -> None:
    assert await reached(denying("127.*", "::1"), "127.0.0.2", "8.8.8.8", "::1", "2001:db8::1", "127.0.0.3") == [
        "8.8.8.8",
        "2001:db8::1",
    ]


async def test_where_all_are_denied_nothing_is_connected_to_and_the_error_says_so() -> None:
    error = await denied(denying("*"), "10.0.0.1", "10.0.0.2", "::1", "10.0.0.3")
    assert str(error) == (
        "connections to ws://server.test:81/a?... are not allowed: websocket.connect.address is denied for "
        "10.0.0.1, 10.0.0.2, ::1 and 1 more"
    )
    assert error.details == {"url": URL, "addresses": ("10.0.0.1", "10.0.0.2", "::1", "10.0.0.3")}
    assert (error.kind, error.retryable) == (Kind.PERMISSION_DENIED, False)
    assert isinstance(error, PermissionError)
    assert error.__cause__ is None


@pytest.mark.parametrize(
    "policies",
    [
        [Policy("websocket.connect", ""), Policy("websocket.connect.url", "ws://server.test:81/*")],
        [Policy("websocket.*", ["", "ws://server.test:81/*"])],
        [Policy("websocket.connect*", ["", "ws://server.test:81/*"])],
    ],
)
async def test_a_scope_need_not_mention_addresses(policies: list[Policy]) -> None:
    assert await reached(Scope(policies), "127.0.0.1", "::1") == ["127.0.0.1", "::1"]


async def test_what_a_policy_allows_by_the_actions_name_is_all_that_is_allowed() -> None:
    allowing = Scope([Policy(["websocket.connect", "websocket.connect.url"], "*"), Policy(ADDRESS, ["8.*", "::1"])])
    assert await reached(allowing, "8.8.4.4", "9.9.9.9", "::1", "::2") == ["8.8.4.4", "::1"]
    await denied(allowing, "9.9.9.9")


async def test_without_a_context_nobody_is_asked() -> None:
    Names(["127.0.0.1"])
    network = Sockets(refuse)
    with pytest.raises(ConnectionFailedError):
        await websocket.connect(URL).__aenter__()
    assert network.connected_to == ["127.0.0.1"]


async def test_a_condition_that_raises_denies_the_address() -> None:
    def broken(_actor: Actor | None, action: str, _resource: str, _meta: Mapping[str, object]) -> bool:
        raise LookupError(action)

    await denied(Scope([ALL, Policy(ADDRESS, "*", "deny", broken)]), OUTSIDE)


async def test_a_connection_past_a_denied_address_works() -> None:
    async def serve(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(8)
        await peer.send(close_frame(1000))
        await peer.end()

    async with raw_server(serve) as url:
        port = url.rpartition(":")[2].strip("/")
        Names(["127.0.0.2", "127.0.0.1"])
        with security.context(scope=denying("127.0.0.2"), strict=True):
            async with websocket.connect(f"ws://server.test:{port}/") as client:
                assert client.url == f"ws://server.test:{port}/"


async def test_an_awaited_connection_is_denied_without_a_trace() -> None:
    Names(["127.0.0.1"])
    network = Sockets(refuse)
    async with trio.open_nursery() as nursery:
        with security.context(scope=denying("*"), strict=True), pytest.raises(PermissionDeniedError):
            await websocket.connect(URL, nursery=nursery)
        assert not nursery.child_tasks
    assert network.connected_to == []


async def test_a_feed_asks_at_each_attempt_and_ends_when_the_name_leads_inside(autojump_clock: MockClock) -> None:
    names = Names([OUTSIDE], [OUTSIDE], ["127.0.0.1"])
    network = Sockets(refuse)
    with security.context(scope=denying("127.*"), strict=True):
        async with websocket.reconnecting(URL) as feed:
            await feed.wait_closed()
            assert isinstance(feed.channel().cause, PermissionDeniedError)
    assert len(names.asked) == 3
    assert network.connected_to == [OUTSIDE, OUTSIDE]


async def test_a_server_in_memory_has_no_address_to_ask_about() -> None:
    async with testing.websocket_server(lambda connection: connection.send("hello")):
        with security.context(scope=denying("*"), strict=True):
            async with websocket.connect(URL) as client:
                assert await client.receive_value() == websocket.Message("text", "hello")


# The recipe of the documentation --------------------------------------------------------------------------------------


def recipe() -> Scope:
    """Return the scope that the recipe makes."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", POLICIES.read_text("utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "def is_inside" in block]
    names: dict[str, Any] = {"Actor": Actor, "Mapping": Mapping, "Policy": Policy, "Scope": Scope, "context": context}
    exec(compile(block, "policies.md", "exec", dont_inherit=True), names)
    scope = names["outside"]
    assert isinstance(scope, Scope)
    return scope


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "0.1.2.3", "::1", "::"),
        *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fc00::1", "fdff::1", "fec0::1"),
        *("169.254.169.254", "fe80::1", "fe80::1%lo", "224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"),
        *("240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:7f00:1::", "100::1"),
        *("4000::1", "/run/server.sock"),
    ],
)
async def test_the_recipe_denies_what_leads_inside(address: str) -> None:
    await denied(recipe(), address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "223.255.255.254", "2606:4700:4700::1111", "2a00::1"])
async def test_the_recipe_allows_what_leads_outside(address: str) -> None:
    assert await reached(recipe(), "127.0.0.1", address, "::1", actor=None) == [address]


@pytest.mark.parametrize(
    "url",
    ["ws://127.0.0.2/", "ws://0.0.0.0/", "wss://[::]/", "wss://[::ffff:127.0.0.1]/", "ws://[::127.0.0.1]/"],
)
async def test_the_recipe_denies_urls_that_lead_inside(url: str) -> None:
    await denied(recipe(), OUTSIDE, url=url)


async def test_the_recipe_denies_a_real_server_on_loopback() -> None:
    async def serve(_peer: Peer) -> None:
        pytest.fail("somebody came")

    async with raw_server(serve) as url:
        port = url.rpartition(":")[2].strip("/")
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
            with security.context(scope=recipe(), strict=True), pytest.raises(PermissionDeniedError):
                await websocket.connect(f"ws://{host}:{port}/").__aenter__()
