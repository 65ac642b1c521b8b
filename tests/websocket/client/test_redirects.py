"""Redirects of the handshake: which are followed, what the next server gets, and what is told where the way ends."""

from __future__ import annotations

import contextlib
import gc
import pickle
import re
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from csp import testing, websocket
from csp.errors import ConnectionFailedError, ConnectionTimeoutError, InvalidError, Kind
from tests.websocket._peers import Peer, driver_tasks, raw_server
from tests.websocket._server import Server, accepting
from trio_csp_websocket.client.connect import Connecting
from trio_csp_websocket.client.options import parse_options
from trio_csp_websocket.protocol.secrets import Secrets
from trio_csp_websocket.protocol.url import parse_url
from trio_csp_websocket.transport.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio.testing import MockClock

    from trio_csp_websocket.network.progress import Progress
    from trio_csp_websocket.network.route import Route
    from trio_csp_websocket.protocol.url import Target
    from trio_csp_websocket.transport.base import Transport

URL = "wss://api.test/a/feed?x=1"
SHOWN = "wss://api.test/a/feed?..."
STATUSES = (301, 302, 303, 307, 308)
SECRET = "hunter2"


def leading(*locations: str | bytes, status: int = 302, more: bytes = b"") -> bytes:
    """Return an answer that redirects to these places: one, if all is well."""
    encoded = [location if isinstance(location, bytes) else location.encode() for location in locations]
    lines = [b"Location: " + location for location in encoded]
    return b"\r\n".join([b"HTTP/1.1 %d Elsewhere" % status, *lines, b"Content-Length: 0", b"", b""]) + more


class Site:
    """Servers in memory: some URLs have an answer of their own; all others are accepted, and say their URL.

    Args:
        answers: by URL, in its normal form.
    """

    def __init__(self, answers: Mapping[str, bytes]) -> None:
        self._answers = answers
        self.urls: list[str] = []
        """What was asked for, in order."""
        self.requests: list[websocket.Headers] = []

    async def handle(self, connection: testing.ServerConnection) -> None:
        self.urls.append(connection.url)
        self.requests.append(connection.headers)
        answer = self._answers.get(connection.url)
        if answer is None:
            await connection.send(connection.url)
            await connection.wait_closed()
        else:
            await connection.send_bytes(answer)
            await connection.wait_closed()


async def arrival(location: str | bytes, url: str = URL, **options: Any) -> str:
    """Connect to a server that redirects once; return the URL that was reached."""
    site = Site({url: leading(location)})
    async with testing.websocket_server(site.handle), websocket.connect(url, **options) as client:
        assert [client.url] == site.urls[1:]
        assert (await client.receive_value()).data == client.url
        return client.url


async def failure(answers: Mapping[str, bytes], url: str = URL, **options: Any) -> ConnectionFailedError:
    """Connect in vain; return the error."""
    site = Site(answers)
    async with testing.websocket_server(site.handle):
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(url, **options).__aenter__()
    error = caught.value
    assert not isinstance(error, InvalidError)
    assert len(site.urls) == 1 + len(cast("tuple[str, ...]", error.details.get("redirects", ())))
    assert pickle.loads(pickle.dumps(error)).details == error.details
    assert driver_tasks() == []
    return error


