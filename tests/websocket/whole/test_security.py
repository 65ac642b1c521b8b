"""``connect`` asks the security policies before any I/O, and what it asks about is what it dials."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import pytest
import trio
import yarl
from hypothesis import given, settings
from hypothesis import strategies as st

from csp import security, websocket
from csp.errors import InvalidError, Kind, NoContextError, PermissionDeniedError
from csp.security import Actor, Policy, Scope
from tests.websocket._server import URL, Server, connecting
from trio_csp_websocket.client.connect import Connecting
from trio_csp_websocket.client.options import parse_options
from trio_csp_websocket.protocol.url import parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio.testing import MockClock

    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.network.route import Route
    from trio_csp_websocket.protocol.url import Target
    from trio_csp_websocket.transport.base import Transport

ALICE = Actor("alice")
CONNECT = Policy("websocket.connect", "")
SECRET = "hunter2"


def scope_for(*urls: str) -> Scope:
    """Return a scope in which connections to these URLs are allowed."""
    return Scope([CONNECT, Policy("websocket.connect.url", urls)])


async def dial_nothing(_target: Target, _route: Route, _progress: Progress) -> NoReturn:
    pytest.fail("it was dialled")


def undiallable(url: str, *, nursery: trio.Nursery | None = None, **options: Any) -> Connecting:
    """Return what ``connect`` would; dialling fails the test."""
    return Connecting(parse_url(url), parse_options(options), nursery, reach=dial_nothing)


class Asked:
    """A policy that allows everything and writes down what it was asked."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, str]] = []
        self.arguments: list[tuple[object, object]] = []

    def scope(self) -> Scope:
        def note(actor: Actor | None, action: str, resource: str, meta: Mapping[str, object]) -> bool:
            self.questions.append((action, resource))
            self.arguments.append((actor, meta))
            return True

        return Scope([Policy("*", "*", condition=note)])


async def denied(url: str = URL, *, awaited: bool = False) -> PermissionDeniedError:
    """Connect in vain, in either form, without dialling; return the bare error."""
    if not awaited:
        with pytest.raises(PermissionDeniedError) as caught:
            await undiallable(url).__aenter__()
        return caught.value
    async with trio.open_nursery() as nursery:
        with pytest.raises(PermissionDeniedError) as caught:
            await undiallable(url, nursery=nursery)
        # It came out of the await, and is no failure of the nursery's.
        assert not nursery.child_tasks
    return caught.value


both_forms = pytest.mark.parametrize("awaited", [False, True], ids=["entered", "awaited"])


# The checks -----------------------------------------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize(
    ("policies", "says"),
    [
        ([], "connections are not allowed: websocket.connect is denied"),
        ([Policy("websocket.connect.url", "*")], "connections are not allowed: websocket.connect is denied"),
        ([Policy("websocket.*", "x")], "connections are not allowed: websocket.connect is denied"),
        ([Policy("*", "*"), Policy("websocket.connect", "", "deny")], "connections are not allowed: "),
        ([CONNECT], f"connections to {URL} are not allowed"),
        ([Policy("websocket.*", "")], f"connections to {URL} are not allowed"),
        ([Policy("websocket.connect", "*")], f"connections to {URL} are not allowed"),
        ([CONNECT, Policy("websocket.connect.url", "wss://server.test/*")], f"connections to {URL} are not allowed"),
        ([Policy("websocket.*", "*"), Policy("*", URL, "deny")], f"connections to {URL} are not allowed"),
    ],
)
async def test_what_is_not_allowed_is_not_dialled(
    awaited: bool, policies: list[Policy], says: str, autojump_clock: MockClock
) -> None:
    with security.context(actor=ALICE, scope=Scope(policies)):
        error = await denied(awaited=awaited)
    assert str(error).startswith(says)
    assert isinstance(error, PermissionError)
    assert (error.kind, error.retryable) == (Kind.PERMISSION_DENIED, False)
    assert error.details == ({} if "to" not in says.split() else {"url": URL})
    assert error.__cause__ is None