# Which are followed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
async def test_a_redirect_leads_to_another_server(status: int, autojump_clock: MockClock) -> None:
    site = Site({URL: leading("wss://other.test/there", status=status)})
    async with testing.websocket_server(site.handle), websocket.connect(URL) as client:
        assert client.url == "wss://other.test/there"
        assert (await client.receive_value()).data == "wss://other.test/there"
    assert site.urls == [URL, "wss://other.test/there"]
    assert client.error is None


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("there", "wss://api.test/a/there"),
        ("/there", "wss://api.test/there"),
        ("../there/", "wss://api.test/there/"),
        ("../../../there", "wss://api.test/there"),
        ("?y=2", "wss://api.test/a/feed?y=2"),
        ("/there?y=2#section", "wss://api.test/there?y=2"),
        ("/there#", "wss://api.test/there"),
        ("//other.test/there", "wss://other.test/there"),
        ("//other.test", "wss://other.test/"),
        ("wss://other.test:8443/there", "wss://other.test:8443/there"),
        ("https://other.test/there", "wss://other.test/there"),
        ("HTTPS://Other.Test./%7Ethere", "wss://other.test/~there"),
        ("https://other.test:443/http://x", "wss://other.test/http://x"),
        ("/to/http://x", "wss://api.test/to/http://x"),
        ("wss://other.test/to/https://x", "wss://other.test/to/https://x"),
        ("?to=http://x", "wss://api.test/a/feed?to=http://x"),
        ("/there?next=https://x.test/", "wss://api.test/there?next=https://x.test/"),
        ("wss://other.test/http://x", "wss://other.test/http://x"),
        ("https://[2001:DB8::1]/there", "wss://[2001:db8::1]/there"),
        ("https://b\u00fccher.test/", "wss://xn--bcher-kva.test/"),
        ("/\u00fc", "wss://api.test/%C3%BC"),
        (b"/\xfc", "wss://api.test/%C3%BC"),
        ("  /there \t", "wss://api.test/there"),
        # Two slashes, for a browser. For us it is a path, on the server that said it.
        ("/\\other.test/there", "wss://api.test/%5Cother.test/there"),
        ("\\\\other.test/there", "wss://api.test/a/%5C%5Cother.test/there"),
    ],
    ids=ascii,
)
async def test_a_location_is_resolved_and_normalised(
    location: str | bytes, url: str, autojump_clock: MockClock
) -> None:
    assert await arrival(location) == url


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("http://other.test/there", "ws://other.test/there"),
        ("https://other.test/there", "wss://other.test/there"),
        ("wss://server.test/feed", "wss://server.test/feed"),
        ("there", "ws://server.test/there"),
    ],
)
async def test_from_ws_a_redirect_may_lead_to_both_schemes(location: str, url: str, autojump_clock: MockClock) -> None:
    assert await arrival(location, "ws://server.test/feed") == url


async def test_the_same_location_twice_is_one(autojump_clock: MockClock) -> None:
    site = Site({URL: leading("/there", " /there")})
    async with testing.websocket_server(site.handle), websocket.connect(URL) as client:
        assert client.url == "wss://api.test/there"


async def test_a_server_in_memory_redirects_by_a_rejection_to_one_that_serves_another_url(
    autojump_clock: MockClock,
) -> None:
    async def redirect(connection: testing.ServerConnection) -> None:
        await connection.reject(302, headers={"Location": "wss://b.test/there"})

    async def greet(connection: testing.ServerConnection) -> None:
        await connection.send("welcome")
        await connection.wait_closed()

    async with (
        testing.websocket_server(redirect, "wss://a.test/"),
        testing.websocket_server(greet, "wss://b.test/"),
        websocket.connect("wss://a.test/here") as client,
    ):
        assert (await client.receive_value()).data == "welcome"
        assert client.url == "wss://b.test/there"


async def test_a_redirect_is_followed_where_connect_is_awaited(autojump_clock: MockClock) -> None:
    site = Site({URL: leading("/there")})
    async with testing.websocket_server(site.handle), trio.open_nursery() as nursery:
        client = await websocket.connect(URL, nursery=nursery)
        assert client.url == "wss://api.test/there"
        await client.close()
        assert not nursery.cancel_scope.cancel_called


async def test_a_body_is_not_waited_for() -> None:
    gone = trio.Event()

    async def redirect(peer: Peer) -> None:
        await peer.read_request()
        if b"GET /there " in peer.request:
            await peer.send(peer.answer)
            await peer.read_frames()
            return
        await peer.send(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 1000000\r\n\r\nmuch")
        await peer.expect_end()
        gone.set()

    async with raw_server(redirect) as url, websocket.connect(url, dial_timeout=None, close_timeout="50ms") as client:
        assert client.url == f"{url}there"
        await gone.wait()


@pytest.mark.parametrize("status", [201, 300, 304, 305, 306, 399, 401, 503])
async def test_a_location_leads_nowhere_with_another_status(status: int, autojump_clock: MockClock) -> None:
    error = await failure({URL: leading("/there", status=status)})
    assert error.details["status"] == status
    assert "redirect" not in str(error)


@pytest.mark.parametrize("status", STATUSES)
async def test_a_redirect_without_a_location_is_a_refusal(status: int, autojump_clock: MockClock) -> None:
    error = await failure({URL: leading(status=status)})
    assert str(error) == f"cannot connect to {SHOWN}: the server refused the connection with status {status} Elsewhere"
    assert (error.retryable, error.status) == (False, status)


# How many -------------------------------------------------------------------------------------------------------------


def chain(length: int) -> dict[str, bytes]:
    return {f"wss://api.test/{number}": leading(f"/{number + 1}") for number in range(length)}


@pytest.mark.parametrize(("options", "most"), [({}, 10), ({"max_redirects": 1}, 1), ({"max_redirects": 100}, 100)])
async def test_so_many_are_followed_and_no_more(options: Any, most: int, autojump_clock: MockClock) -> None:
    site = Site(chain(most))
    async with (
        testing.websocket_server(site.handle),
        websocket.connect("wss://api.test/0", **options) as client,
    ):
        assert client.url == f"wss://api.test/{most}"
    error = await failure(chain(most + 1), "wss://api.test/0", **options)
    said = f"the server redirects to /{most + 1} (status 302 Elsewhere), which is one more than max_redirects ({most})"
    assert str(error).endswith(f": {said}")
    assert (error.kind, error.retryable, error.status) == (Kind.INTERNAL, False, 302)
    assert error.details["url"] == f"wss://api.test/{most}"
    assert error.details["redirects"] == tuple(f"wss://api.test/{number}" for number in range(1, most + 1))


def steps(*numbers: int) -> str:
    return " -> ".join(f"wss://api.test/{number}" for number in numbers)


async def test_a_loop_comes_to_an_end(autojump_clock: MockClock) -> None:
    error = await failure({URL: leading("")} | {URL: leading(URL)})
    assert error.details["redirects"] == (URL,) * 10
    ends = f"{SHOWN} (redirected from {' -> '.join([SHOWN] * 10)})"
    assert str(error).startswith(f"cannot connect to {ends}: the server redirects to wss://api.test/a/feed?... ")


@pytest.mark.parametrize(
    ("length", "way"),
    [
        (1, "wss://api.test/1 (redirected from wss://api.test/0)"),
        (2, "wss://api.test/2 (redirected from wss://api.test/0 -> wss://api.test/1)"),
        (12, f"wss://api.test/12 (redirected from {steps(*range(12))})"),
        (15, f"wss://api.test/15 (redirected from wss://api.test/0 -> 3 more -> {steps(*range(4, 15))})"),
    ],
)
async def test_a_refusal_tells_the_way_to_it(length: int, way: str, autojump_clock: MockClock) -> None:
    answers = chain(length) | {f"wss://api.test/{length}": b"HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\nsorry"}
    error = await failure(answers, "wss://api.test/0", max_redirects=20)
    assert str(error) == f"cannot connect to {way}: the server refused the connection with status 404 No: sorry"
    assert (error.retryable, error.status, error.details["body"]) == (False, 404, b"sorry")
    assert error.details["redirects"] == tuple(f"wss://api.test/{number}" for number in range(1, length + 1))
    assert error.details["url"] == f"wss://api.test/{length}"


async def test_what_may_pass_at_the_end_of_the_way_is_retryable(autojump_clock: MockClock) -> None:
    busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    error = await failure({URL: leading("/there"), "wss://api.test/there": busy})
    assert (error.retryable, error.status) == (True, 503)


# Where no WebSocket can be --------------------------------------------------------------------------------------------

NO_WAY: dict[str, tuple[tuple[str | bytes, ...], str]] = {
    "empty": (("",), "it is empty"),
    "spaces": ((" \t",), "it is empty"),
    "several": (("/a", "/b"), "it names several places"),
    "several, one of them empty": (("/a", ""), "it names several places"),
    "another scheme": (("ftp://other.test/",), 'url must start with "ws://" or "wss://", not "ftp:"'),
    "a script": (("javascript:alert(1)",), 'url must start with "ws://" or "wss://"'),
    "a file": (("file:///etc/passwd",), 'url must start with "ws://" or "wss://", not "file:"'),
    "no host": (("https://",), "url must name a host"),
    "no host but a path": (("https:/there",), "url must name a host"),
    "no slashes": (("https:there",), "url must name a host"),
    "no port": (("https://other.test:x/",), "url has a port that is not a number of 1 to 65535"),
    "a port of 0": (("https://other.test:0/",), "url must have a port of 1 to 65535, not 0"),
    "a port above all": (("https://other.test:65536/",), "url has a port that is not a number of 1 to 65535"),
    "a space": (("/a b",), "it must not contain spaces, control characters or surrogates"),
    "half a bracket": (("https://[::1/",), "it is malformed"),
    "an address in another form": (("https://127.1/",), "is no IPv4 address of four numbers"),
    "half an escape": (("/%4",), "url has a % in its path that is not followed by two hexadecimal digits"),
    "a backslash before the path": (
        ("https://other.test\\@api.test/",),
        "it must not have a backslash before its path",
    ),
    "a host that is none": (("https://a..b/",), "url has an invalid host name: 'a..b'"),
    "a colon in a user's name": (("https://a%3Ab:c@other.test/",), "url has a user name with a colon"),
    "a long user's name": (
        (f"https://{'u' * 5000}@other.test/",),
        "it must have at most 4096 characters of credentials",
    ),
    "a character that stands for a slash": (("https://other\u2100.test/",), "it is malformed"),
}


@pytest.mark.parametrize("name", NO_WAY)
async def test_a_location_that_is_no_url_of_a_websocket_is_told(name: str, autojump_clock: MockClock) -> None:
    locations, said = NO_WAY[name]
    error = await failure({URL: leading(*locations)})
    assert str(error).startswith(f"cannot connect to {SHOWN}: the server redirects")
    assert "(status 302 Elsewhere), where no WebSocket can be: " in str(error)
    assert said in str(error)
    assert (error.kind, error.retryable, error.status) == (Kind.INTERNAL, False, 302)
    assert "redirects" not in error.details
    assert error.details["url"] == URL


@pytest.mark.parametrize("location", ["ws://api.test/there", "http://api.test/there", "ws://other.test/there"])
async def test_a_redirect_does_not_leave_tls(location: str, autojump_clock: MockClock) -> None:
    error = await failure({URL: leading(location)})
    said = f"the server redirects to {location} (status 302 Elsewhere), which would leave TLS"
    assert str(error) == f"cannot connect to {SHOWN}: {said}"
    assert (error.kind, error.retryable) == (Kind.INTERNAL, False)


async def test_nor_does_it_after_it_has_led_to_tls(autojump_clock: MockClock) -> None:
    answers = {
        "ws://api.test/0": leading("https://api.test/1"),
        "wss://api.test/1": leading("http://api.test/2"),
    }
    error = await failure(answers, "ws://api.test/0")
    way = "wss://api.test/1 (redirected from ws://api.test/0)"
    assert str(error).startswith(f"cannot connect to {way}: the server redirects to http://api.test/2 ")
    assert error.details["redirects"] == ("wss://api.test/1",)


async def test_a_location_may_be_as_long_as_a_url_and_texts_stay_short() -> None:
    served: list[int] = []

    async def redirect(peer: Peer) -> None:
        await peer.read_request()
        served.append(len(peer.request))
        # One step more, and it is longer than any URL may be.
        await peer.send(leading(b"/" + b"\xfc" * 30_000 if len(served) == 1 else b"?more"))
        await peer.read_frames()

    async with raw_server(redirect) as url:
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(url).__aenter__()
    assert served[1] > 180_000
    assert caught.value.details["redirects"] == (url + "%C3%BC" * 30_000,)
    assert "where no WebSocket can be: url must have at most 65536 characters" in str(caught.value)
    assert len(str(caught.value)) < 1000


# What is secret -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    [
        f"/there?token={SECRET}",
        f"/{SECRET}/there",
        f"/{SECRET.upper()}/there",
        f"wss://alice:{SECRET}@other.test/there",
        f"wss://{SECRET}.test/",
        f"ftp://{SECRET}/",
        f"ftp://alice:{SECRET}@other.test/",
        f"ws://other.test/{SECRET}",
        f"/a b?{SECRET}",
        # urllib's error repeats the credentials.
        f"wss://alice:{SECRET}\u2100@other.test/",
        f"https://{SECRET}@[::1/",
        "".join(f"%{ord(character):02x}" for character in f"/{SECRET}"),
    ],
    ids=ascii,
)
async def test_texts_do_not_show_what_is_secret_in_a_location(location: str, autojump_clock: MockClock) -> None:
    url = f"wss://api.test/feed?token={SECRET}"

    async def redirect(connection: testing.ServerConnection) -> None:
        if connection.url == url:
            await connection.send_bytes(leading(location))
        else:
            await connection.reject(404, body=f"nothing at {connection.url}")

    async with testing.websocket_server(redirect):
        with pytest.raises(ConnectionFailedError) as caught:
            await websocket.connect(url).__aenter__()
    assert SECRET not in str(caught.value).lower()
    assert SECRET not in repr(caught.value).lower()
    assert str(caught.value).startswith("cannot connect to ")