@both_forms
async def test_what_is_allowed_is_dialled(awaited: bool, autojump_clock: MockClock) -> None:
    server = Server()
    with security.context(actor=ALICE, scope=scope_for("ws://server.test/*"), strict=True):
        async with trio.open_nursery() as nursery:
            if awaited:
                client = await connecting(server, nursery=nursery)
                await client.close()
            else:
                async with connecting(server) as client:
                    pass
    assert (client.close_code, client.error) == (1000, None)


async def test_without_a_context_everything_may_be_dialled_and_in_a_strict_one_nothing(
    autojump_clock: MockClock,
) -> None:
    async with connecting(Server()):
        pass
    with security.context(actor=ALICE):
        async with connecting(Server()):
            pass
    with security.context(strict=True):
        assert "websocket.connect is denied" in str(await denied())


@both_forms
async def test_the_action_is_asked_about_first_then_the_url_and_nothing_else(
    awaited: bool, autojump_clock: MockClock
) -> None:
    asked = Asked()
    with security.context(actor=ALICE, scope=asked.scope()):
        async with trio.open_nursery() as nursery:
            if awaited:
                connecting_with = connecting(Server(), nursery=nursery)
                assert asked.questions == []  # the call itself asks nothing
                await (await connecting_with).close()
            else:
                async with connecting(Server()):
                    pass
    assert asked.questions == [("websocket.connect", ""), ("websocket.connect.url", URL)]
    assert asked.arguments == [(ALICE, {}), (ALICE, {})]


async def test_the_url_is_not_asked_about_where_connections_are_denied(autojump_clock: MockClock) -> None:
    asked = Asked()
    policies = [Policy("websocket.connect", "*", "deny"), *asked.scope().policies]
    with security.context(actor=ALICE, scope=Scope(policies)):
        await denied()
    assert asked.questions == [("websocket.connect", "")]


async def test_the_context_that_counts_is_that_of_entering(autojump_clock: MockClock) -> None:
    with security.context(actor=ALICE, scope=Scope([])):
        made_inside = connecting(Server())
    async with made_inside:
        pass
    made_outside = undiallable(URL)
    with security.context(actor=ALICE, scope=Scope([])), pytest.raises(PermissionDeniedError):
        await made_outside.__aenter__()


async def test_an_awaited_connection_has_the_context_of_the_await_and_not_of_the_nursery(
    autojump_clock: MockClock,
) -> None:
    with security.context(actor=ALICE, scope=Scope([])):
        async with trio.open_nursery() as nursery:
            with security.context(scope=scope_for("*")):
                client = await connecting(Server(), nursery=nursery)
            await client.close()
    async with trio.open_nursery() as nursery:
        with security.context(actor=ALICE, scope=Scope([])), pytest.raises(PermissionDeniedError):
            await undiallable(URL, nursery=nursery)


async def test_each_connection_is_asked_about_anew(autojump_clock: MockClock) -> None:
    answers = iter([True, True, False])

    def answer(*_arguments: object) -> bool:
        return next(answers)

    scope = Scope([Policy("websocket.connect.url", "*", condition=answer), CONNECT])
    with security.context(actor=ALICE, scope=scope):
        for _ in range(2):
            async with connecting(Server()):
                pass
        await denied()


async def test_a_condition_that_raises_denies_the_connection(autojump_clock: MockClock) -> None:
    def broken(*_arguments: object) -> bool:
        raise LookupError("the user database is down")

    scope = Scope([Policy("websocket.connect.url", "*", condition=broken)])
    with security.context(scope=scope, strict=False):
        assert "not allowed" in str(await denied())


async def test_what_is_denied_cannot_be_entered_again(autojump_clock: MockClock) -> None:
    connecting_with = undiallable(URL)
    with security.context(actor=ALICE, scope=Scope([])), pytest.raises(PermissionDeniedError):
        await connecting_with.__aenter__()
    with pytest.raises(NoContextError, match="used before"):
        await connecting_with.__aenter__()


def test_an_invalid_url_or_option_is_told_before_anybody_is_asked() -> None:
    with security.context(actor=ALICE, scope=Scope([])):
        with pytest.raises(InvalidError, match="url"):
            websocket.connect("http://server.test/")
        with pytest.raises(InvalidError, match="read_limit"):
            websocket.connect(URL, read_limit=-1)
        websocket.connect(URL)  # not asked yet