@pytest.mark.parametrize(
    "last", [leading(f"ftp://{SECRET}/"), leading(f"/{SECRET}/3"), f"HTTP/1.1 404 {SECRET}\r\n\r\n".encode()]
)
async def test_what_was_secret_on_the_way_stays_so(last: bytes, autojump_clock: MockClock) -> None:
    # The first server puts the token into the path, where it is no secret of the next request's.
    answers = {
        f"wss://api.test/0?token={SECRET}": leading(f"wss://other.test/{SECRET}/1"),
        f"wss://other.test/{SECRET}/1": leading("/2"),
        "wss://other.test/2": last,
    }
    error = await failure(answers, f"wss://api.test/0?token={SECRET}", max_redirects=2)
    way = "wss://other.test/2 (redirected from wss://api.test/0?... -> wss://other.test/.../1)"
    assert str(error).startswith(f"cannot connect to {way}: the server re")
    assert SECRET not in str(error)
    assert error.details["redirects"] == (f"wss://other.test/{SECRET}/1", "wss://other.test/2")  # for programs


# What the next server gets --------------------------------------------------------------------------------------------

HEADERS = {"Authorization": "Bearer a", "cookie": "b=1", "PROXY-Authorization": "Basic c", "X-Key": "d", "Origin": "e"}
START = "wss://api.test/feed"


async def headers_there(location: str, *then: str, url: str = START, **options: Any) -> websocket.Headers:
    """Follow redirects; return the headers that the last server got."""
    places = [url, *(parse_url(place).url for place in (location, *then))]
    answers = [leading(to) for to in (location, *then)]
    requests: list[websocket.Headers] = []

    async def serve(connection: testing.ServerConnection) -> None:
        requests.append(connection.headers)
        if answers:
            await connection.send_bytes(answers.pop(0))
        else:
            await connection.accept()
        await connection.wait_closed()

    async with contextlib.AsyncExitStack() as servers:
        # A server knows only what the Host header says: where the client has connected to shows in which is reached.
        reached: list[str] = []
        for place in dict.fromkeys(places):

            async def handle(connection: testing.ServerConnection, place: str = place) -> None:
                reached.append(place)
                await serve(connection)

            await servers.enter_async_context(testing.websocket_server(handle, place))
        client = await servers.enter_async_context(websocket.connect(url, **options))
        assert client.url == places[-1]
    assert reached == places
    return requests[-1]


@pytest.mark.parametrize(
    "location", ["wss://api.test/there", "wss://API.test:443/there", "wss://api.test./there", "wss://api.test/feed?a=1"]
)
async def test_the_same_server_gets_all_again(location: str, autojump_clock: MockClock) -> None:
    got = await headers_there(location, headers=HEADERS, host_header="inner.test:8080", user_agent="me")
    assert {name: got[name] for name in HEADERS} == HEADERS
    assert (got["Host"], got["User-Agent"]) == ("inner.test:8080", "me")