async def test_a_denied_connection_of_the_public_kind_resolves_no_name() -> None:
    class NoNames(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_arguments: object, **_more: object) -> NoReturn:
            pytest.fail("a name was resolved")

        async def getnameinfo(self, *_arguments: object, **_more: object) -> NoReturn:
            pytest.fail("an address was resolved")

    trio.socket.set_custom_hostname_resolver(NoNames())
    with security.context(actor=ALICE, scope=Scope([])):
        with pytest.raises(PermissionDeniedError):
            async with websocket.connect(URL):
                pytest.fail("it was opened")
        async with trio.open_nursery() as nursery:
            with pytest.raises(PermissionDeniedError):
                await websocket.connect(URL, nursery=nursery)


# The string checked is the string dialled -----------------------------------------------------------------------------


async def dialled(url: str, **options: Any) -> tuple[list[str], Target, Server, websocket.Client]:
    """Connect; return the URLs that were asked about, the target that was dialled, and both ends."""
    asked, server, targets = Asked(), Server(), list[Any]()

    async def dial(target: Target, _route: Route, _progress: Progress) -> Transport:
        from trio_csp_websocket.transport.stream import StreamTransport

        targets.append(target)
        return StreamTransport(server.stream)

    with security.context(actor=ALICE, scope=asked.scope()):
        async with Connecting(parse_url(url), parse_options(options), reach=dial) as client:
            pass
    (target,) = targets
    return [url for action, url in asked.questions if action == "websocket.connect.url"], target, server, client


@pytest.mark.parametrize(
    ("url", "checked", "host", "port"),
    [
        ("ws://server.test", "ws://server.test/", "server.test", 80),
        ("WSS://SERVER.Test:443/A", "wss://server.test/A", "server.test", 443),
        ("ws://server.test:443/", "ws://server.test:443/", "server.test", 443),
        ("ws://server.test:0080/?", "ws://server.test/?", "server.test", 80),
        ("ws://user:hunter2@server.test:81/a", "ws://server.test:81/a", "server.test", 81),
        ("ws://api.test@evil.test/", "ws://evil.test/", "evil.test", 80),
        ("ws://api.test:80@evil.test/", "ws://evil.test/", "evil.test", 80),
        ("ws://api.test%2F@evil.test/", "ws://evil.test/", "evil.test", 80),
        ("ws://evil.test?@api.test/", "ws://evil.test/?@api.test/", "evil.test", 80),
        ("ws://evil.test/@api.test/", "ws://evil.test/@api.test/", "evil.test", 80),
        ("wss://b\u00fcCHER.test/", "wss://xn--bcher-kva.test/", "xn--bcher-kva.test", 443),
        ("ws://\uff45vil\uff0etest/", "ws://evil.test/", "evil.test", 80),
        ("ws://server.test/a/../admin", "ws://server.test/admin", "server.test", 80),
        ("ws://server.test/public/%2e%2E/%61dmin", "ws://server.test/admin", "server.test", 80),
        ("ws://server.test/public/..%2fadmin", "ws://server.test/public/..%2Fadmin", "server.test", 80),
        ("ws://server.test/public/%252e%252e/admin", "ws://server.test/public/%252e%252e/admin", "server.test", 80),
        ("ws://server.test/public\\..\\admin", "ws://server.test/public%5C..%5Cadmin", "server.test", 80),
        ("ws://server.test//admin", "ws://server.test//admin", "server.test", 80),
        ("ws://server.test/gr\u00fcn?gr\u00fcn", "ws://server.test/gr%C3%BCn?gr%C3%BCn", "server.test", 80),
        ("ws://[2001:DB8:0:0::1]:80/", "ws://[2001:db8::1]/", "2001:db8::1", 80),
        ("wss://[::FFFF:127.0.0.1]:9/x", "wss://127.0.0.1:9/x", "127.0.0.1", 9),
        ("ws://[::ffff:7f00:1]/", "ws://127.0.0.1/", "127.0.0.1", 80),
        ("ws://127.0.0.1:8080/", "ws://127.0.0.1:8080/", "127.0.0.1", 8080),
    ],
)
async def test_what_is_asked_about_is_what_is_dialled_requested_and_shown(
    url: str, checked: str, host: str, port: int, autojump_clock: MockClock
) -> None:
    urls, target, server, client = await dialled(url)
    assert urls == [checked]
    assert client.url == checked
    assert (target.host, target.port) == (host, port)
    assert server.request is not None
    method, resource, version = server.request_line.split(" ")
    assert (method, version) == ("GET", "HTTP/1.1")
    scheme, _, rest = checked.partition("://")
    # The request, put together again as a server would, is the string that was checked.
    assert f"{scheme}://{server.request['Host']}{resource}" == checked
    assert rest.startswith(server.request["Host"])


@pytest.mark.parametrize(
    "url",
    [
        "wss://api.example.com.evil.net/",
        "wss://api.example.com@evil.net/",
        "wss://api.example.com:443@evil.net/",
        "wss://evil.net/wss://api.example.com/",
        "wss://evil.net?wss://api.example.com/",
        "wss://api.example.com:444/",
        "ws://api.example.com/",
        "ws://api.example.com:443/",
        "wss://xapi.example.com/",
        "wss://api.example.com%2Eevil.net/",
        "wss://api.example.com\\.evil.net/",
        "wss://api.example.com\u2100.evil.net/",
    ],
)
async def test_a_scope_of_one_host_lets_nobody_out(url: str, autojump_clock: MockClock) -> None:
    with security.context(actor=ALICE, scope=scope_for("wss://api.example.com/*")):
        try:
            await denied(url)
        except InvalidError:
            assert any(strange in url for strange in "%\\\u2100")


@pytest.mark.parametrize(
    "url",
    [
        "wss://api.example.com/",
        "WSS://API.EXAMPLE.COM:443",
        "wss://user:pass@api.example.com/v1?x",
        "wss://\uff41pi.example.com/",
        "wss://api.example.com./",
        "wss://api.example.com/../..",
    ],
)
async def test_a_scope_of_one_host_lets_all_its_spellings_in(url: str, autojump_clock: MockClock) -> None:
    with security.context(actor=ALICE, scope=scope_for("wss://api.example.com/*"), strict=True):
        async with connecting(Server(), url) as client:
            assert client.url.startswith("wss://api.example.com/")


@pytest.mark.parametrize(
    "path", ["/admin/", "/x/../admin/", "/%61dmin/", "/x/%2e%2e/admin/", "/./admin/x", "/admin/?", "/../admin/%2e"]
)
@pytest.mark.parametrize("server", ["ws://server.test", "WS://a:b@SERVER.test:80"])
async def test_a_path_that_is_denied_is_denied_in_every_spelling(
    server: str, path: str, autojump_clock: MockClock
) -> None:
    policies = [CONNECT, Policy("*", "ws://server.test/*"), Policy("*", "ws://server.test/admin/*", "deny")]
    with security.context(actor=ALICE, scope=Scope(policies)):
        assert "/admin/" in str(await denied(server + path))


# What is no spelling of the same path for a client, though it is for some servers: the table of the how-to on policies.


@pytest.mark.parametrize(
    ("path", "pattern", "matches"),
    [
        ("/public/..%2Fadmin", "/public/*", True),
        ("/public/..%5Cadmin", "/public/*", True),
        ("/public/%252e%252e/admin", "/public/*", True),
        ("/public/..;/admin", "/public/*", True),
        ("//admin", "/admin*", False),
        ("/admin;x", "/admin", False),
        ("/admin;x", "/admin;*", True),
        ("/admin/", "/admin", False),
        ("/admin/", "/admin/*", True),
        ("/admin?x", "/admin", False),
        ("/admin?x", "/admin?*", True),
        ("/ADMIN", "/admin*", False),
        ("/administrator", "/admin*", True),
        ("/administrator", "/admin/*", False),
    ],
)
async def test_what_only_servers_take_for_the_same_path_is_sent_and_asked_about_as_it_is(
    path: str, pattern: str, matches: bool, autojump_clock: MockClock
) -> None:
    url = f"ws://server.test{path}"
    urls, _, server, client = await dialled(url)
    assert urls == [client.url] == [url]
    assert server.request_line == f"GET {path} HTTP/1.1"
    with security.context(actor=ALICE, scope=scope_for(f"ws://server.test{pattern}")):
        assert security.can("websocket.connect.url", url) is matches


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/public//../admin", "/public/admin"),
        ("/public/;/../../admin", "/admin"),
        ("/public/..", "/"),
        ("/public/..%2f..%2Fadmin", "/public/..%2F..%2Fadmin"),
    ],
)
async def test_dot_segments_are_resolved_whatever_the_segments_before_them_are(
    path: str, sent: str, autojump_clock: MockClock
) -> None:
    urls, _, server, _ = await dialled(f"ws://server.test{path}")
    assert urls == [f"ws://server.test{sent}"]
    assert server.request_line == f"GET {sent} HTTP/1.1"