OTHERS = ["wss://other.test/feed", "wss://api.test:8443/feed", "wss://www.api.test/feed", "wss://127.0.0.1/"]


@pytest.mark.parametrize("location", OTHERS)
async def test_another_server_gets_no_credentials(location: str, autojump_clock: MockClock) -> None:
    options: dict[str, Any] = {"headers": HEADERS, "host_header": "inner.test", "user_agent": "me", "compression": 1}
    got = await headers_there(location, protocols=["a", "b"], **options)
    assert [name for name in HEADERS if name in got] == ["X-Key", "Origin"]
    assert got["Host"] == parse_url(location).host_header
    assert (got["User-Agent"], got["Sec-WebSocket-Protocol"]) == ("me", "a, b")
    assert "permessage-deflate" in got["Sec-WebSocket-Extensions"]


async def test_another_scheme_is_another_server(autojump_clock: MockClock) -> None:
    got = await headers_there("wss://api.test:80/feed", url="ws://api.test/feed", headers=HEADERS)
    assert [name for name in HEADERS if name in got] == ["X-Key", "Origin"]


async def test_what_was_taken_away_does_not_come_back(autojump_clock: MockClock) -> None:
    got = await headers_there(
        "wss://other.test/there", "wss://api.test/back", url="wss://alice:pw@api.test/feed", headers=HEADERS
    )
    assert [name for name in HEADERS if name in got] == ["X-Key", "Origin"]


async def test_credentials_of_the_url_stay_with_its_server(autojump_clock: MockClock) -> None:
    url = "wss://alice:pw@api.test/feed"
    assert (await headers_there("wss://api.test/there", url=url))["Authorization"] == "Basic YWxpY2U6cHc="
    assert "Authorization" not in await headers_there("wss://other.test/there", url=url)


async def test_credentials_of_a_location_go_where_it_leads(autojump_clock: MockClock) -> None:
    url = "wss://alice:pw@api.test/feed"
    for place in ("wss://bob:pw@api.test/there", "wss://bob:pw@other.test/there"):
        assert (await headers_there(place, url=url))["Authorization"] == "Basic Ym9iOnB3"
    assert "Authorization" not in await headers_there("wss://bob:pw@other.test/there", "wss://third.test/", url=url)
    # A header of the user's comes before credentials in a URL, here as there.
    got = await headers_there("wss://bob:pw@api.test/there", url=START, headers=HEADERS)
    assert got["Authorization"] == "Bearer a"


@pytest.mark.parametrize("location", ["/there", "ws://[fe80::1]/there", "ws://[FE80::1%25other]:80/there"])
async def test_the_zone_of_an_address_stays_and_is_not_the_servers_to_choose(location: str) -> None:
    reached: list[Target] = []
    servers: list[Server] = []

    async def reach(target: Target, _route: Route, _progress: Progress) -> Transport:
        reached.append(target)
        servers.append(Server(accepting if servers else leading(location)))
        return StreamTransport(servers[-1].stream)

    async with Connecting(parse_url("ws://[fe80::1%25eth0]/feed"), parse_options({}), reach=reach) as client:
        assert client.url == "ws://[fe80::1]/there"
    assert [target.zone for target in reached] == ["eth0", "eth0"]
    assert reached[1].shown == "ws://[fe80::1%25eth0]/there"
    assert [server.closed for server in servers] == [True, True]


# Time, and feeds ------------------------------------------------------------------------------------------------------


def late(seconds: float, then: Callable[[testing.ServerConnection], bytes]) -> testing.Handler:
    async def handle(connection: testing.ServerConnection) -> None:
        await trio.sleep(seconds)
        await connection.send_bytes(then(connection))
        await connection.wait_closed()

    return handle


async def test_the_timeout_is_for_the_whole_way(autojump_clock: MockClock) -> None:
    step = late(4, lambda connection: leading(f"{connection.path}x"))
    async with testing.websocket_server(step):
        with pytest.raises(ConnectionTimeoutError) as caught:
            await websocket.connect("wss://api.test/", dial_timeout="10s").__aenter__()
    assert trio.current_time() == 10
    way = "wss://api.test/xx (redirected from wss://api.test/ -> wss://api.test/x)"
    said = f"no connection to {way} within 10 s: the server did not answer the WebSocket handshake"
    assert str(caught.value) == said
    assert (caught.value.retryable, caught.value.details["url"]) == (True, "wss://api.test/xx")
    assert caught.value.details["redirects"] == ("wss://api.test/x", "wss://api.test/xx")