def plain_paths() -> Policy:
    """Return the policy of the documentation that denies URLs whose path servers read in different ways."""
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "policies.md").read_text("utf-8")
    (block,) = [found for found in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "is_ambiguous" in found]
    names: dict[str, Any] = {"Actor": Actor, "Policy": Policy}
    exec(compile(block, "policies.md", "exec", dont_inherit=True), names)
    policy = names["plain_paths"]
    assert isinstance(policy, Policy)
    return policy


@pytest.mark.parametrize(
    ("path", "is_denied"),
    [
        *(
            (path, True)
            for path in ("/public/..%2fadmin", "/public/..%5cadmin", "/public\\..\\admin", "//admin", "/a//")
        ),
        *((path, True) for path in ("/public/..;/admin", "/admin;x", "/public/%252e%252e/admin", "/;")),
        *((path, False) for path in ("", "/", "/public/x/../y", "/%2e%2e/public", "/gr\u00fcn", "/a?b=//;%2F%25")),
    ],
)
async def test_the_recipe_denies_paths_that_servers_read_in_different_ways(
    path: str, is_denied: bool, autojump_clock: MockClock
) -> None:
    url = f"ws://server.test:81{path}"
    with security.context(actor=ALICE, scope=Scope([Policy("*", "*"), plain_paths()])):
        if is_denied:
            await denied(url)
        else:
            async with connecting(Server(), url) as client:
                assert client.url.startswith("ws://server.test:81/")


MAPPED = ["[::ffff:127.0.0.1]", "[::FFFF:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[0000::ffff:7F00:0001]"]


@pytest.mark.parametrize("host", MAPPED)
async def test_an_address_that_is_denied_is_denied_as_ipv6_too(host: str) -> None:
    policies = [Policy("*", "*"), Policy("websocket.connect.url", "ws://127.0.0.1:9/*", "deny")]
    with security.context(actor=ALICE, scope=Scope(policies)):
        with pytest.raises(PermissionDeniedError, match=r"^connections to ws://127\.0\.0\.1:9/a are not allowed$"):
            async with websocket.connect(f"ws://{host}:9/a"):
                pytest.fail("it was opened")
        async with websocket.reconnecting(f"ws://{host}:9/a") as feed:
            await feed.wait_closed()
            assert isinstance(feed.channel().cause, PermissionDeniedError)


# Credentials ----------------------------------------------------------------------------------------------------------

WITH_CREDENTIALS = f"ws://user:{SECRET}@server.test:81/a"


@both_forms
async def test_no_error_of_a_denied_connection_shows_credentials(awaited: bool, autojump_clock: MockClock) -> None:
    for policies in ([], [CONNECT]):
        with security.context(actor=ALICE, scope=Scope(policies)):
            error = await denied(WITH_CREDENTIALS, awaited=awaited)
        for shown in (str(error), repr(error), str(error.details)):
            assert SECRET not in shown
            assert "user" not in shown


async def test_credentials_are_neither_asked_about_nor_shown_and_are_sent_as_basic(autojump_clock: MockClock) -> None:
    urls, _, server, client = await dialled(WITH_CREDENTIALS)
    assert urls == [client.url] == ["ws://server.test:81/a"]
    assert SECRET not in repr(client)
    assert server.request is not None
    credentials = server.request["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(credentials) == f"user:{SECRET}".encode()
    assert SECRET not in server.request_line + server.request["Host"]


async def test_a_header_with_authorization_takes_the_place_of_credentials(autojump_clock: MockClock) -> None:
    _, _, server, _ = await dialled(WITH_CREDENTIALS, headers={"authorization": "Bearer x"})
    assert server.request is not None
    assert server.request.get_all("Authorization") == ["Bearer x"]


# Any text -------------------------------------------------------------------------------------------------------------

schemes = st.sampled_from(["ws", "wss", "WS", "wSs", "ws", "wss", "http", "ws:ws"])
spiced = st.text(
    st.one_of(
        st.sampled_from("abzABZ019-._~:@/?[]%!$&'()*+,;=\\|^`{}\"<>"),
        st.sampled_from("\u00fc\u00df\u0130\u3002\uff0e\uff0f\u2100\u200d\u00ad\u0660\u212a\u0301\u05d0\ufeff\xa0"),
        st.characters(),
    ),
    max_size=12,
)
host_parts = st.sampled_from(
    ["a", "B", "xn--", "xn--bcher-kva", "\u00fc", ".", "..", "-", "_", "1", "0x1", "%41", "\u3002", "::1"]
)
hosts = st.one_of(
    st.sampled_from(["server.test", "SERVER.test.", "b\u00fccher.test", "\uff53erver\u3002test", "localhost"]),
    st.lists(host_parts, min_size=1, max_size=5).map("".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.ip_addresses(v=6).map(lambda address: f"[{address.exploded.upper()}]"),
    spiced,
)
ports = st.one_of(
    st.sampled_from(["", ":", ":80", ":443", ":0443", ":0"]),
    st.integers(1, 70_000).map(":{}".format),
    spiced.map(":{}".format),
)
users = st.one_of(st.sampled_from(["", f"user:{SECRET}@", f"{SECRET}@", f":{SECRET}@"]), spiced.map("{}@".format))
segments = st.one_of(st.sampled_from([".", "..", "%2e", ".%2E", "%2f", "%7e", "%c3%bc", "%", "", "a"]), spiced)
paths = st.lists(segments, max_size=5).map(lambda names: "/".join(["", *names]))
queries = st.one_of(st.just(""), spiced.map("?{}".format))
urls = st.builds("{}://{}{}{}{}{}".format, schemes, users, hosts, ports, paths, queries)


def test_any_text_is_refused_or_has_a_normal_form_that_others_read_alike() -> None:
    counts = {"refused": 0, "accepted": 0}

    @settings(max_examples=800, deadline=None, derandomize=True, database=None)
    @given(st.one_of(urls, spiced.map("ws://{}".format), st.text(max_size=20)))
    def check(url: str) -> None:
        target, refusal = None, ""
        try:
            target = parse_url(url)
        except InvalidError as error:
            refusal = str(error)
        assert SECRET not in refusal
        counts["accepted" if target else "refused"] += 1
        if target is None:
            return
        # The normal form is one: it stays as it is, and says itself where it leads.
        again = parse_url(target.url)
        assert (again.url, again.secure, again.host, again.port) == (
            target.url,
            target.secure,
            target.host,
            target.port,
        )
        assert (again.host_header, again.resource, again.authorization) == (target.host_header, target.resource, None)
        assert target.url == f"{'wss' if target.secure else 'ws'}://{target.host_header}{target.resource}"
        assert SECRET not in target.url
        # A policy for it is taken, and matches. Where it has a * of its own, no pattern can be written.
        if "*" not in target.url:
            with security.context(actor=ALICE, scope=scope_for(target.url)):
                assert security.can("websocket.connect.url", target.url)
        default_port = 443 if target.secure else 80

        parts = urlsplit(target.url)
        assert parts.hostname == target.host
        assert (parts.port or default_port) == target.port
        assert parts.netloc == target.host_header
        assert (parts.username, parts.password, parts.fragment) == (None, None, "")
        assert target.resource.partition("?")[0] == parts.path
        assert target.resource.partition("?")[2] == parts.query

        other = yarl.URL(target.url, encoded=True)
        assert other.raw_host == target.host
        assert other.port == target.port
        assert (other.raw_user, other.raw_password, other.raw_fragment) == (None, None, "")
        assert other.raw_path == parts.path
        assert other.raw_query_string == parts.query

        # As request and headers: nothing that could begin a line of its own, or end the target.
        for part in (target.url, target.host_header, target.resource):
            assert part.isascii()
            assert part.isprintable()
            assert not set(part) & set(" #")
        assert "/../" not in f"{parts.path}/"
        assert "/./" not in f"{parts.path}/"

    check()
    # Neither side of the question is left out.
    assert min(counts.values()) >= 100