async def test_a_way_may_be_cancelled(autojump_clock: MockClock) -> None:
    async with testing.websocket_server(late(4, lambda connection: leading(f"{connection.path}x"))):
        with trio.move_on_after(10) as scope:
            await websocket.connect("wss://api.test/").__aenter__()
        assert scope.cancelled_caught
    assert driver_tasks() == []


async def test_a_feed_begins_at_its_own_url_each_time(autojump_clock: MockClock) -> None:
    served: list[str] = []

    async def serve(connection: testing.ServerConnection) -> None:
        served.append(connection.url)
        if connection.url == URL:
            await connection.reject(302, headers={"Location": f"/there/{len(served)}"})
        else:
            await connection.send("a")
            await connection.close(1012)

    async with testing.websocket_server(serve), websocket.reconnecting(URL) as feed:
        values = [await feed.receive_value() for _ in range(3)]
    assert [type(value) for value in values] == [websocket.Message, websocket.Gap, websocket.Message]
    assert served == [URL, "wss://api.test/there/1", URL, "wss://api.test/there/3"]


async def test_a_way_that_leads_nowhere_ends_a_feed(autojump_clock: MockClock) -> None:
    site = Site({URL: leading("ws://api.test/")})
    async with testing.websocket_server(site.handle), websocket.reconnecting(URL) as feed:
        with pytest.raises(ConnectionFailedError, match="which would leave TLS"):
            await feed.receive_value()
    assert site.urls == [URL]


async def test_a_way_that_ends_at_a_server_that_is_busy_is_tried_again_from_its_beginning(
    autojump_clock: MockClock,
) -> None:
    site = Site({URL: leading("/there"), "wss://api.test/there": b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"})
    async with testing.websocket_server(site.handle), websocket.reconnecting(URL, max_attempts=2) as feed:
        with pytest.raises(ConnectionFailedError, match=re.escape(f"(redirected from {SHOWN})")):
            await feed.receive_value()
    assert site.urls == [URL, "wss://api.test/there"] * 2


# Hostile steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 302 F", "the server closed the connection in the middle of the WebSocket handshake"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: /",
            "the server closed the connection in the middle of the WebSocket handshake",
        ),
        (b"", "the server closed the connection without an answer to the WebSocket handshake"),
        (b"HTTP/1.1 302\r\nLocation /x\r\n\r\n", "the server did not answer in HTTP"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\0\r\n\r\n", "the server did not answer in HTTP"),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\ty\r\n\r\n", "where no WebSocket can be"),
    ],
)
async def test_an_answer_that_breaks_off_or_lies_ends_the_way(
    step: int, said: bytes, error: str, autojump_clock: MockClock
) -> None:
    async def handle(connection: testing.ServerConnection) -> None:
        number = int(connection.path[1:])
        await connection.send_bytes(leading(f"/{number + 1}") if number < step else said)
        connection.drop()

    async with testing.websocket_server(handle):
        with pytest.raises(ConnectionFailedError, match=error) as caught:
            await websocket.connect("wss://api.test/0").__aenter__()
    assert len(cast("tuple[str, ...]", caught.value.details.get("redirects", ()))) == step
    assert driver_tasks() == []


async def test_an_open_connection_keeps_nothing_of_the_way_to_it(autojump_clock: MockClock) -> None:
    place = "wss://api.test/there?" + "x" * 10_000
    site = Site({URL: leading(place + "1"), place + "1": leading(place + "2")})

    def kept() -> list[Secrets]:
        gc.collect()
        return [found for found in gc.get_objects() if isinstance(found, Secrets)]

    before = kept()  # by errors of other tests
    async with testing.websocket_server(site.handle), websocket.connect(URL) as client:
        assert client.url == place + "2"
        assert len(kept()) == len(before)
